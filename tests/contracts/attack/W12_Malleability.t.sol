// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {AgentLimits, IPolicyWallet} from "contracts/interfaces/IPolicyWallet.sol";
import {Payment, Stage} from "./Stage.sol";

/// @dev W12. Signatures bent into other shapes, and calldata that is not what the compiler would have made.
contract W12_Malleability is Stage {
    uint256 private constant ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141;
    bytes private invalid = abi.encodeWithSelector(IPolicyWallet.InvalidSignature.selector);

    function test_agent_signature_bent() public {
        Payment memory p = payment(shop, 5, 0);
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(agentKey, digestOf(p));
        bytes32 parity = bytes32(uint256(v - 27) << 255);
        bytes32 high = bytes32(ORDER - uint256(s));
        refusedWith(p, r, high, invalid); // v 27, high s: its top bit reads as parity
        refusedWith(p, r, high | bytes32(uint256(1) << 255), invalid);
        refusedWith(p, r, s | (parity ^ bytes32(uint256(1) << 255)), invalid); // the other parity
        refusedWith(p, 0, 0, invalid);
        refusedWith(p, r, 0, invalid);
        refusedWith(p, 0, s | parity, invalid);
        refusedWith(p, bytes32(ORDER), s | parity, invalid);
        refusedWith(p, bytes32(type(uint256).max), bytes32(type(uint256).max), invalid);
        send(p, r, s | parity);
        assertEq(usdc.balanceOf(shop), 5);
    }

    /// @dev s between half the order and 2^255 fits the compact form. It is refused; but the window is 2^-128 wide and
    /// the digest holds the agent's address, so no valid signature with such an s can be made to show which rule does it.
    function test_compact_high_s_is_refused() public {
        Payment memory p = payment(shop, 5, 0);
        refusedWith(p, bytes32(uint256(1)), bytes32(ORDER / 2 + 1), invalid);
    }

    /// @dev A failed recovery gives address 0: it must be nobody's signature.
    function test_zero_signer_is_no_agent() public {
        Payment memory p = payment(shop, 5, 0);
        p.agent = address(0);
        vm.expectRevert(invalid);
        send(p, 0, 0);
        bytes memory change = setAgent(address(0), limits());
        bytes memory quorum = quorumFor(changeDigest(address(wallet), change, 50, FAR));
        try wallet.submit(change, 50, FAR, quorum) {
            vm.warp(wallet.readyAt(change));
            vm.expectRevert(IPolicyWallet.InvalidChange.selector);
            wallet.execute(change);
        } catch (bytes memory why) {
            assertEq(bytes4(why), IPolicyWallet.InvalidChange.selector);
        }
        vm.expectRevert(invalid);
        send(p, 0, 0);
    }

    /// @dev Operators sign 65 bytes: every other shape of the same signature is refused.
    function test_operator_signature_bent() public {
        bytes memory change = setFrozen(address(0), true);
        bytes memory signer = abi.encodePacked(operators[0]);
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(operatorKeys[0], tightenDigest(address(wallet), change, 0, FAR));
        bytes32 high = bytes32(ORDER - uint256(s));
        bytes[] memory bent = new bytes[](8);
        bent[0] = abi.encodePacked(r, high, uint8(v == 27 ? 28 : 27));
        bent[1] = abi.encodePacked(r, s, uint8(v - 27));
        bent[2] = abi.encodePacked(r, s, uint8(v == 27 ? 28 : 27));
        bent[3] = abi.encodePacked(r, s | bytes32(uint256(v - 27) << 255));
        bent[4] = abi.encodePacked(r, s, v, uint8(0));
        bent[5] = "";
        bent[6] = abi.encodePacked(bytes32(0), bytes32(0), uint8(0));
        bent[7] = abi.encodePacked(r, s);
        for (uint256 i; i < bent.length; ++i) {
            vm.expectRevert(invalid);
            wallet.tightenWithSignature(change, signer, 0, FAR, bent[i]);
        }
        assertFalse(wallet.walletFrozen());
        wallet.tightenWithSignature(change, signer, 0, FAR, abi.encodePacked(r, s, v));
        assertTrue(wallet.walletFrozen());
    }

    function test_dirty_address_bits_in_calldata_are_refused() public {
        Payment memory p = payment(shop, 5, 0);
        (bytes32 r, bytes32 vs) = compact(agentKey, digestOf(p));
        bytes memory good = abi.encodeCall(IPolicyWallet.pay, (agent, shop, 5, 0, FAR, 0, r, vs));
        for (uint256 byte_ = 4; byte_ <= 36; byte_ += 32) {
            bytes memory dirty = bytes.concat(good);
            dirty[byte_] = 0x01;
            (bool done,) = address(wallet).call(dirty);
            assertFalse(done);
        }
        assertFalse(wallet.nonceUsed(agent, 0));
        (bool paid,) = address(wallet).call(bytes.concat(good, hex"deadbeef")); // trailing bytes say nothing
        assertTrue(paid);
        assertEq(usdc.balanceOf(shop), 5);
    }

    /// @dev A change with dirty or missing or trailing bytes must not run as something else than was shown.
    function test_bent_changes_do_not_run() public {
        bytes memory change = setFrozen(agent, true);
        bytes[] memory bent = new bytes[](4);
        bent[0] = bytes.concat(change);
        bent[0][4] = 0x01; // dirty address
        bent[1] = bytes.concat(change);
        bent[1][67] = 0x02; // a bool of 2
        bent[2] = new bytes(change.length - 1);
        for (uint256 i; i < bent[2].length; ++i) {
            bent[2][i] = change[i];
        }
        bent[3] = hex"01"; // no selector
        for (uint256 i; i < bent.length; ++i) {
            vm.prank(operators[0]);
            (bool done,) = address(wallet).call(abi.encodeCall(IPolicyWallet.tighten, (bent[i])));
            assertFalse(done);
        }
        (,, bool frozen) = wallet.agentLimits(agent);
        assertFalse(frozen);
    }

    function test_wide_values_in_changes_are_refused() public {
        AgentLimits memory l = limits();
        bytes memory change = setAgent(agent, l);
        for (uint256 field = 1; field < 7; ++field) {
            bytes memory wide = bytes.concat(change);
            wide[4 + 32 * field] = 0x80;
            vm.prank(operators[0]);
            (bool done,) = address(wallet).call(abi.encodeCall(IPolicyWallet.tighten, (wide)));
            assertFalse(done);
        }
    }
}
