//! A started plugin: typed calls, and answers that are checked before anybody believes them.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use ipnet::IpNet;
use serde::de::DeserializeOwned;
use switchyard_netstate::{Fragment, Link, LinkKind, Object, Place};
use switchyard_plugin::abi::{Arguments, operation};
use switchyard_plugin::{Facts, Manifest, NodeFacts, PodFacts, Pool, SegmentFacts, SegmentPool};

use crate::state::State;

/// More than that belong into a smaller block.
const MOST_RESERVED: usize = 4096;

/// A network plugin with its options, ready to be asked.
///
/// Calls may come from several threads and run at the same time; one in a child process answers them one after the other. A call
/// blocks, at most until its deadline.
pub trait Plugin: Send + Sync {
    /// What it says about itself.
    fn manifest(&self) -> &Manifest;
    /// The file it came from; empty for one that is linked in.
    fn file(&self) -> &Path;
    /// SHA-256 of that file, hexadecimal.
    fn sha256(&self) -> &str;
    /// Whether it still answers.
    fn state(&self) -> State;
    /// See [`NetworkPlugin::pool`](switchyard_plugin::NetworkPlugin::pool).
    fn pool(&self, facts: &Facts, node: &NodeFacts, pod: &PodFacts) -> Result<Pool, CallError>;
    /// See [`NetworkPlugin::node`](switchyard_plugin::NetworkPlugin::node).
    fn node(&self, facts: &Facts, node: &NodeFacts) -> Result<Fragment, CallError>;
    /// See [`NetworkPlugin::peer`](switchyard_plugin::NetworkPlugin::peer).
    fn peer(&self, facts: &Facts, node: &NodeFacts, peer: &NodeFacts) -> Result<Fragment, CallError>;
    /// See [`NetworkPlugin::pod`](switchyard_plugin::NetworkPlugin::pod).
    fn pod(&self, facts: &Facts, node: &NodeFacts, pod: &PodFacts) -> Result<Fragment, CallError>;
    /// See [`NetworkPlugin::remote`](switchyard_plugin::NetworkPlugin::remote).
    fn remote(&self, facts: &Facts, node: &NodeFacts, peer: &NodeFacts, pod: &PodFacts) -> Result<Fragment, CallError>;
    /// See [`NetworkPlugin::segment`](switchyard_plugin::NetworkPlugin::segment).
    fn segment(&self, facts: &Facts, node: &NodeFacts, segment: &SegmentFacts) -> Result<Fragment, CallError>;
    /// See [`NetworkPlugin::underlay`](switchyard_plugin::NetworkPlugin::underlay).
    fn underlay(&self, facts: &Facts, node: &NodeFacts) -> Result<Fragment, CallError>;
}

