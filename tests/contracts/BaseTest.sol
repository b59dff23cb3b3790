// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {Test} from "forge-std/Test.sol";
import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {DevUSDC} from "contracts/DevUSDC.sol";
import {PolicyWallet} from "contracts/PolicyWallet.sol";
import {AgentLimits, Batch, IPolicyChanges, IPolicyWallet, PayeeLimits} from "contracts/interfaces/IPolicyWallet.sol";
import {IChannelHub} from "contracts/interfaces/IChannelHub.sol";
import {IWorkEscrow} from "contracts/interfaces/IWorkEscrow.sol";

/// @dev One payment as an agent signs it. `overrides` != 0 makes it an approved one.
struct Payment {
    address to;
    uint256 amount;
    uint256 nonce;
    uint256 deadline;
    bytes32 context;
    uint256 overrides;
    uint256 version;
}

/// @dev A wallet with two agents, three operators (quorum two) and two payees, and helpers that sign for all of them.
abstract contract BaseTest is Test {
    uint256 internal constant USD = 1e6;
    uint48 internal constant OFF = type(uint48).max;
    uint32 internal constant DELAY = 2 days;

    string internal constant PAYMENT =
        "Payment(address agent,address to,uint256 amount,uint256 nonce,uint256 deadline,bytes32 context)";
    string internal constant APPROVED =
        "ApprovedPayment(address agent,address to,uint256 amount,uint256 nonce,uint256 deadline,bytes32 context,uint256 overrides,uint256 policyVersion)";
    string internal constant BATCH =
        "PayBatch(address agent,uint256 nonce,uint256 deadline,bytes32 context,bytes32[] items)";

    PolicyWallet internal wallet;
    DevUSDC internal usdc;
    IWorkEscrow internal escrow;

    uint256 internal agentKey = 0xa1;
    uint256 internal otherAgentKey = 0xa2;
    address internal agent = vm.addr(agentKey);
    address internal otherAgent = vm.addr(otherAgentKey);
    address internal payee = makeAddr("payee");
    address internal otherPayee = makeAddr("other payee");
    address internal stranger = makeAddr("stranger");
    bytes32 internal constant CONTEXT = keccak256("context");

    uint256[] internal operatorKeys;
    bytes[] internal operators;
    uint256 private _nextNonce;

    function setUp() public virtual {
        vm.warp(1_800_000_000);
        for (uint256 key = 0xb1; key <= 0xb3; ++key) {
            operatorKeys.push(key);
            operators.push(abi.encodePacked(vm.addr(key)));
        }
        usdc = new DevUSDC(address(this));
        escrow = IWorkEscrow(deployCode("WorkEscrow.sol:WorkEscrow", abi.encode(usdc)));
        wallet = new PolicyWallet(IERC20(address(usdc)), escrow, IChannelHub(address(0)), operators, 2, DELAY, _birth());
        usdc.mint(address(wallet), 10_000_000 * USD);
        usdc.mint(payee, 1);
        usdc.mint(otherPayee, 1);
    }

    /// @dev What the wallet is born with.
    function _birth() internal virtual returns (bytes[] memory changes) {
        changes = new bytes[](4);
        changes[0] = abi.encodeCall(IPolicyChanges.setAgent, (agent, _limits()));
        changes[1] = abi.encodeCall(IPolicyChanges.setAgent, (otherAgent, _limits()));
        changes[2] = abi.encodeCall(IPolicyChanges.setPayee, (payee, PayeeLimits(1, OFF, 0)));
        changes[3] = abi.encodeCall(IPolicyChanges.setPayee, (otherPayee, PayeeLimits(3, OFF, 0)));
    }

    /// @dev Ceiling 100, 1,000 a day, everything else off, category 0.
    function _limits() internal view returns (AgentLimits memory) {
        return AgentLimits({
            ceiling: uint48(100 * USD),
            dayCap: uint48(1_000 * USD),
            monthCap: OFF,
            budget: type(uint64).max,
            expiry: uint40(block.timestamp + 365 days),
            categories: 1
        });
    }

    /* PAYMENTS */

    function _payment(uint256 amount) internal returns (Payment memory) {
        return Payment(payee, amount, _fresh(), block.timestamp, CONTEXT, 0, 0);
    }

    function _approved(uint256 amount, uint256 overrides) internal returns (Payment memory) {
        (, uint256 version,) = wallet.agentLimits(agent);
        return Payment(payee, amount, _fresh(), block.timestamp, CONTEXT, overrides, version);
    }

    function _fresh() internal returns (uint256) {
        return _nextNonce++;
    }

    function _digest(address agent_, Payment memory p) internal view returns (bytes32) {
        bytes memory fields = abi.encode(agent_, p.to, p.amount, p.nonce, p.deadline, p.context);
        if (p.overrides == 0) return _typed(PAYMENT, fields);
        return _typed(APPROVED, bytes.concat(fields, abi.encode(p.overrides, p.version)));
    }

    function _pay(Payment memory p) internal {
        _pay(agentKey, p);
    }

    /// @dev Signed by `key` for its own address.
    function _pay(uint256 key, Payment memory p) internal {
        address agent_ = vm.addr(key);
        (bytes32 r, bytes32 vs) = vm.signCompact(key, _digest(agent_, p));
        wallet.pay(agent_, p.to, p.amount, p.nonce, p.deadline, p.context, r, vs);
    }

    /// @dev With the signatures of the first two operators.
    function _payApproved(Payment memory p) internal {
        _payApproved(p, _quorum(_digest(agent, p)));
    }

    function _payApproved(Payment memory p, bytes memory quorum) internal {
        (bytes32 r, bytes32 vs) = vm.signCompact(agentKey, _digest(agent, p));
        wallet.payApproved(agent, p.to, p.amount, p.nonce, p.deadline, p.context, p.overrides, p.version, r, vs, quorum);
    }

    /// @dev Expects the next payment to be refused with what was asked and what was left.
    function _refused(bytes4 error_, uint256 asked, uint256 left) internal {
        vm.expectRevert(abi.encodeWithSelector(error_, asked, left));
    }

    /* BATCHES */

    function _item(address to, uint256 amount) internal pure returns (bytes32) {
        return bytes32(uint256(uint160(to)) << 96 | amount);
    }

    function _batch(uint256 key, bytes32[] memory items) internal returns (Batch memory) {
        return _signed(key, Batch(vm.addr(key), _fresh(), block.timestamp, CONTEXT, items, 0, 0));
    }

    function _signed(uint256 key, Batch memory b) internal view returns (Batch memory) {
        bytes32 items = keccak256(abi.encodePacked(b.items));
        (b.r, b.vs) = vm.signCompact(key, _typed(BATCH, abi.encode(b.agent, b.nonce, b.deadline, b.context, items)));
        return b;
    }

    function _payBatch(Batch memory b) internal {
        Batch[] memory batches = new Batch[](1);
        batches[0] = b;
        wallet.payBatch(batches);
    }

    /* OPERATORS */

    function _submit(bytes memory change) internal {
        uint256 nonce = _fresh();
        bytes32 digest = _changeDigest("Change", change, nonce, block.timestamp);
        wallet.submit(change, nonce, block.timestamp, _quorum(digest));
    }

    /// @dev Submits, waits and runs.
    function _change(bytes memory change) internal {
        _submit(change);
        if (wallet.readyAt(change) == 0) return;
        vm.warp(wallet.readyAt(change));
        wallet.execute(change);
    }

    function _tighten(bytes memory change) internal {
        vm.prank(address(bytes20(operators[2])));
        wallet.tighten(change);
    }

    function _setAgent(AgentLimits memory limits) internal view returns (bytes memory) {
        return abi.encodeCall(IPolicyChanges.setAgent, (agent, limits));
    }

    function _setPayee(PayeeLimits memory limits) internal view returns (bytes memory) {
        return abi.encodeCall(IPolicyChanges.setPayee, (payee, limits));
    }

    /// @param type_ "Change" or "Tighten"
    function _changeDigest(string memory type_, bytes memory change, uint256 nonce, uint256 deadline)
        internal
        view
        returns (bytes32)
    {
        return _typed(
            string.concat(type_, "(bytes change,uint256 nonce,uint256 deadline)"),
            abi.encode(keccak256(change), nonce, deadline)
        );
    }

    function _quorum(bytes32 digest) internal view returns (bytes memory) {
        return _quorumOf(2, digest);
    }

    /// @dev Signatures of the first `count` operators in the order that the wallet wants.
    function _quorumOf(uint256 count, bytes32 digest) internal view returns (bytes memory) {
        bytes[] memory signers = new bytes[](count);
        bytes[] memory signatures = new bytes[](count);
        for (uint256 i; i < count; ++i) {
            signers[i] = operators[i];
            signatures[i] = _sign65(operatorKeys[i], digest);
        }
        return _sorted(signers, signatures);
    }

    function _sorted(bytes[] memory signers, bytes[] memory signatures) internal pure returns (bytes memory) {
        for (uint256 i = 1; i < signers.length; ++i) {
            for (uint256 j = i; j > 0 && keccak256(signers[j - 1]) > keccak256(signers[j]); --j) {
                (signers[j - 1], signers[j]) = (signers[j], signers[j - 1]);
                (signatures[j - 1], signatures[j]) = (signatures[j], signatures[j - 1]);
            }
        }
        return abi.encode(signers, signatures);
    }

    function _sign65(uint256 key, bytes32 digest) internal pure returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(key, digest);
        return abi.encodePacked(r, s, v);
    }

    /* EIP-712, written out by itself */

    function _typed(string memory type_, bytes memory fields) internal view returns (bytes32) {
        bytes32 domain = keccak256(
            abi.encode(
                keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"),
                keccak256("PolicyWallet"),
                keccak256("1"),
                block.chainid,
                address(wallet)
            )
        );
        bytes32 structHash = keccak256(bytes.concat(keccak256(bytes(type_)), fields));
        return keccak256(abi.encodePacked(hex"1901", domain, structHash));
    }
}
