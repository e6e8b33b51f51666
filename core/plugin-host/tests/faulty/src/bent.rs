//! What can only be broken below the trait: `create` and `call` are wrapped, and a few faults act there.

use std::collections::HashMap;
use std::ffi::c_void;
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use switchyard_plugin::abi::{self, Bytes, Sink};

/// The functions of the trait's plugin.
static STRAIGHT: OnceLock<(abi::CreateFn, abi::DestroyFn, abi::CallFn)> = OnceLock::new();

/// The fault of each instance that has one of ours.
static FAULTS: Mutex<Option<HashMap<usize, String>>> = Mutex::new(None);

const OPERATIONS: [&str; 6] = ["pool", "node", "peer", "pod", "remote", "underlay"];

/// Puts the wrappers into the table.
pub(crate) fn bend(table: &mut abi::Table) {
    let (Some(create), Some(destroy), Some(call)) = (table.create, table.destroy, table.call) else { return };
    STRAIGHT.get_or_init(|| (create, destroy, call));
    table.create = Some(self::create);
    table.destroy = Some(self::destroy);
    table.call = Some(self::call);
}

pub(crate) fn leak_a_descriptor() {
    if let Ok(copy) = std::io::stderr().as_fd().try_clone_to_owned() {
        std::mem::forget(copy);
    }
}

/// How many threads are in here just now, as far as one can see.
pub(crate) fn how_many_at_once() -> u32 {
    static INSIDE: AtomicU32 = AtomicU32::new(0);
    INSIDE.fetch_add(1, Ordering::SeqCst);
    // Long enough to be met by others.
    for _ in 0..50 {
        std::thread::yield_now();
    }
    let most = INSIDE.load(Ordering::SeqCst);
    INSIDE.fetch_sub(1, Ordering::SeqCst);
    most
}

fn faults() -> std::sync::MutexGuard<'static, Option<HashMap<usize, String>>> {
    FAULTS.lock().unwrap_or_else(PoisonError::into_inner)
}

unsafe extern "C" fn create(options: Bytes, instance: *mut *mut c_void, out: *const Sink) -> i32 {
    let (straight, ..) = STRAIGHT.get().expect("set before the host had the table");
    // SAFETY: as the host has promised it to us.
    let (status, given) = unsafe { (straight(options, instance, out), options.borrow()) };
    let fault = serde_json::from_slice::<serde_json::Value>(given)
        .ok()
        .and_then(|given| Some(given["fault"].as_str()?.to_owned()));
    if let (abi::OK, Some(fault)) = (status, fault) {
        // SAFETY: the straight function has just written it.
        faults().get_or_insert_default().insert(unsafe { *instance } as usize, fault);
    }
    status
}

unsafe extern "C" fn destroy(instance: *mut c_void) {
    if let Some(known) = faults().as_mut() {
        known.remove(&(instance as usize));
    }
    let (_, straight, _) = STRAIGHT.get().expect("set before the host had the table");
    // SAFETY: as the host has promised it to us.
    unsafe { straight(instance) }
}

unsafe extern "C" fn call(instance: *mut c_void, operation: Bytes, input: Bytes, out: *const Sink) -> i32 {
    let (.., straight) = STRAIGHT.get().expect("set before the host had the table");
    let fault = faults().as_ref().and_then(|known| known.get(&(instance as usize)).cloned());
    // SAFETY: as the host has promised it to us.
    let (name, given, sink) = unsafe { (operation.borrow(), input.borrow(), &*out) };
    let is_nonsense = || serde_json::from_slice::<abi::Arguments>(given).is_err();
    match fault.as_deref() {
        Some("answers-unknown") if !OPERATIONS.iter().any(|known| known.as_bytes() == name) => {
            say(sink, abi::OK, b"{}")
        }
        Some("strict-arguments") if given.windows(5).any(|part| part == b"later") => say(sink, abi::INVALID, b"later?"),
        Some("believes-anything") if is_nonsense() => say(sink, abi::OK, b"{}"),
        Some("panics-on-nonsense") if is_nonsense() => std::process::abort(),
        // SAFETY: as the host has promised it to us.
        _ => unsafe { straight(instance, operation, input, out) },
    }
}

fn say(sink: &Sink, status: i32, text: &[u8]) -> i32 {
    // SAFETY: the host's function with the host's context.
    unsafe { (sink.write)(sink.context, Bytes::of(text)) };
    status
}
