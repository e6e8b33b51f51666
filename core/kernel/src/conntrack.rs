//! Connection tracking: flows by filter, listed or dropped. A UDP flow towards an endpoint that went away would otherwise be kept
//! alive by its client's packets for ever.

use std::io;
use std::net::IpAddr;

use switchyard_netstate::Place;

use crate::netlink::{Attributes, Connection, Family, Message, be_u16};
use crate::places::io_error;
use crate::{Engine, Error, sys};

/// Which flows: those that agree in everything that is given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Layer 4 protocol number (17 UDP).
    pub proto: Option<u8>,
    /// Destination as the client sent it: a Service's address.
    pub to: Option<IpAddr>,
    /// Destination port as the client sent it.
    pub to_port: Option<u16>,
    /// Where answers come from: the endpoint's address.
    pub from_endpoint: Option<IpAddr>,
    /// The endpoint's port.
    pub from_endpoint_port: Option<u16>,
    /// An address at either end, translated or not.
    pub party: Option<IpAddr>,
}

/// One direction of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuple {
    /// Source address.
    pub source: IpAddr,
    /// Source port; 0 for protocols without.
    pub source_port: u16,
    /// Destination address.
    pub destination: IpAddr,
    /// Destination port; 0 for protocols without.
    pub destination_port: u16,
}

/// A tracked flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Layer 4 protocol number.
    pub proto: u8,
    /// As the client sent it.
    pub original: Tuple,
    /// As answers come back.
    pub reply: Tuple,
}

// === impl Engine ===

impl Engine {
    /// Flows in a place that agree with the filter.
    pub fn flows(&mut self, place: &Place, filter: &Filter) -> Result<Vec<Flow>, Error> {
        let found = list(self.connection(place)?, filter).map_err(|source| io_error(place, "list flows", source))?;
        Ok(found.into_iter().map(|(flow, _)| flow).collect())
    }

    /// Drops flows in a place that agree with the filter; the next packet is looked at afresh. Gives how many there were.
    pub fn drop_flows(&mut self, place: &Place, filter: &Filter) -> Result<usize, Error> {
        self.drop_flows_if(place, filter, |_| true)
    }

    /// [`Engine::drop_flows`] for those among them that a predicate picks: the table is read once for many.
    pub fn drop_flows_if(
        &mut self,
        place: &Place,
        filter: &Filter,
        picks: impl Fn(&Flow) -> bool,
    ) -> Result<usize, Error> {
        let failed = |source| io_error(place, "drop flows", source);
        let connection = self.connection(place)?;
        let found = list(connection, filter).map_err(failed)?;
        let picked = found.iter().filter(|(flow, _)| picks(flow));
        let mut messages: Vec<Message> = picked.map(|(flow, tuple)| delete(flow, tuple)).collect();
        let mut dropped = 0;
        for answer in connection.batch(&mut messages).map_err(failed)? {
            match answer {
                Ok(_) => dropped += 1,
                Err(refusal) if refusal.errno == libc::ENOENT => {}
                Err(refusal) => return Err(failed(io::Error::from_raw_os_error(refusal.errno))),
            }
        }
        Ok(dropped)
    }

    fn connection(&mut self, place: &Place) -> Result<&mut Connection, Error> {
        self.places.connection(place, Family::Netfilter, self.owner.protocol)
    }
}

// === impl Filter ===

impl Filter {
    fn takes(&self, flow: &Flow) -> bool {
        self.proto.is_none_or(|proto| proto == flow.proto)
            && self.to.is_none_or(|to| to == flow.original.destination)
            && self.to_port.is_none_or(|port| port == flow.original.destination_port)
            && self.from_endpoint.is_none_or(|from| from == flow.reply.source)
            && self.from_endpoint_port.is_none_or(|port| port == flow.reply.source_port)
            && self.party.is_none_or(|party| {
                let ends = [flow.original, flow.reply].map(|way| [way.source, way.destination]);
                ends.as_flattened().contains(&party)
            })
    }
}

/// Flows and the bytes of their original tuple, which name them.
fn list(connection: &mut Connection, filter: &Filter) -> io::Result<Vec<(Flow, Vec<u8>)>> {
    let mut found = Vec::new();
    let message = header(sys::IPCTNL_MSG_CT_GET, 0);
    let fresh = std::cell::Cell::new(false);
    let outcome = connection.dump(
        &message,
        || fresh.set(true),
        |_, payload| {
            if fresh.take() {
                found.clear();
            }
            found.extend(parse(payload).filter(|(flow, _)| filter.takes(flow)));
        },
    )?;
    outcome.map_err(|refusal| io::Error::from_raw_os_error(refusal.errno))?;
    Ok(found)
}

fn parse(payload: &[u8]) -> Option<(Flow, Vec<u8>)> {
    let attributes = Attributes::after(payload, 4);
    let original = attributes.get(sys::CTA_TUPLE_ORIG)?;
    let proto = Attributes(original).nest(sys::CTA_TUPLE_PROTO).u8(sys::CTA_PROTO_NUM)?;
    let flow =
        Flow { proto, original: tuple(Attributes(original))?, reply: tuple(attributes.nest(sys::CTA_TUPLE_REPLY))? };
    Some((flow, original.to_vec()))
}

fn tuple(attributes: Attributes<'_>) -> Option<Tuple> {
    let (ip, proto) = (attributes.nest(sys::CTA_TUPLE_IP), attributes.nest(sys::CTA_TUPLE_PROTO));
    let port = |kind| proto.get(kind).and_then(be_u16).unwrap_or_default();
    Some(Tuple {
        source: ip.ip(sys::CTA_IP_V4_SRC).or_else(|| ip.ip(sys::CTA_IP_V6_SRC))?,
        source_port: port(sys::CTA_PROTO_SRC_PORT),
        destination: ip.ip(sys::CTA_IP_V4_DST).or_else(|| ip.ip(sys::CTA_IP_V6_DST))?,
        destination_port: port(sys::CTA_PROTO_DST_PORT),
    })
}

fn delete(flow: &Flow, original: &[u8]) -> Message {
    let family = if flow.original.source.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 } as u8;
    let mut message = header(sys::IPCTNL_MSG_CT_DELETE, family);
    message.nest(sys::CTA_TUPLE_ORIG, |tuple| {
        tuple.raw(original);
    });
    message
}

fn header(kind: u16, family: u8) -> Message {
    Message::new(sys::NFNL_SUBSYS_CTNETLINK << 8 | kind, 0, &[family, sys::NFNETLINK_V0, 0, 0])
}
