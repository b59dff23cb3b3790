// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {ChannelStage} from "./ChannelStage.sol";
import {ContractOperator} from "./Operators.sol";
import {ChannelConfig, IChannelHub, Skip, VoucherClaim} from "contracts/interfaces/IChannelHub.sol";

/// @dev C7, C8. One bad row among good ones: a deposit that never landed, a drained channel, a row already claimed, a
/// wrong signature. The packed path passes it over and says why; x402's reverts whole.
contract C08_Poison is ChannelStage {
    ChannelConfig private good;
    ChannelConfig private alsoGood;

    function setUp() public override {
        super.setUp();
        good = opened(salted(1));
        alsoGood = opened(salted(2));
    }

    function _poisoned(VoucherClaim memory bad, Skip reason, bytes4 error_) private {
        VoucherClaim[] memory rows = new VoucherClaim[](3);
        (rows[0], rows[1], rows[2]) = (row(good, 10e6, 10e6), bad, row(alsoGood, 20e6, 15e6));
        if (error_ != 0) {
            vm.prank(clerk);
            refuses(error_);
            hub.claim(rows);
            assertReceiver(0, 0);
        }
        vm.prank(seller);
        skips(bad.voucher.channel, reason);
        assertEq(hub.claimPacked(seller, clerk, address(usdc), packed(rows)), 25e6);
        assertChannel(good, AMOUNT, 10e6);
        assertChannel(alsoGood, AMOUNT, 15e6);
        assertReceiver(25e6 + _claimedOf(bad), 0);
    }

    function _claimedOf(VoucherClaim memory bad) private view returns (uint256 claimed) {
        (, claimed) = hub.channels(idOf(bad.voucher.channel));
    }

    function test_deposit_that_never_landed() public {
        _poisoned(row(config(), 5e6, 5e6), Skip.ExceedsBalance, IChannelHub.ClaimExceedsBalance.selector);
    }

    function test_drained_channel() public {
        ChannelConfig memory c = opened(config());
        exit(c, 96e6);
        _poisoned(row(c, 5e6, 5e6), Skip.ExceedsBalance, IChannelHub.ClaimExceedsBalance.selector);
    }

    function test_more_than_the_voucher() public {
        ChannelConfig memory c = opened(config());
        _poisoned(row(c, 5e6, 5e6 + 1), Skip.ExceedsCeiling, IChannelHub.ClaimExceedsCeiling.selector);
    }

    function test_wrong_signature() public {
        ChannelConfig memory c = opened(config());
        VoucherClaim memory bad = row(c, 5e6, 5e6);
        bad.signature = signed(payerKey, voucherHash(c, 5e6)); // the payer's own key is not its authorizer's
        _poisoned(bad, Skip.InvalidSignature, IChannelHub.InvalidSignature.selector);
    }

    function test_row_claimed_before() public {
        ChannelConfig memory c = opened(config());
        claim(c, 5e6);
        VoucherClaim memory old = row(c, 5e6, 5e6);
        (uint128 before,) = hub.receivers(seller, address(usdc));
        assertEq(before, 5e6);
        _poisoned(old, Skip.NothingNew, 0);
    }

    /// @dev Nor does it stop x402's path.
    function test_row_claimed_before_on_x402_s_path() public {
        claim(good, 5e6);
        claim(two(row(good, 5e6, 5e6), row(alsoGood, 6e6, 6e6)));
        assertReceiver(11e6, 0);
    }

    /// @dev A zero total is nothing new, wherever.
    function test_zero_rows() public {
        claim(one(row(good, 0, 0)));
        skips(config(), Skip.NothingNew);
        assertEq(claimPacked(one(row(config(), 5e6, 0))), 0);
        assertReceiver(0, 0);
    }

    function test_all_bad() public {
        assertEq(claimPacked(two(row(config(), 1, 1), row(salted(9), 1, 1))), 0);
        vm.prank(clerk);
        uint256 paid =
            hub.claimAndSettle(seller, clerk, address(usdc), packed(two(row(config(), 1, 1), row(salted(9), 1, 1))));
        assertEq(paid, 0);
        assertReceiver(0, 0);
    }

    function test_empty_and_torn() public {
        VoucherClaim[] memory none = new VoucherClaim[](0);
        vm.startPrank(clerk);
        refuses(IChannelHub.EmptyBatch.selector);
        hub.claim(none);
        refuses(IChannelHub.EmptyBatch.selector);
        hub.claimWithSignature(none, "");
        refuses(IChannelHub.EmptyBatch.selector);
        hub.claimPacked(seller, clerk, address(usdc), "");
        refuses(IChannelHub.EmptyBatch.selector);
        hub.claimAndSettle(seller, clerk, address(usdc), "");
        refuses(IChannelHub.EmptyBatch.selector);
        hub.claimPackedWithSignature(seller, clerk, address(usdc), "", "");
        bytes memory whole = packed(one(row(good, 1e6, 1e6)));
        for (uint256 length = 1; length < 2 * 165; length += 41) {
            if (length == 165) continue;
            bytes memory torn = new bytes(length);
            for (uint256 i; i < length && i < 165; ++i) {
                torn[i] = whole[i];
            }
            vm.expectRevert(abi.encodeWithSelector(IChannelHub.UnevenRows.selector, length));
            hub.claimPacked(seller, clerk, address(usdc), torn);
            vm.expectRevert(abi.encodeWithSelector(IChannelHub.UnevenRows.selector, length));
            hub.claimPackedWithSignature(seller, clerk, address(usdc), torn, "");
        }
        assertReceiver(0, 0);
    }
}

