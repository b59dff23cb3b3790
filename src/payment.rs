//! A payment: what an agent asks for, the states it moves through, what is told about it.

use std::{fmt, str::FromStr};

use alloy::primitives::{Address, B256, keccak256};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The name an operator gave an agent: 1 to 40 of `a-z`, `0-9`, `-`, starting with a letter.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AgentId(String);

/// A text that does not name an agent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an agent's name: use 1 to 40 of a-z, 0-9 and -, starting with a letter")]
pub struct NotAnAgentId(String);

impl AgentId {
    /// Returns the name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for AgentId {
    type Err = NotAnAgentId;

    fn from_str(text: &str) -> Result<Self, NotAnAgentId> {
        let good = text.len() <= 40
            && text.starts_with(|c: char| c.is_ascii_lowercase())
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if good {
            Ok(Self(text.to_owned()))
        } else {
            Err(NotAnAgentId(text.chars().take(60).collect()))
        }
    }
}

impl TryFrom<String> for AgentId {
    type Error = NotAnAgentId;
    fn try_from(text: String) -> Result<Self, NotAnAgentId> {
        text.parse()
    }
}

impl From<AgentId> for String {
    fn from(id: AgentId) -> Self {
        id.0
    }
}

impl fmt::Display for AgentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// A payment's id: a version-7 UUID, so that ids sort by time; written `pay_<32 hex>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PaymentId(Uuid);

/// A text that is not a payment's id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a payment id: it looks like pay_ and 32 hexadecimal digits")]
pub struct NotAPaymentId(String);

impl PaymentId {
    /// Makes a fresh id from the clock and randomness.
    #[must_use]
    pub fn generate() -> Self {
        Self(Uuid::now_v7())
    }

    /// Sorts after every id.
    pub(crate) const LAST: Self = Self(Uuid::max());
}

impl PaymentId {
    /// Returns its 128 bits.
    #[must_use]
    pub const fn as_u128(self) -> u128 {
        self.0.as_u128()
    }
}

impl FromStr for PaymentId {
    type Err = NotAPaymentId;

    fn from_str(text: &str) -> Result<Self, NotAPaymentId> {
        text.strip_prefix("pay_")
            .filter(|hex| hex.len() == 32)
            .and_then(|hex| Uuid::try_parse(hex).ok())
            .map(Self)
            .ok_or_else(|| NotAPaymentId(text.chars().take(60).collect()))
    }
}

impl TryFrom<String> for PaymentId {
    type Error = NotAPaymentId;
    fn try_from(text: String) -> Result<Self, NotAPaymentId> {
        text.parse()
    }
}

impl From<PaymentId> for String {
    fn from(id: PaymentId) -> Self {
        id.to_string()
    }
}

impl fmt::Display for PaymentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("pay_{}", self.0.simple()))
    }
}

/// Who asked, why and for whom: the agent's own words, kept with the payment and hashed into the
/// chain's event. Every text is at most [`Context::MAX_TEXT`] bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Context {
    /// The invoice this pays. One invoice of one payee is paid once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub invoice: Option<String>,
    /// The order it belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub order: Option<String>,
    /// The workflow or job that made the agent ask.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workflow: Option<String>,
    /// The person on whose behalf it is paid.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sponsor: Option<String>,
    /// Hash of the evidence for the work: `0x` and 64 hexadecimal digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub evidence: Option<B256>,
    /// The spending category the agent claims; must be one the payee has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub category: Option<String>,
    /// The host that quoted the price, for policies that limit hosts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
}

impl Context {
    /// Bytes a context text may have.
    pub const MAX_TEXT: usize = 256;

    /// Names the first field that is too long or has control characters.
    #[must_use]
    pub fn fault(&self) -> Option<&'static str> {
        let texts = [
            ("invoice", &self.invoice),
            ("order", &self.order),
            ("workflow", &self.workflow),
            ("sponsor", &self.sponsor),
            ("category", &self.category),
            ("host", &self.host),
        ];
        texts.into_iter().find_map(|(name, text)| {
            let text = text.as_deref()?;
            let bad = text.is_empty()
                || text.len() > Self::MAX_TEXT
                || text.chars().any(char::is_control);
            bad.then_some(name)
        })
    }

    /// Returns the hash that the chain's event carries: keccak-256 over the RFC 8785 JSON of the
    /// payment id, agent, reason and this context, so that chain and audit log name each other.
    #[must_use]
    pub fn hash(&self, id: PaymentId, agent: &AgentId, reason: &str) -> B256 {
        // serde_json's map is sorted and every value is a string: this is RFC 8785's form.
        let mut fields = serde_json::Map::new();
        fields.insert("payment".into(), id.to_string().into());
        fields.insert("agent".into(), agent.as_str().into());
        fields.insert("reason".into(), reason.into());
        if let Ok(serde_json::Value::Object(own)) = serde_json::to_value(self) {
            fields.extend(own);
        }
        keccak256(serde_json::Value::Object(fields).to_string())
    }
}

/// What an agent sends to `POST /v1/payments`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PaymentRequest {
    /// A registered payee's label, or its address (`0x…`, checksummed or lower case).
    pub payee: String,
    /// Decimal USDC, like "1.25"; at most six decimals; above zero.
    pub amount: String,
    /// Always "USDC".
    pub currency: String,
    /// Why, in the agent's words: 1 to 500 bytes.
    pub reason: String,
    /// For whom and for what.
    #[serde(default)]
    pub context: Context,
}

