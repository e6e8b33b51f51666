//! The rules for one kind of subject in one direction, in their order, and what they say about a peer and a port.
//!
//! Policies come and go one by one, and say whom that is about: of what is said about all others nothing has to be worked out anew.

mod ports;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use self::ports::{Index, Scope};
pub(crate) use self::ports::{Point, Span, To};
use crate::peers::{Class, Interner, NameId, PeerId, PortName, numbers};
use crate::{Action, Direction, NamedPort, Numbers, Peer, Policy, Tier};

/// Rules in order. Made from policies; holds on to the peers that they name.
#[derive(Debug)]
pub(crate) struct Rules {
    direction: Direction,
    /// What the subjects call their own ports, as far as policies ask.
    own_ports: Vec<NamedPort>,
    /// Rules for anybody.
    any: Index,
    /// Rules for those whom a peer holds.
    by_peer: BTreeMap<PeerId, Index>,
    /// How many there are of these, by what they are for.
    of_peers: Kinds,
    /// Rules for ports by the name that the peer gives them.
    by_name: Vec<Named>,
    /// What policies of each tier and priority say otherwise.
    levels: BTreeMap<(Tier, u32), Level>,
    /// Ranges of ports, cut so that they do not overlap.
    pub(crate) spans: Vec<Span>,
    /// Rules that count.
    counters: BTreeMap<Order, Outcome>,
}

/// About whom something else is said than before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Touched {
    /// Anybody.
    All,
    /// Those whom one of these peers holds.
    Peers(BTreeSet<PeerId>),
}

/// A rule's place among all.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Order {
    tier: Tier,
    priority: u32,
    /// Of a policy; none, and after all of them, for what they say otherwise.
    place: Place,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Policy(Arc<str>, u32),
    Otherwise,
}

#[derive(Debug)]
struct Flat {
    order: Order,
    action: Action,
    counter: Option<Arc<str>>,
}

/// What policies of one tier and priority say otherwise: how many say what, the strictest first.
#[derive(Debug, Default)]
struct Level {
    said: BTreeMap<u8, (Action, usize)>,
}

/// How many rules are for single ports, for ranges, for everything.
#[derive(Clone, Copy, Debug, Default)]
struct Kinds {
    points: usize,
    spans: usize,
    whole: usize,
}

#[derive(Debug)]
struct Named {
    rule: Arc<Flat>,
    /// Any of these; none for anybody.
    peers: Option<BTreeSet<PeerId>>,
    name: NameId,
    protocol: u8,
}

/// What becomes of a connection.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Outcome {
    /// Never pass.
    pub(crate) action: Action,
    pub(crate) counter: Option<Arc<str>>,
}

/// What one class is told apart from everybody else: the ports that have to be asked about.
#[derive(Debug, Default)]
pub(crate) struct Questions {
    pub(crate) points: BTreeSet<Point>,
    pub(crate) spans: bool,
}

// === impl Rules ===

impl Rules {
    /// None yet, for subjects who call their own ports so.
    pub(crate) fn new(direction: Direction, own_ports: Vec<NamedPort>) -> Self {
        Self {
            direction,
            own_ports,
            any: Index::default(),
            by_peer: BTreeMap::new(),
            of_peers: Kinds::default(),
            by_name: Vec::new(),
            levels: BTreeMap::new(),
            spans: Vec::new(),
            counters: BTreeMap::new(),
        }
    }

