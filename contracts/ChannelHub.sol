// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {Multicall} from "@openzeppelin/contracts/utils/Multicall.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {Ask} from "./Ask.sol";
import {ChannelDigests, TypedConfig} from "./ChannelDigests.sol";
import {ChannelConfig, IChannelHub, Skip, VoucherClaim} from "./interfaces/IChannelHub.sol";
import {IDepositCollector} from "./interfaces/IDepositCollector.sol";
import {ChannelState, ChannelStateLib} from "./types/ChannelState.sol";
import {ClaimRow, ClaimRowLib} from "./types/ClaimRow.sol";

/// @title ChannelHub
/// @notice One-way payment channels behind the interface of x402's batch-settlement contract, with packed claims added. No
/// owner, no fee, nothing can be changed.
///
/// @dev IDEA. A channel is one word: what was deposited and how much of it the receiver has claimed. Both only grow, but
/// for refunds and withdrawals, which lower the balance by what is not claimed. The payer signs totals; the receiver
/// claims the last one. Claims raise the receiver's total per token, `settle` pays the difference to what it was paid.
///
///  (none) --deposit--> open --claim--> open           totalClaimed up
///  open --refund, by the receiver's side--> open      balance down, at most to totalClaimed
///  open --initiateWithdraw, by the payer's side--> closing --delay, finalizeWithdraw--> open, the same
///
/// TRUST. The payer risks what it has signed: the receiver may claim the whole ceiling of the last voucher, whatever it
/// charged. The receiver risks what it has not claimed when a withdrawal's delay is over: only claims reserve money.
/// It watches `WithdrawInitiated` and claims in time.
///
/// VOUCHERS are signed by accounts, never by contracts: a contract whose owners change would take back vouchers that are
/// already paid for in service. x402 asks a payer without payerAuthorizer by ERC-1271; here `deposit` refuses such a
/// config with `InvalidChannel`. A payer that is a contract names an account. receiverAuthorizer may be a contract:
/// it speaks for itself only.
///
/// NO EPOCH, as in x402: a voucher that was not claimed is good again when its channel is refilled after an exit. A payer
/// that has left takes a fresh salt.
///
/// STANDS STILL. A token that does not pay the receiver stops `settle`, not claims; one that does not pay the payer
/// stops its exits, not the receiver's money.
///
/// TOKENS. Any, each for itself: what arrives is measured, so that one which takes a fee cannot be deposited. Balances that
/// change by themselves are nobody's here. A hostile token harms only its own channels.
///
/// RE-ENTRANCY. A transient lock over all functions that write; state before any call. While a collector runs the
/// deposit is already in the views; if it does not arrive nothing of it has happened.
contract ChannelHub is ChannelDigests, Multicall {
    using SafeERC20 for IERC20;

    /// @dev Gas for one ERC-1271 receiverAuthorizer: a quorum of passkeys fits.
    uint256 private constant SIGNER_GAS = 2_000_000;

    /// @dev What only exits touch.
    struct Exit {
        uint96 withdrawAmount; // of the pending withdrawal; 0 when none is
        uint160 refundNonce;
    }

    struct Totals {
        uint128 totalClaimed;
        uint128 totalSettled;
    }

    /* STORAGE */

    mapping(bytes32 channelId => ChannelState) private _states;
    mapping(bytes32 channelId => Exit) private _exits;
    /// @inheritdoc IChannelHub
    mapping(address receiver => mapping(address token => Totals)) public receivers;
    bool private transient _entered;

    modifier locked() {
        require(!_entered, Reentrancy());
        _entered = true;
        _;
        _entered = false;
    }

    /* MONEY IN */

    /// @inheritdoc IChannelHub
    function deposit(ChannelConfig calldata config, uint128 amount, address collector, bytes calldata collectorData)
        external
        locked
    {
        _checkConfig(config);
        require(amount != 0, ZeroDeposit());
        require(collector.code.length != 0, InvalidCollector());
        bytes32 channelId = getChannelId(config);
        ChannelState state = _states[channelId];
        if (state.balance() == 0) emit ChannelCreated(channelId, config);
        uint256 balance = state.balance() + amount;
        require(balance <= ChannelStateLib.MAX, DepositOverflow());
        _states[channelId] = state.put(amount);
        emit Deposited(channelId, msg.sender, amount, uint128(balance));

        IERC20 token = IERC20(config.token);
        uint256 before = token.balanceOf(address(this));
        IDepositCollector(collector).collect(config.payer, config.token, amount, channelId, collectorData);
        require(token.balanceOf(address(this)) == before + amount, DepositCollectionFailed());
    }

    function _checkConfig(ChannelConfig calldata config) private pure {
        require(config.payer != address(0) && config.payerAuthorizer != address(0), InvalidChannel());
        require(config.receiver != address(0) && config.receiverAuthorizer != address(0), InvalidChannel());
        require(config.token != address(0), InvalidChannel());
        uint256 delay = config.withdrawDelay;
        require(delay >= MIN_WITHDRAW_DELAY && delay <= MAX_WITHDRAW_DELAY, WithdrawDelayOutOfRange());
    }

    /* CLAIMS */

    /// @inheritdoc IChannelHub
    function claim(VoucherClaim[] calldata voucherClaims) external locked {
        for (uint256 i; i < voucherClaims.length; ++i) {
            ChannelConfig calldata config = voucherClaims[i].voucher.channel;
            _requireReceiverSide(config.receiver, config.receiverAuthorizer);
        }
        _claim(voucherClaims);
    }

    /// @inheritdoc IChannelHub
    function claimWithSignature(VoucherClaim[] calldata voucherClaims, bytes calldata authorizerSignature)
        external
        locked
    {
        require(voucherClaims.length != 0, EmptyBatch());
        address authorizer = voucherClaims[0].voucher.channel.receiverAuthorizer;
        for (uint256 i = 1; i < voucherClaims.length; ++i) {
            require(voucherClaims[i].voucher.channel.receiverAuthorizer == authorizer, NotReceiverAuthorizer());
        }
        _requireSigned(authorizer, getClaimBatchDigest(voucherClaims), authorizerSignature);
        _claim(voucherClaims);
    }

    /// @dev A receiver's total is written once for each run of its rows.
    function _claim(VoucherClaim[] calldata voucherClaims) private {
        require(voucherClaims.length != 0, EmptyBatch());
        bytes32 domain = _domain();
        address receiver;
        address token;
        uint256 run;
        for (uint256 i; i < voucherClaims.length; ++i) {
            ChannelConfig calldata config = voucherClaims[i].voucher.channel;
            if (config.receiver != receiver || config.token != token) {
                _credit(receiver, token, run);
                (receiver, token, run) = (config.receiver, config.token, 0);
            }
            run += _claimOne(domain, voucherClaims[i]);
        }
        _credit(receiver, token, run);
    }

    /// @dev A row of x402's: all but `NothingNew` reverts.
    function _claimOne(bytes32 domain, VoucherClaim calldata row) private returns (uint256 claimed) {
        uint256 max = row.voucher.maxClaimableAmount;
        uint256 total = row.totalClaimed;
        bytes32 channelId = _channelId(domain, row.voucher.channel);
        ChannelState state = _states[channelId];
        Skip reason = state.refusal(max, total);
        if (reason == Skip.NothingNew) return 0;
        require(reason != Skip.ExceedsCeiling, ClaimExceedsCeiling());
        require(reason != Skip.ExceedsBalance, ClaimExceedsBalance());
        (address signer, ECDSA.RecoverError error_,) =
            ECDSA.tryRecoverCalldata(_voucherDigest(domain, channelId, max), row.signature);
        bool good = error_ == ECDSA.RecoverError.NoError && signer == row.voucher.channel.payerAuthorizer;
        require(good, InvalidSignature());
        return _book(channelId, state, total);
    }

    /// @inheritdoc IChannelHub
    function claimPacked(address receiver, address receiverAuthorizer, address token, bytes calldata rows)
        external
        locked
        returns (uint256 claimed)
    {
        _requireReceiverSide(receiver, receiverAuthorizer);
        claimed = _claimRows(receiver, receiverAuthorizer, token, rows);
        _credit(receiver, token, claimed);
    }

    /// @inheritdoc IChannelHub
    function claimPackedWithSignature(
        address receiver,
        address receiverAuthorizer,
        address token,
        bytes calldata rows,
        bytes calldata authorizerSignature
    ) external locked returns (uint256 claimed) {
        bytes32 domain = _domain();
        bytes32[] memory entries = new bytes32[](_countRows(rows));
        TypedConfig memory config = _shared(receiver, receiverAuthorizer, token);
        for (uint256 i; i < entries.length; ++i) {
            ClaimRow row = ClaimRowLib.at(rows, i);
            entries[i] = _claimEntry(_channelId(domain, config, row), row.maxClaimableAmount(), row.totalClaimed());
        }
        _requireSigned(receiverAuthorizer, _claimBatch(domain, entries), authorizerSignature);
        claimed = _claimRows(receiver, receiverAuthorizer, token, rows);
        _credit(receiver, token, claimed);
    }

    /// @inheritdoc IChannelHub
    function claimAndSettle(address receiver, address receiverAuthorizer, address token, bytes calldata rows)
        external
        locked
        returns (uint256 paid)
    {
        _requireReceiverSide(receiver, receiverAuthorizer);
        Totals memory totals = receivers[receiver][token];
        uint256 claimed = _claimRows(receiver, receiverAuthorizer, token, rows);
        uint128 total = _raise(totals.totalClaimed, claimed);
        paid = total - totals.totalSettled;
        receivers[receiver][token] = Totals(total, total);
        _pay(receiver, token, paid);
    }

    function _countRows(bytes calldata rows) private pure returns (uint256 count) {
        require(rows.length != 0, EmptyBatch());
        require(rows.length % ClaimRowLib.SIZE == 0, UnevenRows(rows.length));
        return rows.length / ClaimRowLib.SIZE;
    }

    /// @return claimed by all rows together; the caller credits it
    function _claimRows(address receiver, address receiverAuthorizer, address token, bytes calldata rows)
        private
        returns (uint256 claimed)
    {
        uint256 count = _countRows(rows);
        bytes32 domain = _domain();
        TypedConfig memory config = _shared(receiver, receiverAuthorizer, token);
        for (uint256 i; i < count; ++i) {
            ClaimRow row = ClaimRowLib.at(rows, i);
            bytes32 channelId = _channelId(domain, config, row);
            ChannelState state = _states[channelId];
            uint256 total = row.totalClaimed();
            Skip reason = state.refusal(row.maxClaimableAmount(), total);
            if (reason == Skip.None) {
                bytes32 digest = _voucherDigest(domain, channelId, row.maxClaimableAmount());
                (address signer, ECDSA.RecoverError error_,) = ECDSA.tryRecover(digest, row.r(), row.vs());
                if (error_ == ECDSA.RecoverError.NoError && signer == row.payerAuthorizer()) {
                    claimed += _book(channelId, state, total);
                    continue;
                }
                reason = Skip.InvalidSignature;
            }
            emit ClaimSkipped(channelId, reason);
        }
    }

    /// @dev Both paths end here: `refusal` and the signature have allowed the total.
    function _book(bytes32 channelId, ChannelState state, uint256 total) private returns (uint256 claimed) {
        claimed = total - state.totalClaimed();
        _states[channelId] = state.claim(total);
        emit Claimed(channelId, msg.sender, uint128(claimed), uint128(total));
    }

    function _credit(address receiver, address token, uint256 claimed) private {
        if (claimed == 0) return;
        Totals storage totals = receivers[receiver][token];
        totals.totalClaimed = _raise(totals.totalClaimed, claimed);
    }

    function _raise(uint256 total, uint256 claimed) private pure returns (uint128) {
        total += claimed;
        require(total <= type(uint128).max, ReceiverOverflow());
        return uint128(total);
    }

    /// @inheritdoc IChannelHub
    function settle(address receiver, address token) external locked {
        Totals storage totals = receivers[receiver][token];
        uint256 amount = totals.totalClaimed - totals.totalSettled;
        totals.totalSettled = totals.totalClaimed;
        _pay(receiver, token, amount);
    }

    function _pay(address receiver, address token, uint256 amount) private {
        if (amount == 0) return;
        emit Settled(receiver, token, msg.sender, uint128(amount));
        IERC20(token).safeTransfer(receiver, amount);
    }

    /* EXITS */

    /// @inheritdoc IChannelHub
    function initiateWithdraw(ChannelConfig calldata config, uint128 amount) external locked {
        require(_isPayerSide(config), InvalidChannel());
        (bytes32 channelId, ChannelState state) = _load(config);
        require(state.withdrawInitiatedAt() == 0, WithdrawalAlreadyPending());
        require(amount != 0, NothingToWithdraw());
        require(amount <= state.available(), WithdrawAmountExceedsAvailable());
        _states[channelId] = state.initiate(block.timestamp);
        _exits[channelId].withdrawAmount = uint96(amount);
        emit WithdrawInitiated(channelId, amount, uint40(block.timestamp + config.withdrawDelay));
    }

    /// @inheritdoc IChannelHub
    function finalizeWithdraw(ChannelConfig calldata config) external locked {
        require(_isPayerSide(config), NotAuthorizedToFinalizeWithdraw());
        (bytes32 channelId, ChannelState state) = _load(config);
        uint256 initiatedAt = state.withdrawInitiatedAt();
        require(initiatedAt != 0, WithdrawalNotPending());
        require(block.timestamp >= initiatedAt + config.withdrawDelay, WithdrawDelayNotElapsed());
        uint256 amount = _min(_exits[channelId].withdrawAmount, state.available());
        _exits[channelId].withdrawAmount = 0;
        emit WithdrawFinalized(channelId, msg.sender, uint128(amount));
        _leave(channelId, config, state.initiate(0), amount);
    }

    /// @inheritdoc IChannelHub
    function refund(ChannelConfig calldata config, uint128 amount) external locked {
        bool side = msg.sender == config.receiver || msg.sender == config.receiverAuthorizer;
        require(side, NotAuthorizedToRefund());
        _refund(config, amount);
    }

    /// @inheritdoc IChannelHub
    function refundWithSignature(
        ChannelConfig calldata config,
        uint128 amount,
        uint256 nonce,
        bytes calldata receiverAuthorizerSignature
    ) external locked {
        bytes32 channelId = getChannelId(config);
        require(nonce == _exits[channelId].refundNonce, InvalidRefundNonce());
        bytes32 digest = getRefundDigest(channelId, nonce, amount);
        _requireSigned(config.receiverAuthorizer, digest, receiverAuthorizerSignature);
        _refund(config, amount);
    }

    /// @dev The nonce is spent even if nothing is left to pay.
    function _refund(ChannelConfig calldata config, uint128 asked) private {
        require(asked != 0, ZeroRefund());
        (bytes32 channelId, ChannelState state) = _load(config);
        Exit memory exit = _exits[channelId];
        uint256 amount = _min(asked, state.available());
        if (amount >= exit.withdrawAmount) (exit.withdrawAmount, state) = (0, state.initiate(0));
        else exit.withdrawAmount -= uint96(amount);
        ++exit.refundNonce;
        _exits[channelId] = exit;
        if (amount == 0) return;
        emit Refunded(channelId, msg.sender, uint128(amount));
        _leave(channelId, config, state, amount);
    }

    /// @dev Pays `amount`, at most what is available, to the payer.
    function _leave(bytes32 channelId, ChannelConfig calldata config, ChannelState state, uint256 amount) private {
        state = state.take(amount);
        _states[channelId] = state;
        if (amount == 0) return;
        if (state.available() == 0) emit ChannelClosed(channelId, config);
        IERC20(config.token).safeTransfer(config.payer, amount);
    }

    /// @inheritdoc IChannelHub
    function multicall(bytes[] calldata data) public override(IChannelHub, Multicall) returns (bytes[] memory results) {
        return super.multicall(data);
    }

    /* VIEWS */

    /// @inheritdoc IChannelHub
    function channels(bytes32 channelId) external view returns (uint128 balance, uint128 totalClaimed) {
        ChannelState state = _states[channelId];
        return (uint128(state.balance()), uint128(state.totalClaimed()));
    }

    /// @inheritdoc IChannelHub
    function pendingWithdrawals(bytes32 channelId) external view returns (uint128 amount, uint40 initiatedAt) {
        return (_exits[channelId].withdrawAmount, uint40(_states[channelId].withdrawInitiatedAt()));
    }

    /// @inheritdoc IChannelHub
    function refundNonce(bytes32 channelId) external view returns (uint256) {
        return _exits[channelId].refundNonce;
    }

    /* WHO */

    function _load(ChannelConfig calldata config) private view returns (bytes32 channelId, ChannelState state) {
        channelId = getChannelId(config);
        state = _states[channelId];
    }

    function _requireReceiverSide(address receiver, address receiverAuthorizer) private view {
        require(msg.sender == receiver || msg.sender == receiverAuthorizer, NotAuthorizedToClaim());
    }

    function _isPayerSide(ChannelConfig calldata config) private view returns (bool) {
        return msg.sender == config.payer || msg.sender == config.payerAuthorizer;
    }

    function _requireSigned(address account, bytes32 digest, bytes calldata signature) private view {
        require(Ask.signed(account, digest, signature, SIGNER_GAS), InvalidSignature());
    }

    function _min(uint256 a, uint256 b) private pure returns (uint256) {
        return a < b ? a : b;
    }
}
