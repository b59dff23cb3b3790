// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

/// @dev What one agent may spend in its whole life, in USDC base units. Read and written only while it is on.
///
///  0       64      128       256
///  | limit | spent | reserve |
///  |  u64  |  u64  |  u128   |
type Budget is uint256;

using BudgetLib for Budget global;

library BudgetLib {
    uint256 private constant SPENT_AT = 64;

    function limit(Budget budget) internal pure returns (uint256) {
        return uint64(Budget.unwrap(budget));
    }

    function spent(Budget budget) internal pure returns (uint256) {
        return uint64(Budget.unwrap(budget) >> SPENT_AT);
    }

    /// @dev The caller has checked spent + amount <= limit.
    function add(Budget budget, uint256 amount) internal pure returns (Budget) {
        unchecked {
            return Budget.wrap(Budget.unwrap(budget) + (amount << SPENT_AT));
        }
    }

    /// @dev Takes back what `add` booked in the same step.
    function sub(Budget budget, uint256 amount) internal pure returns (Budget) {
        unchecked {
            return Budget.wrap(Budget.unwrap(budget) - (amount << SPENT_AT));
        }
    }

    /// @dev A new limit; what is spent stays.
    function withLimit(Budget budget, uint64 amount) internal pure returns (Budget) {
        return Budget.wrap(Budget.unwrap(budget) & ~uint256(type(uint64).max) | amount);
    }
}
