//! The rules for one kind of subject in one direction, in their order, and what they say about a peer and a port.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::peers::{Class, Interner, NameId, PeerId, PortName, numbers};
use crate::{Action, Direction, NamedPort, Numbers, Peer, Policy, Tier};

/// Rules in order. Made from policies; holds on to the peers that they name.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    list: Vec<Flat>,
    /// Rules for anybody.
    any: Index,
    /// Rules for those whom a peer holds.
    by_peer: BTreeMap<PeerId, Index>,
    /// Rules for ports by the name that the peer gives them.
    by_name: Vec<Named>,
    /// Ranges of ports, cut so that they do not overlap.
    pub(crate) spans: Vec<Span>,
    /// Peers and names it holds, each as often as it does.
    held: (Vec<PeerId>, Vec<NameId>),
}

#[derive(Debug)]
struct Flat {
    tier: Tier,
    action: Action,
    counter: Option<Arc<str>>,
}

/// Rules by the ports that they are for, by their place in the list.
#[derive(Debug, Default)]
struct Index {
    points: BTreeMap<Point, Vec<u32>>,
    spans: Vec<(Span, u32)>,
    whole: Vec<u32>,
}

#[derive(Debug)]
struct Named {
    rule: u32,
    /// Any of these; none for anybody.
    peers: Option<BTreeSet<PeerId>>,
    name: NameId,
    protocol: u8,
}

/// One port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Point {
    pub(crate) protocol: u8,
    pub(crate) port: u16,
}

/// Several ports in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Span {
    pub(crate) protocol: u8,
    pub(crate) from: u16,
    pub(crate) to: u16,
}

/// Where a connection leads.
#[derive(Clone, Copy, Debug)]
pub(crate) enum To {
    Point(Point),
    /// A range none of whose ports is a point of its own.
    Span(Span),
    /// Something without a port that any rule names.
    Else,
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
    /// Those of `policies`, which are in order, for subjects who call their own ports so.
    pub(crate) fn new(
        direction: Direction,
        policies: &[Arc<Policy>],
        own_ports: &[NamedPort],
        peers: &mut Interner<Peer>,
        names: &mut Interner<PortName>,
    ) -> Self {
        let mut rules = Self::default();
        let mut level = 0;
        while let Some(first) = policies.get(level) {
            let same = |policy: &Arc<Policy>| (policy.tier, policy.priority) == (first.tier, first.priority);
            let end = policies[level..].iter().position(|policy| !same(policy)).map_or(policies.len(), |n| level + n);
            for policy in &policies[level..end] {
                for rule in policy.rules.iter().filter(|rule| rule.direction == direction) {
                    rules.add(policy.tier, rule, own_ports, peers, names);
                }
            }
            // The strictest word counts: a drop before a refusal before the rest.
            let otherwise = policies[level..end].iter().filter_map(|policy| policy.otherwise(direction));
            if let Some(action) = otherwise.min_by_key(|action| strictness(*action)) {
                let at = rules.flat(first.tier, action, None);
                rules.any.whole.push(at);
            }
            level = end;
        }
        rules.spans = rules.cut();
        rules
    }

    /// Lets go of the peers it names.
    pub(crate) fn release(&self, peers: &mut Interner<Peer>, names: &mut Interner<PortName>) {
        self.held.0.iter().for_each(|id| peers.release(*id));
        self.held.1.iter().for_each(|id| names.release(*id));
    }

    fn flat(&mut self, tier: Tier, action: Action, counter: Option<&str>) -> u32 {
        self.list.push(Flat { tier, action, counter: counter.map(Into::into) });
        self.list.len() as u32 - 1
    }

