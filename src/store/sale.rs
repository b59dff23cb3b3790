//! Sales: what the paywall sold, one row for each payment that was verified.

use std::collections::BTreeMap;

use alloy::primitives::{Address, B256};
use serde::Serialize;
use sqlx::{Row as _, any::AnyRow};

use super::{
    Store, StoreError, Tx,
    channel::earnings,
    payment::{json, narrow_amount, unsigned},
};
use crate::{
    ledger::Account,
    money::Usdc,
    refusal::Refusal,
    seller::{Protocol, SaleState, Stored},
    store::parse,
    x402::FacilitatorRequest,
};

/// Rows that one step of forgetting looks at.
const STEP: i64 = 200;

/// A sale as stored.
#[derive(Clone, Debug, Serialize)]
pub struct SaleRow {
    /// Its id: `sal_` and 32 hexadecimal digits, in the order of time.
    pub id: String,
    /// The payment, as the facilitator names it: the same payment has the same.
    pub payment: String,
    /// The buyer's name for it (payment-identifier), with the payer's address before it.
    pub identifier: Option<String>,
    /// Hash of what the payment showed beside what a chain will show of it.
    #[serde(skip)]
    pub proof: Option<B256>,
    /// Hash of the request that was paid for.
    #[serde(skip)]
    pub fingerprint: B256,
    /// The route of the price list.
    pub route: String,
    /// The request's method.
    pub method: String,
    /// The request's path and query.
    pub target: String,
    /// How it was paid.
    pub protocol: Protocol,
    /// Whose money.
    pub payer: Address,
    /// Where it goes.
    pub pay_to: Address,
    /// How much.
    pub amount: Usdc,
    /// What the facilitator is asked.
    #[serde(skip)]
    pub request: FacilitatorRequest,
    /// Where it stands.
    pub state: SaleState,
    /// The handler's answer, while it is kept.
    #[serde(skip)]
    pub response: Option<Stored>,
    /// Why it was not settled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refusal: Option<Refusal>,
    /// The transaction that moved the money.
    pub tx_hash: Option<B256>,
    /// Unix seconds at which the payer's signature ends.
    pub valid_before_s: u64,
    /// When somebody else than who serves it looks after it, milliseconds.
    #[serde(skip)]
    pub due_ms: i64,
    /// Paid for, milliseconds.
    pub created_ms: i64,
    /// Last changed, milliseconds.
    pub updated_ms: i64,
}

impl RouteSales {
    const fn none(route: String, pay_to: Address) -> Self {
        let zero = Usdc::ZERO;
        Self {
            route,
            pay_to,
            sold: 0,
            calls: 0,
            revenue: zero,
            posted: zero,
            pending: 0,
            pending_revenue: zero,
            unpaid: 0,
        }
    }

    /// Has the ledger what the sales brought?
    #[must_use]
    pub fn agrees(&self) -> bool {
        self.revenue == self.posted
    }
}

/// What one route earned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RouteSales {
    /// The route of the price list.
    pub route: String,
    /// Where its money goes.
    pub pay_to: Address,
    /// Sales that are final.
    pub sold: u64,
    /// Calls that were charged in channels, claimed or not.
    pub calls: u64,
    /// What sales brought, and what was claimed of channels, the oldest day first; by the rows.
    pub revenue: Usdc,
    /// The same by the ledger's transfers.
    pub posted: Usdc,
    /// Sales that are not final yet.
    pub pending: u64,
    /// What those will bring, and what channels owe.
    pub pending_revenue: Usdc,
    /// Sales that brought nothing.
    pub unpaid: u64,
}

macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT id, payment, identifier, proof, fingerprint, route, method, target, protocol, ",
            "payer, pay_to, amount, request, state, response, refusal, tx_hash, valid_before_s, ",
            "due_ms, created_ms, updated_ms FROM sale ",
            $rest
        )
    };
}

