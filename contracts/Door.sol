// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {MessageHashUtils} from "@openzeppelin/contracts/utils/cryptography/MessageHashUtils.sol";
import {Policy} from "./Policy.sol";
import {PayeeRecord} from "./types/PayeeRecord.sol";

/// @title Door
/// @notice What the doors have in common that an agent's signature opens: who signed, may the agent pay at all, did
/// the quorum let it past a limit, and one payment judged and booked.
abstract contract Door is Policy {
    /// @dev Half of secp256k1's group order: above it, s has a low twin.
    uint256 private constant HALF_ORDER = 0x7fffffffffffffffffffffffffffffff5d576e7357a4501ddfe92f46681b20a0;

    bytes32 private constant DOMAIN_TYPEHASH =
        keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)");

    /* WHO */

    /// @dev Deadline, nonce and the agent's signature.
    function _admit(address agent, uint256 nonce, uint256 deadline, bytes32 digest, bytes32 r, bytes32 vs) internal {
        require(block.timestamp <= deadline, DeadlinePassed(deadline));
        _useNonce(agent, nonce);
        require(_signed(agent, digest, r, vs), InvalidSignature());
    }

    function _signed(address agent, bytes32 digest, bytes32 r, bytes32 vs) internal view returns (bool) {
        address recovered = _recover(digest, r, vs);
        return recovered != address(0) && recovered == agent;
    }

    /// @dev EIP-2098, low s only; zero is nobody.
    function _recover(bytes32 digest, bytes32 r, bytes32 vs) internal view returns (address recovered) {
        uint256 s = uint256(vs) & ~uint256(1 << 255);
        if (s > HALF_ORDER) return address(0);
        assembly ("memory-safe") {
            let data := mload(0x40)
            mstore(data, digest)
            mstore(add(data, 0x20), add(27, shr(255, vs)))
            mstore(add(data, 0x40), r)
            mstore(add(data, 0x60), s)
            mstore(0, 0) // the precompile returns nothing where it finds no signer
            pop(staticcall(gas(), 1, data, 0x80, 0, 0x20))
            recovered := mload(0)
        }
    }

    /* MAY IT */

    function _requireStanding(Account memory account) internal view {
        (bytes4 reason, uint256 detail) = _standing(account);
        if (reason == 0) return;
        if (reason == WalletFrozen.selector) revert WalletFrozen();
        _revert(abi.encodeWithSelector(reason, detail));
    }

    /// @dev The quorum over `digest`, which names `overrides` and the policy that it looked at.
    function _requireOverride(
        Account memory account,
        uint256 overrides,
        uint256 policyVersion,
        bytes32 digest,
        bytes calldata quorum
    ) internal view {
        require(overrides <= ALL_OVERRIDES, InvalidChange());
        uint256 current = account.policy.version();
        require(policyVersion == current, PolicyVersionChanged(policyVersion, current));
        _requireQuorum(digest, quorum);
    }

    /* HOW MUCH. Judges and books first; the token is called last. */

    /// @dev A whole payment of the agent alone, whose signature `_admit` has seen.
    function _pay(address agent, address to, uint256 amount, bytes32 context) internal {
        Agent storage words = _agents[agent];
        Account memory account = _load(words, agent, 0);
        _requireStanding(account);
        _spend(words, account, to, amount, 0);
        emit Paid(agent, to, amount, account.policy.version(), context);
        require(_transfer(to, amount), TransferFailed());
    }

    function _spend(Agent storage words, Account memory account, address to, uint256 amount, uint256 overrides)
        internal
    {
        PayeeRecord payee = _payees[to];
        (bytes4 reason, uint256 left) = _judge(account, payee, to, amount, overrides);
        _refuse(reason, amount, left);
        if (overrides & PAST_PAYEE == 0) _storePayee(payee, to, amount);
        _store(words, account, amount);
    }

    /// @dev One of several payments under one signature: books the payee, and leaves the agent's words to the caller's
    /// `_store` of the sum.
    function _spendPart(Account memory account, address to, uint256 amount, uint256 overrides) internal {
        PayeeRecord payee = _payees[to];
        (bytes4 reason, uint256 left) = _judge(account, payee, to, amount, overrides);
        _refuse(reason, amount, left);
        account.left -= amount;
        account.booked += amount;
        if (overrides & PAST_PAYEE == 0) _storePayee(payee, to, amount);
    }

    /* HASHES */

    /// @dev The digest of a struct in the domain of another contract, version "1".
    function _hashFor(address verifying, bytes32 nameHash, bytes32 structHash) internal view returns (bytes32) {
        bytes32 domain = keccak256(abi.encode(DOMAIN_TYPEHASH, nameHash, keccak256("1"), block.chainid, verifying));
        return MessageHashUtils.toTypedDataHash(domain, structHash);
    }

    /* REFUSALS */

    function _refuse(bytes4 reason, uint256 asked, uint256 left) internal pure {
        if (reason != 0) _revert(abi.encodeWithSelector(reason, asked, left));
    }

    function _revert(bytes memory reason) private pure {
        assembly ("memory-safe") {
            revert(add(reason, 0x20), mload(reason))
        }
    }
}
