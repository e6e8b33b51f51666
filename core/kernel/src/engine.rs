//! Keeps what units want in force.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Weak;

use switchyard_netstate::{Change, Fragment, IfName, Key, Ledger, LinkKind, Object, Op, Phase, Place, Plan, UnitId};
use tracing::{debug, warn};

use crate::apply::{Memory, Run, View};
use crate::detour::Detours;
use crate::monitor::{News, Watch};
use crate::read::{Class, Truth, Verdict};
use crate::{Audit, Error, Netns, Places, audit, validate};

/// Whose objects these are: the number by which the kernel's objects are marked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Protocol of routes, rules, addresses and neighbours; group of links.
    pub protocol: u8,
}

/// The wanted state of all units, and the hand that makes it real.
pub struct Engine {
    pub(crate) owner: Owner,
    pub(crate) places: Places,
    pub(crate) ledger: Ledger,
    pub(crate) memory: Memory,
    pub(crate) pending: Option<Pending>,
    /// MTUs of links that are there are left as they are.
    pub(crate) leaves_mtus: bool,
    /// The keeper, if there is one, hears of places that come and go.
    pub(crate) watch: Option<Weak<Watch>>,
}

/// A plan that is carried out phase by phase.
pub(crate) struct Pending {
    changes: BTreeMap<UnitId, Option<Fragment>>,
    plan: Plan,
    /// What is in force of it, in order.
    done: Vec<Op>,
    next: Phase,
    pub(crate) overlay: Overlay,
}

/// Keys whose wish differs from the ledger's.
pub(crate) type Overlay = BTreeMap<(Place, Key), Option<Object>>;

// === impl Engine ===

impl Engine {
    /// An engine that wants nothing yet.
    pub fn new(owner: Owner, places: Places) -> Self {
        let (ledger, memory) = (Ledger::default(), Memory::default());
        Self { owner, places, ledger, memory, pending: None, leaves_mtus: false, watch: None }
    }

    /// From now on the MTU of a link is wanted only when the link is made; then it belongs to whoever changes it.
    pub fn leave_mtus(&mut self) {
        self.leaves_mtus = true;
    }

    /// Says which namespace a place is.
    pub fn add_place(&mut self, place: Place, netns: Netns) {
        self.places.add(place.clone(), netns);
        let netns = self.places.get(&place).cloned();
        self.tell(netns.map(|netns| News::Added(place, netns)));
    }

    /// Forgets a place. What is still wanted there stays in the ledger until its unit goes.
    pub fn remove_place(&mut self, place: &Place) {
        self.places.remove(place);
        self.tell(Some(News::Removed(place.clone())));
        self.memory.forget(place);
    }

    /// The places it acts in.
    pub fn places(&self) -> &Places {
        &self.places
    }

    /// What is wanted.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Whose objects it makes.
    pub fn owner(&self) -> Owner {
        self.owner
    }

    /// Makes one unit want this, and the kernel follow.
    pub fn set(&mut self, unit: UnitId, fragment: Fragment) -> Result<(), Error> {
        self.apply(BTreeMap::from([(unit, Some(fragment))])).map(drop)
    }

    /// Makes one unit want nothing any more. A unit unknown is a success.
    pub fn remove(&mut self, unit: UnitId) -> Result<(), Error> {
        self.apply(BTreeMap::from([(unit, None)])).map(drop)
    }

    /// What would have to change, without changing it. Everything that can be known beforehand is checked.
    pub fn plan(&self, changes: &BTreeMap<UnitId, Option<Fragment>>) -> Result<Plan, Error> {
        let plan = self.ledger.plan(changes)?;
        let overlay = overlay(&plan);
        let none = Overlay::new();
        let view = View { ledger: &self.ledger, overlay: &overlay, sets: &none };
        validate::plan(plan.ops(), &self.places, &view)?;
        let set =
            |op: &Op, key: &Key| view.object(&op.place, key).or_else(|| self.ledger.wants(&op.place, key).cloned());
        Ok(follow_ports(follow_addresses(make_room(plan.clone(), set))))
    }

