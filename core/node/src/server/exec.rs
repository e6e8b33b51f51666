//! Running a command in a container, over a WebSocket or SPDY/3.1.
//!
//! The protocols `v5.channel.k8s.io` and `v4.channel.k8s.io`: each binary message begins with its channel's number (0 stdin, 1
//! stdout, 2 stderr, 3 the closing Status, 4 terminal size); in v5 a message on channel 255 closes the channel that it names. SPDY has
//! a stream for each channel.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use axum::extract::ws::{CloseFrame, Message, close_code};
use axum::extract::{Path as UrlPath, RawQuery, State};
use axum::response::{IntoResponse, Response};
use futures::{Sink, SinkExt as _, Stream, StreamExt as _};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, oneshot};

use super::upgrade::{Channels, Upgrade};
use super::{Ask, AskError, Asks, Command, ContainerRef, ask};

pub(super) const STDIN: u8 = 0;
pub(super) const STDOUT: u8 = 1;
pub(super) const STDERR: u8 = 2;
pub(super) const STATUS: u8 = 3;
pub(super) const RESIZE: u8 = 4;
pub(super) const CLOSE: u8 = 255;
/// Bytes of one output message.
const PIECE: usize = 32 << 10;

/// The query of an exec request, as in the Kubernetes API.
#[derive(Debug, Default, PartialEq)]
pub(super) struct ExecQuery {
    argv: Vec<String>,
    pub(super) stdin: bool,
    stdout: bool,
    stderr: bool,
    tty: bool,
}

/// Our ends of the command's standard streams.
struct Streams {
    input: Option<Input>,
    output: Vec<(u8, Output)>,
    terminal: Option<Terminal>,
}

enum Input {
    Pipe(pipe::Sender),
    Terminal(Terminal),
}

enum Output {
    Pipe(pipe::Receiver),
    Terminal(Terminal),
}

/// The master side of a pseudo-terminal.
#[derive(Clone)]
struct Terminal(std::sync::Arc<AsyncFd<File>>);

/// Answers an exec request.
pub(super) async fn serve(
    State(asks): State<Asks>,
    UrlPath((namespace, pod, container)): UrlPath<(String, String, String)>,
    RawQuery(query): RawQuery,
    upgrade: Upgrade,
) -> Response {
    let query = ExecQuery::parse(query.as_deref().unwrap_or_default());
    if query.argv.is_empty() {
        return AskError::BadRequest("command: must be given at least once".to_owned()).into_response();
    }
    let channels = query.channels();
    match start(&asks, ContainerRef { namespace, pod, container }, query).await {
        Ok((streams, exit)) => upgrade.channels(channels, |channels| converse(channels, streams, exit)),
        // Said where a command's end is said: a client that is refused the WebSocket tries an older protocol, and shows what comes
        // of that instead.
        Err(error) => {
            upgrade.channels(channels, move |channels| async move { finish(channels.to, &failure(&error)).await })
        }
    }
}

async fn start(
    asks: &Asks,
    container: ContainerRef,
    query: ExecQuery,
) -> Result<(Streams, oneshot::Receiver<i32>), AskError> {
    let failed = |error: io::Error| AskError::Failed(format!("make pipes or a terminal: {error}"));
    let (streams, stdio) = if query.tty { terminal() } else { pipes(query.stdin) }.map_err(failed)?;
    let command = Command { argv: query.argv, stdio, tty: query.tty };
    let (reply, answer) = oneshot::channel();
    let exit = ask(asks, Ask::Exec { container, command, reply }, answer).await??;
    Ok((streams, exit))
}

/// Carries bytes both ways until the command has ended and all its output is sent, then says how it ended.
///
/// The two ways do not wait for each other: a command that answers before it has read everything would wait for ever otherwise.
async fn converse(channels: Channels, streams: Streams, exit: oneshot::Receiver<i32>) {
    let Channels { to, from, closable } = channels;
    let Streams { input, output, terminal } = streams;
    tokio::select! {
        () = speak(to, output, exit) => {}
        // Who asked has gone, and so goes the command, as nobody waits for its exit.
        () = listen(from, input, terminal, closable) => {}
    }
}

/// Sends what the command says, and at last how it ended.
async fn speak<S>(mut to: S, streams: Vec<(u8, Output)>, exit: oneshot::Receiver<i32>)
where
    S: Sink<Message> + Unpin,
{
    let (pieces, mut output) = mpsc::channel::<Vec<u8>>(8);
    for (channel, stream) in streams {
        tokio::spawn(read(channel, stream, pieces.clone()));
    }
    drop(pieces);
    while let Some(piece) = output.recv().await {
        if to.send(Message::Binary(piece.into())).await.is_err() {
            return;
        }
    }
    finish(to, &status(exit.await.ok())).await;
}

