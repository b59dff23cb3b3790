// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {IERC20Errors} from "@openzeppelin/contracts/interfaces/draft-IERC6093.sol";
import {Pausable} from "@openzeppelin/contracts/utils/Pausable.sol";
import {DevUSDC} from "contracts/DevUSDC.sol";
import {DevUSDCBase} from "./DevUSDCBase.sol";

/// @dev The token itself: metadata, domain, owner, transfers, pause and blocklist.
contract DevUSDCTest is DevUSDCBase {
    function test_metadata_survives_placing() public view {
        assertEq(usdc.name(), "USDC");
        assertEq(usdc.symbol(), "USDC");
        assertEq(usdc.version(), "2");
        assertEq(usdc.decimals(), 6);
        assertEq(usdc.owner(), owner);
        assertEq(usdc.totalSupply(), 1_000_000);
    }

    function test_owner_slot_is_the_hash_it_claims() public view {
        assertEq(usdc.OWNER_SLOT(), bytes32(uint256(keccak256("bursar.DevUSDC.owner")) - 1));
    }

    function test_constructor_fills_the_owner_slot_and_no_other() public {
        vm.record();
        DevUSDC built = new DevUSDC(owner);
        (, bytes32[] memory writes) = vm.accesses(address(built));
        for (uint256 i; i < writes.length; ++i) {
            if (writes[i] != built.OWNER_SLOT()) assertEq(vm.load(address(built), writes[i]), 0);
        }
        assertEq(built.owner(), owner);
    }

    function test_without_the_slot_nobody_can_mint() public {
        vm.store(PLACE, usdc.OWNER_SLOT(), 0);
        vm.expectRevert(abi.encodeWithSelector(DevUSDC.NotOwner.selector, owner));
        vm.prank(owner);
        usdc.mint(A0, 1);
    }

    /// @dev Domain values computed with an independent encoder, equal to official clients' for this address.
    function test_domain_follows_chain_id_and_address() public {
        assertEq(usdc.DOMAIN_SEPARATOR(), 0x71f17a3b2ff373b803d70a5a07c046c1a2bc8e89c09ef722fcb047abe94c9818);
        vm.chainId(31337);
        assertEq(usdc.DOMAIN_SEPARATOR(), 0x1623e46c385f5fa772bbfcc6e467f4dcabc9ff8d3fa535d71a354f984859ada3);
        DevUSDC elsewhere = new DevUSDC(owner);
        assertTrue(elsewhere.DOMAIN_SEPARATOR() != usdc.DOMAIN_SEPARATOR());
    }

    function test_typehashes() public view {
        assertEq(
            usdc.TRANSFER_WITH_AUTHORIZATION_TYPEHASH(),
            0x7c7c6cdb67a18743f49ec6fa9b35f50d52ed05cbed4cc592e13b44501c1a2267
        );
        assertEq(
            usdc.RECEIVE_WITH_AUTHORIZATION_TYPEHASH(),
            0xd099cc98ef71107a616c4f0f941f04c322d8e254fe26b3c6668db87aae413de8
        );
        assertEq(
            usdc.CANCEL_AUTHORIZATION_TYPEHASH(), 0x158b0a9edf7a828aad02f63cd515c68ef2f50ba807396f6d12842833a1597429
        );
        assertEq(usdc.PERMIT_TYPEHASH(), 0x6e71edae12b1b97f4d1f60370fef10105fa2faae0126114a169c64845d6126c9);
    }

    /* OWNER */

    function test_owner_functions_refuse_others() public {
        bytes[] memory calls = new bytes[](5);
        calls[0] = abi.encodeCall(DevUSDC.mint, (A0, 1));
        calls[1] = abi.encodeCall(DevUSDC.pause, ());
        calls[2] = abi.encodeCall(DevUSDC.unpause, ());
        calls[3] = abi.encodeCall(DevUSDC.blacklist, (A0));
        calls[4] = abi.encodeCall(DevUSDC.unBlacklist, (A0));
        for (uint256 i; i < calls.length; ++i) {
            vm.prank(A0);
            (bool done, bytes memory why) = PLACE.call(calls[i]);
            assertFalse(done);
            assertEq(why, abi.encodeWithSelector(DevUSDC.NotOwner.selector, A0));
        }
    }

    /* TRANSFERS */

    function test_transfer_moves_and_logs() public {
        vm.expectEmit(PLACE);
        emit Transfer(A0, A1, VALUE);
        vm.prank(A0);
        assertTrue(usdc.transfer(A1, VALUE));
        assertEq(usdc.balanceOf(A0), 1_000_000 - VALUE);
        assertEq(usdc.balanceOf(A1), VALUE);
    }

    function test_transfer_refuses_zero_address() public {
        vm.expectRevert(abi.encodeWithSelector(IERC20Errors.ERC20InvalidReceiver.selector, address(0)));
        vm.prank(A0);
        usdc.transfer(address(0), 1);
    }

    function test_transfer_refuses_the_token_itself() public {
        vm.expectRevert(abi.encodeWithSelector(DevUSDC.AccountBlacklisted.selector, PLACE));
        vm.prank(A0);
        usdc.transfer(PLACE, 1);
        vm.prank(owner);
        usdc.unBlacklist(PLACE);
        assertTrue(usdc.isBlacklisted(PLACE));
    }

    function test_transfer_refuses_more_than_the_balance() public {
        vm.expectRevert(
            abi.encodeWithSelector(IERC20Errors.ERC20InsufficientBalance.selector, A0, 1_000_000, 1_000_001)
        );
        vm.prank(A0);
        usdc.transfer(A1, 1_000_001);
    }

    function test_transferFrom_spends_the_allowance() public {
        vm.prank(A0);
        usdc.approve(A1, 3);
        vm.startPrank(A1);
        usdc.transferFrom(A0, A1, 2);
        assertEq(usdc.allowance(A0, A1), 1);
        vm.expectRevert(abi.encodeWithSelector(IERC20Errors.ERC20InsufficientAllowance.selector, A1, 1, 2));
        usdc.transferFrom(A0, A1, 2);
    }

    /* PAUSE */

    function test_paused_refuses_every_movement() public {
        vm.prank(A0);
        usdc.approve(A1, 10);
        bytes memory transferSignature = signed(transferDigest(A0));
        bytes memory cancelSignature = signed(cancelDigest(A0));
        bytes memory permitSignature = signed(permitDigest(A0, 0, BEFORE));
        vm.prank(owner);
        usdc.pause();

        _refusedPaused(A0, abi.encodeCall(usdc.transfer, (A1, 1)));
        _refusedPaused(A1, abi.encodeCall(usdc.transferFrom, (A0, A1, 1)));
        _refusedPaused(A0, abi.encodeCall(usdc.approve, (A1, 1)));
        _refusedPaused(owner, abi.encodeCall(DevUSDC.mint, (A1, 1)));
        _refusedPaused(
            A1,
            abi.encodeWithSignature(
                "transferWithAuthorization(address,address,uint256,uint256,uint256,bytes32,bytes)",
                A0,
                A1,
                VALUE,
                0,
                BEFORE,
                NONCE,
                transferSignature
            )
        );
        _refusedPaused(
            A1, abi.encodeWithSignature("cancelAuthorization(address,bytes32,bytes)", A0, NONCE, cancelSignature)
        );
        _refusedPaused(
            A1,
            abi.encodeWithSignature(
                "permit(address,address,uint256,uint256,bytes)", A0, A1, VALUE, BEFORE, permitSignature
            )
        );

        vm.prank(owner);
        usdc.unpause();
        usdc.transferWithAuthorization(A0, A1, VALUE, 0, BEFORE, NONCE, transferSignature);
        assertEq(usdc.balanceOf(A1), VALUE);
    }

    function _refusedPaused(address caller, bytes memory call) private {
        vm.prank(caller);
        (bool done, bytes memory why) = PLACE.call(call);
        assertFalse(done);
        assertEq(why, abi.encodeWithSelector(Pausable.EnforcedPause.selector));
    }

    /* BLOCKLIST */

    function test_blacklisted_neither_sends_nor_receives() public {
        vm.expectEmit(PLACE);
        emit DevUSDC.Blacklisted(A1);
        vm.prank(owner);
        usdc.blacklist(A1);
        assertTrue(usdc.isBlacklisted(A1));

        _refusedBlacklisted(A0, abi.encodeCall(usdc.transfer, (A1, 1)));
        _refusedBlacklisted(A1, abi.encodeCall(usdc.transfer, (A0, 0)));
        _refusedBlacklisted(A0, abi.encodeCall(usdc.approve, (A1, 1)));
        _refusedBlacklisted(A1, abi.encodeCall(usdc.approve, (A0, 1)));
        _refusedBlacklisted(owner, abi.encodeCall(DevUSDC.mint, (A1, 1)));

        vm.prank(owner);
        usdc.unBlacklist(A1);
        vm.prank(A0);
        usdc.transfer(A1, 1);
        assertEq(usdc.balanceOf(A1), 1);
    }

    function test_blacklisted_spender_with_unlimited_allowance_is_refused() public {
        vm.prank(A0);
        usdc.approve(A1, type(uint256).max);
        vm.prank(owner);
        usdc.blacklist(A1);
        _refusedBlacklisted(A1, abi.encodeCall(usdc.transferFrom, (A0, makeAddr("third"), 1)));
    }

    function _refusedBlacklisted(address caller, bytes memory call) private {
        vm.prank(caller);
        (bool done, bytes memory why) = PLACE.call(call);
        assertFalse(done);
        assertEq(why, abi.encodeWithSelector(DevUSDC.AccountBlacklisted.selector, A1));
    }

    event Transfer(address indexed from, address indexed to, uint256 value);
}
