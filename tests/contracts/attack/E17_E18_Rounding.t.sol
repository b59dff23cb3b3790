// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {EscrowStage} from "./EscrowStage.sol";
import {
    BY_ARBITER,
    BY_CONDITION,
    BY_PREIMAGE,
    IWorkEscrow,
    Payout,
    Proof,
    Status,
    Terms
} from "contracts/interfaces/IWorkEscrow.sol";

/// @dev E17. Captures cut so small that each share would round to nothing, and shares that do not come out even.
contract E17_Rounding is EscrowStage {
    function _eight(uint16 bps) private returns (Payout[] memory list) {
        list = new Payout[](8);
        for (uint256 i; i < 8; ++i) {
            list[i] = Payout(makeAddr(string.concat("share ", vm.toString(i))), bps);
        }
    }

    /// @dev Unit by unit, everybody ends with what one capture of the total gives.
    function _unitByUnit(Payout[] memory list, uint64 amount) private {
        Terms memory t = with(terms(), list);
        t.amount = amount;
        open(t, list);
        for (uint64 total = 1; total <= amount; ++total) {
            capture(t, list, total);
        }
        (uint256[] memory shares, uint256 rest) = escrow.splitOf(list, amount);
        uint256 sum = rest;
        for (uint256 i; i < list.length; ++i) {
            assertEq(usdc.balanceOf(list[i].to), shares[i]);
            sum += shares[i];
        }
        assertEq(usdc.balanceOf(payee), rest);
        assertEq(sum, amount);
        assertEq(held(), 0);
        assertState(t, Status.Completed, amount, 0);
    }

    function test_a_small_fee_is_not_rounded_away() public {
        Payout[] memory list = new Payout[](1);
        list[0] = Payout(partner, 100); // 1 %
        _unitByUnit(list, 250);
        assertEq(usdc.balanceOf(partner), 2);
    }

    function test_one_unit_among_eight() public {
        _unitByUnit(_eight(1_000), 1);
        assertEq(usdc.balanceOf(payee), 1);
    }

    /// @dev Thirds, with nothing left for the payee: floors of the whole total would take back what they gave.
    function test_shares_of_everything() public {
        Payout[] memory list = new Payout[](3);
        list[0] = Payout(partner, 3_333);
        list[1] = Payout(partner2, 3_333);
        list[2] = Payout(stranger, 3_334);
        _unitByUnit(list, 61);
        assertEq(usdc.balanceOf(payee), 0);
    }

    function test_eight_equal_shares() public {
        _unitByUnit(_eight(1_250), 43);
        assertEq(usdc.balanceOf(payee), 0);
    }

    function test_shares_short_of_the_whole() public {
        _unitByUnit(pays(partner, 4_999, partner2, 1), 97);
    }
}

/// @dev E18. A stranger who knows the preimage, or finds the condition true, pays out dust to spoil the job: those
/// releases are all or nothing.
contract E18_Dust is EscrowStage {
    function test_a_preimage_releases_all_or_nothing() public {
        Terms memory t = opened(releasedBy(BY_PREIMAGE | BY_ARBITER, 0));
        uint64[3] memory totals = [uint64(1), 50e6, AMOUNT - 1];
        for (uint256 i; i < totals.length; ++i) {
            vm.prank(stranger);
            notReleased(0, t);
            escrow.capture(t, none(), totals[i], byPreimage(PREIMAGE));
        }
        capture(t, 30e6); // somebody's word may cut
        escrow.capture(t, none(), AMOUNT, byPreimage(PREIMAGE));
        assertEq(usdc.balanceOf(payee), AMOUNT);
    }

    function test_a_condition_releases_all_or_nothing() public {
        Terms memory t = releasedBy(BY_CONDITION, 0);
        t.condition = address(this);
        open(t);
        vm.prank(stranger);
        notReleased(0, t);
        escrow.capture(t, none(), 1, byCondition(""));
        escrow.capture(t, none(), AMOUNT, byCondition(""));
        assertEq(usdc.balanceOf(payee), AMOUNT);
    }

    function check(bytes32, bytes32, bytes calldata) external pure returns (bool) {
        return true;
    }
}
