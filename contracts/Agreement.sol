// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {Ask} from "./Ask.sol";
import {Split} from "./Split.sol";
import {ICondition} from "./interfaces/ICondition.sol";
import {
    BY_ARBITER,
    BY_CONDITION,
    BY_PAYER,
    BY_PREIMAGE,
    IWorkEscrow,
    Payout,
    Proof,
    Terms
} from "./interfaces/IWorkEscrow.sol";

/// @title Agreement
/// @notice What the parties of an escrow agree on and sign: ids, which terms are sound, who has spoken, what is shown.
/// Nothing here writes.
///
/// @dev SIGNERS. See `Ask`: by ecrecover, else by ERC-1271, with at most SIGNER_GAS and one word of answer.
///
/// CONDITIONS. Asked by staticcall with at most CONDITION_GAS and one word of answer; anything but 1 is a no. A `no` for
/// want of gas only makes the capture revert.
abstract contract Agreement is IWorkEscrow, EIP712 {
    /* CONSTANTS */

    /// @dev Gas for one ERC-1271 signer: a quorum of passkeys, verified without a precompile, fits.
    uint256 internal constant SIGNER_GAS = 2_000_000;
    /// @dev Gas for a condition, with all that it asks.
    uint256 internal constant CONDITION_GAS = 150_000;

    bytes32 private constant TERMS_TYPEHASH = keccak256(
        "Terms(address payer,address payee,address arbiter,uint64 amount,uint40 submitBy,uint32 reviewPeriod,uint32 arbitrationPeriod,uint16 silenceBps,uint8 anyOf,uint8 allOf,bytes32 hashlock,address condition,bytes32 conditionArg,bytes32 payoutsHash,bytes32 jobHash,uint256 salt)"
    );
    bytes32 private constant RELEASE_TYPEHASH =
        keccak256("Release(bytes32 escrowId,uint64 cumulative,uint256 deadline)");
    bytes32 private constant SUBMIT_TYPEHASH =
        keccak256("Submit(bytes32 escrowId,bytes32 deliverable,uint256 deadline)");
    bytes32 private constant VOID_TYPEHASH = keccak256("Void(bytes32 escrowId,uint256 deadline)");
    bytes32 private constant DISPUTE_TYPEHASH =
        keccak256("Dispute(bytes32 escrowId,bytes32 evidence,uint256 deadline)");
    bytes32 private constant AWARD_TYPEHASH =
        keccak256("Award(bytes32 escrowId,uint64 captured,uint64 refunded,bytes32 reason,uint256 deadline)");

    uint256 private constant ALL_RELEASES = 15;

    /// @dev Positions in Terms, for `InvalidTerms`.
    uint8 private constant PAYER = 0;
    uint8 private constant PAYEE = 1;
    uint8 private constant ARBITER = 2;
    uint8 private constant SUBMIT_BY = 4;
    uint8 private constant REVIEW_PERIOD = 5;
    uint8 private constant ARBITRATION_PERIOD = 6;
    uint8 private constant SILENCE_BPS = 7;
    uint8 private constant ANY_OF = 8;
    uint8 private constant ALL_OF = 9;
    uint8 private constant HASHLOCK = 10;
    uint8 private constant CONDITION = 11;
    uint8 private constant PAYOUTS_HASH = 13;

    /* STORAGE */

    /// @inheritdoc IWorkEscrow
    address public immutable TOKEN;

    /* CONSTRUCTOR */

    constructor(address token) EIP712("WorkEscrow", "1") {
        require(token.code.length != 0, TokenCollectionFailed());
        TOKEN = token;
    }

    /* IDS AND DIGESTS */

    /// @inheritdoc IWorkEscrow
    function getEscrowId(Terms calldata terms) public view returns (bytes32) {
        return _hashTypedDataV4(keccak256(abi.encode(TERMS_TYPEHASH, terms)));
    }

    /// @inheritdoc IWorkEscrow
    function releaseDigest(bytes32 escrowId, uint64 cumulative, uint256 deadline) public view returns (bytes32) {
        return _hashTypedDataV4(keccak256(abi.encode(RELEASE_TYPEHASH, escrowId, cumulative, deadline)));
    }

    /// @inheritdoc IWorkEscrow
    function submitDigest(bytes32 escrowId, bytes32 deliverable, uint256 deadline) public view returns (bytes32) {
        return _hashTypedDataV4(keccak256(abi.encode(SUBMIT_TYPEHASH, escrowId, deliverable, deadline)));
    }

    /// @inheritdoc IWorkEscrow
    function voidDigest(bytes32 escrowId, uint256 deadline) public view returns (bytes32) {
        return _hashTypedDataV4(keccak256(abi.encode(VOID_TYPEHASH, escrowId, deadline)));
    }

    /// @inheritdoc IWorkEscrow
    function disputeDigest(bytes32 escrowId, bytes32 evidence, uint256 deadline) public view returns (bytes32) {
        return _hashTypedDataV4(keccak256(abi.encode(DISPUTE_TYPEHASH, escrowId, evidence, deadline)));
    }

    /// @inheritdoc IWorkEscrow
    function awardDigest(bytes32 escrowId, uint64 captured, uint64 refunded, bytes32 reason, uint256 deadline)
        public
        view
        returns (bytes32)
    {
        return _hashTypedDataV4(keccak256(abi.encode(AWARD_TYPEHASH, escrowId, captured, refunded, reason, deadline)));
    }

    /* WHICH TERMS ARE SOUND */

    /// @inheritdoc IWorkEscrow
    function checkTerms(Terms calldata terms, Payout[] calldata payouts) public view {
        require(terms.amount != 0, ZeroAmount());
        address payer = terms.payer;
        address payee = terms.payee;
        address arbiter = terms.arbiter;
        _sound(payer != address(0), PAYER);
        _sound(payee != payer && _payable(payee), PAYEE);
        _sound(arbiter != payee, ARBITER);
        _sound(terms.submitBy > block.timestamp, SUBMIT_BY);
        _sound(terms.reviewPeriod != 0, REVIEW_PERIOD);
        _sound(arbiter == address(0) || terms.arbitrationPeriod != 0, ARBITRATION_PERIOD);
        _sound(terms.silenceBps <= Split.WHOLE, SILENCE_BPS);

        uint256 anyOf = terms.anyOf;
        uint256 allOf = terms.allOf;
        uint256 used = anyOf | allOf;
        _sound(anyOf <= ALL_RELEASES && used != 0, ANY_OF);
        _sound(allOf <= ALL_RELEASES, ALL_OF);
        _sound(used & BY_ARBITER == 0 || arbiter != address(0), ARBITER);
        _sound(used & BY_PREIMAGE == 0 || terms.hashlock != 0, HASHLOCK);
        _sound(used & BY_CONDITION == 0 || terms.condition != address(0), CONDITION);

        // Where nothing is released without the payer, its silence after delivery must not be free.
        uint256 payers = arbiter == payer ? BY_PAYER | BY_ARBITER : BY_PAYER;
        bool payerDecides = allOf & payers != 0 || (anyOf != 0 && anyOf & ~payers == 0);
        _sound(!payerDecides || terms.silenceBps != 0, SILENCE_BPS);

        _checkPayouts(terms, payouts);
        _sound(payouts.length <= Split.MAX_PAYOUTS, PAYOUTS_HASH);
        uint256 sum;
        for (uint256 i; i < payouts.length; ++i) {
            _sound(payouts[i].to != payer && _payable(payouts[i].to), PAYOUTS_HASH);
            sum += payouts[i].bps;
        }
        _sound(sum <= Split.WHOLE, PAYOUTS_HASH);
    }

    /// @dev The list is the one of the terms.
    function _checkPayouts(Terms calldata terms, Payout[] calldata payouts) internal pure {
        bytes32 hash = payouts.length == 0 ? bytes32(0) : keccak256(abi.encode(payouts));
        _sound(hash == terms.payoutsHash, PAYOUTS_HASH);
    }

    function _payable(address to) private view returns (bool) {
        return to != address(0) && to != address(this) && to != TOKEN;
    }

    function _sound(bool holds, uint8 field) private pure {
        require(holds, InvalidTerms(field));
    }

    /* WHO HAS SPOKEN */

    /// @dev By calling, or by a signature that is still good.
    function _requireVoice(address account, uint8 role, bytes32 digest, uint256 deadline, bytes calldata signature)
        internal
        view
    {
        if (msg.sender == account) return;
        require(block.timestamp <= deadline, DeadlinePassed(deadline));
        require(Ask.signed(account, digest, signature, SIGNER_GAS), InvalidSignature(role));
    }

    /* WHAT IS SHOWN */

    /// @dev The releases that `proof` claims and shows. A claimed signature that is no good reverts.
    function _shown(bytes32 escrowId, Terms calldata terms, uint64 cumulative, bool submitted, Proof calldata proof)
        internal
        view
        returns (uint8 have)
    {
        uint8 claims = proof.claims;
        if (claims & BY_PAYER != 0) {
            bytes32 digest = releaseDigest(escrowId, cumulative, proof.payerDeadline);
            _requireVoice(terms.payer, BY_PAYER, digest, proof.payerDeadline, proof.payerSignature);
            have |= BY_PAYER;
        }
        if (claims & BY_ARBITER != 0 && terms.arbiter != address(0)) {
            bytes32 digest = releaseDigest(escrowId, cumulative, proof.arbiterDeadline);
            _requireVoice(terms.arbiter, BY_ARBITER, digest, proof.arbiterDeadline, proof.arbiterSignature);
            have |= BY_ARBITER;
        }
        if (claims & (BY_PREIMAGE | BY_CONDITION) == 0) return have;

        // Nobody's word, so all or nothing; and no longer once the payer may reclaim.
        require(submitted || block.timestamp <= terms.submitBy, TooLate(terms.submitBy));
        if (cumulative != terms.amount) return have;
        if (claims & BY_PREIMAGE != 0 && terms.hashlock != 0) {
            if (sha256(abi.encodePacked(proof.preimage)) == terms.hashlock) have |= BY_PREIMAGE;
        }
        if (claims & BY_CONDITION != 0 && terms.condition != address(0)) {
            bytes memory question =
                abi.encodeCall(ICondition.check, (escrowId, terms.conditionArg, proof.conditionData));
            (, bytes32 answer) = Ask.word(terms.condition, CONDITION_GAS, question);
            if (answer == bytes32(uint256(1))) have |= BY_CONDITION;
        }
    }

    function _requireReleased(uint8 have, Terms calldata terms) internal pure {
        uint8 anyOf = terms.anyOf;
        uint8 allOf = terms.allOf;
        bool released = have & allOf == allOf && (anyOf == 0 || have & anyOf != 0);
        require(released, NotReleased(have, anyOf, allOf));
    }
}
