//! A server that is asked to end loses no request.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

const POST: &[u8] = b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello";
const DEADLINE: Duration = Duration::from_secs(30);

/// A running server; killed when dropped.
struct Server {
    process: Child,
    address: SocketAddr,
}

impl Server {
    fn start() -> Self {
        // The port is free again once its finder is closed.
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_yard-echo"));
        let process = command.arg(format!("--port={}", address.port())).spawn().expect("yard-echo runs");
        let server = Self { process, address };
        let begun = Instant::now();
        while TcpStream::connect(address).is_err() {
            assert!(begun.elapsed() < DEADLINE, "it listens");
            std::thread::yield_now();
        }
        server
    }

    fn connect(&self) -> BufReader<TcpStream> {
        let stream = TcpStream::connect(self.address).expect("it accepts");
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        BufReader::new(stream)
    }

    fn terminate(&self) {
        let status = Command::new("kill").arg(self.process.id().to_string()).status();
        assert!(status.unwrap().success());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Posts, and says whether the connection is to be closed then.
fn post(connection: &mut BufReader<TcpStream>) -> bool {
    connection.get_mut().write_all(POST).unwrap();
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert_ne!(connection.read_line(&mut head).unwrap(), 0, "the connection ended after {head:?}");
    }
    let mut body = [0; 5];
    connection.read_exact(&mut body).unwrap();
    assert!(head.starts_with("HTTP/1.1 200 ") && &body == b"hello", "{head}");
    head.to_ascii_lowercase().contains("connection: close")
}

#[test]
fn who_asks_after_sigterm_is_answered_and_told_to_come_no_more() {
    let mut server = Server::start();
    let (mut kept, mut quiet) = (server.connect(), server.connect());
    assert!(!post(&mut kept) && !post(&mut quiet), "connections are kept");
    server.terminate();
    // The signal has arrived once the connection in use is told to go.
    while !post(&mut kept) {}
    assert!(post(&mut quiet), "a connection that was quiet meanwhile is answered");
    assert!(post(&mut server.connect()), "and so is a new one");
    assert!(server.process.wait().unwrap().success(), "it ends well");
}
