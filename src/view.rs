//! The JSON that surfaces show: payments, permissions, approvals, agents, payees, proposals.
//!
//! Amounts are decimal strings; `*_units` stand beside them where a signature depends on them.
//! Times are RFC 3339 in UTC. Addresses and hashes are lower-case hexadecimal.

use alloy::primitives::{Address, B256};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    alert::AlertKind,
    money::Usdc,
    payment::{AgentId, Context, FundsMoved, PaymentId, State},
    policy::{CouponClass, Coupons},
    refusal::Refusal,
};

/// One payment as its agent and the operators see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PaymentView {
    /// Its id.
    #[schema(value_type = String)]
    pub id: PaymentId,
    /// Who asked.
    #[schema(value_type = String)]
    pub agent: AgentId,
    /// Where it stands.
    pub state: State,
    /// Whether money moved.
    pub funds_moved: FundsMoved,
    /// Where the money goes.
    #[schema(value_type = String)]
    pub payee: Address,
    /// The payee's label, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payee_label: Option<String>,
    /// Decimal USDC.
    #[schema(value_type = String)]
    pub amount: Usdc,
    /// The same in base units.
    pub amount_units: u64,
    /// Why.
    pub reason: String,
    /// For whom and for what.
    pub context: Context,
    /// The hash of the above in the chain's event.
    #[schema(value_type = String)]
    pub context_hash: B256,
    /// The key it was asked under.
    pub idempotency_key: String,
    /// The agent's policy version when it was decided.
    pub policy_version: u64,
    /// Why it was denied, failed, or waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refusal: Option<Refusal>,
    /// What keeps it from getting into a block now, if something does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<WaitView>,
    /// The escrow it funds; without one it goes to the payee at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub escrow: Option<B256>,
    /// The transaction that holds it, once signed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub transaction: Option<B256>,
    /// The block of that transaction, once included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub block: Option<u64>,
    /// When it was accepted.
    #[schema(value_type = String)]
    pub created_at: Timestamp,
    /// When it last changed.
    #[schema(value_type = String)]
    pub updated_at: Timestamp,
}

/// What a payment waits for that nobody but the chain or the operators can change. It ends by itself:
/// asking for the payment again under another key would pay twice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WaitView {
    /// What for.
    #[serde(rename = "for")]
    pub what: WaitKind,
    /// Since when, as far as the running daemon knows.
    #[schema(value_type = String)]
    pub since: Timestamp,
    /// What is the matter, in a sentence.
    pub detail: String,
    /// What would help.
    pub hint: String,
}

/// What a payment can wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum WaitKind {
    /// Lower fees: the chain asks more than the operators' ceiling.
    LowerFees,
    /// Gas money: its relayer has none.
    GasMoney,
}

impl WaitKind {
    /// Returns it in words.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::LowerFees => "lower fees",
            Self::GasMoney => "gas money",
        }
    }
}

/// A page of payments, newest first.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct PaymentPage {
    /// The payments.
    pub payments: Vec<PaymentView>,
    /// Pass it as `cursor` for the next page; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// What `POST /v1/payments/simulate` answers: the decision without the payment.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Simulation {
    /// `allow`, `ask` (operators decide) or `deny`.
    pub decision: Verdict,
    /// Why it would not simply pass.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub because: Vec<Refusal>,
    /// Every rule that was looked at, in order.
    pub rules: Vec<RuleTrace>,
}

/// The three verdicts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It passes.
    Allow,
    /// Operators decide.
    Ask,
    /// It is refused.
    Deny,
}

/// One rule's part in a decision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RuleTrace {
    /// The rule, for example `limits.day`.
    pub rule: String,
    /// Did it pass?
    pub passed: bool,
    /// Its limit, where it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<String>,
    /// What was held against it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed: Option<String>,
}

/// One limit, how much of it is used, and what is left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LimitView {
    /// The rule, for example `limits.day`.
    pub rule: String,
    /// Decimal USDC, or a count.
    pub limit: String,
    /// What is used, reservations included.
    pub used: String,
    /// What is left.
    pub remaining: String,
    /// Seconds until something comes back, where it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub returns_in: Option<u64>,
    /// Held by the contract too?
    pub on_chain: bool,
}

