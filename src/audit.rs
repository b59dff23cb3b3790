//! The audit log: entries chained by hash, anchors signed by the daemon, and the check of both.
//!
//! An entry's hash is SHA-256 over `bursar audit entry v1\n` and the RFC 8785 JSON of all its other
//! fields; each entry holds the hash of the one before, the first one zero. The chain alone shows
//! every change that does not also rewrite all that follows. An [`Anchor`] is a signed note of
//! number and hash, kept outside the database: it shows a rewritten or cut tail up to that number.
//! Who can rewrite the log, drop the newest anchors *and* has nobody who kept a copy of them stays
//! unseen: keep copies of anchors elsewhere.

mod canonical;
mod verify;

use alloy::primitives::B256;
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

pub use canonical::{NotCanonical, canonical};
pub use verify::{Fault, Summary, Verifier, What, verify};

use crate::payment::{AgentId, PaymentId};

macro_rules! events {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {
        /// What can happen, by the names that logs, webhooks and the console share.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum EventKind { $($(#[$doc])* $name,)* }

        impl EventKind {
            /// Every kind.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// Returns the stable name.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text),* }
            }
        }
    };
}

events! {
    /// An agent asked.
    PaymentRequested = "payment.requested";
    /// A rule refused.
    PaymentDenied = "payment.denied";
    /// Its amount is held against the caps.
    PaymentReserved = "payment.reserved";
    /// It waits for its transaction.
    PaymentQueued = "payment.queued";
    /// It waits for the operators.
    PaymentAwaitingApproval = "payment.awaiting_approval";
    /// The operators' quorum is complete, or one of them signed.
    PaymentApproved = "payment.approved";
    /// An operator refused.
    PaymentRejected = "payment.rejected";
    /// No quorum in time.
    PaymentExpired = "payment.expired";
    /// Its transaction is signed and stored.
    PaymentSigned = "payment.signed";
    /// Its transaction was sent.
    PaymentBroadcast = "payment.broadcast";
    /// Its transaction was replaced at the same nonce.
    PaymentReplaced = "payment.replaced";
    /// Its transaction is in a block.
    PaymentConfirmed = "payment.confirmed";
    /// Its transaction is final and did not pay it: it waits for another.
    PaymentSkipped = "payment.skipped";
    /// Its transaction's block fell out of the chain.
    PaymentReorganised = "payment.reorganised";
    /// Paid, at depth.
    PaymentFinalized = "payment.finalized";
    /// Not paid, for good.
    PaymentFailed = "payment.failed";
    /// Withdrawn before it was paid.
    PaymentCancelled = "payment.cancelled";
    /// The payee gave it back.
    PaymentRefunded = "payment.refunded";
    /// A grant was made.
    GrantCreated = "grant.created";
    /// A grant was drawn on.
    GrantUsed = "grant.used";
    /// A grant has little left.
    GrantNearLimit = "grant.near_limit";
    /// A grant ends soon.
    GrantNearExpiry = "grant.near_expiry";
    /// A grant has nothing left.
    GrantExhausted = "grant.exhausted";
    /// A grant ended.
    GrantExpired = "grant.expired";
    /// A grant was taken back.
    GrantRevoked = "grant.revoked";
    /// A draw did not fit its grant.
    GrantMismatch = "grant.mismatch";
    /// A relayer's nonce that no stored transaction had was used up.
    RelayerGapFilled = "relayer.gap_filled";
    /// A change was written.
    PolicyDrafted = "policy.drafted";
    /// A change was put to the operators.
    PolicyProposed = "policy.proposed";
    /// An operator signed a change.
    PolicyApproved = "policy.approved";
    /// A change was sent to the contract.
    PolicySubmitted = "policy.submitted";
    /// One operator's order that only tightens was sent to the contract.
    PolicyTightened = "policy.tightened";
    /// The contract refused a change or an order.
    PolicyRefused = "policy.refused";
    /// The contract's policy changed.
    PolicyChanged = "policy.changed";
    /// An agent's policy file changed.
    PolicyLoaded = "policy.loaded";
    /// A change holds.
    PolicyPublished = "policy.published";
    /// A change was undone or withdrawn.
    PolicyRolledBack = "policy.rolled_back";
    /// A new agent.
    AgentRegistered = "agent.registered";
    /// An operator froze an agent or the wallet.
    AgentFrozen = "agent.frozen";
    /// The operators unfroze an agent or the wallet.
    AgentUnfrozen = "agent.unfrozen";
    /// An agent has another request key.
    AgentKeyRotated = "agent.key_rotated";
    /// A request that proved nobody's identity.
    AgentUnauthenticated = "agent.unauthenticated";
    /// A release is above its agent's own authority: it waits for the operators.
    EscrowAwaitingApproval = "escrow.awaiting_approval";
    /// An operator signed such a release.
    EscrowApproved = "escrow.approved";
    /// A step was signed and stored, to be sent.
    EscrowActed = "escrow.acted";
    /// The contract would not take a step, or did not.
    EscrowRefused = "escrow.refused";
    /// A review or an arbitration ends soon.
    EscrowExpiring = "escrow.expiring";
    /// Work was funded.
    EscrowFunded = "escrow.funded";
    /// Work was handed in.
    EscrowSubmitted = "escrow.submitted";
    /// Work was paid.
    EscrowReleased = "escrow.released";
    /// Work is disputed.
    EscrowDisputed = "escrow.disputed";
    /// The arbiter has split.
    EscrowAwarded = "escrow.awarded";
    /// Ended: its last step paid the payee's side.
    EscrowCompleted = "escrow.completed";
    /// What channels owe us was sent to be claimed.
    ChannelsClaimed = "channels.claimed";
    /// What a channel owed us was claimed, at depth.
    ChannelClaimFinalized = "channel.claim_finalized";
    /// A payer took away what a channel owed us before it was claimed: nothing can be got there.
    ChannelChargeLost = "channel.charge_lost";
    /// Money of a channel is on its way back to its payer.
    ChannelRefunded = "channel.refunded";
    /// Ended: its last step gave what was left to the payer.
    EscrowRejected = "escrow.rejected";
    /// USDC refused a payment: it waits at the contract.
    EscrowDeferred = "escrow.deferred";
    /// The payee gave money back that it had been paid.
    EscrowReturned = "escrow.returned";
    /// The payer got the money back.
    EscrowRefunded = "escrow.refunded";
    /// Ended: nothing was delivered in time.
    EscrowExpired = "escrow.expired";
    /// The facilitator has signed and stored a transaction that settles somebody's payment.
    SettlementSigned = "settlement.signed";
    /// It moved the money, at depth.
    SettlementFinalized = "settlement.finalized";
    /// It moved nothing.
    SettlementFailed = "settlement.failed";
    /// Something was sold: the buyer's money is there, at depth.
    SaleFinalized = "sale.finalized";
    /// A call's price was accepted: its payment is signed and stored.
    X402Signed = "x402.signed";
    /// A payment was sent, and nobody says what became of it.
    X402Unknown = "x402.unknown";
    /// A payment was never used, and cannot be any more.
    X402Lapsed = "x402.lapsed";
    /// A 402 was paid, at depth.
    X402Paid = "x402.paid";
    /// A seller asks for the same payment again and again.
    X402RetryLoop = "x402.retry_loop";
    /// A seller's price is not the one quoted.
    X402PriceChanged = "x402.price_changed";
    /// A seller's address is not the one quoted.
    X402PaytoChanged = "x402.payto_changed";
    /// A seller charged a channel otherwise than it said: nothing more is signed for it.
    X402Overcharged = "x402.overcharged";
    /// The money left in one of the wallet's own channels was asked back.
    PurseClosing = "purse.closing";
    /// It came back.
    PurseClosed = "purse.closed";
    /// Books and chain agree.
    ReconcileMatched = "reconcile.matched";
    /// Books and chain disagree.
    ReconcileMismatch = "reconcile.mismatch";
    /// The log's head was signed.
    AuditAnchored = "audit.anchored";
    /// Something is wrong that a person should look at.
    AlertRaised = "alert.raised";
    /// It is right again.
    AlertCleared = "alert.cleared";
    /// An operator tries an endpoint out.
    WebhookTest = "webhook.test";
}

