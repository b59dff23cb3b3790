//! Escrows, what was asked of them, and what the chain tells of them.

use alloy::primitives::{Address, B256};
use sqlx::{Row as _, any::AnyRow};

use super::{
    Store, StoreError, Tx, parse,
    payment::{json, narrow, narrow_amount, to_json, unsigned},
};
use crate::{
    contract::escrow::{Payout, Terms},
    escrow::{ActionKind, ActionState, EscrowState, JobView, StepKind},
    ledger::Account,
    money::Usdc,
    payment::{AgentId, PaymentId},
    refusal::Refusal,
};

/// An escrow as stored: one milestone of a job.
#[derive(Clone, Debug)]
pub struct EscrowRow {
    /// Its id on chain: the hash of its terms.
    pub id: B256,
    /// The payment that funds it.
    pub payment: PaymentId,
    /// The job it belongs to.
    pub job_id: String,
    /// Its place in the job, from 1.
    pub milestone: u32,
    /// How many the job has.
    pub milestones: u32,
    /// The agent that opened it.
    pub agent: AgentId,
    /// The milestone in a few words.
    pub title: Option<String>,
    /// What is to be done.
    pub job: JobView,
    /// The terms, as hashed.
    pub terms: Terms,
    /// The list behind the terms' hash.
    pub payouts: Vec<Payout>,
    /// Where it stands, by final logs.
    pub state: EscrowState,
    /// Paid to the payee's side.
    pub captured: Usdc,
    /// Paid back to the wallet.
    pub refunded: Usdc,
    /// Of what was captured, given back later.
    pub returned: Usdc,
    /// When submission or dispute began, unix seconds.
    pub since_s: Option<u64>,
    /// The `since_s` whose end operators were warned of.
    pub warned_s: Option<u64>,
    /// Asked for, milliseconds.
    pub created_ms: i64,
    /// Last changed, milliseconds.
    pub updated_ms: i64,
}

impl EscrowRow {
    /// Its amount.
    #[must_use]
    pub fn amount(&self) -> Usdc {
        Usdc::from_units(self.terms.amount).unwrap_or_default()
    }

    /// What the escrow still holds once it is funded.
    #[must_use]
    pub fn held(&self) -> Usdc {
        self.amount().saturating_sub(self.captured).saturating_sub(self.refunded)
    }
}

/// Something asked of an escrow.
#[derive(Clone, Debug)]
pub struct ActionRow {
    /// Its id: `act_` and 32 hexadecimal digits.
    pub id: String,
    /// The escrow.
    pub escrow: B256,
    /// What.
    pub kind: ActionKind,
    /// Hash of what it would do: the same thing is under way once.
    pub fingerprint: B256,
    /// Who asked.
    pub actor: String,
    /// What exactly, for people and for the call.
    pub detail: serde_json::Value,
    /// Where it stands.
    pub state: ActionState,
    /// What operators sign, where it needs them.
    pub digest: Option<B256>,
    /// Unix seconds at which that signature ends.
    pub deadline_s: Option<u64>,
    /// Why it failed.
    pub refusal: Option<Refusal>,
    /// Its transaction.
    pub tx_id: Option<String>,
    /// That transaction's hash.
    pub tx_hash: Option<B256>,
    /// Asked for, milliseconds.
    pub created_ms: i64,
    /// Last changed, milliseconds.
    pub updated_ms: i64,
}

/// One thing that a final log tells.
#[derive(Clone, Debug)]
pub struct StepRow {
    /// `<transaction>:<log index>`.
    pub id: String,
    /// The escrow.
    pub escrow: B256,
    /// What.
    pub kind: StepKind,
    /// Whom the log names.
    pub party: Option<Address>,
    /// How much.
    pub amount: Option<Usdc>,
    /// A deliverable, evidence or reason.
    pub hash: Option<B256>,
    /// In which transaction.
    pub tx_hash: B256,
    /// In which block.
    pub block: u64,
    /// Where in the block.
    pub log_index: u64,
    /// That block's time, unix seconds.
    pub at_s: u64,
}

