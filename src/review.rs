//! What an operator is about to sign, checked and told: in words, and in the digests that a wallet
//! or a hardware device shows.
//!
//! Nothing is believed that can be computed. The typed data of the daemon is decoded, hashed again
//! from its fields by two encoders, and held against what is shown beside it; only then is there a
//! [`Review`], and only a review can be signed.

use alloy::{
    hex,
    primitives::{Address, B256, Bytes, U256, keccak256},
    signers::{SignerSync, local::PrivateKeySigner},
    sol_types::SolStruct,
};
use jiff::Timestamp;

use crate::{
    contract::{
        self, ApprovedPayment, Change, ChangeError, Names, Tighten, TypedDataError, read_typed_data,
    },
    policy::override_names,
    view::{ApprovalView, ProposalView, SignatureBody, TightenOrder, WalletView},
};

/// Why nothing is signed.
#[derive(Debug, thiserror::Error)]
pub enum ReviewError {
    /// The typed data is not what it should be.
    #[error(transparent)]
    TypedData(#[from] TypedDataError),
    /// The change cannot be shown whole.
    #[error(transparent)]
    Change(#[from] ChangeError),
    /// What the daemon shows is not what would be signed.
    #[error(
        "the daemon shows {field} {shown}, but the signature would cover {signed}: do not sign"
    )]
    Differs {
        /// What differs.
        field: &'static str,
        /// As shown.
        shown: String,
        /// As signed.
        signed: String,
    },
    /// The key cannot sign.
    #[error("the key cannot sign: {0}")]
    Signer(String),
}

