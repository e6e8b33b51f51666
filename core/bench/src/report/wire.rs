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
pub(super) const NEAR: f64 = 2.0;
/// What other packets mostly carry: questions and answers of the generators.
const SMALL: u64 = 2;

/// The sum of headers that a figure is: `50, VXLAN`; a dash if it is none that we know.
pub(super) fn encapsulation(bytes: f64) -> String {
    let known = ENCAPSULATIONS.into_iter().find(|(_, sum)| (bytes - sum).abs() < NEAR);
    known.map_or_else(|| "-".into(), |(name, sum)| format!("{sum}, {name}"))
}

// === impl Wire ===

impl Wire {
    /// Bytes that the network adds to each packet; not a number if nothing was sent. Packets beyond one a datagram are others', which are
    /// small, as long as they are few; where there are many, the network made several of one. A card that dropped some sent fewer.
    pub fn overhead(&self) -> f64 {
        let others = self.packets.saturating_sub(self.datagrams);
        let others = if others < self.datagrams / 2 { others } else { 0 };
        let sent = self.datagrams.min(self.packets);
        let plain = sent * u64::from(self.payload + PLAIN_HEADERS) + others * (SMALL + u64::from(PLAIN_HEADERS));
        match sent {
            0 => f64::NAN,
            sent => (self.bytes as f64 - plain as f64) / (sent + others) as f64,
        }
    }

    /// Packets that left the node for each datagram.
    pub fn packets_a_datagram(&self) -> f64 {
        if self.datagrams == 0 { f64::NAN } else { self.packets as f64 / self.datagrams as f64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_what_headers_add_up_to_or_nothing_that_we_know() {
        // A hundred datagrams, and a question of two bytes.
        let wire = Wire { datagrams: 100, payload: 1000, packets: 101, bytes: 100 * 1092 + 94 };
        assert!((wire.overhead() - 50.0).abs() < 1e-9 && (wire.packets_a_datagram() - 1.01).abs() < 1e-9);
        let dropped = Wire { packets: 40, bytes: 40 * 1092, ..wire };
        assert!((dropped.overhead() - 50.0).abs() < 1e-9, "what the card dropped it did not send");
        let split = Wire { packets: 200, bytes: 100 * (1042 + 50 + 84), ..wire };
        assert!((split.overhead() - 134.0).abs() < 1e-9, "the second half has all headers again");
        assert!(Wire::default().overhead().is_nan());
        assert_eq!(encapsulation(wire.overhead()), "50, VXLAN");
        assert_eq!([0.2, 20.3, 37.0].map(encapsulation), ["0, none", "20, IP in IP", "-"]);
    }
}