fn read(row: &AnyRow) -> Result<SaleRow, StoreError> {
    let text = |index: usize| row.try_get::<String, _>(index);
    let maybe = |index: usize| row.try_get::<Option<String>, _>(index);
    let int = |index: usize| row.try_get::<i64, _>(index);
    let (protocol, state) = (text(8)?, text(13)?);
    Ok(SaleRow {
        id: text(0)?,
        payment: text(1)?,
        identifier: maybe(2)?,
        proof: maybe(3)?.map(|text| parse("sale.proof", &text)).transpose()?,
        fingerprint: parse("sale.fingerprint", &text(4)?)?,
        route: text(5)?,
        method: text(6)?,
        target: text(7)?,
        protocol: Protocol::from_name(&protocol)
            .ok_or_else(|| StoreError::corrupt("sale.protocol", &protocol))?,
        payer: parse("sale.payer", &text(9)?)?,
        pay_to: parse("sale.pay_to", &text(10)?)?,
        amount: narrow_amount(int(11)?)?,
        request: json("sale.request", &text(12)?)?,
        state: SaleState::from_name(&state)
            .ok_or_else(|| StoreError::corrupt("sale.state", &state))?,
        response: maybe(14)?.map(|text| json("sale.response", &text)).transpose()?,
        refusal: maybe(15)?.map(|text| json("sale.refusal", &text)).transpose()?,
        tx_hash: maybe(16)?.map(|text| parse("sale.tx_hash", &text)).transpose()?,
        valid_before_s: unsigned("sale.valid_before_s", int(17)?)?,
        due_ms: int(18)?,
        created_ms: int(19)?,
        updated_ms: int(20)?,
    })
}

fn all(rows: &[AnyRow]) -> Result<Vec<SaleRow>, StoreError> {
    rows.iter().map(read).collect()
}

impl Store {
    /// Finds a sale by its payment.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn sale_of(&self, payment: &str) -> Result<Option<SaleRow>, StoreError> {
        let row = sqlx::query(select!("WHERE payment = $1"))
            .bind(payment.to_owned())
            .fetch_optional(&self.readers)
            .await?;
        row.as_ref().map(read).transpose()
    }

    /// Finds a sale by its buyer's name for it.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn sale_named(&self, identifier: &str) -> Result<Option<SaleRow>, StoreError> {
        let row = sqlx::query(select!("WHERE identifier = $1"))
            .bind(identifier.to_owned())
            .fetch_optional(&self.readers)
            .await?;
        row.as_ref().map(read).transpose()
    }

    /// Reads sales that are due to be looked after, the longest due first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn sales_due(&self, now_ms: i64, most: u32) -> Result<Vec<SaleRow>, StoreError> {
        let rows = sqlx::query(select!(
            "WHERE state IN ('open', 'served', 'settled') AND due_ms <= $1
             ORDER BY due_ms LIMIT $2"
        ))
        .bind(now_ms)
        .bind(i64::from(most))
        .fetch_all(&self.readers)
        .await?;
        all(&rows)
    }

    /// Reads the newest sales, of all routes or of one.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn sales(&self, route: Option<&str>, most: u32) -> Result<Vec<SaleRow>, StoreError> {
        let query = match route {
            Some(route) => sqlx::query(select!("WHERE route = $2 ORDER BY id DESC LIMIT $1"))
                .bind(i64::from(most))
                .bind(route.to_owned()),
            None => sqlx::query(select!("ORDER BY id DESC LIMIT $1")).bind(i64::from(most)),
        };
        all(&query.fetch_all(&self.readers).await?)
    }

    /// Adds up what each route earned, by sales, by channels, and by the ledger.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn route_sales(&self, wallet: Address) -> Result<Vec<RouteSales>, StoreError> {
        // Sales and ledger change together.
        let mut moment = self.moment().await?;
        let rows = sqlx::query(
            "SELECT s.route, s.pay_to,
               CAST(SUM(CASE WHEN s.state = 'final' THEN 1 ELSE 0 END) AS BIGINT),
               CAST(SUM(CASE WHEN s.state = 'final' THEN s.amount ELSE 0 END) AS BIGINT),
               CAST(COALESCE(SUM(t.amount), 0) AS BIGINT),
               CAST(SUM(CASE WHEN s.state IN ('open', 'served', 'settled') THEN 1 ELSE 0 END)
                 AS BIGINT),
               CAST(SUM(CASE WHEN s.state IN ('open', 'served', 'settled') THEN s.amount ELSE 0 END)
                 AS BIGINT),
               CAST(SUM(CASE WHEN s.state IN ('void', 'closed', 'failed') THEN 1 ELSE 0 END)
                 AS BIGINT)
             FROM sale s
             LEFT JOIN ledger_transfer t ON t.payment_id = s.id AND t.state = 'posted'
             GROUP BY s.route, s.pay_to ORDER BY s.route, s.pay_to",
        )
        .fetch_all(&mut *moment)
        .await?;
        let mut routes: BTreeMap<(String, Address), RouteSales> = BTreeMap::new();
        for row in rows {
            let int = |index: usize| row.try_get::<i64, _>(index);
            let route: String = row.try_get(0)?;
            let pay_to = parse("sale.pay_to", &row.try_get::<String, _>(1)?)?;
            let line = RouteSales {
                sold: unsigned("count", int(2)?)?,
                revenue: narrow_amount(int(3)?)?,
                posted: narrow_amount(int(4)?)?,
                pending: unsigned("count", int(5)?)?,
                pending_revenue: narrow_amount(int(6)?)?,
                unpaid: unsigned("count", int(7)?)?,
                ..RouteSales::none(route.clone(), pay_to)
            };
            routes.insert((route, pay_to), line);
        }
        for earned in earnings(&mut *moment).await? {
            let key = (earned.route.clone(), earned.receiver);
            let none = || RouteSales::none(earned.route, earned.receiver);
            let line = routes.entry(key).or_insert_with(none);
            line.calls = earned.calls;
            line.revenue = line.revenue.saturating_add(earned.booked);
            let owed = earned.amount.saturating_sub(earned.booked);
            line.pending_revenue = line.pending_revenue.saturating_add(owed);
        }
        let claims = sqlx::query(
            "SELECT debit, credit, CAST(SUM(amount) AS BIGINT) FROM ledger_transfer
             WHERE payment_id LIKE 'claim:%' AND state = 'posted' GROUP BY debit, credit",
        )
        .fetch_all(&mut *moment)
        .await?;
        for row in claims {
            let account =
                |index: usize| parse("ledger_transfer.account", &row.try_get::<String, _>(index)?);
            let pay_to = match account(1)? {
                Account::Revenue(account) => account,
                _ => wallet,
            };
            let Account::Sales(route) = account(0)? else { continue };
            let none = || RouteSales::none(route.clone(), pay_to);
            let line = routes.entry((route.clone(), pay_to)).or_insert_with(none);
            line.posted = line.posted.saturating_add(narrow_amount(row.try_get(2)?)?);
        }
        Ok(routes.into_values().collect())
    }
}

