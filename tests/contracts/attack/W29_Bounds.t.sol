// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {AgentLimits, Batch, IPolicyChanges, IPolicyWallet, PayeeLimits} from "contracts/interfaces/IPolicyWallet.sol";
import {Stage} from "./Stage.sol";

/// @dev W29. Nothing grows with the registry, and the largest call stays under the gas a transaction may use
/// (2^24, EIP-7825).
contract W29_Bounds is Stage {
    uint256 private constant TX_GAS = 1 << 24;
    uint256 private constant MAX_ITEMS = 200; // items plus batches
    uint256 private constant MAX_OPERATORS = 32;

    /// @dev Every counter on, every payee new to the token and to its record, so every write is a first write.
    function test_largest_batch_fits_into_a_transaction() public {
        uint256 length = MAX_ITEMS - 1;
        uint256 used = _worst(length, false);
        assertEq(usdc.balanceOf(address(wallet)), FUNDS - length * USD);
        assertLt(used, TX_GAS * 9 / 10);
    }

    /// @dev The same, and every transfer fails after it was booked.
    function test_largest_batch_with_every_transfer_failing_fits_too() public {
        uint256 length = MAX_ITEMS - 1;
        uint256 used = _worst(length, true);
        assertEq(usdc.balanceOf(address(wallet)), FUNDS);
        assertLt(used, TX_GAS * 9 / 10);
    }

    /// @dev Gas of the whole transaction: intrinsic, calldata, execution.
    function _worst(uint256 length, bool failing) private returns (uint256) {
        AgentLimits memory l = limits();
        l.monthCap = uint48(DAY_CAP);
        l.budget = uint64(DAY_CAP);
        bytes[] memory changes = new bytes[](length + 2);
        bytes32[] memory items = new bytes32[](length);
        PayeeLimits memory watched = PayeeLimits(1, uint48(DAY_CAP), 1 hours);
        for (uint256 i; i < length; ++i) {
            address to = address(uint160(uint256(keccak256(abi.encode("payee", i)))));
            changes[i] = setPayee(to, watched);
            items[i] = item(to, USD);
        }
        changes[length] = setAgent(agent, l);
        changes[length + 1] = setCap(DAY_CAP);
        wallet = deploy(address(usdc), changes);
        fund(address(wallet), FUNDS);
        if (failing) {
            vm.prank(treasury);
            usdc.blacklist(address(wallet));
        }
        bytes memory call = abi.encodeCall(IPolicyWallet.payBatch, (one(batchOf(agent, 0, items))));
        vm.cool(address(wallet));
        vm.cool(address(usdc));
        uint256 before = gasleft();
        (bool done,) = address(wallet).call(call);
        uint256 used = before - gasleft();
        assertTrue(done);
        for (uint256 i; i < call.length; ++i) {
            used += call[i] == 0 ? 4 : 16;
        }
        emit log_named_uint("gas", used + 21_000);
        return used + 21_000;
    }

    function test_longer_batches_are_not_run() public {
        uint256 length = MAX_ITEMS;
        bytes32[] memory items = new bytes32[](length);
        for (uint256 i; i < length; ++i) {
            items[i] = item(shop, 1);
        }
        vm.expectEmit(address(wallet));
        emit IPolicyWallet.BatchSkipped(agent, 0, IPolicyWallet.BatchLength.selector);
        wallet.payBatch(one(batchOf(agent, 0, items)));
        assertFalse(wallet.nonceUsed(agent, 0));
    }

    /// @dev Nor may many small lists add up to more.
    function test_many_batches_share_one_bound() public {
        uint256 max = MAX_ITEMS;
        uint256 each = max / 4;
        Batch[] memory list = new Batch[](5);
        for (uint256 b; b < 5; ++b) {
            bytes32[] memory items = new bytes32[](each);
            for (uint256 i; i < each; ++i) {
                items[i] = item(shop, 1);
            }
            list[b] = batchOf(agent, b, items);
        }
        wallet.payBatch(list);
        assertLe(usdc.balanceOf(shop), max);
        assertFalse(wallet.nonceUsed(agent, 4));
    }

    function test_gas_of_a_payment_does_not_grow_with_registry_or_operators() public {
        paySome(shop, 1, 0);
        uint256 before = _gasOfAPayment(1);
        bytes[] memory add = new bytes[](20);
        for (uint256 i; i < 20; ++i) {
            add[i] = abi.encodePacked(vm.addr(1000 + i));
        }
        enact(abi.encodeCall(IPolicyChanges.setOperators, (add, new bytes[](0), 2)));
        for (uint256 i; i < 50; ++i) {
            enact(setPayee(vm.addr(2000 + i), payee()));
        }
        assertApproxEqAbs(_gasOfAPayment(2), before, 500); // one cold slot more would be 2,100
    }

    function _gasOfAPayment(uint256 nonce) private returns (uint256) {
        (bytes32 r, bytes32 vs) = compact(agentKey, digestOf(payment(shop, 1, nonce)));
        vm.cool(address(wallet));
        vm.cool(address(usdc));
        uint256 before = gasleft();
        wallet.pay(agent, shop, 1, nonce, FAR, 0, r, vs);
        return before - gasleft();
    }

    function test_operators_are_bounded() public {
        bytes[] memory add = new bytes[](MAX_OPERATORS - 2); // 3 + this = max + 1
        for (uint256 i; i < add.length; ++i) {
            add[i] = abi.encodePacked(vm.addr(1000 + i));
        }
        bytes memory change = abi.encodeCall(IPolicyChanges.setOperators, (add, new bytes[](0), 2));
        submit(change);
        vm.warp(wallet.readyAt(change));
        vm.expectRevert(IPolicyWallet.InvalidChange.selector);
        wallet.execute(change);
    }
}
