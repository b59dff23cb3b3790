//! Approvals of payments and proposals of change: what operators sign, and their signatures.

use alloy::primitives::{Address, B256, Bytes, Signature, U256};
use sqlx::{Row as _, any::AnyRow};

use super::{Store, StoreError, Tx, TxKind, parse, payment::unsigned};
use crate::{payment::PaymentId, view::ProposalState};

/// What the operators sign for one payment.
#[derive(Clone, Debug)]
pub struct ApprovalRow {
    /// The payment.
    pub payment: PaymentId,
    /// Digest of the typed data.
    pub digest: B256,
    /// The agent's nonce set aside for it.
    pub nonce: U256,
    /// Unix seconds.
    pub deadline_s: u64,
    /// The agent's policy version it is bound to.
    pub policy_version: u64,
}

/// A change of policy.
#[derive(Clone, Debug)]
pub struct ProposalRow {
    /// keccak-256 of the change.
    pub id: B256,
    /// Calldata of `IPolicyChanges`.
    pub change: Bytes,
    /// For a payee: the label it will have.
    pub label: Option<String>,
    /// The quorum's nonce.
    pub nonce: U256,
    /// Unix seconds.
    pub deadline_s: u64,
    /// Digest of the typed data.
    pub digest: B256,
    /// Where it stands.
    pub state: ProposalState,
    /// Who proposed it.
    pub proposed_by: Address,
    /// When its delay ends, unix seconds.
    pub ready_at_s: Option<u64>,
}

/// One operator's signature.
#[derive(Clone, Debug)]
pub struct SignatureRow {
    /// The operator.
    pub signer: Address,
    /// Over the digest.
    pub signature: Signature,
}

const STATES: [(ProposalState, &str); 6] = [
    (ProposalState::Collecting, "collecting"),
    (ProposalState::Submitted, "submitted"),
    (ProposalState::Waiting, "waiting"),
    (ProposalState::Ready, "ready"),
    (ProposalState::Executed, "executed"),
    (ProposalState::Cancelled, "cancelled"),
];

fn state_name(state: ProposalState) -> &'static str {
    STATES.into_iter().find(|(known, _)| *known == state).map_or("collecting", |(_, name)| name)
}

fn read_proposal(row: &AnyRow) -> Result<ProposalRow, StoreError> {
    let state: String = row.try_get(6)?;
    Ok(ProposalRow {
        id: parse("proposal.id", &row.try_get::<String, _>(0)?)?,
        change: parse("proposal.change", &row.try_get::<String, _>(1)?)?,
        label: row.try_get(2)?,
        nonce: parse("proposal.nonce", &row.try_get::<String, _>(3)?)?,
        deadline_s: unsigned("proposal.deadline_s", row.try_get(4)?)?,
        digest: parse("proposal.digest", &row.try_get::<String, _>(5)?)?,
        state: STATES
            .into_iter()
            .find(|(_, name)| *name == state)
            .map(|(state, _)| state)
            .ok_or_else(|| StoreError::corrupt("proposal.state", &state))?,
        proposed_by: parse("proposal.proposed_by", &row.try_get::<String, _>(7)?)?,
        ready_at_s: row
            .try_get::<Option<i64>, _>(8)?
            .map(|n| unsigned("proposal.ready_at_s", n))
            .transpose()?,
    })
}

fn read_approval(row: &AnyRow) -> Result<ApprovalRow, StoreError> {
    Ok(ApprovalRow {
        payment: parse("approval.payment_id", &row.try_get::<String, _>(0)?)?,
        digest: parse("approval.digest", &row.try_get::<String, _>(1)?)?,
        nonce: parse("approval.nonce", &row.try_get::<String, _>(2)?)?,
        deadline_s: unsigned("approval.deadline_s", row.try_get(3)?)?,
        policy_version: unsigned("approval.policy_version", row.try_get(4)?)?,
    })
}

