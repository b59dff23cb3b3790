//! Notify: from the outbox to signed webhooks, by the Standard Webhooks specification.
//!
//! An event and its deliveries are written in the commit of what happened. Each endpoint has a task
//! that claims what is due, a few at a time, posts it, and notes what came of it. A crash at any
//! point sends again, under the same id; receivers drop repeats by it.

mod post;

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use serde_json::json;
use tokio::task::JoinSet;
use tracing::{error, info, warn};

use self::post::Answer;
pub(crate) use self::post::Endpoint;
pub use self::post::EndpointError;
use crate::{
    audit::EventKind,
    clock::{self, Clock},
    config::WebhooksConfig,
    crash::{self, Point},
    engine::{Inner, Stop},
    keys::{KeyError, WebhookSecrets},
    metrics::Metrics,
    refusal::{Code, Refusal},
    store::{DeliveryFilter, Due, EndpointRow, Event, Fate, Replay, Store, StoreError, Subscriber},
    view::{DeliveryState, DeliveryView, ReplayBody, WebhookView},
};

/// Pause between two looks for what is due, unless a commit says that something is.
const EVERY: Duration = Duration::from_secs(1);
/// Pause after a fault of the store, or of a file with secrets.
const AFTER_FAULT: Duration = Duration::from_secs(5);
/// Milliseconds a claim lasts beyond the longest answer.
const CLAIM_SLACK_MS: i64 = 40_000;
/// Deliveries that one call sends again.
const REPLAYED: u32 = 10_000;
/// Deliveries listed.
pub(crate) const LISTED: u32 = 200;

/// Pauses before the tries, in seconds: the first goes out at once, the last about 52 hours later.
const PAUSES_S: [i64; 9] = [0, 5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000];

/// Returns the pause before the next try after so many that failed, in milliseconds; `None` after the
/// last one.
#[must_use]
fn pause_ms(failed: u32) -> Option<i64> {
    PAUSES_S.get(failed as usize).map(|seconds| seconds * 1_000)
}

/// Returns who is told of what.
pub(crate) fn subscribers(config: &WebhooksConfig) -> Vec<Subscriber> {
    let endpoints = config.endpoints.iter();
    endpoints.map(|one| Subscriber { name: one.name.clone(), kinds: one.kinds.clone() }).collect()
}

/// Runs until told to stop: a task for each endpoint.
pub(crate) async fn run(inner: Arc<Inner>, stop: Stop) {
    let mut tasks = JoinSet::new();
    for endpoint in inner.webhooks.iter().cloned() {
        tasks.spawn(serve(Arc::clone(&inner), endpoint, stop.clone()));
    }
    stop.asked().await;
    while let Some(ended) = tasks.join_next().await {
        if let Err(fault) = ended {
            error!(%fault, "an endpoint's task ended in a fault");
        }
    }
}

