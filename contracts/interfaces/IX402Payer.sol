// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

/// @dev What an agent signs for `redeemDelegations`. Hashed in the wallet's domain under this very name.
struct Redemption {
    address agent;
    address redeemer; // the only caller it is for; 0: anyone
    uint256 nonce; // of the agent's, as in a payment
    uint256 deadline; // unix seconds, inclusive
    bytes32 context; // hash of the request's context
    address to;
    uint256 amount; // USDC base units
}

/// @dev One of the `contexts` of `redeemDelegations`, abi-encoded: 224 bytes. `to` and `amount` are the execution's.
struct DelegationContext {
    address agent;
    address redeemer;
    uint256 nonce;
    uint256 deadline;
    bytes32 context;
    bytes32 r; // EIP-2098, over the Redemption
    bytes32 vs;
}

/// @dev The signature of a coupon as `isValidSignature` wants it, abi-encoded: 224 bytes.
struct Coupon {
    address to;
    uint256 value; // USDC base units
    uint256 validAfter; // unix seconds
    uint256 validBefore;
    uint256 index; // class << 16 | number
    bytes32 r; // EIP-2098, over USDC's digest itself
    bytes32 vs;
}

/// @title IX402Payer
/// @notice A PolicyWallet as the payer of x402 `exact`: by EIP-3009 with coupons, by ERC-7710 with redemptions.
///
/// @dev COUPONS. USDC asks the wallet by staticcall, so nothing can be counted there. In place of a counter the nonces
/// are finite: operators give an agent some coupons for each period of fixed length (`IPolicyChanges.setCoupons`), each
/// of a class and good for that class's amount at most; a coupon's nonce is
/// keccak256(abi.encode(agent, block.timestamp / period, index)), and USDC takes each nonce once. So an agent's coupons
/// take out at most the sum over the classes of count times amount in one period, and twice that in an interval of one
/// period's length that lies across an edge. That is beside the agent's windows and budget and the wallet's cap, which
/// see nothing of it: grant accordingly. Frozen, expiry, registry and ceiling hold at settlement; a payee with a cap or a
/// cooldown of its own takes no coupons.
///
/// A signed coupon can't be called back: USDC would ask the wallet about its cancellation too, and hears no. It ends with
/// its period, when the agent or the wallet is frozen, the payee removed or the coupons taken away.
///
/// REDEMPTIONS. The wallet is delegator and delegation manager in one. What is redeemed is a payment, judged and counted
/// as in `pay`.
interface IX402Payer {
    event CouponsChanged(address indexed agent, uint256 coupons);

    error UnequalLengths(); // of the three lists; or they are empty
    error UnsupportedMode(bytes32 mode); // only 0: one call that reverts when it fails
    error UnsupportedExecution(); // not exactly the token's `transfer`, or a context of another length
    error NotRedeemer(address caller, address redeemer);

    /// @notice ERC-7710. Pays each redemption, or none of them.
    /// @param contexts abi-encoded DelegationContext
    /// @param executions 120 bytes: token 20, value 0 in 32, calldata of `transfer(to, amount)` 68
    function redeemDelegations(bytes[] calldata contexts, bytes32[] calldata modes, bytes[] calldata executions)
        external;

    /// @notice ERC-1271, for coupons and nothing else: 0x1626ba7e if `hash` is USDC's digest of the transfer in `coupon`,
    /// signed by the agent whose coupon it is, else 0xffffffff.
    function isValidSignature(bytes32 hash, bytes calldata coupon) external view returns (bytes4);

    /// @notice The agent's coupons: bits 0 to 31 the period in seconds (0: none); then four classes, each count (16 bits)
    /// and largest amount (40 bits).
    function coupons(address agent) external view returns (uint256);
}
