//! What a node carries for one kind of subject: all pods that the same policies select, in one direction.
//!
//! ```text
//! IN    look up the class of the peer
//!       (class, protocol, port)  -> verdict      IN/ports
//!       (class, protocol, range) -> verdict      IN/ranges
//!       class                    -> verdict      IN/classes
//!       (protocol, port)         -> verdict      IN/rest-ports
//!       (protocol, range)        -> verdict      IN/rest-ranges
//!       what is said about everything else
//! ```
//!
//! Of these there is what the rules need. A verdict is to come back (accepted), to drop, or to go to a chain that counts or refuses.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use switchyard_netstate::nft::{Data, Expr, Rule, Statement, Type, Value, Verdict};
use switchyard_netstate::{Fragment, Object, Place};

use crate::base::{self, REJECT, chain, element, set, vmap};
use crate::name;
use crate::peers::Class;
use crate::rules::{Outcome, Point, Rules, Span, To};
use crate::{Action, Direction, NamedPort, Policy};

/// One kind of subject in one direction.
#[derive(Debug)]
pub(crate) struct Subject {
    /// The name of its chain; nothing until [`names`] gave it one.
    pub(crate) name: String,
    pub(crate) direction: Direction,
    /// In order.
    pub(crate) policies: Vec<Arc<Policy>>,
    pub(crate) rules: Rules,
    /// The name of the policy with most rules in its direction; of the first of several.
    pub(crate) lead: String,
    /// Addresses of pods of this kind.
    pub(crate) pods: usize,
    /// Numbers of the classes that it tells apart.
    pub(crate) classes: BTreeSet<u32>,
}

/// What [`id`] gives, shared by all who are of the kind.
pub(crate) type SubjectId = Arc<str>;

/// What tells kinds of subject apart: direction, policies, and what they call the ports that those name.
pub(crate) fn id(direction: Direction, policies: &[Arc<Policy>], own_ports: &[NamedPort]) -> String {
    let mut text = way(direction).to_owned();
    for policy in policies {
        text.push('\n');
        text += &policy.name;
    }
    for port in own_ports {
        text += &format!("\n{} {} {}", port.name, port.protocol.number(), port.port);
    }
    text
}

/// A name for each kind of subject, by its id: that of the policy which says most in it. So what is large keeps its chain and its maps
/// when smaller policies come and go. Of several with the same such policy one has the plain name, that of the fewest policies.
pub(crate) fn names(subjects: &BTreeMap<SubjectId, Subject>) -> BTreeMap<SubjectId, String> {
    let mut by_lead: BTreeMap<_, Vec<(usize, &SubjectId)>> = BTreeMap::new();
    for (id, subject) in subjects {
        let of_lead = by_lead.entry((way(subject.direction), subject.lead.as_str())).or_default();
        of_lead.push((subject.policies.len(), id));
    }
    let mut names = BTreeMap::new();
    for ((way, lead), mut kinds) in by_lead {
        kinds.sort_unstable();
        for (place, (_, id)) in kinds.into_iter().enumerate() {
            let digest = name::digest(if place == 0 { lead } else { id }.as_bytes());
            let readable = name::plain(lead.trim_start_matches("networkpolicy/"), Some(digest));
            names.insert(Arc::clone(id), format!("{way}/{readable}"));
        }
    }
    names
}

fn lead(direction: Direction, policies: &[Arc<Policy>]) -> String {
    let says = |policy: &Policy| policy.rules.iter().filter(|rule| rule.direction == direction).count();
    let lead = policies.iter().rev().max_by_key(|policy| says(policy));
    lead.map(|policy| policy.name.clone()).unwrap_or_default()
}

fn way(direction: Direction) -> &'static str {
    match direction {
        Direction::Ingress => "in",
        Direction::Egress => "out",
    }
}

/// The chain that counts for rules with this counter and action.
pub fn counter_chain(counter: &str, action: Action) -> String {
    let action = match action {
        Action::Accept => "accept",
        Action::Drop => "drop",
        Action::Reject => "reject",
        Action::Pass => "pass",
    };
    format!("rule/{}/{action}", name::plain(counter, None))
}

// === impl Subject ===

impl Subject {
    /// One that has no name yet, and one pod.
    pub(crate) fn new(direction: Direction, policies: Vec<Arc<Policy>>, rules: Rules) -> Self {
        let lead = lead(direction, &policies);
        Self { name: String::new(), direction, policies, rules, lead, pods: 1, classes: BTreeSet::new() }
    }

    /// Has these policies from now on.
    pub(crate) fn have(&mut self, policies: Vec<Arc<Policy>>) {
        self.lead = lead(self.direction, &policies);
        self.policies = policies;
    }

    /// The name of a map of its own.
    fn part(&self, part: &str) -> String {
        format!("{}/{part}", self.name)
    }

    /// Chains, maps, and what is said about everybody.
    pub(crate) fn fragment(&self, place: &Place) -> Fragment {
        let mut fragment = Fragment::new();
        let rules = &self.rules;
        let mut counters: BTreeMap<String, &Outcome> = BTreeMap::new();
        for outcome in rules.counters() {
            counters.insert(counter_chain(outcome.counter.as_deref().unwrap_or_default(), outcome.action), outcome);
        }
        fragment.want_all(
            place,
            counters.into_iter().map(|(name, outcome)| {
                let mut then = vec![Statement::Counter];
                then.extend(silent(outcome.action));
                chain(name, vec![Rule(then)])
            }),
        );
        let (points, spans, whole) = rules.kinds();
        let rest_points: Vec<Point> = rules.points().collect();
        let mut want = |wanted: bool, object: Object| {
            if wanted {
                fragment.want(place, object);
            }
        };
        let class_port = [Type::Mark, Type::Proto, Type::Port];
        want(points, set(self.part("ports"), &class_port, &[Type::Verdict], false));
        want(spans, set(self.part("ranges"), &class_port, &[Type::Verdict], true));
        want(whole, set(self.part("classes"), &[Type::Mark], &[Type::Verdict], false));
        want(!rest_points.is_empty(), set(self.part("rest-ports"), &class_port[1..], &[Type::Verdict], false));
        want(!rules.spans.is_empty(), set(self.part("rest-ranges"), &class_port[1..], &[Type::Verdict], true));
        fragment.want_all(place, self.rest(&rest_points));
        fragment.want(place, chain(self.name.clone(), self.chain((points, spans, whole), !rest_points.is_empty())));
        fragment
    }

