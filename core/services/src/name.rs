//! Names of chains, sets and maps: readable in `nft list ruleset`, stable, bounded.

use crate::frontend::{Frontend, Port};

/// What is left below nf_tables' 127 bytes for the name of a service port, after a prefix and an endpoint.
const PORT_MAX: usize = 88;

/// `namespace/name/tcp-80`. A long one is cut and ends in a hash of the whole.
pub(crate) fn of_port(frontend: &Frontend, port: &Port) -> String {
    let full = format!("{}/{}-{}", frontend.id, port.protocol.name(), port.port);
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'/' | b'.');
    if full.len() <= PORT_MAX && full.bytes().all(plain) {
        return full;
    }
    let kept: String = full.bytes().take(PORT_MAX - 17).map(|b| if plain(b) { char::from(b) } else { '.' }).collect();
    format!("{kept}.{:016x}", fnv1a(full.as_bytes()))
}

fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, b| (hash ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3))
}
