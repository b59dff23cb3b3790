// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {AgentLimits, IPolicyWallet, PayeeLimits} from "contracts/interfaces/IPolicyWallet.sol";
import {Stage} from "./Stage.sol";

/// @dev W4. A cap raised or lowered in the middle of its window must neither forget what was spent nor underflow.
contract W04_CapChangedMidWindow is Stage {
    function setUp() public override {
        super.setUp();
        // No delay, so that the change falls into the window.
        wallet = deployFor(address(usdc), operatorSet(), 2, 0, baseChanges());
        fund(address(wallet), FUNDS);
        for (uint256 i; i < 5; ++i) {
            paySome(shop, CEILING, i);
        }
    }

    function test_raising_the_day_cap_keeps_what_was_spent() public {
        AgentLimits memory l = limits();
        l.dayCap = uint48(DAY_CAP + 100 * USD);
        submit(setAgent(agent, l));
        (uint256 day,,,) = wallet.room(agent);
        assertEq(day, DAY_CAP + 100 * USD - 500 * USD);
    }

    function test_lowering_below_spent_blocks_and_does_not_underflow() public {
        AgentLimits memory l = limits();
        l.dayCap = uint48(300 * USD);
        tightenBy(2, setAgent(agent, l));
        refused(payment(shop, 1, 5), why2(IPolicyWallet.DayCapExceeded.selector, 1, 0));
        (uint256 day,,,) = wallet.room(agent);
        assertEq(day, 0);

        l.dayCap = uint48(DAY_CAP); // loosened again: the 500 are still there
        submit(setAgent(agent, l));
        (day,,,) = wallet.room(agent);
        assertEq(day, 500 * USD);
    }

    function test_wallet_cap_lowered_and_raised_keeps_its_ring() public {
        submit(setCap(800 * USD));
        paySome(shop, CEILING, 5);
        tightenBy(0, setCap(50 * USD));
        refused(payment(shop, 1, 6), why2(IPolicyWallet.WalletCapExceeded.selector, 1, 0));
        submit(setCap(800 * USD));
        (,,, uint256 left) = wallet.room(agent);
        assertEq(left, 700 * USD);
    }

    function test_budget_and_payee_cap_keep_their_counters() public {
        AgentLimits memory l = limits();
        l.budget = uint64(300 * USD);
        submit(setAgent(agent, l));
        PayeeLimits memory capped = payee();
        capped.cap = uint48(200 * USD);
        submit(setPayee(shop, capped));
        paySome(shop, CEILING, 5);

        l.budget = uint64(50 * USD);
        tightenBy(0, setAgent(agent, l));
        refused(payment(shop, 1, 6), why2(IPolicyWallet.BudgetExceeded.selector, 1, 0));
        l.budget = uint64(1_000 * USD);
        submit(setAgent(agent, l));
        capped.cap = uint48(99 * USD);
        tightenBy(1, setPayee(shop, capped));
        refused(payment(shop, 1, 6), why2(IPolicyWallet.PayeeCapExceeded.selector, 1, 0));
        capped.cap = uint48(101 * USD);
        submit(setPayee(shop, capped));
        refused(payment(shop, 2 * USD, 6), why2(IPolicyWallet.PayeeCapExceeded.selector, 2 * USD, 1 * USD));
        (,, uint256 budget,) = wallet.room(agent);
        assertEq(budget, 900 * USD);
    }

    function test_switching_a_window_off_and_on_does_not_forget_what_was_counted() public {
        AgentLimits memory l = limits();
        l.dayCap = type(uint48).max;
        submit(setAgent(agent, l));
        l.dayCap = uint48(DAY_CAP);
        submit(setAgent(agent, l));
        (uint256 day,,,) = wallet.room(agent);
        assertEq(day, 500 * USD);
    }

    /// @dev An agent can't be removed and added to get a fresh day.
    function test_shutting_an_agent_out_and_in_gives_no_fresh_window() public {
        AgentLimits memory none = AgentLimits(0, 0, 0, 0, 0, 0);
        tightenBy(0, setAgent(agent, none));
        submit(setAgent(agent, limits()));
        (uint256 day,,,) = wallet.room(agent);
        assertEq(day, 500 * USD);
    }
}
