// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {Bytes} from "@openzeppelin/contracts/utils/Bytes.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {SignatureChecker} from "@openzeppelin/contracts/utils/cryptography/SignatureChecker.sol";
import {MultiSignerERC7913} from "@openzeppelin/contracts/utils/cryptography/signers/MultiSignerERC7913.sol";
import {IPolicyChanges, IPolicyWallet} from "./interfaces/IPolicyWallet.sol";

/// @title Governance
/// @notice Who may change the policy, and how long a change waits.
///
/// @dev ROLES. Operators are ERC-7913 signers: 20 bytes are an account (by ecrecover, else by ERC-1271), more are a
/// verifier contract and a key. `threshold` of them are the quorum. One alone may tighten.
///
/// TIMELOCK. A change is calldata of `IPolicyChanges`, run by `_apply` and never by a call. The quorum submits it; it
/// waits out the delay that its selector had then; anyone runs it within EXECUTION_WINDOW. Shortening a delay waits
/// at least the delay that it shortens. A selector with delay ABDICATED takes no more changes, pending ones included,
/// from the quorum; tightening stays possible.
///
/// NONCES. One unordered bitmap for each account. The quorum's nonces are under address 0, a relayed operator's under
/// the last 20 bytes of keccak256(signer), an agent's under its address.
abstract contract Governance is IPolicyWallet, EIP712, MultiSignerERC7913 {
    /* CONSTANTS */

    /// @dev How long a change may be run once its delay is over, in seconds.
    uint256 internal constant EXECUTION_WINDOW = 30 days;
    /// @dev The delay that gives a kind of change up for ever.
    uint32 internal constant ABDICATED = type(uint32).max;
    /// @dev Bounds the work of a quorum check.
    uint256 internal constant MAX_OPERATORS = 32;

    bytes32 private constant CHANGE_TYPEHASH = keccak256("Change(bytes change,uint256 nonce,uint256 deadline)");
    bytes32 private constant TIGHTEN_TYPEHASH = keccak256("Tighten(bytes change,uint256 nonce,uint256 deadline)");

    address private constant QUORUM = address(0);

    /* STORAGE */

    struct Delay {
        bool known; // only selectors of IPolicyChanges are
        uint32 length; // seconds
    }

    struct NonceWord {
        uint256 used; // one bit for each of 256 nonces
    }

    mapping(bytes4 selector => Delay) private _delays;
    /// @dev keccak256(change) => unix seconds from which it may run; 0: not pending.
    mapping(bytes32 id => uint256) private _readyAt;
    mapping(address account => mapping(uint256 wordIndex => NonceWord)) private _nonces;

    /* CONSTRUCTOR */

    /// @param delay seconds that a change waits, except those that never loosen what a payment may do
    constructor(bytes[] memory operators, uint64 threshold_, uint32 delay)
        EIP712("PolicyWallet", "1")
        MultiSignerERC7913(operators, threshold_)
    {
        require(operators.length <= MAX_OPERATORS, InvalidChange());
        _setDelay(IPolicyChanges.setAgent.selector, delay);
        _setDelay(IPolicyChanges.setPayee.selector, delay);
        _setDelay(IPolicyChanges.setWalletCap.selector, delay);
        _setDelay(IPolicyChanges.setCoupons.selector, delay);
        _setDelay(IPolicyChanges.setChannelAuthorizer.selector, delay);
        _setDelay(IPolicyChanges.setOperators.selector, delay);
        _setDelay(IPolicyChanges.setDelay.selector, delay);
        _setDelay(IPolicyChanges.setFrozen.selector, 0);
        _setDelay(IPolicyChanges.publishPolicy.selector, 0);
        _setDelay(IPolicyChanges.withdraw.selector, 0);
        _setDelay(IPolicyChanges.callEscrow.selector, 0);
        _setDelay(IPolicyChanges.closeChannel.selector, 0);
        _setDelay(IPolicyChanges.cancelAgentNonce.selector, 0);
        _setDelay(IPolicyChanges.revoke.selector, 0);
    }

    /* CHANGES */

    /// @inheritdoc IPolicyWallet
    function submit(bytes calldata change, uint256 nonce, uint256 deadline, bytes calldata quorum) external {
        require(block.timestamp <= deadline, DeadlinePassed(deadline));
        _useNonce(QUORUM, nonce);
        bytes32 id = keccak256(change);
        _requireQuorum(_hashTypedDataV4(keccak256(abi.encode(CHANGE_TYPEHASH, id, nonce, deadline))), quorum);

        require(block.timestamp > _readyAt[id] + EXECUTION_WINDOW || _readyAt[id] == 0, AlreadyPending(id));
        uint256 delay = _delayFor(change);
        if (delay == 0) {
            _apply(change, false);
            emit ChangeExecuted(id, change);
        } else {
            _readyAt[id] = block.timestamp + delay;
            emit ChangeSubmitted(id, change, block.timestamp + delay);
        }
    }

    /// @inheritdoc IPolicyWallet
    function execute(bytes calldata change) external {
        bytes32 id = keccak256(change);
        uint256 ready = _readyAt[id];
        require(ready != 0, NotPending(id));
        require(block.timestamp >= ready, NotReady(ready));
        require(block.timestamp <= ready + EXECUTION_WINDOW, ChangeExpired(ready + EXECUTION_WINDOW));
        _delayFor(change); // refuses what was given up while this waited
        delete _readyAt[id];
        _apply(change, false);
        emit ChangeExecuted(id, change);
    }

    /// @inheritdoc IPolicyWallet
    function tighten(bytes calldata change) external {
        require(isSigner(abi.encodePacked(msg.sender)), NotOperator(msg.sender));
        _tighten(change);
    }

    /// @inheritdoc IPolicyWallet
    function tightenWithSignature(
        bytes calldata change,
        bytes calldata signer,
        uint256 nonce,
        uint256 deadline,
        bytes calldata signature
    ) external {
        require(block.timestamp <= deadline, DeadlinePassed(deadline));
        address account = address(uint160(uint256(keccak256(signer))));
        require(isSigner(signer), NotOperator(account));
        _useNonce(account, nonce);
        bytes32 digest = _hashTypedDataV4(keccak256(abi.encode(TIGHTEN_TYPEHASH, keccak256(change), nonce, deadline)));
        require(_isSignatureOf(signer, digest, signature), InvalidSignature());
        _tighten(change);
    }

    function _tighten(bytes calldata change) private {
        _apply(change, true);
        emit ChangeExecuted(keccak256(change), change);
    }

    /// @dev The delay that `change` waits from now on.
    function _delayFor(bytes memory change) private view returns (uint256 wait) {
        bytes4 selector = bytes4(change);
        wait = _delayOf(selector);
        require(wait != ABDICATED, Abdicated(selector));
        if (selector == IPolicyChanges.setDelay.selector) {
            (bytes4 of_, uint32 shorter) = abi.decode(_arguments(change), (bytes4, uint32));
            uint256 current = _delayOf(of_);
            require(current != ABDICATED, Abdicated(of_));
            if (shorter < current && wait < current) wait = current;
        }
    }

    function _delayOf(bytes4 selector) private view returns (uint256) {
        Delay memory delay = _delays[selector];
        require(delay.known, UnknownChange(selector));
        return delay.length;
    }

    function _arguments(bytes memory change) internal pure returns (bytes memory) {
        return Bytes.slice(change, 4);
    }

    /* WHAT CAN CHANGE */

    /// @dev Runs `change`. `alone`: on the authority of one operator, so that it must only tighten.
    function _apply(bytes memory change, bool alone) internal {
        bytes4 selector = bytes4(change);
        require(_delays[selector].known, UnknownChange(selector));
        bytes memory arguments = _arguments(change);

        if (selector == IPolicyChanges.revoke.selector) {
            _revoke(abi.decode(arguments, (bytes)), alone);
        } else if (selector == IPolicyChanges.cancelAgentNonce.selector) {
            (address agent, uint256 nonce) = abi.decode(arguments, (address, uint256));
            // Not the quorum's nonces or another operator's: one operator could block its own removal with those.
            require(_isAgent(agent), AgentInactive(agent));
            _cancelNonce(agent, nonce);
        } else if (selector == IPolicyChanges.setOperators.selector) {
            require(!alone, NotTightening());
            (bytes[] memory add, bytes[] memory remove, uint64 threshold_) =
                abi.decode(arguments, (bytes[], bytes[], uint64));
            _setOperators(add, remove, threshold_);
        } else if (selector == IPolicyChanges.setDelay.selector) {
            require(!alone, NotTightening());
            (bytes4 of_, uint32 delay) = abi.decode(arguments, (bytes4, uint32));
            _delayOf(of_); // refuses what is no change
            _setDelay(of_, delay);
        } else {
            _applyPolicy(selector, arguments, alone);
        }
    }

    /// @dev The changes of agents, payees and money.
    function _applyPolicy(bytes4 selector, bytes memory arguments, bool alone) internal virtual;

    /// @dev Whether `account` was ever an agent.
    function _isAgent(address account) internal view virtual returns (bool);

    function _revoke(bytes memory change, bool alone) private {
        if (alone) {
            // An operator alone cannot block its own removal.
            bytes4 selector = bytes4(change);
            require(selector != IPolicyChanges.setOperators.selector, NotTightening());
            require(selector != IPolicyChanges.setDelay.selector, NotTightening());
        }
        bytes32 id = keccak256(change);
        require(_readyAt[id] != 0, NotPending(id));
        delete _readyAt[id];
        emit ChangeRevoked(id);
    }

    function _setOperators(bytes[] memory add, bytes[] memory remove, uint64 threshold_) private {
        for (uint256 i; i < add.length; ++i) {
            address account = address(bytes20(add[i]));
            require(add[i].length != 20 || !_isAgent(account), RoleConflict(account));
        }
        _addSigners(add);
        _setThreshold(threshold_);
        _removeSigners(remove);
        require(getSignerCount() <= MAX_OPERATORS, InvalidChange());
    }

    function _setDelay(bytes4 selector, uint32 length) private {
        _delays[selector] = Delay(true, length);
        emit DelayChanged(selector, length);
    }

    /* SIGNATURES */

    /// @dev Two forms. Where every co-signer is a plain account: its EIP-2098 signatures, 64 bytes each, in strictly
    /// ascending order of the accounts. Otherwise OpenZeppelin's, whose first word is an offset of 0x40; no signature
    /// starts like that, since nobody knows a nonce whose point has that coordinate.
    function _requireQuorum(bytes32 digest, bytes calldata quorum) internal view {
        bool signed = quorum.length > 31 && uint256(bytes32(quorum)) != 0x40
            ? _signedByAccounts(digest, quorum)
            : _rawSignatureValidation(digest, quorum);
        require(signed, InvalidQuorum());
    }

    function _signedByAccounts(bytes32 digest, bytes calldata signatures) private view returns (bool) {
        uint256 count = signatures.length / 64;
        if (count < threshold() || signatures.length % 64 != 0) return false;
        address last;
        for (uint256 i; i < count; ++i) {
            bytes32 r = bytes32(signatures[64 * i:]);
            bytes32 vs = bytes32(signatures[64 * i + 32:]);
            (address account, ECDSA.RecoverError problem,) = ECDSA.tryRecover(digest, r, vs);
            if (problem != ECDSA.RecoverError.NoError || account <= last) return false;
            if (!isSigner(abi.encodePacked(account))) return false;
            last = account;
        }
        return true;
    }

    /// @dev Operators in strictly ascending order of keccak256(signer), so that none counts twice.
    function _validateSignatures(bytes32 digest, bytes[] calldata signers, bytes[] calldata signatures)
        internal
        view
        override
        returns (bool)
    {
        if (signers.length != signatures.length) return false;
        bytes32 last;
        for (uint256 i; i < signers.length; ++i) {
            bytes memory signer = signers[i];
            bytes32 id = keccak256(signer);
            if (id <= last || !isSigner(signer) || !_isSignatureOf(signer, digest, signatures[i])) return false;
            last = id;
        }
        return true;
    }

    /// @dev An account's own key first: that needs no look at the account's code.
    function _isSignatureOf(bytes memory signer, bytes32 digest, bytes calldata signature) private view returns (bool) {
        if (signer.length == 20) {
            (address recovered, ECDSA.RecoverError problem,) = ECDSA.tryRecoverCalldata(digest, signature);
            if (problem == ECDSA.RecoverError.NoError && recovered == address(bytes20(signer))) return true;
        }
        return SignatureChecker.isValidSignatureNow(signer, digest, signature);
    }

    /* NONCES */

    /// @inheritdoc IPolicyWallet
    function cancelNonce(uint256 nonce) external {
        _cancelNonce(msg.sender, nonce);
    }

    function _cancelNonce(address account, uint256 nonce) private {
        _useNonce(account, nonce);
        emit NonceCancelled(account, nonce);
    }

    function _useNonce(address account, uint256 nonce) internal {
        NonceWord storage word = _nonces[account][nonce >> 8];
        uint256 used = word.used;
        uint256 bit = 1 << (nonce & 0xff);
        require(used & bit == 0, NonceUsed(nonce));
        word.used = used | bit;
    }

    /// @inheritdoc IPolicyWallet
    function nonceUsed(address account, uint256 nonce) public view returns (bool) {
        return _nonces[account][nonce >> 8].used & 1 << (nonce & 0xff) != 0;
    }

    /* VIEWS */

    /// @dev ERC-5267. OpenZeppelin's, for a name and a version that fit a word as they are.
    function eip712Domain()
        public
        view
        override
        returns (bytes1, string memory, string memory, uint256, address, bytes32, uint256[] memory)
    {
        return (hex"0f", "PolicyWallet", "1", block.chainid, address(this), 0, new uint256[](0));
    }

    /// @inheritdoc IPolicyWallet
    function readyAt(bytes calldata change) external view returns (uint256) {
        return _readyAt[keccak256(change)];
    }

    /// @inheritdoc IPolicyWallet
    function delayOf(bytes4 selector) external view returns (uint256) {
        return _delayOf(selector);
    }
}
