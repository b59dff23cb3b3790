// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {EscrowStage} from "./EscrowStage.sol";
import {DevUSDC} from "contracts/DevUSDC.sol";
import {
    BY_ARBITER,
    BY_CONDITION,
    BY_PAYER,
    BY_PREIMAGE,
    IWorkEscrow,
    Payout,
    Proof,
    Status,
    Terms
} from "contracts/interfaces/IWorkEscrow.sol";

/// @dev E26. Somebody sees the payer's authorization in the pool and makes another escrow of it, or none.
contract E26_FundingFrontRun is EscrowStage {
    function test_other_terms() public {
        bytes memory signature = authorization(terms());
        for (uint256 i; i < 3; ++i) {
            Terms memory t = terms();
            if (i == 0) t.payee = stranger;
            if (i == 1) t.salt = 1;
            if (i == 2) t.arbiter = stranger;
            vm.prank(stranger);
            vm.expectRevert(IWorkEscrow.TokenCollectionFailed.selector);
            escrow.authorizeWithAuthorization(t, none(), 0, FAR, signature);
        }
        Payout[] memory list = pays(stranger, 10_000, partner, 0);
        vm.prank(stranger);
        vm.expectRevert(abi.encodeWithSelector(IWorkEscrow.InvalidTerms.selector, 13));
        escrow.authorizeWithAuthorization(terms(), list, 0, FAR, signature);
        vm.expectRevert(IWorkEscrow.TokenCollectionFailed.selector);
        escrow.authorizeWithAuthorization(with(terms(), list), list, 0, FAR, signature);
        escrow.authorizeWithAuthorization(terms(), none(), 0, FAR, signature);
        assertState(terms(), Status.Funded, 0, 0);
    }

    /// @dev Straight to the token: only the escrow may receive. Money would be there, and no escrow.
    function test_around_the_escrow() public {
        Terms memory t = terms();
        bytes32 id = idOf(t);
        bytes memory signature = authorization(t);
        vm.startPrank(stranger);
        vm.expectRevert(abi.encodeWithSelector(DevUSDC.CallerNotPayee.selector, stranger, address(escrow)));
        usdc.receiveWithAuthorization(payer, address(escrow), AMOUNT, 0, FAR, id, signature);
        vm.expectRevert(abi.encodeWithSelector(DevUSDC.InvalidSignature.selector, payer));
        usdc.transferWithAuthorization(payer, address(escrow), AMOUNT, 0, FAR, id, signature);
        vm.stopPrank();
        escrow.authorizeWithAuthorization(t, none(), 0, FAR, signature);
    }

    /// @dev First come, first served: the second sender finds the escrow open, not twice the money.
    function test_twice() public {
        bytes memory signature = authorization(terms());
        escrow.authorizeWithAuthorization(terms(), none(), 0, FAR, signature);
        vm.expectRevert(abi.encodeWithSelector(IWorkEscrow.AlreadyAuthorized.selector, idOf(terms())));
        escrow.authorizeWithAuthorization(terms(), none(), 0, FAR, signature);
        vm.expectRevert(abi.encodeWithSelector(IWorkEscrow.AlreadyAuthorized.selector, idOf(terms())));
        open(terms());
    }
}