    /// Looks whether somebody else's interface has the name of one that a plan would make: the kernel alone knows those.
    pub fn clear_way(&mut self, plan: &Plan) -> Result<(), Error> {
        let made = |op: &&Op| matches!(&op.change, Change::Add(Object::Link(link)) if link.kind != LinkKind::Existing);
        let mut truths: BTreeMap<&Place, Truth> = BTreeMap::new();
        for op in plan.ops().iter().filter(made) {
            let truth = match truths.entry(&op.place) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(new) => new.insert(Truth::read(&mut self.places, &op.place, self.owner.protocol, &[])?),
            };
            let wanted = op.object();
            if let Verdict::Wrong { owned: false, .. } = truth.judge(wanted, self.owner.protocol, &|_, _| None) {
                return Err(Error::Foreign { place: op.place.clone(), key: Box::new(wanted.key()) });
            }
        }
        self.places.trim();
        Ok(())
    }

    /// Units all of whose routes are in the kernel as wanted, and ours: what an earlier life of this process has brought in.
    pub fn routes_there(&mut self, units: &BTreeMap<UnitId, Option<Fragment>>) -> Result<BTreeSet<UnitId>, Error> {
        let mut truths: BTreeMap<Place, Truth> = BTreeMap::new();
        let mut there = BTreeSet::new();
        for (unit, fragment) in units.iter().filter_map(|(unit, wish)| Some((unit, wish.as_ref()?))) {
            let routes = fragment.places().flat_map(|(place, objects)| {
                let routes =
                    objects.iter().map(|(_, object)| object).filter(|object| matches!(object, Object::Route(_)));
                routes.map(move |route| (place, route))
            });
            let mut all = true;
            for (place, route) in routes {
                if !truths.contains_key(place) {
                    let truth = Truth::read(&mut self.places, place, self.owner.protocol, &[Class::Route])?;
                    truths.insert(place.clone(), truth);
                }
                let verdict = truths[place].judge(route, self.owner.protocol, &|_, _| None);
                all &= matches!(verdict, Verdict::Right { owned: true });
            }
            if all {
                there.insert(unit.clone());
            }
        }
        self.places.trim();
        Ok(there)
    }

    /// Makes units want these fragments (`None`: nothing any more), all or none of it. Gives the plan that was carried out.
    pub fn apply(&mut self, changes: BTreeMap<UnitId, Option<Fragment>>) -> Result<Plan, Error> {
        if self.pending.is_some() {
            return Err(Error::Pending);
        }
        let plan = self.plan(&changes)?;
        let overlay = overlay(&plan);
        let (_, disturbed) = self.carry_out(plan.ops(), &overlay)?;
        self.ledger.commit(changes);
        self.settle(disturbed);
        self.places.trim();
        Ok(plan)
    }

    /// Makes units want these fragments without touching the kernel: after a restart, when most of it is there already. Call
    /// [`Engine::reconcile`] once all units are known.
    pub fn adopt(&mut self, changes: BTreeMap<UnitId, Option<Fragment>>) -> Result<(), Error> {
        if self.pending.is_some() {
            return Err(Error::Pending);
        }
        self.plan(&changes)?;
        self.ledger.commit(changes);
        Ok(())
    }

    /// First phase of a change that is made in step with others: what only receives. The change is then pending.
    pub fn prepare(&mut self, changes: BTreeMap<UnitId, Option<Fragment>>) -> Result<Plan, Error> {
        if self.pending.is_some() {
            return Err(Error::Pending);
        }
        let plan = self.plan(&changes)?;
        let overlay = overlay(&plan);
        self.pending = Some(Pending { changes, plan: plan.clone(), done: Vec::new(), next: Phase::Prepare, overlay });
        self.phase(Phase::Prepare).inspect_err(|_| self.pending = None)?;
        Ok(plan)
    }

    /// Takes a change over that another process began and that has come this far, or is to: what is wanted until it goes on is the
    /// ledger with these phases carried out. Touches nothing; [`Engine::reconcile`] makes it so.
    pub fn resume(&mut self, changes: BTreeMap<UnitId, Option<Fragment>>, through: Phase) -> Result<Plan, Error> {
        if self.pending.is_some() {
            return Err(Error::Pending);
        }
        let plan = self.plan(&changes)?;
        let overlay = overlay(&plan);
        let done = plan.ops().iter().filter(|op| op.phase <= through).cloned().collect();
        let next = after(through);
        self.pending = Some(Pending { changes, plan: plan.clone(), done, next, overlay });
        Ok(plan)
    }

    /// The phase that a pending change is to go through next.
    pub fn pending(&self) -> Option<Phase> {
        self.pending.as_ref().map(|pending| pending.next)
    }

    /// Second phase: packets go the new way.
    pub fn switch(&mut self) -> Result<(), Error> {
        self.phase(Phase::Switch)
    }

    /// Third phase: nothing is sent the old way any more. To be over everywhere before anybody cleans.
    pub fn withdraw(&mut self) -> Result<(), Error> {
        self.phase(Phase::Withdraw)
    }

    /// Last phase: what is wanted no longer goes, and the change is final. Withdraws first if nobody has.
    pub fn clean(&mut self) -> Result<(), Error> {
        if self.pending.as_ref().is_some_and(|pending| pending.next == Phase::Withdraw) {
            self.withdraw()?;
        }
        self.phase(Phase::Clean)?;
        let pending = self.pending.take().expect("the phase was just carried out");
        self.ledger.commit(pending.changes);
        self.places.trim();
        Ok(())
    }

    /// Ends a pending change although the kernel does not let everything go: it is final, and what is left of the old wishes is
    /// compared with the kernel and repaired like any other difference, now and whenever that is done again.
    pub fn finish(&mut self) -> Result<Audit, Error> {
        let pending = self.pending.take().ok_or(Error::NothingPending)?;
        self.ledger.commit(pending.changes);
        self.reconcile()
    }

    /// Gives a pending change up and puts back what it has changed so far.
    pub fn abort(&mut self) -> Result<(), Error> {
        let pending = self.pending.take().ok_or(Error::NothingPending)?;
        self.put_back(&pending.done, &pending.overlay, false);
        Ok(())
    }

    /// Compares everything with the kernel, in all places, repairs, and removes what is ours and wanted by nobody.
    pub fn reconcile(&mut self) -> Result<Audit, Error> {
        let places: BTreeSet<Place> = self.places.iter().map(|(place, _)| place.clone()).collect();
        self.repair(&places)
    }

    /// The same in some places.
    pub fn repair(&mut self, places: &BTreeSet<Place>) -> Result<Audit, Error> {
        let outcome = audit::repair(self, places);
        self.places.trim();
        outcome
    }

    /// What would have to change to make places as wanted, without changing it: the CHECK of a network plugin.
    pub fn audit(&mut self, places: &BTreeSet<Place>) -> Result<Audit, Error> {
        let outcome = audit::look(self, places);
        self.places.trim();
        outcome
    }

    fn tell(&self, news: Option<News>) {
        if let (Some(watch), Some(news)) = (self.watch.as_ref().and_then(Weak::upgrade), news) {
            watch.tell(news);
        }
    }

    fn phase(&mut self, phase: Phase) -> Result<(), Error> {
        let pending = self.pending.as_ref().ok_or(Error::NothingPending)?;
        if pending.next != phase {
            return Err(Error::Pending);
        }
        let ops: Vec<Op> = pending.plan.phase(phase).cloned().collect();
        let overlay = pending.overlay.clone();
        let (_, disturbed) = self.carry_out(&ops, &overlay)?;
        let pending = self.pending.as_mut().expect("checked above");
        // What an earlier life of this process had done already is wanted, and to be taken back, no less.
        pending.done.extend(ops);
        pending.next = after(phase);
        self.settle(disturbed);
        Ok(())
    }

    /// Carries out operations; on failure puts back what it changed.
    fn carry_out(&mut self, ops: &[Op], overlay: &Overlay) -> Result<(Vec<Op>, BTreeSet<Place>), Error> {
        let none = Overlay::new();
        let now = self.wanted_overlay();
        let detours = Detours::of(ops, &self.ledger, [&now, overlay], &mut self.places, self.owner.protocol);
        detours.open(&mut self.places);
        let view = View { ledger: &self.ledger, overlay, sets: &none };
        let mut run = Run::new(self.owner.protocol, &mut self.places, view, &mut self.memory);
        run.detoured = detours.ports();
        let first = |op: &&Op| op.is_link() || op.frees_port();
        let links = if detours.is_empty() { 0 } else { ops.iter().take_while(first).count() };
        let outcome = run.run(&ops[..links]).and_then(|()| {
            detours.arrived(&self.ledger, overlay, run.places);
            run.run(&ops[links..])
        });
        let (done, disturbed) = (run.done, run.disturbed);
        let then = if outcome.is_ok() { overlay } else { &now };
        detours.close(&self.ledger, then, &mut self.places);
        match outcome {
            Ok(()) => {
                debug!(operations = done.len(), "applied");
                Ok((done, disturbed))
            }
            Err(error) => {
                debug!(%error, operations = done.len(), "putting back");
                self.put_back(&done, overlay, !disturbed.is_empty());
                Err(error)
            }
        }
    }

    /// Takes operations back, the last first, and makes sure of it; also by a look at the kernel, where what they did is in doubt.
    fn put_back(&mut self, done: &[Op], overlay: &Overlay, in_doubt: bool) {
        let back: Vec<Op> = done.iter().rev().map(Op::inverse).collect();
        let touched: BTreeSet<Place> = back.iter().map(|op| op.place.clone()).collect();
        // Between phases of a pending change its own overlay is what was wanted before.
        let base = self.pending.as_ref().map(pending_overlay).unwrap_or_default();
        let detours = Detours::of(&back, &self.ledger, [overlay, &base], &mut self.places, self.owner.protocol);
        detours.open(&mut self.places);
        let view = View { ledger: &self.ledger, overlay: &base, sets: overlay };
        let mut run = Run::new(self.owner.protocol, &mut self.places, view, &mut self.memory);
        run.detoured = detours.ports();
        let outcome = run.run(&back);
        let disturbed = in_doubt || !run.disturbed.is_empty();
        detours.arrived(&self.ledger, &base, &mut self.places);
        detours.close(&self.ledger, &base, &mut self.places);
        if let Err(error) = &outcome {
            warn!(%error, "putting back failed; comparing with the kernel");
        }
        if outcome.is_err() || disturbed {
            let touched = touched.into_iter().filter(|place| self.places.contains(place)).collect();
            if let Err(error) = audit::repair(self, &touched) {
                warn!(%error, "what was there before could not be put back");
            }
        }
        self.places.trim();
    }

    /// After changes with side effects in the kernel, looks once whether something else went with them.
    fn settle(&mut self, disturbed: BTreeSet<Place>) {
        let disturbed: BTreeSet<Place> = disturbed.into_iter().filter(|place| self.places.contains(place)).collect();
        if !disturbed.is_empty()
            && let Err(error) = audit::repair(self, &disturbed)
        {
            warn!(%error, "comparing with the kernel after a change");
        }
    }

    /// What is wanted under a key now, phases of a pending change included.
    pub(crate) fn wants(&self, place: &Place, key: &Key) -> Option<Object> {
        let pending = self.wanted_overlay();
        let none = Overlay::new();
        View { ledger: &self.ledger, overlay: &pending, sets: &none }.object(place, key)
    }

    /// What is wanted now, phases of a pending change included.
    pub(crate) fn wanted_overlay(&self) -> Overlay {
        self.pending.as_ref().map(pending_overlay).unwrap_or_default()
    }
}