impl EventKind {
    /// Is each entry of this kind told to webhooks too? The ends of payments are not here: they are
    /// told with the payment.
    #[must_use]
    pub const fn is_told(self) -> bool {
        matches!(
            self,
            Self::PaymentAwaitingApproval
                | Self::PolicyProposed
                | Self::PolicyApproved
                | Self::PolicySubmitted
                | Self::PolicyTightened
                | Self::PolicyRefused
                | Self::PolicyChanged
                | Self::PolicyPublished
                | Self::PolicyRolledBack
                | Self::AgentFrozen
                | Self::AgentUnfrozen
                | Self::EscrowAwaitingApproval
                | Self::EscrowRefused
                | Self::EscrowExpiring
                | Self::EscrowFunded
                | Self::EscrowSubmitted
                | Self::EscrowReleased
                | Self::EscrowRefunded
                | Self::EscrowDisputed
                | Self::EscrowAwarded
                | Self::EscrowCompleted
                | Self::EscrowRejected
                | Self::EscrowExpired
                | Self::EscrowReturned
                | Self::EscrowDeferred
                | Self::X402PriceChanged
                | Self::X402PaytoChanged
                | Self::X402RetryLoop
                | Self::X402Overcharged
                | Self::PurseClosing
                | Self::PurseClosed
                | Self::AlertRaised
                | Self::AlertCleared
        )
    }
}

