//! The market: agents call servers that ask for money. One makes ten thousand calls through one
//! channel, whose vouchers become money in one transaction; one is stuck in a loop and stopped; one
//! buys from a server that others wrote, out of the wallet itself.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use alloy::{
    eips::BlockId,
    network::TransactionBuilder as _,
    primitives::{Address, U256},
    providers::{Provider as _, ProviderBuilder, RootProvider},
    rpc::types::{Filter, TransactionRequest},
    signers::local::PrivateKeySigner,
    sol_types::{SolCall as _, SolEvent as _},
};
use anyhow::{Context as _, bail, ensure};
use axum::{Json, Router, extract::Path as Segment, routing::get};
use bursar::{
    api::Problem,
    buyer::{FetchRequest, FetchView, PayerKind, PurchaseState, Receipt},
    cli::table::table,
    client::{AgentClient, ClientError},
    contract::{IUsdc, hub},
    devnet::{Manifest, free_port},
    keys::read_agent_key,
    money::Usdc,
    refusal::Code,
};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpListener,
    process::Command,
};

use crate::conduct::check;

/// Who calls ten thousand times, who is stuck, who buys elsewhere.
const CALLER: &str = "atlas";
const STUCK: &str = "ember";
const GUEST: &str = "borealis";
/// Payees: of our own paywall, and of the other server.
const SELLER: &str = "northwind-search";
const OTHER: &str = "gpu-harbor";
/// The price of each call.
const PRICE: &str = "0.0001";
/// Calls under way at once: the channel takes one after the other, the rest of the way overlaps.
const AT_ONCE: u64 = 4;
/// What the other server asks.
const OTHER_PRICE: &str = "0.05";
/// A loop that is not stopped by then is not going to be.
const PATIENT: u64 = 1_000;
/// Longest wait for the chain, and pause between two looks.
const PATIENCE: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(100);

/// What is sold here: a server that knows nothing of money, and the list of prices in front of it.
pub struct Market {
    upstream: String,
    prices: PathBuf,
    front: String,
    served: Arc<AtomicU64>,
}

impl Market {
    /// Starts the server, and writes the price list.
    pub async fn open(dir: &Path) -> anyhow::Result<Self> {
        let served = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&served);
        let answer = move |Segment(text): Segment<String>| async move {
            count.fetch_add(1, Ordering::Relaxed);
            Json(
                json!({ "of": text, "vector": [text.len(), text.bytes().map(u64::from).sum::<u64>()] }),
            )
        };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let upstream = format!("http://{}", listener.local_addr()?);
        let app = Router::new().route("/v1/embed/{text}", get(answer));
        tokio::spawn(async move { axum::serve(listener, app).await });
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
        let front = format!("http://{listen}");
        let prices = dir.join("prices.toml");
        let list = format!(
            "listen = \"{listen}\"\npublic_origin = \"{front}\"\npay_to = \"{SELLER}\"\n\n\
             [[route]]\npath = \"/v1/embed/{{text}}\"\nprice = \"{PRICE}\"\n\
             description = \"one embedding\"\n"
        );
        std::fs::write(&prices, list)?;
        Ok(Self { upstream, prices, front, served })
    }

    /// Switches of the daemon that sells it.
    pub fn switches(&self) -> anyhow::Result<[&str; 4]> {
        let prices = self.prices.to_str().context("the directory's name is not text")?;
        Ok(["--paywall", prices, "--upstream", &self.upstream])
    }

    fn served(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }

    fn call(&self, text: &str) -> FetchRequest {
        FetchRequest::get(&format!("{}/v1/embed/{text}", self.front))
    }
}

/// Plays it.
pub async fn play(
    bursar: &Path,
    devnet: &Manifest,
    market: &Market,
    calls: u64,
) -> anyhow::Result<()> {
    let stage = Stage {
        devnet,
        market,
        node: ProviderBuilder::default().connect_http(devnet.rpc.parse()?),
    };
    stage.by_one_channel(bursar, calls).await?;
    stage.stuck().await?;
    stage.channels(bursar, &[])?;
    stage.elsewhere().await
}