impl Tx {
    /// Opens a sale: a new one, or one whose handler failed before. Answers `false` if its payment, or
    /// its buyer's name for it, has another that lives.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn open_sale(&mut self, row: &SaleRow) -> Result<bool, StoreError> {
        let corrupt = |error| StoreError::corrupt("sale.request", error);
        let request = serde_json::to_string(&row.request).map_err(corrupt)?;
        let done = sqlx::query(
            "INSERT INTO sale (id, payment, identifier, proof, fingerprint, route, method, target,
               protocol, payer, pay_to, amount, request, state, valid_before_s, due_ms, created_ms,
               updated_ms)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, 'open', $14, $15, $16,
               $17)
             ON CONFLICT (payment) DO UPDATE SET
               identifier = excluded.identifier, proof = excluded.proof,
               fingerprint = excluded.fingerprint, route = excluded.route,
               method = excluded.method, target = excluded.target, request = excluded.request,
               state = 'open', due_ms = excluded.due_ms, updated_ms = excluded.updated_ms
             WHERE sale.state = 'void'",
        )
        .bind(row.id.clone())
        .bind(row.payment.clone())
        .bind(row.identifier.clone())
        .bind(row.proof.map(|proof| proof.to_string()))
        .bind(row.fingerprint.to_string())
        .bind(row.route.clone())
        .bind(row.method.clone())
        .bind(row.target.clone())
        .bind(row.protocol.as_str())
        .bind(row.payer.to_string())
        .bind(row.pay_to.to_string())
        .bind(row.amount.as_i64())
        .bind(request)
        .bind(i64::try_from(row.valid_before_s).unwrap_or(i64::MAX))
        .bind(row.due_ms)
        .bind(row.created_ms)
        .bind(row.updated_ms)
        .execute(&mut *self.inner)
        .await
        .map_err(StoreError::from);
        match done {
            Ok(done) => Ok(done.rows_affected() == 1),
            Err(error) if error.is_duplicate() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Keeps the handler's answer: the sale waits for its settlement. Answers `false` if somebody
    /// closed it meanwhile; then it must not be settled.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn serve_sale(
        &mut self,
        payment: &str,
        response: &Stored,
        (due_ms, now_ms): (i64, i64),
    ) -> Result<bool, StoreError> {
        let corrupt = |error| StoreError::corrupt("sale.response", error);
        let response = serde_json::to_string(response).map_err(corrupt)?;
        let done = sqlx::query(
            "UPDATE sale SET state = 'served', response = $2, due_ms = $3, updated_ms = $4
             WHERE payment = $1 AND state = 'open'",
        )
        .bind(payment.to_owned())
        .bind(response)
        .bind(due_ms)
        .bind(now_ms)
        .execute(&mut *self.inner)
        .await?;
        Ok(done.rows_affected() == 1)
    }

    /// Ends a sale that brings nothing: `void` (the handler failed; it may be opened again), `closed`
    /// (cut off in between) or `failed` (not settled). Its name is free again.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn end_sale(
        &mut self,
        payment: &str,
        (from, to): (SaleState, SaleState),
        refusal: Option<&Refusal>,
        now_ms: i64,
    ) -> Result<bool, StoreError> {
        let corrupt = |error| StoreError::corrupt("sale.refusal", error);
        let refusal = refusal.map(serde_json::to_string).transpose().map_err(corrupt)?;
        let done = sqlx::query(
            "UPDATE sale SET state = $3, refusal = $4, identifier = NULL, response = NULL,
               updated_ms = $5
             WHERE payment = $1 AND state = $2",
        )
        .bind(payment.to_owned())
        .bind(from.as_str())
        .bind(to.as_str())
        .bind(refusal)
        .bind(now_ms)
        .execute(&mut *self.inner)
        .await?;
        Ok(done.rows_affected() == 1)
    }

    /// Says when a sale is looked after next.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn delay_sale(&mut self, payment: &str, due_ms: i64) -> Result<(), StoreError> {
        sqlx::query("UPDATE sale SET due_ms = $2 WHERE payment = $1")
            .bind(payment.to_owned())
            .bind(due_ms)
            .execute(&mut *self.inner)
            .await?;
        Ok(())
    }

    /// Notes that the money of a served sale moved, in a transaction that is not final yet.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn settle_sale(
        &mut self,
        payment: &str,
        hash: B256,
        (due_ms, now_ms): (i64, i64),
    ) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE sale SET state = 'settled', tx_hash = $2, due_ms = $3, updated_ms = $4
             WHERE payment = $1 AND state = 'served'",
        )
        .bind(payment.to_owned())
        .bind(hash.to_string())
        .bind(due_ms)
        .bind(now_ms)
        .execute(&mut *self.inner)
        .await?;
        Ok(())
    }

    /// Books a sale whose transaction is final: state and ledger, once. A payment that is no sale
    /// changes nothing.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn book_sale(
        &mut self,
        payment: &str,
        hash: B256,
        wallet: Address,
        now_ms: i64,
    ) -> Result<Option<SaleRow>, StoreError> {
        let row = sqlx::query(select!("WHERE payment = $1 AND state IN ('served', 'settled')"))
            .bind(payment.to_owned())
            .fetch_optional(&mut *self.inner)
            .await?;
        let Some(sale) = row.as_ref().map(read).transpose()? else { return Ok(None) };
        sqlx::query(
            "UPDATE sale SET state = 'final', tx_hash = $2, updated_ms = $3 WHERE payment = $1",
        )
        .bind(payment.to_owned())
        .bind(hash.to_string())
        .bind(now_ms)
        .execute(&mut *self.inner)
        .await?;
        let credit = match sale.pay_to {
            account if account == wallet => Account::Wallet,
            account => Account::Revenue(account),
        };
        let route = Account::Sales(sale.route.clone());
        self.book_moved(&sale.id, (route, credit), sale.amount, now_ms).await?;
        Ok(Some(sale))
    }

    /// Forgets, in a bounded step, answers that are older than a time, and sales that brought nothing
    /// and whose payment cannot be settled any more.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn forget_sales(&mut self, kept_ms: i64, now_s: i64) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE sale SET response = NULL WHERE id IN (
               SELECT id FROM sale WHERE response IS NOT NULL AND updated_ms < $1
                 AND state IN ('settled', 'final') LIMIT $2)",
        )
        .bind(kept_ms)
        .bind(STEP)
        .execute(&mut *self.inner)
        .await?;
        sqlx::query(
            "DELETE FROM sale WHERE id IN (
               SELECT id FROM sale WHERE state IN ('void', 'closed') AND valid_before_s < $1
               LIMIT $2)",
        )
        .bind(now_s)
        .bind(STEP)
        .execute(&mut *self.inner)
        .await?;
        Ok(())
    }
}
