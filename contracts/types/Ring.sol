// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

/// @dev What one agent spent lately, in five lanes of one step of time each. Amounts in USDC base units.
///
///  0        48         96         144        192        240          256
///  | step i | step i-1 | step i-2 | step i-3 | step i-4 | i mod 2^16 |
///  |  u48   |   u48    |   u48    |   u48    |   u48    |    u16     |
///
/// With T = 4 steps and the sum of all five lanes held under the cap at every payment, every interval of length T,
/// wherever it starts, sees at most the cap: take the interval's last payment, at time t in step i; the interval lies
/// in (t - T, t], which is inside steps i-4 .. i, and all five were in the sum that was checked. The price is that
/// capacity comes back between T and T + one step after it was spent.
///
/// The distance between two steps is taken modulo 2^16, which can only be smaller than the true one. Then old lanes
/// count for longer than they must; no live lane is ever forgotten.
type Ring is uint256;

using RingLib for Ring global;

library RingLib {
    uint256 internal constant LANES = 5;
    uint256 private constant LANE = 48;
    uint256 private constant LANE_MASK = type(uint48).max;
    uint256 private constant LANES_MASK = type(uint240).max;
    uint256 private constant INDEX_AT = 240;

    /// @dev The ring as it stands in step number `step`: older lanes move up, the oldest fall out.
    function roll(Ring ring, uint256 step) internal pure returns (Ring) {
        unchecked {
            uint256 word = Ring.unwrap(ring);
            uint256 passed = uint16(step - (word >> INDEX_AT));
            // 5 lanes or more, and the shift pushes every lane out.
            uint256 lanes = ((word & LANES_MASK) << passed * LANE) & LANES_MASK;
            return Ring.wrap(lanes | uint256(uint16(step)) << INDEX_AT);
        }
    }

    /// @dev Sum of all lanes, below 2^51.
    function spent(Ring ring) internal pure returns (uint256) {
        unchecked {
            uint256 word = Ring.unwrap(ring);
            return (word & LANE_MASK) + (word >> LANE & LANE_MASK) + (word >> 2 * LANE & LANE_MASK)
                + (word >> 3 * LANE & LANE_MASK) + (word >> 4 * LANE & LANE_MASK);
        }
    }

    /// @dev Books `amount` in the newest lane. The caller has checked spent + amount <= cap < 2^48.
    function add(Ring ring, uint256 amount) internal pure returns (Ring) {
        unchecked {
            return Ring.wrap(Ring.unwrap(ring) + amount);
        }
    }

    /// @dev Takes back what `add` booked in the same step.
    function sub(Ring ring, uint256 amount) internal pure returns (Ring) {
        unchecked {
            return Ring.wrap(Ring.unwrap(ring) - amount);
        }
    }
}