struct Stage<'a> {
    devnet: &'a Manifest,
    market: &'a Market,
    node: RootProvider,
}

impl Stage<'_> {
    fn agent(&self, name: &str) -> anyhow::Result<AgentClient> {
        let entry = self.devnet.agents.get(&name.parse()?).context("an agent is missing")?;
        Ok(AgentClient::new(&self.devnet.api, read_agent_key(&entry.request_key)?)?)
    }

    fn payee(&self, label: &str) -> anyhow::Result<Address> {
        Ok(self.devnet.payees.get(label).context("a payee is missing")?.address)
    }

    async fn usdc_of(&self, whose: Address) -> anyhow::Result<u64> {
        let question = TransactionRequest::default()
            .with_to(self.devnet.usdc)
            .with_input(IUsdc::balanceOfCall { account: whose }.abi_encode());
        let answer = self.node.call(question).block(BlockId::latest()).await?;
        Ok(IUsdc::balanceOfCall::abi_decode_returns(&answer)?.to::<u64>())
    }

    /// Calls through one channel, and one transaction that makes money of them.
    async fn by_one_channel(&self, bursar: &Path, count: u64) -> anyhow::Result<()> {
        let price: Usdc = PRICE.parse()?;
        println!("\n{CALLER} makes {count} calls to {SELLER}, {PRICE} USDC each\n");
        let seller = self.payee(SELLER)?;
        let (before, first_block) =
            (self.usdc_of(seller).await?, self.node.get_block_number().await? + 1);
        let client = self.agent(CALLER)?;
        let bar = ProgressBar::new(count).with_style(ProgressStyle::with_template(
            "{prefix:>10} {bar:40} {pos:>6}/{len} {per_sec}",
        )?);
        bar.set_prefix(CALLER);
        let begun = Instant::now();
        let (mut took, mut told) = (Vec::new(), Instant::now());
        let mut calls = tokio::task::JoinSet::new();
        let mut channels = std::collections::BTreeSet::new();
        for n in 0..count + AT_ONCE {
            if n >= AT_ONCE {
                let (lasted, receipt): (Duration, Receipt) =
                    calls.join_next().await.context("no call is under way")???;
                ensure!(receipt.amount == price, "charged {} USDC", receipt.amount);
                ensure!(
                    receipt.payer_kind == PayerKind::Channel,
                    "paid by {:?}",
                    receipt.payer_kind
                );
                channels.extend(receipt.channel.map(|part| part.id));
                took.push(lasted);
                bar.inc(1);
                if bar.is_hidden() && told.elapsed() > Duration::from_secs(5) {
                    told = Instant::now();
                    println!("{:>3} s  {} calls paid", begun.elapsed().as_secs(), took.len());
                }
            }
            if n < count {
                let (client, request) = (client.clone(), self.market.call(&format!("text-{n}")));
                calls.spawn(async move {
                    let begun = Instant::now();
                    let view = buy(&client, &request, &format!("embed-{n}")).await?;
                    let receipt = view.receipt.context("a call without a receipt")?;
                    ensure!(view.answer.status == 200, "{:?}", view.answer);
                    anyhow::Ok((begun.elapsed(), receipt))
                });
            }
        }
        bar.finish();
        let all = begun.elapsed();
        ensure!(self.market.served() == count, "{} calls were served", self.market.served());
        ensure!(channels.len() == 1, "{} channels were used", channels.len());
        ensure!(self.usdc_of(seller).await? == before, "paid before anything was claimed");

        let due = before + price.units() * count;
        self.channels(bursar, &["claim"])?;
        self.until("the claim", async || Ok(self.usdc_of(seller).await? == due)).await?;
        let filter = Filter::new()
            .address(hub::HUB)
            .event_signature(hub::IChannelHub::Claimed::SIGNATURE_HASH)
            .from_block(first_block);
        let claims = self.node.get_logs(&filter).await?;
        let [claim] = claims.as_slice() else { bail!("{} claims instead of one", claims.len()) };
        let hash = claim.transaction_hash.context("a log without a transaction")?;
        let receipt = self.node.get_transaction_receipt(hash).await?.context("no receipt")?;
        took.sort_unstable();
        let at = |percent: usize| took.get(took.len() * percent / 100).copied().unwrap_or_default();
        let mut shown = table(&["figure", "value"]);
        shown.add_row(["calls paid and served".to_owned(), count.to_string()]);
        let sum = price.units().checked_mul(count).and_then(Usdc::from_units).unwrap_or_default();
        shown.add_row(["USDC in all".to_owned(), sum.to_string()]);
        shown.add_row(["calls a second".to_owned(), per_second(count, all)]);
        shown.add_row([
            "a call with the wait for its turn, p50".to_owned(),
            format!("{:.1?}", at(50)),
        ]);
        shown.add_row([
            "a call with the wait for its turn, p99".to_owned(),
            format!("{:.1?}", at(99)),
        ]);
        shown.add_row(["transactions that settled them".to_owned(), claims.len().to_string()]);
        shown.add_row(["its gas".to_owned(), receipt.gas_used.to_string()]);
        println!("{shown}");
        Ok(())
    }

    /// The same call again and again, until the daemon has had enough.
    async fn stuck(&self) -> anyhow::Result<()> {
        println!("\n{STUCK} is stuck: it buys the same answer again and again\n");
        let (client, request) = (self.agent(STUCK)?, self.market.call("again"));
        for n in 0..PATIENT {
            match buy(&client, &request, &format!("stuck-{n}")).await {
                Ok(_) => {}
                Err(Stopped::Refused(problem)) => {
                    let refusal = &problem.refusal;
                    ensure!(refusal.code == Code::LoopDetected, "{}", refusal.detail);
                    println!(
                        "  after {n} paid calls: {} ({})",
                        refusal.detail,
                        refusal.code.as_str()
                    );
                    println!("  what it is told to do: {}", refusal.hint.as_deref().unwrap_or("–"));
                    return Ok(());
                }
                Err(error) => return Err(error.into()),
            }
        }
        bail!("{PATIENT} times the same call, and nobody stopped it")
    }

    /// A server that others wrote is paid out of the wallet itself, by its own word.
    async fn elsewhere(&self) -> anyhow::Result<()> {
        println!("\n{GUEST} buys from a server made with @x402/express, out of the wallet\n");
        // Coupons are good within an hour: at its end there is too little of it left.
        let left = 3_600 - jiff::Timestamp::now().as_second().rem_euclid(3_600).unsigned_abs();
        if left < 60 {
            println!("  in {left} s the next hour's coupons are good: waiting\n");
            tokio::time::sleep(Duration::from_secs(left + 1)).await;
        }
        let payee = self.payee(OTHER)?;
        let before = self.usdc_of(payee).await?;
        let mut other = Other::open(self.devnet, &self.node, payee).await?;
        let client = self.agent(GUEST)?;
        let view = buy(&client, &FetchRequest::get(&other.url), "guest-1").await?;
        let receipt = view.receipt.context("a call without a receipt")?;
        ensure!(view.answer.status == 200, "{:?}", view.answer);
        ensure!(receipt.payer_kind == PayerKind::Coupon, "paid by {:?}", receipt.payer_kind);
        ensure!(receipt.payer == self.devnet.wallet, "paid by {}", receipt.payer);
        self.until("the purchase", async || {
            Ok(client.purchase(receipt.id).await?.state == PurchaseState::Paid)
        })
        .await?;
        let price: Usdc = OTHER_PRICE.parse()?;
        ensure!(self.usdc_of(payee).await? == before + price.units(), "{OTHER} is not paid");
        let again = buy(&client, &FetchRequest::get(&other.url), "guest-1").await?;
        ensure!(again.receipt.is_some_and(|receipt| receipt.repeated), "not the same purchase");
        ensure!(self.usdc_of(payee).await? == before + price.units(), "{OTHER} is paid twice");
        println!("  it was served: {}", view.answer.body.as_deref().unwrap_or_default());
        println!(
            "  {price} USDC from the wallet to {OTHER}; asked again: the same answer, no charge"
        );
        other.close().await
    }

    /// One operator looks at the channels, or has what is owed claimed now and not when it is worth more.
    fn channels(&self, bursar: &Path, what: &[&str]) -> anyhow::Result<()> {
        let entry = self.devnet.operators.first().context("no operator")?;
        let path = |path: &Path| path.to_str().map(str::to_owned).context("no text");
        let (key, words) = (path(&entry.keystore)?, path(&entry.passphrase_file)?);
        let who = ["--keystore", &key, "--passphrase-file", &words, "--url", &self.devnet.api];
        check(bursar, &[&["channels"], what, who.as_slice()].concat())
    }

    async fn until(
        &self,
        what: &str,
        holds: impl AsyncFn() -> anyhow::Result<bool>,
    ) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !holds().await? {
            ensure!(Instant::now() < deadline, "{what} is not final after {PATIENCE:?}");
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }
}

