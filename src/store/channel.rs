//! Channels that we are paid through and those that we pay through, and what was earned by route and day.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
};

use alloy::{
    hex,
    primitives::{Address, B256},
};
use sqlx::{Any, Executor, Row as _, any::AnyRow};

use super::{
    Store, StoreError, Tx,
    many::Many,
    parse,
    payment::{json, narrow, narrow_amount, to_json, unsigned},
};
use crate::{
    channel::{
        meter::{MeterRow, OnChain, Unstored},
        purse::PurseState,
    },
    ledger::Account,
    money::Usdc,
    payment::AgentId,
    reconcile::ChannelLine,
};

pub use crate::channel::purse::PurseRow;

/// What one charge earned, and what for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Earning {
    /// The day in UTC, as days since 1970.
    pub day: u64,
    /// The route of the price list.
    pub route: String,
    /// Who earns.
    pub receiver: Address,
    /// How much.
    pub amount: Usdc,
}

/// What a route earned through channels, for one receiver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EarningRow {
    /// The route of the price list; [`UNATTRIBUTED`] where what was charged for is not known.
    pub route: String,
    /// Who earns.
    pub receiver: Address,
    /// Calls that were charged.
    pub calls: u64,
    /// What they were charged.
    pub amount: Usdc,
    /// What of it was claimed and stands in the ledger.
    pub booked: Usdc,
}

/// The route of what was claimed and is in no record of ours: charges that a lost store knew.
pub const UNATTRIBUTED: &str = "(unattributed)";

const PUT: Many = Many {
    head: "INSERT INTO meter (id, config, balance, claimed, booked, refund_nonce,
             withdraw_since_s, read_ms, owed_since_ms, refund, version)",
    shared: 0,
    columns: 11,
    tail: " ON CONFLICT (id) DO UPDATE SET
             balance = excluded.balance, claimed = excluded.claimed, booked = excluded.booked,
             refund_nonce = excluded.refund_nonce,
             withdraw_since_s = excluded.withdraw_since_s, read_ms = excluded.read_ms,
             owed_since_ms = excluded.owed_since_ms, refund = excluded.refund,
             version = excluded.version
           WHERE excluded.version > meter.version",
};

const PUT_VOUCHER: Many = Many {
    head: "INSERT INTO voucher (id, charged, ceiling, signature, last, version)",
    shared: 0,
    columns: 6,
    tail: " ON CONFLICT (id) DO UPDATE SET charged = excluded.charged,
             ceiling = excluded.ceiling, signature = excluded.signature,
             last = excluded.last, version = excluded.version
           WHERE excluded.version > voucher.version",
};

