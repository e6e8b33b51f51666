//! The boundary between a plugin, in whatever language and by whatever compiler, and its host. Its rules:
//!
//! - One entry symbol per major version, [`ENTRY`]. Within a major a field is never changed or removed; new ones are appended.
//! - Every table begins with `struct_size`; a reader takes the smaller of both sizes, and what is missing is not implemented.
//! - Calls are synchronous: an operation's name and JSON in, JSON out through a sink that the host owns. Whatever is passed
//!   in is borrowed for the call. No memory changes its owner, so there is no second allocator and nothing to free.
//! - No panic and no exception crosses it.
//! - The manifest lies in the ELF section [`SECTION`], a [`Header`] and JSON, and is read before the library is opened.

use std::ffi::c_void;

/// Major version; a host loads libraries of its own major only.
pub const ABI_MAJOR: u32 = 1;
/// Minor version; a diagnostic, not a gate.
pub const ABI_MINOR: u32 = 0;
/// The entry symbol: an [`EntryFn`].
pub const ENTRY: &str = "switchyard_plugin_v1";
/// The ELF section that holds the manifest.
pub const SECTION: &str = ".switchyard";
/// The first bytes of that section.
pub const MAGIC: [u8; 8] = *b"SWYARDPL";

/// Done; the answer is in the sink.
pub const OK: i32 = 0;
/// The plugin does not have this operation.
pub const NOT_IMPLEMENTED: i32 = 1;
/// The input or an option is wrong; the sink has a message, for `create` as JSON `{"option": .., "problem": ..}`.
pub const INVALID: i32 = 2;
/// The plugin panicked; the instance must not be used again. The sink has a message.
pub const PANICKED: i32 = 3;
/// The plugin failed otherwise; the sink has a message.
pub const FAILED: i32 = 4;

/// What stands before the manifest's JSON.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Header {
    /// [`MAGIC`].
    pub magic: [u8; 8],
    /// Bytes from the start of this header to the JSON.
    pub header_size: u32,
    /// [`ABI_MAJOR`] of the plugin.
    pub abi_major: u32,
    /// [`ABI_MINOR`] of the plugin.
    pub abi_minor: u32,
    /// Bytes of JSON.
    pub manifest_len: u32,
}

/// Bytes that somebody else owns.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Bytes {
    /// The first byte; may be anything if `len` is 0.
    pub data: *const u8,
    /// How many.
    pub len: usize,
}

/// Where a plugin writes an answer, in one or several pieces.
#[repr(C)]
pub struct Sink {
    /// `sizeof(struct switchyard_sink)` of the host.
    pub struct_size: usize,
    /// To be handed back to `write`.
    pub context: *mut c_void,
    /// Takes a copy of the bytes. After too many the rest is dropped and the call fails.
    pub write: unsafe extern "C" fn(context: *mut c_void, bytes: Bytes),
}

/// What the host offers.
#[repr(C)]
pub struct Host {
    /// `sizeof(struct switchyard_host)` of the host.
    pub struct_size: usize,
    /// [`ABI_MAJOR`] of the host.
    pub abi_major: u32,
    /// [`ABI_MINOR`] of the host.
    pub abi_minor: u32,
}

/// The type of [`Table::create`].
pub type CreateFn = unsafe extern "C" fn(options: Bytes, instance: *mut *mut c_void, out: *const Sink) -> i32;
/// The type of [`Table::destroy`].
pub type DestroyFn = unsafe extern "C" fn(instance: *mut c_void);
/// The type of [`Table::call`].
pub type CallFn = unsafe extern "C" fn(instance: *mut c_void, operation: Bytes, input: Bytes, out: *const Sink) -> i32;
/// The type of [`ENTRY`]: fills in the plugin's table, whose `struct_size` says how much room there is.
pub type EntryFn = unsafe extern "C" fn(host: *const Host, plugin: *mut Table) -> i32;

/// What the plugin offers. All three functions must be there.
// Spelled out, because the generator of the C header does not look through `Option<CreateFn>`.
#[allow(clippy::type_complexity, reason = "see above")]
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Table {
    /// Set by the host to the room there is, by the plugin to what it has filled in.
    pub struct_size: usize,
    /// Makes an instance with these options, a JSON object, and puts it into `instance`; null is as good as any.
    pub create: Option<unsafe extern "C" fn(options: Bytes, instance: *mut *mut c_void, out: *const Sink) -> i32>,
    /// Ends an instance. No call is under way then, and none comes after it.
    pub destroy: Option<unsafe extern "C" fn(instance: *mut c_void)>,
    /// Performs an operation. May be called by several threads at once, also for one instance.
    pub call:
        Option<unsafe extern "C" fn(instance: *mut c_void, operation: Bytes, input: Bytes, out: *const Sink) -> i32>,
    /// The record in the manifest's section; keeps the linker from dropping it. May be null.
    pub manifest: *const Header,
}

/// The operations of [`Table::call`]: each takes a JSON object of its arguments and answers with JSON.
pub mod operation {
    /// `{facts, node, pod}` -> [`Pool`](crate::Pool)
    pub const POOL: &str = "pool";
    /// `{facts, node}` -> fragment
    pub const NODE: &str = "node";
    /// `{facts, node, peer}` -> fragment
    pub const PEER: &str = "peer";
    /// `{facts, node, pod}` -> fragment
    pub const POD: &str = "pod";
    /// `{facts, node, peer, pod}` -> fragment
    pub const REMOTE: &str = "remote";
    /// `{facts, node, segment}` -> fragment
    pub const SEGMENT: &str = "segment";
    /// `{facts, node}` -> fragment
    pub const UNDERLAY: &str = "underlay";
}

/// The arguments of an operation, as they travel.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct Arguments {
    /// Constants of the cluster.
    pub facts: crate::Facts,
    /// The node that is asked about.
    pub node: crate::NodeFacts,
    /// Another node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<crate::NodeFacts>,
    /// A pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<crate::PodFacts>,
    /// A segment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub segment: Option<crate::SegmentFacts>,
}
