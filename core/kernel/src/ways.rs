//! How large a packet may be on its way to an address: what the kernel's route there and its interface say.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use ipnet::IpNet;
use netlink_sys::{Socket, SocketAddr};

use crate::netlink::{Attributes, Connection, Family, Message, split};
use crate::rtnl::link::FoundLink;
use crate::rtnl::{family_of, prefix};
use crate::{Owner, sys};

/// Asks, and hears of what may have changed an answer, in the namespace in which it was opened. Readable when there is something to
/// hear.
pub struct Ways {
    connection: Connection,
    ears: Socket,
    buffer: Vec<u8>,
    asked: BTreeSet<IpAddr>,
    /// The interfaces of the answers, by number, and their MTUs.
    seen: BTreeMap<u32, u32>,
}

/// What has to be heard.
const GROUPS: [u32; 3] = [sys::RTNLGRP_LINK, sys::RTNLGRP_IPV4_ROUTE, sys::RTNLGRP_IPV6_ROUTE];

// === impl Ways ===

impl Ways {
    /// Opens sockets in the calling thread's network namespace.
    pub fn open(owner: Owner) -> io::Result<Self> {
        let mut ears = Socket::new(libc::NETLINK_ROUTE as isize)?;
        ears.bind(&SocketAddr::new(0, 0))?;
        ears.set_non_blocking(true)?;
        for group in GROUPS {
            ears.add_membership(group)?;
        }
        let connection = Connection::open(Family::Route, owner.protocol)?;
        Ok(Self { connection, ears, buffer: vec![0; 64 << 10], asked: BTreeSet::new(), seen: BTreeMap::new() })
    }

    /// The MTU of the way to an address, in bytes: the route's own, if it has one, and no more than the interface's. `None` if no
    /// single interface leads there. What the kernel has learnt from others' answers is not counted: it forgets that.
    pub fn mtu(&mut self, to: IpAddr) -> io::Result<Option<u32>> {
        self.asked.insert(to);
        let Ok(route) = self.connection.get(route_to(to))? else { return Ok(None) };
        let attributes = Attributes::after(&route, 12);
        let is_unicast = route.get(7) == Some(&sys::RTN_UNICAST);
        let Some(index) = attributes.u32(sys::RTA_OIF).filter(|_| is_unicast) else { return Ok(None) };
        let Ok(link) = self.connection.get(link(index))? else { return Ok(None) };
        let Some(found) = FoundLink::parse(&link) else { return Ok(None) };
        self.seen.insert(index, found.mtu);
        let own = attributes.nest(sys::RTA_METRICS).u32(sys::RTAX_MTU).filter(|mtu| *mtu > 0);
        Ok(Some(own.map_or(found.mtu, |mtu| mtu.min(found.mtu))))
    }

    /// Takes in what there is to hear; true if an answer may be another one now.
    pub fn news(&mut self) -> bool {
        let mut is_news = false;
        loop {
            match self.ears.recv(&mut &mut self.buffer[..], libc::MSG_DONTWAIT | libc::MSG_TRUNC) {
                Ok(length) => {
                    let Some(bytes) = self.buffer.get(..length) else { return true };
                    is_news |= split(bytes).any(|(_, kind, _, _, payload)| self.matters(kind, payload));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return is_news,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Something was lost, so it may have been anything.
                Err(_) => return true,
            }
        }
    }

    fn matters(&self, kind: u16, payload: &[u8]) -> bool {
        match kind {
            sys::RTM_NEWLINK | sys::RTM_DELLINK => {
                let link = FoundLink::parse(payload);
                let was = link.as_ref().and_then(|link| self.seen.get(&link.index));
                was.is_some_and(|mtu| kind == sys::RTM_DELLINK || link.is_some_and(|link| link.mtu != *mtu))
            }
            sys::RTM_NEWROUTE | sys::RTM_DELROUTE => {
                destination(payload).is_none_or(|to| self.asked.iter().any(|address| to.contains(address)))
            }
            _ => false,
        }
    }
}

impl AsFd for Ways {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ears.as_fd()
    }
}

impl AsRawFd for Ways {
    fn as_raw_fd(&self) -> RawFd {
        self.ears.as_raw_fd()
    }
}

/// Asks for the route that the kernel would take to an address, as it was given to it.
fn route_to(to: IpAddr) -> Message {
    let mut header = [family_of(to), if to.is_ipv4() { 32 } else { 128 }, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    header[8..].copy_from_slice(&sys::RTM_F_FIB_MATCH.to_ne_bytes());
    let mut message = Message::new(sys::RTM_GETROUTE, 0, &header);
    message.ip(sys::RTA_DST, to);
    message
}

fn link(index: u32) -> Message {
    let mut header = [0; 16];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    let mut message = Message::new(sys::RTM_GETLINK, 0, &header);
    message.u32(sys::IFLA_EXT_MASK, sys::RTEXT_FILTER_SKIP_STATS);
    message
}

/// Where a route leads to.
fn destination(payload: &[u8]) -> Option<IpNet> {
    let [family, length] = *payload.first_chunk::<2>()?;
    prefix(family, Attributes::after(payload, 12).ip(sys::RTA_DST), length)
}
