// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {EscrowStage} from "./EscrowStage.sol";
import {
    BY_ARBITER,
    BY_CONDITION,
    BY_PAYER,
    BY_PREIMAGE,
    IWorkEscrow,
    Proof,
    Status,
    Terms
} from "contracts/interfaces/IWorkEscrow.sol";

/// @dev E22. A payer whose silence would be free, or whose word is the judge's.
contract E22_PayerAsJudge is EscrowStage {
    function _refused(uint8 field, Terms memory t) private {
        vm.expectRevert(abi.encodeWithSelector(IWorkEscrow.InvalidTerms.selector, field));
        escrow.checkTerms(t, none());
        vm.expectRevert(abi.encodeWithSelector(IWorkEscrow.InvalidTerms.selector, field));
        open(t);
    }

    /// @dev Every way to write terms in which only the payer releases: refused if silence pays the payee nothing.
    function test_free_silence_is_refused() public {
        uint8[2][7] memory masks = [
            [BY_PAYER, uint8(0)],
            [uint8(0), BY_PAYER],
            [BY_ARBITER, BY_PAYER],
            [BY_PREIMAGE | BY_ARBITER, BY_PAYER],
            [BY_PAYER, BY_PREIMAGE],
            [BY_PAYER, BY_ARBITER],
            [uint8(0), BY_PAYER | BY_CONDITION]
        ];
        for (uint256 i; i < masks.length; ++i) {
            Terms memory t = releasedBy(BY_PREIMAGE, 0);
            (t.anyOf, t.allOf, t.condition) = (masks[i][0], masks[i][1], stranger);
            _refused(7, t);
            t.silenceBps = 1;
            escrow.checkTerms(t, none());
        }
    }

    function test_the_payer_as_arbiter_is_the_payer() public {
        uint8[2][4] memory masks = [
            [BY_ARBITER, uint8(0)], [uint8(0), BY_ARBITER], [BY_PAYER | BY_ARBITER, uint8(0)], [BY_PREIMAGE, BY_ARBITER]
        ];
        for (uint256 i; i < masks.length; ++i) {
            Terms memory t = releasedBy(BY_PREIMAGE, 0);
            (t.anyOf, t.allOf) = (masks[i][0], masks[i][1]);
            t.arbiter = payer;
            _refused(7, t);
            t.silenceBps = 1;
            escrow.checkTerms(t, none());
        }
        // With another way out, or another judge, silence may be worth nothing.
        Terms memory fine = releasedBy(BY_PAYER | BY_PREIMAGE, 0);
        fine.arbiter = payer;
        escrow.checkTerms(fine, none());
        escrow.checkTerms(releasedBy(BY_PAYER | BY_ARBITER, 0), none());
    }

    function test_payee_as_arbiter() public {
        Terms memory t = terms();
        t.arbiter = payee;
        _refused(2, t);
    }

    /// @dev The payer, its own evaluator, stays silent after delivery: it cannot reclaim, and the payee has its share.
    function test_silent_payer() public {
        Terms memory t = terms();
        t.arbiter = payer;
        (t.anyOf, t.allOf) = (0, BY_ARBITER);
        t.silenceBps = 8_000;
        delivered(t);
        vm.warp(SUBMIT_BY + 365 days);
        vm.prank(payer);
        wrongStatus(Status.Submitted, Status.Funded);
        escrow.reclaim(t);
        vm.prank(payer);
        vm.expectRevert(why1(IWorkEscrow.TooLate.selector, START + REVIEW));
        escrow.dispute(t, payer, "", 0, "");
        vm.prank(payee);
        escrow.finalize(t, none());
        assertState(t, Status.Completed, 80e6, 20e6);
    }
}

/// @dev E23. Evaluator and a party collude: bounded by the amount of the terms. (Quorum as arbiter: E12.)
contract E23_Collusion is EscrowStage {
    function test_with_the_payee() public {
        open(salted(1));
        Terms memory t = opened(terms());
        capture(t, AMOUNT);
        assertEq(usdc.balanceOf(payee), AMOUNT);
        assertEq(held(), AMOUNT);
    }

    function test_with_the_payer() public {
        Terms memory t = delivered(terms());
        capture(t, 40e6);
        contest(t);
        award(t, 40e6); // what was captured stands
        assertState(t, Status.Rejected, 40e6, 60e6);
    }

    /// @dev A judge who may not release by the terms judges disputes only.
    function test_where_the_arbiter_releases_nothing() public {
        Terms memory t = releasedBy(BY_PAYER | BY_PREIMAGE, 0);
        open(t);
        Proof memory p = byArbiter(t, AMOUNT);
        notReleased(BY_ARBITER, t);
        escrow.capture(t, none(), AMOUNT, p);
        bytes memory s = signed(arbiterKey, awardHash(t, AMOUNT, 0, "", FAR));
        wrongStatus(Status.Funded, Status.Disputed);
        escrow.award(t, none(), AMOUNT, 0, "", FAR, s);
        deliver(t);
        wrongStatus(Status.Submitted, Status.Disputed);
        escrow.award(t, none(), AMOUNT, 0, "", FAR, s);
    }
}

