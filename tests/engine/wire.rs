//! What nodes and the wire to them do: lost answers, other clients' words and rules, stale and
//! contradicting nodes, hostile bodies, another chain.

use std::time::Duration;

use bursar::{contract::IPolicyChanges, payment::State, view::PaymentView};
use serde_json::{Value, json};

use super::fees::base_fee;
use crate::support::{Fault, Plan, Proxy, World, wait_for};

const SEND: &str = "eth_sendRawTransaction";
const RECEIPT: &str = "eth_getTransactionReceipt";
const HEAD: &str = "eth_getBlockByNumber";

/// Transactions of the relayers in the chain.
async fn spent(world: &World) -> u64 {
    let mut sum = 0;
    for relayer in &world.card.relayers {
        sum += world.chain.nonce(*relayer).await;
    }
    sum
}

async fn answers(world: &World, class: &str) -> u64 {
    world.metric(&format!("bursar_sends_total{{answer=\"{class}\"}}")).await
}

/// Waits until the daemon has looked at the chain so many times more.
async fn looks(proxy: &Proxy, times: u64) {
    let before = proxy.asked("eth_chainId");
    wait_for("looks at the chain", async || {
        (proxy.asked("eth_chainId") >= before + times).then_some(())
    })
    .await;
}

async fn state(world: &World, payment: &PaymentView) -> State {
    world.agent(payment.agent.as_str()).payment(payment.id).await.unwrap().state
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn case_07_sent_and_taken_but_the_answer_is_lost() {
    let (world, proxy) = Plan::new().automine().behind_a_proxy().await;
    let faults = [Fault::Unanswered, Fault::Late(Duration::from_secs(2)), Fault::Half];
    for (n, fault) in faults.into_iter().enumerate() {
        world.chain.automine(false).await;
        proxy.on(SEND, 2, fault);
        let payment = world.pay("atlas", "acme-data", &format!("{}", n + 5), &format!("{n}")).await;
        let sent = world.until(&payment, State::Broadcast).await;
        assert_eq!(world.chain.pool_of(&world.card.relayers).await.len(), 1);
        wait_for("the last lost answer", async || (proxy.left() == 0).then_some(())).await;
        world.chain.automine(true).await;
        world.chain.mine().await;
        let paid = world.until(&payment, State::Paid).await;
        assert_eq!(paid.transaction, sent.transaction);
        assert_eq!(spent(&world).await, n as u64 + 1, "no other nonce");
    }
    world.judge().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn case_08_sent_and_never_arrived() {
    let (world, proxy) = Plan::new().behind_a_proxy().await;
    proxy.on(SEND, 3, Fault::Lost);
    let payment = world.pay("atlas", "acme-data", "5", "lost").await;
    let sent = world.until(&payment, State::Broadcast).await;
    assert!(world.chain.pool_of(&world.card.relayers).await.is_empty());
    let paid = world.until(&payment, State::Paid).await;
    assert_eq!(paid.transaction, sent.transaction, "the same bytes again");
    assert!(proxy.asked(SEND) >= 4);
    assert_eq!(spent(&world).await, 1);
    world.judge().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn case_09_the_node_has_it_already() {
    let (world, proxy) = Plan::new().behind_a_proxy().await;
    let words = [
        "already known",
        "known transaction: 0xab",
        "existing txn with same hash",
        "transaction already imported",
        "AlreadyKnown",
        "OwnNonceAlreadyUsed",
    ];
    for (n, words) in words.into_iter().enumerate() {
        // True, and a node that says so and forgets it the next moment.
        let fault = match n % 2 {
            0 => Fault::Belied(-32_000, words),
            _ => Fault::Refused(-32_000, words),
        };
        proxy.on(SEND, 1, fault);
        let before = answers(&world, "already_known").await;
        let key = format!("known-{n}");
        let payment = world.pay("atlas", "acme-data", &format!("{}", n + 5), &key).await;
        world.until(&payment, State::Paid).await;
        assert!(answers(&world, "already_known").await > before, "{words}");
    }
    assert_eq!(spent(&world).await, 6);
    world.judge().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn case_10_nonce_too_low_by_an_earlier_attempt_of_ours() {
    let plan = Plan::new().automine().config(|config| config.submit.replace_after_s = 1);
    let (world, proxy) = plan.behind_a_proxy().await;
    world.chain.automine(false).await;
    let payment = world.pay("atlas", "acme-data", "5", "own").await;
    let first = world.until(&payment, State::Broadcast).await.transaction;
    // The replacement never arrives, and the chain's receipts are not to be had for a while.
    proxy.always(SEND, Fault::Lost);
    proxy.always(RECEIPT, Fault::Says(Value::Null));
    wait_for("a replacement", async || {
        let (_, story) = world.bursar(&["audit", "show", &payment.id.to_string()]);
        story.contains("payment.replaced").then_some(())
    })
    .await;
    world.chain.mine().await;
    proxy.calm();
    proxy.always(RECEIPT, Fault::Says(Value::Null));
    wait_for("nonce too low", async || (answers(&world, "nonce_too_low").await > 0).then_some(()))
        .await;
    for _ in 0..3 {
        world.chain.mine().await;
        looks(&proxy, 3).await;
        assert!(!state(&world, &payment).await.is_terminal());
    }
    proxy.calm();
    world.chain.mine().await;
    let paid = world.until(&payment, State::Paid).await;
    assert_eq!(paid.transaction, first, "found among all stored hashes");
    assert_eq!(spent(&world).await, 1);
    world.judge().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn case_11_a_node_that_takes_no_gaps() {
    let plan = Plan::new().automine().config(|config| {
        config.submit.relayers = 1;
        config.submit.batch_items = 1;
        config.submit.resend_after_s = 60;
    });
    let (world, proxy) = plan.behind_a_proxy().await;
    let words = [
        "nonce too high: next nonce 0, tx nonce 1",
        "NonceGap, Future nonce. Expected nonce: 0",
        "Transaction nonce is too distant from current sender nonce",
    ];
    for (n, words) in words.into_iter().enumerate() {
        proxy.rules(|rules| rules.no_gaps = Some(words));
        world.chain.automine(false).await;
        let first = world.pay("atlas", "acme-data", &format!("{}", n + 5), &format!("a{n}")).await;
        world.until(&first, State::Broadcast).await;
        let (dropped, _) = wait_for("the first in the pool", async || {
            world.chain.pool_of(&world.card.relayers).await.pop()
        })
        .await;
        // The node said yes, and has forgotten it since: not to be sent again for a minute.
        world.chain.drop_tx(dropped).await;
        proxy.forget();
        let second =
            world.pay("dune", "devtools-co", &format!("{}", n + 5), &format!("b{n}")).await;
        wait_for("both in the pool", async || {
            (world.chain.pool_of(&world.card.relayers).await.len() == 2).then_some(())
        })
        .await;
        world.chain.automine(true).await;
        world.chain.mine().await;
        world.until(&first, State::Paid).await;
        world.until(&second, State::Paid).await;
        assert!(answers(&world, "nonce_too_high").await > n as u64, "{words}");
    }
    world.judge().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn case_12_replacements_by_geth_s_rule() {
    let plan = Plan::new().automine().config(|config| {
        config.submit.replace_after_s = 1;
        config.submit.relayers = 1;
    });
    let (world, proxy) = plan.behind_a_proxy().await;
    proxy.rules(|rules| rules.geth = true);
    world.chain.automine(false).await;
    let payment = world.pay("atlas", "acme-data", "5", "geth").await;
    let first = world.until(&payment, State::Broadcast).await.transaction;
    base_fee(&world, 20).await;
    wait_for("a replacement that a block takes", async || {
        world.chain.mine().await;
        (spent(&world).await == 1).then_some(())
    })
    .await;
    let paid = world.until(&payment, State::Paid).await;
    assert_ne!(paid.transaction, first);
    assert_eq!(answers(&world, "replacement_underpriced").await, 0, "each was bumped enough");
    world.judge().await;

    // Another transaction holds the nonce, for a little more: ours is not "already submitted".
    let sender = world.card.relayers[0];
    world.chain.rpc("anvil_impersonateAccount", json!([sender])).await;
    let head = world.chain.rpc(HEAD, json!(["latest", false])).await;
    let base = head["baseFeePerGas"].as_str().unwrap().trim_start_matches("0x");
    let dear = format!("{:#x}", 2 * u64::from_str_radix(base, 16).unwrap() + 10_500_000);
    let foreign = json!([{
        "from": sender, "to": world.card.deployer, "nonce": "0x1", "gas": "0x5208",
        "maxFeePerGas": dear, "maxPriorityFeePerGas": format!("{:#x}", 10_500_000),
    }]);
    let foreign = world.chain.rpc("eth_sendTransaction", foreign).await;
    let payment = world.pay("atlas", "acme-data", "6", "held").await;
    wait_for("a refused replacement", async || {
        (answers(&world, "replacement_underpriced").await > 0).then_some(())
    })
    .await;
    assert!(!state(&world, &payment).await.is_terminal());
    wait_for("ours in its place", async || {
        let pool = world.chain.pool_of(&world.card.relayers).await;
        let ours = |(hash, _): &_| json!(hash) != foreign;
        pool.iter().any(ours).then_some(())
    })
    .await;
    world.chain.mine().await;
    world.until(&payment, State::Paid).await;
    world.judge().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn case_16_nodes_that_are_behind() {
    let plan = Plan::new().automine().config(|config| config.chain.confirmations = 2);
    let (world, proxy) = plan.behind_a_proxy().await;
    world.chain.rpc("anvil_mine", json!(["0x3c"])).await;
    looks(&proxy, 3).await;
    world.chain.automine(false).await;
    let payment = world.pay("atlas", "acme-data", "5", "behind").await;
    let sent = world.until(&payment, State::Broadcast).await;

    // Old head, old nonce, no receipts: it is mined, and nobody can see it.
    proxy.rules(|rules| rules.lag = vec![50]);
    for _ in 0..5 {
        world.chain.mine().await;
    }
    looks(&proxy, 20).await;
    assert_eq!(state(&world, &payment).await, State::Broadcast);

    // Two nodes behind one address, one of them current.
    proxy.rules(|rules| rules.lag = vec![0, 50]);
    let paid = world.until(&payment, State::Paid).await;
    assert_eq!(paid.transaction, sent.transaction);
    world.judge().await;

    // Seen in a block, then by a node that has the block and not its receipts.
    proxy.rules(|rules| rules.lag.clear());
    let payment = world.pay("atlas", "acme-data", "6", "unindexed").await;
    world.until(&payment, State::Broadcast).await;
    world.chain.mine().await;
    world.until(&payment, State::Included).await;
    proxy.always(RECEIPT, Fault::Says(Value::Null));
    for _ in 0..3 {
        world.chain.mine().await;
        looks(&proxy, 3).await;
    }
    assert_eq!(state(&world, &payment).await, State::Included);
    let (_, story) = world.bursar(&["audit", "show", &payment.id.to_string()]);
    assert!(!story.contains("reorganised"), "absence is no evidence:\n{story}");
    proxy.calm();
    proxy.rules(|rules| rules.lag = vec![0, 3, 0, 50, 1]);
    for _ in 0..6 {
        world.chain.mine().await;
        looks(&proxy, 2).await;
    }
    world.until(&payment, State::Paid).await;
    assert_eq!(spent(&world).await, 2);
    world.judge().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn case_16_nodes_that_disagree() {
    let mut world =
        Plan::new().config(|config| config.chain.confirmations = 3).without_daemon().await;
    let (one, two) = (Proxy::start(&world.card.rpc).await, Proxy::start(&world.card.rpc).await);
    let urls = vec![one.url(), two.url()];
    world.configure(|config| config.chain.rpc = urls);
    world.restart().await;
    // The second has every transaction in other blocks than the first.
    let height = world.chain.rpc("eth_blockNumber", json!([])).await;
    let height = u64::from_str_radix(&height.as_str().unwrap()[2..], 16).unwrap();
    two.rules(|rules| rules.branch = Some(height));
    for n in 0..6 {
        // Whichever was asked last fails next.
        one.on(HEAD, 1, Fault::Gateway(503, "busy"));
        two.on(RECEIPT, 1, Fault::Lost);
        let payment = world.pay("atlas", "acme-data", &format!("1.{n}"), &format!("n{n}")).await;
        two.on(HEAD, 2, Fault::Gateway(503, "busy"));
        world.until(&payment, State::Paid).await;
    }
    assert!(one.asked(HEAD) >= 6 && two.asked(HEAD) >= 6);
    world.judge().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn case_18_answers_that_are_none() {
    let (world, proxy) = Plan::new().behind_a_proxy().await;
    let before = world.daemon().peak_memory();
    let page = "<html><body><h1>502 Bad Gateway</h1></body></html>";
    let faults = [
        Fault::Gateway(
            429,
            "{\"jsonrpc\":\"2.0\",\"id\":0,\"error\":{\"code\":429,\"message\":\"slow\"}}",
        ),
        Fault::Gateway(502, page),
        Fault::Gateway(200, page),
        Fault::Gateway(200, ""),
        Fault::Half,
        Fault::Drip(Duration::from_millis(20)),
        Fault::Swollen(20_000_000),
        Fault::Many(2_500_000),
        Fault::Says(json!({ "number": "0xzz" })),
        Fault::Refused(-32_005, "daily request count exceeded, request rate limited"),
    ];
    for (n, fault) in faults.into_iter().enumerate() {
        for method in [SEND, RECEIPT, HEAD] {
            proxy.on(method, 1, fault.clone());
        }
        let payment = world.pay("atlas", "acme-data", &format!("1.{n:02}"), &format!("{n}")).await;
        world.until(&payment, State::Paid).await;
        wait_for("every fault's turn", async || (proxy.left() == 0).then_some(())).await;
    }
    proxy.reverse();
    let payment = world.pay("atlas", "acme-data", "3", "reversed").await;
    world.until(&payment, State::Paid).await;
    let grown = world.daemon().peak_memory() - before;
    assert!(grown < 100, "{grown} MiB more than {before}");
    world.judge().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn case_19_the_endpoint_is_switched_to_another_chain() {
    let (mut world, proxy) = Plan::new().behind_a_proxy().await;
    let before = world.pay("atlas", "acme-data", "5", "before").await;
    world.until(&before, State::Paid).await;
    proxy.rules(|rules| rules.chain_id = Some(1));
    looks(&proxy, 2).await;
    let payment = world.pay("atlas", "acme-data", "6", "switched").await;
    let large = world.pay("atlas", "acme-data", "900", "approved").await;
    world.approve(large.id, 0).await;
    world.approve(large.id, 1).await;
    // An order that tightens does not wait for a node.
    let agent = world.address("ember");
    let order = world.order(IPolicyChanges::setFrozenCall { agent, frozen: true }, 0).await;
    world.operator(0).tighten(&order).await.unwrap();
    assert!(!world.agent("ember").permissions().await.unwrap().active);
    looks(&proxy, 3).await;
    assert_eq!(state(&world, &payment).await, State::Queued, "nothing is signed");
    assert_eq!(state(&world, &large).await, State::Queued, "nothing is signed");
    let ready = reqwest::get(format!("{}/readyz", world.card.api)).await.unwrap();
    assert_eq!(ready.status(), reqwest::StatusCode::SERVICE_UNAVAILABLE);
    let sent = proxy.asked(SEND);

    // Nor after a restart, which is refused.
    world.stop().await;
    let (code, said) = world.bursar(&["serve"]);
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("is on chain 1"), "{said}");
    assert_eq!(proxy.asked(SEND), sent);

    // One good endpoint is enough.
    let good = world.card.rpc.clone();
    world.configure(|config| config.chain.rpc.push(good));
    world.restart().await;
    world.until(&payment, State::Paid).await;
    world.until(&large, State::Paid).await;
    wait_for("the freeze", async || world.chain.is_frozen(agent).await.then_some(())).await;
    world.judge().await;
}
