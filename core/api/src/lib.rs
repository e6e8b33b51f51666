//! The kinds of group switchyard.dev/v1alpha1 and the names every part agrees on.
