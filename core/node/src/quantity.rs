//! Kubernetes quantities: `500m`, `1.5`, `64Mi`, `2e3` (apimachinery's resource.Quantity).

/// Thousandths of the unit, rounded up; `None` if it is no quantity or too large.
pub(crate) fn milli(text: &str) -> Option<i128> {
    let digits = text.find(|c: char| !(c.is_ascii_digit() || c == '.' || c == '-' || c == '+')).unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits);
    let (numerator, denominator): (i128, i128) = match suffix {
        "" => (1000, 1),
        "n" => (1, 1_000_000),
        "u" => (1, 1000),
        "m" => (1, 1),
        "k" => (1_000_000, 1),
        "M" => (1_000_000_000, 1),
        "G" => (1_000_000_000_000, 1),
        "T" => (1_000_000_000_000_000, 1),
        "P" => (1_000_000_000_000_000_000, 1),
        "E" => (1_000_000_000_000_000_000_000, 1),
        "Ki" => (1000 << 10, 1),
        "Mi" => (1000 << 20, 1),
        "Gi" => (1000 << 30, 1),
        "Ti" => (1000 << 40, 1),
        "Pi" => (1000 << 50, 1),
        "Ei" => (1000 << 60, 1),
        _ => {
            let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
            let power = 10i128.checked_pow(exponent.unsigned_abs()).filter(|_| exponent.abs() <= 24)?;
            if exponent >= 0 { (1000 * power, 1) } else { (1000, power) }
        }
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.len() > 9 || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let negative = whole.starts_with('-');
    let whole: i128 = if matches!(whole, "" | "-" | "+") { 0 } else { whole.parse().ok()? };
    let scale = 10i128.pow(fraction.len() as u32);
    let fraction: i128 = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
    let scaled = whole.abs().checked_mul(scale)?.checked_add(fraction)?.checked_mul(numerator)?;
    let divisor = scale * denominator;
    let rounded = (scaled + divisor - 1) / divisor;
    Some(if negative { -rounded } else { rounded })
}

#[cfg(test)]
mod tests {
    use super::milli;

    #[test]
    fn quantities_are_read_as_kubernetes_does() {
        let cases = [
            ("1", 1000),
            ("500m", 500),
            ("1.5", 1500),
            (".5", 500),
            ("64Mi", 67_108_864_000),
            ("2k", 2_000_000),
            ("2e3", 2_000_000),
            ("1e-3", 1),
            ("100n", 1),
            ("-1", -1000),
            ("0", 0),
        ];
        for (text, expected) in cases {
            assert_eq!(milli(text), Some(expected), "{text}");
        }
        for bad in ["", "m", "1x", "1.2.3", "Mi", "1e99", "--1", "."] {
            assert_eq!(milli(bad), None, "{bad}");
        }
    }
}
