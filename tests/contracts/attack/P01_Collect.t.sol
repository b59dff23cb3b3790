// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {ChannelConfig, ChannelFunding, IChannelHub, IChannelPayer} from "contracts/interfaces/IChannelHub.sol";
import {IPolicyWallet} from "contracts/interfaces/IPolicyWallet.sol";
import {FundingStage} from "./FundingStage.sol";
import {OddHub} from "./OddHub.sol";

/// @dev P1. The hub's deposit is anybody's, with any payer and any collector: the wallet gives nothing that it has not
/// announced in the same transaction.
contract P01_Collect is FundingStage {
    function _notInFlight(address caller) private pure returns (bytes memory) {
        return abi.encodeWithSelector(IChannelPayer.NotInFlight.selector, caller);
    }

    function test_a_stranger_deposits_in_the_wallets_name() public {
        ChannelConfig memory c = channel();
        (c.payerAuthorizer, c.receiver, c.receiverAuthorizer) = (stranger, stranger, stranger);
        address[3] memory callers = [stranger, agent, operators[0]];
        for (uint256 i; i < 3; ++i) {
            vm.prank(callers[i]);
            vm.expectRevert(_notInFlight(address(hub)));
            hub.deposit(c, AMOUNT, address(wallet), "");
        }
        assertEq(usdc.balanceOf(address(wallet)), FUNDS);
    }

    /// @dev The very deposit that the agent has made, once more by somebody else, in the same transaction too.
    function test_what_was_in_flight_is_not_any_more() public {
        ChannelConfig memory c = channel();
        fund(c, AMOUNT, 1);
        assertEq(balanceOf(c), AMOUNT);
        vm.expectRevert(_notInFlight(address(hub)));
        hub.deposit(c, AMOUNT, address(wallet), "");
        vm.expectRevert(_notInFlight(address(hub)));
        this.fundAndDepositAgain(c);
        assertEq(usdc.balanceOf(address(wallet)), FUNDS - AMOUNT);
    }

    function fundAndDepositAgain(ChannelConfig calldata c) external {
        fund(c, AMOUNT, 2);
        hub.deposit(c, AMOUNT, address(wallet), "");
    }

    function test_collect_by_anyone_but_the_hub() public {
        bytes32 id = idOf(channel());
        address[5] memory callers = [stranger, agent, operators[0], address(usdc), address(wallet)];
        for (uint256 i; i < 5; ++i) {
            vm.prank(callers[i]);
            vm.expectRevert(_notInFlight(callers[i]));
            door.collect(address(wallet), address(usdc), AMOUNT, id, "");
        }
        vm.prank(address(hub)); // nothing announced
        vm.expectRevert(_notInFlight(address(hub)));
        door.collect(address(wallet), address(usdc), AMOUNT, id, "");
    }

    /// @dev With a deposit in flight: another amount, channel, payer, token; twice; by a third; not at all; afterwards.
    function test_a_hub_that_fetches_otherwise() public {
        OddHub odd = new OddHub();
        wallet = IPolicyWallet(
            deployCode(
                "PolicyWallet.sol:PolicyWallet",
                abi.encode(usdc, address(0), odd, operatorSet(), 2, DELAY, baseChanges())
            )
        );
        fund(address(wallet), FUNDS);
        (door, hub) = (IChannelPayer(address(wallet)), IChannelHub(address(odd)));
        ChannelConfig memory c = channel();
        for (uint256 way = 1; way < 8; ++way) {
            odd.behave(OddHub.Way(way));
            bytes memory why = _notInFlight(way == 7 ? address(odd.THIEF()) : address(odd));
            if (way == 6) why = abi.encodeWithSelector(IPolicyWallet.TransferFailed.selector);
            refusedToFund(c, why);
        }
        odd.behave(OddHub.Way.Later);
        refusedToFund(c, abi.encodeWithSelector(IPolicyWallet.TransferFailed.selector));
        vm.expectRevert(_notInFlight(address(odd)));
        odd.fetchNow(c, AMOUNT);
        odd.behave(OddHub.Way.Good);
        fund(c, AMOUNT, 1);
        assertEq(usdc.balanceOf(address(odd)), AMOUNT);
    }

    /// @dev I20, P2: no funding leaves an allowance, to hub or to anyone.
    function test_no_allowance_stands() public {
        fund(channel(), AMOUNT, 1);
        assertEq(usdc.allowance(address(wallet), address(hub)), 0);
        assertEq(usdc.allowance(address(wallet), shop), 0);
    }

    function test_a_wallet_without_a_hub_has_no_channels() public {
        address none = address(0);
        wallet = IPolicyWallet(
            deployCode(
                "PolicyWallet.sol:PolicyWallet", abi.encode(usdc, none, none, operatorSet(), 2, DELAY, baseChanges())
            )
        );
        fund(address(wallet), FUNDS);
        (door, hub) = (IChannelPayer(address(wallet)), IChannelHub(none));
        ChannelFunding memory f = funding(channel(), AMOUNT, 1);
        (bytes32 r, bytes32 vs,) = _signed(f, agentKey);
        vm.expectRevert();
        door.fundChannel(f, r, vs, "");
        assertEq(usdc.balanceOf(address(wallet)), FUNDS);
        assertFalse(wallet.nonceUsed(agent, 1));
    }
}
