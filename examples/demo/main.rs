//! `make demo`: five agents, two operators, one daemon, one chain, each a process of its own.
//!
//! Without a role this is the conductor: it starts the devnet and the daemon (the real `bursar`),
//! the agents and the operators (this program again, with a role), kills the daemon half-way, lets
//! one agent hire another, and ends with tables, a reconciliation read from the chain, and the audit log's verification.
//! Anything that is not as `demo/requests.jsonl` expects makes the exit code 1.

mod agent;
mod client;
mod conduct;
mod job;
mod market;
mod operator;
mod process;
mod report;
mod script;

use std::{path::PathBuf, process::ExitCode};

use bursar::{devnet::Manifest, payment::AgentId};
use clap::{Parser, Subcommand};

/// Agents pay, operators approve, the books meet the chain.
#[derive(Debug, Parser)]
struct Args {
    #[command(subcommand)]
    role: Option<Role>,
    /// Where the demo's files go. Removed at the next start.
    #[arg(long, global = true, default_value = ".demo")]
    dir: PathBuf,
    /// What is asked for, and what has to come of it.
    #[arg(long, global = true, default_value = "demo/requests.jsonl")]
    requests: PathBuf,
    /// Let the daemon live: no SIGKILL half-way.
    #[arg(long)]
    no_kill: bool,
    /// Paid calls through one channel.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    calls: u64,
    /// The program to show.
    #[arg(long, default_value = "target/debug/bursar", global = true)]
    bursar: PathBuf,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// Send one agent's lines.
    Agent {
        /// Its name.
        name: AgentId,
    },
    /// Decide as one operator.
    Operator {
        /// Its name.
        name: AgentId,
    },
}

fn main() -> ExitCode {
    let args = Args::parse();
    let outcome = tokio::runtime::Runtime::new()
        .map_err(anyhow::Error::from)
        .and_then(|runtime| runtime.block_on(run(args)));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> anyhow::Result<()> {
    let lines = script::read(&args.requests)?;
    match args.role {
        None => {
            let how = conduct::How { kill: !args.no_kill, calls: args.calls };
            conduct::run(&args.dir, &args.requests, &args.bursar, how, lines).await
        }
        Some(Role::Agent { name }) => {
            let own = lines.into_iter().filter(|line| line.agent == name).collect();
            agent::run(&Manifest::read(&args.dir)?, &name, own).await
        }
        Some(Role::Operator { name }) => {
            operator::run(&Manifest::read(&args.dir)?, &name, &lines).await
        }
    }
}
