//! Services as desired state: a pure function from a Service and its EndpointSlices to fragments.
//!
//! One nftables table a node, shared by all network plugins. Verdict maps lead from (address, protocol, port) to a chain per
//! service port, which picks an endpoint in turn. A packet costs one map look-up however many Services there are, and a change
//! touches the chains and elements of its own Service only: each Service is a unit, the base another.
//!
//! - [`node_base`], [`pod_here`] and [`service`]: what a node's agent applies, in the node's namespace.
//! - [`Claims`]: which Service holds an entrance that several ask for.
//! - [`external_base`], [`external_hold`] and [`external`]: what the upstream device applies for `LoadBalancer` addresses.
//! - [`Stale`]: which UDP flows have to be forgotten when a Service changes, or an agent has begun.
//!
//! Translation happens in the node's IP layer. It needs no br_netfilter, but it needs every packet of a pod to pass that layer:
//! a plugin with a bridge must not let two pods of one node talk around it.

mod balance;
mod claims;
mod endpoints;
mod entrance;
mod external;
#[cfg(test)]
mod fixture;
mod frontend;
mod name;
mod node;
mod service;
mod stale;

pub use claims::{Claims, ServiceId, Taken};
pub use entrance::entrances;
pub use external::{
    Backends, Candidates, EXTERNAL_TABLE, NodePort, external, external_addresses, external_base, external_candidates,
    external_hold, external_udp_ways,
};
pub use frontend::{Entrance, Frontend, Port, Protocol, Scope};
pub use node::{NODE_TABLE, NodeServiceFacts, node_base, pod_here};
pub use service::service;
pub use stale::{End, Stale, UdpWays, udp_ways};
