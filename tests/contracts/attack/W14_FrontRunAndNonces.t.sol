// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {IPolicyChanges, IPolicyWallet} from "contracts/interfaces/IPolicyWallet.sol";
import {Payment, Stage} from "./Stage.sol";

/// @dev W14. A third party that sees a payment first, and everything that can be done with nonces.
contract W14_FrontRunAndNonces is Stage {
    function test_front_running_a_payment_has_the_same_effect() public {
        Payment memory p = payment(shop, 5, 0);
        (bytes32 r, bytes32 vs) = compact(agentKey, digestOf(p));
        vm.prank(stranger);
        send(p, r, vs);
        assertEq(usdc.balanceOf(shop), 5);
        assertEq(usdc.balanceOf(stranger), 0);
        refusedWith(p, r, vs, abi.encodeWithSelector(IPolicyWallet.NonceUsed.selector, 0));
    }

    function test_agent_cancels_its_own_nonce() public {
        vm.expectEmit(address(wallet));
        emit IPolicyWallet.NonceCancelled(agent, 0);
        vm.prank(agent);
        wallet.cancelNonce(0);
        refused(payment(shop, 5, 0), abi.encodeWithSelector(IPolicyWallet.NonceUsed.selector, 0));
        vm.expectRevert(abi.encodeWithSelector(IPolicyWallet.NonceUsed.selector, 0));
        vm.prank(agent);
        wallet.cancelNonce(0);
    }

    function test_one_operator_cancels_an_agents_nonce() public {
        tightenBy(2, abi.encodeCall(IPolicyChanges.cancelAgentNonce, (agent, 0)));
        refused(payment(shop, 5, 0), abi.encodeWithSelector(IPolicyWallet.NonceUsed.selector, 0));
    }

    function test_a_stranger_cancels_only_its_own() public {
        vm.prank(stranger);
        wallet.cancelNonce(0);
        paySome(shop, 5, 0);
        assertEq(usdc.balanceOf(shop), 5);
    }

    function test_words_of_256_nonces_do_not_touch() public {
        uint256[4] memory edges = [uint256(255), 256, 511, 512];
        for (uint256 i; i < 4; ++i) {
            vm.prank(agent);
            wallet.cancelNonce(edges[i]);
        }
        for (uint256 nonce = 250; nonce < 520; ++nonce) {
            bool edge = nonce == 255 || nonce == 256 || nonce == 511 || nonce == 512;
            assertEq(wallet.nonceUsed(agent, nonce), edge);
        }
    }

    function test_any_order() public {
        uint256[5] memory order = [uint256(9), 3, 300, 0, 257];
        for (uint256 i; i < 5; ++i) {
            paySome(shop, 1, order[i]);
        }
        assertEq(usdc.balanceOf(shop), 5);
    }

    /// @dev A refused payment keeps its nonce, and pays later by the same signature.
    function test_nonce_is_used_only_on_success() public {
        Payment memory p = payment(stranger, 5, 0);
        (bytes32 r, bytes32 vs) = compact(agentKey, digestOf(p));
        refusedWith(p, r, vs, why2(IPolicyWallet.PayeeNotAllowed.selector, 5, 0));
        enact(setPayee(stranger, payee()));
        send(p, r, vs);
        assertEq(usdc.balanceOf(stranger), 5);
    }

    /// @dev The quorum's votes and an operator's signatures have nonces of their own, in the same bitmap. One hostile
    /// operator that could spend those would block the quorum for ever, its own removal first.
    function test_one_operator_cannot_spend_the_quorums_nonces() public {
        bytes memory attack = abi.encodeCall(IPolicyChanges.cancelAgentNonce, (address(0), 60));
        vm.prank(operators[2]);
        (bool done,) = address(wallet).call(abi.encodeCall(IPolicyWallet.tighten, (attack)));
        assertFalse(done);
        assertFalse(wallet.nonceUsed(address(0), 60));

        bytes[] memory gone = new bytes[](1);
        gone[0] = abi.encodePacked(operators[2]);
        bytes memory removal = abi.encodeCall(IPolicyChanges.setOperators, (new bytes[](0), gone, 2));
        wallet.submit(removal, 60, FAR, quorumFor(changeDigest(address(wallet), removal, 60, FAR)));
        assertGt(wallet.readyAt(removal), 0);
    }

    function test_one_operator_cannot_spend_anothers_nonces() public {
        address other = address(uint160(uint256(keccak256(abi.encodePacked(operators[0])))));
        vm.prank(operators[2]);
        (bool done,) = address(wallet)
            .call(abi.encodeCall(IPolicyWallet.tighten, (abi.encodeCall(IPolicyChanges.cancelAgentNonce, (other, 0)))));
        assertFalse(done);
        bytes memory change = setFrozen(address(0), true);
        bytes memory signature = signed65(operatorKeys[0], tightenDigest(address(wallet), change, 0, FAR));
        wallet.tightenWithSignature(change, abi.encodePacked(operators[0]), 0, FAR, signature);
        assertTrue(wallet.walletFrozen());
    }
}
