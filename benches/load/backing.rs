//! What stands under a daemon, and what it uses beside the daemon's process.

use std::{collections::BTreeMap, fs, ops::Range, path::PathBuf};

use anyhow::{Context as _, Result};
use sqlx::{AnyConnection, Connection as _, Row as _};

use crate::postgres::Postgres;

/// Fields of proc(5) stat, counted after the name: parent, and processor time in hundredths of a
/// second: its own in user and system mode, then that of children it has waited for.
const PARENT: usize = 1;
const OWN_TIME: Range<usize> = 11..13;
const ALL_TIME: Range<usize> = 11..15;

/// A store's place on this host.
#[derive(Clone, Debug)]
pub enum Backing {
    /// A file, written by the daemon's process.
    File(PathBuf),
    /// A server of processes below this one, which write; its URL.
    Server(u32, String),
}

impl Backing {
    /// A server's empty database.
    pub fn server(server: &Postgres) -> Self {
        Self::Server(server.pid(), server.url().to_owned())
    }

    /// What `store` in the configuration says.
    pub fn url(&self) -> String {
        match self {
            Self::File(path) => format!("sqlite:{}", path.display()),
            Self::Server(_, url) => url.clone(),
        }
    }

    /// Bytes of the database, without its log, which is used again and again.
    pub async fn stored(&self) -> Result<u64> {
        match self {
            Self::File(path) => Ok(fs::metadata(path)?.len()),
            Self::Server(_, url) => {
                sqlx::any::install_default_drivers();
                let mut db = AnyConnection::connect(url).await?;
                let size = sqlx::query("SELECT pg_database_size(current_database())");
                let bytes: i64 = size.fetch_one(&mut db).await?.try_get(0)?;
                db.close().await?;
                Ok(u64::try_from(bytes)?)
            }
        }
    }

    /// Processor seconds of a server of its own, and bytes it has handed to the block layer. (Of
    /// processes that have ended, only the seconds are known.)
    pub fn used(&self) -> Result<(f64, u64)> {
        let Self::Server(root, _) = self else { return Ok((0.0, 0)) };
        let (mut seconds, mut written) = (0.0, 0);
        for pid in descendants(*root)? {
            // It may have ended since it was listed.
            seconds += cpu_s(pid, ALL_TIME).unwrap_or_default();
            written += field(pid, "io", "write_bytes:").unwrap_or_default();
        }
        Ok((seconds, written))
    }
}

/// Processor seconds of a process, user and system, without its children.
pub fn own_cpu_s(pid: u32) -> Result<f64> {
    cpu_s(pid, OWN_TIME)
}

/// A number out of a process' file in `/proc`.
pub fn field(pid: u32, file: &str, name: &str) -> Result<u64> {
    let path = format!("/proc/{pid}/{file}");
    let text = fs::read_to_string(&path).with_context(|| path.clone())?;
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok())
        .with_context(|| format!("{path} has no {name}"))
}

fn stat(pid: u32) -> Result<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let after_name = text.rsplit(')').next().unwrap_or_default();
    Ok(after_name.split_whitespace().map(ToOwned::to_owned).collect())
}

fn cpu_s(pid: u32, fields: Range<usize>) -> Result<f64> {
    let stat = stat(pid)?;
    let ticks = stat.get(fields).context("/proc/PID/stat")?;
    let ticks = ticks.iter().map(|text| text.parse::<f64>());
    Ok(ticks.sum::<Result<f64, _>>()? / 100.0)
}

fn descendants(root: u32) -> Result<Vec<u32>> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
        let Ok(stat) = stat(pid) else { continue };
        if let Some(parent) = stat.get(PARENT).and_then(|text| text.parse().ok()) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = children.remove(&root).unwrap_or_default();
    let mut next = 0;
    while let Some(pid) = found.get(next) {
        let below = children.remove(pid).unwrap_or_default();
        found.extend(below);
        next += 1;
    }
    Ok(found)
}
