//! What an agent sends: a job and its milestones, and what it asks of an escrow later.

use std::collections::HashSet;

use alloy::primitives::{Address, B256, Bytes, U256, aliases::U40, keccak256};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{JobView, content_hash};
use crate::{
    book::Book,
    contract::escrow::{self, Payout, Terms, by},
    money::Usdc,
    payment::Context,
    refusal::{Code, Refusal},
};

/// Milestones of a job at most.
const MILESTONES: usize = 16;
/// Payouts of a milestone at most: the contract's bound.
const PAYOUTS: usize = 8;
/// Bytes of a job's description, a deliverable or evidence given as text.
const TEXT: usize = 16 * 1_024;
/// Bytes of a title.
const TITLE: usize = 120;
/// Bytes of an address on the web.
const URL: usize = 512;
/// Longest period or deadline, seconds: a year.
const LONGEST_S: u64 = 366 * 86_400;

/// What an agent sends to `POST /v1/escrows`: one job, one escrow for each of its milestones. All of
/// them are accepted, or none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EscrowRequest {
    /// Who does the work: a registered payee's label, or an address.
    pub payee: String,
    /// Always "USDC".
    pub currency: String,
    /// Why, in the agent's words: 1 to 500 bytes.
    pub reason: String,
    /// For whom and for what. An invoice counts once for the job.
    #[serde(default)]
    pub context: Context,
    /// What is to be done.
    pub job: JobRequest,
    /// 1 to 16, each with its own money and terms.
    pub milestones: Vec<Milestone>,
}

/// What is to be done. Its hash is part of the terms.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct JobRequest {
    /// The description itself (at most 16 KiB), or the SHA-256 of one kept elsewhere.
    pub content: Content,
    /// Where it can be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
}

/// A text that is hashed and kept, or the hash of what is kept elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Content {
    /// At most 16 KiB.
    Text(String),
    /// SHA-256: `0x` and 64 hexadecimal digits.
    #[schema(value_type = String)]
    Sha256(B256),
}

/// One milestone: the terms of one escrow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Milestone {
    /// In a few words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// Decimal USDC.
    pub amount: String,
    /// Who decides disputes, and may release where the rule names it. None: there are no disputes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub arbiter: Option<Address>,
    /// What lets the money go.
    pub release: ReleaseRule,
    /// Seconds from now until which something must be delivered; then the money goes back.
    pub submit_within_s: u64,
    /// Seconds from delivery in which payer and payee may object.
    pub review_period_s: u32,
    /// Seconds the arbiter has. 0 without an arbiter.
    #[serde(default)]
    pub arbitration_period_s: u32,
    /// The payee's share of what is left where nobody speaks in time, of 10,000: 10,000 pays what
    /// was delivered and not objected to, 0 takes it back.
    pub silence_bps: u16,
    /// Who else has a part of what the payee's side gets; the rest is the payee's. At most 8.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub payouts: Vec<PayoutShare>,
}

/// One part of what the payee's side gets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PayoutShare {
    /// A registered payee's label, or an address.
    pub payee: String,
    /// Of 10,000.
    pub bps: u16,
}

/// One way to let money go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Release {
    /// The agent that opened it says so.
    Payer,
    /// The arbiter says so.
    Arbiter,
    /// Somebody shows the preimage of `hashlock`: all of the money.
    Preimage,
    /// A contract says that `condition` holds: all of the money.
    Condition,
}

impl Release {
    const fn bit(self) -> u8 {
        match self {
            Self::Payer => by::PAYER,
            Self::Arbiter => by::ARBITER,
            Self::Preimage => by::PREIMAGE,
            Self::Condition => by::CONDITION,
        }
    }

    /// Reads the bits of terms.
    #[must_use]
    pub fn of(bits: u8) -> Vec<Self> {
        [Self::Payer, Self::Arbiter, Self::Preimage, Self::Condition]
            .into_iter()
            .filter(|one| bits & one.bit() != 0)
            .collect()
    }
}

/// What lets the money go: one of `any_of` (if there are any) and each of `all_of`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ReleaseRule {
    /// One of these is enough.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub any_of: Vec<Release>,
    /// Each of these is needed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub all_of: Vec<Release>,
    /// SHA-256 of the 32-byte preimage.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub hashlock: Option<B256>,
    /// The contract that is asked (`ICondition`).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub condition: Option<Address>,
    /// What it is asked about.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub condition_arg: Option<B256>,
}

/// A party's own signature over what it says, in WorkEscrow's EIP-712 domain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Signed {
    /// 65 bytes, or whatever the party's contract takes, hexadecimal.
    #[schema(value_type = String)]
    pub signature: Bytes,
    /// Unix seconds, inclusive, as signed.
    pub deadline: u64,
}