/// @dev E28. Different agreements, one hash.
contract E28_Collisions is EscrowStage {
    function test_lists_that_look_alike() public view {
        Payout[] memory one = new Payout[](1);
        one[0] = Payout(partner, 500);
        Payout[] memory swapped = pays(partner2, 500, partner, 500);
        bytes32[5] memory hashes = [
            keccak256(abi.encode(none())),
            keccak256(abi.encode(one)),
            keccak256(abi.encode(pays(partner, 500, partner2, 500))),
            keccak256(abi.encode(swapped)),
            keccak256(abi.encode(pays(partner, 500, partner2, 0)))
        ];
        for (uint256 i; i < hashes.length; ++i) {
            for (uint256 j; j < i; ++j) {
                assertNotEq(hashes[i], hashes[j]);
            }
        }
    }

    /// @dev The empty list has one name only: zero.
    function test_the_empty_list() public {
        Terms memory t = terms();
        t.payoutsHash = keccak256(abi.encode(none()));
        vm.expectRevert(abi.encodeWithSelector(IWorkEscrow.InvalidTerms.selector, 13));
        open(t);
    }

    /// @dev Dirty bits beside a small field are no second name of the same terms.
    function test_dirty_words() public {
        bytes memory words = abi.encode(terms());
        uint256[9] memory fields = [uint256(0), 1, 2, 3, 4, 5, 6, 7, 11];
        for (uint256 i; i < fields.length; ++i) {
            bytes memory dirty = bytes.concat(IWorkEscrow.getEscrowId.selector, words);
            dirty[4 + 32 * fields[i]] = 0x80;
            (bool done,) = address(escrow).call(dirty);
            assertFalse(done, vm.toString(i));
        }
        (bool clean, bytes memory id) = address(escrow).call(bytes.concat(IWorkEscrow.getEscrowId.selector, words));
        assertTrue(clean);
        assertEq(abi.decode(id, (bytes32)), idOf(terms()));
    }
}

/// @dev E29. Values at and past their edges.
contract E29_EdgeValues is EscrowStage {
    function _refused(uint8 field, Terms memory t) private {
        vm.expectRevert(abi.encodeWithSelector(IWorkEscrow.InvalidTerms.selector, field));
        open(t);
    }

    function _refused(uint8 field, Payout[] memory list) private {
        vm.expectRevert(abi.encodeWithSelector(IWorkEscrow.InvalidTerms.selector, field));
        open(with(terms(), list), list);
    }

    function test_amounts() public {
        Terms memory t = terms();
        t.amount = 0;
        vm.expectRevert(IWorkEscrow.ZeroAmount.selector);
        open(t);
        t.amount = type(uint64).max;
        vm.expectRevert(IWorkEscrow.TokenCollectionFailed.selector); // the payer has not as much
        open(t);
        mint(payer, type(uint64).max);
        open(t);
        capture(t, 1);
        capture(t, type(uint64).max);
        assertEq(usdc.balanceOf(payee), type(uint64).max);
        t.amount = 1;
        open(t);
        capture(t, 1);
        // Above u64 there is no such call.
        bytes memory call = abi.encodeCall(IWorkEscrow.authorize, (terms(), none()));
        call[4 + 3 * 32 + 23] = 0x01;
        vm.prank(payer);
        (bool done,) = address(escrow).call(call);
        assertFalse(done);
    }

    function test_parties() public {
        Terms memory t = terms();
        address[4] memory bad = [address(0), payer, address(escrow), address(usdc)];
        for (uint256 i; i < bad.length; ++i) {
            t.payee = bad[i];
            _refused(1, t);
        }
        t = terms();
        t.payer = address(0);
        vm.expectRevert(abi.encodeWithSelector(IWorkEscrow.InvalidTerms.selector, 0));
        escrow.checkTerms(t, none());
    }

    function test_times() public {
        Terms memory t = terms();
        t.submitBy = uint40(block.timestamp);
        _refused(4, t);
        t.submitBy = 0;
        _refused(4, t);
        t.submitBy = uint40(block.timestamp + 1);
        open(t);
        t = terms();
        t.reviewPeriod = 0;
        _refused(5, t);
        t = terms();
        t.arbitrationPeriod = 0;
        _refused(6, t);
        t = terms();
        t.silenceBps = 10_001;
        _refused(7, t);
        // The largest there are end, too.
        (t.submitBy, t.reviewPeriod, t.arbitrationPeriod, t.silenceBps) =
        (type(uint40).max, type(uint32).max, type(uint32).max, 10_000);
        vm.warp(1e12);
        open(t);
        vm.prank(payee);
        escrow.submit(t, DELIVERABLE, 0, "");
        vm.prank(payer);
        escrow.dispute(t, payer, "", 0, "");
        vm.warp(1e12 + uint256(type(uint32).max) + 1);
        escrow.finalize(t, none());
        assertState(t, Status.Completed, AMOUNT, 0);
        // A deadline past u40 is no terms at all.
        bytes memory call = abi.encodeCall(IWorkEscrow.getEscrowId, (terms()));
        call[4 + 4 * 32 + 26] = 0x01;
        (bool done,) = address(escrow).call(call);
        assertFalse(done);
    }

    function test_releases() public {
        Terms memory t = terms();
        (t.anyOf, t.allOf) = (0, 0);
        _refused(8, t);
        t.anyOf = 16;
        _refused(8, t);
        (t.anyOf, t.allOf) = (BY_PAYER, 16);
        _refused(9, t);
        (t.anyOf, t.allOf) = (BY_PAYER, 255);
        _refused(9, t);
        for (uint256 i; i < 2; ++i) {
            for (uint256 bit; bit < 3; ++bit) {
                t = terms();
                t.arbiter = address(0);
                uint8 which = [BY_ARBITER, BY_PREIMAGE, BY_CONDITION][bit];
                (t.anyOf, t.allOf) = i == 0 ? (BY_PAYER | which, 0) : (BY_PAYER, which);
                _refused([2, 10, 11][bit], t);
            }
        }
    }

    function test_payouts() public {
        address[4] memory bad = [address(0), payer, address(escrow), address(usdc)];
        for (uint256 i; i < bad.length; ++i) {
            _refused(13, pays(partner, 1, bad[i], 1));
        }
        _refused(13, pays(partner, 10_000, partner2, 1));
        _refused(13, pays(partner, type(uint16).max, partner2, 1));
        _refused(13, new Payout[](9));
        Payout[] memory eight = new Payout[](9);
        for (uint256 i; i < 9; ++i) {
            eight[i] = Payout(partner, 1_000);
        }
        _refused(13, eight);
        assembly ("memory-safe") {
            mstore(eight, 8)
        }
        open(with(terms(), eight), eight);
    }

    function test_token_without_code() public {
        vm.expectRevert();
        this.redeploy(stranger);
        vm.expectRevert();
        this.redeploy(address(0));
    }

    function redeploy(address token) external returns (IWorkEscrow) {
        return deploy(token);
    }
}

