//! A label with a `*` in it. DNS has wildcards for whole labels only, so these are computed; the star stands for one or more bytes of
//! one label, as in the ingress.

use std::cmp::Ordering;

use hickory_proto::rr::{LowerName, Name};

/// `prefix*suffix`. Orders the most specific first: most literal bytes, then the longer prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Glob {
    prefix: Box<[u8]>,
    suffix: Box<[u8]>,
}

// === impl Glob ===

impl Glob {
    /// The first label of a name, if it is one.
    pub(super) fn of(name: &LowerName) -> Option<Self> {
        let name: &Name = name;
        let label = name.iter().next()?;
        let star = label.iter().position(|byte| *byte == b'*')?;
        Some(Self { prefix: label[..star].into(), suffix: label[star + 1..].into() })
    }

    /// Whether a lower-case label is meant.
    pub(super) fn matches(&self, label: &[u8]) -> bool {
        label.len() > self.prefix.len() + self.suffix.len()
            && label.starts_with(&self.prefix)
            && label.ends_with(&self.suffix)
    }

    fn rank(&self) -> (usize, usize) {
        (self.prefix.len() + self.suffix.len(), self.prefix.len())
    }
}

impl Ord for Glob {
    fn cmp(&self, other: &Self) -> Ordering {
        let by_rank = other.rank().cmp(&self.rank());
        by_rank.then_with(|| self.prefix.cmp(&other.prefix)).then_with(|| self.suffix.cmp(&other.suffix))
    }
}

impl PartialOrd for Glob {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
