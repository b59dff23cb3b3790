//! What a seller answers to a paid request: its word, not to be believed about money.

use alloy::primitives::B256;
use serde_json::Value;

use super::{
    offer::{self, Offer, Quote},
    tally::Word,
    web::Reply,
};
use crate::{
    audit::EventKind,
    mpp,
    store::PurchaseRow,
    x402::{self, SettleResponse},
};

/// What a paid request's answer says.
pub(super) struct Told {
    /// The request left.
    pub sent: bool,
    /// The resource came.
    pub delivered: bool,
    /// The seller says that the payment is settled.
    pub settled: bool,
    pub transaction: Option<B256>,
    pub note: Option<String>,
    /// What is odd about it.
    pub kind: Option<EventKind>,
    /// What it says of a channel.
    pub word: Word,
}

impl Told {
    pub(super) fn note(why: &str) -> Self {
        Self {
            sent: true,
            delivered: false,
            settled: false,
            transaction: None,
            note: Some(why.to_owned()),
            kind: None,
            word: Word::None,
        }
    }
}

/// Reads a paid request's answer. What it says of money is the seller's word.
pub(super) fn read(row: &PurchaseRow, reply: &Reply, now_s: u64) -> Told {
    let settled = [x402::PAYMENT_RESPONSE, x402::X_PAYMENT_RESPONSE]
        .into_iter()
        .find_map(|name| x402::decode::<SettleResponse>(reply.header(name)?).ok());
    let charged = reply.header(mpp::PAYMENT_RECEIPT).and_then(|text| mpp::Receipt::read(text).ok());
    let hash = settled.as_ref().map(|settled| &settled.transaction);
    let hash = hash.or(charged.as_ref().map(|charged| &charged.reference));
    let transaction = hash.and_then(|hash| hash.parse().ok());
    let success = settled.as_ref().is_some_and(|settled| settled.success) || charged.is_some();
    let reason = settled.as_ref().and_then(|settled| settled.error_reason.as_ref());
    let status = reply.status;
    let delivered = matches!(status, 200..=299 | 304);
    let mut told = Told { delivered, settled: success, transaction, ..Told::note("") };
    if let Some(channel) = row.channel {
        told.word = Word::of(channel, reply, settled.as_ref());
    }
    told.note = match (delivered, status) {
        (true, _) if success => None,
        (true, _) => Some("the seller delivered, and says nothing of a settlement".to_owned()),
        (false, 402) => {
            let (kind, note) =
                again(row, &offer::read(reply, now_s), reason.map(ToString::to_string));
            told.kind = Some(kind);
            Some(note)
        }
        (false, 300..=399) => Some(format!(
            "the seller redirects a paid call to {}",
            offer::shown(reply.header("location").unwrap_or("nowhere"))
        )),
        (false, _) => Some(format!("the seller answered {status}")),
    };
    told
}

/// A 402 after the payment: what the seller wants now.
fn again(row: &PurchaseRow, quote: &Quote, reason: Option<String>) -> (EventKind, String) {
    let why = reason.or_else(|| quote.error.clone()).unwrap_or_else(|| "no reason".to_owned());
    let why = offer::shown(&why);
    let taken: Option<B256> =
        row.offer.get("quote").and_then(|quote: &Value| serde_json::from_value(quote.clone()).ok());
    let same = |offer: &Offer| Some(offer.quote) == taken;
    if quote.offers.is_empty() || quote.offers.iter().any(same) {
        return (EventKind::X402RetryLoop, format!("the seller wants to be paid again: {why}"));
    }
    let pays_other = quote
        .offers
        .iter()
        .filter_map(|offer| offer.terms.as_ref().ok())
        .all(|terms| terms.pay_to != row.payee);
    if pays_other {
        let note = format!("the seller changed its offer to another payee: {why}");
        return (EventKind::X402PaytoChanged, note);
    }
    (EventKind::X402PriceChanged, format!("the seller changed its offer: {why}"))
}
