// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {DevUSDC} from "contracts/DevUSDC.sol";
import {EscrowStage} from "./EscrowStage.sol";
import {IWorkEscrow, Proof, Status, Terms} from "contracts/interfaces/IWorkEscrow.sol";

/// @dev E10. Money given back after a payout does not lower what was captured: an old word over a total stays used.
contract E10_RefundRevivesNothing is EscrowStage {
    function setUp() public override {
        super.setUp();
        vm.prank(payee);
        usdc.approve(address(escrow), type(uint256).max);
    }

    function test_an_old_release_pays_nothing_again() public {
        Terms memory t = delivered(terms());
        open(salted(1));
        Proof memory p = byArbiter(t, 60e6);
        escrow.capture(t, none(), 60e6, p);
        vm.prank(payee);
        escrow.refund(t, 60e6);
        assertEq(usdc.balanceOf(payee), 0);
        vm.expectRevert(why2(IWorkEscrow.NotIncreasing.selector, 60e6, 60e6));
        escrow.capture(t, none(), 60e6, p);
        assertState(t, Status.Submitted, 60e6, 0);
        capture(t, AMOUNT); // the rest, and not what came back
        assertEq(usdc.balanceOf(payee), 40e6);
        assertEq(held(), AMOUNT);
    }

    function test_at_most_what_was_captured_comes_back() public {
        Terms memory t = opened(terms());
        mint(payee, AMOUNT);
        vm.startPrank(payee);
        vm.expectRevert(why2(IWorkEscrow.ExceedsRemaining.selector, 1, 0));
        escrow.refund(t, 1);
        vm.stopPrank();
        capture(t, 10e6);
        vm.startPrank(payee);
        escrow.refund(t, 4e6);
        vm.expectRevert(why2(IWorkEscrow.NotIncreasing.selector, 4e6, 4e6));
        escrow.refund(t, 4e6);
        vm.expectRevert(why2(IWorkEscrow.ExceedsRemaining.selector, 6e6 + 1, 6e6));
        escrow.refund(t, 10e6 + 1);
        escrow.refund(t, 10e6);
        assertEq(stateOf(t).returned, 10e6);
    }

    /// @dev The payer cannot write a return into the state with its own money.
    function test_payer_returns_to_itself() public {
        Terms memory t = opened(terms());
        capture(t, 10e6);
        vm.prank(payer);
        vm.expectRevert(IWorkEscrow.TokenCollectionFailed.selector);
        escrow.refund(t, 1);
    }
}

