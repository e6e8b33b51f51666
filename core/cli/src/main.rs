//! The command yard.
fn main() {}
