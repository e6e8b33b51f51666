//! One request head, byte by byte: is it exactly one thing to everybody who may read it, and how long is its body?
//!
//! Strict where recipients are known to disagree (line ends, duplicate or double framing, folded lines, odd hosts, dot segments), so
//! that no two parsers behind us can see two different requests. Costs one pass over the head and no allocation.

use memchr::memchr;

use super::Refusal;
use crate::headers::tokens;

/// Bounds of a head.
#[derive(Clone, Copy, Debug)]
pub struct HeadLimits {
    /// Bytes of request line and headers together.
    pub bytes: usize,
    /// Header lines.
    pub headers: usize,
}

/// What a head says about the bytes that follow it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Bytes of the head, with the blank line.
    pub length: usize,
    /// How its body is framed.
    pub framing: Framing,
    /// It asks to leave HTTP.
    pub upgrade: bool,
}

/// Length of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// None.
    Empty,
    /// That many bytes.
    Length(u64),
    /// Chunks.
    Chunked,
}

#[derive(Default)]
struct Seen<'a> {
    host: Option<&'a [u8]>,
    length: Option<u64>,
    chunked: bool,
    upgrade: bool,
    h2c: bool,
    connection_upgrade: bool,
}

// === impl Head ===

impl Head {
    /// Reads a head; `None` when its end has not come yet.
    ///
    /// # Errors
    /// With what is wrong, as early as it is known.
    pub fn read(bytes: &[u8], limits: HeadLimits) -> Result<Option<Self>, Refusal> {
        // Robustness asked for by RFC 9112 2.2: one empty line before a request.
        let start = if bytes.starts_with(b"\r\n") { 2 } else { 0 };
        match bytes.get(start) {
            None => return Ok(None),
            Some(b'\r') if bytes.len() == 1 => return Ok(None),
            Some(&first) if !is_token(first) => {
                return Err(if matches!(first, b'\r' | b'\n' | b' ' | b'\t') {
                    Refusal::RequestLine
                } else {
                    Refusal::NotHttp
                });
            }
            Some(_) => {}
        }
        let Some((line, mut at)) = line(bytes, start)? else {
            return if bytes.len() > limits.bytes { Err(Refusal::TargetTooLong) } else { Ok(None) };
        };
        if at > limits.bytes {
            return Err(Refusal::TargetTooLong);
        }
        let request = RequestLine::read(line)?;
        let mut seen = Seen::default();
        let mut headers = 0;
        loop {
            let Some((line, next)) = self::line(bytes, at)? else {
                return if bytes.len() > limits.bytes { Err(Refusal::HeadTooLong) } else { Ok(None) };
            };
            at = next;
            if at > limits.bytes {
                return Err(Refusal::HeadTooLong);
            }
            if line.is_empty() {
                break;
            }
            headers += 1;
            if headers > limits.headers {
                return Err(Refusal::TooManyHeaders);
            }
            seen.header(line, &request)?;
        }
        let (framing, upgrade) = seen.conclude(&request)?;
        Ok(Some(Self { length: at, framing, upgrade }))
    }
}

struct RequestLine<'a> {
    one_one: bool,
    authority: Option<&'a [u8]>,
}

// === impl RequestLine ===

impl<'a> RequestLine<'a> {
    fn read(line: &'a [u8]) -> Result<Self, Refusal> {
        let space = memchr(b' ', line).ok_or(Refusal::RequestLine)?;
        let (method, rest) = (&line[..space], &line[space + 1..]);
        let space = memchr(b' ', rest).ok_or(Refusal::RequestLine)?;
        let (target, version) = (&rest[..space], &rest[space + 1..]);
        if method.is_empty() || method.len() > 32 || !method.iter().all(|b| is_token(*b)) {
            return Err(Refusal::Method);
        }
        let one_one = match version {
            b"HTTP/1.1" => true,
            b"HTTP/1.0" => false,
            [b'H', b'T', b'T', b'P', b'/', major, b'.', minor] if major.is_ascii_digit() && minor.is_ascii_digit() => {
                return Err(Refusal::Version);
            }
            _ => return Err(Refusal::RequestLine),
        };
        if target.is_empty() || !target.iter().all(|b| matches!(b, 0x21..=0x7e) && !matches!(b, b'#' | b'\\')) {
            return Err(Refusal::Target);
        }
        if method == b"CONNECT" {
            return Err(Refusal::Connect);
        }
        let (authority, path) = if target[0] == b'/' {
            (None, target)
        } else if target == b"*" {
            return if method == b"OPTIONS" { Ok(Self { one_one, authority: None }) } else { Err(Refusal::Target) };
        } else {
            let lower = |n: usize| target.get(..n).map(<[u8]>::to_ascii_lowercase);
            let skip = match (lower(7).as_deref(), lower(8).as_deref()) {
                (Some(b"http://"), _) => 7,
                (_, Some(b"https://")) => 8,
                _ => return Err(Refusal::Target),
            };
            let rest = &target[skip..];
            let end = rest.iter().position(|b| matches!(b, b'/' | b'?')).unwrap_or(rest.len());
            let authority = &rest[..end];
            // User information says nothing about the host.
            let host = memchr::memrchr(b'@', authority).map_or(authority, |at| &authority[at + 1..]);
            (Some(check_host(host)?), &rest[end..])
        };
        check_segments(path)?;
        Ok(Self { one_one, authority })
    }
}

