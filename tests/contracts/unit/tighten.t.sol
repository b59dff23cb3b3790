// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {Unit} from "./Unit.sol";
import {AgentLimits, IPolicyChanges, IPolicyWallet, PayeeLimits} from "contracts/interfaces/IPolicyWallet.sol";

contract TightenTest is Unit {
    AgentLimits private a = AgentLimits(100, 200, 300, 400, uint40(FAR), 6);
    PayeeLimits private p = PayeeLimits(6, 100, 60);

    /// @dev One limit in the middle of each range, so that each field has a looser and a tighter neighbour.
    function setUp() public override {
        super.setUp();
        born(a, p, 100 * USD);
    }

    function _fails(bytes memory change, bytes memory why) private {
        vm.prank(operators[0]);
        vm.expectRevert(why);
        wallet.tighten(change);
    }

    function _loosens(bytes memory change) private {
        _fails(change, why0(IPolicyWallet.NotTightening.selector));
    }

    function test_only_operators() public {
        address[3] memory others = [agent, stranger, address(this)];
        for (uint256 i; i < 3; ++i) {
            vm.prank(others[i]);
            vm.expectRevert(why1(IPolicyWallet.NotOperator.selector, uint160(others[i])));
            wallet.tighten(setFrozen(agent, true));
        }
    }

    function test_says_so() public {
        bytes memory change = setFrozen(agent, true);
        vm.expectEmit(address(wallet));
        emit IPolicyWallet.Frozen(agent, true);
        vm.expectEmit(address(wallet));
        emit IPolicyWallet.ChangeExecuted(keccak256(change), change);
        tightenBy(2, change);
    }

    function test_each_field_of_an_agent() public {
        tightenBy(0, setAgent(agent, a)); // equal
        (, uint256 version,) = wallet.agentLimits(agent);
        assertEq(version, 2);
        _loosens(setAgent(agent, AgentLimits(101, 200, 300, 400, uint40(FAR), 6)));
        _loosens(setAgent(agent, AgentLimits(100, 201, 300, 400, uint40(FAR), 6)));
        _loosens(setAgent(agent, AgentLimits(100, 200, 301, 400, uint40(FAR), 6)));
        _loosens(setAgent(agent, AgentLimits(100, 200, 300, 401, uint40(FAR), 6)));
        _loosens(setAgent(agent, AgentLimits(100, 200, 300, 400, uint40(FAR + 1), 6)));
        _loosens(setAgent(agent, AgentLimits(0, 0, 0, 0, 0, 1)));
        AgentLimits memory tighter = AgentLimits(99, 199, 299, 399, uint40(FAR - 1), 4);
        vm.expectEmit(address(wallet));
        emit IPolicyWallet.AgentChanged(agent, 3, tighter);
        tightenBy(0, setAgent(agent, tighter));
    }

    function test_no_new_agent() public {
        _loosens(setAgent(stranger, AgentLimits(0, 0, 0, 0, 0, 0)));
    }

    function test_each_field_of_a_payee() public {
        tightenBy(0, setPayee(shop, p));
        _loosens(setPayee(shop, PayeeLimits(7, 100, 60)));
        _loosens(setPayee(shop, PayeeLimits(6, 101, 60)));
        _loosens(setPayee(shop, PayeeLimits(6, 100, 59)));
        _loosens(setPayee(stranger, PayeeLimits(1, 0, 0)));
        vm.expectEmit(address(wallet));
        emit IPolicyWallet.PayeeChanged(shop, PayeeLimits(2, 99, 61));
        tightenBy(0, setPayee(shop, PayeeLimits(2, 99, 61)));
        tightenBy(0, setPayee(shop, PayeeLimits(0, 0, 61))); // removed
    }

    function test_wallet_cap() public {
        _loosens(setCap(101 * USD));
        _loosens(setCap(type(uint256).max));
        tightenBy(0, setCap(100 * USD));
        _fails(setCap(99 * USD + 1), why0(IPolicyWallet.InvalidChange.selector));
        tightenBy(0, setCap(0));
        assertEq(wallet.walletCap(), 0);
    }

    function test_freezing_only() public {
        tightenBy(0, setFrozen(address(0), true));
        assertTrue(wallet.walletFrozen());
        _loosens(setFrozen(address(0), false));
        _loosens(setFrozen(agent, false));
        bytes memory why = why1(IPolicyWallet.AgentInactive.selector, uint160(stranger));
        _fails(setFrozen(stranger, true), why);
    }

    function test_an_agents_nonce() public {
        vm.expectEmit(address(wallet));
        emit IPolicyWallet.NonceCancelled(agent, 3);
        tightenBy(0, abi.encodeCall(IPolicyChanges.cancelAgentNonce, (agent, 3)));
        bytes memory why = why1(IPolicyWallet.NonceUsed.selector, 3);
        _fails(abi.encodeCall(IPolicyChanges.cancelAgentNonce, (agent, 3)), why);
        why = why1(IPolicyWallet.AgentInactive.selector, 0); // the quorum's nonces
        _fails(abi.encodeCall(IPolicyChanges.cancelAgentNonce, (address(0), 3)), why);
    }

    function test_never_by_one() public {
        bytes[] memory none = new bytes[](0);
        bytes memory operators_ = abi.encodeCall(IPolicyChanges.setOperators, (none, none, 2));
        bytes memory delay = abi.encodeCall(IPolicyChanges.setDelay, (IPolicyChanges.setPayee.selector, 3 days));
        _loosens(operators_);
        _loosens(delay);
        _loosens(abi.encodeCall(IPolicyChanges.revoke, (operators_)));
        _loosens(abi.encodeCall(IPolicyChanges.revoke, (delay)));
        _loosens(abi.encodeCall(IPolicyChanges.publishPolicy, (bytes32(0))));
        _loosens(abi.encodeCall(IPolicyChanges.withdraw, (treasury, 0)));
    }

    function test_revoking() public {
        bytes memory change = setCap(500 * USD);
        bytes memory revoke = abi.encodeCall(IPolicyChanges.revoke, (change));
        _fails(revoke, why1(IPolicyWallet.NotPending.selector, uint256(keccak256(change))));
        submit(change);
        tightenBy(0, revoke);
        assertEq(wallet.readyAt(change), 0);
    }

    function test_unknown_changes() public {
        bytes4 selector = IPolicyWallet.execute.selector;
        bytes memory why = abi.encodeWithSelector(IPolicyWallet.UnknownChange.selector, selector);
        _fails(abi.encodePacked(selector), why);
    }
}

