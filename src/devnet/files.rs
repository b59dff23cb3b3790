//! The files of a devnet: the daemon's configuration and seed, agents' policies and request keys,
//! operators' keystores, and `devnet.json`, which names everything for programs.

use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use alloy::{primitives::Address, signers::local::PrivateKeySigner};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    DevnetError, Options,
    deploy::Deployed,
    profile::{Plan, Profile},
};
use crate::{
    keys::{KdfParams, Keys, Mnemonic, Passphrase, create_agent_key, operator, seed},
    money::Usdc,
    payment::AgentId,
    policy::{Categories, Policy},
};

/// The devnet's name card inside its directory.
const MANIFEST: &str = "devnet.json";
/// The seed of a devnet opens with the least work: its words are public.
const DEVNET_KDF: (u32, u32, u32) = (8, 1, 1);
/// How long agents' authority lasts, in hours: 90 days.
const AUTHORITY_HOURS: i64 = 90 * 24;

/// Who takes part, with their keys.
pub(super) struct Cast {
    pub categories: Categories,
    pub deployer: Address,
    pub operators: Vec<PrivateKeySigner>,
    pub relayers: Vec<Address>,
    pub agents: Vec<CastAgent>,
    mnemonic: Mnemonic,
}

/// An agent with the text of its policy file and its request key.
pub(super) struct CastAgent {
    pub policy: Policy,
    pub address: Address,
    text: String,
    request_key: PathBuf,
}

impl Cast {
    /// Derives every key of the plan, and makes the agents' request keys as files in `dir`.
    pub(super) fn make(plan: &Plan, profile: &Profile, dir: &Path) -> Result<Self, DevnetError> {
        let folder = dir.join("agents");
        fs::create_dir(&folder).map_err(|e| DevnetError::io("create", &folder, e))?;
        let categories = Categories::new(plan.categories.clone())?;
        let mnemonic = Mnemonic::parse(&plan.seed_mnemonic)?;
        let keys = Keys::from_mnemonic(&mnemonic)?;
        // anvil's accounts lie on the path that the key room uses for agents.
        let accounts = Keys::from_mnemonic(&Mnemonic::parse(&profile.accounts.mnemonic)?)?;
        let expires = Timestamp::now().as_second() + AUTHORITY_HOURS * 3600;
        let expires = Timestamp::from_second(expires).map_err(|source| {
            DevnetError::Description { file: "script/devnet.toml", source: Box::new(source) }
        })?;
        let mut agents = Vec::new();
        for (index, agent) in (0..).zip(&plan.agents) {
            let request_key = folder.join(format!("{}.key", agent.name));
            let key = create_agent_key(&request_key)?.verifying_key();
            let public = BASE64_URL_SAFE_NO_PAD.encode(key.as_bytes());
            let text = format!(
                "agent = \"{}\"\nkey_index = {index}\npublic_key = \"{public}\"\nexpires = \"{expires}\"\n{}",
                agent.name, agent.policy
            );
            let policy = Policy::parse(&text, &categories)?;
            agents.push(CastAgent {
                policy,
                address: keys.agent_address(index)?,
                text,
                request_key,
            });
        }
        Ok(Self {
            deployer: accounts.agent_address(0)?,
            operators: plan
                .operators
                .iter()
                .map(|operator| accounts.agent(operator.account))
                .collect::<Result<_, _>>()?,
            relayers: (0..plan.relayers)
                .map(|j| keys.relayer(j).map(|key| key.address()))
                .collect::<Result<_, _>>()?,
            categories,
            agents,
            mnemonic,
        })
    }
}

/// `devnet.json`: everything about a devnet, for programs. Paths are absolute.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Manifest {
    /// `local` or `base-sepolia-twin`.
    pub profile: String,
    /// JSON-RPC endpoint.
    pub rpc: String,
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// Milliseconds between blocks.
    pub block_time_ms: u32,
    /// The devnet's USDC.
    pub usdc: Address,
    /// The PolicyWallet.
    pub wallet: Address,
    /// The block it was deployed in.
    pub from_block: u64,
    /// The WorkEscrow that it pays into.
    pub escrow: Address,
    /// USDC it was funded with.
    pub wallet_usdc: Usdc,
    /// Its rolling cap over 24 hours.
    pub wallet_cap: Usdc,
    /// Owner of the devnet's USDC: mints, pauses, blocks. The node signs for it.
    pub deployer: Address,
    /// The daemon's gas keys.
    pub relayers: Vec<Address>,
    /// ETH in each.
    pub relayer_eth: u64,
    /// Signatures in a quorum.
    pub threshold: u64,
    /// Seconds a loosening waits.
    pub delay_s: u32,
    /// The operators.
    pub operators: Vec<OperatorEntry>,
    /// The agents, by name.
    pub agents: BTreeMap<AgentId, AgentEntry>,
    /// The registry, by label.
    pub payees: BTreeMap<String, PayeeEntry>,
    /// The devnet's directory.
    pub dir: PathBuf,
    /// The daemon's configuration.
    pub config: PathBuf,
    /// The daemon's origin, once it runs.
    pub api: String,
}

