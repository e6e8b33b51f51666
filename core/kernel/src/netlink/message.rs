//! One netlink message under construction, and the attributes of one received (linux/netlink.h).

use crate::sys;

/// A message: header, the family's own header, attributes. Length and sequence number are filled in when it is sent.
///
/// An attribute has at most 64 KiB. One that does not fit makes the message one that cannot be sent.
#[derive(Clone)]
pub(crate) struct Message {
    bytes: Vec<u8>,
    too_long: bool,
}

/// Walks attributes of a received message; a malformed length ends the walk.
#[derive(Clone, Copy)]
pub(crate) struct Attributes<'a>(pub(crate) &'a [u8]);

/// Length of `struct nlmsghdr`.
pub(crate) const HEADER: usize = 16;

// === impl Message ===

impl Message {
    /// A message of this type with the family's header.
    pub(crate) fn new(kind: u16, flags: u16, family_header: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(256);
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&flags.to_ne_bytes());
        bytes.extend_from_slice(&[0; 8]);
        bytes.extend_from_slice(family_header);
        let mut message = Self { bytes, too_long: false };
        message.pad();
        message
    }

    /// Appends an attribute.
    pub(crate) fn attr(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        let Ok(length) = u16::try_from(value.len() + 4) else {
            self.too_long = true;
            return self;
        };
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.pad();
        self
    }

    pub(crate) fn flag(&mut self, kind: u16) -> &mut Self {
        self.attr(kind, &[])
    }

    pub(crate) fn u8(&mut self, kind: u16, value: u8) -> &mut Self {
        self.attr(kind, &[value])
    }

    pub(crate) fn u32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attr(kind, &value.to_ne_bytes())
    }

    pub(crate) fn be16(&mut self, kind: u16, value: u16) -> &mut Self {
        self.attr(kind, &value.to_be_bytes())
    }

    pub(crate) fn be32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attr(kind, &value.to_be_bytes())
    }

    pub(crate) fn be64(&mut self, kind: u16, value: u64) -> &mut Self {
        self.attr(kind, &value.to_be_bytes())
    }

    /// Appends a string with its terminating zero.
    pub(crate) fn text(&mut self, kind: u16, value: &str) -> &mut Self {
        let mut bytes = Vec::with_capacity(value.len() + 1);
        bytes.extend_from_slice(value.as_bytes());
        bytes.push(0);
        self.attr(kind, &bytes)
    }

    pub(crate) fn ip(&mut self, kind: u16, value: std::net::IpAddr) -> &mut Self {
        match value {
            std::net::IpAddr::V4(v4) => self.attr(kind, &v4.octets()),
            std::net::IpAddr::V6(v6) => self.attr(kind, &v6.octets()),
        }
    }

    /// Appends an attribute that holds attributes.
    pub(crate) fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) -> &mut Self {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&(kind | sys::NLA_F_NESTED).to_ne_bytes());
        fill(self);
        match u16::try_from(self.bytes.len() - start) {
            Ok(length) => self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes()),
            Err(_) => self.too_long = true,
        }
        self
    }

    /// Appends bytes that are no attribute (a header inside a nest).
    pub(crate) fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self.pad();
        self
    }

    /// Sets further header flags.
    pub(crate) fn add_flags(&mut self, flags: u16) {
        let now = u16::from_ne_bytes([self.bytes[6], self.bytes[7]]) | flags;
        self.bytes[6..8].copy_from_slice(&now.to_ne_bytes());
    }

    /// Fills in length and sequence number.
    pub(crate) fn seal(&mut self, sequence: u32) -> &[u8] {
        let length = u32::try_from(self.bytes.len()).expect("messages are far below 4 GiB");
        self.bytes[0..4].copy_from_slice(&length.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        &self.bytes
    }

    /// Whether something was to be put into it that does not fit.
    pub(crate) fn is_too_long(&self) -> bool {
        self.too_long
    }

    /// Bytes so far.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    fn pad(&mut self) {
        self.bytes.resize(align(self.bytes.len()), 0);
    }
}

/// The next multiple of four.
pub(crate) fn align(length: usize) -> usize {
    (length + 3) & !3
}

// === impl Attributes ===

