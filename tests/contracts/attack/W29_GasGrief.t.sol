// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {Vm} from "forge-std/Vm.sol";
import {IPolicyWallet} from "contracts/interfaces/IPolicyWallet.sol";
import {OddToken} from "./OddToken.sol";
import {Stage} from "./Stage.sol";

/// @dev W29, second part. A relayer chooses the gas of the transaction so that a transfer runs dry while the rest of
/// the batch goes on (63/64 rule), to get payments marked as failed. At no amount of gas may that work: either all
/// is paid or all is undone.
contract W29_GasGrief is Stage {
    bytes private call;

    function _tryEveryAmount(uint256 step, uint256 enough) private {
        uint256 failures;
        uint256 successes;
        for (uint256 give = 60_000; give <= enough; give += step) {
            uint256 before = vm.snapshotState();
            vm.recordLogs();
            (bool done,) = address(wallet).call{gas: give}(call);
            Vm.Log[] memory logs = vm.getRecordedLogs();
            if (done) {
                ++successes;
                for (uint256 i; i < logs.length; ++i) {
                    assertTrue(logs[i].topics[0] != IPolicyWallet.ItemSkipped.selector, "marked as failed");
                    assertTrue(logs[i].topics[0] != IPolicyWallet.BatchSkipped.selector, "batch skipped");
                }
                assertEq(usdc.balanceOf(shop), 3);
                assertEq(usdc.balanceOf(cafe), 2);
            } else {
                ++failures;
                assertEq(usdc.balanceOf(shop), 0);
                assertFalse(wallet.nonceUsed(agent, 0));
            }
            vm.revertToState(before);
        }
        assertGt(failures, 0, "never too little");
        assertGt(successes, 0, "never enough");
    }

    function test_too_little_gas_for_usdc() public {
        call = abi.encodeCall(
            IPolicyWallet.payBatch, (one(batchOf(agent, 0, triple(item(shop, 1), item(shop, 2), item(cafe, 2)))))
        );
        _tryEveryAmount(709, 400_000);
    }

    /// @dev A token whose transfer costs 2 M gas leaves 31 k to the caller when it runs dry: enough to go on.
    function test_too_little_gas_for_a_heavy_token() public {
        OddToken odd = new OddToken();
        vm.etch(address(usdc), address(odd).code);
        odd = OddToken(address(usdc));
        odd.mint(address(wallet), FUNDS);
        odd.behave(OddToken.Way.Heavy);
        call = abi.encodeCall(
            IPolicyWallet.payBatch, (one(batchOf(agent, 0, triple(item(shop, 1), item(shop, 2), item(cafe, 2)))))
        );
        _tryEveryAmount(90_011, 7_000_000);
    }

    /// @dev Only the last item runs dry: nothing after it needs gas.
    function test_too_little_gas_for_the_last_item() public {
        OddToken odd = new OddToken();
        vm.etch(address(usdc), address(odd).code);
        odd = OddToken(address(usdc));
        odd.mint(address(wallet), FUNDS);
        odd.behaveFor(cafe, OddToken.Way.Heavy);
        call = abi.encodeCall(
            IPolicyWallet.payBatch, (one(batchOf(agent, 0, triple(item(shop, 1), item(shop, 2), item(cafe, 2)))))
        );
        _tryEveryAmount(5_003, 3_000_000);
    }
}
