//! The key room: the only place that holds secrets.
//!
//! One BIP-39 phrase, encrypted in a [`seed`] file, brings back every key of the daemon:
//!
//! | key | path |
//! |-----|------|
//! | agent i, signs payments | m/44'/60'/0'/0/i |
//! | relayer j, pays gas | m/44'/60'/1'/0/j |
//! | float of agent i, pays servers that accept only plain accounts | m/44'/60'/3'/0/i |
//! | audit, signs the log's anchors (Ed25519) | from m/44'/60'/2'/0/0, see [`Keys::audit_key`] |
//! | seals challenges of MPP (HMAC) | from the same, see [`Keys::challenge_secret`] |
//!
//! Indexes run from 0 to 2^31 - 1. The last step is not hardened, as wallets expect, so one agent's
//! private key together with the branch's chain code would give the whole branch: neither an
//! extended key nor a chain code ever leaves this room.
//!
//! Agents' request keys ([`read_agent_key`]) only ask. They live with the agents.
//!
//! Operators' keys are not here. They live with the operators ([`operator`]) and are read only by
//! the commands that operators run.
//!
//! Types that hold secrets wipe them on drop and have neither `Debug` nor `Clone`. Signers that are
//! handed out are alloy's: they wipe themselves too, and their `Debug` shows the address only. What
//! coins-bip39 and eth-keystore copy while they work is freed, but not wiped.

mod agent;
mod error;
mod files;
mod mnemonic;
pub mod operator;
mod passphrase;
pub mod seed;
mod webhook;

use std::{
    collections::HashMap,
    path::Path,
    sync::{PoisonError, RwLock},
};

use alloy::{primitives::Address, signers::local::PrivateKeySigner};
use coins_bip32::{path::DerivationPath, xkeys::Parent, xkeys::XPriv};
use ed25519_dalek::SigningKey;
use hmac::{Hmac, Mac};
use k256::ecdsa;
use sha2::Sha256;
use zeroize::Zeroizing;

pub use agent::{create_agent_key, read_agent_key};
pub use error::KeyError;
pub(crate) use files::{distinct_fds, refuse_existing, write_fd};
pub use mnemonic::Mnemonic;
pub(crate) use mnemonic::read_mnemonic;
pub use operator::OperatorKeyArgs;
pub(crate) use passphrase::ask;
pub use passphrase::{MIN_NEW_PASSPHRASE, Passphrase, PassphraseArgs};
pub use seed::KdfParams;
pub use webhook::{WebhookSecrets, create_webhook_secret};

/// Domain of the audit key; its last byte is the block counter of HKDF-Expand.
const AUDIT_INFO: &[u8] = b"bursar audit ed25519 v1\x01";

/// The same of what seals challenges of MPP.
const CHALLENGE_INFO: &[u8] = b"bursar mpp challenge v1\x01";

/// First index of hardened children: indexes stay below it.
const HARDENED: u32 = 1 << 31;

/// Signers kept per branch. Beyond it a signer is derived anew each time (about 0.2 ms).
const CACHED: usize = 16_384;

/// Every key of the daemon. No `Debug`, no `Clone`; wiped on drop.
pub struct Keys {
    agents: Branch,
    relayers: Branch,
    floats: Branch,
    audit: SigningKey,
    challenge: Zeroizing<[u8; 32]>,
}

impl Keys {
    /// Reads the seed file and derives the branches. Takes as long as the file's key derivation
    /// (about 0.1 s by default): call it from a blocking thread.
    ///
    /// # Errors
    /// As [`seed::read`].
    pub fn unlock(path: &Path, passphrase: &Passphrase) -> Result<Self, KeyError> {
        Self::from_mnemonic(&seed::read(path, passphrase)?)
    }

    /// Derives the branches.
    ///
    /// # Errors
    /// [`KeyError::Underivable`], with a chance of about 1 in 2^127.
    pub fn from_mnemonic(mnemonic: &Mnemonic) -> Result<Self, KeyError> {
        let seed = mnemonic.to_seed()?;
        let root = XPriv::root_from_seed(&*seed, None).map_err(|_| underivable("m"))?;
        let own = descend(&root, "m/44'/60'/2'/0/0")?;
        Ok(Self {
            agents: Branch::new(&root, "m/44'/60'/0'/0")?,
            relayers: Branch::new(&root, "m/44'/60'/1'/0")?,
            floats: Branch::new(&root, "m/44'/60'/3'/0")?,
            audit: SigningKey::from_bytes(&*expand(&own, AUDIT_INFO)?),
            challenge: expand(&own, CHALLENGE_INFO)?,
        })
    }

