//! Numbers as people read them.

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

/// `1.23x`.
pub(crate) fn times(ratio: f64) -> String {
    format!("{ratio:.2}x")
}

/// Bytes in MiB.
pub(crate) fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", number(bytes as f64 / f64::from(1 << 20)))
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
        assert_eq!(mebibytes(3 << 20), "3.00 MiB");
    }
}
