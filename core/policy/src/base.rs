//! What every node carries for policies before there is one: the table, its hook, and the maps that subjects and peers fill.
//!
//! ```text
//! forward   an answer, or related                   -> accept
//!           to itself: (source, destination)        -> accept
//!           egress: source -> chain of the subject  drop, refuse, or come back
//!           ingress: destination -> chain           drop, refuse, or come back
//! ```
//!
//! Here destinations are those behind Services, as translation was before, and sources are those that really send, as hiding them
//! comes after. What a node exchanges with its own pods does not pass here.

use switchyard_netstate::nft::{
    Base, Chain, ChainType, CtState, Data, Element, Expr, Family, Hook, Number, Op, Operand, Policy, Reject, Rule, Set,
    Statement, Table, TableRef, Type, Value, Verdict,
};
use switchyard_netstate::{Fragment, Object, Place};

use crate::Direction;

/// The name of the table in a node's namespace.
const TABLE: &str = "yard-policy";

/// (source, destination) of pods that are subjects: nobody keeps a pod from itself.
pub(crate) const SELF: &str = "self";
/// Address of a pod to the number of its class.
pub(crate) const PEERS: &str = "peers";
/// Intervals of other addresses to the number of their class.
pub(crate) const BLOCKS: &str = "blocks";
pub(crate) const REJECT: &str = "reject";

/// After translation of destinations and what Services refuse.
const PRIORITY: i32 = 10;

/// The table, its hook and empty maps.
pub(crate) fn base(place: &Place) -> Fragment {
    let mut fragment = Fragment::new();
    fragment.want(place, Object::Table(Table { table: table() }));
    fragment.want_all(
        place,
        [
            set(SELF, &[Type::Ipv4, Type::Ipv4], &[], false),
            set(subjects(Direction::Ingress), &[Type::Ipv4], &[Type::Verdict], false),
            set(subjects(Direction::Egress), &[Type::Ipv4], &[Type::Verdict], false),
            set(PEERS, &[Type::Ipv4], &[Type::Mark], false),
            set(BLOCKS, &[Type::Ipv4], &[Type::Mark], true),
        ],
    );
    let answers = CtState { established: true, related: true, ..CtState::default() };
    let accept = || Statement::Verdict(Verdict::Accept);
    let rules = vec![
        Rule(vec![
            Statement::Match { left: Expr::CtState, op: Op::Has, right: Operand::Value(Value::State(answers)) },
            accept(),
        ]),
        Rule(vec![
            Statement::Lookup { key: vec![Expr::IpSaddr, Expr::IpDaddr], set: SELF.into(), invert: false },
            accept(),
        ]),
        Rule(vec![vmap(vec![Expr::IpSaddr], subjects(Direction::Egress))]),
        Rule(vec![vmap(vec![Expr::IpDaddr], subjects(Direction::Ingress))]),
        Rule(vec![Statement::SetPriority(Number::Value(0))]),
    ];
    let base =
        Base { kind: ChainType::Filter, hook: Hook::Forward, priority: PRIORITY, policy: Policy::Accept, dev: None };
    let forward = Chain { table: table(), name: "forward".into(), base: Some(base), rules };
    let reset = [Statement::eq(Expr::L4proto, Value::Proto(6)), Statement::Reject(Reject::TcpReset)];
    let reject = vec![Rule(reset.into()), Rule(vec![Statement::Reject(Reject::AdminProhibited)])];
    let classify = |direction, address: Expr| {
        let look = |map: &str| Statement::SetPriority(Number::Map { key: vec![address.clone()], map: map.into() });
        // What is not in a map ends the rule, and not the chain.
        let steps = vec![
            Rule(vec![look(PEERS), Statement::Verdict(Verdict::Return)]),
            Rule(vec![look(BLOCKS), Statement::Verdict(Verdict::Return)]),
            Rule(vec![Statement::SetPriority(Number::Value(0))]),
        ];
        chain(classify(direction), steps)
    };
    fragment.want_all(
        place,
        [
            classify(Direction::Ingress, Expr::IpSaddr),
            classify(Direction::Egress, Expr::IpDaddr),
            chain(REJECT, reject),
            Object::Chain(forward),
        ],
    );
    fragment
}

/// The chain that finds the class of the peer: of the pod that has the address, or of the block. The number is kept in the packet's
/// priority, which nothing else uses at this point, and is gone when the packet leaves the table.
pub(crate) fn classify(direction: Direction) -> &'static str {
    match direction {
        Direction::Ingress => "class-of-source",
        Direction::Egress => "class-of-destination",
    }
}

/// The map from a subject's address to its chain.
pub(crate) fn subjects(direction: Direction) -> &'static str {
    match direction {
        Direction::Ingress => "ingress",
        Direction::Egress => "egress",
    }
}

/// The table.
pub fn table() -> TableRef {
    TableRef::new(Family::Ip, TABLE)
}

pub(crate) fn chain(name: impl Into<String>, rules: Vec<Rule>) -> Object {
    Object::Chain(Chain { table: table(), name: name.into(), base: None, rules })
}

pub(crate) fn set(name: impl Into<String>, key: &[Type], data: &[Type], interval: bool) -> Object {
    Object::Set(Set {
        table: table(),
        name: name.into(),
        key: key.to_vec(),
        data: data.to_vec(),
        interval,
        dynamic: false,
        size: None,
    })
}

pub(crate) fn element(set: impl Into<String>, key: Vec<Value>, data: Option<Data>) -> Object {
    Object::Element(Element { table: table(), set: set.into(), key, data })
}

pub(crate) fn vmap(key: Vec<Expr>, map: impl Into<String>) -> Statement {
    Statement::Vmap { key, map: map.into() }
}
