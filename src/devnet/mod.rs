//! A devnet: anvil with USDC, a seeded PolicyWallet, and the files that the daemon, the agents and
//! the operators of it start from. `bursar devnet`, the demo and the tests use the same call.

mod anvil;
mod deploy;
mod files;
mod profile;

use std::{
    fs, io,
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
};

use crate::keys::KeyError;
use crate::policy::{CategoriesError, PolicyError};

pub use anvil::BlockTime;
pub use files::{AgentEntry, Manifest, OperatorEntry, PayeeEntry};
pub use profile::{Plan, Profile, ProfileName};

use anvil::Anvil;
use files::Earlier;

/// How to start a devnet.
#[derive(Clone, Debug)]
pub struct Options {
    /// Which chain it plays.
    pub profile: ProfileName,
    /// JSON-RPC port on 127.0.0.1; 0 takes a free one.
    pub port: u16,
    /// Where its files go. Made if missing.
    pub dir: PathBuf,
    /// Rhythm of blocks; `None` for the profile's own.
    pub block_time: Option<BlockTime>,
    /// Remove the files of an earlier devnet in `dir` first.
    pub fresh: bool,
    /// The daemon's port on 127.0.0.1, written into its configuration.
    pub daemon_port: u16,
}

impl Default for Options {
    /// The local profile at port 8545 with files in `.devnet`, the daemon at 8402.
    fn default() -> Self {
        Self {
            profile: ProfileName::Local,
            port: 8545,
            dir: PathBuf::from(".devnet"),
            block_time: None,
            fresh: false,
            daemon_port: 8402,
        }
    }
}

