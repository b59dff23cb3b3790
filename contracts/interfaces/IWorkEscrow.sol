// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

/// @dev Releases, as bits of `Terms.anyOf`, `Terms.allOf` and `Proof.claims`.
uint8 constant BY_PAYER = 1;
uint8 constant BY_ARBITER = 2;
uint8 constant BY_PREIMAGE = 4;
uint8 constant BY_CONDITION = 8;

/// @dev One part of what goes to the payee's side. The payee has what is left over.
struct Payout {
    address to; // not zero, the escrow, the token or the payer
    uint16 bps; // of every 10,000
}

/// @dev What payer and payee agree on. Hashed, never stored: the hash is the escrow's id. Whoever acts brings it along.
struct Terms {
    address payer; // ERC-8183's client; an account or a contract
    address payee; // provider; not the payer, the escrow or the token
    address arbiter; // evaluator; an account or an ERC-1271 contract, never the payee; 0: no disputes
    uint64 amount; // USDC base units, not 0
    uint40 submitBy; // unix seconds, inclusive, in the future; nothing submitted by then: the money goes back
    uint32 reviewPeriod; // seconds from submission, not 0; silence until its end: `silenceBps` decides
    uint32 arbitrationPeriod; // seconds from a dispute, not 0 with an arbiter; silence until its end: the same
    uint16 silenceBps; // the payee's share of the rest on silence: 10000 all, 0 none
    uint8 anyOf; // one of these releases is enough, beside all of `allOf`; 0: none needed
    uint8 allOf; // each of these is needed; not both 0
    bytes32 hashlock; // sha256 of 32 bytes; 0: none
    address condition; // ICondition; 0: none
    bytes32 conditionArg;
    bytes32 payoutsHash; // keccak256(abi.encode(payouts)); 0: no payouts, all to the payee
    bytes32 jobHash; // what is to be done, by content hash
    uint256 salt; // makes otherwise equal terms two escrows
}

/// @dev Numbers of ERC-8183's states, whose `Open` is `None` here. Last three before `Disputed`: ended.
enum Status {
    None,
    Funded,
    Submitted,
    Completed,
    Rejected,
    Expired,
    Disputed
}

/// @dev Amounts in USDC base units. What is still held is amount - captured - refunded.
struct State {
    uint64 captured; // paid to the payee's side so far; never falls
    uint64 refunded; // paid back to the payer; never falls
    uint64 returned; // of `captured`, given back to the payer later; never falls
    uint40 since; // unix seconds at which Submitted or Disputed began
    Status status;
}

/// @dev What the caller of `capture` shows. Only the releases named in `claims` are looked at. The party that calls
/// needs no signature of its own.
struct Proof {
    uint8 claims;
    uint256 payerDeadline; // unix seconds, inclusive
    bytes payerSignature; // over Release(bytes32 escrowId,uint64 cumulative,uint256 deadline)
    uint256 arbiterDeadline;
    bytes arbiterSignature; // over the same type
    bytes32 preimage;
    bytes conditionData;
}

/// @title IWorkEscrow
/// @notice USDC held until work is done: released by the payer, an arbiter, a preimage or a condition; split, returned
/// or paid by default where nobody speaks.
///
/// @dev SIGNATURES. EIP-712, domain "WorkEscrow", "1", chain id, this contract. `escrowId` is the digest
/// of the terms in the same domain. A signer is an account (65 bytes, low s) or an ERC-1271 contract. Deadlines are
/// unix seconds, inclusive. Where the named party calls by itself, deadline and signature are not looked at.
///
/// PAYOUTS. Functions that pay the payee's side need the list behind `payoutsHash`, the empty one for 0. How a total
/// is cut is `splitOf`.
interface IWorkEscrow {
    /* EVENTS OF ERC-8183, jobId = uint256(escrowId) */

