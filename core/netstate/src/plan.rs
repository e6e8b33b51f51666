//! The difference between two wanted states, ordered so that it can be applied under traffic.
//!
//! Phases are derived from what an operation does, never declared by a plugin:
//!
//! 1. *prepare* adds what only receives: devices, addresses, neighbours, FDB entries, parameters, and lowers MTUs;
//! 2. *switch* changes where packets go: routes, rules, nftables, attributes replaced in place;
//! 3. *withdraw* removes what sends: routes and rules that nothing replaces;
//! 4. *clean* removes the rest, and raises MTUs.
//!
//! Receivers come before senders and go after them. A swap of networks runs each phase on all nodes before the next, so both
//! networks carry packets while hosts differ; without *withdraw*, a node would send into a tunnel whose other end has gone.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::{Fragment, Key, Link, LinkKind, Object, Objects, Place};

/// When an operation runs; see the module's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "described in the module's text")]
pub enum Phase {
    Prepare,
    Switch,
    Withdraw,
    Clean,
}

/// One change to one object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    /// Make it.
    Add(Object),
    /// Turn the first into the second; both have the same key.
    Replace(Object, Object),
    /// Take it away. Success if it is gone already.
    Remove(Object),
}

/// A change, where and when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Op {
    /// When.
    pub phase: Phase,
    /// Where.
    pub place: Place,
    /// What.
    pub change: Change,
}

/// Operations in the order in which they are to be applied.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Plan {
    ops: Vec<Op>,
}

// === impl Plan ===

impl Plan {
    /// What turns `old` into `new`.
    pub fn between(old: &Fragment, new: &Fragment) -> Self {
        let nothing = Objects::default();
        let mut ops = Vec::new();
        let mut places: BTreeMap<&Place, ()> = old.places().map(|(place, _)| (place, ())).collect();
        places.extend(new.places().map(|(place, _)| (place, ())));
        for place in places.into_keys() {
            let (before, after) = (old.get(place).unwrap_or(&nothing), new.get(place).unwrap_or(&nothing));
            Self::compare(place, before, after, &mut ops);
        }
        Self::ordered(ops)
    }

    /// What turns `old` into `new` in one place; the audit's question.
    pub fn between_objects(place: &Place, old: &Objects, new: &Objects) -> Self {
        let mut ops = Vec::new();
        Self::compare(place, old, new, &mut ops);
        Self::ordered(ops)
    }

    /// Puts changes in order.
    pub fn of(changes: impl IntoIterator<Item = (Place, Change)>) -> Self {
        let mut ops = Vec::new();
        for (place, change) in changes {
            push(&mut ops, &place, change);
        }
        Self::ordered(ops)
    }

    /// Several plans as one.
    pub fn merged(plans: impl IntoIterator<Item = Self>) -> Self {
        Self::ordered(plans.into_iter().flat_map(|plan| plan.ops).collect())
    }

    /// Moves removals that `must` picks out into the switch, beside the additions that need their room: an interval set cannot
    /// hold an element that overlaps another, so the old one has to go in the transaction that brings the new one.
    #[must_use]
    pub fn hasten(mut self, must: impl Fn(&Op) -> bool) -> Self {
        for op in &mut self.ops {
            if op.phase == Phase::Clean && matches!(op.change, Change::Remove(_)) && must(op) {
                op.phase = Phase::Switch;
            }
        }
        Self::ordered(self.ops)
    }

    /// Moves additions that `must` picks out from the preparation into the switch: what hangs on a link that only the switch makes fit for
    /// it, such as an entry of a bridge for an interface that is not yet its port.
    #[must_use]
    pub fn postpone(mut self, must: impl Fn(&Op) -> bool) -> Self {
        for op in &mut self.ops {
            if op.phase == Phase::Prepare && matches!(op.change, Change::Add(_)) && must(op) {
                op.phase = Phase::Switch;
            }
        }
        Self::ordered(self.ops)
    }

    /// The operations, in order.
    pub fn ops(&self) -> &[Op] {
        &self.ops
    }

