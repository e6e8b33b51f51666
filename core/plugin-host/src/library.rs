//! A loaded library and its instances.
#![allow(unsafe_code, reason = "loads a library and calls through its C table")]

use std::ffi::c_void;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use libloading::os::unix::{Library as Handle, RTLD_LOCAL, RTLD_NOW};
use switchyard_plugin::Options;
use switchyard_plugin::abi::{self, Bytes, EntryFn, Host, Sink, Table};

use crate::plugin::CallError;

/// Largest answer in bytes.
const LARGEST_ANSWER: usize = 16 << 20;

/// A library that is open for ever, and its table.
pub(crate) struct Library {
    path: PathBuf,
    create: abi::CreateFn,
    destroy: abi::DestroyFn,
    call: abi::CallFn,
}

/// An instance of a library's plugin.
pub(crate) struct Instance {
    pointer: *mut c_void,
    library: Arc<Library>,
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
    #[error("{}: making an instance: {source}", path.display())]
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
    /// Opens an inspected file and takes its table.
    pub(crate) fn open(path: &Path) -> Result<Self, LoadError> {
        let bad_table = |why: String| LoadError::BadTable { path: path.to_owned(), why };
        // SAFETY: opening runs the library's constructors; the file was inspected and is one that its user chose to run.
        let handle = unsafe { Handle::open(Some(path), RTLD_NOW | RTLD_LOCAL) }
            .map_err(|error| LoadError::Open { path: path.to_owned(), why: error.to_string() })?;
        // SAFETY: the symbol's type is what the boundary's major version, which was checked, says.
        let entry = unsafe { handle.get::<EntryFn>(abi::ENTRY.as_bytes()) }
            .map(|symbol| *symbol)
            .map_err(|_| LoadError::MissingSymbol { path: path.to_owned() });
        // Never unloaded: nothing can promise that no thread still stands in its code.
        std::mem::forget(handle);
        let host = Host { struct_size: size_of::<Host>(), abi_major: abi::ABI_MAJOR, abi_minor: abi::ABI_MINOR };
        let mut table = Table {
            struct_size: size_of::<Table>(),
            create: None,
            destroy: None,
            call: None,
            manifest: std::ptr::null(),
        };
        // SAFETY: both structures are valid for the call and say their sizes.
        let status = unsafe { entry?(&raw const host, &raw mut table) };
        if status != abi::OK {
            return Err(bad_table(format!("status {status}")));
        }
        let needed = std::mem::offset_of!(Table, manifest);
        if table.struct_size < needed {
            return Err(bad_table(format!("it has {} bytes, at least {needed} are needed", table.struct_size)));
        }
        match (table.create, table.destroy, table.call) {
            (Some(create), Some(destroy), Some(call)) => Ok(Self { path: path.to_owned(), create, destroy, call }),
            _ => Err(bad_table("create, destroy and call must all be set".to_owned())),
        }
    }

    /// Makes an instance with these options.
    pub(crate) fn create(self: &Arc<Self>, options: &Options) -> Result<Instance, LoadError> {
        let options = serde_json::to_vec(options).expect("a JSON map serialises");
        let mut answer = Answer::default();
        let sink = answer.sink();
        let mut pointer = std::ptr::null_mut();
        // SAFETY: the bytes, the place for the pointer and the sink are valid for the call.
        let status = unsafe { (self.create)(Bytes::of(&options), &raw mut pointer, &raw const sink) };
        match status {
            abi::OK => Ok(Instance { pointer, library: Arc::clone(self) }),
            abi::INVALID => {
                let said: serde_json::Value = serde_json::from_slice(&answer.bytes).unwrap_or_default();
                let text = |key: &str| said[key].as_str().map(str::to_owned);
                let problem = text("problem").unwrap_or_else(|| answer.text());
                Err(LoadError::BadOptions { option: text("option").unwrap_or_default(), problem })
            }
            status => Err(LoadError::Create { path: self.path.clone(), source: answer.error(status, "create") }),
        }
    }
}

// === impl Instance ===

impl Instance {
    /// Performs an operation.
    pub(crate) fn call(&self, operation: &'static str, input: &[u8]) -> Result<Vec<u8>, CallError> {
        let mut answer = Answer::default();
        let sink = answer.sink();
        // SAFETY: `create` made the pointer and `destroy` runs only in `drop`; the bytes and the sink are valid for the call.
        let status = unsafe {
            (self.library.call)(self.pointer, Bytes::of(operation.as_bytes()), Bytes::of(input), &raw const sink)
        };
        match status {
            abi::OK if answer.overflow => Err(CallError::TooLong { operation, limit: LARGEST_ANSWER }),
            abi::OK => Ok(answer.bytes),
            status => Err(answer.error(status, operation)),
        }
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        // SAFETY: `create` made the pointer, and nobody uses it after this.
        unsafe { (self.library.destroy)(self.pointer) };
    }
}

// === impl Answer ===

impl Answer {
    fn sink(&mut self) -> Sink {
        Sink { struct_size: size_of::<Sink>(), context: (&raw mut *self).cast(), write }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes[..self.bytes.len().min(4096)]).into_owned()
    }

    fn error(&self, status: i32, operation: &'static str) -> CallError {
        let message = self.text();
        match status {
            abi::NOT_IMPLEMENTED => CallError::NotImplemented { operation },
            abi::PANICKED => CallError::Panicked { operation, message },
            abi::INVALID => CallError::Refused { operation, message },
            _ => CallError::Failed { operation, status, message },
        }
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
