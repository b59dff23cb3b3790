// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {Vm} from "forge-std/Vm.sol";
import {AgentLimits, Batch, IPolicyChanges, IPolicyWallet, PayeeLimits} from "contracts/interfaces/IPolicyWallet.sol";
import {Payment, Stage} from "./Stage.sol";

/// @dev W35. Whoever reads only the logs knows everything: what was paid, by whom, under which version, what was
/// skipped and why; replayed, they give the counters the contract holds.
contract W35_EventTruth is Stage {
    bytes32 private constant CONTEXT = keccak256("order 7");
    bytes32 private constant TRANSFER = keccak256("Transfer(address,address,uint256)");
    uint256 private byAgent;
    uint256 private byAgent2;
    uint256 private approved;
    uint256 private withdrawn;
    uint256 private moved;

    function test_payment_says_exactly_what_happened() public {
        enact(setAgent(agent, limits()));
        Payment memory p = payment(shop, 5, 0);
        p.context = CONTEXT;
        vm.expectEmit(address(wallet));
        emit IPolicyWallet.Paid(agent, shop, 5, 2, CONTEXT);
        pay(p);

        p.amount = CEILING + 1;
        p.nonce = 1;
        vm.expectEmit(address(wallet));
        emit IPolicyWallet.Approved(agent, 1, shop, CEILING + 1, 1, 2, CONTEXT);
        payApproved(p, 1);

        Batch memory b = batchOf(agent, 2, triple(item(shop, 1), item(stranger, 2), item(cafe, 4)));
        b.context = CONTEXT;
        (b.r, b.vs) = compact(agentKey, batchDigest(address(wallet), b));
        vm.expectEmit(address(wallet));
        emit IPolicyWallet.ItemSkipped(agent, 2, 1, IPolicyWallet.PayeeNotAllowed.selector, 0);
        vm.expectEmit(address(wallet));
        emit IPolicyWallet.BatchPaid(agent, 2, 2, 5, 2, CONTEXT);
        wallet.payBatch(one(b));
    }

    function test_refusals_leave_no_event() public {
        (bytes32 r, bytes32 vs) = compact(agentKey, digestOf(payment(stranger, 5, 0)));
        vm.recordLogs();
        (bool done,) = address(wallet).call(abi.encodeCall(IPolicyWallet.pay, (agent, stranger, 5, 0, FAR, 0, r, vs)));
        assertFalse(done);
        assertEq(vm.getRecordedLogs().length, 0);
    }

    /// @dev Random traffic with failures; then the logs alone rebuild money and counters.
    /// forge-config: ci.fuzz.runs = 1000
    function test_logs_rebuild_the_counters(uint256 seed) public {
        AgentLimits memory l = limits();
        l.monthCap = uint48(3 * DAY_CAP);
        l.budget = uint64(4 * DAY_CAP);
        bytes[] memory changes = baseChanges();
        changes[0] = setAgent(agent, l);
        changes[1] = setAgent(agent2, l);
        wallet = deploy(address(usdc), changes);
        fund(address(wallet), FUNDS);
        submit(abi.encodeCall(IPolicyChanges.withdraw, (treasury, 77)));
        withdrawn = 77;
        vm.prank(treasury);
        usdc.blacklist(cafe);

        for (uint256 i; i < 30; ++i) {
            seed = uint256(keccak256(abi.encode(seed)));
            vm.recordLogs();
            bool done = _act(seed, i);
            Vm.Log[] memory logs = vm.getRecordedLogs();
            if (done) _replay(logs); // a reverted call has no logs on a chain, though the recorder keeps them
        }

        assertEq(byAgent + byAgent2 + approved, moved, "USDC's own logs");
        assertEq(FUNDS - usdc.balanceOf(address(wallet)), moved + withdrawn);
        (uint256 day, uint256 month, uint256 budget,) = wallet.room(agent);
        assertEq(day, DAY_CAP - byAgent);
        assertEq(month, 3 * DAY_CAP - byAgent);
        assertEq(budget, 4 * DAY_CAP - byAgent);
        (day,,,) = wallet.room(agent2);
        assertEq(day, DAY_CAP - byAgent2);
    }

    function _act(uint256 seed, uint256 nonce) private returns (bool done) {
        address by = seed & 1 == 0 ? agent : agent2;
        address to = seed & 2 == 0 ? shop : cafe;
        uint256 amount = (seed >> 16) % (CEILING * 5 / 4) + 1;
        if (seed & 12 == 0) {
            bytes32[] memory items = triple(item(to, amount), item(shop, amount / 2 + 1), item(stranger, amount));
            wallet.payBatch(one(batchOf(by, nonce, items)));
            return true;
        }
        Payment memory p = payment(to, amount, nonce);
        p.agent = by;
        if (seed & 12 == 4) {
            (, uint256 version,) = wallet.agentLimits(by);
            bytes32 digest = approvedDigest(p, 5, version);
            (bytes32 r, bytes32 vs) = compact(keyOf(by), digest);
            bytes memory call = abi.encodeCall(
                IPolicyWallet.payApproved, (by, to, amount, nonce, FAR, 0, 5, version, r, vs, quorumFor(digest))
            );
            (done,) = address(wallet).call(call);
            assertEq(done, to == shop);
        } else {
            (bytes32 r, bytes32 vs) = compact(keyOf(by), digestOf(p));
            (bytes4 reason,) = wallet.check(by, to, amount, 0);
            (done,) = address(wallet).call(abi.encodeCall(IPolicyWallet.pay, (by, to, amount, nonce, FAR, 0, r, vs)));
            assertEq(done, reason == 0 && to == shop);
        }
    }

    /// @dev What is approved past the caps is not in the counters.
    function _replay(Vm.Log[] memory logs) private {
        for (uint256 i; i < logs.length; ++i) {
            bytes32 kind = logs[i].topics[0];
            if (kind == TRANSFER) {
                moved += abi.decode(logs[i].data, (uint256));
                continue;
            }
            address by = address(uint160(uint256(logs[i].topics[1])));
            if (kind == IPolicyWallet.Paid.selector) {
                (uint256 amount,,) = abi.decode(logs[i].data, (uint256, uint256, bytes32));
                _count(by, amount);
            } else if (kind == IPolicyWallet.Approved.selector) {
                (uint256 amount,,,) = abi.decode(logs[i].data, (uint256, uint256, uint256, bytes32));
                approved += amount;
            } else if (kind == IPolicyWallet.BatchPaid.selector) {
                (, uint256 total,,) = abi.decode(logs[i].data, (uint256, uint256, uint256, bytes32));
                _count(by, total);
            } else {
                assertEq(kind, IPolicyWallet.ItemSkipped.selector);
            }
        }
    }

    function _count(address by, uint256 amount) private {
        if (by == agent) byAgent += amount;
        else byAgent2 += amount;
    }

    /* GOVERNANCE */

    function test_changes_say_exactly_what_happened() public {
        AgentLimits memory l = limits();
        bytes memory change = setAgent(agent, l);
        bytes memory quorum = quorumFor(changeDigest(address(wallet), change, 0, FAR));
        vm.expectEmit(address(wallet));
        emit IPolicyWallet.ChangeSubmitted(keccak256(change), change, START + DELAY);
        wallet.submit(change, 0, FAR, quorum);
        vm.warp(START + DELAY);
        vm.expectEmit(address(wallet));
        emit IPolicyWallet.AgentChanged(agent, 2, l);
        vm.expectEmit(address(wallet));
        emit IPolicyWallet.ChangeExecuted(keccak256(change), change);
        wallet.execute(change);

        PayeeLimits memory p = PayeeLimits(1, 5, 6);
        vm.expectEmit(address(wallet));
        emit IPolicyWallet.PayeeChanged(shop, p);
        tightenBy(0, setPayee(shop, p));
        vm.expectEmit(address(wallet));
        emit IPolicyWallet.WalletCapChanged(5 * USD);
        tightenBy(0, setCap(5 * USD));
        vm.expectEmit(address(wallet));
        emit IPolicyWallet.Frozen(address(0), true);
        tightenBy(0, setFrozen(address(0), true));

        change = abi.encodeCall(IPolicyChanges.withdraw, (treasury, 5));
        quorum = quorumFor(changeDigest(address(wallet), change, 1, FAR));
        vm.expectEmit(address(wallet));
        emit IPolicyWallet.Withdrawn(treasury, 5);
        wallet.submit(change, 1, FAR, quorum);
    }
}
