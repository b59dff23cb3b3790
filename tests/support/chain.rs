//! The chain seen directly, without the daemon: balances, logs, and anvil's levers.

use std::collections::{BTreeMap, BTreeSet};

use alloy::{
    primitives::{Address, B256, Bytes, U64, U256},
    providers::{Provider, ProviderBuilder, RootProvider},
    rpc::types::{Filter, Log},
    sol_types::{SolCall, SolEvent},
};
use bursar::contract::{IPolicyWallet, IUsdc};
use serde_json::{Value, json};

/// A node, and the two contracts on it.
pub struct Chain {
    /// For typed calls.
    pub node: RootProvider,
    /// USDC.
    pub usdc: Address,
    /// The PolicyWallet.
    pub wallet: Address,
    /// Owns USDC; the node signs for it.
    pub deployer: Address,
}

/// USDC's owner's verbs on the devnet.
pub mod owner {
    alloy::sol! {
        function pause() external;
        function unpause() external;
        function paused() external view returns (bool);
        function blacklist(address account) external;
        function unBlacklist(address account) external;
        function mint(address to, uint256 amount) external returns (bool);
    }
}

/// One USDC transfer out of the wallet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Transfer {
    /// In which transaction.
    pub tx: B256,
    /// To whom.
    pub to: Address,
    /// Base units.
    pub units: u64,
}

impl Chain {
    pub fn new(rpc: &str, usdc: Address, wallet: Address, deployer: Address) -> Self {
        let node = ProviderBuilder::default().connect_http(rpc.parse().unwrap());
        Self { node, usdc, wallet, deployer }
    }

    /// Calls any JSON-RPC method.
    pub async fn rpc(&self, method: &'static str, params: Value) -> Value {
        self.try_rpc(method, params).await.unwrap_or_else(|error| panic!("{method}: {error}"))
    }

    /// The same where a refusal is expected.
    pub async fn try_rpc(&self, method: &'static str, params: Value) -> Result<Value, String> {
        self.node.raw_request(method.into(), params).await.map_err(|error| error.to_string())
    }

    pub async fn mine(&self) {
        self.rpc("evm_mine", json!([])).await;
    }

    pub async fn automine(&self, on: bool) {
        self.rpc("evm_setAutomine", json!([on])).await;
    }

    /// Moves the chain's clock, and mines a block that shows it.
    pub async fn pass(&self, seconds: u64) {
        self.rpc("evm_increaseTime", json!([seconds])).await;
        self.mine().await;
    }

    pub async fn usdc_of(&self, account: Address) -> u64 {
        let held = IUsdc::new(self.usdc, &self.node).balanceOf(account).call().await.unwrap();
        u64::try_from(held).unwrap()
    }

    /// Sets an account's USDC, without a transfer.
    pub async fn give(&self, account: Address, units: u64) {
        self.rpc("anvil_dealERC20", json!([account, self.usdc, format!("{units:#x}")])).await;
    }

    pub async fn nonce(&self, account: Address) -> u64 {
        self.node.get_transaction_count(account).await.unwrap()
    }

    pub async fn room(&self, agent: Address) -> IPolicyWallet::roomReturn {
        IPolicyWallet::new(self.wallet, &self.node).room(agent).call().await.unwrap()
    }

    pub async fn is_frozen(&self, agent: Address) -> bool {
        let wallet = IPolicyWallet::new(self.wallet, &self.node);
        wallet.agentLimits(agent).call().await.unwrap().frozen
    }

    /// Every USDC transfer out of the wallet, sorted.
    pub async fn transfers(&self) -> Vec<Transfer> {
        let filter = Filter::new()
            .address(self.usdc)
            .event_signature(IUsdc::Transfer::SIGNATURE_HASH)
            .topic1(self.wallet.into_word())
            .from_block(0);
        let logs = self.node.get_logs(&filter).await.unwrap();
        let mut list: Vec<Transfer> = self
            .once(logs)
            .await
            .iter()
            .map(|log| {
                let event = IUsdc::Transfer::decode_log(&log.inner).unwrap();
                Transfer {
                    tx: log.transaction_hash.unwrap(),
                    to: event.to,
                    units: u64::try_from(event.value).unwrap(),
                }
            })
            .collect();
        list.sort_unstable();
        list
    }

