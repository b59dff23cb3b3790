//! The operators' and agents' commands, through the real binary.

use std::{
    io::Write as _,
    process::{Command, Stdio},
};

use alloy::{
    hex,
    primitives::{Address, address},
    signers::local::PrivateKeySigner,
};
use axum::{Router, body::Bytes, extract::State, routing::any};
use bursar::{payment::State as PaymentState, view::ProposalState};

use crate::{
    cli::{agent, bursar_at, ends, json, operator, said},
    support::{Plan, wait_for},
};

#[tokio::test]
async fn a_large_payment_from_the_agent_to_the_chain() {
    let world = Plan::new().start().await;
    let (atlas, olivia, omar) = (agent(&world, "atlas"), operator(&world, 0), operator(&world, 1));
    let ask = "pay acme-data 500 --reason 'a year of data' --invoice INV-7";
    let asked = json(&world, &format!("{ask} --key large {atlas}"));
    assert_eq!(asked["state"], "awaiting_approval");
    let id = asked["id"].as_str().unwrap();
    assert!(ends(&world, &format!("approvals {olivia}"), 0).contains(id));

    // Nobody to ask and no --yes: everything is shown, nothing is signed.
    let shown = ends(&world, &format!("approve {id} {olivia}"), 2);
    let view = &json(&world, &format!("approvals {id} {olivia}"));
    assert!(view["signed_by"].as_array().unwrap().is_empty());
    for part in [
        "Pay 500 USDC to acme-data",
        "500000000 base units",
        "a year of data",
        "INV-7",
        "sets aside     ceiling",
        "domain hash",
        "message hash",
        view["digest"].as_str().unwrap(),
    ] {
        assert!(shown.contains(part), "no {part:?} in:\n{shown}");
    }

    // Another wallet than the pinned one, somebody who is no operator, the agent's own signature.
    let pinned = format!("approve {id} {olivia} --yes --wallet {}", Address::repeat_byte(1));
    assert!(ends(&world, &pinned, 4).contains("nothing was signed"));
    ends(&world, &format!("approve {id} {olivia} --yes --chain-id 1"), 4);
    let stranger = hex::encode(PrivateKeySigner::random().to_bytes());
    let file = world.card.dir.join("stranger");
    std::fs::write(&file, stranger).unwrap();
    let text = ends(&world, &format!("approve {id} --key-fd 3 --yes 3<stranger"), 1);
    assert!(text.contains("is not an operator"), "{text}");

    ends(&world, &format!("approve {id} {olivia} --yes"), 0);
    assert!(ends(&world, &format!("approve {id} {olivia} --yes"), 1).contains("already"));
    let complete = json(&world, &format!("approve {id} {omar} --yes"));
    assert_eq!(complete["signed_by"].as_array().unwrap().len(), 2);
    // The same key waits for the same payment.
    let paid = json(&world, &format!("{ask} --key large --wait {atlas}"));
    assert_eq!((paid["id"].as_str(), paid["state"].as_str()), (Some(id), Some("paid")));

    let other = json(&world, &format!("pay acme-data 400 --reason no --key other {atlas}"));
    let other = other["id"].as_str().unwrap();
    let rejected = json(&world, &format!("reject {other} --reason 'no contract' {omar}"));
    assert_eq!(rejected["state"], "rejected");
    assert!(ends(&world, &format!("payments {other} {atlas}"), 0).contains("no contract"));
    assert_eq!(json(&world, &format!("payments --state paid {atlas}"))["payments"][0]["id"], id);
    world.judge().await;
}

