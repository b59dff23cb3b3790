//! `bursar init`: make or import the seed that every key of the daemon comes from.
//!
//! New words are shown on the controlling terminal (`/dev/tty`), never on stdout or stderr: they
//! cannot end in a pipe, a log or a CI transcript by accident, and `--json` stays clean. Without a
//! terminal the command refuses, unless `--words-fd N` names a descriptor to hand the words to.
//! Nothing is written before the words were shown and checked.

use std::{
    fs::OpenOptions,
    io::{self, Write},
    path::PathBuf,
    time::Duration,
};

use alloy::hex;
use clap::Args as ClapArgs;
use rand::rngs::OsRng;
use serde::Serialize;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use zeroize::Zeroizing;

use super::{CliError, Kind};
use crate::keys::{self, KdfParams, KeyError, Keys, Mnemonic, PassphraseArgs, seed};

/// Columns of the grid of words.
const COLUMNS: usize = 4;
/// How many words are asked back.
const CHECKED: usize = 3;
/// How often a word may be typed wrong, less one.
const TRIES: usize = 3;
/// Home, clear the screen, clear what scrolled off it.
const CLEAR: &str = "\x1b[H\x1b[2J\x1b[3J";

/// Make or import a seed, and write it to a new encrypted file.
///
/// The words of a new seed are shown once, on the terminal, and three of them are asked back.
#[derive(ClapArgs, Debug)]
pub struct Args {
    /// The file to write. It must not exist.
    #[arg(long, value_name = "PATH", default_value = "bursar.seed")]
    seed: PathBuf,
    /// Import existing words (12, 15, 18, 21 or 24, BIP-39 English) instead of making 24 new ones.
    #[arg(long)]
    import: bool,
    /// With --import: read the words from this open file descriptor instead of the terminal.
    #[arg(long, value_name = "N", requires = "import")]
    mnemonic_fd: Option<u32>,
    /// Write the new words, one line, to this open file descriptor instead of the terminal.
    #[arg(long, value_name = "N", conflicts_with = "import",
          value_parser = clap::value_parser!(u32).range(3..))]
    words_fd: Option<u32>,
    /// Do not ask three of the words back.
    #[arg(long, conflicts_with_all = ["import", "words_fd"])]
    no_check: bool,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    passphrase: PassphraseArgs,
}

/// What the new file gives: shown as proof that it opens, and to compare with a backup's.
#[derive(Serialize)]
struct Made {
    seed: PathBuf,
    imported: bool,
    agent_0: String,
    relayer_0: String,
    /// Public half of the audit key: who verifies the audit log offline needs it.
    audit_key: String,
}

/// Runs the command.
///
/// # Errors
/// The file exists, a secret cannot be read or is invalid, no terminal, the check failed. Nothing
/// was written then.
pub fn run(args: &Args) -> Result<(), CliError> {
    keys::refuse_existing(&args.seed)?;
    keys::distinct_fds([args.passphrase.passphrase_fd, args.mnemonic_fd, args.words_fd])?;
    // Before the passphrase is asked for: there may be nowhere to show the words.
    let terminal = match (args.import, args.words_fd) {
        (false, None) => Some(Terminal::open()?),
        _ => None,
    };
    let passphrase = args.passphrase.read_new("New passphrase for the seed file: ")?;
    let mnemonic = if args.import {
        keys::read_mnemonic(args.mnemonic_fd)?
    } else {
        let mnemonic = Mnemonic::generate()?;
        match (terminal, args.words_fd) {
            (Some(terminal), _) => terminal.show(&mnemonic, !args.no_check)?,
            (None, Some(fd)) => {
                let line = Zeroizing::new([mnemonic.phrase(), "\n"].concat());
                keys::write_fd(fd, line.as_bytes())?;
            }
            (None, None) => return Err(no_terminal(io::ErrorKind::NotFound.into()).into()),
        }
        mnemonic
    };
    seed::write(&args.seed, &mnemonic, &passphrase, KdfParams::default())?;

    // From the file, not from memory: what is printed is what the daemon will find.
    let made = Keys::unlock(&args.seed, &passphrase)?;
    let made = Made {
        seed: args.seed.clone(),
        imported: args.import,
        agent_0: made.agent_address(0)?.to_string(),
        relayer_0: made.relayer(0)?.address().to_string(),
        audit_key: hex::encode(made.audit_key().verifying_key().to_bytes()),
    };
    print(&made, args.json)
}

fn print(made: &Made, json: bool) -> Result<(), CliError> {
    let text = if json {
        serde_json::to_string_pretty(made).map_err(|e| CliError::new(Kind::Refused, e))?
    } else {
        format!(
            "seed file  {} (encrypted, mode 0600)\nagent 0    {}\nrelayer 0  {}\naudit key  {}",
            made.seed.display(),
            made.agent_0,
            made.relayer_0,
            made.audit_key
        )
    };
    writeln!(io::stdout(), "{text}")
        .map_err(|e| CliError::new(Kind::Unreachable, format!("cannot print the result: {e}")))
}

/// The controlling terminal, where Ctrl-C is an answer to a prompt and not the end of the process,
/// which would leave the words on the screen and the terminal without echo.
struct Terminal {
    output: std::fs::File,
    /// Drives `interrupt`.
    runtime: Runtime,
    /// A Ctrl-C comes as a signal while no prompt reads the keys: between two, or while one is
    /// being drawn.
    interrupt: Signal,
}

