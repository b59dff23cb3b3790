// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

/// @dev What the two sides of a channel agree on. Hashed, never stored: the hash is the channel's id, so that changing any
/// field makes another channel. Whoever acts brings it along.
struct ChannelConfig {
    address payer; // whose money it is: an account or a contract, not 0; what is not claimed goes back to it
    address payerAuthorizer; // the account that signs vouchers, by ecrecover alone, not 0
    address receiver; // who is paid, not 0
    address receiverAuthorizer; // signs claims and refunds: an account or an ERC-1271 contract, not 0
    address token; // not 0; moves exactly what it is asked to
    uint40 withdrawDelay; // seconds from the payer's request to its money, 900 to 2,592,000
    bytes32 salt; // makes otherwise equal configs two channels
}

struct Voucher {
    ChannelConfig channel;
    uint128 maxClaimableAmount; // total over the channel's life, base units of its token
}

/// @dev A row of a claim.
struct VoucherClaim {
    Voucher voucher;
    bytes signature; // payerAuthorizer's over Voucher(channelId, maxClaimableAmount): 65 bytes, low s
    uint128 totalClaimed; // what the receiver has earned in all, at most the voucher's maximum
}

/// @dev Why a packed row moved nothing.
enum Skip {
    None,
    ExceedsCeiling, // its total is above its voucher's maximum
    NothingNew, // its total was claimed before
    ExceedsBalance, // the channel does not hold as much, or was never funded
    InvalidSignature // not payerAuthorizer's
}

/// @title IChannelHub
/// @notice One-way payment channels: a payer deposits once, signs a growing total for each request, and the receiver claims
/// the last total of many channels in one transaction. The interface of x402's batch-settlement contract, and packed
/// claims beside it.
///
/// @dev SIGNATURES. EIP-712, domain "x402 Batch Settlement", "1", chain id, this contract; `channelId` is the digest of
/// the config in the same domain.
///
/// AMOUNTS are base units of the channel's token. Their type is x402's uint128; a channel holds less than 2^96.
interface IChannelHub {
    /* EVENTS OF X402 */

    /// @notice The first deposit, or the first after everything has left a channel in which nothing was ever claimed.
    event ChannelCreated(bytes32 indexed channelId, ChannelConfig config);
    /// @notice A refund or a withdrawal left nothing that could still be claimed. A deposit opens it again.
    event ChannelClosed(bytes32 indexed channelId, ChannelConfig config);
    event Deposited(bytes32 indexed channelId, address indexed sender, uint128 amount, uint128 newBalance);
    event Claimed(bytes32 indexed channelId, address indexed sender, uint128 claimAmount, uint128 newTotalClaimed);
    event Settled(address indexed receiver, address indexed token, address indexed sender, uint128 amount);
    event Refunded(bytes32 indexed channelId, address indexed sender, uint128 amount);
    /// @param finalizeAfter unix seconds, the first at which it may be finalized
    event WithdrawInitiated(bytes32 indexed channelId, uint128 amount, uint40 finalizeAfter);
    /// @param amount what was still there of what was asked for; 0: all of it was claimed meanwhile
    event WithdrawFinalized(bytes32 indexed channelId, address indexed sender, uint128 amount);

    /* EVENT OF ITS OWN */

    /// @notice A row of a packed claim moved nothing; the others did.
    event ClaimSkipped(bytes32 indexed channelId, Skip reason);

    /* ERRORS OF X402 */

    error InvalidChannel(); // a config with a zero party, or a caller who may not withdraw from it
    error ZeroDeposit();
    error DepositOverflow(); // the channel would hold 2^96 or more
    error InvalidSignature();
    error NotReceiverAuthorizer(); // a row of another receiverAuthorizer than the first's
    error NotAuthorizedToClaim();
    error NotAuthorizedToRefund();
    error ClaimExceedsCeiling();
    error ClaimExceedsBalance();
    error WithdrawalAlreadyPending();
    error WithdrawalNotPending();
    error NotAuthorizedToFinalizeWithdraw();
    error WithdrawDelayNotElapsed();
    error NothingToWithdraw();
    error WithdrawAmountExceedsAvailable();
    error WithdrawDelayOutOfRange();
    error EmptyBatch();
    error DepositCollectionFailed(); // not exactly the amount arrived
    error InvalidCollector(); // no code at its address
    error InvalidRefundNonce();
    error ZeroRefund();

    /* ERRORS OF ITS OWN */

    error Reentrancy();
    error UnevenRows(uint256 length); // not a multiple of 165
    error ReceiverOverflow(); // 2^128 claimed of one token for one receiver

    /* MONEY IN */

