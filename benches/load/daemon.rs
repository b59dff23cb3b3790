//! The daemon as a process of its own, and what the system says it used.

use std::{
    ffi::OsStr,
    fs,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use bursar::config::Config;

use crate::backing::{self, Backing};

/// Longest wait for the API: 10,000 agents are read from files and chain.
const START_LIMIT: Duration = Duration::from_secs(180);

/// A daemon's configuration, where it is written, and its store.
pub struct World {
    pub config: Config,
    pub path: PathBuf,
    pub backing: Backing,
}

/// A running `bursar serve`. Dropped, it is killed.
pub struct Daemon {
    child: Child,
    origin: String,
    backing: Backing,
    /// Seconds from the start of the process to a ready API.
    pub start_s: f64,
}

/// What the process has used since its start.
#[derive(Clone, Copy, Debug, Default)]
pub struct Used {
    /// Processor seconds, user and system.
    pub cpu_s: f64,
    /// The same of the store's own processes.
    pub store_cpu_s: f64,
    /// Bytes handed to the block layer, by the daemon and the store's own processes.
    pub written: u64,
    pub rpc_calls: u64,
    pub gas: u64,
    pub paid: u64,
    pub failed: u64,
}

impl Used {
    /// The difference to an earlier reading.
    pub fn since(self, before: Self) -> Self {
        Self {
            cpu_s: self.cpu_s - before.cpu_s,
            store_cpu_s: self.store_cpu_s - before.store_cpu_s,
            written: self.written.saturating_sub(before.written),
            rpc_calls: self.rpc_calls - before.rpc_calls,
            gas: self.gas - before.gas,
            paid: self.paid - before.paid,
            failed: self.failed - before.failed,
        }
    }
}

impl Daemon {
    /// Starts it and waits until it is ready.
    pub async fn start(world: &World) -> Result<Self> {
        Self::start_with(world, &[]).await
    }

    /// The same, told something more.
    pub async fn start_with(world: &World, more: &[&OsStr]) -> Result<Self> {
        let World { config, path, backing } = world;
        fs::write(path, toml::to_string(config)?)?;
        let log = fs::File::create(path.with_extension("log"))?;
        let started = Instant::now();
        let child = Command::new(env!("CARGO_BIN_EXE_bursar"))
            .args(["serve", "--config"])
            .arg(path)
            .args(more)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .context("bursar serve")?;
        let (origin, backing) = (config.public_origin.clone(), backing.clone());
        let mut daemon = Self { child, origin, backing, start_s: 0.0 };
        while started.elapsed() < START_LIMIT {
            if let Some(status) = daemon.child.try_wait()? {
                let log = fs::read_to_string(path.with_extension("log")).unwrap_or_default();
                bail!("the daemon ended ({status}): {log}");
            }
            let ready = reqwest::get(format!("{}/readyz", daemon.origin)).await;
            if ready.is_ok_and(|answer| answer.status().is_success()) {
                daemon.start_s = started.elapsed().as_secs_f64();
                return Ok(daemon);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        bail!("the daemon was not ready within {} s", START_LIMIT.as_secs())
    }

    /// Reads what it has used.
    pub async fn used(&self) -> Result<Used> {
        let text = reqwest::get(format!("{}/metrics", self.origin)).await?.text().await?;
        let metric = |name: &str| -> u64 {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.and_then(|value| value.parse().ok()).unwrap_or_default()
        };
        let (store_cpu_s, store_written) = self.backing.used()?;
        let pid = self.child.id();
        Ok(Used {
            cpu_s: backing::own_cpu_s(pid)?,
            store_cpu_s,
            written: backing::field(pid, "io", "write_bytes:")? + store_written,
            rpc_calls: metric("bursar_rpc_calls"),
            gas: metric("bursar_gas_used_total"),
            paid: metric("bursar_payments_paid_total"),
            failed: metric("bursar_payments_failed_total"),
        })
    }

    /// Waits until `count` more payments than in `before` are final; returns when the last was.
    pub async fn all_final(&self, before: Used, count: u64, limit: Duration) -> Result<Instant> {
        let deadline = Instant::now() + limit;
        loop {
            let now = self.used().await?;
            if now.failed > before.failed {
                bail!("{} payments failed", now.failed - before.failed);
            }
            if now.paid - before.paid >= count {
                return Ok(Instant::now());
            }
            if Instant::now() > deadline {
                let paid = now.paid - before.paid;
                bail!("only {paid} of {count} payments were final after {} s", limit.as_secs());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Resident memory now and at its highest, in bytes.
    pub fn memory(&self) -> Result<(u64, u64)> {
        let kib = |name| backing::field(self.child.id(), "status", name).map(|kib| kib * 1024);
        Ok((kib("VmRSS:")?, kib("VmHWM:")?))
    }

    /// Ends it as an operator would, and waits.
    pub fn stop(mut self) -> Result<()> {
        Command::new("kill").arg(self.child.id().to_string()).status()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have been stopped already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
