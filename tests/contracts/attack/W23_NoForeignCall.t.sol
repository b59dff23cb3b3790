// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {VmSafe} from "forge-std/Vm.sol";
import {IPolicyChanges, IPolicyWallet} from "contracts/interfaces/IPolicyWallet.sol";
import {ContractOperator} from "./Operators.sol";
import {Stage} from "./Stage.sol";

/// @dev W23. No path lets a caller make the wallet call out: not a payee, not an ERC-6492 factory, nothing but USDC
/// (and staticcalls to the operators' own contracts).
contract W23_NoForeignCall is Stage {
    bytes32 private constant ERC6492_MAGIC = 0x6492649264926492649264926492649264926492649264926492649264926492;

    function test_every_door_calls_usdc_and_nothing_else() public {
        address safe = address(new ContractOperator(operators[2]));
        bytes[] memory set = new bytes[](3);
        (set[0], set[1], set[2]) =
        (abi.encodePacked(operators[0]), abi.encodePacked(operators[1]), abi.encodePacked(safe));
        wallet = deployFor(address(usdc), set, 2, DELAY, baseChanges());
        fund(address(wallet), FUNDS);

        vm.startStateDiffRecording();
        paySome(shop, 1, 0);
        payApproved(payment(stranger, CEILING + 1, 1), 3);
        wallet.payBatch(one(batchOf(agent, 2, pair(item(shop, 1), item(stranger, 1)))));
        enact(setPayee(stranger, payee()));
        submit(abi.encodeCall(IPolicyChanges.withdraw, (treasury, 1)));
        tightenBy(0, setFrozen(agent, true));
        _submitWithSafe(set[2], setFrozen(agent, false));
        VmSafe.AccountAccess[] memory all = vm.stopAndReturnStateDiff();

        uint256 toUsdc;
        uint256 toSafe;
        for (uint256 i; i < all.length; ++i) {
            if (all[i].accessor != address(wallet)) continue;
            VmSafe.AccountAccessKind kind = all[i].kind;
            if (kind == VmSafe.AccountAccessKind.Call) {
                assertTrue(all[i].account == address(usdc) || uint160(all[i].account) < 16, "called a stranger");
                if (all[i].account == address(usdc)) ++toUsdc;
            } else if (kind == VmSafe.AccountAccessKind.StaticCall) {
                assertTrue(all[i].account == safe || uint160(all[i].account) < 0x101, "asked a stranger");
                if (all[i].account == safe) ++toSafe;
            } else {
                assertTrue(
                    kind == VmSafe.AccountAccessKind.Extcodesize || kind == VmSafe.AccountAccessKind.Resume,
                    "another kind of access"
                );
            }
        }
        assertEq(toUsdc, 4); // pay, payApproved, one item, withdraw
        assertEq(toSafe, 1);
    }

    function _submitWithSafe(bytes memory safe, bytes memory change) private {
        bytes32 digest = changeDigest(address(wallet), change, 500, FAR);
        bytes[] memory signers = new bytes[](2);
        bytes[] memory signatures = new bytes[](2);
        (signers[0], signatures[0]) = (abi.encodePacked(operators[0]), signed65(operatorKeys[0], digest));
        (signers[1], signatures[1]) = (safe, signed65(operatorKeys[2], digest));
        wallet.submit(change, 500, FAR, packQuorum(signers, signatures));
    }

    /// @dev The wrapper (factory, calldata, signature, magic) must be nothing but a wrong signature.
    function test_erc6492_wrapper_runs_no_factory() public {
        bytes memory change = setFrozen(address(0), true);
        address undeployed = makeAddr("undeployed safe");
        bytes[] memory set = new bytes[](2);
        (set[0], set[1]) = (abi.encodePacked(operators[0]), abi.encodePacked(undeployed));
        wallet = deployFor(address(usdc), set, 1, DELAY, baseChanges());
        bytes memory inner = signed65(operatorKeys[0], tightenDigest(address(wallet), change, 0, FAR));
        bytes memory wrapped =
            bytes.concat(abi.encode(address(usdc), abi.encodeCall(usdc.transfer, (stranger, 1)), inner), ERC6492_MAGIC);
        vm.expectCall(address(usdc), "", 0);
        for (uint256 i; i < 2; ++i) {
            vm.expectRevert(IPolicyWallet.InvalidSignature.selector);
            wallet.tightenWithSignature(change, set[i], 0, FAR, wrapped);
        }
    }

    /// @dev Withdrawals go out by the token only: a withdrawal "to" a contract doesn't call that contract.
    function test_withdraw_calls_no_receiver() public {
        address receiver = address(new ContractOperator(stranger));
        vm.expectCall(receiver, "", 0);
        submit(abi.encodeCall(IPolicyChanges.withdraw, (receiver, 5)));
        assertEq(usdc.balanceOf(receiver), 5);
    }
}
