//! Namespaces die behind one's back: the kernel takes them apart in the background, for some hundred milliseconds after a cluster, and
//! holds the lock that making the next one needs.

use std::time::{Duration, Instant};

use anyhow::ensure;
use switchyard_kernel::Netns;

use crate::byhand::{Batch, Index};

const PATIENCE: Duration = Duration::from_secs(60);
const HERE: (Index, &str) = (10, "here");
const THERE: (Index, &str) = (11, "there");

/// Waits until all network namespaces that nobody holds any more are gone. They go in the order in which they were left, several at a
/// time: so one of our own is left behind, and is gone when the link that led to it is. Twice, as the first may be among those that go
/// together.
pub fn settle() -> anyhow::Result<()> {
    let holder = Netns::create()?;
    for _ in 0..2 {
        let last = Netns::create()?;
        let mut batch = Batch::new(&holder);
        batch.veth(HERE.0, HERE.1, 0, &last, THERE);
        batch.send();
        drop((batch, last));
        let begun = Instant::now();
        let there = || std::fs::read_to_string("/proc/thread-self/net/dev").map(|links| links.contains(HERE.1));
        while holder.run(there)?? {
            ensure!(begun.elapsed() < PATIENCE, "namespaces are still there after {PATIENCE:?}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    Ok(())
}
