//! Options, read and checked.

use ipnet::{IpNet, Ipv4Net};
use switchyard_plugin::bridged::Bridged;
use switchyard_plugin::{Facts, OptionReader, Options, OptionsError};

/// What the user chose.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Where subnets are carved from.
    segments: Option<Ipv4Net>,
    /// Length of a subnet's prefix. Default 24.
    pub(crate) subnet_prefix: u8,
    /// What carries packets between nodes. Default VXLAN.
    pub(crate) encapsulation: Encapsulation,
    /// UDP port of the tunnels. Default: the one that is registered for the encapsulation.
    pub(crate) port: u16,
    /// The way outside.
    pub(crate) north_south: NorthSouth,
    /// The bridge of pods without a segment; MTU and masquerading of all.
    pub(crate) bridged: Bridged,
}

/// What carries packets between nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encapsulation {
    /// RFC 7348.
    Vxlan,
    /// RFC 8926.
    Geneve,
}

/// How pods reach the world outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NorthSouth {
    /// Through the tier-0 gateway, with an address from this pool.
    Edge(Ipv4Net),
    /// From the node, with the node's address.
    Node,
}

// === impl Settings ===

impl Settings {
    pub(crate) fn read(options: &Options) -> Result<Self, OptionsError> {
        let mut options = OptionReader::new(options);
        let segments = options.take("segments", "an IPv4 prefix such as \"10.40.128.0/17\"")?;
        let subnet_prefix =
            options.take_if("subnetPrefix", "a number from 16 to 28", |length| (16..=28).contains(length))?;
        let word = |word: &String| ["vxlan", "geneve"].contains(&word.as_str());
        let encapsulation = options.take_if("encapsulation", "vxlan or geneve", word)?;
        let port = options.take_if("port", "a number from 1 to 65535", |port| *port > 0)?;
        let word = |word: &String| ["edge", "node"].contains(&word.as_str());
        let north_south = options.take_if("northSouth", "edge or node", word)?;
        let expected = "an IPv4 prefix of at most 30 bits such as \"192.168.200.0/24\"";
        let pool = options.take_if("snatPool", expected, |pool: &Ipv4Net| pool.prefix_len() <= 30)?;
        let bridged = Bridged::read(&mut options)?;
        options.finish()?;
        is_free(bridged.bridge.as_str())?;
        let subnet_prefix = subnet_prefix.unwrap_or(24);
        let range: Option<Ipv4Net> = segments;
        if let Some(range) = range.filter(|range| range.prefix_len() > subnet_prefix) {
            let problem = format!("{range} has no subnets of length {subnet_prefix}");
            return Err(OptionsError { option: "segments".into(), problem });
        }
        let pool = pool.unwrap_or(Ipv4Net::new_assert([192, 168, 200, 0].into(), 24)).trunc();
        let north_south =
            if north_south.as_deref() == Some("node") { NorthSouth::Node } else { NorthSouth::Edge(pool) };
        let segments = range.map(|range| range.trunc());
        let encapsulation =
            if encapsulation.as_deref() == Some("geneve") { Encapsulation::Geneve } else { Encapsulation::Vxlan };
        let port = port.unwrap_or(encapsulation.port());
        Ok(Self { segments, subnet_prefix, encapsulation, port, north_south, bridged })
    }

    /// Where subnets are carved from.
    pub(crate) fn segments(&self, facts: &Facts) -> IpNet {
        if let Some(range) = self.segments {
            return range.into();
        }
        let whole = facts.pod_cidr.trunc();
        let halves = whole.subnets(whole.prefix_len().saturating_add(1));
        halves.ok().and_then(|mut halves| halves.nth(1)).unwrap_or(whole)
    }

    /// Addresses of pods.
    pub(crate) fn pods(&self, facts: &Facts) -> Vec<IpNet> {
        let mut pods = vec![facts.pod_cidr.trunc()];
        let segments = self.segments(facts);
        if !facts.pod_cidr.contains(&segments) {
            pods.push(segments);
        }
        pods
    }
}

/// A bridge cannot have the name of the router, of the link to tier-0, or of a tunnel.
fn is_free(bridge: &str) -> Result<(), OptionsError> {
    let of_segment = bridge.strip_prefix("vx").is_some_and(|vni| vni.bytes().all(|byte| byte.is_ascii_digit()));
    if !of_segment && !["dr0", "t0", "geneve0"].contains(&bridge) {
        return Ok(());
    }
    let problem = format!("{bridge:?} is the name of a device that nsx makes; expected another one, such as \"cbr0\"");
    Err(OptionsError { option: "bridge".into(), problem })
}

// === impl Encapsulation ===

impl Encapsulation {
    /// The UDP port that is registered for it.
    fn port(self) -> u16 {
        match self {
            Self::Vxlan => 4789,
            Self::Geneve => 6081,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Settings, String> {
        Settings::read(&serde_json::from_str(json).unwrap()).map_err(|error| error.to_string())
    }

    #[test]
    fn every_option_has_a_default() {
        let settings = read("{}").unwrap();
        assert_eq!((settings.subnet_prefix, settings.encapsulation, settings.port), (24, Encapsulation::Vxlan, 4789));
        assert_eq!(read(r#"{"encapsulation":"geneve"}"#).unwrap().port, 6081);
        assert_eq!(read(r#"{"encapsulation":"geneve","port":4789}"#).unwrap().port, 4789);
        assert_eq!(settings.north_south, NorthSouth::Edge("192.168.200.0/24".parse().unwrap()));
        assert_eq!(read(r#"{"northSouth":"node"}"#).unwrap().north_south, NorthSouth::Node);
    }

    #[test]
    fn a_bad_option_is_named_with_its_value_and_what_would_be_right() {
        for (json, expected) in [
            (r#"{"subnetPrefix":29}"#, "option subnetPrefix: 29 given, expected a number from 16 to 28"),
            (r#"{"encapsulation":"gre"}"#, r#"option encapsulation: "gre" given, expected vxlan or geneve"#),
            (r#"{"northSouth":"up"}"#, r#"option northSouth: "up" given, expected edge or node"#),
            (
                r#"{"snatPool":"192.168.200.0/31"}"#,
                r#"option snatPool: "192.168.200.0/31" given, expected an IPv4 prefix of at most 30 bits such as "192.168.200.0/24""#,
            ),
            (
                r#"{"segments":"fd00::/8"}"#,
                r#"option segments: "fd00::/8" given, expected an IPv4 prefix such as "10.40.128.0/17""#,
            ),
            (
                r#"{"bridge":"geneve0"}"#,
                r#"option bridge: "geneve0" is the name of a device that nsx makes; expected another one, such as "cbr0""#,
            ),
            (
                r#"{"bridge":"vx4096"}"#,
                r#"option bridge: "vx4096" is the name of a device that nsx makes; expected another one, such as "cbr0""#,
            ),
            (r#"{"segments":"10.9.0.0/26"}"#, "option segments: 10.9.0.0/26 has no subnets of length 24"),
        ] {
            assert_eq!(read(json).unwrap_err(), expected);
        }
    }
}
