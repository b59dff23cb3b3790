//! A chain as a model: blocks, a pool with a client's rules, reorganisations no deeper than what
//! counts as final, and a node's answers to JSON-RPC. No clock and no chance of its own: the history
//! says when a block comes and what it leaves out.

use std::{collections::BTreeMap, sync::Arc};

use alloy::sol_types::SolEvent as _;
use alloy::{
    consensus::{Transaction as _, TxEnvelope},
    eips::eip2718::Decodable2718 as _,
    primitives::{Address, B256, Bytes, U256, keccak256},
};
use serde_json::{Value, json};

use super::wallet::{Act, Emitted, Env, Place, State};
use crate::contract::IUsdc;

/// A node's refusal: code, words, revert data.
pub(super) type Refused = (i64, String, Option<Bytes>);
type Answer = Result<Value, Refused>;

/// Wei per gas.
pub(super) const GWEI: u128 = 1_000_000_000;

/// The words and the rules of one client (`tests/fixtures/send/` has the real ones).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Client {
    Geth,
    Reth,
    Erigon,
    Nethermind,
    Besu,
    Anvil,
}

impl Client {
    pub(super) const ALL: [Self; 6] =
        [Self::Geth, Self::Reth, Self::Erigon, Self::Nethermind, Self::Besu, Self::Anvil];

    fn known(self) -> &'static str {
        match self {
            Self::Geth | Self::Reth => "already known",
            Self::Erigon => "existing txn with same hash",
            Self::Nethermind => "AlreadyKnown",
            Self::Besu => "Known transaction",
            Self::Anvil => "transaction already imported",
        }
    }

    fn too_low(self, next: u64, nonce: u64) -> String {
        match self {
            Self::Geth | Self::Reth => {
                format!("nonce too low: next nonce {next}, tx nonce {nonce}")
            }
            Self::Nethermind => {
                format!("OldNonce, Current nonce: {next}, nonce of rejected tx: {nonce}")
            }
            Self::Besu => "Nonce too low".into(),
            Self::Erigon | Self::Anvil => "nonce too low".into(),
        }
    }

    /// What it says to a gap; nothing where it queues it.
    fn gap(self, next: u64) -> Option<String> {
        match self {
            Self::Nethermind => Some(format!("NonceGap, Future nonce. Expected nonce: {next}")),
            Self::Besu => Some("Transaction nonce is too distant from current sender nonce".into()),
            _ => None,
        }
    }

    fn underbid(self) -> &'static str {
        match self {
            Self::Erigon => "could not replace existing tx",
            Self::Nethermind => "ReplacementNotAllowed",
            Self::Besu => "Replacement transaction underpriced",
            _ => "replacement transaction underpriced",
        }
    }

    /// What it says to a fee cap below the base fee; nothing where it keeps it.
    fn below_base_fee(self) -> Option<&'static str> {
        match self {
            Self::Anvil => Some("max fee per gas less than block base fee"),
            Self::Besu => Some("Gas price below current base fee"),
            Self::Nethermind => Some("FeeTooLow, MaxFeePerGas too low"),
            _ => None,
        }
    }

    fn broke(self) -> &'static str {
        match self {
            Self::Besu => "Upfront cost exceeds account balance",
            Self::Nethermind => "InsufficientFunds, Account balance: 0",
            _ => "insufficient funds for gas * price + value: balance 0, tx cost 1",
        }
    }
}

/// A transaction, ours or somebody else's.
#[derive(Clone, Debug)]
pub(super) struct Transaction {
    pub hash: B256,
    pub sender: Address,
    pub nonce: u64,
    pub max_fee: u128,
    pub tip: u128,
    pub to: Address,
    pub what: What,
}

/// What it does.
#[derive(Clone, Debug)]
pub(super) enum What {
    Call(Bytes),
    Act(Act),
}

/// A transaction in a block.
#[derive(Clone, Debug)]
pub(super) struct Mined {
    pub tx: Transaction,
    pub status: bool,
    pub logs: Vec<Emitted>,
}

/// A block and the state it left.
#[derive(Debug)]
pub(super) struct Block {
    pub number: u64,
    pub hash: B256,
    parent: B256,
    pub time_s: u64,
    base_fee: u128,
    pub mined: Vec<Mined>,
    pub state: State,
}

/// The chain and its pool.
#[derive(Debug)]
pub(super) struct Chain {
    pub place: Place,
    pub blocks: Vec<Arc<Block>>,
    pool: BTreeMap<(Address, u64), Transaction>,
    pub base_fee: u128,
    /// Blocks above which everything may still change.
    confirmations: u64,
    /// The highest head there ever was: nothing that was final under it changes.
    highest: u64,
    /// Makes equal blocks differ.
    salt: u64,
    /// The relayers have no gas money.
    pub broke: bool,
}

