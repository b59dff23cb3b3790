// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {Governance} from "./Governance.sol";
import {AgentLimits, IPolicyChanges, IPolicyWallet, PayeeLimits} from "./interfaces/IPolicyWallet.sol";
import {AgentPolicy} from "./types/AgentPolicy.sol";
import {Budget} from "./types/Budget.sol";
import {PayeeRecord} from "./types/PayeeRecord.sol";
import {Ring} from "./types/Ring.sol";
import {WalletState, WalletStateLib} from "./types/WalletState.sol";

/// @title Policy
/// @notice The limits, the one judgement over them, the one routine that books, and how operators set them.
///
/// @dev Every door goes: `_load` (all words an agent's payment needs, rolled to now), `_judge` (which limit refuses,
/// if any), `_book` and `_bookPayee` (in memory, and the payee's word), `_store` (the words), and only then USDC.
abstract contract Policy is Governance {
    /* CONSTANTS */

    /// @notice Steps of the windows in seconds: an agent's day (4 steps), its 30 days (4), the wallet's day (3).
    uint256 public constant DAY_STEP = 6 hours;
    uint256 public constant MONTH_STEP = 7.5 days;
    uint256 public constant WALLET_STEP = 8 hours;

    uint256 internal constant PAST_CEILING = 1;
    uint256 internal constant PAST_PAYEE = 2;
    uint256 internal constant PAST_AGENT_CAPS = 4;
    uint256 internal constant PAST_WALLET_CAP = 8;
    uint256 internal constant ALL_OVERRIDES = 15;

    /// @notice The one token of this wallet.
    IERC20 public immutable USDC;

    /* STORAGE */

    WalletState private _wallet;
    mapping(address agent => AgentPolicy) private _policies;
    mapping(address agent => Ring) private _days;
    mapping(address agent => Ring) private _months;
    mapping(address agent => Budget) private _budgets;
    mapping(address payee => PayeeRecord) internal _payees;

    /// @inheritdoc IPolicyWallet
    bytes32 public policyHash;

    /// @dev What a payment of one agent is judged by. A word whose limit is off or overridden is not loaded.
    struct Account {
        address agent;
        AgentPolicy policy;
        WalletState wallet;
        Ring day;
        Ring month;
        Budget budget;
        bool dayOn;
        bool monthOn;
        bool budgetOn;
        bool walletOn;
    }

    /* JUDGING */

    function _load(address agent, uint256 overrides) internal view returns (Account memory account) {
        AgentPolicy policy = _policies[agent];
        WalletState wallet = _wallet;
        account.agent = agent;
        account.policy = policy;
        account.wallet = wallet;
        if (overrides & PAST_AGENT_CAPS == 0) {
            if (account.dayOn = policy.dayOn()) account.day = _days[agent].roll(block.timestamp / DAY_STEP);
            if (account.monthOn = policy.monthOn()) account.month = _months[agent].roll(block.timestamp / MONTH_STEP);
            if (account.budgetOn = policy.budgetOn()) account.budget = _budgets[agent];
        }
        if (overrides & PAST_WALLET_CAP == 0 && (account.walletOn = wallet.capOn())) {
            account.wallet = wallet.roll(block.timestamp / WALLET_STEP);
        }
    }

    /// @dev Whether the agent may pay at all. Nothing overrides this. `detail`: the error's argument.
    function _standing(Account memory account) internal view returns (bytes4 reason, uint256 detail) {
        AgentPolicy policy = account.policy;
        if (account.wallet.frozen()) return (WalletFrozen.selector, 0);
        if (!policy.exists()) return (AgentInactive.selector, uint160(account.agent));
        if (policy.frozen()) return (AgentFrozen.selector, uint160(account.agent));
        if (block.timestamp >= policy.expiry()) return (AgentExpired.selector, policy.expiry());
    }

    /// @dev The first limit that refuses, from the payment outwards: amount, payee, ceiling, the agent's caps, the
    /// wallet's cap. All comparisons at full width; room is never negative, whatever caps did in mid-window.
    function _judge(Account memory account, PayeeRecord payee, address to, uint256 amount, uint256 overrides)
        internal
        view
        returns (bytes4 reason, uint256 left)
    {
        if (amount == 0) return (ZeroAmount.selector, 0);
        if (_isReserved(to) || to == account.agent) return (PayeeNotAllowed.selector, 0);
        if (overrides & PAST_PAYEE == 0) {
            if (payee.categories() & account.policy.categories() == 0) return (PayeeNotAllowed.selector, 0);
            if (payee.counts()) {
                left = _payeeRoom(payee);
                if (amount > left) return (PayeeCapExceeded.selector, left);
                left = payee.lastPaid() + payee.cooldown();
                if (payee.cooldown() != 0 && block.timestamp < left) return (PayeeCoolingDown.selector, left);
            }
        }
        left = account.policy.ceiling();
        if (amount > left && overrides & PAST_CEILING == 0) return (CeilingExceeded.selector, left);
        if (account.dayOn) {
            left = _room(account.policy.dayCap(), account.day.spent());
            if (amount > left) return (DayCapExceeded.selector, left);
        }
        if (account.monthOn) {
            left = _room(account.policy.monthCap(), account.month.spent());
            if (amount > left) return (MonthCapExceeded.selector, left);
        }
        if (account.budgetOn) {
            left = _room(account.budget.limit(), account.budget.spent());
            if (amount > left) return (BudgetExceeded.selector, left);
        }
        if (account.walletOn) {
            left = _room(account.wallet.cap(), account.wallet.spent());
            if (amount > left) return (WalletCapExceeded.selector, left);
        }
        left = 0;
    }

    /// @dev Addresses that are never paid, whatever the registry or the quorum says.
    function _isReserved(address to) internal view returns (bool) {
        return to == address(0) || to == address(this) || to == address(USDC);
    }

    function _room(uint256 cap, uint256 spent) private pure returns (uint256) {
        unchecked {
            return cap > spent ? cap - spent : 0;
        }
    }

    function _payeeRoom(PayeeRecord payee) private pure returns (uint256) {
        return payee.cap() == type(uint48).max ? type(uint256).max : _room(payee.cap(), payee.spent());
    }

    /* BOOKING */

    function _book(Account memory account, uint256 amount) internal pure {
        if (account.dayOn) account.day = account.day.add(amount);
        if (account.monthOn) account.month = account.month.add(amount);
        if (account.budgetOn) account.budget = account.budget.add(amount);
        if (account.walletOn) account.wallet = account.wallet.add(amount);
    }

    /// @dev Takes back what `_book` booked in the same block.
    function _unbook(Account memory account, uint256 amount) internal pure {
        if (account.dayOn) account.day = account.day.sub(amount);
        if (account.monthOn) account.month = account.month.sub(amount);
        if (account.budgetOn) account.budget = account.budget.sub(amount);
        if (account.walletOn) account.wallet = account.wallet.sub(amount);
    }

    function _bookPayee(address to, PayeeRecord payee, uint256 amount) internal {
        if (payee.counts()) _payees[to] = payee.add(amount, block.timestamp);
    }

    function _store(Account memory account) internal {
        if (account.dayOn) _days[account.agent] = account.day;
        if (account.monthOn) _months[account.agent] = account.month;
        if (account.budgetOn) _budgets[account.agent] = account.budget;
        if (account.walletOn) _wallet = account.wallet;
    }

    /* CHANGES */

    function _isAgent(address account) internal view override returns (bool) {
        return _policies[account].exists();
    }

    function _applyPolicy(bytes4 selector, bytes memory arguments, bool alone) internal override {
        if (selector == IPolicyChanges.setAgent.selector) {
            (address agent, AgentLimits memory limits) = abi.decode(arguments, (address, AgentLimits));
            _setAgent(agent, limits, alone);
        } else if (selector == IPolicyChanges.setPayee.selector) {
            (address payee, PayeeLimits memory limits) = abi.decode(arguments, (address, PayeeLimits));
            _setPayee(payee, limits, alone);
        } else if (selector == IPolicyChanges.setWalletCap.selector) {
            _setWalletCap(abi.decode(arguments, (uint256)), alone);
        } else if (selector == IPolicyChanges.setFrozen.selector) {
            (address agent, bool on) = abi.decode(arguments, (address, bool));
            require(on || !alone, NotTightening());
            _setFrozen(agent, on);
        } else {
            require(!alone, NotTightening());
            if (selector == IPolicyChanges.publishPolicy.selector) {
                policyHash = abi.decode(arguments, (bytes32));
                emit PolicyPublished(policyHash);
            } else {
                (address to, uint256 amount) = abi.decode(arguments, (address, uint256));
                _withdraw(to, amount);
            }
        }
    }

    function _setAgent(address agent, AgentLimits memory limits, bool alone) private {
        require(!_isReserved(agent), InvalidChange());
        require(!isSigner(abi.encodePacked(agent)), RoleConflict(agent));
        AgentPolicy previous = _policies[agent];
        if (alone) {
            AgentLimits memory old = _limits(agent, previous);
            require(
                previous.exists() && limits.ceiling <= old.ceiling && limits.dayCap <= old.dayCap
                    && limits.monthCap <= old.monthCap && limits.budget <= old.budget && limits.expiry <= old.expiry
                    && limits.categories & ~old.categories == 0,
                NotTightening()
            );
        }
        AgentPolicy policy = previous.replace(limits);
        _policies[agent] = policy;
        if (policy.budgetOn()) _budgets[agent] = _budgets[agent].withLimit(limits.budget);
        emit AgentChanged(agent, policy.version(), limits);
    }

    function _setPayee(address payee, PayeeLimits memory limits, bool alone) private {
        require(!_isReserved(payee), InvalidChange());
        PayeeRecord previous = _payees[payee];
        if (alone) {
            require(
                limits.categories & ~previous.categories() == 0 && limits.cap <= previous.cap()
                    && limits.cooldown >= previous.cooldown(),
                NotTightening()
            );
        }
        _payees[payee] = previous.replace(limits);
        emit PayeeChanged(payee, limits);
    }

    function _setWalletCap(uint256 cap, bool alone) private {
        require(!alone || cap <= walletCap(), NotTightening());
        if (cap == type(uint256).max) {
            _wallet = _wallet.withoutCap();
        } else {
            require(cap <= WalletStateLib.MAX_CAP && cap % WalletStateLib.UNIT == 0, InvalidChange());
            _wallet = _wallet.withCap(cap);
        }
        emit WalletCapChanged(cap);
    }

    function _setFrozen(address agent, bool on) private {
        if (agent == address(0)) {
            _wallet = _wallet.withFrozen(on);
        } else {
            require(_isAgent(agent), AgentInactive(agent));
            _policies[agent] = _policies[agent].withFrozen(on);
        }
        emit Frozen(agent, on);
    }

    function _withdraw(address to, uint256 amount) private {
        require(!_isReserved(to), InvalidChange());
        emit Withdrawn(to, amount);
        require(_transfer(to, amount), TransferFailed());
    }

    /* USDC */

    /// @dev True iff the token answered with exactly one word, 1. Copies no more of the answer than that.
    function _transfer(address to, uint256 amount) internal returns (bool paid) {
        address token = address(USDC);
        bytes memory data = abi.encodeCall(IERC20.transfer, (to, amount));
        assembly ("memory-safe") {
            paid := call(gas(), token, 0, add(data, 0x20), mload(data), 0, 0x20)
            paid := and(paid, and(eq(returndatasize(), 0x20), eq(mload(0), 1)))
        }
    }

    /* VIEWS */

    /// @inheritdoc IPolicyWallet
    function agentLimits(address agent)
        external
        view
        returns (AgentLimits memory limits, uint256 version, bool frozen)
    {
        AgentPolicy policy = _policies[agent];
        return (_limits(agent, policy), policy.version(), policy.frozen());
    }

    function _limits(address agent, AgentPolicy policy) private view returns (AgentLimits memory) {
        return AgentLimits({
            ceiling: uint48(policy.ceiling()),
            dayCap: uint48(policy.dayCap()),
            monthCap: uint48(policy.monthCap()),
            budget: policy.budgetOn() ? uint64(_budgets[agent].limit()) : policy.exists() ? type(uint64).max : 0,
            expiry: uint40(policy.expiry()),
            categories: uint16(policy.categories())
        });
    }

    /// @inheritdoc IPolicyWallet
    function payeeLimits(address payee)
        external
        view
        returns (PayeeLimits memory limits, uint256 spent, uint256 lastPaid)
    {
        PayeeRecord record = _payees[payee];
        limits = PayeeLimits(uint16(record.categories()), uint48(record.cap()), uint32(record.cooldown()));
        return (limits, record.spent(), record.lastPaid());
    }

    /// @inheritdoc IPolicyWallet
    function room(address agent) external view returns (uint256 day, uint256 month, uint256 budget, uint256 wallet) {
        Account memory account = _load(agent, 0);
        AgentPolicy policy = account.policy;
        day = month = budget = wallet = type(uint256).max;
        if (account.dayOn) day = _room(policy.dayCap(), account.day.spent());
        if (account.monthOn) month = _room(policy.monthCap(), account.month.spent());
        if (account.budgetOn) budget = _room(account.budget.limit(), account.budget.spent());
        if (account.walletOn) wallet = _room(account.wallet.cap(), account.wallet.spent());
    }

    /// @inheritdoc IPolicyWallet
    function check(address agent, address to, uint256 amount, uint256 overrides)
        external
        view
        returns (bytes4 reason, uint256 left)
    {
        Account memory account = _load(agent, overrides);
        (reason, left) = _standing(account);
        if (reason == 0) (reason, left) = _judge(account, _payees[to], to, amount, overrides);
    }

    /// @inheritdoc IPolicyWallet
    function walletCap() public view returns (uint256) {
        WalletState wallet = _wallet;
        return wallet.capOn() ? wallet.cap() : type(uint256).max;
    }

    /// @inheritdoc IPolicyWallet
    function walletFrozen() public view returns (bool) {
        return _wallet.frozen();
    }
}
