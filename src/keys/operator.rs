//! Operators' keys: a Web3 keystore file, or a raw key on a descriptor. Only operator commands read
//! them; the daemon never does.

use std::{
    fs,
    path::{Path, PathBuf},
};

use alloy::{hex, primitives::Address, signers::local::PrivateKeySigner};
use clap::{ArgGroup, Args};
use eth_keystore::{EthKeystore, KdfparamsType, KeystoreError};
use rand::rngs::OsRng;
use serde::Deserialize;
use zeroize::Zeroizing;

use super::{KeyError, Passphrase, PassphraseArgs, files, passphrase::one_line};

/// A keystore is a short JSON document; in bytes.
const MAX_KEYSTORE: usize = 64 * 1024;
/// 64 hexadecimal digits, `0x`, and a line's end; in bytes.
const MAX_RAW_KEY: usize = 68;
/// The most memory that a keystore's scrypt may take, in bytes (128 r (N + p)). Geth's is 256 MiB.
const MAX_SCRYPT_MEMORY: u64 = 1 << 30;
/// The most lanes that a keystore's scrypt may have; they run one by one.
const MAX_SCRYPT_LANES: u32 = 16;
/// The most rounds that a keystore's PBKDF2 may have. The format's own example has 262,144.
const MAX_PBKDF2_ROUNDS: u32 = 10_000_000;

/// Which operator signs: flattened into every command that signs as an operator.
#[derive(Args, Clone, Debug)]
#[command(group = ArgGroup::new("operator_key").required(true).args(["keystore", "key_fd"]))]
pub struct OperatorKeyArgs {
    /// The operator's Web3 keystore file (version 3).
    #[arg(long, value_name = "PATH")]
    pub keystore: Option<PathBuf>,
    /// Read the operator's private key (64 hexadecimal digits) from this open file descriptor.
    #[arg(long, value_name = "N", conflicts_with_all = ["passphrase_fd", "passphrase_file"])]
    pub key_fd: Option<u32>,
    /// The passphrase of the keystore.
    #[command(flatten)]
    pub passphrase: PassphraseArgs,
}

impl OperatorKeyArgs {
    /// Reads the key, asking for the keystore's passphrase if need be. A keystore can take a second:
    /// call it from a blocking thread.
    ///
    /// # Errors
    /// The file or descriptor cannot be read, is not a key, or the passphrase is wrong.
    pub fn load(&self) -> Result<PrivateKeySigner, KeyError> {
        match (&self.keystore, self.key_fd) {
            (Some(path), _) => {
                check_keystore(path)?;
                let prompt = format!("Passphrase of {}: ", path.display());
                open_keystore(path, &self.passphrase.read(&prompt)?)
            }
            (None, Some(fd)) => raw_key(fd),
            (None, None) => Err(KeyError::NoOperatorKey),
        }
    }
}

/// Decrypts a Web3 keystore file (version 3; scrypt or PBKDF2, AES-128-CTR).
///
/// # Errors
/// Missing, open to other users, not such a file, out of bounds, wrong passphrase. The format's
/// only checksum is a keyed one, so that damage may look like a wrong passphrase.
pub fn open_keystore(path: &Path, passphrase: &Passphrase) -> Result<PrivateKeySigner, KeyError> {
    let stated = check_keystore(path)?;
    let secret = eth_keystore::decrypt_key(path, passphrase.as_bytes())
        .map(Zeroizing::new)
        .map_err(|error| match error {
            KeystoreError::MacMismatch => {
                KeyError::WrongKeystorePassphrase { path: path.to_owned() }
            }
            other => bad(path, other),
        })?;
    let signer = PrivateKeySigner::from_slice(&secret)
        .map_err(|_| bad(path, "what it holds is no private key"))?;
    if stated.is_some_and(|address| address != signer.address()) {
        return Err(bad(path, "the address in it is not that of its key"));
    }
    Ok(signer)
}

