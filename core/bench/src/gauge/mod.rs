//! What the kernel counts: processor time, memory, bytes on devices. Texts of `/proc` are read here and nowhere else.

mod cpu;
mod device;
mod memory;

pub use cpu::Cpu;
pub use device::Device;
pub(crate) use memory::{Machine, family_cpu_seconds, family_pss_bytes};
