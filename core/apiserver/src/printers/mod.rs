//! How kubectl shows each kind: the columns of its table.

mod apps;
mod core;
mod rest;
mod words;

use serde_json::Value;

/// How one kind is shown.
#[derive(Clone, Copy)]
pub struct Printer {
    pub columns: &'static [Column],
    /// One cell for each column.
    pub cells: fn(&Value) -> Vec<Value>,
}

/// A column.
pub struct Column {
    pub name: &'static str,
    pub kind: &'static str,
    /// 0 is shown always, 1 with `-o wide`.
    pub priority: u8,
}

/// A column of text.
pub(crate) const fn text(name: &'static str) -> Column {
    Column { name, kind: "string", priority: 0 }
}

/// A column of text, shown with `-o wide`.
pub(crate) const fn wide(name: &'static str) -> Column {
    Column { name, kind: "string", priority: 1 }
}

/// A column of numbers.
pub(crate) const fn number(name: &'static str) -> Column {
    Column { name, kind: "integer", priority: 0 }
}

/// The printer of a kind; those we do not know get name and age.
pub fn of(group: &str, kind: &str) -> Printer {
    match (group, kind) {
        ("", kind) => core::of(kind),
        ("apps" | "batch", kind) => apps::of(kind),
        (_, kind) => rest::of(kind),
    }
    .unwrap_or(rest::PLAIN)
}
