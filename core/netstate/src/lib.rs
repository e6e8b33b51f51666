//! Kernel network state as data: the vocabulary, the difference, the order.
