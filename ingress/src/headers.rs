//! What changes in a message on its way through: hop-by-hop fields go, what the next one should know is added.

use std::{
    cell::Cell,
    fmt::Write as _,
    net::{IpAddr, SocketAddr},
};

use http::{HeaderMap, HeaderName, HeaderValue, Version, header};

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
/// Names one request through all hops.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// What is known about who is asking, the same for all requests of a connection.
#[derive(Debug)]
pub struct Peer {
    /// Who.
    pub address: SocketAddr,
    /// Whether its word about earlier hops counts.
    pub trusted: bool,
    local: SocketAddr,
    ip: HeaderValue,
    proto: HeaderValue,
    port: HeaderValue,
}

/// Makes request ids: unique, not secret.
#[derive(Debug)]
pub struct Ids {
    core: u64,
    next: Cell<u64>,
}

// === impl Peer ===

impl Peer {
    /// A peer on a connection accepted at `local`.
    pub fn new(address: SocketAddr, local: SocketAddr, tls: bool, trusted: bool) -> Self {
        let value = |text: String| HeaderValue::from_str(&text).expect("an address is a valid header value");
        let address = SocketAddr::new(address.ip().to_canonical(), address.port());
        Self {
            ip: value(address.ip().to_string()),
            port: value(local.port().to_string()),
            proto: HeaderValue::from_static(if tls { "https" } else { "http" }),
            address,
            trusted,
            local,
        }
    }

    /// The address it asked, for want of a name.
    pub(crate) fn asked(&self) -> HeaderValue {
        let local = SocketAddr::new(self.local.ip().to_canonical(), self.local.port());
        HeaderValue::try_from(local.to_string()).expect("an address is a valid header value")
    }
}

/// Addresses whose X-Forwarded-* is believed.
pub fn is_trusted(networks: &[crate::config::Network], address: IpAddr) -> bool {
    let address = address.to_canonical();
    networks.iter().any(|network| network.contains(address))
}

// === impl Ids ===

impl Ids {
    /// A sequence nobody else has.
    pub fn new() -> Self {
        use std::hash::{BuildHasher, Hasher};
        let random = || std::collections::hash_map::RandomState::new().build_hasher().finish();
        Self { core: random(), next: Cell::new(random()) }
    }

    fn next(&self) -> HeaderValue {
        // Any odd step visits all numbers; this one changes most digits each time.
        let next = self.next.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.next.set(next);
        let mut text = String::with_capacity(32);
        let _ = write!(text, "{:016x}{next:016x}", self.core);
        HeaderValue::try_from(text).expect("hexadecimal digits are a valid header value")
    }
}

impl Default for Ids {
    fn default() -> Self {
        Self::new()
    }
}

/// Makes a client's headers into those for the backend. `upgrade` keeps the fields that ask for it.
pub fn to_upstream(headers: &mut HeaderMap, peer: &Peer, version: Version, upgrade: bool, ids: &Ids) {
    join(headers, header::UPGRADE, ", ");
    let protocol = if upgrade { headers.remove(header::UPGRADE) } else { None };
    let trailers = headers.get(header::TE).is_some_and(|te| contains_token(te, "trailers"));
    remove_hop_by_hop(headers);
    headers.remove(HTTP2_SETTINGS);
    headers.remove(header::EXPECT);
    headers.remove(header::PROXY_AUTHORIZATION);
    if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    if let Some(protocol) = protocol {
        headers.insert(header::UPGRADE, protocol);
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    }

    if version == Version::HTTP_2 {
        join(headers, header::COOKIE, "; ");
    }

    let host = headers.get(header::HOST).cloned();
    let mut chain = peer.ip.clone();
    if peer.trusted {
        // Every line counts, the first to the last: one that is left out is one that a client could hide the others behind.
        join(headers, FORWARDED_FOR, ", ");
        let earlier = headers.get(FORWARDED_FOR).and_then(|earlier| earlier.to_str().ok());
        if let Some(earlier) = earlier.filter(|earlier| !earlier.is_empty()) {
            let longer = format!("{earlier}, {}", peer.address.ip());
            chain = HeaderValue::try_from(longer).unwrap_or(chain);
        }
    }
    if !peer.trusted {
        headers.remove(header::FORWARDED);
    }
    headers.insert(FORWARDED_FOR, chain);
    let mut say = |name: HeaderName, value: &HeaderValue| {
        if !(peer.trusted && headers.contains_key(&name)) {
            headers.insert(name, value.clone());
        }
    };
    say(REAL_IP, &peer.ip);
    say(FORWARDED_PROTO, &peer.proto);
    say(FORWARDED_PORT, &peer.port);
    if let Some(host) = &host {
        say(FORWARDED_HOST, host);
    }
    if headers.get(REQUEST_ID).is_none_or(|id| id.len() > 128 || id.is_empty()) {
        headers.insert(REQUEST_ID, ids.next());
    }
    headers.append(header::VIA, HeaderValue::from_static(via(version)));
}

/// Makes a backend's headers into those for the client.
pub fn to_client(headers: &mut HeaderMap) {
    remove_hop_by_hop(headers);
}