/// A call that gave no answer to believe.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum CallError {
    #[error("{operation}: the plugin does not implement it")]
    NotImplemented { operation: &'static str },
    #[error("{operation}: the plugin panicked and is not asked again: {message}")]
    Panicked { operation: &'static str, message: String },
    #[error("{operation}: the plugin gave no answer within {seconds} s and is not asked again")]
    Hung { operation: &'static str, seconds: u64 },
    #[error("{operation}: the plugin is not asked again since an earlier call failed: {why}")]
    Poisoned { operation: &'static str, why: String },
    #[error("{operation}: the plugin is not asked for a while: {why}")]
    Resting { operation: &'static str, why: String },
    #[error("{operation}: the plugin refused its input: {message}")]
    Refused { operation: &'static str, message: String },
    #[error("{operation}: the plugin failed with status {status}: {message}")]
    Failed { operation: &'static str, status: i32, message: String },
    #[error("{operation}: the plugin's process ended: {why}")]
    Died { operation: &'static str, why: String },
    #[error("{operation}: the plugin's process gave no answer within {seconds} s and was ended")]
    Timeout { operation: &'static str, seconds: u64 },
    #[error("{operation}: the plugin's answer has more than {limit} bytes")]
    TooLong { operation: &'static str, limit: usize },
    #[error("{operation}: the plugin's answer is not understood: {why}")]
    Malformed { operation: &'static str, why: String },
    #[error("{operation}: the plugin speaks about {place}, which this call does not concern")]
    WrongPlace { operation: &'static str, place: Place },
}

// === impl CallError ===

impl CallError {
    /// Whether the plugin did not live up to the call, whatever it was asked.
    pub fn is_fault(&self) -> bool {
        self.ends_instance() || matches!(self, Self::Died { .. })
    }

    /// Whether the instance is worth no further question.
    pub(crate) fn ends_instance(&self) -> bool {
        matches!(self, Self::Panicked { .. } | Self::Hung { .. } | Self::Timeout { .. })
    }
}

/// Whatever answers operations: an instance in this process, or a child process.
pub(crate) trait Answers: Send + Sync {
    fn call(&self, operation: &'static str, input: &[u8]) -> Result<Vec<u8>, CallError>;
}

/// A started plugin, wherever it runs.
pub(crate) struct Started {
    manifest: Manifest,
    file: PathBuf,
    sha256: String,
    /// Why it is asked no more.
    poisoned: OnceLock<String>,
    /// Last, because code must outlive what it made.
    answers: Box<dyn Answers>,
}

// === impl Started ===

impl Started {
    pub(crate) fn new(manifest: Manifest, file: PathBuf, sha256: String, answers: Box<dyn Answers>) -> Self {
        Self { manifest, file, sha256, poisoned: OnceLock::new(), answers }
    }

    fn ask<T: DeserializeOwned>(&self, operation: &'static str, arguments: &Arguments) -> Result<T, CallError> {
        if let Some(why) = self.poisoned.get() {
            return Err(CallError::Poisoned { operation, why: why.clone() });
        }
        let input = serde_json::to_vec(arguments).expect("facts have string keys only");
        let answer = self.answers.call(operation, &input).inspect_err(|error| {
            if matches!(error, CallError::Panicked { .. } | CallError::Hung { .. }) {
                // Of two calls that fail at once, one is as good a reason as the other.
                let _ = self.poisoned.set(error.to_string());
            }
        })?;
        serde_json::from_slice(&answer).map_err(|error| CallError::Malformed { operation, why: error.to_string() })
    }

    /// Asks for a fragment; one that is not implemented wants nothing.
    fn fragment(
        &self,
        operation: &'static str,
        arguments: &Arguments,
        may: impl Fn(&Place) -> bool,
    ) -> Result<Fragment, CallError> {
        let fragment: Fragment = match self.ask(operation, arguments) {
            Err(CallError::NotImplemented { .. }) if operation != operation::NODE && operation != operation::POD => {
                return Ok(Fragment::new());
            }
            answer => answer?,
        };
        confined(operation, fragment, may)
    }
}

impl Plugin for Started {
    fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    fn file(&self) -> &Path {
        &self.file
    }

    fn sha256(&self) -> &str {
        &self.sha256
    }

    fn state(&self) -> State {
        if self.poisoned.get().is_some() { State::Poisoned } else { State::Started }
    }

    fn pool(&self, facts: &Facts, node: &NodeFacts, pod: &PodFacts) -> Result<Pool, CallError> {
        match self.ask(operation::POOL, &arguments(facts, node, None, Some(pod))) {
            Err(CallError::NotImplemented { .. }) => Ok(Pool::of(node.pod_cidr)),
            answer => sensible(answer?, facts),
        }
    }

    fn node(&self, facts: &Facts, node: &NodeFacts) -> Result<Fragment, CallError> {
        self.fragment(operation::NODE, &arguments(facts, node, None, None), |place| on(place, &node.name))
    }

    fn peer(&self, facts: &Facts, node: &NodeFacts, peer: &NodeFacts) -> Result<Fragment, CallError> {
        self.fragment(operation::PEER, &arguments(facts, node, Some(peer), None), |place| on(place, &node.name))
    }

    fn pod(&self, facts: &Facts, node: &NodeFacts, pod: &PodFacts) -> Result<Fragment, CallError> {
        let own = |place: &Place| on(place, &node.name) || *place == Place::pod(&*pod.uid);
        self.fragment(operation::POD, &arguments(facts, node, None, Some(pod)), own)
    }

    fn remote(&self, facts: &Facts, node: &NodeFacts, peer: &NodeFacts, pod: &PodFacts) -> Result<Fragment, CallError> {
        self.fragment(operation::REMOTE, &arguments(facts, node, Some(peer), Some(pod)), |place| on(place, &node.name))
    }

    fn segment(&self, facts: &Facts, node: &NodeFacts, segment: &SegmentFacts) -> Result<Fragment, CallError> {
        let arguments = Arguments { segment: Some(segment.clone()), ..arguments(facts, node, None, None) };
        self.fragment(operation::SEGMENT, &arguments, |place| on(place, &node.name))
    }

    fn underlay(&self, facts: &Facts, node: &NodeFacts) -> Result<Fragment, CallError> {
        self.fragment(operation::UNDERLAY, &arguments(facts, node, None, None), |place| *place == Place::Router)
    }
}

/// The pool, if addresses of pods can come from it.
fn sensible(pool: Pool, facts: &Facts) -> Result<Pool, CallError> {
    let why = if !facts.pod_cidr.contains(&pool.block) {
        format!("block {} is not in the cluster's {}", pool.block, facts.pod_cidr)
    } else if pool.reserved.len() > MOST_RESERVED {
        format!("{} addresses are reserved, at most {MOST_RESERVED} can be", pool.reserved.len())
    } else if let Some(why) = pool.segment.as_ref().and_then(|segment| problem(segment, &pool.block)) {
        why
    } else {
        return Ok(pool);
    };
    Err(CallError::Malformed { operation: operation::POOL, why })
}

/// What is wrong with a segment of this block.
fn problem(segment: &SegmentPool, block: &IpNet) -> Option<String> {
    let SegmentPool { name, prefix_length, kept, ids: (first, last), .. } = segment;
    let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if !(1..=63).contains(&name.len()) || !name.bytes().all(good) || name.starts_with('-') || name.ends_with('-') {
        return Some(format!("segment name {name:?} is not a DNS label"));
    }
    if !(block.prefix_len()..=block.max_prefix_len()).contains(prefix_length) {
        return Some(format!("segment {name}: block {block} has no subnets of length {prefix_length}"));
    }
    if *kept as usize > MOST_RESERVED {
        return Some(format!("segment {name}: {kept} addresses are kept, at most {MOST_RESERVED} can be"));
    }
    (first > last).then(|| format!("segment {name}: there is no number from {first} to {last}"))
}

/// The fragment, if every place it speaks about may be spoken about; the far end of a cable is such a place.
fn confined(operation: &'static str, fragment: Fragment, may: impl Fn(&Place) -> bool) -> Result<Fragment, CallError> {
    let ends = fragment.places().flat_map(|(_, objects)| objects.iter()).filter_map(|(_, object)| match object {
        Object::Link(Link { kind: LinkKind::Veth { peer }, .. }) => Some(&peer.place),
        _ => None,
    });
    match fragment.places().map(|(place, _)| place).chain(ends).find(|place| !may(place)) {
        Some(place) => Err(CallError::WrongPlace { operation, place: place.clone() }),
        None => Ok(fragment),
    }
}

/// Whether a place is the node, or one that a plugin asked for on it.
fn on(place: &Place, name: &str) -> bool {
    match place {
        Place::Node(node) | Place::Extra { node, .. } => node == name,
        Place::Router | Place::Pod(_) => false,
    }
}

fn arguments(facts: &Facts, node: &NodeFacts, peer: Option<&NodeFacts>, pod: Option<&PodFacts>) -> Arguments {
    Arguments { facts: facts.clone(), node: node.clone(), peer: peer.cloned(), pod: pod.cloned(), segment: None }
}