    fn chain(&self, (points, spans, whole): (bool, bool, bool), rest_points: bool) -> Vec<Rule> {
        let look =
            |wanted: bool, key: &[Expr], part: &str| wanted.then(|| Rule(vec![vmap(key.to_vec(), self.part(part))]));
        let key = [Expr::Priority, Expr::L4proto, Expr::Dport];
        let classify = Statement::Verdict(Verdict::Jump(base::classify(self.direction).into()));
        let last = match verdict(&self.rules.decide(None, To::Else)) {
            Verdict::Drop => vec![Statement::Counter, Statement::Verdict(Verdict::Drop)],
            verdict => vec![Statement::Verdict(verdict)],
        };
        [
            self.rules.has_peers().then(|| Rule(vec![classify])),
            look(points, &key, "ports"),
            look(spans, &key, "ranges"),
            look(whole, &key[..1], "classes"),
            look(rest_points, &key[1..], "rest-ports"),
            look(!self.rules.spans.is_empty(), &key[1..], "rest-ranges"),
            Some(Rule(last)),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    /// What is said about everybody, where it is not what is said about everything.
    fn rest(&self, points: &[Point]) -> Vec<Object> {
        let rules = &self.rules;
        let default = rules.decide(None, To::Else);
        let mut elements = Vec::new();
        let mut by_span: BTreeMap<Span, Outcome> = BTreeMap::new();
        for span in &rules.spans {
            let outcome = rules.decide(None, To::Span(*span));
            if outcome != default {
                let key = vec![Value::Proto(span.protocol), ports(*span)];
                elements.push(element(self.part("rest-ranges"), key, Some(Data::Verdict(verdict(&outcome)))));
            }
            by_span.insert(*span, outcome);
        }
        for point in points {
            let outcome = rules.decide(None, To::Point(*point));
            let without = rules.span_of(*point).and_then(|span| by_span.get(&span)).unwrap_or(&default);
            if outcome != *without {
                let key = vec![Value::Proto(point.protocol), Value::Port(point.port)];
                elements.push(element(self.part("rest-ports"), key, Some(Data::Verdict(verdict(&outcome)))));
            }
        }
        elements
    }

    /// What is said about addresses of one class, where it is not what is said about everybody.
    pub(crate) fn class(&self, place: &Place, number: u32, class: &Class) -> Fragment {
        let rules = &self.rules;
        let mut fragment = Fragment::new();
        let mut want = |set: &str, mut key: Vec<Value>, outcome: &Outcome| {
            key.insert(0, Value::Number(number));
            fragment.want(place, element(self.part(set), key, Some(Data::Verdict(verdict(outcome)))));
        };
        let decide = |to| rules.decide(Some(class), to);
        let (own, default) = (decide(To::Else), rules.decide(None, To::Else));
        // With a verdict of its own on everything, the class never comes to what is said about everybody.
        let apart = own != default;
        if apart {
            want("classes", Vec::new(), &own);
        }
        let questions = rules.questions(class);
        let mut by_span: BTreeMap<Span, Outcome> = BTreeMap::new();
        for span in rules.spans.iter().filter(|_| questions.spans || apart) {
            let outcome = decide(To::Span(*span));
            let without = if apart { own.clone() } else { rules.decide(None, To::Span(*span)) };
            if outcome != without {
                want("ranges", vec![Value::Proto(span.protocol), ports(*span)], &outcome);
                by_span.insert(*span, outcome);
            }
        }
        for point in &questions.points {
            let outcome = decide(To::Point(*point));
            let without = match rules.span_of(*point).and_then(|span| by_span.get(&span)) {
                Some(of_span) => of_span.clone(),
                None if apart => own.clone(),
                None => rules.decide(None, To::Point(*point)),
            };
            if outcome != without {
                want("ports", vec![Value::Proto(point.protocol), Value::Port(point.port)], &outcome);
            }
        }
        fragment
    }
}

fn ports(span: Span) -> Value {
    if span.from == span.to { Value::Port(span.from) } else { Value::Ports(span.from, span.to) }
}

/// What a packet meets that has this outcome.
fn verdict(outcome: &Outcome) -> Verdict {
    match (&outcome.counter, outcome.action) {
        (Some(counter), action) => Verdict::Goto(counter_chain(counter, action)),
        (None, Action::Accept | Action::Pass) => Verdict::Return,
        (None, Action::Drop) => Verdict::Drop,
        (None, Action::Reject) => Verdict::Goto(REJECT.into()),
    }
}

/// The end of a chain that has counted; coming back needs no word.
fn silent(action: Action) -> Option<Statement> {
    match action {
        Action::Accept | Action::Pass => None,
        Action::Drop => Some(Statement::Verdict(Verdict::Drop)),
        Action::Reject => Some(Statement::Verdict(Verdict::Goto(REJECT.into()))),
    }
}
