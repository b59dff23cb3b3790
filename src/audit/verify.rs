//! The check of an audit log: entry by entry, in constant memory, naming the first bad one.

use std::{collections::BTreeMap, fmt};

use alloy::primitives::B256;
use ed25519_dalek::VerifyingKey;
use serde::Serialize;

use super::{Anchor, Entry};

/// What a sound log looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Entries read.
    pub entries: u64,
    /// Hash of the last; zero for an empty log.
    pub head: B256,
    /// Number of the last entry that an anchor vouches for; 0 without anchors. What follows it is
    /// linked, but a cut of it would not show.
    pub anchored: u64,
}

/// The first bad entry and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// Its number.
    pub seq: u64,
    /// What is wrong.
    pub what: What,
}

/// What can be wrong with a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// Its content does not give its hash.
    Edited,
    /// Its content was changed and its hash computed anew: the next entry holds another one.
    Replaced,
    /// It is not there.
    Missing,
    /// It stands after a later one.
    Reordered,
    /// Its number is there twice.
    Duplicate,
    /// It and all that follow are gone, although an anchor was made later.
    Truncated,
    /// An anchor holds another hash: the log was rewritten after entry `after` and up to here.
    Rewritten {
        /// The last entry that an anchor vouches for; 0: none.
        after: u64,
    },
    /// The anchor of this entry is not signed by the key.
    ForgedAnchor,
}

impl std::error::Error for Fault {}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seq = self.seq;
        match self.what {
            What::Edited => write!(f, "entry {seq} was edited: its content does not give its hash"),
            What::Replaced => {
                write!(f, "entry {seq} was replaced: its neighbour holds another hash")
            }
            What::Missing => write!(f, "entry {seq} is missing"),
            What::Reordered => write!(f, "entry {seq} stands after a later one"),
            What::Duplicate => write!(f, "entry {seq} is there twice"),
            What::Truncated => {
                write!(f, "the log was cut: entry {seq} and what followed it are gone")
            }
            What::Rewritten { after } => write!(
                f,
                "the log was rewritten after entry {after}: the anchor of entry {seq} holds another hash"
            ),
            What::ForgedAnchor => {
                write!(f, "the anchor of entry {seq} is not signed by the daemon's key")
            }
        }
    }
}

/// Something is wrong, but only later entries can tell which fault it is.
enum Doubt {
    /// Entry `seq` did not come in its turn.
    Gap { seq: u64 },
    /// Entry `seq` does not hold the hash of the one before; its own hash is `hash`.
    Link { seq: u64, hash: B256 },
}

/// Takes the entries one after the other.
pub struct Verifier {
    anchors: BTreeMap<u64, B256>,
    seq: u64,
    head: B256,
    anchored: u64,
    doubt: Option<Doubt>,
}

impl Verifier {
    /// Starts at the first entry. The anchors, in any order, must be signed by `key`.
    ///
    /// # Errors
    /// An anchor that is not, or two that contradict each other.
    pub fn new(
        anchors: impl IntoIterator<Item = Anchor>,
        key: &VerifyingKey,
    ) -> Result<Self, Fault> {
        let mut known = BTreeMap::new();
        for anchor in anchors {
            let seq = anchor.seq;
            if !anchor.is_signed_by(key) {
                return Err(Fault { seq, what: What::ForgedAnchor });
            }
            if known.insert(seq, anchor.hash).is_some_and(|other| other != anchor.hash) {
                return Err(Fault { seq, what: What::Rewritten { after: 0 } });
            }
        }
        Ok(Self { anchors: known, ..Self::unanchored() })
    }

    /// Starts at the first entry, with nothing that vouches for its end.
    #[must_use]
    pub const fn unanchored() -> Self {
        Self { anchors: BTreeMap::new(), seq: 0, head: B256::ZERO, anchored: 0, doubt: None }
    }

