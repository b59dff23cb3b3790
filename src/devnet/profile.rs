//! What the devnet is made of, as data: chain settings in `anvil/`, who and what in
//! `script/devnet.toml`. Both are embedded, so that an installed `bursar` needs no source tree.

use std::fmt;

use alloy::primitives::Address;
use serde::Deserialize;

use super::DevnetError;
use crate::{money::Usdc, payment::AgentId};

/// Which chain the devnet plays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum ProfileName {
    /// Chain id 31337.
    #[default]
    Local,
    /// Chain id 84532, USDC at Base Sepolia's address.
    BaseSepoliaTwin,
}

impl ProfileName {
    const fn source(self) -> (&'static str, &'static str) {
        match self {
            Self::Local => ("anvil/local.toml", include_str!("../../anvil/local.toml")),
            Self::BaseSepoliaTwin => {
                ("anvil/base-sepolia-twin.toml", include_str!("../../anvil/base-sepolia-twin.toml"))
            }
        }
    }
}

impl fmt::Display for ProfileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Local => "local",
            Self::BaseSepoliaTwin => "base-sepolia-twin",
        })
    }
}

/// One chain's settings: a file in `anvil/`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// Where DevUSDC's code is placed.
    pub usdc: Address,
    /// The chain's rules, by anvil's name for them.
    pub hardfork: String,
    /// Gas in one block.
    pub block_gas_limit: u64,
    /// Milliseconds between blocks, unless the caller asks for another rhythm.
    pub block_time_ms: u32,
    /// Historical states kept in memory.
    pub states_kept: u32,
    /// anvil's own accounts.
    pub accounts: Accounts,
}

/// anvil's funded accounts.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Accounts {
    /// Public words; never use them where money is real.
    pub mnemonic: String,
    /// How many.
    pub count: u32,
    /// ETH in each.
    pub balance_eth: u64,
}

impl Profile {
    /// Reads the embedded file.
    ///
    /// # Errors
    /// [`DevnetError::Description`] if the file has a fault, which starting each profile in a test excludes.
    pub fn load(name: ProfileName) -> Result<Self, DevnetError> {
        let (file, text) = name.source();
        toml::from_str(text)
            .map_err(|source| DevnetError::Description { file, source: Box::new(source) })
    }
}

/// Who and what the devnet is seeded with: `script/devnet.toml`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Seconds a loosening waits.
    pub delay_s: u32,
    /// Operators needed for a quorum.
    pub threshold: u64,
    /// USDC in the wallet.
    pub wallet_usdc: Usdc,
    /// Wallet-wide rolling cap over 24 hours, whole USDC.
    pub wallet_cap: Usdc,
    /// Gas keys.
    pub relayers: u32,
    /// ETH in each.
    pub relayer_eth: u64,
    /// Longest withdrawal delay, seconds, of a channel that a gas key claims from.
    pub claimer_longest_s: u32,
    /// The daemon's words on a devnet. Public.
    pub seed_mnemonic: String,
    /// Opens the devnet's seed and the operators' keystores. Public.
    pub passphrase: String,
    /// Category names; the position is the bit on chain.
    pub categories: Vec<String>,
    /// The quorum.
    pub operators: Vec<Operator>,
    /// Agents, in the order of their key index.
    pub agents: Vec<Agent>,
    /// The registry.
    pub payees: Vec<PayeePlan>,
}

/// An operator: one of anvil's accounts.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Operator {
    /// File name of its keystore.
    pub name: AgentId,
    /// Index in the profile's accounts.
    pub account: u32,
}

/// An agent: its name and its policy, without the keys that each devnet makes anew.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Agent {
    /// Its name.
    pub name: AgentId,
    /// A policy file but for `agent`, `key_index`, `public_key` and `expires`.
    pub policy: String,
}

/// A payee of the registry.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PayeePlan {
    /// The label agents use.
    pub label: String,
    /// Where its money goes.
    pub address: Address,
    /// Category names.
    pub categories: Vec<String>,
    /// Cumulative cap, USDC.
    #[serde(default)]
    pub cap: Option<Usdc>,
    /// Seconds between two payments to it.
    #[serde(default)]
    pub cooldown_s: u32,
}

impl Plan {
    /// Reads the embedded file.
    ///
    /// # Errors
    /// [`DevnetError::Description`] if the file has a fault, which starting each profile in a test excludes.
    pub fn load() -> Result<Self, DevnetError> {
        toml::from_str(include_str!("../../script/devnet.toml")).map_err(|source| {
            DevnetError::Description { file: "script/devnet.toml", source: Box::new(source) }
        })
    }
}
