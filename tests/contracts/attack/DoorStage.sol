// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {PayeeLimits} from "contracts/interfaces/IPolicyWallet.sol";
import {
    BY_ARBITER,
    BY_PAYER,
    EscrowDispute,
    EscrowOpening,
    EscrowRelease,
    IEscrowPayer,
    IWorkEscrow,
    Payout,
    Proof,
    State,
    Status,
    Terms
} from "contracts/interfaces/IWorkEscrow.sol";
import {Stage} from "./Stage.sol";

/// @dev The stage with an escrow beside the wallet, a worker (a registered payee with a key) and an arbiter. Hashes are
/// built here, from the published type strings.
abstract contract DoorStage is Stage {
    string private constant TERMS_STRING =
        "Terms(address payer,address payee,address arbiter,uint64 amount,uint40 submitBy,uint32 reviewPeriod,uint32 arbitrationPeriod,uint16 silenceBps,uint8 anyOf,uint8 allOf,bytes32 hashlock,address condition,bytes32 conditionArg,bytes32 payoutsHash,bytes32 jobHash,uint256 salt)";
    bytes32 internal constant TERMS = keccak256(bytes(TERMS_STRING));
    bytes32 internal constant OPENING = keccak256(
        abi.encodePacked(
            "EscrowOpening(address agent,uint256 nonce,uint256 deadline,bytes32 context,uint256 overrides,uint256 policyVersion,Terms terms)",
            TERMS_STRING
        )
    );
    bytes32 internal constant RELEASE =
        keccak256("EscrowRelease(address agent,bytes32 escrowId,uint64 cumulative,uint256 deadline,bytes32 context)");
    bytes32 internal constant DISPUTE =
        keccak256("EscrowDispute(address agent,bytes32 escrowId,bytes32 evidence,uint256 deadline,bytes32 context)");

    uint32 internal constant REVIEW = 2 days;
    uint32 internal constant ARBITRATION = 3 days;
    uint64 internal constant AMOUNT = uint64(CEILING / 2);

    IEscrowPayer internal door;
    IWorkEscrow internal escrow;
    address internal worker;
    uint256 internal workerKey;
    address internal arbiter;
    uint256 internal arbiterKey;

    function setUp() public virtual override {
        super.setUp();
        (arbiter, arbiterKey) = makeAddrAndKey("arbiter");
        (worker, workerKey) = makeAddrAndKey("worker");
        door = IEscrowPayer(address(wallet));
        escrow = door.ESCROW();
        enact(setPayee(worker, payee()));
    }

    /* TERMS */

    function terms() internal view returns (Terms memory t) {
        t.payer = address(wallet);
        t.payee = worker;
        t.arbiter = arbiter;
        t.amount = AMOUNT;
        t.submitBy = uint40(block.timestamp + 7 days);
        t.reviewPeriod = REVIEW;
        t.arbitrationPeriod = ARBITRATION;
        t.silenceBps = 10_000;
        t.anyOf = BY_PAYER | BY_ARBITER;
        t.jobHash = keccak256("the job");
        t.salt = uint256(uint160(agent)) << 96;
    }

    function numbered(uint96 number) internal view returns (Terms memory t) {
        t = terms();
        t.salt |= number;
    }

    function sized(Terms memory t, uint64 amount) internal pure returns (Terms memory) {
        t.amount = amount;
        return t;
    }

    function none() internal pure returns (Payout[] memory) {
        return new Payout[](0);
    }

    function shares(address a, uint16 bpsA, address b, uint16 bpsB) internal pure returns (Payout[] memory list) {
        list = new Payout[](2);
        list[0] = Payout(a, bpsA);
        list[1] = Payout(b, bpsB);
    }

    function with(Terms memory t, Payout[] memory list) internal pure returns (Terms memory) {
        t.payoutsHash = list.length == 0 ? bytes32(0) : keccak256(abi.encode(list));
        return t;
    }

    function idOf(Terms memory t) internal view returns (bytes32) {
        bytes32 separator = keccak256(
            abi.encode(
                keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"),
                keccak256("WorkEscrow"),
                keccak256("1"),
                block.chainid,
                address(escrow)
            )
        );
        return keccak256(abi.encodePacked(hex"1901", separator, keccak256(abi.encode(TERMS, t))));
    }

    /* OPENING */

    function opening(Terms memory t, uint256 nonce) internal view returns (EscrowOpening memory) {
        return EscrowOpening(agent, nonce, FAR, keccak256("why"), 0, 0, t);
    }

    function approvedOpening(Terms memory t, uint256 nonce, uint256 overrides)
        internal
        view
        returns (EscrowOpening memory)
    {
        (, uint256 version,) = wallet.agentLimits(agent);
        return EscrowOpening(agent, nonce, FAR, keccak256("why"), overrides, version, t);
    }

    function openingDigest(EscrowOpening memory o) internal view returns (bytes32) {
        bytes32 termsHash = keccak256(abi.encode(TERMS, o.terms));
        return typed(
            address(wallet),
            keccak256(
                abi.encode(OPENING, o.agent, o.nonce, o.deadline, o.context, o.overrides, o.policyVersion, termsHash)
            )
        );
    }

    /// @dev Signed by the agent in it, and by operators 0 and 1 if it overrides.
    function open(EscrowOpening memory o, Payout[] memory list) internal {
        bytes32 digest = openingDigest(o);
        (bytes32 r, bytes32 vs) = compact(keyOf(o.agent), digest);
        door.openEscrow(o, list, r, vs, o.overrides == 0 ? bytes("") : quorumFor(digest));
    }

    function open(Terms memory t, uint256 nonce) internal {
        open(opening(t, nonce), none());
    }

    /// @dev Expects the opening to revert with exactly `why`, and that nothing moved and no allowance stands.
    function refusedToOpen(EscrowOpening memory o, Payout[] memory list, bytes memory why) internal {
        uint256 held = usdc.balanceOf(address(wallet));
        bool used = wallet.nonceUsed(o.agent, o.nonce);
        bytes32 digest = openingDigest(o);
        (bytes32 r, bytes32 vs) = compact(keyOf(o.agent), digest);
        bytes memory quorum = o.overrides == 0 ? bytes("") : quorumFor(digest);
        vm.expectRevert(why);
        door.openEscrow(o, list, r, vs, quorum);
        assertEq(usdc.balanceOf(address(wallet)), held, "money moved");
        assertEq(wallet.nonceUsed(o.agent, o.nonce), used, "nonce burnt");
        assertEq(usdc.allowance(address(wallet), address(escrow)), 0, "allowance");
    }

    function refusedToOpen(Terms memory t, bytes memory why) internal {
        refusedToOpen(opening(t, 99), none(), why);
    }

    /* STEPS OF THE PAYER */

    function byPayer() internal pure returns (Proof memory p) {
        p.claims = BY_PAYER;
    }

    function captureCall(Terms memory t, Payout[] memory list, uint64 cumulative) internal pure returns (bytes memory) {
        return abi.encodeCall(IWorkEscrow.capture, (t, list, cumulative, byPayer()));
    }

    function disputeCall(Terms memory t, bytes32 evidence) internal view returns (bytes memory) {
        return abi.encodeCall(IWorkEscrow.dispute, (t, address(wallet), evidence, 0, ""));
    }

    function releaseDigest(address who, Terms memory t, uint64 cumulative) internal view returns (bytes32) {
        return typed(address(wallet), keccak256(abi.encode(RELEASE, who, idOf(t), cumulative, FAR, keccak256("why"))));
    }

    function disputeDigest(address who, Terms memory t, bytes32 evidence) internal view returns (bytes32) {
        return typed(address(wallet), keccak256(abi.encode(DISPUTE, who, idOf(t), evidence, FAR, keccak256("why"))));
    }

    function step(address who, bytes memory data, bytes32 digest, bytes memory quorum) internal {
        (bytes32 r, bytes32 vs) = compact(keyOf(who), digest);
        door.stepEscrow(who, data, FAR, keccak256("why"), r, vs, quorum);
    }

    function release(Terms memory t, uint64 cumulative) internal {
        step(agent, captureCall(t, none(), cumulative), releaseDigest(agent, t, cumulative), "");
    }

    function releaseApproved(Terms memory t, uint64 cumulative) internal {
        bytes32 digest = releaseDigest(agent, t, cumulative);
        step(agent, captureCall(t, none(), cumulative), digest, quorumFor(digest));
    }

    function contest(Terms memory t) internal {
        step(agent, disputeCall(t, "evidence"), disputeDigest(agent, t, "evidence"), "");
    }

    function refusedToStep(address who, bytes memory data, bytes32 digest, bytes memory why) internal {
        (bytes32 r, bytes32 vs) = compact(keyOf(who), digest);
        vm.expectRevert(why);
        door.stepEscrow(who, data, FAR, keccak256("why"), r, vs, "");
    }

    function refusedToRelease(Terms memory t, uint64 cumulative, bytes memory why) internal {
        refusedToStep(agent, captureCall(t, none(), cumulative), releaseDigest(agent, t, cumulative), why);
    }

    /* STEPS OF OTHERS */

    function deliver(Terms memory t) internal {
        vm.prank(t.payee);
        escrow.submit(t, "deliverable", 0, "");
    }

    function award(Terms memory t, uint64 captured) internal {
        vm.prank(arbiter);
        escrow.award(t, none(), captured, t.amount - captured, "reason", 0, "");
    }

    function callEscrow(bytes memory data) internal pure returns (bytes memory) {
        return abi.encodeWithSignature("callEscrow(bytes)", data);
    }

    /* WHAT IS */

    function stateOf(Terms memory t) internal view returns (State memory) {
        return escrow.getState(idOf(t));
    }

    function assertState(Terms memory t, Status status, uint256 captured, uint256 refunded) internal view {
        State memory s = stateOf(t);
        assertEq(uint256(s.status), uint256(status), "status");
        assertEq(s.captured, captured, "captured");
        assertEq(s.refunded, refunded, "refunded");
    }

    function capped(uint256 cap) internal pure returns (PayeeLimits memory l) {
        l = payee();
        l.cap = uint48(cap);
    }

    function slow(uint32 cooldown) internal pure returns (PayeeLimits memory l) {
        l = payee();
        l.cooldown = cooldown;
    }
}
