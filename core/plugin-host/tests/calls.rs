//! Calls that go wrong are errors of that call, and nothing else is touched by them.

mod support;

use std::thread;

use serde_json::json;
use support::{facts, faulty, node, options, pod, registry};
use switchyard_plugin::Options;
use switchyard_plugin_host::{CallError, Hosting, Registry, State};

const IN: Hosting = Hosting::InProcess;

#[test]
fn a_panic_poisons_its_instance_and_no_other() {
    let registry = registry();
    let bad = registry.open("faulty", &options(json!({"panic": "web"})), IN).unwrap();
    let good = registry.open("faulty", &Options::new(), IN).unwrap();
    bad.pod(&facts(), &node(1), &pod("other")).unwrap();

    let error = bad.pod(&facts(), &node(1), &pod("web")).unwrap_err();
    assert_eq!(error.to_string(), "pod: the plugin panicked and is not asked again: told to panic for pod web");
    let error = bad.node(&facts(), &node(1)).unwrap_err();
    let why = "pod: the plugin panicked and is not asked again: told to panic for pod web".to_owned();
    assert_eq!(error, CallError::Poisoned { operation: "node", why });
    assert_eq!((bad.state(), good.state()), (State::Poisoned, State::Started));
    good.pod(&facts(), &node(1), &pod("web")).unwrap();
    registry.open("faulty", &Options::new(), IN).unwrap().node(&facts(), &node(1)).unwrap();
}

#[test]
fn one_that_is_tended_has_another_instance_for_everybody_else() {
    let plugin = registry().tend("faulty", &options(json!({"panic": "web"})), IN).unwrap();
    let error = plugin.pod(&facts(), &node(1), &pod("web")).unwrap_err();
    assert_eq!((error.is_fault(), plugin.state()), (true, State::Poisoned));
    let resting = |error: CallError| {
        let said = error.to_string();
        assert!(matches!(error, CallError::Resting { operation: "pod", .. }), "{said}");
        assert!(said.starts_with("pod: the plugin is not asked for a while: pod: the plugin panicked"), "{said}");
    };
    // Asked again and again, as those do who wait for it; only time brings it back.
    while let Err(error) = plugin.pod(&facts(), &node(1), &pod("other")) {
        resting(error);
        thread::yield_now();
    }
    assert_eq!(plugin.state(), State::Started);
    resting(plugin.pod(&facts(), &node(1), &pod("web")).unwrap_err());
    plugin.node(&facts(), &node(1)).unwrap();
}

#[test]
fn no_panic_crosses_the_boundary_on_its_way_out() {
    let registry = registry();
    let plugin = registry.open("faulty", &options(json!({"panic": "drop"})), IN).unwrap();
    drop(plugin);
    let plugin = registry.open("faulty", &options(json!({"panic": "worker-2"})), IN).unwrap();
    let error = plugin.peer(&facts(), &node(1), &node(2)).unwrap_err();
    assert_eq!(error, CallError::Panicked { operation: "peer", message: "no message".into() });
}