/// @dev Whose word claims: the price is the receiver's side to say, nobody else may raise a channel to its ceiling.
contract C08_WhoClaims is ChannelStage {
    ContractOperator private office; // an authorizer that is a contract, with `clerk` as its owner

    function setUp() public override {
        super.setUp();
        office = new ContractOperator(clerk);
    }

    function test_strangers_and_payers_cannot() public {
        ChannelConfig memory c = opened(config());
        VoucherClaim[] memory rows = one(row(c, 5e6, 5e6));
        address[4] memory others = [payer, agent, stranger, address(this)];
        for (uint256 i; i < others.length; ++i) {
            vm.startPrank(others[i]);
            refuses(IChannelHub.NotAuthorizedToClaim.selector);
            hub.claim(rows);
            refuses(IChannelHub.NotAuthorizedToClaim.selector);
            hub.claimPacked(seller, clerk, address(usdc), packed(rows));
            refuses(IChannelHub.NotAuthorizedToClaim.selector);
            hub.claimAndSettle(seller, clerk, address(usdc), packed(rows));
            // With his own name in the authorizer's place it is another channel.
            skipsOf(others[i]);
            assertEq(hub.claimPacked(seller, others[i], address(usdc), packed(rows)), 0);
            vm.stopPrank();
        }
        assertReceiver(0, 0);
    }

    function skipsOf(address authorizer) private {
        ChannelConfig memory c = config();
        c.receiverAuthorizer = authorizer;
        skips(c, Skip.ExceedsBalance);
    }

    function test_one_foreign_row_spoils_x402_s_claim() public {
        ChannelConfig memory c = opened(config());
        ChannelConfig memory foreign = config();
        (foreign.receiver, foreign.receiverAuthorizer) = (stranger, stranger);
        opened(foreign);
        vm.prank(clerk);
        refuses(IChannelHub.NotAuthorizedToClaim.selector);
        hub.claim(two(row(c, 5e6, 5e6), row(foreign, 5e6, 5e6)));
    }

    /// @dev Rows of several receivers and tokens in one claim: each gets its own.
    function test_rows_of_several_receivers() public {
        ChannelConfig memory c = opened(config());
        ChannelConfig memory other = config();
        other.receiver = stranger;
        opened(other);
        ChannelConfig memory again = opened(salted(1));
        VoucherClaim[] memory rows = new VoucherClaim[](4);
        rows[0] = row(c, 1e6, 1e6);
        rows[1] = row(other, 2e6, 2e6);
        rows[2] = row(again, 4e6, 4e6);
        rows[3] = row(c, 9e6, 9e6);
        claim(rows);
        assertReceiver(13e6, 0);
        (uint128 claimed,) = hub.receivers(stranger, address(usdc));
        assertEq(claimed, 2e6);
    }

    function test_by_signature() public {
        ChannelConfig memory c = opened(config());
        VoucherClaim[] memory rows = two(row(c, 5e6, 4e6), row(opened(salted(1)), 7e6, 7e6));
        bytes memory good = signed(clerkKey, batchHash(rows));
        vm.startPrank(stranger);
        refuses(IChannelHub.InvalidSignature.selector);
        hub.claimWithSignature(rows, signed(sellerKey, batchHash(rows)));
        rows[0].totalClaimed = 5e6; // the ceiling instead of the price
        refuses(IChannelHub.InvalidSignature.selector);
        hub.claimWithSignature(rows, good);
        refuses(IChannelHub.InvalidSignature.selector);
        hub.claimPackedWithSignature(seller, clerk, address(usdc), packed(rows), good);
        rows[0].totalClaimed = 4e6;
        refuses(IChannelHub.InvalidSignature.selector);
        hub.claimWithSignature(one(rows[0]), good);
        refuses(IChannelHub.InvalidSignature.selector);
        hub.claimPackedWithSignature(seller, clerk, address(usdc), packed(two(rows[1], rows[0])), good);
        refuses(IChannelHub.InvalidSignature.selector);
        hub.claimPackedWithSignature(seller, seller, address(usdc), packed(rows), good);

        uint256 snapshot = vm.snapshotState();
        hub.claimWithSignature(rows, good);
        assertReceiver(11e6, 0);
        hub.claimWithSignature(rows, good); // again: nothing
        assertReceiver(11e6, 0);
        vm.revertToState(snapshot);
        assertEq(hub.claimPackedWithSignature(seller, clerk, address(usdc), packed(rows), good), 11e6);
        assertReceiver(11e6, 0);
        assertEq(hub.claimPackedWithSignature(seller, clerk, address(usdc), packed(rows), good), 0);
        assertReceiver(11e6, 0);
    }

    function test_signature_for_rows_of_another_authorizer() public {
        ChannelConfig memory c = opened(config());
        ChannelConfig memory other = config();
        other.receiverAuthorizer = stranger;
        opened(other);
        VoucherClaim[] memory rows = two(row(c, 5e6, 5e6), row(other, 5e6, 5e6));
        refuses(IChannelHub.NotReceiverAuthorizer.selector);
        hub.claimWithSignature(rows, signed(clerkKey, batchHash(rows)));
    }

    /// @dev The authorizer may be a contract: it speaks for itself only. The receiver may be one too.
    function test_authorizer_is_a_contract() public {
        ChannelConfig memory c = config();
        c.receiverAuthorizer = address(office);
        opened(c);
        VoucherClaim[] memory rows = one(row(c, 5e6, 5e6));
        refuses(IChannelHub.InvalidSignature.selector);
        hub.claimWithSignature(rows, signed(sellerKey, batchHash(rows)));
        hub.claimWithSignature(rows, signed(clerkKey, batchHash(rows)));
        hub.refundWithSignature(c, 5e6, 0, signed(clerkKey, refundHash(c, 0, 5e6)));
        office.call(address(hub), abi.encodeCall(IChannelHub.claim, (one(row(c, 6e6, 6e6)))));
        assertChannel(c, 95e6, 6e6);
    }

    function test_multicall_is_in_the_caller_s_name() public {
        ChannelConfig memory c = opened(config());
        bytes[] memory calls = new bytes[](3);
        calls[0] = abi.encodeCall(IChannelHub.claim, (one(row(c, 5e6, 5e6))));
        calls[1] = abi.encodeCall(IChannelHub.refund, (c, type(uint128).max));
        calls[2] = abi.encodeCall(IChannelHub.settle, (seller, address(usdc)));
        vm.prank(stranger);
        refuses(IChannelHub.NotAuthorizedToClaim.selector);
        hub.multicall(calls);
        vm.prank(clerk);
        hub.multicall(calls);
        assertEq(usdc.balanceOf(payer), 95e6);
        assertEq(usdc.balanceOf(seller), 5e6);
        assertEq(held(), 0);
    }
}
