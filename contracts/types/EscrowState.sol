// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {State, Status} from "../interfaces/IWorkEscrow.sol";

/// @dev All that an escrow keeps: one load and one store for a step. Amounts in USDC base units.
///
///  0          64         128        192     232      240       256
///  | captured | refunded | returned | since | status | reserve |
///  |   u64    |   u64    |   u64    |  u40  |   u8   |   u16   |
type EscrowState is uint256;

using EscrowStateLib for EscrowState global;

library EscrowStateLib {
    uint256 private constant REFUNDED_AT = 64;
    uint256 private constant RETURNED_AT = 128;
    uint256 private constant SINCE_AT = 192;
    uint256 private constant STATUS_AT = 232;

    function captured(EscrowState state) internal pure returns (uint256) {
        return uint64(EscrowState.unwrap(state));
    }

    function refunded(EscrowState state) internal pure returns (uint256) {
        return uint64(EscrowState.unwrap(state) >> REFUNDED_AT);
    }

    function returned(EscrowState state) internal pure returns (uint256) {
        return uint64(EscrowState.unwrap(state) >> RETURNED_AT);
    }

    /// @dev Unix seconds.
    function since(EscrowState state) internal pure returns (uint256) {
        return uint40(EscrowState.unwrap(state) >> SINCE_AT);
    }

    function status(EscrowState state) internal pure returns (Status) {
        return Status(uint8(EscrowState.unwrap(state) >> STATUS_AT));
    }

    /// @dev `time` is below 2^40 until the year 36,812.
    function begin(EscrowState state, Status next, uint256 time) internal pure returns (EscrowState) {
        uint256 word = EscrowState.unwrap(state) & ~(uint256(type(uint40).max) << SINCE_AT);
        return EscrowState.wrap(word | uint256(uint40(time)) << SINCE_AT).to(next);
    }

    function to(EscrowState state, Status next) internal pure returns (EscrowState) {
        uint256 word = EscrowState.unwrap(state) & ~(uint256(type(uint8).max) << STATUS_AT);
        return EscrowState.wrap(word | uint256(next) << STATUS_AT);
    }

    /// @dev Adds to what the payee's side and the payer have had. The caller has checked that both together, with what
    /// they had before, are at most the amount: below 2^64.
    function add(EscrowState state, uint256 toPayee, uint256 toPayer) internal pure returns (EscrowState) {
        unchecked {
            return EscrowState.wrap(EscrowState.unwrap(state) + toPayee + (toPayer << REFUNDED_AT));
        }
    }

    /// @dev The caller has checked that the new total is at most `captured`.
    function addReturned(EscrowState state, uint256 amount) internal pure returns (EscrowState) {
        unchecked {
            return EscrowState.wrap(EscrowState.unwrap(state) + (amount << RETURNED_AT));
        }
    }

    function open(EscrowState state) internal pure returns (State memory) {
        return State({
            captured: uint64(state.captured()),
            refunded: uint64(state.refunded()),
            returned: uint64(state.returned()),
            since: uint40(state.since()),
            status: state.status()
        });
    }
}