    /// Those of `policies`.
    pub(crate) fn of<'a>(
        direction: Direction,
        own_ports: Vec<NamedPort>,
        policies: impl IntoIterator<Item = &'a Arc<Policy>>,
        peers: &mut Interner<Peer>,
        names: &mut Interner<PortName>,
    ) -> Self {
        let mut rules = Self::new(direction, own_ports);
        for policy in policies {
            rules.enter(policy, peers, names);
        }
        rules.spans = rules.cut();
        rules
    }

    /// Other policies come instead of some. A policy that changes is among both.
    pub(crate) fn replace(
        &mut self,
        gone: &[Arc<Policy>],
        come: &[Arc<Policy>],
        peers: &mut Interner<Peer>,
        names: &mut Interner<PortName>,
    ) -> Touched {
        let otherwise = self.strictest(gone.iter().chain(come));
        let mut touched = Touched::Peers(BTreeSet::new());
        let mut has_spans = false;
        for policy in gone {
            touched.and(self.about(policy, peers));
            self.leave(policy, peers, names);
        }
        for policy in come {
            self.enter(policy, peers, names);
            touched.and(self.about(policy, peers));
        }
        for policy in gone.iter().chain(come) {
            has_spans |= self.of_direction(policy).any(|(_, rule)| !self.scope(rule).spans.is_empty());
        }
        if has_spans {
            let spans = self.cut();
            if std::mem::replace(&mut self.spans, spans) != self.spans {
                touched = Touched::All;
            }
        }
        if self.strictest(gone.iter().chain(come)) != otherwise {
            touched = Touched::All;
        }
        touched
    }

    /// Lets go of the peers it names. `policies` are those it has.
    pub(crate) fn release(&self, policies: &[Arc<Policy>], peers: &mut Interner<Peer>, names: &mut Interner<PortName>) {
        policies.iter().for_each(|policy| self.let_go(policy, peers, names));
    }

    /// What subjects call their own ports, as far as policies ask.
    pub(crate) fn own_ports(&self) -> &[NamedPort] {
        &self.own_ports
    }

    fn of_direction<'a>(&self, policy: &'a Policy) -> impl Iterator<Item = (u32, &'a crate::Rule)> + use<'a> {
        let direction = self.direction;
        (0..).zip(&policy.rules).filter(move |(_, rule)| rule.direction == direction)
    }

    fn enter(&mut self, policy: &Policy, peers: &mut Interner<Peer>, names: &mut Interner<PortName>) {
        let name: Arc<str> = policy.name.as_str().into();
        for (number, rule) in self.of_direction(policy) {
            let place = Place::Policy(Arc::clone(&name), number);
            let order = Order { tier: policy.tier, priority: policy.priority, place };
            self.add(order, rule, peers, names);
        }
        if let Some(action) = policy.otherwise(self.direction) {
            self.say_otherwise(policy, |level| level.said.entry(strictness(action)).or_insert((action, 0)).1 += 1);
        }
    }

    fn leave(&mut self, policy: &Policy, peers: &mut Interner<Peer>, names: &mut Interner<PortName>) {
        for (_, rule) in self.of_direction(policy) {
            let scope = self.scope(rule);
            if rule.peers.is_empty() {
                self.any.remove(&policy.name, &scope);
            }
            let held: BTreeSet<PeerId> = rule.peers.iter().filter_map(|peer| peers.id(peer)).collect();
            for id in held {
                self.of_peers.count(&scope, -1);
                let Some(index) = self.by_peer.get_mut(&id) else { continue };
                index.remove(&policy.name, &scope);
                if index.is_empty() {
                    self.by_peer.remove(&id);
                }
            }
        }
        self.by_name.retain(|named| !named.rule.is_of(&policy.name));
        if self.of_direction(policy).any(|(_, rule)| rule.counter.is_some()) {
            self.counters.retain(|order, _| !order.is_of(&policy.name));
        }
        if let Some(action) = policy.otherwise(self.direction) {
            self.say_otherwise(policy, |level| {
                if let Some((_, count)) = level.said.get_mut(&strictness(action)) {
                    *count -= 1;
                }
                level.said.retain(|_, (_, count)| *count > 0);
            });
        }
        self.let_go(policy, peers, names);
    }

    /// Changes what policies of one tier and priority say otherwise, of which the strictest word counts: a drop before a refusal before
    /// the rest.
    fn say_otherwise(&mut self, policy: &Policy, change: impl FnOnce(&mut Level)) {
        let (tier, priority) = (policy.tier, policy.priority);
        let level = self.levels.entry((tier, priority)).or_default();
        let was = level.strictest();
        change(level);
        let is = level.strictest();
        if is.is_none() {
            self.levels.remove(&(tier, priority));
        }
        if was == is {
            return;
        }
        let order = Order { tier, priority, place: Place::Otherwise };
        self.any.whole.retain(|flat| flat.order != order);
        self.any.whole.extend(is.map(|action| Arc::new(Flat { order, action, counter: None })));
    }

    fn strictest<'a>(&self, policies: impl Iterator<Item = &'a Arc<Policy>>) -> Vec<Option<Action>> {
        policies.map(|one| self.levels.get(&(one.tier, one.priority)).and_then(Level::strictest)).collect()
    }

    fn let_go(&self, policy: &Policy, peers: &mut Interner<Peer>, names: &mut Interner<PortName>) {
        for (_, rule) in self.of_direction(policy) {
            for peer in &rule.peers {
                let id = peers.id(peer).expect("a peer of a policy in force is known");
                peers.release(id);
            }
            for name in asked(rule) {
                let id = names.id(&name).expect("a name in a policy in force is known");
                names.release(id);
            }
        }
    }

    /// Whom a policy that is in force says something about.
    fn about(&self, policy: &Policy, peers: &Interner<Peer>) -> Touched {
        let mut all = BTreeSet::new();
        for (_, rule) in self.of_direction(policy) {
            if rule.peers.is_empty() {
                return Touched::All;
            }
            all.extend(rule.peers.iter().filter_map(|peer| peers.id(peer)));
        }
        Touched::Peers(all)
    }

    fn add(&mut self, order: Order, rule: &crate::Rule, peers: &mut Interner<Peer>, names: &mut Interner<PortName>) {
        let flat = Arc::new(Flat { order, action: rule.action, counter: rule.counter.as_deref().map(Into::into) });
        if rule.counter.is_some() && rule.action != Action::Pass {
            self.counters.insert(flat.order.clone(), flat.outcome());
        }
        let held: BTreeSet<PeerId> = rule.peers.iter().map(|peer| peers.hold(peer)).collect();
        for name in asked(rule) {
            let peers = (!rule.peers.is_empty()).then(|| held.clone());
            let (protocol, id) = (name.0.number(), names.hold(&name));
            self.by_name.push(Named { rule: Arc::clone(&flat), peers, name: id, protocol });
        }
        let scope = self.scope(rule);
        if rule.peers.is_empty() {
            self.any.add(&flat, &scope);
        }
        for id in held {
            self.of_peers.count(&scope, 1);
            self.by_peer.entry(id).or_default().add(&flat, &scope);
        }
    }

    /// The ports of a rule whose numbers are known.
    fn scope(&self, rule: &crate::Rule) -> Scope {
        let (mut points, mut spans) = (BTreeSet::new(), BTreeSet::new());
        for port in &rule.ports {
            let protocol = port.protocol.number();
            match &port.numbers {
                Numbers::All => drop(spans.insert(Span { protocol, from: 0, to: u16::MAX })),
                Numbers::Range(from, to) if from == to => drop(points.insert(Point { protocol, port: *from })),
                Numbers::Range(from, to) => drop(spans.insert(Span { protocol, from: *from, to: *to })),
                Numbers::Named(name) if rule.direction == Direction::Ingress => {
                    let name = (port.protocol, name.clone());
                    points.extend(numbers(&self.own_ports, &name).map(|port| Point { protocol, port }));
                }
                // The peer says.
                Numbers::Named(_) => {}
            }
        }
        Scope { points, spans, whole: rule.ports.is_empty() }
    }

    /// All ranges, cut where any of them begins or ends.
    fn cut(&self) -> Vec<Span> {
        let all = std::iter::once(&self.any).chain(self.by_peer.values()).flat_map(|index| &index.spans);
        let mut edges: BTreeMap<u8, BTreeMap<u32, i32>> = BTreeMap::new();
        for (span, _) in all {
            let edges = edges.entry(span.protocol).or_default();
            *edges.entry(span.from.into()).or_default() += 1;
            *edges.entry(u32::from(span.to) + 1).or_default() -= 1;
        }
        let mut spans = Vec::new();
        for (protocol, edges) in edges {
            let (mut open, mut begun) = (0, 0);
            for (at, change) in edges {
                if open > 0 {
                    spans.push(Span { protocol, from: begun as u16, to: (at - 1) as u16 });
                }
                (open, begun) = (open + change, at);
            }
        }
        spans
    }

    /// Whether it has rules for somebody in particular.
    pub(crate) fn has_peers(&self) -> bool {
        !self.by_peer.is_empty() || !self.by_name.is_empty()
    }

    /// Whether rules for somebody in particular can decide over single ports, over ranges, over everything.
    pub(crate) fn kinds(&self) -> (bool, bool, bool) {
        let Kinds { points, spans, whole } = self.of_peers;
        let (points, spans, whole) = (points > 0 || !self.by_name.is_empty(), spans > 0, whole > 0);
        let wide = whole || spans;
        (points || wide && !self.any.points.is_empty(), wide && !self.spans.is_empty(), whole)
    }

    /// Whether they say something about this class that they do not say about everybody.
    pub(crate) fn concern(&self, class: &Class) -> bool {
        class.peers.iter().any(|id| self.by_peer.contains_key(id))
            || !class.ports.is_empty() && self.by_name.iter().any(|named| !named.numbers(class).is_empty())
    }

    /// The single ports that rules for anybody name.
    pub(crate) fn points(&self) -> impl Iterator<Item = Point> {
        self.any.points.keys().copied()
    }

    /// What has to be asked about a class that they concern.
    pub(crate) fn questions(&self, class: &Class) -> Questions {
        let mut questions = Questions::default();
        for index in class.peers.iter().filter_map(|id| self.by_peer.get(id)) {
            questions.points.extend(index.points.keys());
            questions.spans |= !index.spans.is_empty() || !index.whole.is_empty();
        }
        for named in &self.by_name {
            let protocol = named.protocol;
            questions.points.extend(named.numbers(class).into_iter().map(|port| Point { protocol, port }));
        }
        if questions.spans {
            questions.points.extend(self.any.points.keys());
        }
        questions
    }

    /// What becomes of a connection with an address of this class; none for one of no class.
    pub(crate) fn decide(&self, class: Option<&Class>, to: To) -> Outcome {
        let mut fitting = Vec::new();
        self.any.fitting(to, &mut fitting);
        if let Some(class) = class {
            for index in class.peers.iter().filter_map(|id| self.by_peer.get(id)) {
                index.fitting(to, &mut fitting);
            }
            if let To::Point(point) = to {
                let named = self
                    .by_name
                    .iter()
                    .filter(|named| named.protocol == point.protocol && named.numbers(class).contains(&point.port));
                fitting.extend(named.map(|named| &named.rule));
            }
        }
        fitting.sort_unstable_by(|a, b| a.order.cmp(&b.order));
        let mut passed = None;
        for rule in fitting {
            if passed == Some(rule.order.tier) {
                continue;
            }
            if rule.action == Action::Pass {
                passed = Some(rule.order.tier);
                continue;
            }
            return rule.outcome();
        }
        Outcome { action: Action::Accept, counter: None }
    }

    /// The range that a port lies in.
    pub(crate) fn span_of(&self, point: Point) -> Option<Span> {
        let at = self.spans.partition_point(|span| (span.protocol, span.to) < (point.protocol, point.port));
        self.spans.get(at).filter(|span| span.protocol == point.protocol && span.from <= point.port).copied()
    }

    /// All counters with the actions they count.
    pub(crate) fn counters(&self) -> impl Iterator<Item = &Outcome> {
        self.counters.values()
    }
}

