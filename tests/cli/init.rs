//! `bursar init` through the real binary: descriptors, files, refusals, and a terminal.

use std::{
    fs,
    io::{Read, Write},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Output, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    time::{Duration, Instant},
};

use bursar::keys::{Keys, Mnemonic, Passphrase, seed};
use tempfile::TempDir;

const JUNK: &str = "test test test test test test test test test test test junk";
const PASS: &str = "correct horse battery staple";
const AGENT: &str = "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266";
const RELAYER: &str = "0x8C8d35429F74ec245F8Ef2f4Fd1e551cFF97d650";
const AUDIT: &str = "57a10b231550df84c4b3fd94210b0d4a48f08cde5d1fba8044429ef3f41a0d89";

/// A directory with the phrase and the passphrase in files of mode 0600.
fn place() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in [("words", JUNK), ("pass", PASS)] {
        let path = dir.path().join(name);
        fs::write(&path, format!("{text}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }
    dir
}

/// Runs `bursar init` by a shell, which can redirect descriptors, in a session without terminal.
fn init(dir: &TempDir, args: &str) -> Output {
    Command::new("setsid")
        .args(["-w", "sh", "-c", &format!("exec \"$0\" init {args}"), env!("CARGO_BIN_EXE_bursar")])
        .current_dir(dir.path())
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn refused(dir: &TempDir, args: &str, code: i32, says: &str) {
    let before = names(dir.path());
    let output = init(dir, args);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{args}: {stderr}");
    assert!(stderr.contains(says), "{args}: {stderr}");
    assert!(output.stdout.is_empty());
    assert!(!stderr.contains("junk") && !stderr.contains("horse"), "{stderr}");
    assert_eq!(names(dir.path()), before, "{args}: left something behind");
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn passphrase() -> Passphrase {
    Passphrase::new(PASS.to_owned()).unwrap()
}

#[test]
fn imports_words_and_proves_it() {
    let dir = place();
    let output =
        init(&dir, "--import --mnemonic-fd 3 --passphrase-fd 4 --json 3<words 4<pass --seed s");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let made: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let expected = serde_json::json!({
        "seed": "s", "imported": true, "agent_0": AGENT, "relayer_0": RELAYER, "audit_key": AUDIT,
    });
    assert_eq!(made, expected);
    let path = dir.path().join("s");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
    assert_eq!(names(dir.path()), ["pass", "s", "words"]);
    let keys = Keys::unlock(&path, &passphrase()).unwrap();
    assert_eq!(keys.agent_address(0).unwrap().to_string(), AGENT);
}

#[test]
fn hands_new_words_to_a_descriptor() {
    let dir = place();
    fs::write(dir.path().join("new"), "").unwrap();
    fs::set_permissions(dir.path().join("new"), fs::Permissions::from_mode(0o600)).unwrap();
    let output = init(&dir, "--words-fd 5 --passphrase-file pass 5>new");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let words = fs::read_to_string(dir.path().join("new")).unwrap();
    assert_eq!(words.split_whitespace().count(), 24);
    let shown = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(!shown.contains(words.trim()));

    let keys = Keys::from_mnemonic(&Mnemonic::parse(&words).unwrap()).unwrap();
    assert!(shown.contains(&keys.agent_address(0).unwrap().to_string()), "{shown}");
    assert!(shown.contains(&keys.relayer(0).unwrap().address().to_string()), "{shown}");
    let stored = seed::read(&dir.path().join("bursar.seed"), &passphrase()).unwrap();
    assert!(stored.phrase() == words.trim());
}

#[test]
fn refusals_leave_nothing_behind() {
    let dir = place();
    // Nowhere to show or ask.
    refused(&dir, "--passphrase-file pass", 3, "--words-fd");
    refused(&dir, "--words-fd 5 5>/dev/null", 3, "--passphrase-fd");
    refused(&dir, "--import --passphrase-file pass", 3, "--mnemonic-fd");
    // Secrets that are not good enough, or not there.
    refused(&dir, "--import --mnemonic-fd 3 --passphrase-fd 4 3</dev/null 4<pass", 2, "0 words");
    refused(&dir, "--import --mnemonic-fd 3 --passphrase-fd 4 3<pass 4<pass", 2, "4 words");
    refused(&dir, "--import --mnemonic-fd 3 --passphrase-fd 4 3<words 4</dev/null", 2, "empty");
    refused(&dir, "--import --mnemonic-fd 3 --passphrase-fd 3 3<words", 2, "named twice");
    refused(&dir, "--import --mnemonic-fd 3 --passphrase-fd 9 3<words", 3, "descriptor 9");
    refused(&dir, "--words-fd 5 --passphrase-file pass", 3, "descriptor 5");
    // A file that others could read is no place for the words.
    fs::write(dir.path().join("open"), "").unwrap();
    fs::set_permissions(dir.path().join("open"), fs::Permissions::from_mode(0o644)).unwrap();
    refused(&dir, "--words-fd 5 --passphrase-file pass 5>open", 1, "chmod 600");
    assert_eq!(fs::read(dir.path().join("open")).unwrap(), b"");
    refused(&dir, "--import --mnemonic-fd 3 --passphrase-file none 3<words", 3, "no file at none");
    // Words belong on no standard stream, and secrets on no command line.
    refused(&dir, "--words-fd 1 --passphrase-file pass", 2, "--words-fd");
    refused(&dir, "--passphrase secret", 2, "--passphrase");
    // Somewhere to write.
    refused(
        &dir,
        "--import --mnemonic-fd 3 --passphrase-file pass 3<words --seed no/such/place",
        3,
        "no/such/place",
    );
    fs::set_permissions(dir.path().join("pass"), fs::Permissions::from_mode(0o644)).unwrap();
    refused(&dir, "--words-fd 5 --passphrase-file pass 5>/dev/null", 1, "chmod 600 pass");
}

#[test]
fn an_existing_file_is_left_as_it_is() {
    let dir = place();
    fs::write(dir.path().join("bursar.seed"), "precious").unwrap();
    refused(&dir, "--import --mnemonic-fd 3 --passphrase-file pass 3<words", 1, "exists already");
    assert_eq!(fs::read_to_string(dir.path().join("bursar.seed")).unwrap(), "precious");
}

/// `bursar init` on a pseudo-terminal, which script(1) of util-linux gives.
struct Terminal {
    child: std::process::Child,
    input: std::process::ChildStdin,
    output: Receiver<Vec<u8>>,
    seen: String,
}

impl Terminal {
    /// Some distributions package script(1) apart; what a terminal adds to the other tests then goes
    /// untested here, and the output says so.
    fn missing() -> bool {
        let missing = Command::new("script").arg("--version").output().is_err();
        if missing {
            eprintln!("NOT RUN: there is no script(1), which makes the pseudo-terminal");
        }
        missing
    }

    fn start(dir: &TempDir, args: &str) -> Self {
        // A test run in the background is started with SIGINT ignored; a person's shell is not.
        let command = format!(
            "echo $$ >pid; exec env --default-signal=INT {} init {args} >out",
            env!("CARGO_BIN_EXE_bursar")
        );
        let mut child = Command::new("script")
            .args(["-qec", &command, "/dev/null"])
            .current_dir(dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (sender, output) = channel();
        let mut screen = child.stdout.take().unwrap();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = screen.read(&mut buffer) {
                if sender.send(buffer[..n].to_vec()).is_err() {
                    break;
                }
            }
        });
        let input = child.stdin.take().unwrap();
        Self { child, input, output, seen: String::new() }
    }

    /// What the screen shows until this text appears, from the last such call on.
    fn until(&mut self, text: &str) -> String {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            if let Some(at) = self.seen.find(text) {
                return self.seen.drain(..at + text.len()).collect();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match self.output.recv_timeout(left) {
                Ok(bytes) => self.seen.push_str(&String::from_utf8_lossy(&bytes)),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    panic!("no {text:?} in {:?}", self.seen)
                }
            }
        }
    }

    fn enter(&mut self, line: &str) {
        self.input.write_all(format!("{line}\n").as_bytes()).unwrap();
        self.input.flush().unwrap();
    }

    /// Passphrase twice, then the words off the screen.
    fn reach_the_words(&mut self) -> Vec<String> {
        self.until("seed file: ");
        self.enter(PASS);
        self.until("Again: ");
        self.enter(PASS);
        let screen = self.until("Press Enter");
        let grid = screen.split("only now.").nth(1).unwrap();
        let words = grid.split_whitespace().filter(|w| w.bytes().all(|b| b.is_ascii_lowercase()));
        let words: Vec<String> = words.map(str::to_owned).collect();
        assert_eq!(words.len(), 24, "{screen}");
        self.enter("");
        self.until("\x1b[2J");
        words
    }

    /// The number in the next question for a word.
    fn asked(&mut self) -> usize {
        self.until("Word ");
        self.until(": ").trim_end_matches(": ").parse().unwrap()
    }

    fn end(mut self) -> Option<i32> {
        drop(self.input);
        self.child.wait().unwrap().code()
    }
}

#[test]
fn on_a_terminal_words_are_shown_checked_and_kept_off_stdout() {
    if Terminal::missing() {
        return;
    }
    let dir = place();
    let mut terminal = Terminal::start(&dir, "--json");
    let words = terminal.reach_the_words();
    assert!(!dir.path().join("bursar.seed").exists(), "written before the check");
    for _ in 0..3 {
        let number = terminal.asked();
        terminal.enter(&words[number - 1]);
    }
    assert_eq!(terminal.end(), Some(0));
    let out = fs::read_to_string(dir.path().join("out")).unwrap();
    let made: serde_json::Value = serde_json::from_str(&out).unwrap();
    let keys = Keys::from_mnemonic(&Mnemonic::parse(&words.join(" ")).unwrap()).unwrap();
    assert_eq!(made["agent_0"], keys.agent_address(0).unwrap().to_string());
    let stored = seed::read(&dir.path().join("bursar.seed"), &passphrase()).unwrap();
    assert!(stored.phrase() == words.join(" "));
}

#[test]
fn on_a_terminal_a_failed_check_writes_nothing() {
    if Terminal::missing() {
        return;
    }
    let dir = place();
    let mut terminal = Terminal::start(&dir, "");
    terminal.reach_the_words();
    for _ in 0..3 {
        terminal.asked();
        terminal.enter("wrong");
    }
    terminal.until("nothing was written");
    assert_eq!(terminal.end(), Some(1));
    assert_eq!(names(dir.path()), ["out", "pass", "pid", "words"]);
    assert_eq!(fs::read_to_string(dir.path().join("out")).unwrap(), "");
}

#[test]
fn on_a_terminal_ctrl_c_clears_the_words_and_writes_nothing() {
    if Terminal::missing() {
        return;
    }
    let dir = place();
    let mut terminal = Terminal::start(&dir, "--passphrase-file pass");
    terminal.until("is then cleared. ");
    terminal.enter("\x03");
    terminal.until("\x1b[2J");
    terminal.until("stopped");
    assert_eq!(terminal.end(), Some(1));
    assert_eq!(names(dir.path()), ["out", "pass", "pid", "words"]);
}

#[test]
fn on_a_terminal_ctrl_c_between_two_prompts_is_not_forgotten() {
    if Terminal::missing() {
        return;
    }
    let dir = place();
    let mut terminal = Terminal::start(&dir, "--passphrase-file pass");
    terminal.until("is then cleared. ");
    // As the terminal does while no prompt has it in its hands.
    let pid = fs::read_to_string(dir.path().join("pid")).unwrap();
    assert!(Command::new("kill").args(["-INT", pid.trim()]).status().unwrap().success());
    terminal.enter("");
    terminal.until("stopped");
    assert_eq!(terminal.end(), Some(1));
    assert_eq!(names(dir.path()), ["out", "pass", "pid", "words"]);
}

#[test]
fn on_a_terminal_passphrases_must_agree_and_words_are_typed() {
    if Terminal::missing() {
        return;
    }
    let dir = place();
    let mut terminal = Terminal::start(&dir, "--import");
    terminal.until("seed file: ");
    terminal.enter(PASS);
    terminal.until("Again: ");
    terminal.enter("something else");
    terminal.until("differ");
    assert_eq!(terminal.end(), Some(1));
    assert!(!dir.path().join("bursar.seed").exists());

    let mut terminal = Terminal::start(&dir, "--import --passphrase-file pass");
    terminal.until("spaces: ");
    terminal.enter(JUNK);
    assert_eq!(terminal.end(), Some(0));
    assert!(fs::read_to_string(dir.path().join("out")).unwrap().contains(AGENT));
}
