//! As much of HTTP/1.1 as one client needs, with every byte of the answer in hand.

use std::time::Duration;

use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::tcp::{OwnedReadHalf, OwnedWriteHalf},
};

/// An answer, and how it is written.
pub struct Reply {
    pub status: u16,
    pub body: String,
    /// Pause after each byte of the body.
    pub drip: Option<Duration>,
}

impl Reply {
    pub const fn ok(body: String) -> Self {
        Self { status: 200, body, drip: None }
    }

    pub fn page(status: u16, body: &str) -> Self {
        Self { status, body: body.to_owned(), drip: None }
    }
}

/// Reads the body of the next request; `None` at the end of the connection.
pub async fn read(stream: &mut BufReader<OwnedReadHalf>) -> std::io::Result<Option<Vec<u8>>> {
    let mut length = 0;
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(None);
        }
        let line = line.trim().to_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        if line.is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    Ok(Some(body))
}

/// Writes an answer.
pub async fn write(stream: &mut OwnedWriteHalf, reply: Reply) -> std::io::Result<()> {
    let head = format!(
        "HTTP/1.1 {} .\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        reply.status,
        reply.body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    let Some(pause) = reply.drip else { return stream.write_all(reply.body.as_bytes()).await };
    for byte in reply.body.bytes() {
        stream.write_all(&[byte]).await?;
        tokio::time::sleep(pause).await;
    }
    Ok(())
}
