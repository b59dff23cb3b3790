// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {Skip} from "../interfaces/IChannelHub.sol";

/// @dev All that a channel in use keeps: one load and one store for a claim. Amounts in base units of its token.
///
///  0         96             192                   232   256
///  | balance | totalClaimed | withdrawInitiatedAt | zero |
///  |   u96   |     u96      |         u40         |  u24 |
///
/// totalClaimed is never above balance.
type ChannelState is uint256;

using ChannelStateLib for ChannelState global;

library ChannelStateLib {
    uint256 internal constant MAX = type(uint96).max;

    uint256 private constant CLAIMED_AT = 96;
    uint256 private constant INITIATED_AT = 192;

    function balance(ChannelState state) internal pure returns (uint256) {
        return uint96(ChannelState.unwrap(state));
    }

    function totalClaimed(ChannelState state) internal pure returns (uint256) {
        return uint96(ChannelState.unwrap(state) >> CLAIMED_AT);
    }

    /// @dev Unix seconds; 0: no withdrawal is pending.
    function withdrawInitiatedAt(ChannelState state) internal pure returns (uint256) {
        return uint40(ChannelState.unwrap(state) >> INITIATED_AT);
    }

    /// @dev What a withdrawal or a refund can take.
    function available(ChannelState state) internal pure returns (uint256) {
        unchecked {
            return state.balance() - state.totalClaimed();
        }
    }

    /// @dev Why a claim up to `total`, under a voucher over `max`, moves nothing, but for its signature.
    function refusal(ChannelState state, uint256 max, uint256 total) internal pure returns (Skip) {
        if (total > max) return Skip.ExceedsCeiling;
        if (total <= state.totalClaimed()) return Skip.NothingNew;
        if (total > state.balance()) return Skip.ExceedsBalance;
        return Skip.None;
    }

    /// @dev `refusal` has allowed the total: above the one before, at most the balance.
    function claim(ChannelState state, uint256 total) internal pure returns (ChannelState) {
        uint256 word = ChannelState.unwrap(state) & ~(MAX << CLAIMED_AT);
        return ChannelState.wrap(word | total << CLAIMED_AT);
    }

    /// @dev The caller has checked that the new balance is at most MAX.
    function put(ChannelState state, uint256 amount) internal pure returns (ChannelState) {
        unchecked {
            return ChannelState.wrap(ChannelState.unwrap(state) + amount);
        }
    }

    /// @dev The caller has checked that the amount is at most what is available.
    function take(ChannelState state, uint256 amount) internal pure returns (ChannelState) {
        unchecked {
            return ChannelState.wrap(ChannelState.unwrap(state) - amount);
        }
    }

    /// @dev `time` is below 2^40 until the year 36,812; 0: no longer pending.
    function initiate(ChannelState state, uint256 time) internal pure returns (ChannelState) {
        uint256 word = ChannelState.unwrap(state) & ~(uint256(type(uint40).max) << INITIATED_AT);
        return ChannelState.wrap(word | uint256(uint40(time)) << INITIATED_AT);
    }
}
