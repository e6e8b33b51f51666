//! Quantities, what a pod asks for in all, and LimitRange's defaults.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Add;

use serde_json::{Value, json};

use super::Admission;
use crate::meta;
use crate::status::Result;

/// A quantity, in thousandths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Amount(i128);

// === impl Amount ===

impl Amount {
    pub const ONE: Self = Self(1000);

    pub fn of(count: usize) -> Self {
        Self(count as i128 * 1000)
    }

    /// `500m`, `2`, `1.5`, `64Mi`, `1e3`.
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() > 40 {
            return None;
        }
        let split = text.find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '+' | '-'))).unwrap_or(text.len());
        let (number, suffix) = text.split_at(split);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let negative = whole.starts_with('-');
        let whole = whole.strip_prefix(['+', '-']).unwrap_or(whole);
        if whole.is_empty() && fraction.is_empty() || fraction.len() > 12 || whole.len() > 19 {
            return None;
        }
        if !whole.bytes().chain(fraction.bytes()).all(|c| c.is_ascii_digit()) {
            return None;
        }
        let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
        let scale = 10i128.pow(fraction.len() as u32);
        let (factor, divisor): (i128, i128) = match suffix {
            "n" => (1, 1_000_000),
            "u" => (1, 1000),
            "m" => (1, 1),
            "" => (1000, 1),
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
            "Ei" => (1000i128 << 60, 1),
            exponent => {
                let power: u32 = exponent.strip_prefix(['e', 'E'])?.trim_start_matches('+').parse().ok()?;
                (1000 * 10i128.checked_pow(power.min(18))?, 1)
            }
        };
        // Rounded up, as Kubernetes does.
        let (value, by) = (digits.checked_mul(factor)?, scale * divisor);
        let value = value / by + i128::from(value % by != 0);
        Some(Self(if negative { -value } else { value }))
    }

    pub fn is_negative(self) -> bool {
        self.0 < 0
    }
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

/// A quantity as JSON has it.
pub fn amount(value: &Value) -> Option<Amount> {
    match value {
        Value::String(text) => Amount::parse(text),
        Value::Number(number) => Amount::parse(&number.to_string()),
        _ => None,
    }
}

/// What a pod's containers ask for in all: `requests.cpu`, `limits.memory`, ... Init containers run alone, so the greatest counts.
pub fn pod_totals(pod: &Value) -> BTreeMap<String, Amount> {
    let mut totals = BTreeMap::new();
    for side in ["requests", "limits"] {
        for container in meta::list(pod, "/spec/containers") {
            for (what, value) in meta::map(container, &format!("/resources/{side}")).into_iter().flatten() {
                if let Some(value) = amount(value) {
                    let sum: &mut Amount = totals.entry(format!("{side}.{what}")).or_default();
                    *sum = *sum + value;
                }
            }
        }
        for container in meta::list(pod, "/spec/initContainers") {
            for (what, value) in meta::map(container, &format!("/resources/{side}")).into_iter().flatten() {
                if let Some(value) = amount(value) {
                    let most: &mut Amount = totals.entry(format!("{side}.{what}")).or_default();
                    *most = (*most).max(value);
                }
            }
        }
    }
    totals
}

/// Gives containers the namespace's default requests and limits.
pub fn pod_defaults(admission: &Admission<'_>, pod: &mut Value) -> Result<()> {
    let (ranges, _) = admission.server.store.list(&format!("core/limitranges/{}/", admission.namespace));
    for range in ranges {
        for limit in meta::list(&range.value, "/spec/limits") {
            if meta::text(limit, "/type") != "Container" {
                continue;
            }
            for (from, to) in [("default", "limits"), ("defaultRequest", "requests")] {
                let Some(values) = meta::map(limit, &format!("/{from}")) else { continue };
                let spec = meta::child(meta::as_map(pod), "spec");
                for field in ["containers", "initContainers"] {
                    for container in spec.get_mut(field).and_then(Value::as_array_mut).into_iter().flatten() {
                        let resources = meta::child(meta::as_map(container), "resources");
                        for (what, value) in values {
                            meta::default(meta::child(resources, to), what, json!(value));
                        }
                    }
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_read_as_kubernetes_reads_them() {
        for (text, thousandths) in [
            ("1", 1000),
            ("500m", 500),
            ("1.5", 1500),
            ("2Ki", 2_048_000),
            ("1k", 1_000_000),
            ("1e3", 1_000_000),
            ("1u", 1),
        ] {
            assert_eq!(Amount::parse(text), Some(Amount(thousandths)), "{text}");
        }
        for wrong in ["", "x", "1x", "--1", "1.2.3", "m", "99999999999999999999999999999999999999999"] {
            assert_eq!(Amount::parse(wrong), None, "{wrong}");
        }
        assert_eq!(Amount::parse("64Mi").map(|amount| amount.to_string()), Some("64Mi".into()));
    }
}
