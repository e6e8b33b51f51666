//! SPDY/3.1 as far as kubectl uses it: streams of bytes with headers, over a connection that was upgraded.
//!
//! Frames are those of draft-mbelshe-httpbis-spdy-3.1. Clients open streams, both sides send data and say their last word. Priorities, pushed
//! streams, settings and windows are left out: kubectl's library neither sends nor expects them.

use std::collections::BTreeMap;
use std::io;

use axum::body::Bytes;
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;

/// What a client asks for in `Upgrade`.
pub(super) const SPDY: &str = "SPDY/3.1";
/// Largest frame taken, and largest block of headers once it is unpacked.
const LARGEST_FRAME: usize = 1 << 20;
const LARGEST_BLOCK: usize = 16 << 10;

const VERSION: u32 = 3;
const SYN_STREAM: u32 = 1;
const SYN_REPLY: u32 = 2;
const RST_STREAM: u32 = 3;
const PING: u32 = 6;
const HEADERS: u32 = 8;
const CONTROL: u32 = 1 << 31;
/// Flag of a sender's last frame of a stream.
const FIN: u8 = 1;
/// Status of a refused stream.
const REFUSED_STREAM: u32 = 3;

/// The number of a stream.
pub(super) type StreamId = u32;

/// What comes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame {
    /// A stream begins.
    Open { stream: StreamId, headers: BTreeMap<String, String> },
    /// Bytes of a stream, and whether they are the last.
    Data { stream: StreamId, bytes: Bytes, last: bool },
    /// A stream is broken off.
    Reset { stream: StreamId },
    /// Is to be sent back.
    Ping { id: u32 },
}

/// What goes.
#[derive(Debug)]
pub(super) enum Word {
    Accept { stream: StreamId },
    Refuse { stream: StreamId },
    Data { stream: StreamId, bytes: Bytes, last: bool },
    Pong { id: u32 },
}

/// Takes frames from a connection.
pub(super) struct Reader<R> {
    from: R,
    /// One for all blocks of headers.
    inflate: Decompress,
}

/// Words that blocks of headers are packed with: each after its length.
const NAMES: &str = "options head post put delete trace accept accept-charset accept-encoding accept-language accept-ranges age allow \
    authorization cache-control connection content-base content-encoding content-language content-length content-location content-md5 \
    content-range content-type date etag expect expires from host if-match if-modified-since if-none-match if-range \
    if-unmodified-since last-modified location max-forwards pragma proxy-authenticate proxy-authorization range referer retry-after \
    server te trailer transfer-encoding upgrade user-agent vary via warning www-authenticate method get status 200_OK version HTTP/1.1 \
    url public set-cookie keep-alive origin";
/// And as they are.
const VALUES: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505203 \
    Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden404 Not Found500 \
    Internal Server Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, \
    Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,\
    text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.";

fn dictionary() -> Vec<u8> {
    let mut bytes = Vec::new();
    for name in NAMES.split(' ').map(|name| name.replace('_', " ")) {
        bytes.extend((name.len() as u32).to_be_bytes());
        bytes.extend(name.as_bytes());
    }
    bytes.extend(VALUES.as_bytes());
    bytes
}

