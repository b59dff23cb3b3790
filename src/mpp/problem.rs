//! Why a payment was not taken: problem details (RFC 9457) with the draft's types.

use serde::{Deserialize, Serialize};

const BASE: &str = "https://paymentauth.org/problems/";

/// The draft's types of problems.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProblemType {
    /// Nothing was paid.
    PaymentRequired,
    /// The credential cannot be read.
    MalformedCredential,
    /// The challenge is not ours, or was changed.
    InvalidChallenge,
    /// The proof is wrong.
    VerificationFailed,
    /// Too little.
    PaymentInsufficient,
    /// Too late.
    PaymentExpired,
    /// A method, or an intent, that is not spoken here.
    MethodUnsupported,
}

impl ProblemType {
    const ALL: [(Self, &'static str, u16, &'static str); 7] = [
        (Self::PaymentRequired, "payment-required", 402, "Payment Required"),
        (Self::MalformedCredential, "malformed-credential", 402, "Malformed Credential"),
        (Self::InvalidChallenge, "invalid-challenge", 402, "Invalid Challenge"),
        (Self::VerificationFailed, "verification-failed", 402, "Verification Failed"),
        (Self::PaymentInsufficient, "payment-insufficient", 402, "Payment Insufficient"),
        (Self::PaymentExpired, "payment-expired", 402, "Payment Expired"),
        (Self::MethodUnsupported, "method-unsupported", 400, "Method Unsupported"),
    ];

    fn row(self) -> (&'static str, u16, &'static str) {
        let row = Self::ALL.iter().find(|row| row.0 == self);
        row.map_or(("", 500, ""), |(_, name, status, title)| (name, *status, title))
    }
}

/// A problem as it is written in an answer's body.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// A URL that names it.
    #[serde(rename = "type")]
    pub kind: String,
    /// The same in words, the same every time.
    pub title: String,
    /// Of the answer.
    pub status: u16,
    /// What happened here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

impl Problem {
    /// Makes a problem.
    #[must_use]
    pub fn new(kind: ProblemType, detail: impl Into<String>) -> Self {
        let (name, status, title) = kind.row();
        Self {
            kind: format!("{BASE}{name}"),
            title: title.to_owned(),
            status,
            detail: Some(detail.into()),
        }
    }

    /// Returns its type, if it is one of the draft's.
    #[must_use]
    pub fn problem_type(&self) -> Option<ProblemType> {
        let name = self.kind.strip_prefix(BASE)?;
        ProblemType::ALL.iter().find(|row| row.1 == name).map(|row| row.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_has_its_url() {
        for (kind, ..) in ProblemType::ALL {
            let problem = Problem::new(kind, "x");
            assert_eq!(problem.problem_type(), Some(kind));
            assert!(matches!(problem.status, 400 | 402));
        }
        let text = serde_json::to_value(Problem::new(ProblemType::PaymentRequired, "pay")).unwrap();
        assert_eq!(text["type"], "https://paymentauth.org/problems/payment-required");
    }
}
