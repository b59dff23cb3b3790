//! What a call cost that a channel pays, by the seller's answer, in the commit that stores the answer.
//!
//! A receipt is believed as far as the voucher goes: no seller says more than it can claim. A refusal is
//! believed where it shows our own signature over the total that it says was charged: then an earlier
//! call, whose answer was lost, was charged after all, and this one needs a new voucher. Where no such
//! call is open, the seller took what it served nothing for: it can keep that, which counts against the
//! limits, and gets nothing more. Everything else leaves the call open: the same voucher is sent again
//! when the agent asks again, and the next call's voucher leaves its price out, which settles the matter.

use alloy::primitives::B256;
use serde_json::{Value, json};
use tracing::info;

use super::{
    PurchaseState, channel,
    offer::{self, Wire},
    pay,
    shop::story,
    web::Reply,
};
use crate::{
    audit::{Draft, EventKind},
    channel::{
        purse::{NotPaid, PurseRow, PurseState},
        voucher::VoucherKey,
    },
    engine::Inner,
    money::Usdc,
    refusal::Refusal,
    store::{PurchaseRow, StoreError, Tx},
    x402::{
        Requirements, SettleResponse,
        batch::{ChannelState, ERROR_PREFIX, VoucherState},
    },
};

/// What a seller's answer says of a channel.
#[derive(Clone, Debug, Default)]
pub(super) enum Word {
    /// Nothing that counts.
    #[default]
    None,
    /// The call is charged: how much, and what was charged in all.
    Charged { charged: Option<Usdc>, total: Option<Usdc> },
    /// So much was charged in all, and here is our own signature, over `signed`.
    Behind { total: Usdc, signed: Usdc, signature: Vec<u8> },
}

fn units(text: Option<&Value>) -> Option<Usdc> {
    text?.as_str()?.parse::<u64>().ok().and_then(Usdc::from_units)
}

/// Does the seller say that another request holds the channel?
pub(super) fn is_busy(reply: &Reply) -> bool {
    let says = |error: String| error.strip_prefix(ERROR_PREFIX) == Some("channel_busy");
    reply.status == 402 && offer::read(reply, 0).error.is_some_and(says)
}

impl Word {
    /// Reads an answer to a paid call.
    pub(super) fn of(channel: B256, reply: &Reply, receipt: Option<&SettleResponse>) -> Self {
        if let Some(receipt) = receipt.filter(|receipt| receipt.success) {
            let extra = receipt.extra.as_ref();
            let total = extra
                .and_then(|extra| extra.get("channelState"))
                .and_then(|state| units(state.get("chargedCumulativeAmount")));
            let charged = units(extra.and_then(|extra| extra.get("chargedAmount")));
            return Self::Charged { charged, total };
        }
        if reply.status != 402 {
            return Self::None;
        }
        let quote = offer::read(reply, 0);
        let told = quote.offers.iter().find_map(|offer| match &offer.wire {
            Wire::V2(_, accepted) => Self::of_offer(channel, accepted),
            Wire::V1(_) | Wire::Mpp(_) => None,
        });
        told.unwrap_or_default()
    }

    /// Reads a corrective offer.
    fn of_offer(channel: B256, offer: &Requirements) -> Option<Self> {
        let read = |key| offer.extra(key).cloned();
        let state: ChannelState = serde_json::from_value(read("channelState")?).ok()?;
        let proof: VoucherState = serde_json::from_value(read("voucherState")?).ok()?;
        let narrow = |units: u128| u64::try_from(units).ok().and_then(Usdc::from_units);
        let total = u128::try_from(state.charged_cumulative_amount?).ok().and_then(narrow)?;
        let signed = narrow(proof.signed_max_claimable)?;
        (state.channel_id == channel).then(|| Self::Behind {
            total,
            signed,
            signature: proof.signature.to_vec(),
        })
    }
}

/// What became of a call, by its channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Cost {
    /// It was charged so much.
    Charged(Usdc),
    /// The seller charged otherwise than it said: so much, perhaps beyond the price, is lost, and the
    /// channel is closed.
    Overcharged(Usdc, String),
    /// Nobody knows yet.
    Unknown,
    /// An earlier call was charged. It has a new voucher, to be sent.
    Again,
    /// An earlier call was charged, and nothing is left for this one: its voucher is void.
    Void(NotPaid),
}

/// Which voucher of a call was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sending {
    /// Its first, for the first time: what was charged before is another call's.
    First,
    /// One that may have come before: it may itself be what was charged.
    Repeated,
    /// The one that a refusal gave it. No refusal gives it another.
    Anew,
}