macro_rules! select_escrow {
    ($rest:literal) => {
        concat!(
            "SELECT id, payment_id, job_id, milestone, milestones, agent_id, title, job, terms, ",
            "payouts, state, captured, refunded, returned, since_s, warned_s, created_ms, ",
            "updated_ms FROM escrow ",
            $rest
        )
    };
}

macro_rules! select_action {
    ($rest:literal) => {
        concat!(
            "SELECT id, escrow_id, kind, fingerprint, actor, detail, state, digest, deadline_s, ",
            "refusal, tx_id, tx_hash, created_ms, updated_ms FROM escrow_action ",
            $rest
        )
    };
}

fn read_escrow(row: &AnyRow) -> Result<EscrowRow, StoreError> {
    let text = |index: usize| row.try_get::<String, _>(index);
    let int = |index: usize| row.try_get::<i64, _>(index);
    let seconds = |index: usize| {
        let found = row.try_get::<Option<i64>, _>(index)?;
        found.map(|at| unsigned("escrow.since_s", at)).transpose()
    };
    let state = text(10)?;
    Ok(EscrowRow {
        id: parse("escrow.id", &text(0)?)?,
        payment: parse("escrow.payment_id", &text(1)?)?,
        job_id: text(2)?,
        milestone: narrow("escrow.milestone", int(3)?)?,
        milestones: narrow("escrow.milestones", int(4)?)?,
        agent: parse("escrow.agent_id", &text(5)?)?,
        title: row.try_get(6)?,
        job: json("escrow.job", &text(7)?)?,
        terms: json("escrow.terms", &text(8)?)?,
        payouts: json("escrow.payouts", &text(9)?)?,
        state: EscrowState::from_name(&state)
            .ok_or_else(|| StoreError::corrupt("escrow.state", &state))?,
        captured: narrow_amount(int(11)?)?,
        refunded: narrow_amount(int(12)?)?,
        returned: narrow_amount(int(13)?)?,
        since_s: seconds(14)?,
        warned_s: seconds(15)?,
        created_ms: int(16)?,
        updated_ms: int(17)?,
    })
}

fn read_action(row: &AnyRow) -> Result<ActionRow, StoreError> {
    let text = |index: usize| row.try_get::<String, _>(index);
    let maybe = |index: usize| row.try_get::<Option<String>, _>(index);
    let (kind, state) = (text(2)?, text(6)?);
    Ok(ActionRow {
        id: text(0)?,
        escrow: parse("escrow_action.escrow_id", &text(1)?)?,
        kind: ActionKind::from_name(&kind)
            .ok_or_else(|| StoreError::corrupt("escrow_action.kind", &kind))?,
        fingerprint: parse("escrow_action.fingerprint", &text(3)?)?,
        actor: text(4)?,
        detail: json("escrow_action.detail", &text(5)?)?,
        state: ActionState::from_name(&state)
            .ok_or_else(|| StoreError::corrupt("escrow_action.state", &state))?,
        digest: maybe(7)?.map(|text| parse("escrow_action.digest", &text)).transpose()?,
        deadline_s: row
            .try_get::<Option<i64>, _>(8)?
            .map(|at| unsigned("escrow_action.deadline_s", at))
            .transpose()?,
        refusal: maybe(9)?.map(|text| json("escrow_action.refusal", &text)).transpose()?,
        tx_id: maybe(10)?,
        tx_hash: maybe(11)?.map(|text| parse("escrow_action.tx_hash", &text)).transpose()?,
        created_ms: row.try_get(12)?,
        updated_ms: row.try_get(13)?,
    })
}

