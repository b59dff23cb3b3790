// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {Test} from "forge-std/Test.sol";
import {DevUSDC} from "contracts/DevUSDC.sol";
import {
    BY_ARBITER,
    BY_CONDITION,
    BY_PAYER,
    BY_PREIMAGE,
    IWorkEscrow,
    Payout,
    Proof,
    State,
    Status,
    Terms
} from "contracts/interfaces/IWorkEscrow.sol";

/// @dev An escrow ready to be attacked: a payer with USDC and an unlimited allowance, a payee, an arbiter, two partners
/// who share in payouts, and a stranger. Hashes are built here, from the published type strings, and not taken from
/// the contract.
abstract contract EscrowStage is Test {
    uint256 internal constant USD = 1e6;
    uint64 internal constant AMOUNT = 100e6;
    uint256 internal constant START = 1_800_000_000;
    uint256 internal constant FAR = 4_000_000_000;
    uint40 internal constant SUBMIT_BY = uint40(START + 7 days);
    uint32 internal constant REVIEW = 2 days;
    uint32 internal constant ARBITRATION = 3 days;
    bytes32 internal constant PREIMAGE = "the secret of the job";
    bytes32 internal constant DELIVERABLE = "what was delivered";

    bytes32 internal constant TERMS = keccak256(
        "Terms(address payer,address payee,address arbiter,uint64 amount,uint40 submitBy,uint32 reviewPeriod,uint32 arbitrationPeriod,uint16 silenceBps,uint8 anyOf,uint8 allOf,bytes32 hashlock,address condition,bytes32 conditionArg,bytes32 payoutsHash,bytes32 jobHash,uint256 salt)"
    );
    bytes32 internal constant RELEASE = keccak256("Release(bytes32 escrowId,uint64 cumulative,uint256 deadline)");
    bytes32 internal constant SUBMIT = keccak256("Submit(bytes32 escrowId,bytes32 deliverable,uint256 deadline)");
    bytes32 internal constant VOID = keccak256("Void(bytes32 escrowId,uint256 deadline)");
    bytes32 internal constant DISPUTE = keccak256("Dispute(bytes32 escrowId,bytes32 evidence,uint256 deadline)");
    bytes32 internal constant AWARD =
        keccak256("Award(bytes32 escrowId,uint64 captured,uint64 refunded,bytes32 reason,uint256 deadline)");

    DevUSDC internal usdc;
    IWorkEscrow internal escrow;
    address internal treasury = makeAddr("usdc owner");

    address internal payer;
    address internal payee;
    address internal arbiter;
    uint256 internal payerKey;
    uint256 internal payeeKey;
    uint256 internal arbiterKey;
    address internal partner = makeAddr("partner");
    address internal partner2 = makeAddr("partner 2");
    address internal stranger = makeAddr("stranger");

    function setUp() public virtual {
        vm.warp(START);
        (payer, payerKey) = makeAddrAndKey("payer");
        (payee, payeeKey) = makeAddrAndKey("payee");
        (arbiter, arbiterKey) = makeAddrAndKey("arbiter");
        usdc = new DevUSDC(treasury);
        escrow = deploy(address(usdc));
        mint(payer, 1_000_000 * USD);
        vm.prank(payer);
        usdc.approve(address(escrow), type(uint256).max);
    }

    /// @dev By artifact name, so that no test contract carries the escrow's code inside its own.
    function deploy(address token) internal returns (IWorkEscrow) {
        return IWorkEscrow(deployCode("WorkEscrow.sol:WorkEscrow", abi.encode(token)));
    }

    function mint(address to, uint256 amount) internal {
        vm.prank(treasury);
        usdc.mint(to, amount);
    }

    /* TERMS */

    /// @dev Payer or arbiter releases; silence pays the payee.
    function terms() internal view returns (Terms memory t) {
        t.payer = payer;
        t.payee = payee;
        t.arbiter = arbiter;
        t.amount = AMOUNT;
        t.submitBy = SUBMIT_BY;
        t.reviewPeriod = REVIEW;
        t.arbitrationPeriod = ARBITRATION;
        t.silenceBps = 10_000;
        t.anyOf = BY_PAYER | BY_ARBITER;
        t.jobHash = keccak256("the job");
    }

    function salted(uint256 salt) internal view returns (Terms memory t) {
        t = terms();
        t.salt = salt;
    }

    /// @dev Released by one means only, with `silenceBps` on silence.
    function releasedBy(uint8 anyOf, uint16 silenceBps) internal view returns (Terms memory t) {
        t = terms();
        t.anyOf = anyOf;
        t.silenceBps = silenceBps;
        if (anyOf & BY_PREIMAGE != 0) t.hashlock = sha256(abi.encodePacked(PREIMAGE));
    }

    function none() internal pure returns (Payout[] memory) {
        return new Payout[](0);
    }

    function pays(address a, uint16 bpsA, address b, uint16 bpsB) internal pure returns (Payout[] memory list) {
        list = new Payout[](2);
        list[0] = Payout(a, bpsA);
        list[1] = Payout(b, bpsB);
    }

    function with(Terms memory t, Payout[] memory list) internal pure returns (Terms memory) {
        t.payoutsHash = list.length == 0 ? bytes32(0) : keccak256(abi.encode(list));
        return t;
    }

    /* HASHES, written out by themselves */

    function domain(address verifying) internal view returns (bytes32) {
        return keccak256(
            abi.encode(
                keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"),
                keccak256("WorkEscrow"),
                keccak256("1"),
                block.chainid,
                verifying
            )
        );
    }

    function typed(bytes32 structHash) internal view returns (bytes32) {
        return keccak256(abi.encodePacked(hex"1901", domain(address(escrow)), structHash));
    }

    function idOf(Terms memory t) internal view returns (bytes32) {
        return typed(keccak256(abi.encode(TERMS, t)));
    }

    function releaseHash(Terms memory t, uint64 cumulative, uint256 deadline) internal view returns (bytes32) {
        return typed(keccak256(abi.encode(RELEASE, idOf(t), cumulative, deadline)));
    }

    function submitHash(Terms memory t, uint256 deadline) internal view returns (bytes32) {
        return typed(keccak256(abi.encode(SUBMIT, idOf(t), DELIVERABLE, deadline)));
    }

    function voidHash(Terms memory t, uint256 deadline) internal view returns (bytes32) {
        return typed(keccak256(abi.encode(VOID, idOf(t), deadline)));
    }

    function disputeHash(Terms memory t, bytes32 evidence, uint256 deadline) internal view returns (bytes32) {
        return typed(keccak256(abi.encode(DISPUTE, idOf(t), evidence, deadline)));
    }

    function awardHash(Terms memory t, uint64 captured, uint64 refunded, bytes32 reason, uint256 deadline)
        internal
        view
        returns (bytes32)
    {
        return typed(keccak256(abi.encode(AWARD, idOf(t), captured, refunded, reason, deadline)));
    }

    function signed(uint256 key, bytes32 digest) internal pure returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(key, digest);
        return abi.encodePacked(r, s, v);
    }

    /* STEPS, relayed by a stranger on signatures unless said otherwise */

    function open(Terms memory t) internal returns (bytes32) {
        return open(t, none());
    }

    function open(Terms memory t, Payout[] memory list) internal returns (bytes32) {
        vm.prank(t.payer);
        return escrow.authorize(t, list);
    }

    function deliver(Terms memory t) internal {
        bytes memory signature = signed(payeeKey, submitHash(t, FAR));
        vm.prank(stranger);
        escrow.submit(t, DELIVERABLE, FAR, signature);
    }

    function opened(Terms memory t) internal returns (Terms memory) {
        open(t);
        return t;
    }

    function delivered(Terms memory t) internal returns (Terms memory) {
        open(t);
        deliver(t);
        return t;
    }

    function disputed(Terms memory t) internal returns (Terms memory) {
        delivered(t);
        contest(t);
        return t;
    }

    function contest(Terms memory t) internal {
        bytes memory signature = signed(payerKey, disputeHash(t, "evidence", FAR));
        vm.prank(stranger);
        escrow.dispute(t, t.payer, "evidence", FAR, signature);
    }

    function proof() internal pure returns (Proof memory p) {
        (p.payerDeadline, p.arbiterDeadline) = (FAR, FAR);
    }

    function byPayer(Terms memory t, uint64 cumulative) internal view returns (Proof memory p) {
        p = proof();
        p.claims = BY_PAYER;
        p.payerSignature = signed(payerKey, releaseHash(t, cumulative, FAR));
    }

    function byArbiter(Terms memory t, uint64 cumulative) internal view returns (Proof memory p) {
        p = proof();
        p.claims = BY_ARBITER;
        p.arbiterSignature = signed(arbiterKey, releaseHash(t, cumulative, FAR));
    }

    function byPreimage(bytes32 preimage) internal pure returns (Proof memory p) {
        p = proof();
        p.claims = BY_PREIMAGE;
        p.preimage = preimage;
    }

    function byCondition(bytes memory data) internal pure returns (Proof memory p) {
        p = proof();
        p.claims = BY_CONDITION;
        p.conditionData = data;
    }

    function capture(Terms memory t, uint64 cumulative) internal {
        capture(t, none(), cumulative);
    }

    function capture(Terms memory t, Payout[] memory list, uint64 cumulative) internal {
        Proof memory p = byArbiter(t, cumulative);
        vm.prank(stranger);
        escrow.capture(t, list, cumulative, p);
    }

    function giveUp(Terms memory t) internal {
        bytes memory signature = signed(payeeKey, voidHash(t, FAR));
        vm.prank(stranger);
        escrow.void(t, FAR, signature);
    }

    function award(Terms memory t, uint64 captured) internal {
        award(t, none(), captured);
    }

    function award(Terms memory t, Payout[] memory list, uint64 captured) internal {
        uint64 refunded = t.amount - captured;
        bytes memory signature = signed(arbiterKey, awardHash(t, captured, refunded, "reason", FAR));
        vm.prank(stranger);
        escrow.award(t, list, captured, refunded, "reason", FAR, signature);
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

    function held() internal view returns (uint256) {
        return usdc.balanceOf(address(escrow));
    }

    function wrongStatus(Status have, Status want) internal {
        vm.expectRevert(abi.encodeWithSelector(IWorkEscrow.WrongStatus.selector, have, want));
    }

    function why1(bytes4 selector, uint256 detail) internal pure returns (bytes memory) {
        return abi.encodeWithSelector(selector, detail);
    }

    function why2(bytes4 selector, uint256 asked, uint256 left) internal pure returns (bytes memory) {
        return abi.encodeWithSelector(selector, asked, left);
    }

    function notReleased(uint8 have, Terms memory t) internal {
        vm.expectRevert(abi.encodeWithSelector(IWorkEscrow.NotReleased.selector, have, t.anyOf, t.allOf));
    }

    function badSignature(uint8 role) internal {
        vm.expectRevert(abi.encodeWithSelector(IWorkEscrow.InvalidSignature.selector, role));
    }

    /* EIP-3009 */

    function authorizationHash(address from, address to, uint256 amount, bytes32 nonce)
        internal
        view
        returns (bytes32)
    {
        bytes32 structHash = keccak256(
            abi.encode(usdc.RECEIVE_WITH_AUTHORIZATION_TYPEHASH(), from, to, amount, uint256(0), FAR, nonce)
        );
        return keccak256(abi.encodePacked(hex"1901", usdc.DOMAIN_SEPARATOR(), structHash));
    }

    function authorization(Terms memory t) internal view returns (bytes memory) {
        return signed(payerKey, authorizationHash(t.payer, address(escrow), t.amount, idOf(t)));
    }

    /// @dev The payee's word that `amount` goes back, raising the total to `total`.
    function returnOf(Terms memory t, uint64 total, uint256 amount) internal view returns (bytes memory) {
        bytes32 nonce = keccak256(abi.encode(idOf(t), total));
        return signed(payeeKey, authorizationHash(payee, address(escrow), amount, nonce));
    }
}
