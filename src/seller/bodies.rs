//! Bodies of requests: so many at a time, each so long and no longer. Strangers send them too.

use std::{sync::Arc, time::Duration};

use axum::body::{Body, Bytes, HttpBody as _};
use futures_util::StreamExt as _;
use sha2::{Digest as _, Sha256};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Limits;
use crate::refusal::{Code, Refusal};

/// What may be read at a time. Clones share it.
#[derive(Clone)]
pub(super) struct Bodies {
    room: Arc<Semaphore>,
    most: usize,
    limit: Duration,
}

impl Bodies {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            room: Arc::new(Semaphore::new(limits.bodies)),
            most: limits.request_bytes,
            limit: Duration::from_secs(limits.request_s),
        }
    }

    /// Takes a place for a body that is kept whole, until it is dropped; none is needed for no body.
    pub(super) fn place(&self, body: &Body) -> Result<Option<OwnedSemaphorePermit>, Refusal> {
        if body.is_end_stream() {
            return Ok(None);
        }
        let place = Arc::clone(&self.room).try_acquire_owned();
        place.map(Some).map_err(|_| {
            Refusal::new(Code::Overloaded, "too many requests with a body at once").retry_after(1)
        })
    }

    /// Reads a body whole.
    pub(super) async fn read(&self, body: Body) -> Result<Bytes, Refusal> {
        let mut whole = Vec::new();
        self.each(body, |piece| whole.extend_from_slice(piece)).await?;
        Ok(whole.into())
    }

    /// Reads a body for its digest, and keeps nothing of it.
    pub(super) async fn digest(&self, body: Body) -> Result<Option<[u8; 32]>, Refusal> {
        let mut hash = Sha256::new();
        let length = self.each(body, |piece| hash.update(piece)).await?;
        Ok((length > 0).then(|| hash.finalize().into()))
    }

    async fn each(&self, body: Body, mut take: impl FnMut(&[u8])) -> Result<usize, Refusal> {
        let refuse = || {
            let why = format!("the body broke off, or has more than {} bytes", self.most);
            Refusal::new(Code::BodyTooLarge, why)
        };
        if body.size_hint().lower() > self.most as u64 {
            return Err(refuse());
        }
        let whole = async {
            let mut length = 0_usize;
            let mut pieces = body.into_data_stream();
            while let Some(piece) = pieces.next().await {
                let piece = piece.map_err(|_| refuse())?;
                length = length.saturating_add(piece.len());
                if length > self.most {
                    return Err(refuse());
                }
                take(&piece);
            }
            Ok(length)
        };
        tokio::time::timeout(self.limit, whole).await.unwrap_or_else(|_| {
            let why = format!("the body was not here within {} seconds", self.limit.as_secs());
            Err(Refusal::new(Code::RequestTimeout, why))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures_util::stream;

    use super::*;

    fn pieces(
        all: &[&'static str],
    ) -> impl stream::Stream<Item = Result<Bytes, Infallible>> + use<> {
        let all: Vec<_> =
            all.iter().map(|piece| Ok(Bytes::from_static(piece.as_bytes()))).collect();
        stream::iter(all)
    }

    #[tokio::test]
    async fn no_body_takes_more_than_its_share() {
        let limits = Limits { request_bytes: 6, bodies: 1, ..Limits::default() };
        let bodies = Bodies { limit: Duration::from_millis(5), ..Bodies::new(&limits) };
        let code = |refusal: Refusal| refusal.code;
        // One place, for whoever has a body.
        assert!(bodies.place(&Body::empty()).unwrap().is_none());
        let place = bodies.place(&Body::from("a")).unwrap().unwrap();
        assert_eq!(bodies.place(&Body::from("b")).map_err(code).unwrap_err(), Code::Overloaded);
        drop(place);
        assert!(bodies.place(&Body::from("b")).unwrap().is_some());
        // One that never ends, whoever waits for it.
        let endless = || Body::from_stream(pieces(&["a"]).chain(stream::pending()));
        assert_eq!(bodies.read(endless()).await.map_err(code).unwrap_err(), Code::RequestTimeout);
        assert_eq!(bodies.digest(endless()).await.map_err(code).unwrap_err(), Code::RequestTimeout);
        // One that is too long, whether it says so or not; and one that is not.
        let bodies = Bodies::new(&limits);
        let long = || Body::from_stream(pieces(&["abcd", "efg"]).chain(stream::pending()));
        for long in [long(), Body::from("abcdefg")] {
            assert_eq!(bodies.read(long).await.map_err(code).unwrap_err(), Code::BodyTooLarge);
        }
        assert_eq!(bodies.digest(long()).await.map_err(code).unwrap_err(), Code::BodyTooLarge);
        let good = || Body::from_stream(pieces(&["abc", "def"]));
        assert_eq!(bodies.read(good()).await.unwrap(), "abcdef");
        let digest: [u8; 32] = Sha256::digest("abcdef").into();
        assert_eq!(bodies.digest(good()).await.unwrap(), Some(digest));
        assert_eq!(bodies.digest(Body::empty()).await.unwrap(), None);
    }
}
