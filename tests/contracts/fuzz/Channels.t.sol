// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {ChannelStage} from "../attack/ChannelStage.sol";
import {ChannelConfig, IChannelHub, VoucherClaim} from "contracts/interfaces/IChannelHub.sol";

/// @dev Claims in any order, in any cut, on any path.
contract ChannelsTest is ChannelStage {
    /// @dev I18: the last totals decide, not the order or the batching in which they arrive.
    function testFuzz_order_and_batching_do_not_matter(uint64[6] memory totals, uint256 order, uint256 cut) public {
        ChannelConfig[2] memory c = [opened(salted(1)), opened(salted(2))];
        VoucherClaim[] memory rows = new VoucherClaim[](6);
        uint256[2] memory most;
        for (uint256 i; i < 6; ++i) {
            uint128 total = uint128(totals[i] % (AMOUNT + 1));
            rows[i] = row(c[i % 2], total, total);
            if (total > most[i % 2]) most[i % 2] = total;
        }
        for (uint256 i = 5; i > 0; --i) {
            uint256 j = (order >> 8 * i) % (i + 1);
            (rows[i], rows[j]) = (rows[j], rows[i]);
        }
        for (uint256 i; i < 6;) {
            uint256 count = 1 + (cut >> 8 * i) % (6 - i);
            VoucherClaim[] memory part = new VoucherClaim[](count);
            for (uint256 n; n < count; ++n) {
                part[n] = rows[i + n];
            }
            if (cut >> 200 + i & 1 == 0) claim(part);
            else claimPacked(part);
            i += count;
        }
        assertChannel(c[0], AMOUNT, most[0]);
        assertChannel(c[1], AMOUNT, most[1]);
        assertReceiver(most[0] + most[1], 0);
    }

    /// @dev I19: for one row, whatever is in it, both paths leave the same state, or both leave all as it was.
    function testFuzz_both_paths_leave_the_same(uint96 before, uint96 max, uint96 total, bool forged) public {
        ChannelConfig memory c = opened(config());
        uint128 first = uint128(bound(before, 0, AMOUNT));
        max = uint96(bound(max, 0, 2 * AMOUNT));
        total = uint96(bound(total, 0, 2 * AMOUNT));
        claim(c, first);
        VoucherClaim memory a = row(c, max, total);
        if (forged) a.signature = signed(payerKey, voucherHash(c, max));
        uint256 snapshot = vm.snapshotState();

        vm.prank(clerk);
        (bool done,) = address(hub).call(abi.encodeCall(IChannelHub.claim, (one(a))));
        (uint128 balance, uint128 claimed) = hub.channels(idOf(c));
        (uint128 all, uint128 paid) = hub.receivers(seller, address(usdc));
        vm.revertToState(snapshot);
        uint256 moved = claimPacked(one(a));
        assertChannel(c, balance, claimed);
        assertReceiver(all, paid);
        assertEq(moved, claimed - first);
        if (!done) assertEq(claimed, first);
        bool good = !forged && total <= max && total <= AMOUNT && total > first;
        assertEq(claimed, good ? total : first);
    }

    /// @dev Every bit of a row and of its config matters.
    function testFuzz_any_changed_bit_of_a_row_is_refused(uint256 bit) public {
        ChannelConfig memory c = opened(config());
        bytes memory raw = packedOne(row(c, 10e6, 10e6));
        bit = bound(bit, 0, 165 * 8 - 1);
        bool total = bit / 8 >= 89 && bit / 8 < 101; // what was earned is the clerk's to say: nobody signs it
        raw[bit / 8] ^= bytes1(uint8(1 << bit % 8));
        vm.prank(clerk);
        uint256 moved = hub.claimPacked(seller, clerk, address(usdc), raw);
        if (!total) assertEq(moved, 0);
        assertLe(moved, 10e6);
    }
}
