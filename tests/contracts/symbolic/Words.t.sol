// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {AgentLimits, PayeeLimits} from "contracts/interfaces/IPolicyWallet.sol";
import {AgentPolicy, BUDGET_ON, DAY_ON, MONTH_ON} from "contracts/types/AgentPolicy.sol";
import {Budget} from "contracts/types/Budget.sol";
import {Coupons} from "contracts/types/Coupons.sol";
import {PayeeRecord} from "contracts/types/PayeeRecord.sol";
import {WalletState, WalletStateLib} from "contracts/types/WalletState.sol";
import {Test} from "forge-std/Test.sol";

/// @dev For every word and every value: what goes in comes out, and no field reaches into another. `word` is any 256
/// bits, also such as no function would have written.
contract WordsCheck is Test {
    uint256 private constant U48 = type(uint48).max;

    /* AGENT POLICY */

    function check_policy_replace(
        uint256 word,
        uint48 ceiling,
        uint48 day,
        uint48 month,
        uint64 budget,
        uint40 expiry,
        uint16 categories
    ) public pure {
        AgentPolicy before = AgentPolicy.wrap(word);
        vm.assume(before.version() < type(uint24).max);
        AgentPolicy next = before.replace(AgentLimits(ceiling, day, month, budget, expiry, categories));
        assert(next.ceiling() == ceiling);
        assert(next.dayCap() == day);
        assert(next.monthCap() == month);
        assert(next.expiry() == expiry);
        assert(next.categories() == categories);
        assert(next.version() == before.version() + 1);
        assert(next.frozen() == before.frozen());
        assert((next.on() & DAY_ON != 0) == (day != U48));
        assert((next.on() & MONTH_ON != 0) == (month != U48));
        assert((next.on() & BUDGET_ON != 0) == (budget != type(uint64).max));
        assert(next.exists());
    }

    function check_policy_freeze(uint256 word, bool on) public pure {
        AgentPolicy before = AgentPolicy.wrap(word);
        AgentPolicy next = before.withFrozen(on);
        assert(next.frozen() == on);
        uint256 changed = AgentPolicy.unwrap(before) ^ AgentPolicy.unwrap(next);
        assert(changed & (changed - (changed == 0 ? 0 : 1)) == 0); // one bit at most
        assert((changed != 0) == (before.frozen() != on));
    }

    /* BUDGET */

    function check_budget_add_and_sub(uint256 word, uint64 amount) public pure {
        Budget before = Budget.wrap(word);
        vm.assume(before.spent() + amount <= before.limit());
        Budget next = before.add(amount);
        assert(next.spent() == before.spent() + amount);
        assert(next.limit() == before.limit());
        assert(Budget.unwrap(next) >> 128 == word >> 128);
        assert(Budget.unwrap(next.sub(amount)) == word);
    }

    function check_budget_limit(uint256 word, uint64 limit) public pure {
        Budget before = Budget.wrap(word);
        Budget next = before.withLimit(limit);
        assert(next.limit() == limit);
        assert(next.spent() == before.spent());
    }

    /* PAYEE */

    function check_payee_replace(uint256 word, uint16 categories, uint48 cap, uint32 cooldown) public pure {
        PayeeRecord before = PayeeRecord.wrap(word);
        PayeeRecord next = before.replace(PayeeLimits(categories, cap, cooldown));
        assert(next.categories() == categories);
        assert(next.cap() == cap);
        assert(next.cooldown() == cooldown);
        assert(next.spent() == before.spent());
        assert(next.lastPaid() == before.lastPaid());
        assert(next.counts() == (cap != U48 || cooldown != 0));
    }

    function check_payee_add_and_sub(uint256 word, uint48 amount, uint40 time) public pure {
        PayeeRecord before = PayeeRecord.wrap(word);
        bool capped = before.cap() != U48;
        if (capped) vm.assume(before.spent() + amount <= before.cap());
        PayeeRecord next = before.add(amount, time);
        assert(next.spent() == before.spent() + (capped ? amount : 0));
        assert(next.lastPaid() == (before.cooldown() != 0 ? time : before.lastPaid()));
        assert(next.categories() == before.categories());
        assert(next.cap() == before.cap());
        assert(next.cooldown() == before.cooldown());
        assert(PayeeRecord.unwrap(next) >> 184 == word >> 184);
        assert(PayeeRecord.unwrap(next.sub(amount, before)) == word);
    }

    /* WALLET */

    /// @dev Whole USDC in 32 bits; `amount / UNIT * UNIT == amount` is what the wallet asks for before it calls this.
    function check_wallet_cap(uint256 word, uint256 amount) public pure {
        WalletState before = WalletState.wrap(word);
        vm.assume(amount <= WalletStateLib.MAX_CAP);
        WalletState next = before.withCap(amount);
        assert(WalletState.unwrap(next) >> 200 & type(uint32).max == amount / WalletStateLib.UNIT);
        assert(next.cap() == (WalletState.unwrap(next) >> 200 & type(uint32).max) * WalletStateLib.UNIT);
        assert(next.capOn());
        _onlyTheCapChanged(before, next);
    }

    function check_wallet_without_cap(uint256 word) public pure {
        WalletState before = WalletState.wrap(word);
        WalletState next = before.withoutCap();
        assert(!next.capOn());
        _onlyTheCapChanged(before, next);
    }

    function _onlyTheCapChanged(WalletState before, WalletState next) private pure {
        assert(next.frozen() == before.frozen());
        assert(next.spent() == before.spent());
        uint256 changed = WalletState.unwrap(before) ^ WalletState.unwrap(next);
        assert(changed & (2 ** 200 - 1) == 0); // lanes
        assert(uint16(changed >> 232) == 0); // index
        assert(changed >> 250 == 0); // the other flags
    }

    function check_wallet_freeze(uint256 word, bool on) public pure {
        WalletState before = WalletState.wrap(word);
        WalletState next = before.withFrozen(on);
        assert(next.frozen() == on);
        assert(next.capOn() == before.capOn());
        assert(next.cap() == before.cap());
        assert((WalletState.unwrap(before) ^ WalletState.unwrap(next)) & (2 ** 248 - 1) == 0);
    }

    /* COUPONS */

    /// @dev A coupon is worth what the fields of its own class say, whatever the others hold, and beyond count or classes
    /// nothing.
    function check_coupon_worth(uint256 word, uint256 others, uint256 index) public pure {
        uint256 worth = Coupons.wrap(word).worth(index);
        if (index >= 4 << 16) {
            assert(worth == 0);
            return;
        }
        for (uint256 class; class < 4; ++class) {
            if (index >> 16 != class) continue;
            uint256 at = 32 + 56 * class;
            uint256 count = word >> at & 0xffff;
            uint256 most = word >> (at + 16) & 0xffffffffff;
            assert(worth == (index & 0xffff < count ? most : 0));
            uint256 own = (2 ** 56 - 1) << at;
            assert(Coupons.wrap(word & own | others & ~own).worth(index) == worth);
        }
    }
}
