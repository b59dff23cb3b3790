// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {IPolicyWallet} from "contracts/interfaces/IPolicyWallet.sol";
import {OddToken} from "./OddToken.sol";
import {Stage} from "./Stage.sol";

interface IToken {
    function USDC() external view returns (address);
}

/// @dev W30. The token is fixed at deployment, so that odd ones are impossible by construction. Should the one token
/// ever turn odd, the wallet still never lets out more than was asked, and counts what it let out.
contract W30_OddTokens is Stage {
    function test_token_is_fixed() public {
        assertEq(IToken(address(wallet)).USDC(), address(usdc));
        bytes memory change = abi.encodeWithSignature("setToken(address)", stranger);
        bytes memory quorum = quorumFor(changeDigest(address(wallet), change, 0, FAR));
        vm.expectRevert(abi.encodeWithSelector(IPolicyWallet.UnknownChange.selector, bytes4(change)));
        wallet.submit(change, 0, FAR, quorum);
    }

    function test_fee_on_transfer_costs_the_payee_and_not_the_wallet() public {
        OddToken odd = new OddToken();
        wallet = deploy(address(odd), baseChanges());
        odd.mint(address(wallet), FUNDS);
        odd.behave(OddToken.Way.TakesFee);
        paySome(shop, 100, 0);
        assertEq(odd.balanceOf(address(wallet)), FUNDS - 100);
        assertEq(odd.balanceOf(shop), 99);
        (uint256 day,,,) = wallet.room(agent);
        assertEq(day, DAY_CAP - 100);
    }

    /// @dev The balance shrinks by itself: payments fail, none is half made.
    function test_rebasing_down_only_makes_payments_fail() public {
        vm.prank(address(wallet));
        usdc.transfer(treasury, FUNDS - 50);
        refused(payment(shop, 51, 0), abi.encodeWithSelector(IPolicyWallet.TransferFailed.selector));
        paySome(shop, 50, 0);
        assertEq(usdc.balanceOf(address(wallet)), 0);
    }

    /// @dev Money sent to the wallet unasked widens no limit.
    function test_donations_change_no_limit() public {
        (uint256 before,,,) = wallet.room(agent);
        fund(address(wallet), FUNDS);
        (uint256 day,,,) = wallet.room(agent);
        assertEq(day, before);
    }
}
