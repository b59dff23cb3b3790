// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {Unit} from "./Unit.sol";
import {IPolicyChanges, IPolicyWallet} from "contracts/interfaces/IPolicyWallet.sol";

contract SubmitTest is Unit {
    bytes private change = setPayee(shop, payee());

    function _submits(bytes memory what, uint256 nonce, uint256 deadline, bytes memory quorum, bytes memory why)
        private
    {
        vm.expectRevert(why);
        wallet.submit(what, nonce, deadline, quorum);
    }

    function _votes(bytes memory what, uint256 nonce, uint256 deadline) private view returns (bytes memory) {
        return quorumFor(changeDigest(address(wallet), what, nonce, deadline));
    }

    function test_waits_and_says_so() public {
        bytes memory votes = _votes(change, 5, START);
        vm.expectEmit(address(wallet));
        emit IPolicyWallet.ChangeSubmitted(keccak256(change), change, START + DELAY);
        wallet.submit(change, 5, START, votes);
        assertEq(wallet.readyAt(change), START + DELAY);
        assertTrue(wallet.nonceUsed(address(0), 5));
    }

    function test_runs_at_once_without_delay() public {
        bytes memory publish = abi.encodeCall(IPolicyChanges.publishPolicy, (bytes32(uint256(3))));
        bytes memory votes = _votes(publish, 50, FAR);
        vm.expectEmit(address(wallet));
        emit IPolicyWallet.PolicyPublished(bytes32(uint256(3)));
        vm.expectEmit(address(wallet));
        emit IPolicyWallet.ChangeExecuted(keccak256(publish), publish);
        wallet.submit(publish, 50, FAR, votes);
        assertEq(wallet.policyHash(), bytes32(uint256(3)));
        assertEq(wallet.readyAt(publish), 0);
        submit(abi.encodeCall(IPolicyChanges.setFrozen, (agent, true)));
        submit(abi.encodeCall(IPolicyChanges.setFrozen, (agent, true))); // the same again, never pending
    }

    function test_deadline_is_inclusive() public {
        bytes memory votes = _votes(change, 0, START);
        vm.warp(START + 1);
        _submits(change, 0, START, votes, why1(IPolicyWallet.DeadlinePassed.selector, START));
        vm.warp(START);
        wallet.submit(change, 0, START, votes);
    }

    function test_nonce_once() public {
        submit(change); // nonce 0
        bytes memory other = setPayee(cafe, payee());
        _submits(other, 0, FAR, _votes(other, 0, FAR), why1(IPolicyWallet.NonceUsed.selector, 0));
    }

    function test_quorum() public {
        _submits(change, 0, FAR, _votes(change, 1, FAR), why0(IPolicyWallet.InvalidQuorum.selector));
        assertFalse(wallet.nonceUsed(address(0), 0));
    }

    function test_pending_until_its_window_is_over() public {
        submit(change);
        bytes memory why = why1(IPolicyWallet.AlreadyPending.selector, uint256(keccak256(change)));
        vm.warp(START + DELAY + 30 days);
        _submits(change, 9, FAR, _votes(change, 9, FAR), why);
        vm.warp(START + DELAY + 30 days + 1);
        wallet.submit(change, 9, FAR, _votes(change, 9, FAR));
        assertEq(wallet.readyAt(change), START + 2 * uint256(DELAY) + 30 days + 1);
    }

    function test_unknown_changes() public {
        bytes4 selector = IPolicyWallet.pay.selector;
        bytes memory unknown = abi.encodePacked(selector);
        bytes memory why = abi.encodeWithSelector(IPolicyWallet.UnknownChange.selector, selector);
        _submits(unknown, 9, FAR, _votes(unknown, 9, FAR), why);
        why = abi.encodeWithSelector(IPolicyWallet.UnknownChange.selector, bytes4(0));
        _submits("", 9, FAR, _votes("", 9, FAR), why);
    }

    function test_given_up() public {
        bytes4 selector = IPolicyChanges.setPayee.selector;
        enact(abi.encodeCall(IPolicyChanges.setDelay, (selector, type(uint32).max)));
        bytes memory why = abi.encodeWithSelector(IPolicyWallet.Abdicated.selector, selector);
        _submits(change, 9, FAR, _votes(change, 9, FAR), why);
        assertEq(wallet.delayOf(selector), type(uint32).max);
    }

    function test_withdrawals() public {
        bytes memory out = abi.encodeCall(IPolicyChanges.withdraw, (treasury, 5));
        bytes memory votes = _votes(out, 0, FAR);
        vm.expectEmit(address(wallet));
        emit IPolicyWallet.Withdrawn(treasury, 5);
        wallet.submit(out, 0, FAR, votes);
        assertEq(usdc.balanceOf(treasury), 5);

        out = abi.encodeCall(IPolicyChanges.withdraw, (treasury, FUNDS));
        _submits(out, 1, FAR, _votes(out, 1, FAR), why0(IPolicyWallet.TransferFailed.selector));
        address[3] memory reserved = [address(0), address(wallet), address(usdc)];
        for (uint256 i; i < 3; ++i) {
            out = abi.encodeCall(IPolicyChanges.withdraw, (reserved[i], 5));
            _submits(out, 1, FAR, _votes(out, 1, FAR), why0(IPolicyWallet.InvalidChange.selector));
        }
    }
}
