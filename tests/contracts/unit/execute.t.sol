// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {Unit} from "./Unit.sol";
import {IPolicyChanges, IPolicyWallet, PayeeLimits} from "contracts/interfaces/IPolicyWallet.sol";

contract ExecuteTest is Unit {
    function _fails(bytes memory change, bytes memory why) private {
        vm.expectRevert(why);
        wallet.execute(change);
    }

    /// @dev Submits `change`, which must be let wait and then fail.
    function _failsWhenDue(bytes memory change, bytes memory why) private {
        submit(change);
        vm.warp(wallet.readyAt(change));
        _fails(change, why);
    }

    function _notPending(bytes memory change) private pure returns (bytes memory) {
        return why1(IPolicyWallet.NotPending.selector, uint256(keccak256(change)));
    }

    function test_its_window_to_the_second() public {
        bytes memory change = setPayee(stranger, PayeeLimits(2, 3, 4));
        _fails(change, _notPending(change));
        submit(change);
        uint256 ready = START + DELAY;
        vm.warp(ready - 1);
        _fails(change, why1(IPolicyWallet.NotReady.selector, ready));
        vm.warp(ready + 30 days + 1);
        _fails(change, why1(IPolicyWallet.ChangeExpired.selector, ready + 30 days));
        vm.warp(ready + 30 days);
        vm.expectEmit(address(wallet));
        emit IPolicyWallet.PayeeChanged(stranger, PayeeLimits(2, 3, 4));
        vm.expectEmit(address(wallet));
        emit IPolicyWallet.ChangeExecuted(keccak256(change), change);
        wallet.execute(change);
        _fails(change, _notPending(change));
        assertEq(wallet.readyAt(change), 0);
    }

    function test_from_its_first_second() public {
        bytes memory change = setCap(7 * USD);
        submit(change);
        vm.warp(START + DELAY);
        vm.expectEmit(address(wallet));
        emit IPolicyWallet.WalletCapChanged(7 * USD);
        wallet.execute(change);
        assertEq(wallet.walletCap(), 7 * USD);
    }

    function test_agent_changes() public {
        bytes memory change = setAgent(stranger, wide());
        submit(change);
        vm.warp(START + DELAY);
        vm.expectEmit(address(wallet));
        emit IPolicyWallet.AgentChanged(stranger, 1, wide());
        wallet.execute(change);
    }

    function test_agents_that_cannot_be() public {
        _failsWhenDue(setAgent(address(0), wide()), why0(IPolicyWallet.InvalidChange.selector));
        _failsWhenDue(setAgent(address(wallet), wide()), why0(IPolicyWallet.InvalidChange.selector));
        _failsWhenDue(setAgent(address(usdc), wide()), why0(IPolicyWallet.InvalidChange.selector));
        bytes memory why = why1(IPolicyWallet.RoleConflict.selector, uint160(operators[1]));
        _failsWhenDue(setAgent(operators[1], wide()), why);
    }

    function test_payees_that_cannot_be() public {
        _failsWhenDue(setPayee(address(0), payee()), why0(IPolicyWallet.InvalidChange.selector));
        _failsWhenDue(setPayee(address(wallet), payee()), why0(IPolicyWallet.InvalidChange.selector));
        _failsWhenDue(setPayee(address(usdc), payee()), why0(IPolicyWallet.InvalidChange.selector));
    }

    function test_wallet_caps() public {
        uint256 most = 1_125_899_906 * USD;
        bytes memory why = why0(IPolicyWallet.InvalidChange.selector);
        _failsWhenDue(setCap(USD + 1), why);
        _failsWhenDue(setCap(most + USD), why);
        _failsWhenDue(setCap(type(uint256).max - 1), why);
        enact(setCap(most));
        assertEq(wallet.walletCap(), most);
        enact(setCap(type(uint256).max));
        assertEq(wallet.walletCap(), type(uint256).max);
    }

    function test_operators() public {
        bytes[] memory add = new bytes[](1);
        add[0] = abi.encodePacked(agent);
        bytes memory change = abi.encodeCall(IPolicyChanges.setOperators, (add, new bytes[](0), 2));
        _failsWhenDue(change, why1(IPolicyWallet.RoleConflict.selector, uint160(agent)));
        add = new bytes[](30); // 33 with the three there are
        for (uint256 i; i < 30; ++i) {
            add[i] = abi.encodePacked(address(uint160(0x1000 + i)));
        }
        change = abi.encodeCall(IPolicyChanges.setOperators, (add, new bytes[](0), 2));
        _failsWhenDue(change, why0(IPolicyWallet.InvalidChange.selector));
        bytes[] memory remove = new bytes[](1);
        remove[0] = abi.encodePacked(operators[2]);
        enact(abi.encodeCall(IPolicyChanges.setOperators, (add, remove, 2))); // 32
    }

    function test_delays() public {
        bytes4 selector = IPolicyChanges.setPayee.selector;
        bytes memory change = abi.encodeCall(IPolicyChanges.setDelay, (selector, 5));
        submit(change);
        assertEq(wallet.readyAt(change), START + DELAY);
        vm.warp(START + DELAY);
        vm.expectEmit(address(wallet));
        emit IPolicyWallet.DelayChanged(selector, 5);
        wallet.execute(change);
        assertEq(wallet.delayOf(selector), 5);
    }

    function test_given_up_while_it_waited() public {
        bytes memory change = setCap(USD);
        bytes4 selector = IPolicyChanges.setWalletCap.selector;
        submit(abi.encodeCall(IPolicyChanges.setDelay, (selector, type(uint32).max)));
        submit(change);
        vm.warp(START + DELAY);
        wallet.execute(abi.encodeCall(IPolicyChanges.setDelay, (selector, type(uint32).max)));
        _fails(change, abi.encodeWithSelector(IPolicyWallet.Abdicated.selector, selector));
    }

    function test_revoked() public {
        bytes memory change = setCap(USD);
        bytes memory revoke = abi.encodeCall(IPolicyChanges.revoke, (change));
        vm.expectRevert(_notPending(change));
        this.submitOf(revoke);
        submit(change);
        vm.expectEmit(address(wallet));
        emit IPolicyWallet.ChangeRevoked(keccak256(change));
        tightenBy(1, revoke);
        vm.warp(START + DELAY);
        _fails(change, _notPending(change));
    }

    function submitOf(bytes memory change) external {
        wallet.submit(change, 99, FAR, quorumFor(changeDigest(address(wallet), change, 99, FAR)));
    }
}
