// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {AgentLimits, IPolicyWallet} from "contracts/interfaces/IPolicyWallet.sol";
import {Payment, Stage} from "./Stage.sol";

/// @dev W16. The agent's key is stolen and the thief races the freeze. Before it: what the caps leave. After it:
/// nothing, in the very next transaction of the same block.
contract W16_FreezeRace is Stage {
    function test_thief_before_the_freeze_gets_what_the_caps_leave_and_nothing_after() public {
        uint256 nonce;
        while (true) {
            Payment memory p = payment(shop, CEILING, nonce);
            (bytes4 reason,) = wallet.check(agent, shop, CEILING, 0);
            if (reason != 0) break;
            pay(p);
            ++nonce;
        }
        assertEq(usdc.balanceOf(shop), DAY_CAP);
        tightenBy(0, setFrozen(agent, true));
        vm.warp(START + 30 days); // windows empty, still frozen
        refused(payment(shop, 1, nonce), abi.encodeWithSelector(IPolicyWallet.AgentFrozen.selector, agent));
        Payment memory other = payment(shop, 1, 0);
        other.agent = agent2;
        pay(other); // nobody else is stopped
    }

    function test_wallet_freeze_stops_every_agent_in_the_same_block() public {
        paySome(shop, 1, 0);
        tightenBy(1, setFrozen(address(0), true));
        bytes memory frozen = abi.encodeWithSelector(IPolicyWallet.WalletFrozen.selector);
        refused(payment(shop, 1, 1), frozen);
        Payment memory other = payment(shop, 1, 0);
        other.agent = agent2;
        refused(other, frozen);
    }

    function test_removing_a_payee_or_lowering_a_cap_acts_at_once() public {
        paySome(shop, 1, 0);
        AgentLimits memory l = limits();
        l.dayCap = 1;
        tightenBy(2, setAgent(agent, l));
        refused(payment(shop, 1, 1), why2(IPolicyWallet.DayCapExceeded.selector, 1, 0));
    }

    /// @dev The thief holds the agent's key only: it can't unfreeze, nor keep the operators' money in.
    function test_operators_withdraw_while_frozen() public {
        tightenBy(1, setFrozen(address(0), true));
        submit(abi.encodeWithSignature("withdraw(address,uint256)", treasury, FUNDS));
        assertEq(usdc.balanceOf(treasury), FUNDS);
    }
}
