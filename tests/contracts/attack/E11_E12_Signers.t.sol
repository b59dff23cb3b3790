// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {EscrowStage} from "./EscrowStage.sol";
import {ContractOperator, OddOperator} from "./Operators.sol";
import {
    BY_ARBITER,
    BY_PAYER,
    BY_PREIMAGE,
    IWorkEscrow,
    Proof,
    Status,
    Terms
} from "contracts/interfaces/IWorkEscrow.sol";
import {IERC1271} from "@openzeppelin/contracts/interfaces/IERC1271.sol";

/// @dev E11. Signatures that ecrecover makes nothing or something else of.
contract E11_Malleability is EscrowStage {
    uint256 private constant ORDER = 0xfffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141;

    function _refused(Terms memory t, Proof memory p) private {
        badSignature(BY_ARBITER);
        escrow.capture(t, none(), AMOUNT, p);
    }

    function test_other_forms_of_the_same_signature() public {
        Terms memory t = opened(terms());
        Proof memory p = byArbiter(t, AMOUNT);
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(arbiterKey, releaseHash(t, AMOUNT, FAR));
        bytes32 high = bytes32(ORDER - uint256(s));
        uint8 flipped = v == 27 ? 28 : 27;
        bytes32 vs = bytes32(uint256(s) | (v == 28 ? 1 << 255 : 0));
        bytes[8] memory forms = [
            abi.encodePacked(r, high, flipped),
            abi.encodePacked(r, high, v),
            abi.encodePacked(r, s, flipped),
            abi.encodePacked(r, s, v - 27),
            abi.encodePacked(r, s, uint8(29)),
            abi.encodePacked(r, vs), // EIP-2098 is not taken
            abi.encodePacked(r, s, v, uint8(0)),
            bytes("")
        ];
        for (uint256 i; i < forms.length; ++i) {
            p.arbiterSignature = forms[i];
            _refused(t, p);
        }
        p.arbiterSignature = abi.encodePacked(r, s, v);
        escrow.capture(t, none(), AMOUNT, p);
    }

    /// @dev ecrecover answers zero to nonsense. No role that matters is ever the zero address, and zero says nothing.
    function test_zero_is_nobody() public {
        Terms memory t = releasedBy(BY_PAYER | BY_PREIMAGE, 0);
        t.arbiter = address(0);
        t.anyOf |= BY_ARBITER;
        vm.expectRevert(abi.encodeWithSelector(IWorkEscrow.InvalidTerms.selector, 2));
        open(t);
        t.anyOf ^= BY_ARBITER;
        open(t);
        Proof memory p = proof();
        p.claims = BY_ARBITER;
        p.arbiterSignature = abi.encodePacked(bytes32(0), bytes32(0), uint8(27));
        notReleased(0, t);
        escrow.capture(t, none(), AMOUNT, p);
        vm.prank(address(0));
        notReleased(0, t);
        escrow.capture(t, none(), AMOUNT, p);
        p.claims = BY_PAYER;
        p.payerSignature = p.arbiterSignature;
        badSignature(BY_PAYER);
        escrow.capture(t, none(), AMOUNT, p);
    }

    /// @dev Claims that no release stands for are nothing, and no claim is enough by itself.
    function test_claims_are_no_proof() public {
        Terms memory t = opened(terms());
        Proof memory p = proof();
        uint8[4] memory claims = [uint8(0), 16, 128, 240];
        for (uint256 i; i < claims.length; ++i) {
            p.claims = claims[i];
            notReleased(0, t);
            escrow.capture(t, none(), AMOUNT, p);
        }
    }
}

/// @dev Says yes to any digest signed by two of three keys.
contract Quorum is IERC1271 {
    address[3] private members;

    constructor(address[3] memory members_) {
        members = members_;
    }

    function isValidSignature(bytes32 hash, bytes calldata signatures) external view returns (bytes4) {
        uint256 votes;
        uint256 seen;
        for (uint256 i65; i65 + 65 <= signatures.length; i65 += 65) {
            bytes calldata one = signatures[i65:i65 + 65];
            address signer = ecrecover(hash, uint8(one[64]), bytes32(one[:32]), bytes32(one[32:64]));
            for (uint256 i; i < 3; ++i) {
                if (signer != members[i] || seen & 1 << i != 0) continue;
                seen |= 1 << i;
                ++votes;
            }
        }
        return votes >= 2 ? IERC1271.isValidSignature.selector : bytes4(0);
    }
}

