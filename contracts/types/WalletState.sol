// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

/// @dev The whole wallet's freeze bit, cap, rolling window and quorum: one cold load for all of them.
///
///  0        50         100        150        200   232          248     250         256
///  | step i | step i-1 | step i-2 | step i-3 | cap | i mod 2^16 | flags | threshold |
///  |  u50   |   u50    |   u50    |   u50    | u32 |    u16     |  u2   |    u6     |
///
/// Lanes in USDC base units, the cap in whole USDC: at most 1,125,899,906, so that no lane overflows. T = 3 steps;
/// the bound, the price and the wrap of the index are those of `Ring`. Flags: 1 frozen, 2 cap on.
type WalletState is uint256;

using WalletStateLib for WalletState global;

library WalletStateLib {
    uint256 internal constant LANES = 4;
    /// @dev One USDC in base units.
    uint256 internal constant UNIT = 1e6;
    /// @dev Largest cap: the largest multiple of one USDC below 2^50 base units.
    uint256 internal constant MAX_CAP = (2 ** 50 - 1) / UNIT * UNIT;

    uint256 private constant LANE = 50;
    uint256 private constant LANE_MASK = 2 ** LANE - 1;
    uint256 private constant LANES_MASK = 2 ** (LANES * LANE) - 1;
    uint256 private constant CAP_AT = 200;
    uint256 private constant INDEX_AT = 232;
    uint256 private constant FROZEN = 1 << 248;
    uint256 private constant CAP_ON = 1 << 249;
    uint256 private constant THRESHOLD_AT = 250;
    /// @dev Largest quorum that fits.
    uint256 internal constant MAX_THRESHOLD = 63;

    /// @dev The word as it stands in step number `step`.
    function roll(WalletState state, uint256 step) internal pure returns (WalletState) {
        unchecked {
            uint256 word = WalletState.unwrap(state);
            uint256 passed = uint16(step - (word >> INDEX_AT));
            uint256 lanes = ((word & LANES_MASK) << passed * LANE) & LANES_MASK;
            uint256 kept = word & ~(LANES_MASK | uint256(type(uint16).max) << INDEX_AT);
            return WalletState.wrap(kept | lanes | uint256(uint16(step)) << INDEX_AT);
        }
    }

    /// @dev Sum of all lanes, below 2^52.
    function spent(WalletState state) internal pure returns (uint256) {
        unchecked {
            uint256 word = WalletState.unwrap(state);
            return (word & LANE_MASK) + (word >> LANE & LANE_MASK) + (word >> 2 * LANE & LANE_MASK)
                + (word >> 3 * LANE & LANE_MASK);
        }
    }

    /// @dev Books `amount` in the newest lane. The caller has checked spent + amount <= cap < 2^50.
    function add(WalletState state, uint256 amount) internal pure returns (WalletState) {
        unchecked {
            return WalletState.wrap(WalletState.unwrap(state) + amount);
        }
    }

    /// @dev Takes back what `add` booked in the same step.
    function sub(WalletState state, uint256 amount) internal pure returns (WalletState) {
        unchecked {
            return WalletState.wrap(WalletState.unwrap(state) - amount);
        }
    }

    /// @dev Base units. Meaningful while `capOn`.
    function cap(WalletState state) internal pure returns (uint256) {
        unchecked {
            return uint256(uint32(WalletState.unwrap(state) >> CAP_AT)) * UNIT;
        }
    }

    function capOn(WalletState state) internal pure returns (bool) {
        return WalletState.unwrap(state) & CAP_ON != 0;
    }

    function frozen(WalletState state) internal pure returns (bool) {
        return WalletState.unwrap(state) & FROZEN != 0;
    }

    /// @dev `amount` is a multiple of UNIT, at most MAX_CAP. The lanes stay.
    function withCap(WalletState state, uint256 amount) internal pure returns (WalletState) {
        uint256 word = WalletState.unwrap(state.withoutCap());
        return WalletState.wrap(word | CAP_ON | amount / UNIT << CAP_AT);
    }

    function withoutCap(WalletState state) internal pure returns (WalletState) {
        return WalletState.wrap(WalletState.unwrap(state) & ~(CAP_ON | uint256(type(uint32).max) << CAP_AT));
    }

    function withFrozen(WalletState state, bool on) internal pure returns (WalletState) {
        uint256 word = WalletState.unwrap(state);
        return WalletState.wrap(on ? word | FROZEN : word & ~FROZEN);
    }

    /// @dev How many operators are the quorum.
    function threshold(WalletState state) internal pure returns (uint256) {
        return WalletState.unwrap(state) >> THRESHOLD_AT;
    }

    /// @dev `count` is at most MAX_THRESHOLD.
    function withThreshold(WalletState state, uint256 count) internal pure returns (WalletState) {
        uint256 word = WalletState.unwrap(state) & ~(MAX_THRESHOLD << THRESHOLD_AT);
        return WalletState.wrap(word | count << THRESHOLD_AT);
    }
}
