// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {IPolicyWallet, PayeeLimits} from "contracts/interfaces/IPolicyWallet.sol";
import {Stage} from "./Stage.sol";

/// @dev W10. A payee removed and added again is the same payee: its counters go on. One seller under two addresses
/// is two payees, which the documentation has to say.
contract W10_PayeeReadded is Stage {
    PayeeLimits private watched = PayeeLimits(1, uint48(100 * 1e6), 2 days);
    PayeeLimits private none = PayeeLimits(0, 0, type(uint32).max);

    function setUp() public override {
        super.setUp();
        bytes[] memory changes = baseChanges();
        changes[3] = setPayee(cafe, watched);
        wallet = deployFor(address(usdc), operatorSet(), 2, 0, changes);
        fund(address(wallet), FUNDS);
    }

    function test_removing_and_adding_keeps_spent_and_last_paid() public {
        paySome(cafe, 70 * USD, 0);
        tightenBy(0, setPayee(cafe, none));
        refused(payment(cafe, 1, 1), why2(IPolicyWallet.PayeeNotAllowed.selector, 1, 0));
        submit(setPayee(cafe, watched));
        refused(payment(cafe, 1, 1), why2(IPolicyWallet.PayeeCoolingDown.selector, 1, START + 2 days));
        vm.warp(START + 2 days);
        refused(payment(cafe, 31 * USD, 1), why2(IPolicyWallet.PayeeCapExceeded.selector, 31 * USD, 30 * USD));
        paySome(cafe, 30 * USD, 1);
    }

    /// @dev Also through a stretch without cap and cooldown, in which nothing has to be counted.
    function test_counters_are_not_reset_by_switching_them_off() public {
        paySome(cafe, 70 * USD, 0);
        submit(setPayee(cafe, payee()));
        submit(setPayee(cafe, watched));
        (, uint256 spent, uint256 lastPaid) = wallet.payeeLimits(cafe);
        assertEq(spent, 70 * USD);
        assertEq(lastPaid, START);
    }
}