#[test]
fn answers_are_checked_before_they_are_believed() {
    let sysctl = |place: &str| {
        format!(r#"ANSWER="{{\"{place}\":[{{\"kind\":\"sysctl\",\"path\":\"net/a\",\"value\":\"1\"}}]}}""#)
    };
    let wrong = |place: &str| format!("the plugin speaks about {place}, which this call does not concern");
    // One plugin gives the same answer to every call; what is right for one of them is wrong for another.
    for (define, operation, expected) in [
        ("HUGE".to_owned(), "node", "the plugin's answer has more than 16777216 bytes".to_owned()),
        (
            r#"ANSWER="none of this""#.into(),
            "node",
            "the plugin's answer is not understood: expected ident at line 1 column 2".into(),
        ),
        (
            r#"ANSWER="{}{}""#.into(),
            "node",
            "the plugin's answer is not understood: trailing characters at line 1 column 3".into(),
        ),
        (
            r#"ANSWER="\xff""#.into(),
            "pool",
            "the plugin's answer is not understood: expected value at line 1 column 1".into(),
        ),
        (
            r#"ANSWER="{\"router\":[{\"kind\":\"rout\"}]}""#.into(),
            "underlay",
            "the plugin's answer is not understood: unknown variant `rout`".into(),
        ),
        (r#"ANSWER="{\"moon\":[]}""#.into(), "node", "the plugin's answer is not understood: place \"moon\"".into()),
        (sysctl("router"), "node", wrong("router")),
        (sysctl("node/worker-2"), "node", wrong("node/worker-2")),
        (sysctl("node/worker-2"), "peer", wrong("node/worker-2")),
        (sysctl("node/worker-1"), "underlay", wrong("node/worker-1")),
        (sysctl("pod/uid-of-other"), "pod", wrong("pod/uid-of-other")),
        (sysctl("pod/uid-of-web"), "node", wrong("pod/uid-of-web")),
        (sysctl("pod/uid-of-web"), "remote", wrong("pod/uid-of-web")),
        ("STATUS=1".into(), "node", "the plugin does not implement it".into()),
        ("STATUS=1".into(), "pod", "the plugin does not implement it".into()),
        ("STATUS=2".into(), "peer", "the plugin refused its input: words".into()),
        ("STATUS=77".into(), "peer", "the plugin failed with status 77: words".into()),
    ] {
        let Some((_dir, file)) = faulty(&[&define]) else { return };
        let plugin = Registry::new(vec![]).open(file.to_str().unwrap(), &Options::new(), IN).unwrap();
        let (facts, node, peer, pod) = (facts(), node(1), node(2), pod("web"));
        let error = match operation {
            "node" => plugin.node(&facts, &node).unwrap_err(),
            "peer" => plugin.peer(&facts, &node, &peer).unwrap_err(),
            "pod" => plugin.pod(&facts, &node, &pod).unwrap_err(),
            "remote" => plugin.remote(&facts, &node, &peer, &pod).unwrap_err(),
            "pool" => plugin.pool(&facts, &node, &pod).unwrap_err(),
            _ => plugin.underlay(&facts, &node).unwrap_err(),
        };
        let message = error.to_string();
        assert!(message.starts_with(&format!("{operation}: {expected}")), "{define}: {message}");
        assert_eq!(plugin.state(), State::Started);
    }
}

#[test]
fn places_that_a_call_concerns_are_allowed() {
    let places = ["node/worker-1", "pod/uid-of-web", "node/worker-1/edge"];
    let object = r#"[{\"kind\":\"sysctl\",\"path\":\"net/a\",\"value\":\"1\"}]"#;
    let answer: Vec<String> = places.iter().map(|place| format!(r#"\"{place}\":{object}"#)).collect();
    let Some((_dir, file)) = faulty(&[&format!(r#"ANSWER="{{{}}}""#, answer.join(","))]) else { return };
    let plugin = Registry::new(vec![]).open(file.to_str().unwrap(), &Options::new(), IN).unwrap();
    let fragment = plugin.pod(&facts(), &node(1), &pod("web")).unwrap();
    let found: Vec<String> = fragment.places().map(|(place, _)| place.to_string()).collect();
    assert_eq!(found, places);
}

#[test]
fn what_is_optional_and_not_implemented_wants_nothing() {
    let Some((_dir, file)) = faulty(&["STATUS=1"]) else { return };
    let plugin = Registry::new(vec![]).open(file.to_str().unwrap(), &Options::new(), IN).unwrap();
    let (facts, node, peer, pod) = (facts(), node(1), node(2), pod("web"));
    assert!(plugin.peer(&facts, &node, &peer).unwrap().is_empty());
    assert!(plugin.remote(&facts, &node, &peer, &pod).unwrap().is_empty());
    assert!(plugin.underlay(&facts, &node).unwrap().is_empty());
    assert_eq!(plugin.pool(&facts, &node, &pod).unwrap().block, node.pod_cidr);
}

#[test]
fn many_threads_may_ask_at_once() {
    let registry = registry();
    let shared = registry.open("kubenet", &Options::new(), IN).unwrap();
    let expected = shared.pod(&facts(), &node(1), &pod("web")).unwrap();
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let own = registry.open("kubenet", &Options::new(), IN).unwrap();
                for _ in 0..50 {
                    assert_eq!(shared.pod(&facts(), &node(1), &pod("web")).unwrap(), expected);
                    assert_eq!(own.pod(&facts(), &node(1), &pod("web")).unwrap(), expected);
                }
            });
        }
    });
}
