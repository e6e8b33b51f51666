//! The kinds of group `switchyard.dev/v1alpha1`, and the names every part agrees on.
//!
//! [`Cluster`] is the one file that is ours in an otherwise plain Kubernetes example; [`Network`] says which plugin carries the
//! cluster's traffic and how that goes.

mod amount;
mod cluster;
mod edge;
mod firewall;
mod meta;
pub mod names;
mod network;
mod segment;
mod swap;
mod uplink;

pub use amount::Amount;
pub use cluster::{
    Cluster, ClusterSpec, DnsSpec, HostPort, ImageSource, LoadBalancerSpec, NodeSpec, Role, RouteTable, Underlay,
};
pub use edge::edge_role;
pub use firewall::{
    Group, GroupSpec, GroupStatus, Hits, NodePolicyStatus, RuleStatus, SecurityPolicy, SecurityPolicySpec,
    SecurityPolicyStatus,
};
pub use network::{
    ActiveNetwork, Condition, Hosting, Network, NetworkSpec, NetworkStatus, NodeNetworkStatus, PluginOptions,
};
pub use segment::{Segment, SegmentFault, SegmentSpec, SegmentStatus};
pub use swap::{Operations, Outcome, Participant, Probes, Sample, Stage, Swap, SwapPhase, SwapReport, SwapStep, Turn};
pub use uplink::uplink_mtu;
