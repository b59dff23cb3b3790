//! What is asked and what is told.

use std::collections::BTreeMap;

use alloy::primitives::{Address, B256};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{PayerKind, PurchaseState};
use crate::{
    money::Usdc,
    payment::{AgentId, FundsMoved, PaymentId},
    policy::FetchLoops,
    refusal::Refusal,
    view::LimitView,
};

/// What an agent sends to `POST /v1/fetch`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FetchRequest {
    /// What to call: `https://…`; `http://` only inside the networks of the configuration.
    pub url: String,
    /// The method; GET if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// Headers to send, 32 at most. Credentials, cookies and payments are not among them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// The body, where it is text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// The body in standard base64, where it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_base64: Option<String>,
    /// Decimal USDC: nothing dearer is paid, whatever the policy allows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_price: Option<String>,
    /// An offer's `quote` from an earlier `inspect`: only exactly this offer is paid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub quote: Option<B256>,
    /// Only show what it costs and what would be paid; pay nothing.
    #[serde(default)]
    pub inspect: bool,
}

impl FetchRequest {
    /// A plain GET of `url`.
    #[must_use]
    pub fn get(url: &str) -> Self {
        Self {
            url: url.to_owned(),
            method: None,
            headers: BTreeMap::new(),
            body: None,
            body_base64: None,
            max_price: None,
            quote: None,
            inspect: false,
        }
    }
}

/// What the server delivered: status, headers that matter to a reader, body.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Answer {
    /// The server's status.
    pub status: u16,
    /// Its headers, those about connection, cookies and payment left out.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// The body, where it is text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// The body in standard base64, where it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_base64: Option<String>,
    /// The body was longer than the daemon reads, and is cut off.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
}

/// What `POST /v1/fetch` answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FetchView {
    /// What the server delivered.
    #[serde(flatten)]
    pub answer: Answer,
    /// What was paid for it; absent where nothing was asked for, and where nothing was paid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receipt: Option<Receipt>,
    /// What the server asked for, and what was thought of it; absent in a repeated answer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub offers: Vec<OfferView>,
}

/// One offer of a 402.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OfferView {
    /// `x402`, `x402-v1` or `mpp`.
    pub protocol: String,
    /// `exact`, `batch-settlement`, `evm/charge`, ...
    pub scheme: String,
    /// The chain, as the server writes it.
    pub network: String,
    /// The token.
    pub asset: String,
    /// Decimal USDC, where the asset is the wallet's USDC; else the server's figure.
    pub price: String,
    /// Who would be paid.
    pub pay_to: String,
    /// Names exactly this offer: see `quote` in the request.
    #[schema(value_type = String)]
    pub quote: B256,
    /// By what it would be paid; absent where it is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payer: Option<PayerKind>,
    /// It is the one that is taken.
    pub chosen: bool,
    /// Why it is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<Refusal>,
}

/// What was paid for a call, and how far that has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Receipt {
    /// The purchase.
    #[schema(value_type = String)]
    pub id: PaymentId,
    /// Who asked.
    #[schema(value_type = String)]
    pub agent: AgentId,
    /// The key it was asked under.
    pub idempotency_key: String,
    /// What was called: method and URL.
    pub call: String,
    /// Where it stands. `reported` is the seller's word; `paid` is the chain's, at depth.
    pub state: PurchaseState,
    /// Whether money moved.
    pub funds_moved: FundsMoved,
    /// The offer's protocol and scheme, for example `x402 exact`.
    pub scheme: String,
    /// By what it was paid.
    pub payer_kind: PayerKind,
    /// Whose money moved.
    #[schema(value_type = String)]
    pub payer: Address,
    /// Where it went.
    #[schema(value_type = String)]
    pub pay_to: Address,
    /// Decimal USDC.
    #[schema(value_type = String)]
    pub amount: Usdc,
    /// The same in base units.
    pub amount_units: u64,
    /// The authorization's nonce: the token takes it once. By a channel, only a name.
    #[schema(value_type = String)]
    pub nonce: B256,
    /// When the authorization ends, used or not; absent for a voucher, which has no end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub valid_before: Option<Timestamp>,
    /// The channel that paid it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channel: Option<ChannelPart>,
    /// The agent's policy version when it was decided.
    pub policy_version: u64,
    /// The transaction: the seller's word until the state is `paid`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub transaction: Option<B256>,
    /// Its block, once final.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block: Option<u64>,
    /// Why it is where it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// This answer was delivered before: nothing was called or paid for it now.
    pub repeated: bool,
    /// When it was signed.
    #[schema(value_type = String)]
    pub created_at: Timestamp,
}

/// What a purchase took of a channel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ChannelPart {
    /// Its id.
    #[schema(value_type = String)]
    pub id: B256,
    /// Decimal USDC that the call cost, above its price only if taken for nothing; absent while not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub charged: Option<Usdc>,
    /// Decimal USDC that is left in the channel now, by our own count.
    #[schema(value_type = String)]
    pub left: Usdc,
}

/// A page of an agent's purchases, newest first.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct PurchasePage {
    /// The purchases.
    pub purchases: Vec<Receipt>,
    /// Pass it as `cursor` for the next page; absent on the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// What an agent may buy from sellers that answer 402: `[fetch]` of its policy, and what is left of it.
/// Amounts are decimal USDC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FetchRoom {
    /// Hosts it may buy from, like `api.example.com` or `*.example.com`; empty: any.
    pub hosts: Vec<String>,
    /// Largest price of one call.
    #[schema(value_type = String)]
    pub per_call: Usdc,
    /// What one host may be paid over any 24 hours.
    #[schema(value_type = String)]
    pub host_day: Usdc,
    /// Hosts that were paid in the last 24 hours, the most first, 20 at most.
    pub by_host: Vec<HostRoom>,
    /// What all hosts together may be paid: `fetch.day`, and `fetch.minute` where there is one.
    pub limits: Vec<LimitView>,
    /// The loop breaker: calls of one method and URL, the query left out.
    pub loops: FetchLoops,
    /// Most that its float may hold; absent: it has none, and pays no seller that takes only plain accounts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub float: Option<Usdc>,
    /// Most that one deposit into a channel gives; absent: it pays through no channel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub channel: Option<Usdc>,
    /// The wallet's coupons for it in this period, by size.
    pub coupons: Vec<CouponRoom>,
}

/// What a host was paid of `fetch.host_day`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HostRoom {
    /// The host.
    pub host: String,
    /// In the last 24 hours, reservations included.
    #[schema(value_type = String)]
    pub used: Usdc,
    /// What it may still be paid.
    #[schema(value_type = String)]
    pub remaining: Usdc,
}

/// Coupons of one size.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CouponRoom {
    /// What each is good for at most.
    #[schema(value_type = String)]
    pub most: Usdc,
    /// How many there are in a period.
    pub count: u16,
    /// How many of them are left in this one.
    pub remaining: u16,
    /// Seconds until the next period begins, with all of them.
    pub returns_in: u64,
}
