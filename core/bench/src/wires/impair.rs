//! What may be wrong with a node's card: packets that come in are lost (nf_tables), packets that go out wait (a token bucket).

use serde_json::json;
use switchyard_netstate::{Fragment, Place};

use crate::experiment::Impairments;

/// Random numbers are drawn below this.
const MILLION: u32 = 1_000_000;
/// How long a full queue takes to send: 50 ms of it, tc-tbf(8).
const QUEUE_SHARE: u64 = 20;
/// Bytes that may go at once, at least: some packets as veth hands them on, unsegmented.
const BURST: u64 = 128 << 10;

pub(super) fn fragment(place: &Place, device: &str, impairments: &Impairments) -> anyhow::Result<Fragment> {
    let mut objects = Vec::new();
    if impairments.loss > 0.0 {
        let table = json!({"family": "netdev", "name": "yard-bench"});
        let below = (impairments.loss * f64::from(MILLION)) as u32;
        let lost = json!([
            {"match": {"left": {"numgen_random": {"modulus": MILLION}}, "op": "lt", "right": {"value": {"number": below}}}},
            {"verdict": "drop"},
        ]);
        let base = json!({"type": "filter", "hook": "ingress", "priority": 0, "dev": device});
        objects.push(json!({"kind": "table", "table": table}));
        objects.push(json!({"kind": "chain", "table": table, "name": "loss", "base": base, "rules": [lost]}));
    }
    if let Some(megabits) = impairments.rate_megabits {
        let rate = u64::from(megabits) * 125_000;
        let limit = (rate / QUEUE_SHARE).clamp(2 * BURST, u32::MAX.into());
        let bucket = json!({"tbf": {"rate": rate, "burst": BURST, "limit": limit}});
        objects.push(json!({"kind": "qdisc", "dev": device, "type": bucket}));
    }
    let mut fragment = Fragment::new();
    let objects: Vec<switchyard_netstate::Object> = serde_json::from_value(objects.into())?;
    fragment.want_all(place, objects);
    Ok(fragment)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn impairments_are_objects_of_the_vocabulary() {
        let place = Place::node("n1");
        let of = |impairments| fragment(&place, "eth0", &impairments).unwrap();
        assert!(of(Impairments::default()).is_empty());
        let both = of(Impairments { loss: 0.01, rate_megabits: Some(100) });
        assert_eq!(both.get(&place).unwrap().len(), 3);
    }
}
