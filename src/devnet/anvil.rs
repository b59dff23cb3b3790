//! The chain of the devnet: finds anvil, starts it, and sees to it that it never outlives us.

use std::{
    fs::{self, File},
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    time::{Duration, Instant},
};

use alloy::{
    primitives::U64,
    providers::{Provider, ProviderBuilder},
};

use super::{DevnetError, profile::Profile};

/// The release line of anvil that the devnet is tested with: major and least minor version.
const TESTED: (u64, u64) = (1, 7);

/// Longest wait for the first answer of a fresh anvil.
const READY_LIMIT: Duration = Duration::from_secs(20);

/// Longest wait for anvil's end before its guardian is killed.
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// Runs `"$@"` and ends it when standard input closes. The kernel closes that pipe however we die,
/// SIGKILL included, so anvil cannot be left behind. `$child` runs in a process group of its own,
/// which keeps a Ctrl-C at the terminal for us to answer in order.
const GUARDIAN: &str = r#"
exec 3<&0
"$@" </dev/null 3<&- &
child=$!
( read -r _ <&3; kill "$child" 2>/dev/null ) &
watcher=$!
trap 'kill "$child" 2>/dev/null' TERM INT HUP
wait "$child"; status=$?
kill "$watcher" 2>/dev/null
exit "$status"
"#;

/// How blocks are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockTime {
    /// One block for each transaction, at once.
    Automine,
    /// One block in this many milliseconds, 10 to 60,000.
    Every(u32),
}

/// A running anvil. Dropping it ends the process.
#[derive(Debug)]
pub struct Anvil {
    guardian: Child,
    /// Held open for the guardian; closing it ends anvil.
    lifeline: Option<ChildStdin>,
    url: String,
}

impl Anvil {
    /// Starts anvil and waits until it answers. `port` 0 takes a free one. Its output goes to `log`.
    ///
    /// # Errors
    /// [`DevnetError::PortInUse`], `AnvilMissing`, `AnvilVersion`, `AnvilFailed`, `Io`.
    pub async fn start(
        profile: &Profile,
        port: u16,
        block_time: BlockTime,
        log: &Path,
    ) -> Result<Self, DevnetError> {
        let program = find()?;
        let port = reserve(port).await?;
        let url = format!("http://127.0.0.1:{port}");
        let out = File::create(log).map_err(|e| DevnetError::io("write", log, e))?;
        let err = out.try_clone().map_err(|e| DevnetError::io("write", log, e))?;

        let mut command = Command::new("/bin/sh");
        command.args(["-c", GUARDIAN, "guardian"]).arg(&program);
        command.args(["--quiet", "--host", "127.0.0.1", "--port", &port.to_string()]);
        command.args(["--chain-id", &profile.chain_id.to_string()]);
        command.args(["--hardfork", &profile.hardfork, "--enable-tx-gas-limit"]);
        command.args(["--gas-limit", &profile.block_gas_limit.to_string()]);
        command.args(["--prune-history", &profile.states_kept.to_string()]);
        command.args(["--mnemonic", &profile.accounts.mnemonic]);
        command.args(["--accounts", &profile.accounts.count.to_string()]);
        command.args(["--balance", &profile.accounts.balance_eth.to_string()]);
        command.arg("--no-request-size-limit");
        if let BlockTime::Every(ms) = block_time {
            command.args(["--block-time", &format!("{}.{:03}", ms / 1000, ms % 1000)]);
        }
        let mut guardian = command
            .stdin(Stdio::piped())
            .stdout(out)
            .stderr(err)
            .process_group(0)
            .spawn()
            .map_err(|e| DevnetError::io("run", Path::new("/bin/sh"), e))?;
        let lifeline = guardian.stdin.take();
        let mut anvil = Self { guardian, lifeline, url };
        anvil.wait_until_ready(profile.chain_id, log).await?;
        Ok(anvil)
    }

    /// The JSON-RPC endpoint.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Has the process ended by itself?
    pub fn has_ended(&mut self) -> bool {
        !matches!(self.guardian.try_wait(), Ok(None))
    }

