//! What daemons on one PostgreSQL share: turns, and word of what changed.
//!
//! Every transaction there begins by taking a turn, a row that one transaction holds at a time: all
//! writers of all daemons stand in one line. Whatever a daemon keeps in memory of what others change
//! too (reservations, freezes) is written as words beside the change itself, under its turn. Whoever
//! takes the next turn has read the words of all turns before it: it decides by what is so now. A
//! SQLite file has one daemon, and needs neither.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use sqlx::{Any, Row as _, Transaction};

use super::{Store, StoreError, Tx, fresh_name, payment::unsigned};
use crate::{book::PaidIn, payment::AgentId, policy::Facts};

/// Turns whose words are kept: minutes at the highest load, days at a quiet one.
const KEPT: u64 = 20_000;

/// What another daemon did that this one must know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Word {
    /// A payment was accepted, and its amount is reserved.
    Reserved {
        /// Whose.
        agent: AgentId,
        /// What counts.
        facts: Facts,
        /// When, unix seconds.
        at_s: u64,
    },
    /// A purchase was signed that the contract counts, and its amount is reserved. It is no accepted
    /// payment to the limits that count those.
    Held {
        /// Whose.
        agent: AgentId,
        /// What counts.
        facts: Facts,
    },
    /// It was paid.
    Settled {
        /// Whose.
        agent: AgentId,
        /// What counts.
        facts: Facts,
        /// Where.
        paid_in: PaidIn,
    },
    /// It ended unpaid.
    Voided {
        /// Whose.
        agent: AgentId,
        /// What counts.
        facts: Facts,
    },
    /// An operator's order froze an agent.
    Frozen(AgentId),
    /// An operator's order froze the wallet.
    WalletFrozen,
    /// The contract's policy changed, or what operators ordered did: it must be read again.
    Policy {
        /// As of this block or a later one.
        block: u64,
    },
}

/// How far this daemon has listened.
#[derive(Debug, Default)]
struct Heard {
    /// The newest turn whose words are known. `None`: nobody listens yet.
    turn: Option<u64>,
    words: Vec<Word>,
}

/// The words that came in, and who listens.
#[derive(Debug)]
pub(super) struct Share {
    /// This daemon's name: the same after a restart.
    pub me: String,
    /// This run's own, under which it speaks: even two that were copied with their names hear each
    /// other.
    run: String,
    heard: Mutex<Heard>,
}

impl Share {
    pub(super) fn new(me: String) -> Arc<Self> {
        Arc::new(Self { me, run: fresh_name(), heard: Mutex::default() })
    }

    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a turn, and reads the words of those before it.
    pub(super) async fn turn(&self, tx: &mut Transaction<'_, Any>) -> Result<u64, StoreError> {
        let row =
            sqlx::query("UPDATE writer SET turn = turn + 1 WHERE id = 1 RETURNING turn, kept_from")
                .fetch_one(&mut **tx)
                .await?;
        let turn = unsigned("writer.turn", row.try_get(0)?)?;
        let kept_from = unsigned("writer.kept_from", row.try_get(1)?)?;
        let Some(heard) = self.heard().turn else { return Ok(turn) };
        if turn <= heard || kept_from > heard + 1 {
            return Err(StoreError::Missed { heard, turn });
        }
        if turn == heard + 1 {
            return Ok(turn);
        }
        let rows = sqlx::query(
            "SELECT words FROM word WHERE turn > $1 AND turn < $2 AND run <> $3 ORDER BY turn",
        )
        .bind(heard.cast_signed())
        .bind(turn.cast_signed())
        .bind(&self.run)
        .fetch_all(&mut **tx)
        .await?;
        let mut words = Vec::new();
        for row in rows {
            let text: String = row.try_get(0)?;
            let part: Vec<Word> = serde_json::from_str(&text)
                .map_err(|error| StoreError::corrupt("word.words", error))?;
            words.extend(part);
        }
        let mut heard = self.heard();
        heard.words.append(&mut words);
        heard.turn = Some(turn - 1);
        Ok(turn)
    }

    /// Notes that a turn of this daemon's own is over.
    pub(super) fn done(&self, turn: u64) {
        let mut heard = self.heard();
        if heard.turn == Some(turn.saturating_sub(1)) {
            heard.turn = Some(turn);
        }
    }
}

impl Store {
    /// Returns this daemon's name among those on one store.
    #[must_use]
    pub fn me(&self) -> &str {
        &self.share.me
    }

    /// Takes the words that others have left since the last call, in their order. They are read
    /// with every turn: whoever decides has begun a transaction first.
    #[must_use]
    pub fn words(&self) -> Vec<Word> {
        std::mem::take(&mut self.share.heard().words)
    }
}

impl Tx {
    /// Begins to listen: what is read of the store before this transaction ends is what is so at
    /// its turn, and every later word will be heard.
    pub fn listen(&self) {
        let mut heard = self.share.heard();
        heard.words.clear();
        heard.turn = Some(self.turn.saturating_sub(1));
    }

    /// Tells the other daemons something, with the commit.
    pub fn say(&mut self, word: Word) {
        // A file has no other daemons.
        if self.turn > 0 {
            self.words.push(word);
        }
    }

    pub(super) async fn write_words(&mut self) -> Result<(), StoreError> {
        if self.words.is_empty() {
            return Ok(());
        }
        let words = serde_json::to_string(&std::mem::take(&mut self.words))
            .map_err(|error| StoreError::corrupt("word.words", error))?;
        sqlx::query("INSERT INTO word (turn, run, words) VALUES ($1, $2, $3)")
            .bind(self.turn.cast_signed())
            .bind(&self.share.run)
            .bind(words)
            .execute(&mut *self.inner)
            .await?;
        Ok(())
    }

    /// Forgets words that every daemon has heard long ago. One that has slept so long must start
    /// anew.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn forget_words(&mut self) -> Result<(), StoreError> {
        let Some(from) = self.turn.checked_sub(KEPT) else { return Ok(()) };
        let done = sqlx::query("DELETE FROM word WHERE turn < $1")
            .bind(from.cast_signed())
            .execute(&mut *self.inner)
            .await?;
        if done.rows_affected() > 0 {
            sqlx::query("UPDATE writer SET kept_from = $1 WHERE id = 1")
                .bind(from.cast_signed())
                .execute(&mut *self.inner)
                .await?;
        }
        Ok(())
    }
}
