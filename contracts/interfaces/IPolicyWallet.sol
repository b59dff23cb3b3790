// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

/// @dev One agent's limits. Smaller is tighter in every field, so one comparison decides whether a
/// change loosens. `type(T).max` in a cap switches that cap off. Amounts are USDC base units.
struct AgentLimits {
    uint48 ceiling; // above it a payment needs the operators' quorum; 0: every payment does
    uint48 dayCap; // strict rolling 24 hours (max = off)
    uint48 monthCap; // strict rolling 30 days (max = off)
    uint64 budget; // over the agent's whole life (max = off)
    uint40 expiry; // unix seconds, exclusive: at `expiry` the agent is out
    uint16 categories; // payee categories it may pay; bit n = category n
}

/// @dev One payee's record. `categories == 0`: not registered.
struct PayeeLimits {
    uint16 categories; // bit n = category n
    uint48 cap; // cumulative over the payee's life (max = off)
    uint32 cooldown; // seconds between two payments to it (0 = off)
}

/// @dev One agent's list, covered by one signature and one nonce.
/// An item is `payee << 96 | amount`, so that `bytes32[]` is hashed by EIP-712 as it travels.
struct Batch {
    address agent;
    uint256 nonce;
    uint256 deadline; // unix seconds, inclusive
    bytes32 context; // hash over the contexts of the items
    bytes32[] items;
    bytes32 r; // EIP-2098 compact signature
    bytes32 vs;
}

/// @title IPolicyWallet
/// @notice An organisation's USDC behind one spending policy: agents sign, the contract judges,
/// operators decide what is large and what changes.
interface IPolicyWallet {
    /* PAYMENTS */

    /// @notice A payment left the wallet. One event for each `pay`.
    /// @param version the agent's policy version that allowed it
    /// @param context hash of the request's context (who asked, why, for whom)
    event Paid(address indexed agent, address indexed payee, uint256 amount, uint256 version, bytes32 context);

    /// @notice A payment that the quorum let past `overrides`. It stands in the place of `Paid`.
    event Approved(
        address indexed agent,
        uint256 indexed nonce,
        address indexed payee,
        uint256 amount,
        uint256 overrides,
        uint256 version,
        bytes32 context
    );

    /// @notice One batch ran; USDC's own Transfer logs name the paid items.
    event BatchPaid(
        address indexed agent, uint256 indexed nonce, uint256 count, uint256 total, uint256 version, bytes32 context
    );

    /// @notice An item of a batch was not paid; the rest of the list went on.
    /// @param reason selector of the error that `pay` would have reverted with
    /// @param left what the limit in question still allowed (0 where there is none)
    event ItemSkipped(address indexed agent, uint256 indexed nonce, uint256 index, bytes4 reason, uint256 left);

    /// @notice A whole batch was not run (signature, nonce, deadline, agent); the other batches went on.
    /// Its nonce is not used up.
    event BatchSkipped(address indexed agent, uint256 indexed nonce, bytes4 reason);

    event NonceCancelled(address indexed agent, uint256 indexed nonce);

    /* POLICY */

    event ChangeSubmitted(bytes32 indexed id, bytes change, uint256 readyAt);
    event ChangeExecuted(bytes32 indexed id, bytes change);
    event ChangeRevoked(bytes32 indexed id);
    event AgentChanged(address indexed agent, uint256 version, AgentLimits limits);
    event PayeeChanged(address indexed payee, PayeeLimits limits);
    event WalletCapChanged(uint256 cap);
    event Frozen(address indexed agent, bool frozen); // agent 0: the whole wallet
    event DelayChanged(bytes4 indexed selector, uint256 delay);
    event PolicyPublished(bytes32 policyHash);
    event Withdrawn(address indexed to, uint256 amount);

    /* REFUSALS. Each spending refusal carries what was asked and what was left. */