/// What is asked of an escrow. Asking the same again finds the first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "action", rename_all = "snake_case", deny_unknown_fields)]
pub enum ActionRequest {
    /// The payee delivers. An agent of this daemon signs by being asked; anybody else hands in
    /// `signed` over `Submit`.
    Submit {
        /// What is delivered.
        deliverable: Content,
        /// Where it can be read.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        url: Option<String>,
        /// An outside payee's.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        signed: Option<Signed>,
    },
    /// Pays the payee's side up to a total. Without any proof it is the opening agent's own word;
    /// above its ceiling operators sign too.
    Release {
        /// Total of the payee's side, decimal USDC; absent: everything.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        total: Option<String>,
        /// Say the payer's word beside the proof.
        #[serde(default)]
        as_payer: bool,
        /// The arbiter's, over `Release`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        arbiter: Option<Signed>,
        /// 32 bytes whose SHA-256 is the hash lock.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schema(value_type = Option<String>)]
        preimage: Option<B256>,
        /// What the condition needs to see; `0x` where it needs nothing.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schema(value_type = Option<String>)]
        condition_data: Option<Bytes>,
    },
    /// Payer or payee asks the arbiter, within the review period.
    Dispute {
        /// What is wrong.
        evidence: Content,
        /// Where it can be read.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        url: Option<String>,
        /// An outside payee's, over `Dispute`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        signed: Option<Signed>,
    },
    /// The arbiter splits the amount.
    Award {
        /// Total of the payee's side, decimal USDC; the rest goes back.
        captured: String,
        /// Why.
        reason: Content,
        /// The arbiter's, over `Award`.
        signed: Signed,
    },
    /// The payee gives what is left back.
    Void {
        /// An outside payee's, over `Void`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        signed: Option<Signed>,
    },
    /// Takes back what was not delivered in time. The daemon does it by itself.
    Reclaim,
    /// Ends what nobody spoke about in time. The daemon does it by itself.
    Finalize,
    /// Pays an account what USDC once refused to pay it.
    Withdraw {
        /// The account; absent: the wallet.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schema(value_type = Option<String>)]
        account: Option<Address>,
    },
    /// The payee gives back what it was paid, also after the end, by an EIP-3009 authorization over
    /// its USDC to WorkEscrow. Needs no allowance and no gas of its own.
    Refund {
        /// Total that has then come back, decimal USDC; absent: all that was paid out.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        total: Option<String>,
        /// An outside payee's, over USDC's `ReceiveWithAuthorization` of the step's amount with
        /// `keccak256(abi.encode(escrowId, uint64 total))` as nonce, valid after 0, before `deadline`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        signed: Option<Signed>,
    },
}

/// A milestone that could be read; salt and deadline come with its acceptance.
#[derive(Clone, Debug)]
pub(crate) struct Draft {
    pub amount: Usdc,
    pub title: Option<String>,
    pub terms: Terms,
    pub submit_within_s: u64,
    pub payouts: Vec<Payout>,
}

/// A job that could be read.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub view: JobView,
    pub milestones: Vec<Draft>,
}

fn invalid(field: &str, detail: impl std::fmt::Display) -> Refusal {
    Refusal::new(Code::InvalidPayment, format!("{field}: {detail}")).rule(format!("body.{field}"))
}

impl Content {
    /// Returns the hash, and the text where it was given.
    ///
    /// # Errors
    /// 400 for a text that is empty or too long.
    pub(crate) fn read(&self, field: &str) -> Result<(B256, Option<String>), Refusal> {
        match self {
            Self::Sha256(hash) => Ok((*hash, None)),
            Self::Text(text) if (1..=TEXT).contains(&text.len()) => {
                Ok((content_hash(text.as_bytes()), Some(text.clone())))
            }
            Self::Text(_) => Err(invalid(field, format!("a text has 1 to {TEXT} bytes"))
                .hint("send the SHA-256 of what is longer, and a url")),
        }
    }
}

/// Checks an address on the web.
pub(crate) fn check_url(url: Option<&str>, field: &str) -> Result<(), Refusal> {
    match url {
        Some(url) if !(1..=URL).contains(&url.len()) || url.chars().any(char::is_control) => {
            Err(invalid(field, format!("a url has 1 to {URL} bytes and no control characters")))
        }
        _ => Ok(()),
    }
}

/// Reads an amount of base units above zero.
pub(crate) fn amount(text: &str, field: &str) -> Result<Usdc, Refusal> {
    text.parse::<Usdc>()
        .map_err(|error| invalid(field, error).hint("send decimal USDC as a string"))
}

