//! Purchases: one row a call that was paid, with the one authorization that pays it.

use alloy::primitives::{Address, B256};
use serde_json::Value;
use sqlx::{
    Any, Row as _,
    any::{AnyArguments, AnyRow},
    query::Query,
};

use super::{
    Store, StoreError, Tx,
    many::Many,
    parse,
    payment::{json, narrow, narrow_amount, to_json, unsigned},
    settled::SettledPayment,
    share::Word,
};
use crate::{
    book::PaidIn,
    buyer::{Answer, Call, PayerKind, PurchaseState},
    ledger::{Account, Transfer},
    money::Usdc,
    payment::{AgentId, PaymentId},
    policy::{Facts, FetchUsed},
};

/// A purchase as stored.
#[derive(Clone, Debug)]
pub struct PurchaseRow {
    /// Its id.
    pub id: PaymentId,
    /// Who asked.
    pub agent: AgentId,
    /// Under which key.
    pub idempotency_key: String,
    /// Hash of what was asked, to tell a retry from a reused key.
    pub fingerprint: B256,
    /// Whom it was asked of: lower case, without port.
    pub host: String,
    /// The URL's path, without its query.
    pub path: String,
    /// What is sent.
    pub call: Call,
    /// The offer that was taken, with the seller's own text.
    pub offer: Value,
    /// By what it is paid.
    pub payer_kind: PayerKind,
    /// Whose money moves.
    pub payer: Address,
    /// Where it goes.
    pub payee: Address,
    /// How much.
    pub amount: Usdc,
    /// The authorization's nonce: the token takes it once.
    pub nonce: B256,
    /// Unix seconds from which on the authorization is void; [`PurchaseRow::ENDLESS`] of a voucher.
    pub valid_before_s: u64,
    /// The header that carries the payment.
    pub header_name: String,
    /// Its value: the signed payment.
    pub header_value: String,
    /// The channel that pays it; none for an authorization.
    pub channel: Option<B256>,
    /// What it cost of a channel, once known: at most `amount`, unless the seller took more for nothing.
    pub charged: Option<Usdc>,
    /// The agent's policy version on chain when it was decided.
    pub policy_version: u64,
    /// Where it stands.
    pub state: PurchaseState,
    /// Times that the payment was sent.
    pub sends: u32,
    /// Why it is where it is.
    pub note: Option<String>,
    /// What the seller delivered.
    pub answer: Option<Answer>,
    /// The transaction that paid it: the seller's word, until it is `paid`.
    pub tx_hash: Option<B256>,
    /// Its block, once final.
    pub block: Option<u64>,
    /// That block's time, unix seconds.
    pub block_time_s: Option<u64>,
    /// The newest block when it was signed: it was not used before.
    pub since_block: u64,
    /// Signed, milliseconds.
    pub created_ms: i64,
    /// Last changed, milliseconds.
    pub updated_ms: i64,
}

/// A past call, for the loop breaker.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Whose.
    pub agent: AgentId,
    /// What was called.
    pub call: Call,
    /// When, milliseconds.
    pub at_ms: i64,
}

macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT id, agent_id, idempotency_key, fingerprint, host, path, request, offer,
               payer_kind, payer, payee, amount, nonce, valid_before_s, header_name, header_value,
               policy_version, state, sends, note, response, tx_hash, block, since_block,
               created_ms, updated_ms, block_time_s, channel, charged FROM purchase ",
            $rest
        )
    };
}

const BY_NONCE: Many = Many {
    head: "SELECT p.nonce, p.payee, p.amount FROM (",
    shared: 0,
    columns: 2,
    tail: ") AS v CROSS JOIN purchase p WHERE p.payer = v.column1 AND p.nonce = v.column2",
};

/// What the books say of an authorization that the wallet signed.
#[derive(Clone, Debug)]
pub(crate) struct Bought {
    pub nonce: B256,
    pub payee: Address,
    pub amount: Usdc,
}

const BOUGHT: &str =
    "SELECT CAST(COALESCE(SUM(CASE WHEN host = $2 THEN amount ELSE 0 END), 0) AS BIGINT),
            CAST(COALESCE(SUM(amount), 0) AS BIGINT),
            CAST(COALESCE(SUM(CASE WHEN minute >= $4 THEN amount ELSE 0 END), 0) AS BIGINT)
     FROM bought WHERE agent_id = $1 AND minute >= $3";

