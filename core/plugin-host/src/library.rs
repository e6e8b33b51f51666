//! A library, loaded or linked in, and its instances: the one place that calls through the C table.
#![allow(unsafe_code, reason = "loads a library and calls through its C table")]

use std::error::Error as _;
use std::ffi::c_void;
use std::mem::offset_of;
use std::os::fd::{AsRawFd as _, IntoRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use libloading::os::unix::{Library as Handle, RTLD_LOCAL, RTLD_NOW};
use switchyard_plugin::abi::{self, Bytes, EntryFn, Host, Sink, Table};
use switchyard_plugin::{NetworkPlugin, export};

use crate::plugin::CallError;

/// Largest answer in bytes.
pub(crate) const LARGEST_ANSWER: usize = 16 << 20;
/// A status of our own, beside those of the boundary: the answer was larger than that.
pub(crate) const TOO_LONG: i32 = i32::MIN;
/// So much of a message is kept.
const LONGEST_MESSAGE: usize = 4096;

/// A plugin's table. What stands behind it stays for ever.
pub(crate) struct Library {
    create: abi::CreateFn,
    destroy: abi::DestroyFn,
    call: abi::CallFn,
    /// How many threads are in its code now.
    inside: AtomicUsize,
}

/// A thread is in a library's code as long as it has this.
struct Inside<'a>(&'a AtomicUsize);

/// An instance of a library's plugin.
pub(crate) struct Instance {
    pointer: *mut c_void,
    /// Last, because code must outlive what it made.
    library: Arc<Library>,
}

/// What came back: a status of the boundary, or [`TOO_LONG`], and the answer or a message.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: i32,
    pub(crate) bytes: Vec<u8>,
}

/// Why an inspected file did not load.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The dynamic linker refused it.
    #[error("{}: {why}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// In the linker's words.
        why: String,
    },
    /// It lacks the entry symbol.
    #[error("{}: symbol {} is missing: export_plugin! or switchyard_plugin.h defines it", path.display(), abi::ENTRY)]
    MissingSymbol {
        /// The file.
        path: PathBuf,
    },
    /// Its entry refused, or left its table incomplete.
    #[error("{}: {} gave no usable table: {why}", path.display(), abi::ENTRY)]
    BadTable {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// It refused its options.
    #[error("{}", bad_options(option, problem))]
    BadOptions {
        /// The option; empty if the plugin names none.
        option: String,
        /// What is wrong with it.
        problem: String,
    },
    /// It failed or panicked while making an instance.
    #[error("{}: {source}", path.display())]
    Create {
        /// The file.
        path: PathBuf,
        /// How.
        source: CallError,
    },
}

/// An answer as it comes in.
#[derive(Default)]
struct Answer {
    bytes: Vec<u8>,
    overflow: bool,
}

// SAFETY: the table's functions may be called by any thread; the boundary's rules say so.
unsafe impl Send for Instance {}
// SAFETY: as above, also by several at once.
unsafe impl Sync for Instance {}

// === impl Library ===

impl Library {
    /// Opens the private copy of an inspected file and takes its table; errors speak about `path`.
    pub(crate) fn open(path: &Path, copy: OwnedFd) -> Result<Self, LoadError> {
        let link = format!("/proc/self/fd/{}", copy.as_raw_fd());
        // SAFETY: opening runs the library's constructors; the file was inspected and is one that its user chose to run.
        let handle = unsafe { Handle::open(Some(&link), RTLD_NOW | RTLD_LOCAL) }.map_err(|error| {
            let cause = error.source().map_or_else(|| error.to_string(), ToString::to_string);
            let why = cause.replace(&format!("{link}: "), "");
            LoadError::Open { path: path.to_owned(), why }
        })?;
        // The linker also knows a library by the name it was opened with, so that name must not come to mean another file.
        let _ = copy.into_raw_fd();
        // SAFETY: the symbol's type is what the boundary's major version, which was checked, says.
        let entry = unsafe { handle.get::<EntryFn>(abi::ENTRY.as_bytes()) }.map(|symbol| *symbol);
        // Never unloaded: nothing can promise that no thread still stands in its code.
        std::mem::forget(handle);
        let entry = entry.map_err(|_| LoadError::MissingSymbol { path: path.to_owned() })?;
        // SAFETY: what `filled` passes is valid for the call and says its sizes.
        Self::filled(|host, table| unsafe { entry(host, table) })
            .map_err(|why| LoadError::BadTable { path: path.to_owned(), why })
    }

    /// The table of a plugin that is linked into the program.
    pub(crate) fn linked<P: NetworkPlugin>() -> Self {
        // SAFETY: what `filled` passes is valid for the call and says its sizes.
        Self::filled(|host, table| unsafe { export::entry::<P>(host, table, std::ptr::null()) })
            .expect("host and plugin were built from one source")
    }

