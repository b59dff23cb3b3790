//! A PostgreSQL server of a test's own. The store's unit tests use this file too.

use std::{
    io::{BufRead as _, BufReader, Lines, Write as _},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

/// A running server. Dropping it ends it, and so does the end of this process, whatever ends it.
pub struct Postgres {
    child: Child,
    orders: Option<ChildStdin>,
    answers: Lines<BufReader<ChildStdout>>,
    url: String,
}

impl Postgres {
    /// Starts one with an empty database.
    pub fn start() -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/script/postgres");
        let mut child = Command::new(script)
            .arg("serve")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let orders = child.stdin.take();
        let mut answers = BufReader::new(child.stdout.take().unwrap()).lines();
        let ready = answers.next().expect("PostgreSQL did not start: see above").unwrap();
        let url = ready.strip_prefix("ready ").unwrap().to_owned();
        Self { child, orders, answers, url }
    }

    /// What `store` in the configuration says.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The process whose descendants the server is.
    #[allow(dead_code, reason = "only the benches count what it uses")]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Gives the server an order of `script/postgres`, and waits until it is carried out.
    #[allow(dead_code, reason = "the unit tests of the store and the benches give none")]
    pub fn order(&mut self, order: &str) {
        writeln!(self.orders.as_mut().unwrap(), "{order}").unwrap();
        assert_eq!(self.answers.next().unwrap().unwrap(), "done");
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        drop(self.orders.take());
        // A destructor has nobody to tell.
        let _ = self.child.wait();
    }
}
