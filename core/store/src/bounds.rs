//! What a value may be, so that what is written can be read again: by the next start, and by clients in their lists and watches.

use serde_json::Value;

/// Levels of maps and lists in each other at most. Readers of JSON stop at 128, and lists and watches put some around a value.
pub const MOST_DEPTH: usize = 100;
/// Bytes of an encoded value at most; etcd's limit for a request.
pub const MOST_BYTES: usize = 3 << 19;

/// Whether a value has at most so many levels. Looks no deeper than that, so any value may be asked about.
pub fn is_within(value: &Value, levels: usize) -> bool {
    match value {
        Value::Object(map) => levels > 0 && map.values().all(|value| is_within(value, levels - 1)),
        Value::Array(list) => levels > 0 && list.iter().all(|value| is_within(value, levels - 1)),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn levels_are_counted_along_the_deepest_way() {
        assert!(is_within(&json!(1), 0));
        assert!(!is_within(&json!([]), 0));
        assert!(is_within(&json!({"a": [1], "b": {"c": 1}}), 2));
        assert!(!is_within(&json!({"a": [1], "b": {"c": [1]}}), 2));
    }
}
