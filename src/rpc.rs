//! JSON-RPC to a node: bounded answers, time-outs, batches, and an honest "don't know".

use std::{
    collections::HashSet,
    fmt::{self, Debug},
    sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    time::Duration,
};

use alloy::{
    primitives::{Address, B256, Bytes, U64, U256},
    rpc::types::{Log, TransactionReceipt},
};
use futures_util::future::BoxFuture;
use reqwest::StatusCode;
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{DeserializeOwned, Error as _, SeqAccess, Visitor},
};
use serde_json::{Value, json, value::RawValue};

use crate::pulse;

/// Blocks asked for in one `eth_getLogs`, at most: nodes refuse wider spans.
pub(crate) const LOG_SPAN: u64 = 2_000;
/// Bytes a node may answer with; more is cut off and counts as no answer.
const ANSWER_LIMIT: usize = 8 * 1024 * 1024;
/// Bytes of an error's data that are looked at.
const DATA_LIMIT: usize = 64 * 1024;
/// Calls in one HTTP request.
const BATCH_LIMIT: usize = 100;
/// How often something is asked that a node which is not behind must know.
const TRIES: usize = 4;
/// Receipts in one HTTP request: of a hundred payments each, they stay far below the longest answer.
const RECEIPTS_LIMIT: usize = 20;

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum RpcError {
    /// The node understood, and refused.
    #[error("the node refused {method}: {message} (code {code})")]
    Refused {
        /// The method.
        method: &'static str,
        /// JSON-RPC error code.
        code: i64,
        /// The node's words.
        message: String,
        /// The node's data, for reverts.
        data: Option<String>,
    },
    /// No endpoint is on the chain that the configuration names.
    #[error("the node is on chain {found}, the configuration says {expected}")]
    WrongChain {
        /// What the node says.
        found: u64,
        /// What the configuration says.
        expected: u64,
    },
    /// No usable answer: the request may or may not have been carried out.
    #[error("no usable answer from the node to {method}: {why}")]
    Unknown {
        /// The method.
        method: &'static str,
        /// What was seen instead.
        why: String,
    },
}

impl RpcError {
    fn unknown(method: &'static str, why: impl ToString) -> Self {
        Self::Unknown { method, why: why.to_string() }
    }
}

/// A block's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Head {
    /// Number.
    pub number: U64,
    /// Hash.
    pub hash: B256,
    /// Hash of the block below.
    pub parent_hash: B256,
    /// Unix seconds.
    pub timestamp: U64,
    /// Wei per gas.
    #[serde(default)]
    pub base_fee_per_gas: U256,
}

impl Head {
    /// Returns the number.
    #[must_use]
    pub fn height(&self) -> u64 {
        self.number.to()
    }

    /// Returns the time in unix seconds.
    #[must_use]
    pub fn time_s(&self) -> u64 {
        self.timestamp.to()
    }

    /// Returns the base fee in wei per gas.
    #[must_use]
    pub fn base_fee(&self) -> u128 {
        u128::try_from(self.base_fee_per_gas).unwrap_or(u128::MAX)
    }
}

/// Which block's state a question is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// The node's newest.
    Latest,
    /// The block of that number, whichever it is.
    Number(u64),
    /// That very block, as long as it is on the node's chain (EIP-1898): a node that is behind, or
    /// on another branch, has no answer instead of a wrong one.
    Block(B256),
}

impl At {
    fn param(self) -> Value {
        match self {
            Self::Latest => json!("latest"),
            Self::Number(number) => json!(format!("{number:#x}")),
            Self::Block(hash) => json!({ "blockHash": hash, "requireCanonical": true }),
        }
    }
}

impl From<&Head> for At {
    fn from(head: &Head) -> Self {
        Self::Block(head.hash)
    }
}

/// Carries a request to a node and brings back its whole answer: HTTP, or a chain that is modelled in
/// the process.
pub(crate) trait Wire: Debug + Send + Sync {
    /// Posts one body to one endpoint. The error says what came instead of an answer.
    fn post<'a>(
        &'a self,
        url: &'a str,
        body: String,
    ) -> BoxFuture<'a, Result<(StatusCode, Vec<u8>), String>>;
}

/// JSON-RPC over HTTP.
#[derive(Debug)]
struct Http(reqwest::Client);

