//! A log that somebody had his hands in: the check names the first entry that is wrong.

use sqlx::{AnyPool, AssertSqlSafe, Row};

use crate::support::Plan;

/// Changes the store by hand, as somebody with access to the database would.
async fn by_hand(tables: &AnyPool, statements: &[impl AsRef<str>]) {
    for sql in statements {
        sqlx::query(AssertSqlSafe(sql.as_ref())).execute(tables).await.unwrap();
    }
}

#[tokio::test]
async fn case_30_every_kind_of_tampering_is_found_and_named() {
    let mut world = Plan::new().start().await;
    for n in 0..4 {
        world.pay("atlas", "acme-data", &format!("{}", n + 1), &format!("audit-{n}")).await;
    }
    world.judge().await;
    world.stop().await;
    world.judge().await;

    let tables = world.tables().await;
    let last: i64 =
        sqlx::query("SELECT MAX(seq) FROM audit_entry").fetch_one(&tables).await.unwrap().get(0);
    let keep = [
        "CREATE TABLE kept_entry AS SELECT * FROM audit_entry",
        "CREATE TABLE kept_head AS SELECT * FROM audit_head",
    ];
    let restore = [
        "DELETE FROM audit_entry",
        "DELETE FROM audit_head",
        "INSERT INTO audit_entry SELECT * FROM kept_entry",
        "INSERT INTO audit_head SELECT * FROM kept_head",
    ];
    by_hand(&tables, &keep).await;
    assert!(last > 12, "{last} entries");

    let cut = last - 2;
    let cases: Vec<(&str, i64, Vec<String>)> = vec![
        (
            "an actor replaced",
            5,
            vec!["UPDATE audit_entry SET actor = 'agent:nobody' WHERE seq = 5".into()],
        ),
        (
            "an amount edited",
            6,
            vec!["UPDATE audit_entry SET data = replace(data, '}', ',\"amount\":\"9\"}') WHERE seq = 6".into()],
        ),
        (
            "a time moved",
            7,
            vec!["UPDATE audit_entry SET at_ms = at_ms - 60000 WHERE seq = 7".into()],
        ),
        ("an entry deleted", 8, vec!["DELETE FROM audit_entry WHERE seq = 8".into()]),
        ("the first entry deleted", 1, vec!["DELETE FROM audit_entry WHERE seq = 1".into()]),
        (
            "two entries exchanged",
            9,
            vec![
                "UPDATE audit_entry SET seq = -1 WHERE seq = 9".into(),
                "UPDATE audit_entry SET seq = 9 WHERE seq = 10".into(),
                "UPDATE audit_entry SET seq = 10 WHERE seq = -1".into(),
            ],
        ),
        (
            "the tail cut",
            cut + 1,
            vec![format!("DELETE FROM audit_entry WHERE seq > {cut}")],
        ),
        (
            "the tail cut, and the head with it",
            cut + 1,
            vec![
                format!("DELETE FROM audit_entry WHERE seq > {cut}"),
                format!(
                    "UPDATE audit_head SET seq = {cut},
                     hash = (SELECT hash FROM audit_entry WHERE seq = {cut})"
                ),
            ],
        ),
    ];
    for (what, entry, statements) in cases {
        by_hand(&tables, &statements).await;
        let (code, said) = world.bursar(&["audit", "verify"]);
        assert_eq!(code, 4, "{what}: {said}");
        let named = said.split(|c: char| !c.is_ascii_digit()).any(|word| word.parse() == Ok(entry));
        assert!(named, "{what}: entry {entry} is not named in: {said}");
        by_hand(&tables, &restore).await;
    }
    let (code, said) = world.bursar(&["audit", "verify"]);
    assert_eq!(code, 0, "{said}");
    tables.close().await;
}
