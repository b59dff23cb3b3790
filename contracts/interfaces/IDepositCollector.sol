// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

/// @title IDepositCollector
/// @notice Brings a deposit's money to the hub. Whoever deposits names the collector; the hub trusts it with nothing
/// and looks only at what has arrived when it returns.
interface IDepositCollector {
    /// @notice Moves exactly `amount` of `token` from `payer` to the caller, the hub, or reverts.
    /// @dev ANYBODY can make the hub call any collector with any payer's name on a channel to himself. A collector that
    /// can reach money therefore needs the payer's word for this very channel and amount.
    /// @param amount base units of `token`
    function collect(address payer, address token, uint256 amount, bytes32 channelId, bytes calldata collectorData)
        external;
}
