//! Numbers and tables as people read them.

use std::fmt::Write as _;

use crate::stats::{Interval, Statistic};

/// Three digits: `0.123`, `1.23`, `12.3`, `123`, `1230`.
pub(crate) fn number(value: f64) -> String {
    if !value.is_finite() {
        return "-".into();
    }
    let digits = match value.abs() {
        value if value >= 100.0 => 0,
        value if value >= 10.0 => 1,
        value if value >= 1.0 => 2,
        _ => 3,
    };
    format!("{value:.digits$}")
}

/// The same without zeros that say nothing: `2`, `1.5`, `20`.
pub(crate) fn plain(value: f64) -> String {
    let text = number(value);
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

/// A count as people read it: `1,234,567`.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let group = |(at, digit): (usize, char)| {
        let comma = (at > 0 && (digits.len() - at).is_multiple_of(3)).then_some(',');
        comma.into_iter().chain([digit])
    };
    digits.chars().enumerate().flat_map(group).collect()
}

/// With its unit.
pub(crate) fn with_unit(value: f64, unit: &str) -> String {
    match (unit, value) {
        ("µs", value) if value >= 10_000.0 => format!("{} ms", number(value / 1e3)),
        ("/s", value) if value >= 10_000.0 => format!("{}k/s", number(value / 1e3)),
        ("/s", value) => format!("{}/s", number(value)),
        ("", value) => number(value),
        (unit, value) => format!("{} {unit}", number(value)),
    }
}

/// `1.23`; small ratios have more digits, large ones fewer.
pub(crate) fn ratio(ratio: f64) -> String {
    let digits = match ratio {
        0.0 => 0,
        ratio if ratio < 0.1 => 4,
        ratio if ratio < 10.0 => 2,
        ratio if ratio < 100.0 => 1,
        _ => 0,
    };
    format!("{ratio:.digits$}")
}

/// `1.23x`.
pub(crate) fn times(times: f64) -> String {
    format!("{}x", ratio(times))
}

/// A figure beside what it is compared with: `1.23x`, or `+0.012` where that is a difference; and from where to where it reaches.
pub(crate) fn against(interval: Option<&Interval>, statistic: Statistic) -> (String, String) {
    match (interval, statistic) {
        (None, _) => ("-".into(), "-".into()),
        (Some(Interval { low, ratio, high }), Statistic::Difference) => {
            (format!("{ratio:+.3}"), format!("{low:+.3} to {high:+.3}"))
        }
        (Some(one), _) => (times(one.ratio), format!("{} to {}", ratio(one.low), ratio(one.high))),
    }
}

/// Bytes in MiB.
pub(crate) fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", number(bytes as f64 / f64::from(1 << 20)))
}

/// What a terminal shows in a line without breaking it.
pub(crate) const COLUMNS: usize = 100;

/// In lines of [`COLUMNS`], those after the first one indented.
pub(crate) fn wrapped(text: &str, indent: usize) -> String {
    let mut lines: Vec<String> = vec![String::new()];
    for word in text.split(' ') {
        let line = lines.last_mut().expect("there is one");
        if !line.trim().is_empty() && line.chars().count() + 1 + word.chars().count() > COLUMNS {
            lines.push(format!("{}{word}", " ".repeat(indent)));
            continue;
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    lines.join("\n")
}

/// Columns as wide as their widest cell.
pub(crate) fn grid(head: &[&str], rows: &[Vec<String>]) -> String {
    let head: Vec<String> = head.iter().map(|&cell| cell.to_owned()).collect();
    let all: Vec<&Vec<String>> = std::iter::once(&head).chain(rows).collect();
    let width = |column: usize| all.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let mut text = String::new();
    for row in all {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(line, "{cell:width$}  ");
        }
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

/// The same with a title over each stretch of rows that share it.
pub(crate) fn titled_grid(head: &[&str], rows: Vec<(String, Vec<String>)>) -> String {
    let (titles, rows): (Vec<String>, Vec<Vec<String>>) = rows.into_iter().unzip();
    let grid = grid(head, &rows);
    let mut lines = grid.lines();
    let mut text = String::new();
    let _ = writeln!(text, "{}", lines.next().unwrap_or_default());
    let mut before = "";
    for (title, line) in titles.iter().zip(lines) {
        if title != before {
            let _ = writeln!(text, "{title}");
        }
        before = title;
        let _ = writeln!(text, "{line}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits() {
        let all = [0.1234, 1.234, 12.34, 123.4, 1234.0].map(number);
        assert_eq!(all, ["0.123", "1.23", "12.3", "123", "1234"]);
        assert_eq!([0.0, 1.5, 2.0, 20.0, 300.0].map(plain), ["0", "1.5", "2", "20", "300"]);
        assert_eq!(with_unit(12_345.0, "µs"), "12.3 ms");
        assert_eq!(with_unit(45_678.0, "/s"), "45.7k/s");
        assert_eq!(with_unit(f64::NAN, "s/GB"), "- s/GB");
        assert_eq!([1.234, 0.0123, 0.0, 12.34, 123.4].map(times), ["1.23x", "0.0123x", "0x", "12.3x", "123x"]);
        assert_eq!(mebibytes(3 << 20), "3.00 MiB");
        assert_eq!([0, 12, 999, 1000, 1_234_567].map(count), ["0", "12", "999", "1,000", "1,234,567"]);
        let interval = Interval { low: 0.09, ratio: 0.1, high: 0.11 };
        let said = |statistic| against(Some(&interval), statistic);
        assert_eq!(said(Statistic::Difference), ("+0.100".into(), "+0.090 to +0.110".into()));
        assert_eq!(said(Statistic::MedianRatio), ("0.10x".into(), "0.0900 to 0.11".into()));
    }

    #[test]
    fn lines_fit_a_terminal_and_titles_stand_once() {
        let text = wrapped(&"some words ".repeat(30), 4);
        assert!(text.lines().all(|line| line.chars().count() <= COLUMNS) && text.lines().count() > 3, "{text}");
        assert!(text.lines().skip(1).all(|line| line.starts_with("    ")), "{text}");
        let row = |title: &str, cell: &str| (title.to_owned(), vec![format!("  {cell}"), "1".to_owned()]);
        let table = titled_grid(&["  A", "B"], vec![row("one", "x"), row("one", "yy"), row("two", "z")]);
        assert_eq!(table, "  A   B\none\n  x   1\n  yy  1\ntwo\n  z   1\n");
    }
}