/// What an agent may do: `GET /v1/permissions`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Permissions {
    /// Who.
    #[schema(value_type = String)]
    pub agent: AgentId,
    /// Its signing address on chain.
    #[schema(value_type = String)]
    pub address: Address,
    /// May it pay at all now?
    pub active: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inactive_because: Option<Refusal>,
    /// Largest payment without operators.
    #[schema(value_type = String)]
    pub ceiling: Usdc,
    /// When its authority ends.
    #[schema(value_type = String)]
    pub expires_at: Timestamp,
    /// Policy version on chain.
    pub policy_version: u64,
    /// Category names it may pay.
    pub categories: Vec<String>,
    /// Every limit.
    pub limits: Vec<LimitView>,
    /// What it may buy over HTTP 402, and what is left of it; absent: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fetch: Option<crate::buyer::FetchRoom>,
    /// Everyone it may pay without operators.
    pub payees: Vec<crate::payment::Payee>,
}

/// A payment that waits for the operators.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ApprovalView {
    /// The payment.
    pub payment: PaymentView,
    /// What the quorum would set aside, in words: `ceiling`, `payee`, `agent_caps`, `wallet_cap`.
    pub overrides: Vec<String>,
    /// The EIP-712 typed data (`types`, `domain`, `primaryType`, `message`), as wallets take it.
    #[schema(value_type = Object)]
    pub typed_data: serde_json::Value,
    /// Its digest: what a device shows and every operator's signature covers.
    #[schema(value_type = String)]
    pub digest: B256,
    /// Signatures needed.
    pub threshold: u64,
    /// Operators who signed.
    #[schema(value_type = Vec<String>)]
    pub signed_by: Vec<Address>,
    /// After this the payment expires.
    #[schema(value_type = String)]
    pub expires_at: Timestamp,
}

/// An agent as operators see it.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct AgentView {
    /// Who.
    #[schema(value_type = String)]
    pub agent: AgentId,
    /// Its signing address on chain.
    #[schema(value_type = String)]
    pub address: Address,
    /// The person it works for.
    pub sponsor: String,
    /// Fingerprint of its request key (RFC 7638 thumbprint).
    pub key_id: String,
    /// Frozen by an operator?
    pub frozen: bool,
    /// Known to the contract?
    pub on_chain: bool,
    /// Policy version on chain.
    pub policy_version: u64,
    /// Every limit.
    pub limits: Vec<LimitView>,
    /// What the contract grants it in x402 coupons, beside its limits.
    #[serde(default)]
    pub coupons: CouponsView,
    /// What its policy file says of them, where that is something else: the lesser of both holds, none where
    /// the periods differ. `bursar policy propose` puts the file's to the operators.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub coupons_in_file: Option<CouponsView>,
    /// The most it could still pay in 24 hours if it were stolen now: what is left of its tightest
    /// cap, and what its x402 coupons take out.
    #[schema(value_type = String)]
    pub at_risk: Usdc,
}

/// An agent's x402 coupons.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CouponsView {
    /// Length of a period, seconds; 0: none.
    pub every_s: u32,
    /// Of each class, how many there are in a period and what each is good for, like `200x0.01`.
    #[schema(value_type = Vec<String>)]
    pub classes: Vec<CouponClass>,
}

impl From<Coupons> for CouponsView {
    fn from(coupons: Coupons) -> Self {
        Self { every_s: coupons.every_s, classes: coupons.classes }
    }
}

/// A relayer and its gas money.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RelayerView {
    /// Its address.
    #[schema(value_type = String)]
    pub address: Address,
    /// Its balance in wei, decimal.
    pub wei: String,
    /// Full batches that it pays for at the fees of now.
    pub batches: u64,
    /// Did a node refuse one of its transactions for want of gas money?
    pub refused: bool,
}