/// Makes one line of several: HTTP/2 sends a cookie in crumbs, and HTTP/1 knows one Cookie line (RFC 9113, 8.2.3).
fn join(headers: &mut HeaderMap, name: HeaderName, between: &str) {
    let mut lines = headers.get_all(&name).iter();
    if lines.by_ref().take(2).count() < 2 {
        return;
    }
    let lines: Vec<_> = headers.get_all(&name).iter().map(HeaderValue::as_bytes).collect();
    if let Ok(joined) = HeaderValue::from_bytes(&lines.join(between.as_bytes())) {
        headers.insert(name, joined);
    }
}

/// The parts of a comma-separated field.
pub(crate) fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|b| *b == b',').map(<[u8]>::trim_ascii).filter(|token| !token.is_empty())
}

/// Whether a comma-separated field has a token.
pub fn contains_token(value: &HeaderValue, token: &str) -> bool {
    tokens(value.as_bytes()).any(|part| part.eq_ignore_ascii_case(token.as_bytes()))
}

/// Removes the fields that are meant for one hop, and those that `Connection` names, except such as are ours to keep.
fn remove_hop_by_hop(headers: &mut HeaderMap) {
    const OURS: [HeaderName; 6] = [
        header::HOST,
        header::COOKIE,
        header::AUTHORIZATION,
        header::CONTENT_LENGTH,
        header::CONTENT_TYPE,
        header::TRANSFER_ENCODING,
    ];
    while let Some(value) = headers.remove(header::CONNECTION) {
        for token in tokens(value.as_bytes()) {
            if token.eq_ignore_ascii_case(b"close") || token.eq_ignore_ascii_case(b"keep-alive") {
                continue;
            }
            if let Ok(name) = HeaderName::from_bytes(token)
                && !OURS.contains(&name)
                && !name.as_str().starts_with("x-forwarded-")
            {
                headers.remove(name);
            }
        }
        if !headers.contains_key(header::CONNECTION) {
            break;
        }
    }
    for name in [KEEP_ALIVE, PROXY_CONNECTION, header::TE, header::TRANSFER_ENCODING, header::UPGRADE] {
        headers.remove(name);
    }
}

fn via(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "1.0 yard-ingress",
        Version::HTTP_2 => "2 yard-ingress",
        _ => "1.1 yard-ingress",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upstream(lines: &[(&'static str, &'static str)], trusted: bool) -> HeaderMap {
        upstream_of(Version::HTTP_11, lines, trusted)
    }

    fn upstream_of(version: Version, lines: &[(&'static str, &'static str)], trusted: bool) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_static(value));
        }
        let peer = Peer::new(([192, 0, 2, 1], 5).into(), ([192, 0, 2, 2], 80).into(), false, trusted);
        to_upstream(&mut headers, &peer, version, false, &Ids::new());
        headers
    }

    #[test]
    fn hop_by_hop_fields_go_and_so_do_those_connection_names() {
        let lines = [
            ("connection", "x-a, close, host, cookie, x-forwarded-for"),
            ("x-a", "1"),
            ("host", "h"),
            ("cookie", "c"),
            ("keep-alive", "5"),
            ("te", "gzip, trailers"),
            ("upgrade", "foo"),
            ("proxy-connection", "x"),
        ];
        let headers = upstream(&lines, false);
        for gone in ["connection", "x-a", "keep-alive", "upgrade", "proxy-connection"] {
            assert!(!headers.contains_key(gone), "{gone} must not be forwarded");
        }
        assert_eq!(headers["te"], "trailers");
        assert_eq!((&headers["host"], &headers["cookie"]), (&"h".parse().unwrap(), &"c".parse().unwrap()));
        assert_eq!(headers["x-forwarded-for"], "192.0.2.1");
        assert_eq!(headers["via"], "1.1 yard-ingress");
    }

    #[test]
    fn only_a_trusted_peer_speaks_for_others() {
        let lines = [("x-forwarded-for", "9.9.9.9"), ("x-forwarded-proto", "https"), ("host", "h"), ("via", "1.0 a")];
        let spoofed = upstream(&lines, false);
        assert_eq!(
            (&spoofed["x-forwarded-for"], &spoofed["x-forwarded-proto"]),
            (&"192.0.2.1".parse().unwrap(), &"http".parse().unwrap())
        );
        let trusted = upstream(&lines, true);
        assert_eq!(trusted["x-forwarded-for"], "9.9.9.9, 192.0.2.1");
        assert_eq!(trusted["x-forwarded-proto"], "https");
        assert_eq!(trusted.get_all("via").iter().count(), 2);
    }

    #[test]
    fn every_line_of_earlier_hops_is_kept_in_its_order() {
        let lines = [("x-forwarded-for", "6.6.6.6"), ("x-forwarded-for", "9.9.9.9, 8.8.8.8")];
        let headers = upstream(&lines, true);
        assert_eq!(headers["x-forwarded-for"], "6.6.6.6, 9.9.9.9, 8.8.8.8, 192.0.2.1");
        assert_eq!(headers.get_all("x-forwarded-for").iter().count(), 1);
        assert_eq!(upstream(&lines, false)["x-forwarded-for"], "192.0.2.1");
    }

    #[test]
    fn the_crumbs_of_a_cookie_become_one() {
        let lines = [("cookie", "a=1"), ("cookie", "b=2; c=3"), ("cookie", "d=4")];
        let headers = upstream_of(Version::HTTP_2, &lines, false);
        assert_eq!(headers["cookie"], "a=1; b=2; c=3; d=4");
        assert_eq!(headers.get_all("cookie").iter().count(), 1);
    }
}
