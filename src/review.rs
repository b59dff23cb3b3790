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
    sol_types::{Eip712Domain, SolStruct},
};
use jiff::Timestamp;

use crate::{
    contract::{
        self, ApprovedPayment, Change, ChangeError, Names, Tighten, TypedDataError,
        escrow::{Award, EscrowOpening, EscrowRelease, Release, Terms, by, id as escrow_id},
        read_typed_data,
    },
    escrow::{EscrowView, StepApprovalView},
    money::Usdc,
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
        let place = ("wallet", format!("{} on chain {}", wallet.wallet, wallet.chain_id));
        Self::within(title, lines, place, message, &domain)
    }

    /// In the domain of the contract that `place` names.
    fn within<T: SolStruct>(
        title: String,
        mut lines: Vec<(&'static str, String)>,
        place: (&'static str, String),
        message: &T,
        domain: &Eip712Domain,
    ) -> Self {
        for (_, value) in &mut lines {
            *value = one_line(value);
        }
        lines.push(place);
        Self {
            title: one_line(&title),
            lines,
            primary_type: T::NAME,
            digest: contract::digest(message, domain),
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
    let payment = &view.payment;
    let opening: Option<EscrowOpening> = match payment.escrow {
        Some(_) => Some(read_typed_data(&view.typed_data, &domain, view.digest)?),
        None => None,
    };
    let signed: ApprovedPayment = match &opening {
        Some(opening) => of_opening(opening),
        None => read_typed_data(&view.typed_data, &domain, view.digest)?,
    };
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
    let Some(opening) = opening else {
        let title = format!("Pay {} USDC to {}", payment.amount, names.account(signed.to));
        return Ok(Review::new(title, lines, &signed, wallet));
    };
    same("payer", wallet.wallet, opening.terms.payer)?;
    lines.extend(terms_lines(&opening.terms, names));
    let title =
        format!("Hold {} USDC for the work of {}", payment.amount, names.account(signed.to));
    Ok(Review::new(title, lines, &opening, wallet))
}

/// The fields that an opening has in common with a payment.
fn of_opening(opening: &EscrowOpening) -> ApprovedPayment {
    ApprovedPayment {
        agent: opening.agent,
        to: opening.terms.payee,
        amount: U256::from(opening.terms.amount),
        nonce: opening.nonce,
        deadline: opening.deadline,
        context: opening.context,
        overrides: opening.overrides,
        policyVersion: opening.policyVersion,
    }
}

/// Terms in words, every field but payer, payee and amount.
fn terms_lines(terms: &Terms, names: &Names) -> Vec<(&'static str, String)> {
    let arbiter = if terms.arbiter == Address::ZERO {
        "none: no disputes".to_owned()
    } else {
        names.account(terms.arbiter)
    };
    let mut lines = vec![
        ("arbiter", arbiter),
        ("deliver until", moment(U256::from(terms.submitBy))),
        ("review", format!("{} s after delivery", terms.reviewPeriod)),
        ("arbitration", format!("{} s after a dispute", terms.arbitrationPeriod)),
        ("on silence", format!("{} of 10000 of the rest to the payee", terms.silenceBps)),
        ("released by", release_words(terms)),
        ("job", terms.jobHash.to_string()),
        ("salt", terms.salt.to_string()),
    ];
    let optional = [
        ("hash lock", terms.hashlock),
        ("condition's arg", terms.conditionArg),
        ("payouts (hash)", terms.payoutsHash),
    ];
    lines.extend(
        optional
            .into_iter()
            .filter(|(_, word)| *word != B256::ZERO)
            .map(|(name, word)| (name, word.to_string())),
    );
    if terms.condition != Address::ZERO {
        lines.push(("condition", terms.condition.to_string()));
    }
    lines
}

fn release_words(terms: &Terms) -> String {
    let words = |bits: u8| -> Vec<&'static str> {
        [
            (by::PAYER, "payer"),
            (by::ARBITER, "arbiter"),
            (by::PREIMAGE, "preimage"),
            (by::CONDITION, "condition"),
        ]
        .into_iter()
        .filter(|(bit, _)| bits & bit != 0)
        .map(|(_, word)| word)
        .collect()
    };
    match (terms.anyOf, terms.allOf) {
        (any, 0) => words(any).join(" or "),
        (0, all) => words(all).join(" and "),
        (any, all) => {
            format!("{}, and one of {}", words(all).join(" and "), words(any).join(" or "))
        }
    }
}

/// Checks a release that waits for the quorum. `agent` is the agent's address on chain.
///
/// # Errors
/// [`ReviewError`].
pub fn release(
    view: &StepApprovalView,
    agent: Address,
    wallet: &WalletView,
    names: &Names,
) -> Result<Review, ReviewError> {
    let domain = contract::domain(wallet.chain_id, wallet.wallet);
    let signed: EscrowRelease = read_typed_data(&view.typed_data, &domain, view.digest)?;
    let terms = terms_of(&view.escrow, wallet)?;
    same("agent", agent, signed.agent)?;
    same("escrow", view.escrow.id, signed.escrowId)?;
    same("payer", wallet.wallet, terms.payer)?;
    let total = amount(signed.cumulative);
    let mut lines = vec![
        ("escrow", signed.escrowId.to_string()),
        ("agent", format!("{} ({})", view.escrow.agent, signed.agent)),
        ("payee", names.account(terms.payee)),
        ("released in all", total.clone()),
        ("of", amount(terms.amount)),
        ("context", signed.context.to_string()),
    ];
    lines.push(("valid until", moment(signed.deadline)));
    let title = format!("Release {total} in all to {}", names.account(terms.payee));
    Ok(Review::new(title, lines, &signed, wallet))
}

/// Writes an arbiter's word that `total` base units may go to the payee's side.
///
/// # Errors
/// [`ReviewError`] if what the daemon shows is not the escrow that would be signed.
pub fn arbiter_release(
    escrow: &EscrowView,
    total: u64,
    deadline_s: u64,
    wallet: &WalletView,
    names: &Names,
) -> Result<Review, ReviewError> {
    let message =
        Release { escrowId: escrow.id, cumulative: total, deadline: U256::from(deadline_s) };
    let title = format!("As arbiter, release {} in all", amount(total));
    arbiter(title, vec![], escrow, &message, deadline_s, wallet, names)
}

/// Writes an arbiter's award: `captured` base units to the payee's side, the rest back.
///
/// # Errors
/// As [`arbiter_release`].
pub fn award(
    escrow: &EscrowView,
    captured: u64,
    reason: B256,
    deadline_s: u64,
    wallet: &WalletView,
    names: &Names,
) -> Result<Review, ReviewError> {
    let refunded = terms_of(escrow, wallet)?.amount.saturating_sub(captured);
    let message =
        Award { escrowId: escrow.id, captured, refunded, reason, deadline: U256::from(deadline_s) };
    let lines = vec![
        ("to the payee", amount(captured)),
        ("back", amount(refunded)),
        ("reason (hash)", reason.to_string()),
    ];
    let title = format!("As arbiter, award {} to the payee's side", amount(captured));
    arbiter(title, lines, escrow, &message, deadline_s, wallet, names)
}

fn arbiter<T: SolStruct>(
    title: String,
    mut lines: Vec<(&'static str, String)>,
    escrow: &EscrowView,
    message: &T,
    deadline_s: u64,
    wallet: &WalletView,
    names: &Names,
) -> Result<Review, ReviewError> {
    let terms = terms_of(escrow, wallet)?;
    lines.insert(0, ("escrow", escrow.id.to_string()));
    lines.push(("payee", names.account(terms.payee)));
    lines.push(("amount", amount(terms.amount)));
    lines.extend(terms_lines(&terms, names));
    lines.push(("valid until", moment(U256::from(deadline_s))));
    let place = ("WorkEscrow", format!("{} on chain {}", escrow.contract, wallet.chain_id));
    let domain = contract::escrow::domain(wallet.chain_id, escrow.contract);
    Ok(Review::within(title, lines, place, message, &domain))
}

/// The terms behind an escrow's id, and nothing else: they hash to it.
fn terms_of(escrow: &EscrowView, wallet: &WalletView) -> Result<Terms, ReviewError> {
    let terms: Terms = serde_json::from_value(escrow.terms.clone())
        .map_err(|error| TypedDataError::Unreadable(error.to_string()))?;
    let domain = contract::escrow::domain(wallet.chain_id, escrow.contract);
    same("escrow", escrow.id, escrow_id(&terms, &domain))?;
    same("amount in base units", escrow.amount_units, terms.amount)?;
    Ok(terms)
}

fn amount(units: u64) -> String {
    match Usdc::from_units(units) {
        Some(amount) => format!("{amount} USDC"),
        None => format!("{units} base units"),
    }
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
