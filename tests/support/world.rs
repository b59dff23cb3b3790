//! A devnet, a daemon, agents and operators: every part real, every part a process or a key of its
//! own.

use std::{
    fs,
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
};

use alloy::{
    primitives::{Address, Bytes},
    signers::local::PrivateKeySigner,
    sol_types::SolCall,
};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use bursar::{
    client::{AgentClient, ClientError, OperatorClient},
    clock::Clock,
    config::Config,
    contract::Names,
    devnet::{BlockTime, Devnet, Manifest, Options, ProfileName, free_port},
    keys::{Keys, Passphrase, PassphraseArgs, operator},
    payment::{Context, PaymentId, PaymentRequest, State},
    refusal::Code,
    review,
    service::Service,
    view::{PaymentView, ProposalView, ProposeBody, SignatureBody, TightenOrder, WalletView},
};
use ed25519_dalek::SigningKey;
use tempfile::TempDir;

use super::{Chain, Daemon, Postgres, Proxy, daemon::Environment, tally::Tally, wait_for};

type Edit<T> = Box<dyn FnOnce(&mut T)>;

/// What a daemon keeps its books in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// A file.
    Sqlite,
    /// A server of the world's own.
    Postgres,
}

impl Backend {
    /// What `BURSAR_TEST_STORE` says: `sqlite` unless it is `postgres`.
    pub fn of_this_run() -> Self {
        match std::env::var("BURSAR_TEST_STORE").as_deref() {
            Ok("postgres") => Self::Postgres,
            Ok("sqlite") | Err(_) => Self::Sqlite,
            Ok(other) => panic!("BURSAR_TEST_STORE is `{other}`: use sqlite or postgres"),
        }
    }
}

/// What a world differs in from a plain devnet.
pub struct Plan {
    store: Backend,
    profile: ProfileName,
    block_time: BlockTime,
    config: Edit<Config>,
    policies: Vec<(&'static str, &'static str, &'static str)>,
}

impl Plan {
    /// Blocks every 100 ms, a daemon that looks every 40 ms and gathers for 30 ms.
    pub fn new() -> Self {
        Self {
            store: Backend::of_this_run(),
            profile: ProfileName::Local,
            block_time: BlockTime::Every(100),
            config: Box::new(|_| ()),
            policies: Vec::new(),
        }
    }

    /// On this store, whatever the others of this run are on.
    pub fn on(mut self, store: Backend) -> Self {
        self.store = store;
        self
    }

    /// On a twin of Base Sepolia, whose USDC official clients know.
    pub fn twin(mut self) -> Self {
        self.profile = ProfileName::BaseSepoliaTwin;
        self
    }

    /// A block for each transaction, and none without: for tests that hold blocks in their hand.
    pub fn automine(mut self) -> Self {
        self.block_time = BlockTime::Automine;
        self
    }

    /// Edits the daemon's configuration before its start.
    pub fn config(mut self, edit: impl FnOnce(&mut Config) + 'static) -> Self {
        self.config = Box::new(edit);
        self
    }

    /// Replaces text of an agent's policy file, which must be there.
    pub fn policy(mut self, agent: &'static str, from: &'static str, to: &'static str) -> Self {
        self.policies.push((agent, from, to));
        self
    }

    pub async fn start(self) -> World {
        let mut world = self.without_daemon().await;
        world.restart().await;
        world
    }

    /// A world whose daemon asks the node through a proxy, and does not wait long for an answer.
    pub async fn behind_a_proxy(self) -> (World, Proxy) {
        let mut world = self.without_daemon().await;
        let proxy = Proxy::start(&world.card.rpc).await;
        let url = proxy.url();
        world.configure(|config| {
            config.chain.rpc = vec![url];
            config.chain.timeout_ms = 500;
        });
        world.restart().await;
        (world, proxy)
    }

