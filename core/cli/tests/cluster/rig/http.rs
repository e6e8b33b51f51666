//! The smallest client that can tell what happened.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request<'a> {
    pub(crate) host: &'a str,
    pub(crate) path: &'a str,
    /// With one it is a POST, without a GET.
    pub(crate) body: Option<&'a str>,
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
    /// Whether the connection may be used again.
    keeps: bool,
}

/// A client that uses its connection as long as the server lets it.
pub(crate) struct Client {
    address: SocketAddr,
    connection: Option<BufReader<TcpStream>>,
}

/// Longest that a server may say nothing.
const LIMIT: Duration = Duration::from_secs(10);

/// One request on a connection of its own.
pub(crate) fn get(address: SocketAddr, host: &str, path: &str) -> io::Result<Answer> {
    once(address, Request { host, path, body: None })
}

/// The same with any request.
pub(crate) fn once(address: SocketAddr, request: Request) -> io::Result<Answer> {
    let mut connection = connect(address)?;
    send(&mut connection, request, "close")?;
    Answer::read(&mut connection)
}

fn connect(address: SocketAddr) -> io::Result<BufReader<TcpStream>> {
    let stream = TcpStream::connect_timeout(&address, LIMIT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    stream.set_nodelay(true)?;
    Ok(BufReader::new(stream))
}

fn send(connection: &mut BufReader<TcpStream>, request: Request, keep: &str) -> io::Result<()> {
    let Request { host, path, body } = request;
    let method = if body.is_some() { "POST" } else { "GET" };
    let body = body.unwrap_or_default();
    let head = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: {keep}\r\n");
    let whole = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
    connection.get_mut().write_all(whole.as_bytes())
}

// === impl Client ===

impl Client {
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self { address, connection: None }
    }

    /// A request on the connection of the one before, if the server has not closed that since.
    pub(crate) fn ask(&mut self, request: Request) -> io::Result<Answer> {
        let mut connection = match self.connection.take().filter(is_open) {
            Some(open) => open,
            None => connect(self.address)?,
        };
        send(&mut connection, request, "keep-alive")?;
        let answer = Answer::read(&mut connection)?;
        self.connection = answer.keeps.then_some(connection);
        Ok(answer)
    }
}

fn is_open(connection: &BufReader<TcpStream>) -> bool {
    let stream = connection.get_ref();
    let look = || {
        stream.set_nonblocking(true)?;
        let seen = stream.peek(&mut [0]);
        stream.set_nonblocking(false)?;
        seen
    };
    look().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
}

// === impl Answer ===

impl Answer {
    fn read(from: &mut BufReader<TcpStream>) -> io::Result<Self> {
        let begin = line(from)?;
        let status = begin.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
        let status = status.ok_or_else(|| broken(format!("no answer: {begin:?}")))?;
        let (mut length, mut chunked, mut keeps) = (None, false, true);
        loop {
            let header = line(from)?.to_ascii_lowercase();
            match header.split_once(": ") {
                None => break,
                Some(("content-length", value)) => length = value.parse().ok(),
                Some(("transfer-encoding", value)) => chunked = value == "chunked",
                Some(("connection", value)) => keeps = value != "close",
                Some(_) => {}
            }
        }
        let mut body = Vec::new();
        match length {
            _ if chunked => unchunk(from, &mut body)?,
            Some(length) => exactly(from, length, &mut body)?,
            None => _ = from.read_to_end(&mut body)?,
        }
        let body = String::from_utf8_lossy(&body).into_owned();
        Ok(Self { status, body, keeps: keeps && (chunked || length.is_some()) })
    }

    /// The pod that answered, as yard-echo says.
    #[track_caller]
    pub(crate) fn pod(&self) -> String {
        let echo: Value = serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("no echo: {self:?}"));
        echo["pod"].as_str().unwrap_or_else(|| panic!("no pod: {self:?}")).to_owned()
    }
}

/// A line without its end.
fn line(from: &mut BufReader<TcpStream>) -> io::Result<String> {
    let mut line = String::new();
    from.read_line(&mut line)?;
    match line.strip_suffix("\r\n") {
        Some(whole) => Ok(whole.to_owned()),
        None => Err(broken(format!("the connection ended after {line:?}"))),
    }
}

fn exactly(from: &mut BufReader<TcpStream>, length: u64, body: &mut Vec<u8>) -> io::Result<()> {
    match from.take(length).read_to_end(body)? as u64 {
        read if read == length => Ok(()),
        read => Err(broken(format!("{read} of {length} bytes came"))),
    }
}

fn unchunk(from: &mut BufReader<TcpStream>, body: &mut Vec<u8>) -> io::Result<()> {
    loop {
        let size = line(from)?;
        let size = u64::from_str_radix(size.trim(), 16).map_err(|_| broken(format!("chunk of {size:?}")))?;
        exactly(from, size, body)?;
        line(from)?;
        if size == 0 {
            return Ok(());
        }
    }
}

fn broken(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, why)
}
