//! One history: the real engine's steps and the world's mishaps, drawn from one seed.

use std::{
    collections::{BTreeMap, VecDeque},
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::Duration,
};

use alloy::{
    primitives::{Address, B256, Bytes, U256},
    signers::{SignerSync as _, local::PrivateKeySigner},
    sol_types::SolCall as _,
};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};
use tokio::sync::{Mutex as AsyncMutex, mpsc, watch};

use super::{
    chain::{Chain, Client, GWEI, What},
    oracle::{self, Verdict},
    wallet::{Act, Place, State, limits},
    wire::{BadCommit, Outside, Shared, Trouble, View, meddle, short},
};
use crate::{
    approval,
    clock::{Clock, Hand},
    config::Config,
    contract::{self, IPolicyChanges, IPolicyWallet, PayeeLimits, Tighten},
    engine::{Engine, Inner, NonceClaim},
    governance, intake,
    keys::{Keys, Mnemonic},
    payment::{AgentId, Context, PaymentId, PaymentRequest, State as Stands},
    reconcile::watch::Watch,
    rpc::{Head, Rpc},
    service::{self, Awake},
    store::{Store, StoreLock},
    submit::{assign, broadcast, confirm},
    view::{SignatureBody, TightenOrder},
};

const WORDS: &str = "legal winner thank year wave sausage worth useful legal winner thank yellow";
const CHAIN_ID: u64 = 31_337;
/// 2026-07-01T00:00:00Z.
const BIRTH_S: u64 = 1_782_864_000;
const EXPIRY_S: u64 = 1_798_761_600;
const AGENTS: [&str; 3] = ["atlas", "borealis", "dune"];
const PAYEES: u8 = 4;
pub(super) const RELAYERS: u32 = 3;
/// Base units the wallet starts with.
pub(super) const FUNDS: u64 = 1_000_000_000_000;

pub(super) fn wallet() -> Address {
    Address::repeat_byte(0xaa)
}
pub(super) fn usdc() -> Address {
    Address::repeat_byte(0xcc)
}
fn payee(n: u8) -> Address {
    Address::repeat_byte(n + 1)
}
fn operators() -> [PrivateKeySigner; 3] {
    [11, 12, 13].map(|n| PrivateKeySigner::from_slice(&[n; 32]).unwrap())
}
pub(super) fn keys() -> Arc<Keys> {
    static KEYS: OnceLock<Arc<Keys>> = OnceLock::new();
    let make = || Arc::new(Keys::from_mnemonic(&Mnemonic::parse(WORDS).unwrap()).unwrap());
    Arc::clone(KEYS.get_or_init(make))
}

/// What the steps of a history are drawn from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Ask,
    Assign,
    Broadcast,
    Look,
    Compare,
    Keep,
    Decide,
    Order,
    Mine,
    Wait,
    Leap,
    Act,
    Relay,
    Reorganise,
    Forget,
    BaseFee,
    GasMoney,
    Trouble,
    Views,
    Late,
    Die,
    Stop,
    Commit,
}

/// What always happens, and how often.
const ALWAYS: [(Kind, u32); 8] = [
    (Kind::Ask, 18),
    (Kind::Assign, 12),
    (Kind::Broadcast, 14),
    (Kind::Look, 18),
    (Kind::Compare, 8),
    (Kind::Keep, 4),
    (Kind::Mine, 14),
    (Kind::Wait, 10),
];
/// What happens in about half of the histories each: few kinds together reach deeper than all at
/// once.
const SOMETIMES: [(Kind, u32); 15] = [
    (Kind::Decide, 8),
    (Kind::Order, 1),
    (Kind::Leap, 2),
    (Kind::Act, 3),
    (Kind::Relay, 5),
    (Kind::Reorganise, 6),
    (Kind::Forget, 4),
    (Kind::BaseFee, 4),
    (Kind::GasMoney, 2),
    (Kind::Trouble, 6),
    (Kind::Views, 6),
    (Kind::Late, 4),
    (Kind::Die, 10),
    (Kind::Stop, 2),
    (Kind::Commit, 3),
];