    fn add(
        &mut self,
        tier: Tier,
        rule: &crate::Rule,
        own_ports: &[NamedPort],
        peers: &mut Interner<Peer>,
        names: &mut Interner<PortName>,
    ) {
        let at = self.flat(tier, rule.action, rule.counter.as_deref());
        let held: Vec<PeerId> = rule.peers.iter().map(|peer| peers.hold(peer)).collect();
        self.held.0.extend(&held);
        let held: BTreeSet<PeerId> = held.into_iter().collect();
        let mut points = BTreeSet::new();
        let mut spans = BTreeSet::new();
        for port in &rule.ports {
            let protocol = port.protocol.number();
            match &port.numbers {
                Numbers::All => drop(spans.insert(Span { protocol, from: 0, to: u16::MAX })),
                Numbers::Range(from, to) if from == to => drop(points.insert(Point { protocol, port: *from })),
                Numbers::Range(from, to) => drop(spans.insert(Span { protocol, from: *from, to: *to })),
                Numbers::Named(name) => {
                    let name = (port.protocol, name.clone());
                    if rule.direction == Direction::Ingress {
                        points.extend(numbers(own_ports, &name).map(|port| Point { protocol, port }));
                    } else {
                        let id = names.hold(&name);
                        self.held.1.push(id);
                        let peers = (!rule.peers.is_empty()).then(|| held.clone());
                        self.by_name.push(Named { rule: at, peers, name: id, protocol });
                    }
                }
            }
        }
        let whole = rule.ports.is_empty();
        if rule.peers.is_empty() {
            self.any.add(at, &points, &spans, whole);
        }
        for id in held {
            self.by_peer.entry(id).or_default().add(at, &points, &spans, whole);
        }
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
        let mut own = self.by_peer.values();
        let whole = own.clone().any(|index| !index.whole.is_empty());
        let spans = own.clone().any(|index| !index.spans.is_empty());
        let points = own.any(|index| !index.points.is_empty()) || !self.by_name.is_empty();
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
                fitting.extend(named.map(|named| named.rule));
            }
        }
        fitting.sort_unstable();
        let mut passed = None;
        for rule in fitting.into_iter().map(|at| &self.list[at as usize]) {
            if passed == Some(rule.tier) {
                continue;
            }
            if rule.action == Action::Pass {
                passed = Some(rule.tier);
                continue;
            }
            return Outcome { action: rule.action, counter: rule.counter.clone() };
        }
        Outcome { action: Action::Accept, counter: None }
    }

    /// The range that a port lies in.
    pub(crate) fn span_of(&self, point: Point) -> Option<Span> {
        let at = self.spans.partition_point(|span| (span.protocol, span.to) < (point.protocol, point.port));
        self.spans.get(at).filter(|span| span.protocol == point.protocol && span.from <= point.port).copied()
    }

    /// All counters with the actions they count.
    pub(crate) fn counters(&self) -> impl Iterator<Item = Outcome> {
        let decisive = self.list.iter().filter(|rule| rule.counter.is_some() && rule.action != Action::Pass);
        decisive.map(|rule| Outcome { action: rule.action, counter: rule.counter.clone() })
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

// === impl Index ===

impl Index {
    fn add(&mut self, at: u32, points: &BTreeSet<Point>, spans: &BTreeSet<Span>, whole: bool) {
        for point in points {
            self.points.entry(*point).or_default().push(at);
        }
        self.spans.extend(spans.iter().map(|span| (*span, at)));
        if whole {
            self.whole.push(at);
        }
    }

    fn fitting(&self, to: To, fitting: &mut Vec<u32>) {
        fitting.extend(&self.whole);
        match to {
            To::Point(point) => {
                fitting.extend(self.points.get(&point).into_iter().flatten());
                fitting.extend(self.spans.iter().filter(|(span, _)| span.holds(point)).map(|(_, at)| *at));
            }
            To::Span(asked) => {
                let covers =
                    |span: &Span| span.protocol == asked.protocol && span.from <= asked.from && asked.to <= span.to;
                fitting.extend(self.spans.iter().filter(|(span, _)| covers(span)).map(|(_, at)| *at));
            }
            To::Else => {}
        }
    }
}

// === impls of small things ===

impl Named {
    /// The numbers that a class gives this name, if the rule is for it.
    fn numbers(&self, class: &Class) -> Vec<u16> {
        if self.peers.as_ref().is_some_and(|peers| !class.peers.iter().any(|id| peers.contains(id))) {
            return Vec::new();
        }
        class.ports.iter().filter(|(name, _)| *name == self.name).map(|(_, port)| *port).collect()
    }
}

impl Span {
    fn holds(&self, point: Point) -> bool {
        self.protocol == point.protocol && (self.from..=self.to).contains(&point.port)
    }
}

#[cfg(test)]
mod tests;