/// What is to be logged.
#[derive(Clone, Debug, PartialEq)]
pub struct Draft {
    /// When, unix milliseconds.
    pub at_ms: i64,
    /// What happened.
    pub kind: EventKind,
    /// Who made it happen: `agent:<name>`, `operator:<address>`, `daemon`, `chain`.
    pub actor: String,
    /// The agent it is about.
    pub agent: Option<AgentId>,
    /// The payment it is about.
    pub payment: Option<PaymentId>,
    /// The transaction or batch it is about.
    pub reference: Option<String>,
    /// Everything else: why, workflow, sponsor, policy version, the rule that decided. Numbers are
    /// integers within 2^53; write amounts as decimal strings.
    pub data: Value,
}

impl Draft {
    /// Starts a draft without data; its time is set when it is written.
    #[must_use]
    pub fn new(kind: EventKind, actor: impl Into<String>) -> Self {
        Self {
            at_ms: 0,
            kind,
            actor: actor.into(),
            agent: None,
            payment: None,
            reference: None,
            data: json!({}),
        }
    }

    /// Names the agent it is about.
    #[must_use]
    pub fn agent(mut self, agent: &AgentId) -> Self {
        self.agent = Some(agent.clone());
        self
    }

    /// Names the payment it is about.
    #[must_use]
    pub const fn payment(mut self, payment: PaymentId) -> Self {
        self.payment = Some(payment);
        self
    }

    /// Names the transaction it is about.
    #[must_use]
    pub fn tx(mut self, id: &str) -> Self {
        self.reference = Some(id.to_owned());
        self
    }

    /// Says who made it happen.
    #[must_use]
    pub fn by(mut self, actor: impl Into<String>) -> Self {
        self.actor = actor.into();
        self
    }

    /// Adds the fields of a JSON object to the data.
    #[must_use]
    pub fn data(mut self, data: Value) -> Self {
        match (&mut self.data, data) {
            (Value::Object(fields), Value::Object(more)) => fields.extend(more),
            (own, data) => *own = data,
        }
        self
    }

