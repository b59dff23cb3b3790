// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {EscrowStage} from "./EscrowStage.sol";
import {
    BY_ARBITER,
    BY_PAYER,
    BY_PREIMAGE,
    IWorkEscrow,
    Proof,
    Status,
    Terms
} from "contracts/interfaces/IWorkEscrow.sol";

/// @dev E19. Somebody sees the preimage in the pool and sends it first: the money goes where the terms say.
contract E19_PreimageFrontRun is EscrowStage {
    function test_it_still_pays_the_payee() public {
        Terms memory t = opened(releasedBy(BY_PREIMAGE, 0));
        Terms memory theirs = releasedBy(BY_PREIMAGE, 0);
        theirs.payee = stranger;
        vm.startPrank(stranger);
        wrongStatus(Status.None, Status.Funded);
        escrow.capture(theirs, none(), AMOUNT, byPreimage(PREIMAGE));
        escrow.capture(t, none(), AMOUNT, byPreimage(PREIMAGE));
        assertEq(usdc.balanceOf(stranger), 0);
        assertEq(usdc.balanceOf(payee), AMOUNT);
    }

    /// @dev Known to all after `submitBy` has passed without delivery, it takes the payer's money back no more.
    function test_too_late() public {
        Terms memory t = opened(releasedBy(BY_PREIMAGE, 0));
        vm.warp(SUBMIT_BY + 1);
        vm.expectRevert(why1(IWorkEscrow.TooLate.selector, SUBMIT_BY));
        escrow.capture(t, none(), AMOUNT, byPreimage(PREIMAGE));
        vm.warp(SUBMIT_BY);
        escrow.capture(t, none(), AMOUNT, byPreimage(PREIMAGE));
        assertState(t, Status.Completed, AMOUNT, 0);
    }

    /// @dev Delivered in time, it is good until silence has decided.
    function test_after_delivery() public {
        Terms memory t = opened(releasedBy(BY_PREIMAGE, 0));
        vm.warp(SUBMIT_BY);
        deliver(t);
        vm.warp(SUBMIT_BY + REVIEW);
        escrow.capture(t, none(), AMOUNT, byPreimage(PREIMAGE));
        assertState(t, Status.Completed, AMOUNT, 0);
    }
}

/// @dev E21. Preimages that are nearly one.
contract E21_OddPreimages is EscrowStage {
    function test_an_unset_lock_is_never_open() public {
        Terms memory t = opened(terms());
        assertEq(t.hashlock, 0);
        bytes32[3] memory guesses = [bytes32(0), sha256(""), PREIMAGE];
        for (uint256 i; i < guesses.length; ++i) {
            notReleased(0, t);
            escrow.capture(t, none(), AMOUNT, byPreimage(guesses[i]));
        }
        Terms memory unset = releasedBy(BY_PREIMAGE, 0);
        unset.hashlock = 0;
        vm.expectRevert(abi.encodeWithSelector(IWorkEscrow.InvalidTerms.selector, 10));
        open(unset);
    }

    /// @dev A lock that the terms hold but do not use opens nothing.
    function test_an_unused_lock_opens_nothing() public {
        Terms memory t = terms();
        t.hashlock = sha256(abi.encodePacked(PREIMAGE));
        open(t);
        notReleased(BY_PREIMAGE, t);
        escrow.capture(t, none(), AMOUNT, byPreimage(PREIMAGE));
    }

    function test_another_hash_or_length() public {
        Terms memory t = releasedBy(BY_PREIMAGE, 0);
        bytes32[3] memory locks =
            [keccak256(abi.encodePacked(PREIMAGE)), sha256(abi.encodePacked(PREIMAGE, uint8(0))), sha256("short")];
        for (uint256 i; i < locks.length; ++i) {
            t.hashlock = locks[i];
            open(t);
            notReleased(0, t);
            escrow.capture(t, none(), AMOUNT, byPreimage(PREIMAGE));
            notReleased(0, t);
            escrow.capture(t, none(), AMOUNT, byPreimage("short"));
        }
    }

    /// @dev With all of two releases needed, one is not enough, and neither may be missing.
    function test_all_of() public {
        Terms memory t = releasedBy(BY_PREIMAGE, 0);
        (t.anyOf, t.allOf) = (0, BY_PREIMAGE | BY_ARBITER);
        open(t);
        notReleased(BY_PREIMAGE, t);
        escrow.capture(t, none(), AMOUNT, byPreimage(PREIMAGE));
        Proof memory p = byArbiter(t, AMOUNT);
        notReleased(BY_ARBITER, t);
        escrow.capture(t, none(), AMOUNT, p);
        p.claims |= BY_PREIMAGE;
        notReleased(BY_ARBITER, t);
        escrow.capture(t, none(), AMOUNT, p);
        p.preimage = PREIMAGE;
        escrow.capture(t, none(), AMOUNT, p);
        assertState(t, Status.Completed, AMOUNT, 0);
    }

    function test_any_of_beside_all_of() public {
        Terms memory t = releasedBy(BY_PREIMAGE, 0);
        (t.anyOf, t.allOf) = (BY_PAYER | BY_PREIMAGE, BY_ARBITER);
        open(t);
        Proof memory p = byArbiter(t, AMOUNT);
        notReleased(BY_ARBITER, t);
        escrow.capture(t, none(), AMOUNT, p);
        Proof memory q = byPayer(t, AMOUNT);
        notReleased(BY_PAYER, t);
        escrow.capture(t, none(), AMOUNT, q);
        p.claims |= BY_PAYER;
        p.payerSignature = q.payerSignature;
        escrow.capture(t, none(), AMOUNT, p);
        assertState(t, Status.Completed, AMOUNT, 0);
    }
}
