//! The daemon's configuration: one TOML file, unknown keys refused, paths relative to the file.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use alloy::primitives::Address;
use serde::{Deserialize, Serialize};

use crate::{
    audit::EventKind,
    money::{UNITS_PER_USDC, Usdc},
    payment::is_payee_label,
};

/// Everything `bursar serve` needs to know.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where the API listens.
    pub listen: SocketAddr,
    /// The origin that callers sign over, without a trailing slash: `https://wallet.example.com`.
    pub public_origin: String,
    /// `sqlite:PATH` or `postgres://…`.
    pub store: String,
    /// Folder of policy files, one an agent.
    pub policies: PathBuf,
    /// The encrypted seed.
    pub seed: PathBuf,
    /// A file with the seed's passphrase (mode 0600). Absent: asked for, or `--passphrase-fd`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passphrase_file: Option<PathBuf>,
    /// Signed marks of the audit log's head, one line each, kept apart from the store.
    pub audit_anchors: PathBuf,
    /// Names of the payee categories; the position is the bit in the contract (at most 16).
    pub categories: Vec<String>,
    /// Seconds a task of the daemon may work without getting on before it counts as hung and the
    /// daemon ends, with exit code 5: 1 to 86,400. Each answer of a node and each commit is getting on.
    #[serde(default = "default_hung_after_s")]
    pub hung_after_s: u64,
    /// The chain and the contract.
    pub chain: ChainConfig,
    /// How payments are gathered and sent.
    #[serde(default)]
    pub submit: SubmitConfig,
    /// How long payments and approvals wait.
    #[serde(default)]
    pub payments: PaymentsConfig,
    /// From where on something is an alert.
    #[serde(default)]
    pub alerts: AlertsConfig,
    /// Who is told of events, and how long they are kept.
    #[serde(default)]
    pub webhooks: WebhooksConfig,
    /// Deadlines of escrows.
    #[serde(default)]
    pub escrow: EscrowConfig,
    /// Settling payments of others.
    #[serde(default)]
    pub facilitator: FacilitatorConfig,
    /// What agents fetch over HTTP, and pay for.
    #[serde(default)]
    pub fetch: FetchConfig,
    /// Channels through which we are paid.
    #[serde(default)]
    pub channels: ChannelsConfig,
    /// For how long what is superfluous is kept.
    #[serde(default)]
    pub retention: RetentionConfig,
    /// Labels for payee addresses. The contract decides who is a payee; this names them.
    #[serde(default)]
    pub payees: Vec<PayeeLabel>,
}

/// Where the money is.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChainConfig {
    /// JSON-RPC endpoints; the first that answers is used.
    pub rpc: Vec<String>,
    /// The chain they must be on.
    pub chain_id: u64,
    /// The PolicyWallet.
    pub wallet: Address,
    /// Its USDC.
    pub usdc: Address,
    /// Block the wallet was deployed in: policy events are read from here.
    #[serde(default)]
    pub from_block: u64,
    /// Blocks on top of a payment's own, itself included, before it is final: 1 to 1,000. The node must hold
    /// the state of that many blocks; many keep 128.
    pub confirmations: u64,
    /// Seconds a block's time may be ahead of this host's clock and still be believed.
    #[serde(default = "default_clock_drift_s")]
    pub clock_drift_s: u64,
    /// Milliseconds a node has for one answer: 100 to 120,000.
    #[serde(default = "default_timeout_ms")]
    pub timeout_ms: u64,
    /// Milliseconds between two looks at the head.
    #[serde(default = "default_poll_ms")]
    pub poll_ms: u64,
}

/// How payments become transactions.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SubmitConfig {
    /// Payments in one transaction at most: 1 to 100. The contract takes 200 payments and agents
    /// together, and in the worst case each payment is another agent's.
    pub batch_items: u32,
    /// Milliseconds the first payment of a batch waits for others.
    pub batch_wait_ms: u64,
    /// Relayer keys in use: 1 to 64.
    pub relayers: u32,
    /// Transactions in flight per relayer: 1 to 16 (pools guarantee 16 per account).
    pub in_flight: u32,
    /// Highest fee cap per gas, in gwei.
    pub fee_ceiling_gwei: u64,
    /// Highest tip per gas, in gwei: unlike the cap, all of it is paid.
    pub tip_ceiling_gwei: u64,
    /// Seconds an agent's signature stays good for the chain: 15 to 86,400. What a transaction of
    /// ours did not use stays good so long, and its payments wait so long before they are tried
    /// again or fail.
    pub signature_ttl_s: u64,
    /// Seconds after which the others on one PostgreSQL take over the work of a daemon that shows
    /// no sign of life: 2 to 300.
    pub lease_s: u64,
    /// Seconds without a receipt before the same bytes are sent again.
    pub resend_after_s: u64,
    /// Seconds without a receipt before a replacement with higher fees.
    pub replace_after_s: u64,
}

