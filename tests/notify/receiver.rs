//! An HTTP server that takes webhooks, as a business would.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    sync::{Arc, Mutex},
};

use axum::{Router, body::Bytes, extract::State, routing::post};
use bursar::config::{Config, WebhookEndpoint};
use http::{HeaderMap, StatusCode};
use serde_json::Value;
use standardwebhooks::Webhook;
use tokio::task::AbortHandle;

const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";

/// One request that was received.
#[derive(Clone, Debug)]
pub struct Got {
    /// `webhook-id`.
    pub id: String,
    /// The body's `type`.
    pub kind: String,
    /// The body's `data`.
    pub data: Value,
    /// Did the official library verify it?
    pub verified: bool,
}

#[derive(Default)]
struct Seen {
    status: StatusCode,
    got: Vec<Got>,
}

type Shared = Arc<Mutex<Seen>>;

/// A receiver on a port of its own. Dropping it closes the port.
pub struct Receiver {
    url: String,
    seen: Shared,
    task: AbortHandle,
}

async fn take(State(seen): State<Shared>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let envelope: Value = serde_json::from_slice(&body).unwrap();
    let got = Got {
        id: headers["webhook-id"].to_str().unwrap().to_owned(),
        kind: envelope["type"].as_str().unwrap().to_owned(),
        data: envelope["data"].clone(),
        verified: Webhook::new(SECRET).unwrap().verify(&body, &headers).is_ok(),
    };
    let mut seen = seen.lock().unwrap();
    seen.got.push(got);
    seen.status
}

impl Receiver {
    pub async fn start() -> Self {
        let seen = Shared::default();
        let router = Router::new().route("/hook", post(take)).with_state(Arc::clone(&seen));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url, seen, task: task.abort_handle() }
    }

    /// What it says from now on.
    pub fn answer(&self, status: StatusCode) {
        self.seen.lock().unwrap().status = status;
    }

    /// Everything that was received, whatever was answered.
    pub fn got(&self) -> Vec<Got> {
        self.seen.lock().unwrap().got.clone()
    }

    /// Names it `billing` in a configuration, for these kinds of events.
    pub fn named(&self, config: &mut Config, folder: &Path, kinds: &[&str]) {
        let secret_file = folder.join("billing.secret");
        fs::write(&secret_file, format!("{SECRET}\n")).unwrap();
        fs::set_permissions(&secret_file, fs::Permissions::from_mode(0o600)).unwrap();
        config.webhooks.endpoints.push(WebhookEndpoint {
            name: "billing".to_owned(),
            url: self.url.clone(),
            secret_file,
            kinds: kinds.iter().map(|&kind| kind.to_owned()).collect(),
            networks: vec!["127.0.0.1/32".to_owned()],
            concurrency: 8,
        });
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.task.abort();
    }
}
