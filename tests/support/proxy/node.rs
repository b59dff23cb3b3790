//! The node as it is shown: behind by some blocks, on another branch, on another chain, or with the
//! pool rules of clients that are stricter than anvil.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard},
};

use alloy::{
    consensus::TxEnvelope,
    eips::eip2718::Decodable2718 as _,
    primitives::{Address, B256, Bytes},
};
use serde_json::{Value, json};

/// How the node behaves.
#[derive(Debug, Default)]
pub struct Rules {
    /// Blocks it is behind, request by request in turn; empty: none.
    pub lag: Vec<u64>,
    /// It is on a branch of its own above this height: the same transactions in other blocks.
    pub branch: Option<u64>,
    /// Another chain id.
    pub chain_id: Option<u64>,
    /// geth's words, and its rule that a replacement pays at least 10 % more, tip and cap.
    pub geth: bool,
    /// It takes no nonce above the next one, and says so with these words.
    pub no_gaps: Option<&'static str>,
}

/// A transaction in the strict pool.
#[derive(Clone, Copy, Debug)]
struct Offer {
    hash: B256,
    tip: u128,
    cap: u128,
}

/// The real node, and what is made of it.
pub struct Node {
    url: String,
    http: reqwest::Client,
    rules: Mutex<Rules>,
    turn: Mutex<usize>,
    pool: Mutex<BTreeMap<(Address, u64), Offer>>,
}

/// How one request sees the node.
pub struct View {
    /// Its newest block, if it is behind.
    top: Option<u64>,
    branch: Option<u64>,
}

fn number(value: &Value) -> Option<u64> {
    u64::from_str_radix(value.as_str()?.strip_prefix("0x")?, 16).ok()
}

fn hex(number: u64) -> Value {
    json!(format!("{number:#x}"))
}

fn refused(message: String) -> Value {
    json!({ "error": { "code": -32000, "message": message } })
}

impl Node {
    pub fn new(url: &str) -> Self {
        Self {
            url: url.to_owned(),
            http: reqwest::Client::new(),
            rules: Mutex::default(),
            turn: Mutex::default(),
            pool: Mutex::default(),
        }
    }

