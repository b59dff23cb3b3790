// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {Ask} from "../Ask.sol";
import {ICondition} from "../interfaces/ICondition.sol";

/// @dev One of the conditions that `And`, `Or` and `Not` are made of.
struct Part {
    ICondition condition;
    bytes32 arg;
}

enum Answer {
    NotShown,
    No,
    Yes
}

using PartLib for Part global;

library PartLib {
    /// @dev Bounds the list; the gas of a whole question bounds it further.
    uint256 internal constant MAX_PARTS = 8;

    error NotShown();
    error OtherParts(bytes32 have, bytes32 want);
    error PartsLength(uint256 parts, uint256 evidence, uint256 max);

    /// @dev Anything but a clean 0 or 1 is `NotShown`, want of gas included.
    function ask(Part memory part, bytes32 escrowId, bytes memory evidence, uint256 gasLimit)
        internal
        view
        returns (Answer)
    {
        bytes memory question = abi.encodeCall(ICondition.check, (escrowId, part.arg, evidence));
        (bool clean, bytes32 answer) = Ask.word(address(part.condition), gasLimit, question);
        if (!clean || uint256(answer) > 1) return Answer.NotShown;
        return uint256(answer) == 1 ? Answer.Yes : Answer.No;
    }

    /// @dev The list behind `arg`, from `data` = abi.encode(Part[] parts, bytes[] evidence), one piece for each.
    function list(bytes32 arg, bytes calldata data)
        internal
        pure
        returns (Part[] memory parts, bytes[] memory evidence)
    {
        (parts, evidence) = abi.decode(data, (Part[], bytes[]));
        bool fits = parts.length != 0 && parts.length <= MAX_PARTS && parts.length == evidence.length;
        require(fits, PartsLength(parts.length, evidence.length, MAX_PARTS));
        bytes32 hash = keccak256(abi.encode(parts));
        require(hash == arg, OtherParts(hash, arg));
    }

    /// @dev An equal share of the gas for each part that is left, so that one which burns its share starves no other.
    function share(uint256 partsLeft) internal view returns (uint256) {
        return gasleft() / partsLeft;
    }
}
