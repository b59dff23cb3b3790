// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {Payout, Status, Terms} from "contracts/interfaces/IWorkEscrow.sol";

/// @dev One escrow as it should be.
struct Case {
    Terms terms;
    Payout[] payouts;
    uint256 captured;
    uint256 refunded;
    uint256 returned;
    uint256 since;
    Status status;
}

/// @dev What every escrow and every account should have, kept in plain sums and without a look at the contract. What
/// an account is due follows from totals alone, never from the steps in which they came about.
contract EscrowLedger {
    Case[] private cases;
    mapping(address => uint256) public start; // USDC before the first step
    mapping(address => uint256) public owed;
    mapping(address => bool) public blocked;
    address public immutable escrow;

    constructor(address escrow_) {
        escrow = escrow_;
    }

    function give(address account, uint256 amount) external {
        start[account] += amount;
    }

    function setBlocked(address account, bool on) external {
        blocked[account] = on;
    }

    function length() external view returns (uint256) {
        return cases.length;
    }

    function at(uint256 i) external view returns (Case memory) {
        return cases[i];
    }

    /* STEPS */

    function open(Terms calldata t, Payout[] calldata payouts) external {
        Case storage c = cases.push();
        c.terms = t;
        c.status = Status.Funded;
        for (uint256 i; i < payouts.length; ++i) {
            c.payouts.push(payouts[i]);
        }
    }

    function begin(uint256 i, Status status) external {
        (cases[i].status, cases[i].since) = (status, block.timestamp);
    }

    /// @dev The totals rise by so much, and what the token refuses is owed.
    function pay(uint256 i, uint256 toPayee, uint256 toPayer) external {
        Case storage c = cases[i];
        for (uint256 p; p <= c.payouts.length; ++p) {
            address to = p == c.payouts.length ? c.terms.payee : c.payouts[p].to;
            uint256 amount = _share(c, p, c.captured + toPayee) - _share(c, p, c.captured);
            if (!reaches(to)) owed[to] += amount;
        }
        if (!reaches(c.terms.payer)) owed[c.terms.payer] += toPayer;
        c.captured += toPayee;
        c.refunded += toPayer;
    }

    function end(uint256 i, Status status) external {
        cases[i].status = status;
    }

    function giveBack(uint256 i, uint256 amount) external {
        cases[i].returned += amount;
    }

    function withdrawn(address account) external {
        owed[account] = 0;
    }

    /* SUMS */

    /// @dev Whether the escrow can pay `to`.
    function reaches(address to) public view returns (bool) {
        return !blocked[to] && !blocked[escrow];
    }

    function left(uint256 i) public view returns (uint256) {
        return cases[i].terms.amount - cases[i].captured - cases[i].refunded;
    }

    function held() external view returns (uint256 sum) {
        for (uint256 i; i < cases.length; ++i) {
            sum += left(i);
        }
    }

    /// @dev USDC that the account should have in hand.
    function due(address account) external view returns (uint256) {
        uint256 plus = start[account];
        uint256 minus = owed[account];
        for (uint256 i; i < cases.length; ++i) {
            Case storage c = cases[i];
            if (account == c.terms.payer) {
                plus += c.refunded + c.returned;
                minus += c.terms.amount;
            }
            if (account == c.terms.payee) minus += c.returned;
            for (uint256 p; p <= c.payouts.length; ++p) {
                address to = p == c.payouts.length ? c.terms.payee : c.payouts[p].to;
                if (to == account) plus += _share(c, p, c.captured);
            }
        }
        return plus - minus;
    }

    /// @dev Share number `p` of `total`; the one after the last is the payee's.
    function _share(Case storage c, uint256 p, uint256 total) private view returns (uint256 share) {
        uint256 bpsLeft = 10_000;
        for (uint256 i; i <= p; ++i) {
            if (i == c.payouts.length) return total;
            uint256 bps = c.payouts[i].bps;
            share = bpsLeft == 0 ? 0 : total * bps / bpsLeft;
            (total, bpsLeft) = (total - share, bpsLeft - bps);
        }
    }
}
