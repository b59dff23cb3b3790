// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {Payment} from "../attack/Stage.sol";
import {DoorStage} from "../attack/DoorStage.sol";
import {DevUSDC} from "contracts/DevUSDC.sol";
import {IPolicyWallet} from "contracts/interfaces/IPolicyWallet.sol";
import {
    EscrowOpening,
    IEscrowPayer,
    IWorkEscrow,
    Payout,
    Proof,
    State,
    Status,
    Terms,
    BY_ARBITER
} from "contracts/interfaces/IWorkEscrow.sol";

/// @dev Wallet and escrow together, and everybody around them: two agents that open, release, dispute and pay, a worker,
/// an arbiter, operators that freeze and dispute, strangers that finish what is late. It keeps a plain list of what left
/// the wallet by the agents' word.
contract DoorHandler is DoorStage {
    uint256 public constant WORKER_CAP = 6 * CEILING;

    struct Entry {
        address agent;
        uint256 amount;
        uint256 time;
    }

    Terms[] private _opened;
    mapping(uint256 index => Payout[]) private _payouts;
    Entry[] private _entries;
    mapping(address payee => uint256) public booked;
    uint256 public paid;
    uint256 private _nonce = 1_000;
    uint256 private _clock;

    modifier inTime() {
        vm.warp(_clock);
        _;
    }

    function setUp() public override {
        super.setUp();
        enact(setPayee(worker, capped(WORKER_CAP)));
        _clock = block.timestamp;
    }

    function parties() external view returns (IPolicyWallet, IWorkEscrow, DevUSDC) {
        return (wallet, escrow, usdc);
    }

    function receivers() public view returns (address[4] memory) {
        return [worker, shop, cafe, stranger];
    }

    function count() external view returns (uint256) {
        return _opened.length;
    }

    function opened(uint256 i) external view returns (Terms memory, State memory) {
        return (_opened[i], stateOf(_opened[i]));
    }

    /* THE AGENTS */

    function openOne(uint256 seed) external inTime {
        address by = seed % 2 == 0 ? agent : agent2;
        Terms memory t = numbered(uint96(++_nonce));
        t.salt = uint256(uint160(by)) << 96 | _nonce;
        t.amount = uint64((seed >> 8) % (CEILING + CEILING / 20));
        t.silenceBps = uint16(seed >> 80) % 10_001;
        if (t.silenceBps == 0) t.anyOf = BY_ARBITER;
        t.payee = receivers()[(seed >> 160) % 4];
        Payout[] memory list = none();
        if (seed >> 170 & 1 == 1) {
            list = shares(
                receivers()[(seed >> 171) % 4], uint16((seed >> 180) % 5_000), cafe, uint16((seed >> 200) % 5_000)
            );
        }
        EscrowOpening memory o = EscrowOpening(by, _nonce, FAR, bytes32(seed), 0, 0, with(t, list));
        (bytes32 r, bytes32 vs) = compact(keyOf(by), openingDigest(o));
        bool frozen = _isFrozen(by);
        (bool done,) = address(door).call(abi.encodeCall(IEscrowPayer.openEscrow, (o, list, r, vs, "")));
        if (!done) return;
        assertFalse(frozen, "opened while frozen");
        _opened.push(t);
        for (uint256 i; i < list.length; ++i) {
            _payouts[_opened.length - 1].push(list[i]);
        }
        (uint256[] memory parts, uint256 rest) = escrow.splitOf(list, t.amount);
        for (uint256 i; i < parts.length; ++i) {
            booked[list[i].to] += parts[i];
        }
        booked[t.payee] += rest;
        _entries.push(Entry(by, t.amount, block.timestamp));
    }

    function payOne(uint256 seed) external inTime {
        address by = seed % 2 == 0 ? agent : agent2;
        Payment memory p = payment(receivers()[(seed >> 160) % 4], (seed >> 8) % CEILING, ++_nonce);
        p.agent = by;
        (bytes32 r, bytes32 vs) = compact(keyOf(by), digestOf(p));
        try wallet.pay(by, p.to, p.amount, p.nonce, p.deadline, p.context, r, vs) {
            booked[p.to] += p.amount;
            paid += p.amount;
            _entries.push(Entry(by, p.amount, block.timestamp));
        } catch {}
    }

    function releaseOne(uint256 seed, uint64 total) external inTime {
        (Terms memory t, Payout[] memory list) = _pick(seed);
        if (t.amount == 0) return;
        address by = address(uint160(t.salt >> 96));
        total = uint64(bound(total, 0, t.amount));
        bool frozen = _isFrozen(by);
        bytes memory data = captureCall(t, list, total);
        (bool done,) = _step(by, data, releaseDigest(by, t, total));
        assertFalse(done && frozen, "released while frozen");
    }

    function disputeOne(uint256 seed) external inTime {
        (Terms memory t,) = _pick(seed);
        if (t.amount == 0) return;
        address by = address(uint160(t.salt >> 96));
        if (seed >> 250 & 1 == 1) {
            vm.prank(operators[seed % 3]);
            (bool told,) =
                address(wallet).call(abi.encodeCall(IPolicyWallet.tighten, (callEscrow(disputeCall(t, "e")))));
            told;
        } else {
            bool frozen = _isFrozen(by);
            (bool done,) = _step(by, disputeCall(t, "evidence"), disputeDigest(by, t, "evidence"));
            assertFalse(done && frozen, "disputed while frozen");
        }
    }

    /* THE OTHERS. Money that comes back gives no room. */

    function deliverOne(uint256 seed) external inTime {
        (Terms memory t,) = _pick(seed);
        if (t.amount != 0) _as(t.payee, abi.encodeCall(IWorkEscrow.submit, (t, "deliverable", 0, "")));
    }

    function endOne(uint256 seed, uint64 total) external inTime {
        (Terms memory t, Payout[] memory list) = _pick(seed);
        if (t.amount == 0) return;
        total = uint64(bound(total, 0, t.amount));
        (uint256 day,,,) = wallet.room(agent);
        (uint256 day2,,,) = wallet.room(agent2);
        uint256 how = (seed >> 200) % 5;
        if (how == 0) _as(t.payee, abi.encodeCall(IWorkEscrow.void, (t, 0, "")));
        if (how == 1) _as(stranger, abi.encodeCall(IWorkEscrow.reclaim, (t)));
        if (how == 2) _as(stranger, abi.encodeCall(IWorkEscrow.finalize, (t, list)));
        if (how == 3) {
            _as(arbiter, abi.encodeCall(IWorkEscrow.award, (t, list, total, t.amount - total, "reason", 0, "")));
        }
        if (how == 4) {
            Proof memory p;
            p.claims = BY_ARBITER;
            _as(arbiter, abi.encodeCall(IWorkEscrow.capture, (t, list, total, p)));
        }
        (uint256 after_,,,) = wallet.room(agent);
        (uint256 after2,,,) = wallet.room(agent2);
        assertEq(after_, day, "room of the agent");
        assertEq(after2, day2, "room of the other");
    }

    function freeze(uint256 seed) external inTime {
        address who = [address(0), agent, agent2][seed % 3];
        if (seed >> 8 & 1 == 1) tightenBy(seed % 3, setFrozen(who, true));
        else submit(setFrozen(who, false));
    }

    function pass(uint256 time) external inTime {
        _clock += bound(time, 1, 2 days);
    }

    /// @dev Everything frozen, everybody gone: anyone brings each escrow to its end.
    function endAll() external {
        vm.warp(_clock);
        tightenBy(0, setFrozen(address(0), true));
        vm.warp(_clock + 365 days);
        for (uint256 i; i < _opened.length; ++i) {
            Status status = stateOf(_opened[i]).status;
            vm.startPrank(stranger);
            if (status == Status.Funded) escrow.reclaim(_opened[i]);
            if (status == Status.Submitted || status == Status.Disputed) escrow.finalize(_opened[i], _payouts[i]);
            vm.stopPrank();
        }
    }

    /* WHAT IS */

    /// @dev No agent's openings and payments in any 24 hours are more than its day cap.
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

    function _pick(uint256 seed) private view returns (Terms memory t, Payout[] memory list) {
        if (_opened.length == 0) return (t, list);
        uint256 i = seed % _opened.length;
        return (_opened[i], _payouts[i]);
    }

    function _step(address by, bytes memory data, bytes32 digest) private returns (bool done, bytes memory answer) {
        (bytes32 r, bytes32 vs) = compact(keyOf(by), digest);
        return address(door).call(abi.encodeCall(IEscrowPayer.stepEscrow, (by, data, FAR, keccak256("why"), r, vs, "")));
    }

    function _as(address who, bytes memory data) private {
        vm.prank(who);
        (bool done,) = address(escrow).call(data);
        done;
    }

    function _isFrozen(address who) private view returns (bool frozen) {
        (,, frozen) = wallet.agentLimits(who);
        return frozen || wallet.walletFrozen();
    }
}
