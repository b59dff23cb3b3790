// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {AgentLimits, IPolicyWallet} from "contracts/interfaces/IPolicyWallet.sol";
import {Payment, Stage} from "./Stage.sol";

/// @dev W2. Every limit at its exact value, one unit beyond it, and at its extremes.
contract W02_ExactEdges is Stage {
    function _with(AgentLimits memory l) private {
        bytes[] memory changes = baseChanges();
        changes[0] = setAgent(agent, l);
        wallet = deploy(address(usdc), changes);
        fund(address(wallet), FUNDS);
    }

    function test_ceiling_itself_passes_and_one_more_does_not() public {
        paySome(shop, CEILING, 0);
        refused(payment(shop, CEILING + 1, 1), why2(IPolicyWallet.CeilingExceeded.selector, CEILING + 1, CEILING));
    }

    function test_day_cap_to_the_unit() public {
        for (uint256 i; i < 9; ++i) {
            paySome(shop, CEILING, i);
        }
        paySome(shop, CEILING - 7, 9);
        refused(payment(shop, 8, 10), why2(IPolicyWallet.DayCapExceeded.selector, 8, 7));
        paySome(shop, 7, 10);
        refused(payment(shop, 1, 11), why2(IPolicyWallet.DayCapExceeded.selector, 1, 0));
        assertEq(usdc.balanceOf(shop), DAY_CAP);
    }

    function test_expiry_is_exclusive_and_brings_no_fresh_allowance() public {
        AgentLimits memory l = limits();
        l.expiry = uint40(START + 30 hours);
        l.dayCap = uint48(50 * USD);
        _with(l);
        paySome(shop, 50 * USD, 0);
        vm.warp(START + 30 hours - 1);
        paySome(shop, 1, 1);
        vm.warp(START + 30 hours);
        refused(payment(shop, 1, 2), abi.encodeWithSelector(IPolicyWallet.AgentExpired.selector, START + 30 hours));
        vm.warp(START + 300 days); // all windows are empty again
        refused(payment(shop, 1, 2), abi.encodeWithSelector(IPolicyWallet.AgentExpired.selector, START + 30 hours));
    }

    function test_zero_limits_let_nothing_through() public {
        AgentLimits memory l = limits();
        l.ceiling = 0;
        _with(l);
        refused(payment(shop, 1, 0), why2(IPolicyWallet.CeilingExceeded.selector, 1, 0));

        l = limits();
        l.dayCap = 0;
        _with(l);
        refused(payment(shop, 1, 0), why2(IPolicyWallet.DayCapExceeded.selector, 1, 0));

        l = limits();
        l.monthCap = 0;
        _with(l);
        refused(payment(shop, 1, 0), why2(IPolicyWallet.MonthCapExceeded.selector, 1, 0));

        l = limits();
        l.budget = 0;
        _with(l);
        refused(payment(shop, 1, 0), why2(IPolicyWallet.BudgetExceeded.selector, 1, 0));

        l = limits();
        l.categories = 0;
        _with(l);
        refused(payment(shop, 1, 0), why2(IPolicyWallet.PayeeNotAllowed.selector, 1, 0));
    }

    function test_budget_to_the_unit_and_for_ever() public {
        AgentLimits memory l = limits();
        l.budget = uint64(CEILING + 5);
        _with(l);
        paySome(shop, CEILING, 0);
        refused(payment(shop, 6, 1), why2(IPolicyWallet.BudgetExceeded.selector, 6, 5));
        paySome(shop, 5, 1);
        vm.warp(START + 3650 days);
        refused(payment(shop, 1, 2), why2(IPolicyWallet.BudgetExceeded.selector, 1, 0));
    }

    function test_wallet_cap_to_the_unit() public {
        enact(setCap(150 * USD));
        paySome(shop, CEILING, 0);
        Payment memory p = payment(shop, 50 * USD + 1, 0);
        p.agent = agent2;
        refused(p, why2(IPolicyWallet.WalletCapExceeded.selector, 50 * USD + 1, 50 * USD));
        p.amount = 50 * USD;
        pay(p);
        refused(payment(shop, 1, 1), why2(IPolicyWallet.WalletCapExceeded.selector, 1, 0));
    }

    function test_wallet_cap_of_zero_stops_all() public {
        enact(setCap(0));
        refused(payment(shop, 1, 0), why2(IPolicyWallet.WalletCapExceeded.selector, 1, 0));
    }

    /// @dev The largest caps the words can hold still hold: no lane overflows into its neighbour.
    function test_largest_caps_hold_to_the_unit() public {
        uint48 top = type(uint48).max - 1;
        AgentLimits memory l = limits();
        (l.ceiling, l.dayCap, l.monthCap) = (type(uint48).max, top, top);
        _with(l);
        fund(address(wallet), type(uint64).max);
        uint256 step = 5 hours; // hits each of the five lanes
        uint256 part = uint256(top) / 6;
        for (uint256 i; i < 5; ++i) {
            paySome(shop, part, i);
            vm.warp(vm.getBlockTimestamp() + step);
        }
        uint256 left = top - 5 * part;
        refused(payment(shop, left + 1, 5), why2(IPolicyWallet.DayCapExceeded.selector, left + 1, left));
        paySome(shop, left, 5);
        (uint256 day, uint256 month,,) = wallet.room(agent);
        assertEq(day, 0);
        assertEq(month, 0);
    }
}