/// A voucher that was taken in a stored channel.
const TAKEN: Many = Many {
    head: "UPDATE voucher SET ceiling = v.column2, signature = v.column3, last = NULL,
             version = v.column4
           FROM (",
    shared: 0,
    columns: 4,
    tail: ") AS v WHERE voucher.id = v.column1 AND voucher.version < v.column4",
};

/// A charge that was made in a stored channel which owes us something already.
const CHARGED: Many = Many {
    head: "UPDATE voucher SET charged = v.column2, last = v.column3, version = v.column4
           FROM (",
    shared: 0,
    columns: 4,
    tail: ") AS v WHERE voucher.id = v.column1 AND voucher.version < v.column4",
};

const VERSIONS: Many = Many {
    head: "SELECT id, version FROM voucher WHERE id IN (",
    shared: 0,
    columns: 1,
    tail: ")",
};

const EARN: Many = Many {
    head: "INSERT INTO earning (day, route, receiver, calls, amount, booked)",
    shared: 0,
    columns: 6,
    tail: " ON CONFLICT (day, route, receiver) DO UPDATE SET
             calls = earning.calls + excluded.calls, amount = earning.amount + excluded.amount,
             booked = earning.booked + excluded.booked",
};

macro_rules! select_meter {
    ($last:literal, $rest:literal) => {
        concat!(
            "SELECT meter.id, config, charged, ceiling, signature, balance, claimed, refund_nonce, ",
            "withdraw_since_s, read_ms, owed_since_ms, ",
            $last,
            ", voucher.version, booked, refund FROM meter JOIN voucher ON voucher.id = meter.id ",
            $rest
        )
    };
}

fn last_answer(row: &MeterRow) -> Result<Option<String>, StoreError> {
    row.last.as_deref().map(|last| to_json("voucher.last", last)).transpose()
}

fn read_meter(row: &AnyRow) -> Result<MeterRow, StoreError> {
    let text = |index: usize| row.try_get::<String, _>(index);
    let int = |index: usize| row.try_get::<i64, _>(index);
    let signature = text(4)?;
    Ok(MeterRow {
        id: parse("meter.id", &text(0)?)?,
        config: json("meter.config", &text(1)?)?,
        charged: narrow_amount(int(2)?)?,
        ceiling: narrow_amount(int(3)?)?,
        signature: hex::decode(&signature)
            .map_err(|_| StoreError::corrupt("voucher.signature", &signature))?,
        chain: OnChain {
            balance: narrow_amount(int(5)?)?,
            claimed: narrow_amount(int(6)?)?,
            refund_nonce: unsigned("meter.refund_nonce", int(7)?)?,
            withdraw_since_s: row
                .try_get::<Option<i64>, _>(8)?
                .map(|at| unsigned("meter.withdraw_since_s", at))
                .transpose()?,
            read_ms: int(9)?,
            block: 0,
        },
        owed_since_ms: row.try_get(10)?,
        last: row
            .try_get::<Option<String>, _>(11)?
            .map(|text| json("voucher.last", &text).map(Arc::new))
            .transpose()?,
        version: unsigned("voucher.version", int(12)?)?,
        booked: narrow_amount(int(13)?)?,
        refund: row
            .try_get::<Option<String>, _>(14)?
            .map(|text| json("meter.refund", &text))
            .transpose()?,
        unstored: Unstored::Nothing,
    })
}

macro_rules! select_purse {
    ($rest:literal) => {
        concat!(
            "SELECT id, agent_id, config, state, charged, ceiling, signature, held_by, balance, ",
            "claimed, withdraw_since_s, read_ms, version, created_ms, key_index, host, returned, ",
            "used_ms FROM purse ",
            $rest
        )
    };
}

fn read_purse(row: &AnyRow) -> Result<PurseRow, StoreError> {
    let text = |index: usize| row.try_get::<String, _>(index);
    let int = |index: usize| row.try_get::<i64, _>(index);
    let (state, signature) = (text(3)?, text(6)?);
    Ok(PurseRow {
        id: parse("purse.id", &text(0)?)?,
        agent: parse("purse.agent_id", &text(1)?)?,
        key_index: narrow("purse.key_index", int(14)?)?,
        host: text(15)?,
        config: json("purse.config", &text(2)?)?,
        state: PurseState::from_name(&state)
            .ok_or_else(|| StoreError::corrupt("purse.state", &state))?,
        charged: narrow_amount(int(4)?)?,
        ceiling: narrow_amount(int(5)?)?,
        signature: hex::decode(&signature)
            .map_err(|_| StoreError::corrupt("purse.signature", &signature))?,
        held: row.try_get(7)?,
        chain: OnChain {
            balance: narrow_amount(int(8)?)?,
            claimed: narrow_amount(int(9)?)?,
            withdraw_since_s: row
                .try_get::<Option<i64>, _>(10)?
                .map(|at| unsigned("purse.withdraw_since_s", at))
                .transpose()?,
            read_ms: int(11)?,
            ..OnChain::default()
        },
        returned: narrow_amount(int(16)?)?,
        used_ms: int(17)?,
        version: unsigned("purse.version", int(12)?)?,
        created_ms: int(13)?,
    })
}

impl Store {
    /// Reads a channel of the wallet's own.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn purse(&self, id: B256) -> Result<Option<PurseRow>, StoreError> {
        let row = sqlx::query(select_purse!("WHERE id = $1"))
            .bind(id.to_string())
            .fetch_optional(&self.readers)
            .await?;
        row.as_ref().map(read_purse).transpose()
    }

    /// Reads an agent's channels to a receiver that are not closed, the newest first, at most 32.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn purses_to(
        &self,
        agent: &AgentId,
        receiver: Address,
    ) -> Result<Vec<PurseRow>, StoreError> {
        let rows = sqlx::query(select_purse!(
            "WHERE agent_id = $1 AND receiver = $2 AND state <> 'closed'
             ORDER BY created_ms DESC, id LIMIT 32"
        ))
        .bind(agent.as_str())
        .bind(receiver.to_string())
        .fetch_all(&self.readers)
        .await?;
        rows.iter().map(read_purse).collect()
    }

    /// Reads what final payments put into the wallet's own channels, by channel; nothing of the hub's.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn channel_fundings(&self) -> Result<Vec<ChannelLine>, StoreError> {
        let rows = sqlx::query(
            "SELECT channel_id, payee, CAST(SUM(amount) AS BIGINT) FROM payment
             WHERE channel_id IS NOT NULL AND state = 'paid' GROUP BY channel_id, payee
             ORDER BY channel_id",
        )
        .fetch_all(&self.readers)
        .await?;
        rows.iter()
            .map(|row| {
                Ok(ChannelLine {
                    id: parse("payment.channel_id", &row.try_get::<String, _>(0)?)?,
                    payee: parse("payment.payee", &row.try_get::<String, _>(1)?)?,
                    funded: narrow_amount(row.try_get(2)?)?,
                    claimed: Usdc::ZERO,
                    held: Usdc::ZERO,
                })
            })
            .collect()
    }

    /// Reads the wallet's own channels, the newest first, at most `limit`.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn purses(&self, limit: u32) -> Result<Vec<PurseRow>, StoreError> {
        let rows = sqlx::query(select_purse!("ORDER BY created_ms DESC, id LIMIT $1"))
            .bind(i64::from(limit))
            .fetch_all(&self.readers)
            .await?;
        rows.iter().map(read_purse).collect()
    }

    /// Reads the wallet's own channels that are not closed, by id, at most `limit`, from after `after` on.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn purses_live(
        &self,
        after: Option<B256>,
        limit: u32,
    ) -> Result<Vec<PurseRow>, StoreError> {
        let rows =
            sqlx::query(select_purse!("WHERE state <> 'closed' AND id > $1 ORDER BY id LIMIT $2"))
                .bind(after.map(|id| id.to_string()).unwrap_or_default())
                .bind(i64::from(limit))
                .fetch_all(&self.readers)
                .await?;
        rows.iter().map(read_purse).collect()
    }

    /// Is a deposit into one of the wallet's own channels on its way?
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn is_funding(&self, id: B256) -> Result<bool, StoreError> {
        let row = sqlx::query(
            "SELECT id FROM payment WHERE channel_id = $1
               AND state IN ('awaiting_approval', 'queued', 'signed', 'broadcast', 'included')
             LIMIT 1",
        )
        .bind(id.to_string())
        .fetch_optional(&self.readers)
        .await?;
        Ok(row.is_some())
    }

    /// Reads a channel.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn meter(&self, id: B256) -> Result<Option<MeterRow>, StoreError> {
        let row = sqlx::query(select_meter!("last", "WHERE meter.id = $1"))
            .bind(id.to_string())
            .fetch_optional(&self.readers)
            .await?;
        row.as_ref().map(read_meter).transpose()
    }

    /// Reads the channels that owe us something, those first whose state on chain is the oldest, at most
    /// `limit`; without their last answers.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn meters_owing(&self, limit: u32) -> Result<Vec<MeterRow>, StoreError> {
        let rows = sqlx::query(select_meter!(
            "CAST(NULL AS TEXT)",
            "WHERE owed_since_ms IS NOT NULL ORDER BY read_ms, meter.id LIMIT $1"
        ))
        .bind(i64::from(limit))
        .fetch_all(&self.readers)
        .await?;
        rows.iter().map(read_meter).collect()
    }

    /// Reads the channels that owe us something and whose payers are withdrawing, at most `limit`; without
    /// their last answers.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn meters_leaving(&self, limit: u32) -> Result<Vec<MeterRow>, StoreError> {
        let rows = sqlx::query(select_meter!(
            "CAST(NULL AS TEXT)",
            "WHERE owed_since_ms IS NOT NULL AND withdraw_since_s IS NOT NULL
             ORDER BY withdraw_since_s, meter.id LIMIT $1"
        ))
        .bind(i64::from(limit))
        .fetch_all(&self.readers)
        .await?;
        rows.iter().map(read_meter).collect()
    }

    /// Reads channels by id, at most `limit`, from after `after` on.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn meters(
        &self,
        after: Option<B256>,
        limit: u32,
    ) -> Result<Vec<MeterRow>, StoreError> {
        let rows =
            sqlx::query(select_meter!("last", "WHERE meter.id > $1 ORDER BY meter.id LIMIT $2"))
                .bind(after.map(|id| id.to_string()).unwrap_or_default())
                .bind(i64::from(limit))
                .fetch_all(&self.readers)
                .await?;
        rows.iter().map(read_meter).collect()
    }

    /// Tells the channels of which the store has a row as new as one of `rows` or newer, or of which there
    /// are two.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn overtaken(&self, rows: &[&MeterRow]) -> Result<BTreeSet<B256>, StoreError> {
        let mut stored = BTreeMap::new();
        for part in VERSIONS.parts(rows, self.marks()) {
            let mut query = VERSIONS.of(part.len(), self.marks());
            for row in part {
                query = query.bind(row.id.to_string());
            }
            for row in query.fetch_all(&self.readers).await? {
                let id: B256 = parse("voucher.id", &row.try_get::<String, _>(0)?)?;
                stored.insert(id, unsigned("voucher.version", row.try_get(1)?)?);
            }
        }
        let mut seen = HashSet::with_capacity(rows.len());
        let is_overtaken = |row: &&&MeterRow| {
            !seen.insert(row.id) || stored.get(&row.id).is_some_and(|at| *at >= row.version)
        };
        Ok(rows.iter().filter(is_overtaken).map(|row| row.id).collect())
    }

    /// Adds up what routes earned through channels, by receiver.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn earnings(&self) -> Result<Vec<EarningRow>, StoreError> {
        earnings(&self.readers).await
    }

    /// Reads who is paid through channels, at most 1,000.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn receivers(&self) -> Result<Vec<Address>, StoreError> {
        let rows =
            sqlx::query("SELECT DISTINCT receiver FROM earning ORDER BY receiver LIMIT 1000")
                .fetch_all(&self.readers)
                .await?;
        rows.iter().map(|row| parse("earning.receiver", &row.try_get::<String, _>(0)?)).collect()
    }
}

