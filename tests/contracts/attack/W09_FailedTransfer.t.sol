// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {AgentLimits, IPolicyWallet, PayeeLimits} from "contracts/interfaces/IPolicyWallet.sol";
import {OddToken} from "./OddToken.sol";
import {Payment, Stage} from "./Stage.sol";

/// @dev W9. The transfer fails after everything else passed: no counter, no nonce and no event may say otherwise.
contract W09_FailedTransfer is Stage {
    OddToken private odd;

    /// @dev All counters on, so that a trace in any of them shows.
    function setUp() public override {
        super.setUp();
        AgentLimits memory l = limits();
        l.monthCap = uint48(DAY_CAP);
        l.budget = uint64(DAY_CAP);
        PayeeLimits memory watched = PayeeLimits(1, uint48(DAY_CAP), 1 hours);
        bytes[] memory changes = new bytes[](4);
        changes[0] = setAgent(agent, l);
        changes[1] = setPayee(shop, watched);
        changes[2] = setPayee(cafe, watched);
        changes[3] = setCap(DAY_CAP);
        wallet = deploy(address(usdc), changes);
        fund(address(wallet), FUNDS);
        odd = new OddToken();
    }

    function _useOdd() private {
        bytes memory code = address(odd).code;
        vm.etch(address(usdc), code);
        odd = OddToken(address(usdc));
        odd.mint(address(wallet), FUNDS);
    }

    function _failsWithoutTrace() private {
        (bytes32 r, bytes32 vs) = compact(agentKey, digestOf(payment(shop, 5 * USD, 0)));
        vm.expectRevert(IPolicyWallet.TransferFailed.selector);
        send(payment(shop, 5 * USD, 0), r, vs);
        _noTrace();

        Payment memory p = payment(shop, 5 * USD, 0);
        (, uint256 version,) = wallet.agentLimits(agent);
        bytes32 digest = approvedDigest(p, 1, version);
        (r, vs) = compact(agentKey, digest);
        bytes memory quorum = quorumFor(digest);
        vm.expectRevert(IPolicyWallet.TransferFailed.selector);
        wallet.payApproved(agent, shop, 5 * USD, 0, FAR, 0, 1, version, r, vs, quorum);
        _noTrace();

        vm.expectEmit(address(wallet));
        emit IPolicyWallet.ItemSkipped(agent, 9, 0, IPolicyWallet.TransferFailed.selector, 0);
        vm.expectEmit(address(wallet));
        emit IPolicyWallet.ItemSkipped(agent, 9, 1, IPolicyWallet.TransferFailed.selector, 0);
        vm.expectEmit(address(wallet));
        emit IPolicyWallet.BatchPaid(agent, 9, 0, 0, version, 0);
        wallet.payBatch(one(batchOf(agent, 9, pair(item(shop, 5 * USD), item(cafe, 6 * USD)))));
        _noTrace();
    }

    function _noTrace() private view {
        assertFalse(wallet.nonceUsed(agent, 0));
        (uint256 day, uint256 month, uint256 budget, uint256 left) = wallet.room(agent);
        assertEq(day, DAY_CAP);
        assertEq(month, DAY_CAP);
        assertEq(budget, DAY_CAP);
        assertEq(left, DAY_CAP);
        (, uint256 spent, uint256 lastPaid) = wallet.payeeLimits(shop);
        assertEq(spent, 0);
        assertEq(lastPaid, 0);
        (, spent, lastPaid) = wallet.payeeLimits(cafe);
        assertEq(spent, 0);
        assertEq(lastPaid, 0);
        assertEq(usdc.balanceOf(shop), 0);
    }

    function test_wallet_blacklisted() public {
        vm.prank(treasury);
        usdc.blacklist(address(wallet));
        _failsWithoutTrace();
    }

    function test_payees_blacklisted() public {
        vm.startPrank(treasury);
        usdc.blacklist(shop);
        usdc.blacklist(cafe);
        vm.stopPrank();
        _failsWithoutTrace();
    }

    function test_token_paused() public {
        vm.prank(treasury);
        usdc.pause();
        _failsWithoutTrace();
    }

    function test_balance_too_low() public {
        vm.prank(address(wallet));
        usdc.transfer(treasury, FUNDS - 4 * USD);
        _failsWithoutTrace();
    }

    function test_token_returns_false() public {
        _useOdd();
        odd.behave(OddToken.Way.ReturnsFalse);
        _failsWithoutTrace();
    }

    function test_token_reverts() public {
        _useOdd();
        odd.behave(OddToken.Way.Reverts);
        _failsWithoutTrace();
    }

    function test_token_without_code() public {
        vm.etch(address(usdc), "");
        (bytes32 r, bytes32 vs) = compact(agentKey, digestOf(payment(shop, 5 * USD, 0)));
        vm.expectRevert(IPolicyWallet.TransferFailed.selector);
        send(payment(shop, 5 * USD, 0), r, vs);
        assertFalse(wallet.nonceUsed(agent, 0));
        wallet.payBatch(one(batchOf(agent, 9, pair(item(shop, 5 * USD), item(cafe, 6 * USD)))));
        (uint256 day,,,) = wallet.room(agent);
        assertEq(day, DAY_CAP);
    }

    /// @dev Each of these moved money and then answered with something that is not exactly `true`: single payments
    /// roll it back.
    function test_token_answers_that_are_not_exactly_true() public {
        _useOdd();
        OddToken.Way[3] memory ways = [OddToken.Way.ReturnsNothing, OddToken.Way.ReturnsTwo, OddToken.Way.ReturnsLong];
        for (uint256 i; i < 3; ++i) {
            odd.behave(ways[i]);
            (bytes32 r, bytes32 vs) = compact(agentKey, digestOf(payment(shop, 5 * USD, 0)));
            vm.expectRevert(IPolicyWallet.TransferFailed.selector);
            send(payment(shop, 5 * USD, 0), r, vs);
            _noTrace();
        }
    }

    function test_failed_item_frees_room_for_a_retry() public {
        vm.prank(treasury);
        usdc.blacklist(shop);
        wallet.payBatch(one(batchOf(agent, 1, pair(item(shop, 100 * USD), item(cafe, 100 * USD)))));
        assertEq(usdc.balanceOf(cafe), 100 * USD);
        (uint256 day,,,) = wallet.room(agent);
        assertEq(day, DAY_CAP - 100 * USD);
        vm.prank(treasury);
        usdc.unBlacklist(shop);
        paySome(shop, 100 * USD, 2); // its cooldown did not start
        assertEq(usdc.balanceOf(shop), 100 * USD);
    }

    function test_withdraw_that_fails_reverts() public {
        vm.prank(treasury);
        usdc.pause();
        bytes memory change = abi.encodeWithSignature("withdraw(address,uint256)", treasury, USD);
        bytes memory quorum = quorumFor(changeDigest(address(wallet), change, 77, FAR));
        vm.expectRevert(IPolicyWallet.TransferFailed.selector);
        wallet.submit(change, 77, FAR, quorum);
        assertFalse(wallet.nonceUsed(address(0), 77));
    }
}
