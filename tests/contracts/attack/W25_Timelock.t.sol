// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {AgentLimits, IPolicyChanges, IPolicyWallet, PayeeLimits} from "contracts/interfaces/IPolicyWallet.sol";
import {Stage} from "./Stage.sol";

/// @dev W25. Loosening waits, tightening does not; every way around the wait, and every way one hostile operator
/// could turn its tightening powers against the others.
contract W25_Timelock is Stage {
    uint256 private nonce = 1_000;

    function _submitted(bytes memory change) private returns (uint256 ready) {
        ++nonce;
        wallet.submit(change, nonce, FAR, quorumFor(changeDigest(address(wallet), change, nonce, FAR)));
        return wallet.readyAt(change);
    }

    /* THE WAIT */

    function test_every_loosening_waits_its_delay() public {
        AgentLimits memory wider = limits();
        wider.dayCap += 1;
        bytes[6] memory changes = [
            setAgent(agent, wider),
            setPayee(stranger, payee()),
            setCap(5 * USD),
            abi.encodeCall(IPolicyChanges.setCoupons, (agent, 1)),
            abi.encodeCall(IPolicyChanges.setChannelAuthorizer, (stranger, 1 days)),
            abi.encodeCall(IPolicyChanges.setOperators, (new bytes[](0), new bytes[](0), 3))
        ];
        for (uint256 i; i < 6; ++i) {
            uint256 ready = _submitted(changes[i]);
            assertEq(ready, vm.getBlockTimestamp() + DELAY);
            vm.expectRevert(abi.encodeWithSelector(IPolicyWallet.NotReady.selector, ready));
            wallet.execute(changes[i]);
            vm.warp(ready - 1);
            vm.expectRevert(abi.encodeWithSelector(IPolicyWallet.NotReady.selector, ready));
            wallet.execute(changes[i]);
        }
        (AgentLimits memory l,,) = wallet.agentLimits(agent);
        assertEq(l.dayCap, DAY_CAP);
        refused(payment(stranger, 1, 0), why2(IPolicyWallet.PayeeNotAllowed.selector, 1, 0));
    }

    function test_execute_once_by_anyone() public {
        bytes memory change = setPayee(stranger, payee());
        bytes32 id = keccak256(change);
        vm.warp(_submitted(change));
        vm.prank(stranger);
        wallet.execute(change);
        vm.expectRevert(abi.encodeWithSelector(IPolicyWallet.NotPending.selector, id));
        wallet.execute(change);
        assertEq(wallet.readyAt(change), 0);
    }

    function test_execute_with_a_changed_argument() public {
        vm.warp(_submitted(setPayee(stranger, payee())));
        bytes memory other = setPayee(cafe, PayeeLimits(type(uint16).max, type(uint48).max, 0));
        vm.expectRevert(abi.encodeWithSelector(IPolicyWallet.NotPending.selector, keccak256(other)));
        wallet.execute(other);
        // Trailing bytes make other bytes too.
        bytes memory longer = bytes.concat(setPayee(stranger, payee()), hex"00");
        vm.expectRevert(abi.encodeWithSelector(IPolicyWallet.NotPending.selector, keccak256(longer)));
        wallet.execute(longer);
    }

    function test_submitting_again_does_not_restart_or_shorten() public {
        bytes memory change = setPayee(stranger, payee());
        uint256 ready = _submitted(change);
        vm.warp(START + 5 hours);
        bytes memory quorum = quorumFor(changeDigest(address(wallet), change, 1, FAR));
        vm.expectRevert(abi.encodeWithSelector(IPolicyWallet.AlreadyPending.selector, keccak256(change)));
        wallet.submit(change, 1, FAR, quorum);
        assertEq(wallet.readyAt(change), ready);
    }

    function test_a_forgotten_change_dies() public {
        bytes memory change = setPayee(stranger, payee());
        uint256 ready = _submitted(change);
        vm.warp(ready + 30 days + 1);
        vm.expectRevert(abi.encodeWithSelector(IPolicyWallet.ChangeExpired.selector, ready + 30 days));
        wallet.execute(change);
        assertGt(_submitted(change), ready); // and can be asked for anew
        (PayeeLimits memory l,,) = wallet.payeeLimits(stranger);
        assertEq(l.categories, 0);
    }

    function test_unknown_changes_are_refused() public {
        bytes[3] memory unknown = [
            bytes(abi.encodeWithSignature("transfer(address,uint256)", stranger, 1)),
            abi.encodeCall(IPolicyWallet.cancelNonce, (0)),
            bytes(hex"00000000")
        ];
        for (uint256 i; i < 3; ++i) {
            bytes memory quorum = quorumFor(changeDigest(address(wallet), unknown[i], i, FAR));
            vm.expectRevert(abi.encodeWithSelector(IPolicyWallet.UnknownChange.selector, bytes4(unknown[i])));
            wallet.submit(unknown[i], i, FAR, quorum);
        }
    }

    /* REVOKING */

    function test_one_operator_revokes_a_loosening() public {
        bytes memory change = setPayee(stranger, payee());
        uint256 ready = _submitted(change);
        tightenBy(2, abi.encodeCall(IPolicyChanges.revoke, (change)));
        vm.warp(ready);
        vm.expectRevert(abi.encodeWithSelector(IPolicyWallet.NotPending.selector, keccak256(change)));
        wallet.execute(change);
    }

    /// @dev A pending change knows nothing of what happened since: who tightens has to revoke it too.
    function test_a_pending_loosening_outlives_a_tightening_until_revoked() public {
        bytes memory wider = setPayee(shop, PayeeLimits(1, uint48(500 * USD), 0));
        uint256 ready = _submitted(wider);
        tightenBy(0, setPayee(shop, PayeeLimits(1, uint48(USD), 0)));
        uint256 before = vm.snapshotState();

        vm.warp(ready);
        vm.prank(stranger);
        wallet.execute(wider);
        (PayeeLimits memory l,,) = wallet.payeeLimits(shop);
        assertEq(l.cap, 500 * USD);

        vm.revertToState(before);
        tightenBy(0, abi.encodeCall(IPolicyChanges.revoke, (wider)));
        vm.warp(ready);
        vm.expectRevert(abi.encodeWithSelector(IPolicyWallet.NotPending.selector, keccak256(wider)));
        wallet.execute(wider);
        (l,,) = wallet.payeeLimits(shop);
        assertEq(l.cap, USD);
    }

    function test_no_operator_alone_blocks_its_own_removal() public {
        bytes[] memory gone = new bytes[](1);
        gone[0] = abi.encodePacked(operators[2]);
        bytes memory removal = abi.encodeCall(IPolicyChanges.setOperators, (new bytes[](0), gone, 2));
        uint256 ready = _submitted(removal);
        vm.expectRevert(IPolicyWallet.NotTightening.selector);
        tightenBy(2, abi.encodeCall(IPolicyChanges.revoke, (removal)));
        vm.expectRevert(IPolicyWallet.NotTightening.selector);
        tightenBy(2, removal);
        // Wrapped once more it is still the same wish.
        vm.prank(operators[2]);
        (bool done,) = address(wallet)
            .call(
                abi.encodeCall(
                    IPolicyWallet.tighten,
                    (abi.encodeCall(IPolicyChanges.revoke, (abi.encodeCall(IPolicyChanges.revoke, (removal)))))
                )
            );
        assertFalse(done);
        vm.warp(ready);
        wallet.execute(removal);
        vm.expectRevert(abi.encodeWithSelector(IPolicyWallet.NotOperator.selector, operators[2]));
        tightenBy(2, setFrozen(address(0), true));
    }

    function test_the_quorum_revokes_what_one_cannot() public {
        bytes memory change = abi.encodeCall(IPolicyChanges.setOperators, (new bytes[](0), new bytes[](0), 3));
        uint256 ready = _submitted(change);
        bytes memory revoke = abi.encodeCall(IPolicyChanges.revoke, (change));
        uint256 wait = _submitted(revoke);
        if (wait != 0) {
            vm.warp(wait);
            wallet.execute(revoke);
        }
        vm.warp(ready);
        vm.expectRevert(abi.encodeWithSelector(IPolicyWallet.NotPending.selector, keccak256(change)));
        wallet.execute(change);
    }

    /* DELAYS */

    function test_shortening_a_delay_waits_the_old_one() public {
        bytes memory shorter = abi.encodeCall(IPolicyChanges.setDelay, (IPolicyChanges.setPayee.selector, 0));
        uint256 ready = _submitted(shorter);
        assertEq(ready, vm.getBlockTimestamp() + DELAY);
        vm.expectRevert(abi.encodeWithSelector(IPolicyWallet.NotReady.selector, ready));
        wallet.execute(shorter);
        vm.warp(ready);
        wallet.execute(shorter);
        _submitted(setPayee(stranger, payee())); // runs at once now
        paySome(stranger, 1, 0);
    }

    /// @dev First the delay of setDelay down to nothing, then the rest at once: the second step obeys the delay of
    /// the selector it changes, not that of setDelay.
    function test_shortening_the_delay_of_setDelay_first_gains_nothing() public {
        bytes memory first = abi.encodeCall(IPolicyChanges.setDelay, (IPolicyChanges.setDelay.selector, 0));
        vm.warp(_submitted(first));
        wallet.execute(first);
        bytes memory second = abi.encodeCall(IPolicyChanges.setDelay, (IPolicyChanges.setPayee.selector, 0));
        uint256 ready = _submitted(second);
        assertEq(ready, vm.getBlockTimestamp() + DELAY);
    }

    /// @dev What was submitted under a long delay keeps it when the delay is shortened meanwhile.
    function test_a_pending_change_keeps_its_own_wait() public {
        bytes memory longer = abi.encodeCall(IPolicyChanges.setDelay, (IPolicyChanges.setPayee.selector, 20 days));
        vm.warp(_submitted(longer));
        wallet.execute(longer);
        bytes memory change = setPayee(stranger, payee());
        uint256 ready = _submitted(change);
        assertEq(ready, vm.getBlockTimestamp() + 20 days);
        vm.warp(ready - 1);
        vm.expectRevert(abi.encodeWithSelector(IPolicyWallet.NotReady.selector, ready));
        wallet.execute(change);
    }

    function test_abdication_is_for_ever() public {
        bytes memory never =
            abi.encodeCall(IPolicyChanges.setDelay, (IPolicyChanges.setPayee.selector, type(uint32).max));
        vm.warp(_submitted(never));
        wallet.execute(never);
        bytes[2] memory tries = [
            setPayee(stranger, payee()), abi.encodeCall(IPolicyChanges.setDelay, (IPolicyChanges.setPayee.selector, 0))
        ];
        for (uint256 i; i < 2; ++i) {
            bytes memory quorum = quorumFor(changeDigest(address(wallet), tries[i], i, FAR));
            vm.expectRevert(abi.encodeWithSelector(IPolicyWallet.Abdicated.selector, IPolicyChanges.setPayee.selector));
            wallet.submit(tries[i], i, FAR, quorum);
        }
        // Tightening a payee by one operator goes on.
        tightenBy(0, setPayee(shop, PayeeLimits(0, 0, type(uint32).max)));
        refused(payment(shop, 1, 0), why2(IPolicyWallet.PayeeNotAllowed.selector, 1, 0));
    }

    /// @dev A change that was pending when its selector was given up must not slip through afterwards.
    function test_abdication_stops_what_is_pending() public {
        bytes memory never =
            abi.encodeCall(IPolicyChanges.setDelay, (IPolicyChanges.setPayee.selector, type(uint32).max));
        bytes memory change = setPayee(stranger, payee());
        uint256 ready = _submitted(never);
        vm.warp(ready - 1);
        uint256 later = _submitted(change);
        vm.warp(ready);
        wallet.execute(never);
        vm.warp(later);
        vm.expectRevert(abi.encodeWithSelector(IPolicyWallet.Abdicated.selector, IPolicyChanges.setPayee.selector));
        wallet.execute(change);
    }

    /* TIGHTENING THAT IS NONE */

    function test_tightening_with_one_looser_field() public {
        AgentLimits memory l;
        for (uint256 field; field < 6; ++field) {
            l = AgentLimits(0, 0, 0, 0, 0, 0);
            if (field == 0) l.ceiling = uint48(CEILING + 1);
            if (field == 1) l.dayCap = uint48(DAY_CAP + 1);
            if (field == 4) l.expiry = uint40(FAR + 1);
            if (field == 5) l.categories = 2;
            if (field == 2 || field == 3) continue; // off already: nothing is looser
            vm.expectRevert(IPolicyWallet.NotTightening.selector);
            tightenBy(0, setAgent(agent, l));
        }
        PayeeLimits memory p = PayeeLimits(1, type(uint48).max, 0);
        p.categories = 2;
        vm.expectRevert(IPolicyWallet.NotTightening.selector);
        tightenBy(0, setPayee(shop, p));
        tightenBy(0, setPayee(shop, PayeeLimits(1, 5, 100)));
        vm.expectRevert(IPolicyWallet.NotTightening.selector);
        tightenBy(0, setPayee(shop, PayeeLimits(1, 6, 100)));
        vm.expectRevert(IPolicyWallet.NotTightening.selector);
        tightenBy(0, setPayee(shop, PayeeLimits(1, 5, 99)));
    }

    /// @dev Somebody nobody knows can't be "tightened" into being: no agent at all, no payee that can be paid, and
    /// nothing that stays when the quorum registers it later.
    function test_tightening_creates_nobody() public {
        vm.expectRevert(IPolicyWallet.NotTightening.selector);
        tightenBy(0, setAgent(stranger, AgentLimits(0, 0, 0, 0, 0, 0)));
        vm.expectRevert(IPolicyWallet.NotTightening.selector);
        tightenBy(0, setPayee(stranger, PayeeLimits(1, 0, type(uint32).max)));
        vm.expectRevert(IPolicyWallet.NotTightening.selector);
        tightenBy(0, setPayee(stranger, PayeeLimits(0, 1, type(uint32).max)));
        tightenBy(0, setPayee(stranger, PayeeLimits(0, 0, type(uint32).max)));
        refused(payment(stranger, 1, 0), why2(IPolicyWallet.PayeeNotAllowed.selector, 1, 0));
        enact(setPayee(stranger, payee()));
        paySome(stranger, 1, 0);
        paySome(stranger, 1, 1);
    }

    function test_wallet_cap_is_lowered_by_one_and_raised_by_none() public {
        tightenBy(0, setCap(500 * USD));
        vm.expectRevert(IPolicyWallet.NotTightening.selector);
        tightenBy(0, setCap(501 * USD));
        vm.expectRevert(IPolicyWallet.NotTightening.selector);
        tightenBy(0, setCap(type(uint256).max));
        assertEq(wallet.walletCap(), 500 * USD);
    }

    function test_wallet_caps_that_do_not_fit_are_refused() public {
        uint256[4] memory bad = [uint256(1), USD + 1, 1 << 50, type(uint256).max - 1];
        for (uint256 i; i < 4; ++i) {
            vm.expectRevert(IPolicyWallet.InvalidChange.selector);
            tightenBy(0, setCap(bad[i]));
        }
    }

    function test_one_operator_freezes_and_cannot_unfreeze() public {
        tightenBy(2, setFrozen(agent, true));
        vm.expectRevert(IPolicyWallet.NotTightening.selector);
        tightenBy(2, setFrozen(agent, false));
        submit(setFrozen(agent, false)); // the quorum: at once
        paySome(shop, 1, 0);
    }

    /// @dev A tightening of the agent must not lift its freeze, and a new limit must not either.
    function test_changing_a_frozen_agent_leaves_it_frozen() public {
        tightenBy(2, setFrozen(agent, true));
        AgentLimits memory l = limits();
        l.ceiling = 5;
        tightenBy(1, setAgent(agent, l));
        enact(setAgent(agent, limits()));
        refused(payment(shop, 1, 0), abi.encodeWithSelector(IPolicyWallet.AgentFrozen.selector, agent));
    }

    /// @dev A wallet cap set or lowered must not lift the wallet's freeze.
    function test_changing_the_wallet_cap_leaves_it_frozen() public {
        tightenBy(2, setFrozen(address(0), true));
        tightenBy(1, setCap(5 * USD));
        enact(setCap(type(uint256).max));
        assertTrue(wallet.walletFrozen());
    }

    /* OPERATORS */

    function test_the_last_quorum_cannot_be_made_unreachable() public {
        bytes[] memory gone = operatorSet();
        bytes memory change = abi.encodeCall(IPolicyChanges.setOperators, (new bytes[](0), gone, 1));
        vm.warp(_submitted(change));
        vm.expectRevert();
        wallet.execute(change);
        change = abi.encodeCall(IPolicyChanges.setOperators, (new bytes[](0), new bytes[](0), 4));
        vm.warp(_submitted(change));
        vm.expectRevert();
        wallet.execute(change);
        change = abi.encodeCall(IPolicyChanges.setOperators, (new bytes[](0), new bytes[](0), 0));
        vm.warp(_submitted(change));
        vm.expectRevert();
        wallet.execute(change);
    }

    /// @dev Every version of an agent's limits has its own number, also when one operator tightens.
    function test_each_change_of_limits_raises_the_version() public {
        (, uint256 before,) = wallet.agentLimits(agent);
        tightenBy(0, setAgent(agent, limits()));
        (, uint256 after_,) = wallet.agentLimits(agent);
        assertEq(after_, before + 1);
        tightenBy(0, setFrozen(agent, true)); // freezing changes no limit
        (, after_,) = wallet.agentLimits(agent);
        assertEq(after_, before + 1);
        enact(setAgent(agent, limits()));
        (, after_,) = wallet.agentLimits(agent);
        assertEq(after_, before + 2);
        (, uint256 other,) = wallet.agentLimits(agent2);
        assertEq(other, before);
    }
}
