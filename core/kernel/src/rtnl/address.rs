//! Addresses: RTM_NEWADDR, RTM_DELADDR, marked by IFA_PROTO.

use ipnet::IpNet;
use switchyard_netstate::{Address, Object};

use super::{Found, Names};
use crate::netlink::{Attributes, Message, u32_of};
use crate::sys;

/// Adds an address.
pub(crate) fn add(address: &Address, index: u32, owner: u8) -> Message {
    let mut message = write(sys::RTM_NEWADDR, sys::NLM_F_CREATE | sys::NLM_F_EXCL, address, index);
    let no_dad = if address.address.addr().is_ipv6() { sys::IFA_F_NODAD } else { 0 };
    let no_route = if address.noprefixroute { sys::IFA_F_NOPREFIXROUTE } else { 0 };
    message.u32(sys::IFA_FLAGS, no_dad | no_route).u8(sys::IFA_PROTO, owner);
    message
}

/// Takes an address away.
pub(crate) fn remove(address: &Address, index: u32) -> Message {
    write(sys::RTM_DELADDR, 0, address, index)
}

/// Asks for all.
pub(crate) fn list() -> Message {
    Message::new(sys::RTM_GETADDR, 0, &[0; 8])
}

/// Reads one.
pub(crate) fn parse(payload: &[u8], names: &Names, owner: u8) -> Option<Found> {
    let length = *payload.get(1)?;
    let index = u32_of(payload.get(4..8)?)?;
    let attributes = Attributes::after(payload, 8);
    let ip = attributes.ip(sys::IFA_LOCAL).or_else(|| attributes.ip(sys::IFA_ADDRESS))?;
    let flags = attributes.u32(sys::IFA_FLAGS).unwrap_or_default();
    let address = Address {
        dev: names.get(&index)?.clone(),
        address: IpNet::new(ip, length).ok()?,
        noprefixroute: flags & sys::IFA_F_NOPREFIXROUTE != 0,
    };
    Some(Found { object: Object::Address(address), owned: attributes.u8(sys::IFA_PROTO) == Some(owner) })
}

fn write(kind: u16, flags: u16, address: &Address, index: u32) -> Message {
    let ip = address.address.addr();
    let scope = if ip.is_loopback() { sys::RT_SCOPE_HOST } else { sys::RT_SCOPE_UNIVERSE };
    let mut header = [super::family_of(ip), address.address.prefix_len(), 0, scope, 0, 0, 0, 0];
    header[4..].copy_from_slice(&index.to_ne_bytes());
    let mut message = Message::new(kind, flags, &header);
    message.ip(sys::IFA_LOCAL, ip).ip(sys::IFA_ADDRESS, ip);
    message
}
