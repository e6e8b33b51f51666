//! What a node has, devices and routes, and when that changes. The kernel says when (rtnetlink(7)); what there is then is read.

use std::collections::BTreeSet;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use anyhow::{Context as _, bail};
use nix::sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

use super::{Change, LIMIT};
use crate::gauge::{Device, now};

/// Links, addresses and routes (`RTMGRP_*` of rtnetlink(7)).
const GROUPS: u32 = 0x1 | 0x10 | 0x40;
/// Changes that are remembered.
const MOST: usize = 10_000;

/// Eyes on this network namespace, until dropped.
pub(super) struct Observer {
    shared: Arc<Shared>,
    stop: OwnedFd,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    seen: Mutex<Seen>,
    changed: Condvar,
}

#[derive(Default)]
struct Seen {
    things: BTreeSet<String>,
    changes: Vec<Change>,
}

// === impl Observer ===

impl Observer {
    pub(super) fn start() -> anyhow::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let news = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute)
            .context("listen to the kernel")?;
        bind(news.as_raw_fd(), &NetlinkAddr::new(0, GROUPS)).context("listen to the kernel")?;
        let stop = eventfd(0, EventfdFlags::CLOEXEC)?;
        let seen = Mutex::new(Seen { things: read()?, changes: Vec::new() });
        let shared = Arc::new(Shared { seen, changed: Condvar::new() });
        let (theirs, stopped) = (shared.clone(), stop.try_clone()?);
        let thread =
            std::thread::Builder::new().name("observer".into()).spawn(move || theirs.listen(&news, &stopped))?;
        Ok(Self { shared, stop, thread: Some(thread) })
    }

    /// What there is.
    pub(super) fn things(&self) -> BTreeSet<String> {
        self.shared.seen.lock().unwrap_or_else(PoisonError::into_inner).things.clone()
    }

    /// All changes until now.
    pub(super) fn changes(self) -> Vec<Change> {
        std::mem::take(&mut self.shared.seen.lock().unwrap_or_else(PoisonError::into_inner).changes)
    }

    /// Waits until none of these things is there; gives when the last of them went.
    pub(super) fn until_gone(&self, things: &BTreeSet<String>) -> anyhow::Result<u64> {
        self.shared.until_gone(things)
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        // An eventfd that counts one takes it.
        let _ = rustix::io::write(&self.stop, &1u64.to_ne_bytes());
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

// === impl Shared ===

impl Shared {
    fn until_gone(&self, things: &BTreeSet<String>) -> anyhow::Result<u64> {
        let deadline = Instant::now() + LIMIT;
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if seen.things.is_disjoint(things) {
                let last = seen.changes.iter().rev().find(|change| change.went.iter().any(|one| things.contains(one)));
                return Ok(last.map_or_else(now, |change| change.at));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let still: Vec<_> = seen.things.intersection(things).cloned().collect();
                bail!("after {} s there is still {}", LIMIT.as_secs(), still.join(", "));
            }
            (seen, _) = self.changed.wait_timeout(seen, left).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn listen(&self, news: &OwnedFd, stop: &OwnedFd) {
        let mut space = vec![0; 64 << 10];
        loop {
            let mut both = [PollFd::new(news, PollFlags::IN), PollFd::new(stop, PollFlags::IN)];
            let woken = poll(&mut both, None);
            if woken.is_ok() && !both[1].revents().is_empty() {
                return;
            }
            let at = now();
            // What is said does not matter, only that something was, also if it was too much to be kept.
            while recv(news.as_fd().as_raw_fd(), &mut space, MsgFlags::empty()).is_ok() {}
            if let Ok(things) = read() {
                self.learn(at, things);
            }
        }
    }

    fn learn(&self, at: u64, things: BTreeSet<String>) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let came: Vec<_> = things.difference(&seen.things).cloned().collect();
        let went: Vec<_> = seen.things.difference(&things).cloned().collect();
        if came.is_empty() && went.is_empty() {
            return;
        }
        if seen.changes.len() < MOST {
            seen.changes.push(Change { at, came, went });
        }
        seen.things = things;
        drop(seen);
        self.changed.notify_all();
    }
}

/// Devices, and routes of the main table, in this namespace.
fn read() -> anyhow::Result<BTreeSet<String>> {
    let devices = Device::read()?.into_iter().map(|device| format!("device {}", device.name));
    let path = "/proc/thread-self/net/route";
    let text = std::fs::read_to_string(path).with_context(|| format!("read {path}"))?;
    Ok(devices.chain(text.lines().skip(1).filter_map(route)).collect())
}

/// Interface, destination, gateway and mask, as proc(5) has them in hexadecimal.
fn route(line: &str) -> Option<String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let &[dev, to, via, _, _, _, _, mask, ..] = &words[..] else { return None };
    Some(format!("route {to}/{mask} via {via} dev {dev}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn things_are_named_and_changes_are_told_apart() {
        let line = "cbr0\t0001280A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0";
        assert_eq!(route(line).unwrap(), "route 0001280A/00FFFFFF via 00000000 dev cbr0");
        let first = read().unwrap();
        assert!(first.contains("device lo"), "{first:?}");
        let with = |name: &str| first.iter().cloned().chain([name.to_owned()]).collect::<BTreeSet<_>>();
        let shared = Shared { seen: Mutex::default(), changed: Condvar::new() };
        shared.learn(5, with("device pod"));
        shared.learn(7, with("device other"));
        assert_eq!(shared.until_gone(&BTreeSet::from(["device pod".to_owned()])).unwrap(), 7);
        let seen = shared.seen.into_inner().unwrap();
        assert_eq!((seen.changes[0].at, seen.changes[0].came.len()), (5, first.len() + 1));
        assert_eq!(seen.changes[1].went, ["device pod"]);
    }
}
