// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {IERC20Errors} from "@openzeppelin/contracts/interfaces/draft-IERC6093.sol";
import {IERC1271} from "@openzeppelin/contracts/interfaces/IERC1271.sol";
import {IERC3009, IERC3009Cancel} from "@openzeppelin/contracts/interfaces/draft-IERC3009.sol";
import {DevUSDC} from "contracts/DevUSDC.sol";
import {DevUSDCBase} from "./DevUSDCBase.sol";

/// @dev Accepts one digest with one signature, as a contract payer would; counts nothing, since it is only asked.
contract ContractPayer is IERC1271 {
    bytes32 public digest;
    bytes32 public signatureHash;

    function accept(bytes32 digest_, bytes calldata signature) external {
        digest = digest_;
        signatureHash = keccak256(signature);
    }

    function isValidSignature(bytes32 hash, bytes calldata signature) external view returns (bytes4) {
        return hash == digest && keccak256(signature) == signatureHash ? IERC1271.isValidSignature.selector : bytes4(0);
    }
}

/// @dev Says yes to everything, but writes first: only a plain call lets it through.
contract WritingPayer {
    uint256 public asked;

    function isValidSignature(bytes32, bytes calldata) external returns (bytes4) {
        ++asked;
        return IERC1271.isValidSignature.selector;
    }
}