impl Default for SubmitConfig {
    fn default() -> Self {
        Self {
            batch_items: 100,
            batch_wait_ms: 100,
            relayers: 3,
            in_flight: 4,
            fee_ceiling_gwei: 500,
            tip_ceiling_gwei: 5,
            signature_ttl_s: 600,
            lease_s: 10,
            resend_after_s: 5,
            replace_after_s: 30,
        }
    }
}

/// How long things wait.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PaymentsConfig {
    /// Seconds a queued payment may wait for the chain before it fails.
    pub queue_ttl_s: u64,
    /// Seconds an approval may wait for its quorum.
    pub approval_ttl_s: u64,
    /// Requests waiting for the store at most; beyond it the answer is 503.
    pub intake_queue: usize,
}

impl Default for PaymentsConfig {
    fn default() -> Self {
        Self { queue_ttl_s: 86_400, approval_ttl_s: 86_400, intake_queue: 2_048 }
    }
}

/// From where on something is an alert. Each comes down again well below its threshold.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AlertsConfig {
    /// Seconds that the oldest payment may be on its way.
    pub backlog_s: u64,
    /// Full batches, at the fees of now, that each relayer's gas money must be good for.
    pub gas_batches: u64,
    /// Seconds that the newest block may be old, or the chain out of reach.
    pub rpc_lag_s: u64,
    /// Percent of a cap that may be used: 11 to 100.
    pub cap_percent: u64,
    /// Refusals of one agent (or of strangers) within `denials_within_s`.
    pub denials: u64,
    /// The span for refusals, in seconds: 10 to 3,600.
    pub denials_within_s: u64,
}

impl Default for AlertsConfig {
    fn default() -> Self {
        Self {
            backlog_s: 300,
            gas_batches: 10,
            rpc_lag_s: 120,
            cap_percent: 90,
            denials: 100,
            denials_within_s: 300,
        }
    }
}

/// Events, and who is told of them.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WebhooksConfig {
    /// Days that events can be replayed: 7 to 3,650. Then they are forgotten, also those an endpoint
    /// never took.
    pub keep_days: u64,
    /// Seconds an endpoint has to answer in: 1 to 30.
    pub timeout_s: u64,
    /// The endpoints: up to 16.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<WebhookEndpoint>,
}

impl Default for WebhooksConfig {
    fn default() -> Self {
        Self { keep_days: 30, timeout_s: 20, endpoints: Vec::new() }
    }
}

/// One endpoint.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebhookEndpoint {
    /// What people call it; its deliveries are kept under this name.
    pub name: String,
    /// Where it listens: `https://…`; `http://` only within `networks`.
    pub url: String,
    /// Its secrets, one a line (mode 0600); each of them signs. `bursar webhooks secret` makes one.
    pub secret_file: PathBuf,
    /// Kinds of events: `payment.failed`, `payment.*`, `*`.
    #[serde(default = "all_kinds")]
    pub kinds: Vec<String>,
    /// Networks inside that it may stand in, like `127.0.0.1/32`. Anything that is not public is
    /// refused otherwise.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<String>,
    /// Deliveries on their way to it at a time: 1 to 32. With 1 they come in the order of the events,
    /// as long as none fails.
    #[serde(default = "default_concurrency")]
    pub concurrency: u32,
}

fn all_kinds() -> Vec<String> {
    vec!["*".to_owned()]
}

const fn default_concurrency() -> u32 {
    8
}

impl WebhookEndpoint {
    fn check(&self) -> Result<(), ConfigError> {
        let wrong = |key, value: &str, expected| {
            Err(ConfigError::Value { key, value: format!("`{value}`"), expected })
        };
        if !is_payee_label(&self.name) {
            return wrong(
                "webhooks.endpoints.name",
                &self.name,
                "use 1 to 60 letters, digits, '-', '_' or '.', not starting with 0x",
            );
        }
        let kinds: Vec<&str> = EventKind::ALL.iter().map(|kind| kind.as_str()).collect();
        let is_kind = |wanted: &str| match wanted.strip_suffix('*') {
            Some(start) => kinds.iter().any(|kind| kind.starts_with(start)),
            None => kinds.contains(&wanted),
        };
        if let Some(other) = self.kinds.iter().find(|kind| !is_kind(kind)) {
            let expected = "docs/api.md lists the kinds; `payment.*` is all of a room";
            return wrong("webhooks.endpoints.kinds", other, expected);
        }
        if !(1..=32).contains(&self.concurrency) {
            let value = self.concurrency.to_string();
            return wrong("webhooks.endpoints.concurrency", &value, "use 1 to 32");
        }
        Ok(())
    }
}

