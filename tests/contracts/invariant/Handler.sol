// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {Payment, Stage} from "../attack/Stage.sol";
import {Ledger} from "./Ledger.sol";
import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {DevUSDC} from "contracts/DevUSDC.sol";
import {AgentLimits, Batch, IPolicyChanges, IPolicyWallet, PayeeLimits} from "contracts/interfaces/IPolicyWallet.sol";
import {Vm} from "forge-std/Vm.sol";

/// @dev Random steps against a wallet. Before each, the ledger says what must come of it, to the error; a step that
/// ends otherwise reverts, and with it the campaign.
contract Handler is Stage {
    uint256 private constant NONCES = 48; // few, so that they come up again

    Ledger public ledger;
    address[] private agents;
    address[] private payees;
    mapping(address agent => uint256) private _keys;
    uint256 private _fresh = NONCES;
    uint256 private _clock = START; // the fuzzer may move its own; this one only goes forward

    uint256 public deposited = FUNDS;
    uint256 public withdrawn;
    uint256 public evented; // by the wallet's Paid, Approved, BatchPaid and Withdrawn
    uint256 public transferred; // by USDC's Transfer
    bytes32 private _skips; // chained over ItemSkipped and BatchSkipped, as predicted less as seen

    modifier step() {
        vm.warp(_clock);
        _;
    }

    /// @dev Three agents with every limit on. Payees: two plain, one capped, one slow, one never registered, and the
    /// reserved ones.
    function setUp() public override {
        vm.warp(START);
        ledger = new Ledger();
        super.setUp();
        (address third, uint256 key) = makeAddrAndKey("agent 3");
        agents = [agent, agent2, third];
        _keys[agent] = agentKey;
        _keys[agent2] = agent2Key;
        _keys[third] = key;
        payees = [shop, cafe, makeAddr("capped"), makeAddr("slow"), stranger, address(usdc), agent2];

        AgentLimits memory l;
        l = AgentLimits(uint48(CEILING), uint48(3 * CEILING), 0, uint64(60 * CEILING), uint40(FAR), 1);
        bytes[] memory changes = new bytes[](8);
        for (uint256 i; i < 3; ++i) {
            l.monthCap = uint48((3 + 3 * i) * CEILING); // the first agent's month binds as its day does
            ledger.setAgent(agents[i], l);
            changes[i] = setAgent(agents[i], l);
        }
        for (uint256 i; i < 4; ++i) {
            PayeeLimits memory p = PayeeLimits(
                uint16(i == 1 ? 3 : 1), i == 2 ? uint48(9 * CEILING) : type(uint48).max, i == 3 ? 1 hours : 0
            );
            ledger.setPayee(payees[i], p);
            changes[3 + i] = setPayee(payees[i], p);
        }
        ledger.setWalletCap(6 * CEILING);
        changes[7] = setCap(6 * CEILING);
        wallet = deployFor(address(usdc), operatorSet(), 2, 0, changes); // changes run at once, in mid-window
        ledger.reserve(address(usdc));
        fund(address(wallet), FUNDS);
    }

    function parties() external view returns (IPolicyWallet, DevUSDC, address[] memory, address[] memory) {
        return (wallet, usdc, agents, payees);
    }

    /* THE AGENTS' DOORS */

    function paySingle(uint256 by, uint256 to, uint256 size, uint256 nonce) external step {
        Payment memory p = _payment(by, to, size, nonce);
        (bytes32 r, bytes32 vs) = compact(_keys[p.agent], digestOf(p));
        bytes memory call =
            abi.encodeCall(IPolicyWallet.pay, (p.agent, p.to, p.amount, p.nonce, p.deadline, p.context, r, vs));
        _run(p, 0, call);
    }

    function payWithQuorum(uint256 by, uint256 to, uint256 size, uint256 nonce, uint256 overrides) external step {
        overrides = overrides % 15 + 1;
        Payment memory p = _payment(by, to, size, nonce);
        uint256 version = ledger.versions(p.agent);
        bytes32 digest = approvedDigest(p, overrides, version);
        (bytes32 r, bytes32 vs) = compact(_keys[p.agent], digest);
        bytes memory quorum = quorumFor(digest);
        bytes memory call = abi.encodeCall(
            IPolicyWallet.payApproved,
            (p.agent, p.to, p.amount, p.nonce, p.deadline, p.context, overrides, version, r, vs, quorum)
        );
        _run(p, overrides, call);
    }

    function _run(Payment memory p, uint256 overrides, bytes memory call) private {
        (bytes4 reason, uint256 left) = ledger.judge(p.agent, p.to, p.amount, overrides);
        (bytes4 said, uint256 saidLeft) = wallet.check(p.agent, p.to, p.amount, overrides);
        assertEq(said, reason, "check: reason");
        assertEq(saidLeft, left, "check: left");
        if (ledger.used(p.agent, p.nonce)) reason = IPolicyWallet.NonceUsed.selector;
        uint256 held = usdc.balanceOf(address(wallet));
        if (reason == 0 && !_transferable(p.to, p.amount, held)) reason = IPolicyWallet.TransferFailed.selector;
        _call(address(this), call, reason);
        if (reason != 0) return;
        ledger.useNonce(p.agent, p.nonce);
        _book(p.agent, p.to, p.amount, overrides);
    }

    /// @dev One or two lists of one to five items.
    function payLists(uint256 seed) external step {
        Batch[] memory list = new Batch[](1 + seed % 2);
        bool frozen = wallet.walletFrozen();
        uint256 held = usdc.balanceOf(address(wallet));
        for (uint256 b; b < list.length; ++b) {
            seed = _next(seed);
            address by = agents[seed % 3];
            bytes32[] memory items = new bytes32[](1 + (seed >> 8) % 5);
            for (uint256 i; i < items.length; ++i) {
                seed = _next(seed);
                items[i] = item(payees[seed % payees.length], uint96(_amount(by, seed >> 16)));
            }
            list[b] = Batch(by, (seed >> 128) % NONCES, FAR, bytes32(seed), items, 0, 0);
            (list[b].r, list[b].vs) = compact(_keys[by], batchDigest(address(wallet), list[b]));
            if (!frozen) held = _predict(list[b], held);
        }
        bytes4 reason = frozen ? IPolicyWallet.WalletFrozen.selector : bytes4(0);
        _call(address(this), abi.encodeCall(IPolicyWallet.payBatch, (list)), reason);
        assertEq(usdc.balanceOf(address(wallet)), held, "batch: what left");
    }

    /// @dev Books what must be paid. All items are judged before the first transfer.
    function _predict(Batch memory b, uint256 held) private returns (uint256) {
        (bytes4 reason,) = ledger.standing(b.agent);
        if (ledger.used(b.agent, b.nonce)) reason = IPolicyWallet.NonceUsed.selector;
        if (reason != 0) {
            _skip(abi.encode(b.agent, b.nonce, reason));
            return held;
        }
        ledger.useNonce(b.agent, b.nonce);
        uint256[] memory booked = new uint256[](b.items.length); // index + 1
        for (uint256 i; i < booked.length; ++i) {
            (address to, uint256 amount) = _split(b.items[i]);
            uint256 left;
            (reason, left) = ledger.judge(b.agent, to, amount, 0);
            if (reason == 0) booked[i] = _book(b.agent, to, amount, 0) + 1;
            else _skip(abi.encode(b.agent, b.nonce, i, reason, left));
        }
        for (uint256 i; i < booked.length; ++i) {
            if (booked[i] == 0) continue;
            (address to, uint256 amount) = _split(b.items[i]);
            if (_transferable(to, amount, held)) {
                held -= amount;
            } else {
                ledger.void(booked[i] - 1);
                _skip(abi.encode(b.agent, b.nonce, i, IPolicyWallet.TransferFailed.selector, 0));
            }
        }
        return held;
    }

    /// @dev All agents pay until nothing is left of some limit, and again in the last second of the same window: what
    /// came back too early breaks it.
    function drain(uint256 seed) external {
        _drain(seed);
        _clock += (seed >> 16) % 4 == 0 ? 30 days - 1 : 24 hours - 1;
        _drain(seed / 3);
    }

    function _drain(uint256 seed) private step {
        for (uint256 i; i < 3; ++i) {
            address by = agents[(seed % 3 + i) % 3];
            for (uint256 k; k < 4; ++k) {
                uint256 amount = _min(_least(by), ledger.agentOf(by).ceiling);
                if (amount == 0) break;
                Payment memory p = Payment(wallet, by, payees[(seed >> 8) % 2], amount, _fresh++, FAR, 0);
                (bytes32 r, bytes32 vs) = compact(_keys[by], digestOf(p));
                _run(p, 0, abi.encodeCall(IPolicyWallet.pay, (by, p.to, amount, p.nonce, FAR, 0, r, vs)));
            }
        }
    }

    function cancelNonce(uint256 by, uint256 nonce, bool byOperator) external step {
        address account = agents[by % 3];
        nonce %= NONCES;
        bytes memory call = abi.encodeCall(IPolicyWallet.cancelNonce, (nonce));
        address sender = account;
        if (byOperator) {
            call = abi.encodeCall(IPolicyChanges.cancelAgentNonce, (account, nonce));
            call = abi.encodeCall(IPolicyWallet.tighten, (call));
            sender = operators[by % 3];
        }
        bool used = ledger.used(account, nonce);
        _call(sender, call, used ? IPolicyWallet.NonceUsed.selector : bytes4(0));
        if (!used) ledger.useNonce(account, nonce);
    }

    /* THE WORLD */

    /// @dev Seconds, hours, days, and to the last and first second of steps.
    function pass(uint256 seed) external {
        uint256 edge = (seed >> 8) % 3; // one second before, at, after
        uint256 kind = seed % 9;
        if (kind == 0) _clock += edge;
        else if (kind == 1) _clock += (seed >> 16) % 8 hours;
        else if (kind == 2) _clock = (_clock / 6 hours + 1) * 6 hours + edge - 1;
        else if (kind == 3) _clock = (_clock / 8 hours + 1) * 8 hours + edge - 1;
        else if (kind == 4) _clock += 24 hours + edge - 1;
        else if (kind == 5) _clock += (seed >> 16) % 8 days;
        else if (kind == 6) _clock = (_clock / 7.5 days + 1) * 7.5 days + edge - 1;
        else if (kind == 7) _clock += 30 days + edge - 1;
        else _clock += (seed >> 16) % 40 days;
    }

    function blockPayee(uint256 which, bool on) external step {
        vm.prank(treasury);
        if (on) usdc.blacklist(payees[which % 5]);
        else usdc.unBlacklist(payees[which % 5]);
    }

    function deposit(uint256 amount) external step {
        amount %= 10 * CEILING;
        deposited += amount;
        fund(address(wallet), amount);
    }

    /* THE OPERATORS' DOORS */

    /// @dev Now and then nearly all of it, so that transfers fail for want of money.
    function withdraw(uint256 amount) external step {
        uint256 held = usdc.balanceOf(address(wallet));
        amount = amount % 8 == 0 ? held - _min(held, amount % CEILING) : _min(held, amount % CEILING);
        withdrawn += amount;
        vm.recordLogs();
        submit(abi.encodeCall(IPolicyChanges.withdraw, (treasury, amount)));
        _readLogs();
    }

    function freeze(uint256 which, uint256 operator) external step {
        address account = which % 4 == 3 ? address(0) : agents[which % 4];
        tightenBy(operator % 3, setFrozen(account, true));
        ledger.setFrozen(account, true);
    }

    /// @dev More often than `freeze` finds something to do: all at once.
    function unfreeze() external step {
        for (uint256 i; i < 4; ++i) {
            address account = i == 3 ? address(0) : agents[i];
            submit(setFrozen(account, false));
            ledger.setFrozen(account, false);
        }
    }

    function changeAgent(uint256 which, uint256 seed, bool alone) external step {
        address account = agents[which % 3];
        AgentLimits memory l = AgentLimits({
            ceiling: uint48(seed % 5 * CEILING / 2),
            dayCap: (seed >> 8) % 6 == 0 ? type(uint48).max : uint48((seed >> 8) % 6 * CEILING),
            monthCap: (seed >> 16) % 6 == 0 ? type(uint48).max : uint48((seed >> 16) % 6 * 2 * CEILING),
            budget: (seed >> 24) % 6 == 0 ? type(uint64).max : uint64((seed >> 24) % 6 * 5 * CEILING),
            expiry: (seed >> 32) % 8 == 0 ? uint40(_clock + 2 days) : uint40(FAR),
            categories: uint16((seed >> 40) % 8 == 0 ? 2 : (seed >> 40) % 2 == 0 ? 3 : 1)
        });
        AgentLimits memory old = ledger.agentOf(account);
        bool tighter = l.ceiling <= old.ceiling && l.dayCap <= old.dayCap && l.monthCap <= old.monthCap
            && l.budget <= old.budget && l.expiry <= old.expiry && l.categories & old.categories == l.categories;
        if (_change(setAgent(account, l), alone, tighter)) ledger.setAgent(account, l);
    }

    function changePayee(uint256 which, uint256 seed, bool alone) external step {
        address account = payees[which % 4];
        PayeeLimits memory l = PayeeLimits({
            categories: uint16((seed >> 4) % 8 == 0 ? 0 : (seed >> 4) % 4 == 0 ? 2 : 3),
            cap: (seed >> 8) % 3 != 0 ? type(uint48).max : uint48((seed >> 16) % 6 * CEILING),
            cooldown: (seed >> 24) % 3 != 0 ? 0 : uint32((seed >> 32) % 2 days)
        });
        PayeeLimits memory old = ledger.payeeOf(account);
        bool tighter = l.categories & old.categories == l.categories && l.cap <= old.cap && l.cooldown >= old.cooldown;
        if (_change(setPayee(account, l), alone, tighter)) ledger.setPayee(account, l);
    }

    function changeWalletCap(uint256 seed, bool alone) external step {
        uint256 cap = seed % 8 == 0 ? type(uint256).max : seed % 8 * CEILING;
        if (_change(setCap(cap), alone, cap <= ledger.walletCap())) ledger.setWalletCap(cap);
    }

    /// @return done whether it ran
    function _change(bytes memory change, bool alone, bool tighter) private returns (bool done) {
        if (!alone) {
            submit(change);
            return true;
        }
        bytes memory call = abi.encodeCall(IPolicyWallet.tighten, (change));
        _call(operators[0], call, tighter ? bytes4(0) : IPolicyWallet.NotTightening.selector);
        return tighter;
    }

    /* CALLING AND LISTENING */

    /// @dev Calls, and expects exactly the error `reason`, or none.
    function _call(address sender, bytes memory data, bytes4 reason) private {
        vm.recordLogs();
        vm.prank(sender);
        (bool done, bytes memory answer) = address(wallet).call(data);
        assertEq(done, reason == 0, "done");
        assertEq(bytes4(answer), reason, "error");
        if (done) _readLogs();
        else vm.getRecordedLogs(); // forge keeps the logs of what was reverted
    }

    function _readLogs() private {
        Vm.Log[] memory logs = vm.getRecordedLogs();
        bytes32 predicted = _skips;
        _skips = 0;
        for (uint256 i; i < logs.length; ++i) {
            bytes32 kind = logs[i].topics[0];
            bytes memory data = logs[i].data;
            assertTrue(kind != IERC20.Approval.selector, "an allowance");
            if (kind == IERC20.Transfer.selector) {
                assertEq(logs[i].topics[1], bytes32(uint256(uint160(address(wallet)))), "USDC of another");
                transferred += abi.decode(data, (uint256));
            } else if (kind == IPolicyWallet.Paid.selector) {
                (uint256 amount,,) = abi.decode(data, (uint256, uint256, bytes32));
                evented += amount;
            } else if (kind == IPolicyWallet.Approved.selector) {
                (uint256 amount,,,) = abi.decode(data, (uint256, uint256, uint256, bytes32));
                evented += amount;
            } else if (kind == IPolicyWallet.BatchPaid.selector) {
                (, uint256 total,,) = abi.decode(data, (uint256, uint256, uint256, bytes32));
                evented += total;
            } else if (kind == IPolicyWallet.Withdrawn.selector) {
                evented += abi.decode(data, (uint256));
            } else if (kind == IPolicyWallet.ItemSkipped.selector || kind == IPolicyWallet.BatchSkipped.selector) {
                _skip(bytes.concat(logs[i].topics[1], logs[i].topics[2], data));
            }
        }
        assertEq(_skips, predicted, "skipped");
        _skips = 0;
    }

    function _skip(bytes memory what) private {
        _skips = keccak256(bytes.concat(_skips, what));
    }

    function _book(address by, address to, uint256 amount, uint256 overrides) private returns (uint256) {
        (,, bool frozen) = wallet.agentLimits(by);
        assertFalse(frozen || wallet.walletFrozen(), "paid while frozen");
        return ledger.book(by, to, amount, overrides);
    }

    /* CHOOSING */

    function _payment(uint256 by, uint256 to, uint256 size, uint256 nonce) private view returns (Payment memory) {
        address from = agents[by % 3];
        return
            Payment(wallet, from, payees[to % payees.length], _amount(from, size), nonce % NONCES, FAR, bytes32(size));
    }

    /// @dev Around the edges of what is left, or anything up to one and a half ceilings.
    function _amount(address by, uint256 seed) private view returns (uint256) {
        uint256 kind = seed % 8;
        if (kind > 3) return (seed >> 8) % (CEILING * 3 / 2);
        uint256 least = _least(by);
        if (kind > 1) least = _min(least, ledger.agentOf(by).ceiling);
        return least + kind % 2;
    }

    /// @dev What the agent's and the wallet's caps leave, bounded where all are off.
    function _least(address by) private view returns (uint256) {
        (uint256 day, uint256 month, uint256 budget, uint256 left) = ledger.room(by);
        return _min(_min(_min(day, month), _min(budget, left)), FUNDS);
    }

    function _transferable(address to, uint256 amount, uint256 held) private view returns (bool) {
        return amount <= held && !usdc.isBlacklisted(to);
    }

    function _split(bytes32 word) private pure returns (address, uint256) {
        return (address(uint160(uint256(word) >> 96)), uint96(uint256(word)));
    }

    function _next(uint256 seed) private pure returns (uint256) {
        return uint256(keccak256(abi.encode(seed)));
    }

    function _min(uint256 a, uint256 b) private pure returns (uint256) {
        return a < b ? a : b;
    }
}
