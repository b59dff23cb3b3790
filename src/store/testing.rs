//! Stores for unit tests: each test of the store runs on both kinds.

#[path = "../../tests/support/postgres.rs"]
mod postgres;

use sqlx::{AssertSqlSafe, Executor as _, Row as _};

pub(crate) use self::postgres::Postgres;
use super::Store;

/// Holds statements against SQLite's plans: each finds the rows of `table` by an index and reads no others.
pub(super) async fn all_search(table: &str, texts: impl Fn(&Store) -> Vec<String>) {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", dir.path().join("plan.db").display());
    let store = Store::open(&url).await.unwrap();
    for text in texts(&store) {
        let explain = AssertSqlSafe(format!("EXPLAIN QUERY PLAN {text}"));
        let plan = store.readers.fetch_all(explain).await.unwrap();
        let steps: Vec<String> = plan.iter().map(|row| row.get(3)).collect();
        let starts = |what: &str| steps.iter().any(|step| step.starts_with(what));
        assert!(starts(&format!("SEARCH {table} USING")), "{text}: {steps:?}");
        assert!(!starts(&format!("SCAN {table}")), "{text}: {steps:?}");
    }
    store.close().await;
}

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
