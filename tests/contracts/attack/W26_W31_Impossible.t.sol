// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {Stage} from "./Stage.sol";

/// @dev W26 (initialisers, upgrades, ownership) and W31 (relayer reimbursement): impossible by construction. Shown on
/// the deployed code: the opcodes they would need are not in it, and the verbs they would go by are not answered.
contract W26_W31_Impossible is Stage {
    function test_code_has_none_of_the_opcodes() public view {
        bytes memory code = address(wallet).code;
        assertGt(code.length, 1_000);
        uint256 calls;
        uint256 i;
        for (; i < code.length; ++i) {
            uint8 op = uint8(code[i]);
            if (op >= 0x60 && op <= 0x7f) {
                i += op - 0x5f; // PUSHn and its data
                continue;
            }
            if (op == 0xfe) break; // what follows INVALID is constants, not code
            assertTrue(op != 0xf4, "DELEGATECALL");
            assertTrue(op != 0xf2, "CALLCODE");
            assertTrue(op != 0xff, "SELFDESTRUCT");
            assertTrue(op != 0xf0 && op != 0xf5, "CREATE");
            assertTrue(op != 0x32, "ORIGIN");
            assertTrue(op != 0x3a, "GASPRICE");
            assertTrue(op != 0x41, "COINBASE");
            if (op == 0xf1) ++calls;
        }
        assertEq(calls, 3, "CALL: the token's transfer and approve, the escrow");
        assertLt(code.length - i, 200, "the walk ended early");
    }

    function test_verbs_of_initialisers_upgrades_and_owners_are_not_answered() public {
        bytes[] memory verbs = new bytes[](12);
        verbs[0] = abi.encodeWithSignature("initialize()");
        verbs[1] = abi.encodeWithSignature("initialize(address)", stranger);
        verbs[2] = abi.encodeWithSignature("initialize(address,bytes[],uint64)", usdc, operatorSet(), 1);
        verbs[3] = abi.encodeWithSignature("upgradeTo(address)", stranger);
        verbs[4] = abi.encodeWithSignature("upgradeToAndCall(address,bytes)", stranger, "");
        verbs[5] = abi.encodeWithSignature("proxiableUUID()");
        verbs[6] = abi.encodeWithSignature("owner()");
        verbs[7] = abi.encodeWithSignature("transferOwnership(address)", stranger);
        verbs[8] = abi.encodeWithSignature("acceptOwnership()");
        verbs[9] = abi.encodeWithSignature("renounceOwnership()");
        verbs[10] = abi.encodeWithSignature("grantRole(bytes32,address)", 0, stranger);
        verbs[11] = abi.encodeWithSignature("setUsdc(address)", stranger);
        for (uint256 i; i < verbs.length; ++i) {
            (bool done,) = address(wallet).call(verbs[i]);
            assertFalse(done);
        }
    }

    /// @dev A relayer is paid nothing, whatever gas price it chooses.
    function test_relayer_gets_nothing() public {
        address relayer = makeAddr("relayer");
        vm.txGasPrice(1e15);
        vm.startPrank(relayer, relayer);
        paySome(shop, 5, 0);
        wallet.payBatch(one(batchOf(agent, 1, pair(item(shop, 1), item(cafe, 1)))));
        payApproved(payment(shop, CEILING + 1, 2), 1);
        vm.stopPrank();
        assertEq(usdc.balanceOf(relayer), 0);
        assertEq(relayer.balance, 0);
        assertEq(usdc.balanceOf(address(wallet)), FUNDS - 5 - 2 - CEILING - 1);
    }
}