/// Why a call was not answered.
#[derive(Debug, thiserror::Error)]
enum Stopped {
    #[error("refused: {}", .0.refusal.detail)]
    Refused(Box<Problem>),
    #[error(transparent)]
    Other(#[from] ClientError),
}

/// Calls, and calls again under the same key while the daemon asks for that.
async fn buy(
    client: &AgentClient,
    request: &FetchRequest,
    key: &str,
) -> Result<FetchView, Stopped> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match client.fetch(request, key).await {
            Ok(view) => return Ok(view),
            Err(ClientError::Refused(problem)) => {
                let waits = problem.refusal.code == Code::Unavailable;
                if !waits || Instant::now() > deadline {
                    return Err(Stopped::Refused(problem));
                }
                tokio::time::sleep(LOOK).await;
            }
            Err(error) => return Err(Stopped::Other(error)),
        }
    }
}

fn per_second(calls: u64, all: Duration) -> String {
    let ms = u64::try_from(all.as_millis()).unwrap_or(u64::MAX).max(1);
    (calls.saturating_mul(1_000) / ms).to_string()
}

/// The official server in a process of its own, with the official facilitator in it.
struct Other {
    child: tokio::process::Child,
    url: String,
}

impl Other {
    async fn open(devnet: &Manifest, node: &RootProvider, payee: Address) -> anyhow::Result<Self> {
        let gas = PrivateKeySigner::random();
        let ether = U256::from(10).pow(U256::from(18));
        node.raw_request::<_, Value>("anvil_setBalance".into(), (gas.address(), ether)).await?;
        let price: Usdc = OTHER_PRICE.parse()?;
        let start = json!({
            "kind": "express", "rpc": devnet.rpc, "chainId": devnet.chain_id,
            "usdc": devnet.usdc.to_checksum(None), "key": gas.to_bytes(),
            "payTo": payee.to_checksum(None), "price": price.units().to_string(),
        });
        let mut child = Command::new("node")
            .arg("tests/official/seller.mjs")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("start node")?;
        let input = child.stdin.as_mut().context("no standard input")?;
        input.write_all(format!("{start}\n").as_bytes()).await?;
        let output = child.stdout.take().context("no standard output")?;
        let mut lines = BufReader::new(output).lines();
        let first = tokio::time::timeout(PATIENCE, lines.next_line()).await;
        let line = first.context("the server does not start")??;
        let ready: Value = serde_json::from_str(&line.context("the server ended")?)?;
        let url = ready["url"].as_str().with_context(|| ready.to_string())?.to_owned();
        Ok(Self { child, url })
    }

    async fn close(&mut self) -> anyhow::Result<()> {
        Ok(self.child.kill().await?)
    }
}