/// Something an operator may sign, proven to be what it says.
#[derive(Clone, Debug)]
pub struct Review {
    /// What it is, in a sentence.
    pub title: String,
    /// Every field, named, in words.
    pub lines: Vec<(&'static str, String)>,
    /// The EIP-712 primary type.
    pub primary_type: &'static str,
    /// What the signature covers: keccak-256 of the two below.
    pub digest: B256,
    /// The domain separator: chain and wallet.
    pub domain_hash: B256,
    /// The hash of the message.
    pub message_hash: B256,
}

impl Review {
    fn new<T: SolStruct>(
        title: String,
        lines: Vec<(&'static str, String)>,
        message: &T,
        wallet: &WalletView,
    ) -> Self {
        let domain = contract::domain(wallet.chain_id, wallet.wallet);
        let mut lines = lines;
        for (_, value) in &mut lines {
            *value = one_line(value);
        }
        lines.push(("wallet", format!("{} on chain {}", wallet.wallet, wallet.chain_id)));
        Self {
            title: one_line(&title),
            lines,
            primary_type: T::NAME,
            digest: contract::digest(message, &domain),
            domain_hash: domain.separator(),
            message_hash: message.eip712_hash_struct(),
        }
    }

    /// Signs it.
    ///
    /// # Errors
    /// [`ReviewError::Signer`].
    pub fn sign(&self, key: &PrivateKeySigner) -> Result<SignatureBody, ReviewError> {
        let signature =
            key.sign_hash_sync(&self.digest).map_err(|e| ReviewError::Signer(e.to_string()))?;
        let signature = hex::encode_prefixed(signature.as_bytes());
        Ok(SignatureBody { signer: key.address(), signature })
    }
}

/// Checks a payment that waits for the quorum. `agent` is the agent's address on chain.
///
/// # Errors
/// [`ReviewError`]: one field that is not what the daemon shows is enough.
pub fn approval(
    view: &ApprovalView,
    agent: Address,
    wallet: &WalletView,
    names: &Names,
) -> Result<Review, ReviewError> {
    let domain = contract::domain(wallet.chain_id, wallet.wallet);
    let signed: ApprovedPayment = read_typed_data(&view.typed_data, &domain, view.digest)?;
    let payment = &view.payment;
    let context = payment.context.hash(payment.id, &payment.agent, &payment.reason);
    same("agent", agent, signed.agent)?;
    same("payee", payment.payee, signed.to)?;
    same("amount in base units", U256::from(payment.amount.units()), signed.amount)?;
    same("amount in base units", U256::from(payment.amount_units), signed.amount)?;
    same("context", payment.context_hash, signed.context)?;
    same("context", context, signed.context)?;
    let bits = u8::try_from(signed.overrides).unwrap_or(u8::MAX);
    let overrides = override_names(bits).join(", ");
    same("overrides", U256::from(bits & 15), signed.overrides)?;
    same("overrides", view.overrides.join(", "), overrides.clone())?;

    let mut lines = vec![
        ("payment", payment.id.to_string()),
        ("agent", format!("{} ({})", payment.agent, signed.agent)),
        ("payee", names.account(signed.to)),
        ("amount", format!("{} USDC ({} base units)", payment.amount, signed.amount)),
        ("reason", payment.reason.clone()),
    ];
    let context = [
        ("invoice", &payment.context.invoice),
        ("order", &payment.context.order),
        ("workflow", &payment.context.workflow),
        ("sponsor", &payment.context.sponsor),
        ("category", &payment.context.category),
        ("host", &payment.context.host),
    ];
    for (name, text) in context {
        if let Some(text) = text {
            lines.push((name, text.clone()));
        }
    }
    if let Some(evidence) = payment.context.evidence {
        lines.push(("evidence", evidence.to_string()));
    }
    lines.push(("sets aside", overrides));
    lines.push(("policy version", signed.policyVersion.to_string()));
    lines.push(("nonce", signed.nonce.to_string()));
    lines.push(("valid until", moment(signed.deadline)));
    let title = format!("Pay {} USDC to {}", payment.amount, names.account(signed.to));
    Ok(Review::new(title, lines, &signed, wallet))
}

/// Checks a proposed change of policy.
///
/// # Errors
/// [`ReviewError`].
pub fn proposal(
    view: &ProposalView,
    wallet: &WalletView,
    names: &Names,
) -> Result<Review, ReviewError> {
    let domain = contract::domain(wallet.chain_id, wallet.wallet);
    let signed: Change = read_typed_data(&view.typed_data, &domain, view.digest)?;
    same("change", view.change.to_lowercase(), signed.change.to_string())?;
    same("id", view.id, keccak256(&signed.change))?;
    let names = names.clone().with_label(&signed.change, view.label.as_deref());
    let title = contract::describe(&signed.change, &names)?;
    let mut lines = vec![("proposal", view.id.to_string())];
    if let Some(label) = &view.label {
        lines.push(("label", format!("{} (kept by the daemon, not signed)", one_line(label))));
    }
    lines.push(("calldata", signed.change.to_string()));
    lines.push(("nonce", signed.nonce.to_string()));
    lines.push(("valid until", moment(signed.deadline)));
    Ok(Review::new(title, lines, &signed, wallet))
}

/// Writes one operator's order that only tightens. `deadline_s` is in unix seconds; the nonce is
/// random, so that orders never wait for each other.
///
/// # Errors
/// [`ReviewError::Change`] if the change cannot be shown.
pub fn tighten(
    change: Bytes,
    deadline_s: u64,
    wallet: &WalletView,
    names: &Names,
) -> Result<Order, ReviewError> {
    let title = contract::describe(&change, names)?;
    let nonce = U256::from_be_bytes(rand::random::<[u8; 32]>());
    let message = Tighten { change: change.clone(), nonce, deadline: U256::from(deadline_s) };
    let lines = vec![
        ("calldata", change.to_string()),
        ("nonce", nonce.to_string()),
        ("valid until", moment(message.deadline)),
    ];
    let review = Review::new(title, lines, &message, wallet);
    Ok(Order { review, change, nonce, deadline: deadline_s })
}

/// A tightening order before its signature.
#[derive(Clone, Debug)]
pub struct Order {
    /// What it says.
    pub review: Review,
    change: Bytes,
    nonce: U256,
    deadline: u64,
}

impl Order {
    /// Signs it.
    ///
    /// # Errors
    /// [`ReviewError::Signer`].
    pub fn sign(&self, key: &PrivateKeySigner) -> Result<TightenOrder, ReviewError> {
        let SignatureBody { signer, signature } = self.review.sign(key)?;
        Ok(TightenOrder {
            change: self.change.to_string(),
            nonce: self.nonce.to_string(),
            deadline: self.deadline,
            signer,
            signature,
        })
    }
}

fn same<T: PartialEq + ToString>(
    field: &'static str,
    shown: T,
    signed: T,
) -> Result<(), ReviewError> {
    if shown == signed {
        return Ok(());
    }
    Err(ReviewError::Differs { field, shown: shown.to_string(), signed: signed.to_string() })
}

/// Writes foreign words (reasons, labels, names) so that they can neither forge a line of their own,
/// nor move the cursor, nor turn the writing around.
pub(crate) fn one_line(text: &str) -> String {
    // Unicode's format characters (Cf) that a terminal acts on or hides, and the separators.
    let hidden = |c: char| {
        matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
    };
    text.chars().map(|c| if c.is_control() || hidden(c) { '\u{fffd}' } else { c }).collect()
}

fn moment(unix: U256) -> String {
    let time = i64::try_from(unix).ok().and_then(|s| Timestamp::from_second(s).ok());
    time.map_or_else(|| format!("unix time {unix}"), |time| time.to_string())
}

#[cfg(test)]
#[path = "review_tests.rs"]
mod tests;