/// Books what an answer says of the channel. [`Cost::Again`] is no answer to [`Sending::Anew`], so that
/// nothing is signed that is not sent.
///
/// # Errors
/// The store; the channel was changed at the same time.
pub(super) async fn book(
    inner: &Inner,
    tx: &mut Tx,
    row: &mut PurchaseRow,
    (word, sending): (&Word, Sending),
    drafts: &mut Vec<Draft>,
) -> Result<Cost, Refusal> {
    let Some(channel) = row.channel.filter(|_| !row.state.is_terminal()) else {
        return Ok(Cost::Unknown);
    };
    let Some(mut purse) = tx.purse(channel).await? else { return Ok(Cost::Unknown) };
    if purse.held.as_deref() != Some(&row.id.to_string()) {
        return Ok(Cost::Unknown);
    }
    let (read, before) = (purse.version, purse.charged);
    let cost = match word {
        Word::None => return Ok(Cost::Unknown),
        Word::Charged { charged, total } => {
            // Taken at a total that left all earlier calls out: they cost nothing.
            let outcome = purse.charge(row.amount, charged.unwrap_or(row.amount), *total);
            match outcome {
                Ok(()) => {
                    pass_over(inner, tx, &purse, row, drafts).await?;
                    Cost::Charged(purse.charged.saturating_sub(before))
                }
                Err(why) => {
                    purse.state = PurseState::Closing;
                    Cost::Overcharged(purse.charged.saturating_sub(before), why.to_string())
                }
            }
        }
        Word::Behind { total, signed, signature } => {
            let Some(meters) = &inner.meters else { return Ok(Cost::Unknown) };
            let digest = meters.hub().voucher_digest(channel, signed.units().into());
            let key = purse.config.payer_authorizer;
            if VoucherKey::recover(digest, signature, key).is_err() {
                return Ok(Cost::Unknown);
            }
            // What we signed was stored before it left: the store is older than that.
            let is_forgotten = *signed > purse.ceiling;
            let Some(more) = purse.adopt(*total, (*signed, signature)) else {
                return Ok(Cost::Unknown);
            };
            if sending == Sending::Repeated && more <= row.amount {
                pass_over(inner, tx, &purse, row, drafts).await?;
                Cost::Charged(more)
            } else if sending == Sending::Anew
                || !explains(inner, tx, (&purse, &*row), (more, is_forgotten), drafts).await?
            {
                purse.state = PurseState::Closing;
                let why = format!("the seller took {more} USDC that it served no call for");
                Cost::Overcharged(more, why)
            } else {
                match channel::sign(inner, &mut purse, row.id, row.amount) {
                    Ok(voucher) => {
                        row.header_value = pay::with_voucher(&row.header_value, &voucher)?;
                        tx.put_voucher(row).await?;
                        Cost::Again
                    }
                    Err(refusal) => match purse.next(row.amount) {
                        Err(why) => Cost::Void(why),
                        Ok(_) => return Err(refusal),
                    },
                }
            }
        }
    };
    if !tx.put_purse(&purse, read).await? {
        return Err(super::shop::unknown(row, "the channel was changed at the same time"));
    }
    Ok(cost)
}

/// Is there an earlier call that `more` was charged for? It is ended then. A call that the store has
/// forgotten counts against the limits now.
async fn explains(
    inner: &Inner,
    tx: &mut Tx,
    (purse, row): (&PurseRow, &PurchaseRow),
    (more, is_forgotten): (Usdc, bool),
    drafts: &mut Vec<Draft>,
) -> Result<bool, StoreError> {
    if charge_earlier(inner, tx, purse, Some(row), more, drafts).await? {
        return Ok(true);
    }
    if is_forgotten {
        tx.add_bought(&row.agent, &row.host, inner.clock.now_ms(), more.as_i64()).await?;
    }
    Ok(is_forgotten)
}

/// Ends the earlier calls that nobody knew about: what was charged now leaves them out.
async fn pass_over(
    inner: &Inner,
    tx: &mut Tx,
    purse: &PurseRow,
    row: &PurchaseRow,
    drafts: &mut Vec<Draft>,
) -> Result<(), StoreError> {
    for other in tx.purchases_in_doubt(purse.id).await? {
        if other.id != row.id {
            end(inner, tx, other, None, drafts).await?;
        }
    }
    Ok(())
}

/// Finds the earlier call that `more` was charged for, and ends it and the others. Says whether there is
/// one. A voucher is over what was charged and one price: of those that are open, one was charged.
pub(super) async fn charge_earlier(
    inner: &Inner,
    tx: &mut Tx,
    purse: &PurseRow,
    row: Option<&PurchaseRow>,
    more: Usdc,
    drafts: &mut Vec<Draft>,
) -> Result<bool, StoreError> {
    let mut open = tx.purchases_in_doubt(purse.id).await?;
    open.retain(|other| row.is_none_or(|row| row.id != other.id));
    let exact = open.iter().position(|other| other.amount == more);
    let Some(at) = exact.or_else(|| open.iter().position(|other| other.amount > more)) else {
        return Ok(false);
    };
    let charged = open.remove(at);
    end(inner, tx, charged, Some(more), drafts).await?;
    for other in open {
        end(inner, tx, other, None, drafts).await?;
    }
    Ok(true)
}

/// Ends an earlier call: charged, or not.
pub(super) async fn end(
    inner: &Inner,
    tx: &mut Tx,
    mut row: PurchaseRow,
    charged: Option<Usdc>,
    drafts: &mut Vec<Draft>,
) -> Result<(), StoreError> {
    let from = row.state;
    row.charged = charged;
    row.state = match charged {
        Some(_) => PurchaseState::Paid,
        None => PurchaseState::Unpaid,
    };
    row.note = Some(match charged {
        Some(charged) => format!("the seller charged {charged} USDC, and its answer was lost"),
        None => "the channel's total leaves it out: the seller did not charge it".to_owned(),
    });
    if tx.move_purchase(from, &row, inner.clock.now_ms()).await? {
        note_end(inner, &row, drafts);
    }
    Ok(())
}

/// Tells metrics, log and audit log of a call's end.
pub(super) fn note_end(inner: &Inner, row: &PurchaseRow, drafts: &mut Vec<Draft>) {
    let kind = if row.state == PurchaseState::Paid {
        inner.metrics.purchases_paid.inc();
        EventKind::X402Paid
    } else {
        inner.metrics.purchases_lapsed.inc();
        info!(purchase = %row.id, "not charged");
        EventKind::X402Lapsed
    };
    drafts.push(story(kind, row).and("note", json!(row.note)));
}
