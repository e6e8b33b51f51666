//! Constants: groups, annotations, labels, ports, numbers.

/// Our API group.
pub const GROUP: &str = "switchyard.dev";
/// Its version.
pub const VERSION: &str = "v1alpha1";
/// The name of the one Network object.
pub const NETWORK: &str = "default";

/// Annotation on a Pod: the address given to it when it was bound. The address is in use exactly as long as a Pod object carries
/// it: until the object goes, or until its node takes the annotation away in the write that says that the pod has ended.
pub const POD_IP: &str = "switchyard.dev/pod-ip";
/// Annotation on a Node: JSON of [`crate::NodeNetworkStatus`], written by its agent.
pub const NODE_NETWORK: &str = "switchyard.dev/network";
/// Annotation on the Network: JSON of [`crate::NodeNetworkStatus`], written by the router, which has no object of its own.
pub const ROUTER_NETWORK: &str = "switchyard.dev/router";
/// Annotation on a Node, or for the router on the Network: JSON list of what a swap would change in the kernel there, one line a
/// change. There during a dry run.
pub const SWAP_PLAN: &str = "switchyard.dev/swap-plan";
/// Annotation on the Network: JSON of a [`crate::NetworkSpec`] of which everybody is to say what it would change. Nothing is changed.
pub const DRY_RUN: &str = "switchyard.dev/dry-run";
/// The router's name among those that take part in a swap. No node can be called so in a laboratory.
pub const ROUTER: &str = "router";

/// Annotation on a Node: the largest packet, in bytes, that leaves it by its uplink, written by its agent.
pub const UPLINK_MTU: &str = "switchyard.dev/uplink-mtu";
/// Annotation on a Node that carries gateways to the outside: `active` or `standby`, written by the control plane.
pub const EDGE: &str = "switchyard.dev/edge";
/// Label of the nodes that may carry gateways to the outside. Where no node has it, any worker may.
pub const EDGE_LABEL: &str = "node-role.kubernetes.io/edge";

/// Label that marks the control-plane node, as in Kubernetes.
pub const CONTROL_PLANE_LABEL: &str = "node-role.kubernetes.io/control-plane";

/// Port of the API server on the control-plane node.
pub const API_PORT: u16 = 6443;
/// Port of a node agent's server (logs, exec, health), the kubelet's.
pub const AGENT_PORT: u16 = 10250;
/// First and last NodePort.
pub const NODE_PORTS: std::ops::RangeInclusive<u16> = 30000..=32767;
/// The cluster's DNS domain.
pub const CLUSTER_DOMAIN: &str = "cluster.local";
/// The Service of the cluster's DNS, in `kube-system`.
pub const DNS_SERVICE: &str = "kube-dns";
/// Its port.
pub const DNS_PORT: u16 = 53;
/// Label on a Service that this name's proxy and nobody else serves. Kubernetes'.
pub const SERVICE_PROXY_LABEL: &str = "service.kubernetes.io/service-proxy-name";

/// The address of the cluster's DNS: the tenth of the Services' range, as `kubeadm` has it.
pub fn dns_address(service_cidr: &ipnet::IpNet) -> Option<std::net::IpAddr> {
    service_cidr.hosts().nth(9)
}

/// Ownership number of what a node agent makes: route protocol, address protocol, link group (see `ip route`, `ip link`).
pub const OWNER_AGENT: u8 = 83;
/// Ownership number of the laboratory's hardware: namespaces' uplinks, the underlay.
pub const OWNER_LAB: u8 = 84;
/// Ownership number of what the router process makes.
pub const OWNER_ROUTER: u8 = 85;

/// Namespace of the cluster's own workloads.
pub const SYSTEM_NAMESPACE: &str = "kube-system";
/// Namespace of node leases.
pub const LEASE_NAMESPACE: &str = "kube-node-lease";

/// Reason of a Node's condition `NetworkUnavailable`, as cloud route controllers give it: the upstream device holds no route to the
/// node's block of pod addresses.
pub const NO_ROUTE_CREATED: &str = "NoRouteCreated";
/// Reason of a Node's condition `NetworkUnavailable`: whether there will be a route is not known yet.
pub const ROUTE_PENDING: &str = "RoutePending";
/// Reason of a Node's condition `NetworkUnavailable`: it does.
pub const ROUTE_CREATED: &str = "RouteCreated";
