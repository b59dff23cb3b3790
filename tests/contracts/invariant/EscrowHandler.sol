// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {EscrowStage} from "../attack/EscrowStage.sol";
import {PlainCondition} from "../attack/OddConditions.sol";
import {ContractOperator} from "../attack/Operators.sol";
import {Case, EscrowLedger} from "./EscrowLedger.sol";
import {DevUSDC} from "contracts/DevUSDC.sol";
import {
    BY_ARBITER,
    BY_CONDITION,
    BY_PAYER,
    BY_PREIMAGE,
    IWorkEscrow,
    Payout,
    Proof,
    State,
    Status,
    Terms
} from "contracts/interfaces/IWorkEscrow.sol";

/// @dev Random steps by everybody there is: payers, payees, arbiters, share holders, USDC's owner, strangers. Before each
/// step the ledger says what must come of it, to the error; a step that ends otherwise reverts, and with it the campaign.
contract EscrowHandler is EscrowStage {
    uint256 private constant MAX_CASES = 10;

    EscrowLedger public ledger;
    PlainCondition private condition;
    address private judge; // an arbiter that is a contract
    address[] private agents; // hire one another
    address[] private accounts; // all of the above, share holders, the stranger, the escrow
    mapping(address => uint256) private keys;
    address private _blockedOne;
    uint256 private _clock = START; // the fuzzer may move its own; this one only goes forward
    uint256 public ended;

    modifier step() {
        vm.warp(_clock);
        _;
        _agrees();
    }

    function setUp() public override {
        super.setUp();
        ledger = new EscrowLedger(address(escrow));
        condition = new PlainCondition();
        judge = address(new ContractOperator(arbiter));
        keys[payer] = payerKey;
        keys[payee] = payeeKey;
        keys[arbiter] = arbiterKey;
        (address third, uint256 key) = makeAddrAndKey("third agent");
        keys[third] = key;
        agents = [payer, payee, third];
        accounts = [payer, payee, third, arbiter, partner, partner2, stranger, address(escrow)];
        for (uint256 i; i < agents.length; ++i) {
            if (agents[i] != payer) mint(agents[i], 1_000_000 * USD);
            vm.prank(agents[i]);
            usdc.approve(address(escrow), type(uint256).max);
            ledger.give(agents[i], 1_000_000 * USD);
        }
    }

    function parties() external view returns (IWorkEscrow, DevUSDC, address[] memory) {
        return (escrow, usdc, accounts);
    }

    /* THE STEPS */

    function fund(uint256 seed, uint64 amount, uint8 anyOf, uint8 allOf, uint16 silence, bool signedFor) external step {
        if (ledger.length() == MAX_CASES) return;
        seed = uint256(keccak256(abi.encode(seed, ledger.length()))); // the fuzzer likes small numbers
        Terms memory t;
        t.payer = agents[seed % 3];
        t.payee = agents[(seed % 3 + 1 + (seed >> 2) % 2) % 3];
        t.arbiter = [address(0), arbiter, judge, t.payer][(seed >> 4) % 4];
        t.amount = uint64(bound(amount, 1, 1_000 * USD));
        t.submitBy = uint40(_clock + 1 + (seed >> 8) % 20 days);
        t.reviewPeriod = uint32(1 + (seed >> 40) % 3 days);
        t.arbitrationPeriod = uint32(1 + (seed >> 72) % 3 days);
        t.silenceBps = uint16(bound(silence, 0, 10_000));
        (t.anyOf, t.allOf) = (anyOf & 15, (seed >> 104) % 4 == 0 ? allOf & 15 : 0);
        t.hashlock = sha256(abi.encodePacked(PREIMAGE));
        t.condition = address(condition);
        t.salt = ledger.length();
        Payout[] memory list = _payouts(seed >> 128, t.payer);
        with(t, list);
        // Mostly terms that are sound.
        if (seed >> 250 != 0 && _refusal(t) != 0) (t.anyOf, t.allOf) = (BY_PAYER | BY_PREIMAGE | BY_CONDITION, 0);

        bytes4 why = _refusal(t);
        if (why == 0 && (ledger.blocked(t.payer) || ledger.blocked(address(escrow)))) {
            why = IWorkEscrow.TokenCollectionFailed.selector;
        }
        bytes memory call = abi.encodeCall(IWorkEscrow.authorize, (t, list));
        address from = t.payer;
        if (signedFor) {
            bytes memory s = signed(keys[t.payer], authorizationHash(t.payer, address(escrow), t.amount, idOf(t)));
            call = abi.encodeCall(IWorkEscrow.authorizeWithAuthorization, (t, list, 0, FAR, s));
            from = stranger;
        }
        if (_does(from, call, why)) ledger.open(t, list);
    }

    function submit(uint256 i, uint8 who, bool signedFor) external step {
        i = _aim(i, Status.Funded);
        (bool any, Case memory c) = _pick(i);
        if (!any) return;
        Terms memory t = c.terms;
        bytes4 why;
        if (c.status != Status.Funded) why = IWorkEscrow.WrongStatus.selector;
        else if (_clock > t.submitBy) why = IWorkEscrow.TooLate.selector;
        else why = _voice(t.payee, who);
        bytes memory s = signedFor ? signed(keys[_by(who, t.payee)], submitHash(t, FAR)) : bytes("");
        bytes memory call = abi.encodeCall(IWorkEscrow.submit, (t, DELIVERABLE, FAR, s));
        if (_does(signedFor ? stranger : _by(who, t.payee), call, why)) ledger.begin(_index(i), Status.Submitted);
    }

    /// @param claims which releases are claimed; the other bits: which of them are spoiled, once in a while
    /// @param all whether every release is claimed
    function capture(uint256 i, uint64 total, uint8 claims, bool all) external step {
        i = _aim(i, Status.Submitted);
        (bool any, Case memory c) = _pick(i);
        if (!any) return;
        Terms memory t = c.terms;
        if (all) claims |= 15;
        if (claims >> 4 > 4) claims &= 15;
        if (total % 4 == 0) total = t.amount;
        else total = uint64(bound(total, c.captured, uint256(t.amount) + 1));
        Proof memory p = proof();
        p.claims = claims & 15;
        p.payerSignature = signed(claims & 16 != 0 ? 0xbad : keys[t.payer], releaseHash(t, total, FAR));
        uint256 arbiterKey_ = t.arbiter == t.payer ? keys[t.payer] : arbiterKey;
        p.arbiterSignature = signed(claims & 32 != 0 ? 0xbad : arbiterKey_, releaseHash(t, total, FAR));
        p.preimage = claims & 64 != 0 ? bytes32("wrong") : PREIMAGE;
        bytes4 why = _captureRefusal(c, total, claims);
        if (!_does(stranger, abi.encodeCall(IWorkEscrow.capture, (t, c.payouts, total, p)), why)) return;
        ledger.pay(_index(i), total - c.captured, 0);
        if (total == t.amount) _ends(i, Status.Completed);
    }

    function void(uint256 i, uint8 who, bool signedFor) external step {
        (bool any, Case memory c) = _pick(i);
        if (!any || who % 4 != 0) return; // not too often
        Terms memory t = c.terms;
        bytes4 why = _live(c) ? _voice(t.payee, who) : IWorkEscrow.WrongStatus.selector;
        bytes memory s = signedFor ? signed(keys[_by(who, t.payee)], voidHash(t, FAR)) : bytes("");
        bytes memory call = abi.encodeCall(IWorkEscrow.void, (t, FAR, s));
        if (!_does(signedFor ? stranger : _by(who, t.payee), call, why)) return;
        ledger.pay(_index(i), 0, ledger.left(_index(i)));
        _ends(i, Status.Rejected);
    }

    function dispute(uint256 i, uint8 who, bool asPayer) external step {
        i = _aim(i, Status.Submitted);
        (bool any, Case memory c) = _pick(i);
        if (!any) return;
        Terms memory t = c.terms;
        address party = asPayer ? t.payer : t.payee;
        bytes4 why;
        if (c.status != Status.Submitted) why = IWorkEscrow.WrongStatus.selector;
        else if (t.arbiter == address(0)) why = IWorkEscrow.NoArbiter.selector;
        else if (_clock > c.since + t.reviewPeriod) why = IWorkEscrow.TooLate.selector;
        else why = _voice(party, who);
        bytes memory s = signed(keys[_by(who, party)], disputeHash(t, "e", FAR));
        bytes memory call = abi.encodeCall(IWorkEscrow.dispute, (t, party, "e", FAR, s));
        if (_does(stranger, call, why)) ledger.begin(_index(i), Status.Disputed);
    }

    function award(uint256 i, uint64 captured, uint8 flaw) external step {
        i = _aim(i, Status.Disputed);
        (bool any, Case memory c) = _pick(i);
        if (!any) return;
        Terms memory t = c.terms;
        (bool uneven, bool forged) = (flaw % 8 == 1, flaw % 8 == 2);
        captured = uint64(bound(captured, flaw % 4 == 0 ? 0 : c.captured, t.amount));
        uint64 refunded = t.amount - captured + (uneven ? 1 : 0);
        uint256 key = forged ? 0xbad : t.arbiter == t.payer ? keys[t.payer] : arbiterKey;
        bytes4 why;
        if (c.status != Status.Disputed) why = IWorkEscrow.WrongStatus.selector;
        else if (_clock > c.since + t.arbitrationPeriod) why = IWorkEscrow.TooLate.selector;
        else if (uneven) why = IWorkEscrow.UnevenAward.selector;
        else if (captured < c.captured) why = IWorkEscrow.NotIncreasing.selector;
        else if (forged) why = IWorkEscrow.InvalidSignature.selector;
        bytes memory s = signed(key, awardHash(t, captured, refunded, "", FAR));
        bytes memory call = abi.encodeCall(IWorkEscrow.award, (t, c.payouts, captured, refunded, "", FAR, s));
        if (!_does(stranger, call, why)) return;
        ledger.pay(_index(i), captured - c.captured, refunded);
        _ends(i, captured > c.captured ? Status.Completed : Status.Rejected);
    }

    function finalize(uint256 i) external step {
        i = _aim(i, Status.Submitted);
        (bool any, Case memory c) = _pick(i);
        if (!any) return;
        Terms memory t = c.terms;
        uint256 period = c.status == Status.Disputed ? t.arbitrationPeriod : t.reviewPeriod;
        bytes4 why;
        if (c.status != Status.Submitted && c.status != Status.Disputed) why = IWorkEscrow.WrongStatus.selector;
        else if (_clock <= c.since + period) why = IWorkEscrow.NotYet.selector;
        if (!_does(stranger, abi.encodeCall(IWorkEscrow.finalize, (t, c.payouts)), why)) return;
        _silence(i, c);
    }

    function reclaim(uint256 i) external step {
        i = _aim(i, Status.Funded);
        (bool any, Case memory c) = _pick(i);
        if (!any) return;
        bytes4 why;
        if (c.status != Status.Funded) why = IWorkEscrow.WrongStatus.selector;
        else if (_clock <= c.terms.submitBy) why = IWorkEscrow.NotYet.selector;
        if (!_does(stranger, abi.encodeCall(IWorkEscrow.reclaim, (c.terms)), why)) return;
        ledger.pay(_index(i), 0, ledger.left(_index(i)));
        _ends(i, Status.Expired);
    }

    function refund(uint256 i, uint64 total) external step {
        i = _aim(i, Status.Completed);
        (bool any, Case memory c) = _pick(i);
        if (!any) return;
        total = uint64(bound(total, total % 5 == 0 ? 0 : c.returned, c.captured + (total % 4 == 0 ? 1 : 0)));
        address from = c.terms.payee;
        uint256 amount = total > c.returned ? total - c.returned : 0;
        bytes4 why;
        if (amount == 0) {
            why = IWorkEscrow.NotIncreasing.selector;
        } else if (total > c.captured) {
            why = IWorkEscrow.ExceedsRemaining.selector;
        } else if (_blocked(from, c.terms.payer) || ledger.blocked(address(escrow)) || usdc.balanceOf(from) < amount) {
            why = IWorkEscrow.TokenCollectionFailed.selector;
        }
        if (_does(from, abi.encodeCall(IWorkEscrow.refund, (c.terms, total)), why)) {
            ledger.giveBack(_index(i), amount);
        }
    }

    function withdraw(uint256 who) external step {
        address account = accounts[who % accounts.length];
        bytes4 why;
        if (ledger.owed(account) == 0) why = IWorkEscrow.NothingOwed.selector;
        else if (!ledger.reaches(account)) why = IWorkEscrow.TransferFailed.selector;
        if (_does(stranger, abi.encodeCall(IWorkEscrow.withdraw, (account)), why)) ledger.withdrawn(account);
    }

    /// @dev USDC's owner blocks one at a time, the escrow itself rarely.
    function blockAccount(uint256 who, bool on) external step {
        if (_blockedOne != address(0)) _block(_blockedOne, false);
        address account = accounts[who % accounts.length];
        if (!on || (account == address(escrow) && who % 3 != 0)) return;
        _block(account, true);
    }

    function _block(address account, bool on) private {
        vm.prank(treasury);
        if (on) usdc.blacklist(account);
        else usdc.unBlacklist(account);
        ledger.setBlocked(account, on);
        _blockedOne = on ? account : address(0);
    }

    function flip(bool on) external step {
        condition.set(on);
    }

    function donate(uint64 amount) external step {
        if (ledger.blocked(address(escrow))) return;
        mint(address(escrow), amount);
        ledger.give(address(escrow), amount);
    }

    /// @dev Mostly short, sometimes to just before or after a boundary of some escrow.
    function pass(uint256 i, uint32 time, uint8 how) external step {
        (bool any, Case memory c) = _pick(i);
        uint256 next = _clock + time % 12 hours;
        if (any && how % 4 == 0) {
            uint256 edge = c.terms.submitBy;
            if (c.status == Status.Submitted) edge = c.since + c.terms.reviewPeriod;
            if (c.status == Status.Disputed) edge = c.since + c.terms.arbitrationPeriod;
            next = edge + how / 4 % 2;
        }
        if (next > _clock) _clock = next;
    }

    /// @dev I9: past all periods, a stranger ends everything, without a signature.
    function endAll() external {
        vm.warp(_clock = _clock + 365 days);
        for (uint256 i; i < ledger.length(); ++i) {
            Case memory c = ledger.at(i);
            if (!_live(c)) continue;
            if (c.status == Status.Funded) {
                _does(stranger, abi.encodeCall(IWorkEscrow.reclaim, (c.terms)), 0);
                ledger.pay(i, 0, ledger.left(i));
                _ends(i, Status.Expired);
            } else {
                _does(stranger, abi.encodeCall(IWorkEscrow.finalize, (c.terms, c.payouts)), 0);
                _silence(i, c);
            }
        }
        _agrees();
    }

    /* WHAT MUST COME OF IT */

    /// @dev Whether the terms are sound, in the order in which they are looked at. Amounts, times and parties are.
    function _refusal(Terms memory t) private pure returns (bytes4) {
        uint8 used = t.anyOf | t.allOf;
        bool sound = used != 0 && (used & BY_ARBITER == 0 || t.arbiter != address(0));
        uint8 payers = t.arbiter == t.payer ? BY_PAYER | BY_ARBITER : BY_PAYER;
        bool free = t.silenceBps == 0 && (t.allOf & payers != 0 || (t.anyOf != 0 && t.anyOf & payers == t.anyOf));
        return sound && !free ? bytes4(0) : IWorkEscrow.InvalidTerms.selector;
    }

    function _captureRefusal(Case memory c, uint256 total, uint8 claims) private view returns (bytes4) {
        Terms memory t = c.terms;
        if (c.status != Status.Funded && c.status != Status.Submitted) return IWorkEscrow.WrongStatus.selector;
        if (total <= c.captured) return IWorkEscrow.NotIncreasing.selector;
        if (total > t.amount) return IWorkEscrow.ExceedsRemaining.selector;
        if (claims & BY_PAYER != 0 && claims & 16 != 0) return IWorkEscrow.InvalidSignature.selector;
        bool arbitrated = claims & BY_ARBITER != 0 && t.arbiter != address(0);
        if (arbitrated && claims & 32 != 0) return IWorkEscrow.InvalidSignature.selector;
        bool word = claims & (BY_PREIMAGE | BY_CONDITION) != 0;
        if (word && c.status == Status.Funded && _clock > t.submitBy) return IWorkEscrow.TooLate.selector;
        uint256 have = claims & BY_PAYER;
        if (arbitrated) have |= BY_ARBITER;
        if (total == t.amount) {
            if (claims & 64 == 0) have |= claims & BY_PREIMAGE;
            if (condition.answer()) have |= claims & BY_CONDITION;
        }
        for (uint256 bit = 1; bit <= 8; bit <<= 1) {
            if (t.allOf & bit != 0 && have & bit == 0) return IWorkEscrow.NotReleased.selector;
        }
        if (t.anyOf != 0 && have & t.anyOf == 0) return IWorkEscrow.NotReleased.selector;
        return 0;
    }

    function _silence(uint256 i, Case memory c) private {
        uint256 left = ledger.left(_index(i));
        uint256 share = left * c.terms.silenceBps / 10_000;
        ledger.pay(_index(i), share, left - share);
        _ends(i, share != 0 ? Status.Completed : Status.Rejected);
    }

    /// @dev Every escrow, as the ledger has it; I2, I3, I5.
    function _agrees() private view {
        for (uint256 i; i < ledger.length(); ++i) {
            Case memory c = ledger.at(i);
            State memory s = stateOf(c.terms);
            assertEq(s.captured, c.captured, "captured");
            assertEq(s.refunded, c.refunded, "refunded");
            assertEq(s.returned, c.returned, "returned");
            assertEq(s.since, c.since, "since");
            assertEq(uint8(s.status), uint8(c.status), "status");
            assertEq(_live(c), ledger.left(i) != 0, "ended iff nothing is left");
        }
    }

    /* PARTS */

    function _payouts(uint256 seed, address except) private view returns (Payout[] memory list) {
        list = new Payout[](seed % 3 == 0 ? 0 : (seed >> 4) % 9);
        uint256 left = 10_000;
        for (uint256 i; i < list.length; ++i) {
            uint256 pick = seed >> 8 + 4 * i;
            address to = accounts[pick % 7];
            uint256 bps = i == 7 && pick % 2 == 0 ? left : (seed >> 40 + 8 * i) % (left / 2 + 1);
            list[i] = Payout(to == except ? partner : to, uint16(bps));
            left -= bps;
        }
    }

    /// @dev Mostly an escrow in which the step may succeed, if there is one.
    function _aim(uint256 i, Status status) private view returns (uint256) {
        uint256 count = ledger.length();
        if (i % 5 == 0) return i;
        for (uint256 n; n < count; ++n) {
            uint256 next = addmod(i, n, count);
            if (ledger.at(next).status == status) return next;
        }
        return i;
    }

    function _index(uint256 i) private view returns (uint256) {
        return i % ledger.length();
    }

    function _pick(uint256 i) private view returns (bool any, Case memory c) {
        if (ledger.length() == 0) return (false, c);
        return (true, ledger.at(_index(i)));
    }

    function _live(Case memory c) private pure returns (bool) {
        return c.status == Status.Funded || c.status == Status.Submitted || c.status == Status.Disputed;
    }

    /// @dev Mostly the right one, else another agent.
    function _by(uint8 who, address right) private view returns (address) {
        return who < 200 ? right : agents[who % 3];
    }

    function _voice(address right, uint8 who) private view returns (bytes4) {
        return _by(who, right) == right ? bytes4(0) : IWorkEscrow.InvalidSignature.selector;
    }

    function _blocked(address a, address b) private view returns (bool) {
        return ledger.blocked(a) || ledger.blocked(b);
    }

    function _ends(uint256 i, Status status) private {
        ledger.end(_index(i), status);
        ++ended;
    }

    function _does(address from, bytes memory call, bytes4 why) private returns (bool) {
        vm.prank(from);
        (bool done, bytes memory answer) = address(escrow).call(call);
        if (why == 0) assertTrue(done, "refused what is right");
        else assertEq(bytes4(answer), why, "another refusal, or none");
        return done;
    }
}
