//! `bursar devnet` through the real binary, on real anvils.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use alloy::{
    primitives::{Address, Bytes, U256, address},
    providers::{Provider, ProviderBuilder, RootProvider},
};
use assert_cmd::cargo::CommandCargoExt;
use bursar::{
    contract::{
        IPolicyWallet, IQuorum, IUsdc,
        hub::{ERC3009_COLLECTOR, HUB, MULTICALL3},
    },
    devnet::{BlockTime, Devnet, DevnetError, Manifest, Options, ProfileName},
    keys::{Keys, PassphraseArgs, operator},
};

const BASE_SEPOLIA_USDC: Address = address!("0x036CbD53842c5426634e7929541eC2318f3dCF7e");
const LIMIT: Duration = Duration::from_secs(30);

fn provider(url: &str) -> RootProvider {
    ProviderBuilder::default().connect_http(url.parse().unwrap())
}

fn options(dir: &Path) -> Options {
    Options {
        port: 0,
        dir: dir.join("net"),
        block_time: Some(BlockTime::Automine),
        ..Options::default()
    }
}

fn passphrase_of(file: &Path) -> bursar::keys::Passphrase {
    let args = PassphraseArgs { passphrase_fd: None, passphrase_file: Some(file.to_owned()) };
    args.read("").unwrap()
}

async fn answers(url: &str) -> bool {
    provider(url).get_chain_id().await.is_ok()
}

