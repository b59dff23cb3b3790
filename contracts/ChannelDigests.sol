// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {MessageHashUtils} from "@openzeppelin/contracts/utils/cryptography/MessageHashUtils.sol";
import {ChannelConfig, IChannelHub, VoucherClaim} from "./interfaces/IChannelHub.sol";
import {ClaimRow} from "./types/ClaimRow.sol";

/// @dev A packed row's config as it is hashed: the words of ChannelConfig after its typehash. What the rows of a call
/// share is written once, and memory does not grow with the rows.
struct TypedConfig {
    bytes32 typehash;
    address payer;
    address payerAuthorizer;
    address receiver;
    address receiverAuthorizer;
    address token;
    uint256 withdrawDelay;
    bytes32 salt;
}

/// @title ChannelDigests
/// @notice Ids of channels, and what their parties sign. Nothing here reads or writes storage.
///
/// @dev PLACING. The domain is built at each call from the chain id and the address at which the code finds itself, and
/// nothing is an immutable: the runtime code works wherever a devnet puts it with `anvil_setCode`.
abstract contract ChannelDigests is IChannelHub {
    /* CONSTANTS */

    /// @inheritdoc IChannelHub
    bytes32 public constant CHANNEL_CONFIG_TYPEHASH = keccak256(
        "ChannelConfig(address payer,address payerAuthorizer,address receiver,address receiverAuthorizer,address token,uint40 withdrawDelay,bytes32 salt)"
    );
    /// @inheritdoc IChannelHub
    bytes32 public constant VOUCHER_TYPEHASH = keccak256("Voucher(bytes32 channelId,uint128 maxClaimableAmount)");
    /// @inheritdoc IChannelHub
    bytes32 public constant REFUND_TYPEHASH = keccak256("Refund(bytes32 channelId,uint256 nonce,uint128 amount)");
    /// @inheritdoc IChannelHub
    bytes32 public constant CLAIM_ENTRY_TYPEHASH =
        keccak256("ClaimEntry(bytes32 channelId,uint128 maxClaimableAmount,uint128 totalClaimed)");
    /// @inheritdoc IChannelHub
    bytes32 public constant CLAIM_BATCH_TYPEHASH = keccak256(
        "ClaimBatch(ClaimEntry[] claims)ClaimEntry(bytes32 channelId,uint128 maxClaimableAmount,uint128 totalClaimed)"
    );
    /// @inheritdoc IChannelHub
    uint256 public constant MIN_WITHDRAW_DELAY = 15 minutes;
    /// @inheritdoc IChannelHub
    uint256 public constant MAX_WITHDRAW_DELAY = 30 days;

    bytes32 private constant DOMAIN_TYPEHASH =
        keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)");
    bytes32 private constant NAME_HASH = keccak256("x402 Batch Settlement");
    bytes32 private constant VERSION_HASH = keccak256("1");

    /* IDS AND DIGESTS */

    /// @inheritdoc IChannelHub
    function getChannelId(ChannelConfig calldata config) public view returns (bytes32) {
        return _channelId(_domain(), config);
    }

    /// @inheritdoc IChannelHub
    function getVoucherDigest(bytes32 channelId, uint128 maxClaimableAmount) external view returns (bytes32) {
        return _voucherDigest(_domain(), channelId, maxClaimableAmount);
    }

    /// @inheritdoc IChannelHub
    function getRefundDigest(bytes32 channelId, uint256 nonce, uint128 amount) public view returns (bytes32) {
        return _typed(_domain(), keccak256(abi.encode(REFUND_TYPEHASH, channelId, nonce, amount)));
    }

    /// @inheritdoc IChannelHub
    function getClaimBatchDigest(VoucherClaim[] calldata voucherClaims) public view returns (bytes32) {
        bytes32 domain = _domain();
        bytes32[] memory entries = new bytes32[](voucherClaims.length);
        for (uint256 i; i < entries.length; ++i) {
            VoucherClaim calldata row = voucherClaims[i];
            bytes32 channelId = _channelId(domain, row.voucher.channel);
            entries[i] = _claimEntry(channelId, row.voucher.maxClaimableAmount, row.totalClaimed);
        }
        return _claimBatch(domain, entries);
    }

    /* PARTS */

    function _domain() internal view returns (bytes32) {
        return keccak256(abi.encode(DOMAIN_TYPEHASH, NAME_HASH, VERSION_HASH, block.chainid, address(this)));
    }

    function _typed(bytes32 domain, bytes32 structHash) internal pure returns (bytes32) {
        return MessageHashUtils.toTypedDataHash(domain, structHash);
    }

    function _channelId(bytes32 domain, ChannelConfig calldata config) internal pure returns (bytes32) {
        return _typed(domain, keccak256(abi.encode(CHANNEL_CONFIG_TYPEHASH, config)));
    }

    /// @dev The config that all rows of a packed claim begin with.
    function _shared(address receiver, address receiverAuthorizer, address token)
        internal
        pure
        returns (TypedConfig memory)
    {
        return TypedConfig({
            typehash: CHANNEL_CONFIG_TYPEHASH,
            payer: address(0),
            payerAuthorizer: address(0),
            receiver: receiver,
            receiverAuthorizer: receiverAuthorizer,
            token: token,
            withdrawDelay: 0,
            salt: 0
        });
    }

    /// @dev The id of a row's channel; writes the row into `config`.
    function _channelId(bytes32 domain, TypedConfig memory config, ClaimRow row) internal pure returns (bytes32) {
        config.payer = row.payer();
        config.payerAuthorizer = row.payerAuthorizer();
        config.withdrawDelay = row.withdrawDelay();
        config.salt = row.salt();
        bytes32 structHash;
        assembly ("memory-safe") {
            structHash := keccak256(config, 0x100)
        }
        return _typed(domain, structHash);
    }

    function _voucherDigest(bytes32 domain, bytes32 channelId, uint256 max) internal pure returns (bytes32) {
        bytes32 typehash = VOUCHER_TYPEHASH;
        bytes32 structHash;
        assembly ("memory-safe") {
            let free := mload(0x40)
            mstore(free, typehash)
            mstore(add(free, 0x20), channelId)
            mstore(add(free, 0x40), max)
            structHash := keccak256(free, 0x60)
        }
        return _typed(domain, structHash);
    }

    function _claimEntry(bytes32 channelId, uint256 max, uint256 total) internal pure returns (bytes32) {
        return keccak256(abi.encode(CLAIM_ENTRY_TYPEHASH, channelId, max, total));
    }

    function _claimBatch(bytes32 domain, bytes32[] memory entries) internal pure returns (bytes32) {
        bytes32 list = keccak256(abi.encodePacked(entries));
        return _typed(domain, keccak256(abi.encode(CLAIM_BATCH_TYPEHASH, list)));
    }
}