/// Milliseconds of a minute, and minutes after which a sum is forgotten.
const MINUTE_MS: i64 = 60_000;
const DAY_MS: i64 = 1_440 * MINUTE_MS;
const KEPT_MINUTES: i64 = 3 * 1_440;

const SIGNED_AWAY: &str = "SELECT CAST(COALESCE(SUM(amount), 0) AS BIGINT) FROM purchase
     WHERE payer = $1 AND state IN ('signed', 'unknown', 'reported')";

/// Asks what an agent bought, from a host and from all of them, in the last 24 hours and the last minute.
fn used<'q>(agent: &'q AgentId, host: &'q str, now_ms: i64) -> Query<'q, Any, AnyArguments> {
    let from = |span_ms: i64| now_ms.saturating_sub(span_ms).div_euclid(MINUTE_MS);
    let query = sqlx::query(BOUGHT).bind(agent.as_str()).bind(host);
    query.bind(from(DAY_MS)).bind(from(MINUTE_MS))
}

fn read_used(row: &AnyRow) -> Result<FetchUsed, StoreError> {
    Ok(FetchUsed {
        host: narrow_amount(row.try_get(0)?)?,
        all: narrow_amount(row.try_get(1)?)?,
        minute: narrow_amount(row.try_get(2)?)?,
    })
}

fn read(row: &AnyRow) -> Result<PurchaseRow, StoreError> {
    let text = |index: usize| row.try_get::<String, _>(index);
    let maybe = |index: usize| row.try_get::<Option<String>, _>(index);
    let int = |index: usize| row.try_get::<i64, _>(index);
    let (kind, state) = (text(8)?, text(17)?);
    Ok(PurchaseRow {
        id: parse("purchase.id", &text(0)?)?,
        agent: parse("purchase.agent_id", &text(1)?)?,
        idempotency_key: text(2)?,
        fingerprint: parse("purchase.fingerprint", &text(3)?)?,
        host: text(4)?,
        path: text(5)?,
        call: json("purchase.request", &text(6)?)?,
        offer: json("purchase.offer", &text(7)?)?,
        payer_kind: PayerKind::from_name(&kind)
            .ok_or_else(|| StoreError::corrupt("purchase.payer_kind", &kind))?,
        payer: parse("purchase.payer", &text(9)?)?,
        payee: parse("purchase.payee", &text(10)?)?,
        amount: narrow_amount(int(11)?)?,
        nonce: parse("purchase.nonce", &text(12)?)?,
        valid_before_s: unsigned("purchase.valid_before_s", int(13)?)?,
        header_name: text(14)?,
        header_value: text(15)?,
        policy_version: unsigned("purchase.policy_version", int(16)?)?,
        state: PurchaseState::from_name(&state)
            .ok_or_else(|| StoreError::corrupt("purchase.state", &state))?,
        sends: narrow("purchase.sends", int(18)?)?,
        note: maybe(19)?,
        answer: maybe(20)?.map(|text| json("purchase.response", &text)).transpose()?,
        tx_hash: maybe(21)?.map(|text| parse("purchase.tx_hash", &text)).transpose()?,
        block: row
            .try_get::<Option<i64>, _>(22)?
            .map(|block| unsigned("purchase.block", block))
            .transpose()?,
        since_block: unsigned("purchase.since_block", int(23)?)?,
        created_ms: int(24)?,
        updated_ms: int(25)?,
        block_time_s: row
            .try_get::<Option<i64>, _>(26)?
            .map(|time| unsigned("purchase.block_time_s", time))
            .transpose()?,
        channel: maybe(27)?.map(|text| parse("purchase.channel", &text)).transpose()?,
        charged: row.try_get::<Option<i64>, _>(28)?.map(narrow_amount).transpose()?,
    })
}

