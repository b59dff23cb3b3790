// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {AgentLimits, PayeeLimits} from "contracts/interfaces/IPolicyWallet.sol";
import {AgentPolicy, BUDGET_ON, DAY_ON, MONTH_ON} from "contracts/types/AgentPolicy.sol";
import {Budget} from "contracts/types/Budget.sol";
import {PayeeRecord} from "contracts/types/PayeeRecord.sol";
import {WalletState, WalletStateLib} from "contracts/types/WalletState.sol";
import {Test} from "forge-std/Test.sol";

/// @dev What goes into a word comes out of it, whatever stood in it before and whatever order things happen in.
contract WordsTest is Test {
    uint48 private constant OFF = type(uint48).max;

    function testFuzz_policy_round_trip(uint256 dirt, AgentLimits memory limits) public pure {
        AgentPolicy before = AgentPolicy.wrap(dirt);
        vm.assume(before.version() < type(uint24).max);
        _policyHolds(before, limits);
        // A fuzzer hardly ever finds the values that switch a limit off.
        limits.dayCap = OFF;
        _policyHolds(before, limits);
        limits.monthCap = OFF;
        _policyHolds(before, limits);
        limits.budget = type(uint64).max;
        _policyHolds(before, limits);
        limits.dayCap = 0;
        _policyHolds(before, limits);
    }

    function _policyHolds(AgentPolicy before, AgentLimits memory limits) private pure {
        AgentPolicy policy = before.replace(limits);
        assertEq(policy.ceiling(), limits.ceiling);
        assertEq(policy.dayCap(), limits.dayCap);
        assertEq(policy.monthCap(), limits.monthCap);
        assertEq(policy.expiry(), limits.expiry);
        assertEq(policy.categories(), limits.categories);
        assertEq(policy.version(), before.version() + 1);
        assertEq(policy.frozen(), before.frozen());
        uint256 on = (limits.dayCap == OFF ? 0 : DAY_ON) | (limits.monthCap == OFF ? 0 : MONTH_ON)
            | (limits.budget == type(uint64).max ? 0 : BUDGET_ON);
        assertEq(policy.on(), on);
        assertEq(AgentPolicy.unwrap(policy) >> 232, 0);
        AgentPolicy turned = policy.withFrozen(!policy.frozen());
        assertEq(AgentPolicy.unwrap(turned) ^ AgentPolicy.unwrap(policy), 1 << 200);
    }

    function replace(AgentPolicy policy, AgentLimits memory limits) external pure returns (AgentPolicy) {
        return policy.replace(limits);
    }

    /// @dev The last version cannot be followed by version 0, which would be an agent that never was.
    function testFuzz_version_does_not_wrap(uint256 dirt, AgentLimits memory limits) public {
        AgentPolicy last = AgentPolicy.wrap(dirt | uint256(type(uint24).max) << 208);
        vm.expectRevert(abi.encodeWithSignature("Panic(uint256)", 0x11));
        this.replace(last, limits);
    }

    function testFuzz_payee_round_trip(
        uint256 dirt,
        PayeeLimits memory first,
        PayeeLimits memory second,
        uint48 amount,
        uint40 time
    ) public pure {
        PayeeRecord old = PayeeRecord.wrap(dirt);
        PayeeRecord record = old.replace(first);
        _payeeHolds(record, old, first);
        amount = uint48(bound(amount, 0, OFF - record.spent()));
        PayeeRecord paid = record.add(amount, time);
        assertEq(paid.spent(), record.spent() + (first.cap == OFF ? 0 : amount));
        assertEq(paid.lastPaid(), first.cooldown == 0 ? record.lastPaid() : time);
        assertEq(PayeeRecord.unwrap(paid.sub(amount, record)), PayeeRecord.unwrap(record));
        _payeeHolds(paid.replace(second), paid, second);
        first.cap = OFF;
        _payeeHolds(old.replace(first), old, first);
        first.cooldown = 0;
        _payeeHolds(old.replace(first), old, first);
        first.cap = 0;
        _payeeHolds(old.replace(first), old, first);
    }

    function _payeeHolds(PayeeRecord record, PayeeRecord old, PayeeLimits memory limits) private pure {
        assertEq(record.categories(), limits.categories);
        assertEq(record.cap(), limits.cap);
        assertEq(record.cooldown(), limits.cooldown);
        assertEq(record.counts(), limits.cap != OFF || limits.cooldown != 0);
        assertEq(record.spent(), old.spent());
        assertEq(record.lastPaid(), old.lastPaid());
    }

    /// @dev Several payments of a capped payee in one batch, the failed ones taken back in any order.
    function testFuzz_payee_takes_back_in_any_order(uint32[4] memory amounts, uint8 failed) public pure {
        PayeeRecord start = PayeeRecord.wrap(0).replace(PayeeLimits(1, OFF - 1, 0));
        PayeeRecord record = start;
        PayeeRecord[4] memory found;
        uint256 kept;
        for (uint256 i; i < 4; ++i) {
            found[i] = record;
            record = record.add(amounts[i], 5);
        }
        for (uint256 i; i < 4; ++i) {
            if (failed >> i & 1 == 1) record = record.sub(amounts[i], found[i]);
            else kept += amounts[i];
        }
        assertEq(record.spent(), kept);
        assertEq(record.lastPaid(), 0);
    }

    function testFuzz_budget(uint64 limit, uint64 next, uint64 first, uint64 second) public pure {
        first = uint64(bound(first, 0, limit));
        second = uint64(bound(second, 0, limit - first));
        Budget budget = Budget.wrap(0).withLimit(limit).add(first).add(second);
        assertEq(budget.limit(), limit);
        assertEq(budget.spent(), uint256(first) + second);
        assertEq(Budget.unwrap(budget) >> 128, 0);
        budget = budget.withLimit(next).sub(first);
        assertEq(budget.limit(), next);
        assertEq(budget.spent(), second);
    }

    function testFuzz_wallet_state(uint256 dirt, uint256 cap, bool frozen) public pure {
        WalletState before = WalletState.wrap(dirt);
        cap = bound(cap, 0, WalletStateLib.MAX_CAP / WalletStateLib.UNIT) * WalletStateLib.UNIT;
        WalletState state = before.withFrozen(frozen).withCap(cap);
        assertEq(state.cap(), cap);
        assertTrue(state.capOn());
        assertEq(state.frozen(), frozen);
        assertEq(state.spent(), before.spent());
        WalletState off = state.withoutCap();
        assertFalse(off.capOn());
        assertEq(off.frozen(), frozen);
        assertEq(off.spent(), before.spent());
        uint256 changed = WalletState.unwrap(off) ^ dirt;
        assertEq(changed & (2 ** 200 - 1), 0, "lanes");
        assertEq(uint16(changed >> 232), 0, "index");
        assertEq(changed >> 250, 0, "threshold");
    }

    function testFuzz_threshold(uint256 dirt, uint8 count) public pure {
        count = uint8(bound(count, 0, WalletStateLib.MAX_THRESHOLD));
        WalletState state = WalletState.wrap(dirt).withThreshold(count);
        assertEq(state.threshold(), count);
        assertEq((WalletState.unwrap(state) ^ dirt) & (2 ** 250 - 1), 0);
        assertEq(state.withThreshold(0).withFrozen(true).withCap(0).withoutCap().roll(9).threshold(), 0);
        assertEq(state.withFrozen(false).withCap(WalletStateLib.MAX_CAP).roll(9).add(1).threshold(), count);
    }

    function test_largest_wallet_cap() public pure {
        assertEq(WalletStateLib.MAX_CAP, 1_125_899_906 * WalletStateLib.UNIT);
        assertLt(WalletStateLib.MAX_CAP, 2 ** 50);
        assertGe(WalletStateLib.MAX_CAP + WalletStateLib.UNIT, 2 ** 50);
    }
}
