//! Finds, inspects, loads and runs network plugins.
