// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {Test} from "forge-std/Test.sol";
import {DevUSDC} from "contracts/DevUSDC.sol";
import {ChannelConfig, IChannelHub, Skip, Voucher, VoucherClaim} from "contracts/interfaces/IChannelHub.sol";
import {IDepositCollector} from "contracts/interfaces/IDepositCollector.sol";

/// @dev Brings what it was given beforehand: whoever wants to deposit sends it the money and calls the hub.
contract PurseCollector is IDepositCollector {
    function collect(address, address token, uint256 amount, bytes32, bytes calldata) external {
        require(DevUSDC(token).transfer(msg.sender, amount), "not paid");
    }
}

/// @dev A hub ready to be attacked: a payer whose agent signs vouchers, a seller with a key for claims, and a stranger.
/// Hashes are built here, from the published type strings, and not taken from the contract.
abstract contract ChannelStage is Test {
    uint256 internal constant USD = 1e6;
    uint128 internal constant AMOUNT = 100e6;
    uint256 internal constant START = 1_800_000_000;
    uint256 internal constant FAR = 4_000_000_000;
    uint40 internal constant DELAY = 1 days;

    bytes32 internal constant CONFIG = keccak256(
        "ChannelConfig(address payer,address payerAuthorizer,address receiver,address receiverAuthorizer,address token,uint40 withdrawDelay,bytes32 salt)"
    );
    bytes32 internal constant VOUCHER = keccak256("Voucher(bytes32 channelId,uint128 maxClaimableAmount)");
    bytes32 internal constant REFUND = keccak256("Refund(bytes32 channelId,uint256 nonce,uint128 amount)");
    bytes32 internal constant ENTRY =
        keccak256("ClaimEntry(bytes32 channelId,uint128 maxClaimableAmount,uint128 totalClaimed)");
    bytes32 internal constant BATCH = keccak256(
        "ClaimBatch(ClaimEntry[] claims)ClaimEntry(bytes32 channelId,uint128 maxClaimableAmount,uint128 totalClaimed)"
    );

    DevUSDC internal usdc;
    IChannelHub internal hub;
    PurseCollector internal purse;
    address internal treasury = makeAddr("usdc owner");

    address internal payer;
    address internal agent; // payerAuthorizer
    address internal seller; // receiver
    address internal clerk; // receiverAuthorizer
    uint256 internal payerKey;
    uint256 internal agentKey;
    uint256 internal sellerKey;
    uint256 internal clerkKey;
    address internal stranger = makeAddr("stranger");

    function setUp() public virtual {
        vm.warp(START);
        (payer, payerKey) = makeAddrAndKey("payer");
        (agent, agentKey) = makeAddrAndKey("agent");
        (seller, sellerKey) = makeAddrAndKey("seller");
        (clerk, clerkKey) = makeAddrAndKey("clerk");
        usdc = new DevUSDC(treasury);
        hub = deployHub();
        purse = new PurseCollector();
    }

    /// @dev By artifact name, so that no test contract carries the hub's code inside its own.
    function deployHub() internal returns (IChannelHub) {
        return IChannelHub(deployCode("ChannelHub.sol:ChannelHub"));
    }

    function mint(address to, uint256 amount) internal {
        vm.prank(treasury);
        usdc.mint(to, amount);
    }

    /* CHANNELS */

    function config() internal view returns (ChannelConfig memory) {
        return ChannelConfig(payer, agent, seller, clerk, address(usdc), DELAY, 0);
    }

    function salted(uint256 salt) internal view returns (ChannelConfig memory c) {
        c = config();
        c.salt = bytes32(salt);
    }

    function deposit(ChannelConfig memory c, uint128 amount) internal {
        mint(address(purse), amount);
        hub.deposit(c, amount, address(purse), "");
    }

    /// @dev With AMOUNT in it.
    function opened(ChannelConfig memory c) internal returns (ChannelConfig memory) {
        deposit(c, AMOUNT);
        return c;
    }

    /* HASHES, written out by themselves */

    function domainOf(address verifying) internal view returns (bytes32) {
        return keccak256(
            abi.encode(
                keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"),
                keccak256("x402 Batch Settlement"),
                keccak256("1"),
                block.chainid,
                verifying
            )
        );
    }

    function typed(bytes32 structHash) internal view returns (bytes32) {
        return keccak256(abi.encodePacked(hex"1901", domainOf(address(hub)), structHash));
    }

    function idOf(ChannelConfig memory c) internal view returns (bytes32) {
        return typed(keccak256(abi.encode(CONFIG, c)));
    }

    function voucherHash(ChannelConfig memory c, uint128 max) internal view returns (bytes32) {
        return typed(keccak256(abi.encode(VOUCHER, idOf(c), max)));
    }

    function refundHash(ChannelConfig memory c, uint256 nonce, uint128 amount) internal view returns (bytes32) {
        return typed(keccak256(abi.encode(REFUND, idOf(c), nonce, amount)));
    }

    function batchHash(VoucherClaim[] memory rows) internal view returns (bytes32) {
        bytes memory entries;
        for (uint256 i; i < rows.length; ++i) {
            Voucher memory v = rows[i].voucher;
            bytes32 entry = keccak256(abi.encode(ENTRY, idOf(v.channel), v.maxClaimableAmount, rows[i].totalClaimed));
            entries = bytes.concat(entries, entry);
        }
        return typed(keccak256(abi.encode(BATCH, keccak256(entries))));
    }

    function signed(uint256 key, bytes32 digest) internal pure returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(key, digest);
        return abi.encodePacked(r, s, v);
    }

    /* ROWS */

    /// @dev Up to `max`, by the agent; `total` of it earned.
    function row(ChannelConfig memory c, uint128 max, uint128 total) internal view returns (VoucherClaim memory) {
        return VoucherClaim(Voucher(c, max), signed(agentKey, voucherHash(c, max)), total);
    }

    function one(VoucherClaim memory a) internal pure returns (VoucherClaim[] memory rows) {
        rows = new VoucherClaim[](1);
        rows[0] = a;
    }

    function two(VoucherClaim memory a, VoucherClaim memory b) internal pure returns (VoucherClaim[] memory rows) {
        rows = new VoucherClaim[](2);
        (rows[0], rows[1]) = (a, b);
    }

    /// @dev The same rows as 165 bytes each.
    function packed(VoucherClaim[] memory rows) internal pure returns (bytes memory all) {
        for (uint256 i; i < rows.length; ++i) {
            all = bytes.concat(all, packedOne(rows[i]));
        }
    }

    function packedOne(VoucherClaim memory a) internal pure returns (bytes memory) {
        ChannelConfig memory c = a.voucher.channel;
        bytes memory head = abi.encodePacked(c.payer, c.payerAuthorizer, c.withdrawDelay, c.salt);
        uint96 max = uint96(a.voucher.maxClaimableAmount);
        return bytes.concat(head, abi.encodePacked(max, uint96(a.totalClaimed)), compact(a.signature));
    }

    /// @dev EIP-2098: r, and s with v's parity in the top bit.
    function compact(bytes memory signature) internal pure returns (bytes memory) {
        bytes32 r;
        uint256 s;
        assembly ("memory-safe") {
            r := mload(add(signature, 0x20))
            s := mload(add(signature, 0x40))
        }
        return abi.encodePacked(r, s | uint256(uint8(signature[64]) - 27) << 255);
    }

    /* STEPS */

    function claim(VoucherClaim[] memory rows) internal {
        vm.prank(clerk);
        hub.claim(rows);
    }

    /// @dev Claims `total` of a channel under a voucher over as much.
    function claim(ChannelConfig memory c, uint128 total) internal {
        claim(one(row(c, total, total)));
    }

    function claimPacked(VoucherClaim[] memory rows) internal returns (uint256) {
        vm.prank(clerk);
        return hub.claimPacked(seller, clerk, address(usdc), packed(rows));
    }

    function exit(ChannelConfig memory c, uint128 amount) internal {
        vm.prank(payer);
        hub.initiateWithdraw(c, amount);
        vm.warp(block.timestamp + c.withdrawDelay);
        vm.prank(payer);
        hub.finalizeWithdraw(c);
    }

    function refuses(bytes4 why) internal {
        vm.expectRevert(abi.encodeWithSelector(why));
    }

    function skips(ChannelConfig memory c, Skip reason) internal {
        vm.expectEmit(true, false, false, true, address(hub));
        emit IChannelHub.ClaimSkipped(idOf(c), reason);
    }

    /* WHAT IS */

    function assertChannel(ChannelConfig memory c, uint256 balance, uint256 claimed) internal view {
        (uint128 b, uint128 t) = hub.channels(idOf(c));
        assertEq(b, balance, "balance");
        assertEq(t, claimed, "claimed");
    }

    function assertReceiver(uint256 claimed, uint256 settled) internal view {
        (uint128 c, uint128 s) = hub.receivers(seller, address(usdc));
        assertEq(c, claimed, "claimed for the receiver");
        assertEq(s, settled, "settled");
    }

    function assertPending(ChannelConfig memory c, uint256 amount, uint256 initiatedAt) internal view {
        (uint128 a, uint40 since) = hub.pendingWithdrawals(idOf(c));
        assertEq(a, amount, "asked for");
        assertEq(since, initiatedAt, "since");
    }

    function held() internal view returns (uint256) {
        return usdc.balanceOf(address(hub));
    }
}