    /// Takes the next entry in the order in which the log holds them.
    ///
    /// # Errors
    /// The first fault; what is pushed after it means nothing.
    pub fn push(&mut self, entry: &Entry) -> Result<(), Fault> {
        let seq = entry.seq;
        match self.doubt {
            // Memory stays constant: the rest is only searched for the entry that did not come.
            Some(Doubt::Gap { seq: gap }) if seq == gap => {
                return Err(Fault { seq, what: What::Reordered });
            }
            Some(Doubt::Gap { .. }) => return Ok(()),
            Some(Doubt::Link { seq: later, hash }) => {
                // If the next entry agrees with the later one, the earlier one is the odd one out.
                let fine = entry.seq == later + 1 && entry.prev == hash;
                let seq = if fine { later - 1 } else { later };
                return Err(Fault { seq, what: What::Replaced });
            }
            None => {}
        }
        let expected = self.seq + 1;
        if seq > expected {
            self.doubt = Some(Doubt::Gap { seq: expected });
            return Ok(());
        }
        if seq < expected {
            return Err(Fault { seq, what: What::Duplicate });
        }
        if entry.expected_hash().ok() != Some(entry.hash) {
            return Err(Fault { seq, what: What::Edited });
        }
        if entry.prev != self.head {
            if seq == 1 {
                return Err(Fault { seq, what: What::Replaced });
            }
            self.doubt = Some(Doubt::Link { seq, hash: entry.hash });
            return Ok(());
        }
        if let Some(anchor) = self.anchors.get(&seq) {
            if *anchor != entry.hash {
                return Err(Fault { seq, what: What::Rewritten { after: self.anchored } });
            }
            self.anchored = seq;
        }
        (self.seq, self.head) = (seq, entry.hash);
        Ok(())
    }

    /// Ends the log.
    ///
    /// # Errors
    /// The fault that only the end shows.
    pub fn finish(self) -> Result<Summary, Fault> {
        match self.doubt {
            Some(Doubt::Gap { seq }) => return Err(Fault { seq, what: What::Missing }),
            // Nothing follows that could speak for the last entry: the one before is replaced.
            Some(Doubt::Link { seq, .. }) => {
                return Err(Fault { seq: seq - 1, what: What::Replaced });
            }
            None => {}
        }
        if self.anchors.last_key_value().is_some_and(|(last, _)| *last > self.seq) {
            return Err(Fault { seq: self.seq + 1, what: What::Truncated });
        }
        Ok(Summary { entries: self.seq, head: self.head, anchored: self.anchored })
    }
}

