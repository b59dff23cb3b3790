// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {ChannelStage} from "../attack/ChannelStage.sol";
import {DevUSDC} from "contracts/DevUSDC.sol";
import {ChannelConfig, IChannelHub, Voucher, VoucherClaim} from "contracts/interfaces/IChannelHub.sol";

/// @dev One channel as it should be.
struct Ghost {
    ChannelConfig config;
    uint256 balance;
    uint256 claimed;
    uint256 asked; // of the pending withdrawal
    uint256 since;
    uint256 nonce;
    uint256 signedMax; // highest ceiling ever signed
    uint256 deposited;
    uint256 returned; // to the payer, by withdrawal or refund
}

/// @dev Random steps by everybody there is: payers, their agent, sellers, their clerk, strangers, USDC's owner. Before each
/// step the ghosts say what must come of it, to the error; a step that ends otherwise reverts, and with it the campaign.
contract HubHandler is ChannelStage {
    uint256 private constant CHANNELS = 6;
    uint256 private constant MOST = 1_000e6;

    Ghost[] private ghosts;
    address[2] public payers;
    address[2] public sellers;
    mapping(address seller => uint256) public settled;
    mapping(address account => bool) private blocked;
    address private _blockedOne;
    uint256 public donated;
    uint256 public claims; // rows that moved money
    uint256 private _clock = START; // the fuzzer may move its own; this one only goes forward

    modifier step() {
        vm.warp(_clock);
        _;
    }

    function setUp() public override {
        super.setUp();
        payers = [payer, makeAddr("second payer")];
        sellers = [seller, makeAddr("second seller")];
        for (uint256 i; i < CHANNELS; ++i) {
            Ghost storage g = ghosts.push();
            g.config = salted(i);
            g.config.payer = payers[i % 2];
            g.config.receiver = sellers[i / 2 % 2];
            g.config.withdrawDelay = uint40(900 + i * 6 hours);
        }
    }

    /* THE STEPS */

    function deposit(uint256 i, uint128 amount) external step {
        Ghost storage g = _at(i);
        amount = uint128(bound(amount, 0, MOST));
        bytes4 why;
        if (amount == 0) why = IChannelHub.ZeroDeposit.selector;
        else if (blocked[address(hub)]) why = DevUSDC.AccountBlacklisted.selector;
        mint(address(purse), amount);
        if (!_does(stranger, abi.encodeCall(IChannelHub.deposit, (g.config, amount, address(purse), "")), why)) return;
        g.balance += amount;
        g.deposited += amount;
    }

    /// @param seed of up to four rows, the same channel twice now and then; few of them spoiled
    /// @param how x402's rows or packed ones, by the clerk or on its signature, settled at once or not
    function claim(uint256 seed, uint8 how) external step {
        seed = uint256(keccak256(abi.encode(seed, _clock))); // the fuzzer likes small numbers
        address who = sellers[seed % 2];
        bool packed_ = how % 5 > 1;
        VoucherClaim[] memory rows = new VoucherClaim[](1 + (seed >> 8) % 4);
        uint256[] memory before = _claimed();
        uint256 moved;
        bytes4 why;
        for (uint256 r; r < rows.length; ++r) {
            uint256 part = seed >> 16 + 60 * r;
            bytes4 bad;
            (rows[r], bad) = _row(part, packed_ ? who : sellers[part >> 59 & 1]);
            if (bad == 0) ++moved;
            // What x402's path refuses, it refuses whole.
            if (bad != bytes4(uint32(1)) && why == 0) why = bad;
        }
        if (packed_) why = 0;
        bytes memory call = _call(rows, who, how % 5);
        if (how % 5 == 4 && _pays(who) && (blocked[who] || blocked[address(hub)])) {
            why = DevUSDC.AccountBlacklisted.selector;
        }
        if (!_does(how % 5 == 1 || how % 5 == 3 ? stranger : clerk, call, why)) {
            for (uint256 c; c < CHANNELS; ++c) {
                ghosts[c].claimed = before[c];
            }
            return;
        }
        claims += moved;
        if (how % 5 == 4) settled[who] = claimedFor(who);
    }

    function settle(uint256 who) external step {
        address to = sellers[who % 2];
        bytes4 why;
        if (_pays(to) && (blocked[to] || blocked[address(hub)])) why = DevUSDC.AccountBlacklisted.selector;
        if (_does(stranger, abi.encodeCall(IChannelHub.settle, (to, address(usdc))), why)) {
            settled[to] = claimedFor(to);
        }
    }

    function initiate(uint256 i, uint128 amount, bool all, uint8 who) external step {
        Ghost storage g = _at(i);
        uint256 left = g.balance - g.claimed;
        amount = all ? uint128(left) : uint128(bound(amount, 0, left + 1));
        address from = who % 8 == 0 ? clerk : who % 2 == 0 ? agent : g.config.payer;
        bytes4 why;
        if (from == clerk) why = IChannelHub.InvalidChannel.selector;
        else if (g.since != 0) why = IChannelHub.WithdrawalAlreadyPending.selector;
        else if (amount == 0) why = IChannelHub.NothingToWithdraw.selector;
        else if (amount > left) why = IChannelHub.WithdrawAmountExceedsAvailable.selector;
        if (!_does(from, abi.encodeCall(IChannelHub.initiateWithdraw, (g.config, amount)), why)) return;
        (g.asked, g.since) = (amount, _clock);
    }

    function finalize(uint256 i, bool wait) external step {
        Ghost storage g = _at(i);
        uint256 ready = g.since + g.config.withdrawDelay;
        if (wait && g.since != 0 && _clock < ready) vm.warp(_clock = ready);
        uint256 left = g.balance - g.claimed;
        uint256 amount = g.asked < left ? g.asked : left;
        bytes4 why;
        if (g.since == 0) why = IChannelHub.WithdrawalNotPending.selector;
        else if (_clock < ready) why = IChannelHub.WithdrawDelayNotElapsed.selector;
        else if (amount != 0 && _exitBlocked(g)) why = DevUSDC.AccountBlacklisted.selector;
        if (!_does(agent, abi.encodeCall(IChannelHub.finalizeWithdraw, (g.config)), why)) return;
        (g.asked, g.since) = (0, 0);
        _returns(g, amount);
    }

    function refund(uint256 i, uint128 asked, uint8 how) external step {
        Ghost storage g = _at(i);
        uint256 left = g.balance - g.claimed;
        asked = uint128(bound(asked, 0, left + MOST));
        uint256 amount = asked < left ? asked : left;
        bytes memory call = abi.encodeCall(IChannelHub.refund, (g.config, asked));
        address from = how % 2 == 0 ? clerk : g.config.receiver;
        bytes4 why;
        if (how % 4 == 3) {
            from = stranger;
            uint256 nonce = how % 8 == 3 || g.nonce == 0 ? g.nonce : g.nonce - 1;
            bytes memory s = signed(clerkKey, refundHash(g.config, nonce, asked));
            call = abi.encodeCall(IChannelHub.refundWithSignature, (g.config, asked, nonce, s));
            if (nonce != g.nonce) why = IChannelHub.InvalidRefundNonce.selector;
        }
        if (why == 0 && asked == 0) why = IChannelHub.ZeroRefund.selector;
        if (why == 0 && amount != 0 && _exitBlocked(g)) why = DevUSDC.AccountBlacklisted.selector;
        if (!_does(from, call, why)) return;
        ++g.nonce;
        if (amount >= g.asked) (g.asked, g.since) = (0, 0);
        else g.asked -= amount;
        _returns(g, amount);
    }

    /// @dev USDC's owner blocks one at a time, the hub rarely.
    function blockAccount(uint256 who, bool on) external step {
        if (_blockedOne != address(0)) _block(_blockedOne, false);
        if (!on) return;
        _block([payers[0], payers[1], sellers[0], sellers[1], who % 15 == 4 ? address(hub) : seller][who % 5], true);
    }

    function donate(uint64 amount) external step {
        if (blocked[address(hub)]) return;
        mint(address(hub), amount);
        donated += amount;
    }

    function pass(uint32 time) external step {
        _clock += time % 12 hours;
    }

    /// @dev I17: every payer asks for all that is not claimed, waits, and has it. Then the sellers are paid.
    function endAll() external {
        if (_blockedOne != address(0)) _block(_blockedOne, false);
        for (uint256 again; again < 2; ++again) {
            for (uint256 i; i < CHANNELS; ++i) {
                Ghost storage g = ghosts[i];
                uint256 left = g.balance - g.claimed;
                if (g.since == 0 && left != 0) {
                    _does(agent, abi.encodeCall(IChannelHub.initiateWithdraw, (g.config, uint128(left))), 0);
                    (g.asked, g.since) = (left, _clock);
                }
            }
            vm.warp(_clock += 30 days);
            for (uint256 i; i < CHANNELS; ++i) {
                Ghost storage g = ghosts[i];
                if (g.since == 0) continue;
                uint256 left = g.balance - g.claimed;
                _does(g.config.payer, abi.encodeCall(IChannelHub.finalizeWithdraw, (g.config)), 0);
                _returns(g, g.asked < left ? g.asked : left);
                (g.asked, g.since) = (0, 0);
            }
        }
        for (uint256 s; s < 2; ++s) {
            _does(stranger, abi.encodeCall(IChannelHub.settle, (sellers[s], address(usdc))), 0);
            settled[sellers[s]] = claimedFor(sellers[s]);
        }
        agrees();
        for (uint256 i; i < CHANNELS; ++i) {
            assertEq(ghosts[i].balance, ghosts[i].claimed, "all that was not claimed has left");
        }
        assertEq(held(), donated, "nothing but gifts is left");
    }

    /* WHAT MUST HOLD */

    /// @dev I12 to I16, against the ghosts and against the token.
    function agrees() public view {
        uint256 balances;
        for (uint256 i; i < CHANNELS; ++i) {
            Ghost storage g = ghosts[i];
            assertChannel(g.config, g.balance, g.claimed);
            assertPending(g.config, g.asked, g.since);
            assertEq(hub.refundNonce(idOf(g.config)), g.nonce, "nonce");
            assertLe(g.claimed, g.balance, "I12");
            assertLe(g.claimed, g.signedMax, "I15, I16");
            assertEq(g.deposited, g.balance + g.returned, "what was deposited");
            balances += g.balance;
        }
        for (uint256 s; s < 2; ++s) {
            (uint128 total, uint128 paid) = hub.receivers(sellers[s], address(usdc));
            assertEq(total, claimedFor(sellers[s]), "I14");
            assertEq(paid, settled[sellers[s]], "settled");
            assertEq(usdc.balanceOf(sellers[s]), paid, "what a seller has");
            balances -= paid;
        }
        assertEq(held(), balances + donated, "I13");
        for (uint256 p; p < 2; ++p) {
            uint256 returned;
            for (uint256 i = p; i < CHANNELS; i += 2) {
                returned += ghosts[i].returned;
            }
            assertEq(usdc.balanceOf(payers[p]), returned, "what a payer has back");
        }
    }

    function claimedFor(address who) public view returns (uint256 sum) {
        for (uint256 i; i < CHANNELS; ++i) {
            if (ghosts[i].config.receiver == who) sum += ghosts[i].claimed;
        }
    }

    /* PARTS */

    function _at(uint256 i) private view returns (Ghost storage) {
        return ghosts[i % CHANNELS];
    }

    /// @dev A row for a channel of `who`'s, and what x402's path says to it: 0 for money moved, 1 for nothing new. Moves
    /// the ghost.
    function _row(uint256 seed, address who) private returns (VoucherClaim memory a, bytes4 why) {
        uint256 first = who == sellers[0] ? 0 : 2;
        uint256[3] memory own = [first, first + 1, first + 4];
        Ghost storage g = ghosts[own[seed % (first == 0 ? 3 : 2)]];
        uint256 room = g.balance - g.claimed;
        uint256 kind = (seed >> 8) % 16;
        uint256 total = g.claimed + (seed >> 12) % (room + 1);
        if (kind == 0) total = g.claimed / 2;
        if (kind == 1) total = g.balance + 1 + seed % 100;
        uint256 max = total + (seed >> 20) % 3 * 1e6;
        if (kind == 2 && total != 0) max = total - 1;
        bool forged = kind == 3;
        ChannelConfig memory c = g.config;
        bytes memory s = signed(forged ? payerKey : agentKey, voucherHash(c, uint128(max)));
        a = VoucherClaim(Voucher(c, uint128(max)), s, uint128(total));
        if (!forged && max > g.signedMax) g.signedMax = max;

        if (total > max) why = IChannelHub.ClaimExceedsCeiling.selector;
        else if (total <= g.claimed) why = bytes4(uint32(1));
        else if (total > g.balance) why = IChannelHub.ClaimExceedsBalance.selector;
        else if (forged) why = IChannelHub.InvalidSignature.selector;
        else g.claimed = total;
    }

    function _call(VoucherClaim[] memory rows, address who, uint256 how) private view returns (bytes memory) {
        if (how == 0) return abi.encodeCall(IChannelHub.claim, (rows));
        bytes memory s = signed(clerkKey, batchHash(rows));
        if (how == 1) return abi.encodeCall(IChannelHub.claimWithSignature, (rows, s));
        bytes memory all = packed(rows);
        if (how == 2) return abi.encodeCall(IChannelHub.claimPacked, (who, clerk, address(usdc), all));
        if (how == 3) return abi.encodeCall(IChannelHub.claimPackedWithSignature, (who, clerk, address(usdc), all, s));
        return abi.encodeCall(IChannelHub.claimAndSettle, (who, clerk, address(usdc), all));
    }

    function _claimed() private view returns (uint256[] memory before) {
        before = new uint256[](CHANNELS);
        for (uint256 c; c < CHANNELS; ++c) {
            before[c] = ghosts[c].claimed;
        }
    }

    /// @dev Whether something waits for `who` now that the ghosts have moved.
    function _pays(address who) private view returns (bool) {
        return claimedFor(who) > settled[who];
    }

    function _exitBlocked(Ghost storage g) private view returns (bool) {
        return blocked[g.config.payer] || blocked[address(hub)];
    }

    function _returns(Ghost storage g, uint256 amount) private {
        g.balance -= amount;
        g.returned += amount;
    }

    function _block(address account, bool on) private {
        vm.prank(treasury);
        if (on) usdc.blacklist(account);
        else usdc.unBlacklist(account);
        blocked[account] = on;
        _blockedOne = on ? account : address(0);
    }

    function _does(address from, bytes memory call, bytes4 why) private returns (bool) {
        vm.prank(from);
        (bool done, bytes memory answer) = address(hub).call(call);
        if (why == 0) assertTrue(done, "refused what is right");
        else assertEq(bytes4(answer), why, "another refusal, or none");
        return done;
    }
}
