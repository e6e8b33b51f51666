use std::slice::from_ref;

use super::*;
use crate::Protocol;
use crate::{Namespaces, PodGroup, Port, Rule, Selector};

struct Known {
    peers: Interner<Peer>,
    names: Interner<PortName>,
}

fn pods(label: &str) -> Peer {
    Peer::Pods(PodGroup { namespaces: Namespaces::All, labels: Selector::label("app", label) })
}

fn rule(action: Action, peers: &[&Peer], ports: &[(u16, u16)]) -> Rule {
    let port = |(from, to): &(u16, u16)| Port { protocol: Protocol::Tcp, numbers: Numbers::Range(*from, *to) };
    let counter = (action != Action::Accept).then(|| format!("{action:?}"));
    Rule {
        direction: Direction::Ingress,
        action,
        peers: peers.iter().map(|peer| (*peer).clone()).collect(),
        ports: ports.iter().map(port).collect(),
        counter,
    }
}

fn policy(tier: Tier, priority: u32, otherwise: Option<Action>, rules: Vec<Rule>) -> Arc<Policy> {
    let subjects = Vec::new();
    let name = format!("{tier:?}/{priority}");
    Arc::new(Policy { name, tier, priority, subjects, rules, otherwise_ingress: otherwise, otherwise_egress: None })
}

fn rules(policies: &[Arc<Policy>]) -> (Rules, Known) {
    let mut known = Known { peers: Interner::default(), names: Interner::default() };
    let rules = Rules::of(Direction::Ingress, Vec::new(), policies, &mut known.peers, &mut known.names);
    (rules, known)
}

impl Known {
    fn class(&mut self, peers: &[Peer]) -> Class {
        let mut ids: Vec<_> = peers.iter().map(|peer| self.peers.hold(peer)).collect();
        ids.sort_unstable();
        Class { peers: ids, ports: Vec::new(), of_pod: true }
    }
}

fn tcp(port: u16) -> To {
    To::Point(Point { protocol: 6, port })
}

#[test]
fn the_first_that_fits_decides_and_a_pass_leaves_it_to_the_next_tier() {
    use Action::{Accept, Drop, Pass, Reject};
    let (web, db) = (pods("web"), pods("db"));
    let (rules, mut known) = rules(&[
        policy(Tier::Emergency, 1, None, vec![rule(Drop, &[&db], &[(22, 22)])]),
        policy(Tier::Infrastructure, 5, None, vec![rule(Pass, &[&web], &[]), rule(Reject, &[], &[(1, 100)])]),
        policy(Tier::Infrastructure, 9, Some(Drop), vec![rule(Accept, &[&web, &db], &[(100, 200)])]),
        policy(Tier::Application, 1, Some(Drop), vec![rule(Accept, &[&web], &[(80, 80)])]),
    ]);
    let (web, db) = (known.class(&[web]), known.class(&[db]));
    for (class, to, action) in [
        (Some(&db), tcp(22), Drop),
        (Some(&db), tcp(80), Reject),
        (Some(&db), tcp(150), Accept),
        (Some(&db), tcp(300), Drop),
        (Some(&web), tcp(80), Accept),
        (Some(&web), tcp(22), Drop),
        (Some(&web), tcp(150), Drop),
        (None, tcp(22), Reject),
        (None, To::Else, Drop),
    ] {
        assert_eq!(rules.decide(class, to).action, action, "{class:?} {to:?}");
    }
}

#[test]
fn ranges_are_cut_where_any_begins_or_ends_and_all_of_a_protocol_is_a_range() {
    let accept = |ports: &[(u16, u16)]| rule(Action::Accept, &[&pods("web")], ports);
    let mut all = accept(&[]);
    all.ports = vec![Port { protocol: Protocol::Udp, numbers: Numbers::All }];
    let policies = [policy(
        Tier::Application,
        1,
        None,
        vec![accept(&[(10, 20), (15, 30)]), accept(&[(40, 65535), (17, 17)]), all],
    )];
    let (rules, _) = rules(&policies);
    let spans: Vec<_> = rules.spans.iter().map(|span| (span.protocol, span.from, span.to)).collect();
    assert_eq!(spans, [(6, 10, 14), (6, 15, 20), (6, 21, 30), (6, 40, 65535), (17, 0, 65535)]);
    let span = |port| rules.span_of(Point { protocol: 6, port }).map(|span| span.from);
    assert_eq!(
        [9, 10, 14, 15, 30, 31, 40, 65535].map(span),
        [None, Some(10), Some(10), Some(15), Some(21), None, Some(40), Some(40),]
    );
}

#[test]
fn peers_are_held_as_long_as_rules_name_them() {
    let (web, db) = (pods("web"), pods("db"));
    let first = policy(Tier::Application, 1, None, vec![rule(Action::Accept, &[&web, &web], &[])]);
    let (mut rules, mut known) = rules(from_ref(&first));
    assert_eq!(known.peers.changes().fresh.len(), 1);
    let second = policy(Tier::Application, 1, None, vec![rule(Action::Accept, &[&web, &db], &[])]);
    rules.replace(&[first], from_ref(&second), &mut known.peers, &mut known.names);
    let changes = known.peers.changes();
    assert_eq!((changes.fresh.len(), changes.gone.len()), (1, 0));
    rules.release(&[second], &mut known.peers, &mut known.names);
    assert_eq!(known.peers.changes().gone.len(), 2);
}

#[test]
fn rules_say_whom_a_change_is_about() {
    let (web, db) = (pods("web"), pods("db"));
    let accept = |peers: &[&Peer], ports: &[(u16, u16)]| rule(Action::Accept, peers, ports);
    let of = |priority, otherwise, rules| policy(Tier::Application, priority, otherwise, rules);
    let base = of(1, Some(Action::Drop), vec![accept(&[&web], &[(80, 80)])]);
    for (come, all) in [
        (of(2, None, vec![accept(&[&db], &[(90, 90)])]), false),
        (of(2, None, vec![accept(&[&db], &[])]), false),
        (of(2, None, vec![accept(&[], &[(90, 90)])]), true),
        // Ranges are cut for everybody.
        (of(2, None, vec![accept(&[&db], &[(90, 91)])]), true),
        // What is said otherwise, too.
        (of(2, Some(Action::Drop), vec![accept(&[&db], &[(90, 90)])]), true),
    ] {
        let (mut rules, mut known) = rules(from_ref(&base));
        let there = rules.replace(&[], from_ref(&come), &mut known.peers, &mut known.names);
        let ids = || known.peers.id(&db).into_iter().collect();
        assert_eq!(there, if all { Touched::All } else { Touched::Peers(ids()) }, "{come:?}");
        assert_eq!(rules.replace(&[come], &[], &mut known.peers, &mut known.names), there);
        let class = known.class(from_ref(&db));
        assert_eq!(rules.decide(Some(&class), tcp(90)).action, Action::Drop);
    }
}
