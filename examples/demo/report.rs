//! What is counted on the way, and the tables at the end.

use std::collections::{BTreeMap, BTreeSet};

use alloy::{
    primitives::B256,
    providers::{Provider as _, ProviderBuilder},
};
use anyhow::{Context as _, bail};
use bursar::{
    cli::table::{Table, table},
    devnet::Manifest,
    money::Usdc,
    payment::State,
    view::PaymentView,
};

use crate::script::{Line, Note, Verdict};

/// Everything that was said.
#[derive(Default)]
pub struct Tally {
    /// Answers by agent, status and code.
    answers: BTreeMap<(String, u16, Option<String>), u32>,
    payments: Vec<PaymentView>,
    faults: Vec<String>,
    lines: usize,
    /// What operators did.
    decisions: u32,
    /// Keys of the payments that operators are to sign.
    signed: BTreeSet<String>,
}

impl Tally {
    /// Starts at nothing.
    pub fn new(lines: &[Line]) -> Self {
        let signed = lines.iter().filter(|line| line.operators == Some(Verdict::Approve));
        Self { signed: signed.map(|line| line.key.clone()).collect(), ..Self::default() }
    }

    /// Counts a note.
    pub fn note(&mut self, who: &str, note: Note) {
        match note {
            Note::Answered { status, code } => {
                *self.answers.entry((who.to_owned(), status, code)).or_default() += 1;
            }
            Note::Line { key, fault } => {
                self.lines += 1;
                self.faults.extend(fault.map(|fault| format!("{key}: {fault}")));
            }
            Note::Ended { payment } => self.payments.push(*payment),
            Note::Operator { .. } => self.decisions += 1,
        }
    }

    /// An agent's process ended.
    pub fn ended(&mut self, who: &str, success: bool) {
        if !success {
            self.faults.push(format!("agent {who} failed"));
        }
    }

    /// Prints the tables.
    pub async fn show(&self, devnet: &Manifest) -> anyhow::Result<()> {
        println!("\nWhat the agents asked, and what they were told\n");
        println!("{}\n", self.by_agent());
        println!("{}\n", self.by_answer());
        println!("What it cost, and how long it took\n");
        println!("{}", self.cost(devnet).await?);
        Ok(())
    }

    /// Fails if anything was not as expected.
    pub fn verdict(&self) -> anyhow::Result<()> {
        if self.faults.is_empty() {
            println!("\n{} lines came out as demo/requests.jsonl expects.", self.lines);
            return Ok(());
        }
        bail!("not as expected:\n  {}", self.faults.join("\n  "))
    }

    fn by_agent(&self) -> Table {
        let mut shown = table(&[
            "agent",
            "requests",
            "accepted",
            "refused",
            "paid",
            "co-signed",
            "rejected",
            "USDC paid",
        ]);
        let agents: BTreeSet<&String> = self.answers.keys().map(|(agent, ..)| agent).collect();
        for agent in agents {
            let count = |wanted: fn(u16) -> bool| -> u32 {
                self.answers
                    .iter()
                    .filter(|((who, status, _), _)| who == agent && wanted(*status))
                    .map(|(_, n)| n)
                    .sum()
            };
            let own: Vec<_> = self.payments.iter().filter(|p| p.agent.as_str() == agent).collect();
            let paid: Vec<_> = own.iter().filter(|p| p.state == State::Paid).collect();
            let asked = paid.iter().filter(|p| self.signed.contains(&p.idempotency_key)).count();
            let rejected = own.iter().filter(|p| p.state == State::Rejected).count();
            let sum = paid.iter().fold(Usdc::ZERO, |sum, p| sum.saturating_add(p.amount));
            shown.add_row([
                agent.clone(),
                count(|_| true).to_string(),
                count(|status| status < 300).to_string(),
                count(|status| status >= 300).to_string(),
                paid.len().to_string(),
                asked.to_string(),
                rejected.to_string(),
                sum.to_string(),
            ]);
        }
        shown
    }

    fn by_answer(&self) -> Table {
        let mut shown = table(&["answer", "status", "requests"]);
        let mut totals = BTreeMap::<(u16, String), u32>::new();
        for ((_, status, code), n) in &self.answers {
            let text = match (code, status) {
                (Some(code), _) => code.clone(),
                (None, 202) => "accepted".to_owned(),
                (None, _) => "accepted before: the same payment".to_owned(),
            };
            *totals.entry((*status, text)).or_default() += n;
        }
        for ((status, text), n) in totals {
            shown.add_row([text, status.to_string(), n.to_string()]);
        }
        shown
    }

    async fn cost(&self, devnet: &Manifest) -> anyhow::Result<Table> {
        let mut carried = BTreeMap::<B256, u64>::new();
        for payment in self.payments.iter().filter(|p| p.state == State::Paid) {
            let hash = payment.transaction.context("a paid payment without a transaction")?;
            *carried.entry(hash).or_default() += 1;
        }
        let provider = ProviderBuilder::default().connect_http(devnet.rpc.parse()?);
        let provider: alloy::providers::RootProvider = provider;
        let (mut batches, mut single, mut gas_batched, mut gas_single) = (0, 0, 0, 0);
        let mut largest = 0;
        for (hash, payments) in &carried {
            let receipt = provider.get_transaction_receipt(*hash).await?;
            let gas = receipt.with_context(|| format!("no receipt for {hash}"))?.gas_used;
            largest = largest.max(*payments);
            if *payments > 1 {
                batches += payments;
                gas_batched += gas;
            } else {
                single += 1;
                gas_single += gas;
            }
        }
        let mut waits: Vec<i64> = self
            .payments
            .iter()
            .filter(|p| p.state == State::Paid && !self.signed.contains(&p.idempotency_key))
            .map(|p| p.updated_at.as_millisecond() - p.created_at.as_millisecond())
            .collect();
        waits.sort_unstable();
        let at = |percent: usize| {
            let index = (waits.len() * percent).div_ceil(100).saturating_sub(1);
            waits.get(index).map_or_else(|| "–".to_owned(), |ms| format!("{ms} ms"))
        };
        let per = |gas: u64, n: u64| gas.checked_div(n).map_or("–".to_owned(), |g| g.to_string());
        let mut shown = table(&["figure", "value"]);
        shown.add_row(["payments final", &(batches + single).to_string()]);
        shown.add_row(["transactions", &carried.len().to_string()]);
        shown.add_row(["payments in the largest batch", &largest.to_string()]);
        shown.add_row(["gas a payment, in batches", &per(gas_batched, batches)]);
        shown.add_row([
            "gas a payment, alone (co-signed ones among them)",
            &per(gas_single, single),
        ]);
        shown.add_row(["gas a payment, all", &per(gas_batched + gas_single, batches + single)]);
        shown.add_row(["accepted to final, without operators, p50", &at(50)]);
        shown.add_row(["accepted to final, without operators, p95", &at(95)]);
        shown.add_row(["accepted to final, longest (over the kill)", &at(100)]);
        shown.add_row(["operators' decisions", &self.decisions.to_string()]);
        Ok(shown)
    }
}