#[tokio::test]
async fn freeze_at_once_unfreeze_by_quorum() {
    let world = Plan::new().start().await;
    let (atlas, olivia, omar) = (agent(&world, "atlas"), operator(&world, 0), operator(&world, 1));
    let told = ends(&world, &format!("freeze atlas {olivia} --yes"), 0);
    assert!(told.contains("Freeze agent atlas") && told.contains("signed as      Tighten"));
    let pay = format!("pay acme-data 1 --reason x --key f {atlas}");
    let refused = ends(&world, &pay, 1);
    assert!(refused.contains("agent_frozen") && refused.contains("money moved: no"), "{refused}");
    let may = ends(&world, &format!("permissions {atlas}"), 0);
    assert!(may.contains("may not pay") && may.contains("buys over HTTP from any host"), "{may}");
    assert!(may.contains("fetch.day") && may.contains("coupons of "), "{may}");

    let proposal = json(&world, &format!("unfreeze atlas {olivia} --yes"));
    let id = proposal["id"].as_str().unwrap();
    assert!(ends(&world, &format!("policy apply {id} {olivia}"), 1).contains("1 of 2"));
    ends(&world, &format!("policy sign {id} {omar} --yes"), 0);
    ends(&world, &format!("policy apply {id} {omar}"), 0);
    wait_for("the unfreeze", async || {
        let view = world.operator(0).proposal(id.parse().unwrap()).await.unwrap();
        let thawed = world.agent("atlas").permissions().await.unwrap().active;
        (view.state == ProposalState::Executed && thawed).then_some(())
    })
    .await;
    assert_eq!(json(&world, &format!("{pay} --wait"))["state"], "paid");

    ends(&world, &format!("freeze --all {omar} --yes"), 0);
    assert!(ends(&world, &pay.replace("--key f", "--key g"), 1).contains("wallet_frozen"));
    assert!(ends(&world, &format!("freeze {olivia} --yes"), 2).contains("AGENT|--all"));
    assert!(ends(&world, &format!("freeze nobody {olivia} --yes"), 2).contains("agents: atlas"));
}

#[tokio::test]
async fn payees_and_limits_are_proposed_in_words() {
    let world = Plan::new().start().await;
    let (olivia, omar) = (operator(&world, 0), operator(&world, 1));
    const NEW: Address = address!("0x9965507D1a55bcC2695C58ba16FB37d819B0A4dc");
    let add = format!("payee add newco {NEW} --category data --cap 500 --cooldown 10m {olivia}");
    let told = ends(&world, &format!("{add} --yes"), 0);
    let words = format!("Add payee newco ({NEW}): categories data; cap 500 USDC; cooldown 10 min");
    assert!(told.contains(&words) && told.contains("not signed"), "{told}");
    let nope = add.replace("--category data", "--category nope");
    assert!(ends(&world, &nope, 2).contains("categories: data"));

    // Half signed, it can still be dropped; the other operator then has nothing to sign.
    let list = json(&world, &format!("policy list {omar}"));
    let id = list[0]["id"].as_str().unwrap();
    assert_eq!(json(&world, &format!("policy cancel {id} {omar} --yes"))["state"], "cancelled");
    ends(&world, &format!("policy sign {id} {omar} --yes"), 1);

    // A policy file that only lowers holds by one operator's order; one that raises must wait.
    let file = &world.card.agents[&"ember".parse().unwrap()].policy;
    let text = std::fs::read_to_string(file).unwrap();
    let lower = world.card.dir.join("lower.toml");
    std::fs::write(&lower, text.replace("ceiling = \"20\"", "ceiling = \"5\"")).unwrap();
    let told = ends(&world, &format!("policy propose lower.toml --now {olivia} --yes"), 0);
    assert!(told.contains("Set agent ember") && told.contains("ceiling 5 USDC"), "{told}");
    let raise = world.card.dir.join("raise.toml");
    std::fs::write(&raise, text.replace("day = \"200\"", "day = \"900\"")).unwrap();
    ends(&world, &format!("policy propose raise.toml --now {olivia} --yes"), 1);
    let proposed = json(&world, &format!("policy propose raise.toml --no-sign {olivia}"));
    assert!(proposed["summary"].as_str().unwrap().contains("day cap 900 USDC"));
    assert!(proposed["signed_by"].as_array().unwrap().is_empty());

    // Coupons of a file are proposed where the contract has others, and told as they are.
    let file = &world.card.agents[&"atlas".parse().unwrap()].policy;
    let text = std::fs::read_to_string(file).unwrap();
    let more = text.replace("200x0.01", "500x0.01");
    std::fs::write(world.card.dir.join("more.toml"), more).unwrap();
    let told = ends(&world, &format!("policy propose more.toml --no-sign {olivia}"), 0);
    assert!(
        told.contains("Set coupons of agent atlas") && told.contains("500 of at most"),
        "{told}"
    );
    assert!(told.contains("Set agent atlas"), "{told}");
    let shown = ends(&world, &format!("agent list atlas {olivia}"), 0);
    let held = "coupons 200x0.01 + 80x0.1 + 10x1 + 1x5 every 3600 s\n";
    assert!(shown.contains(held), "{shown}");

    let told = ends(&world, &format!("payee remove acme-data {olivia} --yes"), 0);
    assert!(told.contains("Remove payee acme-data"));
    wait_for("the removal", async || {
        let payees = world.operator(0).payees().await.unwrap();
        payees.iter().all(|payee| payee.label.as_deref() != Some("acme-data")).then_some(())
    })
    .await;
}

