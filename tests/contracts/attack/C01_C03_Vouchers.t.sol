// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {ChannelStage} from "./ChannelStage.sol";
import {ChannelConfig, IChannelHub, Skip, VoucherClaim} from "contracts/interfaces/IChannelHub.sol";

/// @dev C1. A voucher where it was not meant for: other channel, other chain, other deployment, an older one after a
/// newer one.
contract C01_Replay is ChannelStage {
    /// @dev Both paths refuse `a` for its signature.
    function _refused(VoucherClaim memory a) private {
        vm.prank(clerk);
        refuses(IChannelHub.InvalidSignature.selector);
        hub.claim(one(a));
        skips(a.voucher.channel, Skip.InvalidSignature);
        assertEq(claimPacked(one(a)), 0);
        assertReceiver(0, 0);
    }

    /// @dev Every field makes another channel. The signature is the one over the first.
    function test_other_channel_of_the_same_pair() public {
        ChannelConfig memory c = opened(config());
        bytes memory signature = row(c, AMOUNT, AMOUNT).signature;
        for (uint256 field; field < 4; ++field) {
            ChannelConfig memory other = config();
            if (field == 0) other.payer = stranger;
            if (field == 1) other.withdrawDelay += 1;
            if (field == 2) other.salt = "other";
            if (field == 3) other.receiver = payer;
            opened(other);
            VoucherClaim memory a = row(other, AMOUNT, AMOUNT);
            a.signature = signature;
            if (field < 3) {
                _refused(a);
            } else {
                vm.prank(clerk);
                refuses(IChannelHub.InvalidSignature.selector);
                hub.claim(one(a));
            }
            assertChannel(other, AMOUNT, 0);
        }
    }

    function test_other_ceiling_than_signed() public {
        ChannelConfig memory c = opened(config());
        VoucherClaim memory a = row(c, 10e6, 10e6);
        a.voucher.maxClaimableAmount = 11e6;
        _refused(a);
    }

    function test_other_chain() public {
        ChannelConfig memory c = config();
        VoucherClaim memory a = row(c, 10e6, 10e6);
        vm.chainId(block.chainid + 1);
        opened(c);
        _refused(a);
    }

    function test_other_deployment() public {
        ChannelConfig memory c = config();
        VoucherClaim memory a = row(c, 10e6, 10e6);
        hub = deployHub();
        opened(c);
        _refused(a);
    }

    /// @dev The runtime placed elsewhere asks for signatures over where it is.
    function test_code_placed_elsewhere() public {
        ChannelConfig memory c = config();
        VoucherClaim memory old = row(c, 10e6, 10e6);
        bytes memory code = address(hub).code;
        hub = IChannelHub(0x4020074e9dF2ce1deE5A9C1b5c3f541D02a10003);
        vm.etch(address(hub), code);
        opened(c);
        _refused(old);
        claim(one(row(c, 10e6, 10e6)));
        assertChannel(c, AMOUNT, 10e6);
    }

    function test_older_voucher_pays_nothing() public {
        ChannelConfig memory c = opened(config());
        claim(c, 50e6);
        claim(c, 30e6);
        claim(c, 50e6);
        skips(c, Skip.NothingNew);
        assertEq(claimPacked(one(row(c, 30e6, 30e6))), 0);
        skips(c, Skip.NothingNew);
        assertEq(claimPacked(one(row(c, 90e6, 50e6))), 0);
        assertChannel(c, AMOUNT, 50e6);
        assertReceiver(50e6, 0);
    }

    /// @dev The same row twice in one transaction counts once.
    function test_row_twice_in_a_batch() public {
        ChannelConfig memory c = opened(config());
        claim(two(row(c, 40e6, 40e6), row(c, 40e6, 40e6)));
        assertChannel(c, AMOUNT, 40e6);
        assertReceiver(40e6, 0);
        ChannelConfig memory d = opened(salted(1));
        assertEq(claimPacked(two(row(d, 7e6, 7e6), row(d, 7e6, 7e6))), 7e6);
        assertReceiver(47e6, 0);
    }

    /// @dev High s, the other v, 64 bytes, 66 bytes, nothing, v as 0 or 1: x402's door takes one form only.
    function test_malleable_signatures() public {
        ChannelConfig memory c = opened(config());
        VoucherClaim memory a = row(c, 1e6, 1e6);
        bytes32 digest = voucherHash(c, 1e6);
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(agentKey, digest);
        bytes32 high = bytes32(0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141 - uint256(s));
        bytes[6] memory bad = [
            abi.encodePacked(r, high, v == 27 ? 28 : 27),
            abi.encodePacked(r, s, v == 27 ? 28 : 27),
            abi.encodePacked(r, s),
            abi.encodePacked(r, s, v, v),
            bytes(""),
            abi.encodePacked(r, s, v - 27)
        ];
        for (uint256 i; i < bad.length; ++i) {
            a.signature = bad[i];
            vm.prank(clerk);
            refuses(IChannelHub.InvalidSignature.selector);
            hub.claim(one(a));
        }
        // The packed form has a bit for v, so high s is another point with the same bit: refused.
        a.signature = abi.encodePacked(r, high, uint8(27));
        skips(c, Skip.InvalidSignature);
        assertEq(claimPacked(one(a)), 0);
    }

    /// @dev ecrecover's zero is nobody's word: not in a channel without authorizer, which cannot even be funded.
    function test_nobody_signs_for_the_zero_account() public {
        ChannelConfig memory c = config();
        c.payerAuthorizer = address(0);
        mint(address(purse), AMOUNT);
        refuses(IChannelHub.InvalidChannel.selector);
        hub.deposit(c, AMOUNT, address(purse), "");
        bytes memory raw = packedOne(row(c, 1e6, 1e6));
        for (uint256 i = 101; i < 165; ++i) {
            raw[i] = 0xff;
        }
        // As if it held money.
        vm.store(address(hub), keccak256(abi.encode(idOf(c), uint256(0))), bytes32(uint256(AMOUNT)));
        assertChannel(c, AMOUNT, 0);
        skips(c, Skip.InvalidSignature);
        vm.prank(clerk);
        hub.claimPacked(seller, clerk, address(usdc), raw);
    }
}

