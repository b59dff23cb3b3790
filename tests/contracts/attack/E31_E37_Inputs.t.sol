// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {EscrowStage} from "./EscrowStage.sol";
import {OddCondition, PlainCondition} from "./OddConditions.sol";
import {
    BY_ARBITER,
    BY_CONDITION,
    BY_PAYER,
    IWorkEscrow,
    Payout,
    Proof,
    Status,
    Terms
} from "contracts/interfaces/IWorkEscrow.sol";

/// @dev E31. Conditions that are broken, hostile or not there: no release by them, every other way out stays open, and
/// the one who asks pays for bounded work.
contract E31_OddConditions is EscrowStage {
    function _terms(address condition, uint256 salt) private view returns (Terms memory t) {
        t = releasedBy(BY_PAYER | BY_CONDITION, 0);
        (t.condition, t.salt) = (condition, salt);
    }

    function _stillEnds(Terms memory t) private {
        Proof memory p = byPayer(t, 10e6);
        escrow.capture(t, none(), 10e6, p);
        giveUp(t);
        assertState(t, Status.Rejected, 10e6, 90e6);
    }

    function test_nothing_but_a_clean_true() public {
        for (uint256 i; i <= uint256(OddCondition.Way.Destroys); ++i) {
            Terms memory t = _terms(address(new OddCondition(OddCondition.Way(i))), i);
            open(t);
            notReleased(0, t);
            escrow.capture(t, none(), AMOUNT, byCondition(""));
            uint256 gasBefore = gasleft();
            try escrow.capture(t, none(), AMOUNT, byCondition("")) {
                fail();
            } catch {}
            assertLt(gasBefore - gasleft(), 200_000, vm.toString(i));
            _stillEnds(t);
        }
    }

    function test_no_code() public {
        address[3] memory nobodies = [stranger, address(1), address(4)]; // ecrecover; identity, which echoes
        for (uint256 i; i < nobodies.length; ++i) {
            Terms memory t = opened(_terms(nobodies[i], i));
            notReleased(0, t);
            escrow.capture(t, none(), AMOUNT, byCondition(""));
            _stillEnds(t);
        }
    }

    /// @dev The question is about this escrow and the argument of its terms; the data is the caller's.
    function test_the_question() public {
        PlainCondition plain = new PlainCondition();
        plain.set(true);
        Terms memory t = _terms(address(plain), 0);
        t.conditionArg = "arg";
        open(t);
        plain.expect(idOf(t), "other");
        notReleased(0, t);
        escrow.capture(t, none(), AMOUNT, byCondition(""));
        plain.expect(idOf(t), "arg");
        vm.expectCall(address(plain), abi.encodeCall(plain.check, (idOf(t), "arg", hex"c0ffee")));
        escrow.capture(t, none(), AMOUNT, byCondition(hex"c0ffee"));
        assertState(t, Status.Completed, AMOUNT, 0);
    }

    function test_false_and_later_true() public {
        PlainCondition plain = new PlainCondition();
        Terms memory t = opened(_terms(address(plain), 0));
        notReleased(0, t);
        escrow.capture(t, none(), AMOUNT, byCondition(""));
        plain.set(true);
        vm.warp(SUBMIT_BY + 1);
        vm.expectRevert(why1(IWorkEscrow.TooLate.selector, SUBMIT_BY));
        escrow.capture(t, none(), AMOUNT, byCondition(""));
        vm.warp(SUBMIT_BY);
        escrow.capture(t, none(), AMOUNT, byCondition(""));
    }

    /// @dev A condition of the terms that no mask uses opens nothing.
    function test_an_unused_condition() public {
        PlainCondition plain = new PlainCondition();
        plain.set(true);
        Terms memory t = terms();
        t.condition = address(plain);
        open(t);
        notReleased(BY_CONDITION, t);
        escrow.capture(t, none(), AMOUNT, byCondition(""));
    }
}