    /// @notice Raises the channel's balance by `amount`, which `collector` brings. Anyone.
    /// @param collectorData for the collector
    function deposit(ChannelConfig calldata config, uint128 amount, address collector, bytes calldata collectorData)
        external;

    /* CLAIMS: what the receiver has earned; `settle` pays it */

    /// @notice Raises each row's channel to the row's total. By the receiver or the receiverAuthorizer of every row. A row
    /// whose total was claimed before moves nothing; any other fault of a row reverts all of them.
    function claim(VoucherClaim[] calldata voucherClaims) external;

    /// @notice The same by anyone, on a signature of the one receiverAuthorizer of all rows.
    /// @param authorizerSignature over ClaimBatch, the rows in this order
    function claimWithSignature(VoucherClaim[] calldata voucherClaims, bytes calldata authorizerSignature) external;

    /// @notice The same for rows of 165 bytes that share receiver, receiverAuthorizer and token. By one of these two. A row
    /// with a fault is passed over, with `ClaimSkipped`.
    /// @param rows each: payer 20, payerAuthorizer 20, withdrawDelay 5, salt 32, maxClaimableAmount 12, totalClaimed 12,
    /// and the voucher's signature by EIP-2098: r 32, vs 32
    /// @return claimed by all rows together
    function claimPacked(address receiver, address receiverAuthorizer, address token, bytes calldata rows)
        external
        returns (uint256 claimed);

    /// @notice The same by anyone, on the receiverAuthorizer's signature. It is good again for as long as rows of it were
    /// passed over and could succeed later.
    /// @param authorizerSignature over ClaimBatch, the rows in this order, the faulty ones too
    function claimPackedWithSignature(
        address receiver,
        address receiverAuthorizer,
        address token,
        bytes calldata rows,
        bytes calldata authorizerSignature
    ) external returns (uint256 claimed);

    /// @notice `claimPacked` and `settle`, cheaper than the two. Reverts as a whole if the token does not pay the receiver;
    /// `claimPacked` alone then still secures the claims.
    /// @return paid what the receiver got, with what waited from before
    function claimAndSettle(address receiver, address receiverAuthorizer, address token, bytes calldata rows)
        external
        returns (uint256 paid);

    /// @notice Pays the receiver all that is claimed and not yet paid. Anyone; nothing to pay is no error.
    function settle(address receiver, address token) external;

    /* EXITS: what is not claimed, to the payer. A voucher that is not claimed reserves nothing. */

    /// @notice By payer or payerAuthorizer: asks for `amount` back, to be had after the delay. The receiver claims meanwhile.
    /// One at a time; deposits do not cancel it.
    function initiateWithdraw(ChannelConfig calldata config, uint128 amount) external;

    /// @notice By payer or payerAuthorizer, once the delay is over: pays the payer what is still there of what was asked.
    function finalizeWithdraw(ChannelConfig calldata config) external;

    /// @notice By receiver or receiverAuthorizer: pays the payer `amount` of what is not claimed, or all of that if it is less.
    /// Raises `refundNonce`, even if nothing is left to pay. A pending withdrawal shrinks by what is paid.
    function refund(ChannelConfig calldata config, uint128 amount) external;

    /// @notice The same by anyone.
    /// @param nonce `refundNonce` of the channel
    /// @param receiverAuthorizerSignature over Refund(channelId, nonce, amount)
    function refundWithSignature(
        ChannelConfig calldata config,
        uint128 amount,
        uint256 nonce,
        bytes calldata receiverAuthorizerSignature
    ) external;

    /// @notice Several of these calls as one, in the name of the caller; all or nothing.
    /// @param data calldata of each
    /// @return results of each
    function multicall(bytes[] calldata data) external returns (bytes[] memory results);

    /* VIEWS */

    /// @return balance of deposits, never lowered by claims
    /// @return totalClaimed of it: what can leave by withdrawal or refund is the difference
    function channels(bytes32 channelId) external view returns (uint128 balance, uint128 totalClaimed);

    /// @return amount asked for
    /// @return initiatedAt unix seconds; 0: none is pending
    function pendingWithdrawals(bytes32 channelId) external view returns (uint128 amount, uint40 initiatedAt);

    function refundNonce(bytes32 channelId) external view returns (uint256);

    function receivers(address receiver, address token)
        external
        view
        returns (uint128 totalClaimed, uint128 totalSettled);

    /* IDS AND DIGESTS */

    function getChannelId(ChannelConfig calldata config) external view returns (bytes32);
    function getVoucherDigest(bytes32 channelId, uint128 maxClaimableAmount) external view returns (bytes32);
    function getRefundDigest(bytes32 channelId, uint256 nonce, uint128 amount) external view returns (bytes32);
    function getClaimBatchDigest(VoucherClaim[] calldata voucherClaims) external view returns (bytes32);

