// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

/// @title ICondition
/// @notice A question about the chain that a contract answers without changing it; `true` releases an escrow.
///
/// @dev THREE ANSWERS. `true`: it holds. `false`: it does not hold, whatever the caller gives along. A revert: not
/// shown, because something is missing, malformed, out of gas, or the caller's to withhold. A condition that reads
/// `data` as evidence never answers `false` for want of it; so the opposite of a condition (`Not`) cannot be had by
/// leaving something out. WorkEscrow asks by staticcall with 150,000 gas and takes exactly one word, 1, for a yes.
interface ICondition {
    /// @param escrowId the escrow in question
    /// @param arg fixed in its terms; where one word is too small, the hash of what `data` then has to contain
    /// @param data what the caller brings along
    function check(bytes32 escrowId, bytes32 arg, bytes calldata data) external view returns (bool);
}
