//! Two reports side by side.

use super::Report;

/// What changed, as a table.
pub fn compare(_before: &Report, _after: &Report) -> String {
    String::new()
}
