// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {ChannelStage} from "../attack/ChannelStage.sol";
import {DevMulticall} from "contracts/DevMulticall.sol";
import {ChannelConfig, IChannelHub, Voucher, VoucherClaim} from "contracts/interfaces/IChannelHub.sol";
import {IDepositCollector} from "contracts/interfaces/IDepositCollector.sol";

/// @dev What x402's clients take for granted: selectors, topics, type hashes, ids, digests, as published.
contract ChannelWireTest is ChannelStage {
    address private constant CANONICAL = 0x4020074e9dF2ce1deE5A9C1b5c3f541D02a10003;
    string private constant C = "(address,address,address,address,address,uint40,bytes32)";

    function _sig(string memory signature) private pure returns (bytes4) {
        return bytes4(keccak256(bytes(signature)));
    }

    function _topic(string memory head, string memory tail) private pure returns (bytes32) {
        return keccak256(bytes(string.concat(head, tail)));
    }

    function test_selectors() public pure {
        bytes4[18] memory published = [
            bytes4(0x140f1e75),
            0x29237b0c,
            0xe43ce1f2,
            0x9db32a8f,
            0xcf5cf3dc,
            0xe88377b1,
            0xdce4bfae,
            0xb77433e9,
            0xac9650d8,
            0x5e5e0b87,
            0x7a7ebd7b,
            0xb7f06ebe,
            0xf0dc792e,
            0x21ff6389,
            0x862bb199,
            0xe25cf189,
            0x488ccc3b,
            0xe416d8d3
        ];
        bytes4[18] memory own = [
            IChannelHub.deposit.selector,
            IChannelHub.claim.selector,
            IChannelHub.claimWithSignature.selector,
            IChannelHub.settle.selector,
            IChannelHub.initiateWithdraw.selector,
            IChannelHub.finalizeWithdraw.selector,
            IChannelHub.refund.selector,
            IChannelHub.refundWithSignature.selector,
            IChannelHub.multicall.selector,
            IChannelHub.getChannelId.selector,
            IChannelHub.channels.selector,
            IChannelHub.pendingWithdrawals.selector,
            IChannelHub.refundNonce.selector,
            IChannelHub.receivers.selector,
            IChannelHub.getVoucherDigest.selector,
            IChannelHub.getRefundDigest.selector,
            IChannelHub.getClaimBatchDigest.selector,
            IDepositCollector.collect.selector
        ];
        for (uint256 i; i < own.length; ++i) {
            assertEq(own[i], published[i], vm.toString(i));
        }
    }

    function test_events() public pure {
        assertEq(IChannelHub.ChannelCreated.selector, _topic("ChannelCreated(bytes32,", string.concat(C, ")")));
        assertEq(IChannelHub.ChannelClosed.selector, _topic("ChannelClosed(bytes32,", string.concat(C, ")")));
        assertEq(IChannelHub.Deposited.selector, _topic("Deposited", "(bytes32,address,uint128,uint128)"));
        assertEq(IChannelHub.Claimed.selector, _topic("Claimed", "(bytes32,address,uint128,uint128)"));
        assertEq(IChannelHub.Settled.selector, _topic("Settled", "(address,address,address,uint128)"));
        assertEq(IChannelHub.Refunded.selector, _topic("Refunded", "(bytes32,address,uint128)"));
        assertEq(IChannelHub.WithdrawInitiated.selector, _topic("WithdrawInitiated", "(bytes32,uint128,uint40)"));
        assertEq(IChannelHub.WithdrawFinalized.selector, _topic("WithdrawFinalized", "(bytes32,address,uint128)"));
    }

    function test_errors() public pure {
        assertEq(IChannelHub.InvalidChannel.selector, _sig("InvalidChannel()"));
        assertEq(IChannelHub.ZeroDeposit.selector, _sig("ZeroDeposit()"));
        assertEq(IChannelHub.DepositOverflow.selector, _sig("DepositOverflow()"));
        assertEq(IChannelHub.InvalidSignature.selector, _sig("InvalidSignature()"));
        assertEq(IChannelHub.NotReceiverAuthorizer.selector, _sig("NotReceiverAuthorizer()"));
        assertEq(IChannelHub.NotAuthorizedToClaim.selector, _sig("NotAuthorizedToClaim()"));
        assertEq(IChannelHub.NotAuthorizedToRefund.selector, _sig("NotAuthorizedToRefund()"));
        assertEq(IChannelHub.ClaimExceedsCeiling.selector, _sig("ClaimExceedsCeiling()"));
        assertEq(IChannelHub.ClaimExceedsBalance.selector, _sig("ClaimExceedsBalance()"));
        assertEq(IChannelHub.WithdrawalAlreadyPending.selector, _sig("WithdrawalAlreadyPending()"));
        assertEq(IChannelHub.WithdrawalNotPending.selector, _sig("WithdrawalNotPending()"));
        assertEq(IChannelHub.NotAuthorizedToFinalizeWithdraw.selector, _sig("NotAuthorizedToFinalizeWithdraw()"));
        assertEq(IChannelHub.WithdrawDelayNotElapsed.selector, _sig("WithdrawDelayNotElapsed()"));
        assertEq(IChannelHub.NothingToWithdraw.selector, _sig("NothingToWithdraw()"));
        assertEq(IChannelHub.WithdrawAmountExceedsAvailable.selector, _sig("WithdrawAmountExceedsAvailable()"));
        assertEq(IChannelHub.WithdrawDelayOutOfRange.selector, _sig("WithdrawDelayOutOfRange()"));
        assertEq(IChannelHub.EmptyBatch.selector, _sig("EmptyBatch()"));
        assertEq(IChannelHub.DepositCollectionFailed.selector, _sig("DepositCollectionFailed()"));
        assertEq(IChannelHub.InvalidCollector.selector, _sig("InvalidCollector()"));
        assertEq(IChannelHub.InvalidRefundNonce.selector, _sig("InvalidRefundNonce()"));
        assertEq(IChannelHub.ZeroRefund.selector, _sig("ZeroRefund()"));
    }

    function test_type_hashes_and_constants() public view {
        assertEq(hub.CHANNEL_CONFIG_TYPEHASH(), 0x1c9a06ceab9b0ebbd3301dc56c9111bb6d9af421356dc9ccb3b7084c755db308);
        assertEq(hub.VOUCHER_TYPEHASH(), 0x1e1bd6ff84c3e0d9029a292b212e039c0ca97ec497c55191a4a5874294609a69);
        assertEq(hub.REFUND_TYPEHASH(), 0xbe23ad087435072cd69b49cc5b92de10ee610fce7ae0ab428307972d764bb216);
        assertEq(hub.CLAIM_ENTRY_TYPEHASH(), 0x30b9a0367528fca13c3e8ec6134c3113f1887ebe7a1ad61de0955aac288b0cf5);
        assertEq(hub.CLAIM_BATCH_TYPEHASH(), 0x42bd57c010b870c2e96203c66341f28a6a19b4d56a74533a8eb5f706b9fd6d57);
        assertEq(hub.MIN_WITHDRAW_DELAY(), 900);
        assertEq(hub.MAX_WITHDRAW_DELAY(), 2_592_000);
    }

    /// @dev The vectors, from the code placed at the canonical address, on three chains.
    function test_vectors() public {
        vm.etch(CANONICAL, address(hub).code);
        hub = IChannelHub(CANONICAL);
        ChannelConfig memory c = ChannelConfig({
            payer: 0x1111111111111111111111111111111111111111,
            payerAuthorizer: 0x2222222222222222222222222222222222222222,
            receiver: 0x3333333333333333333333333333333333333333,
            receiverAuthorizer: 0x4444444444444444444444444444444444444444,
            token: 0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913,
            withdrawDelay: 900,
            salt: bytes32(uint256(1))
        });
        vm.chainId(84_532);
        assertEq(hub.getChannelId(c), 0x530f2c4da2224ee9299085e2bc355e9615710ecdc324f76be875e6b7998daa2d);
        vm.chainId(31_337);
        assertEq(hub.getChannelId(c), 0xd75d8cb8280dede4a395513af10eb3fa9f36dac2c3bd50c33703c415da3c8557);
        vm.chainId(8_453);
        bytes32 id = hub.getChannelId(c);
        assertEq(id, 0x91146eded5ed3b7c7445a0e16997bc09682641d1321795f539494ff6536568d5);
        assertEq(hub.getVoucherDigest(id, 1000), 0x7d0c13c615bdfba821fe9343b390efb939bd02433ce597400d9144d24c1540d7);
        assertEq(hub.getRefundDigest(id, 0, 1500), 0x3fb2f0cfd9254bde4d88d1101e195af9896d3345a50f5be694bcd92d71f18ba6);
        VoucherClaim[] memory rows = one(VoucherClaim(Voucher(c, 1000), "", 700));
        assertEq(hub.getClaimBatchDigest(rows), 0x2566d6573bfec325bbb1fa83c56edd59aca32dc9aa7d3b6f3d5d64e5aa344b06);
    }

    function testFuzz_digests(ChannelConfig memory c, uint128 max, uint128 total, uint256 nonce) public view {
        bytes32 id = idOf(c);
        assertEq(hub.getChannelId(c), id);
        assertEq(hub.getVoucherDigest(id, max), voucherHash(c, max));
        assertEq(hub.getRefundDigest(id, nonce, max), refundHash(c, nonce, max));
        VoucherClaim[] memory rows =
            two(VoucherClaim(Voucher(c, max), "", total), VoucherClaim(Voucher(c, total), "x", max));
        assertEq(hub.getClaimBatchDigest(rows), batchHash(rows));
    }

    /// @dev Dirty upper bits of a config's addresses and delay are refused, not hashed.
    function test_dirty_config() public {
        bytes memory call = abi.encodeCall(IChannelHub.getChannelId, (config()));
        for (uint256 field; field < 6; ++field) {
            bytes memory dirty = bytes.concat(call);
            dirty[4 + 32 * field] = 0x01;
            (bool done,) = address(hub).call(dirty);
            assertFalse(done, vm.toString(field));
        }
    }
}

