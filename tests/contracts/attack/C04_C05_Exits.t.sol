// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {ChannelStage} from "./ChannelStage.sol";
import {ChannelConfig, IChannelHub, Skip, VoucherClaim} from "contracts/interfaces/IChannelHub.sol";

/// @dev C4. The payer takes its money before the seller has claimed.
contract C04_ExitRace is ChannelStage {
    function test_unclaimed_voucher_is_lost_after_the_exit() public {
        ChannelConfig memory c = opened(config());
        VoucherClaim memory a = row(c, 60e6, 60e6);
        exit(c, AMOUNT);
        assertEq(usdc.balanceOf(payer), AMOUNT);
        vm.prank(clerk);
        refuses(IChannelHub.ClaimExceedsBalance.selector);
        hub.claim(one(a));
        skips(c, Skip.ExceedsBalance);
        assertEq(claimPacked(one(a)), 0);
    }

    /// @dev The seller has the whole delay, to its last second, and what it claims the exit does not take.
    function test_the_seller_has_the_delay() public {
        ChannelConfig memory c = opened(config());
        vm.prank(agent);
        vm.expectEmit(address(hub));
        emit IChannelHub.WithdrawInitiated(idOf(c), AMOUNT, uint40(START + DELAY));
        hub.initiateWithdraw(c, AMOUNT);
        assertPending(c, AMOUNT, START);

        vm.warp(START + DELAY - 1);
        vm.prank(payer);
        refuses(IChannelHub.WithdrawDelayNotElapsed.selector);
        hub.finalizeWithdraw(c);
        claim(c, 60e6);

        vm.warp(START + DELAY);
        vm.prank(agent);
        vm.expectEmit(address(hub));
        emit IChannelHub.WithdrawFinalized(idOf(c), agent, 40e6);
        vm.expectEmit(address(hub));
        emit IChannelHub.ChannelClosed(idOf(c), c);
        hub.finalizeWithdraw(c);
        assertEq(usdc.balanceOf(payer), 40e6);
        assertChannel(c, 60e6, 60e6);
        assertPending(c, 0, 0);
        hub.settle(seller, address(usdc));
        assertEq(usdc.balanceOf(seller), 60e6);
        assertEq(held(), 0);
    }

    /// @dev All of it was claimed: the exit ends with nothing, and is not pending for ever.
    function test_exit_of_a_drained_channel_ends() public {
        ChannelConfig memory c = opened(config());
        vm.prank(payer);
        hub.initiateWithdraw(c, AMOUNT);
        claim(c, AMOUNT);
        vm.warp(START + DELAY);
        vm.prank(payer);
        vm.expectEmit(address(hub));
        emit IChannelHub.WithdrawFinalized(idOf(c), payer, 0);
        hub.finalizeWithdraw(c);
        assertPending(c, 0, 0);
        assertChannel(c, AMOUNT, AMOUNT);
        deposit(c, 1e6);
        vm.prank(payer);
        refuses(IChannelHub.WithdrawalNotPending.selector);
        hub.finalizeWithdraw(c);
    }

    /// @dev A deposit under a pending exit stays: only what was asked for leaves.
    function test_deposit_does_not_cancel() public {
        ChannelConfig memory c = opened(config());
        vm.prank(payer);
        hub.initiateWithdraw(c, 70e6);
        deposit(c, 50e6);
        assertPending(c, 70e6, START);
        vm.warp(START + DELAY);
        vm.prank(payer);
        hub.finalizeWithdraw(c);
        assertEq(usdc.balanceOf(payer), 70e6);
        assertChannel(c, 80e6, 0);
    }

    /// @dev A refund counts against what was asked for, and ends the exit when it covers it.
    function test_refund_under_a_pending_exit() public {
        ChannelConfig memory c = opened(config());
        vm.prank(payer);
        hub.initiateWithdraw(c, 70e6);
        vm.prank(seller);
        hub.refund(c, 30e6);
        assertPending(c, 40e6, START);
        vm.prank(clerk);
        hub.refund(c, 40e6);
        assertPending(c, 0, 0);
        assertChannel(c, 30e6, 0);
        vm.warp(START + DELAY);
        vm.prank(payer);
        refuses(IChannelHub.WithdrawalNotPending.selector);
        hub.finalizeWithdraw(c);
        assertEq(usdc.balanceOf(payer), 70e6);
    }

    /// @dev A refund that pays nothing leaves the pending exit alone.
    function test_empty_refund_leaves_the_exit() public {
        ChannelConfig memory c = opened(config());
        vm.prank(payer);
        hub.initiateWithdraw(c, 70e6);
        claim(c, AMOUNT);
        vm.prank(clerk);
        hub.refund(c, 1);
        assertEq(hub.refundNonce(idOf(c)), 1);
        assertPending(c, 70e6, START);
    }
}

