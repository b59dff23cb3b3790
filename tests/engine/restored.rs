//! A store from before: put back as a file, or restored from a backup, while the chain went on.

use std::{fs, path::PathBuf};

use alloy::primitives::B256;
use bursar::{
    alert::AlertKind,
    payment::{FundsMoved, PaymentId, State},
    refusal::{Code, Refusal},
    store::Store,
    view::PaymentView,
};
use serde_json::{Value, json};
use sqlx::{Connection as _, Executor as _, PgConnection};

use crate::support::{Plan, RefusedWith, World, request, wait_for};

/// A copy of the store as it is, for later.
pub enum Copy {
    /// The database's files, by the ends of their names.
    Files(Vec<(&'static str, Vec<u8>)>),
    /// `bursar store backup`.
    Backup(PathBuf),
}

fn file(world: &World, end: &str) -> PathBuf {
    format!("{}{end}", world.database().strip_prefix("sqlite:").unwrap()).into()
}

pub fn copy(world: &World) -> Copy {
    if world.postgres.is_none() {
        let files = ["", "-wal"].map(|end| (end, fs::read(file(world, end)).unwrap_or_default()));
        return Copy::Files(files.to_vec());
    }
    let path = world.card.config.with_file_name("old.backup");
    let (code, said) = world.bursar(&["store", "backup", path.to_str().unwrap()]);
    assert_eq!(code, 0, "{said}");
    Copy::Backup(path)
}

/// Puts the copy in the store's place: a file over the file, a backup into a new database.
pub async fn put_back(world: &World, copy: Copy) {
    match copy {
        Copy::Files(files) => {
            // The index of the newer log goes with it.
            let _ = fs::remove_file(file(world, "-shm"));
            for (end, bytes) in files {
                fs::write(file(world, end), bytes).unwrap();
            }
        }
        Copy::Backup(path) => {
            let url = world.database();
            let mut server = PgConnection::connect(&url).await.unwrap();
            server.execute("CREATE DATABASE elsewhere").await.unwrap();
            let url = url.replace("/postgres?", "/elsewhere?");
            world.configure(|config| config.store = url);
            let (code, said) = world.bursar(&["store", "restore", path.to_str().unwrap()]);
            assert_eq!(code, 0, "{said}");
        }
    }
}

pub fn found(world: &World) -> Value {
    let (code, said) = world.bursar(&["store", "found", "--json"]);
    assert_eq!(code, 0, "{said}");
    serde_json::from_str(&said).unwrap()
}

pub fn say(world: &World, words: &[&str]) {
    let (code, said) = world.bursar(&[&["store"], words].concat());
    assert_eq!(code, 0, "{words:?}: {said}");
}

async fn alerts(world: &World) -> usize {
    let store = Store::open(&world.database()).await.unwrap();
    let up = store.alerts().await.unwrap();
    store.close().await;
    up.iter().filter(|alert| alert.kind == AlertKind::Restored).count()
}

/// Asks again, and must be refused as what may have been paid.
async fn may_be_paid(world: &World, agent: &str, payee: &str, amount: &str, key: &str) {
    let answer = world.agent(agent).submit(&request(payee, amount), key).await;
    let Err(bursar::client::ClientError::Refused(problem)) = answer else { panic!("{answer:?}") };
    let Refusal { code, funds_moved, .. } = problem.refusal;
    assert_eq!((code, funds_moved), (Code::MaybePaid, FundsMoved::Maybe));
}

/// The payment of this amount among the found ones.
pub fn named(list: &Value, amount: &str) -> String {
    let mut rows = list["found"].as_array().unwrap().iter();
    let row = rows.find(|row| row["amount"] == amount).unwrap_or_else(|| panic!("{list}"));
    row["payment"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn case_23_an_old_store_neither_pays_twice_nor_calls_failed_what_was_paid() {
    let one_at_a_time = |config: &mut bursar::config::Config| {
        config.submit.relayers = 1;
        config.submit.in_flight = 1;
    };
    let mut world = Plan::new().automine().config(one_at_a_time).start().await;
    world.chain.automine(false).await;
    // One on its way, behind it two that are not signed, and one that waits for its quorum.
    let on_its_way = world.pay("ember", "acme-data", "4", "on-its-way").await;
    world.until(&on_its_way, State::Broadcast).await;
    let mixed = world.pay("atlas", "acme-data", "5", "mixed").await;
    let alone = world.pay("borealis", "gpu-harbor", "7", "alone").await;
    let large = world.pay("atlas", "acme-data", "900", "large").await;
    world.kill();
    let old = copy(&world);

    // The chain goes on, with requests that the copy has never heard of.
    world.restart().await;
    let forgotten = world.pay("atlas", "acme-data", "6", "forgotten").await;
    let lost = world.pay("dune", "devtools-co", "8", "lost").await;
    for index in 0..2 {
        world.approve(large.id, index).await;
    }
    world.chain.automine(true).await;
    world.chain.mine().await;
    let all = [&on_its_way, &mixed, &alone, &large, &forgotten, &lost];
    let mut paid_by = Vec::new();
    for payment in all {
        paid_by.push(world.until(payment, State::Paid).await.transaction.unwrap());
    }
    let paid_by = |payment: &PaymentView| -> B256 {
        paid_by[all.iter().position(|one| one.id == payment.id).unwrap()]
    };
    assert_eq!(paid_by(&mixed), paid_by(&forgotten), "in one batch, of which the copy knows half");
    world.kill();
    put_back(&world, old).await;
    world.restart().await;

    // Until everything signed before is paid or dead, nothing is promised and nothing ends.
    let fresh = request("acme-data", "11");
    let client = world.agent("atlas");
    assert_eq!(client.submit(&fresh, "fresh").await.code(), Code::Unavailable);
    assert_eq!(
        client.submit(&request("acme-data", "6"), "forgotten").await.code(),
        Code::Unavailable
    );
    let again = client.submit(&request("acme-data", "5"), "mixed").await.unwrap();
    assert_eq!((again.id, again.state), (mixed.id, State::Queued), "what it knows it finds");
    assert_eq!(found(&world)["state"]["is_settled"], json!(false));
    wait_for("the alert", async || (alerts(&world).await > 0).then_some(())).await;

    world.chain.pass(world.config().submit.signature_ttl_s + 60).await;
    // What a hash or a nonce proves is booked.
    for payment in [&on_its_way, &alone, &large] {
        let now = world.until(payment, State::Paid).await;
        assert_eq!(now.transaction, Some(paid_by(payment)));
    }
    let list = found(&world);
    assert_eq!(list["state"]["undecided"].as_array().unwrap().len(), 1, "{list}");
    assert_eq!(list["found"].as_array().unwrap().len(), 2, "{list}");

    // What nobody can know is not paid again, and not called anything.
    may_be_paid(&world, "atlas", "acme-data", "6", "forgotten").await;
    may_be_paid(&world, "dune", "devtools-co", "8", "lost").await;
    may_be_paid(&world, "atlas", "acme-data", "5", "another").await;
    let fresh = client.submit(&fresh, "fresh").await.unwrap();
    world.until(&fresh, State::Paid).await;
    assert_eq!(client.payment(mixed.id).await.unwrap().state, State::Queued);

    // It outlives a restart, and then an operator has the word.
    world.kill();
    world.restart().await;
    may_be_paid(&world, "atlas", "acme-data", "6", "forgotten").await;
    say(&world, &["match", &named(&list, "6"), "--key", "forgotten"]);
    let known = client.submit(&request("acme-data", "6"), "forgotten").await.unwrap();
    assert_eq!((known.state, known.transaction), (State::Paid, Some(paid_by(&forgotten))));
    assert_ne!(known.id, forgotten.id, "its name is lost");
    let reused = client.submit(&request("acme-data", "6.5"), "forgotten").await;
    assert_eq!(reused.code(), Code::IdempotencyKeyReused);

    say(&world, &["acknowledge", &named(&list, "8")]);
    let second = world.pay("dune", "devtools-co", "8", "a-new-one").await;
    world.until(&second, State::Paid).await;

    let (id, transaction) = (mixed.id.to_string(), paid_by(&mixed).to_string());
    say(&world, &["match", &id, "--transaction", &transaction]);
    assert_eq!(world.until(&mixed, State::Paid).await.transaction, Some(paid_by(&mixed)));
    let other = world.pay("atlas", "acme-data", "5", "another").await;
    world.until(&other, State::Paid).await;
    wait_for("no alert", async || (alerts(&world).await == 0).then_some(())).await;

    // The copies of the log's anchors that vouch for what is lost are put aside.
    let anchors = world.config().audit_anchors;
    fs::rename(&anchors, anchors.with_extension("lost")).unwrap();
    world.judge().await;
    let ids: Vec<PaymentId> = world.payments().await.iter().map(|payment| payment.id).collect();
    assert_eq!(ids.len(), 9);
    let (code, said) = world.bursar(&["reconcile"]);
    assert_eq!(code, 0, "{said}");
}