/// Writes a new Web3 keystore file of mode 0600 (scrypt with N = 8192, as alloy and foundry do).
///
/// # Errors
/// The name is taken; the directory cannot be written.
pub fn create_keystore(
    path: &Path,
    key: &PrivateKeySigner,
    passphrase: &Passphrase,
) -> Result<(), KeyError> {
    files::refuse_existing(path)?;
    let directory = files::parent(path);
    let io = |source| KeyError::Io { action: "write in", path: directory.clone(), source };
    // The library writes with the umask's mode and over anything: let it, in a directory of mode
    // 0700 that goes away.
    let scratch = tempfile::Builder::new().prefix(".bursar-").tempdir_in(&directory).map_err(io)?;
    let secret = Zeroizing::new(<[u8; 32]>::from(key.to_field_bytes()));
    eth_keystore::encrypt_key(
        scratch.path(),
        &mut OsRng,
        secret.as_slice(),
        passphrase.as_bytes(),
        Some("keystore"),
    )
    .map_err(|error| bad(path, error))?;
    let json = fs::read(scratch.path().join("keystore")).map_err(io)?;
    files::write_private_new(path, &json)
}

/// Geth and others write the address beside the encrypted key; the format does not ask for it.
#[derive(Deserialize)]
struct Stated {
    address: Option<Address>,
}

/// Refuses what the library would panic on, or spend all memory or time on. Returns the address that
/// the file states, if it does.
fn check_keystore(path: &Path) -> Result<Option<Address>, KeyError> {
    let json = match files::read_private(path, MAX_KEYSTORE) {
        Err(KeyError::TooLong { .. }) => return Err(bad(path, "it is too long")),
        other => other?,
    };
    let Stated { address } = serde_json::from_slice(&json).map_err(|e| bad(path, e))?;
    let EthKeystore { crypto, version, .. } =
        serde_json::from_slice(&json).map_err(|e| bad(path, e))?;
    if version != 3 {
        return Err(bad(path, format!("it has version {version}")));
    }
    if crypto.cipher != "aes-128-ctr" || crypto.cipherparams.iv.len() != 16 {
        return Err(bad(path, "its cipher is not aes-128-ctr with an IV of 16 bytes"));
    }
    if crypto.ciphertext.len() != 32 {
        return Err(bad(path, "what it holds is not 32 bytes"));
    }
    let fits = match crypto.kdfparams {
        KdfparamsType::Scrypt { dklen, n, p, r, .. } => {
            let memory = (u64::from(n) + u64::from(p)).saturating_mul(128 * u64::from(r));
            dklen == 32
                && n.is_power_of_two()
                && n >= 2
                && r >= 1
                && memory <= MAX_SCRYPT_MEMORY
                && (1..=MAX_SCRYPT_LANES).contains(&p)
        }
        KdfparamsType::Pbkdf2 { c, dklen, prf, .. } => {
            dklen == 32 && (1..=MAX_PBKDF2_ROUNDS).contains(&c) && prf == "hmac-sha256"
        }
    };
    if fits { Ok(address) } else { Err(bad(path, "its key derivation is out of bounds")) }
}

fn raw_key(fd: u32) -> Result<PrivateKeySigner, KeyError> {
    let bytes = files::read_fd(fd, MAX_RAW_KEY)?;
    let line = one_line(&bytes, format!("descriptor {fd}"))?;
    let mut key = Zeroizing::new([0; 32]);
    hex::decode_to_slice(line.strip_prefix("0x").unwrap_or(line), &mut *key)
        .map_err(|_| KeyError::BadRawKey { fd })?;
    PrivateKeySigner::from_slice(&*key).map_err(|_| KeyError::BadRawKey { fd })
}

fn bad(path: &Path, why: impl std::fmt::Display) -> KeyError {
    KeyError::BadKeystore { path: path.to_owned(), why: why.to_string() }
}

#[cfg(test)]
mod tests;
