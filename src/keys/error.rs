//! What can go wrong with keys, one variant each, worded for the person who has to act.

use std::{io, path::PathBuf};

/// Every failure of the key room. No message ever contains a secret or part of one.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// There is no seed yet.
    #[error("there is no seed file at {}: check the path, or make one with `bursar init`", path.display())]
    NoSeedFile {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The file is not there.
    #[error("there is no file at {}: check the path", path.display())]
    Missing {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// Something is there already; secrets are never overwritten.
    #[error("{} exists already and is left as it is: move it away or choose another path", path.display())]
    Exists {
        /// The file in the way.
        path: PathBuf,
    },
    /// Other users of the host may read or change the file.
    #[error("{} is open to other users (mode {mode:04o}): run `chmod 600 {}`", path.display(), path.display())]
    LoosePermissions {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A directory, a pipe or a device stands where a plain file is needed.
    #[error("{} is not a plain file: give a file, or a descriptor for pipes", path.display())]
    NotAFile {
        /// What was named.
        path: PathBuf,
    },
    /// The first bytes are not those of a seed file.
    #[error("{} is not a bursar seed file (or its first bytes are damaged): check the path", path.display())]
    NotASeedFile {
        /// The file.
        path: PathBuf,
    },
    /// Written by a later bursar.
    #[error("{} has seed format {found}, this bursar reads {known}: use a newer bursar", path.display())]
    NewerVersion {
        /// The file.
        path: PathBuf,
        /// The version in the file.
        found: u32,
        /// The version that this program reads.
        known: u32,
    },
    /// The end of the file is missing.
    #[error("{} is cut short ({have} of {want} bytes): restore it from a backup, or from its words with `bursar init --import`", path.display())]
    Truncated {
        /// The file.
        path: PathBuf,
        /// Bytes found.
        have: usize,
        /// Bytes expected.
        want: usize,
    },
    /// The checksum does not fit: bits changed after writing. Says nothing about the passphrase.
    #[error("{} is damaged (its checksum does not fit): restore it from a backup, or from its words with `bursar init --import`", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// The key derivation asks for more than any honest file would.
    #[error("{} asks for a key derivation that is out of bounds ({what}): refused", path.display())]
    UnreasonableKdf {
        /// The file.
        path: PathBuf,
        /// Which parameter, and its bounds.
        what: String,
    },
    /// Decryption failed although the file is undamaged.
    #[error("wrong passphrase for {} (the file itself is undamaged)", path.display())]
    WrongPassphrase {
        /// The file.
        path: PathBuf,
    },
    /// Key derivation parameters given by the caller are out of bounds.
    #[error("key derivation parameters are out of bounds: {0}")]
    BadKdfParams(String),
    /// The key derivation could not get its memory.
    #[error(
        "not enough memory for the key derivation ({kib} KiB): free some, or use a larger host"
    )]
    KdfMemory {
        /// The memory asked for.
        kib: u32,
    },
    /// Decryption of a keystore failed.
    #[error("wrong passphrase for {} (or the file is damaged: its format cannot tell)", path.display())]
    WrongKeystorePassphrase {
        /// The file.
        path: PathBuf,
    },
    /// Neither a keystore nor a descriptor was named.
    #[error("no operator key: give --keystore or --key-fd")]
    NoOperatorKey,
    /// Not a Web3 keystore file, or one that cannot be read safely.
    #[error("{} is not a Web3 keystore (version 3) that can be used: {why}", path.display())]
    BadKeystore {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        why: String,
    },
    /// A raw key is not 32 bytes in hexadecimal, or is not a number below the curve's order.
    #[error(
        "the key on descriptor {fd} is not a private key: give 64 hexadecimal digits, with or without 0x"
    )]
    BadRawKey {
        /// The descriptor.
        fd: u32,
    },
    /// A request key is not 32 bytes in base64url.
    #[error("{} is not an agent's request key (one line, 43 characters of base64url): make one with `bursar agent keygen`", path.display())]
    BadAgentKey {
        /// The file.
        path: PathBuf,
    },
    /// The number of words is not one of BIP-39's.
    #[error("the phrase has {0} words: it must have 12, 15, 18, 21 or 24")]
    WordCount(usize),
    /// A word is not on the list. Named by place, so that logs hold no part of a phrase.
    #[error("word {0} is not on the BIP-39 English list: check its spelling")]
    UnknownWord(usize),
    /// All words are on the list, but together they are no phrase.
    #[error("the phrase's checksum does not fit: a word is wrong or in the wrong place")]
    PhraseChecksum,
    /// The seed gives no valid key at this path (chance: about 1 in 2^127).
    #[error("this seed gives no valid key at {0}: use another seed")]
    Underivable(String),
    /// An index is not below 2^31, the range of unhardened BIP-32 children.
    #[error("key index {0} is out of range: it must be below 2147483648")]
    IndexRange(u32),
    /// An empty passphrase protects nothing.
    #[error("the passphrase is empty")]
    EmptyPassphrase,
    /// A new passphrase is too short.
    #[error("the passphrase is too short: use at least {0} characters")]
    ShortPassphrase(usize),
    /// The two entries of a new passphrase differ.
    #[error("the two passphrases differ: start again")]
    PassphraseMismatch,
    /// A webhook endpoint's file holds something else.
    #[error("{} holds no webhook secrets (one to four, one a line: `whsec_` or `whsk_` and base64): make one with `bursar webhooks secret`", path.display())]
    BadWebhookSecret {
        /// The file.
        path: PathBuf,
    },
    /// A secret that must be one line has more, or is not UTF-8.
    #[error("the secret from {origin} is not one line of UTF-8 text")]
    NotOneLine {
        /// The descriptor or file.
        origin: String,
    },
    /// More bytes than any such secret has.
    #[error("the secret from {origin} is longer than {limit} bytes")]
    TooLong {
        /// The descriptor or file.
        origin: String,
        /// The bound, in bytes.
        limit: usize,
    },
    /// Two secrets were to come from one descriptor.
    #[error("descriptor {0} is named twice: give each secret a descriptor of its own")]
    SharedFd(u32),
    /// There is no terminal to ask on.
    #[error("there is no terminal to ask on: give {instead}")]
    NoTerminal {
        /// Which options do without one.
        instead: &'static str,
        /// Why the terminal did not open.
        source: io::Error,
    },
    /// The person at the terminal pressed Ctrl-C or Ctrl-D.
    #[error("stopped at the terminal")]
    Cancelled,
    /// A descriptor is not open, or not for this direction.
    #[error("descriptor {fd} cannot be opened ({source}): is it redirected, as in `{fd}<file`?")]
    Fd {
        /// The descriptor.
        fd: u32,
        /// What the system said.
        source: io::Error,
    },
    /// The system refused a file operation.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// The operation.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}
