//! The same experiment with more and more of something in the cluster.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Numbers that everything is measured by, one kind of thing after the other; of the others there is then what the topology says.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Sweep {
    /// Pods that do nothing but be there. Default not swept.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pods: Vec<u16>,
    /// Services that lead nowhere. Default not swept.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<u16>,
    /// NetworkPolicies that select the pods which load goes to. Default not swept.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<u16>,
}

/// What there is more and more of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Crowd {
    /// Pods.
    Pods,
    /// Services.
    Services,
    /// NetworkPolicies.
    Policies,
}

/// So many of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Level {
    /// Of what.
    pub of: Crowd,
    /// How many.
    pub number: u16,
}

// === impl Sweep ===

impl Sweep {
    /// Whether nothing is swept.
    pub fn is_empty(&self) -> bool {
        self.lists().iter().all(|(_, numbers)| numbers.is_empty())
    }

    /// What is swept, and by which numbers; an empty list sweeps nothing.
    pub(crate) fn lists(&self) -> [(Crowd, &[u16]); 3] {
        [(Crowd::Pods, &self.pods), (Crowd::Services, &self.services), (Crowd::Policies, &self.policies)]
    }

    /// All levels, in their order.
    pub fn levels(&self) -> Vec<Level> {
        let of =
            |(of, numbers): (Crowd, &[u16])| numbers.iter().map(|&number| Level { of, number }).collect::<Vec<_>>();
        self.lists().into_iter().flat_map(of).collect()
    }
}

// === impl Crowd ===

impl Crowd {
    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pods => "pods",
            Self::Services => "services",
            Self::Policies => "policies",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.number, self.of.name())
    }
}