    error WalletFrozen();
    error AgentInactive(address agent);
    error AgentFrozen(address agent);
    error AgentExpired(uint256 expiry);
    error ZeroAmount(uint256 asked, uint256 left);
    error PayeeNotAllowed(uint256 asked, uint256 left); // not registered, or no category in common
    error PayeeCapExceeded(uint256 asked, uint256 left);
    error PayeeCoolingDown(uint256 asked, uint256 until); // unix seconds
    error CeilingExceeded(uint256 asked, uint256 ceiling);
    error DayCapExceeded(uint256 asked, uint256 left);
    error MonthCapExceeded(uint256 asked, uint256 left);
    error BudgetExceeded(uint256 asked, uint256 left);
    error WalletCapExceeded(uint256 asked, uint256 left);
    error TransferFailed();
    error OutOfGas(); // too little for a batch's transfers: nothing was paid, send it again with more
    error InvalidSignature();
    error InvalidQuorum();
    error DeadlinePassed(uint256 deadline);
    error NonceUsed(uint256 nonce);
    error PolicyVersionChanged(uint256 signed, uint256 current);
    error NothingToOverride();
    error BatchLength(uint256 length, uint256 max);

    /* GOVERNANCE */

    error NotOperator(address caller);
    error NotTightening();
    error UnknownChange(bytes4 selector);
    error AlreadyPending(bytes32 id);
    error NotPending(bytes32 id);
    error NotReady(uint256 readyAt);
    error ChangeExpired(uint256 expiredAt);
    error Abdicated(bytes4 selector);
    error InvalidChange();
    error RoleConflict(address account); // an operator can't be an agent, nor the reverse

    /// @notice Pays `amount` to `to`, on the agent's signature over
    /// `Payment(address agent,address to,uint256 amount,uint256 nonce,uint256 deadline,bytes32 context)`.
    function pay(
        address agent,
        address to,
        uint256 amount,
        uint256 nonce,
        uint256 deadline,
        bytes32 context,
        bytes32 r,
        bytes32 vs
    ) external;

    /// @notice Pays lists of several agents. A bad item or batch is skipped with an event that says why.
    /// Each agent signs
    /// `PayBatch(address agent,uint256 nonce,uint256 deadline,bytes32 context,bytes32[] items)`.
    /// At most 200 items and batches together in one call.
    function payBatch(Batch[] calldata batches) external;

    /// @notice Pays past the limits named in `overrides`, on the agent's and the quorum's signatures over one digest:
    /// `ApprovedPayment(address agent,address to,uint256 amount,uint256 nonce,uint256 deadline,bytes32 context,uint256 overrides,uint256 policyVersion)`.
    /// @param overrides 1 ceiling, 2 payee (registry, category, its cap and cooldown), 4 the agent's caps, 8 the wallet's cap
    /// @param quorum either 64-byte EIP-2098 signatures of plain accounts, in ascending order of the accounts; or,
    /// with contracts or passkeys among the signers, `abi.encode(bytes[] signers, bytes[] signatures)` with the signers
    /// in ascending order of their keccak256
    function payApproved(
        address agent,
        address to,
        uint256 amount,
        uint256 nonce,
        uint256 deadline,
        bytes32 context,
        uint256 overrides,
        uint256 policyVersion,
        bytes32 r,
        bytes32 vs,
        bytes calldata quorum
    ) external;

    /// @notice Spends one of the caller's own nonces, so that whatever was signed with it is void.
    function cancelNonce(uint256 nonce) external;

    /* CHANGES: calldata of IPolicyChanges */

    /// @notice The quorum asks for `change`. It waits out the delay of its selector; with no delay it runs at once.
    /// The quorum signs `Change(bytes change,uint256 nonce,uint256 deadline)`.
    function submit(bytes calldata change, uint256 nonce, uint256 deadline, bytes calldata quorum) external;

    /// @notice Runs a submitted change after its delay. Anyone may call.
    function execute(bytes calldata change) external;