fn after(phase: Phase) -> Phase {
    match phase {
        Phase::Prepare => Phase::Switch,
        Phase::Switch => Phase::Withdraw,
        Phase::Withdraw | Phase::Clean => Phase::Clean,
    }
}

/// Has elements of interval sets go together with the coming of others.
pub(crate) fn make_room(plan: Plan, set: impl Fn(&Op, &Key) -> Option<Object>) -> Plan {
    plan.hasten(|op| match op.object() {
        Object::Element(element) => {
            let key = Key::Set(element.table.clone(), element.set.clone());
            matches!(set(op, &key), Some(Object::Set(set)) if set.interval)
        }
        _ => false,
    })
}

/// Has the address that leads to a prefix go from an interface when packets are sent to another one that has it as well: the
/// route that comes with it would hold them back.
fn follow_addresses(plan: Plan) -> Plan {
    let added = |op: &Op| match &op.change {
        Change::Add(Object::Address(address)) => Some((op.place.clone(), address.address)),
        _ => None,
    };
    let added: BTreeSet<_> = plan.ops().iter().filter_map(added).collect();
    if added.is_empty() {
        return plan;
    }
    plan.hasten(|op| match op.object() {
        Object::Address(address) => !address.noprefixroute && added.contains(&(op.place.clone(), address.address)),
        _ => false,
    })
}

