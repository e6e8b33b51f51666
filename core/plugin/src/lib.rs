//! What the author of a network plugin sees: the trait, the manifest, the C table.
