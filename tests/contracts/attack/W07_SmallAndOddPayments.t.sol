// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {IPolicyChanges, IPolicyWallet, PayeeLimits} from "contracts/interfaces/IPolicyWallet.sol";
import {Payment, Stage} from "./Stage.sol";

/// @dev W7. Many small payments instead of a large one; payments of nothing; payees that are no payees.
contract W07_SmallAndOddPayments is Stage {
    function test_splitting_a_payment_ends_at_the_cap() public {
        uint256 n = 200;
        for (uint256 i; i < n; ++i) {
            paySome(shop, DAY_CAP / n, i);
        }
        refused(payment(shop, DAY_CAP / n, n), why2(IPolicyWallet.DayCapExceeded.selector, DAY_CAP / n, 0));
        assertEq(usdc.balanceOf(shop), DAY_CAP);
    }

    function test_nothing_is_no_payment() public {
        refused(payment(shop, 0, 0), why2(IPolicyWallet.ZeroAmount.selector, 0, 0));
        vm.expectEmit(address(wallet));
        emit IPolicyWallet.ItemSkipped(agent, 0, 0, IPolicyWallet.ZeroAmount.selector, 0);
        wallet.payBatch(one(batchOf(agent, 0, pair(item(shop, 0), item(shop, 1)))));
        assertEq(usdc.balanceOf(shop), 1);
    }

    /// @dev Amount 0 once skipped the approval check elsewhere: it must not get past the signature either.
    function test_nothing_still_needs_a_signature() public {
        Payment memory p = payment(shop, 0, 0);
        (bytes32 r, bytes32 vs) = compact(agent2Key, digestOf(p));
        refusedWith(p, r, vs, abi.encodeWithSelector(IPolicyWallet.InvalidSignature.selector));
    }

    function test_reserved_payees_are_refused_by_every_door() public {
        address[4] memory reserved = [address(0), address(wallet), address(usdc), agent];
        for (uint256 i; i < 4; ++i) {
            bytes memory no = why2(IPolicyWallet.PayeeNotAllowed.selector, 5, 0);
            refused(payment(reserved[i], 5, 0), no);

            Payment memory p = payment(reserved[i], 5, 0);
            (, uint256 version,) = wallet.agentLimits(agent);
            bytes32 digest = approvedDigest(p, 15, version);
            (bytes32 r, bytes32 vs) = compact(agentKey, digest);
            bytes memory quorum = quorumFor(digest);
            vm.expectRevert(no);
            wallet.payApproved(agent, p.to, 5, 0, FAR, 0, 15, version, r, vs, quorum);

            vm.expectEmit(address(wallet));
            emit IPolicyWallet.ItemSkipped(agent, i + 1, 0, IPolicyWallet.PayeeNotAllowed.selector, 0);
            wallet.payBatch(one(batchOf(agent, i + 1, pair(item(reserved[i], 5), item(shop, 1)))));
        }
        assertEq(usdc.balanceOf(shop), 4);
        assertEq(usdc.balanceOf(address(wallet)), FUNDS - 4);
    }

    /// @dev The operators can't make one of them a payee by mistake, or the registration has no effect.
    function test_reserved_payees_stay_refused_when_registered() public {
        address[4] memory reserved = [address(0), address(wallet), address(usdc), agent];
        for (uint256 i; i < 4; ++i) {
            bytes memory change = setPayee(reserved[i], payee());
            submit(change);
            vm.warp(wallet.readyAt(change));
            try wallet.execute(change) {} catch {}
            refused(payment(reserved[i], 5, 0), why2(IPolicyWallet.PayeeNotAllowed.selector, 5, 0));
        }
    }

    function test_unregistered_and_removed_payees_get_nothing() public {
        refused(payment(stranger, 1, 0), why2(IPolicyWallet.PayeeNotAllowed.selector, 1, 0));
        tightenBy(0, abi.encodeCall(IPolicyChanges.setPayee, (cafe, _noPayee())));
        refused(payment(cafe, 1, 0), why2(IPolicyWallet.PayeeNotAllowed.selector, 1, 0));
    }

    function _noPayee() private pure returns (PayeeLimits memory) {
        return PayeeLimits(0, 0, type(uint32).max);
    }
}
