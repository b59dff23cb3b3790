// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {Ask} from "../Ask.sol";
import {ICondition} from "../interfaces/ICondition.sol";

/// @title AttestedDeliverable
/// @notice m of n attesters say that they have seen the deliverable. No state, no owner: one deployment serves everybody.
///
/// @dev arg = keccak256(abi.encode(address[] attesters, uint256 threshold, bytes32 expected)): attesters in ascending
/// order, at most MAX_ATTESTERS; `expected` the content hash agreed on at the start, 0: what the attesters name.
/// data = abi.encode(address[] attesters, uint256 threshold, bytes32 expected, bytes32 deliverable, bytes[] signatures):
/// one for each attester in order, empty for those who did not sign.
///
/// An attester signs Attestation(bytes32 escrowId,bytes32 deliverable) in the domain "AttestedDeliverable", "1",
/// chain id, this contract; so one word counts for one escrow. Accounts and ERC-1271 contracts (see `Ask`).
///
/// Never `false`: signatures can be left out, so too few of them show nothing, and `Not` of this never holds.
contract AttestedDeliverable is ICondition, EIP712 {
    /// @notice Fits into the gas that an escrow gives a condition, if they are plain accounts.
    uint256 public constant MAX_ATTESTERS = 16;

    bytes32 private constant ATTESTATION_TYPEHASH = keccak256("Attestation(bytes32 escrowId,bytes32 deliverable)");

    error OtherQuestion(bytes32 have, bytes32 want);
    error InvalidAttesters();
    error OtherDeliverable(bytes32 have, bytes32 want);
    error TooFewAttestations(uint256 have, uint256 want);

    constructor() EIP712("AttestedDeliverable", "1") {}

    /// @notice What an attester signs.
    function attestationDigest(bytes32 escrowId, bytes32 deliverable) public view returns (bytes32) {
        return _hashTypedDataV4(keccak256(abi.encode(ATTESTATION_TYPEHASH, escrowId, deliverable)));
    }

    /// @inheritdoc ICondition
    function check(bytes32 escrowId, bytes32 arg, bytes calldata data) external view returns (bool) {
        (
            address[] memory attesters,
            uint256 threshold,
            bytes32 expected,
            bytes32 deliverable,
            bytes[] memory signatures
        ) = abi.decode(data, (address[], uint256, bytes32, bytes32, bytes[]));
        bytes32 hash = keccak256(abi.encode(attesters, threshold, expected));
        require(hash == arg, OtherQuestion(hash, arg));
        uint256 count = attesters.length;
        require(
            count <= MAX_ATTESTERS && count == signatures.length && threshold != 0 && threshold <= count,
            InvalidAttesters()
        );
        require(expected == 0 || deliverable == expected, OtherDeliverable(deliverable, expected));

        bytes32 digest = attestationDigest(escrowId, deliverable);
        address last;
        uint256 have;
        for (uint256 i; i < count; ++i) {
            require(attesters[i] > last, InvalidAttesters()); // none twice, none zero
            last = attesters[i];
            if (signatures[i].length != 0 && Ask.signed(last, digest, signatures[i], gasleft())) ++have;
        }
        require(have >= threshold, TooFewAttestations(have, threshold));
        return true;
    }
}
