// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {Address} from "@openzeppelin/contracts/utils/Address.sol";
import {Door} from "./Door.sol";
import {ChannelConfig, ChannelFunding, IChannelHub, IChannelPayer} from "./interfaces/IChannelHub.sol";

/// @title ChannelDoor
/// @notice The wallet as the payer of channels, and the collector of its own deposits.
///
/// @dev IN FLIGHT. The hub's `deposit` is open to anyone, names any payer and fetches from any collector. So `collect`
/// answers to nothing but the one deposit that `fundChannel` has announced in this transaction, and to that once.
abstract contract ChannelDoor is Door {
    /* CONSTANTS */

    /// @dev Seconds: the longest `withdrawDelay` where a receiver claims for itself and was not named.
    uint256 private constant OWN_DELAY = 1 days;

    bytes32 private constant CHANNEL_TYPEHASH = keccak256(
        "ChannelConfig(address payer,address payerAuthorizer,address receiver,address receiverAuthorizer,address token,uint40 withdrawDelay,bytes32 salt)"
    );
    bytes32 private constant FUNDING_TYPEHASH = keccak256(
        "ChannelFunding(uint256 nonce,uint256 deadline,bytes32 context,uint256 overrides,uint256 policyVersion,uint128 amount,ChannelConfig channel)ChannelConfig(address payer,address payerAuthorizer,address receiver,address receiverAuthorizer,address token,uint40 withdrawDelay,bytes32 salt)"
    );
    bytes32 private constant CLOSING_TYPEHASH = keccak256("ChannelClosing(bytes32 channelId,uint256 deadline)");

    /* STORAGE */

    /// @dev Hash of the first four arguments of the one `collect` that may come; 0: none.
    bytes32 private transient _inFlight;

    /* DOORS */

    /// @inheritdoc IChannelPayer
    function fundChannel(ChannelFunding calldata funding, bytes32 r, bytes32 vs, bytes calldata quorum) external {
        ChannelConfig memory channel = funding.channel;
        uint256 overrides = funding.overrides;
        uint128 amount = funding.amount;
        (bytes32 structHash, bytes32 channelId) = _hashChannel(channel);
        bytes32 digest = _hashFunding(funding, structHash);
        _admit(channel.payerAuthorizer, funding.nonce, funding.deadline, digest, r, vs);
        _requireAllowed(channel);
        Agent storage words = _agents[channel.payerAuthorizer];
        Account memory account = _load(words, channel.payerAuthorizer, overrides);
        _requireStanding(account);
        if (overrides != 0) _requireOverride(account, overrides, funding.policyVersion, digest, quorum);

        _spend(words, account, channel.receiver, amount, overrides);
        uint256 version = account.policy.version();
        emit ChannelFunded(account.agent, channelId, channel.receiver, amount, overrides, version, funding.context);
        _inFlight = keccak256(abi.encode(this, USDC, amount, channelId));
        _callHub(abi.encodeCall(IChannelHub.deposit, (channel, amount, address(this), "")));
        require(_inFlight == 0, TransferFailed());
    }

    /// @inheritdoc IChannelPayer
    function collect(address, address, uint256 amount, bytes32, bytes calldata) external {
        bool announced = msg.sender == address(HUB) && _inFlight == keccak256(msg.data[4:132]);
        require(announced, NotInFlight(msg.sender));
        _inFlight = 0;
        require(_transfer(msg.sender, amount), TransferFailed());
    }

    /// @inheritdoc IChannelPayer
    function closeChannel(ChannelConfig calldata channel, uint256 deadline, bytes32 r, bytes32 vs) external {
        require(block.timestamp <= deadline, DeadlinePassed(deadline));
        (, bytes32 channelId) = _hashChannel(channel);
        bytes32 digest = _hashTypedDataV4(keccak256(abi.encode(CLOSING_TYPEHASH, channelId, deadline)));
        require(_signed(channel.payerAuthorizer, digest, r, vs), InvalidSignature());
        _closeChannel(channel);
    }

    /// @inheritdoc IChannelPayer
    function finishChannel(ChannelConfig calldata channel) external {
        _callHub(abi.encodeCall(IChannelHub.finalizeWithdraw, (channel)));
    }

    /// @dev On the word of the channel's agent, or of an operator.
    function _closeChannel(ChannelConfig memory channel) internal override {
        (, bytes32 channelId) = _hashChannel(channel);
        (uint128 balance, uint128 claimed) = HUB.channels(channelId);
        _callHub(abi.encodeCall(IChannelHub.initiateWithdraw, (channel, balance - claimed)));
    }

    function _callHub(bytes memory call) private {
        Address.functionCall(address(HUB), call);
    }

    /* WHAT KIND */

    function _requireAllowed(ChannelConfig memory channel) private view {
        address claimer = channel.receiverAuthorizer;
        uint256 delay = channel.withdrawDelay;
        bool allowed = channel.payer == address(this) && channel.token == address(USDC)
            && (claimer == channel.receiver && delay <= OWN_DELAY || delay != 0 && delay <= channelDelay[claimer]);
        require(allowed, ChannelNotAllowed(claimer, delay));
    }

    /* HASHES */

    function _hashFunding(ChannelFunding calldata funding, bytes32 channelHash) private view returns (bytes32 digest) {
        bytes32 typehash = FUNDING_TYPEHASH;
        assembly ("memory-safe") {
            let data := mload(0x40)
            mstore(data, typehash)
            calldatacopy(add(data, 0x20), funding, 0xc0)
            mstore(add(data, 0xe0), channelHash)
            digest := keccak256(data, 0x100)
        }
        digest = _hashTypedDataV4(digest);
    }

    /// @return structHash the hash of the struct
    /// @return channelId its digest in the hub's domain
    function _hashChannel(ChannelConfig memory channel) private view returns (bytes32 structHash, bytes32 channelId) {
        structHash = keccak256(abi.encode(CHANNEL_TYPEHASH, channel));
        channelId = _hashFor(address(HUB), keccak256("x402 Batch Settlement"), structHash);
    }
}
