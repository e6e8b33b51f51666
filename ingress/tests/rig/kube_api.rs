//! A Kubernetes API of a few kinds, enough for list, watch and status.
