// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {ChannelConfig, IChannelHub, IChannelPayer} from "contracts/interfaces/IChannelHub.sol";
import {FundingStage} from "../attack/FundingStage.sol";

/// @dev The wallet's channels as they are meant to be used.
contract ChannelDoorTest is FundingStage {
    function test_funds_and_says_so() public {
        ChannelConfig memory c = channel();
        vm.expectEmit(address(wallet));
        emit IChannelPayer.ChannelFunded(agent, idOf(c), shop, AMOUNT, 0, 1, keccak256("why"));
        fund(c, AMOUNT, 1);
        assertEq(hub.getChannelId(c), idOf(c));
        assertEq(balanceOf(c), AMOUNT);
        assertEq(usdc.balanceOf(address(hub)), AMOUNT);
        assertEq(usdc.balanceOf(address(wallet)), FUNDS - AMOUNT);
        assertTrue(wallet.nonceUsed(agent, 1));
        (uint256 day,,,) = wallet.room(agent);
        assertEq(day, DAY_CAP - AMOUNT);
        fund(c, AMOUNT / 2, 2);
        assertEq(balanceOf(c), AMOUNT + AMOUNT / 2);
    }

    function test_the_receiver_claims_and_the_rest_comes_home() public {
        ChannelConfig memory c = channel();
        fund(c, AMOUNT, 1);
        claim(c, AMOUNT / 4);
        close(c);
        claim(c, AMOUNT / 2); // in time
        vm.warp(vm.getBlockTimestamp() + QUARTER - 1);
        vm.expectRevert(IChannelHub.WithdrawDelayNotElapsed.selector);
        door.finishChannel(c);
        vm.warp(vm.getBlockTimestamp() + 1);
        vm.prank(stranger);
        door.finishChannel(c);
        assertEq(usdc.balanceOf(shop), AMOUNT / 2);
        assertEq(usdc.balanceOf(address(wallet)), FUNDS - AMOUNT / 2);
        (uint256 day,,,) = wallet.room(agent);
        assertEq(day, DAY_CAP - AMOUNT, "what came back gave room");
    }

    function test_the_quorum_funds_past_every_limit() public {
        ChannelConfig memory c = channel();
        (c.receiver, c.receiverAuthorizer) = (stranger, stranger);
        uint128 amount = uint128(5 * DAY_CAP);
        fund(approvedFunding(c, amount, 1, 15));
        assertEq(balanceOf(c), amount);
        (uint256 day,,,) = wallet.room(agent);
        assertEq(day, DAY_CAP, "an overridden limit counts");
    }

    function test_a_facilitator_claims_for_any_receiver() public {
        address facilitator = makeAddr("facilitator");
        enact(setAuthorizer(facilitator, 2 days));
        address[2] memory receivers = [shop, cafe];
        for (uint256 i; i < 2; ++i) {
            ChannelConfig memory c = channel();
            (c.receiver, c.receiverAuthorizer, c.withdrawDelay) = (receivers[i], facilitator, 2 days);
            fund(c, AMOUNT, i);
            assertEq(balanceOf(c), AMOUNT);
        }
    }

    /// @dev A closing can be asked for again once the last one is over, for what was put in since.
    function test_closed_and_funded_again() public {
        ChannelConfig memory c = channel();
        for (uint256 i; i < 2; ++i) {
            fund(c, AMOUNT, i);
            close(c);
            vm.expectRevert(IChannelHub.WithdrawalAlreadyPending.selector);
            vm.prank(operators[1]);
            wallet.tighten(closeChange(c));
            vm.warp(vm.getBlockTimestamp() + QUARTER);
            door.finishChannel(c);
        }
        assertEq(usdc.balanceOf(address(wallet)), FUNDS);
    }

    function test_the_quorum_closes_too() public {
        fund(channel(), AMOUNT, 1);
        submit(closeChange(channel()));
        (uint128 amount,) = hub.pendingWithdrawals(idOf(channel()));
        assertEq(amount, AMOUNT);
    }
}
