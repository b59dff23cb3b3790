// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {Test} from "forge-std/Test.sol";
import {DevUSDC} from "contracts/DevUSDC.sol";
import {AgentLimits, Batch, IPolicyChanges, IPolicyWallet, PayeeLimits} from "contracts/interfaces/IPolicyWallet.sol";

/// @dev What an agent signs for one payment, and by which wallet it is meant.
struct Payment {
    IPolicyWallet wallet;
    address agent;
    address to;
    uint256 amount;
    uint256 nonce;
    uint256 deadline;
    bytes32 context;
}

/// @dev A wallet ready to be attacked: 2 of 3 operators, two agents, two payees, 1,000,000 USDC.
/// Agent: 100 USDC ceiling, 1,000 USDC a day. Hashes are built here, from the published type strings, and not
/// taken from the contract.
abstract contract Stage is Test {
    uint256 internal constant USD = 1e6;
    uint256 internal constant CEILING = 100 * USD;
    uint256 internal constant DAY_CAP = 1_000 * USD;
    uint256 internal constant FUNDS = 1_000_000 * USD;
    uint32 internal constant DELAY = 1 days;
    uint256 internal constant START = 1_800_000_000;
    uint256 internal constant FAR = 4_000_000_000;

    bytes32 internal constant PAYMENT =
        keccak256("Payment(address agent,address to,uint256 amount,uint256 nonce,uint256 deadline,bytes32 context)");
    bytes32 internal constant APPROVED = keccak256(
        "ApprovedPayment(address agent,address to,uint256 amount,uint256 nonce,uint256 deadline,bytes32 context,uint256 overrides,uint256 policyVersion)"
    );
    bytes32 internal constant BATCH =
        keccak256("PayBatch(address agent,uint256 nonce,uint256 deadline,bytes32 context,bytes32[] items)");
    bytes32 internal constant CHANGE = keccak256("Change(bytes change,uint256 nonce,uint256 deadline)");
    bytes32 internal constant TIGHTEN = keccak256("Tighten(bytes change,uint256 nonce,uint256 deadline)");

    DevUSDC internal usdc;
    IPolicyWallet internal wallet;
    address internal treasury = makeAddr("usdc owner");

    uint256 internal agentKey;
    address internal agent;
    uint256 internal agent2Key;
    address internal agent2;
    uint256[3] internal operatorKeys;
    address[3] internal operators;
    address internal shop = makeAddr("shop");
    address internal cafe = makeAddr("cafe");
    address internal stranger = makeAddr("stranger");
    uint256 private _changeNonce;

    function setUp() public virtual {
        vm.warp(START);
        (agent, agentKey) = makeAddrAndKey("agent");
        (agent2, agent2Key) = makeAddrAndKey("agent 2");
        for (uint256 i; i < 3; ++i) {
            (operators[i], operatorKeys[i]) = makeAddrAndKey(string.concat("operator ", vm.toString(i)));
        }
        usdc = new DevUSDC(treasury);
        wallet = deploy(address(usdc), baseChanges());
        fund(address(wallet), FUNDS);
    }

    /* DEPLOYING */

    function deploy(address token, bytes[] memory changes) internal returns (IPolicyWallet) {
        return deployFor(token, operatorSet(), 2, DELAY, changes);
    }

    /// @dev By artifact name, so that no test contract carries the wallet's code inside its own.
    function deployFor(address token, bytes[] memory signers, uint64 threshold, uint32 delay, bytes[] memory changes)
        internal
        returns (IPolicyWallet)
    {
        address escrow = deployCode("WorkEscrow.sol:WorkEscrow", abi.encode(token));
        bytes memory arguments = abi.encode(token, escrow, hubFor(token), signers, threshold, delay, changes);
        return IPolicyWallet(deployCode("PolicyWallet.sol:PolicyWallet", arguments));
    }

    /// @dev The wallet's channel hub; none where no channels are looked at.
    function hubFor(address) internal virtual returns (address) {
        return address(0);
    }

    function operatorSet() internal view returns (bytes[] memory set) {
        set = new bytes[](3);
        for (uint256 i; i < 3; ++i) {
            set[i] = abi.encodePacked(operators[i]);
        }
    }

    function baseChanges() internal view returns (bytes[] memory changes) {
        changes = new bytes[](4);
        changes[0] = abi.encodeCall(IPolicyChanges.setAgent, (agent, limits()));
        changes[1] = abi.encodeCall(IPolicyChanges.setAgent, (agent2, limits()));
        changes[2] = abi.encodeCall(IPolicyChanges.setPayee, (shop, payee()));
        changes[3] = abi.encodeCall(IPolicyChanges.setPayee, (cafe, payee()));
    }

    function limits() internal pure returns (AgentLimits memory) {
        return AgentLimits({
            ceiling: uint48(CEILING),
            dayCap: uint48(DAY_CAP),
            monthCap: type(uint48).max,
            budget: type(uint64).max,
            expiry: uint40(FAR),
            categories: 1
        });
    }

    function payee() internal pure returns (PayeeLimits memory) {
        return PayeeLimits({categories: 1, cap: type(uint48).max, cooldown: 0});
    }

    function fund(address to, uint256 amount) internal {
        vm.prank(treasury);
        usdc.mint(to, amount);
    }

    /* PAYING */

    function payment(address to, uint256 amount, uint256 nonce) internal view returns (Payment memory) {
        return Payment(wallet, agent, to, amount, nonce, FAR, bytes32(0));
    }

    function domain(address verifying) internal view returns (bytes32) {
        return keccak256(
            abi.encode(
                keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"),
                keccak256("PolicyWallet"),
                keccak256("1"),
                block.chainid,
                verifying
            )
        );
    }

    function typed(address verifying, bytes32 structHash) internal view returns (bytes32) {
        return keccak256(abi.encodePacked(hex"1901", domain(verifying), structHash));
    }

    function digestOf(Payment memory p) internal view returns (bytes32) {
        return typed(
            address(p.wallet), keccak256(abi.encode(PAYMENT, p.agent, p.to, p.amount, p.nonce, p.deadline, p.context))
        );
    }

    function approvedDigest(Payment memory p, uint256 overrides, uint256 version) internal view returns (bytes32) {
        return typed(
            address(p.wallet),
            keccak256(abi.encode(APPROVED, p.agent, p.to, p.amount, p.nonce, p.deadline, p.context, overrides, version))
        );
    }

    function keyOf(address who) internal view returns (uint256) {
        return who == agent ? agentKey : who == agent2 ? agent2Key : 0;
    }

    function compact(uint256 key, bytes32 digest) internal pure returns (bytes32 r, bytes32 vs) {
        return vm.signCompact(key, digest);
    }

    /// @dev Signs `p` with the agent's own key and sends it.
    function pay(Payment memory p) internal {
        (bytes32 r, bytes32 vs) = compact(keyOf(p.agent), digestOf(p));
        send(p, r, vs);
    }

    function send(Payment memory p, bytes32 r, bytes32 vs) internal {
        p.wallet.pay(p.agent, p.to, p.amount, p.nonce, p.deadline, p.context, r, vs);
    }

    function paySome(address to, uint256 amount, uint256 nonce) internal {
        pay(payment(to, amount, nonce));
    }

    /// @dev Expects `pay` to revert with exactly `why`, and that nothing moved.
    function refused(Payment memory p, bytes memory why) internal {
        (bytes32 r, bytes32 vs) = compact(keyOf(p.agent), digestOf(p));
        refusedWith(p, r, vs, why);
    }

    function refusedWith(Payment memory p, bytes32 r, bytes32 vs, bytes memory why) internal {
        uint256 held = usdc.balanceOf(address(p.wallet));
        bool used = p.wallet.nonceUsed(p.agent, p.nonce);
        vm.expectRevert(why);
        send(p, r, vs);
        assertEq(usdc.balanceOf(address(p.wallet)), held, "money moved");
        assertEq(p.wallet.nonceUsed(p.agent, p.nonce), used, "nonce burnt");
    }

    function why2(bytes4 selector, uint256 asked, uint256 left) internal pure returns (bytes memory) {
        return abi.encodeWithSelector(selector, asked, left);
    }

    /// @dev With the co-signatures of operators 0 and 1.
    function payApproved(Payment memory p, uint256 overrides) internal {
        (, uint256 version,) = p.wallet.agentLimits(p.agent);
        bytes32 digest = approvedDigest(p, overrides, version);
        sendApproved(p, overrides, version, quorumFor(digest));
    }

    function sendApproved(Payment memory p, uint256 overrides, uint256 version, bytes memory quorum) internal {
        (bytes32 r, bytes32 vs) = compact(keyOf(p.agent), approvedDigest(p, overrides, version));
        p.wallet.payApproved(p.agent, p.to, p.amount, p.nonce, p.deadline, p.context, overrides, version, r, vs, quorum);
    }

    /* BATCHES */

    function item(address to, uint256 amount) internal pure returns (bytes32) {
        return bytes32(uint256(uint160(to)) << 96 | amount);
    }

    function batchDigest(address verifying, Batch memory b) internal view returns (bytes32) {
        bytes32 items = keccak256(abi.encodePacked(b.items));
        return typed(verifying, keccak256(abi.encode(BATCH, b.agent, b.nonce, b.deadline, b.context, items)));
    }

    function batchOf(address from, uint256 nonce, bytes32[] memory items) internal view returns (Batch memory b) {
        b = Batch(from, nonce, FAR, bytes32(0), items, 0, 0);
        (b.r, b.vs) = compact(keyOf(from), batchDigest(address(wallet), b));
    }

    function one(Batch memory b) internal pure returns (Batch[] memory list) {
        list = new Batch[](1);
        list[0] = b;
    }

    function pair(bytes32 a, bytes32 b) internal pure returns (bytes32[] memory items) {
        items = new bytes32[](2);
        (items[0], items[1]) = (a, b);
    }

    function triple(bytes32 a, bytes32 b, bytes32 c) internal pure returns (bytes32[] memory items) {
        items = new bytes32[](3);
        (items[0], items[1], items[2]) = (a, b, c);
    }

    /* OPERATORS */

    function signed65(uint256 key, bytes32 digest) internal pure returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(key, digest);
        return abi.encodePacked(r, s, v);
    }

    /// @dev Operators 0 and 1 sign.
    function quorumFor(bytes32 digest) internal view returns (bytes memory) {
        bytes[] memory signers = new bytes[](2);
        bytes[] memory signatures = new bytes[](2);
        for (uint256 i; i < 2; ++i) {
            signers[i] = abi.encodePacked(operators[i]);
            signatures[i] = signed65(operatorKeys[i], digest);
        }
        return packQuorum(signers, signatures);
    }

    /// @dev Sorts the pairs by keccak256 of the signer, as the wallet wants them.
    function packQuorum(bytes[] memory signers, bytes[] memory signatures) internal pure returns (bytes memory) {
        for (uint256 i = 1; i < signers.length; ++i) {
            for (uint256 j = i; j > 0 && keccak256(signers[j]) < keccak256(signers[j - 1]); --j) {
                (signers[j], signers[j - 1]) = (signers[j - 1], signers[j]);
                (signatures[j], signatures[j - 1]) = (signatures[j - 1], signatures[j]);
            }
        }
        return abi.encode(signers, signatures);
    }

    function changeDigest(address verifying, bytes memory change, uint256 nonce, uint256 deadline)
        internal
        view
        returns (bytes32)
    {
        return typed(verifying, keccak256(abi.encode(CHANGE, keccak256(change), nonce, deadline)));
    }

    function tightenDigest(address verifying, bytes memory change, uint256 nonce, uint256 deadline)
        internal
        view
        returns (bytes32)
    {
        return typed(verifying, keccak256(abi.encode(TIGHTEN, keccak256(change), nonce, deadline)));
    }

    /// @dev The quorum submits; runs at once if the selector has no delay.
    function submit(bytes memory change) internal {
        uint256 nonce = _changeNonce++;
        wallet.submit(change, nonce, FAR, quorumFor(changeDigest(address(wallet), change, nonce, FAR)));
    }

    /// @dev Submits, waits the delay out and runs the change.
    function enact(bytes memory change) internal {
        submit(change);
        uint256 ready = wallet.readyAt(change);
        if (ready == 0) return; // had no delay
        vm.warp(ready);
        wallet.execute(change);
    }

    function tightenBy(uint256 operator, bytes memory change) internal {
        vm.prank(operators[operator]);
        wallet.tighten(change);
    }

    function setAgent(address who, AgentLimits memory l) internal pure returns (bytes memory) {
        return abi.encodeCall(IPolicyChanges.setAgent, (who, l));
    }

    function setPayee(address who, PayeeLimits memory l) internal pure returns (bytes memory) {
        return abi.encodeCall(IPolicyChanges.setPayee, (who, l));
    }

    function setCap(uint256 cap) internal pure returns (bytes memory) {
        return abi.encodeCall(IPolicyChanges.setWalletCap, (cap));
    }

    function setFrozen(address who, bool frozen) internal pure returns (bytes memory) {
        return abi.encodeCall(IPolicyChanges.setFrozen, (who, frozen));
    }
}