/// An alert that is up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AlertView {
    /// What is wrong.
    pub alert: AlertKind,
    /// Whom or what it is about; may be empty.
    pub subject: String,
    /// What was seen and what to do, in a sentence.
    pub detail: String,
    /// What was measured, and the threshold.
    #[schema(value_type = Object)]
    pub measured: serde_json::Value,
    /// Since when.
    #[schema(value_type = String)]
    pub since: Timestamp,
}

/// Payments in one state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct QueueView {
    /// The state.
    pub state: State,
    /// How many.
    pub count: u64,
    /// Seconds since the oldest was accepted.
    pub oldest_s: u64,
}

/// How the daemon fares: `GET /v1/operator/status`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct StatusView {
    /// The daemon's version.
    pub version: String,
    /// When this was seen.
    #[schema(value_type = String)]
    pub at: Timestamp,
    /// The wallet.
    pub wallet: WalletView,
    /// The newest block's number.
    pub head: u64,
    /// Seconds since the chain last showed a new block, or since it was last reached.
    pub lag_s: u64,
    /// Did the last look at the chain succeed?
    pub chain_reached: bool,
    /// Calls to nodes since start.
    pub rpc_calls: u64,
    /// Payments on their way, by state.
    pub queue: Vec<QueueView>,
    /// Transactions on their way.
    pub in_flight: u64,
    /// The relayers; empty while the chain is out of reach.
    pub relayers: Vec<RelayerView>,
    /// How the facilitator fares.
    pub facilitator: FacilitatorView,
    /// Every agent with its limits.
    pub agents: Vec<AgentView>,
    /// What is wrong.
    pub alerts: Vec<AlertView>,
    /// Who is told of events.
    pub webhooks: Vec<WebhookView>,
    /// `sqlite` or `postgres`.
    pub store: String,
    /// Its size in bytes.
    pub store_bytes: u64,
    /// This daemon's name among those on one PostgreSQL: the same after a restart.
    pub daemon: String,
    /// Who does what on PostgreSQL; empty on SQLite, where one daemon does everything.
    pub leases: Vec<LeaseView>,
}

/// The facilitator: what it does with payments of others, and of our own buyers. Counted since start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FacilitatorView {
    /// Is it served to others?
    pub public: bool,
    /// Is x402's ChannelHub on the chain? Without it `batch-settlement` is not settled.
    pub channels: bool,
    /// Settlements on their way.
    pub pending: u64,
    /// Payments that were called good.
    pub verified: u64,
    /// Settlements that moved the money, at depth.
    pub settled: u64,
    /// Settlements that moved nothing, at depth.
    pub failed: u64,
}

/// Work that one daemon at a time does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LeaseView {
    /// `relayer:0x…`: signs and sends with that key. `keeper`: reconciliation, alerts, deadlines,
    /// retention. `daemon:…`: is there.
    pub lease: String,
    /// The daemon that has it, or had it last; empty if it was given back.
    pub daemon: String,
    /// Rises with every change of the holder.
    pub fence: u64,
}

/// A webhook endpoint and how it fares.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WebhookView {
    /// Its name.
    pub name: String,
    /// Where it listens.
    pub url: String,
    /// The kinds of events it is told of; `payment.*` stands for all of a room, `*` for everything.
    pub kinds: Vec<String>,
    /// Why nothing is sent to it, if so; `enable` lifts it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disabled: Option<String>,
    /// Failed tries since the last delivery that it took.
    pub failures: u64,
    /// What came of the last of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer: Option<String>,
    /// Deliveries that wait.
    pub pending: u64,
    /// Deliveries that were given up; `replay` sends them again.
    pub dead: u64,
    /// When it last took one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub delivered_at: Option<Timestamp>,
    /// When a try last failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub failed_at: Option<Timestamp>,
}

