//! The author's side of the boundary: what `export_plugin!` expands to.
#![allow(unsafe_code, reason = "the C boundary; every function is called by a host that keeps the rules in `abi`")]

use std::any::Any;
use std::ffi::c_void;
use std::mem::offset_of;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Serialize;

use crate::abi::{self, Arguments, Bytes, Sink, operation};
use crate::{NetworkPlugin, Options};

/// The record in the manifest's section: header and JSON in one piece.
#[repr(C)]
pub struct Record<const N: usize> {
    /// Says what follows.
    pub header: abi::Header,
    /// The manifest's JSON.
    pub json: [u8; N],
}

/// An instance behind the opaque pointer.
struct Instance<P> {
    plugin: P,
    poisoned: AtomicBool,
}

/// What a call came to.
enum Outcome {
    Answer(Vec<u8>),
    NotImplemented,
    Invalid(String),
}

// === impl Record ===

impl<const N: usize> Record<N> {
    /// A record for this manifest, at compile time.
    ///
    /// # Panics
    /// At compile time, if `N` is not the length of `json`.
    pub const fn new(json: &str) -> Self {
        assert!(json.len() == N, "N must be the manifest's length");
        let source = json.as_bytes();
        let mut copy = [0; N];
        let mut i = 0;
        while i < N {
            copy[i] = source[i];
            i += 1;
        }
        let header = abi::Header {
            magic: abi::MAGIC,
            header_size: size_of::<abi::Header>() as u32,
            abi_major: abi::ABI_MAJOR,
            abi_minor: abi::ABI_MINOR,
            manifest_len: N as u32,
        };
        Self { header, json: copy }
    }
}

/// Exports a [`NetworkPlugin`](crate::NetworkPlugin) from a `cdylib`.
///
/// The second argument is the manifest's JSON, usually `include_str!("../manifest.json")`; it is placed in an ELF section of its
/// own, where the host reads it before it opens the library. In the crate's tests, one more checks that it is well-formed.
///
/// There is one entry symbol for all plugins: a program that also links plugins as `rlib`s can link one of them.
#[macro_export]
macro_rules! export_plugin {
    ($plugin:ty, $manifest:expr) => {
        const _: () = {
            #[used]
            #[allow(unsafe_code, reason = "a section's name")]
            #[unsafe(link_section = ".switchyard")]
            static RECORD: $crate::export::Record<{ $manifest.len() }> = $crate::export::Record::new($manifest);

            /// Fills in the table of this plugin.
            #[allow(unsafe_code, reason = "the entry symbol of the C boundary")]
            #[unsafe(no_mangle)]
            unsafe extern "C" fn switchyard_plugin_v1(
                host: *const $crate::abi::Host,
                table: *mut $crate::abi::Table,
            ) -> i32 {
                // SAFETY: the host calls this with pointers that are valid for the call.
                unsafe { $crate::export::entry::<$plugin>(host, table, &raw const RECORD.header) }
            }
        };

        #[cfg(test)]
        #[test]
        fn manifest_is_well_formed() {
            if let Err(problem) = $crate::Manifest::check($manifest) {
                panic!("manifest: {problem}");
            }
        }
    };
}

/// Fills in a table for `P`.
///
/// # Safety
/// `table` must point to a table whose `struct_size` says how many bytes of it may be written.
pub unsafe fn entry<P: NetworkPlugin>(
    _host: *const abi::Host,
    table: *mut abi::Table,
    manifest: *const abi::Header,
) -> i32 {
    // SAFETY: promised by the caller; `struct_size` is the first field of every version.
    let room = unsafe { (&raw const (*table).struct_size).read() };
    if room < offset_of!(abi::Table, manifest) {
        return abi::INVALID;
    }
    // An older host has a shorter table, a newer one a longer; both sides go by the shorter of the two.
    let size = room.min(size_of::<abi::Table>());
    let filled = abi::Table {
        struct_size: size,
        create: Some(create::<P>),
        destroy: Some(destroy::<P>),
        call: Some(call::<P>),
        manifest,
    };
    // SAFETY: there is room for `size` bytes, and `filled` has at least as many.
    unsafe { (&raw const filled).cast::<u8>().copy_to_nonoverlapping(table.cast(), size) };
    abi::OK
}

unsafe extern "C" fn create<P: NetworkPlugin>(options: Bytes, instance: *mut *mut c_void, out: *const Sink) -> i32 {
    // SAFETY: the host passes bytes and a sink that are valid for the call.
    let (options, out) = unsafe { (options.borrow(), &*out) };
    let made = catch_unwind(|| {
        let options: Options = serde_json::from_slice(options).map_err(|error| problem("", &error.to_string()))?;
        P::new(&options).map_err(|error| problem(&error.option, &error.problem))
    });
    match made {
        Ok(Ok(plugin)) => {
            let boxed = Box::new(Instance { plugin, poisoned: AtomicBool::new(false) });
            // SAFETY: the host passes a place for one pointer.
            unsafe { instance.write(Box::into_raw(boxed).cast()) };
            abi::OK
        }
        Ok(Err(problem)) => out.finish(abi::INVALID, problem.as_bytes()),
        Err(panic) => out.finish(abi::PANICKED, message(panic).as_bytes()),
    }
}

