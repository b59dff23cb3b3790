// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {AgentLimits, Batch, IPolicyWallet, PayeeLimits} from "contracts/interfaces/IPolicyWallet.sol";
import {Stage} from "./Stage.sol";

/// @dev W8. Lists that try to get past a limit which each item alone would meet, or to poison their neighbours.
contract W08_BatchAccounting is Stage {
    function test_one_payee_twice_meets_its_cap_once() public {
        PayeeLimits memory capped = payee();
        capped.cap = uint48(60 * USD);
        enact(setPayee(cafe, capped));
        bytes32[] memory items = triple(item(cafe, 40 * USD), item(cafe, 40 * USD), item(cafe, 20 * USD));
        vm.expectEmit(address(wallet));
        emit IPolicyWallet.ItemSkipped(agent, 0, 1, IPolicyWallet.PayeeCapExceeded.selector, 20 * USD);
        wallet.payBatch(one(batchOf(agent, 0, items)));
        assertEq(usdc.balanceOf(cafe), 60 * USD);
        (, uint256 spent,) = wallet.payeeLimits(cafe);
        assertEq(spent, 60 * USD);
    }

    function test_one_payee_twice_meets_its_cooldown_once() public {
        PayeeLimits memory slow = payee();
        slow.cooldown = 1 hours;
        enact(setPayee(cafe, slow));
        uint256 until = vm.getBlockTimestamp() + 1 hours;
        vm.expectEmit(address(wallet));
        emit IPolicyWallet.ItemSkipped(agent, 0, 1, IPolicyWallet.PayeeCoolingDown.selector, until);
        wallet.payBatch(one(batchOf(agent, 0, pair(item(cafe, 1), item(cafe, 2)))));
        assertEq(usdc.balanceOf(cafe), 1);
        refused(payment(cafe, 3, 1), why2(IPolicyWallet.PayeeCoolingDown.selector, 3, until));
        vm.warp(until);
        paySome(cafe, 3, 1);
    }

    function test_ceiling_is_judged_per_item() public {
        bytes32[] memory items = triple(item(shop, CEILING), item(cafe, CEILING), item(shop, CEILING + 1));
        vm.expectEmit(address(wallet));
        emit IPolicyWallet.ItemSkipped(agent, 0, 2, IPolicyWallet.CeilingExceeded.selector, CEILING);
        wallet.payBatch(one(batchOf(agent, 0, items)));
        assertEq(usdc.balanceOf(shop) + usdc.balanceOf(cafe), 2 * CEILING);
    }

    function test_windows_are_judged_in_list_order() public {
        bytes32[] memory items = new bytes32[](13);
        for (uint256 i; i < 12; ++i) {
            items[i] = item(shop, 90 * USD);
        }
        items[12] = item(shop, 10 * USD);
        vm.expectEmit(address(wallet));
        emit IPolicyWallet.ItemSkipped(agent, 0, 11, IPolicyWallet.DayCapExceeded.selector, 10 * USD);
        wallet.payBatch(one(batchOf(agent, 0, items)));
        assertEq(usdc.balanceOf(shop), DAY_CAP); // 11 x 90 and the last 10
    }

    function test_skipped_items_leave_no_trace_in_any_counter() public {
        AgentLimits memory l = limits();
        l.monthCap = uint48(2 * DAY_CAP);
        l.budget = uint64(3 * DAY_CAP);
        PayeeLimits memory capped = payee();
        capped.cap = uint48(150 * USD);
        enact(setAgent(agent, l));
        enact(setPayee(cafe, capped));
        enact(setCap(5 * DAY_CAP));
        vm.prank(treasury);
        usdc.blacklist(cafe); // its transfers fail after they were booked

        bytes32[] memory items = new bytes32[](5);
        items[0] = item(cafe, 50 * USD);
        items[1] = item(shop, 30 * USD);
        items[2] = item(stranger, 10 * USD);
        items[3] = item(cafe, 60 * USD);
        items[4] = item(shop, 7 * USD);
        wallet.payBatch(one(batchOf(agent, 0, items)));

        assertEq(usdc.balanceOf(shop), 37 * USD);
        (uint256 day, uint256 month, uint256 budget, uint256 left) = wallet.room(agent);
        assertEq(day, DAY_CAP - 37 * USD);
        assertEq(month, 2 * DAY_CAP - 37 * USD);
        assertEq(budget, 3 * DAY_CAP - 37 * USD);
        assertEq(left, 5 * DAY_CAP - 37 * USD);
        (, uint256 spent, uint256 lastPaid) = wallet.payeeLimits(cafe);
        assertEq(spent, 0);
        assertEq(lastPaid, 0);
        assertTrue(wallet.nonceUsed(agent, 0));
    }

    function test_empty_list_uses_nothing() public {
        vm.expectEmit(address(wallet));
        emit IPolicyWallet.BatchSkipped(agent, 0, IPolicyWallet.BatchLength.selector);
        wallet.payBatch(one(batchOf(agent, 0, new bytes32[](0))));
        assertFalse(wallet.nonceUsed(agent, 0));
    }

    function test_bad_batches_do_not_poison_a_good_one() public {
        paySome(shop, 1, 7);
        Batch[] memory list = new Batch[](6);
        list[0] = _small(agent, 0);
        list[0].vs = bytes32(uint256(list[0].vs) ^ 1); // signature
        list[1] = _small(agent, 7); // nonce
        list[2] = _small(agent, 1);
        list[2].deadline = START - 1; // past, and not what was signed
        list[3] = _small(agent, 2);
        list[3].agent = stranger; // who did not sign
        list[4] = _small(agent, 3);
        list[4].items[1] = item(stranger, 1); // not what was signed
        list[5] = _small(agent2, 4);

        _expectSkipped(agent, 0, IPolicyWallet.InvalidSignature.selector);
        _expectSkipped(agent, 7, IPolicyWallet.NonceUsed.selector);
        _expectSkipped(agent, 1, IPolicyWallet.DeadlinePassed.selector);
        _expectSkipped(stranger, 2, IPolicyWallet.InvalidSignature.selector);
        _expectSkipped(agent, 3, IPolicyWallet.InvalidSignature.selector);
        wallet.payBatch(list);
        assertEq(usdc.balanceOf(shop), 2);
        assertEq(usdc.balanceOf(cafe), 1);
        for (uint256 nonce; nonce < 4; ++nonce) {
            assertFalse(wallet.nonceUsed(agent, nonce));
        }
    }

    function _small(address by, uint256 nonce) private view returns (Batch memory) {
        return batchOf(by, nonce, pair(item(shop, 1), item(cafe, 1)));
    }

    function _expectSkipped(address by, uint256 nonce, bytes4 reason) private {
        vm.expectEmit(address(wallet));
        emit IPolicyWallet.BatchSkipped(by, nonce, reason);
    }

    function test_one_batch_twice_in_one_call_is_paid_once() public {
        Batch memory b = batchOf(agent, 0, pair(item(shop, 3), item(cafe, 4)));
        Batch[] memory list = new Batch[](2);
        (list[0], list[1]) = (b, b);
        _expectSkipped(agent, 0, IPolicyWallet.NonceUsed.selector);
        wallet.payBatch(list);
        assertEq(usdc.balanceOf(shop), 3);
    }

    /// @dev Several batches in one call see each other's spending: the agent's, the payee's and the wallet's.
    function test_batches_of_one_call_share_every_window() public {
        enact(setCap(200 * USD));
        PayeeLimits memory capped = payee();
        capped.cap = uint48(130 * USD);
        enact(setPayee(cafe, capped));
        Batch[] memory list = new Batch[](3);
        list[0] = batchOf(agent, 0, pair(item(cafe, 90 * USD), item(shop, 1 * USD)));
        list[1] = batchOf(agent2, 0, pair(item(cafe, 50 * USD), item(shop, 100 * USD)));
        list[2] = batchOf(agent, 1, pair(item(shop, 10 * USD), item(shop, 9 * USD)));
        wallet.payBatch(list);
        assertEq(usdc.balanceOf(cafe), 90 * USD); // 50 more would pass 130
        assertEq(usdc.balanceOf(shop), 110 * USD); // 1 + 100 leave 9: 10 is refused, 9 paid
        (,,, uint256 left) = wallet.room(agent);
        assertEq(left, 0);
    }

    function test_frozen_wallet_reverts_the_whole_call() public {
        Batch[] memory list = one(batchOf(agent, 0, pair(item(shop, 1), item(cafe, 1))));
        tightenBy(0, setFrozen(address(0), true));
        vm.expectRevert(IPolicyWallet.WalletFrozen.selector);
        wallet.payBatch(list);
    }

    function test_frozen_and_expired_agents_are_skipped() public {
        bytes32[] memory items = pair(item(shop, 1), item(cafe, 1));
        Batch[] memory list = new Batch[](2);
        list[0] = batchOf(agent, 0, items);
        list[1] = batchOf(agent2, 0, items);
        tightenBy(0, setFrozen(agent, true));
        AgentLimits memory l = limits();
        l.expiry = uint40(vm.getBlockTimestamp());
        tightenBy(0, setAgent(agent2, l));
        _expectSkipped(agent, 0, IPolicyWallet.AgentFrozen.selector);
        _expectSkipped(agent2, 0, IPolicyWallet.AgentExpired.selector);
        wallet.payBatch(list);
        assertEq(usdc.balanceOf(address(wallet)), FUNDS);
    }
}