/// What the daemon does about the deadlines of escrows.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EscrowConfig {
    /// Seconds before the end of a review or an arbitration at which operators are warned; half of the
    /// period where that is less.
    pub warn_before_s: u64,
}

impl Default for EscrowConfig {
    fn default() -> Self {
        Self { warn_before_s: 86_400 }
    }
}

/// Settling x402 payments of others with this daemon's gas money. What this daemon sells itself is
/// settled by the same rules, whether `enabled` or not.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FacilitatorConfig {
    /// Serve `/facilitator` on the daemon's address, to anybody who reaches it.
    pub enabled: bool,
    /// Who may be paid through `/facilitator`; anybody, if nobody is named.
    pub payees: Vec<Address>,
    /// Seconds that an answer waits for the chain before it is `settlement_pending`: 1 to 25.
    pub wait_s: u64,
    /// Blocks on top of a settlement's own, itself included, before it is told: 1 to 1,000. Sellers
    /// serve then; what falls out of the chain later is sent again.
    pub confirmations: u64,
    /// Settlements on their way at a time: 1 to 1,000.
    pub in_flight: usize,
    /// Requests to `/facilitator` in one second: 1 to 100,000.
    pub requests_per_second: u32,
    /// Most gas that one settlement may take: 60,000 to 16,000,000.
    pub gas_limit: u64,
    /// Settlements of one payer that may fail on chain within an hour before it is refused: 1 to 1,000.
    pub failures: u64,
}

impl Default for FacilitatorConfig {
    fn default() -> Self {
        Self {
            enabled: false,
            payees: Vec::new(),
            wait_s: 15,
            confirmations: 1,
            in_flight: 32,
            requests_per_second: 100,
            gas_limit: 600_000,
            failures: 3,
        }
    }
}

/// What agents fetch over HTTP.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FetchConfig {
    /// Networks inside that agents may reach, like `127.0.0.1/32`; anything that is not public is
    /// refused otherwise. Plain `http://` is for these only.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<String>,
    /// Seconds a seller has for each answer: 1 to 25.
    pub timeout_s: u64,
    /// Largest body that is read of an answer, in KiB: 1 to 4,096. The rest is cut off.
    pub body_kib: u64,
    /// Calls on their way at a time, all agents together: 1 to 1,024.
    pub concurrency: usize,
    /// Seconds for which a payment is signed at most: 20 to 3,600. So long its outcome can stay open.
    pub valid_s: u64,
}

impl Default for FetchConfig {
    fn default() -> Self {
        Self { networks: Vec::new(), timeout_s: 12, body_kib: 1_024, concurrency: 64, valid_s: 600 }
    }
}

/// Channels through which we are paid, and when what they owe is claimed.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ChannelsConfig {
    /// USDC owed by all channels of one receiver at which they are claimed.
    pub claim_at: Usdc,
    /// Seconds after which what is owed is claimed whatever it is.
    pub claim_after_s: u64,
    /// Seconds after which a channel that owes us something, or is the wallet's own, is looked at on chain
    /// again.
    pub watch_s: u64,
    /// Seconds a payer of ours waits for its money: 900 to 2,592,000.
    pub withdraw_delay_s: u32,
    /// USDC that a payer puts into a channel at least, since we carry it to the chain; and no less than
    /// ten calls cost.
    pub min_deposit: Usdc,
    /// Seconds without a call after which a channel of the wallet's own is closed: 60 to 31,536,000.
    pub close_after_s: u64,
}

impl Default for ChannelsConfig {
    fn default() -> Self {
        Self {
            claim_at: Usdc::from_units(5 * UNITS_PER_USDC).unwrap_or_default(),
            claim_after_s: 86_400,
            watch_s: 30,
            withdraw_delay_s: 86_400,
            min_deposit: Usdc::from_units(UNITS_PER_USDC / 20).unwrap_or_default(),
            close_after_s: 7 * 86_400,
        }
    }
}

/// For how long what is superfluous is kept. Payments with their idempotency keys, the ledger, the
/// audit log, approvals and nonces are kept for ever.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RetentionConfig {
    /// Days after which the bytes of a final transaction are forgotten: 1 to 3,650.
    pub transactions_days: u64,
    /// Days after which a denied request is forgotten, and its key judged anew: 1 to 3,650.
    pub denied_days: u64,
    /// Minutes for which the paywall keeps an answer that was paid for: 1 to 43,200.
    pub answers_minutes: u64,
}

