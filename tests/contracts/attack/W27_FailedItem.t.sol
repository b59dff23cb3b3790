// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {Batch, IPolicyWallet} from "contracts/interfaces/IPolicyWallet.sol";
import {OddToken} from "./OddToken.sol";
import {Stage} from "./Stage.sol";

/// @dev W27, second part. The token calls back and then answers false: the item failed, yet what got in during it
/// stays done. The batch must take off that item, from the counters as they are by then, and nothing else.
contract W27_FailedItem is Stage {
    OddToken private odd;

    function setUp() public override {
        super.setUp();
        odd = new OddToken();
        wallet = deploy(address(odd), baseChanges());
        odd.mint(address(wallet), FUNDS);
    }

    function _payCall(uint256 amount, uint256 nonce) private view returns (bytes memory) {
        (bytes32 r, bytes32 vs) = compact(agentKey, digestOf(payment(cafe, amount, nonce)));
        return abi.encodeCall(IPolicyWallet.pay, (agent, cafe, amount, nonce, FAR, 0, r, vs));
    }

    function _batchCall(uint256 nonce) private view returns (bytes memory) {
        Batch[] memory list = one(batchOf(agent, nonce, pair(item(cafe, 5), item(cafe, 6))));
        return abi.encodeCall(IPolicyWallet.payBatch, (list));
    }

    function _paid() private view returns (uint256) {
        return FUNDS - odd.balanceOf(address(wallet));
    }

    function _dayRoom() private view returns (uint256 day) {
        (day,,,) = wallet.room(agent);
    }

    /// @dev The item during which it got in fails: it is taken off the counters as they are by then, and nothing else.
    function test_a_failed_item_takes_off_itself_and_nothing_that_got_in() public {
        bytes[2] memory calls = [_payCall(5, 20), _batchCall(21)];
        uint256[2] memory extra = [uint256(5), 11];
        for (uint256 i; i < calls.length; ++i) {
            uint256 before = vm.snapshotState();
            odd.callBackAndFail(address(wallet), calls[i]);
            wallet.payBatch(one(batchOf(agent, 0, pair(item(shop, 70), item(shop, 2)))));
            assertTrue(odd.calledBackFine());
            assertEq(_paid(), 2 + extra[i]);
            assertEq(_dayRoom(), DAY_CAP - 2 - extra[i]);
            vm.revertToState(before);
        }
    }

    /// @dev An operator's freeze that arrives in the middle stays, whatever the batch writes afterwards.
    function test_a_freeze_in_the_middle_of_a_failing_batch_stays() public {
        bytes[] memory set = operatorSet();
        set[2] = abi.encodePacked(address(odd)); // the token itself is an operator: it may tighten
        bytes[] memory changes = new bytes[](5);
        for (uint256 i; i < 4; ++i) {
            changes[i] = baseChanges()[i];
        }
        changes[4] = setCap(DAY_CAP);
        wallet = deployFor(address(odd), set, 2, 0, changes);
        odd.mint(address(wallet), FUNDS);
        odd.callBackAndFail(address(wallet), abi.encodeCall(IPolicyWallet.tighten, (setFrozen(address(0), true))));
        wallet.payBatch(one(batchOf(agent, 0, pair(item(shop, 70), item(shop, 2)))));
        assertTrue(odd.calledBackFine());
        assertTrue(wallet.walletFrozen());
        (uint256 day,,, uint256 left) = wallet.room(agent);
        assertEq(day, DAY_CAP - 2);
        assertEq(left, DAY_CAP - 2);
    }
}
