// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {Handler} from "./Handler.sol";
import {Entry, Ledger} from "./Ledger.sol";
import {DevUSDC} from "contracts/DevUSDC.sol";
import {AgentLimits, IPolicyWallet, PayeeLimits} from "contracts/interfaces/IPolicyWallet.sol";
import {Test} from "forge-std/Test.sol";

/// @dev What holds after every step of a campaign, and (`afterInvariant`) of its whole history. That each step ends as
/// the ledger predicts, to the error and the event, is the handler's to check.
abstract contract PolicyWalletInvariants is Test {
    Handler internal handler;
    Ledger internal ledger;
    IPolicyWallet internal wallet;
    DevUSDC internal usdc;
    address[] internal agents;
    address[] internal payees;

    function setUp() public {
        handler = new Handler();
        handler.setUp();
        ledger = handler.ledger();
        (wallet, usdc, agents, payees) = handler.parties();
        targetContract(address(handler));
        targetSelector(FuzzSelector(address(handler), _steps()));
    }

    function _steps() internal pure virtual returns (bytes4[] memory);

    function invariant_wallet_agrees_with_the_list() public view {
        _moneyAddsUp();
        _policyAgrees();
        _noAllowance();
    }

    function afterInvariant() public view {
        ledger.checkWindows();
        Entry[] memory list = ledger.entries();
        for (uint256 i; i < list.length; ++i) {
            bool registered = list[i].to != payees[4] && list[i].to != payees[6];
            if (list[i].amount != 0) assertTrue(registered || list[i].overrides & 2 != 0, "paid to a stranger");
        }
    }

    /// @dev The list, the wallet's events, USDC's events and the balances tell one story.
    function _moneyAddsUp() private view {
        Entry[] memory list = ledger.entries();
        uint256[] memory received = new uint256[](payees.length);
        uint256 paid;
        for (uint256 i; i < list.length; ++i) {
            paid += list[i].amount;
            for (uint256 p; p < payees.length; ++p) {
                if (list[i].to == payees[p]) received[p] += list[i].amount;
            }
        }
        uint256 left = paid + handler.withdrawn();
        assertEq(handler.evented(), left, "the wallet's events");
        assertEq(handler.transferred(), left, "USDC's events");
        assertEq(usdc.balanceOf(address(wallet)), handler.deposited() - left, "balance");
        for (uint256 p; p < payees.length; ++p) {
            assertEq(usdc.balanceOf(payees[p]), received[p], "what a payee has");
        }
    }

    function _policyAgrees() private view {
        for (uint256 i; i < agents.length; ++i) {
            (uint256 day, uint256 month, uint256 budget, uint256 left) = wallet.room(agents[i]);
            (uint256 day_, uint256 month_, uint256 budget_, uint256 left_) = ledger.room(agents[i]);
            assertEq(day, day_, "room of the day");
            assertEq(month, month_, "room of the month");
            assertEq(budget, budget_, "room of the budget");
            assertEq(left, left_, "room of the wallet");
            (AgentLimits memory limits, uint256 version, bool frozen) = wallet.agentLimits(agents[i]);
            assertEq(keccak256(abi.encode(limits)), keccak256(abi.encode(ledger.agentOf(agents[i]))), "limits");
            assertEq(version, ledger.versions(agents[i]), "version");
            assertEq(frozen, ledger.frozen(agents[i]), "agent frozen");
        }
        for (uint256 i; i < payees.length; ++i) {
            (PayeeLimits memory limits, uint256 spent, uint256 last) = wallet.payeeLimits(payees[i]);
            assertEq(keccak256(abi.encode(limits)), keccak256(abi.encode(ledger.payeeOf(payees[i]))), "payee's limits");
            assertEq(spent, ledger.sum(ledger.PAYEE_CAP(), payees[i], 0), "payee's counter");
            assertEq(last, ledger.lastPaid(payees[i]), "payee's last payment");
        }
        assertEq(wallet.walletCap(), ledger.walletCap(), "wallet's cap");
        assertEq(wallet.walletFrozen(), ledger.frozen(address(0)), "wallet frozen");
    }

    function _noAllowance() private view {
        for (uint256 i; i < agents.length; ++i) {
            assertEq(usdc.allowance(address(wallet), agents[i]), 0);
        }
        for (uint256 i; i < payees.length; ++i) {
            assertEq(usdc.allowance(address(wallet), payees[i]), 0);
        }
        assertEq(usdc.allowance(address(wallet), address(handler)), 0);
    }
}

/// @dev No limit changes: at most the cap in any window, over the whole campaign.
contract ConstantCapsTest is PolicyWalletInvariants {
    function _steps() internal pure override returns (bytes4[] memory steps) {
        steps = new bytes4[](11);
        steps[0] = Handler.paySingle.selector;
        steps[1] = Handler.payWithQuorum.selector;
        steps[2] = Handler.payLists.selector;
        steps[3] = Handler.cancelNonce.selector;
        steps[4] = Handler.pass.selector;
        steps[5] = Handler.blockPayee.selector;
        steps[6] = Handler.deposit.selector;
        steps[7] = Handler.withdraw.selector;
        steps[8] = Handler.freeze.selector;
        steps[9] = Handler.unfreeze.selector;
        steps[10] = Handler.drain.selector;
    }
}

/// @dev Limits move up and down, on and off, in the middle of their windows.
contract ChangingCapsTest is PolicyWalletInvariants {
    function _steps() internal pure override returns (bytes4[] memory steps) {
        steps = new bytes4[](10);
        steps[0] = Handler.paySingle.selector;
        steps[1] = Handler.payWithQuorum.selector;
        steps[2] = Handler.payLists.selector;
        steps[3] = Handler.pass.selector;
        steps[4] = Handler.changeAgent.selector;
        steps[5] = Handler.changePayee.selector;
        steps[6] = Handler.changeWalletCap.selector;
        steps[7] = Handler.blockPayee.selector;
        steps[8] = Handler.cancelNonce.selector;
        steps[9] = Handler.drain.selector;
    }
}
