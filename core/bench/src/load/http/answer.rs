//! Answers as our own server and the ingress give them: HTTP/1.1 with a Content-Length.

/// An answer that is coming in.
#[derive(Debug, Default)]
pub(super) struct Answer {
    head: Vec<u8>,
    body: Option<Body>,
}

#[derive(Debug)]
struct Body {
    missing: u64,
    bytes: u64,
    good: bool,
}

/// How far it is.
#[derive(Debug, PartialEq)]
pub(super) enum Progress {
    /// More is to come.
    Partial,
    /// It is whole.
    Whole { bytes: u64, good: bool },
    /// It is nothing that we understand.
    Broken,
}

/// Bytes of the longest head.
const LONGEST_HEAD: usize = 16 << 10;

// === impl Answer ===

impl Answer {
    /// Takes what came.
    pub(super) fn take(&mut self, mut bytes: &[u8]) -> Progress {
        if self.body.is_none() {
            let searched = self.head.len().saturating_sub(3);
            let before = self.head.len();
            self.head.extend_from_slice(bytes);
            let Some(end) = self.head[searched..].windows(4).position(|four| four == b"\r\n\r\n") else {
                return if self.head.len() > LONGEST_HEAD { Progress::Broken } else { Progress::Partial };
            };
            let end = searched + end + 4;
            let Some(body) = read_head(&self.head[..end]) else { return Progress::Broken };
            self.body = Some(body);
            bytes = &bytes[end - before..];
        }
        let Some(body) = &mut self.body else { return Progress::Partial };
        let came = bytes.len() as u64;
        if came > body.missing {
            // Nobody asked for more than one answer.
            return Progress::Broken;
        }
        body.missing -= came;
        if body.missing > 0 {
            return Progress::Partial;
        }
        let whole = Progress::Whole { bytes: body.bytes, good: body.good };
        self.head.clear();
        self.body = None;
        whole
    }
}

fn read_head(head: &[u8]) -> Option<Body> {
    let text = std::str::from_utf8(head).ok()?;
    let mut lines = text.split("\r\n");
    let status = lines.next()?.strip_prefix("HTTP/1.1 ")?.get(..3)?;
    let length = lines
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))?
        .1
        .trim()
        .parse()
        .ok()?;
    Some(Body { missing: length, bytes: length, good: status == "200" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_may_come_in_any_pieces() {
        let text = b"HTTP/1.1 200 OK\r\nDate: x\r\ncontent-length: 5\r\n\r\nhello";
        for size in 1..text.len() {
            let mut answer = Answer::default();
            let progress: Vec<_> = text.chunks(size).map(|piece| answer.take(piece)).collect();
            let (last, before) = progress.split_last().unwrap();
            assert_eq!(*last, Progress::Whole { bytes: 5, good: true }, "{size}");
            assert!(before.iter().all(|progress| *progress == Progress::Partial), "{size}");
        }
    }

    #[test]
    fn what_is_no_answer_breaks_and_refusals_are_not_good() {
        let take = |text: &[u8]| Answer::default().take(text);
        assert_eq!(take(b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n"), Progress::Whole { bytes: 0, good: false });
        assert_eq!(take(b"HTTP/1.1 200 OK\r\n\r\n"), Progress::Broken);
        assert_eq!(take(b"SSH-2.0\r\n\r\n"), Progress::Broken);
        assert_eq!(take(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nab"), Progress::Broken);
        assert_eq!(take(&[b'x'; LONGEST_HEAD + 1]), Progress::Broken);
    }
}
