//! Who may talk to whom.
//!
//! One ordered model ([`Policy`], its rules and tiers) that Kubernetes' `NetworkPolicy` and the distributed firewall's `SecurityPolicy`
//! are translated into, and a [`Layer`] that turns all policies of a cluster into what one node's kernel should hold. It performs no
//! input or output.
//!
//! A packet's cost does not depend on the number of policies, rules or pods: one look-up finds the chain of a subject, one the class
//! of the peer, one or a few the verdict for class and port. All questions of order are answered when the maps are written.

mod base;
mod blocks;
mod firewall;
mod index;
mod kubernetes;
mod layer;
mod model;
mod name;
mod peers;
mod rules;
mod selector;
mod subject;

pub use base::table;
pub use firewall::{
    Block, GroupSpec, Member, Party, RuleAction, SecurityPolicySpec, SecurityRule, ServicePort, Translated,
    security_counter,
};
pub use kubernetes::{SpecError, closed, network_policy, policy_name};
pub use layer::{Concern, Layer};
pub use model::{
    Action, Direction, Labels, NamedPort, Namespaces, Numbers, Peer, Pod, PodGroup, Policy, Port, Protocol, Rule, Tier,
};
pub use selector::{Expression, Operator, Selector};
pub use subject::counter_chain;