/// Has a bridge's entries for a port come and go with the port: it holds none for an interface that is not yet, or no longer, its own.
fn follow_ports(plan: Plan) -> Plan {
    let (mut come, mut leave) = (BTreeSet::new(), BTreeSet::new());
    for op in plan.ops() {
        let Change::Replace(Object::Link(from), Object::Link(to)) = &op.change else { continue };
        match (&from.master, &to.master) {
            (None, Some(_)) => drop(come.insert((op.place.clone(), to.name.clone()))),
            (Some(_), None) => drop(leave.insert((op.place.clone(), to.name.clone()))),
            _ => {}
        }
    }
    if come.is_empty() && leave.is_empty() {
        return plan;
    }
    let of = |op: &Op, ports: &BTreeSet<(Place, IfName)>| match op.object() {
        Object::Fdb(entry) => entry.remote.is_none() && ports.contains(&(op.place.clone(), entry.dev.clone())),
        _ => false,
    };
    plan.postpone(|op| of(op, &come)).hasten(|op| of(op, &leave))
}

/// What the phases carried out so far have made of the ledger.
fn pending_overlay(pending: &Pending) -> Overlay {
    overlay_of(&pending.done)
}

fn overlay(plan: &Plan) -> Overlay {
    overlay_of(plan.ops())
}

fn overlay_of(ops: &[Op]) -> Overlay {
    let mut overlay = Overlay::new();
    for op in ops {
        let wanted = match &op.change {
            Change::Add(object) | Change::Replace(_, object) => Some(object.clone()),
            Change::Remove(_) => None,
        };
        overlay.insert((op.place.clone(), op.object().key()), wanted);
    }
    overlay
}
