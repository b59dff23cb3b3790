//! Agents' clients: requests signed before the clock starts, sent over keep-alive connections.
//!
//! Signing beforehand keeps the clients' own work off the cores that the daemon and the chain
//! share with them. A signature lives 60 seconds, so every list is made just before its run.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use bursar::{
    auth::{self, agent},
    devnet::Manifest,
};
use ed25519_dalek::SigningKey;
use http::{HeaderMap, HeaderValue, Method};
use jiff::Timestamp;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
};

use crate::{fixture::request_key, table::quantile};

/// Longest answer's head and body.
const ANSWER_LIMIT: usize = 64 * 1024;
/// Longest wait for one answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// The agents of a devnet with what they may buy, and a seeded stream of requests.
pub struct Agents {
    origin: String,
    agents: Vec<(SigningKey, Vec<String>)>,
    random: StdRng,
    made: u64,
}

impl Agents {
    /// Takes the devnet's agents; each pays the payees of its categories that have no limits.
    pub fn new(manifest: &Manifest, seed: u64) -> Self {
        let mut agents = Vec::new();
        for (name, agent) in &manifest.agents {
            let payees = manifest.payees.iter().filter(|(_, payee)| {
                payee.cap.is_none()
                    && payee.cooldown_s == 0
                    && payee.categories.iter().any(|name| agent.categories.contains(name))
            });
            let labels = payees.map(|(label, _)| label.clone()).collect();
            agents.push((request_key(name), labels));
        }
        let random = StdRng::seed_from_u64(seed);
        Self { origin: manifest.api.clone(), agents, random, made: 0 }
    }

    /// How many requests were made so far.
    pub const fn made(&self) -> u64 {
        self.made
    }

    /// Signs `count` payments of 0.0001 to 0.001 USDC, the agents in turn.
    pub fn requests(&mut self, count: u64) -> Result<VecDeque<Vec<u8>>> {
        let created = u64::try_from(Timestamp::now().as_second())?;
        (0..count).map(|_| self.request(created)).collect()
    }

    fn request(&mut self, created: u64) -> Result<Vec<u8>> {
        self.made += 1;
        let number = self.made;
        let turn = usize::try_from(number)? % self.agents.len();
        let (key, payees) = &self.agents[turn];
        let payee = &payees[self.random.gen_range(0..payees.len())];
        let units: u32 = self.random.gen_range(100..=1_000);
        let run = self.random.gen_range(0..u64::MAX);
        let body = format!(
            r#"{{"payee":"{payee}","amount":"0.{units:06}","currency":"USDC","reason":"answer {number} of a research job","context":{{"invoice":"inv-{run:016x}","order":"ord-{number}","workflow":"job-{}"}}}}"#,
            number / 50
        );
        let mut headers = HeaderMap::new();
        headers.insert("content-type", HeaderValue::from_static("application/json"));
        let idempotency = format!("\"load-{run:016x}-{number}\"");
        headers.insert("idempotency-key", HeaderValue::try_from(idempotency)?);
        let request = auth::Request {
            method: &Method::POST,
            target: &format!("{}/v1/payments", self.origin),
            headers: &headers,
            body: body.as_bytes(),
        };
        let signature = agent::sign(request, key, created, &auth::fresh_nonce())?;
        headers.extend(signature);
        let mut bytes = b"POST /v1/payments HTTP/1.1\r\nhost: localhost\r\n".to_vec();
        for (name, value) in &headers {
            bytes.extend_from_slice(name.as_str().as_bytes());
            bytes.extend_from_slice(b": ");
            bytes.extend_from_slice(value.as_bytes());
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(format!("content-length: {}\r\n\r\n{body}", body.len()).as_bytes());
        Ok(bytes)
    }
}

/// How a run of requests went.
#[derive(Debug)]
pub struct Accepted {
    /// First byte of the first request.
    pub first: Instant,
    /// From there to the last answer.
    pub elapsed: Duration,
    /// From the moment a request was due to its answer's last byte, in milliseconds, sorted.
    latencies: Vec<f64>,
}

impl Accepted {
    /// Answers per second.
    pub fn per_second(&self) -> f64 {
        self.latencies.len() as f64 / self.elapsed.as_secs_f64()
    }

    /// All latencies in milliseconds, sorted.
    pub fn latencies_ms(&self) -> &[f64] {
        &self.latencies
    }

