//! `demo/requests.jsonl`: what is asked for, and what has to come of it.

use std::{collections::BTreeMap, path::Path};

use anyhow::Context as _;
use bursar::payment::{AgentId, State};
use serde::{Deserialize, Serialize};

/// One line: one request, or one sent several times. `demo/make-requests` explains the fields.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Line {
    pub agent: AgentId,
    pub key: String,
    /// Sent as it stands, malformed or not.
    pub send: serde_json::Value,
    #[serde(default)]
    pub how: How,
    #[serde(default = "one")]
    pub times: u32,
    #[serde(default)]
    pub then: Option<serde_json::Value>,
    #[serde(default)]
    pub wait: Option<Wait>,
    #[serde(default)]
    pub operators: Option<Verdict>,
    pub expect: Expect,
}

const fn one() -> u32 {
    1
}

/// How a line is sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum How {
    /// One request.
    #[default]
    Once,
    /// A second request under the same key, signed anew.
    Again,
    /// The same signed bytes a second time.
    Replay,
    /// `times` requests under one key, at once.
    Parallel,
    /// `times` requests, each under a key of its own.
    Loop,
    /// Without a signature.
    Unsigned,
    /// Signed with a key that nobody registered.
    Forged,
    /// Without an idempotency key.
    Keyless,
}

/// What an agent waits for before it sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wait {
    /// All its earlier payments are final.
    Settled,
    /// An operator has frozen it.
    Frozen,
}

/// What the operators do with a payment that waits for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Approve,
    Reject,
    RejectAndFreeze,
}

/// What has to come of a line.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Expect {
    /// HTTP status of the first answer.
    pub status: Option<u16>,
    /// Code of its refusal.
    pub code: Option<String>,
    /// The payment's last state.
    pub end: Option<State>,
    /// The answer to the repetition.
    pub second: Option<Second>,
    /// For loops: payments accepted …
    pub accepted: Option<u32>,
    /// … and refusals by code.
    pub refused: BTreeMap<String, u32>,
}

/// The answer to a repetition.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Second {
    /// The same payment again, whatever has become of it.
    #[serde(default)]
    pub same: bool,
    #[serde(default)]
    pub status: Option<u16>,
    #[serde(default)]
    pub code: Option<String>,
}

/// Reads the whole file.
pub fn read(path: &Path) -> anyhow::Result<Vec<Line>> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let lines = text.lines().enumerate().map(|(at, line)| {
        serde_json::from_str(line).with_context(|| format!("{} line {}", path.display(), at + 1))
    });
    lines.collect()
}

/// What a client process tells the conductor, one JSON a line on standard output.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Note {
    /// A request was answered: its status and, for a refusal, its code.
    Answered { status: u16, code: Option<String> },
    /// A line came out as expected, or what was wrong.
    Line { key: String, fault: Option<String> },
    /// A payment reached its end.
    Ended { payment: Box<bursar::view::PaymentView> },
    /// An operator did something.
    Operator { text: String },
}

impl Note {
    /// Tells the conductor.
    pub fn send(&self) {
        // A conductor that is gone has ended its children too: there is nobody to tell.
        if let Ok(line) = serde_json::to_string(self) {
            println!("{line}");
        }
    }
}