    /// Everything but the daemon: [`World::restart`] starts it.
    pub async fn without_daemon(self) -> World {
        World::without_daemon(self).await
    }
}

/// Everything a test needs.
pub struct World {
    daemon: Option<Daemon>,
    /// The chain, seen directly.
    pub chain: Chain,
    /// Addresses, endpoints, files.
    pub card: Manifest,
    /// The wallet's balance was set by hand: reconciliation is right to find that.
    pub(super) dealt: AtomicBool,
    /// What the next daemon finds in its environment.
    pub env: Environment,
    /// What its case counts.
    pub tally: Tally,
    // Fields drop in order: the chain goes after the daemon, its files last.
    /// The server of a world on PostgreSQL.
    pub postgres: Option<Postgres>,
    _devnet: Devnet,
    _dir: TempDir,
}

/// A request for a payment, with a reason and nothing else.
pub fn request(payee: &str, amount: &str) -> PaymentRequest {
    PaymentRequest {
        payee: payee.to_owned(),
        amount: amount.to_owned(),
        currency: "USDC".to_owned(),
        reason: "an integration test".to_owned(),
        context: Context::default(),
    }
}

fn passphrase(file: &std::path::Path) -> Passphrase {
    let args = PassphraseArgs { passphrase_fd: None, passphrase_file: Some(file.to_owned()) };
    args.read("").unwrap()
}

impl World {
    async fn without_daemon(plan: Plan) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let devnet = Devnet::start(Options {
            profile: plan.profile,
            port: 0,
            dir: dir.path().join("net"),
            block_time: Some(plan.block_time),
            daemon_port: free_port().unwrap(),
            ..Options::default()
        })
        .await
        .unwrap();
        let card = devnet.manifest().clone();
        for (agent, from, to) in plan.policies {
            let path = &card.agents[&agent.parse().unwrap()].policy;
            let text = fs::read_to_string(path).unwrap();
            assert!(text.contains(from), "no `{from}` in the policy of {agent}");
            fs::write(path, text.replace(from, to)).unwrap();
        }
        let chain = Chain::new(&card.rpc, card.usdc, card.wallet, card.deployer);
        let tally = Tally::default();
        let postgres = (plan.store == Backend::Postgres).then(Postgres::start);
        let dealt = AtomicBool::new(false);
        let world = Self {
            daemon: None,
            chain,
            card,
            dealt,
            env: Vec::new(),
            tally,
            postgres,
            _devnet: devnet,
            _dir: dir,
        };
        world.configure(|config| {
            config.chain.poll_ms = 40;
            config.submit.batch_wait_ms = 30;
            config.submit.resend_after_s = 1;
            if let Some(postgres) = &world.postgres {
                config.store = postgres.url().to_owned();
            }
            (plan.config)(config);
        });
        world
    }

    /// Edits the configuration: the next start reads it.
    pub fn configure(&self, edit: impl FnOnce(&mut Config)) {
        let text = fs::read_to_string(&self.card.config).unwrap();
        let mut config: Config = toml::from_str(&text).unwrap();
        edit(&mut config);
        fs::write(&self.card.config, toml::to_string(&config).unwrap()).unwrap();
    }

    /// Sets the wallet's USDC, without a transfer.
    pub async fn deal(&self, units: u64) {
        self.dealt.store(true, Ordering::Relaxed);
        self.chain.give(self.card.wallet, units).await;
    }

    /* THE DAEMON */

    /// Is there a daemon to ask?
    pub const fn runs(&self) -> bool {
        self.daemon.is_some()
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.tally.add(|counts| counts.kills += 1);
        self.daemon.take().unwrap().kill();
    }

    /// SIGTERM, and its orderly end.
    pub async fn stop(&mut self) {
        self.daemon.take().unwrap().stop().await;
    }

    /// SIGTERM twice: it ends, in order or at once.
    pub async fn stop_twice(&mut self) {
        let mut daemon = self.daemon.take().unwrap();
        daemon.terminate();
        daemon.terminate();
        daemon.ended().await;
    }

    /// SIGSTOP, or SIGCONT.
    pub fn pause(&self, pause: bool) {
        self.tally.add(|counts| counts.pauses += u64::from(pause));
        self.daemon.as_ref().unwrap().pause(pause);
    }

    /// All that the daemon has said.
    pub fn log(&self) -> String {
        fs::read_to_string(self.card.config.with_extension("log")).unwrap_or_default()
    }

