// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {ChannelStage} from "./ChannelStage.sol";
import {DevUSDC} from "contracts/DevUSDC.sol";
import {ChannelConfig, IChannelHub, VoucherClaim} from "contracts/interfaces/IChannelHub.sol";

/// @dev C17. Somebody whom USDC does not pay stops only his own money.
contract C17_Blocked is ChannelStage {
    function _block(address who, bool on) private {
        vm.prank(treasury);
        if (on) usdc.blacklist(who);
        else usdc.unBlacklist(who);
    }

    function _refuses(address who) private {
        vm.expectRevert(abi.encodeWithSelector(DevUSDC.AccountBlacklisted.selector, who));
    }

    function test_blocked_receiver() public {
        ChannelConfig memory c = opened(config());
        claim(c, 10e6);
        _block(seller, true);
        _refuses(seller);
        hub.settle(seller, address(usdc));
        VoucherClaim[] memory rows = one(row(c, 20e6, 20e6));
        _refuses(seller);
        vm.prank(clerk);
        hub.claimAndSettle(seller, clerk, address(usdc), packed(rows));
        assertReceiver(10e6, 0);

        // Claims go on, and the payer gets the rest.
        assertEq(claimPacked(rows), 10e6);
        exit(c, 80e6);
        assertEq(usdc.balanceOf(payer), 80e6);
        assertReceiver(20e6, 0);
        _block(seller, false);
        hub.settle(seller, address(usdc));
        assertEq(usdc.balanceOf(seller), 20e6);
        assertEq(held(), 0);
    }

    function test_blocked_payer() public {
        ChannelConfig memory c = opened(config());
        vm.prank(payer);
        hub.initiateWithdraw(c, AMOUNT);
        _block(payer, true);
        vm.warp(START + DELAY);
        vm.prank(agent);
        _refuses(payer);
        hub.finalizeWithdraw(c);
        vm.prank(clerk);
        _refuses(payer);
        hub.refund(c, 1);
        assertEq(hub.refundNonce(idOf(c)), 0);
        vm.prank(clerk);
        hub.claimAndSettle(seller, clerk, address(usdc), packed(one(row(c, 30e6, 30e6))));
        assertEq(usdc.balanceOf(seller), 30e6);
        _block(payer, false);
        vm.prank(agent);
        hub.finalizeWithdraw(c);
        assertEq(usdc.balanceOf(payer), 70e6);
    }

    function test_paused_token() public {
        ChannelConfig memory c = opened(config());
        vm.prank(treasury);
        usdc.pause();
        claim(c, 30e6);
        vm.expectRevert();
        hub.settle(seller, address(usdc));
        vm.prank(treasury);
        usdc.unpause();
        hub.settle(seller, address(usdc));
        assertEq(usdc.balanceOf(seller), 30e6);
    }
}

/// @dev C18. Anybody settles, before, between and after: it pays the receiver, once, and never reverts.
contract C18_SettleByAnyone is ChannelStage {
    function test_front_run() public {
        ChannelConfig memory c = opened(config());
        hub.settle(seller, address(usdc)); // nothing yet
        claim(c, 10e6);
        vm.prank(stranger);
        vm.expectEmit(address(hub));
        emit IChannelHub.Settled(seller, address(usdc), stranger, 10e6);
        hub.settle(seller, address(usdc));
        vm.recordLogs();
        vm.prank(clerk);
        hub.settle(seller, address(usdc));
        assertEq(vm.getRecordedLogs().length, 0);
        assertEq(usdc.balanceOf(seller), 10e6);
        assertReceiver(10e6, 10e6);
    }

    /// @dev Between the two halves of a claimAndSettle somebody else settled the older claims.
    function test_front_run_of_claim_and_settle() public {
        ChannelConfig memory c = opened(config());
        claim(c, 10e6);
        uint256 snapshot = vm.snapshotState();
        for (uint256 i; i < 2; ++i) {
            if (i == 1) hub.settle(seller, address(usdc));
            vm.prank(seller);
            uint256 paid = hub.claimAndSettle(seller, clerk, address(usdc), packed(one(row(c, 25e6, 25e6))));
            assertEq(paid, i == 0 ? 25e6 : 15e6);
            assertEq(usdc.balanceOf(seller), 25e6);
            assertReceiver(25e6, 25e6);
            vm.revertToState(snapshot);
        }
    }

    /// @dev Nothing claimed now, but something waits: it is paid.
    function test_claim_and_settle_pays_what_waited() public {
        ChannelConfig memory c = opened(config());
        claim(c, 10e6);
        vm.prank(clerk);
        assertEq(hub.claimAndSettle(seller, clerk, address(usdc), packed(one(row(c, 10e6, 10e6)))), 10e6);
        assertEq(usdc.balanceOf(seller), 10e6);
    }

    function test_other_receivers_and_tokens_are_apart() public {
        ChannelConfig memory c = opened(config());
        claim(c, 10e6);
        hub.settle(stranger, address(usdc));
        hub.settle(clerk, address(usdc));
        hub.settle(seller, address(new DevUSDC(treasury)));
        assertEq(held(), AMOUNT);
        assertReceiver(10e6, 0);
    }
}