    async fn wait_until_ready(&mut self, chain_id: u64, log: &Path) -> Result<(), DevnetError> {
        let deadline = Instant::now() + READY_LIMIT;
        while Instant::now() < deadline {
            if self.has_ended() {
                return Err(DevnetError::AnvilFailed { log: log.to_owned(), last: last_line(log) });
            }
            if chain_id_at(&self.url).await == Some(chain_id) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Err(DevnetError::AnvilFailed {
            log: log.to_owned(),
            last: format!("no answer at {} within {} s", self.url, READY_LIMIT.as_secs()),
        })
    }
}

impl Drop for Anvil {
    fn drop(&mut self) {
        drop(self.lifeline.take());
        let deadline = Instant::now() + STOP_LIMIT;
        while Instant::now() < deadline {
            if self.has_ended() {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        // Best effort in a destructor: there is nobody left to tell.
        let _ = self.guardian.kill();
        let _ = self.guardian.wait();
    }
}

/// Asks a node for its chain id; `None` if nothing like a node answers within a second.
pub(super) async fn chain_id_at(url: &str) -> Option<u64> {
    let provider = ProviderBuilder::new().connect_http(url.parse().ok()?);
    let id = provider.raw_request::<_, U64>("eth_chainId".into(), ());
    tokio::time::timeout(Duration::from_secs(1), id).await.ok()?.ok().map(|id| id.to())
}

/// Takes the port, or says who has it.
async fn reserve(port: u16) -> Result<u16, DevnetError> {
    let bound = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
        .and_then(|listener| listener.local_addr());
    match bound {
        Ok(address) => Ok(address.port()),
        Err(e) if e.kind() == io::ErrorKind::AddrInUse => {
            let holder = chain_id_at(&format!("http://127.0.0.1:{port}")).await;
            Err(DevnetError::PortInUse { port, chain_id: holder })
        }
        Err(source) => Err(DevnetError::Port { port, source }),
    }
}

/// Finds an anvil of the tested line: on PATH first, then in the `node_modules` of the working
/// directory and of each directory above it.
fn find() -> Result<PathBuf, DevnetError> {
    let mut wrong = None;
    for program in candidates() {
        match version(&program) {
            Some((major, minor, _)) if major == TESTED.0 && minor >= TESTED.1 => {
                return Ok(program);
            }
            Some((major, minor, patch)) => {
                wrong.get_or_insert((program, format!("{major}.{minor}.{patch}")));
            }
            None => {}
        }
    }
    Err(match wrong {
        Some((program, found)) => DevnetError::AnvilVersion {
            program,
            found,
            needed: format!("{}.{}", TESTED.0, TESTED.1),
        },
        None => DevnetError::AnvilMissing,
    })
}

fn candidates() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).map(|dir| dir.join("anvil"));
    // npm's launcher is a script that starts the real program as a child of its own, out of our
    // reach: take the program itself, which lies in the package of this platform.
    let real = |program: PathBuf| -> Option<PathBuf> {
        let target = fs::canonicalize(&program).ok()?;
        (target.extension().is_none() && target.is_file()).then_some(program)
    };
    let here = std::env::current_dir().unwrap_or_default();
    let packages = here
        .ancestors()
        .filter_map(|dir| fs::read_dir(dir.join("node_modules/@foundry-rs")).ok())
        .flatten()
        .filter_map(Result::ok)
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("anvil-"))
        .map(|entry| entry.path().join("bin/anvil"));
    on_path.chain(packages).filter_map(real).collect()
}

/// Reads `anvil Version: 1.7.1-...`; `None` if the program does not run or says something else.
fn version(program: &Path) -> Option<(u64, u64, u64)> {
    let output = Command::new(program).arg("--version").stdin(Stdio::null()).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    parse_version(&text)
}

fn parse_version(text: &str) -> Option<(u64, u64, u64)> {
    let first = text.lines().next()?.split_whitespace().last()?;
    let mut numbers = first.split(['-', '+']).next()?.split('.').map(|part| part.parse().ok());
    let version = (numbers.next()??, numbers.next()??, numbers.next()??);
    numbers.next().is_none().then_some(version)
}

fn last_line(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it said nothing").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_version_line() {
        assert_eq!(parse_version("anvil Version: 1.7.1\nCommit SHA: 40"), Some((1, 7, 1)));
        assert_eq!(parse_version("anvil Version: 1.8.0-nightly+ab12"), Some((1, 8, 0)));
        assert_eq!(parse_version("command not found"), None);
        assert_eq!(parse_version(""), None);
    }
}
