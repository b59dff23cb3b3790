//! The real `bursar serve` as a process of its own.

use std::{
    ffi::OsString,
    fs::OpenOptions,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use super::wait_for;

/// Variables beside those of the test.
pub type Environment = Vec<(&'static str, OsString)>;

/// A running daemon. Dropping it kills it.
pub struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Starts one and waits until it answers.
    pub async fn start(config: &Path, api: &str, env: &Environment) -> Self {
        let mut daemon = Self::spawn(config, env);
        if !daemon.answers(api).await {
            let status = daemon.child.wait().unwrap();
            panic!("the daemon ended with {status}:\n{}", daemon.tail());
        }
        daemon
    }

    /// Starts one that may end before it answers.
    pub async fn try_start(config: &Path, api: &str, env: &Environment) -> Self {
        let mut daemon = Self::spawn(config, env);
        daemon.answers(api).await;
        daemon
    }

    fn spawn(config: &Path, env: &Environment) -> Self {
        let log = config.with_extension("log");
        let out = OpenOptions::new().create(true).append(true).open(&log).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_bursar"))
            .arg("serve")
            .arg("--config")
            .arg(config)
            .stdin(Stdio::null())
            .stdout(out.try_clone().unwrap())
            .stderr(out)
            .envs(env.iter().map(|(name, value)| (name, value)))
            .spawn()
            .unwrap();
        Self { child, log }
    }

    /// Waits until it answers; `false` if it ended before.
    async fn answers(&mut self, api: &str) -> bool {
        let health = format!("{api}/healthz");
        let http = reqwest::Client::new();
        wait_for("the daemon", async || {
            if self.child.try_wait().unwrap().is_some() {
                return Some(false);
            }
            let answer = http.get(&health).timeout(Duration::from_secs(1)).send().await;
            answer.ok().map(|_| true)
        })
        .await
    }

    /// SIGKILL: nothing is said, nothing is finished.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM: it ends by itself, in order.
    pub async fn stop(mut self) {
        self.terminate();
        let status = self.ended().await;
        assert!(status.success(), "{status}:\n{}", self.tail());
    }

    /// SIGTERM, without waiting.
    pub fn terminate(&self) {
        self.signal("-TERM");
    }

    /// SIGSTOP: it does nothing until SIGCONT.
    pub fn pause(&self, pause: bool) {
        self.signal(if pause { "-STOP" } else { "-CONT" });
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    /// Has it ended by itself?
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it has ended by itself.
    pub async fn ended(&mut self) -> ExitStatus {
        wait_for("the daemon's end", async || self.child.try_wait().unwrap()).await
    }

    /// The most memory it ever had, in MiB.
    pub fn peak_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
        let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        kib / 1024
    }

    /// The last lines of its log.
    pub fn tail(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the daemon's last lines ---\n{}", self.tail());
        }
        // It may have ended already; a destructor has nobody to tell.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