    /// Starts the daemon on what is there.
    pub async fn restart(&mut self) {
        assert!(self.daemon.is_none());
        let Manifest { config, api, .. } = &self.card;
        self.daemon = Some(Daemon::start(config, api, &self.env).await);
    }

    /// The same on what it may refuse to start on: waits until it answers or has ended.
    pub async fn try_restart(&mut self) {
        assert!(self.daemon.is_none());
        let Manifest { config, api, .. } = &self.card;
        self.daemon = Some(Daemon::try_start(config, api, &self.env).await);
    }

    /// Starts a daemon that must refuse; its exit code and its last words.
    pub async fn refuses_to_start(&mut self) -> (Option<i32>, String) {
        self.try_restart().await;
        let mut daemon = self.daemon.take().unwrap();
        assert!(daemon.has_ended(), "it started: {}", daemon.tail());
        (daemon.ended().await.code(), daemon.tail())
    }

    /// If the daemon has ended by itself, starts another one.
    pub async fn revive(&mut self) {
        if self.daemon.as_mut().is_some_and(Daemon::has_ended) {
            self.died().await;
            self.restart().await;
        }
    }

    /// Serves in this process, by a clock that the test holds; `AgentClient::clock` and
    /// `OperatorClient::clock` sign by the same one.
    pub async fn serve_here(&self, clock: &Clock) -> Service {
        assert!(self.daemon.is_none());
        Service::start(self.config(), self.daemon_keys(), clock.clone()).await.unwrap()
    }

    /// Starts a daemon that a fault befalls: see `src/crash.rs`.
    pub async fn restart_with(&mut self, fault: &str) {
        self.env.push(("BURSAR_FAULT", fault.into()));
        self.try_restart().await;
        self.env.retain(|(name, _)| *name != "BURSAR_FAULT");
    }

    /// Waits until the daemon has died of its fault: by a signal, or with an exit code.
    pub async fn died(&mut self) -> Option<i32> {
        let status = self.daemon.as_mut().unwrap().ended().await;
        assert!(!status.success());
        self.daemon = None;
        self.tally.add(|counts| counts.kills += 1);
        status.code()
    }

    /// The daemon's process.
    pub const fn daemon(&self) -> &Daemon {
        self.daemon.as_ref().expect("a daemon")
    }

    /// The configuration as the daemon reads it.
    pub fn config(&self) -> Config {
        Config::read(&self.card.config).unwrap()
    }

