// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {AgentLimits, IPolicyChanges, IPolicyWallet} from "contracts/interfaces/IPolicyWallet.sol";
import {
    BY_ARBITER,
    BY_PAYER,
    EscrowOpening,
    IEscrowPayer,
    IWorkEscrow,
    Payout,
    Status,
    Terms
} from "contracts/interfaces/IWorkEscrow.sol";
import {DoorStage} from "./DoorStage.sol";

/// @dev P7: the quorum is not avoided by small steps or by a release. P8: frozen stops the agent, never the way home.
/// And whose escrow it is: other agents, other payers, other calls.
contract P07_P08_EscrowAuthority is DoorStage {
    uint64 private constant LARGE = uint64(3 * CEILING);

    function _large() private returns (Terms memory t) {
        t = sized(terms(), LARGE);
        open(approvedOpening(t, 1, 1), none());
    }

    /* P7 */

    function test_a_large_opening_needs_the_quorum() public {
        Terms memory t = sized(terms(), LARGE);
        refusedToOpen(t, why2(IPolicyWallet.CeilingExceeded.selector, LARGE, CEILING));
        EscrowOpening memory o = approvedOpening(t, 1, 1);
        (bytes32 r, bytes32 vs) = compact(agentKey, openingDigest(o));
        bytes[3] memory bad =
            [bytes(""), quorumFor(keccak256("something else")), quorumFor(openingDigest(opening(t, 1)))];
        for (uint256 i; i < 3; ++i) {
            vm.expectRevert(IPolicyWallet.InvalidQuorum.selector);
            door.openEscrow(o, none(), r, vs, bad[i]);
        }
        open(o, none());
        // Split over payouts it is as large.
        Payout[] memory list = shares(shop, 4_000, cafe, 4_000);
        t = with(sized(numbered(1), LARGE), list);
        refusedToOpen(opening(t, 2), list, why2(IPolicyWallet.CeilingExceeded.selector, LARGE, CEILING));
    }

    function test_the_quorum_s_word_is_for_the_policy_it_saw() public {
        EscrowOpening memory o = approvedOpening(sized(terms(), LARGE), 1, 1);
        tightenBy(0, setAgent(agent, limits()));
        refusedToOpen(o, none(), abi.encodeWithSelector(IPolicyWallet.PolicyVersionChanged.selector, 1, 2));
        o = approvedOpening(sized(terms(), LARGE), 1, 16);
        refusedToOpen(o, none(), abi.encodeWithSelector(IPolicyWallet.InvalidChange.selector));
    }

    /// @dev In one step or in many, the agent alone releases no more than its ceiling of one escrow.
    function test_small_releases_add_up() public {
        Terms memory t = _large();
        for (uint64 i = 1; i <= 4; ++i) {
            release(t, i * uint64(CEILING / 4));
        }
        bytes memory why = abi.encodeWithSelector(IPolicyWallet.InvalidQuorum.selector);
        refusedToRelease(t, uint64(CEILING + 1), why);
        refusedToRelease(t, LARGE, why);
        assertEq(usdc.balanceOf(worker), CEILING);
        releaseApproved(t, uint64(CEILING + 1));
        refusedToRelease(t, uint64(CEILING + 2), why);
    }

    function test_a_quorum_for_one_total_is_for_no_other() public {
        Terms memory t = _large();
        bytes32 digest = releaseDigest(agent, t, LARGE - 1);
        bytes memory quorum = quorumFor(digest);
        bytes memory data = captureCall(t, none(), LARGE);
        (bytes32 r, bytes32 vs) = compact(agentKey, releaseDigest(agent, t, LARGE));
        vm.expectRevert(IPolicyWallet.InvalidQuorum.selector);
        door.stepEscrow(agent, data, FAR, keccak256("why"), r, vs, quorum);
        (r, vs) = compact(agentKey, digest);
        vm.expectRevert(IPolicyWallet.InvalidSignature.selector);
        door.stepEscrow(agent, data, FAR, keccak256("why"), r, vs, quorum);
    }

    function test_a_lowered_ceiling_holds_for_what_is_open() public {
        Terms memory t = terms();
        open(t, 1);
        AgentLimits memory l = limits();
        l.ceiling = 0;
        tightenBy(0, setAgent(agent, l));
        refusedToRelease(t, 1, abi.encodeWithSelector(IPolicyWallet.InvalidQuorum.selector));
    }

    /* P8 */

    function test_frozen_opens_releases_and_disputes_nothing() public {
        Terms memory t = terms();
        open(t, 1);
        deliver(t);
        address[2] memory who = [address(0), agent];
        for (uint256 i; i < 2; ++i) {
            bytes memory why = i == 0
                ? abi.encodeWithSelector(IPolicyWallet.WalletFrozen.selector)
                : abi.encodeWithSelector(IPolicyWallet.AgentFrozen.selector, agent);
            tightenBy(0, setFrozen(who[i], true));
            refusedToOpen(numbered(1), why);
            refusedToOpen(approvedOpening(numbered(1), 2, 15), none(), why);
            refusedToRelease(t, 1, why);
            refusedToStep(agent, disputeCall(t, "evidence"), disputeDigest(agent, t, "evidence"), why);
            enact(setFrozen(who[i], false));
        }
        vm.warp(FAR - 1);
        AgentLimits memory l = limits();
        l.expiry = uint40(FAR - 1);
        tightenBy(0, setAgent(agent, l));
        refusedToRelease(t, 1, abi.encodeWithSelector(IPolicyWallet.AgentExpired.selector, FAR - 1));
    }

    /// @dev Reclaim, void, finalize, award and withdraw bring money home while all is frozen, and no limit comes back.
    function test_every_way_home_works_frozen_and_restores_no_limit() public {
        Terms[5] memory all;
        for (uint96 i; i < 5; ++i) {
            all[i] = sized(numbered(i), uint64(CEILING / 5));
            all[i].silenceBps = 0;
            all[i].anyOf = BY_ARBITER;
            open(all[i], i);
        }
        deliver(all[1]);
        deliver(all[2]);
        tightenBy(0, callEscrow(disputeCall(all[2], "evidence")));
        tightenBy(0, setFrozen(address(0), true));
        tightenBy(0, setFrozen(agent, true));
        (uint256 day,,,) = wallet.room(agent);
        uint256 held = usdc.balanceOf(address(wallet));

        vm.prank(worker);
        escrow.void(all[0], 0, "");
        award(all[2], 0);
        vm.warp(block.timestamp + REVIEW + 1);
        escrow.finalize(all[1], none());
        vm.warp(all[3].submitBy + 1);
        escrow.reclaim(all[3]);
        assertEq(usdc.balanceOf(address(wallet)), held + 4 * (CEILING / 5));

        // USDC refuses the wallet: the money waits for it alone and comes with anyone's call.
        vm.prank(treasury);
        usdc.blacklist(address(wallet));
        escrow.reclaim(all[4]);
        assertEq(escrow.owed(address(wallet)), CEILING / 5);
        vm.prank(treasury);
        usdc.unBlacklist(address(wallet));
        vm.prank(stranger);
        escrow.withdraw(address(wallet));
        assertEq(usdc.balanceOf(address(wallet)), FUNDS);

        vm.warp(START + DELAY); // back into the window of the openings
        (uint256 after_,,,) = wallet.room(agent);
        assertEq(after_, day, "what came back gave room");
    }

    /* WHOSE */

    function test_another_agent_neither_opens_in_its_name_nor_steps() public {
        Terms memory t = terms();
        EscrowOpening memory o = opening(t, 1);
        o.agent = agent2;
        bytes memory foreign = abi.encodeWithSelector(IEscrowPayer.NotEscrowOwner.selector, address(wallet), agent2);
        refusedToOpen(o, none(), foreign);
        open(t, 1);
        refusedToStep(agent2, captureCall(t, none(), 1), releaseDigest(agent2, t, 1), foreign);
        refusedToStep(agent2, disputeCall(t, "e"), disputeDigest(agent2, t, "e"), foreign);
        // Signed by the other, in the opener's name.
        (bytes32 r, bytes32 vs) = compact(agent2Key, releaseDigest(agent, t, 1));
        vm.expectRevert(IPolicyWallet.InvalidSignature.selector);
        door.stepEscrow(agent, captureCall(t, none(), 1), FAR, keccak256("why"), r, vs, "");
    }

    /// @dev An escrow of another payer, with this wallet as its arbiter and the agent in its salt.
    function test_the_agent_does_not_speak_for_the_wallet_in_others_escrows() public {
        Terms memory t = terms();
        (t.payer, t.arbiter, t.anyOf) = (stranger, address(wallet), BY_ARBITER);
        fund(stranger, AMOUNT);
        vm.startPrank(stranger);
        usdc.approve(address(escrow), AMOUNT);
        escrow.authorize(t, none());
        vm.stopPrank();
        refusedToRelease(t, AMOUNT, abi.encodeWithSelector(IEscrowPayer.NotEscrowOwner.selector, stranger, agent));
        refusedToOpen(t, abi.encodeWithSelector(IEscrowPayer.NotEscrowOwner.selector, stranger, agent));
    }

    function test_only_two_calls_go_through_the_agent_s_door() public {
        Terms memory t = terms();
        open(t, 1);
        bytes[5] memory calls = [
            abi.encodeCall(IWorkEscrow.award, (t, none(), AMOUNT, 0, "", 0, "")),
            abi.encodeCall(IWorkEscrow.void, (t, 0, "")),
            abi.encodeCall(IWorkEscrow.authorize, (numbered(1), none())),
            abi.encodeCall(IWorkEscrow.refund, (t, 1)),
            bytes("")
        ];
        for (uint256 i; i < 5; ++i) {
            bytes4 selector = bytes4(calls[i]);
            refusedToStep(
                agent,
                calls[i],
                releaseDigest(agent, t, 1),
                abi.encodeWithSelector(IEscrowPayer.UnknownStep.selector, selector)
            );
        }
    }

    function test_one_operator_only_disputes() public {
        Terms memory t = terms();
        open(t, 1);
        bytes[3] memory changes = [
            callEscrow(captureCall(t, none(), 1)),
            callEscrow(abi.encodeCall(IWorkEscrow.void, (t, 0, ""))),
            callEscrow("")
        ];
        for (uint256 i; i < 3; ++i) {
            vm.prank(operators[0]);
            vm.expectRevert(IPolicyWallet.NotTightening.selector);
            wallet.tighten(changes[i]);
        }
    }

    /* SIGNATURES */

    function test_a_release_is_no_dispute_and_a_payment_is_no_opening() public {
        Terms memory t = terms();
        open(t, 1);
        deliver(t);
        bytes memory why = abi.encodeWithSelector(IPolicyWallet.InvalidSignature.selector);
        bytes32 value = bytes32(uint256(5));
        refusedToStep(agent, disputeCall(t, value), releaseDigest(agent, t, 5), why);
        refusedToStep(agent, captureCall(t, none(), 5), disputeDigest(agent, t, value), why);
        refusedToStep(agent, captureCall(t, none(), 5), releaseDigest(agent, numbered(1), 5), why);
    }

    function test_replays_do_nothing() public {
        Terms memory t = terms();
        open(t, 1);
        release(t, 10);
        refusedToRelease(t, 10, abi.encodeWithSelector(IWorkEscrow.NotIncreasing.selector, 10, 10));
        refusedToRelease(t, 5, abi.encodeWithSelector(IWorkEscrow.NotIncreasing.selector, 5, 10));
        refusedToOpen(opening(t, 1), none(), abi.encodeWithSelector(IPolicyWallet.NonceUsed.selector, 1));
        deliver(t);
        contest(t);
        refusedToStep(
            agent,
            disputeCall(t, "evidence"),
            disputeDigest(agent, t, "evidence"),
            abi.encodeWithSelector(IWorkEscrow.WrongStatus.selector, Status.Disputed, Status.Submitted)
        );
    }

    function test_deadlines_and_cancelled_nonces() public {
        Terms memory t = terms();
        EscrowOpening memory o = opening(t, 1);
        o.deadline = block.timestamp - 1;
        refusedToOpen(o, none(), abi.encodeWithSelector(IPolicyWallet.DeadlinePassed.selector, o.deadline));
        tightenBy(1, abi.encodeCall(IPolicyChanges.cancelAgentNonce, (agent, 1)));
        refusedToOpen(opening(t, 1), none(), abi.encodeWithSelector(IPolicyWallet.NonceUsed.selector, 1));
        open(t, 2);
        (bytes32 r, bytes32 vs) = compact(agentKey, releaseDigest(agent, t, 1));
        bytes memory data = captureCall(t, none(), 1);
        vm.warp(FAR + 1);
        vm.expectRevert(abi.encodeWithSelector(IPolicyWallet.DeadlinePassed.selector, FAR));
        door.stepEscrow(agent, data, FAR, keccak256("why"), r, vs, "");
    }

    /// @dev Any field of the terms that a relayer changes is another escrow, which nobody signed.
    function testFuzz_a_relayer_changes_nothing(uint256 field, uint256 salt) public {
        Terms memory t = terms();
        EscrowOpening memory o = opening(t, 1);
        (bytes32 r, bytes32 vs) = compact(agentKey, openingDigest(o));
        field = bound(field, 0, 7);
        if (field == 0) o.terms.payee = shop;
        else if (field == 1) o.terms.amount += 1;
        else if (field == 2) o.terms.arbiter = stranger;
        else if (field == 3) o.terms.silenceBps = 0;
        else if (field == 4) o.terms.anyOf = BY_PAYER;
        else if (field == 5) o.context = keccak256("other");
        else if (field == 6) o.nonce = 2;
        else o.terms.salt ^= bound(salt, 1, type(uint96).max);
        vm.expectRevert(IPolicyWallet.InvalidSignature.selector);
        door.openEscrow(o, none(), r, vs, "");
    }

    /// @dev Dirty upper bits, signed over: the escrow reads its words strictly.
    function test_dirty_words_are_refused() public {
        EscrowOpening memory o = opening(terms(), 1);
        bytes32 dirtyTerms;
        bytes memory words = abi.encode(TERMS, o.terms);
        assembly {
            mstore8(add(words, 0xa0), 1) // the top byte of `amount`
        }
        dirtyTerms = keccak256(words);
        bytes32 digest = typed(
            address(wallet),
            keccak256(
                abi.encode(OPENING, o.agent, o.nonce, o.deadline, o.context, o.overrides, o.policyVersion, dirtyTerms)
            )
        );
        (bytes32 r, bytes32 vs) = compact(agentKey, digest);
        bytes memory data = abi.encodeCall(IEscrowPayer.openEscrow, (o, none(), r, vs, ""));
        assembly {
            mstore8(add(data, 0x144), 1) // 0x20 length, 4 selector, 6 words of head, 3 of terms: `amount`
        }
        (bool done,) = address(door).call(data);
        assertFalse(done);
        assertEq(usdc.balanceOf(address(wallet)), FUNDS);
    }
}
