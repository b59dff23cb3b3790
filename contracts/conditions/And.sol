// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {ICondition} from "../interfaces/ICondition.sol";
import {Answer, Part, PartLib} from "./Part.sol";

/// @title And
/// @notice All of one to eight conditions hold. No state, no owner: one deployment serves everybody.
/// @dev arg = keccak256(abi.encode(Part[] parts)); data = abi.encode(Part[] parts, bytes[] evidence).
/// `false` as soon as one part is false, whatever the others say; else not shown if one is not shown.
contract And is ICondition {
    /// @inheritdoc ICondition
    function check(bytes32 escrowId, bytes32 arg, bytes calldata data) external view returns (bool) {
        (Part[] memory parts, bytes[] memory evidence) = PartLib.list(arg, data);
        bool shown = true;
        for (uint256 i; i < parts.length; ++i) {
            Answer answer = parts[i].ask(escrowId, evidence[i], PartLib.share(parts.length - i));
            if (answer == Answer.No) return false;
            if (answer == Answer.NotShown) shown = false;
        }
        require(shown, PartLib.NotShown());
        return true;
    }
}
