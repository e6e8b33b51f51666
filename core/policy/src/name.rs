//! Names of chains, sets and maps: readable in `nft list ruleset`, stable, bounded.

/// Letters of a name that are left before its digest, below nf_tables' 127 with prefixes and suffixes.
const KEPT: usize = 56;

/// A name of the characters that nf_tables takes; the digest keeps apart what would look alike.
pub(crate) fn plain(name: &str, digest: Option<u64>) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'/' | b'.');
    let whole = name.len() <= KEPT && name.bytes().all(plain);
    let kept: String = name.bytes().take(KEPT).map(|b| if plain(b) { char::from(b) } else { '.' }).collect();
    match digest.or_else(|| (!whole).then(|| self::digest(name.as_bytes()))) {
        Some(digest) => format!("{kept}.{digest:016x}"),
        None => kept,
    }
}

/// FNV-1a: the same in every run and on every machine.
pub(crate) fn digest(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, b| (hash ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3))
}
