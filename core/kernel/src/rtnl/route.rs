//! Routes: RTM_NEWROUTE, RTM_DELROUTE, marked by their protocol.

use std::net::IpAddr;

use switchyard_netstate::{Encap, NextHop, Object, Route, RouteScope};

use super::{Found, Names, prefix};
use crate::netlink::{Attributes, Message, be_u64, u16_of, u32_of};
use crate::sys;

/// What happens if there is a route to the same prefix with the same metric.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum IfThere {
    Refuse,
    Replace,
}

/// Hops that the outer packet may make (`IPDEFTTL` of linux/ip.h); a tunnel told by routes takes 0 for what it says.
const ENCAP_TTL: u8 = 64;

/// Adds or replaces a route.
pub(crate) fn add(route: &Route, index: Option<u32>, owner: u8, if_there: IfThere) -> Message {
    let flags = match if_there {
        IfThere::Refuse => sys::NLM_F_CREATE | sys::NLM_F_EXCL,
        IfThere::Replace => sys::NLM_F_CREATE | sys::NLM_F_REPLACE,
    };
    let flags_of_hop = if route.via.onlink { sys::RTNH_F_ONLINK } else { 0 };
    let kind = if route.via.blackhole { sys::RTN_BLACKHOLE } else { sys::RTN_UNICAST };
    let mut message = write(sys::RTM_NEWROUTE, flags, route, owner, scope(route), kind, flags_of_hop);
    if let Some(gateway) = route.via.gateway {
        if gateway.is_ipv4() == route.to.addr().is_ipv4() {
            message.ip(sys::RTA_GATEWAY, gateway);
        } else {
            let mut via = u16::from(super::family_of(gateway)).to_ne_bytes().to_vec();
            match gateway {
                IpAddr::V4(v4) => via.extend(v4.octets()),
                IpAddr::V6(v6) => via.extend(v6.octets()),
            }
            message.attr(sys::RTA_VIA, &via);
        }
    }
    if let Some(index) = index {
        message.u32(sys::RTA_OIF, index);
    }
    if let Some(source) = route.source {
        message.ip(sys::RTA_PREFSRC, source);
    }
    if let Some(encap) = route.via.encap {
        write_encap(&mut message, encap);
    }
    if let Some(mtu) = route.mtu {
        message.nest(sys::RTA_METRICS, |metrics| {
            metrics.u32(sys::RTAX_MTU, mtu);
        });
    }
    message
}

/// Takes a route away, if it carries our mark.
pub(crate) fn remove(route: &Route, owner: u8) -> Message {
    write(sys::RTM_DELROUTE, 0, route, owner, sys::RT_SCOPE_NOWHERE, 0, 0)
}

/// Asks for all.
pub(crate) fn list() -> Message {
    Message::new(sys::RTM_GETROUTE, 0, &[0; 12])
}

/// Reads one; `None` for what no fragment could want (local and broadcast routes, several hops, cached ones).
pub(crate) fn parse(payload: &[u8], names: &Names, owner: u8) -> Option<Found> {
    let [family, length, _, _, table, protocol, scope, kind] = *payload.first_chunk::<8>()?;
    let flags = u32_of(payload.get(8..12)?)?;
    let attributes = Attributes::after(payload, 12);
    if (kind != sys::RTN_UNICAST && kind != sys::RTN_BLACKHOLE)
        || flags & sys::RTM_F_CLONED != 0
        || attributes.get(sys::RTA_MULTIPATH).is_some()
    {
        return None;
    }
    let to = prefix(family, attributes.ip(sys::RTA_DST), length)?;
    let is_v4 = to.addr().is_ipv4();
    let blackhole = kind == sys::RTN_BLACKHOLE;
    let dev = attributes.u32(sys::RTA_OIF).filter(|_| !blackhole);
    let via = attributes.get(sys::RTA_VIA).and_then(|via| match via.len() {
        6 => Some(IpAddr::from(<[u8; 4]>::try_from(&via[2..]).ok()?)),
        18 => Some(IpAddr::from(<[u8; 16]>::try_from(&via[2..]).ok()?)),
        _ => None,
    });
    let metric = attributes.u32(sys::RTA_PRIORITY).unwrap_or_default();
    let route = Route {
        to,
        via: NextHop {
            dev: dev.and_then(|dev| names.get(&dev)).cloned(),
            gateway: attributes.ip(sys::RTA_GATEWAY).or(via),
            onlink: flags & sys::RTNH_F_ONLINK != 0,
            blackhole,
            encap: parse_encap(attributes),
        },
        table: attributes.u32(sys::RTA_TABLE).unwrap_or(table.into()),
        metric: if !is_v4 && metric == sys::IP6_RT_PRIO_USER { 0 } else { metric },
        source: attributes.ip(sys::RTA_PREFSRC),
        mtu: attributes.nest(sys::RTA_METRICS).u32(sys::RTAX_MTU),
        scope: Some(match scope {
            sys::RT_SCOPE_LINK => RouteScope::Link,
            sys::RT_SCOPE_HOST => RouteScope::Host,
            _ => RouteScope::Global,
        }),
    };
    Some(Found { object: Object::Route(route), owned: protocol == owner })
}

