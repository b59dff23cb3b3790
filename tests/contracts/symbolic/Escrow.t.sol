// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {Split} from "contracts/Split.sol";
import {Payout, Status} from "contracts/interfaces/IWorkEscrow.sol";
import {EscrowState} from "contracts/types/EscrowState.sol";
import {Test} from "forge-std/Test.sol";

/// @dev The arithmetic of an escrow for all inputs at once. The word: a step changes what it means to change and no
/// other field (I2, I3). The cut: parts of a growing total never fall and never outgrow it (I7); that they do not depend on
/// how it is cut into captures follows, because each is a difference of two parts of totals.
contract EscrowCheck is Test {
    /* THE WORD */

    function _rest(EscrowState s) private pure returns (uint256) {
        return EscrowState.unwrap(s) >> 128;
    }

    /// @dev Award, finalize, capture, void and reclaim: both totals at once.
    function check_state_add(uint256 word, uint64 toPayee, uint64 toPayer) public pure {
        EscrowState before = EscrowState.wrap(word);
        uint256 had = before.captured() + before.refunded();
        vm.assume(had + toPayee + toPayer <= type(uint64).max); // the amount bounds them together
        EscrowState next = before.add(toPayee, toPayer);
        assert(next.captured() == before.captured() + toPayee);
        assert(next.refunded() == before.refunded() + toPayer);
        assert(_rest(next) == _rest(before));
    }

    /// @dev An amount in two totals, paid out in two steps however cut: what is left is what was not paid.
    function check_state_two_steps_are_one(uint64 amount, uint64 a, uint64 b, uint64 c) public pure {
        vm.assume(uint256(a) + b + c <= amount);
        EscrowState once = EscrowState.wrap(0).add(uint256(a) + b, c);
        EscrowState twice = EscrowState.wrap(0).add(a, 0).add(b, c);
        assert(EscrowState.unwrap(once) == EscrowState.unwrap(twice));
        assert(once.captured() + once.refunded() + (amount - (uint256(a) + b + c)) == amount);
    }

    /// @dev An award's totals, which are the amount together, end the escrow with nothing left.
    function check_state_award(uint64 amount, uint64 before, uint64 captured, uint64 refunded) public pure {
        vm.assume(before <= captured && uint256(captured) + refunded == amount);
        EscrowState funded = EscrowState.wrap(0).add(before, 0);
        uint256 toPayee = captured - before;
        EscrowState next = funded.add(toPayee, amount - funded.captured() - funded.refunded() - toPayee);
        assert(next.captured() == captured);
        assert(next.refunded() == refunded);
    }

    function check_state_returned(uint256 word, uint64 amount) public pure {
        EscrowState before = EscrowState.wrap(word);
        vm.assume(before.returned() + amount <= before.captured());
        EscrowState next = before.addReturned(amount);
        assert(next.returned() == before.returned() + amount);
        assert(uint128(EscrowState.unwrap(next)) == uint128(word));
        assert(EscrowState.unwrap(next) >> 192 == word >> 192);
    }

    function check_state_begin(uint256 word, uint8 status, uint40 time) public pure {
        vm.assume(status <= uint8(type(Status).max));
        EscrowState next = EscrowState.wrap(word).begin(Status(status), time);
        assert(next.since() == time);
        assert(uint8(next.status()) == status);
        assert(uint192(EscrowState.unwrap(next)) == uint192(word));
        assert(EscrowState.unwrap(next) >> 240 == word >> 240);
    }

    /* THE CUT: for every two totals of a byte, where roundings are worst; for larger ones see the fuzz tests */

    /// @dev A part of a total that grows never falls, and grows by at most as much.
    function _neverFalls(uint256 before, uint256 more, uint256 bps, uint256 whole) private pure {
        uint256 had = Split.part(before, bps, whole);
        uint256 has = Split.part(before + more, bps, whole);
        assert(has >= had);
        assert(has - had <= more);
    }

    function check_part_of_a_third(uint8 before, uint8 more) public pure {
        _neverFalls(before, more, 3_333, 10_000);
    }

    function check_part_of_a_half(uint8 before, uint8 more) public pure {
        _neverFalls(before, more, 3_333, 6_667);
    }

    function check_part_of_an_eighth(uint8 before, uint8 more) public pure {
        _neverFalls(before, more, 1_250, 10_000);
    }

    /// @dev All that is left, of any size.
    function check_part_of_the_ends(uint64 rest, uint8 more) public pure {
        _neverFalls(rest, more, 0, 10_000);
        assert(Split.part(rest, 0, 0) == 0);
    }

    /// @dev The code itself on thirds of everything: the parts sum to the total, nothing is left for the payee.
    function check_thirds(uint8 total) public view {
        Payout[] memory list = new Payout[](3);
        (list[0].bps, list[1].bps, list[2].bps) = (3_333, 3_333, 3_334);
        (uint256[] memory shares, uint256 payeeShare) = this.parts(list, total);
        assert(shares[0] + shares[1] + shares[2] + payeeShare == total);
    }

    function parts(Payout[] calldata payouts, uint256 total) external pure returns (uint256[] memory, uint256) {
        return Split.parts(payouts, total);
    }
}
