//! What we answer for: a zone's apex, and what says that something is not in it.

use hickory_proto::rr::rdata::SOA;
use hickory_proto::rr::{LowerName, Name, RData, Record};
use ipnet::IpNet;

use crate::{Data, Entry, TTL};

/// A zone.
#[derive(Clone, Debug)]
pub struct Zone {
    /// Its name.
    pub apex: Name,
    /// The name server it says it has.
    pub name_server: Name,
    pub(crate) lower: LowerName,
}

/// Most reverse zones made of one prefix: its octets, or nibbles, rarely end where the prefix does.
const REVERSE_MAX: u32 = 16;

// === impl Zone ===

impl Zone {
    /// A zone with a name server.
    pub fn new(apex: Name, name_server: Name) -> Self {
        Self { lower: LowerName::new(&apex), apex, name_server }
    }

    /// What the apex itself has besides its SOA.
    pub fn entries(&self) -> Vec<Entry> {
        vec![Entry::new(&self.apex, Data::Ns(self.name_server.clone()))]
    }

    /// Start of authority. It comes with everything that is not there, so that resolvers know how long they may remember that.
    pub(crate) fn soa(&self, serial: u32) -> Record {
        let hostmaster = self.apex.prepend_label("hostmaster").unwrap_or_else(|_| self.apex.clone());
        let soa = SOA::new(self.name_server.clone(), hostmaster, serial, 7200, 1800, 86_400, TTL);
        Record::from_rdata(self.apex.clone(), TTL, RData::SOA(soa))
    }
}

/// Names of the zones below which the addresses of a prefix have their names.
pub fn reverse_zones(prefix: &IpNet) -> Vec<Name> {
    let step = if prefix.addr().is_ipv4() { 8 } else { 4 };
    let length = prefix.prefix_len().div_ceil(step) * step;
    let parts = 1u32.checked_shl(u32::from(length - prefix.prefix_len())).unwrap_or(u32::MAX);
    let parts = match prefix.subnets(length) {
        Ok(subnets) if parts <= REVERSE_MAX => subnets.collect(),
        _ => vec![*prefix],
    };
    let whole = |part: IpNet| {
        let labels = usize::from(part.prefix_len() / step) + 2;
        Name::from(part.addr()).trim_to(labels)
    };
    parts.into_iter().map(whole).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_become_zones() {
        let zones = |prefix: &str| -> Vec<String> {
            reverse_zones(&prefix.parse().unwrap()).iter().map(Name::to_ascii).collect()
        };
        assert_eq!(zones("10.96.0.0/16"), ["96.10.in-addr.arpa."]);
        assert_eq!(zones("10.96.4.0/23"), ["4.96.10.in-addr.arpa.", "5.96.10.in-addr.arpa."]);
        // Too many: the zone around them.
        assert_eq!(zones("10.96.0.0/9"), ["10.in-addr.arpa."]);
        assert_eq!(zones("fd00::/8"), ["d.f.ip6.arpa."]);
    }
}