    /// Adds one field to the data.
    #[must_use]
    pub fn and(mut self, key: &str, value: Value) -> Self {
        if let Value::Object(fields) = &mut self.data {
            fields.insert(key.to_owned(), value);
        }
        self
    }
}

/// One entry of the log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Its place, from 1, without gaps.
    pub seq: u64,
    /// When, unix milliseconds.
    pub at_ms: i64,
    /// What happened: a name of [`EventKind`], or of a later version's.
    pub kind: String,
    /// Who made it happen.
    pub actor: String,
    /// The agent it is about.
    pub agent: Option<AgentId>,
    /// The payment it is about.
    pub payment: Option<PaymentId>,
    /// The transaction or batch it is about.
    pub reference: Option<String>,
    /// Everything else.
    pub data: Value,
    /// Hash of the entry before; zero in the first.
    pub prev: B256,
    /// Its own hash.
    pub hash: B256,
}

impl Entry {
    /// Computes the hash that the entry must have.
    ///
    /// # Errors
    /// [`NotCanonical`] if `data` or a number has no canonical form.
    pub fn expected_hash(&self) -> Result<B256, NotCanonical> {
        let fields = json!({
            "seq": self.seq,
            "at_ms": self.at_ms,
            "kind": self.kind,
            "actor": self.actor,
            "agent": self.agent,
            "payment": self.payment,
            "reference": self.reference,
            "data": self.data,
            "prev": self.prev,
        });
        digest("bursar audit entry v1\n", &fields)
    }
}

/// The end of the log, to which the next entry is linked.
///
/// `Copy`: append to a copy inside the store's transaction, and keep the copy when it commits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chain {
    /// Number of the last entry; 0 for an empty log.
    pub seq: u64,
    /// Hash of the last entry; zero for an empty log.
    pub head: B256,
}

impl Default for Chain {
    fn default() -> Self {
        Self { seq: 0, head: B256::ZERO }
    }
}

impl Chain {
    /// Links one more entry to the end.
    ///
    /// # Errors
    /// [`NotCanonical`] if the draft's data has no canonical form; the chain stays as it was.
    pub fn append(&mut self, draft: Draft) -> Result<Entry, NotCanonical> {
        let mut entry = Entry {
            seq: self.seq + 1,
            at_ms: draft.at_ms,
            kind: draft.kind.as_str().to_owned(),
            actor: draft.actor,
            agent: draft.agent,
            payment: draft.payment,
            reference: draft.reference,
            data: draft.data,
            prev: self.head,
            hash: B256::ZERO,
        };
        entry.hash = entry.expected_hash()?;
        *self = Self { seq: entry.seq, head: entry.hash };
        Ok(entry)
    }

    /// Signs the end of the log at `at_ms` (unix milliseconds).
    ///
    /// # Errors
    /// [`NotCanonical`] if a number is above 2^53.
    pub fn anchor(&self, at_ms: i64, key: &SigningKey) -> Result<Anchor, NotCanonical> {
        let mut anchor = Anchor { seq: self.seq, hash: self.head, at_ms, signature: String::new() };
        let signature = key.sign(anchor.message()?.as_bytes());
        anchor.signature = BASE64_URL_SAFE_NO_PAD.encode(signature.to_bytes());
        Ok(anchor)
    }
}

/// A signed note: at this time, entry `seq` was the last and had this hash. One JSON line each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Anchor {
    /// The entry's number; 0 for an empty log.
    pub seq: u64,
    /// Its hash.
    pub hash: B256,
    /// When, unix milliseconds.
    pub at_ms: i64,
    /// Ed25519 over `bursar audit anchor v1\n` and the RFC 8785 JSON of the fields above, base64url.
    pub signature: String,
}

