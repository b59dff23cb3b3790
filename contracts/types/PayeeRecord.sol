// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {PayeeLimits} from "../interfaces/IPolicyWallet.sol";

/// @dev One payee in one word: read by every payment to it, written only if it has a cap or a cooldown.
///
///  0            16    64      112        144         184     192       256
///  | categories | cap | spent | cooldown | last paid | flags | reserve |
///  |    u16     | u48 |  u48  |   u32    |    u40    |  u8   |   u64   |
///
/// Amounts in USDC base units, times in seconds. Cap 2^48-1: off, and `spent` stands still. Cooldown 0: off, and
/// `last paid` stands still. Flags: 1 cap or cooldown on. Categories 0: not registered; `spent` and `last paid` stay for the day it comes back.
type PayeeRecord is uint256;

using PayeeRecordLib for PayeeRecord global;

library PayeeRecordLib {
    uint256 private constant U48 = type(uint48).max;
    uint256 private constant SPENT_AT = 64;
    uint256 private constant LAST_PAID_AT = 144;
    uint256 private constant COUNTERS = U48 << SPENT_AT | uint256(type(uint40).max) << LAST_PAID_AT;
    uint256 private constant COUNTS = 1 << 184;
    uint256 private constant LAST_PAID = uint256(type(uint40).max) << LAST_PAID_AT;

    /// @dev New limits beside the old counters.
    function replace(PayeeRecord previous, PayeeLimits memory limits) internal pure returns (PayeeRecord) {
        bool counted = limits.cap != U48 || limits.cooldown != 0;
        return PayeeRecord.wrap(
            PayeeRecord.unwrap(previous) & COUNTERS | (counted ? COUNTS : 0) | limits.categories | uint256(limits.cap)
                << 16 | uint256(limits.cooldown) << 112
        );
    }

    function categories(PayeeRecord record) internal pure returns (uint256) {
        return uint16(PayeeRecord.unwrap(record));
    }

    function cap(PayeeRecord record) internal pure returns (uint256) {
        return PayeeRecord.unwrap(record) >> 16 & U48;
    }

    function spent(PayeeRecord record) internal pure returns (uint256) {
        return PayeeRecord.unwrap(record) >> SPENT_AT & U48;
    }

    function cooldown(PayeeRecord record) internal pure returns (uint256) {
        return uint32(PayeeRecord.unwrap(record) >> 112);
    }

    function lastPaid(PayeeRecord record) internal pure returns (uint256) {
        return uint40(PayeeRecord.unwrap(record) >> LAST_PAID_AT);
    }

    /// @dev Whether a payment must write this word.
    function counts(PayeeRecord record) internal pure returns (bool) {
        return PayeeRecord.unwrap(record) & COUNTS != 0;
    }

    /// @dev Books a payment at `time`. The caller has checked spent + amount <= cap where there is a cap.
    function add(PayeeRecord record, uint256 amount, uint256 time) internal pure returns (PayeeRecord) {
        unchecked {
            uint256 word = PayeeRecord.unwrap(record);
            if (record.cap() != U48) word += amount << SPENT_AT;
            if (record.cooldown() != 0) word = word & ~LAST_PAID | uint256(uint40(time)) << LAST_PAID_AT;
            return PayeeRecord.wrap(word);
        }
    }

    /// @dev Takes back one `add` that found the record as `before`. Other payments booked since then stay booked:
    /// a cooldown lets none through in the same block, so `last paid` can go back to what it was.
    function sub(PayeeRecord record, uint256 amount, PayeeRecord before) internal pure returns (PayeeRecord) {
        unchecked {
            uint256 word = PayeeRecord.unwrap(record);
            if (record.cap() != U48) word -= amount << SPENT_AT;
            return PayeeRecord.wrap(word & ~LAST_PAID | PayeeRecord.unwrap(before) & LAST_PAID);
        }
    }
}