/// @dev C3. There is no epoch: what was signed and not claimed is good again when the channel is refilled. A payer that
/// has left takes a fresh salt.
contract C03_Resurrection is ChannelStage {
    function test_old_voucher_after_full_exit_and_refill() public {
        ChannelConfig memory c = opened(config());
        VoucherClaim memory a = row(c, 60e6, 60e6);
        exit(c, AMOUNT);
        assertChannel(c, 0, 0);
        vm.prank(clerk);
        refuses(IChannelHub.ClaimExceedsBalance.selector);
        hub.claim(one(a));

        opened(c);
        claim(one(a));
        assertChannel(c, AMOUNT, 60e6);
    }

    function test_fresh_salt_is_safe() public {
        ChannelConfig memory c = opened(config());
        VoucherClaim memory a = row(c, 60e6, 60e6);
        exit(c, AMOUNT);
        ChannelConfig memory fresh = opened(salted(1));
        skips(c, Skip.ExceedsBalance);
        assertEq(claimPacked(one(a)), 0);
        a.voucher.channel = fresh;
        skips(fresh, Skip.InvalidSignature);
        assertEq(claimPacked(one(a)), 0);
        assertChannel(fresh, AMOUNT, 0);
    }

    /// @dev A refund signed before a full exit is as dead as the nonce it was signed for.
    function test_refund_signatures_do_not_come_back() public {
        ChannelConfig memory c = opened(config());
        bytes memory signature = signed(clerkKey, refundHash(c, 0, 10e6));
        hub.refundWithSignature(c, 10e6, 0, signature);
        exit(c, 90e6);
        opened(c);
        refuses(IChannelHub.InvalidRefundNonce.selector);
        hub.refundWithSignature(c, 10e6, 0, signature);
        assertChannel(c, AMOUNT, 0);
    }
}
