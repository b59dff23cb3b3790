// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {ICondition} from "../interfaces/ICondition.sol";

/// @title Erc20Transfer
/// @notice A transfer of tokens was made for an escrow: delivery against payment. No owner: one deployment serves
/// everybody.
///
/// @dev arg = keccak256(abi.encode(address token, address to, uint256 amount)); data the same without the hash.
///
/// WHY TRANSFERS GO THROUGH HERE. A contract cannot look into the past. A balance may be older than the job, or borrowed; a
/// used EIP-3009 authorization may have been cancelled instead; a lower allowance may have been lowered by its owner. So
/// whoever has to deliver tokens sends them by `send`, which moves them straight from the sender to the
/// receiver, and writes down for which escrow how much arrived. That note is the evidence: it counts for one escrow
/// only, only grows, and cannot be made but by a transfer. Nothing is ever held here.
///
/// TOKENS. Any ERC-20; what counts is what arrived. A token is as honest as the terms that name it. A transient lock, so
/// that a token's callback cannot have one arrival counted twice.
contract Erc20Transfer is ICondition {
    using SafeERC20 for IERC20;

    /// @notice Base units of `token` that arrived at `to` for the escrow.
    mapping(bytes32 escrowId => mapping(IERC20 token => mapping(address to => uint256))) public sent;
    bool private transient _entered;

    /// @param amount what arrived by this transfer
    event Sent(bytes32 indexed escrowId, IERC20 indexed token, address indexed to, address from, uint256 amount);

    error OtherQuestion(bytes32 have, bytes32 want);
    error Reentrancy();

    /// @notice Sends the caller's tokens, which it has approved to this contract, to `to`, for `escrowId`.
    function send(bytes32 escrowId, IERC20 token, address to, uint256 amount) external {
        require(!_entered, Reentrancy());
        _entered = true;
        uint256 before = token.balanceOf(to);
        token.safeTransferFrom(msg.sender, to, amount);
        uint256 arrived = token.balanceOf(to) - before;
        sent[escrowId][token][to] += arrived;
        emit Sent(escrowId, token, to, msg.sender, arrived);
        _entered = false;
    }

    /// @inheritdoc ICondition
    function check(bytes32 escrowId, bytes32 arg, bytes calldata data) external view returns (bool) {
        require(keccak256(data) == arg, OtherQuestion(keccak256(data), arg));
        (IERC20 token, address to, uint256 amount) = abi.decode(data, (IERC20, address, uint256));
        return sent[escrowId][token][to] >= amount;
    }
}
