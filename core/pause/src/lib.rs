//! The first process of a pod: owns its namespaces, starts and reaps its containers.
