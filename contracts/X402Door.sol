// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {IERC1271} from "@openzeppelin/contracts/interfaces/IERC1271.sol";
import {IERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/IERC20Permit.sol";
import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {MessageHashUtils} from "@openzeppelin/contracts/utils/cryptography/MessageHashUtils.sol";
import {Ask} from "./Ask.sol";
import {Door} from "./Door.sol";
import {DelegationContext, IX402Payer} from "./interfaces/IX402Payer.sol";
import {Coupons} from "./types/Coupons.sol";
import {PayeeRecord} from "./types/PayeeRecord.sol";

/// @title X402Door
/// @notice The wallet as the payer of x402 `exact`: what others carry to the token or to the wallet.
abstract contract X402Door is Door {
    /* CONSTANTS */

    bytes32 private constant REDEMPTION_TYPEHASH = keccak256(
        "Redemption(address agent,address redeemer,uint256 nonce,uint256 deadline,bytes32 context,address to,uint256 amount)"
    );
    bytes32 private constant TRANSFER_TYPEHASH = keccak256(
        "TransferWithAuthorization(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,bytes32 nonce)"
    );
    /// @dev Bytes of an abi-encoded Coupon, and of a DelegationContext.
    uint256 private constant SEVEN_WORDS = 224;

    /// @dev The token's EIP-712 domain at birth. On another chain the token has another, and no coupon is good.
    bytes32 private immutable TOKEN_DOMAIN;

    /// @dev A token without EIP-712 gets no coupons: nothing hashes in domain 0.
    constructor(IERC20 usdc) {
        (, TOKEN_DOMAIN) = Ask.word(address(usdc), gasleft(), abi.encodeCall(IERC20Permit.DOMAIN_SEPARATOR, ()));
    }

    /* ERC-7710 */

    /// @inheritdoc IX402Payer
    function redeemDelegations(bytes[] calldata contexts, bytes32[] calldata modes, bytes[] calldata executions)
        external
    {
        uint256 count = contexts.length;
        bool equal = count != 0 && count == modes.length && count == executions.length;
        require(equal, UnequalLengths());
        for (uint256 i; i < count; ++i) {
            require(modes[i] == 0, UnsupportedMode(modes[i]));
            _redeem(contexts[i], executions[i]);
        }
    }

    function _redeem(bytes calldata context, bytes calldata execution) private {
        (address to, uint256 amount) = _readTransfer(execution);
        require(context.length == SEVEN_WORDS, UnsupportedExecution());
        DelegationContext calldata c;
        assembly ("memory-safe") {
            c := context.offset
        }
        address redeemer = c.redeemer;
        require(redeemer == address(0) || redeemer == msg.sender, NotRedeemer(msg.sender, redeemer));
        _admit(c.agent, c.nonce, c.deadline, _hashRedemption(c, to, amount), c.r, c.vs);
        _pay(c.agent, to, amount, c.context);
    }

    /// @dev Token 20 | value 32 | selector 4 | to 32 | amount 32. Nothing of it is forwarded.
    function _readTransfer(bytes calldata execution) private view returns (address to, uint256 amount) {
        require(execution.length == 120, UnsupportedExecution());
        uint256 receiver = uint256(bytes32(execution[56:]));
        // The first 64 bytes hold the upper 8 of the receiver's word, so the three comparisons overlap.
        require(
            uint256(bytes32(execution)) == uint256(uint160(address(USDC))) << 96
                && uint256(bytes32(execution[32:])) == uint256(uint32(IERC20.transfer.selector)) << 64
                && receiver >> 160 == 0,
            UnsupportedExecution()
        );
        return (address(uint160(receiver)), uint256(bytes32(execution[88:])));
    }

    function _hashRedemption(DelegationContext calldata c, address to, uint256 amount)
        private
        view
        returns (bytes32 digest)
    {
        bytes32 typehash = REDEMPTION_TYPEHASH;
        assembly ("memory-safe") {
            let data := mload(0x40)
            mstore(data, typehash)
            calldatacopy(add(data, 0x20), c, 0xa0)
            mstore(add(data, 0xc0), to)
            mstore(add(data, 0xe0), amount)
            digest := keccak256(data, 0x100)
        }
        digest = _hashTypedDataV4(digest);
    }

    /* ERC-1271 */

    /// @inheritdoc IX402Payer
    function isValidSignature(bytes32 hash, bytes calldata coupon) external view returns (bytes4) {
        return _isCoupon(hash, coupon) ? IERC1271.isValidSignature.selector : bytes4(0xffffffff);
    }

    /// @dev The digest is made anew from what the wallet allows, so that no other message can pass for it. Judged like a
    /// payment, but for the limits with counters.
    function _isCoupon(bytes32 hash, bytes calldata coupon) private view returns (bool) {
        if (coupon.length != SEVEN_WORDS) return false;
        (uint256 to, uint256 value, uint256 validAfter, uint256 validBefore, uint256 index, bytes32 r, bytes32 vs) =
            abi.decode(coupon, (uint256, uint256, uint256, uint256, uint256, bytes32, bytes32));
        address agent = _recover(hash, r, vs);
        Coupons granted = Coupons.wrap(coupons[agent]);
        uint256 length = granted.period();
        if (agent == address(0) || length == 0 || to >> 160 != 0 || value > granted.worth(index)) return false;
        uint256 period = block.timestamp / length;
        if (validAfter < period * length || validBefore > (period + 1) * length) return false;

        Account memory account = _load(_agents[agent], agent, ALL_OVERRIDES);
        (bytes4 reason,) = _standing(account);
        if (reason != 0) return false;
        PayeeRecord payee = _payees[address(uint160(to))];
        (reason,) = _judge(account, payee, address(uint160(to)), value, 0);
        if (reason != 0 || payee.counts()) return false;

        bytes32 nonce = keccak256(abi.encode(agent, period, index));
        bytes32 structHash = keccak256(abi.encode(TRANSFER_TYPEHASH, this, to, value, validAfter, validBefore, nonce));
        return hash == MessageHashUtils.toTypedDataHash(TOKEN_DOMAIN, structHash);
    }
}
