//! A chunked body, byte by byte: where it ends, and whether every reader would agree on that.

use super::{
    Refusal,
    head::{is_token, is_value},
};

/// Bytes of extensions, size digits and line ends over the whole body.
const MAX_OVERHEAD_LINE: u16 = 256;
/// Bytes of trailers.
const MAX_TRAILERS: u16 = 8192;

/// Follows one chunked body.
#[derive(Debug)]
pub(crate) struct Chunks {
    at: At,
    size: u64,
    digits: u8,
    /// Bytes of the current chunk header, then of all trailers.
    line: u16,
    /// Name of the current trailer, lower case, as far as it matters.
    name: [u8; 20],
    name_length: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Size,
    ExtensionStart,
    Extension,
    ValueStart,
    Value,
    Quoted,
    Escaped,
    QuotedEnd,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    TrailerStart,
    TrailerName,
    TrailerValue,
    TrailerLf,
    LastLf,
    Done,
}

// === impl Chunks ===

impl Chunks {
    pub(crate) fn new() -> Self {
        Self { at: At::Size, size: 0, digits: 0, line: 0, name: [0; 20], name_length: 0 }
    }

    /// Follows `bytes`; says how many belong to the body, how many of those are data, and whether the body has ended.
    pub(crate) fn follow(&mut self, bytes: &[u8]) -> Result<(usize, u64, bool), Refusal> {
        let mut data = 0;
        let mut i = 0;
        while i < bytes.len() {
            if self.at == At::Data {
                let take = usize::try_from(self.size).unwrap_or(usize::MAX).min(bytes.len() - i);
                self.size -= take as u64;
                data += take as u64;
                i += take;
                if self.size == 0 {
                    self.at = At::DataCr;
                }
                continue;
            }
            self.step(bytes[i])?;
            i += 1;
            if self.at == At::Done {
                return Ok((i, data, true));
            }
        }
        Ok((i, data, false))
    }

    fn step(&mut self, byte: u8) -> Result<(), Refusal> {
        self.line += 1;
        let trailers =
            matches!(self.at, At::TrailerStart | At::TrailerName | At::TrailerValue | At::TrailerLf | At::LastLf);
        match trailers {
            true if self.line > MAX_TRAILERS => return Err(Refusal::Trailer),
            false if self.line > MAX_OVERHEAD_LINE => return Err(Refusal::ChunkExtension),
            _ => {}
        }
        self.at = match (self.at, byte) {
            (At::Size, digit) if digit.is_ascii_hexdigit() => {
                self.digits += 1;
                if self.digits > 15 {
                    return Err(Refusal::Chunk);
                }
                let value = (digit as char).to_digit(16).expect("a hexadecimal digit");
                self.size = self.size << 4 | u64::from(value);
                At::Size
            }
            (At::Size, b'\r') if self.digits > 0 => At::SizeLf,
            (At::Size, b';') if self.digits > 0 => At::ExtensionStart,
            (At::ExtensionStart, b) if is_token(b) => At::Extension,
            (At::Extension, b'=') => At::ValueStart,
            (At::Extension, b) if is_token(b) => At::Extension,
            (At::ValueStart, b'"') => At::Quoted,
            (At::ValueStart | At::Value, b) if is_token(b) => At::Value,
            (At::Quoted, b'"') => At::QuotedEnd,
            (At::Quoted, b'\\') => At::Escaped,
            (At::Quoted | At::Escaped, b) if is_value(b) => At::Quoted,
            (At::Extension | At::Value | At::QuotedEnd, b'\r') => At::SizeLf,
            (At::Extension | At::Value | At::QuotedEnd, b';') => At::ExtensionStart,
            (
                At::ExtensionStart
                | At::Extension
                | At::ValueStart
                | At::Value
                | At::Quoted
                | At::Escaped
                | At::QuotedEnd,
                _,
            ) => {
                return Err(Refusal::ChunkExtension);
            }
            (At::SizeLf, b'\n') => {
                self.digits = 0;
                self.line = 0;
                if self.size == 0 { At::TrailerStart } else { At::Data }
            }
            (At::DataCr, b'\r') => At::DataLf,
            (At::DataLf, b'\n') => {
                self.line = 0;
                At::Size
            }
            (At::TrailerStart, b'\r') => At::LastLf,
            (At::TrailerStart | At::TrailerName, b) if is_token(b) => {
                if self.at == At::TrailerStart {
                    self.name_length = 0;
                }
                if let Some(place) = self.name.get_mut(usize::from(self.name_length)) {
                    *place = if b == b'_' { b'-' } else { b.to_ascii_lowercase() };
                }
                self.name_length = self.name_length.saturating_add(1);
                At::TrailerName
            }
            (At::TrailerName, b':') if !self.is_forbidden() => At::TrailerValue,
            (At::TrailerValue, b'\r') => At::TrailerLf,
            (At::TrailerValue, b) if is_value(b) => At::TrailerValue,
            (At::TrailerLf, b'\n') => At::TrailerStart,
            (At::LastLf, b'\n') => At::Done,
            _ if trailers => return Err(Refusal::Trailer),
            _ => return Err(Refusal::Chunk),
        };
        Ok(())
    }

    fn is_forbidden(&self) -> bool {
        is_forbidden(self.name.get(..usize::from(self.name_length)).unwrap_or(&self.name))
    }
}

/// Fields that frame, route, authenticate or describe the message must come before it (RFC 9110 6.5.1). The name in lower case.
pub(crate) fn is_forbidden(name: &[u8]) -> bool {
    const NAMES: [&[u8]; 17] = [
        b"content-length",
        b"transfer-encoding",
        b"host",
        b"te",
        b"trailer",
        b"connection",
        b"upgrade",
        b"keep-alive",
        b"authorization",
        b"cookie",
        b"set-cookie",
        b"expect",
        b"max-forwards",
        b"content-encoding",
        b"content-type",
        b"content-range",
        b"range",
    ];
    NAMES.contains(&name) || name.starts_with(b"x-forwarded-") || name.starts_with(b"proxy-")
}
