//! Root queueing disciplines: RTM_NEWQDISC, RTM_DELQDISC, marked by their handle (`59` and the owner's number, in hexadecimal).

use switchyard_netstate::{Object, Qdisc, QdiscKind};

use super::{Found, Names};
use crate::netlink::{Attributes, Message, u32_of};
use crate::sys;

/// Nanoseconds of the kernel's packet scheduler tick (PSCHED_SHIFT).
const TICK_NS: u64 = 64;

/// Sets the root discipline.
pub(crate) fn add(qdisc: &Qdisc, index: u32, owner: u8, replace: bool) -> Message {
    let flags = sys::NLM_F_CREATE | if replace { sys::NLM_F_REPLACE } else { sys::NLM_F_EXCL };
    let mut message = Message::new(sys::RTM_NEWQDISC, flags, &header(index, owner));
    match qdisc.kind {
        QdiscKind::Tbf { rate, burst, limit } => {
            message.text(sys::TCA_KIND, "tbf").nest(sys::TCA_OPTIONS, |options| {
                let mut parameters = [0; 36]; // struct tc_tbf_qopt: two rates of 12 bytes, limit, buffer, mtu
                parameters[1] = sys::TC_LINKLAYER_ETHERNET;
                parameters[8..12].copy_from_slice(&u32::try_from(rate).unwrap_or(u32::MAX).to_ne_bytes());
                parameters[24..28].copy_from_slice(&limit.to_ne_bytes());
                let ticks = u64::from(burst) * 1_000_000_000 / rate.max(1) / TICK_NS;
                parameters[28..32].copy_from_slice(&u32::try_from(ticks).unwrap_or(u32::MAX).to_ne_bytes());
                options.attr(sys::TCA_TBF_PARMS, &parameters).u32(sys::TCA_TBF_BURST, burst);
                if rate > u64::from(u32::MAX) {
                    options.attr(sys::TCA_TBF_RATE64, &rate.to_ne_bytes());
                }
            });
        }
    }
    message
}

/// Takes the root discipline away, if it carries our mark.
pub(crate) fn remove(index: u32, owner: u8) -> Message {
    Message::new(sys::RTM_DELQDISC, 0, &header(index, owner))
}

/// Asks for all.
pub(crate) fn list() -> Message {
    Message::new(sys::RTM_GETQDISC, 0, &[0; 20])
}

/// Reads one; `None` if no fragment could want it.
pub(crate) fn parse(payload: &[u8], names: &Names, owner: u8) -> Option<Found> {
    let index = u32_of(payload.get(4..8)?)?;
    let handle = u32_of(payload.get(8..12)?)?;
    let parent = u32_of(payload.get(12..16)?)?;
    let attributes = Attributes::after(payload, 20);
    if parent != sys::TC_H_ROOT || attributes.text(sys::TCA_KIND)? != "tbf" {
        return None;
    }
    let options = attributes.nest(sys::TCA_OPTIONS);
    let parameters = options.get(sys::TCA_TBF_PARMS)?;
    let rate = match options.get(sys::TCA_TBF_RATE64) {
        Some(rate) => u64::from_ne_bytes(rate.try_into().ok()?),
        None => u32_of(parameters.get(8..12)?)?.into(),
    };
    let ticks = u64::from(u32_of(parameters.get(28..32)?)?);
    let kind = QdiscKind::Tbf {
        rate,
        burst: u32::try_from(u128::from(ticks) * u128::from(TICK_NS) * u128::from(rate) / 1_000_000_000).ok()?,
        limit: u32_of(parameters.get(24..28)?)?,
    };
    let qdisc = Qdisc { dev: names.get(&index)?.clone(), kind };
    Some(Found { object: Object::Qdisc(qdisc), owned: handle == mark(owner) })
}

/// Whether a discipline read back is as wanted; the kernel keeps the bucket as a time, so its size comes back rounded.
pub(crate) fn will_do(found: &Qdisc, wanted: &Qdisc) -> bool {
    let QdiscKind::Tbf { rate, burst, limit } = wanted.kind;
    let QdiscKind::Tbf { rate: found_rate, burst: found_burst, limit: found_limit } = found.kind;
    let rounding = 2 + rate * TICK_NS / 1_000_000_000 + u64::from(burst) / 100;
    rate == found_rate && limit == found_limit && u64::from(burst.abs_diff(found_burst)) <= rounding
}

fn mark(owner: u8) -> u32 {
    (0x5900 | u32::from(owner)) << 16
}

/// `struct tcmsg`.
fn header(index: u32, owner: u8) -> [u8; 20] {
    let mut header = [0; 20];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&mark(owner).to_ne_bytes());
    header[12..16].copy_from_slice(&sys::TC_H_ROOT.to_ne_bytes());
    header
}
