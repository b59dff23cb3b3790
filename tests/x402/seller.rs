//! The paywall before a real upstream: official clients pay once for what they get, copies and tampered
//! payments get nothing more, and a kill between any two steps neither charges nor serves twice.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use alloy::signers::local::PrivateKeySigner;
use axum::{Router, extract::Request, http::StatusCode};
use bursar::{
    devnet::free_port,
    x402::{self, PaymentPayload, PaymentRequired, exact::Authorization},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::{
    buyer::buys_from_each,
    desk::{fields, payer, signed},
    facilitator::settles_for_each,
};
use crate::support::{Environment, Official, Plan, World, wait_for};

/// What is sold, and how often it was made.
pub struct Shop {
    pub url: String,
    behind: String,
    made: Arc<AtomicU64>,
}

impl Shop {
    /// Lets the next daemon of a world sell what an upstream here makes: `/paid` and `/slow` for 0.01
    /// USDC to the wallet, `/fail` for the same, which fails; and the same under `/theirs/` for a
    /// registered payee, by signed transfers.
    pub async fn open(world: &mut World) -> Self {
        let made = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&made);
        let upstream = Router::new().fallback(move |request: Request| {
            let count = Arc::clone(&count);
            async move {
                let number = count.fetch_add(1, Ordering::SeqCst) + 1;
                let path = request.uri().path().to_owned();
                let method = request.method().to_string();
                if path == "/slow" {
                    tokio::time::sleep(Duration::from_millis(300)).await;
                }
                let names: Vec<_> = request.headers().keys().map(ToString::to_string).collect();
                let payer = request.headers().get("bursar-payer");
                let payer = payer.map(|value| value.to_str().unwrap().to_owned());
                let sent = axum::body::to_bytes(request.into_body(), 1 << 20).await.unwrap();
                let body = json!({
                    "number": number, "headers": names, "payer": payer,
                    "method": method, "length": sent.len(),
                });
                let status = if path.ends_with("/fail") { 500 } else { 200 };
                (StatusCode::from_u16(status).unwrap(), axum::Json(body))
            }
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let behind = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, upstream).await.unwrap() });
        let shop = Self::of(&behind, made);
        world.env.extend(shop.env(world, "prices.toml"));
        shop
    }

    /// What a test sells by itself.
    pub fn at(url: String, made: Arc<AtomicU64>) -> Self {
        Self { url, behind: String::new(), made }
    }

    fn of(behind: &str, made: Arc<AtomicU64>) -> Self {
        let port = free_port().unwrap();
        Self { url: format!("http://127.0.0.1:{port}"), behind: behind.to_owned(), made }
    }

    /// Another paywall before the same upstream.
    pub fn beside(&self) -> Self {
        Self::of(&self.behind, Arc::clone(&self.made))
    }

    /// What the daemon that sells finds in its environment, its price list written to `file`.
    pub fn env(&self, world: &World, file: &str) -> Environment {
        let listen = self.url.strip_prefix("http://").unwrap();
        let mut list = format!("listen = \"{listen}\"\npublic_origin = \"{}\"\n", self.url);
        for path in ["/paid", "/slow", "/fail"] {
            list += &format!(
                "[[route]]\npath = \"{path}\"\nmethods = [\"GET\", \"POST\"]\nprice = \"0.01\"\n\
                 description = \"one answer\"\n"
            );
        }
        list += "[[route]]\npath = \"/theirs/{what}\"\nmethods = [\"GET\", \"POST\"]\nprice = \"0.01\"\n\
                 description = \"one answer\"\npay_to = \"acme-data\"\noffers = [\"exact\"]\n";
        let file = world.card.config.with_file_name(file);
        std::fs::write(&file, list).unwrap();
        vec![("BURSAR_PAYWALL", file.into()), ("BURSAR_UPSTREAM", self.behind.clone().into())]
    }

    pub fn made(&self) -> u64 {
        self.made.load(Ordering::SeqCst)
    }

    /// Asks until somebody listens.
    pub async fn get(&self, path: &str, headers: &[(&str, String)]) -> reqwest::Response {
        let url = format!("{}{path}", self.url);
        wait_for("the paywall", async || {
            let mut request = reqwest::Client::new().get(&url);
            for (name, value) in headers {
                request = request.header(*name, value);
            }
            request.send().await.ok()
        })
        .await
    }

    /// A payment for a path, as a header's value; what is signed can be edited.
    pub async fn payment(
        &self,
        path: &str,
        key: &PrivateKeySigner,
        edit: impl FnOnce(&mut Authorization),
    ) -> String {
        self.named(path, key, None, edit).await
    }

    /// The same, with the buyer's name for the purchase (payment-identifier).
    async fn named(
        &self,
        path: &str,
        key: &PrivateKeySigner,
        name: Option<&str>,
        edit: impl FnOnce(&mut Authorization),
    ) -> String {
        let answer = self.get(path, &[]).await;
        assert_eq!(answer.status(), 402);
        let offered = answer.headers()[x402::PAYMENT_REQUIRED].to_str().unwrap();
        let offered: PaymentRequired = x402::decode(offered).unwrap();
        let payload = signed(key, key.address(), &offered.accepts[0], edit);
        let mut payment = PaymentPayload::v2(&offered, &offered.accepts[0], fields(&payload));
        if let Some(name) = name {
            let extensions = payment.extensions.as_mut().unwrap();
            extensions["payment-identifier"]["info"]["id"] = json!(name);
        }
        x402::encode(&payment).unwrap()
    }

    pub async fn pay(&self, path: &str, payment: &str) -> (u16, Value, bool) {
        let answer = self.get(path, &[(x402::PAYMENT_SIGNATURE, payment.to_owned())]).await;
        let status = answer.status().as_u16();
        let receipt = answer.headers().contains_key(x402::PAYMENT_RESPONSE);
        (status, answer.json().await.unwrap_or_default(), receipt)
    }
}

