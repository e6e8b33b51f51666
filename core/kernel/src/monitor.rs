//! placeholder
#![allow(missing_docs)]
pub struct Keeper;
pub struct Repair;
