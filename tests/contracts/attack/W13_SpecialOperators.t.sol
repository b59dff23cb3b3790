// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {ERC7913P256Verifier} from "@openzeppelin/contracts/utils/cryptography/verifiers/ERC7913P256Verifier.sol";
import {
    ERC7913WebAuthnVerifier
} from "@openzeppelin/contracts/utils/cryptography/verifiers/ERC7913WebAuthnVerifier.sol";
import {Base64} from "@openzeppelin/contracts/utils/Base64.sol";
import {IPolicyWallet} from "contracts/interfaces/IPolicyWallet.sol";
import {ContractOperator, OddOperator, ReentrantOperator} from "./Operators.sol";
import {Payment, Stage} from "./Stage.sol";

/// @dev W13, second part. Operators that are contracts or passkeys: honest ones count once, hostile ones never help
/// anybody but themselves.
contract W13_SpecialOperators is Stage {
    uint256 private constant LARGE = CEILING + 1;
    uint256 private constant P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551;
    uint256 private constant PASSKEY = uint256(keccak256("passkey"));

    /// @dev A wallet of operator 0 and `special`, both needed.
    function _with(bytes memory special) private {
        bytes[] memory set = new bytes[](2);
        (set[0], set[1]) = (abi.encodePacked(operators[0]), special);
        wallet = deployFor(address(usdc), set, 2, DELAY, baseChanges());
        fund(address(wallet), FUNDS);
    }

    function _digest() private view returns (bytes32) {
        return approvedDigest(payment(shop, LARGE, 0), 1, 1);
    }

    function _quorum(bytes memory special, bytes memory signature) private view returns (bytes memory) {
        bytes[] memory signers = new bytes[](2);
        bytes[] memory signatures = new bytes[](2);
        (signers[0], signatures[0]) = (abi.encodePacked(operators[0]), signed65(operatorKeys[0], _digest()));
        (signers[1], signatures[1]) = (special, signature);
        return packQuorum(signers, signatures);
    }

    function _passes(bytes memory special, bytes memory signature) private {
        sendApproved(payment(shop, LARGE, 0), 1, 1, _quorum(special, signature));
        assertEq(usdc.balanceOf(shop), LARGE);
    }

    function _refused(bytes memory special, bytes memory signature) private {
        bytes memory quorum = _quorum(special, signature);
        (bytes32 r, bytes32 vs) = compact(agentKey, _digest());
        vm.expectRevert(IPolicyWallet.InvalidQuorum.selector);
        wallet.payApproved(agent, shop, LARGE, 0, FAR, 0, 1, 1, r, vs, quorum);
        assertEq(usdc.balanceOf(shop), 0);
    }

    /* CONTRACTS */

    function test_contract_operator_by_its_owner() public {
        uint256 key = uint256(keccak256("safe owner"));
        bytes memory safe = abi.encodePacked(address(new ContractOperator(vm.addr(key))));
        _with(safe);
        _refused(safe, signed65(agentKey, _digest()));
        _refused(safe, "");
        _passes(safe, signed65(key, _digest()));
    }

    function test_contract_operator_tightens_by_calling() public {
        ContractOperator safe = new ContractOperator(address(this));
        _with(abi.encodePacked(address(safe)));
        safe.call(address(wallet), abi.encodeCall(IPolicyWallet.tighten, (setFrozen(address(0), true))));
        assertTrue(wallet.walletFrozen());
    }

    /// @dev Asked inside payApproved, it tries to freeze, to submit and to pay; each write must fail.
    function test_reentrant_operator_writes_nothing() public {
        ReentrantOperator hostile = new ReentrantOperator(address(wallet));
        bytes memory signer = abi.encodePacked(address(hostile));
        _with(signer);
        hostile = new ReentrantOperator(address(wallet));
        vm.etch(address(bytes20(signer)), address(hostile).code);
        hostile = ReentrantOperator(address(bytes20(signer)));

        Payment memory small = payment(cafe, 1, 9);
        (bytes32 r, bytes32 vs) = compact(agentKey, digestOf(small));
        bytes[3] memory payloads = [
            abi.encodeCall(IPolicyWallet.tighten, (setFrozen(address(0), true))),
            abi.encodeCall(IPolicyWallet.pay, (agent, cafe, 1, 9, FAR, 0, r, vs)),
            abi.encodeCall(IPolicyWallet.cancelNonce, (0))
        ];
        for (uint256 i; i < 3; ++i) {
            uint256 before = vm.snapshotState();
            hostile.arm(payloads[i]);
            sendApproved(payment(shop, LARGE, 0), 1, 1, _quorum(signer, ""));
            assertEq(usdc.balanceOf(shop), LARGE);
            assertEq(usdc.balanceOf(cafe), 0);
            assertFalse(wallet.walletFrozen());
            vm.revertToState(before);
        }
    }

    function test_operators_with_odd_answers_do_not_count() public {
        OddOperator.Way[5] memory ways = [
            OddOperator.Way.ShortAnswer,
            OddOperator.Way.Bomb,
            OddOperator.Way.BurnsAllGas,
            OddOperator.Way.True,
            OddOperator.Way.RightWordDirty
        ];
        for (uint256 i; i < ways.length; ++i) {
            bytes memory signer = abi.encodePacked(address(new OddOperator(ways[i])));
            _with(signer);
            bytes memory quorum = _quorum(signer, "");
            (bytes32 r, bytes32 vs) = compact(agentKey, _digest());
            (bool done,) = address(wallet).call{gas: 3_000_000}(
                abi.encodeCall(IPolicyWallet.payApproved, (agent, shop, LARGE, 0, FAR, 0, 1, 1, r, vs, quorum))
            );
            assertFalse(done);
        }
        assertEq(usdc.balanceOf(shop), 0);
    }

    /// @dev A verifier that is no contract answers nothing, which is no yes.
    function test_verifier_without_code() public {
        bytes memory signer = abi.encodePacked(makeAddr("no verifier"), bytes32("key"));
        _with(signer);
        _refused(signer, hex"00");
    }

    /* PASSKEYS */

    function _p256(bytes32 digest) private pure returns (bytes32 r, bytes32 s) {
        (r, s) = vm.signP256(PASSKEY % P256_ORDER, digest);
        if (uint256(s) > P256_ORDER / 2) s = bytes32(P256_ORDER - uint256(s));
    }

    function _key() private pure returns (bytes memory) {
        (uint256 x, uint256 y) = vm.publicKeyP256(PASSKEY % P256_ORDER);
        return abi.encode(x, y);
    }

    function test_p256_operator() public {
        bytes memory signer = bytes.concat(bytes20(address(new ERC7913P256Verifier())), _key());
        _with(signer);
        (bytes32 r, bytes32 s) = _p256(keccak256("another digest"));
        _refused(signer, abi.encode(r, s));
        (r, s) = _p256(_digest());
        _refused(signer, abi.encode(r, P256_ORDER - uint256(s))); // high s
        _refused(signer, abi.encodePacked(r));
        _passes(signer, abi.encode(r, s));
    }

    /// @dev A passkey can't send transactions: it tightens by signature, once.
    function test_p256_operator_freezes_by_signature() public {
        bytes memory signer = bytes.concat(bytes20(address(new ERC7913P256Verifier())), _key());
        _with(signer);
        bytes memory change = setFrozen(address(0), true);
        (bytes32 r, bytes32 s) = _p256(tightenDigest(address(wallet), change, 3, FAR));
        wallet.tightenWithSignature(change, signer, 3, FAR, abi.encode(r, s));
        assertTrue(wallet.walletFrozen());
        vm.expectRevert(abi.encodeWithSelector(IPolicyWallet.NonceUsed.selector, 3));
        wallet.tightenWithSignature(change, signer, 3, FAR, abi.encode(r, s));
    }

    /// @dev The verifier's address alone is no operator, though it begins the signer's bytes.
    function test_the_verifier_itself_is_no_operator() public {
        address verifier = address(new ERC7913P256Verifier());
        _with(bytes.concat(bytes20(verifier), _key()));
        vm.expectRevert(abi.encodeWithSelector(IPolicyWallet.NotOperator.selector, verifier));
        vm.prank(verifier);
        wallet.tighten(setFrozen(address(0), true));
    }

    function test_webauthn_operator() public {
        bytes memory signer = bytes.concat(bytes20(address(new ERC7913WebAuthnVerifier())), _key());
        _with(signer);
        _refused(signer, _assertion(keccak256("another digest"), 0x05));
        _refused(signer, _assertion(_digest(), 0x01)); // the user was present but not verified
        _passes(signer, _assertion(_digest(), 0x05));
    }

    function _assertion(bytes32 digest, bytes1 flags) private pure returns (bytes memory) {
        bytes memory authenticatorData = abi.encodePacked(sha256("wallet.example.com"), flags, uint32(0));
        string memory client = string.concat(
            '{"type":"webauthn.get","challenge":"',
            Base64.encodeURL(abi.encodePacked(digest)),
            '","origin":"https://wallet.example.com","crossOrigin":false}'
        );
        (bytes32 r, bytes32 s) = _p256(sha256(abi.encodePacked(authenticatorData, sha256(bytes(client)))));
        return abi.encode(r, s, uint256(23), uint256(1), authenticatorData, client);
    }
}
