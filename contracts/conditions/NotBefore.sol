// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {ICondition} from "../interfaces/ICondition.sol";

/// @title NotBefore
/// @notice A time has come. Before that time: `Not` of it. No state, no owner: one deployment serves everybody.
/// @dev arg = unix seconds; data is not looked at. Time is the block's.
contract NotBefore is ICondition {
    /// @inheritdoc ICondition
    function check(bytes32, bytes32 arg, bytes calldata) external view returns (bool) {
        return block.timestamp >= uint256(arg);
    }
}
