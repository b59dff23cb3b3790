// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {ChannelStage} from "./ChannelStage.sol";
import {OddToken} from "./OddToken.sol";
import {ContractOperator} from "./Operators.sol";
import {ChannelConfig, IChannelHub, Skip, VoucherClaim} from "contracts/interfaces/IChannelHub.sol";
import {IDepositCollector} from "contracts/interfaces/IDepositCollector.sol";

/// @dev C12. The receiver charged less and claims the ceiling: it gets it, and not one unit more. That is the bound of
/// what a payer risks.
contract C12_OverClaim is ChannelStage {
    function test_up_to_the_ceiling_and_no_further() public {
        ChannelConfig memory c = opened(config());
        claim(one(row(c, 10e6, 3e6)));
        claim(one(row(c, 10e6, 10e6)));
        assertChannel(c, AMOUNT, 10e6);
        vm.prank(clerk);
        refuses(IChannelHub.ClaimExceedsCeiling.selector);
        hub.claim(one(row(c, 10e6, 10e6 + 1)));
        skips(c, Skip.ExceedsCeiling);
        assertEq(claimPacked(one(row(c, 10e6, 10e6 + 1))), 0);
        // All the rest is the payer's.
        exit(c, 90e6);
        assertEq(usdc.balanceOf(payer), 90e6);
    }

    /// @dev A ceiling above the balance is good for the balance.
    function test_ceiling_above_the_balance() public {
        ChannelConfig memory c = opened(config());
        VoucherClaim memory a = row(c, type(uint128).max, AMOUNT + 1);
        vm.prank(clerk);
        refuses(IChannelHub.ClaimExceedsBalance.selector);
        hub.claim(one(a));
        a.totalClaimed = AMOUNT;
        claim(one(a));
        assertChannel(c, AMOUNT, AMOUNT);
    }
}

/// @dev Brings as much of an OddToken as it is told to.
contract OddCollector is IDepositCollector {
    OddToken private immutable token;
    uint256 public more; // than asked, or less
    bool public less;
    address private target;
    bytes private payload;
    bytes public answer;

    constructor(OddToken token_) {
        token = token_;
    }

    function off(uint256 by, bool less_) external {
        (more, less) = (by, less_);
    }

    /// @dev Calls `target_` while it collects.
    function callBack(address target_, bytes calldata payload_) external {
        (target, payload) = (target_, payload_);
    }

    function collect(address, address, uint256 amount, bytes32, bytes calldata) external {
        token.mint(msg.sender, less ? amount - more : amount + more);
        if (target != address(0)) (, answer) = target.call(payload);
    }
}

