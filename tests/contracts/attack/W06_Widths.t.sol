// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {AgentLimits, IPolicyWallet, PayeeLimits} from "contracts/interfaces/IPolicyWallet.sol";
import {Payment, Stage} from "./Stage.sol";

/// @dev W6. Amounts, nonces and step indices at the edges of the fields they are packed into: compared at full
/// width before any cast, and an index that wraps forgets nothing.
contract W06_Widths is Stage {
    uint256[] private wide;

    function setUp() public override {
        super.setUp();
        wide = [uint256(1) << 48, 1 << 50, 1 << 64, (1 << 96) + 1, (1 << 160) + 1, (1 << 255) + 1, type(uint256).max];
    }

    function test_wide_amounts_are_refused_by_the_ceiling_before_any_cast() public {
        AgentLimits memory l = limits();
        (l.ceiling, l.dayCap) = (type(uint48).max, type(uint48).max);
        bytes[] memory changes = baseChanges();
        changes[0] = setAgent(agent, l);
        wallet = deploy(address(usdc), changes);
        for (uint256 i; i < wide.length; ++i) {
            refused(payment(shop, wide[i], 0), why2(IPolicyWallet.CeilingExceeded.selector, wide[i], type(uint48).max));
        }
    }

    function test_wide_amounts_are_refused_by_each_cap_when_the_ceiling_is_overridden() public {
        AgentLimits memory l = limits();
        for (uint256 i; i < wide.length; ++i) {
            _approvedIsRefused(1, wide[i], why2(IPolicyWallet.DayCapExceeded.selector, wide[i], DAY_CAP));
        }
        l.dayCap = type(uint48).max;
        l.monthCap = uint48(DAY_CAP);
        enact(setAgent(agent, l));
        for (uint256 i; i < wide.length; ++i) {
            _approvedIsRefused(1, wide[i], why2(IPolicyWallet.MonthCapExceeded.selector, wide[i], DAY_CAP));
        }
        l.monthCap = type(uint48).max;
        l.budget = uint64(DAY_CAP);
        enact(setAgent(agent, l));
        for (uint256 i; i < wide.length; ++i) {
            _approvedIsRefused(1, wide[i], why2(IPolicyWallet.BudgetExceeded.selector, wide[i], DAY_CAP));
        }
        PayeeLimits memory capped = payee();
        capped.cap = uint48(DAY_CAP);
        enact(setPayee(shop, capped));
        for (uint256 i; i < wide.length; ++i) {
            _approvedIsRefused(1 | 4, wide[i], why2(IPolicyWallet.PayeeCapExceeded.selector, wide[i], DAY_CAP));
        }
        enact(setCap(DAY_CAP));
        for (uint256 i; i < wide.length; ++i) {
            _approvedIsRefused(1 | 2 | 4, wide[i], why2(IPolicyWallet.WalletCapExceeded.selector, wide[i], DAY_CAP));
        }
    }

    /// @dev With everything set aside, only the balance is left to stop it.
    function test_wide_amounts_with_every_limit_overridden_fail_in_the_token() public {
        for (uint256 i; i < wide.length; ++i) {
            _approvedIsRefused(15, wide[i], abi.encodeWithSelector(IPolicyWallet.TransferFailed.selector));
        }
    }

    function _approvedIsRefused(uint256 overrides, uint256 amount, bytes memory why) private {
        Payment memory p = payment(shop, amount, 0);
        (, uint256 version,) = wallet.agentLimits(agent);
        bytes32 digest = approvedDigest(p, overrides, version);
        (bytes32 r, bytes32 vs) = compact(agentKey, digest);
        bytes memory quorum = quorumFor(digest);
        vm.expectRevert(why);
        wallet.payApproved(agent, shop, amount, 0, FAR, 0, overrides, version, r, vs, quorum);
        assertFalse(wallet.nonceUsed(agent, 0));
    }

    function test_nonces_of_any_width_are_independent() public {
        uint256[9] memory nonces = [
            uint256(0),
            255,
            256,
            (1 << 16) - 1,
            1 << 16,
            1 << 48,
            (1 << 248) | 7,
            type(uint256).max - 1,
            type(uint256).max
        ];
        for (uint256 i; i < nonces.length; ++i) {
            assertFalse(wallet.nonceUsed(agent, nonces[i]));
            paySome(shop, 1, nonces[i]);
            assertTrue(wallet.nonceUsed(agent, nonces[i]));
            assertFalse(wallet.nonceUsed(agent2, nonces[i]));
        }
        for (uint256 i; i < nonces.length; ++i) {
            refused(payment(shop, 1, nonces[i]), abi.encodeWithSelector(IPolicyWallet.NonceUsed.selector, nonces[i]));
        }
        assertFalse(wallet.nonceUsed(agent, 254));
        assertFalse(wallet.nonceUsed(agent, 257));
        assertFalse(wallet.nonceUsed(agent, 7));
    }

    /// @dev The wallet's step index wraps on 2029-10-23, within this code's life.
    function test_wallet_window_survives_the_wrap_of_its_index() public {
        enact(setCap(100 * USD));
        uint256 wrap = 65_536 * 8 hours;
        vm.warp(wrap - 1);
        paySome(shop, 100 * USD, 0);
        vm.warp(wrap);
        refused(payment(shop, 1, 1), why2(IPolicyWallet.WalletCapExceeded.selector, 1, 0));
        vm.warp(wrap - 1 + 24 hours);
        refused(payment(shop, 1, 1), why2(IPolicyWallet.WalletCapExceeded.selector, 1, 0));
        vm.warp(wrap + 24 hours);
        paySome(shop, 100 * USD, 1);
    }

    function test_day_window_survives_the_wrap_of_its_index() public {
        uint256 wrap = 2 * 65_536 * 6 hours;
        vm.warp(wrap - 1);
        for (uint256 i; i < 10; ++i) {
            paySome(shop, CEILING, i);
        }
        vm.warp(wrap);
        refused(payment(shop, 1, 10), why2(IPolicyWallet.DayCapExceeded.selector, 1, 0));
        vm.warp(wrap + 24 hours - 1);
        refused(payment(shop, 1, 10), why2(IPolicyWallet.DayCapExceeded.selector, 1, 0));
        vm.warp(wrap + 24 hours);
        paySome(shop, 1, 10);
    }

    /// @dev Idle for exactly one turn of the index: old lanes may look alive again, which only refuses.
    function test_a_full_turn_of_the_index_never_gives_more_than_the_cap() public {
        for (uint256 i; i < 10; ++i) {
            paySome(shop, CEILING, i);
        }
        vm.warp(START + 65_536 * 6 hours);
        (uint256 day,,,) = wallet.room(agent);
        assertLe(day, DAY_CAP);
        vm.warp(vm.getBlockTimestamp() + 30 hours);
        (day,,,) = wallet.room(agent);
        assertEq(day, DAY_CAP);
    }

    /// @dev An item is payee << 96 | amount: an amount field full of ones must not reach the payee's bits.
    function test_batch_item_with_a_full_amount_field() public {
        bytes32[] memory items = pair(item(shop, type(uint96).max), item(cafe, 5));
        vm.expectEmit(address(wallet));
        emit IPolicyWallet.ItemSkipped(agent, 0, 0, IPolicyWallet.CeilingExceeded.selector, CEILING);
        wallet.payBatch(one(batchOf(agent, 0, items)));
        assertEq(usdc.balanceOf(shop), 0);
        assertEq(usdc.balanceOf(cafe), 5);
    }
}
