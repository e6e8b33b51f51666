//! Quantities of the API (`250m`, `64Mi`) as whole thousandths.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// Thousandths of the unit; none for what is no quantity. Digits below a thousandth are dropped.
pub(crate) fn milli(quantity: &Quantity) -> Option<i128> {
    let text = quantity.0.trim();
    let digits = text.find(|c: char| !matches!(c, '0'..='9' | '.' | '+' | '-')).unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits);
    let (number, exponent) = match suffix.strip_prefix(['e', 'E']) {
        Some(exponent) if !exponent.is_empty() => (number, exponent.parse::<i32>().ok().filter(|e| e.abs() < 20)?),
        _ => (number, 0),
    };
    let scale: i128 = match suffix {
        _ if exponent != 0 => 1000,
        "" => 1000,
        "m" => 1,
        "u" | "n" => return Some(0),
        "k" => 1000 * 1000,
        "M" => 1000 * 1_000_000,
        "G" => 1000 * 1_000_000_000,
        "T" => 1000 * 1_000_000_000_000,
        "P" => 1000 * 1_000_000_000_000_000,
        "E" => 1000 * 1_000_000_000_000_000_000,
        "Ki" => 1000 << 10,
        "Mi" => 1000 << 20,
        "Gi" => 1000 << 30,
        "Ti" => 1000 << 40,
        "Pi" => 1000 << 50,
        "Ei" => 1000 << 60,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let fraction = &fraction[..fraction.len().min(9)];
    let (sign, whole) = whole.strip_prefix('-').map_or((1, whole.trim_start_matches('+')), |rest| (-1, rest));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let part: i128 = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
    let part = part.checked_mul(scale)? / 10i128.pow(fraction.len() as u32);
    let value = whole.checked_mul(scale)?.checked_add(part)?;
    let value = match exponent {
        0 => value,
        e if e > 0 => value.checked_mul(10i128.checked_pow(e as u32)?)?,
        e => value / 10i128.checked_pow(e.unsigned_abs())?,
    };
    Some(sign * value)
}

/// Whole units, rounded up.
pub(crate) fn units(quantity: &Quantity) -> Option<i64> {
    let milli = milli(quantity)?;
    i64::try_from(milli.div_euclid(1000) + i128::from(milli.rem_euclid(1000) != 0)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_as_kubernetes_reads_them() {
        for (text, milli) in [
            ("1", Some(1000)),
            ("250m", Some(250)),
            ("0.5", Some(500)),
            (".5", Some(500)),
            ("1.5Gi", Some(1500 << 30)),
            ("64Mi", Some(64_000 << 20)),
            ("1e3", Some(1_000_000)),
            ("12E", Some(12_000 * 1_000_000_000_000_000_000)),
            ("-1", Some(-1000)),
            ("100n", Some(0)),
            ("", None),
            ("x", None),
            ("1.2.3", None),
            ("1Zi", None),
        ] {
            assert_eq!(super::milli(&Quantity(text.into())), milli, "{text:?}");
        }
        assert_eq!(units(&Quantity("1500m".into())), Some(2));
    }
}
