//! Services as desired state: a pure function from a Service and its EndpointSlices to fragments.
//!
//! One nftables table a node, shared by all network plugins. Verdict maps lead from (address, protocol, port) to a chain per
//! service port, which picks an endpoint in turn. A packet costs one map look-up however many Services there are, and a change
//! touches the chains and elements of its own Service only: each Service is a unit, the base another.
//!
//! - [`node_base`] and [`service`]: what a node's agent applies, in the node's namespace.
//! - [`external_base`], [`external_hold`] and [`external`]: what the upstream device applies for `LoadBalancer` addresses.
//! - [`stale_udp`]: which UDP flows have to be forgotten when a Service changes.
//!
//! Translation happens in the node's IP layer. It needs no br_netfilter, but it needs every packet of a pod to pass that layer:
//! a plugin with a bridge must not let two pods of one node talk around it.

mod balance;
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

pub use entrance::{Entrance, entrances};
pub use external::{
    Backends, Candidates, EXTERNAL_TABLE, NodePort, external, external_addresses, external_base, external_candidates,
    external_hold,
};
pub use frontend::{Frontend, Port, Protocol, Scope};
pub use node::{NODE_TABLE, NodeServiceFacts, node_base};
pub use service::service;
pub use stale::{StaleFlow, stale_udp};
