//! Stores for unit tests: each test of the store runs on both kinds.

#[path = "../../tests/support/postgres.rs"]
mod postgres;

pub(crate) use self::postgres::Postgres;
use super::Store;

/// Runs a test on an empty store in a file, and on one in PostgreSQL.
pub(crate) async fn on_both(test: impl AsyncFn(Store)) {
    let dir = tempfile::tempdir().unwrap();
    let file = format!("sqlite:{}", dir.path().join("test.db").display());
    let server = Postgres::start();
    for url in [file.as_str(), server.url()] {
        let store = Store::open(url).await.unwrap();
        eprintln!("on {url}");
        test(store.clone()).await;
        store.close().await;
    }
}
