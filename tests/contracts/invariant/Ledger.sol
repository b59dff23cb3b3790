// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {AgentLimits, IPolicyWallet, PayeeLimits} from "contracts/interfaces/IPolicyWallet.sol";

/// @dev One payment that left the wallet, and the caps that it was counted in, as they stood then.
struct Entry {
    address agent;
    address to;
    uint256 amount;
    uint256 time;
    uint256 overrides;
    uint256 counted;
    uint256 dayCap;
    uint256 monthCap;
    uint256 walletCap;
}

/// @dev The wallet's rules over a plain list of all payments: no rings, no packing, no sums kept.
contract Ledger {
    uint256 public constant DAY = 1;
    uint256 public constant MONTH = 2;
    uint256 public constant BUDGET = 4;
    uint256 public constant WALLET = 8;
    uint256 public constant PAYEE_CAP = 16;
    uint256 public constant COOLDOWN = 32;

    Entry[] private _entries;
    mapping(address agent => AgentLimits) private _agents;
    mapping(address agent => uint256) public versions;
    mapping(address account => bool) public frozen; // 0: the wallet
    mapping(address payee => PayeeLimits) private _payees;
    mapping(address payee => bool) public reserved;
    mapping(address agent => mapping(uint256 nonce => bool)) public used;
    uint256 public walletCap = type(uint256).max;

    /* WRITING */

    function setAgent(address agent, AgentLimits calldata limits) external {
        _agents[agent] = limits;
        ++versions[agent];
    }

    function setPayee(address payee, PayeeLimits calldata limits) external {
        _payees[payee] = limits;
    }

    function setWalletCap(uint256 cap) external {
        walletCap = cap;
    }

    function setFrozen(address account, bool on) external {
        frozen[account] = on;
    }

    function reserve(address account) external {
        reserved[account] = true;
    }

    function useNonce(address agent, uint256 nonce) external {
        require(!used[agent][nonce], "nonce used twice");
        used[agent][nonce] = true;
    }

    function book(address agent, address to, uint256 amount, uint256 overrides) external returns (uint256 index) {
        AgentLimits storage a = _agents[agent];
        uint256 counted;
        if (overrides & 4 == 0) {
            if (a.dayCap != type(uint48).max) counted |= DAY;
            if (a.monthCap != type(uint48).max) counted |= MONTH;
            if (a.budget != type(uint64).max) counted |= BUDGET;
        }
        if (overrides & 8 == 0 && walletCap != type(uint256).max) counted |= WALLET;
        if (overrides & 2 == 0) {
            if (_payees[to].cap != type(uint48).max) counted |= PAYEE_CAP;
            if (_payees[to].cooldown != 0) counted |= COOLDOWN;
        }
        _entries.push(Entry(agent, to, amount, block.timestamp, overrides, counted, a.dayCap, a.monthCap, walletCap));
        return _entries.length - 1;
    }

    /// @dev The transfer failed: as if it had never been.
    function void(uint256 index) external {
        delete _entries[index];
    }

    /* READING */

    function agentOf(address agent) external view returns (AgentLimits memory) {
        return _agents[agent];
    }

    function payeeOf(address payee) external view returns (PayeeLimits memory) {
        return _payees[payee];
    }

    function entries() external view returns (Entry[] memory) {
        return _entries;
    }

    /// @dev Counted payments of kind `kind` by (or, for the payee's kinds, to) `who` since `from`.
    function sum(uint256 kind, address who, uint256 from) public view returns (uint256 total) {
        bool toPayee = kind >= PAYEE_CAP;
        for (uint256 i; i < _entries.length; ++i) {
            Entry storage e = _entries[i];
            if (e.counted & kind == 0 || e.time < from) continue;
            if (kind == WALLET || (toPayee ? e.to : e.agent) == who) total += e.amount;
        }
    }

    function lastPaid(address to) public view returns (uint256 time) {
        for (uint256 i; i < _entries.length; ++i) {
            if (_entries[i].to == to && _entries[i].counted & COOLDOWN != 0) time = _entries[i].time;
        }
    }

    function standing(address agent) public view returns (bytes4, uint256) {
        if (frozen[address(0)]) return (IPolicyWallet.WalletFrozen.selector, 0);
        if (frozen[agent]) return (IPolicyWallet.AgentFrozen.selector, uint160(agent));
        uint256 expiry = _agents[agent].expiry;
        if (block.timestamp >= expiry) return (IPolicyWallet.AgentExpired.selector, expiry);
        return (0, 0);
    }

    function judge(address agent, address to, uint256 amount, uint256 overrides)
        external
        view
        returns (bytes4 reason, uint256 left)
    {
        (reason, left) = standing(agent);
        if (reason != 0) return (reason, left);
        if (amount == 0) return (IPolicyWallet.ZeroAmount.selector, 0);
        if (reserved[to] || to == agent) return (IPolicyWallet.PayeeNotAllowed.selector, 0);
        AgentLimits storage a = _agents[agent];
        PayeeLimits storage p = _payees[to];
        if (overrides & 2 == 0) {
            if (p.categories & a.categories == 0) return (IPolicyWallet.PayeeNotAllowed.selector, 0);
            left = _room(p.cap, p.cap == type(uint48).max, sum(PAYEE_CAP, to, 0));
            if (amount > left) return (IPolicyWallet.PayeeCapExceeded.selector, left);
            left = lastPaid(to) + p.cooldown;
            if (p.cooldown != 0 && block.timestamp < left) return (IPolicyWallet.PayeeCoolingDown.selector, left);
        }
        if (overrides & 1 == 0 && amount > a.ceiling) return (IPolicyWallet.CeilingExceeded.selector, a.ceiling);
        (uint256 day, uint256 month, uint256 budget, uint256 wallet) = room(agent);
        if (overrides & 4 == 0) {
            if (amount > day) return (IPolicyWallet.DayCapExceeded.selector, day);
            if (amount > month) return (IPolicyWallet.MonthCapExceeded.selector, month);
            if (amount > budget) return (IPolicyWallet.BudgetExceeded.selector, budget);
        }
        if (overrides & 8 == 0 && amount > wallet) return (IPolicyWallet.WalletCapExceeded.selector, wallet);
        return (0, 0);
    }

    function room(address agent) public view returns (uint256 day, uint256 month, uint256 budget, uint256 wallet) {
        AgentLimits storage a = _agents[agent];
        day = _room(a.dayCap, a.dayCap == type(uint48).max, sum(DAY, agent, _oldest(6 hours, 4)));
        month = _room(a.monthCap, a.monthCap == type(uint48).max, sum(MONTH, agent, _oldest(7.5 days, 4)));
        budget = _room(a.budget, a.budget == type(uint64).max, sum(BUDGET, agent, 0));
        wallet = _room(walletCap, walletCap == type(uint256).max, sum(WALLET, agent, _oldest(8 hours, 3)));
    }

    /// @dev First second of the oldest step that still counts.
    function _oldest(uint256 step, uint256 steps) private view returns (uint256) {
        return (block.timestamp / step - steps) * step;
    }

    function _room(uint256 cap, bool off, uint256 spent) private pure returns (uint256) {
        if (off) return type(uint256).max;
        return cap > spent ? cap - spent : 0;
    }

    /// @dev Every window of 24 hours, of 30 days and, over all agents, of 24 hours. A window's sum is at most that of
    /// the window which ends with the same last payment, so those that end with a payment are all there are. What is
    /// in it must fit the cap as it stood at that payment.
    function checkWindows() external view {
        Entry[] memory list = _entries;
        for (uint256 i; i < list.length; ++i) {
            Entry memory last = list[i];
            uint256 day;
            uint256 month;
            uint256 wallet;
            for (uint256 j; j <= i; ++j) {
                Entry memory e = list[j];
                uint256 both = e.counted & last.counted;
                bool inDay = e.time + 24 hours > last.time;
                if (both & WALLET != 0 && inDay) wallet += e.amount;
                if (e.agent != last.agent) continue;
                if (both & DAY != 0 && inDay) day += e.amount;
                if (both & MONTH != 0 && e.time + 30 days > last.time) month += e.amount;
            }
            require(day <= last.dayCap, "24 hours above the day cap");
            require(month <= last.monthCap, "30 days above the month cap");
            require(wallet <= last.walletCap, "24 hours above the wallet's cap");
        }
    }
}
