//! Quantities of the Kubernetes API: `500m`, `1.5`, `64Mi`, `2e3` (apimachinery's resource.Quantity).

use std::fmt;
use std::ops::Add;

/// A quantity in thousandths of its unit. What is finer is rounded away from zero, as Kubernetes does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Amount(i128);

/// Characters of the longest text that is read.
const MAX_TEXT: usize = 40;
/// Digits before the point: more than any suffix lets a thousandth in 128 bits hold.
const MAX_WHOLE: usize = 19;
/// Digits behind the point.
const MAX_FRACTION: usize = 12;
/// Greatest exponent, either way: that of `E`.
const MAX_EXPONENT: u32 = 18;

// === impl Amount ===

impl Amount {
    /// One of the unit.
    pub const ONE: Self = Self(1000);

    /// So many of the unit.
    pub fn of(count: usize) -> Self {
        Self(count as i128 * 1000)
    }

    /// Reads a text; `None` if it is no quantity, or one that nobody means.
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() > MAX_TEXT {
            return None;
        }
        let (negative, text) = match text.as_bytes().first()? {
            b'-' => (true, &text[1..]),
            b'+' => (false, &text[1..]),
            _ => (false, text),
        };
        let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
        let (number, suffix) = text.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let plain = fraction.bytes().all(|b| b.is_ascii_digit());
        if !plain || whole.is_empty() && fraction.is_empty() || whole.len() > MAX_WHOLE || fraction.len() > MAX_FRACTION
        {
            return None;
        }
        let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
        let (factor, divisor) = scale(suffix)?;
        let (value, by) = (digits.checked_mul(factor)?, 10i128.pow(fraction.len() as u32) * divisor);
        let value = value / by + i128::from(value % by != 0);
        Some(Self(if negative { -value } else { value }))
    }

    /// In thousandths of the unit.
    pub fn milli(self) -> i128 {
        self.0
    }

    /// In whole units, rounded up; what is beyond 64 bits is the most they hold.
    pub fn units(self) -> i64 {
        let whole = self.0.div_euclid(1000) + i128::from(self.0.rem_euclid(1000) != 0);
        i64::try_from(whole).unwrap_or(if whole < 0 { i64::MIN } else { i64::MAX })
    }

    /// Less than nothing.
    pub fn is_negative(self) -> bool {
        self.0 < 0
    }
}

/// What a suffix makes of one, in thousandths: times the first, divided by the second.
fn scale(suffix: &str) -> Option<(i128, i128)> {
    Some(match suffix {
        "n" => (1, 1_000_000),
        "u" => (1, 1000),
        "m" => (1, 1),
        "" => (1000, 1),
        "k" => (1000 * 10i128.pow(3), 1),
        "M" => (1000 * 10i128.pow(6), 1),
        "G" => (1000 * 10i128.pow(9), 1),
        "T" => (1000 * 10i128.pow(12), 1),
        "P" => (1000 * 10i128.pow(15), 1),
        "E" => (1000 * 10i128.pow(18), 1),
        "Ki" => (1000 << 10, 1),
        "Mi" => (1000 << 20, 1),
        "Gi" => (1000 << 30, 1),
        "Ti" => (1000 << 40, 1),
        "Pi" => (1000 << 50, 1),
        "Ei" => (1000 << 60, 1),
        exponent => {
            let exponent: i32 = exponent.strip_prefix(['e', 'E'])?.parse().ok()?;
            if exponent.unsigned_abs() > MAX_EXPONENT {
                return None;
            }
            let power = 10i128.pow(exponent.unsigned_abs());
            if exponent < 0 { (1000, power) } else { (1000 * power, 1) }
        }
    })
}

impl Add for Amount {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 % 1000 != 0 {
            return write!(f, "{}m", self.0);
        }
        let whole = self.0 / 1000;
        for (shift, suffix) in [(40, "Ti"), (30, "Gi"), (20, "Mi"), (10, "Ki")] {
            if whole != 0 && whole % (1 << shift) == 0 {
                return write!(f, "{}{suffix}", whole >> shift);
            }
        }
        write!(f, "{whole}")
    }
}

#[cfg(test)]
mod tests {
    use super::Amount;

    #[test]
    fn quantities_are_read_as_kubernetes_reads_them() {
        for (text, milli) in [
            ("1", 1000),
            ("+1", 1000),
            ("-1", -1000),
            ("0", 0),
            ("500m", 500),
            ("1.5", 1500),
            (".5", 500),
            ("5.", 5000),
            ("-1.5", -1500),
            ("1.5Gi", 1500 << 30),
            ("64Mi", 64_000 << 20),
            ("2Ki", 2_048_000),
            ("1k", 1_000_000),
            ("1e3", 1_000_000),
            ("1E+3", 1_000_000),
            ("1e-3", 1),
            ("100n", 1),
            ("1u", 1),
            ("-100n", -1),
            ("12E", 12_000 * 1_000_000_000_000_000_000),
        ] {
            assert_eq!(Amount::parse(text), Some(Amount(milli)), "{text}");
        }
        for wrong in [
            "",
            "x",
            "m",
            "1x",
            "1Zi",
            "1.2.3",
            "Mi",
            "1e99",
            "--1",
            "+-1",
            "-",
            ".",
            "1 ",
            "1e",
            "٣",
            "1-2",
            "9999999999999999999Ei",
        ] {
            assert_eq!(Amount::parse(wrong), None, "{wrong}");
        }
        assert_eq!(Amount::parse(&"9".repeat(41)), None);
    }

    #[test]
    fn amounts_are_written_shortly_and_counted_upwards() {
        for text in ["64Mi", "1500m", "3", "0", "-2Ki"] {
            assert_eq!(Amount::parse(text).unwrap().to_string(), text);
        }
        for (text, units) in [("1500m", 2), ("-1500m", -1), ("1", 1), ("99E", i64::MAX)] {
            assert_eq!(Amount::parse(text).unwrap().units(), units, "{text}");
        }
    }
}
