//! none: pods have a loopback interface and nothing else. The empty network, for clusters whose pods use `hostNetwork`, and the
//! least that a plugin can be.

use switchyard_plugin::netstate::{Fragment, IfName, Link, LinkKind, Object, Place};
use switchyard_plugin::{
    Facts, NetworkPlugin, NodeFacts, OptionReader, Options, OptionsError, PodFacts, export_plugin,
};

/// The empty network.
#[derive(Clone, Copy, Debug)]
pub struct None;

/// What the plugin says about itself: `manifest.json`.
pub const MANIFEST: &str = include_str!("../manifest.json");

export_plugin!(None, MANIFEST);

impl NetworkPlugin for None {
    fn new(options: &Options) -> Result<Self, OptionsError> {
        OptionReader::new(options).finish()?;
        Ok(Self)
    }

    fn node(&self, _: &Facts, _: &NodeFacts) -> Fragment {
        Fragment::new()
    }

    fn pod(&self, _: &Facts, _: &NodeFacts, pod: &PodFacts) -> Fragment {
        let mut fragment = Fragment::new();
        let loopback = IfName::new("lo").expect("a valid constant name");
        fragment.want(&Place::pod(&pod.uid), Object::Link(Link::new(loopback, LinkKind::Existing)));
        fragment
    }
}
