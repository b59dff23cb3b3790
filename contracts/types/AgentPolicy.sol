// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {AgentLimits} from "../interfaces/IPolicyWallet.sol";

/// @dev One agent's limits in one word, which a payment only reads. Amounts in USDC base units.
///
///  0         48        96         144      184          200     208       232       256
///  | ceiling | day cap | month cap | expiry | categories | flags | version | reserve |
///  |   u48   |   u48   |    u48    |  u40   |    u16     |  u8   |   u24   |   u24   |
///
/// A cap of 2^48-1 is off. Flags: 1 frozen, 2 lifetime budget on; the others are for later doors.
/// Version 0: the agent was never set.
type AgentPolicy is uint256;

using AgentPolicyLib for AgentPolicy global;

library AgentPolicyLib {
    uint256 private constant U48 = type(uint48).max;
    uint256 private constant FROZEN = 1 << 200;
    uint256 private constant BUDGET = 1 << 201;
    uint256 private constant FLAGS = 0xff << 200;
    uint256 private constant VERSION_AT = 208;

    /// @dev Packs `limits` over `previous`: keeps the frozen flag, raises the version.
    /// Reverts with an arithmetic panic after 2^24-1 versions.
    function replace(AgentPolicy previous, AgentLimits memory limits) internal pure returns (AgentPolicy) {
        uint256 flags = AgentPolicy.unwrap(previous) & FLAGS & ~BUDGET;
        if (limits.budget != type(uint64).max) flags |= BUDGET;
        uint24 next = uint24(previous.version()) + 1;
        return AgentPolicy.wrap(
            uint256(limits.ceiling) | uint256(limits.dayCap) << 48 | uint256(limits.monthCap) << 96
                | uint256(limits.expiry) << 144 | uint256(limits.categories) << 184 | flags
                | uint256(next) << VERSION_AT
        );
    }

    function ceiling(AgentPolicy policy) internal pure returns (uint256) {
        return AgentPolicy.unwrap(policy) & U48;
    }

    function dayCap(AgentPolicy policy) internal pure returns (uint256) {
        return AgentPolicy.unwrap(policy) >> 48 & U48;
    }

    function monthCap(AgentPolicy policy) internal pure returns (uint256) {
        return AgentPolicy.unwrap(policy) >> 96 & U48;
    }

    /// @dev Unix seconds, exclusive.
    function expiry(AgentPolicy policy) internal pure returns (uint256) {
        return uint40(AgentPolicy.unwrap(policy) >> 144);
    }

    function categories(AgentPolicy policy) internal pure returns (uint256) {
        return uint16(AgentPolicy.unwrap(policy) >> 184);
    }

    function version(AgentPolicy policy) internal pure returns (uint256) {
        return uint24(AgentPolicy.unwrap(policy) >> VERSION_AT);
    }

    function exists(AgentPolicy policy) internal pure returns (bool) {
        return policy.version() != 0;
    }

    function frozen(AgentPolicy policy) internal pure returns (bool) {
        return AgentPolicy.unwrap(policy) & FROZEN != 0;
    }

    function dayOn(AgentPolicy policy) internal pure returns (bool) {
        return policy.dayCap() != U48;
    }

    function monthOn(AgentPolicy policy) internal pure returns (bool) {
        return policy.monthCap() != U48;
    }

    function budgetOn(AgentPolicy policy) internal pure returns (bool) {
        return AgentPolicy.unwrap(policy) & BUDGET != 0;
    }

    function withFrozen(AgentPolicy policy, bool on) internal pure returns (AgentPolicy) {
        uint256 word = AgentPolicy.unwrap(policy);
        return AgentPolicy.wrap(on ? word | FROZEN : word & ~FROZEN);
    }
}
