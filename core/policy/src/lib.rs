//! Who may talk to whom.
//!
//! One ordered model ([`Policy`], its rules and tiers) that Kubernetes' `NetworkPolicy` and the kinds of network plugins are
//! translated into. It performs no input or output.

mod kubernetes;
mod model;
mod selector;

pub use kubernetes::{SpecError, closed, network_policy, policy_name};
pub use model::{
    Action, Direction, Labels, NamedPort, Namespaces, Numbers, Peer, Pod, PodGroup, Policy, Port, Protocol, Rule, Tier,
};
pub use selector::{Expression, Operator, Selector};
