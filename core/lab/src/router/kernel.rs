//! Brings units into the kernel, and tries again what failed.

use super::Changes;

/// The kernel's network in this namespace, as far as it is the router's.
pub(super) struct Kernel {
    failed: Changes,
    cleaned: bool,
}

impl Kernel {
    pub(super) fn open() -> anyhow::Result<Self> {
        Ok(Self { failed: Changes::new(), cleaned: false })
    }
    pub(super) async fn set(&mut self, changes: Changes) {
        self.failed.extend(changes);
    }
    pub(super) async fn clean(&mut self) {
        self.cleaned = true;
    }
    pub(super) async fn again(&self) {
        std::future::pending().await
    }
}
