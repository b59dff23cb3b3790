// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {IPolicyWallet} from "contracts/interfaces/IPolicyWallet.sol";
import {Redemption} from "contracts/interfaces/IX402Payer.sol";
import {Coupons} from "contracts/types/Coupons.sol";
import {OddToken} from "../attack/OddToken.sol";
import {Transfer, X402Stage} from "../attack/X402Stage.sol";

/// @dev The wallet's doors for x402 `exact` as they are meant to be used.
contract X402DoorTest is X402Stage {
    function test_a_coupon_pays_by_the_overload_for_bytes() public {
        Transfer memory t = transferOf(shop, CENT, index(0, 2));
        settle(t);
        assertEq(usdc.balanceOf(shop), CENT);
        assertTrue(usdc.authorizationState(address(wallet), t.nonce));
    }

    /// @dev The older overload hands over 65 bytes r, s, v: no coupon has that form, whoever signed.
    function test_the_overload_for_v_r_s_carries_no_coupon() public {
        Transfer memory t = transferOf(shop, CENT, 0);
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(agentKey, tokenDigest(TRANSFER, t));
        vm.expectRevert(abi.encodeWithSignature("InvalidSignature(address)", wallet));
        usdc.transferWithAuthorization(t.from, t.to, t.value, t.validAfter, t.validBefore, t.nonce, v, r, s);
    }

    /// @dev Any part of the period will do; what the token holds to is its own window.
    function test_a_coupon_may_live_shorter_than_its_period() public {
        Transfer memory t = transferOf(shop, CENT, 0);
        uint256 time = vm.getBlockTimestamp();
        (t.validAfter, t.validBefore) = (time, time + 60);
        vm.warp(time + 60);
        assertTrue(accepted(t)); // by the wallet
        refusedByToken(t, abi.encodeWithSignature("AuthorizationExpired(uint256)", t.validBefore));
        vm.warp(time + 59);
        settle(t);
        assertEq(usdc.balanceOf(shop), CENT);
    }

    function test_a_redemption_pays_counts_and_says_so() public {
        Redemption memory m = redemption(shop, CENT, 7);
        vm.expectEmit(address(wallet));
        emit IPolicyWallet.Paid(agent, shop, CENT, 1, m.context);
        redeem(m);
        assertEq(usdc.balanceOf(shop), CENT);
        assertTrue(wallet.nonceUsed(agent, 7));
        (uint256 day,,,) = wallet.room(agent);
        assertEq(day, DAY_CAP - CENT);
    }

    function test_a_token_without_a_domain_makes_a_wallet_without_coupons() public {
        OddToken token = new OddToken();
        wallet = deploy(address(token), baseChanges());
        token.mint(address(wallet), USD);
        paySome(shop, USD, 0);
        assertEq(token.balanceOf(shop), USD);
    }

    function testFuzz_a_coupons_word_reads_as_it_is_drawn(
        uint32 length,
        uint16[4] calldata counts,
        uint40[4] calldata most,
        uint256 index_
    ) public pure {
        uint256 word = length;
        for (uint256 i; i < 4; ++i) {
            word |= (uint256(most[i]) << 16 | counts[i]) << (32 + 56 * i);
        }
        Coupons coupons = Coupons.wrap(word);
        assertEq(coupons.period(), length);
        for (uint256 class; class < 4; ++class) {
            uint256 number = uint16(index_);
            uint256 worth = number < counts[class] ? most[class] : 0;
            assertEq(coupons.worth(class << 16 | number), worth);
            if (counts[class] != 0) {
                assertEq(coupons.worth((class + 1 << 16) - 65_536 + counts[class] - 1), most[class]);
            }
            assertEq(coupons.worth(class << 16 | counts[class]), 0, "one beyond the count");
        }
        if (index_ >> 18 != 0) assertEq(coupons.worth(index_), 0);
    }
}
