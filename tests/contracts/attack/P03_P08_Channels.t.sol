// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {AgentLimits, IPolicyChanges, IPolicyWallet, PayeeLimits} from "contracts/interfaces/IPolicyWallet.sol";
import {ChannelConfig, ChannelFunding, IChannelHub, IChannelPayer} from "contracts/interfaces/IChannelHub.sol";
import {FundingStage} from "./FundingStage.sol";

/// @dev P3, P4, P6, P7, P8 and C16: who is paid by a channel, who else has a say in it, how much, and while frozen.
contract P03_P08_Channels is FundingStage {
    bytes private invalid = abi.encodeWithSelector(IPolicyWallet.InvalidSignature.selector);

    /* P3: counted by who is paid at last */

    function test_many_channels_to_one_receiver_are_one_receiver() public {
        enact(setPayee(shop, PayeeLimits(1, uint48(3 * AMOUNT), 0)));
        fund(numbered(1), AMOUNT, 1);
        fund(numbered(2), AMOUNT, 2);
        paySome(shop, AMOUNT / 2, 3);
        refusedToFund(numbered(3), why2(IPolicyWallet.PayeeCapExceeded.selector, AMOUNT, AMOUNT / 2));
        (, uint256 spent,) = wallet.payeeLimits(shop);
        assertEq(spent, 2 * AMOUNT + AMOUNT / 2);
    }

    function test_channels_and_payments_share_the_windows() public {
        for (uint256 i; i < 20; ++i) {
            if (i % 2 == 0) fund(numbered(i), AMOUNT, i);
            else paySome(shop, AMOUNT, i);
        }
        refusedToFund(numbered(20), why2(IPolicyWallet.DayCapExceeded.selector, AMOUNT, 0));
        refused(payment(shop, 1, 20), why2(IPolicyWallet.DayCapExceeded.selector, 1, 0));
        enact(setCap(USD));
        vm.warp(vm.getBlockTimestamp() + 2 days);
        refusedToFund(numbered(20), why2(IPolicyWallet.WalletCapExceeded.selector, AMOUNT, USD));
    }

    function test_a_cooldown_holds_for_top_ups() public {
        tightenBy(0, setPayee(shop, PayeeLimits(1, type(uint48).max, 60)));
        fund(channel(), 1, 1);
        uint256 time = vm.getBlockTimestamp();
        refusedToFund(channel(), why2(IPolicyWallet.PayeeCoolingDown.selector, AMOUNT, time + 60));
        vm.warp(time + 60);
        fund(channel(), 1, 2);
    }

    /* P4: the receiver is judged, not the hub */

    function test_only_registered_receivers() public {
        address[6] memory bad = [stranger, agent, address(wallet), address(usdc), address(hub), address(0)];
        for (uint256 i; i < 6; ++i) {
            ChannelConfig memory c = channel();
            (c.receiver, c.receiverAuthorizer) = (bad[i], bad[i]);
            refusedToFund(c, why2(IPolicyWallet.PayeeNotAllowed.selector, AMOUNT, 0));
        }
        AgentLimits memory l = limits();
        l.categories = 2;
        enact(setAgent(agent, l));
        refusedToFund(channel(), why2(IPolicyWallet.PayeeNotAllowed.selector, AMOUNT, 0));
    }

    /// @dev Not even by the quorum: what is paid to the hub itself is nobody's.
    function test_the_hub_is_never_a_payee() public {
        submit(setPayee(address(hub), payee()));
        vm.warp(vm.getBlockTimestamp() + DELAY);
        vm.expectRevert(IPolicyWallet.InvalidChange.selector);
        wallet.execute(setPayee(address(hub), payee()));
        ChannelConfig memory c = channel();
        (c.receiver, c.receiverAuthorizer) = (address(hub), address(hub));
        refusedToFund(approvedFunding(c, AMOUNT, 1, 15), why2(IPolicyWallet.PayeeNotAllowed.selector, AMOUNT, 0));
        vm.expectRevert(why2(IPolicyWallet.PayeeNotAllowed.selector, 1, 0));
        this.payApprovedTo(address(hub));
    }

    function payApprovedTo(address to) external {
        payApproved(payment(to, 1, 1), 15);
    }

    /* P6, C16: the parties and the delay */

    function test_the_payer_is_the_wallet_and_the_token_is_its_own() public {
        ChannelConfig memory c = channel();
        c.payer = stranger;
        refusedToFund(c, notAllowed(c));
        c = channel();
        c.token = address(hub);
        refusedToFund(c, notAllowed(c));
    }

    function test_the_voucher_key_is_the_agent_that_signs() public {
        ChannelConfig memory c = channel();
        refusedToFund(funding(c, AMOUNT, 1), agent2Key, invalid);
        c.payerAuthorizer = stranger; // no agent, but it can sign
        (, uint256 key) = makeAddrAndKey("stranger");
        refusedToFund(
            funding(c, AMOUNT, 1), key, abi.encodeWithSelector(IPolicyWallet.AgentInactive.selector, stranger)
        );
        c.payerAuthorizer = address(0);
        refusedToFund(funding(c, AMOUNT, 1), agentKey, invalid);
        c.payerAuthorizer = operators[0];
        refusedToFund(
            funding(c, AMOUNT, 1),
            operatorKeys[0],
            abi.encodeWithSelector(IPolicyWallet.AgentInactive.selector, operators[0])
        );
    }

    function test_who_claims_is_the_receiver_or_was_named() public {
        ChannelConfig memory c = channel();
        address[4] memory bad = [agent, stranger, cafe, address(0)];
        for (uint256 i; i < 4; ++i) {
            c.receiverAuthorizer = bad[i];
            refusedToFund(c, notAllowed(c));
            // The quorum's overrides are of limits, and this is none.
            refusedToFund(approvedFunding(c, AMOUNT, 1, 15), notAllowed(c));
        }
        c.receiverAuthorizer = stranger;
        vm.expectRevert(IPolicyWallet.NotTightening.selector);
        vm.prank(operators[0]);
        wallet.tighten(setAuthorizer(stranger, 1));
        enact(setAuthorizer(stranger, 7 days));
        assertEq(door.channelDelay(stranger), 7 days);
        fund(c, AMOUNT, 1);
        vm.expectEmit(address(wallet));
        emit IChannelPayer.ChannelAuthorizerChanged(stranger, 0);
        tightenBy(1, setAuthorizer(stranger, 0));
        refusedToFund(c, notAllowed(c));
    }

    function test_the_delay_has_a_bound() public {
        ChannelConfig memory c = channel();
        c.withdrawDelay = 1 days;
        fund(c, 1, 1);
        uint40[3] memory bad = [1 days + 1, 30 days, type(uint40).max];
        for (uint256 i; i < 3; ++i) {
            c.withdrawDelay = bad[i];
            refusedToFund(c, notAllowed(c));
        }
        enact(setAuthorizer(shop, 7 days));
        c.withdrawDelay = 7 days;
        fund(c, 1, 2);
        c.withdrawDelay = 7 days + 1;
        refusedToFund(c, notAllowed(c));
        tightenBy(0, setAuthorizer(shop, 2 days));
        c.withdrawDelay = 7 days;
        refusedToFund(c, notAllowed(c));
        c.withdrawDelay = 899; // the hub's own least
        refusedToFund(c, abi.encodeWithSelector(IChannelHub.WithdrawDelayOutOfRange.selector));
        c.withdrawDelay = 0;
        c.receiverAuthorizer = stranger; // named by nobody, for no time
        refusedToFund(c, notAllowed(c));
    }

    /* P7: the ceiling */

    function test_large_deposits_need_the_quorum() public {
        ChannelFunding memory f = funding(channel(), uint128(CEILING + 1), 1);
        refusedToFund(f, why2(IPolicyWallet.CeilingExceeded.selector, CEILING + 1, CEILING));
        f = approvedFunding(channel(), uint128(CEILING + 1), 1, 1);
        (bytes32 r, bytes32 vs,) = _signed(f, agentKey);
        bytes[3] memory bad = [
            bytes(""),
            quorumFor(keccak256("something else")),
            quorumFor(fundingDigest(funding(channel(), uint128(CEILING + 1), 1)))
        ];
        for (uint256 i; i < 3; ++i) {
            vm.expectRevert(IPolicyWallet.InvalidQuorum.selector);
            door.fundChannel(f, r, vs, bad[i]);
        }
        f.policyVersion += 1;
        refusedToFund(f, abi.encodeWithSelector(IPolicyWallet.PolicyVersionChanged.selector, 2, 1));
        f.policyVersion -= 1;
        f.overrides = 17;
        refusedToFund(f, abi.encodeWithSelector(IPolicyWallet.InvalidChange.selector));
        f.overrides = 1;
        fund(f);
        assertEq(balanceOf(channel()), CEILING + 1);
        // What it does not name still holds.
        refusedToFund(
            approvedFunding(channel(), uint128(DAY_CAP), 2, 1),
            why2(IPolicyWallet.DayCapExceeded.selector, DAY_CAP, DAY_CAP - CEILING - 1)
        );
    }

    /// @dev Small steps pass the ceiling and stop at the windows, whatever came back meanwhile.
    function test_top_ups_in_small_steps_stop_at_the_windows() public {
        for (uint256 i; i < 10; ++i) {
            fund(channel(), CEILING, i);
            vm.prank(shop);
            hub.refund(channel(), uint128(CEILING));
        }
        assertEq(usdc.balanceOf(address(wallet)), FUNDS);
        refusedToFund(channel(), why2(IPolicyWallet.DayCapExceeded.selector, AMOUNT, 0));
    }

    function test_vouchers_take_no_more_than_was_put_in() public {
        fund(channel(), AMOUNT, 1);
        claim(channel(), AMOUNT);
        assertEq(usdc.balanceOf(shop), AMOUNT);
        vm.expectRevert(IChannelHub.ClaimExceedsBalance.selector);
        this.claimFor(channel(), AMOUNT + 1);
    }

    function claimFor(ChannelConfig calldata c, uint128 total) external {
        claim(c, total);
    }

    /* P8: frozen */

    function test_frozen_nothing_goes_in_and_everything_comes_home() public {
        ChannelConfig memory c = channel();
        fund(c, AMOUNT, 1);
        fund(numbered(1), AMOUNT, 2);
        (uint256 day,,,) = wallet.room(agent);
        tightenBy(0, setFrozen(agent, true));
        refusedToFund(c, abi.encodeWithSelector(IPolicyWallet.AgentFrozen.selector, agent));
        tightenBy(0, setFrozen(address(0), true));
        refusedToFund(c, abi.encodeWithSelector(IPolicyWallet.WalletFrozen.selector));
        refusedToFund(approvedFunding(c, AMOUNT, 3, 15), abi.encodeWithSelector(IPolicyWallet.WalletFrozen.selector));

        claim(c, AMOUNT / 4); // the receiver's money was decided on before
        close(c);
        tightenBy(1, closeChange(numbered(1)));
        vm.warp(vm.getBlockTimestamp() + QUARTER);
        vm.startPrank(stranger);
        door.finishChannel(c);
        door.finishChannel(numbered(1));
        vm.stopPrank();
        assertEq(usdc.balanceOf(address(wallet)), FUNDS - AMOUNT / 4);
        (uint256 after_,,,) = wallet.room(agent);
        assertEq(after_, day, "what came back gave room");
    }

    function test_closing_needs_a_word() public {
        ChannelConfig memory c = channel();
        fund(c, AMOUNT, 1);
        uint256[3] memory keys = [agent2Key, operatorKeys[0], uint256(7)];
        for (uint256 i; i < 3; ++i) {
            (bytes32 r, bytes32 vs) = compact(keys[i], closingDigest(c, FAR));
            vm.expectRevert(IPolicyWallet.InvalidSignature.selector);
            door.closeChannel(c, FAR, r, vs);
        }
        (bytes32 r2, bytes32 vs2) = compact(agentKey, closingDigest(numbered(1), FAR));
        vm.expectRevert(IPolicyWallet.InvalidSignature.selector);
        door.closeChannel(c, FAR, r2, vs2);
        uint256 late = vm.getBlockTimestamp() - 1;
        (r2, vs2) = compact(agentKey, closingDigest(c, late));
        vm.expectRevert(abi.encodeWithSelector(IPolicyWallet.DeadlinePassed.selector, late));
        door.closeChannel(c, late, r2, vs2);
        vm.expectRevert(abi.encodeWithSelector(IPolicyWallet.NotOperator.selector, agent));
        vm.prank(agent);
        wallet.tighten(closeChange(c));
        vm.expectRevert(IChannelHub.WithdrawalNotPending.selector);
        door.finishChannel(c);
    }

    /// @dev The hub asks whose channel it is: the wallet's word is no word in another's.
    function test_channels_of_others_are_not_closed() public {
        ChannelConfig memory c = channel();
        (c.payer, c.payerAuthorizer) = (stranger, stranger);
        vm.expectRevert(IChannelHub.InvalidChannel.selector);
        vm.prank(operators[0]);
        wallet.tighten(closeChange(c));
        vm.expectRevert(IChannelHub.NotAuthorizedToFinalizeWithdraw.selector);
        door.finishChannel(c);
    }

    /* SIGNATURES */

    function test_a_funding_is_used_once() public {
        fund(channel(), AMOUNT, 1);
        refusedToFund(funding(channel(), AMOUNT, 1), abi.encodeWithSelector(IPolicyWallet.NonceUsed.selector, 1));
        refused(payment(shop, 1, 1), abi.encodeWithSelector(IPolicyWallet.NonceUsed.selector, 1));
        ChannelFunding memory f = funding(channel(), AMOUNT, 2);
        f.deadline = vm.getBlockTimestamp() - 1;
        refusedToFund(f, abi.encodeWithSelector(IPolicyWallet.DeadlinePassed.selector, f.deadline));
        tightenBy(1, abi.encodeCall(IPolicyChanges.cancelAgentNonce, (agent, 2)));
        refusedToFund(funding(channel(), AMOUNT, 2), abi.encodeWithSelector(IPolicyWallet.NonceUsed.selector, 2));
    }

    function testFuzz_a_relayer_changes_nothing(uint256 field, uint256 other) public {
        ChannelFunding memory f = funding(channel(), AMOUNT, 1);
        (bytes32 r, bytes32 vs,) = _signed(f, agentKey);
        field = bound(field, 0, 7);
        other = bound(other, 1, type(uint64).max);
        if (field == 0) f.amount += 1;
        else if (field == 1) f.nonce ^= other;
        else if (field == 2) f.deadline += other;
        else if (field == 3) f.context ^= bytes32(other);
        else if (field == 4) f.policyVersion ^= other;
        else if (field == 5) (f.channel.receiver, f.channel.receiverAuthorizer) = (cafe, cafe);
        else if (field == 6) f.channel.salt ^= bytes32(other);
        else f.channel.withdrawDelay += 1;
        vm.expectRevert(invalid);
        door.fundChannel(f, r, vs, "");
    }

    function test_a_voucher_opens_no_door() public {
        bytes32 digest = hub.getVoucherDigest(idOf(channel()), AMOUNT);
        (bytes32 r, bytes32 vs) = compact(agentKey, digest);
        vm.expectRevert(invalid);
        door.fundChannel(funding(channel(), AMOUNT, 1), r, vs, "");
        vm.expectRevert(invalid);
        door.closeChannel(channel(), FAR, r, vs);
    }

    function test_dirty_words_are_refused() public {
        ChannelFunding memory f = funding(channel(), AMOUNT, 1);
        (bytes32 r, bytes32 vs,) = _signed(f, agentKey);
        bytes memory good = abi.encodeCall(IChannelPayer.fundChannel, (f, r, vs, ""));
        // Above amount, payer, payerAuthorizer, receiver, receiverAuthorizer, token, withdrawDelay.
        for (uint256 word = 5; word < 12; ++word) {
            good[4 + 32 * word] = 0x01;
            (bool done,) = address(door).call(good);
            assertFalse(done);
            good[4 + 32 * word] = 0;
        }
        (bool ok,) = address(door).call(good);
        assertTrue(ok);
    }
}