    /// @param expiredAt `submitBy`
    /// @param hook always 0: nothing is called that may write
    event JobCreated(
        uint256 indexed jobId,
        address indexed client,
        address indexed provider,
        address evaluator,
        uint256 expiredAt,
        address hook
    );
    event JobFunded(uint256 indexed jobId, address indexed client, uint256 amount);
    event JobSubmitted(uint256 indexed jobId, address indexed provider, bytes32 deliverable);
    /// @param amount what goes to the payee's side by this step, payouts included; the token's logs name each
    event PaymentReleased(uint256 indexed jobId, address indexed provider, uint256 amount);
    /// @notice Ended, and its last step paid the payee's side.
    /// @param evaluator whose word it was: arbiter or payer; 0: a preimage, a condition or silence
    /// @param reason the arbiter's in an award; the releases shown in a capture; "silence" in `finalize`
    event JobCompleted(uint256 indexed jobId, address indexed evaluator, bytes32 reason);
    /// @notice Ended, and its last step gave all that was left to the payer.
    /// @param rejector arbiter; payee for "void"; 0 for "silence"
    event JobRejected(uint256 indexed jobId, address indexed rejector, bytes32 reason);
    /// @notice Ended: nothing was submitted in time.
    event JobExpired(uint256 indexed jobId);
    event Refunded(uint256 indexed jobId, address indexed client, uint256 amount);

    /* EVENTS OF ITS OWN */

    /// @notice Everything that later calls have to bring along. Beside `JobCreated` and `JobFunded`.
    event EscrowAuthorized(bytes32 indexed escrowId, Terms terms, Payout[] payouts);
    event JobDisputed(uint256 indexed jobId, address indexed party, bytes32 evidence);
    /// @param captured total of the payee's side, with what was captured before
    event AwardIssued(
        uint256 indexed jobId, address indexed evaluator, uint256 captured, uint256 refunded, bytes32 reason
    );
    /// @notice Money that had been paid out came back to the payer.
    event PaymentReturned(uint256 indexed jobId, address indexed from, uint256 amount, uint256 total);
    /// @notice The token refused a payment; it waits in `owed`.
    event PayoutDeferred(uint256 indexed jobId, address indexed account, uint256 amount);
    event CreditWithdrawn(address indexed account, uint256 amount);

    /* ERRORS */

    error ZeroAmount();
    error InvalidTerms(uint8 field); // position in Terms, payer = 0; 13: also payouts that are not those of the terms
    error AlreadyAuthorized(bytes32 escrowId);
    error NotPayer(address caller);
    error NotParty(address account); // neither payer nor payee
    error WrongStatus(Status have, Status want); // of several possible ones, `want` is the first
    error NotYet(uint256 from); // unix seconds, exclusive
    error TooLate(uint256 until); // unix seconds, inclusive
    error DeadlinePassed(uint256 deadline); // of a signature
    error InvalidSignature(uint8 role); // BY_PAYER, BY_ARBITER, 0 for the payee
    error NotReleased(uint8 have, uint8 anyOf, uint8 allOf);
    error NotIncreasing(uint256 asked, uint256 before);
    error ExceedsRemaining(uint256 asked, uint256 left);
    error UnevenAward(uint256 captured, uint256 refunded, uint256 amount);
    error NoArbiter();
    error TokenCollectionFailed(); // not exactly the amount arrived
    error TransferFailed();
    error NothingOwed(address account);
    error OutOfGas(); // too little for the token's transfer: send it again with more
    error Reentrancy();

    /* FUNDING */

    /// @notice Funds an escrow from the caller, who is the payer and has approved `amount`.
    function authorize(Terms calldata terms, Payout[] calldata payouts) external returns (bytes32 escrowId);

    /// @notice The same by anyone, on the payer's EIP-3009 `ReceiveWithAuthorization` to this contract
    /// over `amount`, with the escrow's id as nonce.
    function authorizeWithAuthorization(
        Terms calldata terms,
        Payout[] calldata payouts,
        uint256 validAfter,
        uint256 validBefore,
        bytes calldata signature
    ) external returns (bytes32 escrowId);

    /* WORK */

    /// @notice The payee delivers, once, until `submitBy`. Starts the review period.
    /// @param signature the payee's over Submit(bytes32 escrowId,bytes32 deliverable,uint256 deadline)
    function submit(Terms calldata terms, bytes32 deliverable, uint256 deadline, bytes calldata signature) external;

