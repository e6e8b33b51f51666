//! The node agent: pods, probes, the network attachment, the service data plane.
