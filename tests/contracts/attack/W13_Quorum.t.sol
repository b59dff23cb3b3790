// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {IPolicyChanges, IPolicyWallet} from "contracts/interfaces/IPolicyWallet.sol";
import {Payment, Stage} from "./Stage.sol";

/// @dev W13, first part. Getting past the quorum with fewer, doubled, stale or foreign signatures.
contract W13_Quorum is Stage {
    uint256 private constant LARGE = CEILING + 1;
    bytes private invalidQuorum = abi.encodeWithSelector(IPolicyWallet.InvalidQuorum.selector);

    function _digest() private view returns (bytes32) {
        (, uint256 version,) = wallet.agentLimits(agent);
        return approvedDigest(payment(shop, LARGE, 0), 1, version);
    }

    function _pair(uint256 a, uint256 b, bytes32 digest)
        private
        view
        returns (bytes[] memory signers, bytes[] memory signatures)
    {
        (signers, signatures) = (new bytes[](2), new bytes[](2));
        (signers[0], signers[1]) = (abi.encodePacked(operators[a]), abi.encodePacked(operators[b]));
        (signatures[0], signatures[1]) = (signed65(operatorKeys[a], digest), signed65(operatorKeys[b], digest));
    }

    function _refused(bytes memory quorum) private {
        (, uint256 version,) = wallet.agentLimits(agent);
        (bytes32 r, bytes32 vs) = compact(agentKey, approvedDigest(payment(shop, LARGE, 0), 1, version));
        vm.expectRevert(invalidQuorum);
        wallet.payApproved(agent, shop, LARGE, 0, FAR, 0, 1, version, r, vs, quorum);
        assertEq(usdc.balanceOf(shop), 0);
    }

    function test_two_different_operators_pass_the_ceiling() public {
        payApproved(payment(shop, LARGE, 0), 1);
        assertEq(usdc.balanceOf(shop), LARGE);
    }

    function test_one_operator_alone() public {
        bytes[] memory signers = new bytes[](1);
        bytes[] memory signatures = new bytes[](1);
        signers[0] = abi.encodePacked(operators[0]);
        signatures[0] = signed65(operatorKeys[0], _digest());
        _refused(abi.encode(signers, signatures));
        _refused(abi.encode(new bytes[](0), new bytes[](0)));
    }

    function test_one_operator_twice() public {
        (bytes[] memory signers, bytes[] memory signatures) = _pair(0, 0, _digest());
        _refused(abi.encode(signers, signatures));
    }

    /// @dev Twice around another, so that no two neighbours are equal.
    function test_one_operator_twice_around_another_with_a_third_vote_needed() public {
        enact(abi.encodeCall(IPolicyChanges.setOperators, (new bytes[](0), new bytes[](0), 3)));
        bytes32 digest = _digest();
        for (uint256 first; first < 2; ++first) {
            bytes[] memory signers = new bytes[](3);
            bytes[] memory signatures = new bytes[](3);
            for (uint256 i; i < 3; ++i) {
                uint256 who = i == 1 ? 1 - first : first;
                (signers[i], signatures[i]) = (abi.encodePacked(operators[who]), signed65(operatorKeys[who], digest));
            }
            _refused(abi.encode(signers, signatures));
        }
    }

    function test_unsorted_signers() public {
        (bytes[] memory signers, bytes[] memory signatures) = _pair(0, 1, _digest());
        if (keccak256(signers[0]) < keccak256(signers[1])) (signers, signatures) = _pair(1, 0, _digest());
        _refused(abi.encode(signers, signatures));
    }

    function test_a_stranger_or_the_agent_is_no_operator() public {
        bytes32 digest = _digest();
        uint256[2] memory keys = [agentKey, uint256(keccak256("a stranger's key"))];
        for (uint256 i; i < 2; ++i) {
            bytes[] memory signers = new bytes[](2);
            bytes[] memory signatures = new bytes[](2);
            (signers[0], signatures[0]) = (abi.encodePacked(operators[0]), signed65(operatorKeys[0], digest));
            (signers[1], signatures[1]) = (abi.encodePacked(vm.addr(keys[i])), signed65(keys[i], digest));
            _refused(packQuorum(signers, signatures));
        }
    }

    /// @dev Padding an operator's 20 bytes makes other bytes, with another hash, but no other operator.
    function test_one_operator_under_two_spellings() public {
        bytes32 digest = _digest();
        bytes[] memory signers = new bytes[](2);
        bytes[] memory signatures = new bytes[](2);
        signers[0] = abi.encodePacked(operators[0]);
        signers[1] = abi.encodePacked(operators[0], uint8(0));
        signatures[0] = signed65(operatorKeys[0], digest);
        signatures[1] = signatures[0];
        _refused(packQuorum(signers, signatures));
    }

    function test_more_signers_than_signatures_and_the_reverse() public {
        (bytes[] memory signers, bytes[] memory signatures) = _pair(0, 1, _digest());
        bytes[] memory single = new bytes[](1);
        single[0] = signatures[0];
        _refused(abi.encode(signers, single));
        bytes[] memory three = new bytes[](3);
        (three[0], three[1], three[2]) = (signatures[0], signatures[1], signatures[1]);
        _refused(abi.encode(signers, three));
    }

    function test_one_bad_signature_among_enough_good_ones() public {
        bytes32 digest = _digest();
        bytes[] memory signers = new bytes[](3);
        bytes[] memory signatures = new bytes[](3);
        for (uint256 i; i < 3; ++i) {
            (signers[i], signatures[i]) = (abi.encodePacked(operators[i]), signed65(operatorKeys[i], digest));
        }
        signatures[2] = signed65(operatorKeys[1], digest);
        _refused(packQuorum(signers, signatures));
    }

    /// @dev Bytes that are no encoding at all: refused in whatever way, nothing moves.
    function test_garbage_as_quorum() public {
        (, uint256 version,) = wallet.agentLimits(agent);
        (bytes32 r, bytes32 vs) = compact(agentKey, approvedDigest(payment(shop, LARGE, 0), 1, version));
        bytes[] memory garbage = new bytes[](6);
        garbage[0] = "";
        garbage[1] = hex"00";
        garbage[2] = new bytes(64);
        garbage[3] = abi.encode(type(uint256).max, type(uint256).max);
        garbage[4] = abi.encode(uint256(0x40), uint256(0x40), type(uint256).max);
        garbage[5] = abi.encode(uint256(0x40), uint256(0x40), uint256(2), type(uint256).max, type(uint256).max);
        for (uint256 i; i < garbage.length; ++i) {
            (bool done,) = address(wallet)
                .call(
                    abi.encodeCall(
                        IPolicyWallet.payApproved, (agent, shop, LARGE, 0, FAR, 0, 1, version, r, vs, garbage[i])
                    )
                );
            assertFalse(done);
        }
        assertEq(usdc.balanceOf(shop), 0);
    }

    /* STALE VOTES */

    function test_vote_of_a_removed_operator() public {
        bytes32 digest = _digest();
        (bytes[] memory signers, bytes[] memory signatures) = _pair(0, 2, digest);
        bytes memory quorum = packQuorum(signers, signatures);
        bytes[] memory gone = new bytes[](1);
        gone[0] = abi.encodePacked(operators[2]);
        enact(abi.encodeCall(IPolicyChanges.setOperators, (new bytes[](0), gone, 2)));
        _refused(quorum);
        (signers, signatures) = _pair(0, 1, digest);
        sendApproved(payment(shop, LARGE, 0), 1, 1, packQuorum(signers, signatures));
        assertEq(usdc.balanceOf(shop), LARGE);
    }

    function test_threshold_raised_after_signing() public {
        bytes memory quorum = quorumFor(_digest());
        enact(abi.encodeCall(IPolicyChanges.setOperators, (new bytes[](0), new bytes[](0), 3)));
        _refused(quorum);
    }

    /// @dev More votes than needed stay good when fewer are needed.
    function test_threshold_lowered_after_signing() public {
        bytes memory quorum = quorumFor(_digest());
        enact(abi.encodeCall(IPolicyChanges.setOperators, (new bytes[](0), new bytes[](0), 1)));
        sendApproved(payment(shop, LARGE, 0), 1, 1, quorum);
        assertEq(usdc.balanceOf(shop), LARGE);
    }

    function test_policy_changed_after_signing() public {
        bytes memory quorum = quorumFor(_digest());
        enact(setAgent(agent, limits()));
        (bytes32 r, bytes32 vs) = compact(agentKey, approvedDigest(payment(shop, LARGE, 0), 1, 1));
        vm.expectRevert(abi.encodeWithSelector(IPolicyWallet.PolicyVersionChanged.selector, 1, 2));
        wallet.payApproved(agent, shop, LARGE, 0, FAR, 0, 1, 1, r, vs, quorum);
    }

    /* VOTES FOR SOMETHING ELSE */

    function test_votes_over_other_terms() public {
        (, uint256 version,) = wallet.agentLimits(agent);
        Payment memory other;
        other = payment(shop, LARGE + 1, 0);
        _refused(quorumFor(approvedDigest(other, 1, version)));
        other = payment(cafe, LARGE, 0);
        _refused(quorumFor(approvedDigest(other, 1, version)));
        other = payment(shop, LARGE, 1);
        _refused(quorumFor(approvedDigest(other, 1, version)));
        other = payment(shop, LARGE, 0);
        other.deadline = FAR - 1;
        _refused(quorumFor(approvedDigest(other, 1, version)));
        other = payment(shop, LARGE, 0);
        other.context = "else";
        _refused(quorumFor(approvedDigest(other, 1, version)));
        other = payment(shop, LARGE, 0);
        other.agent = agent2;
        _refused(quorumFor(approvedDigest(other, 1, version)));
        other = payment(shop, LARGE, 0);
        _refused(quorumFor(approvedDigest(other, 15, version)));
        _refused(quorumFor(approvedDigest(other, 1, version + 1)));
    }

    /// @dev The operators' votes without the agent's own signature pay nothing.
    function test_quorum_without_the_agent() public {
        (, uint256 version,) = wallet.agentLimits(agent);
        bytes32 digest = _digest();
        bytes memory quorum = quorumFor(digest);
        (bytes32 r, bytes32 vs) = compact(operatorKeys[0], digest);
        vm.expectRevert(IPolicyWallet.InvalidSignature.selector);
        wallet.payApproved(agent, shop, LARGE, 0, FAR, 0, 1, version, r, vs, quorum);
    }

    /* OVERRIDES */

    function test_overrides_outside_the_four_bits() public {
        uint256[5] memory bad = [uint256(0), 16, 17, 1 << 128, type(uint256).max];
        for (uint256 i; i < bad.length; ++i) {
            Payment memory p = payment(shop, 5, 0);
            (, uint256 version,) = wallet.agentLimits(agent);
            bytes32 digest = approvedDigest(p, bad[i], version);
            (bytes32 r, bytes32 vs) = compact(agentKey, digest);
            bytes memory quorum = quorumFor(digest);
            vm.expectRevert(
                bad[i] == 0 ? IPolicyWallet.NothingToOverride.selector : IPolicyWallet.InvalidChange.selector
            );
            wallet.payApproved(agent, shop, 5, 0, FAR, 0, bad[i], version, r, vs, quorum);
        }
    }

    function _refusedPastAllBut(bytes4 why, uint256 overrides, uint256 amount) private {
        Payment memory p = payment(stranger, amount, 0);
        bytes32 digest = approvedDigest(p, overrides, 1);
        (bytes32 r, bytes32 vs) = compact(agentKey, digest);
        bytes memory quorum = quorumFor(digest);
        vm.expectPartialRevert(why);
        wallet.payApproved(agent, stranger, amount, 0, FAR, 0, overrides, 1, r, vs, quorum);
    }

    /// @dev Each limit is set aside by its own bit and by no other.
    function test_what_overrides_does_not_name_still_applies() public {
        enact(setCap(150 * USD));
        uint256 over = 2_000 * USD; // above ceiling, day cap and wallet cap, to an unregistered payee
        bytes4[4] memory last = [
            IPolicyWallet.CeilingExceeded.selector,
            IPolicyWallet.PayeeNotAllowed.selector,
            IPolicyWallet.DayCapExceeded.selector,
            IPolicyWallet.WalletCapExceeded.selector
        ];
        for (uint256 bit; bit < 4; ++bit) {
            uint256 overrides = 15 ^ (1 << bit);
            (bytes4 reason,) = wallet.check(agent, stranger, over, overrides);
            assertEq(reason, last[bit]);
            _refusedPastAllBut(last[bit], overrides, over);
        }
        payApproved(payment(stranger, over, 0), 15);
        assertEq(usdc.balanceOf(stranger), over);
    }

    /// @dev What the quorum let past is not counted, so it can't be used to lock the agent out either.
    function test_overridden_windows_are_not_written() public {
        (uint256 day,,,) = wallet.room(agent);
        payApproved(payment(shop, DAY_CAP, 0), 1 | 4);
        (uint256 after_,,,) = wallet.room(agent);
        assertEq(after_, day);
    }

    function test_freeze_expiry_and_deadline_bow_to_no_quorum() public {
        Payment memory p = payment(shop, LARGE, 0);
        (, uint256 version,) = wallet.agentLimits(agent);
        bytes32 digest = approvedDigest(p, 15, version);
        (bytes32 r, bytes32 vs) = compact(agentKey, digest);
        bytes memory quorum = quorumFor(digest);
        uint256 now_ = vm.getBlockTimestamp();

        vm.warp(FAR);
        vm.expectRevert(abi.encodeWithSelector(IPolicyWallet.AgentExpired.selector, FAR));
        wallet.payApproved(agent, shop, LARGE, 0, FAR, 0, 15, version, r, vs, quorum);
        vm.warp(FAR + 1);
        vm.expectPartialRevert(IPolicyWallet.DeadlinePassed.selector);
        wallet.payApproved(agent, shop, LARGE, 0, FAR, 0, 15, version, r, vs, quorum);
        vm.warp(now_);

        tightenBy(2, setFrozen(agent, true));
        vm.expectPartialRevert(IPolicyWallet.AgentFrozen.selector);
        wallet.payApproved(agent, shop, LARGE, 0, FAR, 0, 15, version, r, vs, quorum);
        tightenBy(2, setFrozen(address(0), true));
        vm.expectRevert(IPolicyWallet.WalletFrozen.selector);
        wallet.payApproved(agent, shop, LARGE, 0, FAR, 0, 15, version, r, vs, quorum);
    }

    /* ONE KEY IN TWO ROLES */

    function test_no_operator_becomes_agent_nor_the_reverse() public {
        bytes memory conflict = abi.encodeWithSelector(IPolicyWallet.RoleConflict.selector, operators[0]);
        bytes memory change = setAgent(operators[0], limits());
        submit(change);
        vm.warp(wallet.readyAt(change));
        vm.expectRevert(conflict);
        wallet.execute(change);

        bytes[] memory add = new bytes[](1);
        add[0] = abi.encodePacked(agent);
        change = abi.encodeCall(IPolicyChanges.setOperators, (add, new bytes[](0), 2));
        submit(change);
        vm.warp(wallet.readyAt(change));
        vm.expectRevert(abi.encodeWithSelector(IPolicyWallet.RoleConflict.selector, agent));
        wallet.execute(change);
    }

    function test_no_role_conflict_at_birth() public {
        assertTrue(_isBorn(agent));
        assertFalse(_isBorn(operators[1]));
    }

    function _isBorn(address who) private returns (bool) {
        bytes[] memory changes = new bytes[](1);
        changes[0] = setAgent(who, limits());
        address none = address(0);
        bytes memory arguments = abi.encode(address(usdc), none, none, operatorSet(), uint64(2), DELAY, changes);
        bytes memory code = bytes.concat(vm.getCode("PolicyWallet.sol:PolicyWallet"), arguments);
        address born;
        assembly ("memory-safe") {
            born := create(0, add(code, 0x20), mload(code))
        }
        return born != none;
    }
}
