//! An ingress controller: one hyper server per core, routing by host and path.
