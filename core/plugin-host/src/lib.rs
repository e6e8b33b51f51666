//! Finds, inspects, loads and runs network plugins.
//!
//! A library is loaded in steps, each with an error of its own: the file is found, is an ELF shared object for this machine, has
//! a manifest section of our major version (read before any of its code runs), opens, has the entry symbol, takes its options.
//! It is never unloaded, since nothing can promise that no thread still stands in its code; a rebuilt plugin is a new file, told
//! from the old one by its content.
//!
//! The same file can also be run in a child process, see [`child`], and so can a program in any language that speaks the same
//! messages. A call that hangs, crashes or lies is an error of that call: each has a deadline, and answers are checked. Who
//! wants to go on with a plugin that failed has it *tended*: another instance takes its place after a pause.

pub mod bare;
mod confine;
mod deadline;
mod file;
mod library;
mod linker;
mod maker;
mod plugin;
mod process;
mod registry;
mod state;
mod tended;

pub use file::{Form, InspectError, Inspected, inspect};
pub use library::LoadError;
pub use plugin::{CallError, Plugin};
pub use process::{ProcessHost, child};
pub use registry::{OpenError, Registry, library_names, program_name};
pub use state::{Listed, State};
pub use switchyard_plugin::Hosting;
