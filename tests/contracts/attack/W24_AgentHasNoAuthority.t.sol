// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {IPolicyChanges, IPolicyWallet} from "contracts/interfaces/IPolicyWallet.sol";
import {Stage} from "./Stage.sol";

/// @dev W24. An agent (or anyone) tries to change the policy, to leave an allowance, or to speak for the wallet.
contract W24_AgentHasNoAuthority is Stage {
    function _changes() private view returns (bytes[] memory all) {
        all = new bytes[](12);
        all[0] = setAgent(agent, limits());
        all[1] = setPayee(stranger, payee());
        all[2] = setCap(type(uint256).max);
        all[3] = setFrozen(agent, false);
        all[4] = abi.encodeCall(IPolicyChanges.setOperators, (operatorSet(), new bytes[](0), 1));
        all[5] = abi.encodeCall(IPolicyChanges.setDelay, (IPolicyChanges.setAgent.selector, 0));
        all[6] = abi.encodeCall(IPolicyChanges.publishPolicy, (bytes32("mine")));
        all[7] = abi.encodeCall(IPolicyChanges.withdraw, (agent, 1));
        all[8] = abi.encodeCall(IPolicyChanges.setCoupons, (agent, type(uint256).max));
        all[9] = abi.encodeCall(IPolicyChanges.setChannelAuthorizer, (agent, 1));
        all[10] = abi.encodeCall(IPolicyChanges.cancelAgentNonce, (agent2, 0));
        all[11] = abi.encodeCall(IPolicyChanges.revoke, (setPayee(stranger, payee())));
    }

    function test_no_change_is_callable_by_itself() public {
        bytes[] memory all = _changes();
        address[3] memory callers = [agent, operators[0], address(wallet)];
        for (uint256 i; i < all.length; ++i) {
            for (uint256 c; c < 3; ++c) {
                vm.prank(callers[c]);
                (bool done,) = address(wallet).call(all[i]);
                assertFalse(done, "a change ran by itself");
            }
        }
    }

    function test_agent_cannot_tighten_submit_or_execute() public {
        bytes[] memory all = _changes();
        for (uint256 i; i < all.length; ++i) {
            vm.expectRevert(abi.encodeWithSelector(IPolicyWallet.NotOperator.selector, agent));
            vm.prank(agent);
            wallet.tighten(all[i]);

            bytes[] memory signers = new bytes[](2);
            bytes[] memory signatures = new bytes[](2);
            bytes32 digest = changeDigest(address(wallet), all[i], i, FAR);
            (signers[0], signatures[0]) = (abi.encodePacked(agent), signed65(agentKey, digest));
            (signers[1], signatures[1]) = (abi.encodePacked(agent2), signed65(agent2Key, digest));
            bytes memory quorum = packQuorum(signers, signatures);
            vm.expectRevert(IPolicyWallet.InvalidQuorum.selector);
            vm.prank(agent);
            wallet.submit(all[i], i, FAR, quorum);

            vm.expectRevert(abi.encodeWithSelector(IPolicyWallet.NotPending.selector, keccak256(all[i])));
            vm.prank(agent);
            wallet.execute(all[i]);

            bytes memory signature = signed65(agentKey, tightenDigest(address(wallet), all[i], i, FAR));
            bytes memory signer = abi.encodePacked(agent);
            vm.expectPartialRevert(IPolicyWallet.NotOperator.selector);
            wallet.tightenWithSignature(all[i], signer, i, FAR, signature);
        }
    }

    /// @dev One operator can do nothing that loosens.
    function test_one_operator_cannot_loosen() public {
        enact(setCap(5 * USD)); // else there is no cap to loosen
        bytes[] memory all = _changes();
        for (uint256 i = 1; i < 10; ++i) {
            vm.prank(operators[0]);
            (bool done, bytes memory why) = address(wallet).call(abi.encodeCall(IPolicyWallet.tighten, (all[i])));
            assertFalse(done, "loosened by one");
            assertEq(bytes4(why), IPolicyWallet.NotTightening.selector);
        }
    }

    /// @dev No ERC-20 verb but transfer can come out of it: the wallet has no such functions and signs nothing.
    function test_no_allowance_by_any_verb() public {
        bytes[] memory verbs = new bytes[](7);
        verbs[0] = abi.encodeCall(usdc.approve, (agent, 1));
        verbs[1] = abi.encodeWithSignature("increaseAllowance(address,uint256)", agent, 1);
        verbs[2] = abi.encodeCall(usdc.transfer, (agent, 1));
        verbs[3] = abi.encodeCall(usdc.transferFrom, (address(wallet), agent, 1));
        verbs[4] = abi.encodeWithSignature("execute(address,uint256,bytes)", usdc, 0, verbs[0]);
        verbs[5] = abi.encodeWithSignature("multicall(bytes[])", verbs);
        verbs[6] = "";
        for (uint256 i; i < verbs.length; ++i) {
            vm.prank(agent);
            (bool done,) = address(wallet).call(verbs[i]);
            assertFalse(done);
        }
        assertEq(usdc.allowance(address(wallet), agent), 0);
        assertEq(usdc.balanceOf(address(wallet)), FUNDS);
    }

    /// @dev USDC asks contract holders by ERC-1271: whatever the agent or the operators signed, the wallet says no.
    function test_no_permit_and_no_authorization_in_the_wallets_name() public {
        bytes32 permitHash = keccak256(abi.encode(usdc.PERMIT_TYPEHASH(), address(wallet), agent, 1, 0, FAR));
        bytes32 transferHash = keccak256(
            abi.encode(usdc.TRANSFER_WITH_AUTHORIZATION_TYPEHASH(), address(wallet), agent, 1, 0, FAR, bytes32(0))
        );
        bytes32 domainOfUsdc = usdc.DOMAIN_SEPARATOR();
        bytes32 permitDigest = keccak256(abi.encodePacked(hex"1901", domainOfUsdc, permitHash));
        bytes32 transferDigest = keccak256(abi.encodePacked(hex"1901", domainOfUsdc, transferHash));
        uint256[2] memory keys = [agentKey, operatorKeys[0]];
        for (uint256 i; i < 2; ++i) {
            bytes memory signature = signed65(keys[i], permitDigest);
            vm.expectRevert();
            usdc.permit(address(wallet), agent, 1, FAR, signature);
            signature = signed65(keys[i], transferDigest);
            vm.expectRevert();
            usdc.transferWithAuthorization(address(wallet), agent, 1, 0, FAR, 0, signature);
        }
        bytes memory votes = quorumFor(permitDigest);
        vm.expectRevert();
        usdc.permit(address(wallet), agent, 1, FAR, votes);
        assertEq(usdc.allowance(address(wallet), agent), 0);
        assertEq(usdc.balanceOf(agent), 0);
    }

    function test_no_door_leaves_an_allowance() public {
        paySome(shop, 1, 0);
        payApproved(payment(stranger, CEILING + 1, 1), 3);
        wallet.payBatch(one(batchOf(agent, 2, pair(item(shop, 1), item(cafe, 1)))));
        submit(abi.encodeCall(IPolicyChanges.withdraw, (treasury, 1)));
        address[6] memory all = [shop, cafe, stranger, agent, treasury, address(this)];
        for (uint256 i; i < 6; ++i) {
            assertEq(usdc.allowance(address(wallet), all[i]), 0);
        }
    }

    function test_no_ether_gets_stuck() public {
        vm.deal(agent, 1 ether);
        vm.prank(agent);
        (bool done,) = address(wallet).call{value: 1}("");
        assertFalse(done);
    }
}
