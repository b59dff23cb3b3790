// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {Batch, IPolicyChanges, IPolicyWallet} from "contracts/interfaces/IPolicyWallet.sol";
import {ContractOperator} from "./Operators.sol";
import {OddToken} from "./OddToken.sol";
import {Payment, Stage} from "./Stage.sol";

/// @dev W27. The token calls back in the middle of a transfer, with everything it needs to pay again, change or
/// cancel. Counters are written before the call, so whatever gets through is counted; a batch corrects
/// its counters relative to what they are by then.
contract W27_Reentrancy is Stage {
    OddToken private odd;

    function setUp() public override {
        super.setUp();
        odd = new OddToken();
        bytes[] memory changes = baseChanges();
        wallet = deploy(address(odd), changes);
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

    /* FROM A SINGLE PAYMENT */

    function test_the_same_payment_again() public {
        (bytes32 r, bytes32 vs) = compact(agentKey, digestOf(payment(shop, 7, 0)));
        odd.callBack(address(wallet), abi.encodeCall(IPolicyWallet.pay, (agent, shop, 7, 0, FAR, 0, r, vs)));
        send(payment(shop, 7, 0), r, vs);
        assertFalse(odd.calledBackFine());
        assertEq(odd.answer(), abi.encodeWithSelector(IPolicyWallet.NonceUsed.selector, 0));
        assertEq(_paid(), 7);
    }

    function test_another_payment_is_counted_on_top() public {
        for (uint256 i; i < 9; ++i) {
            paySome(shop, CEILING, i);
        }
        odd.callBack(address(wallet), _payCall(60 * USD, 20)); // 60 + 60 do not fit into the last 100
        paySome(shop, 60 * USD, 9);
        assertFalse(odd.calledBackFine());
        assertEq(odd.answer(), why2(IPolicyWallet.DayCapExceeded.selector, 60 * USD, 40 * USD));
        odd.callBack(address(wallet), _payCall(15 * USD, 21));
        paySome(shop, 25 * USD, 10);
        assertTrue(odd.calledBackFine());
        assertEq(_paid(), DAY_CAP);
        assertEq(_dayRoom(), 0);
    }

    function test_a_batch_inside_a_payment_is_counted_on_top() public {
        odd.callBack(address(wallet), _batchCall(5));
        paySome(shop, 7, 0);
        assertTrue(odd.calledBackFine());
        assertEq(_paid(), 7 + 11);
        assertEq(_dayRoom(), DAY_CAP - 18);
    }

    /// @dev The inner payment goes through, the outer transfer then fails: all of it is undone, the inner included.
    function test_outer_failure_undoes_the_inner_payment() public {
        vm.prank(address(wallet));
        odd.transfer(treasury, FUNDS - 60 * USD);
        odd.callBack(address(wallet), _payCall(50 * USD, 5));
        (bytes32 r, bytes32 vs) = compact(agentKey, digestOf(payment(shop, 50 * USD, 6)));
        vm.expectRevert(IPolicyWallet.TransferFailed.selector);
        send(payment(shop, 50 * USD, 6), r, vs);
        assertEq(odd.balanceOf(cafe), 0);
        assertFalse(wallet.nonceUsed(agent, 5));
        assertEq(_dayRoom(), DAY_CAP);
    }

    /* FROM A BATCH */

    function test_what_gets_in_while_a_batch_runs_is_counted() public {
        ContractOperator asToken = ContractOperator(address(odd));
        bytes[] memory set = operatorSet();
        set[2] = abi.encodePacked(address(asToken)); // the token itself is an operator: it may tighten
        wallet = deployFor(address(odd), set, 2, 0, baseChanges());
        odd.mint(address(wallet), FUNDS);
        bytes memory withdrawal = abi.encodeCall(IPolicyChanges.withdraw, (treasury, 1));
        bytes memory votes = quorumFor(changeDigest(address(wallet), withdrawal, 9, FAR));

        bytes[5] memory calls = [
            _payCall(5, 20),
            _batchCall(21),
            abi.encodeCall(IPolicyWallet.submit, (withdrawal, 9, FAR, votes)),
            _approvedCall(22),
            abi.encodeCall(IPolicyWallet.tighten, (setFrozen(address(0), true)))
        ];
        uint256[5] memory counted = [uint256(5), 11, 0, CEILING + 1, 0];
        uint256 spent;
        for (uint256 i; i < calls.length; ++i) {
            odd.callBack(address(wallet), calls[i]);
            wallet.payBatch(one(batchOf(agent, i, pair(item(shop, 1), item(shop, 2)))));
            assertTrue(odd.calledBackFine(), vm.toString(i));
            spent += 3 + counted[i];
            assertEq(_dayRoom(), DAY_CAP - spent);
        }
        assertEq(_paid(), spent + 1); // the withdrawal is no payment
        assertTrue(wallet.walletFrozen()); // and the batch did not write the old word over it
    }

    /// @dev The batch takes its failed item off what the inner payment has left, and nothing more.
    function test_a_failed_item_after_a_call_back() public {
        (bytes32 r, bytes32 vs) = compact(agentKey, digestOf(payment(shop, 5, 20)));
        odd.callBack(address(wallet), abi.encodeCall(IPolicyWallet.pay, (agent, shop, 5, 20, FAR, 0, r, vs)));
        odd.behaveFor(cafe, OddToken.Way.Reverts);
        wallet.payBatch(one(batchOf(agent, 0, pair(item(shop, 1), item(cafe, 2)))));
        assertTrue(odd.calledBackFine());
        assertEq(_paid(), 6);
        assertEq(_dayRoom(), DAY_CAP - 6);
    }

    function _approvedCall(uint256 nonce) private view returns (bytes memory) {
        Payment memory p = payment(cafe, CEILING + 1, nonce);
        bytes32 digest = approvedDigest(p, 1, 1);
        (bytes32 r, bytes32 vs) = compact(agentKey, digest);
        return abi.encodeCall(
            IPolicyWallet.payApproved, (agent, cafe, p.amount, nonce, FAR, 0, 1, 1, r, vs, quorumFor(digest))
        );
    }
}