impl Chain {
    pub(super) fn new(place: Place, state: State, time_s: u64, confirmations: u64) -> Self {
        // The money comes in by a transfer, as any does.
        let held = held(&state, place.wallet);
        let deposit =
            IUsdc::Transfer { from: Address::repeat_byte(0xdd), to: place.wallet, value: held };
        let mined = vec![Mined {
            tx: Transaction {
                hash: keccak256("deposit"),
                sender: Address::repeat_byte(0xdd),
                nonce: 0,
                max_fee: 0,
                tip: 0,
                to: place.usdc,
                what: What::Call(Bytes::new()),
            },
            status: true,
            logs: vec![(place.usdc, deposit.encode_log_data())],
        }];
        let genesis = Block {
            number: 0,
            hash: keccak256("genesis"),
            parent: B256::ZERO,
            time_s,
            base_fee: GWEI,
            mined,
            state,
        };
        Self {
            place,
            blocks: vec![Arc::new(genesis)],
            pool: BTreeMap::new(),
            base_fee: GWEI,
            confirmations,
            highest: 0,
            salt: 0,
            broke: false,
        }
    }

    pub(super) fn tip(&self) -> &Block {
        &self.blocks[self.blocks.len() - 1]
    }

    /// Every transaction of the chain, oldest first.
    pub(super) fn mined(&self) -> impl Iterator<Item = (&Block, &Mined)> {
        self.blocks.iter().flat_map(|block| block.mined.iter().map(move |mined| (&**block, mined)))
    }

    pub(super) fn pooled(&self) -> impl Iterator<Item = &Transaction> {
        self.pool.values()
    }

    /* THE POOL */

    /// Reads and takes raw bytes as a client does.
    pub(super) fn send(&mut self, client: Client, raw: &[u8]) -> Result<B256, Refused> {
        let refuse = |words: String| Err((-32_000, words, None));
        let Ok(TxEnvelope::Eip1559(envelope)) = TxEnvelope::decode_2718(&mut &*raw) else {
            return refuse("transaction type not supported".into());
        };
        let digest = envelope.signature_hash();
        let Ok(sender) = envelope.signature().recover_address_from_prehash(&digest) else {
            return refuse("invalid sender".into());
        };
        assert_eq!(envelope.tx().chain_id(), Some(self.place.chain_id), "signed for another chain");
        self.take(
            client,
            Transaction {
                hash: *envelope.hash(),
                sender,
                nonce: envelope.tx().nonce(),
                max_fee: envelope.tx().max_fee_per_gas(),
                tip: envelope.tx().max_priority_fee_per_gas().unwrap_or(0),
                to: envelope.tx().to().unwrap_or_default(),
                what: What::Call(envelope.tx().input().clone()),
            },
        )
    }

    fn take(&mut self, client: Client, tx: Transaction) -> Result<B256, Refused> {
        let refuse = |words: String| Err((-32_000, words, None));
        let next = self.tip().state.account(tx.sender);
        let slot = (tx.sender, tx.nonce);
        if tx.nonce < next {
            return refuse(client.too_low(next, tx.nonce));
        }
        if let Some(old) = self.pool.get(&slot) {
            if old.hash == tx.hash {
                return refuse(client.known().into());
            }
            // geth: ten in a hundred on tip and cap.
            if tx.tip * 100 < old.tip * 110 || tx.max_fee * 100 < old.max_fee * 110 {
                return refuse(client.underbid().into());
            }
        }
        if self.broke {
            return refuse(client.broke().into());
        }
        let gap = (next..tx.nonce).any(|nonce| !self.pool.contains_key(&(tx.sender, nonce)));
        if gap && let Some(words) = client.gap(next) {
            return refuse(words);
        }
        if tx.max_fee < self.base_fee
            && let Some(words) = client.below_base_fee()
        {
            return refuse(words.into());
        }
        let hash = tx.hash;
        self.pool.insert(slot, tx);
        Ok(hash)
    }

    /// Puts somebody else's transaction into the pool, at the sender's next nonce.
    pub(super) fn add(&mut self, sender: Address, to: Address, what: What) {
        let mut nonce = self.tip().state.account(sender);
        while self.pool.contains_key(&(sender, nonce)) {
            nonce += 1;
        }
        self.salt += 1;
        let hash = keccak256([&self.salt.to_be_bytes()[..], sender.as_slice()].concat());
        let (max_fee, tip) = (u128::MAX / 4, 50 * GWEI);
        let tx = Transaction { hash, sender, nonce, max_fee, tip, to, what };
        self.pool.insert((sender, nonce), tx);
    }

