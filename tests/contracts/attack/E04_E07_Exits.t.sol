// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {EscrowStage} from "./EscrowStage.sol";
import {IWorkEscrow, Proof, Status, Terms} from "contracts/interfaces/IWorkEscrow.sol";

/// @dev E4. After an end nothing leaves again, whichever end it was and whichever exit is tried, while the contract
/// holds the money of another escrow.
contract E04_DoubleExit is EscrowStage {
    function setUp() public override {
        super.setUp();
        open(salted(99));
    }

    function _nothingMoreLeaves(Terms memory t, Status ended) private {
        Proof memory p = byArbiter(t, AMOUNT);
        bytes memory giving = signed(payeeKey, voidHash(t, FAR));
        bytes memory work = signed(payeeKey, submitHash(t, FAR));
        bytes memory split = signed(arbiterKey, awardHash(t, AMOUNT, 0, 0, FAR));
        bytes memory complaint = signed(payerKey, disputeHash(t, 0, FAR));
        for (uint256 i; i < 2; ++i) {
            wrongStatus(ended, Status.Funded);
            escrow.reclaim(t);
            wrongStatus(ended, Status.Submitted);
            escrow.finalize(t, none());
            wrongStatus(ended, Status.Funded);
            escrow.capture(t, none(), AMOUNT, p);
            wrongStatus(ended, Status.Funded);
            escrow.void(t, FAR, giving);
            wrongStatus(ended, Status.Funded);
            escrow.submit(t, DELIVERABLE, FAR, work);
            wrongStatus(ended, Status.Disputed);
            escrow.award(t, none(), AMOUNT, 0, 0, FAR, split);
            wrongStatus(ended, Status.Submitted);
            escrow.dispute(t, payer, 0, FAR, complaint);
            vm.warp(SUBMIT_BY + REVIEW + ARBITRATION + 1); // and once more with every deadline past
        }
        vm.warp(START);
        vm.expectRevert(abi.encodeWithSelector(IWorkEscrow.AlreadyAuthorized.selector, idOf(t)));
        open(t);
        assertEq(held(), AMOUNT);
    }

    function test_after_a_capture() public {
        Terms memory t = opened(terms());
        capture(t, 1);
        capture(t, AMOUNT);
        _nothingMoreLeaves(t, Status.Completed);
    }

    function test_after_a_void() public {
        Terms memory t = opened(terms());
        giveUp(t);
        _nothingMoreLeaves(t, Status.Rejected);
    }

    function test_after_a_reclaim() public {
        Terms memory t = opened(terms());
        vm.warp(SUBMIT_BY + 1);
        escrow.reclaim(t);
        _nothingMoreLeaves(t, Status.Expired);
    }

    function test_after_an_award() public {
        Terms memory t = disputed(terms());
        award(t, 1);
        _nothingMoreLeaves(t, Status.Completed);
    }

    function test_after_silence() public {
        Terms memory t = delivered(terms());
        vm.warp(START + REVIEW + 1);
        escrow.finalize(t, none());
        _nothingMoreLeaves(t, Status.Completed);
    }
}

/// @dev E5. Partial captures, each with a signature of its own, that would sum to more than the deposit: a signature
/// is over a total.
contract E05_CumulativeCaptures is EscrowStage {
    function test_totals_do_not_add_up() public {
        Terms memory t = opened(terms());
        open(salted(1));
        capture(t, 60e6);
        capture(t, 70e6); // ten more, not seventy
        assertEq(usdc.balanceOf(payee), 70e6);
        vm.expectRevert(why2(IWorkEscrow.NotIncreasing.selector, 70e6, 70e6));
        this.relay(t, 70e6);
        vm.expectRevert(why2(IWorkEscrow.NotIncreasing.selector, 60e6, 70e6));
        this.relay(t, 60e6);
        vm.expectRevert(why2(IWorkEscrow.ExceedsRemaining.selector, 30e6 + 1, 30e6));
        this.relay(t, AMOUNT + 1);
        vm.expectRevert(why2(IWorkEscrow.ExceedsRemaining.selector, type(uint64).max - 70e6, 30e6));
        this.relay(t, type(uint64).max);
        assertEq(held(), AMOUNT + 30e6);
    }

    function test_nothing_is_no_capture() public {
        Terms memory t = opened(terms());
        vm.expectRevert(why2(IWorkEscrow.NotIncreasing.selector, 0, 0));
        this.relay(t, 0);
    }

    function relay(Terms memory t, uint64 cumulative) external {
        capture(t, cumulative);
    }
}

/// @dev E6. After a partial payout at most the rest goes back, by every exit.
contract E06_RefundOfTheRest is EscrowStage {
    function _after(Terms memory t, Status status) private view {
        assertState(t, status, 70e6, 30e6);
        assertEq(held(), AMOUNT);
    }

    function setUp() public override {
        super.setUp();
        open(salted(99));
        open(terms());
        capture(terms(), 70e6);
    }

    function test_reclaim() public {
        vm.warp(SUBMIT_BY + 1);
        escrow.reclaim(terms());
        _after(terms(), Status.Expired);
    }

    function test_void() public {
        giveUp(terms());
        _after(terms(), Status.Rejected);
    }

    function test_award() public {
        deliver(terms());
        contest(terms());
        vm.expectRevert(why2(IWorkEscrow.NotIncreasing.selector, 70e6 - 1, 70e6));
        this.relay(70e6 - 1);
        award(terms(), 70e6);
        _after(terms(), Status.Rejected);
    }

    function relay(uint64 captured) external {
        award(terms(), captured);
    }
}

/// @dev E7. Balances are pooled in one account; one escrow's payout never touches another's money.
contract E07_PooledBalances is EscrowStage {
    function test_each_has_its_own() public {
        Terms memory a = opened(terms());
        Terms memory b = salted(1);
        b.amount = 7e6;
        open(b);
        vm.expectRevert(why2(IWorkEscrow.ExceedsRemaining.selector, 8e6, 7e6));
        this.relay(b, 8e6);
        capture(a, AMOUNT);
        assertEq(held(), 7e6);
        giveUp(b);
        assertEq(held(), 0);
        assertState(a, Status.Completed, AMOUNT, 0);
        assertState(b, Status.Rejected, 0, 7e6);
    }

    /// @dev Whatever an award says, it splits this escrow's amount.
    function test_award_of_more_than_there_is() public {
        open(salted(1));
        Terms memory t = disputed(terms());
        uint64[2][4] memory splits =
            [[AMOUNT, uint64(1)], [uint64(0), AMOUNT - 1], [AMOUNT + 1, 0], [type(uint64).max, AMOUNT + 1]];
        for (uint256 i; i < splits.length; ++i) {
            bytes memory s = signed(arbiterKey, awardHash(t, splits[i][0], splits[i][1], 0, FAR));
            vm.expectRevert(
                abi.encodeWithSelector(IWorkEscrow.UnevenAward.selector, splits[i][0], splits[i][1], AMOUNT)
            );
            escrow.award(t, none(), splits[i][0], splits[i][1], 0, FAR, s);
        }
    }

    function relay(Terms memory t, uint64 cumulative) external {
        capture(t, cumulative);
    }
}