impl<'a> Attributes<'a> {
    /// The attributes behind a family header of this length.
    pub(crate) fn after(payload: &'a [u8], header: usize) -> Self {
        Self(payload.get(align(header)..).unwrap_or_default())
    }

    /// The first attribute of this kind.
    pub(crate) fn get(self, kind: u16) -> Option<&'a [u8]> {
        self.into_iter().find(|(k, _)| *k == kind).map(|(_, value)| value)
    }

    /// The attributes inside the first attribute of this kind; none if it is absent.
    pub(crate) fn nest(self, kind: u16) -> Self {
        Self(self.get(kind).unwrap_or_default())
    }

    pub(crate) fn u8(self, kind: u16) -> Option<u8> {
        u8_of(self.get(kind)?)
    }

    pub(crate) fn u32(self, kind: u16) -> Option<u32> {
        u32_of(self.get(kind)?)
    }

    pub(crate) fn be32(self, kind: u16) -> Option<u32> {
        be_u32(self.get(kind)?)
    }

    pub(crate) fn text(self, kind: u16) -> Option<String> {
        Some(text(self.get(kind)?))
    }

    pub(crate) fn ip(self, kind: u16) -> Option<std::net::IpAddr> {
        ip(self.get(kind)?)
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let length = usize::from(u16_of(self.0.get(0..2)?)?);
        let kind = u16_of(self.0.get(2..4)?)? & sys::NLA_TYPE_MASK;
        let value = self.0.get(4..length)?;
        self.0 = self.0.get(align(length)..).unwrap_or_default();
        Some((kind, value))
    }
}

pub(crate) fn u8_of(bytes: &[u8]) -> Option<u8> {
    bytes.first().copied()
}

pub(crate) fn u16_of(bytes: &[u8]) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?))
}

pub(crate) fn u32_of(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?))
}

pub(crate) fn be_u16(bytes: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(..2)?.try_into().ok()?))
}

pub(crate) fn be_u32(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(..4)?.try_into().ok()?))
}

pub(crate) fn be_u64(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.get(..8)?.try_into().ok()?))
}

/// A string up to its terminating zero, if it has one.
pub(crate) fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

fn ip(bytes: &[u8]) -> Option<std::net::IpAddr> {
    match bytes.len() {
        4 => Some(<[u8; 4]>::try_from(bytes).ok()?.into()),
        16 => Some(<[u8; 16]>::try_from(bytes).ok()?.into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let mut message = Message::new(16, 0, &[0; 16]);
        message.u32(1, 7).text(2, "cbr0").nest(3, |m| {
            m.u8(1, 9).be16(2, 80);
        });
        let bytes = message.seal(5).to_vec();
        assert_eq!(u32_of(&bytes), Some(bytes.len() as u32));
        let attributes = Attributes::after(&bytes[HEADER..], 16);
        assert_eq!(attributes.u32(1), Some(7));
        assert_eq!(attributes.text(2).as_deref(), Some("cbr0"));
        assert_eq!(attributes.nest(3).u8(1), Some(9));
        assert_eq!(attributes.nest(3).get(2).and_then(be_u16), Some(80));
    }

    #[test]
    fn what_does_not_fit_is_noticed() {
        let is_too_long = |fill: &dyn Fn(&mut Message)| {
            let mut message = Message::new(16, 0, &[0; 16]);
            fill(&mut message);
            message.is_too_long()
        };
        let put = |message: &mut Message, length: usize| _ = message.attr(1, &vec![0; length]);
        let nest = |message: &mut Message, length: usize| _ = message.nest(1, |inner| put(inner, length));
        assert!(!is_too_long(&|message| put(message, 65531)));
        assert!(is_too_long(&|message| put(message, 65532)));
        assert!(!is_too_long(&|message| nest(message, 65000)));
        assert!(is_too_long(&|message| nest(message, 65531)));
        assert!(is_too_long(&|message| nest(message, 70_000)));
    }

    #[test]
    fn malformed_lengths_end_the_walk() {
        for bytes in [&[0u8; 8][..], &[3, 0, 1, 0], &[200, 0, 1, 0, 1, 2], &[8, 0], &[]] {
            assert_eq!(Attributes(bytes).count(), 0, "{bytes:?}");
        }
    }
}
