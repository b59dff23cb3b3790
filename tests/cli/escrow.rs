//! `bursar escrow`, through the real binary: a job from its opening to its end.

use serde_json::Value;

use super::{agent, operator};
use crate::support::{Plan, World, wait_for};

/// A command that must end with this code; what it said.
fn ends(world: &World, line: &str, code: i32) -> String {
    super::ends(world, &format!("escrow {line}"), code)
}

/// A command that must succeed; its JSON.
fn json(world: &World, line: &str) -> Value {
    super::json(world, &format!("escrow {line}"))
}

/// Waits until the escrow is in this state; its JSON.
async fn until(world: &World, id: &str, who: &str, state: &str) -> Value {
    wait_for(state, async || {
        let view = json(world, &format!("show {id} {who}"));
        (view["state"] == state).then_some(view)
    })
    .await
}

#[tokio::test]
async fn a_job_is_opened_delivered_released_disputed_and_split() {
    let world = Plan::new().start().await;
    let (dune, borealis) = (agent(&world, "dune"), agent(&world, "borealis"));
    let (omar, oskar) = (operator(&world, 1), operator(&world, 2));
    let arbiter = world.card.operators[2].address;
    let ask = "open borealis-works 40 --work 'train the model' --reason 'a model for the report'";
    let opened = json(
        &world,
        &format!("{ask} --release payer,arbiter --arbiter {arbiter} --key job-1 --wait {dune}"),
    );
    let id = opened["escrows"][0]["id"].as_str().unwrap().to_owned();
    assert_eq!(opened["escrows"].as_array().unwrap().len(), 1);
    until(&world, &id, &dune, "funded").await;
    let shown = ends(&world, &format!("show {id} {dune}"), 0);
    for part in ["train the model", "borealis-works", "payer or arbiter", "40 held", "●  funded"]
    {
        assert!(shown.contains(part), "no {part:?} in:\n{shown}");
    }
    assert!(shown.contains("○  reclaim"), "{shown}");

    let link = "https://files.example/weights.bin";
    ends(&world, &format!("submit {id} --text 'weights.bin' --link {link} --wait {borealis}"), 0);
    until(&world, &id, &borealis, "submitted").await;
    let pool = world.tables().await;
    let kept = sqlx::query_scalar::<_, String>("SELECT detail FROM escrow_action");
    let kept = kept.fetch_all(&pool).await.unwrap();
    assert!(kept.len() == 1 && kept[0].contains(link), "{kept:?}");
    pool.close().await;

    // Only the arbiter speaks as the arbiter, and it is shown what it signs.
    let wrong = ends(&world, &format!("release {id} --total 10 {omar} --yes"), 1);
    assert!(wrong.contains("is not the escrow's arbiter"), "{wrong}");
    let shown = ends(&world, &format!("release {id} --total 10 {oskar}"), 2);
    assert!(shown.contains("As arbiter, release 10 USDC in all"), "{shown}");
    ends(&world, &format!("release {id} --total 10 --wait --yes {oskar}"), 0);
    wait_for("the release", async || {
        let view = json(&world, &format!("show {id} {dune}"));
        (view["captured"] == "10").then_some(())
    })
    .await;

    ends(&world, &format!("dispute {id} --text 'it overfits' --wait {dune}"), 0);
    until(&world, &id, &dune, "disputed").await;
    ends(&world, &format!("award {id} 25 --reason 'half of it' --wait --yes {oskar}"), 0);
    let end = until(&world, &id, &dune, "completed").await;
    assert_eq!((&end["captured"], &end["refunded"]), (&"25".into(), &"15".into()));
    assert_eq!(world.chain.usdc_of(world.payee("borealis-works")).await, 25_000_000);
    let list = ends(&world, &format!("list {borealis}"), 0);
    assert!(list.contains(&id) && list.contains("completed"), "{list}");
}

#[tokio::test]
async fn what_is_large_is_opened_and_released_by_operators_too() {
    let world = Plan::new().start().await;
    let dune = agent(&world, "dune");
    let (olivia, omar) = (operator(&world, 0), operator(&world, 1));
    let ask = "open borealis-works 600 --work 'a large model' --reason 'quarterly' --key large";
    let opened = json(&world, &format!("{ask} {dune}"));
    let escrow = &opened["escrows"][0];
    let (id, payment) = (escrow["id"].as_str().unwrap(), escrow["payment"]["id"].as_str().unwrap());
    assert_eq!(escrow["payment"]["state"], "awaiting_approval");
    for who in [&olivia, &omar] {
        // `bursar approve`, beside `bursar escrow`.
        let (code, text) = world.bursar(
            &["approve", payment, "--yes"]
                .into_iter()
                .chain(who.split(' '))
                .chain(["--url", &world.card.api])
                .collect::<Vec<_>>(),
        );
        assert_eq!(code, 0, "{text}");
        assert!(text.contains("Hold 600 USDC for the work of borealis-works"), "{text}");
        assert!(text.contains("released by    payer"), "{text}");
    }
    until(&world, id, &dune, "funded").await;

    let asked = json(&world, &format!("release {id} {dune}"));
    let action = asked["actions"][0]["id"].as_str().unwrap();
    assert_eq!(asked["actions"][0]["state"], "awaiting_approval");
    let shown = ends(&world, &format!("show {id} {dune}"), 0);
    assert!(shown.contains(&format!("bursar escrow approve {action}")), "{shown}");
    assert!(ends(&world, &format!("approvals {olivia}"), 0).contains(action));
    let shown = ends(&world, &format!("approve {action} {olivia} --yes"), 0);
    assert!(shown.contains("Release 600 USDC in all to borealis-works"), "{shown}");
    ends(&world, &format!("approve {action} {omar} --yes"), 0);
    until(&world, id, &dune, "completed").await;
    assert_eq!(world.chain.usdc_of(world.payee("borealis-works")).await, 600_000_000);

    let borealis = agent(&world, "borealis");
    ends(&world, &format!("refund {id} --total 700 {borealis}"), 1);
    let shown = ends(&world, &format!("refund {id} --total 200 --wait {borealis}"), 0);
    assert!(shown.contains("200"), "{shown}");
    assert_eq!(world.chain.usdc_of(world.payee("borealis-works")).await, 400_000_000);
}

#[tokio::test]
async fn mistakes_are_named_with_the_way_out() {
    let world = Plan::new().start().await;
    let dune = agent(&world, "dune");
    let nobody = format!("0x{}", "ab".repeat(32));
    let text = ends(&world, &format!("show {nobody}"), 2);
    assert!(text.contains("who speaks?") && text.contains("--agent-key"), "{text}");
    let text = ends(&world, &format!("show {nobody} {dune}"), 1);
    assert!(text.contains("there is no escrow"), "{text}");
    let text = ends(&world, &format!("award {nobody} 1 --reason x {dune}"), 2);
    assert!(text.contains("an award is the arbiter's"), "{text}");
    let ask = "open borealis-works 1 --work w --reason r";
    // Only the payer could release, and its silence would be free.
    let text = ends(&world, &format!("{ask} --silence 0 {dune}"), 1);
    assert!(text.contains("silence_bps"), "{text}");
    ends(&world, &format!("{ask} --within 3x {dune}"), 2);
    let text = ends(&world, &format!("open --from nothing.json {dune}"), 3);
    assert!(text.contains("nothing.json"), "{text}");
}
