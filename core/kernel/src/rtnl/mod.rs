//! rtnetlink: one file for each kind of object; each says how it is asked for, taken away, read back, and when what is there will do.
//!
//! Ownership is the protocol number on addresses, routes, rules and neighbours, the group on links, and the handle on qdiscs.
//! FDB entries carry no mark of their own: those of our links are ours.

pub(crate) mod address;
pub(crate) mod link;
pub(crate) mod neigh;
pub(crate) mod qdisc;
pub(crate) mod route;
pub(crate) mod rule;

use std::collections::HashMap;
use std::net::IpAddr;

use ipnet::IpNet;
use switchyard_netstate::{IfName, Object};

/// Something the kernel holds that a fragment could have wanted.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) object: Object,
    /// Whether it carries our mark.
    pub(crate) owned: bool,
}

/// Interface names of one place by their number.
pub(crate) type Names = HashMap<u32, IfName>;

pub(crate) fn family_of(ip: IpAddr) -> u8 {
    match ip {
        IpAddr::V4(_) => libc::AF_INET as u8,
        IpAddr::V6(_) => libc::AF_INET6 as u8,
    }
}

/// A prefix from an address, or the whole of the family if there is none.
pub(crate) fn prefix(family: u8, address: Option<IpAddr>, length: u8) -> Option<IpNet> {
    let address = match (address, i32::from(family)) {
        (Some(address), _) => address,
        (None, libc::AF_INET) => IpAddr::from([0; 4]),
        (None, libc::AF_INET6) => IpAddr::from([0; 16]),
        _ => return None,
    };
    IpNet::new(address, length).ok()
}
