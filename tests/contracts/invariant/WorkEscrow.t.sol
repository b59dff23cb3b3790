// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {EscrowHandler} from "./EscrowHandler.sol";
import {EscrowLedger} from "./EscrowLedger.sol";
import {DevUSDC} from "contracts/DevUSDC.sol";
import {IWorkEscrow, State, Status} from "contracts/interfaces/IWorkEscrow.sol";
import {Test} from "forge-std/Test.sol";

/// @dev What holds after every step of a campaign (I1, I4, I7, I8, I10), and at its end (I9). That each step ends as the
/// ledger predicts (I6, I11), and that each escrow is as the ledger has it (I2, I3, I5), is the handler's to check.
contract WorkEscrowTest is Test {
    EscrowHandler private handler;
    EscrowLedger private ledger;
    IWorkEscrow private escrow;
    DevUSDC private usdc;
    address[] private accounts;

    function setUp() public {
        handler = new EscrowHandler();
        handler.setUp();
        ledger = handler.ledger();
        (escrow, usdc, accounts) = handler.parties();
        bytes4[] memory steps = new bytes4[](14);
        steps[0] = EscrowHandler.fund.selector;
        steps[1] = EscrowHandler.submit.selector;
        steps[2] = EscrowHandler.capture.selector;
        steps[3] = EscrowHandler.void.selector;
        steps[4] = EscrowHandler.dispute.selector;
        steps[5] = EscrowHandler.award.selector;
        steps[6] = EscrowHandler.finalize.selector;
        steps[7] = EscrowHandler.reclaim.selector;
        steps[8] = EscrowHandler.refund.selector;
        steps[9] = EscrowHandler.withdraw.selector;
        steps[10] = EscrowHandler.blockAccount.selector;
        steps[11] = EscrowHandler.flip.selector;
        steps[12] = EscrowHandler.donate.selector;
        steps[13] = EscrowHandler.pass.selector;
        targetContract(address(handler));
        targetSelector(FuzzSelector(address(handler), steps));
    }

    /// forge-config: default.invariant.runs = 24
    /// forge-config: default.invariant.depth = 100
    /// forge-config: ci.invariant.runs = 150
    /// forge-config: ci.invariant.depth = 150
    function invariant_money_adds_up() public view {
        uint256 credits;
        for (uint256 i; i < accounts.length; ++i) {
            address account = accounts[i];
            credits += ledger.owed(account);
            assertEq(escrow.owed(account), ledger.owed(account), "credit");
            if (account == address(escrow)) continue;
            assertEq(usdc.balanceOf(account), ledger.due(account), "what an account has");
        }
        uint256 donated = ledger.start(address(escrow));
        assertEq(usdc.balanceOf(address(escrow)), ledger.held() + credits + donated, "what the escrow has");
        State memory unknown = escrow.getState("unknown");
        assertEq(keccak256(abi.encode(unknown)), keccak256(abi.encode(State(0, 0, 0, 0, Status.None))));
    }

    function afterInvariant() public {
        handler.endAll();
        assertEq(ledger.held(), 0, "all of it has left");
        assertEq(handler.ended(), ledger.length(), "each ended once");
        invariant_money_adds_up();
    }
}
