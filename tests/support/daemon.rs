//! The real `bursar serve` as a process of its own.

use std::{
    fs::OpenOptions,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use super::wait_for;

/// A running daemon. Dropping it kills it.
pub struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Starts one and waits until it answers.
    pub async fn start(config: &Path, api: &str) -> Self {
        let log = config.with_file_name("daemon.log");
        let out = OpenOptions::new().create(true).append(true).open(&log).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_bursar"))
            .arg("serve")
            .arg("--config")
            .arg(config)
            .stdin(Stdio::null())
            .stdout(out.try_clone().unwrap())
            .stderr(out)
            .spawn()
            .unwrap();
        let mut daemon = Self { child, log };
        let health = format!("{api}/healthz");
        let http = reqwest::Client::new();
        wait_for("the daemon", async || {
            if let Some(status) = daemon.child.try_wait().unwrap() {
                panic!("the daemon ended with {status}:\n{}", daemon.tail());
            }
            http.get(&health).timeout(Duration::from_secs(1)).send().await.ok()
        })
        .await;
        daemon
    }

    /// SIGKILL: nothing is said, nothing is finished.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM: it ends by itself, in order.
    pub async fn stop(mut self) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        let status = wait_for("the daemon's end", async || self.child.try_wait().unwrap()).await;
        assert!(status.success(), "{status}:\n{}", self.tail());
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
