//! A container's log: lines of the CRI format turned back into what the container wrote.
//!
//! `RFC3339Nano stdout|stderr F|P text`: F ends a line, P is a part of a longer one (KEP-1602, CRI log format).

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};

use axum::body::{Body, Bytes};
use axum::extract::{Path as UrlPath, Query, State};
use axum::response::{IntoResponse, Response};
use rustix::fs::inotify;
use serde::Deserialize;
use tokio::fs::File;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::sync::{mpsc, oneshot, watch};

use super::exec::{STDERR, STDOUT};
use super::{Ask, AskError, Asks, ContainerRef, LogFile, ask};

/// Longest line of a log file that is read; pause writes shorter ones.
const LONGEST_LINE: u64 = 64 << 10;
/// Most lines that `tailLines` keeps in memory.
const MOST_TAIL: usize = 1_000_000;

/// The query of a log request, as in the Kubernetes API.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct LogQuery {
    follow: bool,
    previous: bool,
    timestamps: bool,
    tail_lines: Option<i64>,
    since_seconds: Option<i64>,
    since_time: Option<String>,
    limit_bytes: Option<i64>,
}

/// What of a log is wanted.
pub(super) struct Selection {
    timestamps: bool,
    since: Option<jiff::Timestamp>,
    tail: Option<usize>,
    bytes_left: u64,
    /// Each piece begins with the number of its channel.
    channels: bool,
    /// The last piece was part of a line that goes on.
    mid_line: bool,
}

/// Answers a log request.
pub(super) async fn serve(
    State(asks): State<Asks>,
    UrlPath((namespace, pod, container)): UrlPath<(String, String, String)>,
    Query(query): Query<LogQuery>,
) -> Response {
    match open(&asks, ContainerRef { namespace, pod, container }, &query).await {
        Ok((log, selection)) => {
            let (pieces, output) = mpsc::channel::<io::Result<Bytes>>(16);
            let follow = query.follow && !query.previous;
            tokio::spawn(async move {
                if let Err(error) = send(log, selection, follow, &pieces).await {
                    let _ = pieces.send(Err(error)).await;
                }
            });
            let stream =
                futures::stream::unfold(output, |mut output| async move { Some((output.recv().await?, output)) });
            ([("content-type", "text/plain")], Body::from_stream(stream)).into_response()
        }
        Err(error) => error.into_response(),
    }
}

async fn open(asks: &Asks, container: ContainerRef, query: &LogQuery) -> Result<(LogFile, Selection), AskError> {
    let bad = |what: &str, value: &dyn std::fmt::Debug, right: &str| {
        AskError::BadRequest(format!("{what}: {value:?}: must be {right}"))
    };
    let since = match (query.since_seconds, query.since_time.as_deref().filter(|time| !time.is_empty())) {
        (Some(seconds), _) if seconds < 1 => return Err(bad("sinceSeconds", &seconds, "at least 1")),
        (Some(seconds), _) => jiff::Timestamp::now().checked_sub(jiff::SignedDuration::from_secs(seconds)).ok(),
        (None, Some(time)) => Some(time.parse().map_err(|_| bad("sinceTime", &time, "RFC 3339"))?),
        (None, None) => None,
    };
    let tail = match query.tail_lines {
        Some(lines) if lines < 0 => return Err(bad("tailLines", &lines, "0 or more")),
        lines => lines.map(|lines| usize::try_from(lines).unwrap_or(MOST_TAIL).min(MOST_TAIL)),
    };
    let bytes_left = match query.limit_bytes {
        Some(bytes) if bytes < 1 => return Err(bad("limitBytes", &bytes, "at least 1")),
        bytes => bytes.map_or(u64::MAX, i64::unsigned_abs),
    };
    let (reply, answer) = oneshot::channel();
    let log = ask(asks, Ask::Log { container, previous: query.previous, reply }, answer).await??;
    Ok((log, Selection { timestamps: query.timestamps, since, tail, bytes_left, ..Selection::all() }))
}

/// Sends what is there and, with `follow`, what comes until the run is over.
pub(super) async fn send(
    mut log: LogFile,
    mut selection: Selection,
    follow: bool,
    out: &mpsc::Sender<io::Result<Bytes>>,
) -> io::Result<()> {
    // The watch exists before the first read, so that no write falls between the two.
    let mut changes = if follow { Some(Changes::of(&log.path)?) } else { None };
    let mut tail = selection.tail.map(|_| VecDeque::new());
    for old in [suffixed(&log.path, 2), suffixed(&log.path, 1)] {
        if let Some(file) = existing(&old).await? {
            selection.copy(&mut BufReader::new(file), tail.as_mut(), out).await?;
        }
    }
    let mut current = existing(&log.path).await?.map(BufReader::new);
    if let Some(reader) = &mut current {
        selection.copy(reader, tail.as_mut(), out).await?;
    }
    for line in tail.into_iter().flatten() {
        selection.emit(line, out).await?;
    }
    let Some(changes) = &mut changes else { return Ok(()) };
    loop {
        let over = *log.ended.borrow();
        if let Some(reader) = &mut current {
            selection.copy(reader, None, out).await?;
        }
        if over || selection.bytes_left == 0 || out.is_closed() {
            return Ok(());
        }
        if changes.next(&mut log.ended, out).await? {
            // The file was rotated away under the reader; what is left of it has been read above or is read now.
            if let Some(reader) = &mut current {
                selection.copy(reader, None, out).await?;
            }
            current = existing(&log.path).await?.map(BufReader::new);
        }
    }
}

