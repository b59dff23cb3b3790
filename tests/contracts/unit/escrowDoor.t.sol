// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {IPolicyWallet} from "contracts/interfaces/IPolicyWallet.sol";
import {
    BY_ARBITER,
    BY_PAYER,
    EscrowOpening,
    IEscrowPayer,
    IWorkEscrow,
    Payout,
    Proof,
    Status,
    Terms
} from "contracts/interfaces/IWorkEscrow.sol";
import {DoorStage} from "../attack/DoorStage.sol";

/// @dev The wallet's escrow door as it is meant to be used.
contract EscrowDoorTest is DoorStage {
    function test_opens_funds_and_says_so() public {
        Terms memory t = terms();
        vm.expectEmit(address(wallet));
        emit IEscrowPayer.EscrowOpened(agent, idOf(t), worker, AMOUNT, 0, 1, keccak256("why"));
        open(t, 1);
        assertEq(escrow.getEscrowId(t), idOf(t));
        assertState(t, Status.Funded, 0, 0);
        assertEq(usdc.balanceOf(address(escrow)), AMOUNT);
        assertEq(usdc.balanceOf(address(wallet)), FUNDS - AMOUNT);
        assertEq(usdc.allowance(address(wallet), address(escrow)), 0);
        assertTrue(wallet.nonceUsed(agent, 1));
        (uint256 day,,,) = wallet.room(agent);
        assertEq(day, DAY_CAP - AMOUNT);
    }

    function test_agent_releases_in_parts_and_says_so() public {
        Terms memory t = terms();
        open(t, 1);
        deliver(t);
        vm.expectEmit(address(wallet));
        emit IEscrowPayer.EscrowStepped(
            agent, idOf(t), IWorkEscrow.capture.selector, bytes32(uint256(10)), 1, keccak256("why")
        );
        release(t, 10);
        assertState(t, Status.Submitted, 10, 0);
        release(t, AMOUNT);
        assertState(t, Status.Completed, AMOUNT, 0);
        assertEq(usdc.balanceOf(worker), AMOUNT);
        (uint256 day,,,) = wallet.room(agent);
        assertEq(day, DAY_CAP - AMOUNT, "counted twice");
    }

    function test_agent_disputes_and_the_award_comes_home() public {
        Terms memory t = terms();
        open(t, 1);
        deliver(t);
        vm.expectEmit(address(wallet));
        emit IEscrowPayer.EscrowStepped(agent, idOf(t), IWorkEscrow.dispute.selector, "evidence", 1, keccak256("why"));
        contest(t);
        award(t, AMOUNT / 4);
        assertState(t, Status.Completed, AMOUNT / 4, AMOUNT - AMOUNT / 4);
        assertEq(usdc.balanceOf(address(wallet)), FUNDS - AMOUNT / 4);
        (uint256 day,,,) = wallet.room(agent);
        assertEq(day, DAY_CAP - AMOUNT, "what came back was given back to the cap");
    }

    function test_payouts_are_paid_by_share() public {
        Payout[] memory list = shares(shop, 2_500, cafe, 1_000);
        Terms memory t = with(terms(), list);
        open(opening(t, 1), list);
        step(agent, captureCall(t, list, AMOUNT), releaseDigest(agent, t, AMOUNT), "");
        assertEq(usdc.balanceOf(shop), AMOUNT / 4);
        assertEq(usdc.balanceOf(cafe), AMOUNT / 10);
        assertEq(usdc.balanceOf(worker), AMOUNT - AMOUNT / 4 - AMOUNT / 10);
    }

    /// @dev The payee works, and all of the money goes elsewhere: only that place must be registered.
    function test_a_payee_without_a_share_needs_no_registration() public {
        Payout[] memory list = shares(shop, 9_000, cafe, 1_000);
        Terms memory t = terms();
        t.payee = stranger;
        open(opening(with(t, list), 1), list);
        step(agent, captureCall(t, list, 7), releaseDigest(agent, t, 7), "");
        step(agent, captureCall(t, list, AMOUNT), releaseDigest(agent, t, AMOUNT), "");
        assertEq(usdc.balanceOf(stranger), 0);
        assertEq(usdc.balanceOf(shop) + usdc.balanceOf(cafe), AMOUNT);
    }

    function test_quorum_opens_past_every_limit() public {
        Terms memory t = sized(terms(), uint64(5 * DAY_CAP));
        t.payee = stranger;
        vm.expectEmit(address(wallet));
        emit IEscrowPayer.EscrowOpened(agent, idOf(t), stranger, t.amount, 15, 1, keccak256("why"));
        open(approvedOpening(t, 1, 15), none());
        assertState(t, Status.Funded, 0, 0);
        (uint256 day,,,) = wallet.room(agent);
        assertEq(day, DAY_CAP, "an overridden limit counts");
    }

    function test_large_release_with_the_quorum() public {
        Terms memory t = sized(terms(), uint64(3 * CEILING));
        open(approvedOpening(t, 1, 1), none());
        release(t, uint64(CEILING));
        releaseApproved(t, uint64(3 * CEILING));
        assertEq(usdc.balanceOf(worker), 3 * CEILING);
    }

    /// @dev An arbiter's word beside the payer's: what the terms ask for beyond the payer travels in the call.
    function test_both_words_where_the_terms_ask_for_both() public {
        Terms memory t = terms();
        (t.anyOf, t.allOf) = (0, BY_PAYER | BY_ARBITER);
        open(t, 1);
        refusedToRelease(
            t, 5, abi.encodeWithSelector(IWorkEscrow.NotReleased.selector, BY_PAYER, 0, BY_PAYER | BY_ARBITER)
        );
        bytes memory signature = signed65(arbiterKey, escrow.releaseDigest(idOf(t), 5, FAR));
        bytes memory data = _with(t, 5, signature);
        step(agent, data, releaseDigest(agent, t, 5), "");
        assertEq(usdc.balanceOf(worker), 5);
    }

    function _with(Terms memory t, uint64 cumulative, bytes memory signature) private pure returns (bytes memory) {
        Proof memory p = byPayer();
        p.claims |= BY_ARBITER;
        (p.arbiterDeadline, p.arbiterSignature) = (FAR, signature);
        return abi.encodeCall(IWorkEscrow.capture, (t, none(), cumulative, p));
    }

    /* OPERATORS */

    function test_one_operator_disputes_even_frozen() public {
        Terms memory t = terms();
        open(t, 1);
        deliver(t);
        tightenBy(0, setFrozen(address(0), true));
        tightenBy(2, callEscrow(disputeCall(t, "evidence")));
        assertEq(uint256(stateOf(t).status), uint256(Status.Disputed));
    }

    function test_quorum_alone_releases_even_frozen() public {
        Terms memory t = terms();
        open(t, 1);
        tightenBy(0, setFrozen(agent, true));
        submit(callEscrow(captureCall(t, none(), AMOUNT)));
        assertEq(usdc.balanceOf(worker), AMOUNT);
    }

    /* DEPLOYMENT */

    function test_escrow_of_another_token_is_refused() public {
        address other = deployCode("WorkEscrow.sol:WorkEscrow", abi.encode(address(wallet)));
        bytes memory code = bytes.concat(
            vm.getCode("PolicyWallet.sol:PolicyWallet"),
            abi.encode(usdc, other, address(0), operatorSet(), 2, DELAY, baseChanges())
        );
        vm.expectRevert(IPolicyWallet.InvalidChange.selector);
        this.create(code);
    }

    function test_a_wallet_without_an_escrow_opens_none() public {
        wallet = IPolicyWallet(
            deployCode(
                "PolicyWallet.sol:PolicyWallet",
                abi.encode(usdc, address(0), address(0), operatorSet(), 2, DELAY, baseChanges())
            )
        );
        fund(address(wallet), FUNDS);
        (door, escrow) = (IEscrowPayer(address(wallet)), IWorkEscrow(address(0)));
        Terms memory t = terms();
        t.payee = shop;
        EscrowOpening memory o = opening(t, 1);
        (bytes32 r, bytes32 vs) = compact(agentKey, openingDigest(o));
        vm.expectRevert();
        door.openEscrow(o, none(), r, vs, "");
        assertEq(usdc.allowance(address(wallet), address(0)), 0);
    }

    function create(bytes memory code) external {
        assembly {
            if iszero(create(0, add(code, 0x20), mload(code))) {
                returndatacopy(0, 0, returndatasize())
                revert(0, returndatasize())
            }
        }
    }
}
