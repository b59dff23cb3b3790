// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {Address} from "@openzeppelin/contracts/utils/Address.sol";
import {Governance} from "./Governance.sol";
import {AgentLimits, IPolicyChanges, IPolicyWallet, PayeeLimits} from "./interfaces/IPolicyWallet.sol";
import {ChannelConfig, IChannelHub, IChannelPayer} from "./interfaces/IChannelHub.sol";
import {IEscrowPayer, IWorkEscrow} from "./interfaces/IWorkEscrow.sol";
import {IX402Payer} from "./interfaces/IX402Payer.sol";
import {AgentPolicy, BUDGET_ON, DAY_ON, MONTH_ON} from "./types/AgentPolicy.sol";
import {Budget} from "./types/Budget.sol";
import {PayeeRecord} from "./types/PayeeRecord.sol";
import {Ring} from "./types/Ring.sol";
import {WalletState, WalletStateLib} from "./types/WalletState.sol";

/// @title Policy
/// @notice The limits, the one judgement over them, the one routine that books, and how operators set them.
///
/// @dev Every door goes: `_load` (all words that a payment of the agent needs, rolled to now), `_judge` (which limit
/// refuses, if any), `_storePayee` and `_store` (the words), and only then USDC.
abstract contract Policy is Governance, IEscrowPayer, IChannelPayer, IX402Payer {
    /* CONSTANTS */

    /// @dev Steps of the windows in seconds: an agent's day (4 steps), its 30 days (4), the wallet's day (3).
    uint256 internal constant DAY_STEP = 6 hours;
    uint256 internal constant MONTH_STEP = 7.5 days;
    uint256 internal constant WALLET_STEP = 8 hours;

    uint256 internal constant PAST_CEILING = 1;
    uint256 internal constant PAST_PAYEE = 2;
    uint256 internal constant PAST_AGENT_CAPS = 4;
    uint256 internal constant PAST_WALLET_CAP = 8;
    uint256 internal constant ALL_OVERRIDES = 15;

    /// @dev Beside DAY_ON, MONTH_ON and BUDGET_ON in `Account.on`.
    uint256 private constant WALLET_ON = 1;

    /// @notice The one token of this wallet.
    IERC20 public immutable USDC;
    /// @inheritdoc IEscrowPayer
    IWorkEscrow public immutable ESCROW;
    /// @inheritdoc IChannelPayer
    IChannelHub public immutable HUB;

    /* STORAGE */

    struct Agent {
        AgentPolicy policy;
        Ring day;
        Ring month;
        Budget budget;
    }

    WalletState private _wallet;
    mapping(address agent => Agent) internal _agents;
    mapping(address payee => PayeeRecord) internal _payees;

    /// @inheritdoc IPolicyWallet
    bytes32 public policyHash;

    /// @inheritdoc IChannelPayer
    mapping(address authorizer => uint256 seconds_) public channelDelay;
    /// @inheritdoc IX402Payer
    mapping(address agent => uint256) public coupons;

    /// @dev What the payments of one agent are judged by. A word whose limit is off or overridden is not loaded.
    struct Account {
        address agent;
        AgentPolicy policy;
        WalletState wallet;
        Ring day;
        Ring month;
        Budget budget;
        uint256 on; // the limits with a counter that are on and not overridden
        uint256 left; // the smallest room among them
        uint256 booked; // items of a batch judged so far, not yet in the words
    }

    /* JUDGING */

    function _load(Agent storage words, address agent, uint256 overrides)
        internal
        view
        returns (Account memory account)
    {
        AgentPolicy policy = words.policy;
        WalletState wallet = _wallet;
        uint256 on = overrides & PAST_AGENT_CAPS == 0 ? policy.on() : 0;
        uint256 left = type(uint256).max;
        if (on & DAY_ON != 0) {
            Ring day = words.day.roll(block.timestamp / DAY_STEP);
            account.day = day;
            left = _room(policy.dayCap(), day.spent());
        }
        if (on & MONTH_ON != 0) {
            Ring month = words.month.roll(block.timestamp / MONTH_STEP);
            account.month = month;
            left = _min(left, _room(policy.monthCap(), month.spent()));
        }
        if (on & BUDGET_ON != 0) {
            Budget budget = words.budget;
            account.budget = budget;
            left = _min(left, _room(budget.limit(), budget.spent()));
        }
        if (wallet.capOn() && overrides & PAST_WALLET_CAP == 0) {
            on |= WALLET_ON;
            wallet = wallet.roll(block.timestamp / WALLET_STEP);
            left = _min(left, _room(wallet.cap(), wallet.spent()));
        }
        account.agent = agent;
        account.policy = policy;
        account.wallet = wallet;
        account.on = on;
        account.left = left;
    }

    /// @dev Whether the agent may pay at all. Nothing overrides this. `detail`: the error's argument.
    function _standing(Account memory account) internal view returns (bytes4 reason, uint256 detail) {
        AgentPolicy policy = account.policy;
        WalletState wallet = account.wallet;
        // An agent that was never set has expired, too.
        if (!wallet.frozen() && !policy.frozen() && block.timestamp < policy.expiry()) return (0, 0);
        if (wallet.frozen()) return (WalletFrozen.selector, 0);
        if (!policy.exists()) return (AgentInactive.selector, uint160(account.agent));
        if (policy.frozen()) return (AgentFrozen.selector, uint160(account.agent));
        return (AgentExpired.selector, policy.expiry());
    }

    /// @dev The first limit that refuses, from the payment outwards: amount, payee, ceiling, the agent's caps, the
    /// wallet's cap. All comparisons at full width; room is never negative, whatever caps did in mid-window.
    function _judge(Account memory account, PayeeRecord payee, address to, uint256 amount, uint256 overrides)
        internal
        view
        returns (bytes4 reason, uint256 left)
    {
        if (amount == 0) return (ZeroAmount.selector, 0);
        if (to == account.agent) return (PayeeNotAllowed.selector, 0);
        if (overrides & PAST_PAYEE != 0) {
            if (_isReserved(to)) return (PayeeNotAllowed.selector, 0);
        } else {
            // A reserved address is never registered.
            if (payee.categories() & account.policy.categories() == 0) return (PayeeNotAllowed.selector, 0);
            if (payee.counts()) {
                left = payee.cap() == type(uint48).max ? type(uint256).max : _room(payee.cap(), payee.spent());
                if (amount > left) return (PayeeCapExceeded.selector, left);
                left = payee.lastPaid() + payee.cooldown();
                if (payee.cooldown() != 0 && block.timestamp < left) return (PayeeCoolingDown.selector, left);
            }
        }
        left = account.policy.ceiling();
        if (amount > left && overrides & PAST_CEILING == 0) return (CeilingExceeded.selector, left);
        if (amount > account.left) return _tightest(account, amount);
        return (0, 0);
    }

    /// @dev Names the first of the limits with a counter that has no room for `amount`.
    function _tightest(Account memory account, uint256 amount) private pure returns (bytes4, uint256) {
        (uint256 day, uint256 month, uint256 budget, uint256 wallet) = _rooms(account);
        if (amount > day) return (DayCapExceeded.selector, day);
        if (amount > month) return (MonthCapExceeded.selector, month);
        if (amount > budget) return (BudgetExceeded.selector, budget);
        return (WalletCapExceeded.selector, wallet);
    }

    /// @dev Room of each limit with a counter after what is booked; type(uint256).max where it is off.
    function _rooms(Account memory account)
        private
        pure
        returns (uint256 day, uint256 month, uint256 budget, uint256 wallet)
    {
        AgentPolicy policy = account.policy;
        uint256 on = account.on;
        uint256 booked = account.booked;
        day = month = budget = wallet = type(uint256).max;
        if (on & DAY_ON != 0) day = _room(policy.dayCap(), account.day.spent() + booked);
        if (on & MONTH_ON != 0) month = _room(policy.monthCap(), account.month.spent() + booked);
        if (on & BUDGET_ON != 0) budget = _room(account.budget.limit(), account.budget.spent() + booked);
        if (on & WALLET_ON != 0) wallet = _room(account.wallet.cap(), account.wallet.spent() + booked);
    }

    /// @dev Addresses that are never paid, whatever the registry or the quorum says.
    function _isReserved(address to) internal view returns (bool) {
        return
            to == address(0) || to == address(this) || to == address(USDC) || to == address(ESCROW)
                || to == address(HUB);
    }

    function _room(uint256 cap, uint256 spent) private pure returns (uint256) {
        unchecked {
            return cap > spent ? cap - spent : 0;
        }
    }

    function _min(uint256 a, uint256 b) private pure returns (uint256) {
        return a < b ? a : b;
    }

    /* BOOKING */

    function _storePayee(PayeeRecord payee, address to, uint256 amount) internal {
        if (payee.counts()) _payees[to] = payee.add(amount, block.timestamp);
    }

    /// @dev Adds `amount` to the words as they were loaded.
    function _store(Agent storage words, Account memory account, uint256 amount) internal {
        uint256 on = account.on;
        if (on & DAY_ON != 0) words.day = account.day.add(amount);
        if (on & MONTH_ON != 0) words.month = account.month.add(amount);
        if (on & BUDGET_ON != 0) words.budget = account.budget.add(amount);
        if (on & WALLET_ON != 0) _wallet = account.wallet.add(amount);
    }

    /// @dev Takes `amount`, stored in this same block, off the words as they are now, whatever happened in between.
    function _unstore(Agent storage words, Account memory account, uint256 amount) internal {
        uint256 on = account.on;
        if (on & DAY_ON != 0) words.day = words.day.sub(amount);
        if (on & MONTH_ON != 0) words.month = words.month.sub(amount);
        if (on & BUDGET_ON != 0) words.budget = words.budget.sub(amount);
        if (on & WALLET_ON != 0) _wallet = _wallet.sub(amount);
    }

    /// @dev The same for a payee, whom the payment had found as `payee`.
    function _unstorePayee(PayeeRecord payee, address to, uint256 amount) internal {
        if (payee.counts()) _payees[to] = _payees[to].sub(amount, payee);
    }

    /* QUORUM: OpenZeppelin's threshold, kept in the word that every payment loads */

    function threshold() public view override returns (uint64) {
        return uint64(_wallet.threshold());
    }

    function _setThreshold(uint64 count) internal override {
        require(count != 0, MultiSignerERC7913ZeroThreshold());
        require(count <= MAX_OPERATORS, InvalidChange());
        _wallet = _wallet.withThreshold(count);
        _validateReachableThreshold();
        emit ERC7913ThresholdSet(count);
    }

    /* CHANGES */

    function _isAgent(address account) internal view override returns (bool) {
        return _agents[account].policy.exists();
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
        } else if (selector == IPolicyChanges.callEscrow.selector) {
            bytes memory call = abi.decode(arguments, (bytes));
            require(!alone || bytes4(call) == IWorkEscrow.dispute.selector, NotTightening());
            Address.functionCall(address(ESCROW), call);
        } else if (selector == IPolicyChanges.setCoupons.selector) {
            (address agent, uint256 word) = abi.decode(arguments, (address, uint256));
            require(word == 0 || !alone, NotTightening());
            coupons[agent] = word;
            emit CouponsChanged(agent, word);
        } else if (selector == IPolicyChanges.setChannelAuthorizer.selector) {
            (address authorizer, uint256 longest) = abi.decode(arguments, (address, uint256));
            require(!alone || longest <= channelDelay[authorizer], NotTightening());
            channelDelay[authorizer] = longest;
            emit ChannelAuthorizerChanged(authorizer, longest);
        } else if (selector == IPolicyChanges.closeChannel.selector) {
            _closeChannel(abi.decode(arguments, (ChannelConfig)));
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
        Agent storage words = _agents[agent];
        AgentPolicy previous = words.policy;
        if (alone) {
            AgentLimits memory old = _limits(words);
            require(
                previous.exists() && limits.ceiling <= old.ceiling && limits.dayCap <= old.dayCap
                    && limits.monthCap <= old.monthCap && limits.budget <= old.budget && limits.expiry <= old.expiry
                    && limits.categories & ~old.categories == 0,
                NotTightening()
            );
        }
        AgentPolicy policy = previous.replace(limits);
        words.policy = policy;
        if (policy.on() & BUDGET_ON != 0) words.budget = words.budget.withLimit(limits.budget);
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
            _agents[agent].policy = _agents[agent].policy.withFrozen(on);
        }
        emit Frozen(agent, on);
    }

    function _withdraw(address to, uint256 amount) private {
        require(!_isReserved(to), InvalidChange());
        emit Withdrawn(to, amount);
        require(_transfer(to, amount), TransferFailed());
    }

    /// @dev Asks the hub for whatever of the channel is neither claimed nor back.
    function _closeChannel(ChannelConfig memory channel) internal virtual;

    /* USDC */

    function _transfer(address to, uint256 amount) internal returns (bool paid) {
        return _callToken(IERC20.transfer.selector, to, amount);
    }

    /// @dev True iff the token answered with exactly one word, 1. Copies no more of the answer than that.
    function _callToken(bytes4 selector, address account, uint256 amount) internal returns (bool done) {
        address token = address(USDC);
        assembly ("memory-safe") {
            let data := mload(0x40)
            mstore(data, selector)
            mstore(add(data, 0x04), shr(96, shl(96, account)))
            mstore(add(data, 0x24), amount)
            done := call(gas(), token, 0, data, 0x44, 0, 0x20)
            done := and(done, and(eq(returndatasize(), 0x20), eq(mload(0), 1)))
        }
    }

    /* VIEWS */

    /// @inheritdoc IPolicyWallet
    function agentLimits(address agent)
        external
        view
        returns (AgentLimits memory limits, uint256 version, bool frozen)
    {
        AgentPolicy policy = _agents[agent].policy;
        return (_limits(_agents[agent]), policy.version(), policy.frozen());
    }

    function _limits(Agent storage words) private view returns (AgentLimits memory) {
        AgentPolicy policy = words.policy;
        uint64 budget = policy.exists() ? type(uint64).max : 0;
        if (policy.on() & BUDGET_ON != 0) budget = uint64(words.budget.limit());
        return AgentLimits({
            ceiling: uint48(policy.ceiling()),
            dayCap: uint48(policy.dayCap()),
            monthCap: uint48(policy.monthCap()),
            budget: budget,
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
        return _rooms(_load(_agents[agent], agent, 0));
    }

    /// @inheritdoc IPolicyWallet
    function check(address agent, address to, uint256 amount, uint256 overrides)
        external
        view
        returns (bytes4 reason, uint256 left)
    {
        Account memory account = _load(_agents[agent], agent, overrides);
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