impl Store {
    /// Reads what operators sign for a payment.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn approval(&self, id: PaymentId) -> Result<Option<ApprovalRow>, StoreError> {
        let row = sqlx::query(
            "SELECT payment_id, digest, nonce, deadline_s, policy_version
             FROM approval WHERE payment_id = $1",
        )
        .bind(id.to_string())
        .fetch_optional(&self.readers)
        .await?;
        row.as_ref().map(read_approval).transpose()
    }

    /// Reads the signatures over a digest, oldest first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn signatures(&self, digest: B256) -> Result<Vec<SignatureRow>, StoreError> {
        let rows = sqlx::query(
            "SELECT signer, signature FROM signature WHERE digest = $1 ORDER BY at_ms, signer",
        )
        .bind(digest.to_string())
        .fetch_all(&self.readers)
        .await?;
        rows.iter()
            .map(|row| {
                Ok(SignatureRow {
                    signer: parse("signature.signer", &row.try_get::<String, _>(0)?)?,
                    signature: parse("signature.signature", &row.try_get::<String, _>(1)?)?,
                })
            })
            .collect()
    }

    /// Reads a proposal.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn proposal(&self, id: B256) -> Result<Option<ProposalRow>, StoreError> {
        let row = sqlx::query(
            "SELECT id, change, label, nonce, deadline_s, digest, state, proposed_by, ready_at_s
             FROM proposal WHERE id = $1",
        )
        .bind(id.to_string())
        .fetch_optional(&self.readers)
        .await?;
        row.as_ref().map(read_proposal).transpose()
    }

    /// Reads the newest proposals.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn proposals(&self, limit: u32) -> Result<Vec<ProposalRow>, StoreError> {
        let rows = sqlx::query(
            "SELECT id, change, label, nonce, deadline_s, digest, state, proposed_by, ready_at_s
             FROM proposal ORDER BY created_ms DESC LIMIT $1",
        )
        .bind(i64::from(limit))
        .fetch_all(&self.readers)
        .await?;
        rows.iter().map(read_proposal).collect()
    }
}

