// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {AgentLimits, IPolicyWallet, PayeeLimits} from "contracts/interfaces/IPolicyWallet.sol";
import {IX402Payer} from "contracts/interfaces/IX402Payer.sol";
import {Transfer, X402Stage} from "./X402Stage.sol";

/// @dev W18 to W21 and P9: `isValidSignature` says yes to one thing only, and never reverts.
contract W18_W21_Coupons is X402Stage {
    uint256 private constant ORDER = 0xfffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141;

    /* W18, P9: whatever else the agent's key signs */

    function _refusedDigest(bytes32 digest) private view {
        Transfer memory t = transferOf(shop, CENT, 0);
        assertEq(x402.isValidSignature(digest, signedBy(agentKey, digest, t)), NO, "another message passed");
        assertEq(x402.isValidSignature(digest, signed65(agentKey, digest)), NO, "a plain signature passed");
        (bytes32 r, bytes32 vs) = compact(agentKey, digest);
        assertEq(x402.isValidSignature(digest, abi.encodePacked(r, vs)), NO);
    }

    function test_no_other_message_of_the_token_passes() public view {
        Transfer memory t = transferOf(shop, CENT, 0);
        _refusedDigest(tokenDigest(RECEIVE, t));
        _refusedDigest(inToken(keccak256(abi.encode(usdc.PERMIT_TYPEHASH(), wallet, shop, CENT, 0, FAR))));
        _refusedDigest(inToken(keccak256(abi.encode(usdc.CANCEL_AUTHORIZATION_TYPEHASH(), wallet, t.nonce))));
        t.from = agent;
        _refusedDigest(tokenDigest(TRANSFER, t));
        _refusedDigest(tokenDigest(TRANSFER, transferOf(cafe, CENT, 0))); // the blob says shop
    }

    function test_no_message_of_another_contract_passes() public view {
        bytes32 payment = digestOf(payment(shop, CENT, 0));
        _refusedDigest(payment);
        bytes32 permit2 = keccak256(
            abi.encode(
                keccak256("EIP712Domain(string name,uint256 chainId,address verifyingContract)"),
                keccak256("Permit2"),
                block.chainid,
                0x000000000022D473030F116dDEE9F6B43aC78BA3
            )
        );
        _refusedDigest(keccak256(abi.encodePacked(hex"1901", permit2, keccak256("PermitTransferFrom"))));
        bytes32 hub = keccak256(
            abi.encode(
                keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"),
                keccak256("x402 Batch Settlement"),
                keccak256("1"),
                block.chainid,
                stranger
            )
        );
        bytes32 voucher = keccak256(
            abi.encode(keccak256("Voucher(bytes32 channelId,uint128 maxClaimableAmount)"), keccak256("id"), CENT)
        );
        _refusedDigest(keccak256(abi.encodePacked(hex"1901", hub, voucher)));
        _refusedDigest(keccak256(abi.encodePacked(hex"1901", domain(address(wallet)), voucher)));
        _refusedDigest(keccak256("\x19Ethereum Signed Message:\n5hello"));
        _refusedDigest(0);
    }

    function testFuzz_no_arbitrary_hash_passes(bytes32 digest) public view {
        _refusedDigest(digest);
    }

    /// @dev The same token elsewhere: another chain, or another address.
    function test_another_domain_is_another_token() public {
        Transfer memory t = transferOf(shop, CENT, 0);
        assertTrue(accepted(t));
        bytes32 structHash =
            keccak256(abi.encode(TRANSFER, t.from, t.to, t.value, t.validAfter, t.validBefore, t.nonce));
        for (uint256 i; i < 2; ++i) {
            bytes32 separator = keccak256(
                abi.encode(
                    keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"),
                    keccak256("USDC"),
                    keccak256("2"),
                    i == 0 ? block.chainid + 1 : block.chainid,
                    i == 0 ? address(usdc) : stranger
                )
            );
            bytes32 digest = keccak256(abi.encodePacked(hex"1901", separator, structHash));
            assertEq(x402.isValidSignature(digest, signedBy(agentKey, digest, t)), NO);
        }
        vm.chainId(block.chainid + 1); // the chain forks, and the token with it
        refusedCoupon(t);
    }

    /// @dev Nothing but a transfer ever leaves by the token's own doors.
    function test_the_tokens_other_doors_stay_shut() public {
        Transfer memory t = transferOf(shop, CENT, 0);
        bytes memory blob = signedBy(agentKey, tokenDigest(RECEIVE, t), t);
        vm.prank(shop);
        vm.expectRevert(abi.encodeWithSignature("InvalidSignature(address)", wallet));
        usdc.receiveWithAuthorization(t.from, t.to, t.value, t.validAfter, t.validBefore, t.nonce, blob);
        bytes32 digest = inToken(keccak256(abi.encode(usdc.CANCEL_AUTHORIZATION_TYPEHASH(), wallet, t.nonce)));
        blob = signedBy(agentKey, digest, t);
        vm.expectRevert(abi.encodeWithSignature("InvalidSignature(address)", wallet));
        usdc.cancelAuthorization(address(wallet), t.nonce, blob);
        settle(t); // not even its own agent can call it back
        assertEq(usdc.allowance(address(wallet), shop), 0);
    }

    /* W19 */

    function test_a_coupon_is_for_one_wallet() public {
        IX402Payer first = x402;
        wallet = deploy(address(usdc), baseChanges());
        x402 = IX402Payer(address(wallet));
        enact(setCoupons(agent, couponsOf(HOUR, SMALL, CENT, LARGE, USD)));
        Transfer memory t = transferOf(shop, CENT, 0); // from the second wallet
        assertTrue(accepted(t));
        assertEq(first.isValidSignature(tokenDigest(TRANSFER, t), couponBy(agentKey, t)), NO);
    }

    /* W20: which coupon, when, how much, to whom */

    function test_the_index_names_a_coupon_that_was_granted() public {
        assertTrue(accepted(transferOf(shop, CENT, index(0, SMALL - 1))));
        assertTrue(accepted(transferOf(shop, USD, index(1, LARGE - 1))));
        uint256[8] memory bad = [
            index(0, SMALL),
            index(1, LARGE),
            index(2, 0),
            index(3, 0),
            index(4, 0),
            uint256(1) << 255,
            type(uint256).max,
            index(1 << 200, 0)
        ];
        for (uint256 i; i < 8; ++i) {
            refusedCoupon(transferOf(shop, 1, bad[i]));
        }
    }

    function test_not_above_what_the_class_is_good_for() public {
        refusedCoupon(transferOf(shop, CENT + 1, index(0, 0)));
        refusedCoupon(transferOf(shop, USD + 1, index(1, 0)));
        refusedCoupon(transferOf(shop, 0, index(0, 0)));
        refusedCoupon(transferOf(shop, type(uint256).max, index(1, 0)));
        refusedCoupon(transferOf(shop, 2 ** 40 + 1, index(0, 0))); // the class's field is 40 bits wide
    }

    function test_not_above_the_ceiling() public {
        AgentLimits memory l = limits();
        l.ceiling = uint48(USD / 2);
        tightenBy(0, setAgent(agent, l));
        assertTrue(accepted(transferOf(shop, USD / 2, index(1, 0))));
        refusedCoupon(transferOf(shop, USD / 2 + 1, index(1, 0)));
    }

    function test_only_in_its_period() public {
        Transfer memory t = transferOf(shop, CENT, 0);
        t.validAfter -= 1;
        refusedCoupon(t);
        t = transferOf(shop, CENT, 0);
        t.validBefore += 1;
        refusedCoupon(t);
        // The nonce of the period before or after, and a window of that period.
        for (uint256 i; i < 2; ++i) {
            uint256 other = i == 0 ? period() - 1 : period() + 1;
            t = transferOf(shop, CENT, 0);
            t.nonce = nonceOf(agent, other, 0);
            refusedCoupon(t);
            (t.validAfter, t.validBefore) = (other * HOUR, (other + 1) * HOUR);
            assertFalse(accepted(t));
        }
        // Kept for later.
        t = transferOf(shop, CENT, 0);
        vm.warp(t.validBefore);
        assertFalse(accepted(t));
        refusedByToken(t, abi.encodeWithSignature("AuthorizationExpired(uint256)", t.validBefore));
    }

    function test_once_only_and_a_nonce_is_the_index() public {
        Transfer memory t = transferOf(shop, CENT, 1);
        settle(t);
        refusedByToken(t, usedUp(t));
        t = transferOf(cafe, 1, 1); // another transfer by the same coupon
        refusedByToken(t, usedUp(t));
        t.nonce = keccak256("of my own");
        refusedCoupon(t);
        t.nonce = nonceOf(agent2, period(), 1);
        refusedCoupon(t);
    }

    /// @dev All that a stolen key can do in two periods, and not one coupon more.
    function test_the_allotment_is_the_bound() public {
        for (uint256 p; p < 2; ++p) {
            vm.warp((period() + 1) * HOUR + 1);
            for (uint256 class; class < 4; ++class) {
                for (uint256 n; n < 6; ++n) {
                    Transfer memory t = transferOf(shop, class == 0 ? CENT : USD, index(class, n));
                    if (accepted(t)) settle(t);
                }
            }
            assertEq(usdc.balanceOf(shop), (p + 1) * ALLOTMENT);
        }
        (uint256 day,,,) = wallet.room(agent);
        assertEq(day, DAY_CAP, "no window sees coupons");
    }

    function test_only_to_a_payee_of_the_agent() public {
        address[5] memory bad = [stranger, agent, address(wallet), address(usdc), address(0)];
        for (uint256 i; i < 5; ++i) {
            assertFalse(accepted(transferOf(bad[i], CENT, 0)));
        }
        Transfer memory t = transferOf(shop, CENT, 0);
        tightenBy(0, setPayee(shop, PayeeLimits(0, type(uint48).max, 0)));
        refusedCoupon(t);
    }

    /// @dev What is counted for a payee must pass by the counter.
    function test_not_to_a_payee_with_a_counter() public {
        tightenBy(0, setPayee(shop, PayeeLimits(1, uint48(USD), 0)));
        refusedCoupon(transferOf(shop, CENT, 0));
        tightenBy(0, setPayee(cafe, PayeeLimits(1, type(uint48).max, 5)));
        refusedCoupon(transferOf(cafe, CENT, 0));
    }

    function test_freeze_between_verify_and_settle() public {
        Transfer memory t = transferOf(shop, CENT, 0);
        assertTrue(accepted(t));
        tightenBy(0, setFrozen(agent, true));
        refusedCoupon(t);
        submit(setFrozen(agent, false));
        assertTrue(accepted(t));
        tightenBy(1, setFrozen(address(0), true));
        refusedCoupon(t);
    }

    function test_expired_or_unknown_agents_have_none() public {
        Transfer memory t = transferOf(shop, CENT, 0);
        AgentLimits memory l = limits();
        l.expiry = uint40(vm.getBlockTimestamp());
        tightenBy(0, setAgent(agent, l));
        refusedCoupon(t);
        // Signed by others: an agent without coupons, an operator, nobody.
        uint256[2] memory keys = [agent2Key, operatorKeys[0]];
        for (uint256 i; i < 2; ++i) {
            t.nonce = nonceOf(vm.addr(keys[i]), period(), 0);
            assertEq(x402.isValidSignature(tokenDigest(TRANSFER, t), couponBy(keys[i], t)), NO);
        }
        enact(setCoupons(stranger, couponsOf(HOUR, 1, USD, 0, 0))); // granted to no agent
        (address nobody, uint256 key) = makeAddrAndKey("stranger");
        assertEq(nobody, stranger);
        t = transferOf(shop, CENT, 0);
        t.nonce = nonceOf(stranger, period(), 0);
        assertEq(x402.isValidSignature(tokenDigest(TRANSFER, t), couponBy(key, t)), NO);
    }

    function test_one_operator_takes_them_away_and_gives_none() public {
        Transfer memory t = transferOf(shop, CENT, 0);
        uint256 granted = x402.coupons(agent);
        assertEq(granted, couponsOf(HOUR, SMALL, CENT, LARGE, USD));
        vm.expectRevert(IPolicyWallet.NotTightening.selector);
        vm.prank(operators[0]);
        wallet.tighten(setCoupons(agent, couponsOf(HOUR, 1, 1, 0, 0)));
        vm.expectEmit(address(wallet));
        emit IX402Payer.CouponsChanged(agent, 0);
        tightenBy(2, setCoupons(agent, 0));
        assertEq(x402.coupons(agent), 0);
        refusedCoupon(t);
    }

    /// @dev Given again within the period, those that were used stay used.
    function test_a_new_grant_is_no_second_allotment() public {
        bytes memory grant = setCoupons(agent, couponsOf(HOUR, 0, 0, 1, 2 * USD));
        submit(grant);
        vm.warp(wallet.readyAt(grant));
        settle(transferOf(shop, USD, index(1, 0)));
        wallet.execute(grant);
        Transfer memory t = transferOf(shop, 2 * USD, index(1, 0));
        assertTrue(accepted(t)); // by the wallet; but the token knows the nonce
        refusedByToken(t, usedUp(t));
        refusedCoupon(transferOf(shop, USD, index(1, 1)));
    }

    /* W21: whatever the bytes are */

    function test_bad_blobs_are_answered_and_not_reverted_at() public view {
        Transfer memory t = transferOf(shop, CENT, 0);
        bytes32 digest = tokenDigest(TRANSFER, t);
        bytes memory good = couponBy(agentKey, t);
        assertEq(x402.isValidSignature(digest, good), YES);
        uint256[10] memory lengths = [uint256(0), 1, 64, 65, 160, 223, 225, 256, 448, 30_000];
        for (uint256 i; i < 10; ++i) {
            bytes memory blob = new bytes(lengths[i]);
            for (uint256 n; n < lengths[i] && n < 224; ++n) {
                blob[n] = good[n];
            }
            uint256 before = gasleft();
            assertEq(x402.isValidSignature(digest, blob), NO);
            assertLt(before - gasleft(), 100_000, "the length makes it dear");
        }
        for (uint256 n; n < 224; ++n) {
            good[n] ^= 0x01;
            assertEq(x402.isValidSignature(digest, good), NO, "a changed byte");
            good[n] ^= 0x01;
        }
    }

    function testFuzz_any_words_are_answered(uint256[7] calldata words, bytes32 digest) public view {
        assertEq(x402.isValidSignature(digest, abi.encode(words)), NO);
    }

    function test_dirty_words_are_refused() public view {
        Transfer memory t = transferOf(shop, CENT, 0);
        bytes32 digest = tokenDigest(TRANSFER, t);
        bytes memory good = couponBy(agentKey, t);
        for (uint256 n; n < 12; ++n) {
            good[n] = 0xff; // above the address
            assertEq(x402.isValidSignature(digest, good), NO);
            good[n] = 0;
        }
    }

    /// @dev The high twin of s, both parities, and the r and s for which ecrecover answers nothing.
    function test_signatures_have_one_form() public view {
        Transfer memory t = transferOf(shop, CENT, 0);
        bytes32 digest = tokenDigest(TRANSFER, t);
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(agentKey, digest);
        uint256 parity = uint256(v - 27) << 255;
        assertEq(x402.isValidSignature(digest, blobOf(t, r, bytes32(uint256(s) | parity))), YES);
        uint256 flipped = uint256(1) << 255 ^ parity;
        assertEq(x402.isValidSignature(digest, blobOf(t, r, bytes32(uint256(s) | flipped))), NO);
        assertEq(
            x402.isValidSignature(digest, blobOf(t, r, bytes32((ORDER - uint256(s)) & ~(uint256(1) << 255) | flipped))),
            NO
        );
        assertEq(x402.isValidSignature(digest, blobOf(t, 0, 0)), NO);
        assertEq(x402.isValidSignature(digest, blobOf(t, bytes32(ORDER), s)), NO);
    }

    /// @dev `ecrecover` answers zero to garbage: coupons of the zero address are nobody's.
    function test_nobody_has_no_coupons() public {
        enact(setCoupons(address(0), couponsOf(HOUR, 9, USD, 0, 0)));
        Transfer memory t = transferOf(shop, CENT, 0);
        t.nonce = nonceOf(address(0), period(), 0);
        bytes32 digest = tokenDigest(TRANSFER, t);
        assertEq(x402.isValidSignature(digest, blobOf(t, 0, 0)), NO);
    }
}
