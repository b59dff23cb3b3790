// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

/// @dev How many single-use coupons one agent has in each period, and how large they are, in one word.
///
///  0        32                    88                    144       200       256
///  | period | count | most each   | count | most each   | class 2 | class 3 |
///  |  u32   |  u16  |    u40      |  u16  |    u40      |   u56   |   u56   |
///           class 0               class 1
///
/// Period in seconds, 0: no coupons. Amounts in USDC base units. A coupon's index is `class << 16 | number`, number
/// below the class's count. Per period the agent has at most the sum over the classes of count * most each.
type Coupons is uint256;

using CouponsLib for Coupons global;

library CouponsLib {
    uint256 internal constant CLASSES = 4;
    uint256 private constant FIRST_AT = 32;
    uint256 private constant CLASS = 56;

    function period(Coupons coupons) internal pure returns (uint256) {
        return uint32(Coupons.unwrap(coupons));
    }

    /// @dev The most that coupon `index` is good for; 0: there is none of that index.
    function worth(Coupons coupons, uint256 index) internal pure returns (uint256) {
        unchecked {
            uint256 class = index >> 16;
            if (class >= CLASSES) return 0;
            uint256 word = Coupons.unwrap(coupons) >> (FIRST_AT + CLASS * class);
            return uint16(index) < uint16(word) ? uint40(word >> 16) : 0;
        }
    }
}