/// Draws a port of 127.0.0.1 for a server that starts later. Not one of those that systems hand out by
/// themselves (from 32768): another server, or a connection, could get it first and answer in its place.
///
/// # Errors
/// What the last port tried said, if none of a thousand is free.
pub fn free_port() -> io::Result<u16> {
    let mut failed = io::ErrorKind::AddrInUse.into();
    for _ in 0..1_000 {
        let port = 10_000 + rand::random::<u16>() % 20_000;
        match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            Ok(_) => return Ok(port),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

/// A running devnet. Dropping it ends the chain; its files stay.
#[derive(Debug)]
pub struct Devnet {
    manifest: Manifest,
    anvil: Anvil,
}

impl Devnet {
    /// Starts a chain, deploys and seeds the contracts, writes the files.
    ///
    /// # Errors
    /// [`DevnetError`]; whatever was started by then is ended.
    pub async fn start(options: Options) -> Result<Self, DevnetError> {
        let profile = Profile::load(options.profile)?;
        let plan = Plan::load()?;
        let dir = claim(&options.dir, options.fresh).await?;
        let block_time = options.block_time.unwrap_or(BlockTime::Every(profile.block_time_ms));
        let anvil =
            Anvil::start(&profile, options.port, block_time, &dir.join("anvil.log")).await?;
        let cast = files::Cast::make(&plan, &profile, &dir)?;
        let deployed = deploy::deploy(anvil.url(), &profile, &plan, &cast).await?;
        let manifest =
            files::write(&dir, &options, &profile, &plan, &cast, &deployed, anvil.url())?;
        Ok(Self { manifest, anvil })
    }

    /// Everything about it: addresses, endpoints, files.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Has the chain ended by itself (killed, crashed)?
    pub fn has_ended(&mut self) -> bool {
        self.anvil.has_ended()
    }
}

/// Takes the directory for this devnet, and returns its absolute path.
async fn claim(dir: &Path, fresh: bool) -> Result<PathBuf, DevnetError> {
    fs::create_dir_all(dir).map_err(|e| DevnetError::io("create", dir, e))?;
    let dir = fs::canonicalize(dir).map_err(|e| DevnetError::io("find", dir, e))?;
    if is_empty(&dir)? {
        return Ok(dir);
    }
    match Manifest::find(&dir)? {
        Earlier::Foreign => return Err(DevnetError::NotOurs { dir }),
        Earlier::Complete(Some(earlier)) if deploy::is_alive(&earlier).await => {
            return Err(DevnetError::Running { dir, rpc: earlier.rpc });
        }
        Earlier::Complete(_) if !fresh => return Err(DevnetError::Stale { dir }),
        Earlier::Complete(_) | Earlier::CutShort => {}
    }
    fs::remove_dir_all(&dir).map_err(|e| DevnetError::io("remove", &dir, e))?;
    fs::create_dir(&dir).map_err(|e| DevnetError::io("create", &dir, e))?;
    Ok(dir)
}

fn is_empty(dir: &Path) -> Result<bool, DevnetError> {
    let mut entries = fs::read_dir(dir).map_err(|e| DevnetError::io("read", dir, e))?;
    Ok(entries.next().is_none())
}

/// Why a devnet cannot start.
#[derive(Debug, thiserror::Error)]
pub enum DevnetError {
    /// Something listens there already.
    #[error("port {port} is in use{}", .chain_id.map(|id| format!(" by a chain with id {id}")).unwrap_or_default())]
    PortInUse {
        /// The port asked for.
        port: u16,
        /// What the holder says its chain id is, if it is a node.
        chain_id: Option<u64>,
    },
    /// The port cannot be taken for another reason.
    #[error("cannot listen on port {port}: {source}")]
    Port {
        /// The port asked for.
        port: u16,
        /// The system's answer.
        source: io::Error,
    },
    /// No anvil anywhere.
    #[error("anvil is not installed: not on PATH, and in no node_modules from here upwards")]
    AnvilMissing,
    /// Only an anvil of another line.
    #[error("{} is version {found}; the devnet needs {needed} or a later {}.x", .program.display(), .needed.split('.').next().unwrap_or_default())]
    AnvilVersion {
        /// The first one found.
        program: PathBuf,
        /// Its version.
        found: String,
        /// The least version.
        needed: String,
    },
    /// anvil ended or stayed silent.
    #[error("anvil did not start: {last}")]
    AnvilFailed {
        /// Its output.
        log: PathBuf,
        /// The last thing it said.
        last: String,
    },
    /// The directory holds an earlier devnet whose chain is gone.
    #[error("{} belongs to a devnet whose chain is gone", .dir.display())]
    Stale {
        /// The directory.
        dir: PathBuf,
    },
    /// The directory holds a devnet that runs.
    #[error("the devnet of {} is running at {rpc}", .dir.display())]
    Running {
        /// The directory.
        dir: PathBuf,
        /// Its chain.
        rpc: String,
    },
    /// The directory has files that no devnet wrote.
    #[error("{} is not empty and no devnet's", .dir.display())]
    NotOurs {
        /// The directory.
        dir: PathBuf,
    },
    /// An embedded description cannot be used.
    #[error("{file}: {source}")]
    Description {
        /// Which.
        file: &'static str,
        /// What is wrong with it.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The chain refused a step, or answered nonsense.
    #[error("{step}: {why}")]
    Chain {
        /// What was being done.
        step: &'static str,
        /// The chain's answer.
        why: String,
    },
    /// A key could not be made or written.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A file or directory refused.
    #[error("cannot {action} {}: {source}", .path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

impl DevnetError {
    fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { action, path: path.to_owned(), source }
    }

    fn chain(step: &'static str) -> impl Fn(alloy::transports::TransportError) -> Self {
        move |why| Self::Chain { step, why: why.to_string() }
    }

    /// What to do about it, where there is something.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::PortInUse { port, .. } => format!(
                "stop what listens there (`ss -ltnp 'sport = :{port}'` names it), or choose another with --port"
            ),
            Self::Port { .. } => "choose another with --port".to_owned(),
            Self::AnvilMissing => {
                "run `npm ci` in bursar's source tree and start from there, or put Foundry's anvil on PATH".to_owned()
            }
            Self::AnvilVersion { .. } => {
                "run `npm ci` in bursar's source tree for the version it is tested with".to_owned()
            }
            Self::AnvilFailed { log, .. } => format!("its output is in {}", log.display()),
            Self::Stale { .. } => {
                "--fresh removes that directory, its keys and its payments, and starts anew".to_owned()
            }
            Self::Running { .. } => {
                "use it, stop it, or start another with --dir and --port".to_owned()
            }
            Self::NotOurs { .. } => "choose another directory with --dir".to_owned(),
            Self::Description { .. } | Self::Chain { .. } | Self::Key(_) | Self::Io { .. } => {
                return None;
            }
        })
    }
}

impl From<CategoriesError> for DevnetError {
    fn from(source: CategoriesError) -> Self {
        Self::Description { file: "script/devnet.toml", source: Box::new(source) }
    }
}

impl From<PolicyError> for DevnetError {
    fn from(source: PolicyError) -> Self {
        Self::Description { file: "script/devnet.toml", source: Box::new(source) }
    }
}
