//! Calls through the paywall: paid by vouchers, beside the same route unpaid in the same run.
//!
//! `bursar serve --paywall` before a small upstream in this process. Every channel is funded on the
//! chain; vouchers are signed before the clock starts. One channel alone shows what a payment adds to a
//! call; many at once show how many calls a second go through. Free and paid calls take turns, so that
//! both meet the same machine.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    time::Duration,
};

use alloy::{
    primitives::{Address, B256, Bytes, U256},
    signers::{SignerSync as _, local::PrivateKeySigner},
    sol_types::SolCall as _,
};
use anyhow::{Context as _, Result, bail, ensure};
use bursar::{
    config::Config,
    contract::{
        self,
        hub::{self, ERC3009_COLLECTOR, HUB, Hub, IChannelHub},
        token::{ReceiveWithAuthorization, token_domain},
    },
    devnet::{Manifest, free_port},
    money::Usdc,
    rpc::Rpc,
    store::Store,
    x402::{
        self, BATCH_SETTLEMENT, PaymentPayload, PaymentRequired, Requirements,
        batch::{ChannelConfig, Payload, Vouched, Voucher},
    },
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use crate::{
    backing::Backing,
    ceiling::mintCall,
    clients::{self, Accepted},
    daemon::{Daemon, Used, World},
    fixture, fsync_ms,
    payments::Size,
    say,
    table::{Figures, Series},
};

/// Channels that pay at once.
const CHANNELS: usize = 64;
/// Base units of a call: $0.0001.
const PRICE: u64 = 100;
/// Base units in each channel.
const DEPOSIT: u64 = 10_000_000;
/// Of the calls at once, as many go one after the other: one in so many.
const ALONE: usize = 6;
/// Turns that free and paid calls take.
const TURNS: usize = 4;
/// Longest wait for deposits, and for the paywall.
const LIMIT: Duration = Duration::from_secs(60);
/// What is sold.
const ANSWER: &str =
    r#"{"city":"Lisbon","now":{"celsius":"21.4","wind_kmh":"13"},"source":"bench"}"#;

/// Calls of one kind.
#[derive(Default)]
struct Calls {
    latencies: Vec<f64>,
    elapsed_s: f64,
    cpu_s: f64,
    written: u64,
}

impl Calls {
    fn add(&mut self, accepted: Accepted, used: Used) {
        self.elapsed_s += accepted.elapsed.as_secs_f64();
        self.latencies.extend(accepted.latencies_ms());
        self.latencies.sort_by(f64::total_cmp);
        self.cpu_s += used.cpu_s;
        self.written += used.written;
    }

    fn per_second(&self) -> f64 {
        self.latencies.len() as f64 / self.elapsed_s
    }

    fn quantile_ms(&self, per_mille: usize) -> f64 {
        crate::table::quantile(&self.latencies, per_mille)
    }

    fn cpu_us(&self) -> f64 {
        self.cpu_s * 1e6 / self.latencies.len() as f64
    }
}

/// One kind of load, free and paid.
#[derive(Default)]
struct Pair {
    free: Calls,
    paid: Calls,
}

/// Sells, buys and reports.
pub async fn measure(
    figures: &mut Figures,
    manifest: &Manifest,
    work: &Path,
    size: &Size,
) -> Result<()> {
    say("calls through the paywall, free and paid by vouchers");
    let stall = Stall::open(manifest, work).await?;
    let mut channels = stall.fund(manifest).await?;
    for channel in &mut channels {
        // The first voucher of a channel asks the chain about it: not what is measured.
        let calls = vec![vec![stall.paid(channel)?]];
        clients::lanes(calls, stall.listen).await?;
    }
    stall.run(vec![vec![stall.free(); 200]]).await?;
    let mut fsyncs = Vec::new();
    let (mut alone, mut many) = (Pair::default(), Pair::default());
    for _ in 0..TURNS {
        let count = size.calls / ALONE / TURNS;
        let (accepted, used) = stall.run(vec![vec![stall.free(); count]]).await?;
        alone.free.add(accepted, used);
        let calls = (0..count).map(|_| stall.paid(&mut channels[0])).collect::<Result<_>>()?;
        let (accepted, used) = stall.run(vec![calls]).await?;
        alone.paid.add(accepted, used);

        let count = size.calls / CHANNELS / TURNS;
        let (accepted, used) = stall.run(vec![vec![stall.free(); count]; CHANNELS]).await?;
        many.free.add(accepted, used);
        let mut lanes = Vec::new();
        for channel in &mut channels {
            lanes.push((0..count).map(|_| stall.paid(channel)).collect::<Result<_>>()?);
        }
        let (accepted, used) = stall.run(lanes).await?;
        many.paid.add(accepted, used);
        fsyncs.push(fsync_ms(work)?);
    }
    stall.close(&channels).await?;
    report(figures, &alone, &many, &fsyncs);
    Ok(())
}

fn report(figures: &mut Figures, alone: &Pair, many: &Pair, fsyncs: &[f64]) {
    let one = |value: f64| Series::new(vec![value]);
    let beside = |free: f64, paid: f64| vec![one(free), one(paid)];
    let quantile = |pair: &Pair, per_mille| {
        beside(pair.free.quantile_ms(per_mille), pair.paid.quantile_ms(per_mille))
    };
    let rows = vec![
        ("one after the other: p50", "ms", quantile(alone, 500)),
        ("one after the other: p99", "ms", quantile(alone, 990)),
        ("64 at once: calls", "1/s", beside(many.free.per_second(), many.paid.per_second())),
        ("64 at once: p50", "ms", quantile(many, 500)),
        ("64 at once: p99", "ms", quantile(many, 990)),
        ("64 at once: processor time a call", "µs", beside(many.free.cpu_us(), many.paid.cpu_us())),
        ("one after the other: the same", "µs", beside(alone.free.cpu_us(), alone.paid.cpu_us())),
    ];
    figures.beside(
        "Calls through the paywall, reverse proxy, SQLite",
        &["unpaid", "paid by voucher"],
        rows,
    );
    let added =
        |per_mille| one(alone.paid.quantile_ms(per_mille) - alone.free.quantile_ms(per_mille));
    let cpu = alone.paid.cpu_us() - alone.free.cpu_us();
    let written = alone.paid.written as f64 / alone.paid.latencies.len() as f64;
    figures.table(
        "What a paid call adds, one after the other",
        vec![
            ("p50", "ms", added(500), "< 1"),
            ("p99", "ms", added(990), ""),
            ("processor time of the daemon", "ms", one(cpu / 1_000.0), ""),
            ("bytes written to disk", "", one(written), ""),
            ("commits that it waits for", "", one(2.0), ""),
            ("one fsync of 4 KiB, measured between", "ms", Series::new(fsyncs.to_vec()), ""),
        ],
    );
}

/// A daemon that sells, and what it offers.
struct Stall {
    daemon: Daemon,
    store: String,
    listen: SocketAddr,
    hub: Hub,
    offered: PaymentRequired,
    offer: Requirements,
}

/// A channel and how much its payer has signed.
struct Channel {
    key: PrivateKeySigner,
    config: ChannelConfig,
    id: B256,
    total: u64,
}

impl Stall {
    async fn open(manifest: &Manifest, work: &Path) -> Result<Self> {
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
        let prices = work.join("prices.toml");
        std::fs::write(
            &prices,
            format!(
                "listen = \"{listen}\"\npublic_origin = \"http://{listen}\"\n\
                 [[route]]\npath = \"/paid\"\nprice = \"0.0001\"\ndescription = \"weather\"\n\
                 [[route]]\npath = \"/free\"\nprice = \"0\"\ndescription = \"weather\"\n"
            ),
        )?;
        let mut config = Config::read(&manifest.config)?;
        let backing = Backing::File(work.join("sold.db"));
        config.store = backing.url();
        config.policies = work.join("sold-policies");
        config.audit_anchors = work.join("sold.anchors");
        fixture::policies(manifest, &config.policies, 0)?;
        fixture::caught_up(&config).await?;
        let world = World { config, path: work.join("sold.toml"), backing };
        let upstream = format!("http://{}", upstream().await?);
        let selling =
            ["--paywall".as_ref(), prices.as_os_str(), "--upstream".as_ref(), upstream.as_ref()];
        let daemon = Daemon::start_with(&world, &selling).await?;
        let offered = offers(listen).await?;
        let offer = offered.accepts.iter().find(|offer| offer.scheme() == BATCH_SETTLEMENT);
        let offer = offer.context("the paywall offers no channel")?.clone();
        let hub = Hub::new(manifest.chain_id, HUB);
        Ok(Self { daemon, store: world.config.store, listen, hub, offered, offer })
    }

    /// Opens channels with money in them, at a final block.
    async fn fund(&self, manifest: &Manifest) -> Result<Vec<Channel>> {
        let rpc = Rpc::new(vec![manifest.rpc.clone()], manifest.chain_id, Duration::from_secs(15))?;
        let terms = self.offer.terms()?;
        let payer = PrivateKeySigner::from_bytes(&B256::repeat_byte(0x5b))?;
        let deposits = DEPOSIT * CHANNELS as u64;
        let mint = mintCall { to: payer.address(), amount: U256::from(deposits) };
        send(&rpc, manifest.deployer, terms.asset, mint.abi_encode()).await?;
        let extra = |name: &str| self.offer.extra(name).with_context(|| format!("no `{name}`"));
        let authorizer: Address = serde_json::from_value(extra("receiverAuthorizer")?.clone())?;
        let delay: u32 = serde_json::from_value(extra("withdrawDelay")?.clone())?;
        let word =
            |name| Ok::<_, anyhow::Error>(extra(name)?.as_str().unwrap_or_default().to_owned());
        let domain =
            token_domain(&word("name")?, &word("version")?, manifest.chain_id, terms.asset);
        let mut channels = Vec::new();
        let mut last = B256::ZERO;
        for number in 1..=CHANNELS {
            let key = PrivateKeySigner::from_bytes(&B256::from(U256::from(number)))?;
            let config = ChannelConfig {
                payer: payer.address(),
                payer_authorizer: key.address(),
                receiver: terms.pay_to,
                receiver_authorizer: authorizer,
                token: terms.asset,
                withdraw_delay: delay,
                salt: B256::from(U256::from(number)),
            };
            let id = self.hub.channel_id(&config.into());
            let (salt, before) = (U256::from(number), u64::from(u32::MAX));
            let leave = ReceiveWithAuthorization {
                from: payer.address(),
                to: ERC3009_COLLECTOR,
                value: U256::from(DEPOSIT),
                validAfter: U256::ZERO,
                validBefore: U256::from(before),
                nonce: hub::deposit_nonce(id, salt),
            };
            let signature = payer.sign_hash_sync(&contract::digest(&leave, &domain))?;
            let deposit = IChannelHub::depositCall {
                config: config.into(),
                amount: DEPOSIT.into(),
                collector: ERC3009_COLLECTOR,
                collectorData: hub::erc3009_data(0, before, salt, &signature.as_bytes().into()),
            };
            last = send(&rpc, manifest.deployer, HUB, deposit.abi_encode()).await?;
            channels.push(Channel { key, config, id, total: 0 });
        }
        let started = std::time::Instant::now();
        loop {
            let receipt: Option<Value> =
                rpc.call("eth_getTransactionReceipt", json!([last])).await?;
            if let Some(receipt) = receipt {
                ensure!(receipt["status"] == "0x1", "a deposit failed: {receipt}");
                return Ok(channels);
            }
            ensure!(started.elapsed() < LIMIT, "the deposits were not mined");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn free(&self) -> Vec<u8> {
        format!("GET /free HTTP/1.1\r\nhost: {}\r\n\r\n", self.listen).into_bytes()
    }

    /// The next call of a channel, with its voucher.
    fn paid(&self, channel: &mut Channel) -> Result<Vec<u8>> {
        channel.total += PRICE;
        let max = u128::from(channel.total);
        let signature = channel.key.sign_hash_sync(&self.hub.voucher_digest(channel.id, max))?;
        let voucher = Voucher {
            channel_id: channel.id,
            max_claimable_amount: max,
            signature: Bytes::from(signature.as_bytes()),
        };
        let payload = Payload::Voucher(Vouched { channel_config: channel.config, voucher });
        let Value::Object(payload) = serde_json::to_value(payload)? else {
            bail!("a payload is an object")
        };
        let payment = PaymentPayload::v2(&self.offered, &self.offer, payload);
        let (host, payment) = (self.listen, x402::encode(&payment)?);
        let name = x402::PAYMENT_SIGNATURE;
        Ok(format!("GET /paid HTTP/1.1\r\nhost: {host}\r\n{name}: {payment}\r\n\r\n").into_bytes())
    }

    async fn run(&self, lanes: Vec<Vec<Vec<u8>>>) -> Result<(Accepted, Used)> {
        let before = self.daemon.used().await?;
        let accepted = clients::lanes(lanes, self.listen).await?;
        Ok((accepted, self.daemon.used().await?.since(before)))
    }

    /// Ends the daemon and holds its books against what was signed: each call was charged once.
    async fn close(self, channels: &[Channel]) -> Result<()> {
        self.daemon.stop()?;
        let store = Store::open(&self.store).await?;
        let kept = store.meters(None, u32::try_from(CHANNELS * 2)?).await?;
        store.close().await;
        for channel in channels {
            let row = kept.iter().find(|row| row.id == channel.id).context("a channel is lost")?;
            ensure!(
                Some(row.charged) == Usdc::from_units(channel.total),
                "charged {} of {} signed",
                row.charged,
                channel.total
            );
        }
        Ok(())
    }
}

/// Asks the paywall what it wants, once it is up.
async fn offers(listen: SocketAddr) -> Result<PaymentRequired> {
    let started = std::time::Instant::now();
    loop {
        if let Ok(answer) = reqwest::get(format!("http://{listen}/paid")).await {
            let header = answer.headers().get(x402::PAYMENT_REQUIRED).context("no offer")?;
            return Ok(x402::decode(header.to_str()?)?);
        }
        ensure!(started.elapsed() < LIMIT, "the paywall does not listen");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Sends a transaction that the node signs.
async fn send(rpc: &Rpc, from: Address, to: Address, data: Vec<u8>) -> Result<B256> {
    let call = json!([{ "from": from, "to": to, "data": Bytes::from(data), "gas": "0x7a120" }]);
    Ok(rpc.call("eth_sendTransaction", call).await?)
}

/// What is sold: the same answer to everybody, over connections that stay open.
async fn upstream() -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let at = listener.local_addr()?;
    let answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{ANSWER}",
        ANSWER.len()
    );
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer = answer.clone();
            tokio::spawn(async move {
                let mut buffer = Vec::with_capacity(4_096);
                while stream.read_buf(&mut buffer).await.is_ok_and(|read| read > 0) {
                    // Requests without a body, one at a time.
                    if buffer.ends_with(b"\r\n\r\n") {
                        buffer.clear();
                        if stream.write_all(answer.as_bytes()).await.is_err() {
                            return;
                        }
                    }
                }
            });
        }
    });
    Ok(at)
}
