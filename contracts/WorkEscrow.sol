// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {Agreement} from "./Agreement.sol";
import {Split} from "./Split.sol";
import {IReceiveWithAuthorization} from "./interfaces/IReceiveWithAuthorization.sol";
import {BY_ARBITER, BY_PAYER, IWorkEscrow, Payout, Proof, State, Status, Terms} from "./interfaces/IWorkEscrow.sol";
import {EscrowState} from "./types/EscrowState.sol";

/// @title WorkEscrow
/// @notice USDC held until work is done. The parties fix at the start who may release it and what happens in silence;
/// the contract knows no other rule, has no owner, takes no fee and cannot be changed.
///
/// @dev IDEA. Money enters an escrow once and leaves it by totals that only grow. Terms are hashed and never stored: the
/// hash is the id, one word is the whole state, and whoever acts brings the terms along.
///
///  None --authorize--> Funded --submit--> Submitted --dispute--> Disputed
///
///  Funded     capture (all) Completed   void Rejected   reclaim Expired, once `submitBy` is past
///  Submitted  capture (all) Completed   void Rejected   finalize, once the review period is past
///  Disputed   award by the arbiter      void Rejected   finalize, once the arbitration period is past
///
/// A capture of less than all leaves the status as it is. `award` and `finalize` end Completed if they pay the payee's
/// side anything, else Rejected. Ended is for ever: the id cannot be used again.
///
/// TRUST. The payer alone can take nothing back but by its deadline; the payee alone takes only what the terms give for
/// silence. An arbiter decides over a disputed rest, and over all where the terms let it release; if it colludes with a
/// party it costs the other one no more than the amount. An arbiter who is the payer judges its own case: a payee who
/// accepts it trusts the payer. A condition binds as its code says, a preimage binds whoever knows it. A quorum as
/// arbiter is an ERC-1271 contract.
///
/// SILENCE. Nothing delivered: back to the payer. Delivered and nobody objects, or the arbiter does not answer:
/// `silenceBps` of what is left to the payee's side. Terms in which only the payer's word releases must give
/// the payee a share on silence.
///
/// LIVENESS. Past `submitBy`, or past the period that runs, anyone can end an escrow with one call that needs no
/// signature, condition or arbiter. Payouts are in the log of `EscrowAuthorized`, with the terms. A party whom the token
/// refuses to pay stops nobody: its money waits in `owed`, for itself alone. While the token is paused every payment
/// waits so; funding reverts.
///
/// TOKEN. One, fixed at deployment, that moves exactly the amount asked for and answers true: USDC. What arrives is
/// measured. What arrives without an escrow belongs to no escrow and stays here.
///
/// SIGNATURES. See `Agreement`. One type for each meaning, bound to chain, contract, escrow and a deadline. A release is
/// over a total and not over a step, so that repeating it pays nothing; giving money back later never
/// lowers what was captured.
///
/// RE-ENTRANCY. A transient lock on every function that writes; state before the token is called.
contract WorkEscrow is Agreement {
    /* STORAGE */

    mapping(bytes32 escrowId => EscrowState) private _states;
    /// @inheritdoc IWorkEscrow
    mapping(address account => uint256) public owed;
    bool private transient _entered;

    modifier locked() {
        require(!_entered, Reentrancy());
        _entered = true;
        _;
        _entered = false;
    }

    /* CONSTRUCTOR */

    /// @param token the USDC of this chain
    constructor(address token) Agreement(token) {}

    /* FUNDING */

    /// @inheritdoc IWorkEscrow
    function authorize(Terms calldata terms, Payout[] calldata payouts) external locked returns (bytes32 escrowId) {
        require(msg.sender == terms.payer, NotPayer(msg.sender));
        escrowId = _open(terms, payouts);
        uint256 before = _balanceOf(address(this));
        _arrived(address(this), before, terms.amount, _transferFrom(msg.sender, address(this), terms.amount));
    }

    /// @inheritdoc IWorkEscrow
    function authorizeWithAuthorization(
        Terms calldata terms,
        Payout[] calldata payouts,
        uint256 validAfter,
        uint256 validBefore,
        bytes calldata signature
    ) external locked returns (bytes32 escrowId) {
        escrowId = _open(terms, payouts);
        _receive(terms.payer, terms.amount, validAfter, validBefore, escrowId, signature);
    }

    function _open(Terms calldata terms, Payout[] calldata payouts) private returns (bytes32 escrowId) {
        checkTerms(terms, payouts);
        escrowId = getEscrowId(terms);
        EscrowState state = _states[escrowId];
        require(state.status() == Status.None, AlreadyAuthorized(escrowId));
        _states[escrowId] = state.to(Status.Funded);
        emit JobCreated(uint256(escrowId), terms.payer, terms.payee, terms.arbiter, terms.submitBy, address(0));
        emit EscrowAuthorized(escrowId, terms, payouts);
        emit JobFunded(uint256(escrowId), terms.payer, terms.amount);
    }

    /* WORK */

    /// @inheritdoc IWorkEscrow
    function submit(Terms calldata terms, bytes32 deliverable, uint256 deadline, bytes calldata signature)
        external
        locked
    {
        (bytes32 escrowId, EscrowState state) = _load(terms);
        _require(state.status() == Status.Funded, state, Status.Funded);
        require(block.timestamp <= terms.submitBy, TooLate(terms.submitBy));
        _requireVoice(terms.payee, 0, submitDigest(escrowId, deliverable, deadline), deadline, signature);
        _states[escrowId] = state.begin(Status.Submitted, block.timestamp);
        emit JobSubmitted(uint256(escrowId), terms.payee, deliverable);
    }

    /// @inheritdoc IWorkEscrow
    function capture(Terms calldata terms, Payout[] calldata payouts, uint64 cumulative, Proof calldata proof)
        external
        locked
    {
        (bytes32 escrowId, EscrowState state) = _load(terms);
        bool submitted = state.status() == Status.Submitted;
        _require(submitted || state.status() == Status.Funded, state, Status.Funded);
        uint256 left = _left(terms, state);
        uint256 before = state.captured();
        require(cumulative > before, NotIncreasing(cumulative, before));
        uint256 amount = cumulative - before;
        require(amount <= left, ExceedsRemaining(amount, left));
        uint8 have = _shown(escrowId, terms, cumulative, submitted, proof);
        _requireReleased(have, terms);

        state = state.add(amount, 0);
        if (amount == left) {
            state = state.to(Status.Completed);
            address evaluator = have & BY_ARBITER != 0 ? terms.arbiter : have & BY_PAYER != 0 ? terms.payer : address(0);
            emit JobCompleted(uint256(escrowId), evaluator, bytes32(uint256(have)));
        }
        _states[escrowId] = state;
        _payOut(escrowId, terms, payouts, before, cumulative);
    }

    /// @inheritdoc IWorkEscrow
    function void(Terms calldata terms, uint256 deadline, bytes calldata signature) external locked {
        (bytes32 escrowId, EscrowState state) = _load(terms);
        _require(_live(state), state, Status.Funded);
        _requireVoice(terms.payee, 0, voidDigest(escrowId, deadline), deadline, signature);
        uint256 left = _left(terms, state);
        _states[escrowId] = state.add(0, left).to(Status.Rejected);
        emit JobRejected(uint256(escrowId), terms.payee, "void");
        _payBack(escrowId, terms, left);
    }

    /* DISPUTE */

    /// @inheritdoc IWorkEscrow
    function dispute(Terms calldata terms, address party, bytes32 evidence, uint256 deadline, bytes calldata signature)
        external
        locked
    {
        (bytes32 escrowId, EscrowState state) = _load(terms);
        _require(state.status() == Status.Submitted, state, Status.Submitted);
        require(terms.arbiter != address(0), NoArbiter());
        uint256 until = state.since() + terms.reviewPeriod;
        require(block.timestamp <= until, TooLate(until));
        require(party == terms.payer || party == terms.payee, NotParty(party));
        uint8 role = party == terms.payer ? BY_PAYER : 0;
        _requireVoice(party, role, disputeDigest(escrowId, evidence, deadline), deadline, signature);
        _states[escrowId] = state.begin(Status.Disputed, block.timestamp);
        emit JobDisputed(uint256(escrowId), party, evidence);
    }

    /// @inheritdoc IWorkEscrow
    function award(
        Terms calldata terms,
        Payout[] calldata payouts,
        uint64 captured,
        uint64 refunded,
        bytes32 reason,
        uint256 deadline,
        bytes calldata signature
    ) external locked {
        (bytes32 escrowId, EscrowState state) = _load(terms);
        _require(state.status() == Status.Disputed, state, Status.Disputed);
        uint256 until = state.since() + terms.arbitrationPeriod;
        require(block.timestamp <= until, TooLate(until));
        require(uint256(captured) + refunded == terms.amount, UnevenAward(captured, refunded, terms.amount));
        require(captured >= state.captured(), NotIncreasing(captured, state.captured()));
        bytes32 digest = awardDigest(escrowId, captured, refunded, reason, deadline);
        _requireVoice(terms.arbiter, BY_ARBITER, digest, deadline, signature);
        emit AwardIssued(uint256(escrowId), terms.arbiter, captured, refunded, reason);
        _end(escrowId, terms, payouts, state, captured - state.captured(), terms.arbiter, reason);
    }

    /* SILENCE */

    /// @inheritdoc IWorkEscrow
    function finalize(Terms calldata terms, Payout[] calldata payouts) external locked {
        (bytes32 escrowId, EscrowState state) = _load(terms);
        bool disputed = state.status() == Status.Disputed;
        _require(disputed || state.status() == Status.Submitted, state, Status.Submitted);
        uint256 until = state.since() + (disputed ? terms.arbitrationPeriod : terms.reviewPeriod);
        require(block.timestamp > until, NotYet(until));
        uint256 share = Split.part(_left(terms, state), terms.silenceBps, Split.WHOLE);
        _end(escrowId, terms, payouts, state, share, address(0), "silence");
    }

    /// @inheritdoc IWorkEscrow
    function reclaim(Terms calldata terms) external locked {
        (bytes32 escrowId, EscrowState state) = _load(terms);
        _require(state.status() == Status.Funded, state, Status.Funded);
        require(block.timestamp > terms.submitBy, NotYet(terms.submitBy));
        uint256 left = _left(terms, state);
        _states[escrowId] = state.add(0, left).to(Status.Expired);
        emit JobExpired(uint256(escrowId));
        _payBack(escrowId, terms, left);
    }

    /* AFTERWARDS */

    /// @inheritdoc IWorkEscrow
    function refund(Terms calldata terms, uint64 returnedTotal) external locked {
        (, uint256 amount, uint256 held) = _giveBack(terms, msg.sender, returnedTotal);
        _arrived(terms.payer, held, amount, _transferFrom(msg.sender, terms.payer, amount));
    }

    /// @inheritdoc IWorkEscrow
    function refundWithAuthorization(
        Terms calldata terms,
        address from,
        uint64 returnedTotal,
        uint256 validAfter,
        uint256 validBefore,
        bytes calldata signature
    ) external locked {
        (bytes32 escrowId, uint256 amount, uint256 held) = _giveBack(terms, from, returnedTotal);
        // 64 bytes hashed, where an escrow's id hashes 66: no nonce of a return is one of a funding.
        bytes32 nonce = keccak256(abi.encode(escrowId, returnedTotal));
        _receive(from, amount, validAfter, validBefore, nonce, signature);
        // What the payer had is from before the collection: it cannot give back to itself here either.
        _arrived(terms.payer, held, amount, _transfer(terms.payer, amount));
    }

    /// @dev Books that `from` raises what came back to `returnedTotal`.
    /// @return escrowId of the terms
    /// @return amount to be moved to the payer
    /// @return held what the payer has before
    function _giveBack(Terms calldata terms, address from, uint64 returnedTotal)
        private
        returns (bytes32 escrowId, uint256 amount, uint256 held)
    {
        EscrowState state;
        (escrowId, state) = _load(terms);
        _require(state.status() != Status.None, state, Status.Completed);
        uint256 before = state.returned();
        require(returnedTotal > before, NotIncreasing(returnedTotal, before));
        amount = returnedTotal - before;
        uint256 left = state.captured() - before;
        require(amount <= left, ExceedsRemaining(amount, left));
        _states[escrowId] = state.addReturned(amount);
        emit PaymentReturned(uint256(escrowId), from, amount, returnedTotal);
        held = _balanceOf(terms.payer);
    }

    /// @inheritdoc IWorkEscrow
    function withdraw(address account) external locked {
        uint256 amount = owed[account];
        require(amount != 0, NothingOwed(account));
        owed[account] = 0;
        emit CreditWithdrawn(account, amount);
        require(_transfer(account, amount), TransferFailed());
    }

    /* STATE */

    /// @inheritdoc IWorkEscrow
    function getState(bytes32 escrowId) external view returns (State memory) {
        return _states[escrowId].open();
    }

    /// @inheritdoc IWorkEscrow
    function splitOf(Payout[] calldata payouts, uint64 total)
        external
        pure
        returns (uint256[] memory shares, uint256 payeeShare)
    {
        return Split.parts(payouts, total);
    }

    function _load(Terms calldata terms) private view returns (bytes32 escrowId, EscrowState state) {
        escrowId = getEscrowId(terms);
        state = _states[escrowId];
    }

    function _left(Terms calldata terms, EscrowState state) private pure returns (uint256) {
        return terms.amount - state.captured() - state.refunded();
    }

    function _live(EscrowState state) private pure returns (bool) {
        Status status = state.status();
        return status == Status.Funded || status == Status.Submitted || status == Status.Disputed;
    }

    function _require(bool holds, EscrowState state, Status want) private pure {
        require(holds, WrongStatus(state.status(), want));
    }

    /* MONEY */

    /// @dev Ends with `toPayee` of what is left for the payee's side and the rest for the payer.
    function _end(
        bytes32 escrowId,
        Terms calldata terms,
        Payout[] calldata payouts,
        EscrowState state,
        uint256 toPayee,
        address who,
        bytes32 reason
    ) private {
        uint256 before = state.captured();
        uint256 toPayer = _left(terms, state) - toPayee;
        bool paid = toPayee != 0;
        _states[escrowId] = state.add(toPayee, toPayer).to(paid ? Status.Completed : Status.Rejected);
        if (paid) emit JobCompleted(uint256(escrowId), who, reason);
        else emit JobRejected(uint256(escrowId), who, reason);
        _payOut(escrowId, terms, payouts, before, before + toPayee);
        _payBack(escrowId, terms, toPayer);
    }

    /// @dev Pays the payee's side from the total `before` to the total `next`.
    function _payOut(bytes32 escrowId, Terms calldata terms, Payout[] calldata payouts, uint256 before, uint256 next)
        private
    {
        _checkPayouts(terms, payouts);
        if (next == before) return;
        emit PaymentReleased(uint256(escrowId), terms.payee, next - before);
        uint256 whole = Split.WHOLE;
        for (uint256 i; i < payouts.length; ++i) {
            uint256 bps = payouts[i].bps;
            uint256 had = Split.part(before, bps, whole);
            uint256 has = Split.part(next, bps, whole);
            before -= had;
            next -= has;
            whole -= bps;
            _push(escrowId, payouts[i].to, has - had);
        }
        _push(escrowId, terms.payee, next - before);
    }

    function _payBack(bytes32 escrowId, Terms calldata terms, uint256 amount) private {
        if (amount == 0) return;
        emit Refunded(uint256(escrowId), terms.payer, amount);
        _push(escrowId, terms.payer, amount);
    }

    /// @dev Pays, or keeps for `to` what the token refuses.
    function _push(bytes32 escrowId, address to, uint256 amount) private {
        if (amount == 0) return;
        uint256 gasBefore = gasleft();
        if (_transfer(to, amount)) return;
        // A failure that ate nearly all gas is the caller's, who gave too little, and not the token's.
        require(gasleft() > gasBefore / 8, OutOfGas());
        owed[to] += amount;
        emit PayoutDeferred(uint256(escrowId), to, amount);
    }

    /* USDC */

    /// @dev Collects `amount` on an EIP-3009 authorization that only this contract can use.
    function _receive(
        address from,
        uint256 amount,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 nonce,
        bytes calldata signature
    ) private {
        uint256 before = _balanceOf(address(this));
        (bool done,) = TOKEN.call(
            abi.encodeCall(
                IReceiveWithAuthorization.receiveWithAuthorization,
                (from, address(this), amount, validAfter, validBefore, nonce, signature)
            )
        );
        _arrived(address(this), before, amount, done);
    }

    /// @dev Exactly `amount` more than `before`, or nothing happened.
    function _arrived(address account, uint256 before, uint256 amount, bool done) private view {
        unchecked {
            require(done && _balanceOf(account) == before + amount, TokenCollectionFailed());
        }
    }

    function _balanceOf(address account) private view returns (uint256) {
        return IERC20(TOKEN).balanceOf(account);
    }

    function _transfer(address to, uint256 amount) private returns (bool) {
        return _move(abi.encodeCall(IERC20.transfer, (to, amount)));
    }

    function _transferFrom(address from, address to, uint256 amount) private returns (bool) {
        return _move(abi.encodeCall(IERC20.transferFrom, (from, to, amount)));
    }

    /// @dev True iff the token answered with exactly one word, 1. Copies no more of the answer than that.
    function _move(bytes memory order) private returns (bool moved) {
        address token = TOKEN;
        assembly ("memory-safe") {
            moved := call(gas(), token, 0, add(order, 0x20), mload(order), 0, 0x20)
            moved := and(moved, and(eq(returndatasize(), 0x20), eq(mload(0), 1)))
        }
    }
}
