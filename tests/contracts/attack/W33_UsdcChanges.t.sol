// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {IPolicyWallet} from "contracts/interfaces/IPolicyWallet.sol";
import {OddToken} from "./OddToken.sol";
import {Stage} from "./Stage.sol";

/// @dev W33. Circle blocks the wallet, pauses the token, or puts a new implementation under it.
contract W33_UsdcChanges is Stage {
    function test_wallet_blocked_and_freed_again() public {
        paySome(shop, 1, 0);
        vm.prank(treasury);
        usdc.blacklist(address(wallet));
        refused(payment(shop, 2, 1), abi.encodeWithSelector(IPolicyWallet.TransferFailed.selector));
        vm.prank(treasury);
        usdc.unBlacklist(address(wallet));
        paySome(shop, 2, 1);
        (uint256 day,,,) = wallet.room(agent);
        assertEq(day, DAY_CAP - 3);
    }

    /// @dev Freezing, cancelling and changing go on while USDC stands still.
    function test_governance_needs_no_usdc() public {
        vm.prank(treasury);
        usdc.pause();
        tightenBy(0, setFrozen(agent, true));
        submit(setFrozen(agent, false));
        enact(setPayee(stranger, payee()));
        (,, bool frozen) = wallet.agentLimits(agent);
        assertFalse(frozen);
    }

    /// @dev A dearer implementation: no fixed stipend stops it.
    function test_a_dearer_implementation_still_pays() public {
        OddToken dear = new OddToken();
        vm.etch(address(usdc), address(dear).code);
        dear = OddToken(address(usdc));
        dear.mint(address(wallet), FUNDS);
        dear.behave(OddToken.Way.Heavy);
        paySome(shop, 5, 0);
        wallet.payBatch(one(batchOf(agent, 1, pair(item(shop, 1), item(cafe, 1)))));
        assertEq(dear.balanceOf(shop), 6);
        assertEq(dear.balanceOf(cafe), 1);
    }
}