fn read_step(row: &AnyRow) -> Result<StepRow, StoreError> {
    let text = |index: usize| row.try_get::<String, _>(index);
    let maybe = |index: usize| row.try_get::<Option<String>, _>(index);
    let kind = text(2)?;
    Ok(StepRow {
        id: text(0)?,
        escrow: parse("escrow_step.escrow_id", &text(1)?)?,
        kind: StepKind::from_name(&kind)
            .ok_or_else(|| StoreError::corrupt("escrow_step.kind", &kind))?,
        party: maybe(3)?.map(|text| parse("escrow_step.party", &text)).transpose()?,
        amount: row.try_get::<Option<i64>, _>(4)?.map(narrow_amount).transpose()?,
        hash: maybe(5)?.map(|text| parse("escrow_step.hash", &text)).transpose()?,
        tx_hash: parse("escrow_step.tx_hash", &text(6)?)?,
        block: unsigned("escrow_step.block", row.try_get(7)?)?,
        log_index: unsigned("escrow_step.log_index", row.try_get(8)?)?,
        at_s: unsigned("escrow_step.at_s", row.try_get(9)?)?,
    })
}

fn escrows(rows: &[AnyRow]) -> Result<Vec<EscrowRow>, StoreError> {
    rows.iter().map(read_escrow).collect()
}

impl Store {
    /// Reads one escrow.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn escrow(&self, id: B256) -> Result<Option<EscrowRow>, StoreError> {
        let row = sqlx::query(select_escrow!("WHERE id = $1"))
            .bind(id.to_string())
            .fetch_optional(&self.readers)
            .await?;
        row.as_ref().map(read_escrow).transpose()
    }

    /// Reads the milestones of a job, in their order.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn escrows_of_job(&self, job: &str) -> Result<Vec<EscrowRow>, StoreError> {
        let rows = sqlx::query(select_escrow!("WHERE job_id = $1 ORDER BY milestone"))
            .bind(job)
            .fetch_all(&self.readers)
            .await?;
        escrows(&rows)
    }

    /// Reads a page of what an agent opened or is to be paid for, or of all; newest first, below
    /// `before`.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn escrows(
        &self,
        party: Option<(&AgentId, Address)>,
        before: Option<PaymentId>,
        limit: u32,
    ) -> Result<Vec<EscrowRow>, StoreError> {
        let before = before.unwrap_or(PaymentId::LAST).to_string();
        let query = match party {
            Some((agent, address)) => sqlx::query(select_escrow!(
                "WHERE (agent_id = $1 OR payee = $2) AND payment_id < $3
                 ORDER BY payment_id DESC LIMIT $4"
            ))
            .bind(agent.as_str())
            .bind(address.to_string()),
            None => sqlx::query(select_escrow!(
                "WHERE $1 = '' AND $2 = '' AND payment_id < $3 ORDER BY payment_id DESC LIMIT $4"
            ))
            .bind("")
            .bind(""),
        };
        let rows = query.bind(before).bind(i64::from(limit)).fetch_all(&self.readers).await?;
        escrows(&rows)
    }

    /// Reads every escrow that holds money.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn escrows_live(&self) -> Result<Vec<EscrowRow>, StoreError> {
        let rows =
            sqlx::query(select_escrow!("WHERE state IN ('funded', 'submitted', 'disputed')"))
                .fetch_all(&self.readers)
                .await?;
        escrows(&rows)
    }

    /// Reads every escrow that was ever funded, for the comparison with the chain.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn escrows_funded(&self) -> Result<Vec<EscrowRow>, StoreError> {
        let rows = sqlx::query(select_escrow!("WHERE state <> 'opening' ORDER BY payment_id"))
            .fetch_all(&self.readers)
            .await?;
        escrows(&rows)
    }

    /// Reads what was asked of an escrow, oldest first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn escrow_actions(&self, escrow: B256) -> Result<Vec<ActionRow>, StoreError> {
        let rows = sqlx::query(select_action!("WHERE escrow_id = $1 ORDER BY id"))
            .bind(escrow.to_string())
            .fetch_all(&self.readers)
            .await?;
        rows.iter().map(read_action).collect()
    }

    /// Reads the steps that wait for operators, oldest first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn escrow_actions_waiting(&self, limit: u32) -> Result<Vec<ActionRow>, StoreError> {
        let rows = sqlx::query(select_action!(
            "WHERE state = 'awaiting_approval' ORDER BY created_ms LIMIT $1"
        ))
        .bind(i64::from(limit))
        .fetch_all(&self.readers)
        .await?;
        rows.iter().map(read_action).collect()
    }

    /// Reads one action.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn escrow_action(&self, id: &str) -> Result<Option<ActionRow>, StoreError> {
        let row = sqlx::query(select_action!("WHERE id = $1"))
            .bind(id)
            .fetch_optional(&self.readers)
            .await?;
        row.as_ref().map(read_action).transpose()
    }

    /// Reads what the chain told of an escrow, in the chain's order.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn escrow_steps(&self, escrow: B256) -> Result<Vec<StepRow>, StoreError> {
        let rows = sqlx::query(
            "SELECT id, escrow_id, kind, party, amount, hash, tx_hash, block, log_index, at_s
             FROM escrow_step WHERE escrow_id = $1 ORDER BY block, log_index",
        )
        .bind(escrow.to_string())
        .fetch_all(&self.readers)
        .await?;
        rows.iter().map(read_step).collect()
    }
}

