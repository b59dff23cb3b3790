//! Official clients and servers of x402 and MPP from npm, unmodified, as processes of their own: see
//! `tests/official/*.mjs` for what each takes and answers.

use std::{path::Path, process::Stdio, time::Duration};

use alloy::{
    primitives::{Address, U256},
    signers::local::PrivateKeySigner,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    sync::Mutex,
};

use super::{LIMIT, World};

/// A running client or server. Dropping it ends it.
pub struct Official {
    pipes: Mutex<(ChildStdin, Lines<BufReader<ChildStdout>>)>,
    /// What it answered to its first line: `address` of a buyer, `url` of a seller.
    pub ready: Value,
    _child: Child,
}

impl Official {
    /// Starts `tests/official/<file>` and tells it what to be.
    pub async fn start(file: &str, config: Value) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/official").join(file);
        let installed = path.with_file_name("node_modules");
        assert!(
            installed.is_dir(),
            "run `make test-rust` once: {} is missing",
            installed.display()
        );
        let mut child = Command::new("node")
            .arg(path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let input = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut this =
            Self { pipes: Mutex::new((input, output)), ready: Value::Null, _child: child };
        this.ready = this.ask(config).await;
        assert!(this.ready.get("error").is_none(), "{file}: {}", this.ready);
        this
    }

    /// A buyer with a key of its own and 100 USDC: kind `x402`, `named`, `mppx`, or `v1` (on the twin).
    pub async fn buyer(world: &World, kind: &str) -> Self {
        let key = PrivateKeySigner::random();
        world.chain.give(key.address(), 100_000_000).await;
        let file = if kind == "v1" { "v1/buyer.mjs" } else { "buyer.mjs" };
        Self::start(file, Self::config(world, kind, &key)).await
    }

    /// A seller at `price` base units, paid to `payee`: kind `express`, `hono` or `mppx`. Its official
    /// facilitator has a gas key of its own; `more` are further fields, as `facilitator`.
    pub async fn seller(
        world: &World,
        kind: &str,
        payee: Address,
        price: u64,
        more: Value,
    ) -> Self {
        let key = PrivateKeySigner::random();
        let ether = U256::from(10).pow(U256::from(18));
        world.chain.rpc("anvil_setBalance", json!([key.address(), ether])).await;
        let mut config = Self::config(world, kind, &key);
        config["payTo"] = json!(payee.to_checksum(None));
        config["price"] = json!(price.to_string());
        for (name, value) in more.as_object().into_iter().flatten() {
            config[name] = value.clone();
        }
        Self::start("seller.mjs", config).await
    }

    /// Where a seller sells.
    pub fn url(&self) -> &str {
        self.ready["url"].as_str().unwrap()
    }

    /// Whose money a buyer spends.
    pub fn address(&self) -> Address {
        self.ready["address"].as_str().unwrap().parse().unwrap()
    }

    /// What buyers and sellers are told alike: kind, node, chain, token, and their key.
    pub fn config(world: &World, kind: &str, key: &PrivateKeySigner) -> Value {
        let (rpc, usdc) = (&world.card.rpc, world.card.usdc);
        let (chain, key) = (world.card.chain_id, key.to_bytes());
        let usdc = usdc.to_checksum(None);
        json!({ "kind": kind, "rpc": rpc, "chainId": chain, "usdc": usdc, "key": key })
    }

    /// Says one line and waits for its answer.
    pub async fn ask(&self, line: Value) -> Value {
        let mut pipes = self.pipes.lock().await;
        let (input, output) = &mut *pipes;
        input.write_all(format!("{line}\n").as_bytes()).await.unwrap();
        let answer = tokio::time::timeout(LIMIT + Duration::from_secs(20), output.next_line());
        let answer = answer.await.expect("an answer in time").unwrap().expect("an answer");
        serde_json::from_str(&answer).unwrap()
    }
}