fn strictness(action: Action) -> u8 {
    match action {
        Action::Drop => 0,
        Action::Reject => 1,
        Action::Accept => 2,
        Action::Pass => 3,
    }
}

/// Names by which the peer that is asked knows the ports of a rule, as often as the rule says them.
fn asked(rule: &crate::Rule) -> impl Iterator<Item = PortName> + '_ {
    rule.ports.iter().filter_map(|port| match &port.numbers {
        Numbers::Named(name) if rule.direction == Direction::Egress => Some((port.protocol, name.clone())),
        _ => None,
    })
}

// === impls of small things ===

impl Touched {
    fn and(&mut self, more: Self) {
        match (&mut *self, more) {
            (Self::Peers(some), Self::Peers(more)) => some.extend(more),
            _ => *self = Self::All,
        }
    }
}

impl Kinds {
    fn count(&mut self, scope: &Scope, one: isize) {
        let count = |counted: &mut usize, is_so: bool| {
            *counted = counted.saturating_add_signed(if is_so { one } else { 0 });
        };
        count(&mut self.points, !scope.points.is_empty());
        count(&mut self.spans, !scope.spans.is_empty());
        count(&mut self.whole, scope.whole);
    }
}

impl Order {
    fn is_of(&self, policy: &str) -> bool {
        matches!(&self.place, Place::Policy(name, _) if **name == *policy)
    }
}

impl Flat {
    fn is_of(&self, policy: &str) -> bool {
        self.order.is_of(policy)
    }

    fn outcome(&self) -> Outcome {
        Outcome { action: self.action, counter: self.counter.clone() }
    }
}

impl Level {
    fn strictest(&self) -> Option<Action> {
        self.said.first_key_value().map(|(_, (action, _))| *action)
    }
}

impl Named {
    /// The numbers that a class gives this name, if the rule is for it.
    fn numbers(&self, class: &Class) -> Vec<u16> {
        if self.peers.as_ref().is_some_and(|peers| !class.peers.iter().any(|id| peers.contains(id))) {
            return Vec::new();
        }
        class.ports.iter().filter(|(name, _)| *name == self.name).map(|(_, port)| *port).collect()
    }
}

#[cfg(test)]
mod tests;