async fn serve(inner: Arc<Inner>, endpoint: Arc<Endpoint>, stop: Stop) {
    let mut news = inner.store.news();
    while !stop.is_asked() {
        let ports = Ports { store: &inner.store, clock: &inner.clock, metrics: &inner.metrics };
        let pause = match round(&ports, &endpoint, &stop).await {
            Ok(true) => continue,
            Ok(false) => EVERY,
            Err(error) => {
                warn!(%error, endpoint = endpoint.name, "webhooks wait");
                AFTER_FAULT
            }
        };
        tokio::select! {
            () = stop.asked() => return,
            // The store lives as long as this task.
            _ = news.changed(), if pause == EVERY => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Why a round could not be finished.
#[derive(Debug, thiserror::Error)]
enum RoundError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Secrets(#[from] KeyError),
}

/// What a round needs of the daemon.
struct Ports<'a> {
    store: &'a Store,
    clock: &'a Clock,
    metrics: &'a Metrics,
}

/// Claims, sends and notes once. Answers `false` if nothing was due.
async fn round(ports: &Ports<'_>, endpoint: &Endpoint, stop: &Stop) -> Result<bool, RoundError> {
    let name = &endpoint.name;
    let now_ms = ports.clock.now_ms();
    if !ports.store.has_due(name, now_ms).await? {
        return Ok(false);
    }
    // Read each time: a new secret holds without a restart.
    let secrets = WebhookSecrets::read(&endpoint.secret_file)?;
    let timeout_ms = i64::try_from(endpoint.timeout.as_millis()).unwrap_or(i64::MAX / 4);
    let until_ms = now_ms + timeout_ms + CLAIM_SLACK_MS;
    let mut tx = ports.store.begin().await?;
    let due = tx.claim_deliveries(name, now_ms, until_ms, endpoint.concurrency).await?;
    tx.commit().await?;
    crash::at(Point::WebhookClaimed);
    let mut answers: Vec<Option<Answer>> = due.iter().map(|_| None).collect();
    let at_s = ports.clock.now_s();
    let secrets = &secrets;
    let mut sending: FuturesUnordered<_> = due
        .iter()
        .enumerate()
        .map(|(index, due)| async move { (index, endpoint.post(secrets, due, at_s).await) })
        .collect();
    loop {
        let answer = tokio::select! {
            answer = sending.next() => answer,
            // What is still on its way goes out again at the next start.
            () = stop.asked() => None,
        };
        let Some((index, answer)) = answer else { break };
        if let Some(slot) = answers.get_mut(index) {
            *slot = Some(answer);
        }
    }
    drop(sending);
    crash::at(Point::WebhookAnswered);
    note(ports, name, &due, &answers).await?;
    Ok(!due.is_empty())
}

/// Writes what came of claimed deliveries, in one commit.
async fn note(
    ports: &Ports<'_>,
    name: &str,
    due: &[Due],
    answers: &[Option<Answer>],
) -> Result<(), StoreError> {
    let now_ms = ports.clock.now_ms();
    let mut tx = ports.store.begin().await?;
    for (due, answer) in due.iter().zip(answers) {
        let fate = fate(due.tries, answer.as_ref(), now_ms);
        let text = answer.as_ref().map_or("", Answer::text);
        tx.end_delivery(name, due, &fate, text, now_ms).await?;
        match answer {
            None => {}
            Some(Answer::Took(_)) => tx.endpoint_took(name, now_ms).await?,
            Some(Answer::Gone(_)) => tx.endpoint_failed(name, text, true, now_ms).await?,
            Some(Answer::Failed(_)) => tx.endpoint_failed(name, text, false, now_ms).await?,
        }
        ports.metrics.count_webhook(&fate);
        if fate == Fate::Dead {
            warn!(endpoint = name, event = due.event, "given up: {text}");
        }
    }
    tx.commit().await
}

/// Decides what becomes of a delivery.
fn fate(tries: u32, answer: Option<&Answer>, now_ms: i64) -> Fate {
    match answer {
        None => Fate::Released,
        Some(Answer::Took(_)) => Fate::Delivered,
        // It waits for the endpoint to be enabled again.
        Some(Answer::Gone(_)) => Fate::Again(now_ms),
        Some(Answer::Failed(_)) => match pause_ms(tries.saturating_add(1)) {
            Some(pause_ms) => Fate::Again(now_ms.saturating_add(pause_ms)),
            None => Fate::Dead,
        },
    }
}

/* WHAT OPERATORS ASK */

fn unknown(inner: &Inner, name: &str) -> Refusal {
    let names: Vec<&str> = inner.webhooks.iter().map(|known| known.name.as_str()).collect();
    let shown: String = name.chars().take(60).collect();
    let refusal = Refusal::new(Code::NotFound, format!("there is no webhook endpoint `{shown}`"));
    if names.is_empty() {
        refusal.hint("[[webhooks.endpoints]] in the daemon's configuration names them")
    } else {
        refusal.hint(format!("endpoints: {}", names.join(", ")))
    }
}

fn find<'a>(inner: &'a Inner, name: &str) -> Result<&'a Endpoint, Refusal> {
    let known = inner.webhooks.iter().find(|known| known.name == name);
    known.map(AsRef::as_ref).ok_or_else(|| unknown(inner, name))
}

