// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {EscrowStage} from "../attack/EscrowStage.sol";
import {IWorkEscrow, Payout, Proof, Status, Terms} from "contracts/interfaces/IWorkEscrow.sol";

/// @dev Each way in which an escrow can end, with balances to the base unit.
contract EscrowEndingsTest is EscrowStage {
    uint256 private before;

    function setUp() public override {
        super.setUp();
        before = usdc.balanceOf(payer);
    }

    function _ended(Terms memory t, Status status, uint256 toPayee) private view {
        assertState(t, status, toPayee, AMOUNT - toPayee);
        assertEq(usdc.balanceOf(payee), toPayee, "payee");
        assertEq(usdc.balanceOf(payer), before - toPayee, "payer");
        assertEq(held(), 0, "escrow");
    }

    function test_completed_by_the_arbiter() public {
        Terms memory t = delivered(terms());
        capture(t, AMOUNT);
        _ended(t, Status.Completed, AMOUNT);
    }

    function test_completed_before_submission_by_the_payer() public {
        Terms memory t = opened(terms());
        Proof memory p = byPayer(t, AMOUNT);
        escrow.capture(t, none(), AMOUNT, p);
        _ended(t, Status.Completed, AMOUNT);
    }

    function test_partly_captured_then_voided() public {
        Terms memory t = opened(terms());
        capture(t, 30e6);
        assertState(t, Status.Funded, 30e6, 0);
        deliver(t);
        capture(t, 45e6);
        assertState(t, Status.Submitted, 45e6, 0);
        giveUp(t);
        _ended(t, Status.Rejected, 45e6);
    }

    function test_silently_accepted() public {
        Terms memory t = delivered(terms());
        vm.warp(START + REVIEW + 1);
        vm.prank(stranger);
        escrow.finalize(t, none());
        _ended(t, Status.Completed, AMOUNT);
    }

    function test_silently_shared_after_a_partial_capture() public {
        Terms memory t = terms();
        t.silenceBps = 2_500;
        delivered(t);
        capture(t, 20e6);
        vm.warp(START + REVIEW + 1);
        escrow.finalize(t, none());
        _ended(t, Status.Completed, 40e6);
    }

    function test_silently_refused() public {
        Terms memory t = terms();
        t.silenceBps = 0;
        delivered(t);
        vm.warp(START + REVIEW + 1);
        escrow.finalize(t, none());
        _ended(t, Status.Rejected, 0);
    }

    function test_never_delivered() public {
        Terms memory t = opened(terms());
        vm.warp(SUBMIT_BY + 1);
        vm.prank(stranger);
        escrow.reclaim(t);
        _ended(t, Status.Expired, 0);
    }

    function test_disputed_and_split() public {
        Terms memory t = disputed(terms());
        award(t, 37e6);
        _ended(t, Status.Completed, 37e6);
    }

    function test_disputed_and_rejected() public {
        Terms memory t = disputed(terms());
        award(t, 0);
        _ended(t, Status.Rejected, 0);
    }

    function test_disputed_and_the_arbiter_is_silent() public {
        Terms memory t = disputed(terms());
        vm.warp(START + ARBITRATION + 1);
        escrow.finalize(t, none());
        _ended(t, Status.Completed, AMOUNT);
    }

    function test_by_preimage() public {
        Terms memory t = opened(releasedBy(4, 0));
        vm.prank(stranger);
        escrow.capture(t, none(), AMOUNT, byPreimage(PREIMAGE));
        _ended(t, Status.Completed, AMOUNT);
    }

    function test_refunded_after_payout() public {
        Terms memory t = delivered(terms());
        capture(t, AMOUNT);
        vm.startPrank(payee);
        usdc.approve(address(escrow), 60e6);
        escrow.refund(t, 25e6);
        escrow.refund(t, 60e6);
        vm.stopPrank();
        assertState(t, Status.Completed, AMOUNT, 0);
        assertEq(stateOf(t).returned, 60e6);
        assertEq(usdc.balanceOf(payee), 40e6);
        assertEq(usdc.balanceOf(payer), before - 40e6);
    }

    function test_refunded_after_payout_by_a_relayer() public {
        Terms memory t = delivered(terms());
        capture(t, AMOUNT);
        bytes memory first = returnOf(t, 25e6, 25e6);
        bytes memory second = returnOf(t, 60e6, 35e6);
        vm.startPrank(stranger);
        escrow.refundWithAuthorization(t, payee, 25e6, 0, FAR, first);
        vm.expectEmit(address(escrow));
        emit IWorkEscrow.PaymentReturned(uint256(idOf(t)), payee, 35e6, 60e6);
        escrow.refundWithAuthorization(t, payee, 60e6, 0, FAR, second);
        vm.stopPrank();
        assertState(t, Status.Completed, AMOUNT, 0);
        assertEq(stateOf(t).returned, 60e6);
        assertEq(usdc.balanceOf(payee), 40e6);
        assertEq(usdc.balanceOf(payer), before - 40e6);
        assertEq(held(), 0);
    }

    function test_blocked_payee_is_credited() public {
        Terms memory t = delivered(terms());
        vm.prank(treasury);
        usdc.blacklist(payee);
        capture(t, AMOUNT);
        assertState(t, Status.Completed, AMOUNT, 0);
        assertEq(escrow.owed(payee), AMOUNT);
        vm.prank(treasury);
        usdc.unBlacklist(payee);
        vm.prank(stranger);
        escrow.withdraw(payee);
        _ended(t, Status.Completed, AMOUNT);
    }

    function test_payouts_share() public {
        Payout[] memory list = pays(partner, 1_000, partner2, 250);
        Terms memory t = with(terms(), list);
        open(t, list);
        capture(t, list, 33_333_333);
        capture(t, list, AMOUNT);
        assertEq(usdc.balanceOf(partner), 10e6);
        assertEq(usdc.balanceOf(partner2), 2.5e6);
        assertEq(usdc.balanceOf(payee), 87.5e6);
        assertEq(held(), 0);
    }

    function test_funded_by_authorization() public {
        Terms memory t = terms();
        bytes memory signature = authorization(t);
        vm.prank(stranger);
        bytes32 id = escrow.authorizeWithAuthorization(t, none(), 0, FAR, signature);
        assertEq(id, idOf(t));
        assertState(t, Status.Funded, 0, 0);
        assertEq(held(), AMOUNT);
        deliver(t);
        capture(t, AMOUNT);
        _ended(t, Status.Completed, AMOUNT);
    }
}