pub(super) async fn earnings(
    from: impl Executor<'_, Database = Any>,
) -> Result<Vec<EarningRow>, StoreError> {
    let rows = sqlx::query(
        "SELECT route, receiver, CAST(SUM(calls) AS BIGINT), CAST(SUM(amount) AS BIGINT),
           CAST(SUM(booked) AS BIGINT)
         FROM earning GROUP BY route, receiver ORDER BY route, receiver",
    )
    .fetch_all(from)
    .await?;
    rows.iter()
        .map(|row| {
            Ok(EarningRow {
                route: row.try_get(0)?,
                receiver: parse("earning.receiver", &row.try_get::<String, _>(1)?)?,
                calls: unsigned("earning.calls", row.try_get(2)?)?,
                amount: narrow_amount(row.try_get(3)?)?,
                booked: narrow_amount(row.try_get(4)?)?,
            })
        })
        .collect()
}

impl Tx {
    /// Opens a channel of the wallet's own; one that is there stays as it is.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn open_purse(&mut self, purse: &PurseRow) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO purse (id, agent_id, key_index, host, receiver, config, state, charged,
               ceiling, signature, balance, claimed, returned, used_ms, read_ms, version, created_ms)
             VALUES ($1, $2, $3, $4, $5, $6, $7, 0, 0, '', 0, 0, 0, $8, $9, 0, $10)
             ON CONFLICT (id) DO NOTHING",
        )
        .bind(purse.id.to_string())
        .bind(purse.agent.as_str())
        .bind(i64::from(purse.key_index))
        .bind(&purse.host)
        .bind(purse.config.receiver.to_string())
        .bind(to_json("purse.config", &purse.config)?)
        .bind(purse.state.as_str())
        .bind(purse.used_ms)
        .bind(purse.chain.read_ms)
        .bind(purse.created_ms)
        .execute(&mut *self.inner)
        .await?;
        Ok(())
    }

    /// Reads a channel of the wallet's own inside the transaction.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn purse(&mut self, id: B256) -> Result<Option<PurseRow>, StoreError> {
        let row = sqlx::query(select_purse!("WHERE id = $1"))
            .bind(id.to_string())
            .fetch_optional(&mut *self.inner)
            .await?;
        row.as_ref().map(read_purse).transpose()
    }

    /// Keeps a channel of the wallet's own as it is now. Answers `false`, and keeps nothing, if it has
    /// changed since it was read.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn put_purse(&mut self, purse: &PurseRow, read: u64) -> Result<bool, StoreError> {
        let done = sqlx::query(
            "UPDATE purse SET state = $2, charged = $3, ceiling = $4, signature = $5, held_by = $6,
               balance = $7, claimed = $8, withdraw_since_s = $9, read_ms = $10, version = $11,
               returned = $12, used_ms = $13
             WHERE id = $1 AND version = $14",
        )
        .bind(purse.id.to_string())
        .bind(purse.state.as_str())
        .bind(purse.charged.as_i64())
        .bind(purse.ceiling.as_i64())
        .bind(hex::encode(&purse.signature))
        .bind(&purse.held)
        .bind(purse.chain.balance.as_i64())
        .bind(purse.chain.claimed.as_i64())
        .bind(purse.chain.withdraw_since_s.map(u64::cast_signed))
        .bind(purse.chain.read_ms)
        .bind(purse.version.cast_signed())
        .bind(purse.returned.as_i64())
        .bind(purse.used_ms)
        .bind(read.cast_signed())
        .execute(&mut *self.inner)
        .await?;
        Ok(done.rows_affected() == 1)
    }

    /// Keeps channels as they are now. Answers `false`, and is to be rolled back, if the store has a row
    /// of one of them that is as new or newer, or lacks one, or two rows are of one channel:
    /// [`Store::overtaken`] tells which.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn put_meters(&mut self, rows: &[&MeterRow]) -> Result<bool, StoreError> {
        let mut seen = HashSet::with_capacity(rows.len());
        if !rows.iter().all(|row| seen.insert(row.id)) {
            return Ok(false);
        }
        let of = |kinds: &[Unstored]| -> Vec<&MeterRow> {
            rows.iter().filter(|row| kinds.contains(&row.unstored)).copied().collect()
        };
        for part in TAKEN.parts(&of(&[Unstored::Voucher]), self.marks) {
            let mut query = TAKEN.of(part.len(), self.marks);
            for row in part {
                query = query
                    .bind(row.id.to_string())
                    .bind(row.ceiling.as_i64())
                    .bind(hex::encode(&row.signature))
                    .bind(row.version.cast_signed());
            }
            if query.execute(&mut *self.inner).await?.rows_affected() != part.len() as u64 {
                return Ok(false);
            }
        }
        for part in CHARGED.parts(&of(&[Unstored::Charge]), self.marks) {
            let mut query = CHARGED.of(part.len(), self.marks);
            for row in part {
                query = query
                    .bind(row.id.to_string())
                    .bind(row.charged.as_i64())
                    .bind(last_answer(row)?)
                    .bind(row.version.cast_signed());
            }
            if query.execute(&mut *self.inner).await?.rows_affected() != part.len() as u64 {
                return Ok(false);
            }
        }
        let whole = of(&[Unstored::Everything, Unstored::Nothing]);
        for part in PUT.parts(&whole, self.marks) {
            let mut query = PUT.of(part.len(), self.marks);
            for row in part {
                let refund = row.refund.map(|it| to_json("meter.refund", &it)).transpose()?;
                query = query
                    .bind(row.id.to_string())
                    .bind(to_json("meter.config", &row.config)?)
                    .bind(row.chain.balance.as_i64())
                    .bind(row.chain.claimed.as_i64())
                    .bind(row.booked.as_i64())
                    .bind(row.chain.refund_nonce.cast_signed())
                    .bind(row.chain.withdraw_since_s.map(u64::cast_signed))
                    .bind(row.chain.read_ms)
                    .bind(row.owed_since_ms)
                    .bind(refund)
                    .bind(row.version.cast_signed());
            }
            query.execute(&mut *self.inner).await?;
        }
        for part in PUT_VOUCHER.parts(&whole, self.marks) {
            let mut query = PUT_VOUCHER.of(part.len(), self.marks);
            for row in part {
                query = query
                    .bind(row.id.to_string())
                    .bind(row.charged.as_i64())
                    .bind(row.ceiling.as_i64())
                    .bind(hex::encode(&row.signature))
                    .bind(last_answer(row)?)
                    .bind(row.version.cast_signed());
            }
            if query.execute(&mut *self.inner).await?.rows_affected() != part.len() as u64 {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Adds up what was charged, by day, route and receiver.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn add_earnings(&mut self, earned: &[&Earning]) -> Result<(), StoreError> {
        let mut sums: BTreeMap<(u64, &str, Address), (i64, Usdc)> = BTreeMap::new();
        for earning in earned {
            let sum = sums
                .entry((earning.day, &earning.route, earning.receiver))
                .or_insert((0, Usdc::ZERO));
            *sum = (sum.0 + 1, sum.1.saturating_add(earning.amount));
        }
        let sums: Vec<_> = sums.into_iter().collect();
        for part in EARN.parts(&sums, self.marks) {
            let mut query = EARN.of(part.len(), self.marks);
            for ((day, route, receiver), (calls, amount)) in part {
                query = query
                    .bind(day.cast_signed())
                    .bind((*route).to_owned())
                    .bind(receiver.to_string())
                    .bind(*calls)
                    .bind(amount.as_i64())
                    .bind(0_i64);
            }
            query.execute(&mut *self.inner).await?;
        }
        Ok(())
    }

    /// Books what was claimed for a receiver: by route, what was charged first is what was claimed
    /// first. `claim` names it, once.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn book_claimed(
        &mut self,
        claim: &str,
        (receiver, wallet): (Address, Address),
        claimed: Usdc,
        now_ms: i64,
    ) -> Result<(), StoreError> {
        let credit = || match receiver {
            account if account == wallet => Account::Wallet,
            account => Account::Revenue(account),
        };
        let mut left = claimed;
        let mut parts: BTreeMap<String, Usdc> = BTreeMap::new();
        let owed = sqlx::query(
            "SELECT day, route, amount, booked FROM earning
             WHERE receiver = $1 AND booked < amount ORDER BY day, route",
        )
        .bind(receiver.to_string())
        .fetch_all(&mut *self.inner)
        .await?;
        for row in owed {
            if left.is_zero() {
                break;
            }
            let (day, route): (i64, String) = (row.try_get(0)?, row.try_get(1)?);
            let amount = narrow_amount(row.try_get(2)?)?;
            let open = amount.saturating_sub(narrow_amount(row.try_get(3)?)?);
            let part = open.min(left);
            left = left.saturating_sub(part);
            sqlx::query(
                "UPDATE earning SET booked = booked + $4
                 WHERE day = $1 AND route = $2 AND receiver = $3",
            )
            .bind(day)
            .bind(route.clone())
            .bind(receiver.to_string())
            .bind(part.as_i64())
            .execute(&mut *self.inner)
            .await?;
            let sum = parts.entry(route).or_insert(Usdc::ZERO);
            *sum = sum.saturating_add(part);
        }
        if !left.is_zero() {
            let query =
                EARN.of(1, self.marks).bind(now_ms / 86_400_000).bind(UNATTRIBUTED.to_owned());
            query
                .bind(receiver.to_string())
                .bind(0_i64)
                .bind(left.as_i64())
                .bind(left.as_i64())
                .execute(&mut *self.inner)
                .await?;
            parts.insert(UNATTRIBUTED.to_owned(), left);
        }
        for (number, (route, part)) in parts.into_iter().enumerate() {
            let id = format!("{claim}:{number}");
            self.book_moved(&id, (Account::Sales(route), credit()), part, now_ms).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::all_search;

    /// What a voucher costs must not grow with the channels beside it.
    #[tokio::test]
    async fn a_vouchers_row_is_found_by_its_id() {
        let statements = [(&TAKEN, 1), (&TAKEN, 256), (&CHARGED, 1), (&CHARGED, 256)];
        let text = |store: &Store| {
            statements.iter().map(|(many, rows)| many.text(*rows, store.marks())).collect()
        };
        all_search("voucher", text).await;
    }
}
