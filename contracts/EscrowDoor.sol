// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {Address} from "@openzeppelin/contracts/utils/Address.sol";
import {Door} from "./Door.sol";
import {Split} from "./Split.sol";
import {EscrowOpening, IEscrowPayer, IWorkEscrow, Payout, Terms} from "./interfaces/IWorkEscrow.sol";

/// @title EscrowDoor
/// @notice The wallet as the payer of escrows.
///
/// @dev ALLOWANCE. The escrow is approved for exactly what it takes in the same call, so none outlives it.
///
/// AGENT. The upper 160 bits of the terms' salt are the agent that opened, so later steps need no storage to know it.
/// It is never the arbiter: the quorum's word on a large release would then be its own.
///
/// NONCES. An opening uses one. A step does not: the escrow takes a total once and one dispute, so repeating a step is
/// its refusal.
abstract contract EscrowDoor is Door {
    /* CONSTANTS */

    bytes32 private constant TERMS_TYPEHASH = keccak256(
        "Terms(address payer,address payee,address arbiter,uint64 amount,uint40 submitBy,uint32 reviewPeriod,uint32 arbitrationPeriod,uint16 silenceBps,uint8 anyOf,uint8 allOf,bytes32 hashlock,address condition,bytes32 conditionArg,bytes32 payoutsHash,bytes32 jobHash,uint256 salt)"
    );
    bytes32 private constant OPENING_TYPEHASH = keccak256(
        "EscrowOpening(address agent,uint256 nonce,uint256 deadline,bytes32 context,uint256 overrides,uint256 policyVersion,Terms terms)Terms(address payer,address payee,address arbiter,uint64 amount,uint40 submitBy,uint32 reviewPeriod,uint32 arbitrationPeriod,uint16 silenceBps,uint8 anyOf,uint8 allOf,bytes32 hashlock,address condition,bytes32 conditionArg,bytes32 payoutsHash,bytes32 jobHash,uint256 salt)"
    );
    bytes32 private constant RELEASE_TYPEHASH =
        keccak256("EscrowRelease(address agent,bytes32 escrowId,uint64 cumulative,uint256 deadline,bytes32 context)");
    bytes32 private constant DISPUTE_TYPEHASH =
        keccak256("EscrowDispute(address agent,bytes32 escrowId,bytes32 evidence,uint256 deadline,bytes32 context)");

    /* DOORS */

    /// @inheritdoc IEscrowPayer
    function openEscrow(
        EscrowOpening calldata opening,
        Payout[] calldata payouts,
        bytes32 r,
        bytes32 vs,
        bytes calldata quorum
    ) external {
        address agent = opening.agent;
        uint256 overrides = opening.overrides;
        Terms calldata terms = opening.terms;
        (bytes32 digest, bytes32 escrowId) = _hashOpening(opening);
        _admit(agent, opening.nonce, opening.deadline, digest, r, vs);
        require(terms.arbiter != agent, RoleConflict(agent));
        Account memory account = _loadOwner(terms, agent, overrides);
        if (overrides != 0) _requireOverride(account, overrides, opening.policyVersion, digest, quorum);

        _spendShares(account, terms, payouts, overrides);
        uint256 version = account.policy.version();
        emit EscrowOpened(agent, escrowId, terms.payee, terms.amount, overrides, version, opening.context);
        require(_callToken(IERC20.approve.selector, address(ESCROW), terms.amount), TransferFailed());
        Address.functionCall(address(ESCROW), _authorizeCall(terms, payouts));
    }

    /// @inheritdoc IEscrowPayer
    function stepEscrow(
        address agent,
        bytes calldata call,
        uint256 deadline,
        bytes32 context,
        bytes32 r,
        bytes32 vs,
        bytes calldata quorum
    ) external {
        require(block.timestamp <= deadline, DeadlinePassed(deadline));
        bytes4 step = bytes4(call);
        bool release = step == IWorkEscrow.capture.selector;
        require(release || step == IWorkEscrow.dispute.selector, UnknownStep(step));
        (Terms calldata terms, bytes32 value) = _read(call);

        (, bytes32 escrowId) = _hashTerms(terms);
        bytes32 typehash = release ? RELEASE_TYPEHASH : DISPUTE_TYPEHASH;
        bytes32 digest = _hashTypedDataV4(keccak256(abi.encode(typehash, agent, escrowId, value, deadline, context)));
        require(_signed(agent, digest, r, vs), InvalidSignature());
        Account memory account = _loadOwner(terms, agent, ALL_OVERRIDES);
        if (release && uint256(value) > account.policy.ceiling()) _requireQuorum(digest, quorum);
        emit EscrowStepped(agent, escrowId, step, value, account.policy.version(), context);
        Address.functionCall(address(ESCROW), call);
    }

    /* WHO */

    /// @dev The words of the agent whose escrow it is, if it may act.
    function _loadOwner(Terms calldata terms, address agent, uint256 overrides)
        private
        view
        returns (Account memory account)
    {
        bool owns = terms.payer == address(this) && terms.salt >> 96 == uint160(agent);
        require(owns, NotEscrowOwner(terms.payer, agent));
        account = _load(_agents[agent], agent, overrides);
        _requireStanding(account);
    }

    /* HOW MUCH */

    /// @dev Judges and books each ultimate payee by its share of a full capture, and the agent by the whole. No share of
    /// a smaller capture is larger (see `Split`), so who has none of a full one never receives and needs no leave.
    function _spendShares(Account memory account, Terms calldata terms, Payout[] calldata payouts, uint256 overrides)
        private
    {
        uint256 rest = terms.amount;
        uint256 ceiling = account.policy.ceiling();
        if (rest > ceiling && overrides & PAST_CEILING == 0) _refuse(CeilingExceeded.selector, rest, ceiling);
        uint256 whole = Split.WHOLE;
        for (uint256 i; i < payouts.length; ++i) {
            uint256 bps = payouts[i].bps;
            uint256 share = Split.part(rest, bps, whole);
            rest -= share;
            whole -= bps;
            if (share != 0) _spendPart(account, payouts[i].to, share, overrides);
        }
        if (rest != 0) _spendPart(account, terms.payee, rest, overrides);
        _store(_agents[account.agent], account, terms.amount);
    }

    /* CALLDATA */

    /// @dev `IWorkEscrow.authorize(terms, payouts)`: the words as they came, which the escrow decodes and checks.
    function _authorizeCall(Terms calldata terms, Payout[] calldata payouts)
        private
        pure
        returns (bytes memory encoded)
    {
        bytes4 selector = IWorkEscrow.authorize.selector;
        assembly ("memory-safe") {
            encoded := mload(0x40)
            let size := shl(6, payouts.length)
            let data := add(encoded, 0x20)
            mstore(data, selector)
            calldatacopy(add(data, 0x04), terms, 0x200)
            mstore(add(data, 0x204), 0x220)
            mstore(add(data, 0x224), payouts.length)
            calldatacopy(add(data, 0x244), payouts.offset, size)
            mstore(encoded, add(0x244, size))
            mstore(0x40, add(data, and(add(0x263, size), not(0x1f))))
        }
    }

    /// @dev The arguments of `capture` and `dispute` that matter here, both at the same place: the terms are words 0 to
    /// 15, the total or the evidence is word 17. A call too short for the escrow's own decoder reverts there.
    function _read(bytes calldata data) private pure returns (Terms calldata terms, bytes32 value) {
        assembly ("memory-safe") {
            terms := add(data.offset, 0x04)
            value := calldataload(add(data.offset, 0x224))
        }
    }

    /* HASHES */

    function _hashOpening(EscrowOpening calldata opening) private view returns (bytes32 digest, bytes32 escrowId) {
        bytes32 termsHash;
        (termsHash, escrowId) = _hashTerms(opening.terms);
        bytes32 typehash = OPENING_TYPEHASH;
        assembly ("memory-safe") {
            let data := mload(0x40)
            mstore(data, typehash)
            calldatacopy(add(data, 0x20), opening, 0xc0)
            mstore(add(data, 0xe0), termsHash)
            digest := keccak256(data, 0x100)
        }
        digest = _hashTypedDataV4(digest);
    }

    /// @return termsHash the hash of the struct
    /// @return escrowId its digest in the escrow's domain
    function _hashTerms(Terms calldata terms) private view returns (bytes32 termsHash, bytes32 escrowId) {
        bytes32 typehash = TERMS_TYPEHASH;
        assembly ("memory-safe") {
            let data := mload(0x40)
            mstore(data, typehash)
            calldatacopy(add(data, 0x20), terms, 0x200)
            termsHash := keccak256(data, 0x220)
        }
        escrowId = _hashFor(address(ESCROW), keccak256("WorkEscrow"), termsHash);
    }
}
