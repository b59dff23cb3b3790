// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {
    ChannelClosing,
    ChannelConfig,
    ChannelFunding,
    IChannelHub,
    IChannelPayer,
    Voucher,
    VoucherClaim
} from "contracts/interfaces/IChannelHub.sol";
import {IPolicyChanges} from "contracts/interfaces/IPolicyWallet.sol";
import {Stage} from "./Stage.sol";

/// @dev The stage with a hub of channels beside the wallet. Hashes are built here, from the published type strings.
abstract contract FundingStage is Stage {
    string private constant CONFIG_STRING =
        "ChannelConfig(address payer,address payerAuthorizer,address receiver,address receiverAuthorizer,address token,uint40 withdrawDelay,bytes32 salt)";
    bytes32 internal constant FUNDING = keccak256(
        abi.encodePacked(
            "ChannelFunding(uint256 nonce,uint256 deadline,bytes32 context,uint256 overrides,uint256 policyVersion,uint128 amount,ChannelConfig channel)",
            CONFIG_STRING
        )
    );
    bytes32 internal constant CLOSING = keccak256("ChannelClosing(bytes32 channelId,uint256 deadline)");

    uint40 internal constant QUARTER = 15 minutes;
    uint128 internal constant AMOUNT = uint128(CEILING / 2);

    IChannelPayer internal door;
    IChannelHub internal hub;

    function setUp() public virtual override {
        super.setUp();
        door = IChannelPayer(address(wallet));
        hub = door.HUB();
    }

    function hubFor(address) internal virtual override returns (address) {
        return deployCode("ChannelHub.sol:ChannelHub");
    }

    /* CHANNELS */

    /// @dev From the wallet, by the agent, to the shop, which claims for itself.
    function channel() internal view returns (ChannelConfig memory c) {
        c.payer = address(wallet);
        c.payerAuthorizer = agent;
        (c.receiver, c.receiverAuthorizer) = (shop, shop);
        c.token = address(usdc);
        c.withdrawDelay = QUARTER;
    }

    function numbered(uint256 salt) internal view returns (ChannelConfig memory c) {
        c = channel();
        c.salt = bytes32(salt);
    }

    function idOf(ChannelConfig memory c) internal view returns (bytes32) {
        bytes32 separator = keccak256(
            abi.encode(
                keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"),
                keccak256("x402 Batch Settlement"),
                keccak256("1"),
                block.chainid,
                address(hub)
            )
        );
        bytes32 structHash = keccak256(abi.encode(keccak256(bytes(CONFIG_STRING)), c));
        return keccak256(abi.encodePacked(hex"1901", separator, structHash));
    }

    function balanceOf(ChannelConfig memory c) internal view returns (uint256 balance) {
        (balance,) = hub.channels(idOf(c));
    }

    /* FUNDING */

    function funding(ChannelConfig memory c, uint128 amount, uint256 nonce)
        internal
        pure
        returns (ChannelFunding memory)
    {
        return ChannelFunding(nonce, FAR, keccak256("why"), 0, 0, amount, c);
    }

    function approvedFunding(ChannelConfig memory c, uint128 amount, uint256 nonce, uint256 overrides)
        internal
        view
        returns (ChannelFunding memory)
    {
        (, uint256 version,) = wallet.agentLimits(c.payerAuthorizer);
        return ChannelFunding(nonce, FAR, keccak256("why"), overrides, version, amount, c);
    }

    function fundingDigest(ChannelFunding memory f) internal view returns (bytes32) {
        bytes32 structHash = keccak256(abi.encode(keccak256(bytes(CONFIG_STRING)), f.channel));
        return typed(
            address(wallet),
            keccak256(
                abi.encode(FUNDING, f.nonce, f.deadline, f.context, f.overrides, f.policyVersion, f.amount, structHash)
            )
        );
    }

    /// @dev Signed by the channel's agent, and by operators 0 and 1 if it overrides.
    function fund(ChannelFunding memory f) internal {
        (bytes32 r, bytes32 vs, bytes memory quorum) = _signed(f, keyOf(f.channel.payerAuthorizer));
        door.fundChannel(f, r, vs, quorum);
    }

    function fund(ChannelConfig memory c, uint256 amount, uint256 nonce) internal {
        fund(funding(c, uint128(amount), nonce));
    }

    /// @dev Expects exactly `why`, and that nothing moved.
    function refusedToFund(ChannelFunding memory f, bytes memory why) internal {
        refusedToFund(f, keyOf(f.channel.payerAuthorizer), why);
    }

    function refusedToFund(ChannelFunding memory f, uint256 key, bytes memory why) internal {
        uint256 held = usdc.balanceOf(address(wallet));
        address who = f.channel.payerAuthorizer;
        bool used = wallet.nonceUsed(who, f.nonce);
        (bytes32 r, bytes32 vs, bytes memory quorum) = _signed(f, key);
        vm.expectRevert(why);
        door.fundChannel(f, r, vs, quorum);
        assertEq(usdc.balanceOf(address(wallet)), held, "money moved");
        assertEq(wallet.nonceUsed(who, f.nonce), used, "nonce burnt");
    }

    function refusedToFund(ChannelConfig memory c, bytes memory why) internal {
        refusedToFund(funding(c, AMOUNT, 99), why);
    }

    function _signed(ChannelFunding memory f, uint256 key)
        internal
        view
        returns (bytes32 r, bytes32 vs, bytes memory quorum)
    {
        bytes32 digest = fundingDigest(f);
        (r, vs) = compact(key, digest);
        if (f.overrides != 0) quorum = quorumFor(digest);
    }

    function notAllowed(ChannelConfig memory c) internal pure returns (bytes memory) {
        return abi.encodeWithSelector(
            IChannelPayer.ChannelNotAllowed.selector, c.receiverAuthorizer, uint256(c.withdrawDelay)
        );
    }

    /* CLOSING */

    function closingDigest(ChannelConfig memory c, uint256 deadline) internal view returns (bytes32) {
        return typed(address(wallet), keccak256(abi.encode(CLOSING, idOf(c), deadline)));
    }

    function close(ChannelConfig memory c) internal {
        (bytes32 r, bytes32 vs) = compact(keyOf(c.payerAuthorizer), closingDigest(c, FAR));
        door.closeChannel(c, FAR, r, vs);
    }

    function closeChange(ChannelConfig memory c) internal pure returns (bytes memory) {
        return abi.encodeCall(
            IPolicyChanges.closeChannel,
            (c.payer, c.payerAuthorizer, c.receiver, c.receiverAuthorizer, c.token, c.withdrawDelay, c.salt)
        );
    }

    function setAuthorizer(address authorizer, uint256 longest) internal pure returns (bytes memory) {
        return abi.encodeCall(IPolicyChanges.setChannelAuthorizer, (authorizer, longest));
    }

    /* THE RECEIVER */

    /// @dev The receiver claims `total` on the agent's voucher for as much, and is paid.
    function claim(ChannelConfig memory c, uint256 key, uint128 total) internal {
        VoucherClaim[] memory rows = new VoucherClaim[](1);
        bytes memory signature = signed65(key, hub.getVoucherDigest(idOf(c), total));
        rows[0] = VoucherClaim(Voucher(c, total), signature, total);
        vm.prank(c.receiver);
        hub.claim(rows);
        hub.settle(c.receiver, c.token);
    }

    function claim(ChannelConfig memory c, uint128 total) internal {
        claim(c, keyOf(c.payerAuthorizer), total);
    }
}