/// @dev Deposits: what is checked, what is said, and the events of a channel's life.
contract ChannelDepositTest is ChannelStage {
    function test_events_of_a_life() public {
        ChannelConfig memory c = config();
        mint(address(purse), 3 * AMOUNT);
        vm.expectEmit(address(hub));
        emit IChannelHub.ChannelCreated(idOf(c), c);
        vm.expectEmit(address(hub));
        emit IChannelHub.Deposited(idOf(c), stranger, AMOUNT, AMOUNT);
        vm.prank(stranger);
        hub.deposit(c, AMOUNT, address(purse), "");

        vm.recordLogs();
        hub.deposit(c, AMOUNT, address(purse), "");
        assertEq(vm.getRecordedLogs().length, 2); // Deposited and USDC's Transfer
        assertEq(held(), 2 * AMOUNT);

        vm.expectEmit(address(hub));
        emit IChannelHub.Claimed(idOf(c), clerk, 5e6, 5e6);
        claim(c, 5e6);
        vm.expectEmit(address(hub));
        emit IChannelHub.Claimed(idOf(c), clerk, 2e6, 7e6);
        claimPacked(one(row(c, 9e6, 7e6)));

        // Refilled after a full exit: created again only if nothing was ever claimed.
        exit(c, 2 * AMOUNT - 7e6);
        vm.recordLogs();
        hub.deposit(c, AMOUNT, address(purse), "");
        assertEq(vm.getRecordedLogs().length, 2);
        ChannelConfig memory d = opened(salted(1));
        exit(d, AMOUNT);
        mint(address(purse), AMOUNT);
        vm.expectEmit(address(hub));
        emit IChannelHub.ChannelCreated(idOf(d), d);
        hub.deposit(d, AMOUNT, address(purse), "");
    }

    function test_configs_that_are_refused() public {
        mint(address(purse), AMOUNT);
        for (uint256 field; field < 5; ++field) {
            ChannelConfig memory c = config();
            if (field == 0) c.payer = address(0);
            if (field == 1) c.payerAuthorizer = address(0);
            if (field == 2) c.receiver = address(0);
            if (field == 3) c.receiverAuthorizer = address(0);
            if (field == 4) c.token = address(0);
            refuses(IChannelHub.InvalidChannel.selector);
            hub.deposit(c, 1, address(purse), "");
        }
        ChannelConfig memory d = config();
        uint40[4] memory delays = [0, 899, 2_592_001, type(uint40).max];
        for (uint256 i; i < delays.length; ++i) {
            d.withdrawDelay = delays[i];
            refuses(IChannelHub.WithdrawDelayOutOfRange.selector);
            hub.deposit(d, 1, address(purse), "");
        }
        refuses(IChannelHub.ZeroDeposit.selector);
        hub.deposit(config(), 0, address(purse), "");
        d.withdrawDelay = 900;
        hub.deposit(d, 1, address(purse), "");
        d.withdrawDelay = 2_592_000;
        hub.deposit(d, 1, address(purse), "");
    }
}