impl Tx {
    /// Writes a new escrow.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn insert_escrow(&mut self, escrow: &EscrowRow) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO escrow (id, payment_id, job_id, milestone, milestones, agent_id, payee,
               title, job, terms, payouts, state, captured, refunded, returned, created_ms,
               updated_ms)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, 0, 0, 0, $13, $13)",
        )
        .bind(escrow.id.to_string())
        .bind(escrow.payment.to_string())
        .bind(&escrow.job_id)
        .bind(i64::from(escrow.milestone))
        .bind(i64::from(escrow.milestones))
        .bind(escrow.agent.as_str())
        .bind(escrow.terms.payee.to_string())
        .bind(&escrow.title)
        .bind(to_json("escrow.job", &escrow.job)?)
        .bind(to_json("escrow.terms", &escrow.terms)?)
        .bind(to_json("escrow.payouts", &escrow.payouts)?)
        .bind(escrow.state.as_str())
        .bind(escrow.created_ms)
        .execute(&mut *self.inner)
        .await?;
        Ok(())
    }

    /// Reads one action inside the transaction.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn escrow_action(&mut self, id: &str) -> Result<Option<ActionRow>, StoreError> {
        let row = sqlx::query(select_action!("WHERE id = $1"))
            .bind(id)
            .fetch_optional(&mut *self.inner)
            .await?;
        row.as_ref().map(read_action).transpose()
    }

    /// Reads one escrow inside the transaction.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn escrow(&mut self, id: B256) -> Result<Option<EscrowRow>, StoreError> {
        let row = sqlx::query(select_escrow!("WHERE id = $1"))
            .bind(id.to_string())
            .fetch_optional(&mut *self.inner)
            .await?;
        row.as_ref().map(read_escrow).transpose()
    }

    /// Writes where an escrow stands.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn put_escrow(&mut self, escrow: &EscrowRow, now_ms: i64) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE escrow SET state = $2, captured = $3, refunded = $4, returned = $5,
               since_s = $6, updated_ms = $7 WHERE id = $1",
        )
        .bind(escrow.id.to_string())
        .bind(escrow.state.as_str())
        .bind(escrow.captured.as_i64())
        .bind(escrow.refunded.as_i64())
        .bind(escrow.returned.as_i64())
        .bind(escrow.since_s.map(u64::cast_signed))
        .bind(now_ms)
        .execute(&mut *self.inner)
        .await?;
        Ok(())
    }

    /// Notes that operators were warned of the end of the period that began at `since_s`. Answers
    /// `false` if they were before.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn warned(&mut self, escrow: B256, since_s: u64) -> Result<bool, StoreError> {
        let done = sqlx::query(
            "UPDATE escrow SET warned_s = $2
             WHERE id = $1 AND (warned_s IS NULL OR warned_s <> $2)",
        )
        .bind(escrow.to_string())
        .bind(since_s.cast_signed())
        .execute(&mut *self.inner)
        .await?;
        Ok(done.rows_affected() == 1)
    }

    /// Writes a new action. Answers `false` if the same thing is under way or done.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn insert_action(&mut self, action: &ActionRow) -> Result<bool, StoreError> {
        let done = sqlx::query(
            "INSERT INTO escrow_action (id, escrow_id, kind, fingerprint, actor, detail, state,
               digest, deadline_s, tx_id, tx_hash, created_ms, updated_ms)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $12)
             ON CONFLICT DO NOTHING",
        )
        .bind(&action.id)
        .bind(action.escrow.to_string())
        .bind(action.kind.as_str())
        .bind(action.fingerprint.to_string())
        .bind(&action.actor)
        .bind(to_json("escrow_action.detail", &action.detail)?)
        .bind(action.state.as_str())
        .bind(action.digest.map(|digest| digest.to_string()))
        .bind(action.deadline_s.map(u64::cast_signed))
        .bind(&action.tx_id)
        .bind(action.tx_hash.map(|hash| hash.to_string()))
        .bind(action.created_ms)
        .execute(&mut *self.inner)
        .await?;
        Ok(done.rows_affected() == 1)
    }

    /// Moves an action from one state on, with what may change at that. Answers `false` if
    /// somebody else moved it first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn move_action(
        &mut self,
        from: ActionState,
        action: &ActionRow,
        now_ms: i64,
    ) -> Result<bool, StoreError> {
        let refusal = action.refusal.as_ref();
        let refusal = refusal.map(|why| to_json("escrow_action.refusal", why)).transpose()?;
        let done = sqlx::query(
            "UPDATE escrow_action SET state = $3, refusal = $4, tx_id = $5, tx_hash = $6,
               updated_ms = $7
             WHERE id = $1 AND state = $2",
        )
        .bind(&action.id)
        .bind(from.as_str())
        .bind(action.state.as_str())
        .bind(refusal)
        .bind(&action.tx_id)
        .bind(action.tx_hash.map(|hash| hash.to_string()))
        .bind(now_ms)
        .execute(&mut *self.inner)
        .await?;
        Ok(done.rows_affected() == 1)
    }

    /// Writes what a log tells.
    ///
    /// # Errors
    /// [`StoreError`]; a log is told once.
    pub async fn insert_step(&mut self, step: &StepRow) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO escrow_step (id, escrow_id, kind, party, amount, hash, tx_hash, block,
               log_index, at_s)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
        )
        .bind(&step.id)
        .bind(step.escrow.to_string())
        .bind(step.kind.as_str())
        .bind(step.party.map(|party| party.to_string()))
        .bind(step.amount.map(Usdc::as_i64))
        .bind(step.hash.map(|hash| hash.to_string()))
        .bind(step.tx_hash.to_string())
        .bind(step.block.cast_signed())
        .bind(step.log_index.cast_signed())
        .bind(step.at_s.cast_signed())
        .execute(&mut *self.inner)
        .await?;
        Ok(())
    }

    /// Reads what the ledger holds for an account at WorkEscrow: credits less debits, those of this
    /// transaction included.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn owed_to(&mut self, account: Address) -> Result<Usdc, StoreError> {
        let name = Account::Owed(account).to_string();
        let row = sqlx::query(
            "SELECT debits_posted, credits_posted FROM ledger_balance WHERE account = $1",
        )
        .bind(&name)
        .fetch_optional(&mut *self.inner)
        .await?;
        let [_, debits, _, credits] = self.balances.get(&name).copied().unwrap_or_default();
        let (before_debits, before_credits): (i64, i64) = match row {
            Some(row) => (row.try_get(0)?, row.try_get(1)?),
            None => (0, 0),
        };
        narrow_amount(before_credits + credits - before_debits - debits)
    }
}