/// @dev EIP-3009 and EIP-2612: official vectors, both overloads, each refusal, contract payers.
contract AuthorizationsTest is DevUSDCBase {
    /// @dev A0's signature of the 84532 transfer, as official clients produce it.
    bytes internal constant SIGNATURE =
        hex"a588d98daa3e5a9425fef32076085a5eb18f553a4fec6488b511a61f36037d7a6e11b1f519caba7fc3e67b2bd94a85bc522693a0329f3f6cbd125ead9a2687881b";
    /// @dev The order of secp256k1, for making the high-s twin of a signature.
    uint256 internal constant ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141;

    function test_digests_equal_the_official_vectors() public {
        assertEq(transferDigest(A0), 0x8ac137c2b876bcbfeafbc0cdface6ef0ed7efd348ea6d37be52918f273779d55);
        assertEq(receiveDigest(A0), 0x3538608c6afaa7ef2f6767013a4b26867c8fde82225e7cefe8b911ee22bdde5b);
        vm.chainId(31337);
        assertEq(transferDigest(A0), 0x9f21fb29e6d638c2ce21b0af56ea1f052b9b403b9cf7035d0031a4a1b78e7d23);
        assertEq(receiveDigest(A0), 0x03aa4d3f565e3d507db9ab5691979b37acd65f8856eb948182e7eeae80812f1e);
    }

    function test_selectors_are_the_published_ones() public pure {
        assertEq(IERC3009.transferWithAuthorization.selector, bytes4(0xe3ee160e));
        assertEq(IERC3009.receiveWithAuthorization.selector, bytes4(0xef55bec6));
        assertEq(IERC3009Cancel.cancelAuthorization.selector, bytes4(0x5a049a70));
        assertEq(IERC3009.authorizationState.selector, bytes4(0xe94a0102));
    }

    /* TRANSFER */

    function test_transfer_with_the_official_signature_bytes() public {
        vm.expectEmit(PLACE);
        emit IERC3009.AuthorizationUsed(A0, NONCE);
        (bool done,) =
            PLACE.call(abi.encodeWithSelector(bytes4(0xcf092995), A0, A1, VALUE, 0, BEFORE, NONCE, SIGNATURE));
        assertTrue(done);
        assertEq(usdc.balanceOf(A1), VALUE);
        assertTrue(usdc.authorizationState(A0, NONCE));
    }

    function test_transfer_with_the_official_signature_vrs() public {
        (bytes32 r, bytes32 s) = (_word(SIGNATURE, 0), _word(SIGNATURE, 32));
        assertFalse(usdc.authorizationState(A0, NONCE));
        usdc.transferWithAuthorization(A0, A1, VALUE, 0, BEFORE, NONCE, 27, r, s);
        assertEq(usdc.balanceOf(A1), VALUE);
        assertTrue(usdc.authorizationState(A0, NONCE));
    }

    function test_transfer_replay_is_refused_in_both_overloads() public {
        usdc.transferWithAuthorization(A0, A1, VALUE, 0, BEFORE, NONCE, SIGNATURE);
        bytes memory used = abi.encodeWithSelector(DevUSDC.AuthorizationUsedOrCanceled.selector, A0, NONCE);
        vm.expectRevert(used);
        usdc.transferWithAuthorization(A0, A1, VALUE, 0, BEFORE, NONCE, SIGNATURE);
        vm.expectRevert(used);
        usdc.transferWithAuthorization(A0, A1, VALUE, 0, BEFORE, NONCE, 27, _word(SIGNATURE, 0), _word(SIGNATURE, 32));
        assertEq(usdc.balanceOf(A1), VALUE);
    }

    function test_transfer_signature_is_bound_to_chain_and_every_field() public {
        bytes memory invalid = abi.encodeWithSelector(DevUSDC.InvalidSignature.selector, A0);
        address third = makeAddr("third");
        vm.expectRevert(invalid);
        usdc.transferWithAuthorization(A0, third, VALUE, 0, BEFORE, NONCE, SIGNATURE);
        vm.expectRevert(invalid);
        usdc.transferWithAuthorization(A0, A1, VALUE + 1, 0, BEFORE, NONCE, SIGNATURE);
        vm.expectRevert(invalid);
        usdc.transferWithAuthorization(A0, A1, VALUE, 1, BEFORE, NONCE, SIGNATURE);
        vm.expectRevert(invalid);
        usdc.transferWithAuthorization(A0, A1, VALUE, 0, BEFORE + 1, NONCE, SIGNATURE);
        vm.expectRevert(invalid);
        usdc.transferWithAuthorization(A0, A1, VALUE, 0, BEFORE, bytes32(uint256(2)), SIGNATURE);
        vm.chainId(31337);
        vm.expectRevert(invalid);
        usdc.transferWithAuthorization(A0, A1, VALUE, 0, BEFORE, NONCE, SIGNATURE);
    }

    function test_transfer_bounds_are_exclusive() public {
        bytes memory signature = signed(
            digest(
                keccak256(
                    abi.encode(usdc.TRANSFER_WITH_AUTHORIZATION_TYPEHASH(), A0, A1, VALUE, 1_800_000_010, BEFORE, NONCE)
                )
            )
        );
        vm.warp(1_800_000_010);
        vm.expectRevert(abi.encodeWithSelector(DevUSDC.AuthorizationNotYetValid.selector, 1_800_000_010));
        usdc.transferWithAuthorization(A0, A1, VALUE, 1_800_000_010, BEFORE, NONCE, signature);
        vm.warp(BEFORE);
        vm.expectRevert(abi.encodeWithSelector(DevUSDC.AuthorizationExpired.selector, BEFORE));
        usdc.transferWithAuthorization(A0, A1, VALUE, 1_800_000_010, BEFORE, NONCE, signature);
        vm.warp(BEFORE - 1);
        usdc.transferWithAuthorization(A0, A1, VALUE, 1_800_000_010, BEFORE, NONCE, signature);
        assertEq(usdc.balanceOf(A1), VALUE);
    }

    /// @dev Bit 47 is an ordinary bit here: some ERC-3009 code reads it as "these are block numbers".
    function test_transfer_far_times_are_seconds() public {
        uint256 flag = 1 << 47;
        bytes32 structHash =
            keccak256(abi.encode(usdc.TRANSFER_WITH_AUTHORIZATION_TYPEHASH(), A0, A1, VALUE, flag, flag | 1e12, NONCE));
        bytes memory signature = signed(digest(structHash));
        vm.roll(100);
        vm.expectRevert(abi.encodeWithSelector(DevUSDC.AuthorizationNotYetValid.selector, flag));
        usdc.transferWithAuthorization(A0, A1, VALUE, flag, flag | 1e12, NONCE, signature);
    }

    function test_transfer_refuses_malleable_and_odd_signatures() public {
        (bytes32 r, bytes32 s) = (_word(SIGNATURE, 0), _word(SIGNATURE, 32));
        bytes[] memory odd = new bytes[](7);
        odd[0] = abi.encodePacked(r, bytes32(ORDER - uint256(s)), uint8(28)); // high s, same signer
        odd[1] = abi.encodePacked(r, s, uint8(0));
        odd[2] = abi.encodePacked(r, s, uint8(28));
        odd[3] = abi.encodePacked(r, s); // compact is not FiatToken's form
        odd[4] = abi.encodePacked(SIGNATURE, uint8(0));
        odd[5] = "";
        odd[6] = abi.encodePacked(bytes32(0), bytes32(0), uint8(27));
        for (uint256 i; i < odd.length; ++i) {
            vm.expectRevert(abi.encodeWithSelector(DevUSDC.InvalidSignature.selector, A0));
            usdc.transferWithAuthorization(A0, A1, VALUE, 0, BEFORE, NONCE, odd[i]);
        }
        // The zero address is no signer: a failed recovery must not pass for it.
        vm.expectRevert(abi.encodeWithSelector(DevUSDC.InvalidSignature.selector, address(0)));
        usdc.transferWithAuthorization(address(0), A1, VALUE, 0, BEFORE, NONCE, odd[6]);
        assertFalse(usdc.authorizationState(A0, NONCE));
    }

    function test_transfer_refused_by_balance_or_blocklist_leaves_the_nonce() public {
        vm.prank(owner);
        usdc.blacklist(A1);
        vm.expectRevert(abi.encodeWithSelector(DevUSDC.AccountBlacklisted.selector, A1));
        usdc.transferWithAuthorization(A0, A1, VALUE, 0, BEFORE, NONCE, SIGNATURE);
        vm.prank(owner);
        usdc.unBlacklist(A1);
        vm.prank(A0);
        usdc.transfer(owner, 1_000_000);
        vm.expectRevert(abi.encodeWithSelector(IERC20Errors.ERC20InsufficientBalance.selector, A0, 0, VALUE));
        usdc.transferWithAuthorization(A0, A1, VALUE, 0, BEFORE, NONCE, SIGNATURE);
        assertFalse(usdc.authorizationState(A0, NONCE));
    }

    /* RECEIVE */

    function test_receive_only_by_the_payee() public {
        bytes memory signature = signed(receiveDigest(A0));
        vm.expectRevert(abi.encodeWithSelector(DevUSDC.CallerNotPayee.selector, address(this), A1));
        usdc.receiveWithAuthorization(A0, A1, VALUE, 0, BEFORE, NONCE, signature);
        vm.startPrank(A1);
        // A transfer's signature is another type.
        vm.expectRevert(abi.encodeWithSelector(DevUSDC.InvalidSignature.selector, A0));
        usdc.receiveWithAuthorization(A0, A1, VALUE, 0, BEFORE, NONCE, SIGNATURE);
        (bool done,) =
            PLACE.call(abi.encodeWithSelector(bytes4(0x88b7ab63), A0, A1, VALUE, 0, BEFORE, NONCE, signature));
        assertTrue(done);
        assertEq(usdc.balanceOf(A1), VALUE);
        vm.expectRevert(abi.encodeWithSelector(DevUSDC.AuthorizationUsedOrCanceled.selector, A0, NONCE));
        usdc.receiveWithAuthorization(
            A0, A1, VALUE, 0, BEFORE, NONCE, uint8(signature[64]), _word(signature, 0), _word(signature, 32)
        );
    }

    function test_receive_vrs() public {
        bytes memory signature = signed(receiveDigest(A0));
        vm.prank(A1);
        usdc.receiveWithAuthorization(
            A0, A1, VALUE, 0, BEFORE, NONCE, uint8(signature[64]), _word(signature, 0), _word(signature, 32)
        );
        assertEq(usdc.balanceOf(A1), VALUE);
    }

    /* CANCEL */

    function test_cancel_voids_the_authorization() public {
        vm.expectEmit(PLACE);
        emit IERC3009Cancel.AuthorizationCanceled(A0, NONCE);
        (bool done,) = PLACE.call(abi.encodeWithSelector(bytes4(0xb7b72899), A0, NONCE, signed(cancelDigest(A0))));
        assertTrue(done);
        assertTrue(usdc.authorizationState(A0, NONCE));
        vm.expectRevert(abi.encodeWithSelector(DevUSDC.AuthorizationUsedOrCanceled.selector, A0, NONCE));
        usdc.transferWithAuthorization(A0, A1, VALUE, 0, BEFORE, NONCE, SIGNATURE);
    }

    function test_cancel_vrs_twice_or_by_another_is_refused() public {
        bytes memory signature = signed(cancelDigest(A0));
        (uint8 v, bytes32 r, bytes32 s) = (uint8(signature[64]), _word(signature, 0), _word(signature, 32));
        vm.expectRevert(abi.encodeWithSelector(DevUSDC.InvalidSignature.selector, A1));
        usdc.cancelAuthorization(A1, NONCE, v, r, s);
        usdc.cancelAuthorization(A0, NONCE, v, r, s);
        vm.expectRevert(abi.encodeWithSelector(DevUSDC.AuthorizationUsedOrCanceled.selector, A0, NONCE));
        usdc.cancelAuthorization(A0, NONCE, v, r, s);
    }

    /* CONTRACT PAYERS */

    function test_contract_payer_is_asked_in_both_overloads() public {
        ContractPayer payer = new ContractPayer();
        vm.prank(owner);
        usdc.mint(address(payer), 2 * VALUE);

        payer.accept(transferDigest(address(payer)), hex"c0ffee");
        vm.expectRevert(abi.encodeWithSelector(DevUSDC.InvalidSignature.selector, address(payer)));
        usdc.transferWithAuthorization(address(payer), A1, VALUE, 0, BEFORE, NONCE, hex"c0ffef");
        usdc.transferWithAuthorization(address(payer), A1, VALUE, 0, BEFORE, NONCE, hex"c0ffee");

        bytes32 typehash = usdc.TRANSFER_WITH_AUTHORIZATION_TYPEHASH();
        bytes32 second = bytes32(uint256(2));
        bytes32 hash = digest(keccak256(abi.encode(typehash, address(payer), A1, VALUE, 0, BEFORE, second)));
        payer.accept(hash, abi.encodePacked(bytes32("r"), bytes32("s"), uint8(9)));
        usdc.transferWithAuthorization(address(payer), A1, VALUE, 0, BEFORE, second, 9, "r", "s");
        assertEq(usdc.balanceOf(A1), 2 * VALUE);

        payer.accept(cancelDigest(address(payer)), hex"01");
        vm.expectRevert(abi.encodeWithSelector(DevUSDC.AuthorizationUsedOrCanceled.selector, address(payer), NONCE));
        usdc.cancelAuthorization(address(payer), NONCE, hex"01");
    }

    /// @dev An account with code is never asked by ecrecover: A0 keeps its key, but its code decides.
    function test_key_of_an_account_with_code_is_not_enough() public {
        vm.etch(A0, address(new ContractPayer()).code);
        vm.expectRevert(abi.encodeWithSelector(DevUSDC.InvalidSignature.selector, A0));
        usdc.transferWithAuthorization(A0, A1, VALUE, 0, BEFORE, NONCE, SIGNATURE);
    }

    function test_contract_payer_is_asked_by_staticcall() public {
        WritingPayer payer = new WritingPayer();
        vm.prank(owner);
        usdc.mint(address(payer), VALUE);
        vm.expectRevert(abi.encodeWithSelector(DevUSDC.InvalidSignature.selector, address(payer)));
        usdc.transferWithAuthorization(address(payer), A1, VALUE, 0, BEFORE, NONCE, "");
        assertEq(payer.asked(), 0);
    }

    /* PERMIT */

    function test_permit_sets_the_allowance_once() public {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(A0_KEY, permitDigest(A0, 0, BEFORE));
        usdc.permit(A0, A1, VALUE, BEFORE, v, r, s);
        assertEq(usdc.allowance(A0, A1), VALUE);
        assertEq(usdc.nonces(A0), 1);
        vm.expectRevert(abi.encodeWithSelector(DevUSDC.InvalidSignature.selector, A0));
        usdc.permit(A0, A1, VALUE, BEFORE, v, r, s);
    }

    function test_permit_deadline_is_inclusive() public {
        bytes memory signature = signed(permitDigest(A0, 0, BEFORE));
        vm.warp(BEFORE + 1);
        vm.expectRevert(abi.encodeWithSelector(DevUSDC.PermitExpired.selector, BEFORE));
        usdc.permit(A0, A1, VALUE, BEFORE, signature);
        vm.warp(BEFORE);
        usdc.permit(A0, A1, VALUE, BEFORE, signature);
        assertEq(usdc.allowance(A0, A1), VALUE);
    }

    function test_permit_asks_a_contract_holder() public {
        ContractPayer holder = new ContractPayer();
        holder.accept(permitDigest(address(holder), 0, BEFORE), hex"02");
        vm.expectRevert(abi.encodeWithSelector(DevUSDC.InvalidSignature.selector, address(holder)));
        usdc.permit(address(holder), A1, VALUE, BEFORE, hex"03");
        usdc.permit(address(holder), A1, VALUE, BEFORE, hex"02");
        assertEq(usdc.allowance(address(holder), A1), VALUE);
    }

    function _word(bytes memory data, uint256 at) private pure returns (bytes32 word) {
        assembly ("memory-safe") {
            word := mload(add(add(data, 0x20), at))
        }
    }
}
