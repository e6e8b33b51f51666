//! Names that could be malformed, checked once: interfaces, hardware addresses, places.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The name of a network interface: 1 to 15 bytes, no `/`, no white space, not `.` or `..` (`dev_valid_name`, net/core/dev.c).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct IfName(String);

/// An Ethernet hardware address, written `0a:58:0a:28:01:05`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac(pub [u8; 6]);

/// A network namespace, by what lives in it.
///
/// Written `router`, `node/NAME`, `pod/UID`, or `node/NAME/EXTRA` for a namespace that a plugin asks for on a node (an edge
/// gateway, say).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Place {
    /// The upstream L3 device.
    Router,
    /// A node, by its name.
    Node(String),
    /// A pod, by its uid.
    Pod(String),
    /// A further namespace on a node, asked for by a plugin.
    Extra {
        /// The node that carries it.
        node: String,
        /// Its name on that node.
        name: String,
    },
}

/// A name that the kernel, or this vocabulary, would refuse.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// An interface name outside the kernel's rules.
    #[error("interface name {0:?}: must be 1 to 15 bytes without '/', ':' or white space, and not '.' or '..'")]
    Interface(String),
    /// A malformed hardware address.
    #[error("hardware address {0:?}: must be six bytes in hexadecimal, separated by ':'")]
    Mac(String),
    /// A malformed place.
    #[error(
        "place {0:?}: must be 'router', 'node/NAME', 'node/NAME/EXTRA' or 'pod/UID', each part of [a-z0-9.-], at most 63 bytes"
    )]
    Place(String),
}

// === impl IfName ===

impl IfName {
    /// Checks `name` against the kernel's rules.
    pub fn new(name: impl Into<String>) -> Result<Self, NameError> {
        let name = name.into();
        let fits = (1..=15).contains(&name.len());
        let clean = !name.bytes().any(|b| b == b'/' || b == b':' || b.is_ascii_whitespace() || b == 0);
        if fits && clean && name != "." && name != ".." { Ok(Self(name)) } else { Err(NameError::Interface(name)) }
    }

    /// A name that is stable for `seed`: `prefix` and as many hexadecimal digits of its FNV-1a hash as fit.
    ///
    /// # Panics
    /// If `prefix` is itself no valid start of a name; it is a constant of the caller.
    pub fn derived(prefix: &str, seed: &str) -> Self {
        let hash =
            seed.bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
        let mut name = format!("{prefix}{hash:016x}");
        name.truncate(15);
        Self::new(name).expect("a constant prefix and hexadecimal digits form a valid name")
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for IfName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for IfName {
    type Error = NameError;
    fn try_from(name: String) -> Result<Self, NameError> {
        Self::new(name)
    }
}

impl From<IfName> for String {
    fn from(name: IfName) -> String {
        name.0
    }
}

impl FromStr for IfName {
    type Err = NameError;
    fn from_str(name: &str) -> Result<Self, NameError> {
        Self::new(name)
    }
}

// === impl Mac ===

impl Mac {
    /// The address that kubenet and many CNI plugins give an IPv4 interface: `0a:58` and the address' four bytes. For IPv6,
    /// the address' last four bytes.
    pub fn of_ip(ip: IpAddr) -> Self {
        let [a, b, c, d] = match ip {
            IpAddr::V4(v4) => v4.octets(),
            IpAddr::V6(v6) => Ipv4Addr::from_bits(v6.to_bits() as u32).octets(),
        };
        Self([0x0a, 0x58, a, b, c, d])
    }

    /// The address of the node's end of a cable whose other end has that of [`Mac::of_ip`]: `06:58`, and the same four bytes.
    pub fn opposite(ip: IpAddr) -> Self {
        let Self(mut mac) = Self::of_ip(ip);
        mac[0] = 0x06;
        Self(mac)
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Mac {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let malformed = || NameError::Mac(text.to_owned());
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|p| p.len() == 2).ok_or_else(malformed)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| malformed())?;
        }
        if parts.next().is_some() { Err(malformed()) } else { Ok(Self(bytes)) }
    }
}

impl TryFrom<String> for Mac {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> String {
        mac.to_string()
    }
}

// === impl Place ===

impl Place {
    /// The node's own namespace.
    pub fn node(name: impl Into<String>) -> Self {
        Self::Node(name.into())
    }

    /// The namespace of the pod with this uid.
    pub fn pod(uid: impl Into<String>) -> Self {
        Self::Pod(uid.into())
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Router => f.write_str("router"),
            Self::Node(node) => write!(f, "node/{node}"),
            Self::Pod(uid) => write!(f, "pod/{uid}"),
            Self::Extra { node, name } => write!(f, "node/{node}/{name}"),
        }
    }
}

impl FromStr for Place {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let good = |part: &str| {
            (1..=63).contains(&part.len())
                && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.')
        };
        let parts: Vec<&str> = text.split('/').collect();
        match parts[..] {
            ["router"] => Ok(Self::Router),
            ["node", node] if good(node) => Ok(Self::Node(node.into())),
            ["pod", uid] if good(uid) => Ok(Self::Pod(uid.into())),
            ["node", node, name] if good(node) && good(name) => {
                Ok(Self::Extra { node: node.into(), name: name.into() })
            }
            _ => Err(NameError::Place(text.into())),
        }
    }
}

impl TryFrom<String> for Place {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<Place> for String {
    fn from(place: Place) -> String {
        place.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interface_names_follow_the_kernel() {
        for good in ["eth0", "a", "cbr0", "veth0123456789a"] {
            assert!(IfName::new(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "a b", "a:b", "sixteen-bytes-xx"] {
            assert!(IfName::new(bad).is_err(), "{bad}");
        }
        assert_eq!(IfName::derived("veth", "x").as_str().len(), 15);
    }

    #[test]
    fn places_and_macs_round_trip_as_text() {
        for text in ["router", "node/n1", "pod/0f0c", "node/n1/edge"] {
            assert_eq!(text.parse::<Place>().unwrap().to_string(), text);
        }
        for bad in ["", "pod", "pod/", "node/A", "node/a/b/c", "router/x"] {
            assert!(bad.parse::<Place>().is_err(), "{bad}");
        }
        let mac = Mac::of_ip("10.40.1.5".parse().unwrap());
        assert_eq!(mac.to_string(), "0a:58:0a:28:01:05");
        assert_eq!(mac.to_string().parse::<Mac>().unwrap(), mac);
        assert_eq!(Mac::opposite("10.40.1.5".parse().unwrap()).to_string(), "06:58:0a:28:01:05");
        assert!("0a:58:0a:28:01".parse::<Mac>().is_err());
    }
}
