// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {ICondition} from "../interfaces/ICondition.sol";

/// @title Erc20Balance
/// @notice An account holds at least so much of a token. No state, no owner: one deployment serves everybody.
///
/// @dev arg = keccak256(abi.encode(address token, address account, uint256 minimum)); data the same without the hash.
///
/// WHAT IT SHOWS. What is there at this moment, wherever it came from. That is as good as the account: one of the
/// payer's, or one that can only receive. Whoever controls the account can borrow the balance for one transaction, so
/// never one of the party that gains by the answer, and no opposite (`Not`) over one that the gainer can empty. For `this
/// much was paid for this job`, see `Erc20Transfer`.
contract Erc20Balance is ICondition {
    error OtherQuestion(bytes32 have, bytes32 want);

    /// @inheritdoc ICondition
    function check(bytes32, bytes32 arg, bytes calldata data) external view returns (bool) {
        require(keccak256(data) == arg, OtherQuestion(keccak256(data), arg));
        (IERC20 token, address account, uint256 minimum) = abi.decode(data, (IERC20, address, uint256));
        return token.balanceOf(account) >= minimum; // a token that fails shows nothing
    }
}
