// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {Ring} from "contracts/types/Ring.sol";
import {WalletState, WalletStateLib} from "contracts/types/WalletState.sol";
import {Test} from "forge-std/Test.sol";

/// @dev The rings against a plain list of (step, amount), over random walks with the amounts at their edges.
contract WindowsTest is Test {
    uint256 private constant WALK = 40;
    uint256 private constant U48 = type(uint48).max;

    uint256[] private _steps;
    uint256[] private _amounts;

    function _sum(uint256 step, uint256 lanes) private view returns (uint256 total) {
        for (uint256 i; i < _steps.length; ++i) {
            if (_steps[i] + lanes > step) total += _amounts[i];
        }
    }

    /// @dev Mostly within the ring, at times just out of it, at times far. Never a multiple of 2^16, of which the ring
    /// knows nothing: that has its own test.
    function _advance(uint256 seed) private pure returns (uint256) {
        uint256 kind = seed % 8;
        if (kind < 3) return 0;
        if (kind < 6) return (seed >> 8) % 3;
        if (kind == 6) return (seed >> 8) % 8;
        return 5 + (seed >> 8) % (2 ** 16 - 5);
    }

    /// @dev Nothing, one, all that is left, or anything below.
    function _amount(uint256 seed, uint256 left) private pure returns (uint256) {
        uint256 kind = seed % 8;
        if (kind == 0) return left;
        if (kind == 1) return left == 0 ? 0 : 1;
        if (kind == 2) return 0;
        return (seed >> 8) % (left / 3 + 1);
    }

    function testFuzz_ring_is_a_list(uint256 seed, uint64 start, uint48 cap) public {
        Ring ring;
        uint256 step = start;
        for (uint256 i; i < WALK; ++i) {
            seed = uint256(keccak256(abi.encode(seed)));
            step += _advance(seed);
            ring = ring.roll(step);
            uint256 spent = _sum(step, 5);
            assertEq(ring.spent(), spent);
            uint256 amount = _amount(seed >> 64, cap - spent);
            Ring next = ring.add(amount);
            assertEq(Ring.unwrap(next.sub(amount)), Ring.unwrap(ring));
            if (seed >> 250 == 0) continue; // taken back
            ring = next;
            _steps.push(step);
            _amounts.push(amount);
            assertLe(ring.spent(), cap);
        }
    }

    function testFuzz_wallet_is_a_list(uint256 seed, uint64 start, uint32 cap, bool frozen) public {
        cap = uint32(bound(cap, 0, WalletStateLib.MAX_CAP / WalletStateLib.UNIT));
        uint256 most = cap * WalletStateLib.UNIT;
        WalletState state = WalletState.wrap(0).withCap(most).withFrozen(frozen);
        uint256 step = start;
        for (uint256 i; i < WALK; ++i) {
            seed = uint256(keccak256(abi.encode(seed)));
            step += _advance(seed);
            state = state.roll(step);
            uint256 spent = _sum(step, 4);
            assertEq(state.spent(), spent);
            uint256 amount = _amount(seed >> 64, most - spent);
            WalletState next = state.add(amount);
            assertEq(WalletState.unwrap(next.sub(amount)), WalletState.unwrap(state));
            if (seed >> 250 == 0) continue;
            state = next;
            _steps.push(step);
            _amounts.push(amount);
            assertEq(state.cap(), most);
            assertEq(state.frozen(), frozen);
            assertTrue(state.capOn());
        }
    }

    /// @dev A cap that moves in mid-window, on and off, and a freeze: the lanes do not notice.
    function testFuzz_wallet_lanes_outlive_changes(uint256 seed, uint64 start, uint200 lanes) public pure {
        uint256 word = uint256(lanes) | uint256(uint16(start)) << 232;
        WalletState state = WalletState.wrap(word);
        uint256 spent = state.spent();
        for (uint256 i; i < 16; ++i) {
            seed = uint256(keccak256(abi.encode(seed)));
            if (seed % 3 == 0) state = state.withCap((seed >> 8) % (WalletStateLib.MAX_CAP + 1));
            else if (seed % 3 == 1) state = state.withoutCap();
            else state = state.withFrozen(seed >> 8 & 1 == 1);
            assertEq(state.roll(start).spent(), spent);
            assertEq(WalletState.unwrap(state) & (2 ** 200 - 1), lanes);
        }
    }

    /// @dev After a silence of a whole turn of the index the ring takes old lanes for recent ones: it may allow less
    /// than the list, never more.
    function testFuzz_a_turn_of_the_index_forgets_nothing(uint48 amount, uint64 start, uint8 turns, uint8 more)
        public
        pure
    {
        uint256 passed = uint256(turns) * 2 ** 16 + more;
        uint256 found = Ring.wrap(0).roll(start).add(amount).roll(start + passed).spent();
        assertEq(found, more < 5 ? amount : 0);
        if (passed < 5) assertEq(found, amount);
        found = WalletState.wrap(0).roll(start).add(amount).roll(start + passed).spent();
        assertEq(found, more < 4 ? amount : 0);
    }

    /// @dev Across 2^16 step by step, from every lane.
    function test_index_passes_its_end() public pure {
        for (uint256 turn = 1; turn < 4; ++turn) {
            for (uint256 before = 1; before < 6; ++before) {
                uint256 step = turn * 2 ** 16 - before;
                Ring ring = Ring.wrap(0).roll(step).add(7);
                WalletState state = WalletState.wrap(0).roll(step).add(7);
                for (uint256 passed; passed < 8; ++passed) {
                    assertEq(ring.roll(step + passed).spent(), passed < 5 ? 7 : 0);
                    assertEq(state.roll(step + passed).spent(), passed < 4 ? 7 : 0);
                }
            }
        }
    }

    /// @dev Every lane full: no lane reaches into the next one or into the index.
    function test_full_lanes() public pure {
        Ring ring = Ring.wrap(0);
        WalletState state = WalletState.wrap(0).withCap(WalletStateLib.MAX_CAP);
        for (uint256 step = 1; step < 6; ++step) {
            ring = ring.roll(step).add(U48);
            state = state.roll(step).add(2 ** 50 - 1);
        }
        assertEq(ring.spent(), 5 * U48);
        assertEq(state.spent(), 4 * (2 ** 50 - 1));
        assertEq(Ring.unwrap(ring) >> 240, 5);
        assertEq(state.cap(), WalletStateLib.MAX_CAP);
        assertFalse(state.frozen());
    }
}
