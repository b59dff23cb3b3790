// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {BaseTest, Payment} from "../BaseTest.sol";
import {AgentLimits, Batch, PayeeLimits} from "contracts/interfaces/IPolicyWallet.sol";

/// @dev Each door once, as it is meant to be used.
contract HappyPathTest is BaseTest {
    function test_pay() public {
        _pay(_payment(5 * USD));
        assertEq(usdc.balanceOf(payee), 5 * USD + 1);
        (uint256 day,,,) = wallet.room(agent);
        assertEq(day, 995 * USD);
    }

    function test_payBatch() public {
        bytes32[] memory items = new bytes32[](3);
        items[0] = _item(payee, 1 * USD);
        items[1] = _item(stranger, 2 * USD);
        items[2] = _item(otherPayee, 4 * USD);
        _payBatch(_batch(agentKey, items));
        assertEq(usdc.balanceOf(payee), 1 * USD + 1);
        assertEq(usdc.balanceOf(stranger), 0);
        assertEq(usdc.balanceOf(otherPayee), 4 * USD + 1);
        (uint256 day,,,) = wallet.room(agent);
        assertEq(day, 995 * USD);
    }

    function test_payApproved() public {
        _payApproved(_approved(101 * USD, 1));
        assertEq(usdc.balanceOf(payee), 101 * USD + 1);
    }

    function test_submitThenExecute() public {
        bytes memory change = _setPayee(PayeeLimits(2, OFF, 0));
        _submit(change);
        vm.warp(block.timestamp + DELAY);
        wallet.execute(change);
        (PayeeLimits memory limits,,) = wallet.payeeLimits(payee);
        assertEq(limits.categories, 2);
    }

    function test_tighten() public {
        AgentLimits memory limits = _limits();
        limits.ceiling = uint48(50 * USD);
        _tighten(_setAgent(limits));
        (AgentLimits memory now_, uint256 version,) = wallet.agentLimits(agent);
        assertEq(now_.ceiling, 50 * USD);
        assertEq(version, 2);
    }
}