/// An operator of a devnet.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OperatorEntry {
    /// Its name.
    pub name: AgentId,
    /// Its address.
    pub address: Address,
    /// Its Web3 keystore.
    pub keystore: PathBuf,
    /// A file with the keystore's passphrase.
    pub passphrase_file: PathBuf,
}

/// An agent of a devnet.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AgentEntry {
    /// Its signing address on chain.
    pub address: Address,
    /// The person it works for.
    pub sponsor: String,
    /// Its policy file.
    pub policy: PathBuf,
    /// Its Ed25519 request key, as `bursar pay --agent-key` reads it.
    pub request_key: PathBuf,
    /// Largest payment without operators.
    pub ceiling: Usdc,
    /// Rolling cap over 24 hours.
    pub day: Usdc,
    /// Rolling cap over 30 days.
    pub month: Option<Usdc>,
    /// Budget over its life.
    pub lifetime: Option<Usdc>,
    /// Categories it may pay.
    pub categories: Vec<String>,
}

/// A payee of a devnet.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PayeeEntry {
    /// Where its money goes.
    pub address: Address,
    /// Its categories.
    pub categories: Vec<String>,
    /// Its cumulative cap.
    pub cap: Option<Usdc>,
    /// Seconds between two payments to it.
    pub cooldown_s: u32,
}

impl Manifest {
    /// Reads `devnet.json` of a directory.
    ///
    /// # Errors
    /// [`DevnetError::Io`], or `Description` where it is not a devnet's.
    pub fn read(dir: &Path) -> Result<Self, DevnetError> {
        let path = dir.join(MANIFEST);
        let text = fs::read_to_string(&path).map_err(|e| DevnetError::io("read", &path, e))?;
        serde_json::from_str(&text)
            .map_err(|source| DevnetError::Description { file: MANIFEST, source: Box::new(source) })
    }

    /// Looks at what an earlier start left in the directory.
    pub(super) fn find(dir: &Path) -> Result<Earlier, DevnetError> {
        match Self::read(dir) {
            Ok(manifest) => Ok(Earlier::Complete(Some(Box::new(manifest)))),
            Err(DevnetError::Description { .. }) => Ok(Earlier::Complete(None)),
            Err(DevnetError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                // The chain's log is the first file of a start, the card the last.
                let log = dir.join("anvil.log").exists();
                Ok(if log { Earlier::CutShort } else { Earlier::Foreign })
            }
            Err(error) => Err(error),
        }
    }
}

/// What a directory that is not empty holds.
pub(super) enum Earlier {
    /// A devnet. Without a manifest where it is unreadable, as one of another version may be.
    Complete(Option<Box<Manifest>>),
    /// What is left of a start that failed.
    CutShort,
    /// Files that no devnet wrote.
    Foreign,
}

