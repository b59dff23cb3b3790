//! The seed file: a BIP-39 phrase at rest.
//!
//! # Format, version 1
//!
//! 332 bytes, numbers big-endian:
//!
//! | from | bytes | what |
//! |-----:|------:|------|
//! |    0 |    12 | magic: `bursar-seed` and a line feed |
//! |   12 |     4 | version: 1 |
//! |   16 |     4 | argon2id memory, KiB |
//! |   20 |     4 | argon2id passes |
//! |   24 |     4 | argon2id lanes |
//! |   28 |    16 | argon2id salt, random |
//! |   44 |    24 | XChaCha20-Poly1305 nonce, random |
//! |   68 |   216 | ciphertext of the phrase (words with single spaces, padded with zero bytes, so that its length tells nothing) |
//! |  284 |    16 | Poly1305 tag |
//! |  300 |    32 | SHA-256 of everything before |
//!
//! The key is argon2id (version 0x13, 32 bytes) of the passphrase. Bytes 0 to 67 are the associated
//! data: magic, version, parameters, salt and nonce are authenticated with the phrase.
//!
//! The checksum is there to tell accidents from wrong passphrases, which the tag alone cannot: it is
//! compared first, needs no key, and covers public bytes only. A flipped bit or a cut-off end is
//! thus named as such. Who alters the file *on purpose* can compute the checksum anew; then the tag
//! fails, and that cannot be told from a wrong passphrase by anybody.
//!
//! Every later version keeps the magic, the place of the version, and the checksum as last 32 bytes,
//! so that this one can tell a newer file from a damaged one.

use std::path::Path;

use argon2::{Algorithm, Argon2, Block, Params, Version};
use chacha20poly1305::{AeadInPlace, KeyInit, Tag, XChaCha20Poly1305, XNonce};
use rand::{RngCore, rngs::OsRng};
use sha2::{Digest, Sha256};
use zeroize::{Zeroize, Zeroizing};

use super::{KeyError, Mnemonic, Passphrase, files, mnemonic::MAX_PHRASE};

const MAGIC: &[u8; 12] = b"bursar-seed\n";
const VERSION: u32 = 1;
const SALT: usize = 16;
const NONCE: usize = 24;
const TAG: usize = 16;
const CHECKSUM: usize = 32;
const HEADER: usize = MAGIC.len() + 4 + 12 + SALT + NONCE;
/// Length of a version 1 file in bytes.
pub const FILE_LEN: usize = HEADER + MAX_PHRASE + TAG + CHECKSUM;
/// More than any version of the format will need, in bytes.
const MAX_FILE: usize = 64 * 1024;

/// What deriving the file's key costs: argon2id's parameters, within bounds that keep a hostile
/// file from exhausting the host. One derivation holds `memory_kib` of memory at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KdfParams {
    memory_kib: u32,
    passes: u32,
    lanes: u32,
}

impl KdfParams {
    /// At most 1 GiB.
    pub const MAX_MEMORY_KIB: u32 = 1024 * 1024;
    /// At most 16 passes.
    pub const MAX_PASSES: u32 = 16;
    /// At most 16 lanes.
    pub const MAX_LANES: u32 = 16;

    /// `memory_kib` from 8 per lane to [`Self::MAX_MEMORY_KIB`], at least one pass and one lane.
    ///
    /// # Errors
    /// [`KeyError::BadKdfParams`] with the bounds.
    pub fn new(memory_kib: u32, passes: u32, lanes: u32) -> Result<Self, KeyError> {
        let params = Self { memory_kib, passes, lanes };
        params.checked().map_err(KeyError::BadKdfParams)
    }

    fn checked(self) -> Result<Self, String> {
        if !(1..=Self::MAX_LANES).contains(&self.lanes) {
            return Err(format!("{} lanes; 1 to {}", self.lanes, Self::MAX_LANES));
        }
        if !(1..=Self::MAX_PASSES).contains(&self.passes) {
            return Err(format!("{} passes; 1 to {}", self.passes, Self::MAX_PASSES));
        }
        if !(8 * self.lanes..=Self::MAX_MEMORY_KIB).contains(&self.memory_kib) {
            return Err(format!(
                "{} KiB of memory; {} to {}",
                self.memory_kib,
                8 * self.lanes,
                Self::MAX_MEMORY_KIB
            ));
        }
        Ok(self)
    }

    fn derive(self, passphrase: &Passphrase, salt: &[u8]) -> Result<Zeroizing<[u8; 32]>, KeyError> {
        let invalid = |e: argon2::Error| KeyError::BadKdfParams(e.to_string());
        let params =
            Params::new(self.memory_kib, self.passes, self.lanes, Some(32)).map_err(invalid)?;
        // Own memory: to fail instead of aborting when there is none, and to wipe it.
        let mut memory: Vec<Block> = Vec::new();
        memory
            .try_reserve_exact(params.block_count())
            .map_err(|_| KeyError::KdfMemory { kib: self.memory_kib })?;
        memory.resize(params.block_count(), Block::default());
        let mut key = Zeroizing::new([0; 32]);
        let derived = Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
            .hash_password_into_with_memory(passphrase.as_bytes(), salt, &mut *key, &mut memory);
        memory.iter_mut().for_each(Zeroize::zeroize);
        derived.map_err(invalid)?;
        Ok(key)
    }
}

impl Default for KdfParams {
    /// 64 MiB, 3 passes, 1 lane: the second choice of RFC 9106 §4 with its lanes run one by one,
    /// about 0.1 s.
    fn default() -> Self {
        Self { memory_kib: 64 * 1024, passes: 3, lanes: 1 }
    }
}