impl Anchor {
    /// Did the owner of `key` sign it?
    #[must_use]
    pub fn is_signed_by(&self, key: &VerifyingKey) -> bool {
        let signature = BASE64_URL_SAFE_NO_PAD.decode(&self.signature).ok();
        let signature = signature.and_then(|bytes| Signature::from_slice(&bytes).ok());
        let Ok(message) = self.message() else { return false };
        signature.is_some_and(|signature| key.verify_strict(message.as_bytes(), &signature).is_ok())
    }

    fn message(&self) -> Result<String, NotCanonical> {
        let fields = json!({ "seq": self.seq, "hash": self.hash, "at_ms": self.at_ms });
        Ok(format!("bursar audit anchor v1\n{}", canonical(&fields)?))
    }
}

fn digest(domain: &str, value: &Value) -> Result<B256, NotCanonical> {
    let text = canonical(value)?;
    let hash = Sha256::new().chain_update(domain).chain_update(text).finalize();
    Ok(B256::from_slice(&hash))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_that_of_the_written_form() {
        let mut chain = Chain::default();
        let entry = chain
            .append(Draft {
                at_ms: 1_782_864_000_123,
                kind: EventKind::PaymentDenied,
                actor: "agent:research".into(),
                agent: Some("research".parse().unwrap()),
                payment: None,
                reference: None,
                data: json!({ "rule": "limits.day", "amount": "1.25" }),
            })
            .unwrap();
        // Anyone can recompute it: `printf 'bursar audit entry v1\n{…}' | sha256sum`.
        let written = concat!(
            "bursar audit entry v1\n",
            r#"{"actor":"agent:research","agent":"research","at_ms":1782864000123,"#,
            r#""data":{"amount":"1.25","rule":"limits.day"},"kind":"payment.denied","#,
            r#""payment":null,"#,
            r#""prev":"0x0000000000000000000000000000000000000000000000000000000000000000","#,
            r#""reference":null,"seq":1}"#
        );
        assert_eq!(entry.hash, B256::from_slice(&Sha256::digest(written)));
        assert_eq!(chain, Chain { seq: 1, head: entry.hash });
    }

    #[test]
    fn a_draft_that_cannot_be_written_leaves_the_chain_alone() {
        let mut chain = Chain::default();
        let draft = Draft {
            at_ms: 0,
            kind: EventKind::AuditAnchored,
            actor: "daemon".into(),
            agent: None,
            payment: None,
            reference: None,
            data: json!({ "amount": 1.25 }),
        };
        assert!(chain.append(draft).is_err());
        assert_eq!(chain, Chain::default());
    }

    #[test]
    fn an_anchor_holds_for_its_key_and_its_fields_only() {
        let (key, other) = (SigningKey::from_bytes(&[7; 32]), SigningKey::from_bytes(&[8; 32]));
        let chain = Chain { seq: 9, head: B256::repeat_byte(3) };
        let anchor = chain.anchor(5, &key).unwrap();
        let line = serde_json::to_string(&anchor).unwrap();
        assert!(!line.contains('\n'));
        assert_eq!(serde_json::from_str::<Anchor>(&line).unwrap(), anchor);
        assert!(anchor.is_signed_by(&key.verifying_key()));
        assert!(!anchor.is_signed_by(&other.verifying_key()));
        for forged in [
            Anchor { seq: 8, ..anchor.clone() },
            Anchor { hash: B256::ZERO, ..anchor.clone() },
            Anchor { at_ms: 6, ..anchor.clone() },
            Anchor { signature: "AAAA".into(), ..anchor.clone() },
        ] {
            assert!(!forged.is_signed_by(&key.verifying_key()));
        }
    }

    #[test]
    fn names_of_events_are_unique() {
        let mut names: Vec<_> = EventKind::ALL.iter().map(|kind| kind.as_str()).collect();
        names.sort_unstable();
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]));
        assert!(names.iter().all(|name| name.split('.').count() == 2));
    }
}