/// @dev C5. Money out without asking, without waiting, or by somebody else.
contract C05_WithoutRequest is ChannelStage {
    function test_nothing_asked_for() public {
        ChannelConfig memory c = opened(config());
        vm.startPrank(payer);
        refuses(IChannelHub.WithdrawalNotPending.selector);
        hub.finalizeWithdraw(c);
        vm.warp(FAR);
        refuses(IChannelHub.WithdrawalNotPending.selector);
        hub.finalizeWithdraw(c);
    }

    function test_twice() public {
        ChannelConfig memory c = opened(config());
        vm.startPrank(payer);
        hub.initiateWithdraw(c, 10e6);
        refuses(IChannelHub.WithdrawalAlreadyPending.selector);
        hub.initiateWithdraw(c, 10e6);
        vm.warp(START + DELAY);
        hub.finalizeWithdraw(c);
        refuses(IChannelHub.WithdrawalNotPending.selector);
        hub.finalizeWithdraw(c);
        assertEq(usdc.balanceOf(payer), 10e6);
        hub.initiateWithdraw(c, 90e6);
        refuses(IChannelHub.WithdrawDelayNotElapsed.selector);
        hub.finalizeWithdraw(c);
    }

    function test_more_than_is_there() public {
        ChannelConfig memory c = opened(config());
        claim(c, 40e6);
        vm.startPrank(payer);
        refuses(IChannelHub.WithdrawAmountExceedsAvailable.selector);
        hub.initiateWithdraw(c, 60e6 + 1);
        refuses(IChannelHub.WithdrawAmountExceedsAvailable.selector);
        hub.initiateWithdraw(c, type(uint128).max);
        refuses(IChannelHub.NothingToWithdraw.selector);
        hub.initiateWithdraw(c, 0);
        hub.initiateWithdraw(c, 60e6);
    }

    function test_only_the_payer_s_side() public {
        ChannelConfig memory c = opened(config());
        address[4] memory others = [seller, clerk, stranger, address(this)];
        for (uint256 i; i < others.length; ++i) {
            vm.prank(others[i]);
            refuses(IChannelHub.InvalidChannel.selector);
            hub.initiateWithdraw(c, AMOUNT);
        }
        vm.prank(payer);
        hub.initiateWithdraw(c, AMOUNT);
        vm.warp(START + DELAY);
        for (uint256 i; i < others.length; ++i) {
            vm.prank(others[i]);
            refuses(IChannelHub.NotAuthorizedToFinalizeWithdraw.selector);
            hub.finalizeWithdraw(c);
        }
    }

    /// @dev Naming oneself in the config names another channel, which is empty.
    function test_own_name_in_a_foreign_config() public {
        ChannelConfig memory c = opened(config());
        c.payer = stranger;
        vm.startPrank(stranger);
        refuses(IChannelHub.WithdrawAmountExceedsAvailable.selector);
        hub.initiateWithdraw(c, 1);
        c = config();
        c.receiver = stranger;
        hub.refund(c, AMOUNT);
        assertChannel(config(), AMOUNT, 0);
        assertEq(held(), AMOUNT);
    }
}

/// @dev Refunds: who, how much, and in which order their signatures are good.
contract C05_Refunds is ChannelStage {
    function test_only_the_receiver_s_side() public {
        ChannelConfig memory c = opened(config());
        address[4] memory others = [payer, agent, stranger, address(this)];
        for (uint256 i; i < others.length; ++i) {
            vm.prank(others[i]);
            refuses(IChannelHub.NotAuthorizedToRefund.selector);
            hub.refund(c, 1);
        }
        assertEq(hub.refundNonce(idOf(c)), 0);
    }

    function test_no_more_than_is_not_claimed() public {
        ChannelConfig memory c = opened(config());
        claim(c, 40e6);
        vm.prank(seller);
        vm.expectEmit(address(hub));
        emit IChannelHub.Refunded(idOf(c), seller, 60e6);
        vm.expectEmit(address(hub));
        emit IChannelHub.ChannelClosed(idOf(c), c);
        hub.refund(c, type(uint128).max);
        assertChannel(c, 40e6, 40e6);
        assertEq(usdc.balanceOf(payer), 60e6);
        assertReceiver(40e6, 0);
    }

    function test_nonce_is_spent_even_for_nothing() public {
        ChannelConfig memory c = opened(config());
        bytes memory signature = signed(clerkKey, refundHash(c, 0, 5e6));
        claim(c, AMOUNT);
        vm.prank(clerk);
        hub.refund(c, 1);
        deposit(c, 5e6);
        refuses(IChannelHub.InvalidRefundNonce.selector);
        hub.refundWithSignature(c, 5e6, 0, signature);
        hub.refundWithSignature(c, 5e6, 1, signed(clerkKey, refundHash(c, 1, 5e6)));
        assertEq(hub.refundNonce(idOf(c)), 2);
        assertEq(usdc.balanceOf(payer), 5e6);
    }

    function test_zero_spends_no_nonce() public {
        ChannelConfig memory c = opened(config());
        vm.prank(clerk);
        refuses(IChannelHub.ZeroRefund.selector);
        hub.refund(c, 0);
        bytes memory signature = signed(clerkKey, refundHash(c, 0, 0));
        refuses(IChannelHub.ZeroRefund.selector);
        hub.refundWithSignature(c, 0, 0, signature);
        assertEq(hub.refundNonce(idOf(c)), 0);
    }

    /// @dev Other amount, other nonce, other channel, other signer: not what was signed. The receiver's own key does not
    /// sign for its authorizer.
    function test_signature_is_over_all_of_it() public {
        ChannelConfig memory c = opened(config());
        bytes[5] memory bad = [
            signed(clerkKey, refundHash(c, 0, 9e6)),
            signed(clerkKey, refundHash(c, 1, 10e6)),
            signed(clerkKey, refundHash(salted(1), 0, 10e6)),
            signed(sellerKey, refundHash(c, 0, 10e6)),
            signed(agentKey, refundHash(c, 0, 10e6))
        ];
        for (uint256 i; i < bad.length; ++i) {
            refuses(IChannelHub.InvalidSignature.selector);
            hub.refundWithSignature(c, 10e6, 0, bad[i]);
        }
        bytes memory good = signed(clerkKey, refundHash(c, 0, 10e6));
        refuses(IChannelHub.InvalidRefundNonce.selector);
        hub.refundWithSignature(c, 10e6, 1, good);
        vm.prank(stranger);
        hub.refundWithSignature(c, 10e6, 0, good);
        assertChannel(c, 90e6, 0);
        refuses(IChannelHub.InvalidRefundNonce.selector);
        hub.refundWithSignature(c, 10e6, 0, good);
    }
}
