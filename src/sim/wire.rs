//! The wire between the real JSON-RPC client and the modelled chain: where answers are lost, late,
//! wrong or somebody else's, and where the daemon dies in the middle of a call.

use std::{
    cell::RefCell,
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use alloy::primitives::{B256, Bytes};
use futures_util::future::BoxFuture;
use rand::{Rng as _, rngs::StdRng};
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::chain::{Block, Chain, Client};
use crate::rpc::Wire;

/// How often things go wrong, in a thousand.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Trouble {
    /// The request is lost.
    pub lost: u32,
    /// It is carried out, and the answer is lost.
    pub unanswered: u32,
    /// What comes back is no JSON-RPC.
    pub garbage: u32,
    /// The node has no room, no patience, or words nobody knows.
    pub refused: u32,
    /// A send is answered with its hash and goes nowhere.
    pub swallowed: u32,
    /// A send arrives later.
    pub late: u32,
    /// A receipt that is there is not found.
    pub blind: u32,
    /// Members of a batch are missing or out of order.
    pub torn: u32,
}

/// What one endpoint shows of the chain.
#[derive(Clone, Debug, Default)]
pub(super) struct View {
    /// Blocks it is behind.
    pub lag: usize,
    /// A branch that the others have left.
    pub branch: Option<Vec<Arc<Block>>>,
}

/// Everything outside the daemon.
#[derive(Debug)]
pub(super) struct Outside {
    pub chain: Chain,
    pub rng: StdRng,
    pub trouble: Trouble,
    pub views: [View; 2],
    pub clients: [Client; 2],
    /// Sends that arrive later.
    pub late: VecDeque<Bytes>,
    /// The daemon dies at this crossing of the wire or commit, counted down.
    pub dies_in: Option<u32>,
    /// The next commits go wrong this way.
    pub commit: Option<BadCommit>,
    pub dead: watch::Sender<bool>,
    /// What happened, for whoever reads a failure.
    pub story: Vec<String>,
}

/// A commit that the database does not simply carry out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BadCommit {
    /// Refused: disk full. Nothing is kept.
    Refused,
    /// The connection breaks before the answer, and it was kept.
    Kept,
    /// The connection breaks, and it was not.
    Lost,
}

impl Outside {
    pub(super) fn tell(&mut self, what: impl Into<String>) {
        let what = what.into();
        // The same again and again, at the end of a history that does not end.
        if self.story.iter().rev().take(4).filter(|line| **line == what).count() < 3 {
            self.story.push(what);
        }
    }

    fn happens(&mut self, in_a_thousand: u32) -> bool {
        in_a_thousand > 0 && self.rng.gen_range(0..1_000) < in_a_thousand
    }

    /// Counts a crossing; answers whether the daemon dies in it.
    fn is_last(&mut self) -> bool {
        let Some(left) = self.dies_in.as_mut() else { return false };
        if *left > 0 {
            *left -= 1;
            return false;
        }
        self.dies_in = None;
        self.dead.send_replace(true);
        true
    }

    fn view(&self, endpoint: usize) -> Vec<Arc<Block>> {
        let view = &self.views[endpoint];
        if let Some(branch) = &view.branch {
            return branch.clone();
        }
        let blocks = &self.chain.blocks;
        blocks[..blocks.len().saturating_sub(view.lag).max(1)].to_vec()
    }

    /// Delivers what was held up.
    pub(super) fn deliver_late(&mut self) {
        while let Some(raw) = self.late.pop_front() {
            let answer = self.chain.send(Client::Geth, &raw);
            self.tell(format!("late bytes arrive: {answer:?}"));
        }
    }

    fn send(&mut self, endpoint: usize, params: &Value) -> Result<Value, super::chain::Refused> {
        let raw: Bytes = serde_json::from_value(params[0].clone()).unwrap();
        let trouble = self.trouble;
        if self.happens(trouble.refused) {
            let words = [
                "txpool is full",
                "node is syncing",
                "something nobody has read before",
                "too many requests",
                "nonce too low",
                "replacement transaction underpriced",
                "execution reverted: not today",
                "insufficient funds for gas * price + value",
            ];
            let words = words[self.rng.gen_range(0..words.len())];
            return Err((-32_000, words.into(), None));
        }
        if self.happens(trouble.swallowed) {
            return Ok(json!(alloy::primitives::keccak256(&raw)));
        }
        if self.happens(trouble.late) {
            self.late.push_back(raw.clone());
            return Err((-32_000, "timeout while forwarding".into(), None));
        }
        self.chain.send(self.clients[endpoint], &raw).map(|hash| json!(hash))
    }

    fn one(&mut self, endpoint: usize, view: &[Arc<Block>], call: &Value) -> Value {
        let method = call["method"].as_str().unwrap_or_default().to_owned();
        let outcome = if method == "eth_sendRawTransaction" {
            let outcome = self.send(endpoint, &call["params"]);
            self.tell(format!("  send by {endpoint}: {outcome:?}"));
            outcome
        } else if method == "eth_getTransactionReceipt" && self.happens(self.trouble.blind) {
            Ok(Value::Null)
        } else {
            self.chain.answer(view, &method, &call["params"])
        };
        match outcome {
            Ok(result) => json!({ "jsonrpc": "2.0", "id": call["id"], "result": result }),
            Err((code, message, data)) => json!({
                "jsonrpc": "2.0", "id": call["id"],
                "error": { "code": code, "message": message, "data": data },
            }),
        }
    }