    /// @notice Pays the payee's side up to the total `cumulative`, on proof that the terms ask for. Funded or Submitted.
    /// A preimage or a condition releases the whole amount or nothing, before submission only until `submitBy`.
    function capture(Terms calldata terms, Payout[] calldata payouts, uint64 cumulative, Proof calldata proof) external;

    /// @notice The payee gives all that is left back, at any time before the end.
    /// @param signature the payee's over Void(bytes32 escrowId,uint256 deadline)
    function void(Terms calldata terms, uint256 deadline, bytes calldata signature) external;

    /* DISPUTE */

    /// @notice Payer or payee asks the arbiter, once, within the review period.
    /// @param party the one who asks
    /// @param signature its over Dispute(bytes32 escrowId,bytes32 evidence,uint256 deadline)
    function dispute(Terms calldata terms, address party, bytes32 evidence, uint256 deadline, bytes calldata signature)
        external;

    /// @notice The arbiter splits the amount, within the arbitration period.
    /// @param captured total of the payee's side, at least what was captured before
    /// @param refunded the rest, so that both are `amount` together
    /// @param signature the arbiter's over
    /// Award(bytes32 escrowId,uint64 captured,uint64 refunded,bytes32 reason,uint256 deadline)
    function award(
        Terms calldata terms,
        Payout[] calldata payouts,
        uint64 captured,
        uint64 refunded,
        bytes32 reason,
        uint256 deadline,
        bytes calldata signature
    ) external;

    /* SILENCE: anyone calls */

    /// @notice After a review or an arbitration period without a word: `silenceBps` of what is left to the payee's side
    /// (rounded down), the rest to the payer.
    function finalize(Terms calldata terms, Payout[] calldata payouts) external;

    /// @notice After `submitBy` with nothing submitted: all that is left to the payer.
    function reclaim(Terms calldata terms) external;

    /* AFTERWARDS */

    /// @notice Gives captured money back to the payer, from the caller, who has approved it. Raises `returned` to
    /// `returnedTotal`, at most `captured`; `captured` stays.
    function refund(Terms calldata terms, uint64 returnedTotal) external;

    /// @notice The same by anyone, with the money of `from`, on its EIP-3009 `ReceiveWithAuthorization` to this contract
    /// over exactly `returnedTotal - returned`, with keccak256(abi.encode(escrowId, returnedTotal)) as nonce. A payer
    /// whom the token does not pay gets no credit: nothing is collected.
    function refundWithAuthorization(
        Terms calldata terms,
        address from,
        uint64 returnedTotal,
        uint256 validAfter,
        uint256 validBefore,
        bytes calldata signature
    ) external;

    /// @notice Pays what the token once refused to pay to `account`, to `account`.
    function withdraw(address account) external;

    /* VIEWS */

    /// @notice The one token.
    function TOKEN() external view returns (address);

    function getEscrowId(Terms calldata terms) external view returns (bytes32);
    function getState(bytes32 escrowId) external view returns (State memory);

    /// @notice USDC base units that wait for `account`.
    function owed(address account) external view returns (uint256);

    /// @notice Reverts as `authorize` would, but for money and id.
    function checkTerms(Terms calldata terms, Payout[] calldata payouts) external view;

    /// @notice What each payout and the payee have of a captured total. Never falls as the total grows, and sums to it.
    function splitOf(Payout[] calldata payouts, uint64 total)
        external
        pure
        returns (uint256[] memory shares, uint256 payeeShare);

    /* DIGESTS TO SIGN */

    function releaseDigest(bytes32 escrowId, uint64 cumulative, uint256 deadline) external view returns (bytes32);
    function submitDigest(bytes32 escrowId, bytes32 deliverable, uint256 deadline) external view returns (bytes32);
    function voidDigest(bytes32 escrowId, uint256 deadline) external view returns (bytes32);
    function disputeDigest(bytes32 escrowId, bytes32 evidence, uint256 deadline) external view returns (bytes32);
    function awardDigest(bytes32 escrowId, uint64 captured, uint64 refunded, bytes32 reason, uint256 deadline)
        external
        view
        returns (bytes32);
}

