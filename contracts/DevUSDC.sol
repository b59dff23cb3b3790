// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {IERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/IERC20Permit.sol";
import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";
import {IERC3009, IERC3009Cancel} from "@openzeppelin/contracts/interfaces/draft-IERC3009.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {Nonces} from "@openzeppelin/contracts/utils/Nonces.sol";
import {Pausable} from "@openzeppelin/contracts/utils/Pausable.sol";
import {SignatureChecker} from "@openzeppelin/contracts/utils/cryptography/SignatureChecker.sol";
import {StorageSlot} from "@openzeppelin/contracts/utils/StorageSlot.sol";

/// @title DevUSDC
/// @notice The devnet's USDC. It behaves as Circle's FiatTokenV2_2 does wherever a payment can tell the
/// difference: 6 decimals, domain "USDC" / "2", EIP-2612, EIP-3009 with contract payers, pause, blocklist.
///
/// @dev PLACING. The runtime code works at any address and chain id, so a devnet may put it at Base Sepolia's
/// USDC address with `anvil_setCode`. Storage that the constructor wrote stays behind: exactly one slot,
/// `OWNER_SLOT`, which `anvil_setStorageAt` fills with the owner's address, left-padded to 32 bytes. Left empty,
/// the token works but nobody can mint, pause or block. The EIP-712 name and version are immutables inside the
/// code; the domain is rebuilt for the chain id and address the code finds itself at.
///
/// SIGNERS. An account with code is asked by staticcall to `isValidSignature` and never by ecrecover, in both
/// overloads of each function; one without code needs a 65-byte signature with low s.
///
/// NOT USDC. There is no proxy, one owner stands in for Circle's minters, pauser and blacklister, and refusals are
/// custom errors where Circle's revert with strings.
contract DevUSDC is ERC20, IERC20Permit, IERC3009, IERC3009Cancel, EIP712, Nonces, Pausable {
    /* CONSTANTS */

    /// @notice Holds the owner's address: bytes32(uint256(keccak256("bursar.DevUSDC.owner")) - 1).
    bytes32 public constant OWNER_SLOT = 0x205ddcc22376755ec01447e151f1640d47a0799863f02bf6f02ba450e50b09b0;

    uint256 private constant BLOCKED = 1 << 255;

    bytes32 public constant PERMIT_TYPEHASH =
        keccak256("Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)");
    bytes32 public constant TRANSFER_WITH_AUTHORIZATION_TYPEHASH = keccak256(
        "TransferWithAuthorization(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,bytes32 nonce)"
    );
    bytes32 public constant RECEIVE_WITH_AUTHORIZATION_TYPEHASH = keccak256(
        "ReceiveWithAuthorization(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,bytes32 nonce)"
    );
    bytes32 public constant CANCEL_AUTHORIZATION_TYPEHASH =
        keccak256("CancelAuthorization(address authorizer,bytes32 nonce)");

    /* STORAGE */

    /// @dev An account's word, as in FiatTokenV2_2: one load answers for balance and block.
    ///  0                                  255       256
    ///  | balance u255                      | blocked |
    mapping(address account => uint256) private _words;
    uint256 private _supply;
    mapping(address authorizer => mapping(bytes32 nonce => bool)) private _authorizationUsed;

    /* EVENTS AND ERRORS */

    event Mint(address indexed minter, address indexed to, uint256 amount);
    event Blacklisted(address indexed account);
    event UnBlacklisted(address indexed account);

    error NotOwner(address caller);
    error AccountBlacklisted(address account);
    error InvalidSignature(address signer);
    error PermitExpired(uint256 deadline);
    error CallerNotPayee(address caller, address payee);
    error AuthorizationNotYetValid(uint256 validAfter);
    error AuthorizationExpired(uint256 validBefore);
    error AuthorizationUsedOrCanceled(address authorizer, bytes32 nonce);

    modifier onlyOwner() {
        require(msg.sender == owner(), NotOwner(msg.sender));
        _;
    }

    /// @param owner_ may mint, pause and block
    constructor(address owner_) ERC20("", "") EIP712("USDC", "2") {
        StorageSlot.getAddressSlot(OWNER_SLOT).value = owner_;
    }

    /* METADATA: constants, so that placing the code needs no storage for them */

    function name() public pure override returns (string memory) {
        return "USDC";
    }

    function symbol() public pure override returns (string memory) {
        return "USDC";
    }

    function version() external pure returns (string memory) {
        return "2";
    }

    function decimals() public pure override returns (uint8) {
        return 6;
    }

    /// @inheritdoc IERC20Permit
    function DOMAIN_SEPARATOR() external view returns (bytes32) {
        return _domainSeparatorV4();
    }

    /* OWNER */

    function owner() public view returns (address) {
        return StorageSlot.getAddressSlot(OWNER_SLOT).value;
    }

    /// @notice Creates `amount` base units for `to`.
    function mint(address to, uint256 amount) external onlyOwner returns (bool) {
        _mint(to, amount);
        emit Mint(msg.sender, to, amount);
        return true;
    }

    function pause() external onlyOwner {
        _pause();
    }

    function unpause() external onlyOwner {
        _unpause();
    }

    /// @notice From now on `account` can neither send, receive, approve nor spend an allowance.
    function blacklist(address account) external onlyOwner {
        _words[account] |= BLOCKED;
        emit Blacklisted(account);
    }

    function unBlacklist(address account) external onlyOwner {
        _words[account] &= ~BLOCKED;
        emit UnBlacklisted(account);
    }

    /// @notice The token itself is always blocked, as Circle's is since V2_1: nothing can get stuck in it.
    function isBlacklisted(address account) public view returns (bool) {
        return account == address(this) || _words[account] & BLOCKED != 0;
    }

    /* EIP-2612 */

    /// @inheritdoc IERC20Permit
    function permit(address holder, address spender, uint256 value, uint256 deadline, uint8 v, bytes32 r, bytes32 s)
        external
    {
        permit(holder, spender, value, deadline, abi.encodePacked(r, s, v));
    }

    /// @notice The same for a signature of any length, for a holder that is a contract.
    function permit(address holder, address spender, uint256 value, uint256 deadline, bytes memory signature) public {
        require(block.timestamp <= deadline, PermitExpired(deadline));
        bytes32 structHash = keccak256(abi.encode(PERMIT_TYPEHASH, holder, spender, value, _useNonce(holder), deadline));
        _requireSignature(holder, structHash, signature);
        _approve(holder, spender, value);
    }

    /// @inheritdoc IERC20Permit
    function nonces(address holder) public view override(IERC20Permit, Nonces) returns (uint256) {
        return super.nonces(holder);
    }

    /* EIP-3009 */

    /// @inheritdoc IERC3009
    function authorizationState(address authorizer, bytes32 nonce) external view returns (bool) {
        return _authorizationUsed[authorizer][nonce];
    }

    /// @inheritdoc IERC3009
    function transferWithAuthorization(
        address from,
        address to,
        uint256 value,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 nonce,
        uint8 v,
        bytes32 r,
        bytes32 s
    ) external {
        transferWithAuthorization(from, to, value, validAfter, validBefore, nonce, abi.encodePacked(r, s, v));
    }

    /// @notice The same for a signature of any length, for a payer that is a contract.
    function transferWithAuthorization(
        address from,
        address to,
        uint256 value,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 nonce,
        bytes memory signature
    ) public {
        bytes32 structHash = keccak256(
            abi.encode(TRANSFER_WITH_AUTHORIZATION_TYPEHASH, from, to, value, validAfter, validBefore, nonce)
        );
        _useAuthorization(from, validAfter, validBefore, nonce, structHash, signature);
        _transfer(from, to, value);
    }

    /// @inheritdoc IERC3009
    function receiveWithAuthorization(
        address from,
        address to,
        uint256 value,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 nonce,
        uint8 v,
        bytes32 r,
        bytes32 s
    ) external {
        receiveWithAuthorization(from, to, value, validAfter, validBefore, nonce, abi.encodePacked(r, s, v));
    }

    /// @notice The same for a signature of any length, for a payer that is a contract.
    function receiveWithAuthorization(
        address from,
        address to,
        uint256 value,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 nonce,
        bytes memory signature
    ) public {
        require(to == msg.sender, CallerNotPayee(msg.sender, to));
        bytes32 structHash =
            keccak256(abi.encode(RECEIVE_WITH_AUTHORIZATION_TYPEHASH, from, to, value, validAfter, validBefore, nonce));
        _useAuthorization(from, validAfter, validBefore, nonce, structHash, signature);
        _transfer(from, to, value);
    }

    /// @inheritdoc IERC3009Cancel
    function cancelAuthorization(address authorizer, bytes32 nonce, uint8 v, bytes32 r, bytes32 s) external {
        cancelAuthorization(authorizer, nonce, abi.encodePacked(r, s, v));
    }

    /// @notice The same for a signature of any length, for an authorizer that is a contract.
    function cancelAuthorization(address authorizer, bytes32 nonce, bytes memory signature) public whenNotPaused {
        require(!_authorizationUsed[authorizer][nonce], AuthorizationUsedOrCanceled(authorizer, nonce));
        bytes32 structHash = keccak256(abi.encode(CANCEL_AUTHORIZATION_TYPEHASH, authorizer, nonce));
        _requireSignature(authorizer, structHash, signature);
        _authorizationUsed[authorizer][nonce] = true;
        emit AuthorizationCanceled(authorizer, nonce);
    }

    /// @dev Both time bounds are exclusive. The nonce is spent only if all else holds.
    function _useAuthorization(
        address from,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 nonce,
        bytes32 structHash,
        bytes memory signature
    ) private {
        require(block.timestamp > validAfter, AuthorizationNotYetValid(validAfter));
        require(block.timestamp < validBefore, AuthorizationExpired(validBefore));
        require(!_authorizationUsed[from][nonce], AuthorizationUsedOrCanceled(from, nonce));
        _requireSignature(from, structHash, signature);
        _authorizationUsed[from][nonce] = true;
        emit AuthorizationUsed(from, nonce);
    }

    function _requireSignature(address signer, bytes32 structHash, bytes memory signature) private view {
        bytes32 digest = _hashTypedDataV4(structHash);
        require(SignatureChecker.isValidSignatureNow(signer, digest, signature), InvalidSignature(signer));
    }

    /* PAUSE AND BLOCKLIST ON EVERY PATH */

    function totalSupply() public view override returns (uint256) {
        return _supply;
    }

    function balanceOf(address account) public view override returns (uint256) {
        return _words[account] & ~BLOCKED;
    }

    /// @dev Every mint and transfer: OpenZeppelin's, with the block in the word that is loaded anyway. Nothing is
    /// burnt: OpenZeppelin refuses address 0 as a receiver before it gets here.
    function _update(address from, address to, uint256 value) internal override whenNotPaused {
        if (from == address(0)) {
            _supply += value;
            require(_supply < BLOCKED, ERC20InvalidReceiver(to));
        } else {
            uint256 held = _unblockedBalance(from);
            require(held >= value, ERC20InsufficientBalance(from, held, value));
            _words[from] = held - value;
        }
        _words[to] = _unblockedBalance(to) + value;
        emit Transfer(from, to, value);
    }

    function _unblockedBalance(address account) private view returns (uint256 balance) {
        balance = _words[account];
        require(balance & BLOCKED == 0 && account != address(this), AccountBlacklisted(account));
    }

    function _approve(address holder, address spender, uint256 value, bool emitEvent) internal override whenNotPaused {
        _requireNotBlacklisted(holder);
        _requireNotBlacklisted(spender);
        super._approve(holder, spender, value, emitEvent);
    }

    /// @dev `_approve` is not reached for an unlimited allowance, so the spender is asked about here.
    function _spendAllowance(address holder, address spender, uint256 value) internal override {
        _requireNotBlacklisted(spender);
        super._spendAllowance(holder, spender, value);
    }

    function _requireNotBlacklisted(address account) private view {
        require(!isBlacklisted(account), AccountBlacklisted(account));
    }
}