impl Store {
    /// Reads the purchase of an idempotency key.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn purchase_of(
        &self,
        agent: &AgentId,
        key: &str,
    ) -> Result<Option<PurchaseRow>, StoreError> {
        let row = sqlx::query(select!("WHERE agent_id = $1 AND idempotency_key = $2"))
            .bind(agent.as_str())
            .bind(key)
            .fetch_optional(&self.readers)
            .await?;
        row.as_ref().map(read).transpose()
    }

    /// Reads one purchase.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn purchase(&self, id: PaymentId) -> Result<Option<PurchaseRow>, StoreError> {
        let row = sqlx::query(select!("WHERE id = $1"))
            .bind(id.to_string())
            .fetch_optional(&self.readers)
            .await?;
        row.as_ref().map(read).transpose()
    }

    /// Reads a page of an agent's purchases, newest first, below `before`.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn purchases(
        &self,
        agent: &AgentId,
        before: Option<PaymentId>,
        limit: u32,
    ) -> Result<Vec<PurchaseRow>, StoreError> {
        let rows =
            sqlx::query(select!("WHERE agent_id = $1 AND id < $2 ORDER BY id DESC LIMIT $3"))
                .bind(agent.as_str())
                .bind(before.unwrap_or(PaymentId::LAST).to_string())
                .bind(i64::from(limit))
                .fetch_all(&self.readers)
                .await?;
        rows.iter().map(read).collect()
    }

    /// Reads authorizations whose fate on chain is open, oldest first, from the first one after `after`.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn purchases_open(
        &self,
        after: Option<PaymentId>,
        limit: u32,
    ) -> Result<Vec<PurchaseRow>, StoreError> {
        let rows = sqlx::query(select!(
            "WHERE state IN ('signed', 'unknown', 'reported') AND channel IS NULL AND id > $1
             ORDER BY id LIMIT $2"
        ))
        .bind(after.map_or_else(String::new, |id| id.to_string()))
        .bind(i64::from(limit))
        .fetch_all(&self.readers)
        .await?;
        rows.iter().map(read).collect()
    }

    /// Reads calls since a time, for the loop breaker: those that were paid or may be, newest first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn purchases_since(
        &self,
        since_ms: i64,
        limit: u32,
    ) -> Result<Vec<Seen>, StoreError> {
        let rows = sqlx::query(
            "SELECT agent_id, request, created_ms FROM purchase
             WHERE created_ms > $1 ORDER BY created_ms DESC LIMIT $2",
        )
        .bind(since_ms)
        .bind(i64::from(limit))
        .fetch_all(&self.readers)
        .await?;
        rows.iter()
            .map(|row| {
                Ok(Seen {
                    agent: parse("purchase.agent_id", &row.try_get::<String, _>(0)?)?,
                    call: json("purchase.request", &row.try_get::<String, _>(1)?)?,
                    at_ms: row.try_get(2)?,
                })
            })
            .collect()
    }

    /// How did the last purchase from a host end that was paid by a signature of the wallet?
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn last_end_at(
        &self,
        agent: &AgentId,
        host: &str,
        kind: PayerKind,
    ) -> Result<Option<PurchaseState>, StoreError> {
        let row = sqlx::query(
            "SELECT state FROM purchase WHERE agent_id = $1 AND host = $2 AND payer_kind = $3
               AND state IN ('paid', 'unpaid', 'reported') ORDER BY created_ms DESC LIMIT 1",
        )
        .bind(agent.as_str())
        .bind(host)
        .bind(kind.as_str())
        .fetch_optional(&self.readers)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let state: String = row.try_get(0)?;
        PurchaseState::from_name(&state)
            .map(Some)
            .ok_or_else(|| StoreError::corrupt("purchase.state", state))
    }

    /// Who was paid last for what an agent bought from a host, if that is another than `payee` and nothing
    /// was ever signed there for that one?
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn payee_before(
        &self,
        agent: &AgentId,
        host: &str,
        payee: Address,
    ) -> Result<Option<Address>, StoreError> {
        // In the index's own order, backwards: most calls find their payee in the first row.
        let known = sqlx::query(
            "SELECT id FROM purchase WHERE agent_id = $1 AND host = $2 AND payee = $3
             ORDER BY payer_kind DESC, created_ms DESC LIMIT 1",
        )
        .bind(agent.as_str())
        .bind(host)
        .bind(payee.to_string())
        .fetch_optional(&self.readers)
        .await?;
        if known.is_some() {
            return Ok(None);
        }
        let last = sqlx::query(
            "SELECT payee FROM purchase WHERE agent_id = $1 AND host = $2 AND state = 'paid'
             ORDER BY created_ms DESC LIMIT 1",
        )
        .bind(agent.as_str())
        .bind(host)
        .fetch_optional(&self.readers)
        .await?;
        last.map(|row| parse("purchase.payee", &row.try_get::<String, _>(0)?)).transpose()
    }

    /// Adds up what an agent bought, as [`Tx::bought_by`] does.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn bought_by(
        &self,
        agent: &AgentId,
        host: &str,
        now_ms: i64,
    ) -> Result<FetchUsed, StoreError> {
        read_used(&used(agent, host, now_ms).fetch_one(&self.readers).await?)
    }

    /// Adds up what an agent bought from each host in the same 24 hours, the most first, so many hosts.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn bought_from_each(
        &self,
        agent: &AgentId,
        now_ms: i64,
        most: u32,
    ) -> Result<Vec<(String, Usdc)>, StoreError> {
        let rows = sqlx::query(
            "SELECT host, CAST(SUM(amount) AS BIGINT) AS paid FROM bought
             WHERE agent_id = $1 AND minute >= $2
             GROUP BY host HAVING SUM(amount) > 0 ORDER BY paid DESC, host LIMIT $3",
        )
        .bind(agent.as_str())
        .bind(now_ms.saturating_sub(DAY_MS).div_euclid(MINUTE_MS))
        .bind(i64::from(most))
        .fetch_all(&self.readers)
        .await?;
        rows.iter().map(|row| Ok((row.try_get(0)?, narrow_amount(row.try_get(1)?)?))).collect()
    }

    /// Adds up what of a payer's money is signed away, as [`Tx::signed_away`] does.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn signed_away(&self, payer: Address) -> Result<Usdc, StoreError> {
        let query = sqlx::query(SIGNED_AWAY).bind(payer.to_string());
        narrow_amount(query.fetch_one(&self.readers).await?.try_get(0)?)
    }

    /// Finds the purchases of a payer's nonces.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(crate) async fn bought(
        &self,
        payer: Address,
        nonces: &[B256],
    ) -> Result<Vec<Bought>, StoreError> {
        let mut found = Vec::new();
        for part in BY_NONCE.parts(nonces, self.marks()) {
            let mut query = BY_NONCE.of(part.len(), self.marks());
            for nonce in part {
                query = query.bind(payer.to_string()).bind(nonce.to_string());
            }
            for row in query.fetch_all(&self.readers).await? {
                found.push(Bought {
                    nonce: parse("purchase.nonce", &row.try_get::<String, _>(0)?)?,
                    payee: parse("purchase.payee", &row.try_get::<String, _>(1)?)?,
                    amount: narrow_amount(row.try_get(2)?)?,
                });
            }
        }
        Ok(found)
    }

    /// Reads purchases that the wallet itself paid, for the comparison with the chain: those that
    /// are final, and those that are not.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(crate) async fn purchases_of_payer(
        &self,
        payer: Address,
    ) -> Result<(Vec<SettledPayment>, Vec<Bought>), StoreError> {
        let rows = sqlx::query(
            "SELECT id, nonce, payee, amount, tx_hash, block FROM purchase
             WHERE payer = $1 AND channel IS NULL AND state <> 'unpaid' ORDER BY id",
        )
        .bind(payer.to_string())
        .fetch_all(&self.readers)
        .await?;
        let (mut settled, mut open) = (Vec::new(), Vec::new());
        for row in &rows {
            let nonce = parse("purchase.nonce", &row.try_get::<String, _>(1)?)?;
            let payee = parse("purchase.payee", &row.try_get::<String, _>(2)?)?;
            let amount = narrow_amount(row.try_get(3)?)?;
            match (row.try_get::<Option<String>, _>(4)?, row.try_get::<Option<i64>, _>(5)?) {
                (Some(hash), Some(block)) => settled.push(SettledPayment {
                    id: parse("purchase.id", &row.try_get::<String, _>(0)?)?,
                    transaction: parse("purchase.tx_hash", &hash)?,
                    payee,
                    amount,
                    block: unsigned("purchase.block", block)?,
                }),
                _ => open.push(Bought { nonce, payee, amount }),
            }
        }
        Ok((settled, open))
    }
}

