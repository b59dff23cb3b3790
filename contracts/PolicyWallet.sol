// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {ChannelDoor} from "./ChannelDoor.sol";
import {EscrowDoor} from "./EscrowDoor.sol";
import {Governance} from "./Governance.sol";
import {X402Door} from "./X402Door.sol";
import {IChannelHub} from "./interfaces/IChannelHub.sol";
import {Batch, IPolicyWallet} from "./interfaces/IPolicyWallet.sol";
import {IWorkEscrow} from "./interfaces/IWorkEscrow.sol";
import {PayeeRecord} from "./types/PayeeRecord.sol";

/// @title PolicyWallet
/// @notice An organisation's USDC behind one spending policy. Agents sign payments, anyone relays them, this contract
/// judges; operators decide what is large and what changes.
///
/// @dev TOKEN. One token, fixed at deployment, that moves exactly the amount asked for and answers true: USDC. No
/// approval that outlives its call, no delegatecall, no call to anything but the token, the escrow and the hub of its
/// birth; operators' contracts and verifiers are asked by staticcall. No proxy, no upgrade, no owner beside the quorum.
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
/// RE-ENTRANCY. Counters are written before the token is called. What `payBatch` takes back after a failed transfer it
/// takes off the words as they are then, so that a call in between would find and leave true counters.
contract PolicyWallet is EscrowDoor, ChannelDoor, X402Door {
    /* CONSTANTS */

    /// @notice Items plus batches of one `payBatch`; keeps the worst case well under 2^24 gas (EIP-7825), and the items of
    /// one batch within a 256-bit map.
    uint256 public constant MAX_ITEMS = 200;

    bytes32 private constant PAYMENT_TYPEHASH =
        keccak256("Payment(address agent,address to,uint256 amount,uint256 nonce,uint256 deadline,bytes32 context)");
    bytes32 private constant APPROVED_TYPEHASH = keccak256(
        "ApprovedPayment(address agent,address to,uint256 amount,uint256 nonce,uint256 deadline,bytes32 context,uint256 overrides,uint256 policyVersion)"
    );
    bytes32 private constant BATCH_TYPEHASH =
        keccak256("PayBatch(address agent,uint256 nonce,uint256 deadline,bytes32 context,bytes32[] items)");

    /* CONSTRUCTOR */

    /// @param usdc the token
    /// @param escrow WorkEscrow of the same token; 0: this wallet opens no escrows
    /// @param hub channels by x402's batch-settlement; 0: this wallet has none
    /// @param operators ERC-7913 signers, at most 32
    /// @param threshold_ how many of them are the quorum
    /// @param delay seconds that loosening waits
    /// @param changes run at birth with the quorum's authority and without delay
    constructor(
        IERC20 usdc,
        IWorkEscrow escrow,
        IChannelHub hub,
        bytes[] memory operators,
        uint64 threshold_,
        uint32 delay,
        bytes[] memory changes
    ) Governance(operators, threshold_, delay) X402Door(usdc) {
        require(address(escrow) == address(0) || escrow.TOKEN() == address(usdc), InvalidChange());
        USDC = usdc;
        ESCROW = escrow;
        HUB = hub;
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
    ) external {
        _admit(agent, nonce, deadline, _hashHead(PAYMENT_TYPEHASH, 6), r, vs);
        _pay(agent, to, amount, context);
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
    ) external {
        require(overrides != 0, NothingToOverride());
        bytes32 digest = _hashHead(APPROVED_TYPEHASH, 8);
        _admit(agent, nonce, deadline, digest, r, vs);
        Agent storage words = _agents[agent];
        Account memory account = _load(words, agent, overrides);
        _requireStanding(account);
        _requireOverride(account, overrides, policyVersion, digest, quorum);
        _spend(words, account, to, amount, overrides);
        emit Approved(agent, nonce, to, amount, overrides, policyVersion, context);
        require(_transfer(to, amount), TransferFailed());
    }

    /// @inheritdoc IPolicyWallet
    function payBatch(Batch[] calldata batches) external {
        require(!walletFrozen(), WalletFrozen());
        uint256 units;
        for (uint256 i; i < batches.length; ++i) {
            Batch calldata batch = batches[i];
            units += 1 + batch.items.length;
            bytes4 reason = _admitBatch(batch, units);
            if (reason == 0) reason = _runBatch(batch);
            if (reason != 0) emit BatchSkipped(batch.agent, batch.nonce, reason);
        }
    }

    /* ONE PAYMENT */

    /// @dev Digest of a struct whose fields are the first `count` arguments of this call, all of one word, in order.
    function _hashHead(bytes32 typehash, uint256 count) private view returns (bytes32 digest) {
        bytes32 domain = _domainSeparatorV4();
        assembly ("memory-safe") {
            let data := mload(0x40)
            let length := shl(5, count)
            mstore(data, typehash)
            calldatacopy(add(data, 0x20), 4, length)
            let structHash := keccak256(data, add(length, 0x20))
            mstore(data, shl(240, 0x1901))
            mstore(add(data, 0x02), domain)
            mstore(add(data, 0x22), structHash)
            digest := keccak256(data, 0x42)
        }
    }

    /* ONE BATCH */

    /// @dev Length, deadline, nonce and the agent's signature.
    function _admitBatch(Batch calldata batch, uint256 units) private view returns (bytes4) {
        bytes32[] calldata items = batch.items;
        if (items.length == 0 || units > MAX_ITEMS) return BatchLength.selector;
        if (block.timestamp > batch.deadline) return DeadlinePassed.selector;
        if (nonceUsed(batch.agent, batch.nonce)) return NonceUsed.selector;
        bytes32 digest = _hashTypedDataV4(
            keccak256(
                abi.encode(
                    BATCH_TYPEHASH,
                    batch.agent,
                    batch.nonce,
                    batch.deadline,
                    batch.context,
                    keccak256(abi.encodePacked(items))
                )
            )
        );
        return _signed(batch.agent, digest, batch.r, batch.vs) ? bytes4(0) : InvalidSignature.selector;
    }

    /// @dev Judges the items in list order, writes the words, pays, and takes the failed transfers off again.
    function _runBatch(Batch calldata batch) private returns (bytes4 reason) {
        Agent storage words = _agents[batch.agent];
        Account memory account = _load(words, batch.agent, 0);
        (reason,) = _standing(account);
        if (reason != 0) return reason;
        _useNonce(batch.agent, batch.nonce);

        // With counters, as their items found them.
        PayeeRecord[] memory payees = new PayeeRecord[](batch.items.length);
        uint256 passed = _judgeItems(batch, account, payees);
        _store(words, account, account.booked);
        (uint256 count, uint256 failed) = _payItems(batch, passed, payees);
        if (failed != 0) _unstore(words, account, failed);
        emit BatchPaid(
            batch.agent, batch.nonce, count, account.booked - failed, account.policy.version(), batch.context
        );
    }

    /// @return passed bit i: item i passed, and its payee's word is written
    function _judgeItems(Batch calldata batch, Account memory account, PayeeRecord[] memory payees)
        private
        returns (uint256 passed)
    {
        bytes32[] calldata items = batch.items;
        for (uint256 i; i < items.length; ++i) {
            (address to, uint256 amount) = _split(items[i]);
            PayeeRecord payee = _payees[to];
            (bytes4 reason, uint256 left) = _judge(account, payee, to, amount, 0);
            if (reason != 0) {
                emit ItemSkipped(batch.agent, batch.nonce, i, reason, left);
                continue;
            }
            unchecked {
                account.left -= amount; // amount <= left, by judgement
                account.booked += amount; // 200 times 2^96 at most
            }
            passed |= 1 << i;
            if (payee.counts()) {
                payees[i] = payee;
                _storePayee(payee, to, amount);
            }
        }
    }

    /// @return count transfers that went through
    /// @return failed sum of those that did not
    function _payItems(Batch calldata batch, uint256 passed, PayeeRecord[] memory payees)
        private
        returns (uint256 count, uint256 failed)
    {
        bytes32[] calldata items = batch.items;
        for (uint256 i; i < items.length; ++i) {
            if (passed & 1 << i == 0) continue;
            (address to, uint256 amount) = _split(items[i]);
            uint256 gasBefore = gasleft();
            if (_transfer(to, amount)) {
                ++count;
                continue;
            }
            // A failure that ate nearly all gas is the relayer's, who gave too little, and not the item's.
            require(gasleft() > gasBefore / 8, OutOfGas());
            failed += amount;
            _unstorePayee(payees[i], to, amount);
            emit ItemSkipped(batch.agent, batch.nonce, i, TransferFailed.selector, 0);
        }
    }

    function _split(bytes32 item) private pure returns (address to, uint256 amount) {
        return (address(uint160(uint256(item) >> 96)), uint96(uint256(item)));
    }
}
