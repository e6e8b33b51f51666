//! Neighbours and FDB entries: RTM_NEWNEIGH, RTM_DELNEIGH. Neighbours are marked by NDA_PROTOCOL; FDB entries belong to whom
//! their link belongs.

use switchyard_netstate::{FdbEntry, Mac, Neighbour, Object};

use super::{Found, Names};
use crate::netlink::{Attributes, Message, u16_of, u32_of};
use crate::sys;

/// Adds a permanent neighbour.
pub(crate) fn add(neighbour: &Neighbour, index: u32, owner: u8, replace: bool) -> Message {
    let flags = sys::NLM_F_CREATE | if replace { sys::NLM_F_REPLACE } else { sys::NLM_F_EXCL };
    let header = header(super::family_of(neighbour.address), index, sys::NUD_PERMANENT, 0);
    let mut message = Message::new(sys::RTM_NEWNEIGH, flags, &header);
    message.ip(sys::NDA_DST, neighbour.address).attr(sys::NDA_LLADDR, &neighbour.mac.0).u8(sys::NDA_PROTOCOL, owner);
    message
}

/// Takes a neighbour away.
pub(crate) fn remove(neighbour: &Neighbour, index: u32) -> Message {
    let header = header(super::family_of(neighbour.address), index, 0, 0);
    let mut message = Message::new(sys::RTM_DELNEIGH, 0, &header);
    message.ip(sys::NDA_DST, neighbour.address);
    message
}

/// Adds an FDB entry. One address may go to several remotes if it is a group's, or all zero.
pub(crate) fn add_fdb(entry: &FdbEntry, index: u32) -> Message {
    let several = entry.remote.is_some() && (entry.mac.0 == [0; 6] || entry.mac.0[0] & 1 == 1);
    let flags = sys::NLM_F_CREATE | if several { sys::NLM_F_APPEND } else { sys::NLM_F_REPLACE };
    let state = if entry.remote.is_some() { sys::NUD_PERMANENT } else { sys::NUD_NOARP };
    write_fdb(sys::RTM_NEWNEIGH, flags, entry, index, state)
}

/// Takes an FDB entry away.
pub(crate) fn remove_fdb(entry: &FdbEntry, index: u32) -> Message {
    write_fdb(sys::RTM_DELNEIGH, 0, entry, index, 0)
}

/// Asks for all neighbours.
pub(crate) fn list() -> Message {
    Message::new(sys::RTM_GETNEIGH, 0, &[0; 12])
}

/// Asks for all FDB entries.
pub(crate) fn list_fdb() -> Message {
    Message::new(sys::RTM_GETNEIGH, 0, &header(libc::AF_BRIDGE as u8, 0, 0, 0))
}

/// Reads a neighbour; `None` if it is not permanent.
pub(crate) fn parse(payload: &[u8], names: &Names, owner: u8) -> Option<Found> {
    let state = u16_of(payload.get(8..10)?)?;
    let index = u32_of(payload.get(4..8)?)?;
    let attributes = Attributes::after(payload, 12);
    if state & sys::NUD_PERMANENT == 0 {
        return None;
    }
    let neighbour = Neighbour {
        dev: names.get(&index)?.clone(),
        address: attributes.ip(sys::NDA_DST)?,
        mac: Mac(attributes.get(sys::NDA_LLADDR)?.try_into().ok()?),
    };
    Some(Found { object: Object::Neighbour(neighbour), owned: attributes.u8(sys::NDA_PROTOCOL) == Some(owner) })
}

/// Reads an FDB entry; `None` if it is not one that somebody wrote. `ours` says whether a link is ours.
pub(crate) fn parse_fdb(payload: &[u8], names: &Names, ours: impl Fn(u32) -> bool) -> Option<Found> {
    let state = u16_of(payload.get(8..10)?)?;
    let flags = *payload.get(10)?;
    let index = u32_of(payload.get(4..8)?)?;
    let attributes = Attributes::after(payload, 12);
    let remote = attributes.ip(sys::NDA_DST);
    let of_tunnel =
        flags & sys::NTF_SELF != 0 && remote.is_some() && state & (sys::NUD_PERMANENT | sys::NUD_NOARP) != 0;
    let of_port = attributes.u32(sys::NDA_MASTER).is_some_and(|master| master != index)
        && state & sys::NUD_NOARP != 0
        && flags & sys::NTF_SELF == 0;
    if !of_tunnel && !of_port {
        return None;
    }
    let entry = FdbEntry {
        dev: names.get(&index)?.clone(),
        mac: Mac(attributes.get(sys::NDA_LLADDR)?.try_into().ok()?),
        remote: remote.filter(|_| of_tunnel),
    };
    Some(Found { object: Object::Fdb(entry), owned: ours(index) })
}

/// `struct ndmsg`.
fn header(family: u8, index: u32, state: u16, flags: u8) -> [u8; 12] {
    let mut header = [0; 12];
    header[0] = family;
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..10].copy_from_slice(&state.to_ne_bytes());
    header[10] = flags;
    header
}

fn write_fdb(kind: u16, flags: u16, entry: &FdbEntry, index: u32, state: u16) -> Message {
    let side = if entry.remote.is_some() { sys::NTF_SELF } else { sys::NTF_MASTER };
    let mut message = Message::new(kind, flags, &header(libc::AF_BRIDGE as u8, index, state, side));
    message.attr(sys::NDA_LLADDR, &entry.mac.0);
    if let Some(remote) = entry.remote {
        message.ip(sys::NDA_DST, remote);
    }
    message
}
