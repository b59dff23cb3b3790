//! One operator's process: reads what waits, decides as the script says, signs what it has checked.
//!
//! It does what `bursar approve`, `reject` and `freeze` do: the typed data is decoded and hashed again
//! here, and only what has been shown in words is signed, with a key that the daemon never sees.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use alloy::{primitives::B256, sol_types::SolCall as _};
use anyhow::{Context as _, bail};
use bursar::{
    client::{self, ClientError, OperatorClient},
    contract::{IPolicyChanges, Names},
    devnet::Manifest,
    keys::{PassphraseArgs, operator},
    payment::{AgentId, PaymentId},
    review,
    view::{ApprovalView, WalletView},
};

use crate::script::{Line, Note, Verdict};

/// Looks at the list this often. The conductor ends the process.
const LOOK: Duration = Duration::from_millis(250);
/// How long a daemon may be away at the start.
const PATIENCE: Duration = Duration::from_secs(60);
/// An order to freeze is void after this many seconds.
const ORDER_S: i64 = 600;

/// Watches and decides until it is ended.
pub async fn run(devnet: &Manifest, name: &AgentId, lines: &[Line]) -> anyhow::Result<()> {
    let place = devnet.operators.iter().position(|entry| entry.name == *name);
    let place = place.with_context(|| format!("no operator {name}"))?;
    let entry = &devnet.operators[place];
    let file = Some(entry.passphrase_file.clone());
    let args = PassphraseArgs { passphrase_fd: None, passphrase_file: file };
    let key = operator::open_keystore(&entry.keystore, &args.read("")?)?;
    let mut names = Names::default();
    for (label, payee) in &devnet.payees {
        names.accounts.insert(payee.address, label.clone());
    }
    for (agent, entry) in &devnet.agents {
        names.accounts.insert(entry.address, agent.to_string());
    }
    let operator = Operator {
        devnet,
        lines,
        leads: place == 0,
        client: OperatorClient::new(&devnet.api, key, devnet.chain_id, devnet.wallet)?,
        wallet: wallet(&devnet.api).await?,
        names,
    };
    let mut done = BTreeSet::new();
    loop {
        match operator.round(&mut done).await {
            Ok(()) => {}
            // The daemon is away, or another operator was faster: the next look tells.
            Err(error) if passes(&error) => {}
            Err(error) => return Err(error),
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Asks whose operator this is, while the daemon may be away.
async fn wallet(origin: &str) -> anyhow::Result<WalletView> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match client::wallet(origin).await.map_err(anyhow::Error::from) {
            Err(error) if passes(&error) && Instant::now() < deadline => {
                tokio::time::sleep(LOOK).await;
            }
            known => return known,
        }
    }
}

fn passes(error: &anyhow::Error) -> bool {
    match error.downcast_ref::<ClientError>() {
        Some(ClientError::Unreachable { .. }) => true,
        // Approved, rejected or frozen by someone else in the meantime; or not now.
        Some(ClientError::Refused(problem)) => matches!(problem.status, 404 | 409 | 500..),
        Some(ClientError::Unexpected { .. } | ClientError::Unsendable(_)) | None => false,
    }
}

struct Operator<'a> {
    devnet: &'a Manifest,
    lines: &'a [Line],
    /// One operator says no; it takes all of a quorum to say yes.
    leads: bool,
    client: OperatorClient,
    wallet: WalletView,
    names: Names,
}

impl Operator<'_> {
    async fn round(&self, done: &mut BTreeSet<PaymentId>) -> anyhow::Result<()> {
        for view in self.client.approvals().await? {
            let id = view.payment.id;
            if done.contains(&id) {
                continue;
            }
            let key = &view.payment.idempotency_key;
            let line = self.lines.iter().find(|line| line.key == *key);
            match line.and_then(|line| line.operators) {
                Some(Verdict::Approve) => self.approve(&view).await?,
                Some(Verdict::Reject) if self.leads => self.reject(&view).await?,
                Some(Verdict::RejectAndFreeze) if self.leads => {
                    self.freeze(&view.payment.agent).await?;
                    self.reject(&view).await?;
                }
                Some(Verdict::Reject | Verdict::RejectAndFreeze) => {}
                None => {
                    bail!("{key} waits for operators, and demo/requests.jsonl does not say why")
                }
            }
            done.insert(id);
        }
        Ok(())
    }

    async fn approve(&self, view: &ApprovalView) -> anyhow::Result<()> {
        let agent = self.devnet.agents.get(&view.payment.agent).context("an unknown agent")?;
        let review = review::approval(view, agent.address, &self.wallet, &self.names)?;
        let body = review.sign(self.client.key())?;
        self.client.approve(view.payment.id, &body).await?;
        let (overrides, digest) = (view.overrides.join(", "), short(&review.digest));
        let text = format!("signs {digest}: {}; sets aside: {overrides}", review.title);
        Note::Operator { text }.send();
        Ok(())
    }

    async fn reject(&self, view: &ApprovalView) -> anyhow::Result<()> {
        let payment = &view.payment;
        self.client.reject(payment.id, "nobody here knows this payee").await?;
        let text =
            format!("rejects {} USDC of {} to {}", payment.amount, payment.agent, payment.payee);
        Note::Operator { text }.send();
        Ok(())
    }

    async fn freeze(&self, name: &AgentId) -> anyhow::Result<()> {
        let agent = self.devnet.agents.get(name).context("an unknown agent")?.address;
        let change = IPolicyChanges::setFrozenCall { agent, frozen: true }.abi_encode();
        let deadline = jiff::Timestamp::now().as_second() + ORDER_S;
        let order =
            review::tighten(change.into(), u64::try_from(deadline)?, &self.wallet, &self.names)?;
        let receipt = self.client.tighten(&order.sign(self.client.key())?).await?;
        let text = format!("freezes {name}, alone, at once: transaction {}", short(&receipt));
        Note::Operator { text }.send();
        Ok(())
    }
}

fn short(hash: &B256) -> String {
    hash.to_string().chars().take(10).chain(['…']).collect()
}
