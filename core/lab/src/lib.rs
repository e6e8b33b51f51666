//! One machine as a cluster: namespaces, router, supervisor, host listeners.
