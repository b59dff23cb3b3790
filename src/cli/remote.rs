//! What commands that talk to a daemon share: where it is, who signs, what is shown before signing.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};

use alloy::primitives::Address;
use clap::Args as ClapArgs;
use serde::Serialize;

use super::{CliError, Kind};
use crate::{
    api::Problem,
    client::{self, ClientError, OperatorClient},
    contract::{ChangeError, Names},
    keys::OperatorKeyArgs,
    policy::{Categories, CategoriesError},
    review::{Review, ReviewError, one_line},
    view::{AgentView, WalletView},
};

/// Options of every command.
#[derive(ClapArgs, Clone, Debug)]
pub struct Remote {
    /// The daemon's address.
    #[arg(
        long,
        global = true,
        env = "BURSAR_URL",
        default_value = "http://127.0.0.1:8402",
        value_name = "URL",
        help_heading = "Global options"
    )]
    pub url: String,
    /// The daemon's public origin, which signatures name, where a proxy or a tunnel stands between.
    #[arg(
        long,
        global = true,
        env = "BURSAR_ORIGIN",
        value_name = "URL",
        help_heading = "Global options"
    )]
    pub origin: Option<String>,
    /// Print JSON instead of tables and sentences.
    #[arg(long, global = true, help_heading = "Global options")]
    pub json: bool,
}

impl Remote {
    /// What signatures name as the daemon's origin.
    #[must_use]
    pub fn origin(&self) -> &str {
        self.origin.as_deref().unwrap_or(&self.url)
    }

    /// Prints `value` as JSON where asked for, else what `text` makes of it.
    ///
    /// # Errors
    /// The value cannot be written as JSON.
    pub fn print<T: Serialize>(
        &self,
        value: &T,
        text: impl FnOnce(&T) -> String,
    ) -> Result<(), CliError> {
        let shown = if self.json {
            serde_json::to_string_pretty(value).map_err(|e| CliError::new(Kind::Refused, e))?
        } else {
            // Reasons, labels and names come from elsewhere; only line feeds of ours pass.
            text(value).lines().map(one_line).collect::<Vec<_>>().join("\n")
        };
        // A closed pipe (`| head`) is not worth an error.
        let _ = writeln!(io::stdout(), "{shown}");
        Ok(())
    }
}

/// Which operator signs, for which wallet.
#[derive(ClapArgs, Clone, Debug)]
pub struct OperatorArgs {
    #[command(flatten)]
    pub(super) key: OperatorKeyArgs,
    #[command(flatten)]
    pub(super) pins: Pins,
}

/// What must be so before an operator signs.
#[derive(ClapArgs, Clone, Debug)]
pub struct Pins {
    /// Refuse unless the daemon serves this wallet. Set it once, and a daemon can never make you
    /// sign for another one.
    #[arg(long, env = "BURSAR_WALLET", value_name = "ADDRESS")]
    wallet: Option<Address>,
    /// Refuse unless the wallet is on this chain.
    #[arg(long, env = "BURSAR_CHAIN_ID", value_name = "N")]
    chain_id: Option<u64>,
    /// Sign without asking (for scripts; the review is printed all the same).
    #[arg(long, short)]
    yes: bool,
}

/// An operator's conversation with a daemon.
pub struct Session {
    /// Signs requests.
    pub client: OperatorClient,
    /// What the daemon says of the wallet; chain and address match the pins, if there are any.
    pub wallet: WalletView,
    yes: bool,
}

impl OperatorArgs {
    /// Reads the key and asks the daemon which wallet it serves.
    ///
    /// # Errors
    /// The key cannot be read or is no operator's; the daemon is out of reach or serves another
    /// wallet than the pinned one.
    pub async fn connect(&self, remote: &Remote) -> Result<Session, CliError> {
        // Before the passphrase is asked for.
        let wallet = client::wallet(&remote.url).await?;
        let wrong = |what: String| {
            CliError::new(Kind::Mismatch, what)
                .hint("check --url, --wallet and --chain-id; nothing was signed")
        };
        let pins = &self.pins;
        if pins.wallet.is_some_and(|pinned| pinned != wallet.wallet) {
            return Err(wrong(format!("the daemon serves wallet {}", wallet.wallet)));
        }
        if pins.chain_id.is_some_and(|pinned| pinned != wallet.chain_id) {
            return Err(wrong(format!("the daemon's wallet is on chain {}", wallet.chain_id)));
        }
        let args = self.key.clone();
        // scrypt takes a second, the prompt as long as the person.
        let key = tokio::task::spawn_blocking(move || args.load())
            .await
            .map_err(|error| CliError::new(Kind::Refused, error))??;
        if !wallet.operators.contains(&key.address()) {
            let text = format!("{} is not an operator of {}", key.address(), wallet.wallet);
            return Err(CliError::new(Kind::Refused, text)
                .hint("sign with an operator's key; agents' and relayers' keys never can"));
        }
        let client = OperatorClient::new(&remote.url, key, wallet.chain_id, wallet.wallet)?
            .signed_origin(remote.origin());
        Ok(Session { client, wallet, yes: pins.yes })
    }
}