    fn answer(&mut self, endpoint: usize, body: &str) -> Result<(StatusCode, Vec<u8>), String> {
        let trouble = self.trouble;
        if self.happens(trouble.lost) {
            self.tell("  request lost");
            return Err("connection refused".into());
        }
        let view = self.view(endpoint);
        let calls: Value = serde_json::from_str(body).unwrap();
        let answer = match &calls {
            Value::Array(list) => {
                let mut answers: Vec<Value> =
                    list.iter().map(|call| self.one(endpoint, &view, call)).collect();
                if self.happens(trouble.torn) {
                    answers.reverse();
                    if self.rng.gen_range(0..2) == 0 {
                        answers.pop();
                    }
                }
                Value::Array(answers)
            }
            call => self.one(endpoint, &view, call),
        };
        if self.happens(trouble.unanswered) {
            self.tell("  answer lost");
            return Err("timed out".into());
        }
        if self.happens(trouble.garbage) {
            self.tell("  garbage");
            let text = answer.to_string();
            return Ok(match self.rng.gen_range(0..4) {
                0 => (StatusCode::BAD_GATEWAY, b"<html>502 Bad Gateway</html>".to_vec()),
                1 => (StatusCode::TOO_MANY_REQUESTS, b"{\"error\":\"slow down\"}".to_vec()),
                2 => (StatusCode::OK, text.as_bytes()[..text.len() / 2].to_vec()),
                _ => (StatusCode::OK, b"[]".to_vec()),
            });
        }
        Ok((StatusCode::OK, answer.to_string().into_bytes()))
    }
}

/// Both ends of the wire hold it.
#[derive(Clone, Debug)]
pub(super) struct Shared(Arc<Mutex<Outside>>);

impl Shared {
    pub(super) fn new(outside: Outside) -> Self {
        Self(Arc::new(Mutex::new(outside)))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Outside> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends here if the daemon dies here: it never comes back from this call.
    async fn cross(&self, at: &str) {
        let dies = {
            let mut outside = self.lock();
            let dies = outside.is_last();
            if dies {
                outside.tell(format!("  the daemon dies {at}"));
            }
            dies
        };
        if dies {
            std::future::pending::<()>().await;
        }
    }
}

impl Wire for Shared {
    fn post<'a>(
        &'a self,
        url: &'a str,
        body: String,
    ) -> BoxFuture<'a, Result<(StatusCode, Vec<u8>), String>> {
        Box::pin(async move {
            let endpoint = usize::from(url.ends_with('1'));
            self.cross("before a call").await;
            let answer = self.lock().answer(endpoint, &body);
            self.cross("after a call").await;
            answer
        })
    }
}

/* COMMITS */

thread_local! {
    /// Whose commits this thread's are.
    static HERE: RefCell<Option<Shared>> = const { RefCell::new(None) };
}

/// Lets the histories of this thread meddle with its commits.
pub(super) fn meddle(with: Option<Shared>) {
    HERE.with(|here| *here.borrow_mut() = with);
}

fn here() -> Option<Shared> {
    HERE.with(|here| here.borrow().clone())
}

/// Called before the database is asked to commit. An error stands for its answer.
pub(crate) async fn before_commit() -> Result<(), sqlx::Error> {
    let Some(shared) = here() else { return Ok(()) };
    shared.cross("before a commit").await;
    let mut outside = shared.lock();
    match outside.commit {
        Some(BadCommit::Refused) => {
            outside.commit = None;
            outside.tell("  a commit is refused: disk full");
            Err(sqlx::Error::Database(Box::new(Full)))
        }
        Some(BadCommit::Lost) => {
            outside.commit = None;
            outside.tell("  the connection breaks in a commit: lost");
            Err(sqlx::Error::Protocol("connection lost".into()))
        }
        Some(BadCommit::Kept) | None => Ok(()),
    }
}

/// Called after it did.
pub(crate) async fn after_commit() -> Result<(), sqlx::Error> {
    let Some(shared) = here() else { return Ok(()) };
    shared.cross("after a commit").await;
    let mut outside = shared.lock();
    if outside.commit == Some(BadCommit::Kept) {
        outside.commit = None;
        outside.tell("  the connection breaks in a commit: kept");
        return Err(sqlx::Error::Protocol("connection lost".into()));
    }
    Ok(())
}

/// SQLite's answer on a full disk.
#[derive(Debug)]
struct Full;

impl std::fmt::Display for Full {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("database or disk is full")
    }
}

impl std::error::Error for Full {}

impl sqlx::error::DatabaseError for Full {
    fn message(&self) -> &str {
        "database or disk is full"
    }
    fn code(&self) -> Option<std::borrow::Cow<'_, str>> {
        // SQLITE_FULL.
        Some("13".into())
    }
    fn as_error(&self) -> &(dyn std::error::Error + Send + Sync + 'static) {
        self
    }
    fn as_error_mut(&mut self) -> &mut (dyn std::error::Error + Send + Sync + 'static) {
        self
    }
    fn into_error(self: Box<Self>) -> Box<dyn std::error::Error + Send + Sync + 'static> {
        self
    }
    fn kind(&self) -> sqlx::error::ErrorKind {
        sqlx::error::ErrorKind::Other
    }
}

/// A hash, short enough for a story.
pub(super) fn short(hash: B256) -> String {
    hash.to_string()[..10].to_owned()
}
