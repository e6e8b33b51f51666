//! Rules by the ports that they are for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Flat;

/// Rules by the ports that they are for.
#[derive(Debug, Default)]
pub(super) struct Index {
    pub(super) points: BTreeMap<Point, Vec<Arc<Flat>>>,
    pub(super) spans: Vec<(Span, Arc<Flat>)>,
    pub(super) whole: Vec<Arc<Flat>>,
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

/// What a rule is for, in numbers.
pub(super) struct Scope {
    pub(super) points: BTreeSet<Point>,
    pub(super) spans: BTreeSet<Span>,
    pub(super) whole: bool,
}

// === impl Index ===

impl Index {
    pub(super) fn add(&mut self, rule: &Arc<Flat>, scope: &Scope) {
        for point in &scope.points {
            self.points.entry(*point).or_default().push(Arc::clone(rule));
        }
        self.spans.extend(scope.spans.iter().map(|span| (*span, Arc::clone(rule))));
        if scope.whole {
            self.whole.push(Arc::clone(rule));
        }
    }

    /// Takes the rules of a policy away that are for these ports.
    pub(super) fn remove(&mut self, policy: &str, scope: &Scope) {
        for point in &scope.points {
            let Some(rules) = self.points.get_mut(point) else { continue };
            rules.retain(|rule| !rule.is_of(policy));
            if rules.is_empty() {
                self.points.remove(point);
            }
        }
        if !scope.spans.is_empty() {
            self.spans.retain(|(_, rule)| !rule.is_of(policy));
        }
        if scope.whole {
            self.whole.retain(|rule| !rule.is_of(policy));
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.points.is_empty() && self.spans.is_empty() && self.whole.is_empty()
    }

    pub(super) fn fitting<'a>(&'a self, to: To, fitting: &mut Vec<&'a Arc<Flat>>) {
        fitting.extend(&self.whole);
        match to {
            To::Point(point) => {
                fitting.extend(self.points.get(&point).into_iter().flatten());
                fitting.extend(self.spans.iter().filter(|(span, _)| span.holds(point)).map(|(_, rule)| rule));
            }
            To::Span(asked) => {
                let covers =
                    |span: &Span| span.protocol == asked.protocol && span.from <= asked.from && asked.to <= span.to;
                fitting.extend(self.spans.iter().filter(|(span, _)| covers(span)).map(|(_, rule)| rule));
            }
            To::Else => {}
        }
    }
}

// === impl Span ===

impl Span {
    fn holds(&self, point: Point) -> bool {
        self.protocol == point.protocol && (self.from..=self.to).contains(&point.port)
    }
}
