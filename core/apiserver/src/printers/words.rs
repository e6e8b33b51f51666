//! How values are told to people.

use serde_json::Value;

use crate::meta;

pub fn name(object: &Value) -> &str {
    meta::name(object)
}

/// How long ago the object was made.
pub fn age(object: &Value) -> String {
    since(meta::text(object, "/metadata/creationTimestamp"))
}

/// How long ago a time was, as kubectl says it: `5s`, `3m20s`, `4h`, `12d`.
pub fn since(time: &str) -> String {
    let Ok(time) = time.parse::<jiff::Timestamp>() else { return "<unknown>".into() };
    duration(jiff::Timestamp::now().as_second() - time.as_second())
}

/// A span of seconds, with as many units as kubectl shows.
pub fn duration(seconds: i64) -> String {
    let with = |big: i64, unit: &str, small: i64, of: &str| {
        if small == 0 { format!("{big}{unit}") } else { format!("{big}{unit}{small}{of}") }
    };
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match seconds {
        i64::MIN..0 => "0s".into(),
        0..120 => format!("{seconds}s"),
        120..600 => with(minutes, "m", seconds % 60, "s"),
        600..10_800 => format!("{minutes}m"),
        10_800..28_800 => with(hours, "h", minutes % 60, "m"),
        28_800..172_800 => format!("{hours}h"),
        172_800..691_200 => with(days, "d", hours % 24, "h"),
        691_200..63_072_000 => format!("{days}d"),
        _ => with(days / 365, "y", days % 365, "d"),
    }
}

/// `<none>` for nothing.
pub fn or_none(text: &str) -> String {
    if text.is_empty() { "<none>".into() } else { text.into() }
}

/// Strings joined by commas.
pub fn joined<'a>(items: impl Iterator<Item = &'a str>) -> String {
    or_none(&items.filter(|item| !item.is_empty()).collect::<Vec<_>>().join(","))
}

/// A label selector as kubectl writes it.
pub fn selector(object: &Value, pointer: &str) -> String {
    let labels = meta::map(object, pointer).into_iter().flatten();
    let mut parts: Vec<String> = labels.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or(""))).collect();
    parts.sort();
    or_none(&parts.join(","))
}