/// A terminal is asked; only yes is yes.
#[tokio::test]
async fn a_person_is_asked_before_anything_is_signed() {
    if Command::new("script").arg("--version").output().is_err() {
        eprintln!("NOT RUN: there is no script(1), which makes the pseudo-terminal");
        return;
    }
    let world = Plan::new().start().await;
    let atlas = world.agent("atlas");
    let request = crate::support::request("acme-data", "300");
    let waiting = atlas.submit(&request, "asked").await.unwrap();
    let bursar = env!("CARGO_BIN_EXE_bursar");
    let line = format!("{bursar} approve {} {}", waiting.id, operator(&world, 2));
    for (answer, code, signed) in [("n\n", 1, 0), ("\n", 1, 0), ("y\n", 0, 1)] {
        let mut child = Command::new("script")
            .args(["-qec", &line, "/dev/null"])
            .env("BURSAR_URL", &world.card.api)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // Held open: script(1) ends with its input.
        let mut input = child.stdin.take().unwrap();
        input.write_all(answer.as_bytes()).unwrap();
        input.flush().unwrap();
        let output = child.wait_with_output().unwrap();
        drop(input);
        let text = said(&output);
        assert!(text.contains("Sign this? [y/N]"), "{text}");
        assert_eq!(output.status.code(), Some(code), "{answer:?}: {text}");
        let view = world.operator(0).approval(waiting.id).await.unwrap();
        assert_eq!(view.signed_by.len(), signed, "{answer:?}");
    }
}

/// Hands requests to the daemon, and changes one word of every answer.
async fn tampering(
    State((api, from, to)): State<(String, String, String)>,
    request: http::Request<axum::body::Body>,
) -> http::Response<axum::body::Body> {
    let (parts, body) = request.into_parts();
    let body: Bytes = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    let path = parts.uri.path_and_query().unwrap().as_str();
    let sent = reqwest::Client::new()
        .request(parts.method, format!("{api}{path}"))
        .headers(parts.headers)
        .body(body)
        .send()
        .await
        .unwrap();
    let status = sent.status();
    let text = sent.text().await.unwrap().replace(&from, &to);
    http::Response::builder().status(status).body(text.into()).unwrap()
}

/// A daemon, or someone between, that shows one thing and wants a signature over another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lie_on_the_way_gets_no_signature() {
    let world = Plan::new().start().await;
    let asked = world.agent("atlas");
    let request = crate::support::request("acme-data", "300");
    let waiting = asked.submit(&request, "lied").await.unwrap();
    let acme = world.payee("acme-data").to_string().to_lowercase();
    let other = world.payee("llm-hub").to_string().to_lowercase();
    for (from, to) in [
        ("\"amount\":\"300\"", "\"amount\":\"3\"".to_owned()),
        ("\"reason\":\"an integration test\"", "\"reason\":\"something else\"".to_owned()),
        (acme.as_str(), other),
        ("\"overrides\":[\"ceiling\"]", "\"overrides\":[\"ceiling\",\"payee\"]".to_owned()),
    ] {
        let state = (world.card.api.clone(), from.to_owned(), to.clone());
        let router = Router::new().fallback(any(tampering)).with_state(state);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let proxy = tokio::spawn(async move { axum::serve(listener, router).await });
        // The signature names the public origin: the proxy only stands between.
        let line = format!("approve {} --yes {}", waiting.id, operator(&world, 0));
        let line = format!("{line} --origin {}", world.card.api);
        let output = {
            let (world, url) = (&world, url.clone());
            tokio::task::block_in_place(|| bursar_at(world, &url, &line, ""))
        };
        proxy.abort();
        assert_eq!(output.status.code(), Some(4), "{from}: {}", said(&output));
        assert!(said(&output).contains("nothing was signed"), "{from}: {}", said(&output));
    }
    let view = world.operator(0).approval(waiting.id).await.unwrap();
    assert!(view.signed_by.is_empty());
    assert_eq!(view.payment.state, PaymentState::AwaitingApproval);
}
