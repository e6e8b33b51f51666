//! The child's side: loads the library it was given and answers until the host goes away.

use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Barrier};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Signal, getpid, kill_process};
use switchyard_plugin::abi;

use super::frame::{CONCURRENT, CONFINE, CREATE, Request};
use crate::confine;
use crate::library::{Instance, Library, Reply};

/// What [`CONCURRENT`] comes to.
const THREADS: usize = 8;
const ROUNDS: usize = 50;

/// The whole of a program that hosts a plugin: library on standard input, socket on standard output.
pub fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("plugin host: {error}; this program is started by yard, for a network with hosting: process");
            ExitCode::FAILURE
        }
    }
}

fn run() -> std::io::Result<()> {
    let mut socket = UnixStream::from(rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdout(), 3)?);
    socket.peer_addr()?;
    // What a plugin prints goes to the log.
    rustix::stdio::dup2_stdout(rustix::stdio::stderr())?;
    end_with(socket.try_clone()?);
    let library = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
    let library = match Library::open(Path::new("library"), library) {
        Ok(library) => Arc::new(library),
        Err(error) => return Reply::failed(&error.to_string()).write(&mut socket),
    };
    Reply::ok().write(&mut socket)?;
    let mut instance: Option<Instance> = None;
    while let Some(Request { operation, input }) = Request::read(&mut socket) {
        let reply = match &instance {
            _ if operation == CREATE.as_bytes() => match library.create(&input) {
                Ok(made) => {
                    instance = Some(made);
                    Reply::ok()
                }
                Err(refusal) => refusal,
            },
            _ if operation == CONFINE.as_bytes() => match confine::this_thread(socket.as_raw_fd()) {
                Ok(()) => Reply::ok(),
                Err(error) => Reply::failed(&error.to_string()),
            },
            Some(instance) if operation == CONCURRENT.as_bytes() => concurrent(instance, &input),
            Some(instance) => instance.call(&operation, &input),
            None => Reply::failed("create must come first"),
        };
        reply.write(&mut socket)?;
    }
    Ok(())
}

/// Asks one thing again and again from several threads, and gives the answer, if it was always the same.
fn concurrent(instance: &Instance, input: &[u8]) -> Reply {
    let at = input.iter().position(|byte| *byte == b'\n').unwrap_or(input.len());
    let (operation, input) = (&input[..at], input.get(at + 1..).unwrap_or_default());
    let together = Barrier::new(THREADS);
    let ask = || {
        together.wait();
        let first = instance.call(operation, input);
        let same = |_: usize| {
            let again = instance.call(operation, input);
            again.status == first.status && again.bytes == first.bytes
        };
        (0..ROUNDS).all(same).then_some(first)
    };
    let replies: Vec<Option<Reply>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(ask)).collect();
        threads.into_iter().map(|thread| thread.join().ok().flatten()).collect()
    });
    let mut replies = replies.into_iter();
    let Some(Some(first)) = replies.next() else { return Reply::failed("one thread got different answers") };
    match replies.all(|reply| reply.is_some_and(|reply| reply.status == first.status && reply.bytes == first.bytes)) {
        true => first,
        false => Reply::failed("threads got different answers"),
    }
}

/// Ends this process when the host is gone, whatever the plugin is doing.
fn end_with(socket: UnixStream) {
    std::thread::spawn(move || {
        let gone = PollFlags::HUP | PollFlags::RDHUP | PollFlags::ERR;
        loop {
            let mut polled = [PollFd::new(&socket, PollFlags::RDHUP)];
            if poll(&mut polled, None).is_ok() && polled[0].revents().intersects(gone) {
                let _ = kill_process(getpid(), Signal::KILL);
            }
        }
    });
}

impl Reply {
    fn ok() -> Self {
        Self { status: abi::OK, bytes: Vec::new() }
    }

    fn failed(message: &str) -> Self {
        Self { status: abi::FAILED, bytes: message.as_bytes().to_vec() }
    }
}
