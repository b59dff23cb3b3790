//! One agent's process: sends its lines in order, then waits for the end of every payment.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use bursar::{
    devnet::Manifest,
    payment::{AgentId, PaymentId, State},
    view::{PaymentView, Permissions},
};
use tokio::task::JoinSet;

use crate::{
    client::{Answer, Asked, Client, Sign},
    script::{Expect, How, Line, Note, Wait},
};

/// Longest wait for payments to become final, and for a freeze.
const SETTLE_LIMIT: Duration = Duration::from_secs(90);
const LOOK: Duration = Duration::from_millis(150);
/// Requests of a loop that are under way at once.
const LOOP_WIDTH: usize = 16;

/// Sends the lines; fails if any of them came out otherwise than its file says.
pub async fn run(devnet: &Manifest, name: &AgentId, lines: Vec<Line>) -> anyhow::Result<()> {
    let entry = devnet.agents.get(name).with_context(|| format!("no agent {name}"))?;
    let mut agent = Agent {
        client: Client::open(&devnet.api, &entry.request_key)?,
        open: BTreeMap::new(),
        faults: 0,
    };
    for line in &lines {
        let fault = agent.line(line).await?;
        agent.faults += u32::from(fault.is_some());
        Note::Line { key: line.key.clone(), fault }.send();
    }
    agent.settle(SETTLE_LIMIT).await?;
    if agent.faults > 0 {
        bail!("{name}: {} of {} lines came out otherwise than expected", agent.faults, lines.len());
    }
    Ok(())
}

struct Agent {
    client: Client,
    /// Payments that are not final yet, with the line and the end it expects.
    open: BTreeMap<PaymentId, (String, Option<State>)>,
    faults: u32,
}

impl Agent {
    /// Sends one line; returns what was not as expected.
    async fn line(&mut self, line: &Line) -> anyhow::Result<Option<String>> {
        match line.wait {
            Some(Wait::Settled) => self.settle(SETTLE_LIMIT).await?,
            Some(Wait::Frozen) => self.frozen().await?,
            None => {}
        }
        match line.how {
            How::Loop => return self.repeat(line).await,
            How::Parallel => return self.parallel(line).await,
            How::Once | How::Again | How::Replay | How::Unsigned | How::Forged | How::Keyless => {}
        }
        let who = match line.how {
            How::Unsigned => Sign::Nobody,
            How::Forged => Sign::Stranger,
            _ => Sign::Own,
        };
        let key = (line.how != How::Keyless).then_some(line.key.as_str());
        let asked = self.client.ask(|| self.client.seal_payment(&line.send, key, who)).await?;
        let first = self.check(line, &asked);
        if first.is_some() {
            return Ok(first);
        }
        let Some(expected) = &line.expect.second else { return Ok(None) };
        let second = if line.how == How::Replay {
            self.client.repeat(&asked.sealed).await?
        } else {
            let body = line.then.as_ref().unwrap_or(&line.send);
            self.client.ask(|| self.client.seal_payment(body, key, who)).await?.answer
        };
        note(&second);
        if !expected.same {
            let good =
                Some(second.status) == expected.status && second.code() == expected.code.as_deref();
            return Ok((!good).then(|| format!("the second time: {}", show(&second))));
        }
        let (first, again) = (asked.answer.payment(), second.payment());
        let same = again.is_some() && first.map(|p| p.id) == again.map(|p| p.id);
        Ok((!same).then(|| format!("the second time, not the same payment: {}", show(&second))))
    }

    /// Compares the first answer, and remembers the payment until it is final.
    fn check(&mut self, line: &Line, asked: &Asked) -> Option<String> {
        let (answer, expect) = (&asked.answer, &line.expect);
        note(answer);
        // A try whose answer was lost may have been accepted: then this one finds it, with 200.
        let found = asked.retried && answer.status == 200 && expect.status == Some(202);
        if !found && Some(answer.status) != expect.status {
            return Some(show(answer));
        }
        if answer.code() != expect.code.as_deref() {
            return Some(show(answer));
        }
        if expect.end.is_some() {
            let Some(payment) = answer.payment() else { return Some(show(answer)) };
            self.open.insert(payment.id, (line.key.clone(), expect.end));
        }
        None
    }

