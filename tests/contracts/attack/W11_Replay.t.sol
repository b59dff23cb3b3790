// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {Batch, IPolicyWallet} from "contracts/interfaces/IPolicyWallet.sol";
import {Payment, Stage} from "./Stage.sol";

/// @dev W11. A signature used again: by time, agent, wallet, chain, version of the domain, or door.
contract W11_Replay is Stage {
    bytes private invalid = abi.encodeWithSelector(IPolicyWallet.InvalidSignature.selector);

    function test_twice() public {
        Payment memory p = payment(shop, 5, 3);
        (bytes32 r, bytes32 vs) = compact(agentKey, digestOf(p));
        send(p, r, vs);
        refusedWith(p, r, vs, abi.encodeWithSelector(IPolicyWallet.NonceUsed.selector, 3));
        assertEq(usdc.balanceOf(shop), 5);
    }

    function test_for_another_agent() public {
        Payment memory p = payment(shop, 5, 0);
        (bytes32 r, bytes32 vs) = compact(agentKey, digestOf(p));
        p.agent = agent2;
        refusedWith(p, r, vs, invalid);
    }

    function test_each_field_is_bound() public {
        Payment memory p = payment(shop, 5, 0);
        (bytes32 r, bytes32 vs) = compact(agentKey, digestOf(p));
        p.to = cafe;
        refusedWith(p, r, vs, invalid);
        p = payment(shop, 6, 0);
        refusedWith(p, r, vs, invalid);
        p = payment(shop, 5, 1);
        refusedWith(p, r, vs, invalid);
        p = payment(shop, 5, 0);
        p.deadline = FAR - 1;
        refusedWith(p, r, vs, invalid);
        p = payment(shop, 5, 0);
        p.context = bytes32(uint256(1));
        refusedWith(p, r, vs, invalid);
    }

    function test_at_another_wallet_of_the_same_organisation() public {
        Payment memory p = payment(shop, 5, 0);
        (bytes32 r, bytes32 vs) = compact(agentKey, digestOf(p));
        p.wallet = deploy(address(usdc), baseChanges());
        fund(address(p.wallet), FUNDS);
        refusedWith(p, r, vs, invalid);
    }

    function test_on_another_chain_even_after_a_fork() public {
        Payment memory p = payment(shop, 5, 0);
        (bytes32 r, bytes32 vs) = compact(agentKey, digestOf(p));
        vm.chainId(block.chainid + 1);
        refusedWith(p, r, vs, invalid);
        pay(p); // signed for the chain it now finds itself on
        assertEq(usdc.balanceOf(shop), 5);
    }

    function test_under_another_name_or_version_of_the_domain() public {
        Payment memory p = payment(shop, 5, 0);
        bytes32 structHash = keccak256(abi.encode(PAYMENT, agent, shop, 5, 0, FAR, bytes32(0)));
        string[2] memory names = ["PolicyWallet", "policyWallet"];
        string[2] memory versions = ["2", "1"];
        for (uint256 i; i < 2; ++i) {
            bytes32 other = keccak256(
                abi.encode(
                    keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"),
                    keccak256(bytes(names[i])),
                    keccak256(bytes(versions[i])),
                    block.chainid,
                    address(wallet)
                )
            );
            (bytes32 r, bytes32 vs) = compact(agentKey, keccak256(abi.encodePacked(hex"1901", other, structHash)));
            refusedWith(p, r, vs, invalid);
        }
        (bytes32 bareR, bytes32 bareVs) = compact(agentKey, structHash);
        refusedWith(p, bareR, bareVs, invalid);
    }

    /* ANOTHER DOOR */

    function test_payment_as_approved_payment_and_back() public {
        Payment memory p = payment(shop, 5, 0);
        (, uint256 version,) = wallet.agentLimits(agent);
        bytes32 approved = approvedDigest(p, 1, version);
        (bytes32 r, bytes32 vs) = compact(agentKey, digestOf(p));
        bytes memory quorum = quorumFor(approved);
        vm.expectRevert(invalid);
        wallet.payApproved(agent, shop, 5, 0, FAR, 0, 1, version, r, vs, quorum);

        (r, vs) = compact(agentKey, approved);
        refusedWith(p, r, vs, invalid);
    }

    /// @dev The agent's signature of the plain payment, with a real quorum over the approved one.
    function test_quorum_over_the_plain_payment_is_no_approval() public {
        Payment memory p = payment(shop, CEILING + 1, 0);
        (, uint256 version,) = wallet.agentLimits(agent);
        (bytes32 r, bytes32 vs) = compact(agentKey, approvedDigest(p, 1, version));
        bytes memory quorum = quorumFor(digestOf(p));
        vm.expectRevert(IPolicyWallet.InvalidQuorum.selector);
        wallet.payApproved(agent, shop, p.amount, 0, FAR, 0, 1, version, r, vs, quorum);
    }

    function test_batch_as_payment_and_back() public {
        Batch memory b = batchOf(agent, 0, pair(item(shop, 5), item(shop, 5)));
        Payment memory p = payment(shop, 5, 0);
        refusedWith(p, b.r, b.vs, invalid);
        (b.r, b.vs) = compact(agentKey, digestOf(p));
        vm.expectEmit(address(wallet));
        emit IPolicyWallet.BatchSkipped(agent, 0, IPolicyWallet.InvalidSignature.selector);
        wallet.payBatch(one(b));
        assertEq(usdc.balanceOf(shop), 0);
    }

    function test_one_nonce_serves_all_doors_once() public {
        paySome(shop, 5, 0);
        vm.expectEmit(address(wallet));
        emit IPolicyWallet.BatchSkipped(agent, 0, IPolicyWallet.NonceUsed.selector);
        wallet.payBatch(one(batchOf(agent, 0, pair(item(shop, 5), item(shop, 5)))));

        Payment memory p = payment(shop, CEILING + 1, 0);
        (, uint256 version,) = wallet.agentLimits(agent);
        bytes32 digest = approvedDigest(p, 1, version);
        (bytes32 r, bytes32 vs) = compact(agentKey, digest);
        bytes memory quorum = quorumFor(digest);
        vm.expectRevert(abi.encodeWithSelector(IPolicyWallet.NonceUsed.selector, 0));
        wallet.payApproved(agent, shop, p.amount, 0, FAR, 0, 1, version, r, vs, quorum);

        wallet.payBatch(one(batchOf(agent, 1, pair(item(shop, 5), item(shop, 5)))));
        refused(payment(shop, 5, 1), abi.encodeWithSelector(IPolicyWallet.NonceUsed.selector, 1));
        assertEq(usdc.balanceOf(shop), 15);
    }

    /// @dev One operator's Tighten is no vote for a Change of the same bytes, nonce and deadline, nor the reverse.
    function test_tighten_and_change_do_not_stand_for_each_other() public {
        bytes memory change = setFrozen(agent, true);
        bytes memory asTighten = quorumFor(tightenDigest(address(wallet), change, 0, FAR));
        vm.expectRevert(IPolicyWallet.InvalidQuorum.selector);
        wallet.submit(change, 0, FAR, asTighten);

        bytes memory asChange = signed65(operatorKeys[0], changeDigest(address(wallet), change, 0, FAR));
        vm.expectRevert(invalid);
        wallet.tightenWithSignature(change, abi.encodePacked(operators[0]), 0, FAR, asChange);
    }

    function test_change_submitted_again_with_the_same_signatures() public {
        bytes memory change = abi.encodeWithSignature("publishPolicy(bytes32)", bytes32("a"));
        bytes memory quorum = quorumFor(changeDigest(address(wallet), change, 40, FAR));
        wallet.submit(change, 40, FAR, quorum);
        vm.expectRevert(abi.encodeWithSelector(IPolicyWallet.NonceUsed.selector, 40));
        wallet.submit(change, 40, FAR, quorum);
    }

    function test_withdrawal_by_the_same_signatures_happens_once() public {
        bytes memory change = abi.encodeWithSignature("withdraw(address,uint256)", treasury, 9);
        bytes memory quorum = quorumFor(changeDigest(address(wallet), change, 41, FAR));
        wallet.submit(change, 41, FAR, quorum);
        vm.expectRevert(abi.encodeWithSelector(IPolicyWallet.NonceUsed.selector, 41));
        wallet.submit(change, 41, FAR, quorum);
        assertEq(usdc.balanceOf(treasury), 9);
    }

    function test_tightening_by_the_same_signature_happens_once() public {
        bytes memory change = setFrozen(address(0), true);
        bytes memory signer = abi.encodePacked(operators[0]);
        bytes memory signature = signed65(operatorKeys[0], tightenDigest(address(wallet), change, 4, FAR));
        wallet.tightenWithSignature(change, signer, 4, FAR, signature);
        submit(setFrozen(address(0), false));
        vm.expectRevert(abi.encodeWithSelector(IPolicyWallet.NonceUsed.selector, 4));
        wallet.tightenWithSignature(change, signer, 4, FAR, signature);
        assertFalse(wallet.walletFrozen());
    }
}