/// @dev Of Multicall3 what clients read with.
contract DevMulticallTest is ChannelStage {
    function test_reads() public {
        DevMulticall multicall = new DevMulticall();
        ChannelConfig memory c = opened(config());
        bytes memory good = abi.encodeCall(IChannelHub.channels, (idOf(c)));
        bytes memory bad = abi.encodeCall(IChannelHub.deposit, (c, 0, address(purse), ""));

        DevMulticall.Call[] memory calls = new DevMulticall.Call[](2);
        calls[0] = DevMulticall.Call(address(hub), good);
        calls[1] = DevMulticall.Call(address(hub), bad);
        DevMulticall.Result[] memory results = multicall.tryAggregate(false, calls);
        _check(results);
        bytes memory why = abi.encodeWithSelector(
            DevMulticall.CallFailed.selector, 1, abi.encodeWithSelector(IChannelHub.ZeroDeposit.selector)
        );
        vm.expectRevert(why);
        multicall.tryAggregate(true, calls);

        DevMulticall.Call3[] memory calls3 = new DevMulticall.Call3[](2);
        calls3[0] = DevMulticall.Call3(address(hub), false, good);
        calls3[1] = DevMulticall.Call3(address(hub), true, bad);
        _check(multicall.aggregate3(calls3));
        calls3[1].allowFailure = false;
        vm.expectRevert(why);
        multicall.aggregate3(calls3);

        vm.deal(stranger, 7);
        assertEq(multicall.getEthBalance(stranger), 7);
        assertEq(DevMulticall.aggregate3.selector, bytes4(0x82ad56cb));
        assertEq(DevMulticall.tryAggregate.selector, bytes4(0xbce38bd7));
        assertEq(DevMulticall.getEthBalance.selector, bytes4(0x4d2301cc));
    }

    function _check(DevMulticall.Result[] memory results) private pure {
        assertTrue(results[0].success);
        assertEq(results[0].returnData, abi.encode(uint128(AMOUNT), uint128(0)));
        assertFalse(results[1].success);
        assertEq(results[1].returnData, abi.encodeWithSelector(IChannelHub.ZeroDeposit.selector));
    }
}
