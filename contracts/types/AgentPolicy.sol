// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {AgentLimits} from "../interfaces/IPolicyWallet.sol";

/// @dev One agent's limits in one word, which a payment only reads. Amounts in USDC base units.
///
///  0         48        96         144      184          200     208       232       256
///  | ceiling | day cap | month cap | expiry | categories | flags | version | reserve |
///  |   u48   |   u48   |    u48    |  u40   |    u16     |  u8   |   u24   |   u24   |
///
/// Flags: 1 frozen; 2 day cap on, 4 month cap on (off: the cap is 2^48-1); 8 lifetime budget on; the others are for
/// later doors. Version 0: the agent was never set.
type AgentPolicy is uint256;

using AgentPolicyLib for AgentPolicy global;

/// @dev The flags of the limits that have a counter, as `AgentPolicyLib.on` gives them.
uint256 constant DAY_ON = 2;
uint256 constant MONTH_ON = 4;
uint256 constant BUDGET_ON = 8;

library AgentPolicyLib {
    uint256 private constant U48 = type(uint48).max;
    uint256 private constant FLAGS_AT = 200;
    uint256 private constant FROZEN = 1;
    uint256 private constant COUNTED = DAY_ON | MONTH_ON | BUDGET_ON;
    uint256 private constant VERSION_AT = 208;

    /// @dev Packs `limits` over `previous`: keeps the frozen flag, raises the version.
    /// Reverts with an arithmetic panic after 2^24-1 versions.
    function replace(AgentPolicy previous, AgentLimits memory limits) internal pure returns (AgentPolicy) {
        uint256 flags = uint8(AgentPolicy.unwrap(previous) >> FLAGS_AT) & ~COUNTED;
        if (limits.dayCap != U48) flags |= DAY_ON;
        if (limits.monthCap != U48) flags |= MONTH_ON;
        if (limits.budget != type(uint64).max) flags |= BUDGET_ON;
        uint24 next = uint24(previous.version()) + 1;
        return AgentPolicy.wrap(
            uint256(limits.ceiling) | uint256(limits.dayCap) << 48 | uint256(limits.monthCap) << 96
                | uint256(limits.expiry) << 144 | uint256(limits.categories) << 184 | flags << FLAGS_AT | uint256(next)
                << VERSION_AT
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
        return AgentPolicy.unwrap(policy) & FROZEN << FLAGS_AT != 0;
    }

    /// @dev Which limits with a counter are on: DAY_ON, MONTH_ON, BUDGET_ON.
    function on(AgentPolicy policy) internal pure returns (uint256) {
        return AgentPolicy.unwrap(policy) >> FLAGS_AT & COUNTED;
    }

    function withFrozen(AgentPolicy policy, bool freeze) internal pure returns (AgentPolicy) {
        uint256 word = AgentPolicy.unwrap(policy);
        return AgentPolicy.wrap(freeze ? word | FROZEN << FLAGS_AT : word & ~(FROZEN << FLAGS_AT));
    }
}
