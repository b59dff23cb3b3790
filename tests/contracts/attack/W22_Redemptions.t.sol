// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {IPolicyWallet} from "contracts/interfaces/IPolicyWallet.sol";
import {DelegationContext, IX402Payer, Redemption} from "contracts/interfaces/IX402Payer.sol";
import {Payment} from "./Stage.sol";
import {X402Stage} from "./X402Stage.sol";

/// @dev W22. ERC-7710 is a foreign format: nothing of it is forwarded, and nothing but one transfer is read from it.
contract W22_Redemptions is X402Stage {
    bytes private unsupported = abi.encodeWithSelector(IX402Payer.UnsupportedExecution.selector);

    function test_only_the_mode_that_reverts() public {
        Redemption memory m = redemption(shop, CENT, 1);
        bytes32[4] memory modes = [
            bytes32(uint256(1)),
            bytes32(uint256(1) << 248), // batch
            bytes32(uint256(1) << 240), // try
            bytes32(type(uint256).max)
        ];
        for (uint256 i; i < 4; ++i) {
            refusedToRedeem(
                contextBy(agentKey, m),
                modes[i],
                executionOf(m),
                abi.encodeWithSelector(IX402Payer.UnsupportedMode.selector, modes[i])
            );
        }
    }

    function test_only_the_tokens_transfer() public {
        Redemption memory m = redemption(shop, CENT, 1);
        bytes memory data = abi.encodeCall(usdc.transfer, (m.to, m.amount));
        bytes[7] memory bad = [
            abi.encodePacked(stranger, uint256(0), data),
            abi.encodePacked(address(wallet), uint256(0), data),
            abi.encodePacked(address(usdc), uint256(1), data),
            abi.encodePacked(address(usdc), uint256(1) << 255, data),
            abi.encodePacked(address(usdc), uint256(1) << 150, data),
            abi.encodePacked(address(usdc), uint256(0), abi.encodeCall(usdc.approve, (m.to, m.amount))),
            abi.encodePacked(address(usdc), uint256(0), bytes4(0), m.to, m.amount, bytes12(0))
        ];
        for (uint256 i; i < 7; ++i) {
            assertEq(bad[i].length, 120);
            refusedToRedeem(contextBy(agentKey, m), 0, bad[i], unsupported);
        }
    }

    function test_exactly_120_bytes() public {
        Redemption memory m = redemption(shop, CENT, 1);
        bytes memory good = executionOf(m);
        bytes[5] memory bad = [
            bytes(""),
            new bytes(119),
            bytes.concat(good, hex"00"),
            bytes.concat(good, new bytes(32)),
            abi.encodePacked(address(usdc), uint256(0), abi.encodeCall(usdc.transferFrom, (agent, m.to, m.amount)))
        ];
        for (uint256 n; n < 119; ++n) {
            bad[1][n] = good[n];
        }
        for (uint256 i; i < 5; ++i) {
            refusedToRedeem(contextBy(agentKey, m), 0, bad[i], unsupported);
        }
    }

    /// @dev Any one byte of the execution that changes is another payment, or none.
    function test_every_byte_of_the_execution_counts() public {
        Redemption memory m = redemption(shop, CENT, 1);
        bytes memory context = contextBy(agentKey, m);
        bytes memory execution = executionOf(m);
        for (uint256 n; n < 120; ++n) {
            execution[n] ^= 0x80;
            bool words = n < 68; // above the receiver: no transfer; else: not what was signed
            refusedToRedeem(
                context,
                0,
                execution,
                words ? unsupported : abi.encodeWithSelector(IPolicyWallet.InvalidSignature.selector)
            );
            execution[n] ^= 0x80;
        }
        redeem(context, 0, execution);
        assertEq(usdc.balanceOf(shop), CENT);
    }

    function test_the_context_has_one_length_and_clean_words() public {
        Redemption memory m = redemption(shop, CENT, 1);
        bytes memory good = contextBy(agentKey, m);
        bytes[4] memory bad = [bytes(""), new bytes(104), new bytes(223), bytes.concat(good, hex"00")];
        for (uint256 i; i < 4; ++i) {
            refusedToRedeem(bad[i], 0, executionOf(m), unsupported);
        }
        good[0] = 0x01; // above the agent's address
        refusedToRedeem(good, 0, executionOf(m), "");
        good[0] = 0;
        good[40] = 0x01; // above the redeemer's
        refusedToRedeem(good, 0, executionOf(m), "");
    }

    function test_only_by_who_is_named() public {
        Redemption memory m = redemption(shop, CENT, 1);
        m.redeemer = cafe;
        bytes memory why = abi.encodeWithSelector(IX402Payer.NotRedeemer.selector, address(this), cafe);
        refusedToRedeem(m, why);
        // The name is signed.
        bytes memory context = contextBy(agentKey, m);
        DelegationContext memory c = abi.decode(context, (DelegationContext));
        c.redeemer = address(0);
        refusedToRedeem(
            abi.encode(c), 0, executionOf(m), abi.encodeWithSelector(IPolicyWallet.InvalidSignature.selector)
        );
        vm.startPrank(cafe);
        redeem(m);
        vm.stopPrank();
        assertEq(usdc.balanceOf(shop), CENT);
    }

    function test_once_only_and_no_pay_in_its_place() public {
        Redemption memory m = redemption(shop, CENT, 1);
        redeem(m);
        refusedToRedeem(m, abi.encodeWithSelector(IPolicyWallet.NonceUsed.selector, 1));
        // One bitmap for all doors.
        refused(payment(shop, CENT, 1), abi.encodeWithSelector(IPolicyWallet.NonceUsed.selector, 1));
        // A redemption is no payment, nor the reverse.
        m = redemption(shop, CENT, 2);
        Payment memory p = payment(shop, CENT, 2);
        p.context = m.context;
        (bytes32 r, bytes32 vs) = compact(agentKey, redemptionDigest(address(wallet), m));
        refusedWith(p, r, vs, abi.encodeWithSelector(IPolicyWallet.InvalidSignature.selector));
        (r, vs) = compact(agentKey, digestOf(p));
        bytes memory context = abi.encode(DelegationContext(m.agent, m.redeemer, m.nonce, m.deadline, m.context, r, vs));
        refusedToRedeem(context, 0, executionOf(m), abi.encodeWithSelector(IPolicyWallet.InvalidSignature.selector));
    }

    function test_another_wallet_is_another_manager() public {
        Redemption memory m = redemption(shop, CENT, 1);
        bytes memory context = contextBy(agentKey, m);
        wallet = deploy(address(usdc), baseChanges());
        x402 = IX402Payer(address(wallet));
        fund(address(wallet), FUNDS);
        refusedToRedeem(context, 0, executionOf(m), abi.encodeWithSelector(IPolicyWallet.InvalidSignature.selector));
    }

    function test_unequal_or_empty_lists() public {
        Redemption memory m = redemption(shop, CENT, 1);
        bytes[] memory one = new bytes[](1);
        one[0] = contextBy(agentKey, m);
        bytes[] memory executions = new bytes[](1);
        executions[0] = executionOf(m);
        bytes[] memory none;
        bytes32[] memory noModes;
        bytes memory why = abi.encodeWithSelector(IX402Payer.UnequalLengths.selector);
        vm.expectRevert(why);
        x402.redeemDelegations(none, noModes, none);
        vm.expectRevert(why);
        x402.redeemDelegations(one, noModes, executions);
        vm.expectRevert(why);
        x402.redeemDelegations(one, new bytes32[](1), none);
        vm.expectRevert(why);
        x402.redeemDelegations(none, new bytes32[](1), executions);
        vm.expectRevert(why);
        x402.redeemDelegations(one, new bytes32[](2), executions);
        assertEq(usdc.balanceOf(shop), 0);
    }

    /// @dev One bad item, and none is paid.
    function test_all_or_none() public {
        bytes[] memory contexts = new bytes[](2);
        bytes[] memory executions = new bytes[](2);
        Redemption memory good = redemption(shop, CENT, 1);
        Redemption memory bad = redemption(cafe, CEILING + 1, 2);
        (contexts[0], executions[0]) = (contextBy(agentKey, good), executionOf(good));
        (contexts[1], executions[1]) = (contextBy(agentKey, bad), executionOf(bad));
        vm.expectRevert(why2(IPolicyWallet.CeilingExceeded.selector, CEILING + 1, CEILING));
        x402.redeemDelegations(contexts, new bytes32[](2), executions);
        assertEq(usdc.balanceOf(shop), 0);
        assertFalse(wallet.nonceUsed(agent, 1));
        bad = redemption(cafe, CEILING, 2);
        (contexts[1], executions[1]) = (contextBy(agentKey, bad), executionOf(bad));
        x402.redeemDelegations(contexts, new bytes32[](2), executions);
        (uint256 day,,,) = wallet.room(agent);
        assertEq(day, DAY_CAP - CENT - CEILING);
    }

    /* JUDGED AND COUNTED AS A PAYMENT */

    function test_every_limit_of_a_payment_holds() public {
        refusedToRedeem(redemption(stranger, 1, 1), why2(IPolicyWallet.PayeeNotAllowed.selector, 1, 0));
        refusedToRedeem(redemption(agent, 1, 1), why2(IPolicyWallet.PayeeNotAllowed.selector, 1, 0));
        refusedToRedeem(redemption(shop, 0, 1), why2(IPolicyWallet.ZeroAmount.selector, 0, 0));
        refusedToRedeem(
            redemption(shop, CEILING + 1, 1), why2(IPolicyWallet.CeilingExceeded.selector, CEILING + 1, CEILING)
        );
        for (uint256 i; i < 5; ++i) {
            redeem(redemption(shop, CEILING, 10 + i));
            paySome(cafe, CEILING, 20 + i);
        }
        refusedToRedeem(redemption(shop, 1, 1), why2(IPolicyWallet.DayCapExceeded.selector, 1, 0));
        refused(payment(shop, 1, 2), why2(IPolicyWallet.DayCapExceeded.selector, 1, 0));
    }

    function test_late_frozen_or_cancelled() public {
        Redemption memory m = redemption(shop, CENT, 1);
        m.deadline = vm.getBlockTimestamp() - 1;
        refusedToRedeem(m, abi.encodeWithSelector(IPolicyWallet.DeadlinePassed.selector, m.deadline));
        vm.prank(agent);
        wallet.cancelNonce(1);
        refusedToRedeem(redemption(shop, CENT, 1), abi.encodeWithSelector(IPolicyWallet.NonceUsed.selector, 1));
        tightenBy(0, setFrozen(agent, true));
        refusedToRedeem(redemption(shop, CENT, 2), abi.encodeWithSelector(IPolicyWallet.AgentFrozen.selector, agent));
        tightenBy(0, setFrozen(address(0), true));
        refusedToRedeem(redemption(shop, CENT, 2), abi.encodeWithSelector(IPolicyWallet.WalletFrozen.selector));
    }

    function test_another_key_signs_for_the_agent() public {
        Redemption memory m = redemption(shop, CENT, 1);
        bytes memory why = abi.encodeWithSelector(IPolicyWallet.InvalidSignature.selector);
        refusedToRedeem(contextBy(agent2Key, m), 0, executionOf(m), why);
        m.agent = address(0);
        refusedToRedeem(abi.encode(DelegationContext(address(0), address(0), 1, FAR, 0, 0, 0)), 0, executionOf(m), why);
    }
}
