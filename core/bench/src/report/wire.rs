//! Bytes that a network adds to a packet, and what headers add up to.

use super::Wire;

/// Ethernet 14, IPv4 20, UDP 8: what stands before a payload without any encapsulation.
const PLAIN_HEADERS: u32 = 42;
/// What stands before the inner packet, byte by byte, over IPv4.
const ENCAPSULATIONS: [(&str, f64); 7] = [
    ("none", 0.0),
    ("VLAN", 4.0),
    ("IP in IP", 20.0),
    ("GRE", 20.0 + 4.0),
    ("UDP, IP in it", 20.0 + 8.0),
    ("VXLAN", 20.0 + 8.0 + 8.0 + 14.0),
    ("WireGuard", 20.0 + 8.0 + 32.0),
];
/// Other packets pass now and then while some are counted: so many bytes, spread over all.
const NEAR: f64 = 2.0;

/// The sum of headers that a figure is: `50, VXLAN`; a dash if it is none that we know.
pub(super) fn encapsulation(bytes: f64) -> String {
    let known = ENCAPSULATIONS.into_iter().find(|(_, sum)| (bytes - sum).abs() < NEAR);
    known.map_or_else(|| "-".into(), |(name, sum)| format!("{sum}, {name}"))
}

// === impl Wire ===

impl Wire {
    /// Bytes that the network adds to each packet.
    pub fn overhead(&self) -> f64 {
        self.bytes as f64 / self.datagrams.max(1) as f64 - f64::from(self.payload + PLAIN_HEADERS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_what_headers_add_up_to_or_nothing_that_we_know() {
        let wire = Wire { datagrams: 100, payload: 1000, packets: 101, bytes: 109_240 };
        assert!((wire.overhead() - 50.4).abs() < 1e-9);
        assert_eq!(encapsulation(wire.overhead()), "50, VXLAN");
        assert_eq!([0.2, 20.3, 37.0].map(encapsulation), ["0, none", "20, IP in IP", "-"]);
    }
}
