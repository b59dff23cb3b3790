//! A line between daemon and PostgreSQL that can be cut inside a commit.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UnixStream},
    sync::watch,
    task::JoinHandle,
};

/// On which side of the commit it is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// The server never hears of it.
    Before,
    /// The server has done it and said so; nobody hears that.
    After,
}

/// The next commit of a transaction that ran a statement with this text.
type Armed = Arc<Mutex<Option<(&'static str, Cut)>>>;

/// The line. Dropping it ends it.
pub struct Line {
    url: String,
    armed: Armed,
    task: JoinHandle<()>,
}

impl Line {
    /// Lays one to the server behind `url`, which names its socket's folder.
    pub async fn to(url: &str) -> Self {
        let (_, folder) = url.split_once("?host=").unwrap();
        let socket = format!("{folder}/.s.PGSQL.5432");
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let armed = Armed::default();
        let arm = Arc::clone(&armed);
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (socket, armed) = (socket.clone(), Arc::clone(&arm));
                tokio::spawn(async move {
                    // A connection that breaks is what this is for.
                    let _ = carry(client, &socket, &armed).await;
                });
            }
        });
        let url = format!("postgres://postgres@{addr}/postgres?sslmode=disable");
        Self { url, armed, task }
    }

    /// What `store` in the configuration says.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Cuts the next commit of a transaction with a statement that begins with `text`.
    pub fn cut(&self, text: &'static str, cut: Cut) {
        *self.armed.lock().unwrap() = Some((text, cut));
    }

    /// Was it cut since?
    pub fn was_cut(&self) -> bool {
        self.armed.lock().unwrap().is_none()
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What a client's messages say, as far as it matters (the protocol's version 3: a letter, a length
/// that counts itself, texts that end in 0).
#[derive(Default)]
struct Client {
    /// Statements by name.
    prepared: HashMap<Vec<u8>, String>,
    /// What the open transaction ran.
    ran: Vec<String>,
}

impl Client {
    /// Reads a message; answers how the line is cut now.
    fn heard(&mut self, kind: u8, body: &[u8], armed: &Armed) -> Option<Cut> {
        let mut texts = body.split(|byte| *byte == 0);
        let mut text = || texts.next().unwrap_or_default().to_vec();
        match kind {
            b'P' => {
                let (name, sql) = (text(), text());
                self.prepared.insert(name, String::from_utf8(sql).unwrap());
            }
            b'B' => {
                let (_portal, name) = (text(), text());
                self.ran.extend(self.prepared.get(&name).cloned());
            }
            b'Q' => {
                let sql = String::from_utf8(text()).unwrap();
                let ran = std::mem::take(&mut self.ran);
                if !sql.trim().eq_ignore_ascii_case("commit") {
                    return None;
                }
                let mut armed = armed.lock().unwrap();
                let (wanted, cut) = (*armed)?;
                if ran.iter().any(|sql| sql.trim_start().starts_with(wanted)) {
                    *armed = None;
                    return Some(cut);
                }
            }
            _ => {}
        }
        None
    }
}

async fn carry(client: TcpStream, socket: &str, armed: &Armed) -> io::Result<()> {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = UnixStream::connect(socket).await?.into_split();
    let (mute, muted) = watch::channel(false);
    let answers = tokio::spawn(async move {
        let mut bytes = vec![0; 1 << 16];
        loop {
            let count = from_server.read(&mut bytes).await?;
            // The commit's answer is the last thing that is heard of the server.
            if count == 0 || *muted.borrow() {
                return io::Result::Ok(());
            }
            to_client.write_all(&bytes[..count]).await?;
        }
    });
    // The first message has no letter.
    let length = from_client.read_u32().await?;
    let mut body = vec![0; length as usize - 4];
    from_client.read_exact(&mut body).await?;
    to_server.write_u32(length).await?;
    to_server.write_all(&body).await?;
    let mut said = Client::default();
    loop {
        let kind = from_client.read_u8().await?;
        let length = from_client.read_u32().await?;
        let mut body = vec![0; length as usize - 4];
        from_client.read_exact(&mut body).await?;
        let cut = said.heard(kind, &body, armed);
        if cut == Some(Cut::Before) {
            answers.abort();
            return Ok(());
        }
        mute.send_replace(cut == Some(Cut::After));
        to_server.write_u8(kind).await?;
        to_server.write_u32(length).await?;
        to_server.write_all(&body).await?;
        if cut.is_some() {
            answers.await.unwrap()?;
            return Ok(());
        }
    }
}