/// A purchase an agent stands by.
#[derive(Clone, Debug)]
pub(super) struct Purchase {
    agent: AgentId,
    key: String,
    request: PaymentRequest,
    /// What was promised.
    pub promised: Option<PaymentId>,
}

/// A daemon between its start and its end.
struct Life {
    inner: Arc<Inner>,
    engine: Engine,
    queue: mpsc::Receiver<intake::Job>,
    seen: Option<Head>,
    watch: Watch,
    anchors: AsyncMutex<(B256, Option<Duration>)>,
    _lock: StoreLock,
}

/// How a history came out.
#[derive(Debug)]
pub(super) struct Played {
    pub verdict: Verdict,
    pub story: Vec<String>,
    pub kills: u64,
    pub payments: u64,
}

/// A history while it is played.
pub(super) struct History {
    rng: StdRng,
    pub shared: Shared,
    clock: Clock,
    hand: Hand,
    pub config: Config,
    life: Option<Life>,
    pub purchases: Vec<Purchase>,
    /// Ends that were seen: there is no way out of them.
    pub ends: BTreeMap<PaymentId, Stands>,
    pub faults: Vec<String>,
    kills: u64,
    serial: u64,
    weights: Vec<(Kind, u32)>,
    steps: u32,
    /// Calldata that was ever seen in a pool: public from then on.
    seen: Vec<Bytes>,
}

/// The files that all histories share: the agents' policies.
pub(super) fn write_policies(dir: &Path) -> PathBuf {
    use base64::Engine as _;
    let policies = dir.join("agents");
    std::fs::create_dir_all(&policies).unwrap();
    for (index, name) in (0_u8..).zip(AGENTS) {
        let key = ed25519_dalek::SigningKey::from_bytes(&[index + 1; 32]).verifying_key();
        let key = base64::prelude::BASE64_URL_SAFE_NO_PAD.encode(key.as_bytes());
        let (day, month) =
            [("4000", "40000"), ("20", "200"), ("100000", "1000000")][usize::from(index)];
        let text = format!(
            "agent = \"{name}\"\nkey_index = {index}\npublic_key = \"{key}\"\n\
             expires = \"2027-01-01T00:00:00Z\"\nsponsor = \"ana@example.com\"\n\
             categories = [\"data\"]\nabove_ceiling = \"ask\"\n\
             [limits]\nceiling = \"250\"\nday = \"{day}\"\nmonth = \"{month}\"\n\
             [counts]\nper_hour = 1000\n"
        );
        std::fs::write(policies.join(format!("{name}.toml")), text).unwrap();
    }
    policies
}

