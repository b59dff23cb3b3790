// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {EscrowStage} from "./EscrowStage.sol";
import {BY_ARBITER, BY_PAYER, IWorkEscrow, Proof, Status, Terms} from "contracts/interfaces/IWorkEscrow.sol";

/// @dev E8. One attestation, used again: in the same escrow, in another of the same parties, on another chain, in another
/// deployment.
contract E08_Replay is EscrowStage {
    function test_the_same_escrow_twice() public {
        Terms memory t = opened(terms());
        Proof memory p = byArbiter(t, 40e6);
        escrow.capture(t, none(), 40e6, p);
        vm.expectRevert(why2(IWorkEscrow.NotIncreasing.selector, 40e6, 40e6));
        escrow.capture(t, none(), 40e6, p);
    }

    function test_another_escrow_of_the_same_parties() public {
        Terms memory a = disputed(terms());
        Terms memory b = disputed(salted(1));
        Terms memory c = opened(salted(2));
        bytes memory awarded = signed(arbiterKey, awardHash(a, AMOUNT, 0, 0, FAR));
        badSignature(BY_ARBITER);
        escrow.award(b, none(), AMOUNT, 0, 0, FAR, awarded);
        Proof memory p = byArbiter(a, AMOUNT);
        badSignature(BY_ARBITER);
        escrow.capture(c, none(), AMOUNT, p);
        bytes memory given = signed(payeeKey, voidHash(a, FAR));
        badSignature(0);
        escrow.void(c, FAR, given);
        bytes memory work = signed(payeeKey, submitHash(a, FAR));
        badSignature(0);
        escrow.submit(c, DELIVERABLE, FAR, work);
        deliver(c);
        bytes memory complaint = signed(payerKey, disputeHash(a, "evidence", FAR));
        badSignature(BY_PAYER);
        escrow.dispute(c, payer, "evidence", FAR, complaint);
    }

    /// @dev Each field of the terms is in the id, so terms that differ anywhere are another escrow.
    function test_every_field_is_in_the_id() public view {
        Terms memory t = terms();
        bytes32 id = escrow.getEscrowId(t);
        assertEq(id, idOf(t));
        bytes memory words = abi.encode(t);
        assertEq(words.length, 16 * 32);
        for (uint256 i; i < 16; ++i) {
            bytes memory changed = abi.encode(t);
            changed[32 * i + 31] ^= 0x01;
            Terms memory other = abi.decode(changed, (Terms));
            assertNotEq(escrow.getEscrowId(other), id, vm.toString(i));
            assertEq(escrow.getEscrowId(other), idOf(other), vm.toString(i));
        }
    }

    function test_another_chain() public {
        Terms memory t = opened(terms());
        Proof memory p = byArbiter(t, AMOUNT);
        vm.chainId(8453);
        // There the same terms have another id; funded there as well, this chain's word counts for nothing.
        open(t);
        badSignature(BY_ARBITER);
        escrow.capture(t, none(), AMOUNT, p);
    }

    function test_another_deployment() public {
        Terms memory t = opened(terms());
        Proof memory p = byArbiter(t, AMOUNT);
        escrow = deploy(address(usdc));
        vm.prank(payer);
        usdc.approve(address(escrow), AMOUNT);
        open(t);
        badSignature(BY_ARBITER);
        escrow.capture(t, none(), AMOUNT, p);
    }
}

/// @dev E9. A word of one meaning, used with another: each has a type of its own.
contract E09_OtherTypes is EscrowStage {
    function test_no_digest_serves_twice() public view {
        Terms memory t = terms();
        bytes32 id = idOf(t);
        bytes32[6] memory all = [
            escrow.releaseDigest(id, 5, FAR),
            escrow.submitDigest(id, bytes32(uint256(5)), FAR),
            escrow.voidDigest(id, FAR),
            escrow.disputeDigest(id, bytes32(uint256(5)), FAR),
            escrow.awardDigest(id, 5, 0, 0, FAR),
            authorizationHash(payer, address(escrow), AMOUNT, id)
        ];
        for (uint256 i; i < all.length; ++i) {
            assertNotEq(all[i], id);
            for (uint256 j; j < i; ++j) {
                assertNotEq(all[i], all[j]);
            }
        }
        assertEq(all[0], releaseHash(t, 5, FAR));
        assertEq(all[2], voidHash(t, FAR));
        assertEq(all[4], awardHash(t, 5, 0, 0, FAR));
        assertEq(escrow.submitDigest(id, DELIVERABLE, FAR), submitHash(t, FAR));
        assertEq(escrow.disputeDigest(id, "e", FAR), disputeHash(t, "e", FAR));
    }

    function test_a_release_is_no_award() public {
        Terms memory t = disputed(terms());
        bytes memory release = signed(arbiterKey, releaseHash(t, AMOUNT, FAR));
        badSignature(BY_ARBITER);
        escrow.award(t, none(), AMOUNT, 0, 0, FAR, release);
    }

    function test_an_award_is_no_release() public {
        Terms memory t = delivered(terms());
        Proof memory p = byArbiter(t, AMOUNT);
        p.arbiterSignature = signed(arbiterKey, awardHash(t, AMOUNT, 0, 0, FAR));
        badSignature(BY_ARBITER);
        escrow.capture(t, none(), AMOUNT, p);
    }

    function test_a_submission_is_no_dispute_and_no_void() public {
        Terms memory t = opened(terms());
        bytes memory work = signed(payeeKey, submitHash(t, FAR));
        badSignature(0);
        escrow.void(t, FAR, work);
        deliver(t);
        badSignature(0);
        escrow.dispute(t, payee, DELIVERABLE, FAR, work);
    }

    /// @dev The payer's funding authorization releases nothing, and its release funds nothing.
    function test_an_authorization_is_no_release() public {
        Terms memory t = terms();
        bytes memory funding = authorization(t);
        bytes memory release = signed(payerKey, releaseHash(t, AMOUNT, FAR));
        vm.expectRevert(IWorkEscrow.TokenCollectionFailed.selector);
        escrow.authorizeWithAuthorization(t, none(), 0, FAR, release);
        escrow.authorizeWithAuthorization(t, none(), 0, FAR, funding);
        Proof memory p = byPayer(t, AMOUNT);
        p.payerSignature = funding;
        badSignature(BY_PAYER);
        escrow.capture(t, none(), AMOUNT, p);
        assertState(t, Status.Funded, 0, 0);
    }

    /// @dev The payer's word is not the arbiter's, nor the payee's anyone's.
    function test_another_role() public {
        Terms memory t = opened(terms());
        bytes memory word = signed(payerKey, releaseHash(t, AMOUNT, FAR));
        Proof memory p = byArbiter(t, AMOUNT);
        p.arbiterSignature = word;
        badSignature(BY_ARBITER);
        escrow.capture(t, none(), AMOUNT, p);
        p = byPayer(t, AMOUNT);
        p.payerSignature = signed(payeeKey, releaseHash(t, AMOUNT, FAR));
        badSignature(BY_PAYER);
        escrow.capture(t, none(), AMOUNT, p);
        vm.prank(payee);
        badSignature(BY_PAYER);
        escrow.capture(t, none(), AMOUNT, p);
    }
}