/// Waits until no sale is on its way, and reads what each state has.
async fn sales(world: &World) -> Vec<(String, i64)> {
    let pool = world.tables().await;
    let found = wait_for("sales that have ended", async || {
        let rows: Vec<(String, i64)> = sqlx::query_as(
            "SELECT state, CAST(COUNT(*) AS BIGINT) FROM sale GROUP BY state ORDER BY state",
        )
        .fetch_all(&pool)
        .await
        .unwrap();
        let is_open = |state: &str| ["open", "served", "settled"].contains(&state);
        (!rows.iter().any(|(state, _)| is_open(state))).then_some(rows)
    })
    .await;
    let posted: (i64,) = sqlx::query_as(
        "SELECT CAST(COALESCE(SUM(amount), 0) AS BIGINT) FROM ledger_transfer
         WHERE debit LIKE 'sales:%' AND credit = 'wallet' AND state = 'posted'",
    )
    .fetch_one(&pool)
    .await
    .unwrap();
    let sold = found.iter().find(|(state, _)| state == "final").map_or(0, |(_, count)| *count);
    assert_eq!(posted.0, sold * 10_000, "the ledger has what was sold");
    pool.close().await;
    found
}

#[tokio::test]
async fn official_buyers_pay_once_for_what_they_get() {
    let mut world = Plan::new().twin().without_daemon().await;
    let shop = Shop::open(&mut world).await;
    world.restart().await;
    let wallet = world.card.wallet;
    let start = world.chain.usdc_of(wallet).await;
    let asked: Value = shop.get("/paid", &[]).await.json().await.unwrap();
    assert_eq!(asked["cost"], "0.01");
    assert_eq!(asked["recipient"], wallet.to_checksum(None));
    assert_eq!(asked["payment_mechanism"], json!(["x402", "mpp"]));
    assert_eq!(asked["resource_description"], "one answer");

    let (x402, v1, mppx) = tokio::join!(
        Official::buyer(&world, "x402"),
        Official::buyer(&world, "v1"),
        Official::buyer(&world, "mppx")
    );
    let mut sold = 0;
    for (buyer, receipt) in [
        (&x402, x402::PAYMENT_RESPONSE),
        (&v1, x402::X_PAYMENT_RESPONSE),
        (&mppx, "payment-receipt"),
    ] {
        let had = world.chain.usdc_of(buyer.address()).await;
        let order = json!({
            "url": format!("{}/paid?a=1", shop.url), "method": "POST", "body": "hello",
            "headers": { "bursar-payer": "account=\"0xevil\"", "bursar-sale": "x" },
        });
        let answer = buyer.ask(order).await;
        assert_eq!(answer["status"], 200, "{answer}");
        assert!(answer["headers"][receipt].is_string(), "{answer}");
        assert_eq!(answer["headers"]["cache-control"], "private");
        sold += 1;
        assert_eq!(shop.made(), sold);
        let seen: Value = serde_json::from_str(answer["body"].as_str().unwrap()).unwrap();
        let names = seen["headers"].as_array().unwrap();
        for name in [x402::PAYMENT_SIGNATURE, x402::X_PAYMENT, "authorization"] {
            assert!(!names.contains(&json!(name)), "{name} went on: {seen}");
        }
        let who = format!("account=\"{}\"", buyer.address());
        let said = seen["payer"].as_str().unwrap();
        assert!(said.starts_with(&who) && said.ends_with("wallet-type=\"eoa\""), "{said}");
        assert_eq!(world.chain.usdc_of(buyer.address()).await, had - 10_000);
        assert_eq!(world.chain.usdc_of(wallet).await, start + sold * 10_000);
        // The very same request again: the very same answer, nothing made, nothing charged.
        let again = buyer.ask(json!({ "again": true })).await;
        assert_eq!((&again["status"], &again["body"]), (&answer["status"], &answer["body"]));
        assert_eq!((shop.made(), world.chain.usdc_of(buyer.address()).await), (sold, had - 10_000));
    }
    // What fails is not charged, by whatever protocol.
    for buyer in [&x402, &v1, &mppx] {
        let had = world.chain.usdc_of(buyer.address()).await;
        let answer = buyer.ask(json!({ "url": format!("{}/fail", shop.url) })).await;
        assert_eq!(answer["status"], 500, "{answer}");
        assert_eq!(world.chain.usdc_of(buyer.address()).await, had);
    }
    assert_eq!(sales(&world).await, [("final".to_owned(), 3), ("void".to_owned(), 3)]);
    let (code, text) = world.bursar(&["sales", "--json"]);
    let told: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, &told["routes"][0]["route"]), (0, &json!("/fail")), "{text}");
    let paid = &told["routes"][1];
    assert_eq!((&paid["revenue"], &paid["posted"]), (&json!("0.03"), &json!("0.03")), "{text}");
    assert_eq!((&paid["sold"], &told["routes"][0]["unpaid"]), (&json!(3), &json!(3)), "{text}");
    assert_eq!(told["sales"].as_array().unwrap().len(), 6);
    let (code, text) = world.bursar(&["reconcile"]);
    assert!(code == 0 && text.contains("/paid"), "{text}");
    // The same daemon buys from official sellers here too, and settles for them.
    buys_from_each(&world).await;
    settles_for_each(&world).await;
    assert_eq!(world.bursar(&["reconcile"]).0, 0);
}