/// @dev E32. What a deadline ends, no condition and no arbiter can hold up.
contract E32_ExitsByDeadline is EscrowStage {
    function test_all_of_them() public {
        Terms memory t = releasedBy(BY_CONDITION, 5_000);
        t.condition = address(new OddCondition(OddCondition.Way.BurnsAllGas));
        t.allOf = BY_ARBITER;
        t.arbiter = address(new OddCondition(OddCondition.Way.Reverts));
        Terms[3] memory all;
        for (uint256 i; i < 3; ++i) {
            t.salt = i;
            all[i] = abi.decode(abi.encode(t), (Terms));
            open(t);
        }
        deliver(all[1]);
        deliver(all[2]);
        contest(all[2]);
        vm.warp(SUBMIT_BY + 1);
        vm.startPrank(stranger);
        escrow.reclaim(all[0]);
        escrow.finalize(all[1], none());
        escrow.finalize(all[2], none());
        assertState(all[0], Status.Expired, 0, AMOUNT);
        assertState(all[1], Status.Completed, AMOUNT / 2, AMOUNT / 2);
        assertState(all[2], Status.Completed, AMOUNT / 2, AMOUNT / 2);
        assertEq(held(), 0);
    }
}

/// @dev E33. Tokens that come without an escrow belong to none.
contract E33_Donations is EscrowStage {
    function test_a_donation_changes_nothing() public {
        mint(address(escrow), 5e6);
        Terms memory t = opened(terms());
        mint(address(escrow), 6e6);
        assertState(t, Status.Funded, 0, 0);
        vm.prank(payer);
        vm.expectRevert(why2(IWorkEscrow.ExceedsRemaining.selector, AMOUNT + 1, AMOUNT));
        escrow.capture(t, none(), AMOUNT + 1, proof());
        capture(t, AMOUNT);
        assertEq(usdc.balanceOf(payee), AMOUNT);
        assertEq(held(), 11e6);
    }
}

/// @dev E34. Inputs without bounds, at a relayer's expense.
contract E34_BoundedInputs is EscrowStage {
    /// @dev The dearest capture there is, eight shares to accounts that USDC blocks, fits into any block many times over.
    function test_the_dearest_capture() public {
        Payout[] memory list = new Payout[](8);
        for (uint256 i; i < 8; ++i) {
            list[i] = Payout(makeAddr(vm.toString(i)), 1_000);
            vm.prank(treasury);
            usdc.blacklist(list[i].to);
        }
        Terms memory t = with(terms(), list);
        open(t, list);
        Proof memory p = byArbiter(t, AMOUNT);
        uint256 gasBefore = gasleft();
        escrow.capture(t, list, AMOUNT, p);
        assertLt(gasBefore - gasleft(), 500_000);
        assertEq(escrow.owed(list[7].to), 10e6);
    }

    function test_a_long_list() public {
        Payout[] memory list = new Payout[](500);
        vm.expectRevert(abi.encodeWithSelector(IWorkEscrow.InvalidTerms.selector, 13));
        open(with(terms(), list), list);
        Terms memory t = opened(terms());
        Proof memory p = byArbiter(t, AMOUNT);
        vm.expectRevert(abi.encodeWithSelector(IWorkEscrow.InvalidTerms.selector, 13));
        escrow.capture(t, list, AMOUNT, p);
    }
}

