// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {Split} from "contracts/Split.sol";
import {Payout, State, Status} from "contracts/interfaces/IWorkEscrow.sol";
import {EscrowState} from "contracts/types/EscrowState.sol";
import {Test} from "forge-std/Test.sol";

/// @dev How a total is cut, for any list and any two totals; and the word, written and read.
contract SplitTest is Test {
    /* PARTS */

    function parts(Payout[] calldata payouts, uint256 total) external pure returns (uint256[] memory, uint256) {
        return Split.parts(payouts, total);
    }

    /// @dev Up to eight shares that sum to at most everything, and to exactly everything half of the time.
    function _list(uint256 seed) private pure returns (Payout[] memory list) {
        list = new Payout[](seed % 9);
        uint256 left = Split.WHOLE;
        for (uint256 i; i < list.length; ++i) {
            uint256 bps = uint256(keccak256(abi.encode(seed, i))) % (left + 1) / (i % 3 + 1);
            if (i + 1 == list.length && seed & 16 != 0) bps = left;
            list[i].bps = uint16(bps);
            left -= bps;
        }
    }

    function testFuzz_no_part_falls_and_all_sum_up(uint256 seed, uint64 a, uint64 b) public view {
        Payout[] memory list = _list(seed);
        (uint64 before, uint64 next) = a < b ? (a, b) : (b, a);
        (uint256[] memory had, uint256 payeeHad) = this.parts(list, before);
        (uint256[] memory has, uint256 payeeHas) = this.parts(list, next);
        (uint256 sumHad, uint256 sumHas, uint256 bps) = (payeeHad, payeeHas, 0);
        for (uint256 i; i < list.length; ++i) {
            assertGe(has[i], had[i], "fell");
            assertApproxEqAbs(has[i], uint256(next) * list[i].bps / Split.WHOLE, i + 1, "rounding");
            sumHad += had[i];
            sumHas += has[i];
            bps += list[i].bps;
        }
        assertGe(payeeHas, payeeHad, "payee fell");
        assertEq(sumHad, before);
        assertEq(sumHas, next);
        if (bps == Split.WHOLE) assertEq(payeeHas, 0, "nothing is left");
    }

    /// @dev The lemma behind it, unit by unit where roundings are worst, for every share of every small whole.
    function test_one_more_unit_adds_at_most_one() public pure {
        for (uint256 whole = 1; whole <= 24; ++whole) {
            for (uint256 bps; bps <= whole; ++bps) {
                uint256 had;
                for (uint256 rest = 1; rest <= 2 * whole; ++rest) {
                    uint256 has = Split.part(rest, bps, whole);
                    assertTrue(has == had || has == had + 1);
                    had = has;
                }
            }
        }
    }

    function testFuzz_one_part(uint64 before, uint64 more, uint16 bps, uint16 whole) public pure {
        whole = uint16(bound(whole, 1, Split.WHOLE));
        bps = uint16(bound(bps, 0, whole));
        uint256 had = Split.part(before, bps, whole);
        uint256 has = Split.part(uint256(before) + more, bps, whole);
        assertGe(has, had);
        assertLe(has - had, more);
        assertLe(has, uint256(before) + more);
    }

    /* THE WORD */

    function testFuzz_word(uint64 a, uint64 b, uint64 c, uint40 time, uint8 status) public pure {
        b = uint64(bound(b, 0, type(uint64).max - a));
        c = uint64(bound(c, 0, a));
        Status s = Status(bound(status, 0, uint256(type(Status).max)));
        EscrowState word = EscrowState.wrap(0).begin(s, time).add(a, b).addReturned(c);
        assertEq(keccak256(abi.encode(word.open())), keccak256(abi.encode(State(a, b, c, time, s))));
        assertEq(EscrowState.unwrap(word) >> 240, 0);
        for (uint256 i; i <= uint256(type(Status).max); ++i) {
            State memory other = word.to(Status(i)).open();
            assertEq(uint256(other.status), i);
            assertEq(other.since, time);
            assertEq(other.returned, c);
        }
    }
}
