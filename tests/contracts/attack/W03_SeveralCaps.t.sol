// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {AgentLimits, IPolicyWallet, PayeeLimits} from "contracts/interfaces/IPolicyWallet.sol";
import {Payment, Stage} from "./Stage.sol";

/// @dev W3. Several caps at once: the tightest wins and none shares a counter with another. (One system kept two
/// period caps in one state word; together they let four times the smaller through.)
contract W03_SeveralCaps is Stage {
    uint256 private constant MONTH_CAP = 250 * USD;
    uint256 private constant BUDGET = 380 * USD;
    uint256 private constant PAYEE_CAP = 60 * USD;

    function setUp() public override {
        super.setUp();
        AgentLimits memory l = limits();
        l.dayCap = uint48(100 * USD);
        l.monthCap = uint48(MONTH_CAP);
        l.budget = uint64(BUDGET);
        PayeeLimits memory capped = payee();
        capped.cap = uint48(PAYEE_CAP);
        bytes[] memory changes = baseChanges();
        changes[0] = setAgent(agent, l);
        changes[3] = setPayee(cafe, capped);
        wallet = deploy(address(usdc), changes);
        fund(address(wallet), FUNDS);
    }

    function test_each_cap_binds_in_its_turn() public {
        refused(
            payment(cafe, PAYEE_CAP + 1, 0), why2(IPolicyWallet.PayeeCapExceeded.selector, PAYEE_CAP + 1, PAYEE_CAP)
        );
        paySome(cafe, PAYEE_CAP, 0);
        refused(payment(cafe, 1, 1), why2(IPolicyWallet.PayeeCapExceeded.selector, 1, 0));
        refused(payment(shop, 41 * USD, 1), why2(IPolicyWallet.DayCapExceeded.selector, 41 * USD, 40 * USD));
        paySome(shop, 40 * USD, 1);

        vm.warp(vm.getBlockTimestamp() + 30 hours);
        paySome(shop, 100 * USD, 2);
        vm.warp(vm.getBlockTimestamp() + 30 hours);
        refused(payment(shop, 51 * USD, 3), why2(IPolicyWallet.MonthCapExceeded.selector, 51 * USD, 50 * USD));
        paySome(shop, 50 * USD, 3);

        vm.warp(vm.getBlockTimestamp() + 40 days);
        paySome(shop, 100 * USD, 4);
        vm.warp(vm.getBlockTimestamp() + 30 hours);
        refused(payment(shop, 31 * USD, 5), why2(IPolicyWallet.BudgetExceeded.selector, 31 * USD, 30 * USD));
        paySome(shop, 30 * USD, 5);

        // The payee's cap is over its life: no window gives it back.
        refused(payment(cafe, 1, 6), why2(IPolicyWallet.PayeeCapExceeded.selector, 1, 0));
        assertEq(usdc.balanceOf(shop) + usdc.balanceOf(cafe), BUDGET);
    }

    function test_room_counts_each_window_by_itself() public {
        enact(setCap(1_000 * USD));
        paySome(shop, 70 * USD, 0);
        (uint256 day, uint256 month, uint256 budget, uint256 left) = wallet.room(agent);
        assertEq(day, 30 * USD);
        assertEq(month, MONTH_CAP - 70 * USD);
        assertEq(budget, BUDGET - 70 * USD);
        assertEq(left, 930 * USD);
        (day, month, budget, left) = wallet.room(agent2);
        assertEq(day, DAY_CAP);
        assertEq(month, type(uint256).max);
        assertEq(budget, type(uint256).max);
        assertEq(left, 930 * USD);
    }

    /// @dev A refusal by one cap must leave every other counter as it was.
    function test_refusal_books_nothing_anywhere() public {
        paySome(cafe, PAYEE_CAP, 0);
        (uint256 day, uint256 month, uint256 budget,) = wallet.room(agent);
        Payment memory p = payment(cafe, 1, 1);
        refused(p, why2(IPolicyWallet.PayeeCapExceeded.selector, 1, 0));
        (uint256 day2, uint256 month2, uint256 budget2,) = wallet.room(agent);
        assertEq(day, day2);
        assertEq(month, month2);
        assertEq(budget, budget2);
    }
}
