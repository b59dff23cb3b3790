// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {Test} from "forge-std/Test.sol";
import {DevUSDC} from "contracts/DevUSDC.sol";

/// @dev DevUSDC placed at Base Sepolia's USDC address the way the devnet places it: code, then the owner's slot.
abstract contract DevUSDCBase is Test {
    address internal constant PLACE = 0x036CbD53842c5426634e7929541eC2318f3dCF7e;
    address internal constant A0 = 0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266;
    uint256 internal constant A0_KEY = 0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80;
    address internal constant A1 = 0x70997970C51812dc3A010C7d01b50e0d17dc79C8;
    uint256 internal constant VALUE = 10_000;
    uint256 internal constant BEFORE = 1_900_000_000;
    bytes32 internal constant NONCE = bytes32(uint256(1));

    DevUSDC internal usdc = DevUSDC(PLACE);
    address internal owner = makeAddr("usdc owner");

    function setUp() public virtual {
        vm.chainId(84532);
        vm.warp(1_800_000_000);
        DevUSDC built = new DevUSDC(address(1));
        vm.etch(PLACE, address(built).code);
        vm.store(PLACE, built.OWNER_SLOT(), bytes32(uint256(uint160(owner))));
        vm.prank(owner);
        usdc.mint(A0, 1_000_000);
    }

    function digest(bytes32 structHash) internal view returns (bytes32) {
        return keccak256(abi.encodePacked(hex"1901", usdc.DOMAIN_SEPARATOR(), structHash));
    }

    function transferDigest(address from) internal view returns (bytes32) {
        bytes32 typehash = usdc.TRANSFER_WITH_AUTHORIZATION_TYPEHASH();
        return digest(keccak256(abi.encode(typehash, from, A1, VALUE, 0, BEFORE, NONCE)));
    }

    function receiveDigest(address from) internal view returns (bytes32) {
        bytes32 typehash = usdc.RECEIVE_WITH_AUTHORIZATION_TYPEHASH();
        return digest(keccak256(abi.encode(typehash, from, A1, VALUE, 0, BEFORE, NONCE)));
    }

    function cancelDigest(address from) internal view returns (bytes32) {
        return digest(keccak256(abi.encode(usdc.CANCEL_AUTHORIZATION_TYPEHASH(), from, NONCE)));
    }

    function permitDigest(address holder, uint256 nonce, uint256 deadline) internal view returns (bytes32) {
        return digest(keccak256(abi.encode(usdc.PERMIT_TYPEHASH(), holder, A1, VALUE, nonce, deadline)));
    }

    function signed(bytes32 hash) internal pure returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(A0_KEY, hash);
        return abi.encodePacked(r, s, v);
    }
}
