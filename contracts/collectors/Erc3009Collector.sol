// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {IDepositCollector} from "../interfaces/IDepositCollector.sol";
import {IReceiveWithAuthorization} from "../interfaces/IReceiveWithAuthorization.sol";

/// @title Erc3009Collector
/// @notice Brings a deposit on the payer's EIP-3009 `ReceiveWithAuthorization` to this contract, in the form that x402's
/// clients sign: collectorData is abi.encode(uint256 validAfter, uint256 validBefore, uint256 salt, bytes signature).
///
/// @dev The nonce is keccak256(abi.encode(channelId, salt)): the signature is good for one channel and one amount, so that
/// whoever carries it can do with it what the payer meant, and nothing else. Holds nothing between two calls.
contract Erc3009Collector is IDepositCollector {
    using SafeERC20 for IERC20;

    /// @notice The hub, which alone may ask.
    address public immutable HUB;

    error OnlyX402BatchSettlement();

    constructor(address hub) {
        HUB = hub;
    }

    /// @inheritdoc IDepositCollector
    function collect(address payer, address token, uint256 amount, bytes32 channelId, bytes calldata collectorData)
        external
    {
        require(msg.sender == HUB, OnlyX402BatchSettlement());
        (uint256 validAfter, uint256 validBefore, uint256 salt, bytes memory signature) =
            abi.decode(collectorData, (uint256, uint256, uint256, bytes));
        bytes32 nonce = keccak256(abi.encode(channelId, salt));
        IReceiveWithAuthorization(token)
            .receiveWithAuthorization(payer, address(this), amount, validAfter, validBefore, nonce, signature);
        IERC20(token).safeTransfer(HUB, amount);
    }
}