impl Default for RetentionConfig {
    fn default() -> Self {
        Self { transactions_days: 30, denied_days: 90, answers_minutes: 60 }
    }
}

impl RetentionConfig {
    /// Returns the times before which transactions' bytes and denied requests are forgotten, in
    /// milliseconds.
    #[must_use]
    pub fn before(&self, now_ms: i64) -> (i64, i64) {
        (days_before(now_ms, self.transactions_days), days_before(now_ms, self.denied_days))
    }
}

/// Returns the time so many days before, in milliseconds.
#[must_use]
pub fn days_before(now_ms: i64, days: u64) -> i64 {
    now_ms.saturating_sub(i64::try_from(days).unwrap_or(i64::MAX).saturating_mul(86_400_000))
}

/// A label for a payee.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PayeeLabel {
    /// What agents write.
    pub label: String,
    /// Where the money goes.
    pub address: Address,
}

const fn default_hung_after_s() -> u64 {
    300
}

const fn default_clock_drift_s() -> u64 {
    120
}

const fn default_timeout_ms() -> u64 {
    15_000
}

const fn default_poll_ms() -> u64 {
    500
}

/// Why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is not TOML, or a key is unknown or missing.
    #[error("{}: {source}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
    /// A value is out of its range.
    #[error("{key} is {value}: {expected}")]
    Value {
        /// The key.
        key: &'static str,
        /// What it is.
        value: String,
        /// What it must be.
        expected: &'static str,
    },
}

