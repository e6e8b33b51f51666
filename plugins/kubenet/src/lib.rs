//! kubenet: a bridge on each node, static routes on the upstream device.
