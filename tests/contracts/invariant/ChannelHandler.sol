// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

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
        vm.warp(_clock);
        _;
    }

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
    }
}