/// Where a payment stands.
///
/// ```text
///  (denied)                                  ┌───────────── skipped, reverted, reorganised ──────┐
///                                            ▼                                                   │
///  accept ─┬──────────────────────────▶ Queued ──▶ Signed ──▶ Broadcast ──▶ Included ──▶ Paid    │
///          └─▶ AwaitingApproval ─quorum───▲ │         └───────────┴────────────┴─────────────────┘
///                   └─▶ Rejected | Expired  └─▶ Failed (refused for good, or out of time)
/// ```
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Refused by policy. Nothing was reserved.
    Denied,
    /// Above the agent's own authority: waits for the operators' quorum.
    AwaitingApproval,
    /// Reserved; waits for its transaction.
    Queued,
    /// In a signed, stored transaction that may not have left yet.
    Signed,
    /// The transaction was sent at least once.
    Broadcast,
    /// In a block that is not deep enough yet; or refused there, while its signature is good for
    /// another try by anybody.
    Included,
    /// Final on chain.
    Paid,
    /// Final: not paid, and never will be.
    Failed,
    /// Final: an operator said no.
    Rejected,
    /// Final: no quorum in time.
    Expired,
}

impl State {
    /// Every state, for tables and tests.
    pub const ALL: [Self; 10] = [
        Self::Denied,
        Self::AwaitingApproval,
        Self::Queued,
        Self::Signed,
        Self::Broadcast,
        Self::Included,
        Self::Paid,
        Self::Failed,
        Self::Rejected,
        Self::Expired,
    ];

    /// Returns the name used in JSON and in the store.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Denied => "denied",
            Self::AwaitingApproval => "awaiting_approval",
            Self::Queued => "queued",
            Self::Signed => "signed",
            Self::Broadcast => "broadcast",
            Self::Included => "included",
            Self::Paid => "paid",
            Self::Failed => "failed",
            Self::Rejected => "rejected",
            Self::Expired => "expired",
        }
    }

    /// Reads a stored name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == name)
    }

    /// Has it come to its end?
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Denied | Self::Paid | Self::Failed | Self::Rejected | Self::Expired)
    }

    /// Did money move?
    #[must_use]
    pub const fn funds_moved(self) -> FundsMoved {
        match self {
            Self::Denied
            | Self::AwaitingApproval
            | Self::Queued
            | Self::Failed
            | Self::Rejected
            | Self::Expired => FundsMoved::No,
            Self::Signed | Self::Broadcast | Self::Included => FundsMoved::Maybe,
            Self::Paid => FundsMoved::Yes,
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Whether money moved: the answer an agent needs before it tries again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum FundsMoved {
    /// It did not.
    No,
    /// It may have: ask again, do not pay again.
    Maybe,
    /// It did.
    Yes,
}

/// What happens to a payment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The operators' quorum is complete.
    Approved,
    /// An operator refused.
    Rejected,
    /// No quorum in time.
    ApprovalExpired,
    /// Its transaction is signed and stored.
    Assigned,
    /// Its transaction was handed to a node.
    Sent,
    /// Its transaction is in a block.
    Mined,
    /// The block fell out of the chain.
    Reorganised,
    /// At depth: the wallet's logs say it was paid.
    Settled,
    /// At depth: the wallet's logs, or a revert, say it was not paid, and it may be tried again.
    Skipped,
    /// Not paid at depth, or never signed, and not to be tried again.
    GivenUp,
}

/// An event that does not belong to the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a payment that is {state} cannot take {event:?}")]
pub struct Illegal {
    state: State,
    event: Event,
}

/// The only way from one state to the next.
///
/// # Errors
/// [`Illegal`] where the picture at [`State`] has no arrow.
pub fn transition(state: State, event: Event) -> Result<State, Illegal> {
    use Event as E;
    use State as S;
    match (state, event) {
        (S::AwaitingApproval, E::Approved) => Ok(S::Queued),
        (S::AwaitingApproval, E::Rejected) => Ok(S::Rejected),
        (S::AwaitingApproval, E::ApprovalExpired) => Ok(S::Expired),
        (S::Queued, E::Assigned) => Ok(S::Signed),
        (S::Queued, E::GivenUp) => Ok(S::Failed),
        (S::Signed | S::Broadcast, E::Sent) => Ok(S::Broadcast),
        // A receipt can be read before the answer to the send was: the chain outranks the answer.
        (S::Signed | S::Broadcast | S::Included, E::Mined) => Ok(S::Included),
        (S::Included, E::Sent) => Ok(S::Included),
        (S::Included, E::Reorganised) => Ok(S::Broadcast),
        (S::Included, E::Settled) => Ok(S::Paid),
        (S::Included, E::Skipped) => Ok(S::Queued),
        (S::Included, E::GivenUp) => Ok(S::Failed),
        (
            S::Denied
            | S::AwaitingApproval
            | S::Queued
            | S::Signed
            | S::Broadcast
            | S::Included
            | S::Paid
            | S::Failed
            | S::Rejected
            | S::Expired,
            E::Approved
            | E::Rejected
            | E::ApprovalExpired
            | E::Assigned
            | E::Sent
            | E::Mined
            | E::Reorganised
            | E::Settled
            | E::Skipped
            | E::GivenUp,
        ) => Err(Illegal { state, event }),
    }
}

/// May a payee be called this: 1 to 60 of `A-Z a-z 0-9 . _ -`, and not like an address?
#[must_use]
pub fn is_payee_label(text: &str) -> bool {
    (1..=60).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        && !text.starts_with("0x")
}

/// A payee as the registry knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Payee {
    /// Where the money goes.
    #[schema(value_type = String)]
    pub address: Address,
    /// The label agents may use, if it has one.
    pub label: Option<String>,
    /// Names of its categories.
    pub categories: Vec<String>,
}