impl PurchaseRow {
    /// When a voucher ends: it never does.
    pub const ENDLESS: u64 = i64::MAX as u64;

    /// Returns what of it the wallet's contract counts against its caps; `None` where it counts
    /// nothing.
    #[must_use]
    pub fn facts(&self) -> Option<Facts> {
        let counts = self.payer_kind == PayerKind::Delegation;
        counts.then_some(Facts { payee: self.payee, amount: self.amount, overrides: 0 })
    }

    /// Where the money leaves and arrives, in the ledger. A channel's left when it was funded.
    fn transfer(&self) -> Result<Option<(Transfer, [crate::ledger::Change; 2])>, StoreError> {
        let debit = match self.payer_kind {
            PayerKind::Float => Account::Payee(self.payer),
            PayerKind::Coupon | PayerKind::Delegation => Account::Wallet,
            PayerKind::Channel => return Ok(None),
        };
        Transfer::reserve(debit, Account::Payee(self.payee), self.amount)
            .map(Some)
            .map_err(|error| StoreError::corrupt("ledger_transfer", error))
    }
}

impl Tx {
    /// Finds the purchase of an idempotency key.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn purchase_of(
        &mut self,
        agent: &AgentId,
        key: &str,
    ) -> Result<Option<PurchaseRow>, StoreError> {
        let row = sqlx::query(select!("WHERE agent_id = $1 AND idempotency_key = $2"))
            .bind(agent.as_str())
            .bind(key)
            .fetch_optional(&mut *self.inner)
            .await?;
        row.as_ref().map(read).transpose()
    }

    /// Reads one purchase inside the transaction.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn purchase(&mut self, id: PaymentId) -> Result<Option<PurchaseRow>, StoreError> {
        let row = sqlx::query(select!("WHERE id = $1"))
            .bind(id.to_string())
            .fetch_optional(&mut *self.inner)
            .await?;
        row.as_ref().map(read).transpose()
    }

    /// Adds up what an agent bought from one host and from all, in the last 24 hours and in the last minute,
    /// begun minutes counted whole: what was paid, and what still can be.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn bought_by(
        &mut self,
        agent: &AgentId,
        host: &str,
        now_ms: i64,
    ) -> Result<FetchUsed, StoreError> {
        read_used(&used(agent, host, now_ms).fetch_one(&mut *self.inner).await?)
    }

    /// Adds up what of a payer's money is signed away and not known to be final.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn signed_away(&mut self, payer: Address) -> Result<Usdc, StoreError> {
        let query = sqlx::query(SIGNED_AWAY).bind(payer.to_string());
        narrow_amount(query.fetch_one(&mut *self.inner).await?.try_get(0)?)
    }

    /// Writes a new purchase and reserves its amount.
    ///
    /// # Errors
    /// [`StoreError`]; [`StoreError::is_duplicate`] if its key or its nonce is taken.
    pub async fn insert_purchase(&mut self, row: &PurchaseRow) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO purchase (id, agent_id, idempotency_key, fingerprint, host, path, request,
               offer, payer_kind, payer, payee, amount, nonce, valid_before_s, header_name,
               header_value, policy_version, state, since_block, created_ms, updated_ms, channel)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18,
               $19, $20, $20, $21)",
        )
        .bind(row.id.to_string())
        .bind(row.agent.as_str())
        .bind(&row.idempotency_key)
        .bind(row.fingerprint.to_string())
        .bind(&row.host)
        .bind(&row.path)
        .bind(to_json("purchase.request", &row.call)?)
        .bind(to_json("purchase.offer", &row.offer)?)
        .bind(row.payer_kind.as_str())
        .bind(row.payer.to_string())
        .bind(row.payee.to_string())
        .bind(row.amount.as_i64())
        .bind(row.nonce.to_string())
        .bind(row.valid_before_s.cast_signed())
        .bind(&row.header_name)
        .bind(&row.header_value)
        .bind(row.policy_version.cast_signed())
        .bind(row.state.as_str())
        .bind(row.since_block.cast_signed())
        .bind(row.created_ms)
        .bind(row.channel.map(|id| id.to_string()))
        .execute(&mut *self.inner)
        .await?;
        if let Some(facts) = row.facts() {
            self.say(Word::Held { agent: row.agent.clone(), facts });
        }
        self.add_bought(&row.agent, &row.host, row.created_ms, row.amount.as_i64()).await?;
        let Some((transfer, changes)) = row.transfer()? else { return Ok(()) };
        self.reserve_one(&row.id.to_string(), &transfer, &changes, row.created_ms).await
    }

    /// Adds base units that an agent bought of a host, or takes some away, at a time: to the sums that
    /// limits are held against.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn add_bought(
        &mut self,
        agent: &AgentId,
        host: &str,
        at_ms: i64,
        units: i64,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO bought (agent_id, minute, host, amount) VALUES ($1, $2, $3, $4)
             ON CONFLICT (agent_id, minute, host) DO UPDATE SET amount = bought.amount + excluded.amount",
        )
        .bind(agent.as_str())
        .bind(at_ms.div_euclid(MINUTE_MS))
        .bind(host)
        .bind(units)
        .execute(&mut *self.inner)
        .await?;
        Ok(())
    }

    /// Reads purchases by a channel of which it is not known what they cost, oldest first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn purchases_in_doubt(
        &mut self,
        channel: B256,
    ) -> Result<Vec<PurchaseRow>, StoreError> {
        let rows = sqlx::query(select!(
            "WHERE channel = $1 AND state IN ('signed', 'unknown') ORDER BY id LIMIT 200"
        ))
        .bind(channel.to_string())
        .fetch_all(&mut *self.inner)
        .await?;
        rows.iter().map(read).collect()
    }

    /// Gives a purchase by a channel a new voucher: the seller showed that the one before is void.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn put_voucher(&mut self, row: &PurchaseRow) -> Result<(), StoreError> {
        sqlx::query("UPDATE purchase SET header_value = $2 WHERE id = $1 AND channel IS NOT NULL")
            .bind(row.id.to_string())
            .bind(&row.header_value)
            .execute(&mut *self.inner)
            .await?;
        Ok(())
    }

    /// Moves a purchase on, with what may change at that. Answers `false` if it is not in `from` any
    /// more. Its reservation is posted when it is paid, and given back when it is unpaid for good.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn move_purchase(
        &mut self,
        from: PurchaseState,
        row: &PurchaseRow,
        now_ms: i64,
    ) -> Result<bool, StoreError> {
        let answer = row.answer.as_ref();
        let done = sqlx::query(
            "UPDATE purchase SET state = $3, sends = $4, note = $5, response = $6, tx_hash = $7,
               block = $8, updated_ms = $9, block_time_s = $10, charged = $11
             WHERE id = $1 AND state = $2",
        )
        .bind(row.id.to_string())
        .bind(from.as_str())
        .bind(row.state.as_str())
        .bind(i64::from(row.sends))
        .bind(&row.note)
        .bind(answer.map(|answer| to_json("purchase.response", answer)).transpose()?)
        .bind(row.tx_hash.map(|hash| hash.to_string()))
        .bind(row.block.map(u64::cast_signed))
        .bind(now_ms)
        .bind(row.block_time_s.map(u64::cast_signed))
        .bind(row.charged.map(Usdc::as_i64))
        .execute(&mut *self.inner)
        .await?;
        if done.rows_affected() != 1 {
            return Ok(false);
        }
        let freed = match row.state {
            PurchaseState::Unpaid if from != PurchaseState::Unpaid => row.amount,
            PurchaseState::Paid if from != PurchaseState::Paid => {
                row.amount.saturating_sub(row.charged.unwrap_or(row.amount))
            }
            _ => Usdc::ZERO,
        };
        if !freed.is_zero() {
            self.add_bought(&row.agent, &row.host, row.created_ms, -freed.as_i64()).await?;
        }
        // Taken now, whenever the call was made.
        let more = row.charged.unwrap_or(Usdc::ZERO).saturating_sub(row.amount);
        if from != row.state && !more.is_zero() {
            self.add_bought(&row.agent, &row.host, now_ms, more.as_i64()).await?;
        }
        let Some((mut transfer, _)) = row.transfer()? else { return Ok(true) };
        let fault = |error| StoreError::corrupt("ledger_transfer", error);
        let end = match row.state {
            PurchaseState::Paid if from != PurchaseState::Paid => {
                Some((transfer.post().map_err(fault)?, "posted"))
            }
            PurchaseState::Unpaid => Some((transfer.void().map_err(fault)?, "voided")),
            _ => None,
        };
        if let Some((changes, stage)) = end {
            self.end_one(&row.id.to_string(), &changes, stage, now_ms).await?;
            if let Some(facts) = row.facts() {
                let agent = row.agent.clone();
                self.say(match row.state {
                    PurchaseState::Paid => Word::Settled {
                        agent,
                        facts,
                        paid_in: PaidIn {
                            block: row.block.unwrap_or_default(),
                            time_s: row.block_time_s.unwrap_or_default(),
                        },
                    },
                    _ => Word::Voided { agent, facts },
                });
            }
        }
        Ok(true)
    }

    /// Forgets the bodies of old answers: what was bought stays on the record, its text does not.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn forget_answers(&mut self, before_ms: i64) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE purchase SET response = NULL
             WHERE created_ms < $1 AND response IS NOT NULL AND state IN ('paid', 'unpaid')",
        )
        .bind(before_ms)
        .execute(&mut *self.inner)
        .await?;
        Ok(())
    }

    /// Forgets sums that no limit looks at any more.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn forget_bought(&mut self, now_ms: i64) -> Result<(), StoreError> {
        sqlx::query("DELETE FROM bought WHERE minute < $1")
            .bind(now_ms.div_euclid(MINUTE_MS) - KEPT_MINUTES)
            .execute(&mut *self.inner)
            .await?;
        Ok(())
    }
}
