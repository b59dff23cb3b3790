//! Refusals over HTTP: RFC 9457 problem details.

use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use serde::{Deserialize, Serialize};

use crate::refusal::{Code, Refusal};

/// An RFC 9457 problem: `application/problem+json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Problem {
    /// `urn:bursar:problem:<code>`; stable.
    #[serde(rename = "type")]
    pub kind: String,
    /// The same for every problem of this code.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// The path that was asked.
    pub instance: String,
    /// The request's id, also in `X-Request-Id`: name it when asking for help.
    pub correlation_id: String,
    /// Can the very same request pass later?
    pub retryable: bool,
    /// What was refused, and why.
    #[serde(flatten)]
    pub refusal: Refusal,
}

impl Problem {
    /// Completes a refusal with the request it answers.
    #[must_use]
    pub fn new(refusal: Refusal, instance: &str, correlation_id: &str) -> Self {
        let code = refusal.code;
        Self {
            kind: format!("urn:bursar:problem:{}", code.as_str()),
            title: code.title().to_owned(),
            status: code.status(),
            instance: instance.to_owned(),
            correlation_id: correlation_id.to_owned(),
            retryable: code.is_retryable(),
            refusal,
        }
    }

    /// Writes the response: status, `Retry-After`, body.
    pub(crate) fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let retry_after = self.refusal.retry_after;
        let mut response = (status, axum::Json(self)).into_response();
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            header::HeaderValue::from_static("application/problem+json"),
        );
        if let Some(seconds) = retry_after {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        response
    }
}

/// A refusal on its way out of a handler; the frame around all routes writes the problem.
#[derive(Clone, Debug)]
pub(super) struct Refused(pub Box<Refusal>);

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self(Box::new(refusal))
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let status =
            StatusCode::from_u16(self.0.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// Turns a bare error status of the framework into a refusal.
pub(super) fn from_status(status: StatusCode) -> Refusal {
    match status {
        StatusCode::NOT_FOUND => Refusal::new(Code::NotFound, "there is nothing at this path")
            .hint("GET /openapi.json lists the routes"),
        StatusCode::METHOD_NOT_ALLOWED => {
            Refusal::new(Code::MethodNotAllowed, "this path does not take this method")
                .hint("the Allow header lists the methods; GET /openapi.json the routes")
        }
        StatusCode::PAYLOAD_TOO_LARGE => Refusal::new(Code::BodyTooLarge, "the body is too large"),
        status if status.is_client_error() => {
            Refusal::new(Code::InvalidRequest, "the request cannot be read")
        }
        _ => Refusal::new(Code::Internal, "a fault of the daemon; its log has the correlation id"),
    }
}