    /// The operations of one phase, in order.
    pub fn phase(&self, phase: Phase) -> impl Iterator<Item = &Op> {
        self.ops.iter().filter(move |op| op.phase == phase)
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    fn compare(place: &Place, old: &Objects, new: &Objects, ops: &mut Vec<Op>) {
        for (key, before) in old.iter() {
            match new.get(key) {
                None => push(ops, place, Change::Remove(before.clone())),
                Some(after) if after != before => {
                    push(ops, place, Change::Replace(before.clone(), after.clone()));
                }
                Some(_) => {}
            }
        }
        for (key, after) in new.iter() {
            if old.get(key).is_none() {
                push(ops, place, Change::Add(after.clone()));
            }
        }
    }

    fn ordered(mut ops: Vec<Op>) -> Self {
        ops.sort_by(|a, b| a.order().cmp(&b.order()));
        Self { ops }
    }
}

/// Adds the operations of one change: usually one, two where an MTU has to move in a phase of its own.
fn push(ops: &mut Vec<Op>, place: &Place, change: Change) {
    let mut add = |phase, change| ops.push(Op { phase, place: place.clone(), change });
    match change {
        Change::Add(object) => add(added_in(&object), Change::Add(object)),
        Change::Remove(object) => add(removed_in(&object), Change::Remove(object)),
        Change::Replace(Object::Link(from), Object::Link(to)) => match mtu_moves(&from, &to) {
            Some((phase, between)) => {
                let between = Object::Link(between);
                let (from, to) = (Object::Link(from), Object::Link(to));
                // A smaller MTU goes first, a larger one last; whatever else changes does so in the switch.
                let (first, second) =
                    if phase == Phase::Prepare { (phase, Phase::Switch) } else { (Phase::Switch, phase) };
                if from != between {
                    add(first, Change::Replace(from, between.clone()));
                }
                if between != to {
                    add(second, Change::Replace(between, to));
                }
            }
            None => add(Phase::Switch, Change::Replace(Object::Link(from), Object::Link(to))),
        },
        Change::Replace(from, to) => add(Phase::Switch, Change::Replace(from, to)),
    }
}

/// The state between `from` and `to` when the MTU must change apart from the rest, and the phase of the MTU's own change.
fn mtu_moves(from: &Link, to: &Link) -> Option<(Phase, Link)> {
    let (old, new) = (from.mtu?, to.mtu?);
    if old == new || from.needs_recreation(to) {
        None
    } else if new < old {
        Some((Phase::Prepare, Link { mtu: to.mtu, ..from.clone() }))
    } else {
        Some((Phase::Clean, Link { mtu: from.mtu, ..to.clone() }))
    }
}

fn added_in(object: &Object) -> Phase {
    match object {
        Object::Link(_)
        | Object::Address(_)
        | Object::Neighbour(_)
        | Object::Fdb(_)
        | Object::Sysctl(_)
        | Object::Qdisc(_) => Phase::Prepare,
        Object::Route(_)
        | Object::Rule(_)
        | Object::Table(_)
        | Object::Set(_)
        | Object::Chain(_)
        | Object::Element(_) => Phase::Switch,
    }
}

fn removed_in(object: &Object) -> Phase {
    match object {
        Object::Route(_) | Object::Rule(_) => Phase::Withdraw,
        _ => Phase::Clean,
    }
}

// === impl Op ===

impl Op {
    /// Phase first. Links before everything else in all places, since a veth pair joins two; then place by place, so that each
    /// place is one batch; in a place, what is needed before what needs it. Removal runs the other way round. In the switch, a
    /// bridge's entries for a port go before the port leaves it and takes them along.
    fn order(&self) -> (Phase, u8, &Place, i8, Key) {
        let (object, sign) = match &self.change {
            Change::Add(object) | Change::Replace(_, object) => (object, 1),
            // A removal in the switch is part of a replacement.
            Change::Remove(object) => (object, if self.phase >= Phase::Withdraw { -1 } else { 1 }),
        };
        let is_link = matches!(object, Object::Link(_));
        let links_first = if sign > 0 { !is_link } else { is_link };
        let turn = if self.frees_port() { 0 } else { 1 + u8::from(links_first) };
        (self.phase, turn, &self.place, sign * rank(object), object.key())
    }

    /// The object this is about, as it will be, or as it was if it goes.
    pub fn object(&self) -> &Object {
        match &self.change {
            Change::Add(object) | Change::Replace(_, object) | Change::Remove(object) => object,
        }
    }

    /// Whether this removes, in the switch, an entry that a bridge has for one of its ports.
    pub fn frees_port(&self) -> bool {
        self.phase == Phase::Switch
            && matches!(&self.change, Change::Remove(Object::Fdb(entry)) if entry.remote.is_none())
    }

    /// Whether this is about a link, which in a phase comes before everything else, or after it if it is removed.
    pub fn is_link(&self) -> bool {
        matches!(self.object(), Object::Link(_))
    }

    /// The change that takes this one back.
    pub fn inverse(&self) -> Self {
        let change = match self.change.clone() {
            Change::Add(object) => Change::Remove(object),
            Change::Remove(object) => Change::Add(object),
            Change::Replace(from, to) => Change::Replace(to, from),
        };
        Self { phase: self.phase, place: self.place.clone(), change }
    }
}

/// Needed earlier = lower.
fn rank(object: &Object) -> i8 {
    match object {
        Object::Link(link) => match link.kind {
            LinkKind::Bridge { .. } | LinkKind::Existing => 1,
            LinkKind::Tun | LinkKind::Vxlan { .. } | LinkKind::Geneve { .. } | LinkKind::Macvlan { .. } => 2,
            LinkKind::Veth { .. } => 3,
        },
        Object::Sysctl(_) => 4,
        Object::Address(_) => 5,
        Object::Neighbour(_) => 6,
        Object::Fdb(_) => 7,
        Object::Qdisc(_) => 8,
        Object::Route(route) if route.via.gateway.is_none() => 9,
        Object::Route(_) => 10,
        Object::Rule(_) => 11,
        Object::Table(_) => 12,
        Object::Set(_) => 13,
        Object::Chain(_) => 14,
        Object::Element(_) => 15,
    }
}

impl std::fmt::Display for Op {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let sign = match self.change {
            Change::Add(_) => '+',
            Change::Replace(..) => '~',
            Change::Remove(_) => '-',
        };
        write!(f, "{sign} {}: {}", self.place, self.object().key())
    }
}

#[cfg(test)]
mod tests;
