//! A container's log: lines in the CRI format, `TIME stdout|stderr F|P TEXT`, bounded lines, rotated files.

use std::fs::{File, OpenOptions, create_dir_all, rename};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::clock;
use crate::protocol::{LOG_FILES, LOG_LIMIT};

/// Longest piece of a line that is kept before it is written as partial (`P`), as in containerd.
const LINE: usize = 16 << 10;

/// The log of one run of a container.
pub(crate) struct Log {
    path: PathBuf,
    file: File,
    size: u64,
    limit: u64,
}

/// Cuts one stream into lines.
pub(crate) struct Lines {
    stream: &'static str,
    rest: Vec<u8>,
}

// === impl Log ===

impl Log {
    /// Opens the log at `path` for appending and makes its directory.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        if let Some(dir) = path.parent() {
            create_dir_all(dir)?;
        }
        let file = append(path)?;
        let size = file.metadata()?.len();
        Ok(Self { path: path.to_owned(), file, size, limit: LOG_LIMIT })
    }

    /// Writes whole log lines. A disk that is full loses the lines and nothing else.
    fn write(&mut self, lines: &str) {
        if self.size > 0 && self.size + lines.len() as u64 > self.limit {
            let _ = self.rotate();
        }
        if self.file.write_all(lines.as_bytes()).is_ok() {
            self.size += lines.len() as u64;
        }
    }

    fn rotate(&mut self) -> io::Result<()> {
        for number in (1..LOG_FILES).rev() {
            let from = if number == 1 { self.path.clone() } else { numbered(&self.path, number - 1) };
            if from.exists() {
                rename(&from, numbered(&self.path, number))?;
            }
        }
        self.file = append(&self.path)?;
        self.size = 0;
        Ok(())
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

fn numbered(path: &Path, number: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}

// === impl Lines ===

impl Lines {
    pub(crate) fn new(stream: &'static str) -> Self {
        Self { stream, rest: Vec::new() }
    }

    /// Takes bytes as they came and writes the lines they complete.
    pub(crate) fn push(&mut self, mut bytes: &[u8], log: &mut Log) {
        let mut out = String::with_capacity(bytes.len() + 64);
        while let Some(end) = bytes.iter().position(|&b| b == b'\n') {
            self.emit(&mut out, &bytes[..end], 'F');
            bytes = &bytes[end + 1..];
        }
        while self.rest.len() + bytes.len() >= LINE {
            let (now, later) = bytes.split_at(LINE - self.rest.len());
            self.emit(&mut out, now, 'P');
            bytes = later;
        }
        self.rest.extend_from_slice(bytes);
        if !out.is_empty() {
            log.write(&out);
        }
    }

    /// Writes what is left when the stream has ended.
    pub(crate) fn finish(&mut self, log: &mut Log) {
        if !self.rest.is_empty() {
            let mut out = String::new();
            self.emit(&mut out, &[], 'F');
            log.write(&out);
        }
    }

    fn emit(&mut self, out: &mut String, text: &[u8], tag: char) {
        clock::push_now(out);
        out.push(' ');
        out.push_str(self.stream);
        out.push(' ');
        out.push(tag);
        out.push(' ');
        if self.rest.is_empty() {
            out.push_str(&String::from_utf8_lossy(text));
        } else {
            self.rest.extend_from_slice(text);
            out.push_str(&String::from_utf8_lossy(&self.rest));
            self.rest = Vec::new();
        }
        out.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(path: &Path) -> Vec<String> {
        let text = std::fs::read_to_string(path).unwrap();
        text.lines().map(|line| line.split_once(' ').unwrap().1.to_owned()).collect()
    }

    #[test]
    fn lines_that_come_in_pieces_are_put_together() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c/0.log");
        let mut log = Log::open(&path).unwrap();
        let mut lines = Lines::new("stdout");
        lines.push(b"one\ntw", &mut log);
        lines.push(b"o\nthree", &mut log);
        lines.finish(&mut log);
        assert_eq!(texts(&path), ["stdout F one", "stdout F two", "stdout F three"]);
    }

    #[test]
    fn a_line_without_end_is_cut_and_takes_no_more_memory() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let mut log = Log::open(&path).unwrap();
        let mut lines = Lines::new("stderr");
        for _ in 0..10 {
            lines.push(&[b'x'; 5000], &mut log);
            assert!(lines.rest.len() < LINE);
        }
        lines.push(b"\n", &mut log);
        let texts = texts(&path);
        assert_eq!(texts.len(), 4);
        assert!(texts[..3].iter().all(|line| line.starts_with("stderr P xxx")));
        assert!(texts[3].starts_with("stderr F xxx"));
    }

    #[test]
    fn a_full_file_is_rotated_and_the_oldest_goes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let mut log = Log::open(&path).unwrap();
        log.limit = 100;
        let mut lines = Lines::new("stdout");
        for n in 0..9 {
            lines.push(format!("line {n}\n").as_bytes(), &mut log);
        }
        let mut names: Vec<_> =
            dir.path().read_dir().unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        assert_eq!(names, ["0.log", "0.log.1", "0.log.2"]);
        assert_eq!(texts(&path).last().unwrap(), "stdout F line 8");
    }
}