impl Session {
    /// Fetches the names of agents, payees and categories.
    ///
    /// # Errors
    /// As the client's.
    pub async fn names(&self) -> Result<Names, CliError> {
        let (agents, payees) = (self.client.agents().await?, self.client.payees().await?);
        let agents = agents.into_iter().map(|agent| (agent.address, agent.agent.to_string()));
        let payees = payees.into_iter().filter_map(|payee| Some((payee.address, payee.label?)));
        let accounts = agents.chain(payees).collect();
        Ok(Names { accounts, categories: self.wallet.categories.clone() })
    }

    /// Finds an agent by its name or its address.
    ///
    /// # Errors
    /// There is none.
    pub async fn agent(&self, wanted: &str) -> Result<AgentView, CliError> {
        let address = wanted.parse::<Address>().ok();
        let agents = self.client.agents().await?;
        let known: Vec<String> = agents.iter().map(|agent| agent.agent.to_string()).collect();
        let fits = |a: &AgentView| a.agent.as_str() == wanted || address == Some(a.address);
        agents.into_iter().find(fits).ok_or_else(|| {
            CliError::new(Kind::Usage, format!("the daemon knows no agent `{wanted}`"))
                .hint(format!("agents: {}", known.join(", ")))
        })
    }

    /// Returns the wallet's categories.
    ///
    /// # Errors
    /// The daemon's list cannot stand.
    pub fn categories(&self) -> Result<Categories, CliError> {
        let bad = |error: CategoriesError| CliError::new(Kind::Mismatch, error);
        Categories::new(self.wallet.categories.clone()).map_err(bad)
    }

    /// Shows what is to be signed, in words and digests, and asks. Shown on stderr, so that stdout
    /// carries the result alone.
    ///
    /// # Errors
    /// The answer is no, or there is nobody to ask and no `--yes`.
    pub fn confirm(&self, review: &Review) -> Result<(), CliError> {
        let mut err = io::stderr();
        let _ = write!(err, "{}", shown(review, self.client.key().address()));
        if self.yes {
            return Ok(());
        }
        if !io::stdin().is_terminal() {
            let text = "nobody to ask: standard input is not a terminal";
            return Err(CliError::new(Kind::Usage, text).hint("read the above, then add --yes"));
        }
        let _ = write!(err, "Sign this? [y/N] ");
        let _ = err.flush();
        let mut answer = String::new();
        let read = io::stdin().lock().read_line(&mut answer);
        match (read, answer.trim()) {
            (Ok(_), "y" | "Y" | "yes") => Ok(()),
            _ => Err(CliError::new(Kind::Refused, "not signed")),
        }
    }
}

/// Writes a review for the terminal.
fn shown(review: &Review, signer: Address) -> String {
    let mut text = format!("{}\n\n", review.title);
    let digests = [
        ("signed as", review.primary_type.to_owned()),
        ("signer", signer.to_string()),
        ("domain hash", review.domain_hash.to_string()),
        ("message hash", review.message_hash.to_string()),
        ("digest", review.digest.to_string()),
    ];
    for (name, value) in review.lines.iter().chain(&digests) {
        text.push_str(&format!("  {name:<15}{value}\n"));
    }
    text.push('\n');
    text
}

impl From<ClientError> for CliError {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Refused(problem) => refused(&problem),
            ClientError::Unreachable { .. } => Self::new(Kind::Unreachable, error)
                .hint("is `bursar serve` running there? --url or BURSAR_URL names another place"),
            ClientError::Unexpected { .. } => Self::new(Kind::Unreachable, error)
                .hint("--url or BURSAR_URL must name a bursar of this version"),
            ClientError::Unsendable(_) => Self::new(Kind::Usage, error),
        }
    }
}

/// Tells a problem in full: rule and room, when to come back, whether money moved, the hint.
fn refused(problem: &Problem) -> CliError {
    let refusal = &problem.refusal;
    let mut text = format!("{} ({})", one_line(&refusal.detail), refusal.code.as_str());
    let facts = [
        ("rule", &refusal.rule),
        ("limit", &refusal.limit),
        ("used", &refusal.used),
        ("remaining", &refusal.remaining),
        ("retry after", &refusal.retry_after.map(|seconds| format!("{seconds} s"))),
        ("request", &Some(problem.correlation_id.clone())),
    ];
    for (name, value) in facts {
        if let Some(value) = value {
            text.push_str(&format!("\n  {name}: {}", one_line(value)));
        }
    }
    let moved = match refusal.funds_moved {
        crate::payment::FundsMoved::No => "no",
        crate::payment::FundsMoved::Maybe => "maybe: look before you try again",
        crate::payment::FundsMoved::Yes => "yes",
    };
    text.push_str(&format!("\n  money moved: {moved}"));
    let kind = if problem.status >= 500 { Kind::Unreachable } else { Kind::Refused };
    let error = CliError::new(kind, text);
    match &refusal.hint {
        Some(hint) => error.hint(one_line(hint)),
        None => error,
    }
}

impl From<ReviewError> for CliError {
    fn from(error: ReviewError) -> Self {
        Self::new(Kind::Mismatch, error).hint("nothing was signed; find out who changed what")
    }
}

impl From<ChangeError> for CliError {
    fn from(error: ChangeError) -> Self {
        Self::new(Kind::Mismatch, error)
    }
}
