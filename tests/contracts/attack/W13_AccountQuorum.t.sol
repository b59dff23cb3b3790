// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {IPolicyChanges, IPolicyWallet} from "contracts/interfaces/IPolicyWallet.sol";
import {MultiSignerERC7913} from "@openzeppelin/contracts/utils/cryptography/signers/MultiSignerERC7913.sol";
import {Stage} from "./Stage.sol";

/// @dev W13, the short form: EIP-2098 signatures of plain accounts, ascending.
contract W13_AccountQuorum is Stage {
    uint256 private constant LARGE = CEILING + 1;

    function _digest() private view returns (bytes32) {
        (, uint256 version,) = wallet.agentLimits(agent);
        return approvedDigest(payment(shop, LARGE, 0), 1, version);
    }

    function _short(uint256 key, bytes32 digest) private pure returns (bytes memory) {
        (bytes32 r, bytes32 vs) = compact(key, digest);
        return abi.encodePacked(r, vs);
    }

    /// @dev Operators `a` and `b` in ascending order of their accounts.
    function _both(uint256 a, uint256 b, bytes32 digest) private view returns (bytes memory) {
        if (operators[a] > operators[b]) (a, b) = (b, a);
        return bytes.concat(_short(operatorKeys[a], digest), _short(operatorKeys[b], digest));
    }

    function _send(bytes memory quorum) private {
        (, uint256 version,) = wallet.agentLimits(agent);
        sendApproved(payment(shop, LARGE, 0), 1, version, quorum);
    }

    function _refused(bytes memory quorum) private {
        (, uint256 version,) = wallet.agentLimits(agent);
        (bytes32 r, bytes32 vs) = compact(agentKey, _digest());
        vm.expectRevert(IPolicyWallet.InvalidQuorum.selector);
        wallet.payApproved(agent, shop, LARGE, 0, FAR, 0, 1, version, r, vs, quorum);
        assertEq(usdc.balanceOf(shop), 0);
    }

    function test_two_accounts_pass_the_ceiling() public {
        _send(_both(0, 1, _digest()));
        assertEq(usdc.balanceOf(shop), LARGE);
    }

    function test_every_operator_may_sign() public {
        bytes32 digest = _digest();
        (uint256[3] memory order) = [uint256(0), 1, 2];
        for (uint256 i; i < 3; ++i) {
            for (uint256 j = i + 1; j < 3; ++j) {
                if (operators[order[i]] > operators[order[j]]) (order[i], order[j]) = (order[j], order[i]);
            }
        }
        bytes memory all;
        for (uint256 i; i < 3; ++i) {
            all = bytes.concat(all, _short(operatorKeys[order[i]], digest));
        }
        _send(all);
        assertEq(usdc.balanceOf(shop), LARGE);
    }

    function test_too_few_twice_unsorted_foreign_or_cut() public {
        bytes32 digest = _digest();
        bytes memory one = _short(operatorKeys[0], digest);
        bytes memory good = _both(0, 1, digest);
        _refused("");
        _refused(one);
        _refused(bytes.concat(one, one));
        _refused(bytes.concat(one, _short(agentKey, digest)));
        _refused(bytes.concat(good, hex"00"));
        _refused(bytes.concat(good, _short(agentKey, digest)));
        (uint256 low, uint256 high) = operators[0] < operators[1] ? (0, 1) : (1, 0);
        _refused(bytes.concat(_short(operatorKeys[high], digest), _short(operatorKeys[low], digest)));
        _refused(_both(0, 1, keccak256("another digest")));
        bytes memory cut = new bytes(127);
        for (uint256 i; i < 127; ++i) {
            cut[i] = good[i];
        }
        _refused(cut);
    }

    /// @dev A high s is the same signature in another coat; compact form has no room for it but flipped parity.
    function test_flipped_parity_recovers_nobody_of_ours() public {
        bytes memory bad = _both(0, 1, _digest());
        bad[32] ^= 0x80;
        _refused(bad);
    }

    function test_a_raised_threshold() public {
        bytes memory good = _both(0, 1, _digest());
        enact(abi.encodeCall(IPolicyChanges.setOperators, (new bytes[](0), new bytes[](0), 3)));
        assertEq(MultiSignerERC7913(address(wallet)).threshold(), 3);
        _refused(good);
    }

    function test_a_removed_operator() public {
        bytes memory good = _both(0, 1, _digest());
        bytes[] memory out = new bytes[](1);
        out[0] = abi.encodePacked(operators[1]);
        enact(abi.encodeCall(IPolicyChanges.setOperators, (new bytes[](0), out, 2)));
        _refused(good);
    }

    /// @dev The threshold shares a word with freeze, cap and window: none disturbs another.
    function test_the_threshold_stands_beside_cap_freeze_and_window() public {
        enact(abi.encodeCall(IPolicyChanges.setWalletCap, (1_000_000_000e6)));
        paySome(shop, 5, 7);
        vm.prank(operators[0]);
        wallet.tighten(abi.encodeCall(IPolicyChanges.setFrozen, (address(0), true)));
        assertEq(MultiSignerERC7913(address(wallet)).threshold(), 2);
        assertEq(wallet.walletCap(), 1_000_000_000e6);
        assertTrue(wallet.walletFrozen());
        vm.warp(block.timestamp + 400 days);
        assertEq(MultiSignerERC7913(address(wallet)).threshold(), 2);
    }
}