/// Hands on what the client sends until it leaves.
async fn listen<S, E>(mut from: S, mut input: Option<Input>, terminal: Option<Terminal>, closable: bool)
where
    S: Stream<Item = Result<Message, E>> + Unpin,
{
    while let Some(Ok(message)) = from.next().await {
        let Message::Binary(bytes) = message else { continue };
        match bytes.split_first() {
            Some((&STDIN, data)) => {
                if let Some(stream) = &mut input
                    && stream.write(data).await.is_err()
                {
                    input = None;
                }
            }
            Some((&RESIZE, data)) => {
                if let Some(terminal) = &terminal {
                    terminal.resize(data);
                }
            }
            Some((&CLOSE, [STDIN])) if closable => input = None,
            _ => {}
        }
    }
    if !closable {
        // Before v5 leaving is the only way to end the input. The command goes on until it has something to say, or is done.
        drop(input);
        std::future::pending().await
    }
}

/// Says how it went, and that this was all.
pub(super) async fn finish<S: Sink<Message> + Unpin>(mut to: S, status: &Value) {
    let mut message = vec![STATUS];
    message.extend_from_slice(status.to_string().as_bytes());
    let _ = to.send(Message::Binary(message.into())).await;
    let _ = to.send(Message::Close(Some(CloseFrame { code: close_code::NORMAL, reason: "".into() }))).await;
}

async fn read(channel: u8, mut stream: Output, pieces: mpsc::Sender<Vec<u8>>) {
    let mut buffer = vec![0; PIECE];
    loop {
        let length = match &mut stream {
            Output::Pipe(pipe) => pipe.read(&mut buffer).await,
            Output::Terminal(terminal) => terminal.read(&mut buffer).await,
        };
        // A terminal whose other side is closed answers EIO: the end as well.
        let Ok(length @ 1..) = length else { return };
        let mut piece = Vec::with_capacity(length + 1);
        piece.push(channel);
        piece.extend_from_slice(&buffer[..length]);
        if pieces.send(piece).await.is_err() {
            return;
        }
    }
}

/// How the command ended, as a Status of the Kubernetes API.
pub(super) fn status(exit: Option<i32>) -> Value {
    match exit {
        Some(0) => json!({"metadata": {}, "status": "Success"}),
        Some(code) => json!({
            "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
            "message": format!("command terminated with non-zero exit code: {code}"),
            "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
        }),
        None => {
            json!({"metadata": {}, "status": "Failure", "reason": "InternalError", "message": "the container is gone"})
        }
    }
}

/// The command was never there.
fn failure(error: &AskError) -> Value {
    let (reason, code) = (error.reason(), error.status().as_u16());
    json!({"metadata": {}, "status": "Failure", "reason": reason, "message": error.to_string(), "code": code})
}

fn pipes(with_input: bool) -> io::Result<(Streams, [OwnedFd; 3])> {
    let (stdin, stdin_theirs) = {
        let (sender, receiver) = pipe::pipe()?;
        (sender, receiver.into_blocking_fd()?)
    };
    let (stdout_theirs, stdout) = pipe::pipe()?;
    let (stderr_theirs, stderr) = pipe::pipe()?;
    let output = vec![(STDOUT, Output::Pipe(stdout)), (STDERR, Output::Pipe(stderr))];
    let input = with_input.then_some(Input::Pipe(stdin));
    let stdio = [stdin_theirs, stdout_theirs.into_blocking_fd()?, stderr_theirs.into_blocking_fd()?];
    Ok((Streams { input, output, terminal: None }, stdio))
}

fn terminal() -> io::Result<(Streams, [OwnedFd; 3])> {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let name = ptsname(&master, Vec::new())?;
    let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY | rustix::fs::OFlags::CLOEXEC;
    let slave = rustix::fs::open(&*name, flags, rustix::fs::Mode::empty())?;
    rustix::io::ioctl_fionbio(&master, true)?;
    #[expect(deprecated, reason = "its replacement is unsafe; a File keeps its descriptor open as long as it lives")]
    let terminal = Terminal(std::sync::Arc::new(AsyncFd::new(File::from(master))?));
    let output = vec![(STDOUT, Output::Terminal(terminal.clone()))];
    let stdio = [slave.try_clone()?, slave.try_clone()?, slave];
    Ok((Streams { input: Some(Input::Terminal(terminal.clone())), output, terminal: Some(terminal) }, stdio))
}

// === impl ExecQuery ===

impl ExecQuery {
    pub(super) fn parse(query: &str) -> Self {
        let mut parsed = Self::default();
        let truth = |value: &str| matches!(value, "true" | "1");
        for (key, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*key {
                "command" => parsed.argv.push(value.into_owned()),
                "stdin" | "input" => parsed.stdin = truth(&value),
                "stdout" | "output" => parsed.stdout = truth(&value),
                "stderr" | "error" => parsed.stderr = truth(&value),
                "tty" => parsed.tty = truth(&value),
                _ => {}
            }
        }
        parsed
    }

