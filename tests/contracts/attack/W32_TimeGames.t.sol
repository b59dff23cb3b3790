// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {IPolicyWallet} from "contracts/interfaces/IPolicyWallet.sol";
import {Stage} from "./Stage.sol";

/// @dev W32. A proposer that shifts its clock by 12 seconds either way, and sequencers whose blocks share a timestamp.
contract W32_TimeGames is Stage {
    uint256 private constant DRIFT = 12;

    function test_blocks_with_one_timestamp_share_the_window() public {
        for (uint256 i; i < 10; ++i) {
            vm.roll(block.number + 1); // a new block, the same second
            paySome(shop, CEILING, i);
        }
        vm.roll(block.number + 1);
        refused(payment(shop, 1, 10), why2(IPolicyWallet.DayCapExceeded.selector, 1, 0));
    }

    /// @dev The first payment stamped too early, the second too late: true time between the two full caps is never
    /// below 24 hours minus the two drifts.
    function test_drift_moves_the_bound_by_the_drift_and_no_more(uint256 offset) public {
        uint256 paidAt = (START / 6 hours + 1) * 6 hours + offset % 6 hours;
        vm.warp(paidAt - DRIFT);
        for (uint256 i; i < 10; ++i) {
            paySome(shop, CEILING, i);
        }
        vm.warp(paidAt + 24 hours - 2 * DRIFT);
        refused(payment(shop, 1, 10), why2(IPolicyWallet.DayCapExceeded.selector, 1, 0));
        vm.warp(paidAt - DRIFT + 24 hours);
        refused(payment(shop, 1, 10), why2(IPolicyWallet.DayCapExceeded.selector, 1, 0));
    }

    function test_drift_shortens_no_timelock_beyond_itself() public {
        bytes memory change = setPayee(stranger, payee());
        vm.warp(START - DRIFT);
        submit(change);
        vm.warp(START + DELAY - DRIFT - 1);
        vm.expectPartialRevert(IPolicyWallet.NotReady.selector);
        wallet.execute(change);
        vm.warp(START + DELAY - DRIFT);
        wallet.execute(change);
    }
}