unsafe extern "C" fn destroy<P: NetworkPlugin>(instance: *mut c_void) {
    // SAFETY: the host hands back, once, a pointer that `create` made.
    let boxed = unsafe { Box::from_raw(instance.cast::<Instance<P>>()) };
    // A panic in a destructor ends here; there is nobody left to tell.
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| drop(boxed))) {
        message(panic);
    }
}

unsafe extern "C" fn call<P: NetworkPlugin>(
    instance: *mut c_void,
    operation: Bytes,
    input: Bytes,
    out: *const Sink,
) -> i32 {
    // SAFETY: the host passes a pointer that `create` made and has not been destroyed, and bytes and a sink valid for the call.
    let (instance, operation, input, out) =
        unsafe { (&*instance.cast::<Instance<P>>(), operation.borrow(), input.borrow(), &*out) };
    if instance.poisoned.load(Ordering::Acquire) {
        return out.finish(abi::PANICKED, b"an earlier call panicked");
    }
    match catch_unwind(AssertUnwindSafe(|| perform(&instance.plugin, operation, input))) {
        Ok(Outcome::Answer(answer)) => out.finish(abi::OK, &answer),
        Ok(Outcome::NotImplemented) => abi::NOT_IMPLEMENTED,
        Ok(Outcome::Invalid(why)) => out.finish(abi::INVALID, why.as_bytes()),
        Err(panic) => {
            instance.poisoned.store(true, Ordering::Release);
            out.finish(abi::PANICKED, message(panic).as_bytes())
        }
    }
}

fn perform<P: NetworkPlugin>(plugin: &P, name: &[u8], input: &[u8]) -> Outcome {
    let known = [
        operation::POOL,
        operation::NODE,
        operation::PEER,
        operation::POD,
        operation::REMOTE,
        operation::SEGMENT,
        operation::UNDERLAY,
    ];
    let Some(name) = known.into_iter().find(|known| known.as_bytes() == name) else { return Outcome::NotImplemented };
    let arguments: Arguments = match serde_json::from_slice(input) {
        Ok(arguments) => arguments,
        Err(error) => return Outcome::Invalid(error.to_string()),
    };
    let Arguments { facts, node, peer, pod, segment } = &arguments;
    let answer = match (name, peer, pod, segment) {
        (operation::POOL, _, Some(pod), _) => json(&plugin.pool(facts, node, pod)),
        (operation::NODE, ..) => json(&plugin.node(facts, node)),
        (operation::PEER, Some(peer), ..) => json(&plugin.peer(facts, node, peer)),
        (operation::POD, _, Some(pod), _) => json(&plugin.pod(facts, node, pod)),
        (operation::REMOTE, Some(peer), Some(pod), _) => json(&plugin.remote(facts, node, peer, pod)),
        (operation::SEGMENT, .., Some(segment)) => json(&plugin.segment(facts, node, segment)),
        (operation::UNDERLAY, ..) => json(&plugin.underlay(facts, node)),
        _ => return Outcome::Invalid(format!("operation {name} needs further arguments")),
    };
    Outcome::Answer(answer)
}

fn json(answer: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(answer).expect("fragments and pools have string keys only")
}

fn problem(option: &str, problem: &str) -> String {
    serde_json::json!({ "option": option, "problem": problem }).to_string()
}

fn message(panic: Box<dyn Any + Send>) -> String {
    let text = panic.downcast_ref::<&str>().copied().map(str::to_owned);
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    // A payload of another type could panic once more when it is dropped.
    std::mem::forget(panic);
    text.unwrap_or_else(|| "no message".to_owned())
}

// === impl Bytes, Sink ===

impl Bytes {
    /// The bytes of `slice`, borrowed.
    pub fn of(slice: &[u8]) -> Self {
        Self { data: slice.as_ptr(), len: slice.len() }
    }

    /// The bytes as a slice.
    ///
    /// # Safety
    /// `data` must point to `len` readable bytes that outlive the slice, unless `len` is 0.
    pub unsafe fn borrow<'a>(self) -> &'a [u8] {
        if self.len == 0 {
            return &[];
        }
        // SAFETY: promised by the caller.
        unsafe { std::slice::from_raw_parts(self.data, self.len) }
    }
}

impl Sink {
    /// Writes the answer or the message, and gives back the status.
    fn finish(&self, status: i32, bytes: &[u8]) -> i32 {
        // SAFETY: the host's function with the host's context, as the table asks.
        unsafe { (self.write)(self.context, Bytes::of(bytes)) };
        status
    }
}
