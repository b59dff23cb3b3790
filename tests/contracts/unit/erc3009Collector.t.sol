// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {ChannelStage} from "../attack/ChannelStage.sol";
import {OddToken} from "../attack/OddToken.sol";
import {ContractOperator} from "../attack/Operators.sol";
import {DevUSDC} from "contracts/DevUSDC.sol";
import {Erc3009Collector} from "contracts/collectors/Erc3009Collector.sol";
import {ChannelConfig, IChannelHub} from "contracts/interfaces/IChannelHub.sol";

/// @dev A payer's signed deposit in the hands of everybody: it funds the channel and the amount that were signed, once.
contract Erc3009CollectorTest is ChannelStage {
    Erc3009Collector private collector;

    function setUp() public override {
        super.setUp();
        collector = new Erc3009Collector(address(hub));
        mint(payer, 10 * AMOUNT);
    }

    /// @dev Signed by `key`, for `from`.
    function _data(uint256 key, address from, bytes32 channelId, uint256 amount, uint256 salt)
        private
        view
        returns (bytes memory)
    {
        bytes32 nonce = keccak256(abi.encode(channelId, salt));
        bytes32 message = keccak256(
            abi.encode(
                usdc.RECEIVE_WITH_AUTHORIZATION_TYPEHASH(), from, address(collector), amount, START - 1, FAR, nonce
            )
        );
        bytes32 digest = keccak256(abi.encodePacked(hex"1901", usdc.DOMAIN_SEPARATOR(), message));
        return abi.encode(START - 1, FAR, salt, signed(key, digest));
    }

    function _data(ChannelConfig memory c, uint256 amount, uint256 salt) private view returns (bytes memory) {
        return _data(payerKey, payer, idOf(c), amount, salt);
    }

    function _nothing(ChannelConfig memory c) private view {
        assertChannel(c, 0, 0);
        assertEq(usdc.balanceOf(payer), 10 * AMOUNT);
        assertEq(usdc.balanceOf(address(collector)), 0);
    }

    function test_anybody_carries_it_once() public {
        ChannelConfig memory c = config();
        bytes memory data = _data(c, AMOUNT, 1);
        vm.prank(stranger);
        hub.deposit(c, AMOUNT, address(collector), data);
        assertChannel(c, AMOUNT, 0);
        assertEq(held(), AMOUNT);
        assertEq(usdc.balanceOf(address(collector)), 0);
        vm.expectRevert();
        hub.deposit(c, AMOUNT, address(collector), data);
        hub.deposit(c, AMOUNT, address(collector), _data(c, AMOUNT, 2));
        assertChannel(c, 2 * AMOUNT, 0);
    }

    function test_not_for_another_channel() public {
        ChannelConfig memory c = config();
        bytes memory data = _data(c, AMOUNT, 1);
        ChannelConfig memory mine = config();
        (mine.receiver, mine.receiverAuthorizer) = (stranger, stranger);
        vm.startPrank(stranger);
        vm.expectRevert(abi.encodeWithSelector(DevUSDC.InvalidSignature.selector, payer));
        hub.deposit(mine, AMOUNT, address(collector), data);
        _nothing(mine);
    }

    function test_not_another_amount_salt_payer_or_signer() public {
        ChannelConfig memory c = config();
        bytes memory data = _data(c, AMOUNT, 1);
        bytes memory wrong = abi.encodeWithSelector(DevUSDC.InvalidSignature.selector, payer);
        vm.expectRevert(wrong);
        hub.deposit(c, AMOUNT - 1, address(collector), data);
        (uint256 a, uint256 b,, bytes memory s) = abi.decode(data, (uint256, uint256, uint256, bytes));
        vm.expectRevert(wrong);
        hub.deposit(c, AMOUNT, address(collector), abi.encode(a, b, 2, s));
        bytes memory agents = _data(agentKey, payer, idOf(c), AMOUNT, 1);
        vm.expectRevert(wrong);
        hub.deposit(c, AMOUNT, address(collector), agents);
        c.payer = stranger;
        vm.expectRevert(abi.encodeWithSelector(DevUSDC.InvalidSignature.selector, stranger));
        hub.deposit(c, AMOUNT, address(collector), data);
        _nothing(c);
    }

    function test_only_the_hub_asks() public {
        ChannelConfig memory c = config();
        bytes memory data = _data(c, AMOUNT, 1);
        bytes32 id = idOf(c);
        address[3] memory others = [stranger, payer, seller];
        for (uint256 i; i < others.length; ++i) {
            vm.prank(others[i]);
            vm.expectRevert(Erc3009Collector.OnlyX402BatchSettlement.selector);
            collector.collect(payer, address(usdc), AMOUNT, id, data);
        }
        _nothing(c);
    }

    function test_malformed_data() public {
        ChannelConfig memory c = config();
        bytes memory data = _data(c, AMOUNT, 1);
        // The last 31 bytes are padding, which nobody needs.
        for (uint256 length; length < 5 * 32 + 65; length += 28) {
            bytes memory torn = new bytes(length);
            for (uint256 i; i < length; ++i) {
                torn[i] = data[i];
            }
            vm.expectRevert();
            hub.deposit(c, AMOUNT, address(collector), torn);
        }
        _nothing(c);
    }

    /// @dev A payer that is a contract, asked by the token.
    function test_contract_payer() public {
        ChannelConfig memory c = config();
        c.payer = address(new ContractOperator(payer));
        mint(c.payer, AMOUNT);
        hub.deposit(c, AMOUNT, address(collector), _data(payerKey, c.payer, idOf(c), AMOUNT, 1));
        assertChannel(c, AMOUNT, 0);
    }

    /// @dev A token that takes a fee on the way leaves the collector short: no deposit.
    function test_token_with_a_fee() public {
        OddToken odd = new OddToken();
        odd.mint(payer, 1_000);
        odd.behave(OddToken.Way.TakesFee);
        ChannelConfig memory c = config();
        c.token = address(odd);
        vm.expectRevert();
        hub.deposit(c, 1_000, address(collector), abi.encode(0, FAR, 1, ""));
        // With enough lying in the collector, the hub itself sees the difference.
        odd.mint(address(collector), 1_000);
        refuses(IChannelHub.DepositCollectionFailed.selector);
        hub.deposit(c, 1_000, address(collector), abi.encode(0, FAR, 1, ""));
    }
}
