// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {EscrowStage} from "../attack/EscrowStage.sol";
import {OddCondition, PlainCondition} from "../attack/OddConditions.sol";
import {OddToken} from "../attack/OddToken.sol";
import {ContractOperator, OddOperator} from "../attack/Operators.sol";
import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {And} from "contracts/conditions/And.sol";
import {AttestedDeliverable} from "contracts/conditions/AttestedDeliverable.sol";
import {Erc20Balance} from "contracts/conditions/Erc20Balance.sol";
import {Erc20Transfer} from "contracts/conditions/Erc20Transfer.sol";
import {Not} from "contracts/conditions/Not.sol";
import {NotBefore} from "contracts/conditions/NotBefore.sol";
import {Or} from "contracts/conditions/Or.sol";
import {Part, PartLib} from "contracts/conditions/Part.sol";
import {ICondition} from "contracts/interfaces/ICondition.sol";
import {BY_CONDITION, IWorkEscrow, Status, Terms} from "contracts/interfaces/IWorkEscrow.sol";

/// @dev The ready conditions, asked as an escrow asks: 150,000 gas, and yes, no and not shown told apart.
contract ConditionsTest is EscrowStage {
    bytes32 private constant ID = "escrow";

    And private and_ = new And();
    Or private or_ = new Or();
    Not private not_ = new Not();
    NotBefore private time = new NotBefore();
    PlainCondition private yes = new PlainCondition();
    PlainCondition private no = new PlainCondition();

    enum Said {
        No,
        Yes,
        Nothing
    }

    function setUp() public override {
        super.setUp();
        yes.set(true);
    }

    function _ask(ICondition condition, bytes32 arg, bytes memory data) private view returns (Said) {
        return _ask(150_000, condition, arg, data);
    }

    function _ask(uint256 gas_, ICondition condition, bytes32 arg, bytes memory data) private view returns (Said) {
        (bool done, bytes memory answer) =
            address(condition).staticcall{gas: gas_}(abi.encodeCall(ICondition.check, (ID, arg, data)));
        if (!done) return Said.Nothing;
        return abi.decode(answer, (bool)) ? Said.Yes : Said.No;
    }

    function _is(Said have, Said want) private pure {
        assertEq(uint256(have), uint256(want));
    }

    function _odd(OddCondition.Way way) private returns (ICondition) {
        return ICondition(address(new OddCondition(way)));
    }

    /* TIME */

    function test_time() public {
        bytes32 at = bytes32(START + 10);
        vm.warp(START + 9);
        _is(_ask(time, at, ""), Said.No);
        vm.warp(START + 10);
        _is(_ask(time, at, "whatever"), Said.Yes);
        Part memory part = Part(time, at);
        bytes32 arg = keccak256(abi.encode(part));
        _is(_ask(not_, arg, abi.encode(part, bytes(""))), Said.No);
        vm.warp(START + 9);
        _is(_ask(not_, arg, abi.encode(part, bytes(""))), Said.Yes);
    }

    /* AND, OR, NOT: three values */

    function _both(ICondition a, ICondition b) private view returns (Said and, Said or) {
        Part[] memory parts = new Part[](2);
        (parts[0], parts[1]) = (Part(a, "x"), Part(b, "y"));
        bytes32 arg = keccak256(abi.encode(parts));
        bytes memory data = abi.encode(parts, new bytes[](2));
        return (_ask(and_, arg, data), _ask(or_, arg, data));
    }

    function _table(ICondition a, ICondition b, Said wantAnd, Said wantOr) private view {
        (Said and, Said or) = _both(a, b);
        _is(and, wantAnd);
        _is(or, wantOr);
        (and, or) = _both(b, a);
        _is(and, wantAnd);
        _is(or, wantOr);
    }

    function test_truth_tables() public {
        _table(yes, yes, Said.Yes, Said.Yes);
        _table(yes, no, Said.No, Said.Yes);
        _table(no, no, Said.No, Said.No);
        // Nothing clean is neither yes nor no. One that burns its share of the gas starves no other.
        for (uint256 i; i <= uint256(OddCondition.Way.RevertBomb) + 1; ++i) {
            ICondition odd = _odd(OddCondition.Way(i));
            _table(odd, yes, Said.Nothing, Said.Yes);
            _table(odd, no, Said.No, Said.Nothing);
            _table(odd, odd, Said.Nothing, Said.Nothing);
            Part memory part = Part(odd, 0);
            _is(_ask(not_, keccak256(abi.encode(part)), abi.encode(part, bytes(""))), Said.Nothing);
        }
        _table(ICondition(stranger), yes, Said.Nothing, Said.Yes); // no code
        _table(ICondition(stranger), no, Said.No, Said.Nothing);
    }

    function test_not() public view {
        Part memory part = Part(yes, 0);
        _is(_ask(not_, keccak256(abi.encode(part)), abi.encode(part, bytes(""))), Said.No);
        part = Part(no, 0);
        _is(_ask(not_, keccak256(abi.encode(part)), abi.encode(part, bytes(""))), Said.Yes);
        part = Part(not_, keccak256(abi.encode(part)));
        _is(_ask(not_, keccak256(abi.encode(part)), abi.encode(part, abi.encode(Part(no, 0), bytes("")))), Said.No);
    }

    /// @dev Whatever gas it is given, the opposite of a yes is never a yes, nor a no of a no; alone or inside others.
    function test_want_of_gas_proves_nothing() public view {
        Part[] memory parts = new Part[](2);
        (parts[0], parts[1]) = (Part(yes, 0), Part(yes, 0));
        bytes memory data = abi.encode(parts, new bytes[](2));
        Part memory all = Part(and_, keccak256(abi.encode(parts)));
        Part memory any = Part(or_, keccak256(abi.encode(parts)));
        for (uint256 gas_ = 500; gas_ < 60_000; gas_ += 97) {
            assertTrue(
                _ask(gas_, not_, keccak256(abi.encode(all)), abi.encode(all, data)) != Said.Yes, vm.toString(gas_)
            );
            assertTrue(
                _ask(gas_, not_, keccak256(abi.encode(any)), abi.encode(any, data)) != Said.Yes, vm.toString(gas_)
            );
        }
        _is(_ask(not_, keccak256(abi.encode(all)), abi.encode(all, data)), Said.No);
    }

    function test_other_parts_than_agreed() public view {
        Part[] memory agreed = new Part[](1);
        agreed[0] = Part(no, 0);
        Part[] memory mine = new Part[](1);
        mine[0] = Part(yes, 0);
        bytes32 arg = keccak256(abi.encode(agreed));
        _is(_ask(or_, arg, abi.encode(mine, new bytes[](1))), Said.Nothing);
        _is(_ask(and_, arg, abi.encode(mine, new bytes[](1))), Said.Nothing);
        _is(_ask(not_, keccak256(abi.encode(agreed[0])), abi.encode(mine[0], bytes(""))), Said.Nothing);
        _is(_ask(or_, arg, ""), Said.Nothing);
        _is(_ask(or_, arg, abi.encode(agreed, new bytes[](2))), Said.Nothing);
        _is(_ask(or_, arg, abi.encode(agreed, new bytes[](1))), Said.No);
    }

    function test_how_many_parts() public view {
        uint256[4] memory lengths = [uint256(0), 1, 8, 9];
        for (uint256 i; i < lengths.length; ++i) {
            Part[] memory parts = new Part[](lengths[i]);
            for (uint256 p; p < parts.length; ++p) {
                parts[p] = Part(yes, bytes32(p));
            }
            Said said = _ask(and_, keccak256(abi.encode(parts)), abi.encode(parts, new bytes[](parts.length)));
            _is(said, lengths[i] == 1 || lengths[i] == 8 ? Said.Yes : Said.Nothing);
        }
    }

    /* BALANCE */

    function test_balance() public {
        Erc20Balance balance = new Erc20Balance();
        bytes memory data = abi.encode(usdc, payee, 5e6);
        bytes32 arg = keccak256(data);
        _is(_ask(balance, arg, data), Said.No);
        mint(payee, 5e6 - 1);
        _is(_ask(balance, arg, data), Said.No);
        mint(payee, 1);
        _is(_ask(balance, arg, data), Said.Yes);
        _is(_ask(balance, arg, abi.encode(usdc, payer, 5e6)), Said.Nothing);
        _is(_ask(balance, arg, ""), Said.Nothing);
        data = abi.encode(stranger, payee, 0); // no token there
        _is(_ask(balance, keccak256(data), data), Said.Nothing);
    }

    /* TRANSFER */

    function test_transfer() public {
        Erc20Transfer transfers = new Erc20Transfer();
        mint(payee, 100e6);
        bytes memory data = abi.encode(usdc, payer, 30e6);
        bytes32 arg = keccak256(data);
        vm.startPrank(payee);
        usdc.approve(address(transfers), type(uint256).max);
        usdc.transfer(payer, 30e6); // past the book: shows nothing
        _is(_ask(transfers, arg, data), Said.No);
        transfers.send("other escrow", IERC20(address(usdc)), payer, 30e6);
        transfers.send(ID, IERC20(address(usdc)), payee, 30e6); // to itself
        transfers.send(ID, IERC20(address(usdc)), partner, 1e6); // to another
        _is(_ask(transfers, arg, data), Said.No);
        uint256 before = usdc.balanceOf(payer);
        transfers.send(ID, IERC20(address(usdc)), payer, 29e6);
        _is(_ask(transfers, arg, data), Said.No);
        vm.expectEmit(address(transfers));
        emit Erc20Transfer.Sent(ID, IERC20(address(usdc)), payer, payee, 1e6);
        transfers.send(ID, IERC20(address(usdc)), payer, 1e6);
        _is(_ask(transfers, arg, data), Said.Yes);
        assertEq(usdc.balanceOf(payer), before + 30e6);
        assertEq(usdc.balanceOf(address(transfers)), 0);
        assertEq(transfers.sent(ID, IERC20(address(usdc)), payee), 0);
        _is(_ask(transfers, arg, abi.encode(usdc, payer, 1)), Said.Nothing);
    }

    /// @dev A token that calls back, or takes a fee: what arrived counts, once.
    function test_transfer_of_odd_tokens() public {
        Erc20Transfer transfers = new Erc20Transfer();
        OddToken odd = new OddToken();
        IERC20 token = IERC20(address(odd));
        odd.mint(payee, 1_000);
        odd.mint(address(odd), 1_000);
        odd.callBack(address(transfers), abi.encodeCall(Erc20Transfer.send, (ID, token, payer, 100)));
        vm.startPrank(payee);
        transfers.send(ID, token, payer, 100);
        assertFalse(odd.calledBackFine());
        assertEq(odd.answer(), abi.encodeWithSelector(Erc20Transfer.Reentrancy.selector));
        assertEq(transfers.sent(ID, token, payer), 100);
        odd.behave(OddToken.Way.TakesFee);
        transfers.send(ID, token, payer, 100);
        assertEq(transfers.sent(ID, token, payer), 199);
        odd.behave(OddToken.Way.ReturnsFalse);
        vm.expectRevert();
        transfers.send(ID, token, payer, 100);
        odd.behave(OddToken.Way.Good);
        transfers.send(ID, token, payer, 1); // and the lock is open again
    }

    /* ATTESTATIONS */

    AttestedDeliverable private attested = new AttestedDeliverable();
    uint256[] private keys;
    address[] private attesters;

    /// @dev `count` attesters in ascending order.
    function _attesters(uint256 count) private {
        delete keys;
        for (uint256 i; i < count; ++i) {
            keys.push(0xd000 + i);
        }
        for (uint256 i = 1; i < count; ++i) {
            for (uint256 j = i; j > 0 && vm.addr(keys[j - 1]) > vm.addr(keys[j]); --j) {
                (keys[j - 1], keys[j]) = (keys[j], keys[j - 1]);
            }
        }
        delete attesters;
        for (uint256 i; i < count; ++i) {
            attesters.push(vm.addr(keys[i]));
        }
    }

    /// @dev Written out by itself.
    function _attestation(bytes32 escrowId, bytes32 deliverable) private view returns (bytes32) {
        bytes32 domain_ = keccak256(
            abi.encode(
                keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"),
                keccak256("AttestedDeliverable"),
                keccak256("1"),
                block.chainid,
                address(attested)
            )
        );
        bytes32 type_ = keccak256("Attestation(bytes32 escrowId,bytes32 deliverable)");
        return keccak256(abi.encodePacked(hex"1901", domain_, keccak256(abi.encode(type_, escrowId, deliverable))));
    }

    function _attest(uint256 threshold, bytes32 expected, bytes32 deliverable, bytes[] memory signatures)
        private
        view
        returns (Said)
    {
        bytes32 arg = keccak256(abi.encode(attesters, threshold, expected));
        return _ask(attested, arg, abi.encode(attesters, threshold, expected, deliverable, signatures));
    }

    function _signatures(bytes32 digest, uint256 bits) private view returns (bytes[] memory list) {
        list = new bytes[](attesters.length);
        for (uint256 i; i < list.length; ++i) {
            if (bits & 1 << i != 0) list[i] = signed(keys[i], digest);
        }
    }

    function test_attested() public {
        _attesters(3);
        bytes32 digest = _attestation(ID, DELIVERABLE);
        assertEq(digest, attested.attestationDigest(ID, DELIVERABLE));
        for (uint256 bits; bits < 8; ++bits) {
            uint256 votes = (bits & 1) + (bits >> 1 & 1) + (bits >> 2);
            Said want = votes >= 2 ? Said.Yes : Said.Nothing; // never no
            _is(_attest(2, DELIVERABLE, DELIVERABLE, _signatures(digest, bits)), want);
            _is(_attest(2, 0, DELIVERABLE, _signatures(digest, bits)), want);
        }
        _is(_attest(2, "another", DELIVERABLE, _signatures(digest, 7)), Said.Nothing);
        _is(_attest(2, 0, "another", _signatures(digest, 7)), Said.Nothing);
        _is(_attest(2, 0, DELIVERABLE, _signatures(_attestation("other escrow", DELIVERABLE), 7)), Said.Nothing);
        _is(_attest(0, 0, DELIVERABLE, _signatures(digest, 7)), Said.Nothing);
        _is(_attest(4, 0, DELIVERABLE, _signatures(digest, 7)), Said.Nothing);
    }

    /// @dev One attester's word twice, or in another's place.
    function test_one_attester_twice() public {
        _attesters(2);
        bytes32 digest = _attestation(ID, DELIVERABLE);
        bytes[] memory list = _signatures(digest, 1);
        list[1] = list[0];
        _is(_attest(2, 0, DELIVERABLE, list), Said.Nothing);
        attesters[1] = attesters[0];
        _is(_attest(2, 0, DELIVERABLE, list), Said.Nothing);
        _attesters(2);
        (attesters[0], attesters[1]) = (attesters[1], attesters[0]);
        _is(_attest(1, 0, DELIVERABLE, _signatures(digest, 3)), Said.Nothing);
        (attesters[0], attesters[1]) = (address(0), attesters[0]);
        list[0] = abi.encodePacked(bytes32(0), bytes32(0), uint8(27));
        _is(_attest(1, 0, DELIVERABLE, list), Said.Nothing);
    }

    function test_all_there_may_be() public {
        _attesters(16);
        bytes32 digest = _attestation(ID, DELIVERABLE);
        _is(_attest(16, 0, DELIVERABLE, _signatures(digest, 0xffff)), Said.Yes);
        _is(_attest(16, 0, DELIVERABLE, _signatures(digest, 0xfffe)), Said.Nothing);
        _attesters(17);
        _is(_attest(1, 0, DELIVERABLE, _signatures(digest, 1)), Said.Nothing);
    }

    /// @dev Contracts attest, too; a hostile one only fails to.
    function test_contract_attesters() public {
        _attesters(1);
        attesters[0] = address(new ContractOperator(arbiter));
        bytes[] memory list = new bytes[](1);
        list[0] = signed(arbiterKey, _attestation(ID, DELIVERABLE));
        _is(_attest(1, 0, DELIVERABLE, list), Said.Yes);
        for (uint256 i; i <= uint256(OddOperator.Way.True); ++i) {
            attesters[0] = address(new OddOperator(OddOperator.Way(i)));
            _is(_attest(1, 0, DELIVERABLE, list), Said.Nothing);
        }
    }

    /* IN AN ESCROW */

    /// @dev Two attesters of three, and delivered tokens, and not before a time; all at the gas an escrow gives.
    function test_released_by_all_of_it() public {
        _attesters(3);
        Erc20Transfer transfers = new Erc20Transfer();
        bytes memory tokens = abi.encode(usdc, payer, 1e6);
        Part[] memory parts = new Part[](3);
        parts[0] = Part(attested, keccak256(abi.encode(attesters, 2, bytes32(0))));
        parts[1] = Part(transfers, keccak256(tokens));
        parts[2] = Part(time, bytes32(START + 1 hours));
        Terms memory t = releasedBy(BY_CONDITION, 0);
        (t.condition, t.conditionArg) = (address(and_), keccak256(abi.encode(parts)));
        open(t);

        bytes[] memory evidence = new bytes[](3);
        bytes[] memory words = _signatures(_attestation(idOf(t), DELIVERABLE), 5);
        evidence[0] = abi.encode(attesters, 2, bytes32(0), DELIVERABLE, words);
        evidence[1] = tokens;
        bytes memory data = abi.encode(parts, evidence);
        vm.warp(START + 1 hours);
        notReleased(0, t);
        escrow.capture(t, none(), AMOUNT, byCondition(data));
        mint(payee, 1e6);
        vm.startPrank(payee);
        usdc.approve(address(transfers), 1e6);
        transfers.send(idOf(t), IERC20(address(usdc)), payer, 1e6);
        vm.stopPrank();
        vm.warp(START + 1 hours - 1);
        notReleased(0, t);
        escrow.capture(t, none(), AMOUNT, byCondition(data));
        vm.warp(START + 1 hours);
        escrow.capture(t, none(), AMOUNT, byCondition(data));
        assertState(t, Status.Completed, AMOUNT, 0);
    }
}