    /* CONSTANTS */

    function CHANNEL_CONFIG_TYPEHASH() external view returns (bytes32);
    function VOUCHER_TYPEHASH() external view returns (bytes32);
    function REFUND_TYPEHASH() external view returns (bytes32);
    function CLAIM_ENTRY_TYPEHASH() external view returns (bytes32);
    function CLAIM_BATCH_TYPEHASH() external view returns (bytes32);
    function MIN_WITHDRAW_DELAY() external view returns (uint256); // seconds, inclusive
    function MAX_WITHDRAW_DELAY() external view returns (uint256);
}

/// @dev What an agent signs to put money into a channel of its own and, with `overrides` not 0, the quorum with it.
/// Hashed in the wallet's domain under this very name. The agent is the channel's `payerAuthorizer`.
struct ChannelFunding {
    uint256 nonce; // of the agent's, as in a payment
    uint256 deadline; // unix seconds, inclusive
    bytes32 context; // hash of the request's context
    uint256 overrides; // as in `payApproved`; 0: within all limits, by the agent alone
    uint256 policyVersion; // the agent's policy that the quorum looked at; not looked at without overrides
    uint128 amount; // USDC base units; a top-up is one more funding of the same channel
    ChannelConfig channel; // payer: the wallet; token: its USDC; payerAuthorizer: the agent
}

/// @dev What the agent of a channel signs to get its money back. Hashed in the wallet's domain. It can be repeated until
/// its deadline.
struct ChannelClosing {
    bytes32 channelId;
    uint256 deadline; // unix seconds, inclusive
}

/// @title IChannelPayer
/// @notice A PolicyWallet as the payer of channels of the one hub: what goes in is a payment to the channel's receiver,
/// judged and counted as such; what comes back restores no limit.
///
/// @dev VOUCHERS. The agent's key signs them for the hub; together they never exceed what was put in. A frozen agent's
/// vouchers stay good for that much.
///
/// RECEIVER'S SIDE. Who claims for the receiver is the receiver itself, or an account that operators named
/// (`IPolicyChanges.setChannelAuthorizer`). A claimer sends money nowhere but to the receiver and back to the wallet.
///
/// COMING BACK. By the agent's signature or by one operator (`IPolicyChanges.closeChannel`), frozen or not; after the
/// channel's delay anyone finishes it.
interface IChannelPayer {
    /// @notice The wallet's money waits in a channel. It stands in the place of `Paid`.
    /// @param version the agent's policy version that allowed it
    event ChannelFunded(
        address indexed agent,
        bytes32 indexed channelId,
        address indexed receiver,
        uint256 amount,
        uint256 overrides,
        uint256 version,
        bytes32 context
    );
    /// @notice How long channels may keep money waiting on its way out where `authorizer` claims; 0: it may not.
    event ChannelAuthorizerChanged(address indexed authorizer, uint256 longestDelay);

    /// @notice Payer, token, claimer or delay of the channel is not one that this wallet pays into.
    error ChannelNotAllowed(address receiverAuthorizer, uint256 withdrawDelay);
    /// @notice Not the hub, or not the deposit that `fundChannel` has just asked for.
    error NotInFlight(address caller);

    /// @notice Puts `funding.amount` into the channel, on the signature of the agent that is its `payerAuthorizer`.
    /// Anyone may carry it. Registry, caps, ceiling, budget and cooldown as in a payment to the channel's receiver.
    /// @param quorum over the same digest, in the form of `payApproved`; not looked at without overrides
    function fundChannel(ChannelFunding calldata funding, bytes32 r, bytes32 vs, bytes calldata quorum) external;

    /// @notice The hub fetches what `fundChannel` is depositing. Nothing else, and nobody else, gets anything.
    function collect(address payer, address token, uint256 amount, bytes32 channelId, bytes calldata data) external;

    /// @notice Asks for all that is not claimed, on the agent's signature over a ChannelClosing.
    function closeChannel(ChannelConfig calldata channel, uint256 deadline, bytes32 r, bytes32 vs) external;

    /// @notice Brings home what `closeChannel` asked for, once the channel's delay is over. Anyone may call.
    function finishChannel(ChannelConfig calldata channel) external;

    /// @notice The one hub; 0: this wallet has no channels.
    function HUB() external view returns (IChannelHub);

    /// @notice Seconds of the longest `withdrawDelay` where `authorizer` claims for a receiver; 0: not named. A receiver
    /// that claims for itself needs no name for a day at most.
    function channelDelay(address authorizer) external view returns (uint256);
}