    /// The latency that `per_mille` of a thousand answers stay within, in milliseconds.
    pub fn quantile_ms(&self, per_mille: usize) -> f64 {
        quantile(&self.latencies, per_mille)
    }
}

/// Sends every request over `clients` connections and reads every answer. Closed loop: each client
/// has one request open. With a rate, a client waits for its turn; an answer that comes late counts
/// from when the request was due, so a stall is not hidden.
pub async fn send(
    requests: VecDeque<Vec<u8>>,
    to: SocketAddr,
    clients: u32,
    per_second: Option<f64>,
) -> Result<Accepted> {
    let count = requests.len();
    let requests = Arc::new(Mutex::new(requests.into_iter().enumerate().collect::<VecDeque<_>>()));
    let mut connections = Vec::new();
    for _ in 0..clients {
        let stream = TcpStream::connect(to).await.context("the daemon's API")?;
        stream.set_nodelay(true)?;
        connections.push(stream);
    }
    let first = Instant::now();
    let mut running = JoinSet::new();
    for mut stream in connections {
        let requests = Arc::clone(&requests);
        running.spawn(async move {
            let mut latencies = Vec::new();
            let mut buffer = Vec::with_capacity(ANSWER_LIMIT);
            loop {
                let next = requests.lock().map_err(|_| anyhow::anyhow!("poisoned"))?.pop_front();
                let Some((number, request)) = next else { return anyhow::Ok(latencies) };
                let due = match per_second {
                    Some(rate) => first + Duration::from_secs_f64(number as f64 / rate),
                    None => Instant::now(),
                };
                tokio::time::sleep_until(due.into()).await;
                stream.write_all(&request).await?;
                let status =
                    tokio::time::timeout(PATIENCE, answer(&mut stream, &mut buffer)).await??;
                if status != 202 {
                    bail!("answered {status}: {}", String::from_utf8_lossy(&buffer));
                }
                latencies.push(due.elapsed().as_secs_f64() * 1_000.0);
            }
        });
    }
    let mut latencies = Vec::with_capacity(count);
    while let Some(client) = running.join_next().await {
        latencies.extend(client??);
    }
    let elapsed = first.elapsed();
    latencies.sort_by(f64::total_cmp);
    Ok(Accepted { first, elapsed, latencies })
}

/// Sends each list over a connection of its own, one request after the other, and expects 200.
pub async fn lanes(lists: Vec<Vec<Vec<u8>>>, to: SocketAddr) -> Result<Accepted> {
    let mut connections = Vec::new();
    for list in lists {
        let stream = TcpStream::connect(to).await.context("the paywall")?;
        stream.set_nodelay(true)?;
        connections.push((stream, list));
    }
    let first = Instant::now();
    let mut running = JoinSet::new();
    for (mut stream, list) in connections {
        running.spawn(async move {
            let mut latencies = Vec::with_capacity(list.len());
            let mut buffer = Vec::with_capacity(ANSWER_LIMIT);
            for request in list {
                let sent = Instant::now();
                stream.write_all(&request).await?;
                let status =
                    tokio::time::timeout(PATIENCE, answer(&mut stream, &mut buffer)).await??;
                if status != 200 {
                    bail!("answered {status}: {}", String::from_utf8_lossy(&buffer));
                }
                latencies.push(sent.elapsed().as_secs_f64() * 1_000.0);
            }
            anyhow::Ok(latencies)
        });
    }
    let mut latencies = Vec::new();
    while let Some(lane) = running.join_next().await {
        latencies.extend(lane??);
    }
    let elapsed = first.elapsed();
    latencies.sort_by(f64::total_cmp);
    Ok(Accepted { first, elapsed, latencies })
}

/// Reads one answer with a content length; returns its status.
async fn answer(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Result<u16> {
    buffer.clear();
    loop {
        if stream.read_buf(buffer).await? == 0 {
            bail!("the daemon closed the connection");
        }
        let Some(head) = buffer.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
        let text = std::str::from_utf8(&buffer[..head])?;
        let length = text
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .context("an answer without a length")?
            .parse::<usize>()?;
        let status = text.get(9..12).context("no status line")?.parse()?;
        if head + 4 + length > ANSWER_LIMIT {
            bail!("an answer of {length} bytes");
        }
        while buffer.len() < head + 4 + length {
            if stream.read_buf(buffer).await? == 0 {
                bail!("the daemon closed the connection");
            }
        }
        return Ok(status);
    }
}
