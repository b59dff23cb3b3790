//! Agents and payees as the daemon knows them, spent request nonces, settings.

use std::collections::HashSet;

use alloy::primitives::{Address, B256};
use sqlx::Row as _;

use super::{
    Store, StoreError, Tx, Word,
    many::Many,
    parse,
    payment::{narrow, unsigned},
};
use crate::payment::AgentId;

/// An agent as stored: what must survive apart from its policy file.
#[derive(Clone, Debug)]
pub struct AgentRow {
    /// Who.
    pub id: AgentId,
    /// Index of its signing key; never given to another agent.
    pub key_index: u32,
    /// Its signing address.
    pub address: Address,
    /// Hash of the policy file that was read last.
    pub policy_hash: B256,
    /// How often that file has changed.
    pub revision: u64,
    /// Frozen by an operator in the daemon.
    pub frozen: bool,
}

const SPEND: Many = Many {
    head: "INSERT INTO spent_nonce (key_id, nonce, expires_s)",
    shared: 0,
    columns: 3,
    tail: " ON CONFLICT (key_id, nonce) DO NOTHING RETURNING key_id, nonce",
};

impl Store {
    /// Reads every agent.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn agents(&self) -> Result<Vec<AgentRow>, StoreError> {
        let rows = sqlx::query(
            "SELECT id, key_index, address, policy_hash, revision, frozen FROM agent ORDER BY id",
        )
        .fetch_all(&self.readers)
        .await?;
        rows.iter()
            .map(|row| {
                Ok(AgentRow {
                    id: parse("agent.id", &row.try_get::<String, _>(0)?)?,
                    key_index: narrow("agent.key_index", row.try_get(1)?)?,
                    address: parse("agent.address", &row.try_get::<String, _>(2)?)?,
                    policy_hash: parse("agent.policy_hash", &row.try_get::<String, _>(3)?)?,
                    revision: unsigned("agent.revision", row.try_get(4)?)?,
                    frozen: row.try_get::<i64, _>(5)? != 0,
                })
            })
            .collect()
    }

    /// Reads every payee that was ever seen, with its label.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn payees(&self) -> Result<Vec<(Address, Option<String>)>, StoreError> {
        let rows = sqlx::query("SELECT address, label FROM payee").fetch_all(&self.readers).await?;
        rows.iter()
            .map(|row| {
                Ok((parse("payee.address", &row.try_get::<String, _>(0)?)?, row.try_get(1)?))
            })
            .collect()
    }

    /// Reads a setting.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn meta(&self, key: &str) -> Result<Option<String>, StoreError> {
        let row = sqlx::query("SELECT value FROM meta WHERE key = $1")
            .bind(key)
            .fetch_optional(&self.readers)
            .await?;
        Ok(row.map(|row| row.try_get(0)).transpose()?)
    }
}

impl Tx {
    /// Writes an agent, keeping its `frozen` mark if it is known.
    ///
    /// # Errors
    /// [`StoreError`]; [`StoreError::is_duplicate`] if key index or address belong to another.
    pub async fn put_agent(&mut self, agent: &AgentRow, now_ms: i64) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO agent (id, key_index, address, policy_hash, revision, frozen, changed_ms)
             VALUES ($1, $2, $3, $4, $5, 0, $6)
             ON CONFLICT (id) DO UPDATE SET policy_hash = excluded.policy_hash,
               revision = excluded.revision, changed_ms = excluded.changed_ms",
        )
        .bind(agent.id.as_str())
        .bind(i64::from(agent.key_index))
        .bind(agent.address.to_string())
        .bind(agent.policy_hash.to_string())
        .bind(agent.revision.cast_signed())
        .bind(now_ms)
        .execute(&mut *self.inner)
        .await?;
        Ok(())
    }

    /// Freezes or unfreezes an agent in the daemon. That it is unfrozen, other daemons hear with the
    /// policy's events.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn set_agent_frozen(&mut self, id: &AgentId, frozen: bool) -> Result<(), StoreError> {
        sqlx::query("UPDATE agent SET frozen = $2 WHERE id = $1")
            .bind(id.as_str())
            .bind(i64::from(frozen))
            .execute(&mut *self.inner)
            .await?;
        if frozen {
            self.say(Word::Frozen(id.clone()));
        }
        Ok(())
    }

    /// Remembers a payee; a label given once stays until another is given.
    ///
    /// # Errors
    /// [`StoreError`]; [`StoreError::is_duplicate`] if the label belongs to another address.
    pub async fn put_payee(
        &mut self,
        address: Address,
        label: Option<&str>,
        seen_block: u64,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO payee (address, label, seen_block) VALUES ($1, $2, $3)
             ON CONFLICT (address) DO UPDATE SET label = COALESCE(excluded.label, payee.label)",
        )
        .bind(address.to_string())
        .bind(label)
        .bind(seen_block.cast_signed())
        .execute(&mut *self.inner)
        .await?;
        Ok(())
    }

    /// Spends requests' nonces, each (key id, nonce, unix seconds of its end). Answers for each
    /// whether it was unspent; of equal ones in the list, the first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn spend_nonces(
        &mut self,
        claims: &[(&str, &str, u64)],
    ) -> Result<Vec<bool>, StoreError> {
        let mut fresh = HashSet::with_capacity(claims.len());
        for part in SPEND.parts(claims, self.marks) {
            let mut insert = SPEND.of(part.len(), self.marks);
            for (key_id, nonce, expires_s) in part {
                insert = insert.bind(*key_id).bind(*nonce).bind(expires_s.cast_signed());
            }
            for row in insert.fetch_all(&mut *self.inner).await? {
                fresh.insert((row.try_get::<String, _>(0)?, row.try_get::<String, _>(1)?));
            }
        }
        let spend = |(key_id, nonce, _): &(&str, &str, u64)| {
            fresh.remove(&((*key_id).to_owned(), (*nonce).to_owned()))
        };
        Ok(claims.iter().map(spend).collect())
    }

    /// Forgets nonces whose signatures are stale.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn forget_nonces(&mut self, now_s: u64) -> Result<(), StoreError> {
        sqlx::query("DELETE FROM spent_nonce WHERE expires_s < $1")
            .bind(now_s.cast_signed())
            .execute(&mut *self.inner)
            .await?;
        Ok(())
    }
}