impl History {
    /// Sets the scene that `seed` draws.
    pub(super) fn new(seed: u64, dir: &Path, policies: &Path, store: &str) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let confirmations = rng.gen_range(1..=4);
        let text = format!(
            "listen = \"127.0.0.1:0\"\npublic_origin = \"http://sim\"\nstore = \"{store}\"\n\
             policies = \"{}\"\nseed = \"\"\naudit_anchors = \"{}\"\n\
             categories = [\"data\", \"compute\"]\n\
             [chain]\nrpc = [\"sim:0\", \"sim:1\"]\nchain_id = {CHAIN_ID}\nwallet = \"{}\"\n\
             usdc = \"{}\"\nconfirmations = {confirmations}\nclock_drift_s = 120\n\
             [submit]\nbatch_items = {}\nrelayers = {}\nin_flight = {}\nfee_ceiling_gwei = 100\n\
             signature_ttl_s = {}\nresend_after_s = {}\nreplace_after_s = {}\n\
             [payments]\nqueue_ttl_s = 3000\napproval_ttl_s = 900\n",
            policies.display(),
            dir.join("anchors").display(),
            wallet(),
            usdc(),
            rng.gen_range(1..=6),
            rng.gen_range(1..=RELAYERS),
            rng.gen_range(1..=4),
            [30, 120, 600].choose(&mut rng).unwrap(),
            rng.gen_range(1..=6),
            rng.gen_range(5..=40),
        );
        let labels: String = (0..PAYEES)
            .map(|n| format!("[[payees]]\nlabel = \"payee-{n}\"\naddress = \"{}\"\n", payee(n)))
            .collect();
        let config: Config = toml::from_str(&(text + &labels)).unwrap();
        let place = Place {
            chain_id: CHAIN_ID,
            wallet: wallet(),
            usdc: usdc(),
            domain: contract::domain(CHAIN_ID, wallet()),
        };
        let mut state = State::new(wallet(), FUNDS, operators().map(|one| one.address()).to_vec());
        let keys = keys();
        let caps: [(u64, u64); 3] = [(4_000, 40_000), (20, 200), (100_000, 1_000_000)];
        for (index, (day, month)) in (0..).zip(caps) {
            let money = limits(250_000_000, day * 1_000_000, month * 1_000_000, EXPIRY_S, 0b11);
            state.add_agent(keys.agent_address(index).unwrap(), money);
        }
        for n in 0..PAYEES {
            let record = PayeeLimits {
                categories: 1,
                cap: contract::narrow((1 << 48) - 1).unwrap(),
                cooldown: 0,
            };
            state.payees.insert(payee(n), record);
        }
        let client = |rng: &mut StdRng| *Client::ALL.choose(rng).unwrap();
        let outside = Outside {
            chain: Chain::new(place, state, BIRTH_S, confirmations),
            trouble: Trouble::default(),
            views: [View::default(), View::default()],
            clients: [client(&mut rng), client(&mut rng)],
            late: VecDeque::new(),
            dies_in: None,
            commit: None,
            dead: watch::Sender::new(false),
            story: Vec::new(),
            rng: StdRng::seed_from_u64(rng.r#gen()),
        };
        let (clock, hand) = Clock::held(i64::try_from(BIRTH_S).unwrap() * 1_000);
        let mut weights = ALWAYS.to_vec();
        weights.extend(SOMETIMES.iter().filter(|_| rng.r#gen()));
        let steps = rng.gen_range(30..130);
        let mut history = Self {
            rng,
            shared: Shared::new(outside),
            clock,
            hand,
            config,
            life: None,
            purchases: Vec::new(),
            ends: BTreeMap::new(),
            faults: Vec::new(),
            kills: 0,
            serial: 0,
            weights,
            steps,
            seen: Vec::new(),
        };
        history
            .tell(format!("seed {seed}: {:?} {:?}", history.config.submit, history.config.chain));
        history.tell(format!("drawn from {:?}", history.weights));
        history
    }

    fn tell(&mut self, what: impl Into<String>) {
        self.shared.lock().tell(what);
    }

    /// Plays it to its end and judges it.
    pub(super) async fn play(mut self) -> Played {
        meddle(Some(self.shared.clone()));
        for n in 0..self.steps {
            let kind =
                self.weights.choose_weighted(&mut self.rng, |(_, weight)| *weight).unwrap().0;
            self.tell(format!("{n}: {kind:?}"));
            self.step(kind).await;
            if n % 8 == 0 {
                self.observe().await;
            }
        }
        let drained = self.drain().await;
        let verdict = oracle::judge(&self, drained).await;
        self.bury().await;
        meddle(None);
        let story = std::mem::take(&mut self.shared.lock().story);
        Played { verdict, story, kills: self.kills, payments: self.purchases.len() as u64 }
    }

    /* THE DAEMON */

    /// Works until it is done, or the daemon dies in it.
    async fn live<T>(shared: &Shared, work: impl Future<Output = T>) -> Option<T> {
        let mut dead = shared.lock().dead.subscribe();
        tokio::select! {
            biased;
            done = work => Some(done),
            _ = dead.wait_for(|dead| *dead) => None,
        }
    }

    async fn start(&mut self) {
        let rpc = Rpc::over(Box::new(self.shared.clone()), self.config.chain.rpc.clone(), CHAIN_ID);
        let wake = service::wake(self.config.clone(), keys(), self.clock.clone(), rpc);
        match Self::live(&self.shared, Box::pin(wake)).await {
            Some(Ok(Awake { inner, queue, lock, .. })) => {
                self.tell("  the daemon is up");
                self.life = Some(Life {
                    engine: Engine::new(Arc::clone(&inner)),
                    inner,
                    queue,
                    seen: None,
                    watch: Watch::default(),
                    anchors: AsyncMutex::new((B256::ZERO, None)),
                    _lock: lock,
                });
            }
            Some(Err(error)) => self.tell(format!("  it does not start: {error}")),
            None => {
                self.kills += 1;
                self.shared.lock().dead.send_replace(false);
            }
        }
    }

    /// What is left of a daemon is its store.
    async fn bury(&mut self) {
        self.shared.lock().dead.send_replace(false);
        if let Some(life) = self.life.take() {
            let store = life.inner.store.clone();
            drop(life);
            store.close().await;
        }
    }

    /// One step of the daemon.
    async fn daemon(&mut self, kind: Kind) {
        if self.life.is_none() {
            return self.start().await;
        }
        let order: u64 = self.rng.r#gen();
        let Some(life) = self.life.as_mut() else { return };
        let done = Self::live(&self.shared, Box::pin(work(life, kind, order))).await;
        // A commit in doubt ends a daemon, as `Service` does.
        let in_doubt = tokio::select! {
            biased;
            () = life.inner.store.in_doubt() => true,
            () = std::future::ready(()) => false,
        };
        match done {
            Some(Ok(())) if !in_doubt => {}
            Some(Err(why)) if !in_doubt => self.tell(format!("  {why}")),
            _ => {
                self.kills += 1;
                self.bury().await;
            }
        }
    }

    /// Notes every end there is, and that none is left again.
    async fn observe(&mut self) {
        let Ok(store) = self.store().await else { return };
        let rows = store.payments(None, None, None, 200).await;
        for row in rows.unwrap_or_default() {
            if let Some(end) = self.ends.get(&row.id) {
                if *end != row.state {
                    self.faults.push(format!("{} was {end} and is {}", row.id, row.state));
                }
            } else if row.state.is_terminal() {
                self.ends.insert(row.id, row.state);
            }
        }
        self.release(store).await;
    }

    /// The daemon's store, or its own where there is no daemon.
    pub(super) async fn store(&self) -> Result<Store, crate::store::StoreError> {
        match &self.life {
            Some(life) => Ok(life.inner.store.clone()),
            None => {
                // Who only looks dies of nothing.
                meddle(None);
                let store = Store::open(&self.config.store).await;
                meddle(Some(self.shared.clone()));
                store
            }
        }
    }

    pub(super) async fn release(&self, store: Store) {
        if self.life.is_none() {
            store.close().await;
        }
    }

    /* STEPS */

    async fn step(&mut self, kind: Kind) {
        match kind {
            Kind::Assign | Kind::Broadcast | Kind::Look | Kind::Compare | Kind::Keep => {
                self.daemon(kind).await;
            }
            Kind::Ask => self.ask().await,
            Kind::Decide => self.decide().await,
            Kind::Order => self.order().await,
            Kind::Stop => self.bury().await,
            _ => self.world(kind),
        }
    }

    fn world(&mut self, kind: Kind) {
        let now_s = self.clock.now_s();
        let rng = &mut self.rng;
        let mut outside = self.shared.lock();
        let outside = &mut *outside;
        match kind {
            Kind::Mine => {
                let whole = rng.gen_bool(0.8);
                outside.chain.mine(now_s + rng.gen_range(0..3), |_| whole || rng.gen_bool(0.5));
                let tip = outside.chain.tip();
                let said: Vec<_> =
                    tip.mined.iter().map(|m| (short(m.tx.hash), m.status, m.logs.len())).collect();
                let said = format!("  block {} {}: {said:?}", tip.number, short(tip.hash));
                outside.tell(said);
            }
            Kind::Wait => self.hand.advance(Duration::from_millis(rng.gen_range(50..6_000))),
            Kind::Leap => self.hand.advance(Duration::from_secs(rng.gen_range(20..900))),
            Kind::Act => {
                let agents: Vec<Address> =
                    outside.chain.tip().state.agents.keys().copied().collect();
                let agent = *agents.choose(rng).unwrap();
                let frozen = if rng.gen_bool(0.3) { Address::ZERO } else { agent };
                let act = match rng.gen_range(0..7) {
                    0 => Act::Freeze(frozen, true),
                    1 | 2 => Act::Freeze(frozen, false),
                    3 => Act::DayCap(agent, rng.gen_range(0..40) * 1_000_000),
                    4 => Act::Pause(rng.gen_bool(0.6)),
                    _ => match some_nonce(&self.seen, rng) {
                        Some((agent, nonce)) => Act::Void(agent, nonce),
                        None => Act::Pause(false),
                    },
                };
                outside.tell(format!("  {act:?}"));
                outside.chain.add(operators()[0].address(), wallet(), What::Act(act));
            }
            Kind::Relay => {
                if let Some(data) = self.seen.choose(rng) {
                    let stranger = Address::repeat_byte(0xee);
                    outside.chain.add(stranger, wallet(), What::Call(data.clone()));
                }
            }
            Kind::Reorganise => {
                let depth = rng.gen_range(1..=3);
                let fallen = outside.chain.blocks.clone();
                let returns = rng.gen_range(0..=10);
                let count = outside.chain.reorganise(depth, |_| rng.gen_range(0..10) < returns);
                if count > 0 && rng.gen_bool(0.5) {
                    // One endpoint has not heard of it yet.
                    outside.views[rng.gen_range(0..2)].branch = Some(fallen);
                }
                for _ in 0..rng.gen_range(0..=count + 1) {
                    outside.chain.mine(now_s, |_| rng.gen_bool(0.7));
                }
                outside.tell(format!("  {count} blocks fall"));
            }
            Kind::Forget => {
                let most = rng.gen_range(1..=10);
                let count = outside.chain.forget(|_| rng.gen_range(0..10) < most);
                outside.tell(format!("  {count} forgotten"));
            }
            Kind::BaseFee => {
                outside.chain.base_fee =
                    [GWEI / 100, GWEI, 20 * GWEI, 300 * GWEI].choose(rng).copied().unwrap();
            }
            Kind::GasMoney => outside.chain.broke = rng.gen_bool(0.5),
            Kind::Trouble => {
                let mut odds =
                    |most: u32| if rng.gen_bool(0.3) { rng.gen_range(0..most) } else { 0 };
                outside.trouble = Trouble {
                    lost: odds(600),
                    unanswered: odds(600),
                    garbage: odds(400),
                    refused: odds(600),
                    swallowed: odds(600),
                    late: odds(600),
                    blind: odds(600),
                    torn: odds(400),
                };
            }
            Kind::Views => {
                let view = &mut outside.views[rng.gen_range(0..2)];
                view.branch = None;
                view.lag = if rng.gen_bool(0.5) { 0 } else { rng.gen_range(0..8) };
            }
            Kind::Late => outside.deliver_late(),
            Kind::Die => outside.dies_in = Some(rng.gen_range(0..25)),
            Kind::Commit => {
                outside.commit =
                    [BadCommit::Refused, BadCommit::Kept, BadCommit::Lost].choose(rng).copied();
            }
            _ => {}
        }
        // Whatever waits in a pool is public, and so is what was mined.
        let mut public = Vec::new();
        for tx in outside.chain.pooled() {
            if let What::Call(data) = &tx.what
                && !self.seen.contains(data)
            {
                public.push(data.clone());
            }
        }
        self.seen.extend(public);
    }

    /// An agent asks: for something new, or again for something old.
    async fn ask(&mut self) {
        if self.life.is_none() {
            return self.start().await;
        }
        let again = !self.purchases.is_empty() && self.rng.gen_bool(0.25);
        let place = if again {
            self.rng.gen_range(0..self.purchases.len())
        } else {
            if self.purchases.len() >= 40 {
                return;
            }
            self.serial += 1;
            // No two payments have the same amount: a transfer names its payment.
            let units = self.serial + if self.rng.gen_bool(0.2) { 300_000_000 } else { 2_000_000 };
            self.purchases.push(Purchase {
                agent: AGENTS.choose(&mut self.rng).unwrap().parse().unwrap(),
                key: format!("key-{}", self.serial),
                request: PaymentRequest {
                    payee: payee(self.rng.gen_range(0..PAYEES)).to_string(),
                    amount: crate::money::Usdc::from_units(units).unwrap().to_string(),
                    currency: "USDC".into(),
                    reason: "a history".into(),
                    context: Context::default(),
                },
                promised: None,
            });
            self.purchases.len() - 1
        };
        self.serial += 1;
        let claim = NonceClaim {
            key_id: "key".into(),
            nonce: self.serial.to_string(),
            expires_s: self.clock.now_s() + 60,
        };
        let purchase = self.purchases[place].clone();
        let life = self.life.as_mut().unwrap();
        let engine = life.engine.clone();
        let asked = engine.submit(purchase.agent, claim, purchase.key.clone(), purchase.request);
        let settled = async {
            let mut jobs = Vec::new();
            life.queue.recv_many(&mut jobs, 16).await;
            intake::settle(&life.inner, jobs).await
        };
        match Self::live(&self.shared, Box::pin(async { tokio::join!(asked, settled) })).await {
            Some((Ok(accepted), true)) => {
                let id = accepted.payment.id;
                self.tell(format!("  {} is {id}, {}", purchase.key, accepted.payment.state));
                let before = self.purchases[place].promised.replace(id);
                if before.is_some_and(|before| before != id) {
                    self.faults.push(format!("{} was {before:?} and is {id}", purchase.key));
                }
            }
            Some((Err(refusal), true)) => self.tell(format!("  refused: {}", refusal.detail)),
            _ => {
                self.kills += 1;
                self.bury().await;
            }
        }
    }

    /// Operators look at what waits for them, and sign or refuse.
    async fn decide(&mut self) {
        let Some(life) = &self.life else { return };
        let inner = Arc::clone(&life.inner);
        let waiting = inner.store.payments_waiting(50).await.unwrap();
        let Some(payment) = waiting.choose(&mut self.rng) else { return };
        let approval = inner.store.approval(payment.id).await.unwrap().unwrap();
        let operator = operators().choose(&mut self.rng).unwrap().clone();
        let id = payment.id;
        let work = async {
            if self.rng.gen_bool(0.1) {
                let by = operator.address();
                let end = approval::reject(&inner, id, by, "no".into()).await;
                return end.map(|view| view.state.to_string());
            }
            let signature = operator.sign_hash_sync(&approval.digest).unwrap();
            let body = SignatureBody {
                signer: operator.address(),
                signature: Bytes::from(signature.as_bytes()).to_string(),
            };
            let view = approval::approve(&inner, id, body).await?;
            Ok(view.payment.state.to_string())
        };
        let done = Self::live(&self.shared, Box::pin(work)).await;
        drop(inner);
        self.after_operator(format!("{id}"), done).await;
    }

    /// One operator orders an agent, or the whole wallet, frozen.
    async fn order(&mut self) {
        let Some(life) = &self.life else { return };
        let inner = Arc::clone(&life.inner);
        let index = self.rng.gen_range(0..4);
        let agent = keys().agent_address(index).unwrap();
        let agent = if index == 3 { Address::ZERO } else { agent };
        let change: Bytes =
            IPolicyChanges::setFrozenCall { agent, frozen: true }.abi_encode().into();
        self.serial += 1;
        let (nonce, deadline) = (U256::from(self.serial), self.clock.now_s() + 3_600);
        let message = Tighten { change: change.clone(), nonce, deadline: U256::from(deadline) };
        let operator = &operators()[1];
        let digest = contract::digest(&message, &inner.domain);
        let signature = operator.sign_hash_sync(&digest).unwrap();
        let order = TightenOrder {
            change: change.to_string(),
            nonce: nonce.to_string(),
            deadline,
            signer: operator.address(),
            signature: Bytes::from(signature.as_bytes()).to_string(),
        };
        let work = governance::tighten(&inner, order);
        let done = Self::live(&self.shared, Box::pin(work)).await;
        drop(inner);
        self.after_operator(format!("{agent} frozen"), done.map(|d| d.map(|h| h.to_string())))
            .await;
    }

    async fn after_operator(
        &mut self,
        what: String,
        done: Option<Result<String, crate::refusal::Refusal>>,
    ) {
        let doubt = done.as_ref().is_some_and(|done| {
            done.as_ref().is_err_and(|refusal| refusal.detail.contains("not known whether"))
        });
        match done {
            Some(Ok(said)) => self.tell(format!("  {what}: {said}")),
            Some(Err(refusal)) if !doubt => self.tell(format!("  {what}: {}", refusal.detail)),
            _ => {
                self.kills += 1;
                self.bury().await;
            }
        }
    }

    /* THE END */

    /// Mends everything outside, and lets the daemon come to rest by itself. Answers whether it did.
    async fn drain(&mut self) -> bool {
        self.tell("everything is mended");
        {
            let mut outside = self.shared.lock();
            outside.trouble = Trouble::default();
            outside.views = [View::default(), View::default()];
            (outside.dies_in, outside.commit) = (None, None);
            outside.chain.base_fee = GWEI;
            outside.chain.broke = false;
            outside.deliver_late();
            let frozen: Vec<Address> = outside.chain.tip().state.agents.keys().copied().collect();
            let operator = operators()[2].address();
            for agent in frozen.into_iter().chain([Address::ZERO]) {
                outside.chain.add(operator, wallet(), What::Act(Act::Freeze(agent, false)));
            }
            outside.chain.add(operator, wallet(), What::Act(Act::Pause(false)));
        }
        for round in 0..400_u64 {
            // Signatures die, approvals expire: the later, the longer the steps.
            let wait = if round < 20 { 2 } else { 30 };
            self.hand.advance(Duration::from_secs(wait));
            let now_s = self.clock.now_s();
            self.shared.lock().chain.mine(now_s, |_| true);
            for kind in [Kind::Keep, Kind::Assign, Kind::Broadcast, Kind::Look, Kind::Compare] {
                self.daemon(kind).await;
            }
            if round % 4 == 0 && self.is_idle().await {
                return true;
            }
        }
        false
    }

    async fn is_idle(&self) -> bool {
        let Some(life) = &self.life else { return false };
        let store = &life.inner.store;
        let (waiting, _) = store.backlog().await.unwrap();
        waiting == 0
            && store.open_txs().await.unwrap().is_empty()
            && store.payments_waiting(1).await.unwrap().is_empty()
    }
}

/// An agent's nonce out of calldata that was seen.
fn some_nonce(seen: &[Bytes], rng: &mut StdRng) -> Option<(Address, U256)> {
    let call = IPolicyWallet::payBatchCall::abi_decode(seen.choose(rng)?).ok()?;
    call.batches.choose(rng).map(|batch| (batch.agent, batch.nonce))
}

/// What one task of the daemon does in one turn.
async fn work(life: &mut Life, kind: Kind, order: u64) -> Result<(), String> {
    let inner = &life.inner;
    let say = |error: crate::engine::EngineError| error.to_string();
    match kind {
        Kind::Assign => {
            for _ in 0..64 {
                if !assign::some(inner).await.map_err(say)? {
                    break;
                }
            }
            Ok(())
        }
        Kind::Broadcast => {
            let mut lanes: Vec<_> = broadcast::due(inner).into_values().collect();
            lanes.shuffle(&mut StdRng::seed_from_u64(order));
            for lane in lanes {
                broadcast::in_order(inner, lane).await;
            }
            Ok(())
        }
        Kind::Look => confirm::look(inner, &mut life.seen).await.map_err(say),
        Kind::Compare => match inner.head() {
            Some(head) => life.watch.look(inner, head).await.map_err(|error| error.to_string()),
            None => Ok(()),
        },
        _ => {
            service::housekeeping(inner, &life.anchors, false).await.map_err(say)?;
            governance::refresh(inner).await.map_err(say)
        }
    }
}
