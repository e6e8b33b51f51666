//! The kernel's expressions, each as its bytes. Registers are numbered from 0, four bytes each.

use super::set;
use crate::netlink::Message;
use crate::sys;

/// The kernel's number of a 32-bit register.
pub(super) fn register(at: usize) -> u32 {
    sys::NFT_REG32_00 + at as u32
}

pub(super) fn slots(bytes: usize) -> usize {
    bytes.div_ceil(4)
}

pub(super) fn expression(list: &mut Message, name: &str, fill: impl FnOnce(&mut Message)) {
    list.nest(sys::NFTA_LIST_ELEM, |expression| {
        expression.text(sys::NFTA_EXPR_NAME, name).nest(sys::NFTA_EXPR_DATA, fill);
    });
}

pub(super) fn payload(list: &mut Message, base: u32, offset: u32, length: u32, at: usize) {
    expression(list, "payload", |data| {
        data.be32(sys::NFTA_PAYLOAD_DREG, register(at))
            .be32(sys::NFTA_PAYLOAD_BASE, base)
            .be32(sys::NFTA_PAYLOAD_OFFSET, offset)
            .be32(sys::NFTA_PAYLOAD_LEN, length);
    });
}

pub(super) fn meta(list: &mut Message, key: u32, at: usize) {
    expression(list, "meta", |data| {
        data.be32(sys::NFTA_META_DREG, register(at)).be32(sys::NFTA_META_KEY, key);
    });
}

pub(super) fn set_meta(list: &mut Message, key: u32, at: usize) {
    expression(list, "meta", |data| {
        data.be32(sys::NFTA_META_SREG, register(at)).be32(sys::NFTA_META_KEY, key);
    });
}

pub(super) fn ct(list: &mut Message, key: u32, direction: Option<u8>, at: usize) {
    expression(list, "ct", |data| {
        data.be32(sys::NFTA_CT_DREG, register(at)).be32(sys::NFTA_CT_KEY, key);
        if let Some(direction) = direction {
            data.u8(sys::NFTA_CT_DIRECTION, direction);
        }
    });
}

pub(super) fn fib(list: &mut Message, result: u32, flags: u32, at: usize) {
    expression(list, "fib", |data| {
        data.be32(sys::NFTA_FIB_DREG, register(at)).be32(sys::NFTA_FIB_RESULT, result).be32(sys::NFTA_FIB_FLAGS, flags);
    });
}

pub(super) fn numgen(list: &mut Message, kind: u32, modulus: u32, at: usize) -> Result<(), String> {
    if modulus == 0 {
        return Err("a modulus of 0".into());
    }
    expression(list, "numgen", |data| {
        data.be32(sys::NFTA_NG_DREG, register(at))
            .be32(sys::NFTA_NG_MODULUS, modulus)
            .be32(sys::NFTA_NG_TYPE, kind)
            .be32(sys::NFTA_NG_OFFSET, 0);
    });
    Ok(())
}

pub(super) fn masked(list: &mut Message, at: usize, mask: u32) {
    if mask != u32::MAX {
        bitwise(list, at, &mask.to_ne_bytes(), &[0; 4]);
    }
}

pub(super) fn bitwise(list: &mut Message, at: usize, mask: &[u8], xor: &[u8]) {
    expression(list, "bitwise", |data| {
        data.be32(sys::NFTA_BITWISE_SREG, register(at))
            .be32(sys::NFTA_BITWISE_DREG, register(at))
            .be32(sys::NFTA_BITWISE_LEN, mask.len() as u32);
        set::value(data, sys::NFTA_BITWISE_MASK, mask);
        set::value(data, sys::NFTA_BITWISE_XOR, xor);
    });
}

pub(super) fn compare(list: &mut Message, op: u32, bytes: &[u8]) {
    expression(list, "cmp", |data| {
        data.be32(sys::NFTA_CMP_SREG, register(0)).be32(sys::NFTA_CMP_OP, op);
        set::value(data, sys::NFTA_CMP_DATA, bytes);
    });
}

pub(super) fn immediate(list: &mut Message, at: usize, bytes: &[u8]) {
    expression(list, "immediate", |data| {
        data.be32(sys::NFTA_IMMEDIATE_DREG, register(at));
        set::value(data, sys::NFTA_IMMEDIATE_DATA, bytes);
    });
}

pub(super) fn lookup(list: &mut Message, at: usize, set: &str, id: Option<u32>, into: Option<u32>, invert: bool) {
    expression(list, "lookup", |data| {
        data.text(sys::NFTA_LOOKUP_SET, set).be32(sys::NFTA_LOOKUP_SREG, register(at));
        if let Some(id) = id {
            data.be32(sys::NFTA_LOOKUP_SET_ID, id);
        }
        if let Some(into) = into {
            data.be32(sys::NFTA_LOOKUP_DREG, into);
        }
        if invert {
            data.be32(sys::NFTA_LOOKUP_FLAGS, sys::NFT_LOOKUP_F_INV);
        }
    });
}