/// @dev E30. There is nobody who could change the rules of a running escrow.
contract E30_NoOwner is EscrowStage {
    /// @dev The whole list of what writes.
    function test_functions_that_write() public view {
        string memory artifact = vm.readFile("contracts/artifacts/WorkEscrow.json");
        string[12] memory writes = [
            "authorize",
            "authorizeWithAuthorization",
            "award",
            "capture",
            "dispute",
            "finalize",
            "reclaim",
            "refund",
            "refundWithAuthorization",
            "submit",
            "void",
            "withdraw"
        ];
        uint256 found;
        for (uint256 i; vm.keyExistsJson(artifact, _at(i, "type")); ++i) {
            string memory kind = vm.parseJsonString(artifact, _at(i, "type"));
            assertNotEq(kind, "fallback");
            assertNotEq(kind, "receive");
            if (keccak256(bytes(kind)) != keccak256("function")) continue;
            string memory mutability = vm.parseJsonString(artifact, _at(i, "stateMutability"));
            assertNotEq(mutability, "payable");
            if (keccak256(bytes(mutability)) != keccak256("nonpayable")) continue;
            string memory name = vm.parseJsonString(artifact, _at(i, "name"));
            assertEq(name, writes[found]);
            ++found;
        }
        assertEq(found, 12);
    }

    function _at(uint256 i, string memory key) private pure returns (string memory) {
        return string.concat(".abi[", vm.toString(i), "].", key);
    }

    /// @dev And the code neither delegates nor ends itself.
    function test_no_delegatecall_no_selfdestruct() public view {
        bytes memory code = address(escrow).code;
        uint256 i;
        for (; i < code.length; ++i) {
            uint8 op = uint8(code[i]);
            if (op >= 0x60 && op <= 0x7f) {
                i += op - 0x5f; // PUSHn and its data
                continue;
            }
            if (op == 0xfe) break; // what follows INVALID is constants, not code
            assertTrue(op != 0xf4 && op != 0xf2, "DELEGATECALL");
            assertTrue(op != 0xff, "SELFDESTRUCT");
            assertTrue(op != 0xf0 && op != 0xf5, "CREATE");
        }
        assertLt(code.length - i, 200, "the walk ended early");
    }
}