/// Writes a new seed file: mode 0600, whole or not at all, never over another file.
///
/// # Errors
/// The name is taken, the directory cannot be written, no memory for the key derivation.
pub fn write(
    path: &Path,
    mnemonic: &Mnemonic,
    passphrase: &Passphrase,
    kdf: KdfParams,
) -> Result<(), KeyError> {
    files::refuse_existing(path)?;
    let (mut salt, mut nonce) = ([0; SALT], [0; NONCE]);
    OsRng.fill_bytes(&mut salt);
    OsRng.fill_bytes(&mut nonce);
    files::write_private_new(path, &seal(mnemonic, passphrase, kdf, salt, nonce)?)
}

/// Reads a seed file. Never changes it, whatever the outcome.
///
/// # Errors
/// One variant each for: no such file, not a plain file, open to other users, not a seed file, newer
/// version, cut short, damaged, unreasonable key derivation, wrong passphrase.
pub fn read(path: &Path, passphrase: &Passphrase) -> Result<Mnemonic, KeyError> {
    let file = files::read_private(path, MAX_FILE).map_err(|error| match error {
        KeyError::Missing { path } => KeyError::NoSeedFile { path },
        KeyError::TooLong { .. } => KeyError::NotASeedFile { path: path.to_owned() },
        other => other,
    })?;
    open(&file, passphrase, path)
}

fn seal(
    mnemonic: &Mnemonic,
    passphrase: &Passphrase,
    kdf: KdfParams,
    salt: [u8; SALT],
    nonce: [u8; NONCE],
) -> Result<Vec<u8>, KeyError> {
    let mut file = Vec::with_capacity(FILE_LEN);
    file.extend_from_slice(MAGIC);
    for number in [VERSION, kdf.memory_kib, kdf.passes, kdf.lanes] {
        file.extend_from_slice(&number.to_be_bytes());
    }
    file.extend_from_slice(&salt);
    file.extend_from_slice(&nonce);

    let words = mnemonic.phrase().as_bytes();
    let mut body = Zeroizing::new([0; MAX_PHRASE]);
    // A `Mnemonic` is valid, and no valid phrase is longer.
    body.get_mut(..words.len()).ok_or(KeyError::PhraseChecksum)?.copy_from_slice(words);
    let key = kdf.derive(passphrase, &salt)?;
    let tag = XChaCha20Poly1305::new((&*key).into())
        .encrypt_in_place_detached(XNonce::from_slice(&nonce), &file, &mut *body)
        .map_err(|_| KeyError::PhraseChecksum)?;

    file.extend_from_slice(&*body);
    file.extend_from_slice(&tag);
    let checksum = Sha256::digest(&file);
    file.extend_from_slice(&checksum);
    Ok(file)
}

/// The order of the checks decides which fault is named; see the module's description.
fn open(file: &[u8], passphrase: &Passphrase, path: &Path) -> Result<Mnemonic, KeyError> {
    let damaged = || KeyError::Damaged { path: path.to_owned() };
    let truncated =
        || KeyError::Truncated { path: path.to_owned(), have: file.len(), want: FILE_LEN };

    let begins = file.len().min(MAGIC.len());
    if file[..begins] != MAGIC[..begins] {
        return Err(KeyError::NotASeedFile { path: path.to_owned() });
    }
    let mut fields = Fields(file.get(MAGIC.len()..).ok_or_else(truncated)?);
    let version = fields.number().ok_or_else(truncated)?;
    if version != VERSION {
        return Err(if version > VERSION && checksum_fits(file) {
            KeyError::NewerVersion { path: path.to_owned(), found: version, known: VERSION }
        } else {
            damaged()
        });
    }
    if file.len() < FILE_LEN {
        return Err(truncated());
    }
    if file.len() > FILE_LEN || !checksum_fits(file) {
        return Err(damaged());
    }

    let (Some(memory_kib), Some(passes), Some(lanes)) =
        (fields.number(), fields.number(), fields.number())
    else {
        return Err(truncated());
    };
    let kdf = KdfParams { memory_kib, passes, lanes }
        .checked()
        .map_err(|what| KeyError::UnreasonableKdf { path: path.to_owned(), what })?;
    let salt: [u8; SALT] = fields.take().ok_or_else(truncated)?;
    let nonce: [u8; NONCE] = fields.take().ok_or_else(truncated)?;
    let mut body = Zeroizing::new(fields.take::<MAX_PHRASE>().ok_or_else(truncated)?);
    let tag: [u8; TAG] = fields.take().ok_or_else(truncated)?;

    let key = kdf.derive(passphrase, &salt)?;
    XChaCha20Poly1305::new((&*key).into())
        .decrypt_in_place_detached(
            XNonce::from_slice(&nonce),
            &file[..HEADER],
            &mut *body,
            Tag::from_slice(&tag),
        )
        .map_err(|_| KeyError::WrongPassphrase { path: path.to_owned() })?;
    let end = body.iter().position(|byte| *byte == 0).unwrap_or(MAX_PHRASE);
    Mnemonic::parse(std::str::from_utf8(&body[..end]).map_err(|_| damaged())?)
}

fn checksum_fits(file: &[u8]) -> bool {
    file.split_last_chunk::<CHECKSUM>()
        .is_some_and(|(before, checksum)| Sha256::digest(before).as_slice() == checksum)
}

/// The rest of the file, taken from the front.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*field)
    }

    fn number(&mut self) -> Option<u32> {
        self.take().map(u32::from_be_bytes)
    }
}

#[cfg(test)]
mod tests;