// === impl Selection ===

impl Selection {
    /// Everything there is.
    fn all() -> Self {
        Self { timestamps: false, since: None, tail: None, bytes_left: u64::MAX, channels: false, mid_line: false }
    }

    /// What comes from now on, for channels.
    pub(super) fn from_now_on() -> Self {
        Self { tail: Some(0), channels: true, ..Self::all() }
    }

    /// Passes on the whole lines that `reader` has, to `tail` if there is one.
    async fn copy(
        &mut self,
        reader: &mut BufReader<File>,
        mut tail: Option<&mut VecDeque<Vec<u8>>>,
        out: &mpsc::Sender<io::Result<Bytes>>,
    ) -> io::Result<()> {
        let mut line = Vec::new();
        loop {
            line.clear();
            let read = (&mut *reader).take(LONGEST_LINE).read_until(b'\n', &mut line).await?;
            if read == 0 {
                return Ok(());
            }
            if line.last() != Some(&b'\n') {
                // Half a line: the rest is still being written. It is read again with its end.
                if read as u64 != LONGEST_LINE {
                    use tokio::io::AsyncSeekExt as _;
                    reader.seek(io::SeekFrom::Current(-i64::try_from(read).expect("bounded above"))).await?;
                    return Ok(());
                }
                continue;
            }
            let goes_on = self.mid_line;
            let Some(text) = self.wanted(&line) else { continue };
            match (&mut tail, self.tail) {
                (Some(lines), Some(most)) => match lines.back_mut() {
                    Some(last) if goes_on => last.extend_from_slice(&text),
                    _ if goes_on => {}
                    _ => {
                        lines.push_back(text);
                        if lines.len() > most {
                            lines.pop_front();
                        }
                    }
                },
                _ => self.emit(text, out).await?,
            }
            if self.bytes_left == 0 || out.is_closed() {
                return Ok(());
            }
        }
    }

    /// The container's own text of a line, if the line is wanted and well-formed. A line in parts has one time, at its beginning.
    fn wanted(&mut self, line: &[u8]) -> Option<Vec<u8>> {
        let mut parts = line.splitn(4, |b| *b == b' ');
        let (time, stream, tag, text) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        if let Some(since) = self.since {
            let written: jiff::Timestamp = std::str::from_utf8(time).ok()?.parse().ok()?;
            if written < since {
                return None;
            }
        }
        let mut wanted = Vec::with_capacity(line.len());
        if self.channels {
            wanted.push(if stream == b"stderr" { STDERR } else { STDOUT });
        }
        if self.timestamps && !self.mid_line {
            wanted.extend_from_slice(time);
            wanted.push(b' ');
        }
        self.mid_line = tag.starts_with(b"P");
        wanted.extend_from_slice(if self.mid_line { text.strip_suffix(b"\n").unwrap_or(text) } else { text });
        Some(wanted)
    }

    async fn emit(&mut self, mut text: Vec<u8>, out: &mpsc::Sender<io::Result<Bytes>>) -> io::Result<()> {
        let length = (text.len() as u64).min(self.bytes_left);
        text.truncate(usize::try_from(length).expect("not longer than the text"));
        self.bytes_left -= length;
        if !text.is_empty() {
            // A reader that has gone away ends the copying at its next check.
            let _ = out.send(Ok(text.into())).await;
        }
        Ok(())
    }
}

/// Changes of a log file, through inotify on its directory, which also tells of rotation.
struct Changes {
    events: AsyncFd<std::os::fd::OwnedFd>,
    name: Vec<u8>,
}

