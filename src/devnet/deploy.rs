//! Brings the contracts to a fresh anvil: USDC's code and the channel hub's at their addresses, a
//! wallet that is born with its agents, payees, caps and operators, and ETH for the gas keys.
//!
//! Everything is sent from anvil's account 0, which the node signs for, so no key is needed here.

use std::{fmt::Debug, time::Duration};

use alloy::{
    network::TransactionBuilder,
    primitives::{Address, Bytes, TxHash, U256, keccak256, utils::parse_ether},
    providers::{Provider, ProviderBuilder, RootProvider},
    rpc::types::{TransactionReceipt, TransactionRequest},
    sol,
    sol_types::{SolCall, SolConstructor},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;

use super::{
    DevnetError, Manifest,
    files::Cast,
    profile::{Plan, Profile},
};
use crate::{
    contract::{
        AgentLimits, IPolicyChanges, IPolicyWallet, IQuorum, PayeeLimits, TooWide,
        coupon::{CouponGrant, TooLarge},
        escrow::{IEscrowPayer, IWorkEscrow},
        hub::{self, IChannelPayer},
        narrow,
    },
    money::UNITS_PER_USDC,
};

sol! {
    #[sol(rpc)]
    contract DevUSDC {
        constructor(address owner);
        function OWNER_SLOT() external view returns (bytes32);
        function mint(address to, uint256 amount) external returns (bool);
        function balanceOf(address account) external view returns (uint256);
    }

    contract WorkEscrow {
        constructor(address usdc);
    }

    #[sol(rpc)]
    contract Erc3009Collector {
        constructor(address hub);
        function HUB() external view returns (address);
    }

    contract PolicyWallet {
        constructor(address usdc, address escrow, address hub, bytes[] operators, uint64 threshold, uint32 delay, bytes[] changes);
    }
}

const USDC_ARTIFACT: (&str, &str) =
    ("contracts/artifacts/DevUSDC.json", include_str!("../../contracts/artifacts/DevUSDC.json"));
const ESCROW_ARTIFACT: (&str, &str) = (
    "contracts/artifacts/WorkEscrow.json",
    include_str!("../../contracts/artifacts/WorkEscrow.json"),
);
const HUB_ARTIFACT: (&str, &str) = (
    "contracts/artifacts/ChannelHub.json",
    include_str!("../../contracts/artifacts/ChannelHub.json"),
);
const COLLECTOR_ARTIFACT: (&str, &str) = (
    "contracts/artifacts/Erc3009Collector.json",
    include_str!("../../contracts/artifacts/Erc3009Collector.json"),
);
const MULTICALL_ARTIFACT: (&str, &str) = (
    "contracts/artifacts/DevMulticall.json",
    include_str!("../../contracts/artifacts/DevMulticall.json"),
);
const WALLET_ARTIFACT: (&str, &str) = (
    "contracts/artifacts/PolicyWallet.json",
    include_str!("../../contracts/artifacts/PolicyWallet.json"),
);

/// Looks at a receipt this often …
const RECEIPT_POLL: Duration = Duration::from_millis(20);
/// … and this many times: ten seconds.
const RECEIPT_LOOKS: u32 = 500;

/// All ones in 48 bits: the contract's "off" for a payee's cap.
const OFF_48: u64 = (1 << 48) - 1;

/// Where things are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deployed {
    /// The PolicyWallet.
    pub wallet: Address,
    /// Its first block.
    pub from_block: u64,
    /// The WorkEscrow that it pays into.
    pub escrow: Address,
    /// Who deployed, and owns the devnet's USDC.
    pub deployer: Address,
}

/// Does the chain of an earlier devnet still run, with its wallet on it?
pub(super) async fn is_alive(earlier: &Manifest) -> bool {
    let Some(chain) = super::anvil::chain_id_at(&earlier.rpc).await else { return false };
    let Ok(url) = earlier.rpc.parse() else { return false };
    let provider: RootProvider = ProviderBuilder::default().connect_http(url);
    let code = tokio::time::timeout(
        Duration::from_secs(1),
        std::future::IntoFuture::into_future(provider.get_code_at(earlier.wallet)),
    );
    chain == earlier.chain_id && code.await.is_ok_and(|code| code.is_ok_and(|c| !c.is_empty()))
}