/// @dev C13. The largest amounts, and tokens and collectors that lie.
contract C13_Overflow is ChannelStage {
    OddToken private odd;
    OddCollector private collector;

    function setUp() public override {
        super.setUp();
        odd = new OddToken();
        collector = new OddCollector(odd);
    }

    function _odd(uint256 salt) private view returns (ChannelConfig memory c) {
        c = salted(salt);
        c.token = address(odd);
    }

    function _deposit(ChannelConfig memory c, uint128 amount) private {
        hub.deposit(c, amount, address(collector), "");
    }

    function test_the_largest_channel() public {
        ChannelConfig memory c = _odd(0);
        refuses(IChannelHub.DepositOverflow.selector);
        _deposit(c, type(uint128).max);
        refuses(IChannelHub.DepositOverflow.selector);
        _deposit(c, uint128(type(uint96).max) + 1);
        _deposit(c, type(uint96).max - 1);
        refuses(IChannelHub.DepositOverflow.selector);
        _deposit(c, 2);
        _deposit(c, 1);
        refuses(IChannelHub.DepositOverflow.selector);
        _deposit(c, 1);
        refuses(IChannelHub.DepositOverflow.selector);
        _deposit(c, type(uint128).max);
        assertChannel(c, type(uint96).max, 0);

        // Claimed to the last unit, paid, and nothing leaks into the fields beside.
        vm.prank(payer);
        hub.initiateWithdraw(c, type(uint96).max);
        vm.prank(clerk);
        hub.claimAndSettle(seller, clerk, address(odd), packed(one(row(c, type(uint96).max, type(uint96).max))));
        assertChannel(c, type(uint96).max, type(uint96).max);
        assertPending(c, type(uint96).max, START);
        assertEq(odd.balanceOf(seller), type(uint96).max);
        vm.warp(START + DELAY);
        vm.prank(payer);
        hub.finalizeWithdraw(c);
        assertEq(odd.balanceOf(payer), 0);
    }

    function test_totals_above_96_bits() public {
        ChannelConfig memory c = _odd(0);
        _deposit(c, type(uint96).max);
        uint128 above = uint128(type(uint96).max) + 1;
        vm.startPrank(clerk);
        refuses(IChannelHub.ClaimExceedsBalance.selector);
        hub.claim(one(row(c, type(uint128).max, type(uint128).max)));
        refuses(IChannelHub.ClaimExceedsBalance.selector);
        hub.claim(one(row(c, above, above)));
        hub.refund(c, type(uint128).max);
        assertChannel(c, 0, 0);
    }

    /// @dev A receiver's total cannot wrap, and takes nothing with it that is not this token's.
    function test_receiver_total() public {
        ChannelConfig memory c = _odd(0);
        _deposit(c, 10);
        // receivers[seller][odd], as if 2^128 - 6 had been claimed and paid.
        bytes32 slot = keccak256(abi.encode(seller, uint256(2)));
        slot = keccak256(abi.encode(address(odd), slot));
        uint256 most = type(uint128).max - 5;
        vm.store(address(hub), slot, bytes32(most << 128 | most));
        (uint128 claimed, uint128 settled) = hub.receivers(seller, address(odd));
        assertEq(claimed, most);
        assertEq(settled, most);
        vm.startPrank(clerk);
        refuses(IChannelHub.ReceiverOverflow.selector);
        hub.claim(one(row(c, 6, 6)));
        refuses(IChannelHub.ReceiverOverflow.selector);
        hub.claimPacked(seller, clerk, address(odd), packed(one(row(c, 6, 6))));
        refuses(IChannelHub.ReceiverOverflow.selector);
        hub.claimAndSettle(seller, clerk, address(odd), packed(one(row(c, 6, 6))));
        hub.claim(one(row(c, 5, 5)));
        hub.settle(seller, address(odd));
        assertEq(odd.balanceOf(seller), 5);
        (claimed, settled) = hub.receivers(seller, address(odd));
        assertEq(claimed, type(uint128).max);
        assertEq(settled, type(uint128).max);
    }

    function test_collector_brings_another_amount() public {
        ChannelConfig memory c = _odd(0);
        collector.off(1, true);
        refuses(IChannelHub.DepositCollectionFailed.selector);
        _deposit(c, 10);
        collector.off(1, false);
        refuses(IChannelHub.DepositCollectionFailed.selector);
        _deposit(c, 10);
        refuses(IChannelHub.InvalidCollector.selector);
        hub.deposit(c, 10, stranger, "");
        refuses(IChannelHub.InvalidCollector.selector);
        hub.deposit(c, 10, address(0), "");
        vm.expectRevert();
        hub.deposit(c, 10, address(hub), "");
        vm.expectRevert();
        hub.deposit(c, 10, address(odd), "");
        assertChannel(c, 0, 0);
    }

    /// @dev Nothing that writes can be called while a collector runs, nor by the token while it pays.
    function test_reentrancy() public {
        ChannelConfig memory c = _odd(0);
        c.payer = address(collector);
        c.receiver = address(collector);
        bytes[] memory inner = new bytes[](1);
        inner[0] = abi.encodeCall(IChannelHub.settle, (seller, address(odd)));
        VoucherClaim[] memory rows = one(row(c, 1, 1));
        bytes[11] memory calls = [
            abi.encodeCall(IChannelHub.deposit, (c, 5, address(collector), "")),
            abi.encodeCall(IChannelHub.claim, (rows)),
            abi.encodeCall(IChannelHub.claimWithSignature, (rows, "")),
            abi.encodeCall(IChannelHub.claimPacked, (seller, clerk, address(odd), packed(rows))),
            abi.encodeCall(IChannelHub.claimPackedWithSignature, (seller, clerk, address(odd), packed(rows), "")),
            abi.encodeCall(IChannelHub.claimAndSettle, (seller, clerk, address(odd), packed(rows))),
            abi.encodeCall(IChannelHub.settle, (seller, address(odd))),
            abi.encodeCall(IChannelHub.initiateWithdraw, (c, 1)),
            abi.encodeCall(IChannelHub.finalizeWithdraw, (c)),
            abi.encodeCall(IChannelHub.refund, (c, 1)),
            abi.encodeCall(IChannelHub.multicall, (inner))
        ];
        bytes memory locked = abi.encodeWithSelector(IChannelHub.Reentrancy.selector);
        ChannelConfig memory d = opened(config());
        d.token = address(odd);
        _deposit(d, 1_000);
        uint128 total;
        for (uint256 i; i < calls.length; ++i) {
            collector.callBack(address(hub), calls[i]);
            _deposit(d, 10);
            assertEq(collector.answer(), locked, vm.toString(i));

            vm.prank(clerk);
            hub.claim(one(row(d, ++total, total)));
            odd.callBack(address(hub), calls[i]);
            hub.settle(seller, address(odd));
            assertEq(odd.answer(), locked, vm.toString(i));
        }
        collector.callBack(address(hub), abi.encodeCall(IChannelHub.refundWithSignature, (c, 1, 0, "")));
        _deposit(d, 10);
        assertEq(collector.answer(), locked);
        assertChannel(d, 1_000 + 10 * 12, total);
    }

    /// @dev Answers false, moves less, eats the gas: no state without the money. One that answers nothing pays.
    function test_tokens_that_do_not_pay() public {
        ChannelConfig memory c = _odd(0);
        _deposit(c, 100);
        vm.prank(clerk);
        hub.claim(one(row(c, 40, 40)));
        vm.prank(payer);
        hub.initiateWithdraw(c, 60);
        vm.warp(START + DELAY);
        OddToken.Way[3] memory ways = [OddToken.Way.Reverts, OddToken.Way.ReturnsFalse, OddToken.Way.ReturnsTwo];
        for (uint256 i; i < ways.length; ++i) {
            odd.behave(ways[i]);
            vm.expectRevert();
            hub.settle(seller, address(odd));
            vm.prank(clerk);
            vm.expectRevert();
            hub.refund(c, 1);
            vm.prank(payer);
            vm.expectRevert();
            hub.finalizeWithdraw(c);
        }
        assertChannel(c, 100, 40);
        assertPending(c, 60, START);
        odd.behave(OddToken.Way.ReturnsNothing);
        hub.settle(seller, address(odd));
        vm.prank(payer);
        hub.finalizeWithdraw(c);
        assertEq(odd.balanceOf(seller), 40);
        assertEq(odd.balanceOf(payer), 60);
    }

    /// @dev A hostile token raises its own totals only.
    function test_hostile_token_reaches_no_other() public {
        opened(config());
        ChannelConfig memory c = _odd(0);
        _deposit(c, type(uint96).max);
        vm.prank(clerk);
        hub.claimAndSettle(seller, clerk, address(odd), packed(one(row(c, type(uint96).max, type(uint96).max))));
        assertReceiver(0, 0);
        hub.settle(seller, address(usdc));
        assertEq(held(), AMOUNT);
    }
}