impl Terminal {
    fn open() -> Result<Self, KeyError> {
        let output = OpenOptions::new().write(true).open("/dev/tty").map_err(no_terminal)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(no_terminal)?;
        let interrupt = {
            let _within = runtime.enter();
            signal(SignalKind::interrupt()).map_err(no_terminal)?
        };
        Ok(Self { output, runtime, interrupt })
    }

    /// Shows the words, waits, clears the screen, and asks some back.
    fn show(mut self, mnemonic: &Mnemonic, check: bool) -> Result<(), CliError> {
        self.not_interrupted()?;
        let grid = grid(mnemonic.phrase());
        self.print(&grid)?;
        let seen = self.ask("Press Enter when they are on paper; the screen is then cleared. ");
        self.print(CLEAR)?;
        drop(Zeroizing::new(seen?));
        if check {
            let places = rand::seq::index::sample(&mut OsRng, words(mnemonic).count(), CHECKED);
            let mut places = places.into_vec();
            places.sort_unstable();
            check_words(mnemonic, &places, |prompt| self.ask(prompt))?;
        }
        Ok(())
    }

    fn ask(&mut self, prompt: &str) -> Result<String, KeyError> {
        let mut answer = Zeroizing::new(keys::ask(prompt, "--words-fd")?);
        self.not_interrupted()?;
        Ok(std::mem::take(&mut answer))
    }

    fn not_interrupted(&mut self) -> Result<(), KeyError> {
        let interrupt = self.interrupt.recv();
        // A moment, so that the runtime looks for the signal at all.
        let moment = async { tokio::time::timeout(Duration::from_millis(1), interrupt).await };
        match self.runtime.block_on(moment) {
            Ok(_) => Err(KeyError::Cancelled),
            Err(_) => Ok(()),
        }
    }

    fn print(&mut self, text: &str) -> Result<(), KeyError> {
        self.output.write_all(text.as_bytes()).map_err(no_terminal)
    }
}

fn no_terminal(source: io::Error) -> KeyError {
    KeyError::NoTerminal { instead: "--words-fd", source }
}

fn words(mnemonic: &Mnemonic) -> impl Iterator<Item = &str> {
    mnemonic.phrase().split(' ')
}

/// The words with their numbers, left to right, and what they are for.
fn grid(phrase: &str) -> Zeroizing<String> {
    let mut grid = Zeroizing::new(String::with_capacity(1024));
    grid.push_str(
        "\nWrite these words on paper, with their numbers. They bring back every key of this\n\
         wallet's daemon, and whoever reads them has those keys. They are shown only now.\n\n",
    );
    for (at, word) in phrase.split(' ').enumerate() {
        let end = if (at + 1).is_multiple_of(COLUMNS) { "\n" } else { "" };
        for part in [&*format!("{:>4} ", at + 1), word, &" ".repeat(10 - word.len().min(9)), end] {
            grid.push_str(part);
        }
    }
    grid.push('\n');
    grid
}

/// Asks for the words at these places (from 0), each at most [`TRIES`] times.
fn check_words(
    mnemonic: &Mnemonic,
    places: &[usize],
    mut ask: impl FnMut(&str) -> Result<String, KeyError>,
) -> Result<(), CliError> {
    for place in places {
        let prompt = format!("Word {}: ", place + 1);
        let mut right = false;
        for _ in 0..TRIES {
            let answer = Zeroizing::new(ask(&prompt)?);
            right = words(mnemonic).nth(*place) == Some(&*answer.trim().to_ascii_lowercase());
            if right {
                break;
            }
        }
        if !right {
            return Err(CliError::new(
                Kind::Refused,
                format!("word {} is not the one that was shown: nothing was written", place + 1),
            )
            .hint("run `bursar init` again; it makes new words, so discard these"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const JUNK: &str = "test test test test test test test test test test test junk";

    /// Answers in turn; says how many were taken and what was asked.
    fn check(answers: &[&str]) -> (bool, Vec<String>) {
        let mnemonic = Mnemonic::parse(JUNK).unwrap();
        let mut asked = Vec::new();
        let outcome = check_words(&mnemonic, &[0, 6, 11], |prompt| {
            asked.push(prompt.to_owned());
            Ok(answers[asked.len() - 1].to_owned())
        });
        (outcome.is_ok(), asked)
    }

    #[test]
    fn the_right_words_pass() {
        let (passed, asked) = check(&["test", " TEST ", "junk"]);
        assert!(passed);
        assert_eq!(asked, ["Word 1: ", "Word 7: ", "Word 12: "]);
    }

    #[test]
    fn a_slip_is_forgiven_but_not_three() {
        let (passed, asked) = check(&["test", "tset", "", "test", "junk"]);
        assert!(passed);
        assert_eq!(asked.len(), 5);
        let (passed, asked) = check(&["test", "test", "test", "test", "test"]);
        assert!(!passed);
        assert_eq!(asked.len(), 5);
    }

    #[test]
    fn the_grid_numbers_every_word() {
        let mnemonic = Mnemonic::generate().unwrap();
        let grid = grid(mnemonic.phrase());
        let shown: Vec<&str> = grid.split("\n\n").nth(1).unwrap().split_whitespace().collect();
        let numbered: Vec<String> = words(&mnemonic)
            .enumerate()
            .flat_map(|(at, word)| [(at + 1).to_string(), word.to_owned()])
            .collect();
        assert_eq!(shown, numbered);
        assert!(grid.len() <= 1024, "the grid's buffer had to grow");
    }
}