    /// Runs another command of the real binary on this world's configuration; its exit code and
    /// what it said.
    pub fn bursar(&self, args: &[&str]) -> (i32, String) {
        let output = Command::new(env!("CARGO_BIN_EXE_bursar"))
            .args(args)
            .env("BURSAR_CONFIG", &self.card.config)
            .output()
            .unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap(), String::from_utf8(text).unwrap())
    }

    /* WHO ASKS */

    /// An agent's request key.
    pub fn request_key(&self, name: &str) -> SigningKey {
        let file = &self.card.agents[&name.parse().unwrap()].request_key;
        let text = fs::read_to_string(file).unwrap();
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(text.trim()).unwrap();
        SigningKey::from_bytes(&bytes.try_into().unwrap())
    }

    pub fn agent(&self, name: &str) -> AgentClient {
        AgentClient::new(&self.card.api, self.request_key(name)).unwrap()
    }

    /// An agent's address on chain.
    pub fn address(&self, name: &str) -> Address {
        self.card.agents[&name.parse().unwrap()].address
    }

    pub fn payee(&self, label: &str) -> Address {
        self.card.payees[label].address
    }

    /// An operator's own key, out of its keystore.
    pub fn operator_key(&self, index: usize) -> PrivateKeySigner {
        let entry = &self.card.operators[index];
        operator::open_keystore(&entry.keystore, &passphrase(&entry.passphrase_file)).unwrap()
    }

    pub fn operator(&self, index: usize) -> OperatorClient {
        self.as_operator(self.operator_key(index))
    }

    /// A client of the operators' routes with any key.
    pub fn as_operator(&self, key: PrivateKeySigner) -> OperatorClient {
        OperatorClient::new(&self.card.api, key, self.card.chain_id, self.card.wallet).unwrap()
    }

    pub async fn wallet_view(&self) -> WalletView {
        bursar::client::wallet(&self.card.api).await.unwrap()
    }

    /// Signs an approval as a careful operator does: after reviewing it.
    pub async fn sign_approval(&self, id: PaymentId, key: &PrivateKeySigner) -> SignatureBody {
        let view = self.operator(0).approval(id).await.unwrap();
        let agent = self.card.agents[&view.payment.agent].address;
        let review =
            review::approval(&view, agent, &self.wallet_view().await, &Names::default()).unwrap();
        review.sign(key).unwrap()
    }

    /// The agents' chain keys and the relayers': the devnet's words are public.
    pub fn daemon_keys(&self) -> Keys {
        let config = self.config();
        Keys::unlock(&config.seed, &passphrase(&config.passphrase_file.unwrap())).unwrap()
    }

    /// Lets operator `index` approve a payment.
    pub async fn approve(&self, id: PaymentId, index: usize) {
        let client = self.operator(index);
        let body = self.sign_approval(id, client.key()).await;
        client.approve(id, &body).await.unwrap();
    }

    /// Operator `index` orders a change that only tightens.
    pub async fn order(&self, change: impl SolCall, index: usize) -> TightenOrder {
        let deadline = u64::try_from(jiff::Timestamp::now().as_second()).unwrap() + 3_600;
        let change: Bytes = change.abi_encode().into();
        let wallet = self.wallet_view().await;
        let order = review::tighten(change, deadline, &wallet, &Names::default()).unwrap();
        order.sign(&self.operator_key(index)).unwrap()
    }

    pub async fn propose(&self, change: impl SolCall, label: Option<&str>) -> ProposalView {
        let change = Bytes::from(change.abi_encode()).to_string();
        let body = ProposeBody { change, label: label.map(str::to_owned) };
        self.operator(0).propose(&body).await.unwrap()
    }

    pub async fn sign_proposal(
        &self,
        proposal: &ProposalView,
        index: usize,
    ) -> Result<ProposalView, ClientError> {
        let wallet = self.wallet_view().await;
        let review = review::proposal(proposal, &wallet, &Names::default()).unwrap();
        let client = self.operator(index);
        let body = review.sign(client.key()).unwrap();
        client.sign_proposal(proposal.id, &body).await
    }

    /* WHAT COMES OF IT */

    /// A sample of the daemon's metrics, by the start of its line; 0 where there is none.
    pub async fn metric(&self, sample: &str) -> u64 {
        let text = reqwest::get(format!("{}/metrics", self.card.api)).await.unwrap();
        let text = text.text().await.unwrap();
        let line = text.lines().find(|line| line.starts_with(sample));
        line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0)
    }

    /// Asks for a payment that must be accepted.
    pub async fn pay(&self, agent: &str, payee: &str, amount: &str, key: &str) -> PaymentView {
        self.agent(agent).submit(&request(payee, amount), key).await.unwrap()
    }

    /// Waits until a payment is in a state.
    pub async fn until(&self, payment: &PaymentView, state: State) -> PaymentView {
        let client = self.agent(payment.agent.as_str());
        wait_for(&format!("{} {state}", payment.id), async || {
            let now = client.payment(payment.id).await.unwrap();
            assert!(
                now.state == state || !now.state.is_terminal(),
                "{} is {}, not {state}: {:?}",
                now.id,
                now.state,
                now.refusal
            );
            (now.state == state).then_some(now)
        })
        .await
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let url = self.config().store;
        self.tally.tell(if url.starts_with("sqlite:") { "sqlite" } else { "postgres" });
    }
}

/// The code a call was refused with.
pub trait RefusedWith {
    fn code(self) -> Code;
}

impl<T: std::fmt::Debug> RefusedWith for Result<T, ClientError> {
    fn code(self) -> Code {
        match self.unwrap_err() {
            ClientError::Refused(problem) => problem.refusal.code,
            other => panic!("not refused, but: {other}"),
        }
    }
}
