// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {Skip} from "contracts/interfaces/IChannelHub.sol";
import {ChannelState, ChannelStateLib} from "contracts/types/ChannelState.sol";
import {Test} from "forge-std/Test.sol";

/// @dev A channel's word for all inputs at once. Both paths of a claim do to it what `refusal` and `claim` say, so what
/// holds here holds for both (I19): never above the balance (I12), never down, never above the ceiling (I15).
contract ChannelCheck is Test {
    uint256 private constant REST = type(uint256).max << 192; // the request's time, and what is beyond

    function _word(uint256 word) private pure returns (ChannelState state) {
        state = ChannelState.wrap(word);
        vm.assume(state.totalClaimed() <= state.balance()); // I12 before
    }

    function check_channel_claim(uint256 word, uint128 max, uint128 total) public pure {
        ChannelState state = _word(word);
        bool good = total <= max && total > state.totalClaimed() && total <= state.balance();
        assert((state.refusal(max, total) == Skip.None) == good);
        if (!good) return;
        ChannelState next = state.claim(total);
        assert(next.totalClaimed() == total);
        assert(next.totalClaimed() > state.totalClaimed() && next.totalClaimed() <= max);
        assert(next.totalClaimed() <= next.balance());
        assert(next.balance() == state.balance());
        assert(ChannelState.unwrap(next) & REST == word & REST);
    }

    /// @dev Which of several faults is named: the one a caller can mend first.
    function check_channel_refusals(uint256 word, uint128 max, uint128 total) public pure {
        ChannelState state = _word(word);
        Skip reason = state.refusal(max, total);
        if (total > max) assert(reason == Skip.ExceedsCeiling);
        else if (total <= state.totalClaimed()) assert(reason == Skip.NothingNew);
        else if (total > state.balance()) assert(reason == Skip.ExceedsBalance);
        else assert(reason == Skip.None);
    }

    function check_channel_deposit(uint256 word, uint128 amount) public pure {
        ChannelState state = _word(word);
        vm.assume(state.balance() + amount <= ChannelStateLib.MAX);
        ChannelState next = state.put(amount);
        assert(next.balance() == state.balance() + amount);
        assert(next.totalClaimed() == state.totalClaimed());
        assert(ChannelState.unwrap(next) & REST == word & REST);
    }

    /// @dev Refund and withdrawal.
    function check_channel_exit(uint256 word, uint128 amount) public pure {
        ChannelState state = _word(word);
        vm.assume(amount <= state.available());
        ChannelState next = state.take(amount);
        assert(next.balance() == state.balance() - amount);
        assert(next.totalClaimed() == state.totalClaimed());
        assert(next.totalClaimed() <= next.balance());
        assert(next.available() == state.available() - amount);
        assert(ChannelState.unwrap(next) & REST == word & REST);
    }

    function check_channel_initiate(uint256 word, uint40 time) public pure {
        ChannelState next = ChannelState.wrap(word).initiate(time);
        assert(next.withdrawInitiatedAt() == time);
        assert(uint192(ChannelState.unwrap(next)) == uint192(word));
        assert(ChannelState.unwrap(next) >> 232 == word >> 232);
    }
}
