// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {Unit} from "./Unit.sol";
import {AgentLimits, Batch, IPolicyWallet, PayeeLimits} from "contracts/interfaces/IPolicyWallet.sol";

contract PayBatchTest is Unit {
    function _list(uint256 length, uint256 amount) private view returns (bytes32[] memory items) {
        items = new bytes32[](length);
        for (uint256 i; i < length; ++i) {
            items[i] = item(shop, amount);
        }
    }

    function _single(address to, uint256 amount) private pure returns (bytes32[] memory items) {
        items = new bytes32[](1);
        items[0] = item(to, amount);
    }

    function _skipsItem(uint256 nonce, uint256 index, bytes4 reason, uint256 left) private {
        vm.expectEmit(address(wallet));
        emit IPolicyWallet.ItemSkipped(agent, nonce, index, reason, left);
    }

    function _pays(uint256 nonce, uint256 count, uint256 total) private {
        vm.expectEmit(address(wallet));
        emit IPolicyWallet.BatchPaid(agent, nonce, count, total, 1, 0);
    }

    function _skipsBatch(Batch memory b, bytes4 reason) private {
        uint256 held = usdc.balanceOf(address(wallet));
        bool used = wallet.nonceUsed(b.agent, b.nonce);
        vm.expectEmit(address(wallet));
        emit IPolicyWallet.BatchSkipped(b.agent, b.nonce, reason);
        wallet.payBatch(one(b));
        assertEq(usdc.balanceOf(address(wallet)), held);
        assertEq(wallet.nonceUsed(b.agent, b.nonce), used);
    }

    function test_pays_and_says_so() public {
        Batch memory b = Batch(agent, 9, FAR, "why", triple(item(shop, 1), item(cafe, 2), item(shop, 3)), 0, 0);
        (b.r, b.vs) = compact(agentKey, batchDigest(address(wallet), b));
        vm.expectEmit(address(wallet));
        emit IPolicyWallet.BatchPaid(agent, 9, 3, 6, 1, "why");
        wallet.payBatch(one(b));
        assertEq(usdc.balanceOf(shop), 4);
        assertEq(usdc.balanceOf(cafe), 2);
        assertTrue(wallet.nonceUsed(agent, 9));
        (uint256 day,,,) = wallet.room(agent);
        assertEq(day, DAY_CAP - 6);
    }

    function test_no_batches() public {
        wallet.payBatch(new Batch[](0));
    }

    /* WHOLE BATCHES */

    function test_frozen_wallet_takes_none() public {
        tightenBy(0, setFrozen(address(0), true));
        Batch[] memory list = one(batchOf(agent, 0, _single(shop, 1)));
        vm.expectRevert(IPolicyWallet.WalletFrozen.selector);
        wallet.payBatch(list);
    }

    function test_length() public {
        _skipsBatch(batchOf(agent, 0, _list(0, 1)), IPolicyWallet.BatchLength.selector);
        _skipsBatch(batchOf(agent, 0, _list(200, 1)), IPolicyWallet.BatchLength.selector);
        _pays(0, 199, 199);
        wallet.payBatch(one(batchOf(agent, 0, _list(199, 1))));
    }

    /// @dev The limit is of the call: the batch that goes over it is skipped, and so is what comes after.
    function test_length_of_all_together() public {
        Batch[] memory list = new Batch[](3);
        list[0] = batchOf(agent, 0, _list(100, 1));
        list[1] = batchOf(agent, 1, _list(99, 1));
        list[2] = batchOf(agent, 2, _list(1, 1));
        _pays(0, 100, 100);
        vm.expectEmit(address(wallet));
        emit IPolicyWallet.BatchSkipped(agent, 1, IPolicyWallet.BatchLength.selector);
        vm.expectEmit(address(wallet));
        emit IPolicyWallet.BatchSkipped(agent, 2, IPolicyWallet.BatchLength.selector);
        wallet.payBatch(list);
        list[1] = batchOf(agent, 3, _list(98, 1)); // 100 + 98 and two batches: 200
        list[0] = batchOf(agent, 4, _list(100, 1));
        list[2] = batchOf(agent, 5, _list(0, 1));
        _pays(4, 100, 100);
        _pays(3, 98, 98);
        wallet.payBatch(list);
    }

    function test_admission() public {
        Batch memory b = Batch(agent, 0, START - 1, 0, _single(shop, 1), 0, 0);
        (b.r, b.vs) = compact(agentKey, batchDigest(address(wallet), b));
        _skipsBatch(b, IPolicyWallet.DeadlinePassed.selector);
        b.deadline = START;
        _skipsBatch(b, IPolicyWallet.InvalidSignature.selector);
        (b.r, b.vs) = compact(agentKey, batchDigest(address(wallet), b));
        _pays(0, 1, 1);
        wallet.payBatch(one(b));
        _skipsBatch(b, IPolicyWallet.NonceUsed.selector);
    }

    function test_standing() public {
        Batch memory b = batchOf(agent, 0, _single(shop, 1));
        tightenBy(0, setFrozen(agent, true));
        _skipsBatch(b, IPolicyWallet.AgentFrozen.selector);
        submit(setFrozen(agent, false));
        vm.warp(FAR);
        _skipsBatch(b, IPolicyWallet.AgentExpired.selector);
        (address unknown, uint256 key) = makeAddrAndKey("unknown");
        b.agent = unknown;
        (b.r, b.vs) = compact(key, batchDigest(address(wallet), b));
        _skipsBatch(b, IPolicyWallet.AgentInactive.selector);
    }

    function test_a_bad_batch_stops_no_other() public {
        Batch[] memory list = new Batch[](3);
        list[0] = batchOf(agent, 0, _single(shop, 1));
        list[1] = batchOf(agent, 0, _single(shop, 1));
        list[2] = batchOf(agent2, 0, _single(shop, 1));
        wallet.payBatch(list);
        assertEq(usdc.balanceOf(shop), 2);
    }

    /* ITEMS */

    function test_items_at_their_edges() public {
        bytes32[] memory items = new bytes32[](6);
        items[0] = item(shop, CEILING + 1);
        items[1] = item(shop, CEILING);
        items[2] = item(shop, 0);
        items[3] = item(stranger, 1);
        items[4] = item(agent, 1);
        items[5] = item(shop, type(uint96).max);
        _skipsItem(0, 0, IPolicyWallet.CeilingExceeded.selector, CEILING);
        _skipsItem(0, 2, IPolicyWallet.ZeroAmount.selector, 0);
        _skipsItem(0, 3, IPolicyWallet.PayeeNotAllowed.selector, 0);
        _skipsItem(0, 4, IPolicyWallet.PayeeNotAllowed.selector, 0);
        _skipsItem(0, 5, IPolicyWallet.CeilingExceeded.selector, CEILING);
        _pays(0, 1, CEILING);
        wallet.payBatch(one(batchOf(agent, 0, items)));
    }

    /// @dev 60 fits, 40 and a unit does not, 40 does, one unit does not.
    function _fills(bytes4 reason) private {
        bytes32[] memory items = new bytes32[](4);
        items[0] = item(shop, 60 * USD);
        items[1] = item(shop, 40 * USD + 1);
        items[2] = item(shop, 40 * USD);
        items[3] = item(shop, 1);
        _skipsItem(0, 1, reason, 40 * USD);
        _skipsItem(0, 3, reason, 0);
        _pays(0, 2, 100 * USD);
        wallet.payBatch(one(batchOf(agent, 0, items)));
    }

    function test_day_cap() public {
        AgentLimits memory l = wide();
        l.dayCap = uint48(100 * USD);
        bornWith(l);
        _fills(IPolicyWallet.DayCapExceeded.selector);
    }

    function test_month_cap() public {
        AgentLimits memory l = wide();
        l.monthCap = uint48(100 * USD);
        bornWith(l);
        _fills(IPolicyWallet.MonthCapExceeded.selector);
    }

    function test_budget() public {
        AgentLimits memory l = wide();
        l.budget = uint64(100 * USD);
        bornWith(l);
        _fills(IPolicyWallet.BudgetExceeded.selector);
    }

    function test_wallet_cap() public {
        born(wide(), payee(), 100 * USD);
        _fills(IPolicyWallet.WalletCapExceeded.selector);
    }

    function test_payee_cap() public {
        PayeeLimits memory p = payee();
        p.cap = uint48(100 * USD);
        bornWith(p);
        _fills(IPolicyWallet.PayeeCapExceeded.selector);
    }

    function test_cooldown_within_the_list() public {
        PayeeLimits memory p = payee();
        p.cooldown = 60;
        bornWith(p);
        _skipsItem(0, 1, IPolicyWallet.PayeeCoolingDown.selector, START + 60);
        _pays(0, 1, 1);
        wallet.payBatch(one(batchOf(agent, 0, _list(2, 1))));
    }

    function test_failed_transfer_is_skipped_and_not_counted() public {
        vm.prank(treasury);
        usdc.blacklist(cafe);
        _skipsItem(0, 1, IPolicyWallet.TransferFailed.selector, 0);
        _pays(0, 2, 5);
        wallet.payBatch(one(batchOf(agent, 0, triple(item(shop, 2), item(cafe, 7), item(shop, 3)))));
        (uint256 day,,,) = wallet.room(agent);
        assertEq(day, DAY_CAP - 5);
    }

    /// @dev The list was run, so its nonce is used.
    function test_list_of_which_nothing_is_paid() public {
        _pays(0, 0, 0);
        wallet.payBatch(one(batchOf(agent, 0, _single(stranger, 1))));
        assertTrue(wallet.nonceUsed(agent, 0));
    }
}
