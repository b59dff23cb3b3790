// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {Stage} from "../attack/Stage.sol";
import {AgentLimits, PayeeLimits} from "contracts/interfaces/IPolicyWallet.sol";

/// @dev A wallet with exactly the limits that a test is about.
abstract contract Unit is Stage {
    uint48 internal constant OFF = type(uint48).max;

    /// @dev Ceiling 100 USDC; every other limit of the agent off.
    function wide() internal pure returns (AgentLimits memory) {
        return AgentLimits(uint48(CEILING), OFF, OFF, type(uint64).max, uint40(FAR), 1);
    }

    /// @dev A new wallet: agent has `l`, shop has `p`.
    function born(AgentLimits memory l, PayeeLimits memory p, uint256 cap) internal {
        bytes[] memory changes = new bytes[](5);
        changes[0] = setAgent(agent, l);
        changes[1] = setAgent(agent2, limits());
        changes[2] = setPayee(shop, p);
        changes[3] = setPayee(cafe, payee());
        changes[4] = setCap(cap);
        wallet = deploy(address(usdc), changes);
        fund(address(wallet), FUNDS);
    }

    function bornWith(AgentLimits memory l) internal {
        born(l, payee(), type(uint256).max);
    }

    function bornWith(PayeeLimits memory p) internal {
        born(wide(), p, type(uint256).max);
    }

    /// @dev `why` with one argument.
    function why1(bytes4 selector, uint256 detail) internal pure returns (bytes memory) {
        return abi.encodeWithSelector(selector, detail);
    }

    function why0(bytes4 selector) internal pure returns (bytes memory) {
        return abi.encodeWithSelector(selector);
    }
}