/// Deploys and seeds; checks what the wallet says of itself afterwards.
pub(super) async fn deploy(
    rpc: &str,
    profile: &Profile,
    plan: &Plan,
    cast: &Cast,
) -> Result<Deployed, DevnetError> {
    let url = rpc.parse().map_err(|why| chain("read the endpoint", why))?;
    let node = Node { provider: ProviderBuilder::default().connect_http(url), from: cast.deployer };

    place_usdc(&node, profile).await?;
    place_channels(&node).await?;
    let escrow = place_escrow(&node, profile).await?;
    let (wallet, from_block) = place_wallet(&node, profile, plan, cast, escrow).await?;
    let amount = U256::from(plan.wallet_usdc.units());
    let mint = DevUSDC::mintCall { to: wallet, amount }.abi_encode();
    node.send(
        "fund the wallet",
        TransactionRequest::default().with_to(profile.usdc).with_input(mint),
    )
    .await?;
    let ether = parse_ether(&plan.relayer_eth.to_string())
        .map_err(|why| chain("read the relayers' ether", why))?;
    for relayer in &cast.relayers {
        node.call::<_, Option<bool>>("fund a relayer", "anvil_setBalance", (*relayer, ether))
            .await?;
    }
    check(&node, profile, plan, cast, wallet).await?;
    Ok(Deployed { wallet, from_block, escrow, deployer: cast.deployer })
}

/// Places DevUSDC's runtime at the profile's address, as `PLACING` in DevUSDC.sol tells.
async fn place_usdc(node: &Node, profile: &Profile) -> Result<(), DevnetError> {
    let step = "place DevUSDC";
    let mut code = creation_code(USDC_ARTIFACT)?;
    code.extend(DevUSDC::constructorCall { owner: node.from }.abi_encode());
    node.place(step, code, profile.usdc).await?;
    let slot = DevUSDC::new(profile.usdc, &node.provider)
        .OWNER_SLOT()
        .call()
        .await
        .map_err(|why| chain(step, why))?;
    let owner = (profile.usdc, slot, node.from.into_word());
    node.call::<_, Option<bool>>(step, "anvil_setStorageAt", owner).await?;
    Ok(())
}

/// Places what x402's clients look for at addresses of their own: the channel hub, the collector that
/// obeys it, and the contract they read several channels with.
async fn place_channels(node: &Node) -> Result<(), DevnetError> {
    let step = "place ChannelHub";
    node.place(step, creation_code(HUB_ARTIFACT)?, hub::HUB).await?;
    let mut code = creation_code(COLLECTOR_ARTIFACT)?;
    code.extend(Erc3009Collector::constructorCall { hub: hub::HUB }.abi_encode());
    node.place(step, code, hub::ERC3009_COLLECTOR).await?;
    node.place(step, creation_code(MULTICALL_ARTIFACT)?, hub::MULTICALL3).await?;
    let obeys = Erc3009Collector::new(hub::ERC3009_COLLECTOR, &node.provider);
    let obeyed = obeys.HUB().call().await.map_err(|why| chain(step, why))?;
    if obeyed != hub::HUB {
        return Err(chain(step, format!("the collector obeys {obeyed}")));
    }
    Ok(())
}

async fn place_escrow(node: &Node, profile: &Profile) -> Result<Address, DevnetError> {
    let mut code = creation_code(ESCROW_ARTIFACT)?;
    code.extend(WorkEscrow::constructorCall { usdc: profile.usdc }.abi_encode());
    Ok(node.create("deploy WorkEscrow", code).await?.0)
}