    pub fn rules(&self) -> MutexGuard<'_, Rules> {
        self.rules.lock().unwrap()
    }

    /// Asks the real node.
    async fn ask(&self, method: &str, params: &Value) -> Value {
        let call = json!({ "jsonrpc": "2.0", "id": 0, "method": method, "params": params });
        let answer = self.http.post(&self.url).json(&call).send().await.unwrap();
        answer.json().await.unwrap()
    }

    async fn result(&self, method: &str, params: Value) -> Value {
        self.ask(method, &params).await["result"].take()
    }

    /// How the next request sees it.
    pub async fn view(&self) -> View {
        let (lag, branch) = {
            let (rules, mut turn) = (self.rules(), self.turn.lock().unwrap());
            *turn += 1;
            let lag = rules.lag.get(*turn % rules.lag.len().max(1)).copied().unwrap_or(0);
            (lag, rules.branch)
        };
        let top = match lag {
            0 => None,
            lag => {
                let newest = number(&self.result("eth_blockNumber", json!([])).await).unwrap();
                Some(newest.saturating_sub(lag))
            }
        };
        View { top, branch }
    }

    /// Answers one call: an object with `result` or `error`.
    pub async fn call(&self, view: &View, method: &str, params: &Value) -> Value {
        let chain_id = self.rules().chain_id;
        match (method, chain_id) {
            ("eth_chainId", Some(other)) => return json!({ "result": hex(other) }),
            ("eth_sendRawTransaction", _) => return self.send(params).await,
            _ => {}
        }
        let Some(params) = self.seen_from(view, method, params.clone()).await else {
            // The words of geth for a block it does not have.
            return match method {
                "eth_getBlockByNumber" => json!({ "result": null }),
                _ => refused("header not found".into()),
            };
        };
        let mut answer = self.ask(method, &params).await;
        if let Some(top) = view.top
            && method == "eth_getTransactionReceipt"
            && number(&answer["result"]["blockNumber"]).is_some_and(|block| block > top)
        {
            answer["result"] = Value::Null;
        }
        if let Some(from) = view.branch {
            bend(&mut answer["result"], from);
        }
        answer
    }

    /// The parameters as a node sees them that is behind or on another branch; `None` where they
    /// name a block that it does not have.
    async fn seen_from(&self, view: &View, method: &str, mut params: Value) -> Option<Value> {
        let at = match method {
            "eth_getBlockByNumber" => Some(0),
            "eth_call" | "eth_getTransactionCount" | "eth_getCode" => Some(1),
            _ => None,
        };
        if let Some(at) = at {
            let block = params[at].clone();
            if let Some(hash) = block["blockHash"].as_str() {
                let straight =
                    view.branch.and_then(|_| flipped(hash)).unwrap_or_else(|| hash.into());
                let found = self.result("eth_getBlockByHash", json!([straight, false])).await;
                let height = number(&found["number"])?;
                let has = view.top.is_none_or(|top| height <= top)
                    && view.branch.is_none_or(|from| height > from || straight == hash);
                if !has {
                    return None;
                }
                params[at]["blockHash"] = json!(straight);
            } else if let Some(top) = view.top {
                match number(&block) {
                    Some(asked) if asked > top => return None,
                    Some(_) => {}
                    None => params[at] = hex(top),
                }
            }
        }
        if let (Some(top), "eth_blockNumber" | "eth_getLogs") = (view.top, method)
            && let Some(to) = number(&params[0]["toBlock"])
        {
            // It knows of no logs above, and does not say so.
            params[0]["toBlock"] = hex(to.min(top));
            let from = number(&params[0]["fromBlock"]).unwrap_or(0);
            params[0]["fromBlock"] = hex(from.min(top));
        }
        Some(params)
    }

    /// Takes signed bytes by the rules of the pool.
    async fn send(&self, params: &Value) -> Value {
        let raw: Bytes = params[0].as_str().unwrap().parse().unwrap();
        let envelope = TxEnvelope::decode_2718(&mut raw.as_ref()).unwrap();
        let tx = envelope.as_eip1559().unwrap();
        let signer = tx.signature().recover_address_from_prehash(&tx.signature_hash());
        let (sender, nonce) = (signer.unwrap(), tx.tx().nonce);
        let (tip, cap) = (tx.tx().max_priority_fee_per_gas, tx.tx().max_fee_per_gas);
        let offer = Offer { hash: *tx.hash(), tip, cap };
        let count = self.result("eth_getTransactionCount", json!([sender, "latest"])).await;
        let count = number(&count).unwrap();
        let (is_geth, no_gaps) = {
            let rules = self.rules();
            (rules.geth, rules.no_gaps)
        };
        {
            let mut pool = self.pool.lock().unwrap();
            pool.retain(|(of, at), _| *of != sender || *at >= count);
            if is_geth && nonce < count {
                return refused(format!("nonce too low: next nonce {count}, tx nonce {nonce}"));
            }
            if is_geth && let Some(held) = pool.get(&(sender, nonce)) {
                if held.hash == offer.hash {
                    return refused("already known".into());
                }
                let enough = |new: u128, old: u128| new * 100 >= old * 110;
                if !enough(offer.tip, held.tip) || !enough(offer.cap, held.cap) {
                    return refused("replacement transaction underpriced".into());
                }
            }
            let mut next = count;
            while pool.contains_key(&(sender, next)) {
                next += 1;
            }
            if let Some(words) = no_gaps
                && nonce > next
            {
                return refused(words.into());
            }
        }
        let answer = self.ask("eth_sendRawTransaction", params).await;
        if answer["error"].is_null() {
            self.pool.lock().unwrap().insert((sender, nonce), offer);
        }
        answer
    }

    /// Forgets the strict pool, as a node does that was started anew.
    pub fn forget(&self) {
        self.pool.lock().unwrap().clear();
    }
}

/// A hash with its last digit changed, and back again.
fn flipped(hash: &str) -> Option<String> {
    let (rest, last) = hash.split_at_checked(hash.len().checked_sub(1)?)?;
    let digit = u8::from_str_radix(last, 16).ok()? ^ 1;
    Some(format!("{rest}{digit:x}"))
}

/// Shows blocks above `from` under other hashes, wherever a result names them.
fn bend(result: &mut Value, from: u64) {
    if let Value::Array(list) = result {
        list.iter_mut().for_each(|item| bend(item, from));
        return;
    }
    let height = number(&result["blockNumber"]).or_else(|| number(&result["number"]));
    let Some(height) = height.filter(|height| *height > from) else { return };
    let is_block = result["parentHash"].is_string();
    for field in ["hash", "blockHash", "parentHash"] {
        let applies = match field {
            "hash" => is_block,
            "parentHash" => is_block && height > from + 1,
            _ => true,
        };
        if applies && let Some(other) = result[field].as_str().and_then(flipped) {
            result[field] = json!(other);
        }
    }
    if result["logs"].is_array() {
        bend(&mut result["logs"], from);
    }
}
