// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {Payment} from "../attack/Stage.sol";
import {Unit} from "./Unit.sol";
import {AgentLimits, IPolicyWallet, PayeeLimits} from "contracts/interfaces/IPolicyWallet.sol";

contract PayApprovedTest is Unit {
    uint256 private constant PAST_CEILING = 1;
    uint256 private constant PAST_PAYEE = 2;
    uint256 private constant PAST_AGENT_CAPS = 4;
    uint256 private constant PAST_WALLET_CAP = 8;

    /// @dev Every limit at 100 USDC, the shop's cap too.
    function setUp() public override {
        super.setUp();
        uint48 most = uint48(CEILING);
        born(AgentLimits(most, most, most, uint64(most), uint40(FAR), 1), PayeeLimits(1, most, 60), CEILING);
    }

    function _refuses(Payment memory p, uint256 overrides, bytes memory why) private {
        _refuses(p, overrides, 1, why);
    }

    function _refuses(Payment memory p, uint256 overrides, uint256 version, bytes memory why) private {
        _refuses(p, overrides, version, quorumFor(approvedDigest(p, overrides, version)), why);
    }

    function _refuses(Payment memory p, uint256 overrides, uint256 version, bytes memory quorum, bytes memory why)
        private
    {
        uint256 held = usdc.balanceOf(address(wallet));
        (bytes32 r, bytes32 vs) = compact(keyOf(p.agent), approvedDigest(p, overrides, version));
        vm.expectRevert(why);
        wallet.payApproved(p.agent, p.to, p.amount, p.nonce, p.deadline, p.context, overrides, version, r, vs, quorum);
        assertEq(usdc.balanceOf(address(wallet)), held);
    }

    function test_passes_and_says_so() public {
        Payment memory p = payment(shop, 5 * CEILING, 4);
        p.context = "why";
        vm.expectEmit(address(wallet));
        emit IPolicyWallet.Approved(agent, 4, shop, 5 * CEILING, 15, 1, "why");
        payApproved(p, 15);
        assertEq(usdc.balanceOf(shop), 5 * CEILING);
        assertTrue(wallet.nonceUsed(agent, 4));
    }

    /* WHAT IS ASKED */

    function test_overrides_name_one_to_fifteen() public {
        Payment memory p = payment(shop, 1, 0);
        _refuses(p, 0, why0(IPolicyWallet.NothingToOverride.selector));
        _refuses(p, 16, why0(IPolicyWallet.InvalidChange.selector));
        _refuses(p, type(uint256).max, why0(IPolicyWallet.InvalidChange.selector));
        payApproved(p, 15);
    }

    function test_version_is_the_agents_own() public {
        Payment memory p = payment(shop, 1, 0);
        _refuses(p, 1, 0, why2(IPolicyWallet.PolicyVersionChanged.selector, 0, 1));
        _refuses(p, 1, 2, why2(IPolicyWallet.PolicyVersionChanged.selector, 2, 1));
        payApproved(p, 1);
    }

    function test_admission() public {
        Payment memory p = payment(shop, 1, 0);
        p.deadline = START - 1;
        _refuses(p, 1, why1(IPolicyWallet.DeadlinePassed.selector, START - 1));
        p.deadline = START;
        payApproved(p, 2);
        _refuses(p, 2, why1(IPolicyWallet.NonceUsed.selector, 0));
    }

    function test_agent_must_sign() public {
        Payment memory p = payment(shop, 1, 0);
        bytes32 digest = approvedDigest(p, 1, 1);
        (bytes32 r, bytes32 vs) = compact(agent2Key, digest);
        vm.expectRevert(IPolicyWallet.InvalidSignature.selector);
        wallet.payApproved(p.agent, p.to, p.amount, p.nonce, p.deadline, p.context, 1, 1, r, vs, quorumFor(digest));
    }

    function test_quorum_must_sign_the_same() public {
        Payment memory p = payment(shop, 1, 0);
        bytes memory other = quorumFor(approvedDigest(p, 3, 1));
        _refuses(p, 1, 1, other, why0(IPolicyWallet.InvalidQuorum.selector));
        bytes memory none = abi.encode(new bytes[](0), new bytes[](0));
        _refuses(p, 1, 1, none, why0(IPolicyWallet.InvalidQuorum.selector));
    }

    /* WHAT NOTHING OVERRIDES */

    function test_standing() public {
        Payment memory p = payment(shop, 1, 0);
        tightenBy(0, setFrozen(agent, true));
        _refuses(p, 15, why1(IPolicyWallet.AgentFrozen.selector, uint160(agent)));
        tightenBy(0, setFrozen(address(0), true));
        _refuses(p, 15, why0(IPolicyWallet.WalletFrozen.selector));
        submit(setFrozen(address(0), false));
        submit(setFrozen(agent, false));
        AgentLimits memory l = limits();
        l.expiry = uint40(START);
        bornWith(l);
        _refuses(p = payment(shop, 1, 0), 15, why1(IPolicyWallet.AgentExpired.selector, START));
    }

    function test_reserved_payees_and_nothing() public {
        address[4] memory to = [address(0), address(wallet), address(usdc), agent];
        for (uint256 i; i < to.length; ++i) {
            _refuses(payment(to[i], 5, 0), 15, why2(IPolicyWallet.PayeeNotAllowed.selector, 5, 0));
        }
        _refuses(payment(shop, 0, 0), 15, why2(IPolicyWallet.ZeroAmount.selector, 0, 0));
    }

    /* EACH OVERRIDE BY ITSELF: the others hold, with their own error */

    function test_without_the_ceiling() public {
        bytes memory why = why2(IPolicyWallet.CeilingExceeded.selector, CEILING + 1, CEILING);
        _refuses(payment(shop, CEILING + 1, 0), 15 - PAST_CEILING, why);
        payApproved(payment(shop, CEILING, 0), 15 - PAST_CEILING);
    }

    function test_without_the_payee() public {
        uint256 overrides = 15 - PAST_PAYEE;
        _refuses(payment(stranger, 1, 0), overrides, why2(IPolicyWallet.PayeeNotAllowed.selector, 1, 0));
        bytes memory why = why2(IPolicyWallet.PayeeCapExceeded.selector, CEILING + 1, CEILING);
        _refuses(payment(shop, CEILING + 1, 0), overrides, why);
        payApproved(payment(shop, CEILING - 1, 0), overrides);
        _refuses(payment(shop, 1, 1), overrides, why2(IPolicyWallet.PayeeCoolingDown.selector, 1, START + 60));
        vm.warp(START + 60);
        payApproved(payment(shop, 1, 1), overrides);
    }

    function test_without_the_agents_caps() public {
        bytes memory why = why2(IPolicyWallet.DayCapExceeded.selector, CEILING + 1, CEILING);
        _refuses(payment(shop, CEILING + 1, 0), 15 - PAST_AGENT_CAPS, why);
        payApproved(payment(shop, CEILING, 0), 15 - PAST_AGENT_CAPS);
        (uint256 day, uint256 month, uint256 budget, uint256 left) = wallet.room(agent);
        assertEq(day + month + budget, 0);
        assertEq(left, CEILING); // overridden: not counted
    }

    function test_without_the_wallets_cap() public {
        bytes memory why = why2(IPolicyWallet.WalletCapExceeded.selector, CEILING + 1, CEILING);
        _refuses(payment(shop, CEILING + 1, 0), 15 - PAST_WALLET_CAP, why);
        payApproved(payment(shop, CEILING, 0), 15 - PAST_WALLET_CAP);
        (uint256 day, uint256 month, uint256 budget, uint256 left) = wallet.room(agent);
        assertEq(day, CEILING);
        assertEq(month, CEILING);
        assertEq(budget, CEILING);
        assertEq(left, 0);
    }

    function test_overridden_payee_is_not_counted() public {
        payApproved(payment(shop, 1, 0), PAST_PAYEE);
        (, uint256 spent, uint256 lastPaid) = wallet.payeeLimits(shop);
        assertEq(spent, 0);
        assertEq(lastPaid, 0);
    }

    function test_failed_transfer() public {
        vm.prank(treasury);
        usdc.blacklist(shop);
        _refuses(payment(shop, 1, 0), 15, why0(IPolicyWallet.TransferFailed.selector));
        assertFalse(wallet.nonceUsed(agent, 0));
    }
}