    /// Each log once. A transaction runs once on a chain; after reorganisations this node was seen to list
    /// those of whole blocks twice.
    async fn once(&self, logs: Vec<Log>) -> Vec<Log> {
        let mut places: BTreeMap<B256, BTreeSet<B256>> = BTreeMap::new();
        for log in &logs {
            places
                .entry(log.transaction_hash.unwrap())
                .or_default()
                .insert(log.block_hash.unwrap());
        }
        for (tx, blocks) in places.iter_mut().filter(|(_, blocks)| blocks.len() > 1) {
            eprintln!("the node lists {tx} in {} blocks", blocks.len());
            let receipt = self.node.get_transaction_receipt(*tx).await.unwrap().unwrap();
            blocks.retain(|block| receipt.block_hash == Some(*block));
        }
        let (all, mut seen) = (logs.len(), BTreeSet::new());
        let once: Vec<Log> = logs
            .into_iter()
            .filter(|log| places[&log.transaction_hash.unwrap()].contains(&log.block_hash.unwrap()))
            .filter(|log| seen.insert((log.block_hash, log.log_index)))
            .collect();
        if once.len() < all {
            eprintln!("the node lists {} logs twice", all - once.len());
        }
        once
    }

    /// The wallet's own logs of one kind.
    pub async fn events<E: SolEvent>(&self) -> Vec<(Log, E)> {
        let filter =
            Filter::new().address(self.wallet).event_signature(E::SIGNATURE_HASH).from_block(0);
        let logs = self.node.get_logs(&filter).await.unwrap();
        logs.into_iter()
            .map(|log| {
                let event = E::decode_log(&log.inner).unwrap().data;
                (log, event)
            })
            .collect()
    }

    /// Sends a call from an account that the node signs for, and waits until it is mined.
    pub async fn send_from(&self, from: Address, to: Address, data: Bytes) -> B256 {
        let hash = self.queue_from(from, to, data, 2).await;
        super::wait_for("the receipt", async || {
            let receipt = self.node.get_transaction_receipt(hash).await.unwrap()?;
            assert!(receipt.status(), "{hash} reverted");
            Some(())
        })
        .await;
        hash
    }

    /// The same without waiting, at a fee of so many gwei.
    pub async fn queue_from(&self, from: Address, to: Address, data: Bytes, gwei: u64) -> B256 {
        let wei = U256::from(gwei) * U256::from(1_000_000_000_u64);
        let call = json!({
            "from": from, "to": to, "data": data, "gas": U64::from(12_000_000_u64),
            "maxFeePerGas": wei, "maxPriorityFeePerGas": wei,
        });
        serde_json::from_value(self.rpc("eth_sendTransaction", json!([call])).await).unwrap()
    }

    /// Uses one of USDC's owner's verbs.
    pub async fn own(&self, call: impl SolCall) {
        self.send_from(self.deployer, self.usdc, call.abi_encode().into()).await;
    }

    /// The same where it may be in vain: already so, or taken out again by a reorganisation.
    pub async fn owner_says(&self, call: impl SolCall) {
        self.queue_from(self.deployer, self.usdc, call.abi_encode().into(), 60).await;
    }

    pub async fn usdc_is_paused(&self) -> bool {
        let data = Bytes::from(owner::pausedCall {}.abi_encode());
        let answer =
            self.rpc("eth_call", json!([{ "to": self.usdc, "data": data }, "latest"])).await;
        owner::pausedCall::abi_decode_returns(&answer.as_str().unwrap().parse::<Bytes>().unwrap())
            .unwrap()
    }

    /// What waits in the pool of a relayer: hashes and calldata, by nonce.
    pub async fn pool_of(&self, relayers: &[Address]) -> Vec<(B256, Bytes)> {
        let content = self.rpc("txpool_content", json!([])).await;
        let mut found = Vec::new();
        for lane in ["pending", "queued"] {
            for (sender, list) in content[lane].as_object().into_iter().flatten() {
                if !relayers.contains(&sender.parse().unwrap()) {
                    continue;
                }
                for tx in list.as_object().unwrap().values() {
                    let hash = tx["hash"].as_str().unwrap().parse().unwrap();
                    found.push((hash, tx["input"].as_str().unwrap().parse().unwrap()));
                }
            }
        }
        found
    }

    /// Drops a transaction from the pool.
    pub async fn drop_tx(&self, hash: B256) {
        self.rpc("anvil_dropTransaction", json!([hash])).await;
    }
}