fn invalid(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

// === impl Reader ===

impl<R: AsyncRead + Unpin> Reader<R> {
    pub(super) fn new(from: R) -> Self {
        Self { from, inflate: Decompress::new(true) }
    }

    /// The next frame; `None` when the connection has ended. What has no meaning here is passed over.
    pub(super) async fn next(&mut self) -> io::Result<Option<Frame>> {
        loop {
            let mut head = [0; 8];
            match self.from.read_exact(&mut head).await {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
                read => read?,
            };
            let word = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
            let length = u32::from_be_bytes([0, head[5], head[6], head[7]]) as usize;
            if length > LARGEST_FRAME {
                return Err(invalid(format!("a frame of {length} bytes: at most {LARGEST_FRAME}")));
            }
            let mut body = vec![0; length];
            self.from.read_exact(&mut body).await?;
            if word & CONTROL == 0 {
                return Ok(Some(Frame::Data { stream: word, bytes: body.into(), last: head[4] & FIN != 0 }));
            }
            if let Some(frame) = self.control(word & !CONTROL, &body)? {
                return Ok(Some(frame));
            }
        }
    }

    fn control(&mut self, word: u32, body: &[u8]) -> io::Result<Option<Frame>> {
        let (version, kind) = (word >> 16, word & 0xffff);
        if version != VERSION {
            return Err(invalid(format!("version {version}: must be {VERSION}")));
        }
        let (first, rest) = body.split_first_chunk().ok_or_else(|| invalid("a frame that is too short"))?;
        let first = u32::from_be_bytes(*first);
        Ok(match kind {
            SYN_STREAM => {
                // After the stream it belongs to, which nobody names here, and its priority.
                let block = rest.get(6..).ok_or_else(|| invalid("a stream without headers"))?;
                Some(Frame::Open { stream: first & !CONTROL, headers: headers(&self.unpack(block)?)? })
            }
            HEADERS => self.unpack(rest).map(|_| None)?,
            RST_STREAM => Some(Frame::Reset { stream: first & !CONTROL }),
            PING => Some(Frame::Ping { id: first }),
            _ => None,
        })
    }

    fn unpack(&mut self, mut packed: &[u8]) -> io::Result<Vec<u8>> {
        let mut block = Vec::with_capacity(LARGEST_BLOCK);
        while !packed.is_empty() {
            let before = (self.inflate.total_in(), block.len());
            match self.inflate.decompress_vec(packed, &mut block, FlushDecompress::Sync) {
                Ok(_) => {}
                Err(error) if error.needs_dictionary().is_some() => {
                    self.inflate.set_dictionary(&dictionary()).map_err(|error| invalid(error.to_string()))?;
                }
                Err(error) => return Err(invalid(format!("headers: {error}"))),
            }
            let taken = (self.inflate.total_in() - before.0) as usize;
            if taken == 0 && block.len() == before.1 {
                return Err(invalid(format!("headers of more than {LARGEST_BLOCK} bytes, or cut short")));
            }
            packed = &packed[taken..];
        }
        Ok(block)
    }
}

/// Names and values: how many, and each after its length. Names are as HTTP's, whatever their case.
fn headers(mut block: &[u8]) -> io::Result<BTreeMap<String, String>> {
    let mut number = || {
        let (number, rest) = block.split_first_chunk().ok_or_else(|| invalid("headers: cut short"))?;
        block = rest;
        io::Result::Ok(u32::from_be_bytes(*number) as usize)
    };
    let count = number()?;
    let mut headers = BTreeMap::new();
    for _ in 0..count {
        let mut text = || {
            let (length, rest) = block.split_first_chunk().ok_or_else(|| invalid("headers: cut short"))?;
            let length = u32::from_be_bytes(*length) as usize;
            let text = rest.get(..length).ok_or_else(|| invalid("headers: cut short"))?;
            block = &rest[length..];
            io::Result::Ok(String::from_utf8_lossy(text).into_owned())
        };
        let (name, value) = (text()?, text()?);
        headers.insert(name.to_ascii_lowercase(), value);
    }
    Ok(headers)
}

/// Sends what comes until there is no more.
pub(super) async fn write<W: AsyncWrite + Unpin>(mut to: W, mut words: mpsc::Receiver<Word>) -> io::Result<()> {
    let mut deflate = Compress::new(Compression::fast(), true);
    deflate.set_dictionary(&dictionary()).map_err(io::Error::other)?;
    while let Some(word) = words.recv().await {
        let (head, flags, body) = match word {
            Word::Data { stream, bytes, last } => (stream, if last { FIN } else { 0 }, bytes),
            Word::Accept { stream } => {
                let mut body = stream.to_be_bytes().to_vec();
                body.reserve(64);
                // No headers.
                deflate.compress_vec(&[0; 4], &mut body, FlushCompress::Sync).map_err(io::Error::other)?;
                (control(SYN_REPLY), 0, body.into())
            }
            Word::Refuse { stream } => {
                let body = [stream.to_be_bytes(), REFUSED_STREAM.to_be_bytes()].concat();
                (control(RST_STREAM), 0, body.into())
            }
            Word::Pong { id } => (control(PING), 0, id.to_be_bytes().to_vec().into()),
        };
        let mut frame = head.to_be_bytes().to_vec();
        frame.extend((body.len() as u32).to_be_bytes());
        frame[4] = flags;
        frame.extend(&body);
        to.write_all(&frame).await?;
        to.flush().await?;
    }
    to.shutdown().await
}

fn control(kind: u32) -> u32 {
    CONTROL | VERSION << 16 | kind
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Frames as a client sends them.
    struct Client {
        deflate: Compress,
        bytes: Vec<u8>,
    }

    impl Client {
        fn new() -> Self {
            let mut deflate = Compress::new(Compression::best(), true);
            deflate.set_dictionary(&dictionary()).unwrap();
            Self { deflate, bytes: Vec::new() }
        }

        fn frame(&mut self, head: u32, flags: u8, body: &[u8]) {
            self.bytes.extend(head.to_be_bytes());
            self.bytes.extend((body.len() as u32 | u32::from(flags) << 24).to_be_bytes());
            self.bytes.extend(body);
        }

        fn open(&mut self, stream: u32, headers: &[(&str, &str)]) {
            let mut block = (headers.len() as u32).to_be_bytes().to_vec();
            for text in headers.iter().flat_map(|(name, value)| [name, value]) {
                block.extend((text.len() as u32).to_be_bytes());
                block.extend(text.as_bytes());
            }
            let mut body = [stream.to_be_bytes().to_vec(), vec![0; 6]].concat();
            body.reserve(block.len() + 64);
            self.deflate.compress_vec(&block, &mut body, FlushCompress::Sync).unwrap();
            self.frame(control(SYN_STREAM), 0, &body);
        }
    }

    async fn read(bytes: &[u8]) -> io::Result<Vec<Frame>> {
        let mut reader = Reader::new(bytes);
        let mut frames = Vec::new();
        while let Some(frame) = reader.next().await? {
            frames.push(frame);
        }
        Ok(frames)
    }

    #[test]
    fn the_dictionary_is_the_one_of_the_draft() {
        // zlib names a dictionary by its Adler-32; SPDY/3's is known by this one.
        let mut inflate = Decompress::new(true);
        let mut bytes = Vec::with_capacity(64);
        Client::new().deflate.compress_vec(b"x", &mut bytes, FlushCompress::Sync).unwrap();
        let error = inflate.decompress_vec(&bytes, &mut Vec::with_capacity(64), FlushDecompress::Sync).unwrap_err();
        assert_eq!((dictionary().len(), error.needs_dictionary()), (1423, Some(0xe3c6_a7c2)));
    }

    #[tokio::test]
    async fn streams_open_carry_bytes_and_end() {
        let mut client = Client::new();
        client.open(1, &[("streamType", "error"), ("port", "80")]);
        client.open(3, &[("streamtype", "data"), ("port", "80")]);
        client.frame(control(7), 0, &[0; 8]);
        client.frame(3, 0, b"ping");
        client.frame(3, FIN, b"");
        client.frame(control(PING), 0, &9u32.to_be_bytes());
        client.frame(control(RST_STREAM), 0, &[0, 0, 0, 3, 0, 0, 0, 5]);
        let headers = |kind: &str| {
            BTreeMap::from([("port".to_owned(), "80".to_owned()), ("streamtype".to_owned(), kind.to_owned())])
        };
        let expected = [
            Frame::Open { stream: 1, headers: headers("error") },
            Frame::Open { stream: 3, headers: headers("data") },
            Frame::Data { stream: 3, bytes: Bytes::from_static(b"ping"), last: false },
            Frame::Data { stream: 3, bytes: Bytes::new(), last: true },
            Frame::Ping { id: 9 },
            Frame::Reset { stream: 3 },
        ];
        assert_eq!(read(&client.bytes).await.unwrap(), expected);
    }

    #[tokio::test]
    async fn nonsense_is_an_error() {
        let long = [(CONTROL | VERSION << 16 | SYN_STREAM).to_be_bytes(), 0x00ff_ffff_u32.to_be_bytes()].concat();
        let mut bomb = Client::new();
        bomb.open(1, &[("a", &"a".repeat(10 * LARGEST_BLOCK))]);
        let mut short = Client::new();
        short.frame(control(SYN_STREAM), 0, &[0; 12]);
        let mut old = Client::new();
        old.frame(CONTROL | 2 << 16 | SYN_STREAM, 0, &[0; 10]);
        for bad in [long, bomb.bytes, short.bytes, old.bytes] {
            assert!(read(&bad).await.is_err(), "{:?}", &bad[..20.min(bad.len())]);
        }
    }

    #[tokio::test]
    async fn what_is_written_is_read_again() {
        let (words, outgoing) = mpsc::channel(8);
        for word in [
            Word::Accept { stream: 1 },
            Word::Data { stream: 1, bytes: Bytes::from_static(b"pong"), last: true },
            Word::Pong { id: 9 },
            Word::Refuse { stream: 5 },
        ] {
            words.send(word).await.unwrap();
        }
        drop(words);
        let mut bytes = Vec::new();
        write(&mut bytes, outgoing).await.unwrap();
        let expected = [
            Frame::Data { stream: 1, bytes: Bytes::from_static(b"pong"), last: true },
            Frame::Ping { id: 9 },
            Frame::Reset { stream: 5 },
        ];
        assert_eq!(read(&bytes).await.unwrap(), expected);
    }
}