/// @dev What an agent signs to open an escrow and, with `overrides` not 0, the quorum with it. Hashed in the wallet's
/// domain under this very name.
struct EscrowOpening {
    address agent;
    uint256 nonce; // of the agent's, as in a payment
    uint256 deadline; // unix seconds, inclusive
    bytes32 context; // hash of the request's context
    uint256 overrides; // as in `payApproved`; 0: within all limits, by the agent alone
    uint256 policyVersion; // the agent's policy that the quorum looked at; not looked at without overrides
    Terms terms; // payer: the wallet; salt: the agent in its upper 160 bits
}

/// @dev What the opening agent signs to release; the quorum with it above the agent's ceiling. Hashed in the wallet's domain.
struct EscrowRelease {
    address agent;
    bytes32 escrowId;
    uint64 cumulative; // total of the payee's side, with what was captured before
    uint256 deadline; // unix seconds, inclusive
    bytes32 context;
}

/// @dev What the opening agent signs to dispute. Hashed in the wallet's domain.
struct EscrowDispute {
    address agent;
    bytes32 escrowId;
    bytes32 evidence;
    uint256 deadline;
    bytes32 context;
}

/// @title IEscrowPayer
/// @notice A PolicyWallet as the payer of escrows: the opening is a payment to each ultimate payee, judged and counted as
/// such; what later comes back restores no limit.
///
/// @dev RELEASE. By the agent that opened, up to its ceiling over the escrow's whole life; above it with the quorum, so
/// that neither one large release nor many small ones pass the agent alone. The quorum alone releases by
/// `IPolicyChanges.callEscrow`.
///
/// FROZEN. A frozen or expired agent opens, releases and disputes nothing, nor does a frozen wallet. Operators still
/// can: one disputes, the quorum does whatever else the payer may. What the terms promise to others (arbiter, preimage,
/// condition, silence) was decided when the escrow was opened, and goes on.
interface IEscrowPayer {
    /// @notice The wallet's money waits in an escrow. It stands in the place of `Paid`.
    /// @param payee the terms'; the escrow's `EscrowAuthorized` names the payouts
    /// @param version the agent's policy version that allowed it
    event EscrowOpened(
        address indexed agent,
        bytes32 indexed escrowId,
        address indexed payee,
        uint256 amount,
        uint256 overrides,
        uint256 version,
        bytes32 context
    );
    /// @notice The opening agent released or disputed.
    /// @param step selector of `capture` or `dispute`
    /// @param value the total, or the evidence
    event EscrowStepped(
        address indexed agent,
        bytes32 indexed escrowId,
        bytes4 indexed step,
        bytes32 value,
        uint256 version,
        bytes32 context
    );

    /// @notice The terms name another payer than this wallet, or another agent in their salt.
    error NotEscrowOwner(address payer, address agent);
    error UnknownStep(bytes4 selector); // neither `capture` nor `dispute`

    /// @notice Opens an escrow on the agent's signature over the opening. Anyone may carry it. Registry, category and
    /// the payee's own limits are judged for the payee and every payout by its share; ceiling, windows, budget and the
    /// wallet's cap by the whole amount. An account named twice is paid twice, so its cooldown refuses the second.
    /// @param quorum over the same digest, in the form of `payApproved`; not looked at without overrides
    function openEscrow(
        EscrowOpening calldata opening,
        Payout[] calldata payouts,
        bytes32 r,
        bytes32 vs,
        bytes calldata quorum
    ) external;

    /// @notice Releases or disputes as the payer, on the opening agent's signature over an EscrowRelease or EscrowDispute.
    /// @param call calldata of `IWorkEscrow.capture`, with BY_PAYER among the proof's claims, or of `IWorkEscrow.dispute`,
    /// with this wallet as the party
    /// @param quorum over the same digest: needed to release above the agent's ceiling
    function stepEscrow(
        address agent,
        bytes calldata call,
        uint256 deadline,
        bytes32 context,
        bytes32 r,
        bytes32 vs,
        bytes calldata quorum
    ) external;

    /// @notice The one escrow contract; 0: this wallet opens none.
    function ESCROW() external view returns (IWorkEscrow);
}
