// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {ICondition} from "../interfaces/ICondition.sol";
import {Answer, Part, PartLib} from "./Part.sol";

/// @title Not
/// @notice A condition does not hold. No state, no owner: one deployment serves everybody.
/// @dev arg = keccak256(abi.encode(Part part)); data = abi.encode(Part part, bytes evidence).
/// Only a clean `false` turns into `true`: what fails, or is not shown, shows nothing here either. Around conditions of
/// others this holds as long as they keep to `ICondition`.
contract Not is ICondition {
    /// @inheritdoc ICondition
    function check(bytes32 escrowId, bytes32 arg, bytes calldata data) external view returns (bool) {
        (Part memory part, bytes memory evidence) = abi.decode(data, (Part, bytes));
        bytes32 hash = keccak256(abi.encode(part));
        require(hash == arg, PartLib.OtherParts(hash, arg));
        Answer answer = part.ask(escrowId, evidence, gasleft());
        require(answer != Answer.NotShown, PartLib.NotShown());
        return answer == Answer.No;
    }
}