impl Wire for Http {
    fn post<'a>(
        &'a self,
        url: &'a str,
        body: String,
    ) -> BoxFuture<'a, Result<(StatusCode, Vec<u8>), String>> {
        Box::pin(async move {
            let request = self.0.post(url).header("content-type", "application/json").body(body);
            // Endpoints' URLs hold secrets.
            let why = |error: reqwest::Error| error.without_url().to_string();
            let mut response = request.send().await.map_err(why)?;
            let status = response.status();
            let mut bytes = Vec::new();
            while let Some(chunk) = response.chunk().await.map_err(why)? {
                if bytes.len() + chunk.len() > ANSWER_LIMIT {
                    return Err("the answer is too long".into());
                }
                bytes.extend_from_slice(&chunk);
            }
            Ok((status, bytes))
        })
    }
}

/// One way to a node.
#[derive(Debug)]
struct Endpoint {
    url: String,
    /// It said it is on the right chain, and has not failed since.
    checked: AtomicBool,
}

/// The node, behind one or more endpoints.
#[derive(Debug)]
pub struct Rpc {
    wire: Box<dyn Wire>,
    endpoints: Vec<Endpoint>,
    chain_id: u64,
    current: AtomicUsize,
    calls: AtomicU64,
}

#[derive(Serialize)]
struct Call<'a> {
    jsonrpc: &'static str,
    id: usize,
    method: &'a str,
    params: &'a Value,
}

#[derive(Deserialize)]
struct Answer {
    id: Option<usize>,
    result: Option<Box<RawValue>>,
    error: Option<AnswerError>,
}

#[derive(Deserialize)]
struct AnswerError {
    code: i64,
    message: String,
    data: Option<Box<RawValue>>,
}

/// A list of answers, no longer than any request.
struct Answers(Vec<Answer>);

impl<'de> Deserialize<'de> for Answers {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        struct Bounded;
        impl<'de> Visitor<'de> for Bounded {
            type Value = Answers;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "at most {BATCH_LIMIT} answers")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Answers, A::Error> {
                let mut list = Vec::new();
                while let Some(answer) = items.next_element()? {
                    if list.len() == BATCH_LIMIT {
                        return Err(A::Error::invalid_length(list.len() + 1, &self));
                    }
                    list.push(answer);
                }
                Ok(Answers(list))
            }
        }
        input.deserialize_seq(Bounded)
    }
}

