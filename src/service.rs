//! The daemon: all wiring, in one function that tests call too.

use std::{
    collections::HashMap,
    net::SocketAddr,
    path::Path,
    pin::pin,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use alloy::primitives::{Address, B256};
use ed25519_dalek::VerifyingKey;
use futures_util::{TryStreamExt as _, future::BoxFuture};
use serde_json::json;
use tokio::{
    net::TcpListener,
    sync::{Mutex as AsyncMutex, Notify, mpsc, oneshot, watch},
    task::JoinSet,
};
use tracing::{error, info, warn};
use url::Url;

use crate::{
    alert,
    api::{self, ApiConfig},
    approval,
    audit::{Draft, EventKind},
    auth,
    book::{self, Agent, Book},
    buyer,
    channel::{
        claim,
        journal::{Journal, Writer},
        payee::Meters,
    },
    clock::Clock,
    config::Config,
    contract::{self, hub::Hub},
    crash::{self, Point},
    engine::{Engine, EngineError, Inner, Stop},
    escrow, facilitator, governance, intake,
    keys::{KeyError, Keys},
    lease::{self, Leases},
    metrics::Metrics,
    notify::{self, EndpointError},
    payment::AgentId,
    policy::{Categories, CategoriesError, Facts, Outcome, Policy, PolicyError, Usage},
    pulse::{self, Guard, Pulse},
    reconcile::{
        self,
        restored::{NONCE_EPOCH, notice},
    },
    rpc::{Rpc, RpcError},
    seller::{self, PaywallError, PriceList, Proxy, ProxyError},
    store::{AgentRow, Store, StoreError, StoreLock},
    submit::{self, Flights},
};

/// Seconds the tasks have to end in after the last request.
const GRACE: Duration = Duration::from_secs(10);
/// Seconds between signed marks of the audit log's head.
const ANCHOR_EVERY: Duration = Duration::from_secs(10);

/// Pause between two looks at the store's log.
const CHECKPOINT_EVERY: Duration = Duration::from_millis(250);
/// Open purchases that are read at once.
const PURCHASES: u32 = 500;
/// Policy files that are read before they are noted in the audit log.
const NOTED: usize = 256;

/// Seconds between two looks whether the store can be written.
const PROBE_EVERY: Duration = Duration::from_secs(5);
/// Bytes at the end of the anchors' file in which its last whole line ends.
const TAIL: u64 = 4_096;

/// Why the daemon does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store.
    #[error("the store {url} cannot be opened: {source}")]
    Store {
        /// Its URL, without a password.
        url: String,
        /// Why.
        source: StoreError,
    },
    /// The store, later.
    #[error(transparent)]
    Write(#[from] StoreError),
    /// The keys.
    #[error(transparent)]
    Keys(#[from] KeyError),
    /// The chain.
    #[error("the chain cannot be read: {0}")]
    Chain(#[from] RpcError),
    /// No contract at the wallet's or the token's address.
    #[error("there is no contract at {name} {address} on chain {chain_id}")]
    NoContract {
        /// `chain.wallet` or `chain.usdc`.
        name: &'static str,
        /// Where.
        address: Address,
        /// On which chain.
        chain_id: u64,
    },
    /// The categories of the configuration.
    #[error("categories: {0}")]
    Categories(#[from] CategoriesError),
    /// A policy file.
    #[error("{path}: {source}")]
    Policy {
        /// The file.
        path: String,
        /// Where and why.
        source: PolicyError,
    },
    /// Files that contradict each other or the store.
    #[error("{0}")]
    Agents(String),
    /// A folder or file.
    #[error("cannot read {path}: {source}")]
    Read {
        /// Which.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The address.
    #[error("cannot listen on {addr}: {source}")]
    Listen {
        /// Where.
        addr: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The thread that looks after the tasks.
    #[error("cannot start a thread: {0}")]
    Guard(std::io::Error),
    /// What agents fetch with.
    #[error(transparent)]
    Fetch(#[from] buyer::WebError),
    /// A webhook endpoint.
    #[error(transparent)]
    Webhook(#[from] EndpointError),
    /// The engine.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The paywall.
    #[error(transparent)]
    Paywall(#[from] PaywallError),
    /// What the paywall sells.
    #[error(transparent)]
    Proxy(#[from] ProxyError),
}

/// How a daemon ends that nobody stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// This task ended: a fault, which its log tells.
    Task(&'static str),
    /// This task hangs. It may hold a thread or a lock: an orderly end cannot be counted on.
    Hung(&'static str),
}

/// The running daemon.
pub struct Service {
    addr: SocketAddr,
    engine: Engine,
    stop: watch::Sender<bool>,
    tasks: JoinSet<&'static str>,
    store: Store,
    /// Names the task that hangs, if one does.
    hung: oneshot::Receiver<&'static str>,
    /// The guard goes when this goes.
    _guarded: std::sync::mpsc::Sender<()>,
    /// No other daemon serves the store while this lives.
    _lock: StoreLock,
}

impl Service {
    /// Starts everything: store, chain, book, tasks, API. Returns once the API listens. Whatever is
    /// decided by time goes by `clock`.
    ///
    /// # Errors
    /// See [`StartError`]: the daemon starts whole or not at all.
    pub async fn start(config: Config, keys: Keys, clock: Clock) -> Result<Self, StartError> {
        let rpc = Rpc::new(config.chain.rpc.clone(), config.chain.chain_id, config.rpc_timeout())?;
        let Awake { inner, queue, vouchers, lock } =
            wake(config, Arc::new(keys), clock, rpc).await?;
        let listen = inner.config.listen;
        let cannot = |source| StartError::Listen { addr: listen, source };
        let listener = TcpListener::bind(listen).await.map_err(cannot)?;
        let addr = listener.local_addr().map_err(cannot)?;
        let store = inner.store.clone();

        let (stop, stopped) = Stop::pair();
        let mut tasks = JoinSet::new();
        let mut pulses = Vec::new();
        let engine = Engine::new(Arc::clone(&inner));
        {
            let mut spawn = |name, task: BoxFuture<'static, ()>| {
                let pulse = Pulse::new(name);
                pulses.push(Arc::clone(&pulse));
                tasks.spawn(named(name, pulse.of(task)));
            };
            spawn("intake", Box::pin(intake::run(Arc::clone(&inner), queue, stopped.clone())));
            spawn("assign", Box::pin(submit::assign::run(Arc::clone(&inner), stopped.clone())));
            spawn(
                "broadcast",
                Box::pin(submit::broadcast::run(Arc::clone(&inner), stopped.clone())),
            );
            spawn("confirm", Box::pin(submit::confirm::run(Arc::clone(&inner), stopped.clone())));
            spawn(
                "reconcile",
                Box::pin(reconcile::watch::run(Arc::clone(&inner), stopped.clone())),
            );
            spawn("purchases", Box::pin(buyer::watch::run(Arc::clone(&inner), stopped.clone())));
            spawn("watch", Box::pin(alert::watch::run(Arc::clone(&inner), stopped.clone())));
            spawn("lease", Box::pin(lease::run(Arc::clone(&inner), stopped.clone())));
            spawn("keep", Box::pin(keep(Arc::clone(&inner), stopped.clone())));
            spawn("checkpoint", Box::pin(checkpoint(store.clone(), stopped.clone())));
            if let Some(vouchers) = vouchers {
                spawn("vouchers", Box::pin(vouchers.run(Arc::clone(&inner), stopped.clone())));
            }
        }
        // Its endpoints have tasks of their own, and what hangs there shows as deliveries that wait.
        tasks.spawn(named("notify", notify::run(Arc::clone(&inner), stopped.clone())));
        let (doubt, stopping) = (store.clone(), stopped.clone());
        tasks.spawn(named("store", async move {
            tokio::select! {
                () = doubt.in_doubt() => {
                    error!("the store cannot be relied on: the next start reads what was kept");
                }
                () = stopping.asked() => {}
            }
        }));
        // It waits for the facilitator, whose own tasks have pulses.
        tasks.spawn(named("sales", seller::run(Arc::clone(&inner), stopped.clone())));
        let router =
            api::router(engine.clone(), ApiConfig::new(inner.config.public_origin.clone()));
        let serve = stopped.clone();
        tasks.spawn(named("api", async move {
            let ended = axum::serve(listener, router)
                .with_graceful_shutdown(async move { serve.asked().await })
                .await;
            if let Err(error) = ended {
                error!(%error, "the API ended");
            }
        }));
        let (guarded, stop_guard) = std::sync::mpsc::channel();
        let (tell, hung) = oneshot::channel();
        let limit = Duration::from_secs(inner.config.hung_after_s);
        let guard = Guard::new(inner.clock.clone(), limit, pulses);
        std::thread::Builder::new()
            .name("guard".to_owned())
            .spawn(move || guard.run(&stop_guard, tell))
            .map_err(StartError::Guard)?;
        inner.queued.notify_one();
        info!(%addr, wallet = %inner.config.chain.wallet, "listening");
        Ok(Self { addr, engine, stop, tasks, store, hung, _guarded: guarded, _lock: lock })
    }

    /// Returns the address the API listens on.
    #[must_use]
    pub const fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Returns the engine's handle.
    #[must_use]
    pub fn engine(&self) -> Engine {
        self.engine.clone()
    }

    /// Sells what an upstream serves: listens where the price list says, behind its paywall. Returns the
    /// address.
    ///
    /// # Errors
    /// The price list, the upstream's URL, or the address to listen on.
    pub async fn sell(
        &mut self,
        list: PriceList,
        upstream: &Url,
    ) -> Result<SocketAddr, StartError> {
        let listen = list.listen.unwrap_or(SocketAddr::from(([127, 0, 0, 1], 8403)));
        let paywall = self.engine.paywall(list).await?;
        let connections = paywall.list().limits.connections;
        let gate = Proxy::new(&paywall, upstream)?.behind(&paywall);
        let cannot = |source| StartError::Listen { addr: listen, source };
        let listener = TcpListener::bind(listen).await.map_err(cannot)?;
        let addr = listener.local_addr().map_err(cannot)?;
        let stop = self.stop.subscribe();
        self.tasks.spawn(named("paywall", async move {
            seller::serve(listener, gate, connections, Stop::of(stop)).await;
        }));
        info!(%addr, %upstream, "selling");
        Ok(addr)
    }

    /// Waits until a task ends, which only a fault or [`Service::stop`] makes it do, or hangs.
    pub async fn ended(&mut self) -> Ended {
        let ended = tokio::select! {
            Ok(name) = &mut self.hung => return Ended::Hung(name),
            ended = self.tasks.join_next() => ended,
        };
        Ended::Task(match ended {
            Some(Ok(name)) => name,
            Some(Err(error)) => {
                error!(%error, "a task ended in a fault");
                "a task"
            }
            None => "every task",
        })
    }

    /// Stops: no new requests, running commits end, everything else is found again at start.
    pub async fn stop(mut self) {
        // Nobody listening means that every task has ended already.
        let _ = self.stop.send(true);
        let ended =
            tokio::time::timeout(GRACE, async { while self.tasks.join_next().await.is_some() {} });
        if ended.await.is_err() {
            warn!("a task did not end in time; nothing is lost, it goes on at the next start");
            self.tasks.shutdown().await;
        }
        if let Err(error) = self.engine.give_back().await {
            warn!(%error, "the leases run out by themselves");
        }
        if let Err(error) = self.store.leave().await {
            warn!(%error, "the store could not be left in order: the next start looks it through");
        }
        self.store.close().await;
    }
}

/// A daemon that knows everything, before its first task.
pub(crate) struct Awake {
    pub inner: Arc<Inner>,
    pub queue: mpsc::Receiver<intake::Job>,
    /// What makes vouchers durable, where there are channels.
    pub vouchers: Option<Writer>,
    pub lock: StoreLock,
}

/// Opens the store, checks the chain, and takes up what a former run left.
pub(crate) async fn wake(
    config: Config,
    keys: Arc<Keys>,
    clock: Clock,
    rpc: Rpc,
) -> Result<Awake, StartError> {
    let cannot = |source| StartError::Store {
        url: config.store.split('@').next_back().unwrap_or_default().to_owned(),
        source,
    };
    let lock = Store::lock(&config.store, &config.audit_anchors).map_err(cannot)?;
    let webhooks = notify::Endpoint::all(&config.webhooks)?.into_iter().map(Arc::new).collect();
    let shop = buyer::Shop::new(&config.fetch)?;
    let store = Store::open_as(&config.store, lock.me()).await.map_err(cannot)?;
    let store = store.telling(notify::subscribers(&config.webhooks));
    store.take_over().await.map_err(cannot)?;
    check_chain(&config, &rpc).await?;
    let has_hub = !rpc.code(contract::hub::HUB).await?.is_empty();
    let escrow = escrow::of_wallet(&rpc, config.chain.wallet).await?;
    let domain = contract::domain(config.chain.chain_id, config.chain.wallet);
    let mut book = Book::new(
        Categories::new(config.categories.clone())?,
        [Address::ZERO, config.chain.wallet, config.chain.usdc, contract::hub::HUB]
            .into_iter()
            .chain(escrow)
            .collect(),
    );
    load_agents(&config, &store, &keys, &clock, &mut book).await?;
    load_payees(&config, &store, &mut book).await?;

    let relayers = (0..config.submit.relayers)
        .map(|j| keys.relayer(j))
        .collect::<Result<Vec<_>, KeyError>>()?;
    let addresses: Vec<Address> = relayers.iter().map(|relayer| relayer.address()).collect();
    let restored = notice(&config, &store, &rpc, (&keys, &clock), &addresses).await?;
    let nonce_epoch = nonce_epoch(&store).await?;

    let (meters, vouchers) = match addresses.first() {
        Some(authorizer) if has_hub => {
            let (journal, writer) = Journal::new();
            let hub = Hub::new(config.chain.chain_id, contract::hub::HUB);
            (Some(Meters::new(hub, *authorizer, journal)), Some(writer))
        }
        _ => (None, None),
    };
    let (jobs, queue) = mpsc::channel(config.payments.intake_queue);
    let inner = Arc::new(Inner {
        store: store.clone(),
        rpc,
        keys,
        domain,
        shop,
        escrow: escrow.map(|at| escrow::Place::new(config.chain.chain_id, at)),
        facilitator: facilitator::Desk::new(has_hub),
        sales: seller::Desk::default(),
        meters,
        metrics: Metrics::default(),
        flights: Flights::default(),
        leases: Leases::default(),
        intake: jobs,
        queued: Notify::new(),
        signed: Notify::new(),
        book: std::sync::Mutex::new(book),
        policy_due: 1.into(),
        reading: AsyncMutex::new(()),
        head: std::sync::Mutex::new(None),
        booked: std::sync::Mutex::new(None),
        chain_reached: true.into(),
        wrong_chain: false.into(),
        behind_since: std::sync::Mutex::default(),
        reached_s: clock.now_s().into(),
        written_s: clock.now_s().into(),
        clock,
        webhooks,
        strangers: std::sync::Mutex::default(),
        relayers,
        restored: std::sync::Mutex::new(restored),
        nonce_epoch,
        config,
    });
    let head = inner.rpc.latest().await?;
    inner.set_head(head);
    // The past first: what was final, what is reserved, what is on its way.
    {
        // Nothing that counts changes while it is read, and from then on every change is heard.
        let turn = inner.store.begin().await?;
        turn.listen();
        load_history(&inner).await?;
    }
    match submit::confirm::last_final(&inner, &head).await? {
        Some(last) => governance::follow(&inner, &last).await?,
        None => governance::refresh(&inner).await?,
    }
    lease::start(&inner).await?;
    // The contract's totals have what happened while no daemon ran: it must not be under way here as well
    // when the first request comes.
    if let Err(error) = submit::confirm::look(&inner, &mut None).await {
        warn!(%error, "what happened meanwhile is booked later");
    }
    buyer::remember(&inner).await?;
    crash::at(Point::StartLoaded);
    Ok(Awake { inner, queue, vouchers, lock })
}

async fn named(name: &'static str, task: impl Future<Output = ()>) -> &'static str {
    task.await;
    name
}

async fn check_chain(config: &Config, rpc: &Rpc) -> Result<(), StartError> {
    let chain_id = rpc.chain_id().await?;
    for (name, address) in
        [("chain.wallet", config.chain.wallet), ("chain.usdc", config.chain.usdc)]
    {
        if rpc.code(address).await?.is_empty() {
            return Err(StartError::NoContract { name, address, chain_id });
        }
    }
    Ok(())
}

/// Reads the policy files. A name keeps its key for ever; two files never share one.
async fn load_agents(
    config: &Config,
    store: &Store,
    keys: &Keys,
    clock: &Clock,
    book: &mut Book,
) -> Result<(), StartError> {
    let read = |path: &Path, source| StartError::Read { path: path.display().to_string(), source };
    let known: HashMap<AgentId, AgentRow> =
        store.agents().await?.into_iter().map(|row| (row.id.clone(), row)).collect();
    let mut files: Vec<_> = std::fs::read_dir(&config.policies)
        .map_err(|source| read(&config.policies, source))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .collect();
    files.sort();
    let mut tx = store.begin().await?;
    let mut drafts = Vec::new();
    for path in files {
        let shown = path.display().to_string();
        let text = std::fs::read_to_string(&path).map_err(|source| read(&path, source))?;
        let policy = Policy::parse(&text, &book.categories)
            .map_err(|source| StartError::Policy { path: shown.clone(), source })?;
        let address = keys.agent_address(policy.key_index)?;
        let conflict = |what: String| StartError::Agents(format!("{shown}: {what}"));
        if book.agents.contains_key(&policy.agent) {
            return Err(conflict(format!("agent `{}` has another file already", policy.agent)));
        }
        if let Some(other) = book.agent_by_address(address) {
            return Err(conflict(format!(
                "key_index {} belongs to `{other}`; give each agent its own",
                policy.key_index
            )));
        }
        let before = known.get(&policy.agent);
        if let Some(row) = before
            && row.address != address
        {
            return Err(conflict(format!(
                "agent `{}` had key_index {} and {}: an agent keeps its key; retire the name \
                 and use a new one",
                policy.agent, row.key_index, row.address
            )));
        }
        let policy_hash = policy.hash();
        if before.is_none_or(|row| row.policy_hash != policy_hash) {
            let revision = before.map_or(1, |row| row.revision + 1);
            let row = AgentRow {
                id: policy.agent.clone(),
                key_index: policy.key_index,
                address,
                policy_hash,
                revision,
                frozen: false,
            };
            tx.put_agent(&row, clock.now_ms()).await.map_err(|error| {
                if error.is_duplicate() {
                    conflict(format!("key_index {} was another agent's", policy.key_index))
                } else {
                    error.into()
                }
            })?;
            let kind = match before {
                Some(_) => EventKind::PolicyLoaded,
                None => EventKind::AgentRegistered,
            };
            drafts.push(Draft::new(kind, "daemon").agent(&policy.agent).data(json!({
                "file": path.file_name().map(|name| name.to_string_lossy()),
                "hash": policy_hash, "revision": revision, "address": address, "policy": text,
            })));
            // Every entry has its policy's text: not all of them at once in memory.
            if drafts.len() == NOTED {
                tx.append_audit(&std::mem::take(&mut drafts), clock.now_ms()).await?;
            }
        }
        let public_key = VerifyingKey::from_bytes(&policy.public_key)
            .map_err(|_| conflict("public_key is not an Ed25519 key".into()))?;
        let key_id = auth::agent::key_id(&public_key);
        if let Some(other) = book.agent_by_key(&key_id) {
            return Err(conflict(format!(
                "public_key is `{}`'s; every agent has its own request key",
                other.policy.agent
            )));
        }
        let (usage, granted) = (Usage::default(), contract::coupon::CouponGrant::default());
        let coupons = granted;
        book.add_agent(Agent { policy, address, key_id, chain: None, granted, coupons, usage });
    }
    tx.append_audit(&drafts, clock.now_ms()).await?;
    tx.commit().await?;
    if book.agents.is_empty() {
        warn!(folder = %config.policies.display(), "there is no policy file: nobody can pay");
    }
    Ok(())
}

async fn load_payees(config: &Config, store: &Store, book: &mut Book) -> Result<(), StartError> {
    let mut tx = store.begin().await?;
    for payee in &config.payees {
        tx.put_payee(payee.address, Some(&payee.label), config.chain.from_block).await.map_err(
            |error| {
                if error.is_duplicate() {
                    StartError::Agents(format!(
                        "[[payees]]: label `{}` belongs to another address",
                        payee.label
                    ))
                } else {
                    error.into()
                }
            },
        )?;
    }
    tx.commit().await?;
    for (address, label) in store.payees().await? {
        if let Some(label) = label {
            book.put_label(address, &label);
        }
    }
    Ok(())
}

/// Fills the windows from the store: reservations, what was final in the last 38 days, and what
/// was accepted in the last 26 hours (a window and a step each). Lifetimes reach back to the first
/// payment; adding them up is left out where no policy limits them.
async fn load_history(inner: &Inner) -> Result<(), StartError> {
    let now_s = inner.now_s();
    let mut settled = pin!(
        inner
            .store
            .settled_since(now_s.saturating_sub(38 * 86_400), now_s.saturating_sub(2 * 86_400))
    );
    while let Some(row) = settled.try_next().await? {
        // No window of a payee counts what was paid: the contract's record does.
        let facts = Facts { payee: Address::ZERO, amount: row.amount, overrides: row.overrides };
        let outcome = Outcome::Paid { block_time_s: row.block_time_s };
        inner.book().replay(&row.agent, &facts, outcome);
    }
    let counts_lifetime =
        inner.book().agents.values().any(|known| known.policy.limits.lifetime.is_some());
    if counts_lifetime {
        for (agent, paid) in inner.store.paid_ever().await? {
            inner.book().carry_lifetime(&agent, paid);
        }
    }
    let open = inner.store.payments_open().await?;
    for row in &open {
        inner.book().replay(&row.agent, &row.facts(), Outcome::Pending);
    }
    let mut after = None;
    loop {
        let bought = inner.store.purchases_open(after, PURCHASES).await?;
        let Some(last) = bought.last() else { break };
        after = Some(last.id);
        for (row, facts) in bought.iter().filter_map(|row| Some((row, row.facts()?))) {
            inner.book().replay(&row.agent, &facts, Outcome::Pending);
        }
    }
    for (agent, facts, paid_in) in inner.store.newest_settled(book::NEWEST + 1).await? {
        inner.book().remember(agent, facts, paid_in);
    }
    // Another daemon, or this one before, may have read events of blocks that the node does not have yet.
    inner.read_policy_again(governance::followed(&inner.store).await?.unwrap_or_default());
    let since_ms = inner.clock.now_ms() - 26 * 3_600_000;
    let mut accepted = pin!(inner.store.accepted_since(since_ms, 1_000));
    while let Some(row) = accepted.try_next().await? {
        let facts = Facts { payee: row.payee, amount: row.amount, overrides: 0 };
        inner.book().recount(&row.agent, &facts, row.at_s, row.count);
    }
    info!(reserved = open.len(), "took up what was on its way");
    Ok(())
}

async fn nonce_epoch(store: &Store) -> Result<u128, StartError> {
    let mut tx = store.begin().await?;
    if let Some(text) = tx.meta(NONCE_EPOCH).await? {
        return text.parse().map_err(|_| StoreError::corrupt("meta.nonce_epoch", text).into());
    }
    let epoch = rand::random::<u64>();
    tx.set_meta(NONCE_EPOCH, &epoch.to_string()).await?;
    tx.commit().await?;
    Ok(epoch.into())
}

/// Keeps the store's log short.
async fn checkpoint(store: Store, stop: Stop) {
    let mut tick = tokio::time::interval(CHECKPOINT_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        pulse::rest();
        tokio::select! {
            () = stop.asked() => return,
            _ = tick.tick() => {}
        }
        pulse::work();
        if let Err(error) = store.checkpoint().await {
            warn!(%error, "the store's log could not be moved; trying again");
        }
    }
}

/// Housekeeping: approvals that waited too long, stale nonces, anchors, gauges.
async fn keep(inner: Arc<Inner>, stop: Stop) {
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let anchors = AsyncMutex::new((B256::ZERO, None::<Duration>));
    let mut probed = None::<Duration>;
    loop {
        pulse::rest();
        let last = tokio::select! {
            () = stop.asked() => true,
            _ = tick.tick() => false,
        };
        pulse::work();
        if let Err(error) = housekeeping(&inner, &anchors, last).await {
            if let EngineError::Store(StoreError::Damaged(_)) = error {
                error!(%error, "nothing more is done with this store");
                inner.store.distrust();
                return;
            }
            warn!(%error, "housekeeping failed; trying again");
        }
        if last {
            return;
        }
        if probed.is_none_or(|at| inner.clock.steady().saturating_sub(at) >= PROBE_EVERY) {
            probed = Some(inner.clock.steady());
            match inner.store.probe().await {
                Ok(()) => inner.written_s.store(inner.clock.now_s(), Ordering::Relaxed),
                Err(error) => warn!(%error, "the store cannot be written"),
            }
        }
        if let Err(error) = claim::look(&inner, false).await {
            warn!(%error, "what channels owe could not be looked at; trying again");
        }
        if let Err(error) = buyer::purses::look(&inner).await {
            warn!(%error, "the wallet's own channels could not be looked at; trying again");
        }
        if let Err(error) = escrow::watch::look(&inner).await {
            warn!(%error, "the escrows' deadlines could not be looked at; trying again");
        }
        if let Err(error) = governance::refresh(&inner).await {
            warn!(%error, "the contract's policy could not be read; trying again");
        }
    }
}

pub(crate) async fn housekeeping(
    inner: &Inner,
    anchors: &AsyncMutex<(B256, Option<Duration>)>,
    last: bool,
) -> Result<(), EngineError> {
    if inner.is_keeper() {
        approval::expire(inner).await?;
        // Each second, a second's worth: nobody waits for a long deletion.
        let mut tx = inner.begin_as_keeper().await?;
        tx.forget_nonces(inner.clock.now_s()).await?;
        let kept_ms = intake::seconds(inner.config.webhooks.keep_days.saturating_mul(86_400));
        tx.forget_events(inner.clock.now_ms().saturating_sub(kept_ms)).await?;
        let (bytes, denied) = inner.config.retention.before(inner.clock.now_ms());
        tx.prune(bytes, denied).await?;
        tx.forget_answers(bytes).await?;
        tx.forget_bought(inner.clock.now_ms()).await?;
        let answers_ms = inner.config.retention.answers_minutes.saturating_mul(60);
        let answers_ms = inner.clock.now_ms().saturating_sub(intake::seconds(answers_ms));
        tx.forget_sales(answers_ms, inner.clock.now_s().cast_signed()).await?;
        tx.forget_words().await?;
        tx.commit().await?;
    }
    let (backlog, oldest) = inner.store.backlog().await?;
    inner.metrics.backlog.set(backlog.cast_signed());
    inner.metrics.oldest_ms.set(oldest.map_or(0, |at| inner.clock.now_ms() - at));
    let mut anchored = anchors.lock().await;
    let due = anchored.1.is_none_or(|at| inner.clock.steady().saturating_sub(at) >= ANCHOR_EVERY);
    if !(due || last) {
        return Ok(());
    }
    anchored.1 = Some(inner.clock.steady());
    let head = inner.store.audit_head().await?;
    if head.head == anchored.0 || head.seq == 0 {
        return Ok(());
    }
    let anchor = head
        .anchor(inner.clock.now_ms(), &inner.keys.audit_key())
        .map_err(|error| EngineError::Encode(error.to_string()))?;
    let line =
        serde_json::to_string(&anchor).map_err(|error| EngineError::Encode(error.to_string()))?;
    match append(&inner.config.audit_anchors, &line) {
        Ok(()) => anchored.0 = head.head,
        Err(error) => warn!(%error, "the audit log's head could not be anchored"),
    }
    Ok(())
}

fn append(path: &Path, line: &str) -> std::io::Result<()> {
    use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
    let mut file = std::fs::OpenOptions::new().create(true).read(true).append(true).open(path)?;
    // What a power cut left of a line vouches for nothing, and would spoil the next one.
    let from = file.metadata()?.len().saturating_sub(TAIL);
    let mut tail = Vec::new();
    file.seek(SeekFrom::Start(from))?;
    file.read_to_end(&mut tail)?;
    if !tail.is_empty() && !tail.ends_with(b"\n") {
        let whole = tail.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at as u64 + 1);
        file.set_len(from + whole)?;
    }
    file.write_all(format!("{line}\n").as_bytes())?;
    file.sync_data()
}

#[cfg(test)]
mod tests {
    use super::append;

    #[test]
    fn a_torn_line_does_not_spoil_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("anchors");
        append(&path, "one").unwrap();
        append(&path, "two").unwrap();
        let torn = std::fs::read_to_string(&path).unwrap() + "thr";
        std::fs::write(&path, torn).unwrap();
        append(&path, "four").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one\ntwo\nfour\n");
        std::fs::write(&path, "torn").unwrap();
        append(&path, "first").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "first\n");
    }
}
