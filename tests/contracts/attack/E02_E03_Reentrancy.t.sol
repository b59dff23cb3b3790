// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {EscrowStage} from "./EscrowStage.sol";
import {OddToken} from "./OddToken.sol";
import {IWorkEscrow, Status, Terms} from "contracts/interfaces/IWorkEscrow.sol";

/// @dev The token calls back while the escrow collects (E2) or pays (E3), with everything it needs to be believed. It
/// is the payer too, so that it may fund.
abstract contract Reentrancy is EscrowStage {
    OddToken internal odd;

    function setUp() public override {
        super.setUp();
        odd = new OddToken();
        escrow = deploy(address(odd));
        payer = address(odd);
        odd.mint(payer, 100 * AMOUNT);
    }

    /// @dev Every function that writes, with arguments that would pass at `status`.
    function _calls(Terms memory t, Terms memory other) internal view returns (bytes[] memory calls) {
        calls = new bytes[](11);
        calls[0] = abi.encodeCall(IWorkEscrow.authorize, (other, none()));
        calls[1] = abi.encodeCall(IWorkEscrow.authorizeWithAuthorization, (other, none(), 0, FAR, ""));
        calls[2] = abi.encodeCall(IWorkEscrow.submit, (t, DELIVERABLE, FAR, signed(payeeKey, submitHash(t, FAR))));
        calls[3] = abi.encodeCall(IWorkEscrow.capture, (t, none(), AMOUNT, byArbiter(t, AMOUNT)));
        calls[4] = abi.encodeCall(IWorkEscrow.void, (t, FAR, signed(payeeKey, voidHash(t, FAR))));
        calls[5] = abi.encodeCall(IWorkEscrow.dispute, (t, payer, "", FAR, ""));
        calls[6] = abi.encodeCall(
            IWorkEscrow.award, (t, none(), AMOUNT, 0, "", FAR, signed(arbiterKey, awardHash(t, AMOUNT, 0, "", FAR)))
        );
        calls[7] = abi.encodeCall(IWorkEscrow.finalize, (t, none()));
        calls[8] = abi.encodeCall(IWorkEscrow.reclaim, (t));
        calls[9] = abi.encodeCall(IWorkEscrow.refund, (t, 1));
        calls[10] = abi.encodeCall(IWorkEscrow.refundWithAuthorization, (t, payee, 1, 0, FAR, ""));
    }

    function _refusedInside() internal view {
        assertTrue(odd.called());
        assertFalse(odd.calledBackFine());
        assertEq(odd.answer(), abi.encodeWithSelector(IWorkEscrow.Reentrancy.selector));
    }
}

contract E02_ReentrantFunding is Reentrancy {
    function test_one_inflow_is_counted_once() public {
        bytes[] memory calls = _calls(terms(), salted(100));
        for (uint256 i; i < calls.length; ++i) {
            Terms memory t = salted(i);
            odd.callBack(address(escrow), calls[i]);
            open(t);
            _refusedInside();
            assertState(t, Status.Funded, 0, 0);
            assertState(salted(100), Status.None, 0, 0);
            assertEq(odd.balanceOf(address(escrow)), (i + 1) * AMOUNT);
        }
    }

    function test_nor_through_an_authorization() public {
        odd.callBack(address(escrow), abi.encodeCall(IWorkEscrow.authorize, (salted(1), none())));
        escrow.authorizeWithAuthorization(terms(), none(), 0, FAR, "");
        _refusedInside();
        assertEq(odd.balanceOf(address(escrow)), AMOUNT);
    }

    /// @dev A donation in the middle is no deposit either: the amount does not add up.
    function test_a_donation_inside() public {
        odd.mint(address(odd), 1);
        odd.callBack(address(odd), abi.encodeCall(OddToken.transfer, (address(escrow), 1)));
        vm.expectRevert(IWorkEscrow.TokenCollectionFailed.selector);
        open(terms());
    }
}

contract E03_ReentrantPayout is Reentrancy {
    function test_one_payout_from_a_capture() public {
        open(salted(1_000)); // money of another, to be had
        bytes[] memory calls = _calls(terms(), salted(100));
        for (uint256 i; i < calls.length; ++i) {
            Terms memory t = salted(i);
            open(t);
            deliver(t);
            odd.callBack(address(escrow), _calls(t, salted(100))[i]);
            capture(t, 60e6);
            _refusedInside();
            assertState(t, Status.Submitted, 60e6, 0);
            assertEq(odd.balanceOf(payee), 60e6 * (i + 1));
        }
    }

    function test_one_refund_from_a_reclaim() public {
        Terms memory t = opened(terms());
        open(salted(1));
        vm.warp(SUBMIT_BY + 1);
        odd.callBack(address(escrow), abi.encodeCall(IWorkEscrow.reclaim, (t)));
        escrow.reclaim(t);
        _refusedInside();
        assertEq(odd.balanceOf(address(escrow)), AMOUNT);
    }

    /// @dev The money of a return is here for a moment: nobody can take it on the way.
    function test_one_return_from_an_authorization() public {
        open(salted(1_000));
        for (uint256 i; i < 11; ++i) {
            Terms memory t = salted(i);
            open(t);
            capture(t, 60e6);
            odd.callBack(address(escrow), _calls(t, salted(100))[i]);
            escrow.refundWithAuthorization(t, payee, 20e6, 0, FAR, "");
            _refusedInside();
            assertEq(stateOf(t).returned, 20e6);
            assertEq(odd.balanceOf(payee), 40e6 * (i + 1));
            assertEq(odd.balanceOf(address(escrow)), AMOUNT + 40e6 * (i + 1));
        }
    }

    function test_one_end_from_an_award() public {
        Terms memory t = opened(terms());
        open(salted(1));
        deliver(t);
        vm.prank(payer);
        escrow.dispute(t, payer, "", 0, "");
        odd.callBack(address(escrow), abi.encodeCall(IWorkEscrow.finalize, (t, none())));
        award(t, 40e6);
        _refusedInside();
        assertEq(odd.balanceOf(address(escrow)), AMOUNT);
    }

    /// @dev A credit is paid once, and the one who is paid cannot come back for more.
    function test_one_payment_of_a_credit() public {
        Terms memory t = delivered(terms());
        open(salted(1));
        odd.behaveFor(payee, OddToken.Way.Reverts);
        capture(t, AMOUNT);
        assertEq(escrow.owed(payee), AMOUNT);
        odd.behaveFor(payee, OddToken.Way.Good);
        odd.callBack(address(escrow), abi.encodeCall(IWorkEscrow.withdraw, (payee)));
        escrow.withdraw(payee);
        _refusedInside();
        assertEq(odd.balanceOf(payee), AMOUNT);
        assertEq(odd.balanceOf(address(escrow)), AMOUNT);
    }
}
