//! `bursar agent`: agents' request keys, and the agents as operators see them.

use std::path::PathBuf;

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use clap::{Args as ClapArgs, Subcommand};
use serde::Serialize;

use super::{
    CliError, block_on,
    pay::limits_text,
    remote::{OperatorArgs, Remote},
    table::table,
};
use crate::{
    auth,
    keys::create_agent_key,
    policy::Coupons,
    review::one_line,
    view::{AgentView, CouponsView},
};

/// Agents: make a request key, list them.
#[derive(ClapArgs, Debug)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Keygen(Keygen),
    List(List),
}

/// Make an agent's request key (Ed25519) in a new file, and print its public half.
///
/// The agent keeps the file. The public key goes into its policy file as `public_key`.
#[derive(ClapArgs, Debug)]
#[command(after_help = "Example:\n\
    \x20 bursar agent keygen scout.key")]
struct Keygen {
    /// The file to write. It must not exist.
    file: PathBuf,
}

/// List the agents, what each may still spend, and what would be lost if it were stolen now.
#[derive(ClapArgs, Debug)]
struct List {
    #[command(flatten)]
    operator: OperatorArgs,
    /// Show one agent with every limit.
    #[arg(value_name = "AGENT")]
    agent: Option<String>,
}

#[derive(Serialize)]
struct Made {
    file: PathBuf,
    public_key: String,
    key_id: String,
}

/// Runs the command.
///
/// # Errors
/// The file exists or cannot be written; the daemon is out of reach or refuses.
pub fn run(args: &Args, remote: &Remote) -> Result<(), CliError> {
    match &args.command {
        Command::Keygen(args) => keygen(args, remote),
        Command::List(args) => list(args, remote),
    }
}

fn keygen(args: &Keygen, remote: &Remote) -> Result<(), CliError> {
    let key = create_agent_key(&args.file)?.verifying_key();
    let made = Made {
        file: args.file.clone(),
        public_key: BASE64_URL_SAFE_NO_PAD.encode(key.as_bytes()),
        key_id: auth::agent::key_id(&key),
    };
    remote.print(&made, |made| {
        format!(
            "key file    {} (mode 0600)\npublic_key  {}\nkey id      {}",
            made.file.display(),
            made.public_key,
            made.key_id
        )
    })
}

fn list(args: &List, remote: &Remote) -> Result<(), CliError> {
    block_on(async {
        let session = args.operator.connect(remote).await?;
        if let Some(wanted) = &args.agent {
            let agent = session.agent(wanted).await?;
            return remote.print(&agent, one);
        }
        remote.print(&session.client.agents().await?, |agents| many(agents))
    })
}

fn state(agent: &AgentView) -> &'static str {
    match (agent.on_chain, agent.frozen) {
        (_, true) => "frozen",
        (true, false) => "active",
        (false, false) => "not on chain",
    }
}

fn many(agents: &[AgentView]) -> String {
    let mut rows = table(&["agent", "address", "sponsor", "state", "version", "at risk"]);
    for agent in agents {
        rows.add_row([
            agent.agent.to_string(),
            agent.address.to_string(),
            agent.sponsor.clone(),
            state(agent).to_owned(),
            agent.policy_version.to_string(),
            agent.at_risk.to_string(),
        ]);
    }
    rows.to_string()
}

fn one(agent: &AgentView) -> String {
    let wanted = agent.coupons_in_file.as_ref().map_or_else(String::new, |file| {
        format!("; its policy file says {}: the lesser of both holds", coupons(file))
    });
    format!(
        "{} ({}) is {}; sponsor {}; policy version {}; at risk {} USDC\nrequest key {}\ncoupons {}{}\n\n{}",
        agent.agent,
        agent.address,
        state(agent),
        one_line(&agent.sponsor),
        agent.policy_version,
        agent.at_risk,
        one_line(&agent.key_id),
        coupons(&agent.coupons),
        wanted,
        limits_text(&agent.limits),
    )
}

fn coupons(view: &CouponsView) -> Coupons {
    Coupons { every_s: view.every_s, classes: view.classes.clone() }
}