// === impl Seen ===

impl<'a> Seen<'a> {
    fn header(&mut self, line: &'a [u8], request: &RequestLine<'_>) -> Result<(), Refusal> {
        if matches!(line[0], b' ' | b'\t') {
            return Err(Refusal::Folded);
        }
        let colon = memchr(b':', line).ok_or(Refusal::HeaderName)?;
        let (name, value) = (&line[..colon], trim(&line[colon + 1..]));
        if name.is_empty() {
            return Err(Refusal::HeaderName);
        }
        let mut underscore = false;
        for &byte in name {
            if !is_token(byte) {
                return Err(Refusal::HeaderName);
            }
            underscore |= byte == b'_';
        }
        if underscore && imitates(name) {
            return Err(Refusal::Imitation);
        }
        if !value.iter().all(|b| is_value(*b)) {
            return Err(Refusal::HeaderValue);
        }
        match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") => {
                let earlier = self.host.replace(check_host(value)?);
                return if earlier.is_some() { Err(Refusal::Hosts) } else { Ok(()) };
            }
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                let earlier = self.length.replace(check_length(value)?);
                return if earlier.is_some() { Err(Refusal::ContentLength) } else { Ok(()) };
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                if self.chunked || !request.one_one || !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(Refusal::TransferEncoding);
                }
                self.chunked = true;
            }
            6 if name.eq_ignore_ascii_case(b"expect") => {
                let known = value.eq_ignore_ascii_case(b"100-continue");
                return if known { Ok(()) } else { Err(Refusal::Expect) };
            }
            7 if name.eq_ignore_ascii_case(b"upgrade") => {
                self.upgrade |= tokens(value).next().is_some();
                self.h2c |= tokens(value).any(|protocol| protocol.eq_ignore_ascii_case(b"h2c"));
            }
            10 if name.eq_ignore_ascii_case(b"connection") => {
                self.connection_upgrade |= tokens(value).any(|token| token.eq_ignore_ascii_case(b"upgrade"));
            }
            _ => {}
        }
        Ok(())
    }

    fn conclude(self, request: &RequestLine<'_>) -> Result<(Framing, bool), Refusal> {
        match (self.host, request.authority) {
            (None, _) if request.one_one => return Err(Refusal::NoHost),
            (Some(host), Some(authority)) if !same_host(host, authority) => return Err(Refusal::HostMismatch),
            _ => {}
        }
        let framing = match (self.chunked, self.length) {
            (true, Some(_)) => return Err(Refusal::TwoFramings),
            (true, None) => Framing::Chunked,
            (false, Some(0)) | (false, None) => Framing::Empty,
            (false, Some(length)) => Framing::Length(length),
        };
        let upgrade = self.upgrade && !self.h2c && self.connection_upgrade && request.one_one;
        if upgrade && framing != Framing::Empty {
            return Err(Refusal::UpgradeWithBody);
        }
        Ok((framing, upgrade))
    }
}

/// What the gate would say of an HTTP/2 request. That protocol frames by itself; what is left is who and what is asked for.
///
/// # Errors
/// With what is wrong.
pub fn check_http2(parts: &http::request::Parts) -> Result<(), Refusal> {
    let target = parts.uri.path();
    let bad = |b: u8| !matches!(b, 0x21..=0x7e) || matches!(b, b'#' | b'\\');
    if !(target.starts_with('/') || target == "*" && parts.method == http::Method::OPTIONS) || target.bytes().any(bad) {
        return Err(Refusal::Target);
    }
    check_segments(target.as_bytes())?;
    let authority = parts.uri.authority().map(|a| a.as_str().as_bytes()).map(check_host).transpose()?;
    let mut hosts = parts.headers.get_all(http::header::HOST).iter();
    let host = hosts.next().map(|h| check_host(h.as_bytes())).transpose()?;
    if hosts.next().is_some() {
        return Err(Refusal::Hosts);
    }
    match (authority, host) {
        (None, None) => return Err(Refusal::NoHost),
        (Some(authority), Some(host)) if !same_host(authority, host) => return Err(Refusal::HostMismatch),
        _ => {}
    }
    if parts.headers.keys().any(|name| name.as_str().contains('_') && imitates(name.as_str().as_bytes())) {
        return Err(Refusal::Imitation);
    }
    Ok(())
}

/// The line from `start` without its end, and where the next one starts.
fn line(bytes: &[u8], start: usize) -> Result<Option<(&[u8], usize)>, Refusal> {
    let rest = &bytes[start..];
    let Some(lf) = memchr(b'\n', rest) else {
        // A CR that is not last can no longer be the end of a line.
        return match memchr(b'\r', rest) {
            Some(cr) if cr + 1 < rest.len() => Err(Refusal::LineEnd),
            _ => Ok(None),
        };
    };
    let Some(line) = rest[..lf].strip_suffix(b"\r") else { return Err(Refusal::LineEnd) };
    if memchr(b'\r', line).is_some() {
        return Err(Refusal::LineEnd);
    }
    Ok(Some((line, start + lf + 1)))
}