/// Writes every file; returns the manifest.
pub(super) fn write(
    dir: &Path,
    options: &Options,
    profile: &Profile,
    plan: &Plan,
    cast: &Cast,
    deployed: &Deployed,
    rpc: &str,
) -> Result<Manifest, DevnetError> {
    for folder in ["policies", "operators"] {
        let path = dir.join(folder);
        fs::create_dir(&path).map_err(|e| DevnetError::io("create", &path, e))?;
    }
    let passphrase = Passphrase::new(plan.passphrase.clone())?;
    let (memory_kib, passes, lanes) = DEVNET_KDF;
    let kdf = KdfParams::new(memory_kib, passes, lanes)?;
    seed::write(&dir.join("seed.bursar"), &cast.mnemonic, &passphrase, kdf)?;
    let passphrase_file = dir.join("passphrase");
    write_private(&passphrase_file, &plan.passphrase)?;

    let mut operators = Vec::new();
    for (entry, key) in plan.operators.iter().zip(&cast.operators) {
        let keystore = dir.join(format!("operators/{}.json", entry.name));
        operator::create_keystore(&keystore, key, &passphrase)?;
        let passphrase_file = dir.join(format!("operators/{}.passphrase", entry.name));
        write_private(&passphrase_file, &plan.passphrase)?;
        let (name, address) = (entry.name.clone(), key.address());
        operators.push(OperatorEntry { name, address, keystore, passphrase_file });
    }
    let mut agents = BTreeMap::new();
    for agent in &cast.agents {
        let name = &agent.policy.agent;
        let policy = dir.join(format!("policies/{name}.toml"));
        write_public(&policy, &agent.text)?;
        let limits = &agent.policy.limits;
        let entry = AgentEntry {
            address: agent.address,
            sponsor: agent.policy.sponsor.clone(),
            policy,
            request_key: agent.request_key.clone(),
            ceiling: limits.ceiling,
            day: limits.day,
            month: limits.month,
            lifetime: limits.lifetime,
            categories: agent.policy.categories.iter().map(|(name, _)| name.clone()).collect(),
        };
        agents.insert(name.clone(), entry);
    }
    let payees = plan.payees.iter().map(|payee| {
        let entry = PayeeEntry {
            address: payee.address,
            categories: payee.categories.clone(),
            cap: payee.cap,
            cooldown_s: payee.cooldown_s,
        };
        (payee.label.clone(), entry)
    });
    let manifest = Manifest {
        profile: options.profile.to_string(),
        rpc: rpc.to_owned(),
        chain_id: profile.chain_id,
        block_time_ms: profile.block_time_ms,
        usdc: profile.usdc,
        wallet: deployed.wallet,
        from_block: deployed.from_block,
        escrow: deployed.escrow,
        wallet_usdc: plan.wallet_usdc,
        wallet_cap: plan.wallet_cap,
        deployer: deployed.deployer,
        relayers: cast.relayers.clone(),
        relayer_eth: plan.relayer_eth,
        threshold: plan.threshold,
        delay_s: plan.delay_s,
        operators,
        agents,
        payees: payees.collect(),
        dir: dir.to_owned(),
        config: dir.join("bursar.toml"),
        api: format!("http://127.0.0.1:{}", options.daemon_port),
    };
    write_public(&manifest.config, &config(&manifest, plan, options.daemon_port)?)?;
    let json = serde_json::to_string_pretty(&manifest)
        .map_err(|source| DevnetError::Description { file: MANIFEST, source: Box::new(source) })?;
    // Last: its presence says that the rest is complete.
    write_public(&dir.join(MANIFEST), &json)?;
    Ok(manifest)
}

/// The daemon's configuration, in the form a person would write it.
fn config(manifest: &Manifest, plan: &Plan, port: u16) -> Result<String, DevnetError> {
    let categories = plan.categories.join("\", \"");
    let mut text = format!(
        r#"# A devnet's daemon: bursar serve --config bursar.toml
listen = "127.0.0.1:{port}"
public_origin = "{api}"
store = "sqlite:bursar.db"
policies = "policies"
seed = "seed.bursar"
passphrase_file = "passphrase"
audit_anchors = "audit.anchors"
categories = ["{categories}"]

[chain]
rpc = ["{rpc}"]
chain_id = {chain_id}
wallet = "{wallet}"
usdc = "{usdc}"
from_block = {from_block}
confirmations = 1
poll_ms = {poll_ms}
# A devnet's clock may be turned; on a live chain leave this out.
clock_drift_s = 63072000

[submit]
batch_items = 100
batch_wait_ms = 100
relayers = {relayers}
in_flight = 4
fee_ceiling_gwei = 500
signature_ttl_s = 30

# x402 payments of others are settled at {api}/facilitator
[facilitator]
enabled = true

# Servers on this machine may be fetched from; elsewhere leave this out.
[fetch]
networks = ["127.0.0.0/8", "::1/128"]
"#,
        api = manifest.api,
        rpc = manifest.rpc,
        chain_id = manifest.chain_id,
        wallet = manifest.wallet,
        usdc = manifest.usdc,
        from_block = manifest.from_block,
        poll_ms = manifest.block_time_ms.clamp(10, 200),
        relayers = plan.relayers,
    );
    for payee in &plan.payees {
        text += &format!(
            "\n[[payees]]\nlabel = \"{}\"\naddress = \"{}\"\n",
            payee.label, payee.address
        );
    }
    Ok(text)
}

fn write_public(path: &Path, text: &str) -> Result<(), DevnetError> {
    fs::write(path, text).map_err(|e| DevnetError::io("write", path, e))
}

/// Writes a secret as one line, mode 0600.
fn write_private(path: &Path, text: &str) -> Result<(), DevnetError> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| writeln!(file, "{text}"))
        .map_err(|e| DevnetError::io("write", path, e))
}
