// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {IPolicyChanges} from "contracts/interfaces/IPolicyWallet.sol";
import {DelegationContext, IX402Payer, Redemption} from "contracts/interfaces/IX402Payer.sol";
import {Stage} from "./Stage.sol";

/// @dev One transfer by EIP-3009, and the index that its coupon claims to have.
struct Transfer {
    address from;
    address to;
    uint256 value;
    uint256 validAfter;
    uint256 validBefore;
    bytes32 nonce;
    uint256 index;
}

/// @dev The stage with coupons for the agent: a period of one hour, 3 up to 0.01, 2 up to 1 USDC. Digests are built here,
/// from the published type strings.
abstract contract X402Stage is Stage {
    uint256 internal constant HOUR = 1 hours;
    uint256 internal constant CENT = USD / 100;
    uint256 internal constant SMALL = 3;
    uint256 internal constant LARGE = 2;
    /// @dev What coupons take out in one period at most.
    uint256 internal constant ALLOTMENT = SMALL * CENT + LARGE * USD;
    bytes4 internal constant YES = 0x1626ba7e;
    bytes4 internal constant NO = 0xffffffff;

    bytes32 internal constant TRANSFER = keccak256(
        "TransferWithAuthorization(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,bytes32 nonce)"
    );
    bytes32 internal constant RECEIVE = keccak256(
        "ReceiveWithAuthorization(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,bytes32 nonce)"
    );
    bytes32 internal constant REDEMPTION = keccak256(
        "Redemption(address agent,address redeemer,uint256 nonce,uint256 deadline,bytes32 context,address to,uint256 amount)"
    );

    IX402Payer internal x402;

    function setUp() public virtual override {
        super.setUp();
        x402 = IX402Payer(address(wallet));
        enact(setCoupons(agent, couponsOf(HOUR, SMALL, CENT, LARGE, USD)));
        vm.warp(vm.getBlockTimestamp() + 10 minutes); // well inside a period
    }

    /* GRANTING */

    function setCoupons(address who, uint256 word) internal pure returns (bytes memory) {
        return abi.encodeCall(IPolicyChanges.setCoupons, (who, word));
    }

    function couponsOf(uint256 length, uint256 count0, uint256 most0, uint256 count1, uint256 most1)
        internal
        pure
        returns (uint256)
    {
        return length | count0 << 32 | most0 << 48 | count1 << 88 | most1 << 104;
    }

    function index(uint256 class, uint256 number) internal pure returns (uint256) {
        return class << 16 | number;
    }

    function period() internal view returns (uint256) {
        return vm.getBlockTimestamp() / HOUR;
    }

    /* COUPONS */

    function nonceOf(address who, uint256 period_, uint256 index_) internal pure returns (bytes32) {
        return keccak256(abi.encode(who, period_, index_));
    }

    /// @dev A good one of the agent's, for the whole of the current period.
    function transferOf(address to, uint256 value, uint256 index_) internal view returns (Transfer memory) {
        uint256 start = period() * HOUR;
        return Transfer(address(wallet), to, value, start, start + HOUR, nonceOf(agent, period(), index_), index_);
    }

    function tokenDigest(bytes32 typehash, Transfer memory t) internal view returns (bytes32) {
        bytes32 structHash =
            keccak256(abi.encode(typehash, t.from, t.to, t.value, t.validAfter, t.validBefore, t.nonce));
        return inToken(structHash);
    }

    function inToken(bytes32 structHash) internal view returns (bytes32) {
        return keccak256(abi.encodePacked(hex"1901", usdc.DOMAIN_SEPARATOR(), structHash));
    }

    function blobOf(Transfer memory t, bytes32 r, bytes32 vs) internal pure returns (bytes memory) {
        return abi.encode(t.to, t.value, t.validAfter, t.validBefore, t.index, r, vs);
    }

    function signedBy(uint256 key, bytes32 digest, Transfer memory t) internal pure returns (bytes memory) {
        (bytes32 r, bytes32 vs) = compact(key, digest);
        return blobOf(t, r, vs);
    }

    function couponBy(uint256 key, Transfer memory t) internal view returns (bytes memory) {
        return signedBy(key, tokenDigest(TRANSFER, t), t);
    }

    function settle(Transfer memory t, bytes memory blob) internal {
        usdc.transferWithAuthorization(t.from, t.to, t.value, t.validAfter, t.validBefore, t.nonce, blob);
    }

    function settle(Transfer memory t) internal {
        settle(t, couponBy(agentKey, t));
    }

    /// @dev The wallet says no, without a revert, and the token moves nothing.
    function refusedCoupon(Transfer memory t) internal {
        assertFalse(accepted(t), "accepted");
        refusedByToken(t, abi.encodeWithSignature("InvalidSignature(address)", wallet));
    }

    function refusedByToken(Transfer memory t, bytes memory why) internal {
        bytes memory blob = couponBy(agentKey, t);
        uint256 held = usdc.balanceOf(address(wallet));
        vm.expectRevert(why);
        settle(t, blob);
        assertEq(usdc.balanceOf(address(wallet)), held, "money moved");
    }

    function usedUp(Transfer memory t) internal pure returns (bytes memory) {
        return abi.encodeWithSignature("AuthorizationUsedOrCanceled(address,bytes32)", t.from, t.nonce);
    }

    function accepted(Transfer memory t) internal view returns (bool) {
        return x402.isValidSignature(tokenDigest(TRANSFER, t), couponBy(agentKey, t)) == YES;
    }

    /* REDEMPTIONS */

    function redemption(address to, uint256 amount, uint256 nonce) internal view returns (Redemption memory) {
        return Redemption(agent, address(0), nonce, FAR, keccak256("why"), to, amount);
    }

    function redemptionDigest(address verifying, Redemption memory r) internal view returns (bytes32) {
        return typed(verifying, keccak256(abi.encode(REDEMPTION, r)));
    }

    function contextBy(uint256 key, Redemption memory m) internal view returns (bytes memory) {
        (bytes32 r, bytes32 vs) = compact(key, redemptionDigest(address(wallet), m));
        return abi.encode(DelegationContext(m.agent, m.redeemer, m.nonce, m.deadline, m.context, r, vs));
    }

    function executionOf(Redemption memory m) internal view returns (bytes memory) {
        return abi.encodePacked(address(usdc), uint256(0), abi.encodeCall(usdc.transfer, (m.to, m.amount)));
    }

    function redeem(bytes memory context, bytes32 mode, bytes memory execution) internal {
        (bytes[] memory contexts, bytes32[] memory modes, bytes[] memory executions) =
            (new bytes[](1), new bytes32[](1), new bytes[](1));
        (contexts[0], modes[0], executions[0]) = (context, mode, execution);
        x402.redeemDelegations(contexts, modes, executions);
    }

    function redeem(Redemption memory m) internal {
        redeem(contextBy(keyOf(m.agent), m), 0, executionOf(m));
    }

    function refusedToRedeem(bytes memory context, bytes32 mode, bytes memory execution, bytes memory why) internal {
        uint256 held = usdc.balanceOf(address(wallet));
        vm.expectRevert(why);
        redeem(context, mode, execution);
        assertEq(usdc.balanceOf(address(wallet)), held, "money moved");
    }

    function refusedToRedeem(Redemption memory m, bytes memory why) internal {
        bool used = wallet.nonceUsed(m.agent, m.nonce);
        refusedToRedeem(contextBy(keyOf(m.agent), m), 0, executionOf(m), why);
        assertEq(wallet.nonceUsed(m.agent, m.nonce), used, "nonce burnt");
    }
}
