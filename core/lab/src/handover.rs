//! Listeners on their way from the process that opened them to the one that serves them.
//!
//! A connection may arrive before anybody serves it, or while its server is being started again: the kernel keeps it in the
//! listener's queue, so clients neither wait nor retry.

use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::channel::Channel;

/// Descriptors with their names.
#[derive(Debug, Default)]
pub struct Handover(Vec<(String, OwnedFd)>);

// === impl Handover ===

impl Handover {
    /// Adds a descriptor.
    pub fn put(&mut self, name: impl Into<String>, fd: impl Into<OwnedFd>) {
        self.0.push((name.into(), fd.into()));
    }

    /// Takes a descriptor out.
    pub fn take(&mut self, name: &str) -> io::Result<OwnedFd> {
        let index = self.0.iter().position(|(known, _)| known == name);
        let missing = || io::Error::new(io::ErrorKind::NotFound, format!("descriptor {name} was not handed over"));
        index.map(|index| self.0.swap_remove(index).1).ok_or_else(missing)
    }

    /// Takes a listener out.
    pub fn listener(&mut self, name: &str) -> io::Result<TcpListener> {
        let listener = TcpListener::from(self.take(name)?);
        listener.set_nonblocking(true)?;
        Ok(listener)
    }

    /// A descriptor that stays.
    pub fn get(&self, name: &str) -> Option<BorrowedFd<'_>> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, fd)| fd.as_fd())
    }

    /// Sends those with the given names.
    pub fn send(&self, names: &[String], to: &Channel) -> io::Result<()> {
        let missing = |name: &String| io::Error::new(io::ErrorKind::NotFound, format!("no descriptor {name}"));
        let fds: Vec<_> =
            names.iter().map(|name| self.get(name).ok_or_else(|| missing(name))).collect::<Result<_, _>>()?;
        to.send(&names, &fds)
    }

    /// Sends all.
    pub fn send_all(&self, to: &Channel) -> io::Result<()> {
        let names: Vec<_> = self.0.iter().map(|(name, _)| name.clone()).collect();
        self.send(&names, to)
    }

    /// Receives what [`Handover::send`] sent.
    pub fn receive(from: &Channel) -> io::Result<Self> {
        let (names, fds): (Vec<String>, _) = from.receive()?;
        if names.len() != fds.len() {
            let text = format!("{} descriptors arrived for {} names", fds.len(), names.len());
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        Ok(Self(names.into_iter().zip(fds).collect()))
    }
}