impl EscrowRequest {
    /// Reads what is about the work; the payee and the texts are read as a payment's are. Whether
    /// the contract takes such terms, the contract says.
    pub(crate) fn job(&self, book: &Book, payer: Address, payee: Address) -> Result<Job, Refusal> {
        let (hash, text) = self.job.content.read("job.content")?;
        check_url(self.job.url.as_deref(), "job.url")?;
        if !(1..=MILESTONES).contains(&self.milestones.len()) {
            return Err(invalid("milestones", format!("a job has 1 to {MILESTONES}")));
        }
        let milestones = self
            .milestones
            .iter()
            .enumerate()
            .map(|(index, milestone)| {
                milestone.read(book, &format!("milestones[{index}]"), (payer, payee), hash)
            })
            .collect::<Result<_, _>>()?;
        Ok(Job { view: JobView { hash, text, url: self.job.url.clone() }, milestones })
    }

    /// Hashes what is asked for: a retry has the same.
    pub(crate) fn fingerprint(&self) -> B256 {
        keccak256(serde_json::to_vec(self).unwrap_or_default())
    }
}

impl Milestone {
    fn read(
        &self,
        book: &Book,
        at: &str,
        (payer, payee): (Address, Address),
        job: B256,
    ) -> Result<Draft, Refusal> {
        let field = |name: &str| format!("{at}.{name}");
        if let Some(title) = &self.title
            && (!(1..=TITLE).contains(&title.len()) || title.chars().any(char::is_control))
        {
            return Err(invalid(&field("title"), format!("1 to {TITLE} bytes of text")));
        }
        let amount = amount(&self.amount, &field("amount"))?;
        for (name, value) in [
            ("submit_within_s", self.submit_within_s),
            ("review_period_s", self.review_period_s.into()),
        ] {
            if !(1..=LONGEST_S).contains(&value) {
                return Err(invalid(&field(name), format!("1 to {LONGEST_S} seconds")));
            }
        }
        if u64::from(self.arbitration_period_s) > LONGEST_S
            || self.arbiter.is_some() != (self.arbitration_period_s != 0)
        {
            return Err(invalid(
                &field("arbitration_period_s"),
                format!("1 to {LONGEST_S} seconds with an arbiter, 0 without one"),
            ));
        }
        if self.payouts.len() > PAYOUTS {
            return Err(invalid(&field("payouts"), format!("at most {PAYOUTS}")));
        }
        let mut seen = HashSet::from([payee]);
        let payouts = self
            .payouts
            .iter()
            .map(|share| {
                let to = book.resolve(&share.payee).ok_or_else(|| {
                    let detail = format!("{}: no payee is registered as it", field("payouts"));
                    Refusal::new(Code::PayeeUnknown, detail)
                        .rule("payees")
                        .hint("GET /v1/permissions lists the payees you may pay")
                })?;
                if !seen.insert(to) {
                    return Err(invalid(&field("payouts"), "nobody has two parts of one payout"));
                }
                Ok(Payout { to, bps: share.bps })
            })
            .collect::<Result<Vec<_>, Refusal>>()?;
        let rule = &self.release;
        let bits = |list: &[Release]| list.iter().fold(0, |bits, one| bits | one.bit());
        let terms = Terms {
            payer,
            payee,
            arbiter: self.arbiter.unwrap_or_default(),
            amount: amount.units(),
            submitBy: U40::ZERO,
            reviewPeriod: self.review_period_s,
            arbitrationPeriod: self.arbitration_period_s,
            silenceBps: self.silence_bps,
            anyOf: bits(&rule.any_of),
            allOf: bits(&rule.all_of),
            hashlock: rule.hashlock.unwrap_or_default(),
            condition: rule.condition.unwrap_or_default(),
            conditionArg: rule.condition_arg.unwrap_or_default(),
            payoutsHash: escrow::payouts_hash(&payouts),
            jobHash: job,
            salt: U256::ZERO,
        };
        Ok(Draft {
            amount,
            title: self.title.clone(),
            terms,
            submit_within_s: self.submit_within_s,
            payouts,
        })
    }
}

/// The fields of `Terms` as a request calls them, by the contract's number of them.
pub(crate) fn field_name(field: u8) -> &'static str {
    const NAMES: [&str; 16] = [
        "payer",
        "payee",
        "arbiter",
        "amount",
        "submit_within_s",
        "review_period_s",
        "arbitration_period_s",
        "silence_bps",
        "release.any_of",
        "release.all_of",
        "release.hashlock",
        "release.condition",
        "release.condition_arg",
        "payouts",
        "job",
        "salt",
    ];
    NAMES.get(usize::from(field)).copied().unwrap_or("terms")
}