#[tokio::test]
async fn one_payment_buys_one_answer_on_a_chain_nobody_knows() {
    let mut world = Plan::new().without_daemon().await;
    let shop = Shop::open(&mut world).await;
    world.restart().await;
    let start = world.chain.usdc_of(world.card.wallet).await;
    let (x402, mppx) =
        tokio::join!(Official::buyer(&world, "x402"), Official::buyer(&world, "mppx"));
    for (buyer, made) in [(&x402, 1), (&mppx, 2)] {
        let had = world.chain.usdc_of(buyer.address()).await;
        let answer = buyer.ask(json!({ "url": format!("{}/paid", shop.url) })).await;
        assert_eq!((&answer["status"], shop.made()), (&json!(200), made), "{answer}");
        let again = buyer.ask(json!({ "again": true })).await;
        assert_eq!((&again["status"], &again["body"]), (&answer["status"], &answer["body"]));
        assert_eq!(world.chain.usdc_of(buyer.address()).await, had - 10_000);
        assert_eq!(shop.made(), made);
    }

    // Copies at the same time: made once, charged once, answered alike.
    let key = payer(&world).await;
    let payment = shop.payment("/slow", &key, |_| ()).await;
    let copies = futures_util::future::join_all((0..4).map(|_| shop.pay("/slow", &payment))).await;
    for copy in &copies {
        assert_eq!((copy.0, &copy.1, copy.2), (200, &copies[0].1, true));
    }
    assert_eq!((shop.made(), world.chain.usdc_of(key.address()).await), (3, 990_000));
    // The same payment for something else.
    assert_eq!(shop.pay("/paid", &payment).await.0, 409);
    assert_eq!(shop.pay("/slow?more", &payment).await.0, 409);
    // What a chain shows of it is not enough to see the answer.
    let mut seen: Value = x402::decode(&payment).unwrap();
    seen["accepted"]["extra"]["ticket"] = json!("guessed");
    assert_eq!(shop.pay("/slow", &x402::encode(&seen).unwrap()).await.0, 409);
    seen["payload"]["signature"] = json!(format!("0x{}", "11".repeat(65)));
    assert_eq!(shop.pay("/slow", &x402::encode(&seen).unwrap()).await.0, 409);

    // Tampered with, or good for less: an offer and nothing else.
    for edit in [
        (|signed: &mut Authorization| signed.value = alloy::primitives::U256::from(9_999))
            as fn(&mut _),
        |signed| signed.to = signed.from,
        |signed| signed.valid_before = alloy::primitives::U256::from(1),
    ] {
        let payment = shop.payment("/paid", &key, edit).await;
        let (status, ..) = shop.pay("/paid", &payment).await;
        assert!([400, 402].contains(&status), "{status}");
    }
    let mut cheaper: Value = x402::decode(&shop.payment("/paid", &key, |_| ()).await).unwrap();
    cheaper["accepted"]["amount"] = json!("1");
    assert_eq!(shop.pay("/paid", &x402::encode(&cheaper).unwrap()).await.0, 402);
    assert_eq!(shop.pay("/paid", "no base64!").await.0, 400);
    for path in ["//paid", "/paid%2f", "/else/..%2fpaid", "/else"] {
        let status = shop.pay(path, &payment).await.0;
        assert!([400, 404].contains(&status), "{path}: {status}");
    }
    assert_eq!((shop.made(), world.chain.usdc_of(key.address()).await), (3, 990_000));
    assert_eq!(world.chain.usdc_of(world.card.wallet).await, start + 30_000);

    // By its name a purchase is known again under another signature: the same answer, not charged.
    let name = Some("pay_0123456789abcdef0123456789abcdef");
    let first = shop.pay("/paid", &shop.named("/paid", &key, name, |_| ()).await).await;
    let second = shop.pay("/paid", &shop.named("/paid", &key, name, |_| ()).await).await;
    assert_eq!((first.0, first.2), (200, true));
    assert_eq!((second.0, &second.1, second.2), (200, &first.1, true));
    assert_eq!((shop.made(), world.chain.usdc_of(key.address()).await), (4, 980_000));
    // For another request, of another buyer, and written wrongly.
    assert_eq!(shop.pay("/slow", &shop.named("/slow", &key, name, |_| ()).await).await.0, 409);
    let short = shop.named("/paid", &key, Some("short"), |_| ()).await;
    assert_eq!(shop.pay("/paid", &short).await.0, 400);
    assert_eq!((shop.made(), world.chain.usdc_of(key.address()).await), (4, 980_000));
    let other = payer(&world).await;
    let theirs = shop.pay("/paid", &shop.named("/paid", &other, name, |_| ()).await).await;
    assert!(theirs.0 == 200 && theirs.1 != first.1, "{theirs:?}");
    assert_eq!((shop.made(), world.chain.usdc_of(other.address()).await), (5, 990_000));
    // The official extension's client says so too: signed anew, it is the same purchase.
    let buyer = Official::buyer(&world, "named").await;
    let had = world.chain.usdc_of(buyer.address()).await;
    let order = json!({ "url": format!("{}/paid", shop.url), "id": "pay_of_the_official_client" });
    let (first, second) = (buyer.ask(order.clone()).await, buyer.ask(order).await);
    let shown = |answer: &Value| answer["requests"][1]["headers"]["payment-signature"].clone();
    assert!(shown(&first).is_string() && shown(&first) != shown(&second), "{first}");
    assert_eq!((&first["status"], &second["status"]), (&json!(200), &json!(200)), "{second}");
    assert_eq!((&first["body"], shop.made()), (&second["body"], 6));
    assert_eq!(world.chain.usdc_of(buyer.address()).await, had - 10_000);
    assert_eq!(sales(&world).await, [("final".to_owned(), 6)]);
    strangers_get_nothing(&mut world, &shop).await;
    assert_eq!(sales(&world).await, [("final".to_owned(), 6)]);
}