    fn filled(entry: impl FnOnce(*const Host, *mut Table) -> i32) -> Result<Self, String> {
        let host = Host { struct_size: size_of::<Host>(), abi_major: abi::ABI_MAJOR, abi_minor: abi::ABI_MINOR };
        let mut table = Table {
            struct_size: size_of::<Table>(),
            create: None,
            destroy: None,
            call: None,
            manifest: std::ptr::null(),
        };
        let status = entry(&raw const host, &raw mut table);
        if status != abi::OK {
            return Err(format!("status {status}"));
        }
        let needed = offset_of!(Table, manifest);
        if table.struct_size < needed {
            return Err(format!("struct_size is {}, at least {needed} is needed", table.struct_size));
        }
        match (table.create, table.destroy, table.call) {
            (Some(create), Some(destroy), Some(call)) => {
                Ok(Self { create, destroy, call, inside: AtomicUsize::new(0) })
            }
            _ => Err("create, destroy and call must all be set".to_owned()),
        }
    }

    /// Makes an instance with these options, a JSON object.
    pub(crate) fn create(self: &Arc<Self>, options: &[u8]) -> Result<Instance, Reply> {
        let mut answer = Answer::default();
        let sink = answer.sink();
        let mut pointer = std::ptr::null_mut();
        let _inside = Inside::of(self);
        // SAFETY: the bytes, the place for the pointer and the sink are valid for the call.
        let status = unsafe { (self.create)(Bytes::of(options), &raw mut pointer, &raw const sink) };
        match status {
            abi::OK => Ok(Instance { pointer, library: Arc::clone(self) }),
            status => Err(answer.reply(status)),
        }
    }

    /// How many threads are in its code now. Those that hang there stay for ever.
    pub(crate) fn inside(&self) -> usize {
        self.inside.load(Ordering::Relaxed)
    }
}

// === impl Inside ===

impl<'a> Inside<'a> {
    fn of(library: &'a Library) -> Self {
        library.inside.fetch_add(1, Ordering::Relaxed);
        Self(&library.inside)
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

// === impl Instance ===

impl Instance {
    /// Performs an operation.
    pub(crate) fn call(&self, operation: &[u8], input: &[u8]) -> Reply {
        let mut answer = Answer::default();
        let sink = answer.sink();
        let _inside = Inside::of(&self.library);
        // SAFETY: `create` made the pointer and `destroy` runs only in `drop`; the bytes and the sink are valid for the call.
        let status =
            unsafe { (self.library.call)(self.pointer, Bytes::of(operation), Bytes::of(input), &raw const sink) };
        answer.reply(status)
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        let _inside = Inside::of(&self.library);
        // SAFETY: `create` made the pointer, and nobody uses it after this.
        unsafe { (self.library.destroy)(self.pointer) };
    }
}

// === impl Reply ===

impl Reply {
    /// The answer, or what went wrong.
    pub(crate) fn answer(self, operation: &'static str) -> Result<Vec<u8>, CallError> {
        let Self { status, bytes } = self;
        let message = || String::from_utf8_lossy(&bytes[..bytes.len().min(LONGEST_MESSAGE)]).into_owned();
        Err(match status {
            abi::OK => return Ok(bytes),
            abi::NOT_IMPLEMENTED => CallError::NotImplemented { operation },
            abi::INVALID => CallError::Refused { operation, message: message() },
            abi::PANICKED => CallError::Panicked { operation, message: message() },
            TOO_LONG => CallError::TooLong { operation, limit: LARGEST_ANSWER },
            status => CallError::Failed { operation, status, message: message() },
        })
    }

    /// What went wrong with `create`.
    pub(crate) fn refusal(self, path: &Path) -> LoadError {
        if self.status != abi::INVALID {
            let source = self.answer("create").expect_err("create failed");
            return LoadError::Create { path: path.to_owned(), source };
        }
        let said: serde_json::Value = serde_json::from_slice(&self.bytes).unwrap_or_default();
        let text = |key: &str| said[key].as_str().map(str::to_owned);
        let raw = || String::from_utf8_lossy(&self.bytes[..self.bytes.len().min(LONGEST_MESSAGE)]).into_owned();
        LoadError::BadOptions {
            option: text("option").unwrap_or_default(),
            problem: text("problem").unwrap_or_else(raw),
        }
    }
}

// === impl Answer ===

impl Answer {
    fn sink(&mut self) -> Sink {
        Sink { struct_size: size_of::<Sink>(), context: (&raw mut *self).cast(), write }
    }

    fn reply(self, status: i32) -> Reply {
        if self.overflow && status == abi::OK {
            return Reply { status: TOO_LONG, bytes: Vec::new() };
        }
        Reply { status, bytes: self.bytes }
    }
}

unsafe extern "C" fn write(context: *mut c_void, bytes: Bytes) {
    // SAFETY: the context is the `Answer` whose sink this is, borrowed for the call, and plugins write from one thread at a time.
    let (answer, bytes) = unsafe { (&mut *context.cast::<Answer>(), bytes.borrow()) };
    if answer.overflow || bytes.len() > LARGEST_ANSWER - answer.bytes.len() {
        answer.overflow = true;
    } else {
        answer.bytes.extend_from_slice(bytes);
    }
}

fn bad_options(option: &str, problem: &str) -> String {
    if option.is_empty() { format!("options: {problem}") } else { format!("option {option}: {problem}") }
}