    /// @notice One operator runs a change that only tightens, or withdraws a pending one.
    function tighten(bytes calldata change) external;

    /// @notice The same on an operator's signature over `Tighten(bytes change,uint256 nonce,uint256 deadline)`,
    /// for passkeys and relayed calls.
    function tightenWithSignature(
        bytes calldata change,
        bytes calldata signer,
        uint256 nonce,
        uint256 deadline,
        bytes calldata signature
    ) external;

    /* VIEWS */

    function agentLimits(address agent) external view returns (AgentLimits memory limits, uint256 version, bool frozen);
    function payeeLimits(address payee)
        external
        view
        returns (PayeeLimits memory limits, uint256 spent, uint256 lastPaid);
    /// @notice What `agent` may still spend now, each limit by itself; type(uint256).max where a limit is off.
    function room(address agent) external view returns (uint256 day, uint256 month, uint256 budget, uint256 wallet);
    /// @notice The judgement without the payment: (0, 0) if `pay` would pass its limits, else error selector and room.
    function check(address agent, address to, uint256 amount, uint256 overrides)
        external
        view
        returns (bytes4 reason, uint256 left);
    function nonceUsed(address agent, uint256 nonce) external view returns (bool);
    function readyAt(bytes calldata change) external view returns (uint256);
    function delayOf(bytes4 selector) external view returns (uint256);
    function walletCap() external view returns (uint256);
    function walletFrozen() external view returns (bool);
    function policyHash() external view returns (bytes32);
}

/// @title IPolicyChanges
/// @notice What operators can change, as calldata for `submit`, `execute` and `tighten`. None of these is
/// callable by itself.
interface IPolicyChanges {
    /// @notice Adds or changes an agent. Tightening: every field smaller or equal, categories a subset.
    function setAgent(address agent, AgentLimits calldata limits) external;
    /// @notice Adds, changes or (categories 0) removes a payee. Tightening: narrower, lower, slower.
    function setPayee(address payee, PayeeLimits calldata limits) external;
    /// @notice Wallet-wide cap over any 24 hours, a multiple of 1 USDC; max = off.
    function setWalletCap(uint256 cap) external;
    /// @notice agent 0 = the whole wallet. One operator freezes, the quorum unfreezes.
    function setFrozen(address agent, bool frozen) external;
    /// @notice Never tightening, never by one operator.
    function setOperators(bytes[] calldata add, bytes[] calldata remove, uint64 threshold) external;
    /// @notice Seconds a change of `selector` waits; type(uint32).max gives the change up for ever.
    function setDelay(bytes4 selector, uint32 delay) external;
    function publishPolicy(bytes32 policyHash) external;
    function withdraw(address to, uint256 amount) external;
    /// @notice Calls the escrow contract in the wallet's name: calldata of IWorkEscrow. Tightening: `dispute`.
    function callEscrow(bytes calldata call) external;
    /// @notice What an agent may spend by x402 coupons, beside its limits; see `IX402Payer.coupons`. Tightening: 0.
    function setCoupons(address agent, uint256 coupons) external;
    /// @notice Lets `authorizer` claim for receivers of this wallet's channels, with a `withdrawDelay` of at most so many
    /// seconds; 0: not any more. Tightening: less.
    function setChannelAuthorizer(address authorizer, uint256 longestDelay) external;
    /// @notice Asks the hub for what is not claimed of a channel, whose configuration this is. Tightening.
    function closeChannel(
        address payer,
        address payerAuthorizer,
        address receiver,
        address receiverAuthorizer,
        address token,
        uint40 withdrawDelay,
        bytes32 salt
    ) external;
    /// @notice Spends an agent's nonce. Tightening.
    function cancelAgentNonce(address agent, uint256 nonce) external;
    /// @notice Withdraws a pending change. Tightening, except where the change is one of operators or delays:
    /// an operator alone cannot block its own removal.
    function revoke(bytes calldata change) external;
}
