// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {AgentLimits, Batch, IPolicyWallet} from "contracts/interfaces/IPolicyWallet.sol";
import {Payment, Stage} from "./Stage.sol";

/// @dev W15. Deadlines at equality (inclusive), one second later, and in the far future: no truncation on the way.
contract W15_Deadline is Stage {
    function _until(uint256 deadline) private view returns (Payment memory p) {
        p = payment(shop, 5, 0);
        p.deadline = deadline;
    }

    function test_payment_at_and_after_its_deadline() public {
        vm.warp(START + 101);
        refused(_until(START + 100), abi.encodeWithSelector(IPolicyWallet.DeadlinePassed.selector, START + 100));
        vm.warp(START + 100);
        pay(_until(START + 100));
        assertEq(usdc.balanceOf(shop), 5);
    }

    function test_batch_at_and_after_its_deadline() public {
        Batch memory b = batchOf(agent, 0, pair(item(shop, 1), item(cafe, 1)));
        b.deadline = START + 100;
        (b.r, b.vs) = compact(agentKey, batchDigest(address(wallet), b));
        vm.warp(START + 101);
        vm.expectEmit(address(wallet));
        emit IPolicyWallet.BatchSkipped(agent, 0, IPolicyWallet.DeadlinePassed.selector);
        wallet.payBatch(one(b));
        vm.warp(START + 100);
        wallet.payBatch(one(b));
        assertEq(usdc.balanceOf(shop), 1);
    }

    function test_votes_at_and_after_their_deadline() public {
        bytes memory change = setFrozen(address(0), true);
        bytes memory quorum = quorumFor(changeDigest(address(wallet), change, 5, START + 100));
        bytes memory signer = abi.encodePacked(operators[0]);
        bytes memory signature = signed65(operatorKeys[0], tightenDigest(address(wallet), change, 5, START + 100));
        bytes memory late = abi.encodeWithSelector(IPolicyWallet.DeadlinePassed.selector, START + 100);
        vm.warp(START + 101);
        vm.expectRevert(late);
        wallet.submit(change, 5, START + 100, quorum);
        vm.expectRevert(late);
        wallet.tightenWithSignature(change, signer, 5, START + 100, signature);
        vm.warp(START + 100);
        wallet.tightenWithSignature(change, signer, 5, START + 100, signature);
        assertTrue(wallet.walletFrozen());
        wallet.submit(change, 5, START + 100, quorum);
    }

    /// @dev Values whose low 32, 40 or 48 bits lie in the past: a truncating compare would call them late.
    function test_far_deadlines_are_not_truncated() public {
        uint256[5] memory far = [uint256(1) << 32, 1 << 40, (1 << 48) + 1, 1 << 128, type(uint256).max];
        for (uint256 i; i < 5; ++i) {
            Payment memory p = payment(shop, 1, i);
            p.deadline = far[i] > block.timestamp ? far[i] : FAR;
            pay(p);
        }
        assertEq(usdc.balanceOf(shop), 5);
    }

    function test_far_expiry_is_kept() public {
        AgentLimits memory l = limits();
        l.expiry = type(uint40).max;
        enact(setAgent(agent, l));
        vm.warp(type(uint40).max - 1);
        Payment memory p = payment(shop, 1, 0);
        p.deadline = type(uint256).max;
        pay(p);
        vm.warp(type(uint40).max);
        p.nonce = 1;
        refused(p, abi.encodeWithSelector(IPolicyWallet.AgentExpired.selector, type(uint40).max));
    }
}