    /// The channels that such a conversation has; a terminal says everything on one.
    pub(super) fn channels(&self) -> Vec<u8> {
        let wanted = [
            (STDIN, self.stdin),
            (STDOUT, self.stdout),
            (STDERR, self.stderr && !self.tty),
            (STATUS, true),
            (RESIZE, self.tty),
        ];
        wanted.into_iter().filter_map(|(channel, wanted)| wanted.then_some(channel)).collect()
    }
}

// === impl Input ===

impl Input {
    async fn write(&mut self, data: &[u8]) -> io::Result<()> {
        match self {
            Self::Pipe(pipe) => pipe.write_all(data).await,
            Self::Terminal(terminal) => terminal.write_all(data).await,
        }
    }
}

// === impl Terminal ===

/// The terminal's size, as clients send it.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Size {
    width: u16,
    height: u16,
}

impl Terminal {
    async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.async_io(tokio::io::Interest::READABLE, |mut file| io::Read::read(&mut file, buffer)).await
    }

    async fn write_all(&self, mut data: &[u8]) -> io::Result<()> {
        while !data.is_empty() {
            let written =
                self.0.async_io(tokio::io::Interest::WRITABLE, |mut file| io::Write::write(&mut file, data)).await?;
            data = &data[written..];
        }
        Ok(())
    }

    fn resize(&self, message: &[u8]) {
        if let Ok(size) = serde_json::from_slice::<Size>(message) {
            let size = Winsize { ws_row: size.height, ws_col: size.width, ws_xpixel: 0, ws_ypixel: 0 };
            let _ = tcsetwinsize(self.0.get_ref(), size);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_query_keeps_the_order_of_the_command() {
        let query = ExecQuery::parse("command=sh&command=-c&command=echo%20a+b&stdin=true&stdout=true&tty=false");
        assert_eq!(query.argv, ["sh", "-c", "echo a b"]);
        assert_eq!(query.channels(), [STDIN, STDOUT, STATUS]);
        let terminal = ExecQuery::parse("command=sh&input=1&output=1&error=1&tty=1");
        assert_eq!(terminal.channels(), [STDIN, STDOUT, STATUS, RESIZE]);
    }

    #[test]
    fn an_exit_code_is_told_the_way_kubectl_reads_it() {
        assert_eq!(status(Some(0))["status"], "Success");
        assert_eq!(status(Some(3))["details"]["causes"][0]["message"], "3");
    }

    #[tokio::test]
    async fn input_and_output_do_not_wait_for_each_other() {
        const PIECES: usize = 320;
        let (streams, [stdin, stdout, stderr]) = pipes(true).unwrap();
        drop(stderr);
        let cat = std::thread::spawn(move || std::io::copy(&mut File::from(stdin), &mut File::from(stdout)).unwrap());
        let mut piece = vec![STDIN; PIECE + 1];
        piece[1..].fill(b'x');
        let sent = futures::stream::repeat_with(|| Ok::<_, ()>(Message::Binary(piece.clone().into()))).take(PIECES);
        let sent = sent.chain(futures::stream::once(async { Ok(Message::Binary(vec![CLOSE, STDIN].into())) }));
        let from = Box::pin(sent.chain(futures::stream::pending()));
        let (to, heard) = futures::channel::mpsc::channel(0);
        let (tell, exit) = oneshot::channel();
        tell.send(0).unwrap();
        let (heard, _) = tokio::join!(heard.collect::<Vec<_>>(), async move {
            tokio::select! {
                () = speak(to, streams.output, exit) => {}
                () = listen(from, streams.input, None, true) => {}
            }
        });
        let data = heard.iter().filter_map(|message| match message {
            Message::Binary(bytes) if bytes[0] == STDOUT => Some(bytes.len() - 1),
            _ => None,
        });
        assert_eq!(data.sum::<usize>(), PIECES * PIECE);
        assert_eq!(cat.join().unwrap(), (PIECES * PIECE) as u64);
        assert!(matches!(heard.last(), Some(Message::Close(_))));
    }

    #[tokio::test]
    async fn a_terminal_carries_bytes_both_ways() {
        let (streams, [slave, ..]) = terminal().unwrap();
        let terminal = streams.terminal.unwrap();
        terminal.resize(br#"{"Width":80,"Height":24}"#);
        rustix::io::write(&slave, b"hello").unwrap();
        let mut buffer = [0; 16];
        assert_eq!(terminal.read(&mut buffer).await.unwrap(), 5);
        terminal.write_all(b"x\n").await.unwrap();
        assert_eq!(rustix::io::read(&slave, &mut buffer).unwrap(), 2);
    }
}
