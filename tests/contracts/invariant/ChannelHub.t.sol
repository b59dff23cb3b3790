// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {HubHandler} from "./HubHandler.sol";
import {Test} from "forge-std/Test.sol";

/// @dev I12 to I16 after every step of a campaign, I17 at its end. That each step ends as the ghosts predict is the
/// handler's to check; so is I19 there: all five ways to claim have one prediction.
contract ChannelHubTest is Test {
    HubHandler private handler;

    function setUp() public {
        handler = new HubHandler();
        handler.setUp();
        bytes4[] memory steps = new bytes4[](10);
        steps[0] = HubHandler.deposit.selector;
        steps[1] = HubHandler.claim.selector;
        steps[2] = HubHandler.settle.selector;
        steps[3] = HubHandler.initiate.selector;
        steps[4] = HubHandler.finalize.selector;
        steps[5] = HubHandler.refund.selector;
        steps[6] = HubHandler.blockAccount.selector;
        steps[7] = HubHandler.donate.selector;
        steps[8] = HubHandler.pass.selector;
        steps[9] = HubHandler.claim.selector; // twice as often
        targetContract(address(handler));
        targetSelector(FuzzSelector(address(handler), steps));
    }

    /// forge-config: default.invariant.runs = 24
    /// forge-config: default.invariant.depth = 100
    /// forge-config: ci.invariant.runs = 150
    /// forge-config: ci.invariant.depth = 150
    function invariant_channels_are_as_foreseen() public view {
        handler.agrees();
    }

    function afterInvariant() public {
        handler.endAll();
    }
}