    /// Sends one request several times at once: one payment has to come of it.
    async fn parallel(&mut self, line: &Line) -> anyhow::Result<Option<String>> {
        let mut tasks = JoinSet::new();
        for _ in 0..line.times {
            let (client, body, key) = (self.client.clone(), line.send.clone(), line.key.clone());
            tasks.spawn(async move {
                client.ask(|| client.seal_payment(&body, Some(&key), Sign::Own)).await
            });
        }
        let mut ids = BTreeSet::new();
        while let Some(asked) = tasks.join_next().await {
            let answer = asked??.answer;
            note(&answer);
            match answer.payment() {
                Some(payment) => ids.insert(payment.id),
                None => return Ok(Some(show(&answer))),
            };
        }
        for id in &ids {
            self.open.insert(*id, (line.key.clone(), line.expect.end));
        }
        Ok((ids.len() != 1).then(|| format!("{} payments under one key", ids.len())))
    }

    /// Sends the same request again and again, each under a key of its own.
    async fn repeat(&mut self, line: &Line) -> anyhow::Result<Option<String>> {
        let (mut accepted, mut refused) = (0, BTreeMap::<String, u32>::new());
        let mut tasks = JoinSet::new();
        for n in 0..line.times {
            let (client, body) = (self.client.clone(), line.send.clone());
            let key = format!("{}-{n:03}", line.key);
            tasks.spawn(async move {
                client.ask(|| client.seal_payment(&body, Some(&key), Sign::Own)).await
            });
            while tasks.len() >= LOOP_WIDTH || (n + 1 == line.times && !tasks.is_empty()) {
                let Some(asked) = tasks.join_next().await else { break };
                let answer = asked??.answer;
                note(&answer);
                match (answer.payment(), answer.code()) {
                    (Some(payment), _) => {
                        accepted += 1;
                        self.open.insert(payment.id, (line.key.clone(), line.expect.end));
                    }
                    (None, Some(code)) => *refused.entry(code.to_owned()).or_default() += 1,
                    (None, None) => return Ok(Some(show(&answer))),
                }
            }
        }
        let Expect { accepted: expected, refused: codes, .. } = &line.expect;
        let good = Some(accepted) == *expected && refused == *codes;
        Ok((!good).then(|| format!("{accepted} accepted, refused: {refused:?}")))
    }

    /// Waits until every payment so far is final, and compares its end.
    async fn settle(&mut self, limit: Duration) -> anyhow::Result<()> {
        let deadline = Instant::now() + limit;
        while !self.open.is_empty() {
            let ids: Vec<PaymentId> = self.open.keys().copied().collect();
            for id in ids {
                let payment: PaymentView = self.client.get(&format!("/v1/payments/{id}")).await?;
                if !payment.state.is_terminal() {
                    continue;
                }
                if let Some((key, end)) = self.open.remove(&id)
                    && Some(payment.state) != end
                {
                    self.faults += 1;
                    let why = payment.refusal.as_ref().map(|refusal| refusal.detail.clone());
                    let fault =
                        format!("{id} ended {}: {}", payment.state, why.unwrap_or_default());
                    Note::Line { key, fault: Some(fault) }.send();
                }
                Note::Ended { payment: Box::new(payment) }.send();
            }
            if Instant::now() > deadline {
                let left: Vec<String> = self.open.keys().map(ToString::to_string).collect();
                bail!("not final within {} s: {}", limit.as_secs(), left.join(", "));
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    /// Waits until the daemon says that the agent may not pay.
    async fn frozen(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + SETTLE_LIMIT;
        while Instant::now() < deadline {
            let permissions: Permissions = self.client.get("/v1/permissions").await?;
            if !permissions.active {
                return Ok(());
            }
            tokio::time::sleep(LOOK).await;
        }
        bail!("nobody froze the agent within {} s", SETTLE_LIMIT.as_secs())
    }
}

fn note(answer: &Answer) {
    let code = answer.code().map(str::to_owned);
    Note::Answered { status: answer.status, code }.send();
}

fn show(answer: &Answer) -> String {
    format!("{} {}", answer.status, answer.body)
}