async fn place_wallet(
    node: &Node,
    profile: &Profile,
    plan: &Plan,
    cast: &Cast,
    escrow: Address,
) -> Result<(Address, u64), DevnetError> {
    let mut code = creation_code(WALLET_ARTIFACT)?;
    let arguments = PolicyWallet::constructorCall {
        usdc: profile.usdc,
        escrow,
        hub: hub::HUB,
        operators: cast.operators.iter().map(|key| key.address().to_vec().into()).collect(),
        threshold: plan.threshold,
        delay: plan.delay_s,
        changes: birth_changes(plan, cast)?,
    };
    code.extend(arguments.abi_encode());
    node.create("deploy PolicyWallet", code).await
}

/// What the wallet is born with. Later the same changes wait out their delay.
fn birth_changes(plan: &Plan, cast: &Cast) -> Result<Vec<Bytes>, DevnetError> {
    let mut changes = Vec::new();
    for agent in &cast.agents {
        let limits = AgentLimits::try_from(agent.policy.limits()).map_err(too_wide)?;
        let call = IPolicyChanges::setAgentCall { agent: agent.address, limits };
        changes.push(call.abi_encode().into());
    }
    for agent in &cast.agents {
        let Some(coupons) = &agent.policy.coupons else { continue };
        let fault = |why: TooLarge| DevnetError::Description {
            file: "script/devnet.toml",
            source: format!("coupons of {}: {why}", agent.policy.agent).into(),
        };
        let coupons = CouponGrant::from(coupons).pack().map_err(fault)?;
        let call = IPolicyChanges::setCouponsCall { agent: agent.address, coupons };
        changes.push(call.abi_encode().into());
    }
    for payee in &plan.payees {
        let mut categories = 0;
        for name in &payee.categories {
            categories |= cast.categories.bit(name).ok_or_else(|| DevnetError::Description {
                file: "script/devnet.toml",
                source: format!("payee {}: no category `{name}`", payee.label).into(),
            })?;
        }
        let call = IPolicyChanges::setPayeeCall {
            payee: payee.address,
            limits: PayeeLimits {
                categories,
                cap: narrow(payee.cap.map_or(OFF_48, |cap| cap.units())).map_err(too_wide)?,
                cooldown: payee.cooldown_s,
            },
        };
        changes.push(call.abi_encode().into());
    }
    for relayer in &cast.relayers {
        let call = IPolicyChanges::setChannelAuthorizerCall {
            authorizer: *relayer,
            longestDelay: U256::from(plan.claimer_longest_s),
        };
        changes.push(call.abi_encode().into());
    }
    let cap = U256::from(plan.wallet_cap.units() / UNITS_PER_USDC * UNITS_PER_USDC);
    changes.push(IPolicyChanges::setWalletCapCall { cap }.abi_encode().into());
    // One hash for the set: over the hashes of the policy files, in the order of the agents' keys.
    let hashes: Vec<u8> = cast.agents.iter().flat_map(|agent| agent.policy.hash().0).collect();
    let call = IPolicyChanges::publishPolicyCall { policyHash: keccak256(hashes) };
    changes.push(call.abi_encode().into());
    Ok(changes)
}

/// Reads back what matters: a devnet that is not what its tables say is worse than none.
async fn check(
    node: &Node,
    profile: &Profile,
    plan: &Plan,
    cast: &Cast,
    wallet: Address,
) -> Result<(), DevnetError> {
    let step = "check the new wallet";
    let fail = |why: alloy::contract::Error| chain(step, why);
    let balance =
        DevUSDC::new(profile.usdc, &node.provider).balanceOf(wallet).call().await.map_err(fail)?;
    if balance != U256::from(plan.wallet_usdc.units()) {
        return Err(chain(step, format!("it holds {balance} base units")));
    }
    let threshold = IQuorum::new(wallet, &node.provider).threshold().call().await.map_err(fail)?;
    if threshold != plan.threshold {
        return Err(chain(step, format!("its quorum is {threshold}")));
    }
    let contract = IPolicyWallet::new(wallet, &node.provider);
    let paid_into =
        IEscrowPayer::new(wallet, &node.provider).ESCROW().call().await.map_err(fail)?;
    let token = IWorkEscrow::new(paid_into, &node.provider).TOKEN().call().await.map_err(fail)?;
    if token != profile.usdc {
        return Err(chain(step, format!("its escrow {paid_into} holds another token")));
    }
    let channels = IChannelPayer::new(wallet, &node.provider).HUB().call().await.map_err(fail)?;
    if channels != hub::HUB {
        return Err(chain(step, format!("its channels are at {channels}")));
    }
    for agent in &cast.agents {
        let held = contract.agentLimits(agent.address).call().await.map_err(fail)?.limits;
        let wanted = agent.policy.limits();
        if held.dayCap.to::<u64>() != wanted.day_cap || held.categories != wanted.categories {
            return Err(chain(step, format!("the limits of {} differ", agent.policy.agent)));
        }
    }
    Ok(())
}