impl Changes {
    fn of(path: &Path) -> io::Result<Self> {
        let fd = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        let flags = inotify::WatchFlags::MODIFY | inotify::WatchFlags::CREATE | inotify::WatchFlags::MOVED_FROM;
        inotify::add_watch(&fd, path.parent().unwrap_or(Path::new("/")), flags)?;
        let name = path.file_name().map(|name| name.as_encoded_bytes().to_vec()).unwrap_or_default();
        #[expect(
            deprecated,
            reason = "its replacement is unsafe; an OwnedFd keeps its descriptor open as long as it lives"
        )]
        let events = AsyncFd::new(fd)?;
        Ok(Self { events, name })
    }

    /// Waits until something happens: true if the file is another one now, false for a change of it, the end of the run, or a
    /// reader that went away.
    async fn next(
        &mut self,
        ended: &mut watch::Receiver<bool>,
        out: &mpsc::Sender<io::Result<Bytes>>,
    ) -> io::Result<bool> {
        loop {
            let mut ready = tokio::select! {
                ready = self.events.readable() => ready?,
                _ = ended.wait_for(|over| *over) => return Ok(false),
                () = out.closed() => return Ok(false),
            };
            let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
            let mut reader = inotify::Reader::new(self.events.get_ref(), &mut buffer);
            let mut about_us = false;
            let mut another = false;
            loop {
                match reader.next() {
                    Ok(event) => {
                        let ours = event.file_name().is_some_and(|name| name.to_bytes() == self.name);
                        about_us |= ours;
                        another |= ours && event.events().contains(inotify::ReadFlags::CREATE);
                    }
                    Err(rustix::io::Errno::AGAIN) => break,
                    Err(error) => return Err(error.into()),
                }
                if reader.is_buffer_empty() {
                    break;
                }
            }
            ready.clear_ready();
            if about_us {
                return Ok(another);
            }
        }
    }
}

fn suffixed(path: &Path, number: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}

async fn existing(path: &Path) -> io::Result<Option<File>> {
    match File::open(path).await {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    struct Reading(mpsc::Receiver<io::Result<Bytes>>, watch::Sender<bool>);

    fn read(path: &Path, follow: bool, selection: Selection) -> Reading {
        let (ended, watch) = watch::channel(false);
        let (out, pieces) = mpsc::channel(16);
        let log = LogFile { path: path.to_owned(), ended: watch };
        tokio::spawn(async move { send(log, selection, follow, &out).await });
        Reading(pieces, ended)
    }

    fn all() -> Selection {
        Selection::all()
    }

    impl Reading {
        async fn rest(mut self) -> String {
            let mut text = String::new();
            while let Some(piece) = self.0.recv().await {
                text += std::str::from_utf8(&piece.unwrap()).unwrap();
            }
            text
        }
    }

    const LINES: &str = "2026-01-01T00:00:00Z stdout F one\n2026-01-02T00:00:00Z stderr P tw\n2026-01-02T00:00:00Z stderr F o\n\
                         2026-01-03T00:00:00Z stdout F three\n";

    #[tokio::test]
    async fn selections_follow_the_query() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        std::fs::write(&path, LINES).unwrap();
        assert_eq!(read(&path, false, all()).rest().await, "one\ntwo\nthree\n");
        assert_eq!(read(&path, false, Selection { tail: Some(1), ..all() }).rest().await, "three\n");
        assert_eq!(read(&path, false, Selection { bytes_left: 5, ..all() }).rest().await, "one\nt");
        let since = Some("2026-01-02T12:00:00Z".parse().unwrap());
        assert_eq!(read(&path, false, Selection { since, ..all() }).rest().await, "three\n");
        let stamped = read(&path, false, Selection { timestamps: true, tail: Some(1), ..all() }).rest().await;
        assert_eq!(stamped, "2026-01-03T00:00:00Z three\n");
    }

    #[tokio::test]
    async fn a_line_in_parts_is_one_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        std::fs::write(&path, LINES).unwrap();
        let stamped = read(&path, false, Selection { timestamps: true, ..all() }).rest().await;
        assert_eq!(stamped, "2026-01-01T00:00:00Z one\n2026-01-02T00:00:00Z two\n2026-01-03T00:00:00Z three\n");
        assert_eq!(read(&path, false, Selection { tail: Some(2), ..all() }).rest().await, "two\nthree\n");
        assert_eq!(read(&path, false, Selection { tail: Some(0), ..all() }).rest().await, "");
        let channels = read(&path, false, Selection { channels: true, ..all() }).rest().await;
        assert_eq!(channels, "\u{1}one\n\u{2}tw\u{2}o\n\u{1}three\n");
    }

    #[tokio::test]
    async fn following_sees_lines_rotation_and_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        std::fs::write(&path, LINES).unwrap();
        let mut reading = read(&path, true, Selection { tail: Some(0), ..all() });
        let mut file = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"2026-01-04T00:00:00Z stdout F fo").unwrap();
        file.write_all(b"ur\n").unwrap();
        // With tail 0 a line counts only if it is written after the first read, so say it until it is heard.
        let heard = loop {
            match tokio::time::timeout(std::time::Duration::from_millis(50), reading.0.recv()).await {
                Ok(piece) => break piece.unwrap().unwrap(),
                Err(_) => file.write_all(b"2026-01-04T00:00:00Z stdout F four\n").unwrap(),
            }
        };
        assert_eq!(heard, "four\n");
        std::fs::rename(&path, dir.path().join("0.log.1")).unwrap();
        std::fs::write(&path, "2026-01-05T00:00:00Z stdout F five\n").unwrap();
        loop {
            if reading.0.recv().await.unwrap().unwrap() == "five\n" {
                break;
            }
        }
        reading.1.send(true).unwrap();
        assert!(reading.0.recv().await.is_none());
    }
}
