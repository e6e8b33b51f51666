//! The control socket: a thread a connection, as there are few and they are short.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;

use super::Message;
use super::journal::Journal;
use crate::channel::{Channel, Listener};
use crate::control::{Request, Step};
use crate::shell::Order;

pub(super) fn start(listener: Listener, mailbox: UnboundedSender<Message>, journal: Arc<Journal>) -> io::Result<()> {
    let accepting = move || {
        loop {
            match listener.accept() {
                Ok(channel) => {
                    let (mailbox, journal) = (mailbox.clone(), journal.clone());
                    let serving = move || {
                        if let Err(error) = serve(&channel, &mailbox, &journal) {
                            tracing::debug!(%error, "control connection");
                        }
                    };
                    if let Err(error) = std::thread::Builder::new().name("control".into()).spawn(serving) {
                        tracing::error!(%error, "cannot serve a control connection");
                    }
                }
                Err(error) => return tracing::error!(%error, "control socket"),
            }
        }
    };
    std::thread::Builder::new().name("control".into()).spawn(accepting).map(drop)
}

fn serve(channel: &Channel, mailbox: &UnboundedSender<Message>, journal: &Journal) -> io::Result<()> {
    let peer = channel.peer()?;
    if peer.uid != rustix::process::geteuid() {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("user {} is not the owner", peer.uid.as_raw()),
        ));
    }
    let (request, fds): (Request, Vec<OwnedFd>) = channel.receive()?;
    let ask = |message| mailbox.send(message).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe));
    let ended = |_| io::Error::from(io::ErrorKind::BrokenPipe);
    match request {
        Request::Events => {
            for number in 0.. {
                let event = journal.event(number);
                let last = matches!(event.step, Step::Started | Step::Failed(_));
                channel.send(&event, &[])?;
                if last {
                    break;
                }
            }
            Ok(())
        }
        Request::Status => {
            let (answer, status) = oneshot::channel();
            ask(Message::Status(answer))?;
            channel.send(&status.blocking_recv().map_err(ended)?, &[])
        }
        Request::Down { grace } => {
            ask(Message::Down(grace))?;
            // The end of this process ends the connection.
            channel.receive::<Request>().map(drop)
        }
        Request::Shell { place, command, env } => {
            let order = Order { place, command, env, streams: fds };
            let (answer, exit) = oneshot::channel();
            ask(Message::Shell(Box::new(order), answer))?;
            channel.send(&exit.blocking_recv().map_err(ended)?, &[])
        }
    }
}
