//! `bursar store found`, `acknowledge`, `match`: what a restored store forgot, and an operator's word on
//! it.

use alloy::primitives::B256;
use serde_json::json;

use super::{CliError, Kind, store::failed, table::table};
use crate::{
    audit::{Draft, EventKind},
    clock::{self, Clock},
    config::Config,
    payment::PaymentId,
    reconcile::Restored,
    store::{PaymentRow, Store},
};

/// Found payments that are listed, or acknowledged at once.
const MOST: u32 = 10_000;

fn time(unix_s: u64) -> String {
    clock::at_ms(i64::try_from(unix_s).unwrap_or(0).saturating_mul(1_000)).to_string()
}

pub(super) async fn list(config: &Config, json: bool) -> Result<(), CliError> {
    let store = Store::open(&config.store).await.map_err(failed)?;
    let state = Restored::read(&store).await.map_err(failed)?;
    let found = store.found(MOST).await.map_err(failed)?;
    let waiting: Vec<PaymentRow> = match &state {
        Some(state) if !state.undecided.is_empty() => {
            let mut open = store.payments_open().await.map_err(failed)?;
            open.retain(|payment| state.undecided.iter().any(|one| one.is_like(payment)));
            open
        }
        _ => Vec::new(),
    };
    let row = |payment: &PaymentRow| {
        json!({
            "payment": payment.id, "agent": payment.agent, "payee": payment.payee,
            "payee_label": payment.payee_label, "amount": payment.amount,
            "transaction": payment.tx_hash, "block": payment.block, "key": payment.idempotency_key,
            "reason": payment.reason,
        })
    };
    if json {
        println!(
            "{}",
            json!({
                "state": state, "found": found.iter().map(row).collect::<Vec<_>>(),
                "waiting": waiting.iter().map(row).collect::<Vec<_>>(),
            })
        );
        return Ok(());
    }
    let Some(state) = state else {
        println!("nothing was found: this store is not older than what was done with its keys");
        return Ok(());
    };
    println!("the store is older than what was done with its keys:");
    for sign in &state.signs {
        println!("  {sign}");
    }
    if !state.is_settled {
        println!(
            "nothing is signed before a final block is past {}: until then, what was signed before \
             can still be paid",
            time(state.until_s)
        );
        return Ok(());
    }
    let named = |payment: &PaymentRow| {
        payment.payee_label.clone().unwrap_or_else(|| payment.payee.to_string())
    };
    if !found.is_empty() {
        let mut rows = table(&["found payment", "agent", "payee", "USDC", "paid (UTC)"]);
        for payment in &found {
            rows.add_row([
                payment.id.to_string(),
                payment.agent.to_string(),
                named(payment),
                payment.amount.to_string(),
                payment.block_time_s.map(time).unwrap_or_default(),
            ]);
        }
        println!("{rows}");
        println!(
            "requests like these are refused. The same request as one of them: `bursar store match \
             PAYMENT --key KEY`. None will come again: `bursar store acknowledge PAYMENT`."
        );
    }
    if !state.undecided.is_empty() {
        let mut rows = table(&["transfer in", "agent", "payee", "USDC", "perhaps"]);
        for one in &state.undecided {
            let perhaps: Vec<String> = waiting
                .iter()
                .filter(|payment| one.is_like(payment))
                .map(|payment| payment.id.to_string())
                .collect();
            rows.add_row([
                one.transaction.to_string(),
                one.agent.to_string(),
                one.payee.to_string(),
                one.amount.to_string(),
                perhaps.join(" "),
            ]);
        }
        println!("{rows}");
        println!(
            "these may be payments that wait. One is: `bursar store match PAYMENT --transaction TX`. \
             None is: `bursar store acknowledge TX`."
        );
    }
    if found.is_empty() && state.undecided.is_empty() {
        println!("everything that was found has an operator's word");
    }
    Ok(())
}

/// Writes an operator's word on a found payment.
async fn settle(store: &Store, found: &PaymentRow, key: Option<&str>) -> Result<(), CliError> {
    let not_open = || {
        CliError::new(Kind::Refused, format!("{} does not wait for a word", found.id))
            .hint("`bursar store found` lists what does")
    };
    if !found.is_open_question() {
        return Err(not_open());
    }
    let now_ms = Clock::system().now_ms();
    let mut tx = store.begin().await.map_err(failed)?;
    let done = tx.settle_found(found, key).await.map_err(|error| {
        if error.is_duplicate() {
            CliError::new(
                Kind::Refused,
                format!("{} has a payment under this key already", found.agent),
            )
        } else {
            failed(error)
        }
    })?;
    if !done {
        return Err(not_open());
    }
    let draft = Draft::new(EventKind::ReconcileMatched, "host")
        .agent(&found.agent)
        .payment(found.id)
        .data(json!({ "what": "a found payment has an operator's word", "key": key }));
    tx.append_audit(&[draft], now_ms).await.map_err(failed)?;
    tx.commit().await.map_err(failed)
}

async fn payment(store: &Store, id: PaymentId) -> Result<PaymentRow, CliError> {
    store
        .payment(id)
        .await
        .map_err(failed)?
        .ok_or_else(|| CliError::new(Kind::Refused, format!("there is no payment {id}")))
}

pub(super) async fn acknowledge(
    config: &Config,
    what: &[String],
    all: bool,
) -> Result<(), CliError> {
    let store = Store::open(&config.store).await.map_err(failed)?;
    if all {
        let found = store.found(MOST).await.map_err(failed)?;
        for payment in &found {
            settle(&store, payment, None).await?;
        }
        println!("{} found payments acknowledged", found.len());
    }
    for text in what {
        if let Ok(id) = text.parse::<PaymentId>() {
            settle(&store, &payment(&store, id).await?, None).await?;
            println!("{id} acknowledged: requests like it are paid again");
        } else if let Ok(hash) = text.parse::<B256>() {
            say(&store, hash, None).await?;
        } else {
            return Err(CliError::new(
                Kind::Usage,
                format!("`{text}` is neither a payment (pay_…) nor a transaction (0x…)"),
            ));
        }
    }
    Ok(())
}

async fn say(store: &Store, hash: B256, payment: Option<&PaymentRow>) -> Result<(), CliError> {
    let said = Restored::say(store, hash, payment).await.map_err(failed)?;
    if said == 0 {
        return Err(CliError::new(Kind::Refused, format!("no transfer like that in {hash} waits"))
            .hint("`bursar store found` lists what does; try again if the daemon was writing"));
    }
    println!("written on {said} transfers; the daemon books them");
    Ok(())
}

pub(super) async fn match_with(
    config: &Config,
    id: PaymentId,
    key: Option<&str>,
    transaction: Option<B256>,
) -> Result<(), CliError> {
    let store = Store::open(&config.store).await.map_err(failed)?;
    let row = payment(&store, id).await?;
    match (key, transaction) {
        (Some(key), _) => {
            if !(1..=128).contains(&key.len()) || !key.bytes().all(|b| (0x21..0x7f).contains(&b)) {
                return Err(CliError::new(
                    Kind::Usage,
                    "a key is 1 to 128 printable ASCII characters without spaces",
                ));
            }
            settle(&store, &row, Some(key)).await?;
            println!("{id} is the request of key {key}: sent again, it finds this payment");
            Ok(())
        }
        (None, Some(hash)) => say(&store, hash, Some(&row)).await,
        (None, None) => Err(CliError::new(Kind::Usage, "name --key or --transaction")),
    }
}
