// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {EscrowStage} from "./EscrowStage.sol";
import {OddToken} from "./OddToken.sol";
import {IWorkEscrow, Payout, Proof, Status, Terms} from "contracts/interfaces/IWorkEscrow.sol";

/// @dev E14. Somebody whom USDC does not pay. The others are paid, the escrow ends, the money waits.
contract E14_BlockedParties is EscrowStage {
    Payout[] private list;

    function setUp() public override {
        super.setUp();
        list.push(Payout(partner, 2_000));
        list.push(Payout(partner2, 3_000));
    }

    function _block(address who) private {
        vm.prank(treasury);
        usdc.blacklist(who);
    }

    function _free(address who) private {
        vm.prank(treasury);
        usdc.unBlacklist(who);
    }

    function _check(address blocked, address[3] memory all, uint256[3] memory due) private {
        for (uint256 i; i < 3; ++i) {
            assertEq(usdc.balanceOf(all[i]), all[i] == blocked ? 0 : due[i]);
            assertEq(escrow.owed(all[i]), all[i] == blocked ? due[i] : 0);
        }
        assertEq(held(), escrow.owed(blocked));
        vm.expectRevert(IWorkEscrow.TransferFailed.selector);
        escrow.withdraw(blocked);
        _free(blocked);
        escrow.withdraw(blocked);
        assertEq(held(), 0);
        vm.expectRevert(abi.encodeWithSelector(IWorkEscrow.NothingOwed.selector, blocked));
        escrow.withdraw(blocked);
    }

    function test_each_of_the_payees_side() public {
        address[3] memory all = [partner, partner2, payee];
        for (uint256 i; i < 3; ++i) {
            uint256 snapshot = vm.snapshotState();
            Terms memory t = with(terms(), list);
            open(t, list);
            _block(all[i]);
            vm.expectEmit(address(escrow));
            emit IWorkEscrow.PayoutDeferred(uint256(idOf(t)), all[i], i == 0 ? 20e6 : i == 1 ? 30e6 : 50e6);
            capture(t, list, AMOUNT);
            assertState(t, Status.Completed, AMOUNT, 0);
            _check(all[i], all, [uint256(20e6), 30e6, 50e6]);
            vm.revertToState(snapshot);
        }
    }

    function test_credits_add_up() public {
        Terms memory t = opened(terms());
        _block(payee);
        capture(t, 1e6);
        capture(t, 3e6);
        Terms memory other = opened(salted(1));
        capture(other, 4e6);
        assertEq(escrow.owed(payee), 7e6);
        assertEq(held(), 2 * AMOUNT);
    }

    function test_blocked_payer_gets_its_refund_later() public {
        Terms memory t = opened(terms());
        _block(payer);
        vm.warp(SUBMIT_BY + 1);
        escrow.reclaim(t);
        assertState(t, Status.Expired, 0, AMOUNT);
        assertEq(escrow.owed(payer), AMOUNT);
        _free(payer);
        uint256 before = usdc.balanceOf(payer);
        escrow.withdraw(payer);
        assertEq(usdc.balanceOf(payer), before + AMOUNT);
    }

    function test_blocked_payer_stops_no_award_and_no_silence() public {
        Terms memory t = disputed(terms());
        Terms memory u = salted(1);
        u.silenceBps = 4_000;
        delivered(u);
        _block(payer);
        award(t, 70e6);
        vm.warp(START + REVIEW + 1);
        escrow.finalize(u, none());
        assertEq(usdc.balanceOf(payee), 110e6);
        assertEq(escrow.owed(payer), 90e6);
    }

    /// @dev Given too little gas for the token's work, a relayer cannot turn a payment into a credit.
    function test_too_little_gas_defers_nothing() public {
        Terms memory t = opened(terms());
        Proof memory p = byArbiter(t, AMOUNT);
        bytes memory call = abi.encodeCall(IWorkEscrow.capture, (t, none(), AMOUNT, p));
        for (uint256 gas_ = 20_000; gas_ < 130_000; gas_ += 500) {
            uint256 snapshot = vm.snapshotState();
            vm.cool(address(usdc));
            vm.cool(address(escrow));
            (bool done,) = address(escrow).call{gas: gas_}(call);
            if (done) assertEq(usdc.balanceOf(payee), AMOUNT, vm.toString(gas_));
            assertEq(escrow.owed(payee), 0, vm.toString(gas_));
            vm.revertToState(snapshot);
        }
    }
}

