//! Processes of the demo: started, watched, ended with it.

use std::{
    fs::File,
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
    sync::mpsc,
};

use crate::script::Note;

const READY_LIMIT: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(25);

/// A child whose output goes to a log.
pub struct Logged {
    child: Child,
    name: &'static str,
    log: std::path::PathBuf,
}

impl Logged {
    /// Starts it, adding to the log.
    pub fn start(
        name: &'static str,
        program: &Path,
        args: &[&str],
        log: &Path,
    ) -> anyhow::Result<Self> {
        let out = File::options().create(true).append(true).open(log)?;
        let child = Command::new(program)
            .args(args)
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("start {}", program.display()))?;
        Ok(Self { child, name, log: log.to_owned() })
    }

    /// Waits until `ready` says so; fails if the child ends first or the time is over.
    pub async fn until<F: Future<Output = bool>>(
        &mut self,
        ready: impl Fn() -> F,
    ) -> anyhow::Result<()> {
        let deadline = Instant::now() + READY_LIMIT;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait()? {
                let said = std::fs::read_to_string(&self.log).unwrap_or_default();
                bail!("{} ended ({status}):\n{said}", self.name);
            }
            if ready().await {
                return Ok(());
            }
            tokio::time::sleep(LOOK).await;
        }
        bail!(
            "{} is not ready after {} s; see {}",
            self.name,
            READY_LIMIT.as_secs(),
            self.log.display()
        )
    }

    /// SIGKILL: no goodbye, nothing flushed.
    pub async fn kill(mut self) -> anyhow::Result<()> {
        self.child.kill().await.with_context(|| format!("kill {}", self.name))
    }

    /// SIGTERM, and waits for an orderly end.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        if let Some(pid) = self.child.id() {
            Command::new("kill").args(["-TERM", &pid.to_string()]).status().await?;
        }
        match tokio::time::timeout(READY_LIMIT, self.child.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(_) => bail!("{} did not end in order; see {}", self.name, self.log.display()),
            Err(_) => bail!("{} did not end within {} s", self.name, READY_LIMIT.as_secs()),
        }
    }
}

/// What arrives from an actor: its name, and a note or (`None`) its end with the exit's success.
pub struct Heard {
    pub who: String,
    pub what: What,
}

/// A note, a line that is none (shown as it is), or the end.
pub enum What {
    Note(Note),
    Text(String),
    End { success: bool },
}

/// Starts an actor of the demo: this program again, with a role. Its notes go to `heard`.
pub fn actor(
    who: &str,
    args: &[&str],
    heard: mpsc::Sender<Heard>,
) -> anyhow::Result<tokio::task::JoinHandle<()>> {
    let mut child = Command::new(std::env::current_exe()?)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let who = who.to_owned();
    let out = child.stdout.take().context("no standard output")?;
    let err = child.stderr.take().context("no standard error")?;
    Ok(tokio::spawn(async move {
        let (mut out, mut err) = (BufReader::new(out).lines(), BufReader::new(err).lines());
        let say = async |what| {
            // The receiver lives as long as the demo.
            let _ = heard.send(Heard { who: who.clone(), what }).await;
        };
        let (mut more_out, mut more_err) = (true, true);
        while more_out || more_err {
            tokio::select! {
                line = out.next_line(), if more_out => match line {
                    Ok(Some(line)) => match serde_json::from_str(&line) {
                        Ok(note) => say(What::Note(note)).await,
                        Err(_) => say(What::Text(line)).await,
                    },
                    Ok(None) | Err(_) => more_out = false,
                },
                line = err.next_line(), if more_err => match line {
                    Ok(Some(line)) => say(What::Text(line)).await,
                    Ok(None) | Err(_) => more_err = false,
                },
            }
        }
        let success = child.wait().await.is_ok_and(|status| status.success());
        say(What::End { success }).await;
    }))
}
