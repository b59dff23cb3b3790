// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

/// @title IReceiveWithAuthorization
/// @notice EIP-3009's receiving side in the form of Circle's FiatTokenV2_2, with a signature of any length, so that
/// the payer may be a contract.
interface IReceiveWithAuthorization {
    function receiveWithAuthorization(
        address from,
        address to,
        uint256 value,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 nonce,
        bytes calldata signature
    ) external;
}
