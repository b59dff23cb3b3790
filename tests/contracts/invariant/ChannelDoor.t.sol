// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {ChannelHandler} from "./ChannelHandler.sol";
import {DevUSDC} from "contracts/DevUSDC.sol";
import {IChannelHub} from "contracts/interfaces/IChannelHub.sol";
import {IPolicyWallet} from "contracts/interfaces/IPolicyWallet.sol";
import {Test} from "forge-std/Test.sol";

/// @dev I20 to I23, I25, I26, I29 over wallet, hub and token together, with coupons and redemptions beside the channels.
contract ChannelDoorInvariants is Test {
    ChannelHandler private handler;
    IPolicyWallet private wallet;
    IChannelHub private hub;
    DevUSDC private usdc;
    uint256 private funds;

    function setUp() public {
        handler = new ChannelHandler();
        handler.setUp();
        (wallet, hub, usdc) = handler.parties();
        funds = usdc.balanceOf(address(wallet));
        targetContract(address(handler));
        bytes4[] memory steps = new bytes4[](11);
        steps[0] = ChannelHandler.fundOne.selector;
        steps[1] = ChannelHandler.fundOne.selector;
        steps[2] = ChannelHandler.payOne.selector;
        steps[3] = ChannelHandler.redeemOne.selector;
        steps[4] = ChannelHandler.couponOne.selector;
        steps[5] = ChannelHandler.depositOne.selector;
        steps[6] = ChannelHandler.claimOne.selector;
        steps[7] = ChannelHandler.returnOne.selector;
        steps[8] = ChannelHandler.returnOne.selector;
        steps[9] = ChannelHandler.freeze.selector;
        steps[10] = ChannelHandler.pass.selector;
        targetSelector(FuzzSelector(address(handler), steps));
    }

    function invariant_money_is_where_the_books_say() public view {
        uint256 in_;
        for (uint256 i; i < handler.count(); ++i) {
            (uint256 balance, uint256 claimed) = handler.held(i);
            assertLe(claimed, balance, "claimed beyond what is there");
            in_ += balance;
        }
        assertEq(usdc.balanceOf(address(wallet)), funds - handler.paid() - in_, "wallet");
        address[3] memory all = handler.receivers();
        for (uint256 i; i < 3; ++i) {
            (uint256 claimed, uint256 settled) = hub.receivers(all[i], address(usdc));
            assertEq(claimed, settled);
            in_ -= settled;
            assertEq(usdc.allowance(address(wallet), all[i]), 0, "allowance of a receiver");
        }
        assertEq(usdc.balanceOf(address(hub)), in_, "hub");
        assertEq(usdc.allowance(address(wallet), address(hub)), 0, "allowance of the hub");
    }

    function invariant_payees_have_no_more_than_was_counted_for_them() public view {
        address[3] memory all = handler.receivers();
        for (uint256 i; i < 3; ++i) {
            assertLe(usdc.balanceOf(all[i]), handler.booked(all[i]), "paid beyond what was counted");
        }
        assertLe(handler.booked(all[0]), handler.SHOP_CAP(), "the shop's cap");
        (, uint256 spent,) = wallet.payeeLimits(all[0]);
        assertEq(spent, handler.booked(all[0]), "the shop's counter");
        assertEq(usdc.balanceOf(all[2]), 0, "never registered, and paid");
    }

    /// @dev The campaign is not about nothing.
    function test_the_steps_do_something() public {
        for (uint256 i; i < 60; ++i) {
            uint256 seed = uint256(keccak256(abi.encode(i)));
            handler.fundOne(seed);
            handler.claimOne(seed, uint128(i * 1e5));
            handler.couponOne(seed);
            handler.redeemOne(seed);
            handler.returnOne(seed, uint128(i * 1e5));
            handler.pass(2 hours);
        }
        uint256 claimed;
        for (uint256 i; i < handler.count(); ++i) {
            (, uint256 of_) = handler.held(i);
            if (of_ != 0) ++claimed;
        }
        assertGt(handler.count(), 5, "funded");
        assertGt(claimed, 1, "claimed");
        assertGt(handler.couponsPaid(), 3, "coupons");
        afterInvariant();
    }

    function afterInvariant() public {
        handler.checkWindows();
        handler.endAll();
        assertEq(usdc.balanceOf(address(hub)), 0, "left in the hub while all is frozen");
        invariant_money_is_where_the_books_say();
    }
}
