//! The trait.

use switchyard_netstate::Fragment;

use crate::{Facts, NodeFacts, Options, OptionsError, PodFacts, Pool, SegmentFacts};

/// A network. Pure: the same arguments give the same answer.
///
/// Each answer is the *whole* wanted state of its unit; what an earlier answer wanted and this one does not is removed. Units may
/// share an object as long as they agree on it.
pub trait NetworkPlugin: Sized + Send + Sync + 'static {
    /// A network with these options.
    fn new(options: &Options) -> Result<Self, OptionsError>;

    /// Which block the address of `pod` comes from when it runs on `node`.
    fn pool(&self, _facts: &Facts, node: &NodeFacts, _pod: &PodFacts) -> Pool {
        Pool::of(node.pod_cidr)
    }

    /// What `node` carries with no pods on it.
    fn node(&self, facts: &Facts, node: &NodeFacts) -> Fragment;

    /// What `node` needs to reach the block of `peer`.
    fn peer(&self, _facts: &Facts, _node: &NodeFacts, _peer: &NodeFacts) -> Fragment {
        Fragment::new()
    }

    /// Both sides of the attachment of `pod` to `node`.
    fn pod(&self, facts: &Facts, node: &NodeFacts, pod: &PodFacts) -> Fragment;

    /// What `node` needs to reach `pod`, which runs on `peer` and whose address lies outside that node's block.
    fn remote(&self, _facts: &Facts, _node: &NodeFacts, _peer: &NodeFacts, _pod: &PodFacts) -> Fragment {
        Fragment::new()
    }

    /// What `node` carries for a segment, whether or not pods of it are there.
    fn segment(&self, _facts: &Facts, _node: &NodeFacts, _segment: &SegmentFacts) -> Fragment {
        Fragment::new()
    }

    /// Routes that the upstream L3 device must hold for `node`; in the place `router` only.
    fn underlay(&self, _facts: &Facts, _node: &NodeFacts) -> Fragment {
        Fragment::new()
    }
}