async fn wait_for(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !done().await {
        assert!(Instant::now() < deadline, "{what}: not within {LIMIT:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn start(dir: &Path, more: &[&str]) -> Child {
    Command::cargo_bin("bursar")
        .unwrap()
        .args(["devnet", "--dir", dir.to_str().unwrap(), "--port", "0"])
        .args(more)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

#[tokio::test]
async fn what_is_deployed_is_what_the_files_say() {
    let dir = tempfile::tempdir().unwrap();
    let devnet = Devnet::start(options(dir.path())).await.unwrap();
    let card = devnet.manifest();
    assert_eq!((card.operators.len(), card.threshold), (3, 2));
    assert_eq!((card.agents.len(), card.payees.len()), (5, 15));

    let node = provider(&card.rpc);
    let wallet = IPolicyWallet::new(card.wallet, &node);
    let held = IUsdc::new(card.usdc, &node).balanceOf(card.wallet).call().await.unwrap();
    assert_eq!(held, U256::from(card.wallet_usdc.units()));
    assert_eq!(wallet.walletCap().call().await.unwrap(), U256::from(card.wallet_cap.units()));
    let quorum = IQuorum::new(card.wallet, &node);
    for entry in &card.operators {
        let signer = Bytes::copy_from_slice(entry.address.as_slice());
        assert!(quorum.isSigner(signer).call().await.unwrap());
        let key = operator::open_keystore(&entry.keystore, &passphrase_of(&entry.passphrase_file));
        assert_eq!(key.unwrap().address(), entry.address);
    }
    let keys =
        Keys::unlock(&card.dir.join("seed.bursar"), &passphrase_of(&card.dir.join("passphrase")))
            .unwrap();
    for (index, agent) in (0..).zip(["atlas", "borealis", "cinder", "dune", "ember"]) {
        let entry = &card.agents[&agent.parse().unwrap()];
        assert_eq!(keys.agent_address(index).unwrap(), entry.address);
        let limits = wallet.agentLimits(entry.address).call().await.unwrap().limits;
        assert_eq!(limits.ceiling.to::<u64>(), entry.ceiling.units());
        assert_eq!(limits.dayCap.to::<u64>(), entry.day.units());
    }
    for entry in card.payees.values() {
        let held = wallet.payeeLimits(entry.address).call().await.unwrap();
        assert_eq!(held.limits.categories.count_ones() as usize, entry.categories.len());
        assert_eq!(held.limits.cooldown, entry.cooldown_s);
    }
    // Where x402's clients look for them, on any chain.
    for canonical in [HUB, ERC3009_COLLECTOR, MULTICALL3] {
        assert!(!node.get_code_at(canonical).await.unwrap().is_empty(), "{canonical}");
    }
    for relayer in &card.relayers {
        assert!(node.get_balance(*relayer).await.unwrap() > U256::ZERO);
    }
    for secret in ["seed.bursar", "passphrase", "agents/atlas.key", "operators/omar.json"] {
        let mode = fs::metadata(card.dir.join(secret)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{secret}");
    }
}

#[tokio::test]
async fn the_twin_has_base_sepolia_s_names() {
    let dir = tempfile::tempdir().unwrap();
    let twin = Options { profile: ProfileName::BaseSepoliaTwin, ..options(dir.path()) };
    let devnet = Devnet::start(twin).await.unwrap();
    let node = provider(&devnet.manifest().rpc);
    assert_eq!(node.get_chain_id().await.unwrap(), 84_532);
    assert_eq!(devnet.manifest().usdc, BASE_SEPOLIA_USDC);
    let usdc = IUsdc::new(BASE_SEPOLIA_USDC, &node);
    assert_eq!(usdc.decimals().call().await.unwrap(), 6);
    for canonical in [HUB, ERC3009_COLLECTOR, MULTICALL3] {
        assert!(!node.get_code_at(canonical).await.unwrap().is_empty(), "{canonical}");
    }
    // What the wallet holds was minted there: the owner's slot came with the code.
    assert!(usdc.balanceOf(devnet.manifest().wallet).call().await.unwrap() > U256::ZERO);
}

#[tokio::test]
async fn blocks_keep_the_wall_clock() {
    let dir = tempfile::tempdir().unwrap();
    let timed = Options { block_time: Some(BlockTime::Every(100)), ..options(dir.path()) };
    let devnet = Devnet::start(timed).await.unwrap();
    let node = provider(&devnet.manifest().rpc);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let block = node.get_block(Default::default()).await.unwrap().unwrap();
    let now = jiff::Timestamp::now().as_second();
    let drift = now - i64::try_from(block.header.timestamp).unwrap();
    // A busy machine mines late; a clock of its own would be off by much more.
    assert!((-1..=5).contains(&drift), "{drift} s");
}

#[tokio::test]
async fn a_taken_port_and_a_used_directory_are_refused_with_a_way_out() {
    let dir = tempfile::tempdir().unwrap();
    let devnet = Devnet::start(options(dir.path())).await.unwrap();
    let port = devnet.manifest().rpc.rsplit(':').next().unwrap().parse().unwrap();

    let taken = Options { port, dir: dir.path().join("other"), ..Options::default() };
    let error = Devnet::start(taken).await.unwrap_err();
    assert!(matches!(error, DevnetError::PortInUse { chain_id: Some(31_337), .. }), "{error}");
    assert!(error.hint().unwrap().contains("--port"));

    let running = Options { fresh: true, ..options(dir.path()) };
    let error = Devnet::start(running.clone()).await.unwrap_err();
    assert!(matches!(error, DevnetError::Running { .. }), "{error}");

    drop(devnet);
    let error = Devnet::start(options(dir.path())).await.unwrap_err();
    assert!(matches!(error, DevnetError::Stale { .. }), "{error}");
    assert!(error.hint().unwrap().contains("--fresh"));
    Devnet::start(running).await.unwrap();

    let foreign = dir.path().join("foreign");
    fs::create_dir(&foreign).unwrap();
    fs::write(foreign.join("thesis.txt"), "years of work").unwrap();
    let foreign = Options { dir: foreign, fresh: true, ..options(dir.path()) };
    let error = Devnet::start(foreign.clone()).await.unwrap_err();
    assert!(matches!(error, DevnetError::NotOurs { .. }), "{error}");
    assert!(foreign.dir.join("thesis.txt").exists());
}

#[test]
fn a_missing_anvil_is_named_with_what_to_install() {
    let dir = tempfile::tempdir().unwrap();
    let output = Command::cargo_bin("bursar")
        .unwrap()
        .args(["devnet", "--dir", "net", "--port", "0"])
        .current_dir(dir.path())
        .env("PATH", "/usr/bin:/bin")
        .output()
        .unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(3), "{text}");
    assert!(text.contains("anvil is not installed") && text.contains("npm ci"), "{text}");
}

#[tokio::test]
async fn the_chain_ends_with_the_program_however_that_ends() {
    for signal in ["-INT", "-TERM", "-KILL"] {
        let dir = tempfile::tempdir().unwrap();
        let net = dir.path().join("net");
        let mut child = start(&net, &["--block-time", "automine"]);
        wait_for("the start", async || Manifest::read(&net).is_ok()).await;
        let rpc = Manifest::read(&net).unwrap().rpc;
        assert!(answers(&rpc).await);
        let pid = child.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
        let status = child.wait().unwrap();
        assert_eq!(status.success(), signal != "-KILL", "{signal}: {status}");
        wait_for("anvil's end", async || !answers(&rpc).await).await;
    }
}