impl Tx {
    /// Stores what operators are to sign for a payment.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn insert_approval(&mut self, approval: &ApprovalRow) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO approval (payment_id, digest, nonce, deadline_s, policy_version)
             VALUES ($1, $2, $3, $4, $5)",
        )
        .bind(approval.payment.to_string())
        .bind(approval.digest.to_string())
        .bind(approval.nonce.to_string())
        .bind(approval.deadline_s.cast_signed())
        .bind(approval.policy_version.cast_signed())
        .execute(&mut *self.inner)
        .await?;
        Ok(())
    }

    /// Adds a signature. Answers whether it is new, and who has signed so far.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn add_signature(
        &mut self,
        digest: B256,
        signature: &SignatureRow,
        now_ms: i64,
    ) -> Result<(bool, Vec<Address>), StoreError> {
        let done = sqlx::query(
            "INSERT INTO signature (digest, signer, signature, at_ms) VALUES ($1, $2, $3, $4)
             ON CONFLICT (digest, signer) DO NOTHING",
        )
        .bind(digest.to_string())
        .bind(signature.signer.to_string())
        .bind(Bytes::from(signature.signature.as_bytes()).to_string())
        .bind(now_ms)
        .execute(&mut *self.inner)
        .await?;
        let rows = sqlx::query("SELECT signer FROM signature WHERE digest = $1")
            .bind(digest.to_string())
            .fetch_all(&mut *self.inner)
            .await?;
        let signers = rows
            .iter()
            .map(|row| parse("signature.signer", &row.try_get::<String, _>(0)?))
            .collect::<Result<_, _>>()?;
        Ok((done.rows_affected() == 1, signers))
    }

    /// Files a proposal, in place of an ended one of the same change. `false` if one is open.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn insert_proposal(
        &mut self,
        proposal: &ProposalRow,
        now_ms: i64,
    ) -> Result<bool, StoreError> {
        let id = proposal.id.to_string();
        sqlx::query("DELETE FROM proposal WHERE id = $1 AND state IN ('executed', 'cancelled')")
            .bind(&id)
            .execute(&mut *self.inner)
            .await?;
        let done = sqlx::query(
            "INSERT INTO proposal (id, change, label, nonce, deadline_s, digest, state,
               proposed_by, created_ms) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
             ON CONFLICT (id) DO NOTHING",
        )
        .bind(&id)
        .bind(proposal.change.to_string())
        .bind(&proposal.label)
        .bind(proposal.nonce.to_string())
        .bind(proposal.deadline_s.cast_signed())
        .bind(proposal.digest.to_string())
        .bind(state_name(proposal.state))
        .bind(proposal.proposed_by.to_string())
        .bind(now_ms)
        .execute(&mut *self.inner)
        .await?;
        Ok(done.rows_affected() == 1)
    }

    /// Moves a proposal that is in one of the states `from`, or (if that is empty) in any. Answers
    /// whether it was.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn move_proposal(
        &mut self,
        id: B256,
        from: &[ProposalState],
        to: ProposalState,
        ready_at_s: Option<u64>,
    ) -> Result<bool, StoreError> {
        let row = sqlx::query("SELECT state FROM proposal WHERE id = $1")
            .bind(id.to_string())
            .fetch_optional(&mut *self.inner)
            .await?;
        let Some(row) = row else { return Ok(false) };
        let found: String = row.try_get(0)?;
        if !(from.is_empty() || from.iter().any(|state| state_name(*state) == found)) {
            return Ok(false);
        }
        // PostgreSQL may have let another writer in since: the state is held against once more.
        let done = sqlx::query(
            "UPDATE proposal SET state = $2, ready_at_s = COALESCE($3, ready_at_s)
             WHERE id = $1 AND state = $4",
        )
        .bind(id.to_string())
        .bind(state_name(to))
        .bind(ready_at_s.map(u64::cast_signed))
        .bind(found)
        .execute(&mut *self.inner)
        .await?;
        Ok(done.rows_affected() == 1)
    }

    /// Reads what the unfinished transactions of a kind carry: id and manifest.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn open_manifests(
        &mut self,
        kind: TxKind,
    ) -> Result<Vec<(String, String)>, StoreError> {
        let rows = sqlx::query("SELECT id, manifest FROM tx WHERE state <> 'final' AND kind = $1")
            .bind(kind.as_str())
            .fetch_all(&mut *self.inner)
            .await?;
        rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::on_both;

    #[tokio::test]
    async fn a_proposal_moves_only_from_where_it_is_expected() {
        on_both(moves).await;
    }

    async fn moves(store: Store) {
        use ProposalState::{Cancelled, Collecting, Executed, Submitted, Waiting};
        let id = B256::repeat_byte(1);
        let row = ProposalRow {
            id,
            change: Bytes::from_static(&[1]),
            label: None,
            nonce: U256::ZERO,
            deadline_s: 1,
            digest: B256::ZERO,
            state: Collecting,
            proposed_by: Address::ZERO,
            ready_at_s: None,
        };
        let mut tx = store.begin().await.unwrap();
        assert!(!tx.move_proposal(id, &[], Cancelled, None).await.unwrap(), "not filed yet");
        assert!(tx.insert_proposal(&row, 1).await.unwrap());
        assert!(tx.move_proposal(id, &[Collecting], Submitted, None).await.unwrap());
        // A cancellation that comes too late, and a second `apply`.
        assert!(!tx.move_proposal(id, &[Collecting], Cancelled, None).await.unwrap());
        assert!(!tx.move_proposal(id, &[Collecting], Submitted, None).await.unwrap());
        assert!(tx.move_proposal(id, &[], Waiting, Some(77)).await.unwrap());
        assert!(tx.move_proposal(id, &[], Executed, None).await.unwrap());
        // Our own transaction reverted because somebody else's did it.
        assert!(!tx.move_proposal(id, &[Submitted], Cancelled, None).await.unwrap());
        tx.commit().await.unwrap();
        let now = store.proposal(id).await.unwrap().unwrap();
        assert_eq!((now.state, now.ready_at_s), (Executed, Some(77)));
    }
}
