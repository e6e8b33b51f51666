//! Policy routing rules: RTM_NEWRULE, RTM_DELRULE, marked by FRA_PROTOCOL. A rule without a prefix is one for IPv4.

use switchyard_netstate::{IfName, Object, Rule};

use super::{Found, prefix};
use crate::netlink::{Attributes, Message};
use crate::sys;

/// Adds a rule.
pub(crate) fn add(rule: &Rule, owner: u8) -> Message {
    write(sys::RTM_NEWRULE, sys::NLM_F_CREATE | sys::NLM_F_EXCL, rule, owner)
}

/// Takes a rule away, if it carries our mark.
pub(crate) fn remove(rule: &Rule, owner: u8) -> Message {
    write(sys::RTM_DELRULE, 0, rule, owner)
}

/// Asks for all.
pub(crate) fn list() -> Message {
    Message::new(sys::RTM_GETRULE, 0, &[0; 12])
}

/// Reads one.
pub(crate) fn parse(payload: &[u8], owner: u8) -> Option<Found> {
    let [family, to_length, from_length, _, table, _, _, action] = *payload.first_chunk::<8>()?;
    let attributes = Attributes::after(payload, 12);
    if action != sys::FR_ACT_TO_TBL {
        return None;
    }
    let side = |kind, length| attributes.ip(kind).and_then(|ip| prefix(family, Some(ip), length));
    let mark = attributes.u32(sys::FRA_FWMARK).unwrap_or_default();
    let mask = attributes.u32(sys::FRA_FWMASK).unwrap_or_default();
    let rule = Rule {
        priority: attributes.u32(sys::FRA_PRIORITY).unwrap_or_default(),
        from: side(sys::FRA_SRC, from_length),
        to: side(sys::FRA_DST, to_length),
        iif: attributes.text(sys::FRA_IIFNAME).and_then(|name| IfName::new(name).ok()),
        mark: (mask != 0).then_some((mark, mask)),
        table: attributes.u32(sys::FRA_TABLE).unwrap_or(table.into()),
    };
    Some(Found { object: Object::Rule(rule), owned: attributes.u8(sys::FRA_PROTOCOL) == Some(owner) })
}

fn write(kind: u16, flags: u16, rule: &Rule, owner: u8) -> Message {
    let family = rule.from.or(rule.to).map_or(libc::AF_INET as u8, |net| super::family_of(net.addr()));
    let length = |net: Option<ipnet::IpNet>| net.map_or(0, |net| net.prefix_len());
    let table = u8::try_from(rule.table).unwrap_or(sys::RT_TABLE_COMPAT);
    let header = [family, length(rule.to), length(rule.from), 0, table, 0, 0, sys::FR_ACT_TO_TBL, 0, 0, 0, 0];
    let mut message = Message::new(kind, flags, &header);
    message.u32(sys::FRA_PRIORITY, rule.priority).u32(sys::FRA_TABLE, rule.table).u8(sys::FRA_PROTOCOL, owner);
    for (kind, net) in [(sys::FRA_SRC, rule.from), (sys::FRA_DST, rule.to)] {
        if let Some(net) = net.filter(|net| net.prefix_len() > 0) {
            message.ip(kind, net.network());
        }
    }
    if let Some(iif) = &rule.iif {
        message.text(sys::FRA_IIFNAME, iif.as_str());
    }
    if let Some((mark, mask)) = rule.mark {
        message.u32(sys::FRA_FWMARK, mark).u32(sys::FRA_FWMASK, mask);
    }
    message
}
