// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {IERC1271} from "@openzeppelin/contracts/interfaces/IERC1271.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";

/// @title Ask
/// @notice Questions to contracts that are not trusted: no writes, bounded gas, one word of answer.
library Ask {
    /// @return clean the call went through and answered with exactly one word
    /// @return answer that word, else 0. No more than it is copied.
    function word(address target, uint256 gasLimit, bytes memory question)
        internal
        view
        returns (bool clean, bytes32 answer)
    {
        assembly ("memory-safe") {
            clean := staticcall(gasLimit, target, add(question, 0x20), mload(question), 0, 0x20)
            clean := and(clean, eq(returndatasize(), 0x20))
            if clean { answer := mload(0) }
        }
    }

    /// @dev Whose address ecrecover gives for 65 bytes with low s is believed, so that an account keeps its voice under
    /// an EIP-7702 delegation; a contract is asked by ERC-1271. Zero has no voice.
    function signed(address account, bytes32 digest, bytes memory signature, uint256 gasLimit)
        internal
        view
        returns (bool)
    {
        (address recovered, ECDSA.RecoverError error_,) = ECDSA.tryRecover(digest, signature);
        if (error_ == ECDSA.RecoverError.NoError && recovered == account) return true;
        if (account.code.length == 0) return false;
        bytes memory question = abi.encodeCall(IERC1271.isValidSignature, (digest, signature));
        (, bytes32 answer) = word(account, gasLimit, question);
        return answer == bytes32(IERC1271.isValidSignature.selector);
    }
}
