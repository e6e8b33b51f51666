//! Which colour is whose.

use super::plot::escaped;
use crate::report::{BASELINE, BY_HAND};

/// Colours by the networks' places in the experiment.
pub(super) struct Palette {
    names: Vec<String>,
}

/// Colours that the style defines.
const COLOURS: usize = 8;

// === impl Palette ===

impl Palette {
    pub(super) fn new(contestants: &[&str]) -> Self {
        Self { names: contestants.iter().map(|&name| name.to_owned()).collect() }
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }

    pub(super) fn of(&self, name: &str) -> String {
        match (name, self.names.iter().position(|known| known == name)) {
            (BASELINE | BY_HAND, _) | (_, None) => "var(--base)".into(),
            (_, Some(place)) => format!("var(--c{})", place % COLOURS),
        }
    }
}

/// An entry of a legend.
pub(super) fn swatch(name: &str, colour: &str) -> String {
    format!("<li><i style=\"background:{colour}\"></i>{}</li>", escaped(name))
}
