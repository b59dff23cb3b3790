//! Webhooks to real HTTP receivers, on both stores, by a held clock.

use std::{
    os::unix::fs::PermissionsExt as _,
    path::Path,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    response::{IntoResponse, Redirect, Response},
};
use http::{HeaderMap, StatusCode, Uri};
use standardwebhooks::Webhook;
use tempfile::TempDir;
use tokio::task::AbortHandle;

use super::*;
use crate::{clock::Hand, config::WebhookEndpoint, store::testing::on_both};

/// What a receiver does with a request.
#[derive(Clone, Copy)]
enum Manner {
    Take,
    Say(StatusCode),
    Redirect(&'static str),
    /// Takes it, after longer than the endpoint has.
    Late,
    /// Says 200 at once, and never comes to the body's end.
    Drip,
}

#[derive(Clone)]
struct Got {
    path: String,
    headers: HeaderMap,
    body: Bytes,
}

type Seen = Arc<Mutex<(Manner, Vec<Got>)>>;

/// An HTTP server on a port of its own.
struct Receiver {
    port: u16,
    seen: Seen,
    task: AbortHandle,
}

async fn receive(State(seen): State<Seen>, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let manner = {
        let mut seen = seen.lock().unwrap();
        seen.1.push(Got { path: uri.path().to_owned(), headers, body });
        seen.0
    };
    match manner {
        Manner::Take => StatusCode::NO_CONTENT.into_response(),
        Manner::Say(status) => (status, "not now\u{1b}[2J").into_response(),
        Manner::Redirect(to) => Redirect::temporary(to).into_response(),
        Manner::Late => {
            tokio::time::sleep(Duration::from_secs(30)).await;
            StatusCode::OK.into_response()
        }
        Manner::Drip => {
            let drops = futures_util::stream::pending::<Result<Bytes, std::io::Error>>();
            axum::body::Body::from_stream(drops).into_response()
        }
    }
}

impl Receiver {
    async fn start(manner: Manner) -> Self {
        let seen = Arc::new(Mutex::new((manner, Vec::new())));
        let router = Router::new().fallback(receive).with_state(Arc::clone(&seen));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { port, seen, task: task.abort_handle() }
    }

    fn now(&self, manner: Manner) {
        self.seen.lock().unwrap().0 = manner;
    }

    fn got(&self) -> Vec<Got> {
        self.seen.lock().unwrap().1.clone()
    }

