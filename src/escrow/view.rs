//! The JSON that surfaces show of escrows.

use alloy::primitives::{Address, B256};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{ActionKind, ActionState, EscrowState, Release};
use crate::{money::Usdc, payment::AgentId, refusal::Refusal, view::PaymentView};

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JobView {
    /// SHA-256 of the description: part of the terms.
    #[schema(value_type = String)]
    pub hash: B256,
    /// The description, where the daemon has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Where it can be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
}

/// What `POST /v1/escrows` answers: the job with all its escrows.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Opened {
    /// The job: `job_` and 32 hexadecimal digits.
    pub job_id: String,
    /// One escrow for each milestone, in order.
    pub escrows: Vec<EscrowView>,
}

/// One escrow: a milestone of a job.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct EscrowView {
    /// Its id on chain: the EIP-712 hash of its terms.
    #[schema(value_type = String)]
    pub id: B256,
    /// The job it belongs to.
    pub job_id: String,
    /// Its place in the job, from 1.
    pub milestone: u32,
    /// How many the job has.
    pub milestones: u32,
    /// In a few words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// Who opened it.
    #[schema(value_type = String)]
    pub agent: AgentId,
    /// Where it stands.
    pub state: EscrowState,
    /// What ends next by itself, and when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<NextDeadline>,
    /// Who does the work.
    #[schema(value_type = String)]
    pub payee: Address,
    /// The payee's label, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payee_label: Option<String>,
    /// The agent of this daemon that the payee is, if it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub payee_agent: Option<AgentId>,
    /// Who decides disputes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub arbiter: Option<Address>,
    /// Decimal USDC.
    #[schema(value_type = String)]
    pub amount: Usdc,
    /// The same in base units.
    pub amount_units: u64,
    /// Paid to the payee's side.
    #[schema(value_type = String)]
    pub captured: Usdc,
    /// Paid back to the wallet.
    #[schema(value_type = String)]
    pub refunded: Usdc,
    /// Of what was captured, given back later.
    #[schema(value_type = String)]
    pub returned: Usdc,
    /// What still waits.
    #[schema(value_type = String)]
    pub held: Usdc,
    /// One of these releases is enough, beside all of `all_of`.
    pub any_of: Vec<Release>,
    /// Each of these is needed.
    pub all_of: Vec<Release>,
    /// Nothing delivered by then: the money goes back.
    #[schema(value_type = String)]
    pub submit_by: Timestamp,
    /// Seconds from delivery to object in.
    pub review_period_s: u32,
    /// Seconds the arbiter has.
    pub arbitration_period_s: u32,
    /// The payee's share of what is left where nobody speaks in time, of 10,000.
    pub silence_bps: u16,
    /// Who else has a part of what the payee's side gets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub payouts: Vec<PayoutView>,
    /// What is to be done.
    pub job: JobView,
    /// SHA-256 of what was delivered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub deliverable: Option<B256>,
    /// WorkEscrow: with the chain id, the domain of what the parties sign.
    #[schema(value_type = String)]
    pub contract: Address,
    /// `Terms` as the contract takes them: what every call brings along.
    #[schema(value_type = Object)]
    pub terms: serde_json::Value,
    /// The payment that funds it.
    pub payment: PaymentView,
    /// What is under way or has failed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub actions: Vec<ActionView>,
    /// What happened, in order.
    pub timeline: Vec<TimelineEntry>,
    /// When it was asked for.
    #[schema(value_type = String)]
    pub created_at: Timestamp,
    /// When it last changed.
    #[schema(value_type = String)]
    pub updated_at: Timestamp,
}

/// The deadline that runs, by the chain's clock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NextDeadline {
    /// What happens after it: `reclaim` (nothing was delivered) or `finalize` (nobody spoke).
    pub then: ActionKind,
    /// The last second in which a party can still act.
    #[schema(value_type = String)]
    pub at: Timestamp,
    /// Operators were warned that it is near.
    pub warned: bool,
}

/// One part of what the payee's side gets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PayoutView {
    /// Who.
    #[schema(value_type = String)]
    pub payee: Address,
    /// Its label, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payee_label: Option<String>,
    /// Of 10,000.
    pub bps: u16,
}

/// Something asked of an escrow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ActionView {
    /// Its id: `act_` and 32 hexadecimal digits.
    pub id: String,
    /// What.
    pub kind: ActionKind,
    /// Where it stands.
    pub state: ActionState,
    /// Who asked: `agent:<name>`, `operator:<address>` or `daemon`.
    pub actor: String,
    /// What exactly.
    #[schema(value_type = Object)]
    pub detail: serde_json::Value,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<Refusal>,
    /// Its transaction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub transaction: Option<B256>,
    /// When it was asked.
    #[schema(value_type = String)]
    pub created_at: Timestamp,
}

/// One line of an escrow's story.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TimelineEntry {
    /// When: the block's time for what is on chain.
    #[schema(value_type = String)]
    pub at: Timestamp,
    /// What: a step of the chain (`funded`, `submitted`, `released`, …), or `requested`.
    pub what: String,
    /// Who asked for it here, or whom the chain names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// How much.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub amount: Option<Usdc>,
    /// A deliverable, evidence or reason: SHA-256, or the contract's word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub hash: Option<B256>,
    /// In which transaction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub transaction: Option<B256>,
    /// In which block.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block: Option<u64>,
}

/// A page of escrows, newest first.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct EscrowPage {
    /// The escrows.
    pub escrows: Vec<EscrowView>,
    /// Pass it as `cursor` for the next page; absent on the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// A release above the agent's own authority, as operators sign it.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct StepApprovalView {
    /// The release.
    pub action: ActionView,
    /// The escrow.
    pub escrow: EscrowView,
    /// The EIP-712 typed data (`EscrowRelease` in the wallet's domain), as wallets take it.
    #[schema(value_type = Object)]
    pub typed_data: serde_json::Value,
    /// Its digest: what every operator's signature covers.
    #[schema(value_type = String)]
    pub digest: B256,
    /// Signatures needed.
    pub threshold: u64,
    /// Operators who signed.
    #[schema(value_type = Vec<String>)]
    pub signed_by: Vec<Address>,
    /// After this it fails.
    #[schema(value_type = String)]
    pub expires_at: Timestamp,
}
