// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {EscrowStage} from "./EscrowStage.sol";
import {IWorkEscrow, Proof, Status, Terms} from "contracts/interfaces/IWorkEscrow.sol";

/// @dev E10. Money given back after a payout does not lower what was captured: an old word over a total stays used.
contract E10_RefundRevivesNothing is EscrowStage {
    function setUp() public override {
        super.setUp();
        vm.prank(payee);
        usdc.approve(address(escrow), type(uint256).max);
    }

    function test_an_old_release_pays_nothing_again() public {
        Terms memory t = delivered(terms());
        open(salted(1));
        Proof memory p = byArbiter(t, 60e6);
        escrow.capture(t, none(), 60e6, p);
        vm.prank(payee);
        escrow.refund(t, 60e6);
        assertEq(usdc.balanceOf(payee), 0);
        vm.expectRevert(why2(IWorkEscrow.NotIncreasing.selector, 60e6, 60e6));
        escrow.capture(t, none(), 60e6, p);
        assertState(t, Status.Submitted, 60e6, 0);
        capture(t, AMOUNT); // the rest, and not what came back
        assertEq(usdc.balanceOf(payee), 40e6);
        assertEq(held(), AMOUNT);
    }

    function test_at_most_what_was_captured_comes_back() public {
        Terms memory t = opened(terms());
        mint(payee, AMOUNT);
        vm.startPrank(payee);
        vm.expectRevert(why2(IWorkEscrow.ExceedsRemaining.selector, 1, 0));
        escrow.refund(t, 1);
        vm.stopPrank();
        capture(t, 10e6);
        vm.startPrank(payee);
        escrow.refund(t, 4e6);
        vm.expectRevert(why2(IWorkEscrow.NotIncreasing.selector, 4e6, 4e6));
        escrow.refund(t, 4e6);
        vm.expectRevert(why2(IWorkEscrow.ExceedsRemaining.selector, 6e6 + 1, 6e6));
        escrow.refund(t, 10e6 + 1);
        escrow.refund(t, 10e6);
        assertEq(stateOf(t).returned, 10e6);
    }

    /// @dev The payer cannot write a return into the state with its own money.
    function test_payer_returns_to_itself() public {
        Terms memory t = opened(terms());
        capture(t, 10e6);
        vm.prank(payer);
        vm.expectRevert(IWorkEscrow.TokenCollectionFailed.selector);
        escrow.refund(t, 1);
    }
}
