//! A node far away: a proxy that adds a round trip, counts what is asked, and stamps each
//! transaction's first send. It is the only clock of what leaves the daemon.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use alloy::primitives::{B256, Bytes, keccak256};
use anyhow::{Context as _, Result};
use jiff::Timestamp;
use serde_json::Value;
use sqlx::{AnyConnection, Connection as _, Row as _};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinHandle,
    time::Instant,
};

use crate::{backing::Backing, wire};

/// Pieces of answers under way on one connection.
const UNDER_WAY: usize = 1_024;

/// What the node was asked.
#[derive(Clone, Copy, Debug, Default)]
pub struct Asked {
    /// Calls; a batch has several.
    pub calls: u64,
    /// HTTP requests, each a round trip.
    pub requests: u64,
}

impl Asked {
    /// The difference to an earlier reading.
    pub const fn since(self, before: Self) -> Self {
        Self { calls: self.calls - before.calls, requests: self.requests - before.requests }
    }
}

/// From the acceptance of payments on, in milliseconds, sorted.
#[derive(Debug, Default)]
pub struct Journeys {
    /// To the first send of the transaction that paid.
    pub to_sent: Vec<f64>,
    /// To the store's knowledge that it is final.
    pub to_final: Vec<f64>,
}

#[derive(Default)]
struct Record {
    round_trip: Duration,
    asked: Asked,
    /// When a transaction first came by, in milliseconds since 1970, by its hash.
    sent_ms: HashMap<B256, i64>,
}

/// A proxy on a port of its own. Dropping it closes the port.
pub struct Distance {
    addr: SocketAddr,
    record: Arc<Mutex<Record>>,
    task: JoinHandle<()>,
}

impl Distance {
    /// Stands before the node at `url` (`http://HOST:PORT`), at no distance yet.
    pub async fn start(url: &str) -> Result<Self> {
        let node = url.strip_prefix("http://").context("a node of http")?;
        let node = node.trim_end_matches('/').to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let addr = listener.local_addr()?;
        let record = Arc::new(Mutex::new(Record::default()));
        let shared = Arc::clone(&record);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (node, record) = (node.clone(), Arc::clone(&shared));
                tokio::spawn(async move {
                    // The daemon sees the connection end, and asks anew.
                    let _ = relay(stream, &node, &record).await;
                });
            }
        });
        Ok(Self { addr, record, task })
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// From now on a request and its answer take so much longer, half of it each way.
    pub fn set(&self, round_trip: Duration) {
        locked(&self.record).round_trip = round_trip;
    }

    /// What was asked so far.
    pub fn asked(&self) -> Asked {
        locked(&self.record).asked
    }

    /// How long the paid payments took that were accepted at `since_ms` or later.
    pub async fn journeys(&self, store: &Backing, since_ms: i64) -> Result<Journeys> {
        sqlx::any::install_default_drivers();
        let mut db = AnyConnection::connect(&store.url()).await?;
        let paid = sqlx::query(
            "SELECT tx_hash, created_ms, updated_ms FROM payment
             WHERE created_ms >= $1 AND state = 'paid'",
        );
        let rows = paid.bind(since_ms).fetch_all(&mut db).await?;
        db.close().await?;
        let mut journeys = Journeys::default();
        for row in rows {
            let hash: B256 = row.try_get::<String, _>(0)?.parse()?;
            let (accepted_ms, final_ms): (i64, i64) = (row.try_get(1)?, row.try_get(2)?);
            let sent_ms = locked(&self.record).sent_ms.get(&hash).copied();
            let sent_ms = sent_ms.context("a payment's transaction did not come by")?;
            journeys.to_sent.push((sent_ms - accepted_ms) as f64);
            journeys.to_final.push((final_ms - accepted_ms) as f64);
        }
        journeys.to_sent.sort_by(f64::total_cmp);
        journeys.to_final.sort_by(f64::total_cmp);
        Ok(journeys)
    }
}

impl Drop for Distance {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn locked(record: &Mutex<Record>) -> MutexGuard<'_, Record> {
    record.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Carries one connection's requests and answers, until either side ends it.
async fn relay(near: TcpStream, node: &str, record: &Mutex<Record>) -> Result<()> {
    let far = TcpStream::connect(node).await?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    let (near_read, mut near_write) = near.into_split();
    let (mut far_read, mut far_write) = far.into_split();
    let (pieces, mut arriving) = mpsc::channel::<(Instant, Vec<u8>)>(UNDER_WAY);
    let requests = async {
        let mut near_read = BufReader::new(near_read);
        while let Some(body) = wire::read(&mut near_read).await? {
            let one_way = note(&body, record);
            tokio::time::sleep(one_way).await;
            let length = body.len();
            let head = format!(
                "POST / HTTP/1.1\r\nhost: {node}\r\ncontent-type: application/json\r\n\
                 content-length: {length}\r\n\r\n"
            );
            far_write.write_all(&[head.as_bytes(), &body].concat()).await?;
        }
        anyhow::Ok(())
    };
    let answers = async {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let count = far_read.read(&mut buffer).await?;
            if count == 0 {
                return anyhow::Ok(());
            }
            let due = Instant::now() + locked(record).round_trip / 2;
            pieces.send((due, buffer[..count].to_vec())).await?;
        }
    };
    let arrivals = async {
        while let Some((due, piece)) = arriving.recv().await {
            tokio::time::sleep_until(due).await;
            near_write.write_all(&piece).await?;
        }
        anyhow::Ok(())
    };
    tokio::select! {
        ended = requests => ended,
        ended = answers => ended,
        ended = arrivals => ended,
    }
}

/// Counts a request's calls, stamps its transactions; returns how long it is on its way.
fn note(body: &[u8], record: &Mutex<Record>) -> Duration {
    let now = Timestamp::now().as_millisecond();
    let request: Value = serde_json::from_slice(body).unwrap_or_default();
    let calls = match &request {
        Value::Array(calls) => calls.as_slice(),
        call => std::slice::from_ref(call),
    };
    let mut record = locked(record);
    record.asked.requests += 1;
    record.asked.calls += calls.len() as u64;
    for call in calls.iter().filter(|call| call["method"] == "eth_sendRawTransaction") {
        if let Some(Ok(raw)) = call["params"][0].as_str().map(str::parse::<Bytes>) {
            record.sent_ms.entry(keccak256(&raw)).or_insert(now);
        }
    }
    record.round_trip / 2
}
