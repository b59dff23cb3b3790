//! Passphrases: from the terminal, a descriptor or a file. Never from arguments or the environment,
//! which other users of the host can read.

use std::{io, path::PathBuf};

use clap::Args;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::{KeyError, files};

/// The longest passphrase, in bytes.
const MAX_PASSPHRASE: usize = 1024;

/// The shortest passphrase that is accepted for a new seed, in characters.
pub const MIN_NEW_PASSPHRASE: usize = 12;

const INSTEAD: &str = "--passphrase-fd or --passphrase-file";

/// A passphrase, not empty, wiped on drop. No `Debug`, no `Clone`.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct Passphrase(String);

impl Passphrase {
    /// Takes the text over and wipes it in the end.
    ///
    /// # Errors
    /// The text is empty.
    pub fn new(text: String) -> Result<Self, KeyError> {
        if text.is_empty() { Err(KeyError::EmptyPassphrase) } else { Ok(Self(text)) }
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

/// Where a command takes its passphrase from; with neither option, the terminal asks.
#[derive(Args, Clone, Debug, Default)]
pub struct PassphraseArgs {
    /// Read the passphrase from this open file descriptor (one line).
    #[arg(long, value_name = "N", conflicts_with = "passphrase_file")]
    pub passphrase_fd: Option<u32>,
    /// Read the passphrase from this file (one line; only its owner may have access).
    #[arg(long, value_name = "PATH")]
    pub passphrase_file: Option<PathBuf>,
}

impl PassphraseArgs {
    /// The passphrase of something that exists.
    ///
    /// # Errors
    /// The source cannot be read, is not one line of text, or is empty; no terminal to ask on.
    pub fn read(&self, prompt: &str) -> Result<Passphrase, KeyError> {
        match self.given()? {
            Some(passphrase) => Ok(passphrase),
            None => Passphrase::new(ask(prompt, INSTEAD)?),
        }
    }

    /// The passphrase for something new: at least [`MIN_NEW_PASSPHRASE`] characters, and typed twice
    /// when it is typed.
    ///
    /// # Errors
    /// As [`Self::read`]; too short; the two entries differ.
    pub fn read_new(&self, prompt: &str) -> Result<Passphrase, KeyError> {
        let source = self.given()?;
        let typed = source.is_none();
        let passphrase = match source {
            Some(passphrase) => passphrase,
            None => Passphrase::new(ask(prompt, INSTEAD)?)?,
        };
        if passphrase.0.chars().count() < MIN_NEW_PASSPHRASE {
            return Err(KeyError::ShortPassphrase(MIN_NEW_PASSPHRASE));
        }
        if typed && *Zeroizing::new(ask("Again: ", INSTEAD)?) != passphrase.0 {
            return Err(KeyError::PassphraseMismatch);
        }
        Ok(passphrase)
    }

    fn given(&self) -> Result<Option<Passphrase>, KeyError> {
        let (bytes, origin) = match (self.passphrase_fd, &self.passphrase_file) {
            (Some(fd), _) => (files::read_fd(fd, MAX_PASSPHRASE)?, format!("descriptor {fd}")),
            (None, Some(path)) => {
                (files::read_private(path, MAX_PASSPHRASE)?, path.display().to_string())
            }
            (None, None) => return Ok(None),
        };
        Passphrase::new(one_line(&bytes, origin)?.to_owned()).map(Some)
    }
}

/// The text of a secret that ends with its first line; the line's end is not part of it.
pub(super) fn one_line(bytes: &[u8], origin: String) -> Result<&str, KeyError> {
    let line = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    match std::str::from_utf8(line) {
        Ok(text) if !text.contains(['\n', '\r', '\0']) => Ok(text),
        _ => Err(KeyError::NotOneLine { origin }),
    }
}

/// Asks on the controlling terminal, whatever stdin and stdout are, without showing the answer.
///
/// # Errors
/// [`KeyError::NoTerminal`], naming what to give `instead`; [`KeyError::Cancelled`] at Ctrl-D, and
/// at Ctrl-C where SIGINT does not end the program.
pub(crate) fn ask(prompt: &str, instead: &'static str) -> Result<String, KeyError> {
    rpassword::prompt_password(prompt).map_err(|source| match source.kind() {
        io::ErrorKind::Interrupted | io::ErrorKind::UnexpectedEof => KeyError::Cancelled,
        io::ErrorKind::InvalidData => KeyError::NotOneLine { origin: "the terminal".to_owned() },
        _ => KeyError::NoTerminal { instead, source },
    })
}