/// An event on its way to one endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeliveryView {
    /// The event's id: `webhook-id`.
    pub event: String,
    /// Its kind: the body's `type`.
    pub kind: String,
    /// The endpoint's name.
    pub endpoint: String,
    /// `pending`, `delivered`, or `dead` after the last try.
    pub state: DeliveryState,
    /// Tries so far.
    pub tries: u64,
    /// While pending: when it is sent next.
    #[schema(value_type = String)]
    pub due_at: Timestamp,
    /// What came of the last try.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer: Option<String>,
    /// When the event happened.
    #[schema(value_type = String)]
    pub created_at: Timestamp,
    /// When the delivery last changed.
    #[schema(value_type = String)]
    pub updated_at: Timestamp,
}

/// Where a delivery stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryState {
    /// It is sent when it is due.
    Pending,
    /// The endpoint took it.
    Delivered,
    /// Every try failed.
    Dead,
}

impl DeliveryState {
    /// Returns the stored name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::Dead => "dead",
        }
    }
}

impl std::str::FromStr for DeliveryState {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        [Self::Pending, Self::Delivered, Self::Dead]
            .into_iter()
            .find(|state| state.as_str() == text)
            .ok_or(())
    }
}

/// Which events are sent to an endpoint once more: one by its id, or all since a time.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReplayBody {
    /// One event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event: Option<String>,
    /// All that happened since, of the kinds it wants, that it has not taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub since: Option<Timestamp>,
    /// With `since`: those that it has taken too.
    #[serde(default)]
    pub delivered: bool,
}

/// What is public about the wallet: `GET /v1/wallet`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WalletView {
    /// The chain.
    pub chain_id: u64,
    /// The PolicyWallet: with the chain id, the domain of every signature.
    #[schema(value_type = String)]
    pub wallet: Address,
    /// Its USDC.
    #[schema(value_type = String)]
    pub usdc: Address,
    /// Its WorkEscrow: with the chain id, the domain of what an escrow's parties sign.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub escrow: Option<Address>,
    /// Frozen as a whole?
    pub frozen: bool,
    /// Names of the payee categories; the position is the bit in the contract.
    pub categories: Vec<String>,
    /// The operators (those that are plain addresses).
    #[schema(value_type = Vec<String>)]
    pub operators: Vec<Address>,
    /// How many of them make a quorum.
    pub threshold: u64,
}

/// A change of policy on its way to the contract.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ProposalView {
    /// keccak-256 of the change: its id on chain.
    #[schema(value_type = String)]
    pub id: B256,
    /// The change in words.
    pub summary: String,
    /// The change, as calldata of `IPolicyChanges`, hexadecimal.
    pub change: String,
    /// For a payee: the label agents will use. The daemon keeps it; the chain does not know it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Typed data the quorum signs.
    #[schema(value_type = Object)]
    pub typed_data: serde_json::Value,
    /// Its digest.
    #[schema(value_type = String)]
    pub digest: B256,
    /// `collecting`, `submitted`, `waiting`, `ready`, `executed` or `cancelled`.
    pub state: ProposalState,
    /// Signatures needed.
    pub threshold: u64,
    /// Operators who signed.
    #[schema(value_type = Vec<String>)]
    pub signed_by: Vec<Address>,
    /// When its delay ends, once submitted.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub ready_at: Option<Timestamp>,
    /// Who proposed it.
    #[schema(value_type = String)]
    pub proposed_by: Address,
}

/// Where a proposal stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProposalState {
    /// Waits for signatures.
    Collecting,
    /// Its transaction is on the way.
    Submitted,
    /// On chain, waiting out its delay.
    Waiting,
    /// Its delay is over: `apply` runs it.
    Ready,
    /// Done.
    Executed,
    /// Withdrawn.
    Cancelled,
}

/// An operator's signed order that only tightens (freeze, lower, remove, revoke).
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TightenOrder {
    /// Calldata of `IPolicyChanges`, hexadecimal.
    pub change: String,
    /// Operator's nonce, decimal or 0x.
    pub nonce: String,
    /// Unix seconds.
    pub deadline: u64,
    /// The operator.
    #[schema(value_type = String)]
    pub signer: Address,
    /// 65-byte signature over `Tighten`, hexadecimal.
    pub signature: String,
}