    fn ids(&self) -> Vec<String> {
        self.got().iter().map(|got| got.headers["webhook-id"].to_str().unwrap().into()).collect()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn write_secret(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
const OTHER: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// One endpoint, and a daemon's part that serves it.
struct Stage {
    store: Store,
    clock: Clock,
    hand: Option<Hand>,
    metrics: Metrics,
    endpoint: Endpoint,
    dir: TempDir,
}

impl Stage {
    fn new(store: &Store, url: String, networks: &[&str]) -> Result<Self, EndpointError> {
        let (clock, hand) = Clock::held(1_800_000_000_000);
        let dir = tempfile::tempdir().unwrap();
        let secret_file = dir.path().join("secret");
        write_secret(&secret_file, SECRET);
        let config = WebhookEndpoint {
            name: "billing".to_owned(),
            url,
            secret_file,
            kinds: vec!["policy.*".to_owned(), "alert.raised".to_owned()],
            networks: networks.iter().map(|&network| network.to_owned()).collect(),
            concurrency: 4,
        };
        let to = Subscriber { name: config.name.clone(), kinds: config.kinds.clone() };
        Ok(Self {
            endpoint: Endpoint::new(&config, Duration::from_secs(1))?,
            store: store.clone().telling(vec![to]),
            clock,
            hand: Some(hand),
            metrics: Metrics::default(),
            dir,
        })
    }

    fn to(store: &Store, receiver: &Receiver) -> Self {
        let url = format!("http://127.0.0.1:{}/hook", receiver.port);
        Self::new(store, url, &["127.0.0.1/32"]).unwrap()
    }

    fn ports(&self) -> Ports<'_> {
        Ports { store: &self.store, clock: &self.clock, metrics: &self.metrics }
    }

    async fn tell(&self, id: &str) {
        let kind = EventKind::PolicyChanged;
        let event = Event { id: id.into(), kind, payment: None, data: json!({ "what": id }) };
        let mut tx = self.store.begin().await.unwrap();
        tx.tell(&[event], self.clock.now_ms()).await.unwrap();
        tx.commit().await.unwrap();
    }

    async fn round(&self) -> bool {
        let (_sender, stop) = Stop::pair();
        round(&self.ports(), &self.endpoint, &stop).await.unwrap()
    }

    fn wait(&self, seconds: u64) {
        self.hand.as_ref().unwrap().advance(Duration::from_secs(seconds));
    }

    async fn delivery(&self, event: &str) -> DeliveryView {
        let filter = DeliveryFilter { event: Some(event), ..DeliveryFilter::default() };
        self.store.deliveries(&filter, 9).await.unwrap().pop().unwrap()
    }

    async fn row(&self) -> EndpointRow {
        self.store.endpoint("billing").await.unwrap()
    }
}

fn verify(got: &Got, secret: &str) -> Result<(), standardwebhooks::WebhookError> {
    Webhook::new(secret).unwrap().verify(&got.body, &got.headers)
}

#[tokio::test]
async fn the_official_library_verifies_what_is_sent() {
    on_both(async |store| {
        let receiver = Receiver::start(Manner::Take).await;
        let mut stage = Stage::to(&store, &receiver);
        // The library asks the system for the time.
        (stage.clock, stage.hand) = (Clock::system(), None);
        stage.tell("audit_1").await;
        assert!(stage.round().await && !stage.round().await);
        // While both stand in the file both sign, and a receiver may know either.
        write_secret(&stage.dir.path().join("secret"), &format!("{OTHER}\n{SECRET}\n"));
        stage.tell("audit_2").await;
        assert!(stage.round().await);
        let got = receiver.got();
        assert_eq!(receiver.ids(), ["audit_1", "audit_2"]);
        verify(&got[0], SECRET).unwrap();
        assert!(verify(&got[0], OTHER).is_err());
        verify(&got[1], SECRET).unwrap();
        verify(&got[1], OTHER).unwrap();
        let mut forged = got[1].clone();
        forged.body = forged.body.iter().map(|byte| byte ^ 1).collect();
        assert!(verify(&forged, SECRET).is_err());
        let body: serde_json::Value = serde_json::from_slice(&got[0].body).unwrap();
        assert_eq!(body["type"], "policy.changed");
        assert_eq!(body["data"], json!({ "what": "audit_1" }));
        body["timestamp"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
        assert_eq!(got[0].headers["content-type"], "application/json");
    })
    .await;
}

#[tokio::test]
async fn only_what_was_asked_for_is_delivered_and_told_once() {
    on_both(async |store| {
        let receiver = Receiver::start(Manner::Take).await;
        let stage = Stage::to(&store, &receiver);
        let event = |id: &str, kind| Event { id: id.into(), kind, payment: None, data: json!({}) };
        let mut tx = stage.store.begin().await.unwrap();
        let events = [
            event("a", EventKind::PaymentFailed),
            event("b", EventKind::PolicyPublished),
            event("c", EventKind::AlertCleared),
            event("d", EventKind::AlertRaised),
        ];
        tx.tell(&events, 1).await.unwrap();
        // Whoever reads the chain twice tells once.
        tx.tell(&events, 2).await.unwrap();
        tx.commit().await.unwrap();
        // What is rolled back is told to nobody.
        let mut tx = stage.store.begin().await.unwrap();
        tx.tell(&[event("never", EventKind::PolicyPublished)], 3).await.unwrap();
        drop(tx);
        assert!(stage.round().await && !stage.round().await);
        let mut ids = receiver.ids();
        ids.sort();
        assert_eq!(ids, ["b", "d"]);
    })
    .await;
}

#[tokio::test]
async fn case_28_a_receiver_that_is_down_for_three_days() {
    on_both(async |store| {
        let receiver = Receiver::start(Manner::Say(StatusCode::SERVICE_UNAVAILABLE)).await;
        let stage = Stage::to(&store, &receiver);
        stage.tell("first").await;
        let start_ms = stage.clock.now_ms();
        let mut tries_s = Vec::new();
        while stage.delivery("first").await.state == DeliveryState::Pending {
            if stage.round().await {
                tries_s.push((stage.clock.now_ms() - start_ms) / 1_000);
            } else {
                let due_ms = stage.delivery("first").await.due_at.as_millisecond();
                let left_ms = u64::try_from(due_ms - stage.clock.now_ms()).unwrap();
                // Not a second too soon.
                stage.wait(left_ms / 1_000 - 1);
                assert!(!stage.round().await);
                stage.wait(1);
            }
        }
        assert_eq!(tries_s, [0, 5, 305, 2_105, 9_305, 27_305, 63_305, 113_705, 185_705]);
        let first = stage.delivery("first").await;
        assert_eq!((first.state, first.tries), (DeliveryState::Dead, 9));
        assert_eq!(first.answer.as_deref(), Some("503: not now\u{fffd}[2J"));
        assert_eq!((stage.row().await.failures, stage.row().await.dead), (9, 1));

        // On the third day something else happens; then the receiver is back.
        stage.wait(2 * 86_400 + 43_200 - 185_705);
        stage.tell("second").await;
        assert!(stage.round().await);
        stage.wait(86_400);
        receiver.now(Manner::Take);
        assert!(stage.round().await && !stage.round().await);
        assert_eq!(stage.delivery("second").await.state, DeliveryState::Delivered);
        assert_eq!(stage.row().await.failures, 0);
        // What was given up is sent once more, under the same id; what was taken is not.
        let to = Subscriber { name: "billing".into(), kinds: vec!["policy.*".into()] };
        let mut tx = stage.store.begin().await.unwrap();
        let since = Replay::Since(start_ms);
        let now_ms = stage.clock.now_ms();
        assert_eq!(tx.replay(&to, &since, false, now_ms, 100).await.unwrap(), 1);
        tx.commit().await.unwrap();
        assert!(stage.round().await && !stage.round().await);
        assert_eq!(stage.delivery("first").await.state, DeliveryState::Delivered);
        let ids = receiver.ids();
        assert_eq!(ids.iter().filter(|id| *id == "first").count(), 10);
        assert_eq!(ids.iter().filter(|id| *id == "second").count(), 2);
        let mut tx = stage.store.begin().await.unwrap();
        assert_eq!(tx.replay(&to, &since, true, now_ms, 100).await.unwrap(), 2);
        assert_eq!(tx.replay(&to, &Replay::Event("none"), true, now_ms, 9).await.unwrap(), 0);
        drop(tx);
    })
    .await;
}

#[tokio::test]
async fn case_28_410_disables_until_an_operator_enables() {
    on_both(async |store| {
        let receiver = Receiver::start(Manner::Say(StatusCode::GONE)).await;
        let stage = Stage::to(&store, &receiver);
        stage.tell("first").await;
        assert!(stage.round().await);
        assert!(stage.row().await.disabled.is_some());
        receiver.now(Manner::Take);
        stage.tell("second").await;
        stage.wait(30 * 86_400);
        assert!(!stage.round().await);
        assert_eq!(receiver.ids(), ["first"]);
        // Nothing that happened meanwhile is lost.
        let mut tx = stage.store.begin().await.unwrap();
        tx.enable_endpoint("billing", stage.clock.now_ms()).await.unwrap();
        tx.commit().await.unwrap();
        assert!(stage.round().await && !stage.round().await);
        let mut ids = receiver.ids();
        ids.sort();
        assert_eq!(ids, ["first", "first", "second"]);
        assert_eq!((stage.row().await.pending, stage.row().await.disabled), (0, None));
    })
    .await;
}

#[tokio::test]
async fn case_28_a_redirect_is_a_failure_and_leads_nowhere() {
    on_both(async |store| {
        let receiver = Receiver::start(Manner::Redirect("/inside")).await;
        let stage = Stage::to(&store, &receiver);
        stage.tell("first").await;
        assert!(stage.round().await);
        let first = stage.delivery("first").await;
        assert_eq!((first.state, first.tries), (DeliveryState::Pending, 1));
        assert!(first.answer.unwrap().starts_with("307: redirects are not followed"));
        let paths: Vec<String> = receiver.got().into_iter().map(|got| got.path).collect();
        assert_eq!(paths, ["/hook"]);
    })
    .await;
}

#[tokio::test]
async fn case_28_an_answer_that_comes_too_late_is_none() {
    on_both(async |store| {
        let receiver = Receiver::start(Manner::Late).await;
        let stage = Stage::to(&store, &receiver);
        stage.tell("first").await;
        assert!(stage.round().await);
        let first = stage.delivery("first").await;
        assert_eq!(first.answer.as_deref(), Some("no answer within 1 s"));
        // 200 is 200, however long its body takes.
        receiver.now(Manner::Drip);
        stage.wait(5);
        assert!(stage.round().await);
        assert_eq!(stage.delivery("first").await.state, DeliveryState::Delivered);
        assert_eq!(receiver.ids(), ["first", "first"]);
    })
    .await;
}

#[tokio::test]
async fn case_28_no_name_and_no_address_leads_inside() {
    on_both(async |store| {
        let receiver = Receiver::start(Manner::Take).await;
        let port = receiver.port;
        // Names are judged when they are resolved, by what they resolve to.
        let url = format!("http://localhost:{port}/");
        let stage = Stage::new(&store, url, &[]).unwrap();
        stage.tell("first").await;
        assert!(stage.round().await);
        let first = stage.delivery("first").await;
        assert_eq!((first.state, first.tries), (DeliveryState::Pending, 1));
        assert!(first.answer.as_ref().unwrap().contains("loopback"), "{first:?}");
        assert!(receiver.got().is_empty());
        // Addresses at once, in every spelling of a URL.
        for host in [
            "127.0.0.1",
            "127.1",
            "0x7f.0.0.1",
            "2130706433",
            "0177.0.0.1",
            "[::1]",
            "[::ffff:127.0.0.1]",
            "[::ffff:7f00:1]",
            "169.254.169.254",
            "[fe80::1]",
            "10.0.0.1",
            "100.64.0.1",
            "0.0.0.0",
            "[fd00:ec2::254]",
        ] {
            let made = Stage::new(&store, format!("http://{host}:{port}/"), &[]);
            assert!(matches!(made, Err(EndpointError::Guard { .. })), "{host}");
        }
        for url in ["ftp://example.com", "billing", "https://user:pass@example.com/", "file:///x"] {
            let made = Stage::new(&store, url.to_owned(), &[]);
            assert!(matches!(made, Err(EndpointError::Url { .. })), "{url}");
        }
        assert!(receiver.got().is_empty());
    })
    .await;
}

#[tokio::test]
async fn one_of_several_daemons_sends_and_a_dead_one_s_claims_end() {
    on_both(async |store| {
        let receiver = Receiver::start(Manner::Take).await;
        let stage = Stage::to(&store, &receiver);
        for id in ["a", "b", "c", "d", "e", "f"] {
            stage.tell(id).await;
        }
        // One daemon claims four, and dies.
        let now_ms = stage.clock.now_ms();
        let mut tx = stage.store.begin().await.unwrap();
        let lost = tx.claim_deliveries("billing", now_ms, now_ms + 60_000, 4).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(lost.len(), 4);
        // Others take what is left, and nothing of hers.
        assert!(stage.round().await && !stage.round().await);
        assert_eq!(receiver.ids().len(), 2);
        stage.wait(59);
        assert!(!stage.round().await);
        stage.wait(1);
        assert!(stage.round().await);
        let mut ids = receiver.ids();
        ids.sort();
        assert_eq!(ids, ["a", "b", "c", "d", "e", "f"]);
        // She was only asleep: what she says now counts for nothing.
        let mut tx = stage.store.begin().await.unwrap();
        tx.end_delivery("billing", &lost[0], &Fate::Dead, "late", now_ms).await.unwrap();
        tx.commit().await.unwrap();
        let taken = stage.delivery(&lost[0].event).await;
        assert_eq!((taken.state, taken.tries), (DeliveryState::Delivered, 1));
    })
    .await;
}

#[tokio::test]
async fn what_is_old_is_forgotten_piece_by_piece() {
    on_both(async |store| {
        let receiver = Receiver::start(Manner::Say(StatusCode::GONE)).await;
        let stage = Stage::to(&store, &receiver);
        stage.tell("old").await;
        stage.wait(86_400);
        stage.tell("new").await;
        let mut tx = stage.store.begin().await.unwrap();
        tx.forget_events(stage.clock.now_ms()).await.unwrap();
        tx.commit().await.unwrap();
        let left = stage.store.deliveries(&DeliveryFilter::default(), 9).await.unwrap();
        let left: Vec<&str> = left.iter().map(|one| one.event.as_str()).collect();
        assert_eq!(left, ["new"]);
        let to = Subscriber { name: "billing".into(), kinds: vec!["*".into()] };
        let mut tx = stage.store.begin().await.unwrap();
        assert_eq!(tx.replay(&to, &Replay::Event("old"), true, 0, 1).await.unwrap(), 0);
        assert_eq!(tx.replay(&to, &Replay::Event("new"), true, 0, 1).await.unwrap(), 1);
        drop(tx);
    })
    .await;
}

#[test]
fn the_schedule_ends() {
    let took = Answer::Took("200".into());
    let failed = Answer::Failed("503".into());
    let gone = Answer::Gone("410".into());
    assert_eq!(fate(7, Some(&failed), 1_000), Fate::Again(72_001_000));
    assert_eq!(fate(8, Some(&failed), 1_000), Fate::Dead);
    assert_eq!(fate(u32::MAX, Some(&failed), 1_000), Fate::Dead);
    assert_eq!(fate(8, Some(&took), 1_000), Fate::Delivered);
    assert_eq!(fate(8, Some(&gone), 1_000), Fate::Again(1_000));
    assert_eq!(fate(3, None, 1_000), Fate::Released);
}
