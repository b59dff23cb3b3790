// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {ICondition} from "../interfaces/ICondition.sol";
import {Answer, Part, PartLib} from "./Part.sol";

/// @title Or
/// @notice At least one of one to eight conditions holds. No state, no owner: one deployment serves everybody.
/// @dev arg = keccak256(abi.encode(Part[] parts)); data = abi.encode(Part[] parts, bytes[] evidence).
/// `true` as soon as one part is true, whatever the others do; else not shown if one is not shown.
contract Or is ICondition {
    /// @inheritdoc ICondition
    function check(bytes32 escrowId, bytes32 arg, bytes calldata data) external view returns (bool) {
        (Part[] memory parts, bytes[] memory evidence) = PartLib.list(arg, data);
        bool shown = true;
        for (uint256 i; i < parts.length; ++i) {
            Answer answer = parts[i].ask(escrowId, evidence[i], PartLib.share(parts.length - i));
            if (answer == Answer.Yes) return true;
            if (answer == Answer.NotShown) shown = false;
        }
        require(shown, PartLib.NotShown());
        return false;
    }
}