    /// The key that signs agent `i`'s payments.
    ///
    /// # Errors
    /// `i` is 2^31 or more; [`KeyError::Underivable`].
    pub fn agent(&self, i: u32) -> Result<PrivateKeySigner, KeyError> {
        self.agents.signer(i)
    }

    /// The address by which the contract knows agent `i`.
    ///
    /// # Errors
    /// As [`Self::agent`].
    pub fn agent_address(&self, i: u32) -> Result<Address, KeyError> {
        self.agents.signer(i).map(|signer| signer.address())
    }

    /// The key of relayer `j`, which pays gas and has no say in payments.
    ///
    /// # Errors
    /// `j` is 2^31 or more; [`KeyError::Underivable`].
    pub fn relayer(&self, j: u32) -> Result<PrivateKeySigner, KeyError> {
        self.relayers.signer(j)
    }

    /// The key of agent `i`'s float: a plain account that holds a small, capped balance, for sellers
    /// that cannot check a contract's signature.
    ///
    /// # Errors
    /// As [`Self::agent`].
    pub fn float(&self, i: u32) -> Result<PrivateKeySigner, KeyError> {
        self.floats.signer(i)
    }

    /// The key that signs the audit log's anchors.
    ///
    /// Its 32 bytes are HKDF-Expand (RFC 5869) with SHA-256 of the private key at
    /// m/44'/60'/2'/0/0, info `bursar audit ed25519 v1`: a key of another curve and use cannot be
    /// the same number as an Ethereum key.
    #[must_use]
    pub fn audit_key(&self) -> SigningKey {
        self.audit.clone()
    }

    /// What the paywall seals its challenges with: as the audit key's bytes, info `bursar mpp
    /// challenge v1`. Every daemon of one seed knows every daemon's challenges.
    #[must_use]
    pub fn challenge_secret(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(self.challenge.to_vec())
    }
}

/// One BIP-32 node and the signers of its children that were asked for.
struct Branch {
    path: &'static str,
    node: XPriv,
    signers: RwLock<HashMap<u32, PrivateKeySigner>>,
}

impl Branch {
    fn new(root: &XPriv, path: &'static str) -> Result<Self, KeyError> {
        Ok(Self { path, node: descend(root, path)?, signers: RwLock::default() })
    }

    fn signer(&self, index: u32) -> Result<PrivateKeySigner, KeyError> {
        if index >= HARDENED {
            return Err(KeyError::IndexRange(index));
        }
        // A poisoned map is a whole map: entries go in by one insertion.
        let known = self.signers.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(signer) = known.get(&index) {
            return Ok(signer.clone());
        }
        drop(known);
        let child = self
            .node
            .derive_child(index)
            .map_err(|_| underivable(&format!("{}/{index}", self.path)))?;
        let signer = PrivateKeySigner::from_signing_key(private_key(&child).clone());
        let mut known = self.signers.write().unwrap_or_else(PoisonError::into_inner);
        if known.len() < CACHED {
            known.insert(index, signer.clone());
        }
        Ok(signer)
    }
}

fn descend(root: &XPriv, path: &str) -> Result<XPriv, KeyError> {
    let steps: DerivationPath = path.parse().map_err(|_| underivable(path))?;
    root.derive_path(steps).map_err(|_| underivable(path))
}

/// HKDF-Expand of a node's private key, one block.
fn expand(node: &XPriv, info: &[u8]) -> Result<Zeroizing<[u8; 32]>, KeyError> {
    let secret = Zeroizing::new(<[u8; 32]>::from(private_key(node).to_bytes()));
    let mut expand = Hmac::<Sha256>::new_from_slice(&*secret).map_err(|_| underivable("audit"))?;
    expand.update(info);
    Ok(Zeroizing::new(<[u8; 32]>::from(expand.finalize().into_bytes())))
}

fn private_key(node: &XPriv) -> &ecdsa::SigningKey {
    node.as_ref()
}

fn underivable(path: &str) -> KeyError {
    KeyError::Underivable(path.to_owned())
}

#[cfg(test)]
mod tests;
