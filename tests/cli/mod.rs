//! Commands through the real binary.

mod channels;
mod devnet;
mod doctor;
mod escrow;
mod fetch;
/// Needs Linux for setsid(1) and `/dev/fd` semantics.
#[cfg(target_os = "linux")]
mod init;
mod reconcile;

use std::{
    io::Write as _,
    process::{Command, Output, Stdio},
};

use serde_json::Value;

use crate::support::World;

/// Runs what a person types after `bursar` in the devnet's folder, with the daemon at `url` as the one to
/// talk to; `input` goes to its standard input.
pub fn bursar_at(world: &World, url: &str, line: &str, input: &str) -> Output {
    let mut child = Command::new("sh")
        .args(["-c", &format!("exec \"$BURSAR\" {line}")])
        .current_dir(&world.card.dir)
        .env("BURSAR", env!("CARGO_BIN_EXE_bursar"))
        .env("BURSAR_URL", url)
        .env_remove("BURSAR_AGENT_KEY")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

/// The same with this world's daemon, and nothing to read.
fn run(world: &World, line: &str) -> Output {
    bursar_at(world, &world.card.api, line, "")
}

/// What a command said, on either stream.
pub fn said(output: &Output) -> String {
    let text = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    String::from_utf8(text).unwrap()
}

/// A command that must end with this code; what it said.
pub fn ends(world: &World, line: &str, code: i32) -> String {
    let output = run(world, line);
    assert_eq!(output.status.code(), Some(code), "{line}\n{}", said(&output));
    said(&output)
}

/// A command that must succeed; its JSON.
pub fn json(world: &World, line: &str) -> Value {
    let output = run(world, &format!("{line} --json"));
    assert!(output.status.success(), "{line}\n{}", said(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The switches of an operator.
pub fn operator(world: &World, index: usize) -> String {
    let entry = &world.card.operators[index];
    let (key, pass) = (entry.keystore.display(), entry.passphrase_file.display());
    format!("--keystore {key} --passphrase-file {pass}")
}

/// The switch of an agent.
pub fn agent(world: &World, name: &str) -> String {
    let file = world.card.agents[&name.parse().unwrap()].request_key.display();
    format!("--agent-key {file}")
}