/// @dev C15. Vouchers of a contract, whose owners may change, are no vouchers.
contract C15_ContractSigner is ChannelStage {
    function test_contract_signs_no_vouchers() public {
        ContractOperator quorum = new ContractOperator(agent);
        ChannelConfig memory c = config();
        c.payerAuthorizer = address(quorum);
        opened(c);
        VoucherClaim memory a = row(c, 5e6, 5e6); // its owner's signature, for which it would say yes
        assertEq(quorum.isValidSignature(voucherHash(c, 5e6), a.signature), bytes4(0x1626ba7e));
        vm.prank(clerk);
        refuses(IChannelHub.InvalidSignature.selector);
        hub.claim(one(a));
        skips(c, Skip.InvalidSignature);
        assertEq(claimPacked(one(a)), 0);
        // The payer has lost nothing but time.
        exit(c, AMOUNT);
        assertEq(usdc.balanceOf(payer), AMOUNT);
    }

    /// @dev x402's form for a contract's vouchers, no authorizer at all, is refused before money moves.
    function test_no_authorizer_no_deposit() public {
        ChannelConfig memory c = config();
        c.payer = address(new ContractOperator(agent));
        c.payerAuthorizer = address(0);
        mint(address(purse), 1);
        refuses(IChannelHub.InvalidChannel.selector);
        hub.deposit(c, 1, address(purse), "");
    }

    /// @dev A payer that is a contract names an account, and gets its money back itself.
    function test_contract_payer_with_an_account_as_authorizer() public {
        ContractOperator wallet = new ContractOperator(payer);
        ChannelConfig memory c = config();
        c.payer = address(wallet);
        opened(c);
        claim(c, 5e6);
        wallet.call(address(hub), abi.encodeCall(IChannelHub.initiateWithdraw, (c, 95e6)));
        vm.warp(START + DELAY);
        wallet.call(address(hub), abi.encodeCall(IChannelHub.finalizeWithdraw, (c)));
        assertEq(usdc.balanceOf(address(wallet)), 95e6);
    }

    /// @dev An account with code of its own (EIP-7702) still signs.
    function test_delegated_account_signs() public {
        ChannelConfig memory c = opened(config());
        vm.etch(agent, abi.encodePacked(hex"ef0100", address(purse)));
        claim(c, 5e6);
        assertChannel(c, AMOUNT, 5e6);
    }
}
