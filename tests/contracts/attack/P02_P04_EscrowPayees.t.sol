// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {IPolicyChanges, IPolicyWallet} from "contracts/interfaces/IPolicyWallet.sol";
import {BY_ARBITER, EscrowOpening, IWorkEscrow, Payout, Terms} from "contracts/interfaces/IWorkEscrow.sol";
import {DoorStage} from "./DoorStage.sol";

/// @dev P2: no allowance outlives an opening. P3: many escrows to one payee are counted by payee. P4: registry and caps
/// look at who is paid in the end, never at the escrow's address.
contract P02_P04_EscrowPayees is DoorStage {
    /* P2 */

    function test_no_allowance_after_opening_release_and_refusal() public {
        Terms memory t = terms();
        open(t, 1);
        assertEq(usdc.allowance(address(wallet), address(escrow)), 0);
        release(t, AMOUNT);
        assertEq(usdc.allowance(address(wallet), address(escrow)), 0);
        // The escrow refuses in the middle of it: nothing stays, neither allowance nor counters nor nonce.
        (uint256 day,,,) = wallet.room(agent);
        Terms memory late = numbered(1);
        late.submitBy = uint40(block.timestamp);
        refusedToOpen(late, abi.encodeWithSelector(IWorkEscrow.InvalidTerms.selector, 4));
        refusedToOpen(opening(t, 2), none(), abi.encodeWithSelector(IWorkEscrow.AlreadyAuthorized.selector, idOf(t)));
        (uint256 after_,,,) = wallet.room(agent);
        assertEq(after_, day);
    }

    /// @dev Nobody pulls from the wallet through the escrow, whatever terms they bring.
    function test_outsider_cannot_fund_from_the_wallet() public {
        vm.startPrank(stranger);
        vm.expectRevert(abi.encodeWithSelector(IWorkEscrow.NotPayer.selector, stranger));
        escrow.authorize(terms(), none());
        vm.expectRevert(IWorkEscrow.TokenCollectionFailed.selector);
        escrow.authorizeWithAuthorization(terms(), none(), 0, FAR, "");
    }

    /// @dev Even the quorum's call into the escrow moves no money out of the wallet.
    function test_quorum_cannot_fund_or_refund_past_the_door() public {
        Terms memory t = terms();
        _refusedSubmit(abi.encodeCall(IWorkEscrow.authorize, (t, none())), IWorkEscrow.TokenCollectionFailed.selector);
        open(t, 1);
        release(t, AMOUNT);
        _refusedSubmit(abi.encodeCall(IWorkEscrow.refund, (t, AMOUNT)), IWorkEscrow.TokenCollectionFailed.selector);
    }

    function _refusedSubmit(bytes memory call, bytes4 why) private {
        bytes memory change = callEscrow(call);
        bytes memory quorum = quorumFor(changeDigest(address(wallet), change, 500, FAR));
        vm.expectRevert(why);
        wallet.submit(change, 500, FAR, quorum);
    }

    /* P3 */

    function test_many_escrows_share_the_windows_and_the_payee_s_cap() public {
        enact(setPayee(worker, capped(3 * AMOUNT)));
        for (uint96 i; i < 3; ++i) {
            open(numbered(i), i);
        }
        refusedToOpen(numbered(3), why2(IPolicyWallet.PayeeCapExceeded.selector, AMOUNT, 0));
        refused(payment(worker, 1, 98), why2(IPolicyWallet.PayeeCapExceeded.selector, 1, 0));
        enact(setPayee(worker, payee()));
        (uint256 day,,,) = wallet.room(agent);
        for (uint96 i = 3; day >= AMOUNT; ++i) {
            open(numbered(i), i);
            day -= AMOUNT;
        }
        refusedToOpen(numbered(90), why2(IPolicyWallet.DayCapExceeded.selector, AMOUNT, 0));
    }

    /// @dev The same account as payee and as payouts: each share is counted on top of the others.
    function test_a_payee_that_repeats_is_counted_each_time() public {
        enact(setPayee(worker, capped(AMOUNT)));
        Payout[] memory list = shares(worker, 3_000, worker, 3_000);
        Terms memory t = with(terms(), list);
        open(opening(t, 1), list);
        (, uint256 spent,) = wallet.payeeLimits(worker);
        assertEq(spent, AMOUNT);

        enact(setPayee(shop, capped(AMOUNT / 2)));
        list = shares(shop, 3_000, shop, 3_000);
        t = with(numbered(1), list);
        uint256 share = uint256(AMOUNT) * 3 / 10;
        refusedToOpen(opening(t, 2), list, why2(IPolicyWallet.PayeeCapExceeded.selector, share, AMOUNT / 2 - share));
    }

    function test_cooldown_refuses_the_second_of_one_escrow_and_the_next_one() public {
        enact(setPayee(worker, slow(1 hours)));
        Payout[] memory list = shares(worker, 5_000, shop, 1_000);
        uint256 until = block.timestamp + 1 hours;
        refusedToOpen(
            opening(with(terms(), list), 1),
            list,
            why2(IPolicyWallet.PayeeCoolingDown.selector, uint256(AMOUNT) - AMOUNT / 2 - AMOUNT / 10, until)
        );
        open(terms(), 1);
        refusedToOpen(numbered(1), why2(IPolicyWallet.PayeeCoolingDown.selector, AMOUNT, until));
    }

    function testFuzz_every_limit_counts_the_same_as_a_payment(uint64 amount) public {
        amount = uint64(bound(amount, 1, 2 * DAY_CAP));
        (bytes4 reason, uint256 left) = wallet.check(agent, worker, amount, 0);
        Terms memory t = sized(terms(), amount);
        if (reason != 0) return refusedToOpen(t, why2(reason, amount, left));
        open(t, 1);
        (uint256 day,,,) = wallet.room(agent);
        assertEq(day, DAY_CAP - amount);
    }

    /// @dev Whatever the cut: what each registered payee is booked with is what it has after a full capture, and the
    /// agent is booked with the sum.
    function testFuzz_booked_by_share(uint64 amount, uint16 a, uint16 b) public {
        amount = uint64(bound(amount, 1, CEILING));
        a = uint16(bound(a, 0, 10_000));
        b = uint16(bound(b, 0, 10_000 - a));
        enact(setPayee(shop, capped(CEILING)));
        enact(setPayee(cafe, capped(CEILING)));
        enact(setPayee(worker, capped(CEILING)));
        Payout[] memory list = shares(shop, a, cafe, b);
        Terms memory t = with(sized(terms(), amount), list);
        open(opening(t, 1), list);
        step(agent, captureCall(t, list, amount), releaseDigest(agent, t, amount), "");
        address[3] memory all = [shop, cafe, worker];
        for (uint256 i; i < 3; ++i) {
            (, uint256 spent,) = wallet.payeeLimits(all[i]);
            assertEq(spent, usdc.balanceOf(all[i]));
        }
        (uint256 day,,,) = wallet.room(agent);
        assertEq(day, DAY_CAP - amount);
    }

    /* P4 */

    function test_an_unregistered_payee_or_payout_is_refused() public {
        Terms memory t = terms();
        t.payee = stranger;
        refusedToOpen(t, why2(IPolicyWallet.PayeeNotAllowed.selector, AMOUNT, 0));
        Payout[] memory list = shares(shop, 1_000, stranger, 1_000);
        refusedToOpen(
            opening(with(terms(), list), 1), list, why2(IPolicyWallet.PayeeNotAllowed.selector, AMOUNT / 10, 0)
        );
        // Past the ceiling is not past the registry.
        refusedToOpen(
            approvedOpening(sized(t, uint64(2 * CEILING)), 1, 1),
            none(),
            why2(IPolicyWallet.PayeeNotAllowed.selector, 2 * CEILING, 0)
        );
    }

    function test_the_list_that_was_judged_is_the_list_that_is_paid() public {
        Payout[] memory signed_ = shares(shop, 1_000, cafe, 1_000);
        Payout[] memory other = shares(shop, 1_000, cafe, 9_000);
        Terms memory t = with(terms(), signed_);
        bytes memory why = abi.encodeWithSelector(IWorkEscrow.InvalidTerms.selector, 13);
        refusedToOpen(opening(t, 1), other, why);
        refusedToOpen(opening(t, 1), none(), why);
    }

    /// @dev The escrow, the wallet, the token and the agent are paid by no one's leave.
    function test_reserved_receivers() public {
        address[4] memory reserved = [address(escrow), address(wallet), address(usdc), agent];
        for (uint256 i; i < 4; ++i) {
            Terms memory t = terms();
            t.payee = reserved[i];
            refusedToOpen(approvedOpening(t, 1, 15), none(), why2(IPolicyWallet.PayeeNotAllowed.selector, AMOUNT, 0));
            Payout[] memory list = shares(reserved[i], 5_000, shop, 1);
            refusedToOpen(
                approvedOpening(with(terms(), list), 1, 15),
                list,
                why2(IPolicyWallet.PayeeNotAllowed.selector, AMOUNT / 2, 0)
            );
        }
    }

    /// @dev The escrow itself is no payee, agent or target of a withdrawal.
    function test_the_escrow_is_a_reserved_address() public {
        bytes[3] memory changes = [
            setPayee(address(escrow), payee()),
            setAgent(address(escrow), limits()),
            abi.encodeCall(IPolicyChanges.withdraw, (address(escrow), 1))
        ];
        for (uint256 i; i < 3; ++i) {
            bytes memory quorum = quorumFor(changeDigest(address(wallet), changes[i], 600 + i, FAR));
            if (wallet.delayOf(bytes4(changes[i])) == 0) vm.expectRevert(IPolicyWallet.InvalidChange.selector);
            wallet.submit(changes[i], 600 + i, FAR, quorum);
            uint256 ready = wallet.readyAt(changes[i]);
            if (ready == 0) continue;
            vm.warp(ready);
            vm.expectRevert(IPolicyWallet.InvalidChange.selector);
            wallet.execute(changes[i]);
        }
        refused(payment(address(escrow), 1, 1), why2(IPolicyWallet.PayeeNotAllowed.selector, 1, 0));
    }

    /* P6: the agent makes itself a party */

    function test_the_agent_is_no_arbiter_of_its_own_escrow() public {
        Terms memory t = terms();
        t.arbiter = agent;
        refusedToOpen(t, abi.encodeWithSelector(IPolicyWallet.RoleConflict.selector, agent));
        t.anyOf = BY_ARBITER;
        EscrowOpening memory o = approvedOpening(t, 1, 15);
        refusedToOpen(o, none(), abi.encodeWithSelector(IPolicyWallet.RoleConflict.selector, agent));
    }
}