contract TightenWithSignatureTest is Unit {
    bytes private change = setFrozen(address(0), true);
    bytes private signer;

    function setUp() public override {
        super.setUp();
        signer = abi.encodePacked(operators[1]);
    }

    function _signature(uint256 key, uint256 nonce, uint256 deadline) private view returns (bytes memory) {
        return signed65(key, tightenDigest(address(wallet), change, nonce, deadline));
    }

    function _fails(bytes memory who, uint256 nonce, uint256 deadline, bytes memory signature, bytes memory why)
        private
    {
        vm.expectRevert(why);
        wallet.tightenWithSignature(change, who, nonce, deadline, signature);
        assertFalse(wallet.walletFrozen());
    }

    function test_runs_and_says_so() public {
        bytes memory signature = _signature(operatorKeys[1], 7, START);
        vm.expectEmit(address(wallet));
        emit IPolicyWallet.Frozen(address(0), true);
        vm.expectEmit(address(wallet));
        emit IPolicyWallet.ChangeExecuted(keccak256(change), change);
        wallet.tightenWithSignature(change, signer, 7, START, signature);
        assertTrue(wallet.walletFrozen());
        address account = address(uint160(uint256(keccak256(signer))));
        assertTrue(wallet.nonceUsed(account, 7));
        submit(setFrozen(address(0), false));
        _fails(signer, 7, START, signature, why1(IPolicyWallet.NonceUsed.selector, 7));
    }

    function test_deadline_is_inclusive() public {
        bytes memory signature = _signature(operatorKeys[1], 0, START);
        vm.warp(START + 1);
        _fails(signer, 0, START, signature, why1(IPolicyWallet.DeadlinePassed.selector, START));
    }

    function test_only_operators() public {
        bytes memory who = abi.encodePacked(agent);
        uint256 account = uint160(uint256(keccak256(who)));
        bytes memory signature = _signature(agentKey, 0, FAR);
        _fails(who, 0, FAR, signature, why1(IPolicyWallet.NotOperator.selector, account));
    }

    function test_signature_of_the_operator_named() public {
        bytes memory why = why0(IPolicyWallet.InvalidSignature.selector);
        _fails(signer, 0, FAR, _signature(operatorKeys[0], 0, FAR), why);
        _fails(signer, 0, FAR, _signature(operatorKeys[1], 1, FAR), why);
        _fails(signer, 0, FAR, "", why);
    }

    function test_only_tightens() public {
        change = setFrozen(address(0), false);
        bytes memory why = why0(IPolicyWallet.NotTightening.selector);
        _fails(signer, 0, FAR, _signature(operatorKeys[1], 0, FAR), why);
    }
}
