// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {EscrowStage} from "../attack/EscrowStage.sol";
import {JobReader} from "contracts/JobReader.sol";
import {Job, JobStatus} from "contracts/interfaces/IERC8183Jobs.sol";
import {IWorkEscrow, Payout, Proof, State, Status, Terms} from "contracts/interfaces/IWorkEscrow.sol";
import {Vm} from "forge-std/Vm.sol";

/// @dev What each step says, word for word; who may take it by calling; and how readers of ERC-8183 see it.
contract EscrowTest is EscrowStage {
    uint256 private job;
    Terms private t;

    function setUp() public override {
        super.setUp();
        t = terms();
        job = uint256(idOf(t));
    }

    function _says() private {
        vm.expectEmit(address(escrow));
    }

    /* EVENTS */

    function test_authorize_says() public {
        Payout[] memory list = pays(partner, 1_000, partner2, 2_000);
        Terms memory u = with(terms(), list);
        uint256 id = uint256(idOf(u));
        _says();
        emit IWorkEscrow.JobCreated(id, payer, payee, arbiter, SUBMIT_BY, address(0));
        _says();
        emit IWorkEscrow.EscrowAuthorized(bytes32(id), u, list);
        _says();
        emit IWorkEscrow.JobFunded(id, payer, AMOUNT);
        vm.prank(payer);
        assertEq(uint256(escrow.authorize(u, list)), id);
        assertEq(uint256(escrow.getEscrowId(u)), id);
        State memory s = escrow.getState(bytes32(id));
        assertEq(keccak256(abi.encode(s)), keccak256(abi.encode(State(0, 0, 0, 0, Status.Funded))));
        assertEq(escrow.TOKEN(), address(usdc));
    }

    /// @dev The names and types of the draft, by the hashes that its indexers look for.
    function test_topics_of_the_draft() public pure {
        assertEq(
            IWorkEscrow.JobCreated.selector, keccak256("JobCreated(uint256,address,address,address,uint256,address)")
        );
        assertEq(IWorkEscrow.JobFunded.selector, keccak256("JobFunded(uint256,address,uint256)"));
        assertEq(IWorkEscrow.JobSubmitted.selector, keccak256("JobSubmitted(uint256,address,bytes32)"));
        assertEq(IWorkEscrow.JobCompleted.selector, keccak256("JobCompleted(uint256,address,bytes32)"));
        assertEq(IWorkEscrow.JobRejected.selector, keccak256("JobRejected(uint256,address,bytes32)"));
        assertEq(IWorkEscrow.JobExpired.selector, keccak256("JobExpired(uint256)"));
        assertEq(IWorkEscrow.PaymentReleased.selector, keccak256("PaymentReleased(uint256,address,uint256)"));
        assertEq(IWorkEscrow.Refunded.selector, keccak256("Refunded(uint256,address,uint256)"));
    }

    function test_submit_and_dispute_say() public {
        open(t);
        _says();
        emit IWorkEscrow.JobSubmitted(job, payee, DELIVERABLE);
        deliver(t);
        _says();
        emit IWorkEscrow.JobDisputed(job, payer, "evidence");
        contest(t);
        _says();
        emit IWorkEscrow.AwardIssued(job, arbiter, 30e6, 70e6, "reason");
        _says();
        emit IWorkEscrow.JobCompleted(job, arbiter, "reason");
        _says();
        emit IWorkEscrow.PaymentReleased(job, payee, 30e6);
        _says();
        emit IWorkEscrow.Refunded(job, payer, 70e6);
        award(t, 30e6);
    }

    function test_capture_says() public {
        open(t);
        vm.recordLogs();
        capture(t, 40e6);
        Vm.Log[] memory logs = vm.getRecordedLogs();
        assertEq(logs.length, 2); // not complete: the release and the token's transfer
        assertEq(logs[0].topics[0], IWorkEscrow.PaymentReleased.selector);
        _says();
        emit IWorkEscrow.JobCompleted(job, arbiter, bytes32(uint256(2)));
        _says();
        emit IWorkEscrow.PaymentReleased(job, payee, 60e6);
        capture(t, AMOUNT);

        Terms memory u = opened(salted(1));
        Proof memory p = byPayer(u, AMOUNT);
        _says();
        emit IWorkEscrow.JobCompleted(uint256(idOf(u)), payer, bytes32(uint256(1)));
        escrow.capture(u, none(), AMOUNT, p);

        u = opened(releasedBy(4, 0));
        _says();
        emit IWorkEscrow.JobCompleted(uint256(idOf(u)), address(0), bytes32(uint256(4)));
        escrow.capture(u, none(), AMOUNT, byPreimage(PREIMAGE));
    }

    function test_other_ends_say() public {
        open(t);
        _says();
        emit IWorkEscrow.JobRejected(job, payee, "void");
        _says();
        emit IWorkEscrow.Refunded(job, payer, AMOUNT);
        giveUp(t);

        Terms memory u = opened(salted(1));
        Terms memory v = delivered(salted(2));
        vm.warp(SUBMIT_BY + 1);
        _says();
        emit IWorkEscrow.JobExpired(uint256(idOf(u)));
        _says();
        emit IWorkEscrow.Refunded(uint256(idOf(u)), payer, AMOUNT);
        escrow.reclaim(u);
        _says();
        emit IWorkEscrow.JobCompleted(uint256(idOf(v)), address(0), "silence");
        escrow.finalize(v, none());
    }

    function test_refund_and_withdraw_say() public {
        open(t);
        capture(t, 40e6);
        vm.startPrank(payee);
        usdc.approve(address(escrow), 40e6);
        _says();
        emit IWorkEscrow.PaymentReturned(job, payee, 15e6, 15e6);
        escrow.refund(t, 15e6);
        _says();
        emit IWorkEscrow.PaymentReturned(job, payee, 25e6, 40e6);
        escrow.refund(t, 40e6);
        vm.stopPrank();
        vm.prank(treasury);
        usdc.blacklist(payee);
        capture(t, AMOUNT);
        vm.prank(treasury);
        usdc.unBlacklist(payee);
        _says();
        emit IWorkEscrow.CreditWithdrawn(payee, 60e6);
        escrow.withdraw(payee);
    }

    /// @dev Anyone may give the payer money back in the payee's name.
    function test_refund_by_another() public {
        open(t);
        capture(t, 40e6);
        mint(stranger, 40e6);
        vm.startPrank(stranger);
        usdc.approve(address(escrow), 40e6);
        escrow.refund(t, 40e6);
        assertEq(usdc.balanceOf(payer), 1_000_000 * USD - AMOUNT + 40e6);
        assertEq(usdc.balanceOf(payee), 40e6);
    }

    /* BY CALLING */

    /// @dev Each party in person: no signature, no deadline.
    function test_in_person() public {
        open(t);
        vm.prank(payee);
        escrow.submit(t, DELIVERABLE, 0, "");
        Proof memory p;
        p.claims = 1;
        vm.prank(payer);
        escrow.capture(t, none(), 10e6, p);
        p.claims = 2;
        vm.prank(arbiter);
        escrow.capture(t, none(), 20e6, p);
        vm.prank(payee);
        escrow.dispute(t, payee, "", 0, "");
        vm.prank(arbiter);
        escrow.award(t, none(), 50e6, 50e6, "", 0, "");
        assertState(t, Status.Completed, 50e6, 50e6);
        Terms memory u = opened(salted(1));
        vm.prank(payee);
        escrow.void(u, 0, "");
        assertState(u, Status.Rejected, 0, AMOUNT);
    }

    function test_check_terms_says_what_authorize_would() public {
        escrow.checkTerms(t, none());
        t.silenceBps = 10_001;
        vm.expectRevert(abi.encodeWithSelector(IWorkEscrow.InvalidTerms.selector, 7));
        escrow.checkTerms(t, none());
    }

    /* ERC-8183's READERS */

    function test_reader() public {
        JobReader reader = new JobReader(escrow);
        assertEq(reader.paymentToken(), address(usdc));
        assertEq(uint256(reader.jobOf(t).status), uint256(JobStatus.Open));
        vm.expectRevert(abi.encodeWithSelector(JobReader.UnknownJob.selector, job));
        reader.publish(t); // nothing there yet
        open(t);
        vm.expectRevert(abi.encodeWithSelector(JobReader.UnknownJob.selector, job));
        reader.getJob(job);
        vm.expectEmit(address(reader));
        emit JobReader.JobPublished(job);
        vm.prank(stranger);
        assertEq(reader.publish(t), job);
        Job memory want = Job({
            id: job,
            client: payer,
            provider: payee,
            evaluator: arbiter,
            description: vm.toString(t.jobHash),
            budget: AMOUNT,
            expiredAt: SUBMIT_BY,
            status: JobStatus.Funded,
            hook: address(0)
        });
        assertEq(keccak256(abi.encode(reader.getJob(job))), keccak256(abi.encode(want)));
        assertEq(keccak256(abi.encode(reader.jobOf(t))), keccak256(abi.encode(want)));
        deliver(t);
        assertEq(uint256(reader.getJob(job).status), uint256(JobStatus.Submitted));
        contest(t);
        assertEq(uint256(reader.getJob(job).status), uint256(JobStatus.Submitted)); // the draft knows no dispute
        award(t, 0);
        assertEq(uint256(reader.getJob(job).status), uint256(JobStatus.Rejected));

        Terms memory u = opened(salted(1));
        Terms memory v = opened(salted(2));
        capture(u, AMOUNT);
        assertEq(uint256(reader.jobOf(u).status), uint256(JobStatus.Completed));
        vm.warp(SUBMIT_BY + 1);
        escrow.reclaim(v);
        assertEq(uint256(reader.jobOf(v).status), uint256(JobStatus.Expired));
        // Terms that hash to another id are another job.
        u.amount = 1;
        vm.expectRevert(abi.encodeWithSelector(JobReader.UnknownJob.selector, idOf(u)));
        reader.publish(u);
    }
}
