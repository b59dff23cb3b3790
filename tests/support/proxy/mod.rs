//! A scripted JSON-RPC proxy between daemon and node: it loses requests and answers, delays, cuts
//! and swells them, speaks for other clients, lags behind, and keeps stricter rules than anvil.

mod node;
mod wire;

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{
    io::BufReader,
    net::{TcpListener, TcpStream},
    sync::Notify,
    task::JoinHandle,
};

use node::Node;
pub use node::Rules;
use wire::Reply;

/// What befalls a call.
#[derive(Clone, Debug)]
pub enum Fault {
    /// The node never hears of it; the connection ends.
    Lost,
    /// The node does it; the connection ends without an answer.
    Unanswered,
    /// The node does it; the answer comes so much later.
    Late(Duration),
    /// The node never hears of it; a JSON-RPC error is the answer.
    Refused(i64, &'static str),
    /// The node does it; a JSON-RPC error is the answer all the same.
    Belied(i64, &'static str),
    /// The node never hears of it; this is the result.
    Says(Value),
    /// The node never hears of it: a gateway answers with this status and body.
    Gateway(u16, &'static str),
    /// The node does it; half of the answer arrives.
    Half,
    /// The node does it; the answer arrives byte by byte, each after this pause.
    Drip(Duration),
    /// The node never hears of it; an answer of so many bytes arrives.
    Swollen(usize),
    /// The node never hears of it; a list of so many empty answers arrives.
    Many(usize),
}

struct Armed {
    method: &'static str,
    left: u64,
    fault: Fault,
}

#[derive(Default)]
struct Script {
    faults: Vec<Armed>,
    asked: HashMap<String, u64>,
    reversed: bool,
}

struct Shared {
    node: Node,
    script: Mutex<Script>,
    is_open: AtomicBool,
    cut: Notify,
}

/// A proxy on a port of its own. Dropping it closes the port.
pub struct Proxy {
    addr: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// Stands before the node at `url`, and changes nothing yet.
    pub async fn start(url: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            node: Node::new(url),
            script: Mutex::default(),
            is_open: true.into(),
            cut: Notify::new(),
        });
        let serving = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                if !serving.is_open.load(Ordering::SeqCst) {
                    continue;
                }
                let shared = Arc::clone(&serving);
                tokio::spawn(async move {
                    tokio::select! {
                        _ = shared.serve(stream) => {}
                        () = shared.cut.notified() => {}
                    }
                });
            }
        });
        Self { addr, shared, task }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Ends every connection, and closes each new one at once.
    pub fn cut(&self) {
        self.shared.is_open.store(false, Ordering::SeqCst);
        self.shared.cut.notify_waiters();
    }

    pub fn mend(&self) {
        self.shared.is_open.store(true, Ordering::SeqCst);
    }

    /// From now on `fault` befalls the next `times` requests that call `method`.
    pub fn on(&self, method: &'static str, times: u64, fault: Fault) {
        self.shared.script().faults.push(Armed { method, left: times, fault });
    }

    /// The same until [`Proxy::calm`].
    pub fn always(&self, method: &'static str, fault: Fault) {
        self.on(method, u64::MAX, fault);
    }

    /// No more faults; [`Rules`] stay.
    pub fn calm(&self) {
        self.shared.script().faults.clear();
    }

    /// Answers batches in reverse order.
    pub fn reverse(&self) {
        self.shared.script().reversed = true;
    }

    /// How many faults are still to come.
    pub fn left(&self) -> u64 {
        self.shared.script().faults.iter().map(|armed| armed.left).sum()
    }

    /// Calls of a method so far, whatever became of them.
    pub fn asked(&self, method: &str) -> u64 {
        self.shared.script().asked.get(method).copied().unwrap_or(0)
    }

    /// Forgets what the strict rules know of the pool, as a node does that was started anew.
    pub fn forget(&self) {
        self.shared.node.forget();
    }

    /// Changes how the node behaves.
    pub fn rules(&self, change: impl FnOnce(&mut Rules)) {
        change(&mut self.shared.node.rules());
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn error(code: i64, message: &str) -> Value {
    json!({ "error": { "code": code, "message": message } })
}

impl Shared {
    /// Answers the requests of a connection, until it ends or an answer is withheld.
    async fn serve(&self, stream: TcpStream) -> std::io::Result<()> {
        let (read, mut write) = stream.into_split();
        let mut read = BufReader::new(read);
        while let Some(body) = wire::read(&mut read).await? {
            let Some(reply) = self.answer(body).await else { break };
            wire::write(&mut write, reply).await?;
        }
        Ok(())
    }

    fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap()
    }

    /// Notes the calls of a request, and takes the fault that is its turn.
    fn befalls(&self, methods: &[&str]) -> Option<(&'static str, Fault)> {
        let mut script = self.script();
        for method in methods {
            *script.asked.entry((*method).to_owned()).or_default() += 1;
        }
        let armed = script
            .faults
            .iter_mut()
            .find(|armed| armed.left > 0 && methods.contains(&armed.method))?;
        armed.left -= 1;
        Some((armed.method, armed.fault.clone()))
    }

    /// Answers the body of one HTTP request; `None` ends the connection.
    async fn answer(&self, body: Vec<u8>) -> Option<Reply> {
        let request: Value = serde_json::from_slice(&body).unwrap();
        let calls: Vec<&Value> = match &request {
            Value::Array(list) => list.iter().collect(),
            one => vec![one],
        };
        let method = |call: &Value| call["method"].as_str().unwrap().to_owned();
        let methods: Vec<String> = calls.iter().map(|call| method(call)).collect();
        let names: Vec<&str> = methods.iter().map(String::as_str).collect();
        let fault = self.befalls(&names);
        match &fault {
            Some((_, Fault::Lost)) => return None,
            Some((_, Fault::Gateway(status, page))) => return Some(Reply::page(*status, page)),
            Some((_, Fault::Swollen(bytes))) => {
                return Some(Reply::ok(format!("{{\"result\":\"{}\"}}", "f".repeat(*bytes))));
            }
            Some((_, Fault::Many(count))) => {
                return Some(Reply::ok(format!("[{}{{}}]", "{},".repeat(*count))));
            }
            _ => {}
        }
        let view = self.node.view().await;
        let mut answers = Vec::with_capacity(calls.len());
        for call in &calls {
            let method = method(call);
            let mut answer = match &fault {
                Some((on, Fault::Refused(code, message))) if *on == method => error(*code, message),
                Some((on, Fault::Says(result))) if *on == method => json!({ "result": result }),
                Some((on, Fault::Belied(code, message))) if *on == method => {
                    self.node.call(&view, &method, &call["params"]).await;
                    error(*code, message)
                }
                _ => self.node.call(&view, &method, &call["params"]).await,
            };
            answer["jsonrpc"] = json!("2.0");
            answer["id"] = call["id"].clone();
            answers.push(answer);
        }
        if self.script().reversed {
            answers.reverse();
        }
        let text = if request.is_array() {
            Value::Array(answers).to_string()
        } else {
            answers.remove(0).to_string()
        };
        Some(match fault {
            Some((_, Fault::Unanswered)) => return None,
            Some((_, Fault::Late(pause))) => {
                tokio::time::sleep(pause).await;
                Reply::ok(text)
            }
            Some((_, Fault::Half)) => Reply::ok(text[..text.len() / 2].to_owned()),
            Some((_, Fault::Drip(pause))) => Reply { drip: Some(pause), ..Reply::ok(text) },
            _ => Reply::ok(text),
        })
    }
}