/// Strangers where what no route names is free: they get nothing that is priced, by whatever method or
/// spelling, and no name but their own.
async fn strangers_get_nothing(world: &mut World, shop: &Shop) {
    world.kill();
    let file = world.card.config.with_file_name("prices.toml");
    let list = std::fs::read_to_string(&file).unwrap();
    let list = format!(
        "unlisted = \"free\"\n{list}[[route]]\npath = \"/exact\"\nmethods = [\"POST\"]\nprice = \"0.01\"\n\
         offers = [\"exact\"]\ndescription = \"it\"\n\
         [limits]\nrequest_s = 600\nbodies = 1\nconnections = 9\n"
    );
    std::fs::write(&file, list).unwrap();
    world.restart().await;
    let made = shop.made();
    assert_eq!(shop.get("/paid", &[]).await.status(), 402);
    let ask = async |method: &str, path: &str| {
        let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
        let asked = reqwest::Client::new().request(method, format!("{}{path}", shop.url));
        let asked = asked.header("bursar_payer", "evil").header("bursar.sale", "evil");
        asked.header("x_forwarded_host", "evil").body("hello").send().await.unwrap()
    };
    for (method, path, status) in [
        ("PUT", "/paid", 405),
        ("FOO", "/paid", 405),
        ("DELETE", "/PAID/", 405),
        ("GET", "/paid/", 404),
        ("POST", "/%50aid", 404),
        ("HEAD", "/paid", 402),
    ] {
        let answer = ask(method, path).await;
        assert_eq!(answer.status(), status, "{method} {path}");
        let allow = answer.headers().get("allow").map(|value| value.to_str().unwrap());
        assert_eq!(allow, (status == 405).then_some("GET, HEAD, OPTIONS, POST"));
    }
    assert_eq!(shop.made(), made, "nothing was asked of the upstream");
    let answer = ask("OPTIONS", "/paid").await;
    assert_eq!((answer.status().as_u16(), answer.text().await.unwrap().as_str()), (200, ""));
    let answer: Value = ask("GET", "/else").await.json().await.unwrap();
    let names: Vec<&str> =
        answer["headers"].as_array().unwrap().iter().flat_map(Value::as_str).collect();
    assert!(names.contains(&"x-forwarded-host"), "{names:?}");
    assert!(
        !names.iter().any(|name| name.contains(['_', '.']) || name.starts_with("bursar")),
        "{names:?}"
    );

    // Bodies that never end. One whose payment is not looked at yet takes the only place there is for
    // bodies with a payment, and nothing else.
    let address = shop.url.strip_prefix("http://").unwrap();
    let slow = async |path: &str, payment: &str| {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let head =
            format!("POST {path} HTTP/1.1\r\nhost: x\r\n{payment}content-length: 9\r\n\r\nhel");
        stream.write_all(head.as_bytes()).await.unwrap();
        stream
    };
    let paid = async || {
        let asked = reqwest::Client::new().post(format!("{}/paid", shop.url)).body("hello");
        let answer = asked.header(x402::PAYMENT_SIGNATURE, "x").send().await.unwrap();
        (answer.status().as_u16(), answer.headers().contains_key("retry-after"))
    };
    assert_eq!(paid().await, (400, false));
    let unpaid = slow("/paid", "").await;
    let (holding, refused) = wait_for("the place that is taken", async || {
        let holding = slow("/paid", "payment-signature: x\r\n").await;
        let answer = paid().await;
        (answer.0 != 400).then_some((holding, answer))
    })
    .await;
    assert_eq!(refused, (503, true));
    assert_eq!(ask("POST", "/paid").await.status(), 402);
    assert_eq!(ask("POST", "/else").await.status(), 200);
    assert_eq!(shop.pay("/paid", "x").await.0, 400);
    // Where no digest is asked for, the price is told before the body is here.
    let mut told = [0; 12];
    slow("/exact", "").await.read_exact(&mut told).await.unwrap();
    assert_eq!(&told, b"HTTP/1.1 402");
    drop((holding, unpaid));
    wait_for("the place that is free again", async || (paid().await.0 == 400).then_some(())).await;
    // As many connections as there may be, and silent: once they are gone, others are served.
    let mut silent = Vec::new();
    for _ in 0..9 {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    drop(silent);
    assert_eq!(shop.get("/paid", &[]).await.status(), 402);
}

#[tokio::test]
async fn a_kill_between_two_steps_neither_serves_nor_charges_twice() {
    let mut world = Plan::new().without_daemon().await;
    let shop = Shop::open(&mut world).await;
    // Where it dies, how often it was made by then, what the same payment finds, what it cost.
    for (place, made, status, cost) in [
        ("sale.opened", 0, 409, 0),
        ("sale.served", 1, 200, 10_000),
        ("settlement.committed", 1, 200, 10_000),
        ("sale.settled", 1, 200, 10_000),
    ] {
        world.restart_with(place).await;
        let key = payer(&world).await;
        let before = shop.made();
        let payment = shop.payment("/paid", &key, |_| ()).await;
        let url = format!("{}/paid", shop.url);
        let lost = reqwest::Client::new().get(url).header(x402::PAYMENT_SIGNATURE, &payment);
        assert!(lost.send().await.is_err(), "{place}");
        world.died().await;
        assert_eq!(shop.made(), before + made, "{place}");
        world.restart().await;
        let (now, receipt) = wait_for("the sale's end", async || {
            let (status, _, receipt) = shop.pay("/paid", &payment).await;
            (status != 503).then_some((status, receipt))
        })
        .await;
        assert_eq!((now, receipt), (status, status == 200), "{place}");
        assert_eq!(shop.made(), before + made, "{place}");
        assert_eq!(world.chain.usdc_of(key.address()).await, 1_000_000 - cost, "{place}");
        sales(&world).await;
        world.kill();
    }
    world.restart().await;
    assert_eq!(sales(&world).await, [("closed".to_owned(), 1), ("final".to_owned(), 3)]);
}
