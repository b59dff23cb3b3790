// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

<<<<<<< HEAD
import {DevUSDC} from "contracts/DevUSDC.sol";
import {ChannelConfig, ChannelFunding, IChannelHub, IChannelPayer} from "contracts/interfaces/IChannelHub.sol";
import {IPolicyWallet, PayeeLimits} from "contracts/interfaces/IPolicyWallet.sol";
import {Redemption} from "contracts/interfaces/IX402Payer.sol";
import {FundingStage} from "../attack/FundingStage.sol";
import {Payment, Stage} from "../attack/Stage.sol";
import {Transfer, X402Stage} from "../attack/X402Stage.sol";

/// @dev Wallet, hub and token together, and everybody around them: two agents that fund and close channels, pay, and have
/// redemptions and coupons carried; receivers that claim and give back; operators; strangers that deposit in the wallet's
/// name. It keeps a plain list of what left the wallet by the agents' word.
contract ChannelHandler is FundingStage, X402Stage {
    uint256 public constant SHOP_CAP = 8 * CEILING;

    struct Entry {
        address agent;
        uint256 amount;
        uint256 time;
    }

    ChannelConfig[] private _channels;
    mapping(bytes32 id => bool) private _known;
    Entry[] private _entries;
    mapping(address payee => uint256) public booked;
    mapping(address agent => mapping(uint256 period => uint256)) private _byCoupon;
    uint256 public paid;
    uint256 public couponsPaid;
    uint256 private _nonce = 1_000;
    uint256 private _clock;

    modifier inTime() {
=======
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
contract ChannelHandler is ChannelStage {
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
>>>>>>> 11044de (Channels: invariants I12 to I17, order and paths of claims by fuzz (I18, I19), the word for all inputs, gas; the devnet's hub used from Rust)
        vm.warp(_clock);
        _;
    }

<<<<<<< HEAD
    function setUp() public override(FundingStage, X402Stage) {
        super.setUp();
        enact(setCoupons(agent2, couponsOf(HOUR, SMALL, CENT, LARGE, USD)));
        tightenBy(0, setPayee(shop, PayeeLimits(1, uint48(SHOP_CAP), 0)));
        _clock = vm.getBlockTimestamp();
    }

    function hubFor(address token) internal override(FundingStage, Stage) returns (address) {
        return FundingStage.hubFor(token);
    }

    function parties() external view returns (IPolicyWallet, IChannelHub, DevUSDC) {
        return (wallet, hub, usdc);
    }

    function receivers() public view returns (address[3] memory) {
        return [shop, cafe, stranger];
    }

    function count() external view returns (uint256) {
        return _channels.length;
    }

    function held(uint256 i) external view returns (uint256 balance, uint256 claimed) {
        return hub.channels(idOf(_channels[i]));
    }

    /* WHAT THE AGENTS SIGN */

    function fundOne(uint256 seed) external inTime {
        address by = _agent(seed);
        ChannelConfig memory c = numbered((seed >> 4) % 3);
        c.payerAuthorizer = by;
        c.receiver = receivers()[(seed >> 8) % 3];
        c.receiverAuthorizer = seed >> 16 & 7 == 0 ? stranger : c.receiver;
        c.withdrawDelay = seed >> 20 & 7 == 0 ? 2 days : 1 hours;
        uint128 amount = uint128((seed >> 24) % (CEILING + CEILING / 20));
        ChannelFunding memory f = funding(c, amount, ++_nonce);
        (bytes32 r, bytes32 vs,) = _signed(f, keyOf(by));
        bool frozen = _isFrozen(by);
        (bool done,) = address(door).call(abi.encodeCall(IChannelPayer.fundChannel, (f, r, vs, "")));
        if (!done) return;
        assertFalse(frozen, "funded while frozen");
        if (!_known[idOf(c)]) _channels.push(c);
        _known[idOf(c)] = true;
        _book(by, c.receiver, amount);
    }

    function payOne(uint256 seed) external inTime {
        address by = _agent(seed);
        Payment memory p = payment(receivers()[(seed >> 8) % 3], (seed >> 24) % CEILING, ++_nonce);
        p.agent = by;
        bool frozen = _isFrozen(by);
        (bytes32 r, bytes32 vs) = compact(keyOf(by), digestOf(p));
        try wallet.pay(by, p.to, p.amount, p.nonce, p.deadline, p.context, r, vs) {
            assertFalse(frozen, "paid while frozen");
            paid += p.amount;
            _book(by, p.to, p.amount);
        } catch {}
    }

    function redeemOne(uint256 seed) external inTime {
        address by = _agent(seed);
        Redemption memory m = redemption(receivers()[(seed >> 8) % 3], (seed >> 24) % CEILING, ++_nonce);
        m.agent = by;
        if (seed >> 16 & 3 == 0) m.redeemer = stranger;
        bool frozen = _isFrozen(by);
        try this.redeemAs(m) {
            assertFalse(frozen || m.redeemer != address(0), "redeemed while frozen, or by another");
            paid += m.amount;
            _book(by, m.to, m.amount);
        } catch {}
    }

    function redeemAs(Redemption calldata m) external {
        redeem(m);
    }

    function couponOne(uint256 seed) external inTime {
        address by = _agent(seed);
        uint256 class = (seed >> 4) % 3;
        Transfer memory t = transferOf(
            receivers()[(seed >> 8) % 3], (seed >> 24) % (class == 0 ? CENT : USD), index(class, (seed >> 16) % 4)
        );
        t.nonce = nonceOf(by, period(), t.index);
        bytes memory blob = couponBy(keyOf(by), t);
        bool frozen = _isFrozen(by);
        try usdc.transferWithAuthorization(t.from, t.to, t.value, t.validAfter, t.validBefore, t.nonce, blob) {
            assertFalse(frozen, "a coupon while frozen");
            _byCoupon[by][period()] += t.value;
            assertLe(_byCoupon[by][period()], ALLOTMENT, "coupons beyond the allotment");
            booked[t.to] += t.value;
            paid += t.value;
            ++couponsPaid;
        } catch {}
    }

    /* WHAT STRANGERS TRY */

    /// @dev On a channel of the wallet's, or on one of their own in the wallet's name.
    function depositOne(uint256 seed, uint128 amount) external inTime {
        ChannelConfig memory c = channel();
        if (_channels.length != 0) c = _channels[seed % _channels.length];
        if (seed >> 8 & 1 == 1) (c.payerAuthorizer, c.receiver, c.receiverAuthorizer) = (stranger, stranger, stranger);
        uint256 before = usdc.balanceOf(address(wallet));
        vm.startPrank(stranger);
        (bool deposited,) = address(hub).call(abi.encodeCall(IChannelHub.deposit, (c, amount, address(wallet), "")));
        (bool collected,) = address(wallet)
            .call(abi.encodeCall(IChannelPayer.collect, (address(wallet), address(usdc), amount, idOf(c), "")));
        vm.stopPrank();
        assertFalse(deposited || collected, "the wallet gave what nobody signed for");
        assertEq(usdc.balanceOf(address(wallet)), before);
    }

    /* THE RECEIVERS, AND THE WAY HOME. Money that comes back gives no room. */

    function claimOne(uint256 seed, uint128 total) external inTime {
        if (_channels.length == 0) return;
        ChannelConfig memory c = _channels[seed % _channels.length];
        total = uint128(bound(total, 0, CEILING));
        try this.claimAs(c, total) {} catch {}
    }

    function claimAs(ChannelConfig calldata c, uint128 total) external {
        claim(c, total);
    }

    function returnOne(uint256 seed, uint128 amount) external inTime {
        if (_channels.length == 0) return;
        ChannelConfig memory c = _channels[seed % _channels.length];
        (uint256 day,,,) = wallet.room(agent);
        (uint256 day2,,,) = wallet.room(agent2);
        uint256 how = (seed >> 200) % 4;
        if (how == 0) {
            vm.prank(c.receiver);
            (bool done,) = address(hub).call(abi.encodeCall(IChannelHub.refund, (c, amount)));
            done;
        } else if (how == 1) {
            (bytes32 r, bytes32 vs) = compact(keyOf(c.payerAuthorizer), closingDigest(c, FAR));
            try door.closeChannel(c, FAR, r, vs) {} catch {}
        } else if (how == 2) {
            vm.prank(operators[seed % 3]);
            try wallet.tighten(closeChange(c)) {} catch {}
        } else {
            vm.prank(stranger);
            try door.finishChannel(c) {} catch {}
        }
        (uint256 after_,,,) = wallet.room(agent);
        (uint256 after2,,,) = wallet.room(agent2);
        assertEq(after_, day, "room of the agent");
        assertEq(after2, day2, "room of the other");
    }

    function freeze(uint256 seed) external inTime {
        address who = [address(0), agent, agent2][seed % 3];
        if (seed >> 8 & 3 == 0) tightenBy(seed % 3, setFrozen(who, true));
        else submit(setFrozen(who, false));
    }

    function pass(uint256 time) external inTime {
        _clock += bound(time, 1, 12 hours);
    }

    /// @dev Everything frozen, the agents gone: operators and strangers bring home what is not the receivers'.
    function endAll() external {
        vm.warp(_clock);
        tightenBy(0, setFrozen(address(0), true));
        for (uint256 i; i < _channels.length; ++i) {
            vm.prank(operators[i % 3]);
            try wallet.tighten(closeChange(_channels[i])) {} catch {} // pending already, or empty
        }
        vm.warp(_clock + 30 days);
        for (uint256 i; i < _channels.length; ++i) {
            vm.prank(stranger);
            try door.finishChannel(_channels[i]) {} catch {}
            // What an older, smaller request left.
            vm.prank(operators[i % 3]);
            try wallet.tighten(closeChange(_channels[i])) {} catch {}
        }
        vm.warp(_clock + 60 days);
        for (uint256 i; i < _channels.length; ++i) {
            try door.finishChannel(_channels[i]) {} catch {}
        }
    }

    /* WHAT IS */

    /// @dev No agent's fundings, payments and redemptions in any 24 hours are more than its day cap.
    function checkWindows() external view {
        for (uint256 i; i < _entries.length; ++i) {
            uint256 sum;
            for (uint256 j; j <= i; ++j) {
                bool same = _entries[j].agent == _entries[i].agent;
                if (same && _entries[j].time + 24 hours > _entries[i].time) sum += _entries[j].amount;
            }
            assertLe(sum, DAY_CAP, "24 hours above the day cap");
        }
    }

    function _book(address by, address to, uint256 amount) private {
        booked[to] += amount;
        _entries.push(Entry(by, amount, vm.getBlockTimestamp()));
    }

    function _agent(uint256 seed) private view returns (address) {
        return seed % 2 == 0 ? agent : agent2;
    }

    function _isFrozen(address who) private view returns (bool frozen) {
        (,, frozen) = wallet.agentLimits(who);
        return frozen || wallet.walletFrozen();
=======
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
>>>>>>> 11044de (Channels: invariants I12 to I17, order and paths of claims by fuzz (I18, I19), the word for all inputs, gas; the devnet's hub used from Rust)
    }
}
