//! A versioned key-value store with watch.