impl Config {
    /// Reads a file and makes its paths absolute.
    ///
    /// # Errors
    /// See [`ConfigError`]; every message names the key.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.into(), source })?;
        let mut config: Self = toml::from_str(&text).map_err(|source| ConfigError::Syntax {
            path: path.into(),
            source: Box::new(source),
        })?;
        let folder = path.parent().unwrap_or(Path::new(""));
        for relative in [&mut config.policies, &mut config.seed, &mut config.audit_anchors] {
            *relative = folder.join(&*relative);
        }
        if let Some(file) = &mut config.passphrase_file {
            *file = folder.join(&*file);
        }
        for endpoint in &mut config.webhooks.endpoints {
            endpoint.secret_file = folder.join(&endpoint.secret_file);
        }
        if let Some(file) = config.store.strip_prefix("sqlite:")
            && !file.starts_with(':')
        {
            config.store = format!("sqlite:{}", folder.join(file).display());
        }
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), ConfigError> {
        let range = |key, value: u64, low, high, expected| {
            if (low..=high).contains(&value) {
                Ok(())
            } else {
                Err(ConfigError::Value { key, value: value.to_string(), expected })
            }
        };
        range("chain.confirmations", self.chain.confirmations, 1, 1_000, "use 1 to 1000")?;
        range("chain.poll_ms", self.chain.poll_ms, 10, 60_000, "use 10 to 60000")?;
        range("chain.timeout_ms", self.chain.timeout_ms, 100, 120_000, "use 100 to 120000")?;
        range("submit.batch_items", self.submit.batch_items.into(), 1, 100, "use 1 to 100")?;
        range("submit.batch_wait_ms", self.submit.batch_wait_ms, 1, 60_000, "use 1 to 60000")?;
        range("submit.relayers", self.submit.relayers.into(), 1, 64, "use 1 to 64")?;
        range("submit.in_flight", self.submit.in_flight.into(), 1, 16, "use 1 to 16")?;
        range(
            "submit.signature_ttl_s",
            self.submit.signature_ttl_s,
            15,
            86_400,
            "use 15 to 86400",
        )?;
        let close_after = self.channels.close_after_s;
        range("channels.close_after_s", close_after, 60, 31_536_000, "use 60 to 31536000")?;
        range("hung_after_s", self.hung_after_s, 1, 86_400, "use 1 to 86400")?;
        range("submit.lease_s", self.submit.lease_s, 2, 300, "use 2 to 300")?;
        range(
            "submit.fee_ceiling_gwei",
            self.submit.fee_ceiling_gwei,
            1,
            1_000_000,
            "use 1 to 1000000",
        )?;
        range(
            "payments.intake_queue",
            self.payments.intake_queue as u64,
            1,
            1_000_000,
            "use 1 to 1000000",
        )?;
        range("alerts.backlog_s", self.alerts.backlog_s, 1, 604_800, "use 1 to 604800")?;
        range("alerts.gas_batches", self.alerts.gas_batches, 1, 1_000_000, "use 1 to 1000000")?;
        range("alerts.rpc_lag_s", self.alerts.rpc_lag_s, 1, 604_800, "use 1 to 604800")?;
        range("alerts.cap_percent", self.alerts.cap_percent, 11, 100, "use 11 to 100")?;
        range("alerts.denials", self.alerts.denials, 1, 1_000_000, "use 1 to 1000000")?;
        range(
            "alerts.denials_within_s",
            self.alerts.denials_within_s,
            10,
            3_600,
            "use 10 to 3600",
        )?;
        let channels = &self.channels;
        let delay = channels.withdraw_delay_s.into();
        range("channels.withdraw_delay_s", delay, 900, 2_592_000, "use 900 to 2592000")?;
        range("channels.watch_s", channels.watch_s, 1, 300, "use 1 to 300")?;
        range(
            "channels.claim_after_s",
            channels.claim_after_s,
            60,
            2_592_000,
            "use 60 to 2592000",
        )?;
        range("webhooks.keep_days", self.webhooks.keep_days, 7, 3_650, "use 7 to 3650")?;
        range("webhooks.timeout_s", self.webhooks.timeout_s, 1, 30, "use 1 to 30")?;
        range("fetch.timeout_s", self.fetch.timeout_s, 1, 25, "use 1 to 25")?;
        range("fetch.body_kib", self.fetch.body_kib, 1, 4_096, "use 1 to 4096")?;
        range("fetch.concurrency", self.fetch.concurrency as u64, 1, 1_024, "use 1 to 1024")?;
        range("fetch.valid_s", self.fetch.valid_s, 20, 3_600, "use 20 to 3600")?;
        let count = self.webhooks.endpoints.len() as u64;
        range("webhooks.endpoints", count, 0, 16, "name at most 16")?;
        let mut names = std::collections::HashSet::new();
        for endpoint in &self.webhooks.endpoints {
            endpoint.check()?;
            if !names.insert(&endpoint.name) {
                let (value, expected) = (endpoint.name.clone(), "give each endpoint its own name");
                return Err(ConfigError::Value { key: "webhooks.endpoints.name", value, expected });
            }
        }
        let facilitator = &self.facilitator;
        range("facilitator.wait_s", facilitator.wait_s, 1, 25, "use 1 to 25")?;
        range("facilitator.confirmations", facilitator.confirmations, 1, 1_000, "use 1 to 1000")?;
        range("facilitator.in_flight", facilitator.in_flight as u64, 1, 1_000, "use 1 to 1000")?;
        range(
            "facilitator.requests_per_second",
            facilitator.requests_per_second.into(),
            1,
            100_000,
            "use 1 to 100000",
        )?;
        range(
            "facilitator.gas_limit",
            facilitator.gas_limit,
            60_000,
            16_000_000,
            "use 60000 to 16000000",
        )?;
        range("facilitator.failures", facilitator.failures, 1, 1_000, "use 1 to 1000")?;
        let retention = &self.retention;
        for (key, days) in [
            ("retention.transactions_days", retention.transactions_days),
            ("retention.denied_days", retention.denied_days),
        ] {
            range(key, days, 1, 3_650, "use 1 to 3650")?;
        }
        let minutes = retention.answers_minutes;
        range("retention.answers_minutes", minutes, 1, 43_200, "use 1 to 43200")?;
        let value = |key, value: &str, expected| {
            Err(ConfigError::Value { key, value: format!("`{value}`"), expected })
        };
        if self.chain.rpc.is_empty() {
            return value("chain.rpc", "[]", "name at least one endpoint");
        }
        if self.public_origin.ends_with('/') || !self.public_origin.starts_with("http") {
            return value(
                "public_origin",
                &self.public_origin,
                "write scheme and host without a trailing slash, like https://wallet.example.com",
            );
        }
        if !(self.store.starts_with("sqlite:") || self.store.starts_with("postgres")) {
            return value("store", &self.store, "use sqlite:PATH or postgres://USER@HOST/DATABASE");
        }
        if let Some(payee) = self.payees.iter().find(|payee| !is_payee_label(&payee.label)) {
            return value(
                "payees.label",
                &payee.label,
                "use 1 to 60 letters, digits, '-', '_' or '.', not starting with 0x",
            );
        }
        Ok(())
    }

    /// Returns how long a node has for one answer.
    #[must_use]
    pub const fn rpc_timeout(&self) -> Duration {
        Duration::from_millis(self.chain.timeout_ms)
    }

    /// Returns the pause between two looks at the head.
    #[must_use]
    pub const fn poll(&self) -> Duration {
        Duration::from_millis(self.chain.poll_ms)
    }
}