    /// Forgets pooled transactions. Answers how many.
    pub(super) fn forget(&mut self, mut which: impl FnMut(&Transaction) -> bool) -> usize {
        let before = self.pool.len();
        self.pool.retain(|_, tx| !which(tx));
        before - self.pool.len()
    }

    /* BLOCKS */

    /// Makes a block of what the pool has and `takes` lets through, richest tip first.
    pub(super) fn mine(&mut self, time_s: u64, mut takes: impl FnMut(&Transaction) -> bool) {
        let parent = Arc::clone(&self.blocks[self.blocks.len() - 1]);
        let time_s = time_s.max(parent.time_s + 1);
        let number = parent.number + 1;
        let mut state = parent.state.clone();
        let mut mined = Vec::new();
        let mut left_out = std::collections::BTreeSet::new();
        loop {
            let next = self
                .pool
                .values()
                .filter(|tx| tx.max_fee >= self.base_fee && !left_out.contains(&tx.sender))
                .filter(|tx| tx.nonce == state.account(tx.sender))
                .max_by_key(|tx| (tx.tip, tx.sender));
            let Some(tx) = next.cloned() else { break };
            if !takes(&tx) {
                left_out.insert(tx.sender);
                continue;
            }
            self.pool.remove(&(tx.sender, tx.nonce));
            let env = Env { place: &self.place, time_s };
            let (status, logs) = match &tx.what {
                What::Call(data) => match state.run(env, tx.to, data) {
                    Ok((_, logs)) => (true, logs),
                    Err(_) => (false, Vec::new()),
                },
                What::Act(act) => (true, state.act(env, act)),
            };
            state.accounts.insert(tx.sender, tx.nonce + 1);
            mined.push(Mined { tx, status, logs });
        }
        self.pool.retain(|(sender, nonce), _| *nonce >= state.account(*sender));
        self.salt += 1;
        let hash = keccak256([parent.hash.as_slice(), &self.salt.to_be_bytes()].concat());
        let base_fee = self.base_fee;
        let block = Block { number, hash, parent: parent.hash, time_s, base_fee, mined, state };
        self.blocks.push(Arc::new(block));
        self.highest = self.highest.max(number);
    }

    /// Takes the last `depth` blocks off, as far as nothing final falls. What stood in them goes
    /// back to the pool where `returns` says so, and is forgotten otherwise. Answers how many fell.
    pub(super) fn reorganise(
        &mut self,
        depth: u64,
        mut returns: impl FnMut(&Transaction) -> bool,
    ) -> u64 {
        let mut fallen = Vec::new();
        for _ in 0..depth {
            let height = self.tip().number;
            if height == 0 || height + self.confirmations <= self.highest + 1 {
                break;
            }
            fallen.extend(self.blocks.pop());
        }
        for block in fallen.iter().rev() {
            for mined in &block.mined {
                let slot = (mined.tx.sender, mined.tx.nonce);
                if returns(&mined.tx) && !self.pool.contains_key(&slot) {
                    self.pool.insert(slot, mined.tx.clone());
                }
            }
        }
        fallen.len() as u64
    }

    /* ANSWERS */

    /// Answers a question as a node does whose chain is `view`.
    pub(super) fn answer(&self, view: &[Arc<Block>], method: &str, params: &Value) -> Answer {
        let tip = &view[view.len() - 1];
        Ok(match method {
            "eth_chainId" => json!(format!("{:#x}", self.place.chain_id)),
            "eth_getCode" => json!("0x00"),
            "eth_getBlockByNumber" => match at(view, &params[0]) {
                Some(block) => json!({
                    "number": hex(block.number), "hash": block.hash, "parentHash": block.parent,
                    "timestamp": hex(block.time_s), "baseFeePerGas": format!("{:#x}", block.base_fee),
                }),
                None => Value::Null,
            },
            "eth_getTransactionReceipt" => {
                let hash: B256 = read(&params[0])?;
                receipt(view, hash)
            }
            "eth_getTransactionCount" => {
                let account: Address = read(&params[0])?;
                let block = at(view, &params[1]).ok_or_else(unknown_block)?;
                json!(hex(block.state.account(account)))
            }
            "eth_call" => {
                let block = at(view, &params[1]).ok_or_else(unknown_block)?;
                let to: Address = read(&params[0]["to"])?;
                let data: Bytes = read(&params[0]["data"])?;
                let env = Env { place: &self.place, time_s: block.time_s };
                match block.state.clone().run(env, to, &data) {
                    Ok((answer, _)) => json!(answer),
                    Err(data) => return Err((3, "execution reverted".into(), Some(data))),
                }
            }
            "eth_getLogs" => logs(view, tip, &params[0])?,
            _ => return Err((-32_601, format!("the method {method} does not exist"), None)),
        })
    }
}