/// @dev E12, and E23's quorum. Arbiters that are contracts, good and bad: what they do is between the parties that named
/// them, and costs nobody else anything.
contract E12_ContractArbiters is EscrowStage {
    function _withArbiter(address arbiter_, uint256 salt) private returns (Terms memory t) {
        t = salted(salt);
        t.arbiter = arbiter_;
        open(t);
    }

    function _by(bytes memory signature) private pure returns (Proof memory p) {
        p = proof();
        p.claims = BY_ARBITER;
        p.arbiterSignature = signature;
    }

    /// @dev Wrong word, short word, bomb, all gas burnt, true: no release; payer and deadlines are not held up.
    function test_bad_answers() public {
        for (uint256 i; i <= uint256(OddOperator.Way.True); ++i) {
            Terms memory t = _withArbiter(address(new OddOperator(OddOperator.Way(i))), i);
            badSignature(BY_ARBITER);
            escrow.capture(t, none(), AMOUNT, _by("x"));
            uint256 gasBefore = gasleft();
            try escrow.capture(t, none(), AMOUNT, _by("x")) {
                fail();
            } catch {}
            assertLt(gasBefore - gasleft(), 2_200_000, "gas of the one who asks");
            Proof memory p = byPayer(t, 10e6);
            escrow.capture(t, none(), 10e6, p);
            giveUp(t);
            assertState(t, Status.Rejected, 10e6, 90e6);
        }
        assertEq(held(), 0);
    }

    /// @dev One that says yes to everything gives away its own escrow only.
    function test_yes_to_everything() public {
        vm.mockCall(stranger, bytes(""), abi.encode(IERC1271.isValidSignature.selector));
        vm.etch(stranger, hex"00");
        Terms memory t = _withArbiter(stranger, 0);
        Terms memory other = opened(salted(1));
        badSignature(BY_ARBITER);
        escrow.capture(other, none(), AMOUNT, _by(""));
        escrow.capture(t, none(), AMOUNT, _by(""));
        assertEq(usdc.balanceOf(payee), AMOUNT);
        assertEq(held(), AMOUNT);
    }

    /// @dev Two of three, and not one of them twice.
    function test_quorum() public {
        uint256[3] memory keys = [uint256(0xc1), 0xc2, 0xc3];
        Quorum quorum = new Quorum([vm.addr(keys[0]), vm.addr(keys[1]), vm.addr(keys[2])]);
        Terms memory t = _withArbiter(address(quorum), 0);
        bytes32 digest = releaseHash(t, AMOUNT, FAR);
        bytes memory one = signed(keys[0], digest);
        badSignature(BY_ARBITER);
        escrow.capture(t, none(), AMOUNT, _by(one));
        badSignature(BY_ARBITER);
        escrow.capture(t, none(), AMOUNT, _by(bytes.concat(one, one)));
        escrow.capture(t, none(), AMOUNT, _by(bytes.concat(one, signed(keys[2], digest))));
        assertState(t, Status.Completed, AMOUNT, 0);
    }

    /// @dev It may also call by itself.
    function test_contract_calls() public {
        ContractOperator judge = new ContractOperator(arbiter);
        Terms memory t = _withArbiter(address(judge), 0);
        deliver(t);
        contest(t);
        judge.call(address(escrow), abi.encodeCall(IWorkEscrow.award, (t, none(), 1, AMOUNT - 1, "", 0, "")));
        assertState(t, Status.Completed, 1, AMOUNT - 1);
    }

    /// @dev An account under an EIP-7702 delegation keeps its own voice; a delegate that says yes to all adds one.
    function test_delegated_account() public {
        ContractOperator delegate = new ContractOperator(stranger);
        vm.signAndAttachDelegation(address(delegate), arbiterKey);
        Terms memory t = opened(terms());
        assertGt(arbiter.code.length, 0);
        Proof memory p = byArbiter(t, 40e6);
        escrow.capture(t, none(), 40e6, p);
        badSignature(BY_ARBITER);
        escrow.capture(t, none(), AMOUNT, _by(signed(payeeKey, releaseHash(t, AMOUNT, FAR))));
        assertState(t, Status.Funded, 40e6, 0);
    }

    /// @dev A payer that is a contract funds by its own authorization and releases by its own word.
    function test_contract_payer() public {
        ContractOperator owned = new ContractOperator(payer);
        Terms memory t = terms();
        t.payer = address(owned);
        mint(t.payer, AMOUNT);
        bytes memory signature = authorization(t);
        escrow.authorizeWithAuthorization(t, none(), 0, FAR, signature);
        Proof memory p = byPayer(t, 10e6);
        escrow.capture(t, none(), 10e6, p);
        p = proof();
        p.claims = BY_PAYER;
        owned.call(address(escrow), abi.encodeCall(IWorkEscrow.capture, (t, none(), 30e6, p)));
        assertEq(usdc.balanceOf(payee), 30e6);
    }
}
