//! The paywall's own server: so many connections at a time, and none that is silent for ever.

use std::{sync::Arc, time::Duration};

use axum::{body::Body, extract::Request};
use hyper::{body::Incoming, server::conn::http1};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{net::TcpListener, sync::Semaphore};
use tower::ServiceExt as _;
use tracing::{debug, warn};

use super::{Gate, Proxy};
use crate::engine::Stop;

/// Longest time until a request's head is here, and between two requests of a connection.
const HEAD: Duration = Duration::from_secs(30);
/// Pause after the system gave no connection: of files, there may be too many open.
const PAUSE: Duration = Duration::from_secs(1);

/// Serves until it is asked to stop, and then until the requests that run have their answers.
/// `most` is how many connections there may be; others wait in the system's queue.
pub(crate) async fn serve(listener: TcpListener, gate: Gate<Proxy>, most: u32, stop: Stop) {
    let room = Arc::new(Semaphore::new(most as usize));
    loop {
        let next = async {
            let place = Arc::clone(&room).acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, stream) = tokio::select! {
            (Ok(place), accepted) = next => (place, accepted),
            () = stop.asked() => break,
        };
        let stream = match stream {
            Ok((stream, _)) => stream,
            Err(error) => {
                warn!(%error, "the paywall gets no connection");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let (gate, stop) = (gate.clone(), stop.clone());
        tokio::spawn(async move {
            let gate = gate.map_request(|request: http::Request<Incoming>| -> Request {
                request.map(Body::new)
            });
            let mut builder = http1::Builder::new();
            builder.timer(TokioTimer::new()).header_read_timeout(HEAD);
            let served =
                builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(gate));
            let mut served = std::pin::pin!(served);
            let ended = tokio::select! {
                ended = served.as_mut() => ended,
                () = stop.asked() => {
                    served.as_mut().graceful_shutdown();
                    served.await
                }
            };
            if let Err(error) = ended {
                debug!(%error, "a connection ended");
            }
            drop(place);
        });
    }
    drop(listener);
    // Every place is back when every connection has ended.
    if room.acquire_many(most).await.is_err() {
        warn!("the paywall's places were closed");
    }
}