impl Rpc {
    /// Makes a client for the endpoints on one chain, tried in order when one gives no usable
    /// answer. An endpoint says which chain it is on before it is asked anything else. An answer
    /// that is not whole within `timeout` is none.
    ///
    /// # Errors
    /// [`RpcError::Unknown`] if the HTTP client cannot be made.
    pub fn new(endpoints: Vec<String>, chain_id: u64, timeout: Duration) -> Result<Self, RpcError> {
        let http = reqwest::Client::builder()
            .connect_timeout(timeout.min(Duration::from_secs(3)))
            .timeout(timeout)
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|error| RpcError::unknown("connect", error))?;
        Ok(Self::over(Box::new(Http(http)), endpoints, chain_id))
    }

    /// The same over any wire.
    pub(crate) fn over(wire: Box<dyn Wire>, endpoints: Vec<String>, chain_id: u64) -> Self {
        let endpoints = endpoints
            .into_iter()
            .map(|url| Endpoint { url, checked: AtomicBool::new(false) })
            .collect();
        let (current, calls) = (AtomicUsize::new(0), AtomicU64::new(0));
        Self { wire, endpoints, chain_id, current, calls }
    }

    /// Returns the number of calls made so far, each member of a batch counted.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    /// Finds an endpoint that is on the right chain: the current one, or one so many turns after it.
    async fn endpoint(&self, turns: usize) -> Result<usize, RpcError> {
        let other = (self.current.load(Ordering::Relaxed) + turns) % self.endpoints.len().max(1);
        if turns > 0 && self.check(other).await.is_ok() {
            return Ok(other);
        }
        let mut why = RpcError::unknown("eth_chainId", "no endpoint");
        for _ in &self.endpoints {
            let index = self.current.load(Ordering::Relaxed);
            match self.check(index).await {
                Ok(()) => return Ok(index),
                Err(error) => why = error,
            }
            self.leave(index);
        }
        Err(why)
    }

    async fn check(&self, index: usize) -> Result<(), RpcError> {
        const METHOD: &str = "eth_chainId";
        let endpoint = self.endpoints.get(index);
        let endpoint = endpoint.ok_or_else(|| RpcError::unknown(METHOD, "no endpoint"))?;
        if endpoint.checked.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.calls.fetch_add(1, Ordering::Relaxed);
        let call = Call { jsonrpc: "2.0", id: 0, method: METHOD, params: &json!([]) };
        let body = serde_json::to_string(&call).map_err(|e| RpcError::unknown(METHOD, e))?;
        let (_, bytes) = self.post_to(METHOD, index, body).await?;
        self.is_ours(decode::<U64>(METHOD, read(METHOD, &bytes)?)?)?;
        endpoint.checked.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn is_ours(&self, chain_id: U64) -> Result<(), RpcError> {
        match chain_id.to() {
            found if found == self.chain_id => Ok(()),
            found => Err(RpcError::WrongChain { found, expected: self.chain_id }),
        }
    }

    /// Turns to the next endpoint, because this one is behind; nothing else is wrong with it.
    pub fn turn(&self) {
        self.turn_from(self.current.load(Ordering::Relaxed));
    }

    fn turn_from(&self, index: usize) {
        let next = (index + 1) % self.endpoints.len().max(1);
        // Whoever failed at the same time has turned already.
        let _ = self.current.compare_exchange(index, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Turns to the endpoint after this one; this one is checked again when its turn comes.
    fn leave(&self, index: usize) {
        if let Some(endpoint) = self.endpoints.get(index) {
            endpoint.checked.store(false, Ordering::Relaxed);
        }
        self.turn_from(index);
    }

    /// Sends to one endpoint, and lets `read` make something of the answer. The next call goes to
    /// the next endpoint if there is none, if it is unusable, or if its HTTP status is a failure.
    /// This one is not repeated: for a send that is the engine's decision.
    async fn post<T>(
        &self,
        method: &'static str,
        turns: usize,
        body: String,
        read: impl FnOnce(&[u8]) -> Result<T, RpcError>,
    ) -> Result<T, RpcError> {
        let index = self.endpoint(turns).await?;
        let answer = self.post_to(method, index, body).await;
        let is_failure = matches!(&answer, Ok((status, _)) if !status.is_success());
        let outcome = answer.and_then(|(_, bytes)| read(&bytes));
        if is_failure
            || matches!(outcome, Err(RpcError::Unknown { .. } | RpcError::WrongChain { .. }))
        {
            self.leave(index);
        }
        outcome
    }

    async fn post_to(
        &self,
        method: &'static str,
        index: usize,
        body: String,
    ) -> Result<(StatusCode, Vec<u8>), RpcError> {
        let endpoint =
            self.endpoints.get(index).ok_or_else(|| RpcError::unknown(method, "no endpoint"))?;
        let answer = self.wire.post(&endpoint.url, body).await;
        // Whatever it was: it came within its time, and the caller goes on.
        pulse::beat();
        answer.map_err(|why| RpcError::unknown(method, why))
    }

    /// Calls one method.
    ///
    /// # Errors
    /// [`RpcError`].
    pub async fn call<T: DeserializeOwned>(
        &self,
        method: &'static str,
        params: Value,
    ) -> Result<T, RpcError> {
        self.call_turned(0, method, params).await
    }

    /// Hands signed bytes to a node; `turns` counts the earlier tries, so that each endpoint has
    /// its turn. Answers with the hash that the node gives them.
    ///
    /// # Errors
    /// [`RpcError`]; only `Refused` says that this node did not take them now.
    pub async fn send_raw(&self, raw: &Bytes, turns: usize) -> Result<B256, RpcError> {
        self.call_turned(turns, "eth_sendRawTransaction", json!([raw])).await
    }

    async fn call_turned<T: DeserializeOwned>(
        &self,
        turns: usize,
        method: &'static str,
        params: Value,
    ) -> Result<T, RpcError> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let call = Call { jsonrpc: "2.0", id: 0, method, params: &params };
        let body = serde_json::to_string(&call).map_err(|e| RpcError::unknown(method, e))?;
        self.post(method, turns, body, |bytes| decode(method, read(method, bytes)?)).await
    }

    /// Makes different calls of one node in one request, at most [`BATCH_LIMIT`]; answers in order.
    async fn at_once<T>(
        &self,
        calls: &[(&'static str, &Value)],
        read_all: impl FnOnce(Vec<Answer>) -> Result<T, RpcError>,
    ) -> Result<T, RpcError> {
        let method = calls.last().map_or("", |(method, _)| *method);
        self.calls.fetch_add(calls.len() as u64, Ordering::Relaxed);
        let body: Vec<_> = calls
            .iter()
            .enumerate()
            .map(|(id, (method, params))| Call { jsonrpc: "2.0", id, method, params })
            .collect();
        let body = serde_json::to_string(&body).map_err(|e| RpcError::unknown(method, e))?;
        self.post(method, 0, body, |bytes| {
            let Answers(list) = read(method, bytes)?;
            let mut slots: Vec<Option<Answer>> = calls.iter().map(|_| None).collect();
            for answer in list {
                if let Some(slot) = answer.id.and_then(|id| slots.get_mut(id)) {
                    *slot = Some(answer);
                }
            }
            let missing = || RpcError::unknown(method, "left out of the batch");
            read_all(
                slots.into_iter().map(|slot| slot.ok_or_else(missing)).collect::<Result<_, _>>()?,
            )
        })
        .await
    }

    /// Makes two different calls of one node in one request.
    async fn both<A: DeserializeOwned, B: DeserializeOwned>(
        &self,
        first: (&'static str, &Value),
        second: (&'static str, &Value),
        check: impl FnOnce(&A) -> Result<(), RpcError>,
    ) -> Result<(A, B), RpcError> {
        self.at_once(&[first, second], |answers| {
            let mut answers = answers.into_iter();
            let mut next = |method| {
                answers.next().ok_or_else(|| RpcError::unknown(method, "left out of the batch"))
            };
            let one = decode(first.0, next(first.0)?)?;
            check(&one)?;
            Ok((one, decode(second.0, next(second.0)?)?))
        })
        .await
    }

    /// Calls one method many times in as few requests as the limits allow; answers in order.
    ///
    /// # Errors
    /// [`RpcError::Unknown`] if any answer is missing or unusable. Single refusals stand in the list.
    pub async fn batch<T: DeserializeOwned>(
        &self,
        method: &'static str,
        params: &[Value],
    ) -> Result<Vec<Result<T, RpcError>>, RpcError> {
        let mut answers = Vec::with_capacity(params.len());
        for chunk in params.chunks(BATCH_LIMIT) {
            let calls: Vec<_> = chunk.iter().map(|params| (method, params)).collect();
            let list = self
                .at_once(&calls, |list| {
                    let mut list: Vec<Result<T, RpcError>> =
                        list.into_iter().map(|answer| decode(method, answer)).collect();
                    // Who babbles once is left.
                    let is_babble = |one: &_| matches!(one, Err(RpcError::Unknown { .. }));
                    match list.iter().position(is_babble) {
                        Some(at) => list.swap_remove(at).map(|_| Vec::new()),
                        None => Ok(list),
                    }
                })
                .await?;
            answers.extend(list);
        }
        Ok(answers)
    }

    /// Asks for the chain id.
    ///
    /// # Errors
    /// [`RpcError`].
    pub async fn chain_id(&self) -> Result<u64, RpcError> {
        Ok(self.call::<U64>("eth_chainId", json!([])).await?.to())
    }

    /// Asks for the newest head, and again for the chain: an endpoint may be switched at any time.
    ///
    /// # Errors
    /// [`RpcError`].
    pub async fn latest(&self) -> Result<Head, RpcError> {
        let (_, head): (U64, _) = self
            .both(
                ("eth_chainId", &json!([])),
                ("eth_getBlockByNumber", &json!(["latest", false])),
                |chain_id| self.is_ours(*chain_id),
            )
            .await?;
        Ok(head)
    }

    /// Asks for the heads of blocks by number, of a node that has `top`: depth is counted on one chain,
    /// and one of several nodes may be behind, or on a branch that the others have left. `None` only
    /// above `top`.
    ///
    /// # Errors
    /// [`RpcError`], also if no node has `top`.
    pub async fn heads_under(
        &self,
        top: &Head,
        numbers: &[u64],
    ) -> Result<Vec<Option<Head>>, RpcError> {
        const METHOD: &str = "eth_getBlockByNumber";
        let params: Vec<Value> = numbers.iter().map(|number| block_by(*number)).collect();
        let mut heads: Vec<Option<Head>> = Vec::with_capacity(numbers.len());
        // One place in each request is for `top`.
        for (params, numbers) in params.chunks(BATCH_LIMIT - 1).zip(numbers.chunks(BATCH_LIMIT - 1))
        {
            let calls: Vec<_> = params.iter().map(|params| (METHOD, params)).collect();
            let below: Vec<Option<Head>> = self.under(top, &calls).await?;
            let mut both = below.iter().zip(numbers);
            if both.any(|(head, number)| head.is_none() && *number <= top.height()) {
                return Err(RpcError::unknown(METHOD, "the node left out a block of its chain"));
            }
            heads.extend(below);
        }
        Ok(heads)
    }

    /// Asks for receipts, of a node that has `top`; `None` proves nothing.
    ///
    /// # Errors
    /// [`RpcError`], also if no node has `top`.
    pub async fn receipts(
        &self,
        top: &Head,
        hashes: &[B256],
    ) -> Result<Vec<Option<TransactionReceipt>>, RpcError> {
        let mut receipts = Vec::with_capacity(hashes.len());
        for chunk in hashes.chunks(RECEIPTS_LIMIT) {
            let params: Vec<Value> = chunk.iter().map(|hash| json!([hash])).collect();
            let calls: Vec<_> =
                params.iter().map(|params| ("eth_getTransactionReceipt", params)).collect();
            receipts.append(&mut self.under(top, &calls).await?);
        }
        Ok(receipts)
    }

    /// Makes calls in one request of a node that has `top`, and leaves one that has not: it is behind,
    /// or on a branch that the others have left, and does not say so.
    async fn under<T: DeserializeOwned>(
        &self,
        top: &Head,
        calls: &[(&'static str, &Value)],
    ) -> Result<Vec<T>, RpcError> {
        const METHOD: &str = "eth_getBlockByNumber";
        let tip = block_by(top.height());
        let mut all = vec![(METHOD, &tip)];
        all.extend_from_slice(calls);
        for _ in 0..TRIES {
            let list = self
                .at_once(&all, |answers| {
                    let mut answers = answers.into_iter();
                    let tip = answers.next().map(|tip| decode(METHOD, tip)).transpose()?;
                    let tip: Option<Head> = tip.flatten();
                    if tip.is_none_or(|tip| tip.hash != top.hash) {
                        return Ok(None);
                    }
                    let methods = calls.iter().map(|(method, _)| *method);
                    let list = methods.zip(answers).map(|(method, answer)| decode(method, answer));
                    list.collect::<Result<Vec<T>, _>>().map(Some)
                })
                .await?;
            if let Some(list) = list {
                return Ok(list);
            }
            self.turn();
        }
        let why = format!("no node has block {} with hash {}", top.height(), top.hash);
        Err(RpcError::unknown(METHOD, why))
    }

    /// Asks for an account's next nonce: a lower bound, as that node knows it.
    ///
    /// # Errors
    /// [`RpcError`].
    pub async fn transaction_count(&self, account: Address, at: At) -> Result<u64, RpcError> {
        let params = json!([account, at.param()]);
        Ok(self.call_at::<U64>("eth_getTransactionCount", params, at).await?.to())
    }

    /// Asks for accounts' balances at the newest head, in wei and in order.
    ///
    /// # Errors
    /// [`RpcError`] if any answer is missing.
    pub async fn balances(&self, accounts: &[Address]) -> Result<Vec<U256>, RpcError> {
        let params: Vec<Value> = accounts.iter().map(|a| json!([a, "latest"])).collect();
        self.batch("eth_getBalance", &params).await?.into_iter().collect()
    }

    /// Asks for a contract's code.
    ///
    /// # Errors
    /// [`RpcError`].
    pub async fn code(&self, account: Address) -> Result<Bytes, RpcError> {
        self.call("eth_getCode", json!([account, "latest"])).await
    }

    /// Calls a contract without a transaction.
    ///
    /// # Errors
    /// [`RpcError`]; a revert is `Refused` with its data.
    pub async fn eth_call(
        &self,
        to: Address,
        from: Option<Address>,
        data: &Bytes,
        at: At,
    ) -> Result<Bytes, RpcError> {
        let mut call = json!({ "to": to, "data": data });
        if let Some(from) = from {
            call["from"] = json!(from);
        }
        self.call_at("eth_call", json!([call, at.param()]), at).await
    }

    /// Asks how much gas a call would take as a transaction of `from`.
    ///
    /// # Errors
    /// [`RpcError`]; a revert is `Refused` with its data.
    pub async fn estimate_gas(
        &self,
        from: Address,
        to: Address,
        data: &Bytes,
        at: At,
    ) -> Result<u64, RpcError> {
        let call = json!([{ "from": from, "to": to, "data": data }, at.param()]);
        Ok(self.call_at::<U64>("eth_estimateGas", call, at).await?.to())
    }

    /// Calls one method about one block. A node that does not have that very block is left for the
    /// next: behind one address, too, there may be many.
    async fn call_at<T: DeserializeOwned>(
        &self,
        method: &'static str,
        params: Value,
        at: At,
    ) -> Result<T, RpcError> {
        let mut tries = TRIES;
        loop {
            tries -= 1;
            match self.call(method, params.clone()).await {
                Err(RpcError::Refused { data: None, .. })
                    if tries > 0 && matches!(at, At::Block(_)) =>
                {
                    self.turn();
                }
                answer => return answer,
            }
        }
    }

    /// Makes many calls of one block's state in few requests; answers in order.
    ///
    /// # Errors
    /// [`RpcError`] if any answer is missing, or is a revert.
    pub async fn eth_calls(&self, calls: Vec<Value>, at: At) -> Result<Vec<Bytes>, RpcError> {
        let params: Vec<Value> = calls.into_iter().map(|call| json!([call, at.param()])).collect();
        let mut tries = TRIES;
        loop {
            tries -= 1;
            let answers: Result<Vec<Bytes>, RpcError> =
                self.batch("eth_call", &params).await?.into_iter().collect();
            match answers {
                Err(RpcError::Refused { data: None, .. }) if tries > 0 => self.turn(),
                answers => return answers,
            }
        }
    }

    /// Asks for a contract's logs in a span of blocks with any of the given first topics, of a node
    /// that has `top`, which is not below `to`.
    ///
    /// # Errors
    /// [`RpcError`], also if no node has `top`.
    pub async fn logs(
        &self,
        address: Address,
        (from, to): (u64, u64),
        topics: &[B256],
        top: &Head,
    ) -> Result<Vec<Log>, RpcError> {
        self.logs_by(address, (from, to), json!([topics]), top).await
    }

    /// The same with each topic as `eth_getLogs` takes it: one, a list of which any will do, or null.
    ///
    /// # Errors
    /// As [`Rpc::logs`].
    pub async fn logs_by(
        &self,
        address: Address,
        (from, to): (u64, u64),
        topics: Value,
        top: &Head,
    ) -> Result<Vec<Log>, RpcError> {
        let filter = json!([{
            "address": address,
            "fromBlock": format!("{from:#x}"),
            "toBlock": format!("{to:#x}"),
            "topics": topics,
        }]);
        let lists = self.under(top, &[("eth_getLogs", &filter)]).await?;
        let mut logs: Vec<Log> = lists.into_iter().next().unwrap_or_default();
        // One log has one place in one block: what a node lists twice happened once.
        let mut seen = HashSet::new();
        logs.retain(|log| seen.insert((log.block_hash, log.log_index)));
        Ok(logs)
    }
}

fn block_by(number: u64) -> Value {
    json!([format!("{number:#x}"), false])
}

fn read<T: DeserializeOwned>(method: &'static str, bytes: &[u8]) -> Result<T, RpcError> {
    serde_json::from_slice(bytes).map_err(|_| RpcError::unknown(method, excerpt(bytes)))
}

fn decode<T: DeserializeOwned>(method: &'static str, answer: Answer) -> Result<T, RpcError> {
    if let Some(error) = answer.error {
        let data = error.data.filter(|data| data.get().len() <= DATA_LIMIT);
        let data = match data.and_then(|data| serde_json::from_str(data.get()).ok()) {
            Some(Value::String(data)) => Some(data),
            Some(Value::Object(map)) => map.get("data").and_then(Value::as_str).map(str::to_owned),
            _ => None,
        };
        let message = error.message.chars().take(500).collect();
        return Err(RpcError::Refused { method, code: error.code, message, data });
    }
    // `"result": null` is an answer too: it arrives here as None.
    let text = answer.result.as_deref().map_or("null", RawValue::get);
    serde_json::from_str(text).map_err(|error| RpcError::unknown(method, error))
}

fn excerpt(bytes: &[u8]) -> String {
    let head = bytes.get(..bytes.len().min(120)).unwrap_or_default();
    format!("not JSON-RPC: {}", String::from_utf8_lossy(head))
}

#[cfg(test)]
#[path = "rpc_tests.rs"]
mod tests;
