// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {AgentLimits, IPolicyWallet} from "contracts/interfaces/IPolicyWallet.sol";
import {Payment, Stage} from "./Stage.sol";

/// @dev W1. The attacker spends the whole cap just before a reset and again just after it. Fixed windows let twice
/// the cap through; here no interval of a period's length, wherever it lies, may see more than the cap.
contract W01_WindowEdge is Stage {
    uint256 private constant MONTH_CAP = 4_000 * USD;
    uint256 private constant WALLET_CAP = 1_300 * USD;
    uint256 private constant DAY = 1 days;
    uint256 private constant MONTH = 30 days;
    uint256 private constant DAY_STEP = 6 hours;

    struct Spent {
        uint256 time;
        uint256 amount;
        address by;
    }

    Spent[] private history;

    function setUp() public override {
        super.setUp();
        AgentLimits memory l = limits();
        l.ceiling = type(uint48).max;
        l.monthCap = uint48(MONTH_CAP);
        bytes[] memory changes = baseChanges();
        changes[0] = setAgent(agent, l);
        changes[1] = setAgent(agent2, l);
        wallet = deploy(address(usdc), changes);
        fund(address(wallet), FUNDS);
    }

    /// @dev Tried at every offset of the first payment inside its step, edges included.
    function test_cap_at_T_minus_1_and_T(uint256 offset) public {
        vm.warp((START / DAY_STEP + 1) * DAY_STEP + offset % DAY_STEP);
        uint256 first = vm.getBlockTimestamp();
        paySome(shop, DAY_CAP, 0);
        vm.warp(first + DAY - 1);
        refused(payment(shop, 1, 1), why2(IPolicyWallet.DayCapExceeded.selector, 1, 0));
        vm.warp(first + DAY);
        refused(payment(shop, 1, 1), why2(IPolicyWallet.DayCapExceeded.selector, 1, 0));
        vm.warp(first + DAY + DAY_STEP);
        paySome(shop, DAY_CAP, 1);
        assertEq(usdc.balanceOf(shop), 2 * DAY_CAP);
    }

    function test_last_second_of_a_step_and_first_second_of_the_next() public {
        vm.warp((START / DAY_STEP + 1) * DAY_STEP - 1);
        paySome(shop, DAY_CAP, 0);
        vm.warp(vm.getBlockTimestamp() + 1);
        refused(payment(shop, 1, 1), why2(IPolicyWallet.DayCapExceeded.selector, 1, 0));
        vm.warp(vm.getBlockTimestamp() + DAY); // the fifth step has ended
        paySome(shop, DAY_CAP, 1);
    }

    /// @dev Random payments of two agents against a ghost that keeps every payment: no window of the true length
    /// holds more than its cap, and what a window of length + step has room for is not refused.
    /// forge-config: ci.fuzz.runs = 1000
    function test_no_interval_holds_more_than_its_cap(uint256 seed) public {
        enact(setCap(WALLET_CAP));
        vm.warp(START + 10 days);
        for (uint256 i; i < 48; ++i) {
            seed = uint256(keccak256(abi.encode(seed)));
            vm.warp(vm.getBlockTimestamp() + (seed % 3 == 0 ? 0 : (seed >> 8) % (seed % 3 == 1 ? 9 hours : 4 days)));
            address by = seed & 0x80 == 0 ? agent : agent2;
            _tryToPay(by, (seed >> 128) % (DAY_CAP / 2) + 1, i);
        }
    }

    function _tryToPay(address by, uint256 amount, uint256 nonce) private {
        (bytes4 reason,) = wallet.check(by, shop, amount, 0);
        bool free = _spent(by, DAY + 6 hours) + amount <= DAY_CAP && _spent(by, MONTH + 7.5 days) + amount <= MONTH_CAP
            && _spent(address(0), DAY + 8 hours) + amount <= WALLET_CAP;
        Payment memory p = payment(shop, amount, nonce);
        p.agent = by;
        if (reason == 0) {
            pay(p);
            history.push(Spent(vm.getBlockTimestamp(), amount, by));
        } else {
            assertFalse(free, "refused although every window has room");
            (bytes32 r, bytes32 vs) = compact(keyOf(by), digestOf(p));
            vm.expectPartialRevert(reason);
            send(p, r, vs);
        }
        assertLe(_spent(by, DAY), DAY_CAP, "day");
        assertLe(_spent(by, MONTH), MONTH_CAP, "month");
        assertLe(_spent(address(0), DAY), WALLET_CAP, "wallet");
    }

    /// @dev What left in the last `window` seconds, both ends included; by 0 = both agents.
    function _spent(address by, uint256 window) private view returns (uint256 sum) {
        for (uint256 i; i < history.length; ++i) {
            if (history[i].time + window >= vm.getBlockTimestamp() && (by == address(0) || history[i].by == by)) {
                sum += history[i].amount;
            }
        }
    }
}
