// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {Governance} from "./Governance.sol";
import {Policy} from "./Policy.sol";
import {Batch, IPolicyWallet} from "./interfaces/IPolicyWallet.sol";
import {PayeeRecord} from "./types/PayeeRecord.sol";

/// @title PolicyWallet
/// @notice An organisation's USDC behind one spending policy. Agents sign payments, anyone relays them, this contract
/// judges; operators decide what is large and what changes.
///
/// @dev TOKEN. One token, fixed at deployment, that moves exactly the amount asked for and answers true: USDC. No
/// approval, no delegatecall, no call to anything but the token's `transfer`; operators' contracts and verifiers are
/// asked by staticcall. No proxy, no upgrade, no owner beside the quorum.
///
/// CAPS. At most the ceiling in one payment of the agent alone; at most the day cap, the month cap and the wallet's
/// cap in any window of 24 hours, 30 days and 24 hours, wherever it starts; at most the budget in the agent's life; at
/// most the payee's cap in the payee's life. Equal to a cap passes. A cap bounds what leaves while it is on and
/// without the quorum: a counter stands still while its limit is off, and a payment that overrides a limit is neither
/// checked against it nor counted in it. Changing a cap never touches what is spent; a cap below it only blocks.
///
/// WINDOWS. See `Ring`. Capacity comes back at most one step (6 hours, 7.5 days, 8 hours) later than strictly needed,
/// never earlier. Time is the block's: a proposer who shifts its clock shifts the window by as much.
///
/// NONCES. Unordered, one bit each, used when the payment or the batch runs. Signatures are EIP-712, bound to this
/// contract and chain, one type for each meaning; agents sign in EIP-2098 form with low s only.
///
/// OVERRIDES. What the quorum names is set aside for one payment: ceiling, payee, agent's caps, wallet's cap. Freeze,
/// expiry, nonce, deadline and the reserved payees (zero, the wallet, the token, the agent itself) always hold.
///
/// ROLES. An account is never both agent and operator, so an agent's signature is never a co-signature.
///
/// TIMELOCK. See `Governance`. Loosening waits, tightening is instant; a payment in the same block as a freeze may
/// still precede it, bounded by the caps.
///
/// RE-ENTRANCY. Counters are written before the token is called. `payBatch` corrects them after failed transfers, so
/// while it runs every other way to move money or counters is locked.
contract PolicyWallet is Policy {
    /* CONSTANTS */

    /// @notice Items plus batches of one `payBatch`; keeps the worst case well under 2^24 gas (EIP-7825).
    uint256 public constant MAX_ITEMS = 200;

    bytes32 private constant PAYMENT_TYPEHASH = keccak256(
        "Payment(address agent,address to,uint256 amount,uint256 nonce,uint256 deadline,bytes32 context)"
    );
    bytes32 private constant APPROVED_TYPEHASH = keccak256(
        "ApprovedPayment(address agent,address to,uint256 amount,uint256 nonce,uint256 deadline,bytes32 context,uint256 overrides,uint256 policyVersion)"
    );
    bytes32 private constant BATCH_TYPEHASH =
        keccak256("PayBatch(address agent,uint256 nonce,uint256 deadline,bytes32 context,bytes32[] items)");

    /* CONSTRUCTOR */

    /// @param usdc the token
    /// @param operators ERC-7913 signers, at most 32
    /// @param threshold_ how many of them are the quorum
    /// @param delay seconds that loosening waits
    /// @param changes run at birth with the quorum's authority and without delay
    constructor(IERC20 usdc, bytes[] memory operators, uint64 threshold_, uint32 delay, bytes[] memory changes)
        Governance(operators, threshold_, delay)
    {
        USDC = usdc;
        for (uint256 i; i < changes.length; ++i) {
            _apply(changes[i], false);
            emit ChangeExecuted(keccak256(changes[i]), changes[i]);
        }
    }

    /* DOORS */

    /// @inheritdoc IPolicyWallet
    function pay(
        address agent,
        address to,
        uint256 amount,
        uint256 nonce,
        uint256 deadline,
        bytes32 context,
        bytes32 r,
        bytes32 vs
    ) external whenUnlocked {
        _admit(
            agent,
            nonce,
            deadline,
            _hashTypedDataV4(
                keccak256(abi.encode(PAYMENT_TYPEHASH, agent, to, amount, nonce, deadline, context))
            ),
            r,
            vs
        );
        Account memory account = _load(agent, 0);
        _requireStanding(account);
        _spend(account, to, amount, context, 0);
    }

    /// @inheritdoc IPolicyWallet
    function payApproved(
        address agent,
        address to,
        uint256 amount,
        uint256 nonce,
        uint256 deadline,
        bytes32 context,
        uint256 overrides,
        uint256 policyVersion,
        bytes32 r,
        bytes32 vs,
        bytes calldata quorum
    ) external whenUnlocked {
        require(overrides != 0, NothingToOverride());
        require(overrides <= ALL_OVERRIDES, InvalidChange());
        bytes32 digest = _hashTypedDataV4(
            keccak256(
                abi.encode(
                    APPROVED_TYPEHASH, agent, to, amount, nonce, deadline, context, overrides, policyVersion
                )
            )
        );
        _admit(agent, nonce, deadline, digest, r, vs);
        Account memory account = _load(agent, overrides);
        _requireStanding(account);
        uint256 current = account.policy.version();
        require(policyVersion == current, PolicyVersionChanged(policyVersion, current));
        _requireQuorum(digest, quorum);
        _spend(account, to, amount, context, overrides);
        emit Approved(agent, nonce, overrides);
    }

    /// @inheritdoc IPolicyWallet
    function payBatch(Batch[] calldata batches) external whenUnlocked {
        require(!walletFrozen(), WalletFrozen());
        _locked = true;
        uint256 units;
        for (uint256 i; i < batches.length; ++i) {
            Batch calldata batch = batches[i];
            units += 1 + batch.items.length;
            (bytes4 reason, Account memory account) = _admitBatch(batch, units);
            if (reason == 0) _runBatch(batch, account);
            else emit BatchSkipped(batch.agent, batch.nonce, reason);
        }
        _locked = false;
    }

    /* ONE PAYMENT */

    /// @dev Deadline, nonce and the agent's signature.
    function _admit(address agent, uint256 nonce, uint256 deadline, bytes32 digest, bytes32 r, bytes32 vs) private {
        require(block.timestamp <= deadline, DeadlinePassed(deadline));
        _useNonce(agent, nonce);
        require(_signed(agent, digest, r, vs), InvalidSignature());
    }

    function _signed(address agent, bytes32 digest, bytes32 r, bytes32 vs) private pure returns (bool) {
        (address recovered, ECDSA.RecoverError problem,) = ECDSA.tryRecover(digest, r, vs);
        return problem == ECDSA.RecoverError.NoError && recovered == agent;
    }

    function _requireStanding(Account memory account) private view {
        (bytes4 reason, uint256 detail) = _standing(account);
        if (reason == WalletFrozen.selector) revert WalletFrozen();
        if (reason != 0) _revert(abi.encodeWithSelector(reason, detail));
    }

    function _spend(Account memory account, address to, uint256 amount, bytes32 context, uint256 overrides) private {
        PayeeRecord payee = _payees[to];
        (bytes4 reason, uint256 left) = _judge(account, payee, to, amount, overrides);
        if (reason != 0) _revert(abi.encodeWithSelector(reason, amount, left));
        _book(account, amount);
        _store(account);
        if (overrides & PAST_PAYEE == 0) _bookPayee(to, payee, amount);
        emit Paid(account.agent, to, amount, account.policy.version(), context);
        require(_transfer(to, amount), TransferFailed());
    }

    function _revert(bytes memory reason) private pure {
        assembly ("memory-safe") {
            revert(add(reason, 0x20), mload(reason))
        }
    }

    /* ONE BATCH */

    /// @dev Uses the nonce if the batch may run, else says why not.
    function _admitBatch(Batch calldata batch, uint256 units) private returns (bytes4 reason, Account memory account) {
        if (batch.items.length == 0 || units > MAX_ITEMS) return (BatchLength.selector, account);
        if (block.timestamp > batch.deadline) return (DeadlinePassed.selector, account);
        if (nonceUsed(batch.agent, batch.nonce)) return (NonceUsed.selector, account);
        bytes32 items = keccak256(abi.encodePacked(batch.items));
        bytes32 digest = _hashTypedDataV4(
            keccak256(
                abi.encode(BATCH_TYPEHASH, batch.agent, batch.nonce, batch.deadline, batch.context, items)
            )
        );
        if (!_signed(batch.agent, digest, batch.r, batch.vs)) return (InvalidSignature.selector, account);
        account = _load(batch.agent, 0);
        (reason,) = _standing(account);
        if (reason == 0) _useNonce(batch.agent, batch.nonce);
    }

    /// @dev Judges and books in list order, writes the words, pays, and takes the failed transfers off again.
    function _runBatch(Batch calldata batch, Account memory account) private {
        uint256 length = batch.items.length;
        uint256[] memory amounts = new uint256[](length); // 0: skipped
        PayeeRecord[] memory payees = new PayeeRecord[](length); // as each item found its payee
        for (uint256 i; i < length; ++i) {
            (address to, uint256 amount) = _split(batch.items[i]);
            PayeeRecord payee = _payees[to];
            (bytes4 reason, uint256 left) = _judge(account, payee, to, amount, 0);
            if (reason != 0) {
                emit ItemSkipped(batch.agent, batch.nonce, i, reason, left);
                continue;
            }
            _book(account, amount);
            _bookPayee(to, payee, amount);
            (amounts[i], payees[i]) = (amount, payee);
        }
        _store(account);
        (uint256 count, uint256 total) = _payItems(batch, account, amounts, payees);
        emit BatchPaid(batch.agent, batch.nonce, count, total, account.policy.version(), batch.context);
    }

    function _payItems(
        Batch calldata batch,
        Account memory account,
        uint256[] memory amounts,
        PayeeRecord[] memory payees
    ) private returns (uint256 count, uint256 total) {
        bool failed;
        for (uint256 i; i < amounts.length; ++i) {
            uint256 amount = amounts[i];
            if (amount == 0) continue;
            (address to,) = _split(batch.items[i]);
            uint256 gasBefore = gasleft();
            if (_transfer(to, amount)) {
                ++count;
                total += amount;
                continue;
            }
            // A failure that ate nearly all gas is the relayer's, who gave too little, and not the item's.
            require(gasleft() > gasBefore / 8, OutOfGas());
            failed = true;
            _unbook(account, amount);
            if (payees[i].counts()) _payees[to] = _payees[to].sub(amount, payees[i]);
            emit ItemSkipped(batch.agent, batch.nonce, i, TransferFailed.selector, 0);
        }
        if (failed) _store(account);
    }

    function _split(bytes32 item) private pure returns (address to, uint256 amount) {
        return (address(uint160(uint256(item) >> 96)), uint96(uint256(item)));
    }
}