/// @dev E15. The token stands still for a while: nothing is funded, what is paid is kept, and both work later.
contract E15_PausedToken is EscrowStage {
    function test_pause() public {
        Terms memory t = delivered(terms());
        vm.prank(treasury);
        usdc.pause();
        vm.expectRevert(IWorkEscrow.TokenCollectionFailed.selector);
        this.relayOpen(salted(1));
        assertState(salted(1), Status.None, 0, 0);

        capture(t, 30e6);
        vm.warp(START + REVIEW + 1);
        escrow.finalize(t, none());
        assertState(t, Status.Completed, AMOUNT, 0);
        assertEq(escrow.owed(payee), AMOUNT);
        assertEq(held(), AMOUNT);
        vm.expectRevert(IWorkEscrow.TransferFailed.selector);
        escrow.withdraw(payee);
        assertEq(escrow.owed(payee), AMOUNT);

        vm.prank(treasury);
        usdc.unpause();
        escrow.withdraw(payee);
        assertEq(usdc.balanceOf(payee), AMOUNT);
        open(salted(1));
        assertState(salted(1), Status.Funded, 0, 0);
    }

    /// @dev Returning money is no payout of the escrow: it fails as a whole.
    function test_no_return_while_paused() public {
        Terms memory t = opened(terms());
        capture(t, 30e6);
        vm.prank(payee);
        usdc.approve(address(escrow), 30e6);
        vm.prank(treasury);
        usdc.pause();
        vm.prank(payee);
        vm.expectRevert(IWorkEscrow.TokenCollectionFailed.selector);
        escrow.refund(t, 30e6);
        bytes memory signature = returnOf(t, 30e6, 30e6);
        vm.expectRevert(IWorkEscrow.TokenCollectionFailed.selector);
        escrow.refundWithAuthorization(t, payee, 30e6, 0, FAR, signature);
        assertEq(stateOf(t).returned, 0);
    }

    function relayOpen(Terms memory t) external {
        open(t);
    }
}

/// @dev E16. Tokens that say one thing and do another. Nothing is credited that did not arrive.
contract E16_OddTokens is EscrowStage {
    OddToken private odd;

    function setUp() public override {
        super.setUp();
        odd = new OddToken();
        escrow = deploy(address(odd));
        odd.mint(payer, 1_000_000 * USD);
        odd.mint(payee, 1_000_000 * USD);
        open(salted(99)); // another's money, to be had
    }

    function test_deposits() public {
        OddToken.Way[8] memory ways = [
            OddToken.Way.ReturnsFalse,
            OddToken.Way.ReturnsNothing,
            OddToken.Way.ReturnsTwo,
            OddToken.Way.ReturnsLong,
            OddToken.Way.Reverts,
            OddToken.Way.BurnsAllGas,
            OddToken.Way.TakesFee,
            OddToken.Way.Shrinks
        ];
        for (uint256 i; i < ways.length; ++i) {
            odd.behave(ways[i]);
            vm.expectRevert(IWorkEscrow.TokenCollectionFailed.selector);
            this.relayOpen{gas: 3_000_000}(terms());
            assertState(terms(), Status.None, 0, 0);
            assertEq(odd.balanceOf(address(escrow)), AMOUNT);
        }
    }

    function test_authorizations_that_bring_less() public {
        OddToken.Way[3] memory ways = [OddToken.Way.Reverts, OddToken.Way.TakesFee, OddToken.Way.Shrinks];
        for (uint256 i; i < ways.length; ++i) {
            odd.behave(ways[i]);
            vm.expectRevert(IWorkEscrow.TokenCollectionFailed.selector);
            escrow.authorizeWithAuthorization(terms(), none(), 0, FAR, "");
        }
    }

    /// @dev A payout that fails is a credit, and stays one.
    function test_payouts() public {
        OddToken.Way[2] memory ways = [OddToken.Way.ReturnsFalse, OddToken.Way.Reverts];
        uint256 sum;
        for (uint256 i; i < 2; ++i) {
            odd.behave(OddToken.Way.Good);
            Terms memory t = opened(salted(i));
            odd.behave(ways[i]);
            capture(t, AMOUNT);
            sum += AMOUNT;
            assertEq(escrow.owed(payee), sum);
            vm.expectRevert(IWorkEscrow.TransferFailed.selector);
            escrow.withdraw(payee);
        }
    }

    function test_returns_are_measured() public {
        Terms memory t = opened(terms());
        capture(t, AMOUNT);
        odd.behave(OddToken.Way.TakesFee);
        vm.prank(payee);
        vm.expectRevert(IWorkEscrow.TokenCollectionFailed.selector);
        escrow.refund(t, AMOUNT);
        OddToken.Way[8] memory ways = [
            OddToken.Way.ReturnsFalse,
            OddToken.Way.ReturnsNothing,
            OddToken.Way.ReturnsTwo,
            OddToken.Way.ReturnsLong,
            OddToken.Way.Reverts,
            OddToken.Way.BurnsAllGas,
            OddToken.Way.TakesFee,
            OddToken.Way.Shrinks
        ];
        for (uint256 i; i < ways.length; ++i) {
            // Both ways, then on the way out alone.
            odd.behaveFor(payer, OddToken.Way.Good);
            odd.behave(ways[i]);
            vm.expectRevert(IWorkEscrow.TokenCollectionFailed.selector);
            this.relayReturn{gas: 3_000_000}(t);
            odd.behave(OddToken.Way.Good);
            odd.behaveFor(payer, ways[i]);
            vm.expectRevert(IWorkEscrow.TokenCollectionFailed.selector);
            this.relayReturn{gas: 3_000_000}(t);
        }
        assertEq(stateOf(t).returned, 0);
    }

    function relayReturn(Terms memory t) external {
        escrow.refundWithAuthorization(t, payee, AMOUNT, 0, FAR, "");
    }

    function relayOpen(Terms memory t) external {
        open(t);
    }
}
