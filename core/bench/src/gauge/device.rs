//! What network devices have counted (proc(5), `/proc/net/dev`), in the namespace of the thread that asks.

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

/// One device.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Device {
    /// Its name.
    pub name: String,
    /// Bytes in, with the Ethernet head and without the checksum behind.
    pub received_bytes: u64,
    /// Packets in.
    pub received_packets: u64,
    /// Packets that came and were dropped.
    pub received_drops: u64,
    /// Bytes out.
    pub sent_bytes: u64,
    /// Packets out.
    pub sent_packets: u64,
    /// Packets that were to go and were dropped.
    pub sent_drops: u64,
}

// === impl Device ===

impl Device {
    /// All devices here.
    pub(crate) fn read() -> anyhow::Result<Vec<Self>> {
        let text = std::fs::read_to_string("/proc/thread-self/net/dev").context("read /proc/thread-self/net/dev")?;
        Self::parse(&text).context("/proc/net/dev: not as proc(5) has it")
    }

    pub(super) fn parse(text: &str) -> Option<Vec<Self>> {
        text.lines().skip(2).map(Self::line).collect()
    }

    fn line(line: &str) -> Option<Self> {
        let (name, numbers) = line.split_once(':')?;
        let numbers: Vec<u64> = numbers.split_whitespace().map_while(|word| word.parse().ok()).collect();
        let [
            received_bytes,
            received_packets,
            _,
            received_drops,
            _,
            _,
            _,
            _,
            sent_bytes,
            sent_packets,
            _,
            sent_drops,
            ..,
        ] = numbers[..]
        else {
            return None;
        };
        let name = name.trim().to_owned();
        Some(Self { name, received_bytes, received_packets, received_drops, sent_bytes, sent_packets, sent_drops })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_read_by_their_columns() {
        let text = "Inter-|   Receive |  Transmit\n face |bytes packets errs\n  eth0: 1 2 0 3 0 0 0 0 4 5 0 6 0 0 0 0\n    lo:9 9 0 0 0 0 0 0 9 9 0 0 0 0 0 0\n";
        let devices = Device::parse(text).unwrap();
        let eth0 = &devices[0];
        assert_eq!((eth0.name.as_str(), eth0.received_drops, eth0.sent_packets, eth0.sent_drops), ("eth0", 3, 5, 6));
        assert_eq!(devices[1].name, "lo");
        assert_eq!(Device::parse("a\nb\nnonsense\n"), None);
    }
}
