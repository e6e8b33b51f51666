//! Records as values.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hickory_proto::rr::rdata::{A, AAAA, CNAME, NS, PTR, SRV, TXT};
use hickory_proto::rr::{LowerName, Name, RData, RecordType};

/// What a name is said to be. Ordered by type first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Data {
    /// An IPv4 address.
    A(Ipv4Addr),
    /// An IPv6 address.
    Aaaa(Ipv6Addr),
    /// Another name.
    Cname(Name),
    /// A name server.
    Ns(Name),
    /// The name of an address.
    Ptr(Name),
    /// A port of a host. Priority is 0; the weight is shared out when it is answered.
    Srv {
        /// The port.
        port: u16,
        /// The host.
        target: Name,
    },
    /// Text.
    Txt(String),
}

/// A record and its name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Entry {
    /// Its name. Its first label may be or hold one `*`, which stands for one or more bytes of one label.
    pub name: LowerName,
    /// What it says; nothing: the name exists.
    pub data: Option<Data>,
}

// === impl Data ===

impl Data {
    /// Its type.
    pub fn record_type(&self) -> RecordType {
        match self {
            Self::A(_) => RecordType::A,
            Self::Aaaa(_) => RecordType::AAAA,
            Self::Cname(_) => RecordType::CNAME,
            Self::Ns(_) => RecordType::NS,
            Self::Ptr(_) => RecordType::PTR,
            Self::Srv { .. } => RecordType::SRV,
            Self::Txt(_) => RecordType::TXT,
        }
    }

    /// As it is sent.
    pub(crate) fn rdata(&self, weight: u16) -> RData {
        match self {
            Self::A(address) => RData::A(A(*address)),
            Self::Aaaa(address) => RData::AAAA(AAAA(*address)),
            Self::Cname(name) => RData::CNAME(CNAME(name.clone())),
            Self::Ns(name) => RData::NS(NS(name.clone())),
            Self::Ptr(name) => RData::PTR(PTR(name.clone())),
            Self::Srv { port, target } => RData::SRV(SRV::new(0, weight, *port, target.clone())),
            Self::Txt(text) => RData::TXT(TXT::new(vec![text.clone()])),
        }
    }
}

impl From<IpAddr> for Data {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Self::A(address),
            IpAddr::V6(address) => Self::Aaaa(address),
        }
    }
}

// === impl Entry ===

impl Entry {
    /// A record.
    pub fn new(name: &Name, data: impl Into<Data>) -> Self {
        Self { name: LowerName::new(name), data: Some(data.into()) }
    }

    /// A name that exists without records.
    pub fn bare(name: &Name) -> Self {
        Self { name: LowerName::new(name), data: None }
    }
}
