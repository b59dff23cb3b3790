//! A refusal that explains itself: one object for every surface (RFC 9457 over HTTP).

use serde::{Deserialize, Serialize};

use crate::payment::FundsMoved;

/// Why a request was refused, in a form an agent can act on.
///
/// Amounts and counts are strings: decimal USDC where the limit is money, plain numbers where it
/// counts. `code` is stable; `detail` and `hint` are for reading.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Refusal {
    /// Stable name, for example `day_cap_exceeded`; see [`Code`].
    pub code: Code,
    /// What happened, in a sentence.
    pub detail: String,
    /// The policy rule that decided, for example `limits.day`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// The rule's limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<String>,
    /// What is used of it now, reservations included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub used: Option<String>,
    /// What is left of it now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remaining: Option<String>,
    /// Seconds until the same request can pass, where waiting helps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<u64>,
    /// What to do next.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Whether money moved.
    pub funds_moved: FundsMoved,
}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $status:literal, $title:literal;)*) => {
        /// The catalogue of refusals: stable name, HTTP status, title.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
        pub enum Code { $($(#[$doc])* #[serde(rename = $text)] $name,)* }

        impl Code {
            /// Every code, for the catalogue's golden file.
            pub const ALL: &[Self] = &[$(Self::$name),*];
            /// Returns the stable name.
            #[must_use]
            pub const fn as_str(self) -> &'static str { match self { $(Self::$name => $text),* } }
            /// Returns the HTTP status.
            #[must_use]
            pub const fn status(self) -> u16 { match self { $(Self::$name => $status),* } }
            /// Returns the short title, the same for every refusal of this code.
            #[must_use]
            pub const fn title(self) -> &'static str { match self { $(Self::$name => $title),* } }
        }
    };
}

codes! {
    /// The request's signature is missing, wrong, stale or used before.
    InvalidSignature = "invalid_signature", 401, "Invalid signature";
    /// The body or a parameter cannot be read.
    InvalidPayment = "invalid_payment", 400, "Invalid payment";
    /// The same of a request that is not a payment.
    InvalidRequest = "invalid_request", 400, "Invalid request";
    /// The body is larger than the daemon reads.
    BodyTooLarge = "body_too_large", 413, "Body too large";
    /// The body did not come in time.
    RequestTimeout = "request_timeout", 408, "Request timeout";
    /// The body is not `application/json`.
    UnsupportedMediaType = "unsupported_media_type", 415, "Unsupported media type";
    /// The route exists, but not for this method.
    MethodNotAllowed = "method_not_allowed", 405, "Method not allowed";
    /// `Idempotency-Key` is missing or malformed.
    IdempotencyKeyMissing = "idempotency_key_missing", 400, "Idempotency key missing";
    /// The key was used with another body.
    IdempotencyKeyReused = "idempotency_key_reused", 409, "Idempotency key reused";
    /// The object's state does not allow it.
    Conflict = "conflict", 409, "Conflict";
    /// The store was restored from a backup, and the chain has a payment like this one.
    MaybePaid = "maybe_paid", 409, "May have been paid";
    /// Readable, but not something this wallet can do (currency, unknown category).
    Unprocessable = "unprocessable", 422, "Unprocessable request";
    /// No such object, or not the caller's.
    NotFound = "not_found", 404, "Not found";
    /// The agent is frozen.
    AgentFrozen = "agent_frozen", 403, "Policy violation";
    /// The whole wallet is frozen.
    WalletFrozen = "wallet_frozen", 403, "Policy violation";
    /// The agent's authority has expired, or it has none on chain.
    AgentInactive = "agent_inactive", 403, "Policy violation";
    /// The payee is not registered.
    PayeeUnknown = "payee_unknown", 403, "Policy violation";
    /// The payee is registered, but not for this agent's categories.
    CategoryNotAllowed = "category_not_allowed", 403, "Policy violation";
    /// The host is not on the agent's list.
    HostNotAllowed = "host_not_allowed", 403, "Policy violation";
    /// Above the agent's ceiling and its policy does not ask operators.
    CeilingExceeded = "ceiling_exceeded", 403, "Policy violation";
    /// The agent's lifetime budget is used up.
    BudgetExceeded = "budget_exceeded", 403, "Policy violation";
    /// The payee's own cap is used up.
    PayeeCapExceeded = "payee_cap_exceeded", 403, "Policy violation";
    /// This invoice of this payee was paid, or is being paid.
    DuplicateInvoice = "duplicate_invoice", 403, "Policy violation";
    /// An operator route was called by someone who is not an operator.
    NotOperator = "not_operator", 403, "Not an operator";
    /// The rolling 24 hours are used up.
    DayCapExceeded = "day_cap_exceeded", 429, "Rate limit exceeded";
    /// The rolling 30 days are used up.
    MonthCapExceeded = "month_cap_exceeded", 429, "Rate limit exceeded";
    /// The wallet's rolling 24 hours are used up.
    WalletCapExceeded = "wallet_cap_exceeded", 429, "Rate limit exceeded";
    /// The payee was paid too recently.
    PayeeCoolingDown = "payee_cooling_down", 429, "Rate limit exceeded";
    /// Too many payments in a minute, hour or day.
    TooManyPayments = "too_many_payments", 429, "Rate limit exceeded";
    /// Too many payments to one payee in a minute, hour or day.
    TooManyToPayee = "too_many_to_payee", 429, "Rate limit exceeded";
    /// The same payee and amount again and again.
    LoopDetected = "loop_detected", 429, "Rate limit exceeded";
    /// The price of a call is above what was said, or above the policy's limit.
    PriceTooHigh = "price_too_high", 403, "Policy violation";
    /// None of a seller's offers can be taken.
    NoOffer = "no_acceptable_offer", 403, "Policy violation";
    /// A seller asks for something else than before: another payee, price, network or asset.
    OfferChanged = "offer_changed", 409, "Offer changed";
    /// A seller does not answer, or not in a way that can be used. Nothing was paid.
    SellerFailed = "seller_failed", 502, "Seller failed";
    /// A payment was sent and nobody said what became of it.
    OutcomeUnknown = "outcome_unknown", 503, "Outcome unknown";
    /// A payment was signed, never used, and cannot be used any more.
    PurchaseLapsed = "purchase_lapsed", 409, "Purchase lapsed";
    /// The payment for a sale was not settled.
    PaymentNotSettled = "payment_not_settled", 409, "Payment not settled";
    /// The answer that was paid for is not kept any more.
    Gone = "gone", 410, "Gone";
    /// What is sold cannot be reached.
    BadGateway = "bad_gateway", 502, "Bad gateway";
    /// The payment for a sale is on its way.
    SettlementPending = "settlement_pending", 503, "Settlement pending";
    /// What is sold gave no answer in time.
    GatewayTimeout = "gateway_timeout", 504, "Gateway timeout";
    /// The daemon's queue is full.
    Overloaded = "overloaded", 503, "Overloaded";
    /// The store or the chain cannot be reached; nothing was started.
    Unavailable = "unavailable", 503, "Unavailable";
    /// No answer in time: what was asked may still happen.
    TimedOut = "timed_out", 503, "Timed out";
    /// A fault of the daemon.
    Internal = "internal", 500, "Internal error";
}

impl Code {
    /// Can the very same request pass later? Such a refusal does not use up its idempotency key.
    #[must_use]
    pub const fn is_retryable(self) -> bool {
        matches!(self.status(), 408 | 429 | 503 | 500)
            || matches!(self, Self::AgentFrozen | Self::WalletFrozen)
    }
}

impl Refusal {
    /// Makes a refusal that moved no money.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self {
            code,
            detail: detail.into(),
            rule: None,
            limit: None,
            used: None,
            remaining: None,
            retry_after: None,
            hint: None,
            funds_moved: FundsMoved::No,
        }
    }

    /// Names the rule that decided.
    #[must_use]
    pub fn rule(mut self, rule: impl Into<String>) -> Self {
        self.rule = Some(rule.into());
        self
    }

    /// Adds the limit, what is used and what is left.
    #[must_use]
    pub fn room(
        mut self,
        limit: impl ToString,
        used: impl ToString,
        remaining: impl ToString,
    ) -> Self {
        self.limit = Some(limit.to_string());
        self.used = Some(used.to_string());
        self.remaining = Some(remaining.to_string());
        self
    }

    /// Says when to come back, in seconds.
    #[must_use]
    pub const fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after = Some(seconds);
        self
    }

    /// Says what to do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}
