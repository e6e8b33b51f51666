use super::*;

fn network(plugin: &str, generation: i64) -> ActiveNetwork {
    let (version, file, sha256) = ("1".into(), String::new(), String::new());
    let (options, hosting) = Default::default();
    ActiveNetwork { plugin: plugin.into(), version, file, sha256, options, hosting, generation }
}

fn swap(names: &[&str]) -> Swap {
    let carrying = NodeNetworkStatus { generation: 1, ..NodeNetworkStatus::default() };
    let mut reports: BTreeMap<String, NodeNetworkStatus> =
        names.iter().map(|name| ((*name).to_owned(), carrying.clone())).collect();
    reports.insert("new".into(), NodeNetworkStatus::default());
    begin("7".into(), network("a", 1), network("b", 2), &reports, false)
}

fn report(swap: &mut Swap, phase: SwapPhase, error: Option<&str>) {
    let turn = swap.clone();
    for (name, participant) in swap.participants.iter_mut().filter(|(name, _)| turn.concerns(name)) {
        participant.phase = Some(phase);
        participant.error = error.map(str::to_owned).filter(|_| name == "n1");
    }
}

#[test]
fn a_swap_takes_those_along_who_carry_the_old_network() {
    assert_eq!(swap(&["n1", "n2"]).participants.keys().collect::<Vec<_>>(), ["n1", "n2"]);
}

#[test]
fn a_phase_follows_when_everybody_is_done_with_the_one_before() {
    let mut swap = swap(&["n1", "n2", "router"]);
    let mut orders = Vec::new();
    loop {
        assert_eq!(next(&swap, false), Next::Wait);
        let phase = swap.phase;
        report(&mut swap, phase, None);
        match next(&swap, false) {
            Next::Order(phase, turn) => {
                orders.push((phase, turn));
                order(&mut swap, phase, turn, Duration::from_millis(3));
            }
            Next::End(outcome) => {
                assert_eq!(outcome, Outcome::Swapped);
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    use SwapPhase::*;
    let expected = [
        (Preparing, Turn::All),
        (Checking, Turn::Nodes),
        (Switching, Turn::Router),
        (Switching, Turn::Nodes),
        (Verifying, Turn::Nodes),
        (Withdrawing, Turn::Nodes),
        (Withdrawing, Turn::Router),
        (Cleaning, Turn::All),
    ];
    assert_eq!(orders, expected);
}

#[test]
fn one_failure_takes_everybody_back_and_says_whose_it_was() {
    for phase in [SwapPhase::Preparing, SwapPhase::Checking, SwapPhase::Switching, SwapPhase::Verifying] {
        let mut swap = swap(&["n1", "n2", "router"]);
        (swap.phase, swap.turn) = (phase, Turn::Nodes);
        report(&mut swap, phase, Some("no memory"));
        let Next::Fail(reason) = next(&swap, false) else { panic!("{phase:?}") };
        assert_eq!(reason, "n1: no memory");
        assert!(!fail(&mut swap, reason, Duration::ZERO));
        assert_eq!((swap.phase, swap.turn), (SwapPhase::Returning, Turn::Nodes));
        assert_eq!(next(&swap, false), Next::Wait);
        report(&mut swap, SwapPhase::Returning, Some("no memory"));
        assert_eq!(next(&swap, false), Next::Order(SwapPhase::Returning, Turn::Router));
        order(&mut swap, SwapPhase::Returning, Turn::Router, Duration::ZERO);
        report(&mut swap, SwapPhase::Returning, None);
        assert_eq!(next(&swap, false), Next::End(Outcome::Returned));
    }
}

#[test]
fn nothing_goes_back_before_anything_was_changed() {
    let mut swap = swap(&["n1"]);
    report(&mut swap, SwapPhase::Planning, Some("conflict"));
    assert_eq!(next(&swap, false), Next::Fail("n1: conflict".into()));
    assert!(fail(&mut swap, "n1: conflict".into(), Duration::ZERO));
}

#[test]
fn who_is_silent_is_named_and_once_all_have_switched_is_not_waited_for() {
    let mut swap = swap(&["n1", "n2"]);
    report(&mut swap, SwapPhase::Planning, None);
    swap.participants.get_mut("n2").unwrap().phase = None;
    assert_eq!(next(&swap, false), Next::Wait);
    assert_eq!(next(&swap, true), Next::Fail("n2 not done with planning after 30 s".into()));
    (swap.phase, swap.turn) = (SwapPhase::Cleaning, Turn::All);
    assert_eq!(next(&swap, false), Next::Wait);
    assert_eq!(next(&swap, true), Next::End(Outcome::Swapped));
}

#[test]
fn reports_of_another_swap_are_not_heard_and_nodes_that_are_gone_not_waited_for() {
    let mut swap = swap(&["n1", "n2"]);
    let said = |id: &str| NodeNetworkStatus {
        swap: Some(SwapReport {
            id: id.into(),
            participant: Participant { phase: Some(SwapPhase::Planning), ..Participant::default() },
        }),
        ..NodeNetworkStatus::default()
    };
    hear(&mut swap, &[("n1".to_owned(), said("6"))].into());
    assert_eq!(next(&swap, false), Next::Wait);
    hear(&mut swap, &[("n1".to_owned(), said("7"))].into());
    assert_eq!(next(&swap, false), Next::Order(SwapPhase::Preparing, Turn::All));
}