/// Checks a whole log; see [`Verifier`] for one that comes in pages.
///
/// # Errors
/// The first fault.
pub fn verify(
    entries: impl IntoIterator<Item = Entry>,
    anchors: impl IntoIterator<Item = Anchor>,
    key: &VerifyingKey,
) -> Result<Summary, Fault> {
    let mut verifier = Verifier::new(anchors, key)?;
    for entry in entries {
        verifier.push(&entry)?;
    }
    verifier.finish()
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::SigningKey;
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::audit::{Chain, Draft, EventKind};

    fn key() -> SigningKey {
        SigningKey::from_bytes(&[7; 32])
    }

    /// A log of `length` entries with an anchor after each of `anchored`.
    fn log(length: u64, anchored: &[u64]) -> (Vec<Entry>, Vec<Anchor>) {
        let mut chain = Chain::default();
        let (mut entries, mut anchors) = (Vec::new(), Vec::new());
        for n in 1..=length {
            let draft = Draft {
                at_ms: i64::try_from(n).unwrap(),
                kind: EventKind::PaymentRequested,
                actor: "agent:research".into(),
                agent: Some("research".parse().unwrap()),
                payment: None,
                reference: Some(format!("batch {n}")),
                data: json!({ "amount": n.to_string() }),
            };
            entries.push(chain.append(draft).unwrap());
            if anchored.contains(&n) {
                anchors.push(chain.anchor(0, &key()).unwrap());
            }
        }
        (entries, anchors)
    }

    fn fault(entries: Vec<Entry>, anchors: Vec<Anchor>) -> (u64, What) {
        let fault = verify(entries, anchors, &key().verifying_key()).unwrap_err();
        assert!(fault.to_string().contains(&fault.seq.to_string()));
        (fault.seq, fault.what)
    }

    /// Computes hashes anew from entry `from` on, as a careful forger would.
    fn relink(entries: &mut [Entry], from: usize) {
        for place in from..entries.len() {
            if place > from {
                entries[place].prev = entries[place - 1].hash;
            }
            entries[place].hash = entries[place].expected_hash().unwrap();
        }
    }

    #[test]
    fn a_sound_log_passes() {
        let (entries, anchors) = log(9, &[3, 7]);
        let head = entries[8].hash;
        let summary = verify(entries, anchors, &key().verifying_key()).unwrap();
        assert_eq!(summary, Summary { entries: 9, head, anchored: 7 });
        let empty = verify([], [], &key().verifying_key()).unwrap();
        assert_eq!(empty, Summary { entries: 0, head: B256::ZERO, anchored: 0 });
    }

    #[test]
    fn names_what_was_done_and_where() {
        let (entries, anchors) = log(9, &[3, 7]);
        let edit = |change: &dyn Fn(&mut Vec<Entry>)| {
            let mut entries = entries.clone();
            change(&mut entries);
            fault(entries, anchors.clone())
        };
        assert_eq!(edit(&|log| log[4].actor = "daemon".into()), (5, What::Edited));
        assert_eq!(edit(&|log| log[4].data = json!({ "amount": 0.5 })), (5, What::Edited));
        assert_eq!(edit(&|log| drop(log.remove(4))), (5, What::Missing));
        assert_eq!(edit(&|log| drop(log.drain(..2))), (1, What::Missing));
        assert_eq!(edit(&|log| log.swap(4, 5)), (5, What::Reordered));
        assert_eq!(edit(&|log| log.insert(5, log[4].clone())), (5, What::Duplicate));
        assert_eq!(edit(&|log| log.truncate(6)), (7, What::Truncated));
        assert_eq!(edit(&|log| log.clear()), (1, What::Truncated));
        // Edited with its hash made to fit: its successor tells.
        let one = |log: &mut Vec<Entry>| {
            log[4].actor = "daemon".into();
            log[4].hash = log[4].expected_hash().unwrap();
        };
        assert_eq!(edit(&one), (5, What::Replaced));
        // Its link changed and its hash made to fit: the successor tells that it is this one.
        let link = |log: &mut Vec<Entry>| {
            log[4].prev = B256::repeat_byte(1);
            log[4].hash = log[4].expected_hash().unwrap();
        };
        assert_eq!(edit(&link), (5, What::Replaced));
        // All that follows written anew: the next anchor tells.
        let tail = |log: &mut Vec<Entry>| {
            log[4].actor = "daemon".into();
            relink(log, 4);
        };
        assert_eq!(edit(&tail), (7, What::Rewritten { after: 3 }));
        // Taken out, and all that follows renumbered and linked anew.
        let closed = |log: &mut Vec<Entry>| {
            log.remove(4);
            log[4].prev = log[3].hash;
            log[4..].iter_mut().for_each(|entry| entry.seq -= 1);
            relink(log, 4);
        };
        assert_eq!(edit(&closed), (7, What::Rewritten { after: 3 }));
    }

    #[test]
    fn a_changed_link_at_either_end_is_found() {
        let (mut entries, _) = log(3, &[]);
        entries[0].prev = B256::repeat_byte(1);
        entries[0].hash = entries[0].expected_hash().unwrap();
        assert_eq!(fault(entries, vec![]), (1, What::Replaced));
        let (mut entries, _) = log(3, &[]);
        entries[1].at_ms += 1;
        entries[1].hash = entries[1].expected_hash().unwrap();
        assert_eq!(fault(entries, vec![]), (2, What::Replaced));
    }

    #[test]
    fn anchors_must_be_signed_and_agree() {
        let (entries, mut anchors) = log(9, &[3, 7]);
        anchors[1].seq = 8;
        assert_eq!(fault(entries.clone(), anchors), (8, What::ForgedAnchor));
        let other = Chain { seq: 3, head: B256::repeat_byte(9) }.anchor(0, &key()).unwrap();
        let (_, mut anchors) = log(9, &[3]);
        anchors.push(other);
        assert_eq!(fault(entries, anchors), (3, What::Rewritten { after: 0 }));
    }

    proptest! {
        #[test]
        fn no_single_change_goes_unseen(at in 0_usize..12, field in 0_u8..8, with in 0_usize..12) {
            let (mut entries, anchors) = log(12, &[12]);
            let before = entries.clone();
            match field {
                0 => entries[at].at_ms ^= 1,
                1 => entries[at].kind.push('x'),
                2 => entries[at].reference = None,
                3 => entries[at].payment = Some(crate::payment::PaymentId::generate()),
                4 => entries[at].hash.0[at] ^= 1,
                5 => entries[at].prev.0[at] ^= 1,
                6 => drop(entries.remove(at)),
                _ => entries.swap(at, with),
            }
            let verdict = verify(entries.clone(), anchors, &key().verifying_key());
            prop_assert_eq!(verdict.is_ok(), entries == before);
            if field < 6 {
                prop_assert_eq!(verdict.unwrap_err().seq, at as u64 + 1);
            }
        }
    }
}