/// A node that signs for `from`.
struct Node {
    provider: RootProvider,
    from: Address,
}

impl Node {
    async fn call<P, R>(
        &self,
        step: &'static str,
        method: &'static str,
        params: P,
    ) -> Result<R, DevnetError>
    where
        P: Serialize + Clone + Debug + Send + Sync + Unpin + 'static,
        R: DeserializeOwned + Debug + Send + Sync + Unpin + 'static,
    {
        self.provider.raw_request(method.into(), params).await.map_err(DevnetError::chain(step))
    }

    /// Sends and waits for the receipt of a success.
    async fn send(
        &self,
        step: &'static str,
        transaction: TransactionRequest,
    ) -> Result<TransactionReceipt, DevnetError> {
        let transaction = transaction.with_from(self.from);
        let hash: TxHash = self.call(step, "eth_sendTransaction", (transaction,)).await?;
        // Do not wait for the profile's next block: a second a step adds up.
        self.call::<_, Box<RawValue>>(step, "evm_mine", ()).await?;
        for _ in 0..RECEIPT_LOOKS {
            let receipt = self.provider.get_transaction_receipt(hash).await;
            match receipt.map_err(DevnetError::chain(step))? {
                Some(receipt) if receipt.status() => return Ok(receipt),
                Some(_) => return Err(chain(step, format!("transaction {hash} reverted"))),
                None => tokio::time::sleep(RECEIPT_POLL).await,
            }
        }
        Err(chain(step, format!("no receipt for transaction {hash}")))
    }

    /// Creates a contract and puts its code, immutables and all, at the address `at`. What its
    /// constructor stored stays behind.
    async fn place(
        &self,
        step: &'static str,
        code: Vec<u8>,
        at: Address,
    ) -> Result<(), DevnetError> {
        let built = self.create(step, code).await?.0;
        let runtime = self.provider.get_code_at(built).await.map_err(DevnetError::chain(step))?;
        self.call::<_, Option<bool>>(step, "anvil_setCode", (at, runtime)).await?;
        Ok(())
    }

    /// Creates a contract; returns its address and block.
    async fn create(
        &self,
        step: &'static str,
        code: Vec<u8>,
    ) -> Result<(Address, u64), DevnetError> {
        let receipt = self.send(step, TransactionRequest::default().with_deploy_code(code)).await?;
        match (receipt.contract_address, receipt.block_number) {
            (Some(address), Some(block)) => Ok((address, block)),
            _ => Err(chain(step, "the receipt names no contract")),
        }
    }
}

/// What `script/artifacts` writes.
#[derive(Deserialize)]
struct Artifact {
    bytecode: Bytecode,
}

#[derive(Deserialize)]
struct Bytecode {
    object: Bytes,
}

fn creation_code((file, json): (&'static str, &str)) -> Result<Vec<u8>, DevnetError> {
    let artifact: Artifact = serde_json::from_str(json)
        .map_err(|source| DevnetError::Description { file, source: Box::new(source) })?;
    Ok(artifact.bytecode.object.to_vec())
}

fn too_wide(error: TooWide) -> DevnetError {
    DevnetError::Description { file: "script/devnet.toml", source: error.to_string().into() }
}

fn chain(step: &'static str, why: impl std::fmt::Display) -> DevnetError {
    DevnetError::Chain { step, why: why.to_string() }
}
