// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {Unit} from "./Unit.sol";
import {AgentLimits, IPolicyChanges, IPolicyWallet, PayeeLimits} from "contracts/interfaces/IPolicyWallet.sol";

contract ViewsTest is Unit {
    function _checks(address to, uint256 amount, uint256 overrides, bytes4 reason, uint256 left) private view {
        (bytes4 reason_, uint256 left_) = wallet.check(agent, to, amount, overrides);
        assertEq(reason_, reason);
        assertEq(left_, left);
    }

    function _allows(address to, uint256 amount, uint256 overrides) private view {
        _checks(to, amount, overrides, 0, 0);
    }

    /* agentLimits, payeeLimits */

    function test_agent_limits() public {
        AgentLimits memory l = AgentLimits(1, 2, 3, 4, uint40(FAR), 0x8001);
        bornWith(l);
        (AgentLimits memory got, uint256 version, bool frozen) = wallet.agentLimits(agent);
        assertEq(abi.encode(got), abi.encode(l));
        assertEq(version, 1);
        assertFalse(frozen);
        tightenBy(0, setFrozen(agent, true));
        (,, frozen) = wallet.agentLimits(agent);
        assertTrue(frozen);
        (got, version, frozen) = wallet.agentLimits(stranger);
        assertEq(abi.encode(got), abi.encode(AgentLimits(0, 0, 0, 0, 0, 0)));
        assertEq(version, 0);
        assertFalse(frozen);
        bornWith(wide()); // off comes back as it went in
        (got,,) = wallet.agentLimits(agent);
        assertEq(abi.encode(got), abi.encode(wide()));
    }

    function test_payee_limits() public {
        PayeeLimits memory p = PayeeLimits(0x8001, uint48(50 * USD), 60);
        bornWith(p);
        paySome(shop, 20 * USD, 0);
        (PayeeLimits memory got, uint256 spent, uint256 lastPaid) = wallet.payeeLimits(shop);
        assertEq(abi.encode(got), abi.encode(p));
        assertEq(spent, 20 * USD);
        assertEq(lastPaid, START);
        (got, spent, lastPaid) = wallet.payeeLimits(stranger);
        assertEq(abi.encode(got), abi.encode(PayeeLimits(0, 0, 0)));
        assertEq(spent + lastPaid, 0);
    }

    /* room */

    function test_room() public {
        born(AgentLimits(uint48(CEILING), 10e6, 20e6, 30e6, uint40(FAR), 1), payee(), 40 * USD);
        paySome(shop, 4 * USD, 0);
        _room(6 * USD, 16 * USD, 26 * USD, 36 * USD);
        vm.warp(START + 32 hours);
        _room(10 * USD, 16 * USD, 26 * USD, 40 * USD);
        vm.warp(START + 38 days);
        _room(10 * USD, 20 * USD, 26 * USD, 40 * USD);
        tightenBy(0, setAgent(agent, AgentLimits(0, 1, 1, 1, uint40(FAR), 1)));
        _room(1, 1, 0, 40 * USD); // a budget below what is spent
    }

    function test_room_without_limits() public {
        bornWith(wide());
        uint256 max = type(uint256).max;
        _room(max, max, max, max);
    }

    function _room(uint256 day, uint256 month, uint256 budget, uint256 left) private view {
        (uint256 day_, uint256 month_, uint256 budget_, uint256 left_) = wallet.room(agent);
        assertEq(day_, day);
        assertEq(month_, month);
        assertEq(budget_, budget);
        assertEq(left_, left);
    }

    /* check */

    function test_check_names_the_first_limit_that_refuses() public {
        born(AgentLimits(50, 40, 30, 20, uint40(FAR), 1), PayeeLimits(1, 60, 60), 0);
        _checks(shop, 0, 0, IPolicyWallet.ZeroAmount.selector, 0);
        _checks(stranger, 61, 0, IPolicyWallet.PayeeNotAllowed.selector, 0);
        _checks(shop, 61, 0, IPolicyWallet.PayeeCapExceeded.selector, 60);
        _checks(shop, 60, 0, IPolicyWallet.CeilingExceeded.selector, 50);
        _checks(shop, 50, 0, IPolicyWallet.DayCapExceeded.selector, 40);
        _checks(shop, 40, 0, IPolicyWallet.MonthCapExceeded.selector, 30);
        _checks(shop, 30, 0, IPolicyWallet.BudgetExceeded.selector, 20);
        _checks(shop, 20, 0, IPolicyWallet.WalletCapExceeded.selector, 0);
    }

    function test_check_past_overrides() public {
        born(AgentLimits(50, 40, 30, 20, uint40(FAR), 1), PayeeLimits(1, 60, 60), 0);
        _checks(stranger, 61, 2, IPolicyWallet.CeilingExceeded.selector, 50);
        _checks(stranger, 61, 3, IPolicyWallet.DayCapExceeded.selector, 40);
        _checks(stranger, 61, 7, IPolicyWallet.WalletCapExceeded.selector, 0);
        _allows(stranger, 61, 15);
        _allows(stranger, type(uint256).max, 15);
        _checks(shop, 61, 13, IPolicyWallet.PayeeCapExceeded.selector, 60);
        _allows(shop, 20, 8);
    }

    function test_check_cooldown_and_edges() public {
        bornWith(PayeeLimits(1, OFF, 60));
        _allows(shop, CEILING, 0);
        _checks(shop, CEILING + 1, 0, IPolicyWallet.CeilingExceeded.selector, CEILING);
        paySome(shop, 1, 0);
        _checks(shop, 1, 0, IPolicyWallet.PayeeCoolingDown.selector, START + 60);
        vm.warp(START + 60);
        _allows(shop, 1, 0);
    }

    function test_check_standing() public {
        (bytes4 reason, uint256 detail) = wallet.check(stranger, shop, 1, 15);
        assertEq(reason, IPolicyWallet.AgentInactive.selector);
        assertEq(detail, uint160(stranger));
        vm.warp(FAR);
        _checks(shop, 1, 15, IPolicyWallet.AgentExpired.selector, FAR);
        tightenBy(0, setFrozen(agent, true));
        _checks(shop, 1, 15, IPolicyWallet.AgentFrozen.selector, uint160(agent));
        tightenBy(0, setFrozen(address(0), true));
        _checks(shop, 1, 15, IPolicyWallet.WalletFrozen.selector, 0);
    }

    /* nonceUsed, cancelNonce */

    function test_cancel_nonce() public {
        uint256[4] memory nonces = [uint256(0), 255, 256, type(uint256).max];
        for (uint256 i; i < 4; ++i) {
            assertFalse(wallet.nonceUsed(agent, nonces[i]));
            vm.expectEmit(address(wallet));
            emit IPolicyWallet.NonceCancelled(agent, nonces[i]);
            vm.prank(agent);
            wallet.cancelNonce(nonces[i]);
            assertTrue(wallet.nonceUsed(agent, nonces[i]));
            assertFalse(wallet.nonceUsed(agent2, nonces[i]));
            refused(payment(shop, 1, nonces[i]), why1(IPolicyWallet.NonceUsed.selector, nonces[i]));
            vm.prank(agent);
            vm.expectRevert(why1(IPolicyWallet.NonceUsed.selector, nonces[i]));
            wallet.cancelNonce(nonces[i]);
        }
        assertFalse(wallet.nonceUsed(agent, 1));
        assertFalse(wallet.nonceUsed(agent, 257));
    }

    /* delayOf, readyAt, walletCap */

    function test_delays_at_birth() public {
        assertEq(wallet.delayOf(IPolicyChanges.setAgent.selector), DELAY);
        assertEq(wallet.delayOf(IPolicyChanges.setPayee.selector), DELAY);
        assertEq(wallet.delayOf(IPolicyChanges.setWalletCap.selector), DELAY);
        assertEq(wallet.delayOf(IPolicyChanges.setOperators.selector), DELAY);
        assertEq(wallet.delayOf(IPolicyChanges.setDelay.selector), DELAY);
        assertEq(wallet.delayOf(IPolicyChanges.setFrozen.selector), 0);
        assertEq(wallet.delayOf(IPolicyChanges.publishPolicy.selector), 0);
        assertEq(wallet.delayOf(IPolicyChanges.withdraw.selector), 0);
        assertEq(wallet.delayOf(IPolicyChanges.cancelAgentNonce.selector), 0);
        assertEq(wallet.delayOf(IPolicyChanges.revoke.selector), 0);
        vm.expectRevert(abi.encodeWithSelector(IPolicyWallet.UnknownChange.selector, bytes4(0)));
        wallet.delayOf(0);
    }

    function test_other_views_at_birth() public view {
        assertEq(wallet.walletCap(), type(uint256).max);
        assertFalse(wallet.walletFrozen());
        assertEq(wallet.policyHash(), 0);
        assertEq(wallet.readyAt(""), 0);
    }
}
