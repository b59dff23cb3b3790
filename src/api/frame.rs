//! What is the same around every route: correlation id, span, time limit, problem bodies.

use std::{panic::AssertUnwindSafe, sync::Arc};

use axum::{
    extract::{MatchedPath, Request, State},
    middleware::Next,
    response::Response,
};
use futures_util::FutureExt as _;
use http::{HeaderName, HeaderValue, Method, StatusCode, header};
use tracing::Instrument as _;

use super::{
    ApiConfig,
    problem::{Problem, Refused, from_status},
};
use crate::{
    payment::FundsMoved,
    refusal::{Code, Refusal},
};

/// Names the request in logs, problems and this header, in and out.
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Wraps every answer, those of the fallbacks too.
pub(super) async fn frame(
    State(config): State<Arc<ApiConfig>>,
    request: Request,
    next: Next,
) -> Response {
    let id = correlation_id(&request);
    let path = request.uri().path().to_owned();
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().map_or("none", MatchedPath::as_str);
    // Neither headers nor bodies: they hold signatures and other people's reasons.
    let span = tracing::info_span!("http", %method, route, correlation_id = %id);
    async move {
        // A handler that panics costs its own request, not the connection's others.
        let run = AssertUnwindSafe(next.run(request)).catch_unwind();
        let mut response = match tokio::time::timeout(config.timeout, run).await {
            Ok(Ok(response)) => explain(response, &path, &id),
            Ok(Err(_)) => {
                let fault = from_status(StatusCode::INTERNAL_SERVER_ERROR);
                Problem::new(unsure(fault, &method), &path, &id).into_response()
            }
            Err(_) => {
                let late = Refusal::new(Code::TimedOut, "the answer took too long").retry_after(1);
                Problem::new(unsure(late, &method), &path, &id).into_response()
            }
        };
        let headers = response.headers_mut();
        if let Ok(id) = HeaderValue::try_from(&id) {
            headers.insert(REQUEST_ID, id);
        }
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        let status = response.status();
        if status.is_server_error() {
            tracing::warn!(status = status.as_u16(), "answered");
        } else {
            tracing::debug!(status = status.as_u16(), "answered");
        }
        response
    }
    .instrument(span)
    .await
}

/// The answer where no route matches.
pub(super) async fn no_such_route() -> Refused {
    from_status(StatusCode::NOT_FOUND).into()
}

/// The answer where the route does not take the method.
pub(super) async fn wrong_method() -> Refused {
    from_status(StatusCode::METHOD_NOT_ALLOWED).into()
}

/// Keeps the caller's id if it is 1 to 64 of `A-Z a-z 0-9 - _`, else makes one.
fn correlation_id(request: &Request) -> String {
    let theirs = request.headers().get(REQUEST_ID).and_then(|value| value.to_str().ok());
    let good = |id: &&str| {
        (1..=64).contains(&id.len())
            && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    match theirs.filter(good) {
        Some(id) => id.to_owned(),
        None => format!("req_{}", uuid::Uuid::now_v7().simple()),
    }
}

/// Gives every error a problem body, whoever made it.
fn explain(mut response: Response, path: &str, id: &str) -> Response {
    let refusal = match response.extensions_mut().remove::<Refused>() {
        Some(refused) => *refused.0,
        None if is_bare_error(&response) => from_status(response.status()),
        None => return response,
    };
    let mut explained = Problem::new(refusal, path, id).into_response();
    if let Some(allow) = response.headers_mut().remove(header::ALLOW) {
        explained.headers_mut().insert(header::ALLOW, allow);
    }
    explained
}

fn is_bare_error(response: &Response) -> bool {
    response.status().is_client_error() || response.status().is_server_error()
}

/// An answer that broke off: a request that reads moved nothing; one that writes may have.
fn unsure(mut refusal: Refusal, method: &Method) -> Refusal {
    if method != Method::GET {
        refusal.funds_moved = FundsMoved::Maybe;
        refusal = refusal.hint(
            "send the same request again with the same Idempotency-Key and a new signature: it \
             finds the first one",
        );
    }
    refusal
}