/// Adds an operator's signature to an approval or a proposal.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SignatureBody {
    /// The operator.
    #[schema(value_type = String)]
    pub signer: Address,
    /// 65-byte signature over the digest, hexadecimal.
    pub signature: String,
}

/// Proposes a change; the proposer signs later like everyone else.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ProposeBody {
    /// Calldata of `IPolicyChanges`, hexadecimal.
    pub change: String,
    /// For a payee: the label agents will use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
}

/// Why an operator refuses a payment.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RejectBody {
    /// 1 to 500 bytes; the agent sees it.
    pub reason: String,
}

/// Channels: those that we are paid through, and those that agents of the wallet pay through.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ChannelsView {
    /// Who claims them, and why nobody does where it is another daemon.
    pub keeper: bool,
    /// Charged in all of `paid_by` that are shown, and not claimed yet.
    #[schema(value_type = String)]
    pub owed: Usdc,
    /// Channels that we are paid through: those that owe first, then by id.
    pub paid_by: Vec<MeterView>,
    /// Channels of the wallet's own, the newest first.
    pub paying: Vec<PurseView>,
}

/// A channel that we are paid through.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MeterView {
    /// Its id: the EIP-712 hash of its config.
    #[schema(value_type = String)]
    pub channel: B256,
    /// Whose money.
    #[schema(value_type = String)]
    pub payer: Address,
    /// Who is paid.
    #[schema(value_type = String)]
    pub receiver: Address,
    /// In the channel: deposited in all, less what went back; at a final block.
    #[schema(value_type = String)]
    pub balance: Usdc,
    /// Of it, claimed.
    #[schema(value_type = String)]
    pub claimed: Usdc,
    /// Charged in all.
    #[schema(value_type = String)]
    pub charged: Usdc,
    /// Signed for in all: no claim can say more.
    #[schema(value_type = String)]
    pub signed: Usdc,
    /// Charged and not claimed yet.
    #[schema(value_type = String)]
    pub owed: Usdc,
    /// Charged, and gone with the payer before it was claimed.
    #[schema(value_type = String)]
    pub lost: Usdc,
    /// Since when it owes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub owed_since: Option<Timestamp>,
    /// When the payer asked to withdraw what is left: from then on it buys nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub leaving_since: Option<Timestamp>,
    /// When it can take it: what it owes is claimed before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub leaves_at: Option<Timestamp>,
    /// On its way back to the payer.
    #[schema(value_type = String)]
    pub refund: Usdc,
    /// When the chain was looked at.
    #[schema(value_type = String)]
    pub read_at: Timestamp,
}

/// A channel that an agent of the wallet pays through.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PurseView {
    /// Its id.
    #[schema(value_type = String)]
    pub channel: B256,
    /// Who spends.
    #[schema(value_type = String)]
    pub agent: AgentId,
    /// Who is paid.
    #[schema(value_type = String)]
    pub receiver: Address,
    /// The payee's label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receiver_label: Option<String>,
    /// The host that it was opened for.
    pub host: String,
    /// `open`, `closing` or `closed`.
    pub state: String,
    /// In the channel.
    #[schema(value_type = String)]
    pub balance: Usdc,
    /// Charged in all, by our own count.
    #[schema(value_type = String)]
    pub charged: Usdc,
    /// Signed for in all.
    #[schema(value_type = String)]
    pub signed: Usdc,
    /// Of it, claimed.
    #[schema(value_type = String)]
    pub claimed: Usdc,
    /// In it and not charged: what it can still pay for, or what comes home of it.
    #[schema(value_type = String)]
    pub left: Usdc,
    /// What came home.
    #[schema(value_type = String)]
    pub returned: Usdc,
    /// When what is left can be taken home.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub comes_home_at: Option<Timestamp>,
    /// Since when it is there.
    #[schema(value_type = String)]
    pub created_at: Timestamp,
}

/// What was sent to claim what channels owe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ClaimsView {
    /// Hashes of the transactions, one for each 100 channels of a receiver; none: nothing is owed that
    /// is not on its way already.
    #[schema(value_type = Vec<String>)]
    pub transactions: Vec<B256>,
}