/// @dev E24. Disputes as a weapon: at the last second, again and again, with nobody to answer.
contract E24_DisputeGriefing is EscrowStage {
    function test_last_second() public {
        Terms memory t = delivered(terms());
        uint256 end = START + REVIEW;
        vm.warp(end);
        vm.expectRevert(why1(IWorkEscrow.NotYet.selector, end));
        escrow.finalize(t, none());
        uint256 snapshot = vm.snapshotState();
        vm.warp(end + 1);
        vm.prank(payer);
        vm.expectRevert(why1(IWorkEscrow.TooLate.selector, end));
        escrow.dispute(t, payer, "", 0, "");
        vm.revertToState(snapshot);
        vm.warp(end);
        vm.prank(payer);
        escrow.dispute(t, payer, "", 0, "");
        assertEq(stateOf(t).since, end);
    }

    function test_one_dispute() public {
        Terms memory t = disputed(terms());
        vm.prank(payee);
        wrongStatus(Status.Disputed, Status.Submitted);
        escrow.dispute(t, payee, "", 0, "");
        Proof memory p = byPayer(t, AMOUNT);
        wrongStatus(Status.Disputed, Status.Funded);
        escrow.capture(t, none(), AMOUNT, p);
    }

    function test_arbiter_never_answers() public {
        Terms memory t = terms();
        t.silenceBps = 5_000;
        disputed(t);
        uint256 end = START + ARBITRATION;
        vm.warp(end);
        vm.expectRevert(why1(IWorkEscrow.NotYet.selector, end));
        escrow.finalize(t, none());
        vm.warp(end + 1);
        bytes memory late = signed(arbiterKey, awardHash(t, 0, AMOUNT, "", FAR));
        vm.expectRevert(why1(IWorkEscrow.TooLate.selector, end));
        escrow.award(t, none(), 0, AMOUNT, "", FAR, late);
        escrow.finalize(t, none());
        assertState(t, Status.Completed, 50e6, 50e6);
    }

    function test_award_in_the_last_second() public {
        Terms memory t = disputed(terms());
        vm.warp(START + ARBITRATION);
        award(t, 0);
        assertState(t, Status.Rejected, 0, AMOUNT);
    }

    function test_nobody_to_judge() public {
        Terms memory t = releasedBy(BY_PAYER, 10_000);
        t.arbiter = address(0);
        t.arbitrationPeriod = 0;
        delivered(t);
        vm.prank(payer);
        vm.expectRevert(IWorkEscrow.NoArbiter.selector);
        escrow.dispute(t, payer, "", 0, "");
    }

    function test_by_others() public {
        Terms memory t = delivered(terms());
        address[3] memory others = [stranger, arbiter, partner];
        for (uint256 i; i < 3; ++i) {
            vm.prank(others[i]);
            vm.expectRevert(abi.encodeWithSelector(IWorkEscrow.NotParty.selector, others[i]));
            escrow.dispute(t, others[i], "", FAR, "");
            vm.prank(others[i]);
            badSignature(BY_PAYER);
            escrow.dispute(t, payer, "", FAR, "");
            vm.prank(others[i]);
            badSignature(0);
            escrow.dispute(t, payee, "", FAR, "");
        }
    }

    function test_before_delivery() public {
        Terms memory t = opened(terms());
        vm.prank(payer);
        wrongStatus(Status.Funded, Status.Submitted);
        escrow.dispute(t, payer, "", 0, "");
    }
}

/// @dev E25. Submissions that move the clock.
contract E25_Submissions is EscrowStage {
    function test_too_late() public {
        Terms memory t = opened(terms());
        vm.warp(SUBMIT_BY + 1);
        vm.prank(payee);
        vm.expectRevert(why1(IWorkEscrow.TooLate.selector, SUBMIT_BY));
        escrow.submit(t, DELIVERABLE, 0, "");
        vm.warp(SUBMIT_BY);
        vm.expectRevert(why1(IWorkEscrow.NotYet.selector, SUBMIT_BY));
        escrow.reclaim(t);
        vm.prank(payee);
        escrow.submit(t, DELIVERABLE, 0, "");
    }

    function test_again() public {
        Terms memory t = delivered(terms());
        vm.warp(START + 1 days);
        vm.prank(payee);
        wrongStatus(Status.Submitted, Status.Funded);
        escrow.submit(t, DELIVERABLE, 0, "");
        assertEq(stateOf(t).since, START);
        contest(t);
        vm.prank(payee);
        wrongStatus(Status.Disputed, Status.Funded);
        escrow.submit(t, DELIVERABLE, 0, "");
        assertEq(stateOf(t).since, START + 1 days);
    }

    function test_by_another() public {
        Terms memory t = opened(terms());
        address[3] memory others = [stranger, arbiter, payer];
        for (uint256 i; i < 3; ++i) {
            vm.prank(others[i]);
            badSignature(0);
            escrow.submit(t, DELIVERABLE, FAR, "");
        }
        bytes memory theirs = signed(payerKey, submitHash(t, FAR));
        badSignature(0);
        escrow.submit(t, DELIVERABLE, FAR, theirs);
    }

    /// @dev A partial capture keeps the clock, too.
    function test_a_capture_moves_no_clock() public {
        Terms memory t = delivered(terms());
        vm.warp(START + 1 days);
        capture(t, 1);
        assertEq(stateOf(t).since, START);
    }
}
