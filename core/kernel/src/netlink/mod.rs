//! The wire: messages and their attributes, and a socket that sends batches and reads what comes back.
//!
//! One writer serves both families, rtnetlink and nf_tables. The typed crates cover only the first, change with nearly every
//! release, and lack what ownership rests on (IFA_PROTO, attributes of a veth's other end, tbf); nf_tables needs a writer in any case.

mod message;
mod socket;

pub(crate) use message::{Attributes, Message, align, be_u16, be_u32, be_u64, text, u16_of, u32_of};
pub(crate) use socket::{Connection, Family, PORT_MASK, Refusal, acknowledgement, port_base, split};