pub(crate) async fn list(inner: &Inner) -> Result<Vec<WebhookView>, StoreError> {
    let mut views = Vec::with_capacity(inner.webhooks.len());
    for endpoint in &inner.webhooks {
        let row = inner.store.endpoint(&endpoint.name).await?;
        views.push(view(endpoint, row));
    }
    Ok(views)
}

fn view(endpoint: &Endpoint, row: EndpointRow) -> WebhookView {
    WebhookView {
        name: endpoint.name.clone(),
        url: endpoint.url.to_string(),
        kinds: endpoint.kinds.clone(),
        disabled: row.disabled,
        failures: row.failures,
        answer: row.answer,
        pending: row.pending,
        dead: row.dead,
        delivered_at: row.delivered_ms.map(clock::at_ms),
        failed_at: row.failed_ms.map(clock::at_ms),
    }
}

pub(crate) async fn deliveries(
    inner: &Inner,
    endpoint: Option<&str>,
    state: Option<DeliveryState>,
    event: Option<&str>,
    limit: u32,
) -> Result<Vec<DeliveryView>, Refusal> {
    if let Some(name) = endpoint {
        find(inner, name)?;
    }
    let filter = DeliveryFilter { endpoint, state, event };
    Ok(inner.store.deliveries(&filter, limit.clamp(1, LISTED)).await?)
}

pub(crate) async fn enable(inner: &Inner, name: &str) -> Result<WebhookView, Refusal> {
    let endpoint = find(inner, name)?;
    let mut tx = inner.store.begin().await?;
    tx.enable_endpoint(name, inner.clock.now_ms()).await?;
    tx.commit().await?;
    info!(endpoint = name, "enabled");
    Ok(view(endpoint, inner.store.endpoint(name).await?))
}

/// Sends an event of its own to one endpoint; its delivery tells what came of it.
pub(crate) async fn test(inner: &Inner, name: &str) -> Result<DeliveryView, Refusal> {
    find(inner, name)?;
    let now_ms = inner.clock.now_ms();
    let event = Event {
        id: format!("test_{}", uuid::Uuid::now_v7().simple()),
        kind: EventKind::WebhookTest,
        payment: None,
        data: json!({ "endpoint": name, "wallet": inner.config.chain.wallet }),
    };
    let mut tx = inner.store.begin().await?;
    tx.tell_one(name, &event, now_ms).await?;
    tx.commit().await?;
    let filter = DeliveryFilter { endpoint: Some(name), event: Some(&event.id), state: None };
    let found = inner.store.deliveries(&filter, 1).await?.pop();
    found.ok_or_else(|| Refusal::new(Code::Internal, "the test was not kept"))
}

/// Sends events again; returns how many.
pub(crate) async fn replay(inner: &Inner, name: &str, body: &ReplayBody) -> Result<u64, Refusal> {
    let endpoint = find(inner, name)?;
    let to = Subscriber { name: name.to_owned(), kinds: endpoint.kinds.clone() };
    let which = match (&body.event, body.since) {
        (Some(event), None) => Replay::Event(event),
        (None, Some(since)) => Replay::Since(since.as_millisecond()),
        _ => {
            return Err(Refusal::new(Code::InvalidRequest, "name one `event`, or a time `since`")
                .hint("GET /v1/operator/webhooks/deliveries lists events"));
        }
    };
    let mut tx = inner.store.begin().await?;
    let now_ms = inner.clock.now_ms();
    let queued = tx.replay(&to, &which, body.delivered, now_ms, REPLAYED).await?;
    tx.commit().await?;
    match (&body.event, queued) {
        (Some(event), 0) => {
            let shown: String = event.chars().take(80).collect();
            let days = inner.config.webhooks.keep_days;
            Err(Refusal::new(Code::NotFound, format!("there is no event `{shown}`"))
                .hint(format!("events are kept for {days} days")))
        }
        _ => Ok(queued),
    }
}

#[cfg(test)]
mod tests;
