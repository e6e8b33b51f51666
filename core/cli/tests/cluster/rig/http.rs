//! The smallest client that can tell what happened.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
}

/// One request on a connection of its own.
pub(crate) fn get(address: SocketAddr, host: &str, path: &str) -> io::Result<Answer> {
    let limit = Duration::from_secs(10);
    let mut stream = TcpStream::connect_timeout(&address, limit)?;
    stream.set_read_timeout(Some(limit))?;
    stream.set_write_timeout(Some(limit))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    parse(&String::from_utf8_lossy(&bytes)).ok_or_else(|| {
        let text = format!("no whole answer: {:?}", String::from_utf8_lossy(&bytes));
        io::Error::new(io::ErrorKind::UnexpectedEof, text)
    })
}

fn parse(text: &str) -> Option<Answer> {
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    let header = |name: &str| {
        let lines = head.lines().skip(1).filter_map(|line| line.split_once(": "));
        lines.into_iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim().to_owned())
    };
    let body = match header("transfer-encoding").as_deref() {
        Some("chunked") => unchunk(body)?,
        _ => body.to_owned(),
    };
    let whole = header("content-length").is_none_or(|length| length.parse() == Ok(body.len()));
    whole.then_some(Answer { status, body })
}

fn unchunk(mut body: &str) -> Option<String> {
    let mut whole = String::new();
    loop {
        let (size, rest) = body.split_once("\r\n")?;
        let size = usize::from_str_radix(size.trim(), 16).ok()?;
        if size == 0 {
            return Some(whole);
        }
        whole += rest.get(..size)?;
        body = rest.get(size + 2..)?;
    }
}

// === impl Answer ===

impl Answer {
    /// The pod that answered, as yard-echo says.
    #[track_caller]
    pub(crate) fn pod(&self) -> String {
        let echo: Value = serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("no echo: {self:?}"));
        echo["pod"].as_str().unwrap_or_else(|| panic!("no pod: {self:?}")).to_owned()
    }
}
