// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {Payment} from "../attack/Stage.sol";
import {Unit} from "./Unit.sol";
import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {AgentLimits, IPolicyWallet, PayeeLimits} from "contracts/interfaces/IPolicyWallet.sol";

contract PayTest is Unit {
    function test_pays_and_says_so() public {
        Payment memory p = payment(shop, 7 * USD, 3);
        p.context = "why";
        vm.expectEmit(address(wallet));
        emit IPolicyWallet.Paid(agent, shop, 7 * USD, 1, "why");
        vm.expectEmit(address(usdc));
        emit IERC20.Transfer(address(wallet), shop, 7 * USD);
        pay(p);
        assertEq(usdc.balanceOf(shop), 7 * USD);
        assertTrue(wallet.nonceUsed(agent, 3));
    }

    function test_version_in_the_event_is_the_agents() public {
        tightenBy(0, setAgent(agent, limits()));
        vm.expectEmit(address(wallet));
        emit IPolicyWallet.Paid(agent, shop, 1, 2, 0);
        paySome(shop, 1, 0);
    }

    /* ADMISSION */

    function test_deadline_is_inclusive() public {
        Payment memory p = payment(shop, 1, 0);
        p.deadline = START;
        vm.warp(START + 1);
        refused(p, why1(IPolicyWallet.DeadlinePassed.selector, START));
        vm.warp(START);
        pay(p);
    }

    function test_nonce_once() public {
        paySome(shop, 1, 77);
        refused(payment(shop, 1, 77), why1(IPolicyWallet.NonceUsed.selector, 77));
        paySome(shop, 1, 76);
        paySome(shop, 1, 78);
    }

    function test_signature_of_another() public {
        Payment memory p = payment(shop, 1, 0);
        (bytes32 r, bytes32 vs) = compact(agent2Key, digestOf(p));
        refusedWith(p, r, vs, why0(IPolicyWallet.InvalidSignature.selector));
    }

    /* STANDING */

    function test_frozen_wallet_comes_before_frozen_agent() public {
        tightenBy(0, setFrozen(agent, true));
        refused(payment(shop, 1, 0), why1(IPolicyWallet.AgentFrozen.selector, uint160(agent)));
        tightenBy(0, setFrozen(address(0), true));
        refused(payment(shop, 1, 0), why0(IPolicyWallet.WalletFrozen.selector));
        submit(setFrozen(address(0), false));
        submit(setFrozen(agent, false));
        paySome(shop, 1, 0);
    }

    function test_unknown_agent() public {
        (address unknown, uint256 key) = makeAddrAndKey("unknown");
        Payment memory p = payment(shop, 1, 0);
        p.agent = unknown;
        (bytes32 r, bytes32 vs) = compact(key, digestOf(p));
        refusedWith(p, r, vs, why1(IPolicyWallet.AgentInactive.selector, uint160(unknown)));
    }

    function test_expiry_is_exclusive() public {
        AgentLimits memory l = wide();
        l.expiry = uint40(START + 10);
        bornWith(l);
        vm.warp(START + 10);
        refused(payment(shop, 1, 0), why1(IPolicyWallet.AgentExpired.selector, START + 10));
        vm.warp(START + 9);
        paySome(shop, 1, 0);
    }

    /* PAYEE */

    function test_nothing() public {
        refused(payment(shop, 0, 0), why2(IPolicyWallet.ZeroAmount.selector, 0, 0));
    }

    function test_payees_that_are_not_allowed() public {
        address[5] memory to = [stranger, agent, address(0), address(wallet), address(usdc)];
        for (uint256 i; i < to.length; ++i) {
            refused(payment(to[i], 5, 0), why2(IPolicyWallet.PayeeNotAllowed.selector, 5, 0));
        }
    }

    function test_one_category_in_common() public {
        PayeeLimits memory p = payee();
        p.categories = 0x8002;
        bornWith(p);
        refused(payment(shop, 5, 0), why2(IPolicyWallet.PayeeNotAllowed.selector, 5, 0));
        p.categories = 0x8003;
        bornWith(p);
        paySome(shop, 5, 0);
    }

    function test_payee_cap() public {
        PayeeLimits memory p = payee();
        p.cap = uint48(50 * USD);
        bornWith(p);
        paySome(shop, 30 * USD, 0);
        refused(payment(shop, 20 * USD + 1, 1), why2(IPolicyWallet.PayeeCapExceeded.selector, 20 * USD + 1, 20 * USD));
        paySome(shop, 20 * USD, 1);
        refused(payment(shop, 1, 2), why2(IPolicyWallet.PayeeCapExceeded.selector, 1, 0));
        vm.warp(START + 400 days);
        refused(payment(shop, 1, 2), why2(IPolicyWallet.PayeeCapExceeded.selector, 1, 0));
    }

    function test_cooldown_ends_on_its_second() public {
        PayeeLimits memory p = payee();
        p.cooldown = 60;
        bornWith(p);
        paySome(shop, 1, 0);
        vm.warp(START + 59);
        refused(payment(shop, 1, 1), why2(IPolicyWallet.PayeeCoolingDown.selector, 1, START + 60));
        vm.warp(START + 60);
        paySome(shop, 1, 1);
    }

    /* THE AGENT'S AND THE WALLET'S LIMITS */

    function test_ceiling() public {
        bornWith(wide());
        refused(payment(shop, CEILING + 1, 0), why2(IPolicyWallet.CeilingExceeded.selector, CEILING + 1, CEILING));
        paySome(shop, CEILING, 0);
        paySome(shop, CEILING, 1);
    }

    /// @dev Pays 60 of 100, is refused 40 and a unit with 40 left, pays the 40, and is refused one unit.
    function _fills(bytes4 error_) private {
        paySome(shop, 60 * USD, 0);
        refused(payment(shop, 40 * USD + 1, 1), why2(error_, 40 * USD + 1, 40 * USD));
        paySome(shop, 40 * USD, 1);
        refused(payment(shop, 1, 2), why2(error_, 1, 0));
    }

    function test_day_cap() public {
        AgentLimits memory l = wide();
        l.dayCap = uint48(100 * USD);
        bornWith(l);
        _fills(IPolicyWallet.DayCapExceeded.selector);
        vm.warp(START + 24 hours - 1);
        refused(payment(shop, 1, 2), why2(IPolicyWallet.DayCapExceeded.selector, 1, 0));
        vm.warp(START + 30 hours);
        paySome(shop, 100 * USD, 2);
    }

    function test_month_cap() public {
        AgentLimits memory l = wide();
        l.monthCap = uint48(100 * USD);
        bornWith(l);
        _fills(IPolicyWallet.MonthCapExceeded.selector);
        vm.warp(START + 30 days - 1);
        refused(payment(shop, 1, 2), why2(IPolicyWallet.MonthCapExceeded.selector, 1, 0));
        vm.warp(START + 37.5 days);
        paySome(shop, 100 * USD, 2);
    }

    function test_budget() public {
        AgentLimits memory l = wide();
        l.budget = uint64(100 * USD);
        bornWith(l);
        _fills(IPolicyWallet.BudgetExceeded.selector);
        vm.warp(START + 1000 days);
        refused(payment(shop, 1, 2), why2(IPolicyWallet.BudgetExceeded.selector, 1, 0));
    }

    function test_wallet_cap_is_shared() public {
        born(wide(), payee(), 100 * USD);
        _fills(IPolicyWallet.WalletCapExceeded.selector);
        Payment memory other = payment(shop, 1, 0);
        other.agent = agent2;
        refused(other, why2(IPolicyWallet.WalletCapExceeded.selector, 1, 0));
        vm.warp(START + 24 hours - 1);
        refused(payment(shop, 1, 2), why2(IPolicyWallet.WalletCapExceeded.selector, 1, 0));
        vm.warp(START + 32 hours);
        pay(other);
    }

    function test_failed_transfer() public {
        vm.prank(treasury);
        usdc.blacklist(shop);
        refused(payment(shop, 1, 0), why0(IPolicyWallet.TransferFailed.selector));
    }
}
