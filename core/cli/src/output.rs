//! How results look.

use std::fmt::Write as _;
use std::io::{self, Write as _};

use anyhow::bail;
use clap::ValueEnum;
use serde::Serialize;

/// How to print a result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// A table for people.
    #[default]
    Table,
    /// The table with more columns.
    Wide,
    /// JSON for programs.
    Json,
    /// YAML.
    Yaml,
    /// KIND/NAME, one a line.
    Name,
}

/// Whoever read standard output has seen enough.
#[derive(Debug, thiserror::Error)]
#[error("nobody reads standard output any more")]
pub(crate) struct Closed;

/// Prints text on standard output. Where something else decides how the command ends, that is decided first.
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    print_bytes(text.as_bytes())
}

/// Prints whatever it is on standard output.
pub(crate) fn print_bytes(bytes: &[u8]) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(unprinted)
}

/// What an error of writing to standard output means.
pub(crate) fn unprinted(error: io::Error) -> anyhow::Error {
    match error.kind() {
        io::ErrorKind::BrokenPipe => Closed.into(),
        _ => anyhow::Error::new(error).context("standard output"),
    }
}

/// All that went wrong, as one error.
pub(crate) fn joined(mut errors: Vec<anyhow::Error>) -> anyhow::Result<()> {
    match errors.len() {
        0 => Ok(()),
        1 => Err(errors.remove(0)),
        _ => bail!("{}", errors.iter().map(one_line).collect::<Vec<_>>().join(", ")),
    }
}

/// Names in a sentence: all, or the first ones and how many there are besides.
pub(crate) fn some(names: &[&str]) -> String {
    const SOME: usize = 6;
    match names.len().saturating_sub(SOME) {
        0 => names.join(", "),
        more => format!("{} and {more} more", names[..SOME].join(", ")),
    }
}

/// A value as JSON or YAML; JSON for the formats that are for people.
pub(crate) fn document(value: &impl Serialize, format: Format) -> anyhow::Result<String> {
    Ok(match format {
        Format::Yaml => serde_yaml_ng::to_string(value)?,
        _ => serde_json::to_string_pretty(value)? + "\n",
    })
}

/// A table: columns as wide as their widest cell and three spaces apart, like kubectl's.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = head.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    let head: Vec<String> = head.iter().map(|&cell| cell.to_owned()).collect();
    for row in std::iter::once(&head).chain(rows) {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(line, "{cell:width$}   ");
        }
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

/// An error and its causes, without the repetitions that come of causes printing their own causes.
pub(crate) fn one_line(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let said = match cause.downcast_ref::<kube::Error>() {
            Some(kube::Error::Api(status)) => Some(status.message.clone()),
            _ => None,
        };
        // The API server speaks for itself, and has the last word.
        let is_last = said.is_some();
        let cause = said.unwrap_or_else(|| cause.to_string());
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            let _ = write!(text, ": {cause}");
        }
        if is_last {
            break;
        }
    }
    text.replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = vec![vec!["a".into(), "ready".into()], vec!["longer".into(), "".into()]];
        assert_eq!(table(&["NAME", "STATE"], &rows), "NAME     STATE\na        ready\nlonger\n");
    }

    #[test]
    fn no_failure_hides_another() {
        assert!(joined(Vec::new()).is_ok());
        let errors = ["a", "b"].map(|name| anyhow::anyhow!("not found").context(name)).into();
        assert_eq!(joined(errors).unwrap_err().to_string(), "a: not found, b: not found");
    }

    #[test]
    fn causes_are_named_once() {
        let error = anyhow::anyhow!("no route").context("connect: no route").context("yesterday");
        assert_eq!(one_line(&error), "yesterday: connect: no route");
        let gone = kube::core::Status::failure("pods \"a\" not found", "NotFound").with_code(404);
        let error = anyhow::Error::new(kube::Error::Api(gone.boxed())).context("pod a");
        assert_eq!(one_line(&error), "pod a: pods \"a\" not found");
    }
}
