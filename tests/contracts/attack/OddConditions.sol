// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {ICondition} from "contracts/interfaces/ICondition.sol";

/// @dev Says what it is told to say.
contract PlainCondition is ICondition {
    bool public answer;
    bytes32 public wantId;
    bytes32 public wantArg;

    function set(bool answer_) external {
        answer = answer_;
    }

    /// @dev From now on only for this question.
    function expect(bytes32 escrowId, bytes32 arg) external {
        (wantId, wantArg) = (escrowId, arg);
    }

    function check(bytes32 escrowId, bytes32 arg, bytes calldata) external view returns (bool) {
        require(wantId == 0 || (escrowId == wantId && arg == wantArg), "another question");
        return answer;
    }
}

/// @dev Answers that are nearly a yes, and answers that hurt.
contract OddCondition {
    enum Way {
        Reverts,
        RevertsWithTrue,
        Empty,
        Short,
        Long,
        Dirty,
        Max,
        Bomb,
        RevertBomb,
        BurnsAllGas,
        Heavy,
        Writes,
        Pays,
        Destroys
    }

    Way private immutable way;
    uint256 private written;

    constructor(Way way_) {
        way = way_;
    }

    fallback() external {
        if (way == Way.Reverts) revert("no");
        if (way == Way.RevertsWithTrue) _revert(1, 32);
        if (way == Way.RevertBomb) _revert(1, 60_000);
        if (way == Way.BurnsAllGas) {
            assembly ("memory-safe") {
                invalid()
            }
        }
        if (way == Way.Heavy) {
            uint256 end = gasleft() > 200_000 ? gasleft() - 200_000 : 0;
            while (gasleft() > end) {}
        }
        if (way == Way.Writes) written = 1;
        if (way == Way.Pays) {
            (bool done,) = msg.sender.call(abi.encodeWithSignature("withdraw(address)", address(this)));
            require(done, "not done");
        }
        if (way == Way.Destroys) selfdestruct(payable(msg.sender));
        uint256 size = way == Way.Empty ? 0 : way == Way.Short ? 31 : way == Way.Long ? 33 : 32;
        if (way == Way.Bomb) size = 60_000;
        uint256 word = way == Way.Dirty ? 1 << 8 | 1 : way == Way.Max ? type(uint256).max : 1;
        assembly ("memory-safe") {
            mstore(0, word)
            return(0, size)
        }
    }

    function _revert(uint256 word, uint256 size) private pure {
        assembly ("memory-safe") {
            mstore(0, word)
            revert(0, size)
        }
    }
}