/// @dev E10. A payee's authorization to give money back, in the hands of whoever sees it: it does this one step of this
/// one escrow, once, or nothing.
contract E10_SignedReturns is EscrowStage {
    Terms private t;
    Terms private u;

    function setUp() public override {
        super.setUp();
        t = opened(terms());
        u = opened(salted(1));
        capture(t, 60e6);
        capture(u, 60e6);
    }

    /// @dev Refused as a whole: no money moves, no state.
    function _refused(Terms memory where, address from, uint64 total, bytes memory signature) private {
        uint256[3] memory before = [usdc.balanceOf(payee), usdc.balanceOf(payer), held()];
        uint64 returned = stateOf(where).returned;
        vm.prank(stranger);
        vm.expectRevert(IWorkEscrow.TokenCollectionFailed.selector);
        escrow.refundWithAuthorization(where, from, total, 0, FAR, signature);
        assertEq(usdc.balanceOf(payee), before[0]);
        assertEq(usdc.balanceOf(payer), before[1]);
        assertEq(held(), before[2]);
        assertEq(stateOf(where).returned, returned);
    }

    function test_other_escrow_other_total_other_signer() public {
        bytes memory signature = returnOf(t, 20e6, 20e6);
        _refused(u, payee, 20e6, signature);
        _refused(t, payee, 19e6, signature);
        _refused(t, payee, 21e6, signature);
        _refused(t, stranger, 20e6, signature);
        _refused(t, payer, 20e6, signature);
        _refused(t, address(escrow), 20e6, signature);
        // More or less than the step, for the right total.
        _refused(t, payee, 20e6, returnOf(t, 20e6, 20e6 + 1));
        _refused(t, payee, 20e6, returnOf(t, 20e6, 20e6 - 1));
    }

    function test_once() public {
        bytes memory signature = returnOf(t, 20e6, 20e6);
        vm.prank(stranger);
        escrow.refundWithAuthorization(t, payee, 20e6, 0, FAR, signature);
        vm.expectRevert(why2(IWorkEscrow.NotIncreasing.selector, 20e6, 20e6));
        escrow.refundWithAuthorization(t, payee, 20e6, 0, FAR, signature);
        _refused(t, payee, 40e6, signature);
        _refused(u, payee, 20e6, signature);
        assertEq(usdc.balanceOf(payee), 100e6);
    }

    /// @dev A step in between kills it, and a new one over the same total still works.
    function test_overtaken() public {
        bytes memory old = returnOf(t, 20e6, 20e6);
        mint(stranger, 1);
        vm.startPrank(stranger);
        usdc.approve(address(escrow), 1);
        escrow.refund(t, 1);
        vm.stopPrank();
        _refused(t, payee, 20e6, old);
        escrow.refundWithAuthorization(t, payee, 20e6, 0, FAR, returnOf(t, 20e6, 20e6 - 1));
        assertEq(stateOf(t).returned, 20e6);
        assertEq(usdc.balanceOf(payee), 100e6 + 1);
    }

    /// @dev Nobody can bring the money here past the contract, where it would belong to no escrow.
    function test_not_by_the_token_itself() public {
        bytes32 nonce = keccak256(abi.encode(idOf(t), uint64(20e6)));
        bytes memory signature = returnOf(t, 20e6, 20e6);
        vm.prank(stranger);
        vm.expectRevert(abi.encodeWithSelector(DevUSDC.CallerNotPayee.selector, stranger, address(escrow)));
        usdc.receiveWithAuthorization(payee, address(escrow), 20e6, 0, FAR, nonce, signature);
        vm.prank(stranger);
        vm.expectRevert();
        usdc.transferWithAuthorization(payee, address(escrow), 20e6, 0, FAR, nonce, signature);
    }

    /// @dev What was signed to fund an escrow gives nothing back, and the other way round.
    function test_no_funding_is_a_return() public {
        Terms memory v = salted(2);
        v.amount = 20e6;
        v.payer = payee;
        v.payee = partner;
        bytes memory funding = signed(payeeKey, authorizationHash(payee, address(escrow), 20e6, idOf(v)));
        _refused(t, payee, 20e6, funding);
        bytes memory back = returnOf(t, 20e6, 20e6);
        vm.expectRevert(IWorkEscrow.TokenCollectionFailed.selector);
        escrow.authorizeWithAuthorization(v, none(), 0, FAR, back);
    }

    function test_bounds() public {
        vm.expectRevert(why2(IWorkEscrow.ExceedsRemaining.selector, 60e6 + 1, 60e6));
        escrow.refundWithAuthorization(t, payee, 60e6 + 1, 0, FAR, "");
        wrongStatus(Status.None, Status.Completed);
        escrow.refundWithAuthorization(salted(3), payee, 1, 0, FAR, "");
        vm.warp(FAR);
        _refused(t, payee, 20e6, returnOf(t, 20e6, 20e6));
    }

    function test_payer_returns_to_itself() public {
        bytes32 nonce = keccak256(abi.encode(idOf(t), uint64(20e6)));
        _refused(t, payer, 20e6, signed(payerKey, authorizationHash(payer, address(escrow), 20e6, nonce)));
    }

    function test_blocked_payee_or_payer() public {
        bytes memory signature = returnOf(t, 20e6, 20e6);
        address[2] memory blocked = [payee, payer];
        for (uint256 i; i < 2; ++i) {
            vm.prank(treasury);
            usdc.blacklist(blocked[i]);
            _refused(t, payee, 20e6, signature);
            assertEq(escrow.owed(blocked[i]), 0);
            vm.prank(treasury);
            usdc.unBlacklist(blocked[i]);
        }
        escrow.refundWithAuthorization(t, payee, 20e6, 0, FAR, signature);
        assertEq(usdc.balanceOf(payee), 100e6);
    }
}