/// Whether a route read back is as wanted.
pub(crate) fn will_do(found: &Route, wanted: &Route) -> bool {
    found.via.gateway == wanted.via.gateway
        && (wanted.via.dev.is_none() || found.via.dev == wanted.via.dev)
        && found.via.onlink == wanted.via.onlink
        && found.via.blackhole == wanted.via.blackhole
        && found.via.encap == wanted.via.encap
        && found.source == wanted.source
        && found.mtu == wanted.mtu
        && (wanted.to.addr().is_ipv6() || found.scope.map(number) == Some(scope(wanted)))
}

fn scope(route: &Route) -> u8 {
    match route.scope {
        Some(scope) => number(scope),
        None if route.via.gateway.is_none() && !route.via.blackhole => sys::RT_SCOPE_LINK,
        None => sys::RT_SCOPE_UNIVERSE,
    }
}

fn number(scope: RouteScope) -> u8 {
    match scope {
        RouteScope::Global => sys::RT_SCOPE_UNIVERSE,
        RouteScope::Link => sys::RT_SCOPE_LINK,
        RouteScope::Host => sys::RT_SCOPE_HOST,
    }
}

/// Both families number their attributes alike.
fn write_encap(message: &mut Message, encap: Encap) {
    let kind = if encap.remote.is_ipv4() { sys::LWTUNNEL_ENCAP_IP } else { sys::LWTUNNEL_ENCAP_IP6 };
    message.attr(sys::RTA_ENCAP_TYPE, &kind.to_ne_bytes()).nest(sys::RTA_ENCAP, |header| {
        header
            .be64(sys::LWTUNNEL_IP_ID, encap.id.into())
            .ip(sys::LWTUNNEL_IP_DST, encap.remote)
            .u8(sys::LWTUNNEL_IP_TTL, ENCAP_TTL)
            .be16(sys::LWTUNNEL_IP_FLAGS, sys::TUNNEL_KEY | sys::TUNNEL_CSUM);
    });
}

/// An encapsulation that no fragment could want is none.
fn parse_encap(attributes: Attributes<'_>) -> Option<Encap> {
    let kind = u16_of(attributes.get(sys::RTA_ENCAP_TYPE)?)?;
    let header = attributes.nest(sys::RTA_ENCAP);
    let remote = header.ip(sys::LWTUNNEL_IP_DST)?;
    let id = u32::try_from(be_u64(header.get(sys::LWTUNNEL_IP_ID)?)?).ok()?;
    let is_ip = kind == if remote.is_ipv4() { sys::LWTUNNEL_ENCAP_IP } else { sys::LWTUNNEL_ENCAP_IP6 };
    is_ip.then_some(Encap { id, remote })
}

fn write(kind: u16, flags: u16, route: &Route, owner: u8, scope: u8, route_type: u8, route_flags: u32) -> Message {
    let to = route.to.trunc();
    let table = u8::try_from(route.table).unwrap_or(sys::RT_TABLE_COMPAT);
    let mut header = [super::family_of(to.addr()), to.prefix_len(), 0, 0, table, owner, scope, route_type, 0, 0, 0, 0];
    header[8..].copy_from_slice(&route_flags.to_ne_bytes());
    let mut message = Message::new(kind, flags, &header);
    if to.prefix_len() > 0 {
        message.ip(sys::RTA_DST, to.addr());
    }
    message.u32(sys::RTA_TABLE, route.table);
    if route.metric > 0 {
        message.u32(sys::RTA_PRIORITY, route.metric);
    }
    message
}