/// @dev E36. A relayer changes what it relays: all of it is in the terms or under the signature.
contract E36_RelayersChanges is EscrowStage {
    function test_capture() public {
        Payout[] memory list = pays(partner, 1_000, partner2, 2_000);
        Terms memory t = with(terms(), list);
        open(t, list);
        Proof memory p = byArbiter(t, 50e6);
        uint64[3] memory totals = [uint64(50e6 - 1), 50e6 + 1, AMOUNT];
        for (uint256 i; i < totals.length; ++i) {
            badSignature(BY_ARBITER);
            escrow.capture(t, list, totals[i], p);
        }
        Payout[][4] memory lists = [
            none(),
            pays(partner2, 2_000, partner, 1_000),
            pays(partner, 1_001, partner2, 2_000),
            pays(stranger, 1_000, partner2, 2_000)
        ];
        for (uint256 i; i < lists.length; ++i) {
            vm.expectRevert(abi.encodeWithSelector(IWorkEscrow.InvalidTerms.selector, 13));
            escrow.capture(t, lists[i], 50e6, p);
        }
        escrow.capture(t, list, 50e6, p);
        assertEq(usdc.balanceOf(partner), 5e6);
    }

    function test_award() public {
        Terms memory t = disputed(terms());
        bytes memory s = signed(arbiterKey, awardHash(t, 60e6, 40e6, "why", FAR));
        badSignature(BY_ARBITER);
        escrow.award(t, none(), 40e6, 60e6, "why", FAR, s);
        badSignature(BY_ARBITER);
        escrow.award(t, none(), 60e6, 40e6, "else", FAR, s);
        badSignature(BY_ARBITER);
        escrow.award(t, none(), 60e6, 40e6, "why", FAR - 1, s);
        Payout[] memory list = pays(stranger, 10_000, partner, 0);
        vm.expectRevert(abi.encodeWithSelector(IWorkEscrow.InvalidTerms.selector, 13));
        escrow.award(t, list, 60e6, 40e6, "why", FAR, s);
        escrow.award(t, none(), 60e6, 40e6, "why", FAR, s);
    }

    function test_submit_and_dispute() public {
        Terms memory t = opened(terms());
        bytes memory s = signed(payeeKey, submitHash(t, FAR));
        badSignature(0);
        escrow.submit(t, "another", FAR, s);
        escrow.submit(t, DELIVERABLE, FAR, s);
        s = signed(payerKey, disputeHash(t, "evidence", FAR));
        badSignature(BY_PAYER);
        escrow.dispute(t, payer, "other", FAR, s);
        badSignature(0);
        escrow.dispute(t, payee, "evidence", FAR, s);
    }

    function test_silence_with_another_list() public {
        Payout[] memory list = pays(partner, 1_000, partner2, 2_000);
        Terms memory t = with(terms(), list);
        open(t, list);
        deliver(t);
        vm.warp(START + REVIEW + 1);
        vm.expectRevert(abi.encodeWithSelector(IWorkEscrow.InvalidTerms.selector, 13));
        escrow.finalize(t, none());
        escrow.finalize(t, list);
    }
}

/// @dev E37. A word from long ago: each has a last second.
contract E37_OldWords is EscrowStage {
    uint256 private constant LAST = START + 1 days;

    function _late(bytes memory call) private {
        uint256 snapshot = vm.snapshotState();
        vm.warp(LAST + 1);
        (bool done, bytes memory why) = address(escrow).call(call);
        assertFalse(done);
        assertEq(why, why1(IWorkEscrow.DeadlinePassed.selector, LAST));
        vm.revertToState(snapshot);
        vm.warp(LAST);
        (done,) = address(escrow).call(call);
        assertTrue(done);
        vm.revertToState(snapshot);
    }

    function test_every_kind() public {
        Terms memory t = opened(terms());
        Proof memory p = proof();
        (p.claims, p.arbiterDeadline) = (BY_ARBITER, LAST);
        p.arbiterSignature = signed(arbiterKey, releaseHash(t, AMOUNT, LAST));
        _late(abi.encodeCall(IWorkEscrow.capture, (t, none(), AMOUNT, p)));
        (p.claims, p.payerDeadline) = (BY_PAYER, LAST);
        p.payerSignature = signed(payerKey, releaseHash(t, AMOUNT, LAST));
        _late(abi.encodeCall(IWorkEscrow.capture, (t, none(), AMOUNT, p)));
        _late(abi.encodeCall(IWorkEscrow.void, (t, LAST, signed(payeeKey, voidHash(t, LAST)))));
        _late(abi.encodeCall(IWorkEscrow.submit, (t, DELIVERABLE, LAST, signed(payeeKey, submitHash(t, LAST)))));
        deliver(t);
        bytes memory s = signed(payeeKey, disputeHash(t, "e", LAST));
        _late(abi.encodeCall(IWorkEscrow.dispute, (t, payee, "e", LAST, s)));
        contest(t);
        s = signed(arbiterKey, awardHash(t, 1, AMOUNT - 1, "e", LAST));
        _late(abi.encodeCall(IWorkEscrow.award, (t, none(), 1, AMOUNT - 1, "e", LAST, s)));
    }
}
