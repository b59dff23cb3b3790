// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {DoorHandler} from "./DoorHandler.sol";
import {DevUSDC} from "contracts/DevUSDC.sol";
import {IPolicyWallet} from "contracts/interfaces/IPolicyWallet.sol";
import {IWorkEscrow, State, Terms} from "contracts/interfaces/IWorkEscrow.sol";
import {Test} from "forge-std/Test.sol";

/// @dev I20, I21, I23, I25, I26, I29 over wallet and escrow together, money in escrow included.
contract EscrowDoorInvariants is Test {
    DoorHandler private handler;
    IPolicyWallet private wallet;
    IWorkEscrow private escrow;
    DevUSDC private usdc;
    uint256 private funds;

    function setUp() public {
        handler = new DoorHandler();
        handler.setUp();
        (wallet, escrow, usdc) = handler.parties();
        funds = usdc.balanceOf(address(wallet));
        targetContract(address(handler));
        bytes4[] memory steps = new bytes4[](10);
        steps[0] = DoorHandler.openOne.selector;
        steps[1] = DoorHandler.openOne.selector;
        steps[2] = DoorHandler.payOne.selector;
        steps[3] = DoorHandler.releaseOne.selector;
        steps[4] = DoorHandler.disputeOne.selector;
        steps[5] = DoorHandler.deliverOne.selector;
        steps[6] = DoorHandler.endOne.selector;
        steps[7] = DoorHandler.endOne.selector;
        steps[8] = DoorHandler.freeze.selector;
        steps[9] = DoorHandler.pass.selector;
        targetSelector(FuzzSelector(address(handler), steps));
    }

    function invariant_money_is_where_the_books_say() public view {
        uint256 in_;
        uint256 back;
        uint256 held;
        for (uint256 i; i < handler.count(); ++i) {
            (Terms memory t, State memory s) = handler.opened(i);
            in_ += t.amount;
            back += s.refunded;
            held += t.amount - s.captured - s.refunded;
        }
        assertEq(usdc.balanceOf(address(wallet)), funds - handler.paid() - in_ + back, "wallet");
        assertEq(usdc.balanceOf(address(escrow)), held, "escrow");
        assertEq(usdc.allowance(address(wallet), address(escrow)), 0, "allowance");
        assertEq(usdc.allowance(address(wallet), address(handler)), 0, "allowance of another");
    }

    function invariant_payees_have_no_more_than_was_counted_for_them() public view {
        address[4] memory all = handler.receivers();
        for (uint256 i; i < 4; ++i) {
            assertLe(usdc.balanceOf(all[i]), handler.booked(all[i]), "paid beyond what was counted");
        }
        assertLe(handler.booked(all[0]), handler.WORKER_CAP(), "the worker's cap");
        (, uint256 spent,) = wallet.payeeLimits(all[0]);
        assertEq(spent, handler.booked(all[0]), "the worker's counter");
        assertEq(usdc.balanceOf(all[3]), 0, "never registered, and paid");
    }

    /// @dev The campaign is not about nothing.
    function test_the_steps_do_something() public {
        for (uint256 i; i < 40; ++i) {
            handler.openOne(uint256(keccak256(abi.encode("open", i))));
            handler.deliverOne(i);
            handler.releaseOne(i, uint64(i * 1e5));
            handler.endOne(uint256(keccak256(abi.encode("end", i))), uint64(i * 1e5));
        }
        uint256 captured;
        uint256 refunded;
        for (uint256 i; i < handler.count(); ++i) {
            (, State memory s) = handler.opened(i);
            if (s.captured != 0) ++captured;
            if (s.refunded != 0) ++refunded;
        }
        assertGt(handler.count(), 5, "opened");
        assertGt(captured, 1, "captured");
        assertGt(refunded, 1, "refunded");
    }

    function afterInvariant() public {
        handler.checkWindows();
        handler.endAll();
        assertEq(usdc.balanceOf(address(escrow)), 0, "left in the escrow while all is frozen");
        invariant_money_is_where_the_books_say();
    }
}