fn hex(number: u64) -> String {
    format!("{number:#x}")
}

fn read<T: serde::de::DeserializeOwned>(value: &Value) -> Result<T, Refused> {
    serde_json::from_value(value.clone())
        .map_err(|error| (-32_602, format!("invalid params: {error}"), None))
}

fn unknown_block() -> Refused {
    (-32_000, "header not found".into(), None)
}

fn at<'a>(view: &'a [Arc<Block>], tag: &Value) -> Option<&'a Arc<Block>> {
    // EIP-1898: a block by its hash, which must be on this chain.
    if let Some(hash) = tag.get("blockHash") {
        let hash: B256 = serde_json::from_value(hash.clone()).ok()?;
        return view.iter().rev().find(|block| block.hash == hash);
    }
    match tag.as_str() {
        None | Some("latest") => view.last(),
        Some(number) => {
            let number = u64::from_str_radix(number.trim_start_matches("0x"), 16).ok()?;
            view.get(usize::try_from(number).ok()?)
        }
    }
}

fn log(block: &Block, index: usize, mined: &Mined, nth: usize) -> Value {
    let (address, log) = &mined.logs[nth];
    json!({
        "address": address, "topics": log.topics(), "data": log.data,
        "blockNumber": hex(block.number), "blockHash": block.hash,
        "transactionHash": mined.tx.hash, "transactionIndex": hex(index as u64),
        "logIndex": hex((index * 1_000 + nth) as u64), "removed": false,
    })
}

fn receipt(view: &[Arc<Block>], hash: B256) -> Value {
    for block in view.iter().rev() {
        for (index, mined) in block.mined.iter().enumerate() {
            if mined.tx.hash != hash {
                continue;
            }
            let logs: Vec<Value> =
                (0..mined.logs.len()).map(|nth| log(block, index, mined, nth)).collect();
            return json!({
                "type": "0x2", "status": if mined.status { "0x1" } else { "0x0" },
                "cumulativeGasUsed": "0x1", "gasUsed": "0x186a0", "effectiveGasPrice": "0x1",
                "logsBloom": alloy::primitives::Bloom::ZERO, "logs": logs,
                "transactionHash": hash, "transactionIndex": hex(index as u64),
                "blockHash": block.hash, "blockNumber": hex(block.number),
                "from": mined.tx.sender, "to": mined.tx.to, "contractAddress": null,
            });
        }
    }
    Value::Null
}

fn logs(view: &[Arc<Block>], tip: &Block, filter: &Value) -> Answer {
    let number = |tag: &Value| match tag.as_str() {
        Some(text) if text.starts_with("0x") => {
            u64::from_str_radix(text.trim_start_matches("0x"), 16).unwrap_or(tip.number)
        }
        _ => tip.number,
    };
    let (from, to) = (number(&filter["fromBlock"]), number(&filter["toBlock"]));
    // Lists that are not one address or one topic: any of them.
    let fits = |wanted: &Value, found: &str| match wanted {
        Value::Null => true,
        Value::Array(list) => {
            list.iter().any(|one| one.as_str().is_some_and(|one| one.eq_ignore_ascii_case(found)))
        }
        one => one.as_str().is_some_and(|one| one.eq_ignore_ascii_case(found)),
    };
    let mut found = Vec::new();
    for block in view.iter().filter(|block| (from..=to).contains(&block.number)) {
        for (index, mined) in block.mined.iter().enumerate() {
            for (nth, (address, data)) in mined.logs.iter().enumerate() {
                let topics = filter["topics"].as_array().cloned().unwrap_or_default();
                let matches = topics.iter().enumerate().all(|(place, wanted)| {
                    wanted.is_null()
                        || data.topics().get(place).is_some_and(|t| fits(wanted, &t.to_string()))
                });
                if matches && fits(&filter["address"], &address.to_string()) {
                    found.push(log(block, index, mined, nth));
                }
            }
        }
    }
    Ok(Value::Array(found))
}

/// What `who` holds of USDC.
pub(super) fn held(state: &State, who: Address) -> U256 {
    U256::from(state.usdc.get(&who).copied().unwrap_or(0))
}
