// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {EscrowStage} from "./EscrowStage.sol";
import {IWorkEscrow, Proof, State, Status, Terms} from "contracts/interfaces/IWorkEscrow.sol";

/// @dev E1. Somebody takes money out of an escrow that never had any: its terms are sound, its signatures are real, its
/// deadlines are past, and the contract holds the money of others.
contract E01_NeverFunded is EscrowStage {
    Terms private ghost;

    function setUp() public override {
        super.setUp();
        open(terms());
        ghost = salted(1);
    }

    function test_nothing_leaves() public {
        Proof memory p = byArbiter(ghost, AMOUNT);
        bytes memory giving = signed(payeeKey, voidHash(ghost, FAR));
        bytes memory work = signed(payeeKey, submitHash(ghost, FAR));
        bytes memory split = signed(arbiterKey, awardHash(ghost, AMOUNT, 0, 0, FAR));
        bytes memory complaint = signed(payerKey, disputeHash(ghost, 0, FAR));
        vm.warp(SUBMIT_BY + REVIEW + ARBITRATION + 1);
        vm.startPrank(payer);
        wrongStatus(Status.None, Status.Funded);
        escrow.reclaim(ghost);
        wrongStatus(Status.None, Status.Submitted);
        escrow.finalize(ghost, none());
        wrongStatus(Status.None, Status.Funded);
        escrow.capture(ghost, none(), AMOUNT, p);
        wrongStatus(Status.None, Status.Funded);
        escrow.void(ghost, FAR, giving);
        wrongStatus(Status.None, Status.Funded);
        escrow.submit(ghost, DELIVERABLE, FAR, work);
        wrongStatus(Status.None, Status.Disputed);
        escrow.award(ghost, none(), AMOUNT, 0, 0, FAR, split);
        wrongStatus(Status.None, Status.Submitted);
        escrow.dispute(ghost, payer, 0, FAR, complaint);
        wrongStatus(Status.None, Status.Completed);
        escrow.refund(ghost, 1);
        vm.expectRevert(abi.encodeWithSelector(IWorkEscrow.NothingOwed.selector, payer));
        escrow.withdraw(payer);
        assertEq(held(), AMOUNT);
    }

    /// @dev I10.
    function test_unknown_ids_have_no_state() public view {
        State memory s = escrow.getState(idOf(ghost));
        assertEq(keccak256(abi.encode(s)), keccak256(abi.encode(State(0, 0, 0, 0, Status.None))));
    }

    /// @dev Funding that fails leaves nothing behind.
    function test_funding_without_money() public {
        vm.prank(payer);
        usdc.approve(address(escrow), AMOUNT - 1);
        vm.expectRevert(IWorkEscrow.TokenCollectionFailed.selector);
        vm.prank(payer);
        escrow.authorize(ghost, none());
        assertState(ghost, Status.None, 0, 0);
        assertEq(held(), AMOUNT);
    }

    /// @dev Nor does anyone fund with another's allowance.
    function test_funding_with_anothers_allowance() public {
        vm.expectRevert(abi.encodeWithSelector(IWorkEscrow.NotPayer.selector, stranger));
        vm.prank(stranger);
        escrow.authorize(ghost, none());
    }
}
