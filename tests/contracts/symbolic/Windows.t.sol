// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {Ring} from "contracts/types/Ring.sol";
import {WalletState} from "contracts/types/WalletState.sol";
import {Test} from "forge-std/Test.sol";

/// @dev For every state, step and amount: one step of a rolling window neither forgets what is inside the window nor
/// lets a lane run into its neighbour. `keeps` and `add` together are the bound: what was paid in the window is still
/// in the lanes, and the lanes together are at most the cap.
contract WindowsCheck is Test {
    uint256 private constant INDICES = 1 << 16;
    uint256 private constant LANE = 48;
    uint256 private constant WALLET_LANE = 50;

    /* AGENT RING: five lanes */

    function _lane(Ring ring, uint256 i) private pure returns (uint256) {
        return uint48(Ring.unwrap(ring) >> LANE * i);
    }

    function _index(Ring ring) private pure returns (uint256) {
        return Ring.unwrap(ring) >> 240;
    }

    function check_ring_spent_is_the_sum_of_the_lanes(uint256 word) public pure {
        Ring ring = Ring.wrap(word);
        assert(ring.spent() == _lane(ring, 0) + _lane(ring, 1) + _lane(ring, 2) + _lane(ring, 3) + _lane(ring, 4));
    }

    /// @dev Lane i becomes lane i + passed; nothing appears from nowhere; the sum never grows.
    function check_ring_roll_moves_lanes(uint256 word, uint16 passed) public pure {
        Ring before = Ring.wrap(word);
        Ring next = before.roll(_index(before) + passed);
        assert(_index(next) == (_index(before) + passed) % INDICES);
        for (uint256 i; i < 5; ++i) {
            assert(_lane(next, i) == (i >= passed ? _lane(before, i - passed) : 0));
        }
        assert(next.spent() <= before.spent());
    }

    /// @dev Only the step modulo 2^16 counts: any step number at all finds the same lanes.
    function check_ring_roll_wraps(uint256 word, uint64 step, uint16 turns) public pure {
        Ring ring = Ring.wrap(word);
        assert(Ring.unwrap(ring.roll(step)) == Ring.unwrap(ring.roll(uint256(step) + turns * INDICES)));
    }

    function check_ring_roll_in_two_parts(uint256 word, uint16 first, uint16 second) public pure {
        vm.assume(uint256(first) + second < INDICES);
        Ring before = Ring.wrap(word);
        Ring parts = before.roll(_index(before) + first).roll(_index(before) + first + second);
        assert(Ring.unwrap(parts) == Ring.unwrap(before.roll(_index(before) + first + second)));
    }

    /// @dev The sum is never below one of its lanes: a sum under 2^48 leaves the newest lane room for as much.
    function check_ring_spent_covers_each_lane(uint256 word, uint48 amount) public pure {
        Ring ring = Ring.wrap(word);
        for (uint256 i; i < 5; ++i) {
            assert(ring.spent() >= _lane(ring, i));
        }
        if (ring.spent() + amount < 2 ** LANE) assert(_lane(ring, 0) + amount < 2 ** LANE);
    }

    /// @dev With that room, an addition stays in its lane and comes out again; the other lanes and so the rest of the
    /// sum stand still.
    function check_ring_add(uint256 word, uint48 amount) public pure {
        Ring before = Ring.wrap(word);
        vm.assume(_lane(before, 0) + amount < 2 ** LANE);
        Ring next = before.add(amount);
        assert(_lane(next, 0) == _lane(before, 0) + amount);
        assert(Ring.unwrap(next) >> LANE == word >> LANE);
        assert(Ring.unwrap(next.sub(amount)) == word);
    }

    /// @dev What was booked counts for the next four steps and is gone in the fifth.
    function check_ring_keeps_four_steps(uint256 word, uint64 step, uint48 amount, uint16 passed) public pure {
        Ring rolled = Ring.wrap(word).roll(step);
        vm.assume(rolled.spent() + amount <= type(uint48).max);
        Ring later = rolled.add(amount).roll(uint256(step) + passed);
        if (passed <= 4) assert(_lane(later, passed) >= amount);
        else assert(later.spent() == 0);
    }

    /* WALLET RING: four lanes beside cap and flags */

    function _lane(WalletState state, uint256 i) private pure returns (uint256) {
        return WalletState.unwrap(state) >> WALLET_LANE * i & (2 ** WALLET_LANE - 1);
    }

    function _index(WalletState state) private pure returns (uint256) {
        return uint16(WalletState.unwrap(state) >> 232);
    }

    /// @dev Cap and flags, which no payment may touch.
    function _rest(WalletState state) private pure returns (uint256) {
        uint256 word = WalletState.unwrap(state);
        return uint256(uint32(word >> 200)) | word >> 248 << 32;
    }

    function check_wallet_spent_is_the_sum_of_the_lanes(uint256 word) public pure {
        WalletState state = WalletState.wrap(word);
        assert(state.spent() == _lane(state, 0) + _lane(state, 1) + _lane(state, 2) + _lane(state, 3));
    }

    function check_wallet_roll_moves_lanes(uint256 word, uint16 passed) public pure {
        WalletState before = WalletState.wrap(word);
        WalletState next = before.roll(_index(before) + passed);
        assert(_index(next) == (_index(before) + passed) % INDICES);
        assert(_rest(next) == _rest(before));
        for (uint256 i; i < 4; ++i) {
            assert(_lane(next, i) == (i >= passed ? _lane(before, i - passed) : 0));
        }
        assert(next.spent() <= before.spent());
    }

    function check_wallet_roll_in_two_parts(uint256 word, uint16 first, uint16 second) public pure {
        vm.assume(uint256(first) + second < INDICES);
        WalletState before = WalletState.wrap(word);
        WalletState parts = before.roll(_index(before) + first).roll(_index(before) + first + second);
        assert(WalletState.unwrap(parts) == WalletState.unwrap(before.roll(_index(before) + first + second)));
    }

    function check_wallet_spent_covers_each_lane(uint256 word, uint56 amount) public pure {
        WalletState state = WalletState.wrap(word);
        for (uint256 i; i < 4; ++i) {
            assert(state.spent() >= _lane(state, i));
        }
        // Every cap is below 2^50.
        if (state.spent() + amount < 2 ** WALLET_LANE) assert(_lane(state, 0) + amount < 2 ** WALLET_LANE);
    }

    function check_wallet_add(uint256 word, uint56 amount) public pure {
        WalletState before = WalletState.wrap(word);
        vm.assume(_lane(before, 0) + amount < 2 ** WALLET_LANE);
        WalletState next = before.add(amount);
        assert(_lane(next, 0) == _lane(before, 0) + amount);
        assert(WalletState.unwrap(next) >> WALLET_LANE == word >> WALLET_LANE);
        assert(WalletState.unwrap(next.sub(amount)) == word);
    }

    function check_wallet_keeps_three_steps(uint256 word, uint64 step, uint56 amount, uint16 passed) public pure {
        WalletState rolled = WalletState.wrap(word).roll(step);
        vm.assume(rolled.spent() + amount < 2 ** WALLET_LANE);
        WalletState later = rolled.add(amount).roll(uint256(step) + passed);
        if (passed <= 3) assert(_lane(later, passed) >= amount);
        else assert(later.spent() == 0);
    }
}
