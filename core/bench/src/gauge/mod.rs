//! What the kernel counts: processor time, memory, bytes on devices. Texts of `/proc` are read here and nowhere else.

mod charges;
mod clock;
mod cpu;
mod device;
mod memory;
mod socket;

pub use charges::{Charges, Part};
pub(crate) use charges::{Reading, Roll};
pub(crate) use clock::now;
pub use cpu::Cpu;
pub use device::Device;
pub(crate) use memory::{Machine, family_pss_bytes};
pub(crate) use socket::overflowed;
