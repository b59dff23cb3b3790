// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

// OpenZeppelin's ERC-7913 verifiers for operators with passkeys: no state, deployed once per chain. Imported so that
// they are built and exported with bursar's own contracts.
// forge-lint: disable-next-item(unused-import)
import {ERC7913P256Verifier} from "@openzeppelin/contracts/utils/cryptography/verifiers/ERC7913P256Verifier.sol";
import {
    ERC7913WebAuthnVerifier
} from "@openzeppelin/contracts/utils/cryptography/verifiers/ERC7913WebAuthnVerifier.sol";