/// Host and optional port. Sub-delimiters are legal in a URL and appear in no DNS name, so they are refused.
fn check_host(value: &[u8]) -> Result<&[u8], Refusal> {
    let (host, port) = split_port(value);
    let good = match host {
        [b'[', inner @ .., b']'] => {
            inner.len() >= 2 && inner.iter().all(|b| b.is_ascii_hexdigit() || matches!(b, b':' | b'.'))
        }
        name => !name.is_empty() && name.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_')),
    };
    let good_port = port.is_none_or(|p| {
        let number = p.iter().try_fold(0_u32, |n, b| b.is_ascii_digit().then(|| n * 10 + u32::from(b - b'0')));
        !p.is_empty() && p.len() <= 5 && number.is_some_and(|n| (1..=65535).contains(&n))
    });
    if good && good_port && host.len() <= 255 { Ok(value) } else { Err(Refusal::Host) }
}

fn split_port(value: &[u8]) -> (&[u8], Option<&[u8]>) {
    match memchr::memrchr(b':', value) {
        Some(colon) if memchr(b']', &value[colon..]).is_none() => (&value[..colon], Some(&value[colon + 1..])),
        _ => (value, None),
    }
}

fn same_host(a: &[u8], b: &[u8]) -> bool {
    let ((a, a_port), (b, b_port)) = (split_port(a), split_port(b));
    let port = |p: Option<&[u8]>| p.map_or(80, |p| p.iter().fold(0, |n, b| n * 10 + u32::from(b - b'0')));
    a.eq_ignore_ascii_case(b) && port(a_port) == port(b_port)
}

fn check_length(value: &[u8]) -> Result<u64, Refusal> {
    let plain = !value.is_empty() && value.len() <= 18 && (value[0] != b'0' || value.len() == 1);
    if !plain || !value.iter().all(u8::is_ascii_digit) {
        return Err(Refusal::ContentLength);
    }
    Ok(value.iter().fold(0, |n, b| n * 10 + u64::from(b - b'0')))
}

/// Refuses `.` and `..` elements. Clients resolve them before they ask; who sends them wants to be understood differently twice.
fn check_segments(target: &[u8]) -> Result<(), Refusal> {
    let path = memchr(b'?', target).map_or(target, |query| &target[..query]);
    if memchr::memchr2(b'.', b'%', path).is_none() {
        return Ok(());
    }
    // An encoded slash ends an element for a backend that decodes before it splits.
    let mut dots = 0_usize;
    let mut other = false;
    let mut i = 0;
    loop {
        let (byte, width) = match &path[i.min(path.len())..] {
            [] => (b'/', 1),
            [b'%', b'2', b'e' | b'E', ..] => (b'.', 3),
            [b'%', b'2', b'f' | b'F', ..] | [b'%', b'5', b'c' | b'C', ..] => (b'/', 3),
            [byte, ..] => (*byte, 1),
        };
        match byte {
            b'/' => {
                if !other && (dots == 1 || dots == 2) {
                    return Err(Refusal::DotSegment);
                }
                (dots, other) = (0, false);
            }
            b'.' => dots += 1,
            _ => other = true,
        }
        if i >= path.len() {
            return Ok(());
        }
        i += width;
    }
}

/// Names a careless backend may read as `-` names: CGI and its heirs map both to `_`.
fn imitates(name: &[u8]) -> bool {
    const REAL: [&[u8]; 3] = [b"content-length", b"transfer-encoding", b"proxy-connection"];
    let same = |a: u8, b: u8| a.eq_ignore_ascii_case(&b) || (a == b'_' && b == b'-');
    let is = |real: &[u8]| real.len() == name.len() && name.iter().zip(real).all(|(a, b)| same(*a, *b));
    let starts = |real: &[u8]| name.len() > real.len() && is_prefix(name, real, same);
    REAL.iter().any(|real| is(real)) || starts(b"x-forwarded-") || is(b"x-real-ip")
}

fn is_prefix(name: &[u8], real: &[u8], same: impl Fn(u8, u8) -> bool) -> bool {
    name.iter().zip(real).all(|(a, b)| same(*a, *b))
}

pub(super) fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = value {
        value = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

pub(super) fn is_token(byte: u8) -> bool {
    CLASS[byte as usize] & 1 != 0
}

pub(super) fn is_value(byte: u8) -> bool {
    CLASS[byte as usize] & 2 != 0
}

/// Bit 0: token character; bit 1: allowed in a value.
const CLASS: [u8; 256] = {
    let mut class = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let b = byte as u8;
        if b.is_ascii_alphanumeric()
            || matches!(
                b,
                b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~'
            )
        {
            class[byte] |= 1;
        }
        if b == b'\t' || (b >= 0x20 && b != 0x7f) {
            class[byte] |= 2;
        }
        byte += 1;
    }
    class
};
