//! What others take away comes back; what others made stays.

mod world;

use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use switchyard_kernel::{Engine, Keeper, Owner, Places};
use switchyard_netstate::{Fragment, Place, UnitId};
use world::{engine, isolated, node, run, state, try_run};

fn unit(name: &str) -> UnitId {
    UnitId(name.into())
}

fn cluster() -> Engine {
    let mut engine = engine(&["p1"]);
    let base = r#"{"node/n1":[
        {"kind":"link","name":"lo","type":"existing"},
        {"kind":"link","name":"cbr0","type":{"bridge":{}},"mtu":1450,"mac":"0a:58:0a:28:01:01"},
        {"kind":"address","dev":"cbr0","address":"10.40.1.1/24"},
        {"kind":"sysctl","path":"net/ipv4/ip_forward","value":"1"},
        {"kind":"route","to":"10.40.2.0/24","via":{"gateway":"10.40.1.254"}},
        {"kind":"rule","priority":500,"from":"10.40.1.0/24","table":100},
        {"kind":"table","table":{"family":"ip","name":"yard-test"}},
        {"kind":"set","table":{"family":"ip","name":"yard-test"},"name":"pods","key":["ipv4"]},
        {"kind":"set","table":{"family":"ip","name":"yard-test"},"name":"nets","key":["ipv4"],"interval":true},
        {"kind":"set","table":{"family":"ip","name":"yard-test"},"name":"pairs","key":["ipv4","port"],"interval":true},
        {"kind":"chain","table":{"family":"ip","name":"yard-test"},"name":"pre",
            "base":{"type":"filter","hook":"prerouting","priority":0},"rules":[
            [{"lookup":{"key":["ip_saddr"],"set":"pods"}},"counter"],
            [{"lookup":{"key":["ip_saddr"],"set":"nets"}},"counter"],
            [{"lookup":{"key":["ip_saddr","dport"],"set":"pairs"}},"counter"]]},
        {"kind":"element","table":{"family":"ip","name":"yard-test"},"set":"nets","key":[{"net":"10.0.0.0/8"}]},
        {"kind":"element","table":{"family":"ip","name":"yard-test"},"set":"nets","key":[{"ip":"11.0.0.0"}]},
        {"kind":"element","table":{"family":"ip","name":"yard-test"},"set":"nets","key":[{"net":"192.0.0.0/2"}]},
        {"kind":"element","table":{"family":"ip","name":"yard-test"},"set":"pairs","key":[{"net":"10.0.0.0/8"},{"ports":[80,90]}]}
    ]}"#;
    let pod = r#"{"node/n1":[
        {"kind":"link","name":"veth1","mac":"02:00:00:00:00:01","master":"cbr0","port":{"hairpin":true},
            "type":{"veth":{"peer":{"place":"pod/p1","name":"eth0"}}}},
        {"kind":"neighbour","dev":"cbr0","address":"10.40.1.5","mac":"0a:58:0a:28:01:05"},
        {"kind":"element","table":{"family":"ip","name":"yard-test"},"set":"pods","key":[{"ip":"10.40.1.5"}]}],
        "pod/p1":[
        {"kind":"link","name":"lo","type":"existing"},
        {"kind":"link","name":"eth0","mac":"0a:58:0a:28:01:05","mtu":1400,"type":{"veth":{"peer":{"place":"node/n1","name":"veth1"}}}},
        {"kind":"address","dev":"eth0","address":"10.40.1.5/24"},
        {"kind":"route","to":"0.0.0.0/0","via":{"gateway":"10.40.1.1","dev":"eth0"}}]}"#;
    for (name, text) in [("node", base), ("pod", pod)] {
        engine.set(unit(name), serde_json::from_str::<Fragment>(text).unwrap()).unwrap();
    }
    engine
}

#[test]
fn whatever_is_taken_away_comes_back_within_a_second() {
    isolated("whatever_is_taken_away_comes_back_within_a_second", || {
        let engine = cluster();
        let places = [node(), Place::pod("p1")];
        let wanted = state(&engine, &places);
        let engine = Arc::new(Mutex::new(engine));
        let (tell, told) = mpsc::channel();
        let keeper = Keeper::spawn(&engine, move |repair| tell.send(repair).unwrap()).unwrap();
        let pod = &places[1];
        // Routes go with a link that goes down, without a word, and it may be up again before anybody looks.
        let batch = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(batch.path(), "link set cbr0 down\nlink set cbr0 up\n").unwrap();
        let bounce = format!("ip -batch {}", batch.path().display());
        let mut took = Vec::new();
        for (place, damage) in [
            (&node(), bounce.as_str()),
            (&node(), "ip link del cbr0"),
            (&node(), "ip route del 10.40.2.0/24"),
            (&node(), "ip route replace 10.40.2.0/24 via 10.40.1.253 proto 83"),
            (pod, "ip route del default"),
            (&node(), "nft delete table ip yard-test"),
            (&node(), "nft flush chain ip yard-test pre"),
            (&node(), "nft add rule ip yard-test pre counter drop"),
            (&node(), "nft delete element ip yard-test pods { 10.40.1.5 }"),
            (&node(), "nft add element ip yard-test pods { 10.40.1.99 }"),
            (&node(), "nft add element ip yard-test nets { 13.0.0.1-13.0.0.7 }"),
            (&node(), "nft delete element ip yard-test nets { 10.0.0.0/8 }"),
            (&node(), "ip addr del 10.40.1.1/24 dev cbr0"),
            (pod, "ip addr del 10.40.1.5/24 dev eth0"),
            (&node(), "ip neigh del 10.40.1.5 dev cbr0"),
            (&node(), "ip link set veth1 nomaster"),
            (&node(), "bridge link set dev veth1 hairpin off"),
            (&node(), "ip link set veth1 down"),
            (pod, "ip link set eth0 down"),
            (pod, "ip link set eth0 mtu 1300"),
            (&node(), "ip link del veth1"),
            (&node(), "ip rule del priority 500"),
            (&node(), "ip link add stray group 83 type bridge"),
            (&node(), "ip route add 10.77.0.0/16 via 10.40.1.9 proto 83"),
        ] {
            let start = Instant::now();
            run(&engine.lock().unwrap(), place, damage);
            let deadline = start + Duration::from_secs(30);
            loop {
                let left = deadline.saturating_duration_since(Instant::now());
                let repair = told.recv_timeout(left).unwrap_or_else(|_| panic!("{place}: {damage}: nobody noticed"));
                let audit = repair.outcome.unwrap();
                assert!(audit.errors.is_empty(), "{damage}: {audit:?}");
                let mut now = engine.lock().unwrap();
                let all = places.iter().cloned().collect();
                if now.audit(&all).unwrap().is_clean() {
                    eprintln!("{damage}: repaired after {:?}", start.elapsed());
                    took.push(start.elapsed());
                    assert_eq!(state(&now, &places), wanted, "{damage}");
                    break;
                }
            }
        }
        drop(keeper);
        took.sort();
        // On a busy machine single ones may take longer.
        let median = took[took.len() / 2];
        assert!(median < Duration::from_secs(1), "half of the repairs took longer than {median:?}: {took:?}");
    });
}

#[test]
fn what_was_replaced_comes_back_when_what_replaced_it_goes() {
    isolated("what_was_replaced_comes_back_when_what_replaced_it_goes", || {
        let engine = cluster();
        let places = [node(), Place::pod("p1")];
        let wanted = state(&engine, &places);
        let engine = Arc::new(Mutex::new(engine));
        let (tell, told) = mpsc::channel();
        let keeper = Keeper::spawn(&engine, move |repair| tell.send(repair).unwrap()).unwrap();
        let damage = |line: &str| drop(run(&engine.lock().unwrap(), &node(), line));
        let next = |why: &str| {
            let repair = told.recv_timeout(Duration::from_secs(30)).unwrap_or_else(|_| panic!("{why}: nobody noticed"));
            repair.outcome.unwrap()
        };
        // Somebody else's, and different: it is left alone, and said.
        damage("ip route replace 10.40.2.0/24 via 10.40.1.253");
        let audit = next("a route in the way");
        assert!(audit.errors.iter().any(|error| error.to_string().contains("somebody else")), "{audit:?}");
        damage("ip route del 10.40.2.0/24");
        while state(&engine.lock().unwrap(), &places) != wanted {
            next("the way is free");
        }
        // Somebody else's, and the same: it serves as well, as long as it is there.
        for (add, del) in [
            ("addr add 10.40.1.1/24 dev cbr0", "addr del 10.40.1.1/24 dev cbr0"),
            ("neigh add 10.40.1.5 lladdr 0a:58:0a:28:01:05 dev cbr0 nud permanent", "neigh del 10.40.1.5 dev cbr0"),
        ] {
            let batch = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(batch.path(), format!("{del}\n{add}\n")).unwrap();
            {
                // The engine is held, so that nobody repairs in between.
                let mut now = engine.lock().unwrap();
                run(&now, &node(), &format!("ip -batch {}", batch.path().display()));
                now.reconcile().unwrap();
            }
            damage(&format!("ip {del}"));
            loop {
                let mut now = engine.lock().unwrap();
                if now.audit(&places.iter().cloned().collect()).unwrap().is_clean() {
                    break;
                }
                drop(now);
                next(del);
            }
        }
        drop(keeper);
    });
}

#[test]
fn what_is_not_ours_is_left_alone() {
    isolated("what_is_not_ours_is_left_alone", || {
        let mut engine = cluster();
        for line in [
            "ip link add other0 type bridge",
            "ip link set other0 up",
            "ip addr add 192.0.2.1/24 dev other0",
            "ip route add 10.88.0.0/16 via 192.0.2.9",
            "ip route add 10.89.0.0/16 via 192.0.2.9 proto 84",
            "ip neigh add 192.0.2.7 lladdr 02:00:00:00:00:07 dev other0 nud permanent",
            "ip rule add from 192.0.2.0/24 table 200 priority 700",
            "nft add table ip other",
            "nft add table ip yard-other",
            "nft add chain ip yard-other c",
        ] {
            run(&engine, &node(), line);
        }
        let places = [node(), Place::pod("p1")];
        let before = state(&engine, &places);
        assert!(engine.reconcile().unwrap().is_clean());
        assert_eq!(state(&engine, &places), before);

        // In the way, different: refused, and nothing changed.
        for wish in [
            r#"{"node/n1":[{"kind":"link","name":"other0","type":{"bridge":{}}}]}"#,
            r#"{"node/n1":[{"kind":"route","to":"10.88.0.0/16","via":{"gateway":"10.40.1.9"}}]}"#,
            r#"{"node/n1":[{"kind":"table","table":{"family":"ip","name":"yard-other"}}]}"#,
            r#"{"node/n1":[{"kind":"neighbour","dev":"other0","address":"192.0.2.7","mac":"02:00:00:00:00:08"}]}"#,
        ] {
            let error = engine.set(unit("bad"), serde_json::from_str(wish).unwrap()).unwrap_err();
            assert_eq!(error.errno(), Some(17), "{wish}: {error}");
            assert!(error.to_string().contains("somebody else"), "{error}");
            assert_eq!(state(&engine, &places), before, "{wish}");
        }
        // In the way, the same: used, and not removed when it is wanted no longer.
        let same = r#"{"node/n1":[{"kind":"route","to":"10.88.0.0/16","via":{"gateway":"192.0.2.9"}},
            {"kind":"address","dev":"other0","address":"192.0.2.1/24"}]}"#;
        engine.set(unit("same"), serde_json::from_str(same).unwrap()).unwrap();
        assert!(engine.reconcile().unwrap().is_clean());
        engine.remove(unit("same")).unwrap();
        assert_eq!(state(&engine, &places), before);

        // An engine of another owner in the same place removes nothing of ours.
        let mut again = Places::new();
        again.add(node(), engine.places().get(&node()).unwrap().try_clone().unwrap());
        let mut lab = Engine::new(Owner { protocol: 84 }, again);
        let audit = lab.reconcile().unwrap();
        assert_eq!(audit.changes.len(), 1, "the route of protocol 84: {audit:?}");
        assert!(run(&lab, &node(), "ip route").contains("10.88.0.0/16"));
        assert!(engine.reconcile().unwrap().is_clean());
    });
}

#[test]
fn a_swap_goes_phase_by_phase_and_back() {
    isolated("a_swap_goes_phase_by_phase_and_back", || {
        let mut engine = cluster();
        let places = [node(), Place::pod("p1")];
        let before = state(&engine, &places);
        let other: Fragment = serde_json::from_str(
            r#"{"node/n1":[{"kind":"link","name":"vx0","mac":"02:00:00:00:00:09","type":{"vxlan":{"vni":7,"port":4789,"local":"10.40.1.1","gbp":true}}},
            {"kind":"fdb","dev":"vx0","mac":"00:00:00:00:00:00","remote":"10.140.0.12"},
            {"kind":"fdb","dev":"vx0","mac":"00:00:00:00:00:00","remote":"10.140.0.13"},
            {"kind":"fdb","dev":"vx0","mac":"02:00:00:00:00:33","remote":"10.140.0.13"},
            {"kind":"link","name":"cbr0","type":{"bridge":{}},"mtu":1400,"mac":"0a:58:0a:28:01:01"},
            {"kind":"address","dev":"cbr0","address":"10.40.1.1/24"},
            {"kind":"qdisc","dev":"cbr0","type":{"tbf":{"rate":1250000,"burst":15000,"limit":60000}}},
            {"kind":"route","to":"10.40.2.0/24","via":{"dev":"vx0"}}]}"#,
        )
        .unwrap();
        let changes = || [(unit("node"), Some(other.clone())), (unit("pod"), None)].into();
        for phases in 1..=2 {
            engine.prepare(changes()).unwrap();
            assert!(run(&engine, &node(), "ip route show 10.40.2.0/24").contains("10.40.1.254"), "not switched yet");
            assert!(run(&engine, &node(), "bridge fdb show dev vx0").contains("10.140.0.13"));
            assert!(engine.reconcile().unwrap().is_clean(), "what is prepared is no stray");
            assert!(engine.set(unit("x"), Fragment::new()).is_err(), "one change at a time");
            if phases == 2 {
                engine.switch().unwrap();
                assert!(run(&engine, &node(), "ip route show 10.40.2.0/24").contains("dev vx0"));
                assert!(engine.reconcile().unwrap().is_clean());
            }
            engine.abort().unwrap();
            assert_eq!(state(&engine, &places), before, "after {phases} phases");
        }
        engine.prepare(changes()).unwrap();
        engine.switch().unwrap();
        engine.clean().unwrap();
        assert!(engine.reconcile().unwrap().is_clean());
        assert_eq!(try_run(&engine, &node(), "ip link show veth1").0, 1);
        assert_eq!(try_run(&engine, &node(), "nft list table ip yard-test").0, 1);
    });
}

#[test]
fn what_the_kernel_does_not_let_go_does_not_hold_a_swap_open() {
    isolated("what_the_kernel_does_not_let_go_does_not_hold_a_swap_open", || {
        let mut engine = world::engine(&[]);
        let old = r#"{"node/n1":[{"kind":"link","name":"old0","type":{"bridge":{}}}]}"#;
        let new = r#"{"node/n1":[{"kind":"link","name":"new0","type":{"bridge":{}}}]}"#;
        engine.set(unit("node"), serde_json::from_str(old).unwrap()).unwrap();
        engine.prepare([(unit("node"), Some(serde_json::from_str(new).unwrap()))].into()).unwrap();
        engine.switch().unwrap();
        engine.withdraw().unwrap();
        // The kernel takes no loopback away, whatever it is called.
        run(&engine, &node(), "ip link del old0");
        run(&engine, &node(), "ip link set lo down name old0");
        for _ in 0..2 {
            let error = engine.clean().unwrap_err();
            assert!(error.to_string().contains("remove link old0"), "{error}");
            assert!(engine.pending().is_some(), "it may be tried again");
        }
        engine.finish().unwrap();
        assert_eq!(engine.pending(), None);
        engine.set(unit("x"), Fragment::new()).expect("the next change goes through");
        assert!(run(&engine, &node(), "ip link show new0").contains("new0"));
        run(&engine, &node(), "ip link set old0 name lo");
        assert!(engine.reconcile().unwrap().is_clean(), "nothing of the old wishes is left");
    });
}

#[test]
fn what_is_in_the_way_of_a_plan_is_seen_before_anything_changes() {
    isolated("what_is_in_the_way_of_a_plan_is_seen_before_anything_changes", || {
        let mut engine = world::engine(&[]);
        let link = |name: &str| {
            let json = format!(r#"{{"node/n1":[{{"kind":"link","name":"{name}","type":{{"bridge":{{}}}}}}]}}"#);
            serde_json::from_str::<Fragment>(&json).unwrap()
        };
        let changes = [(unit("a"), Some(link("cbr9"))), (unit("b"), Some(link("cbr8")))].into();
        let plan = engine.plan(&changes).unwrap();
        engine.clear_way(&plan).expect("there is nothing yet");
        run(&engine, &node(), "ip link add cbr9 type veth peer name other");
        let before = state(&engine, &[node()]);
        let error = engine.clear_way(&plan).unwrap_err();
        assert!(error.to_string().contains("node/n1: add link cbr9") && error.errno() == Some(17), "{error}");
        assert_eq!(state(&engine, &[node()]), before);
        run(&engine, &node(), "ip link del cbr9");
        // What is ours from another life is in nobody's way.
        run(&engine, &node(), "ip link add cbr9 group 83 type bridge");
        engine.clear_way(&plan).unwrap();
    });
}

#[test]
fn routes_of_an_earlier_life_are_recognised() {
    isolated("routes_of_an_earlier_life_are_recognised", || {
        let mut engine = cluster();
        let route = |to: &str| -> Option<Fragment> {
            let json = format!(r#"{{"node/n1":[{{"kind":"route","to":"{to}","via":{{"gateway":"10.40.1.254"}}}}]}}"#);
            serde_json::from_str(&json).unwrap()
        };
        run(&engine, &node(), "ip route add 10.40.7.0/24 via 10.40.1.254 proto 83");
        run(&engine, &node(), "ip route add 10.40.8.0/24 via 10.40.1.254");
        let units = ["10.40.7.0/24", "10.40.8.0/24", "10.40.9.0/24"].map(|to| (unit(to), route(to)));
        let there = engine.routes_there(&units.into()).unwrap();
        assert_eq!(there, [unit("10.40.7.0/24")].into(), "the second is somebody else's, the third is not there");
    });
}

/// An engine that takes over meets somebody else's interface under the name of one of its own.
#[test]
fn what_is_in_the_way_of_one_unit_keeps_no_other_out() {
    isolated("what_is_in_the_way_of_one_unit_keeps_no_other_out", || {
        let tunnel = |name: &str, number: u8| -> Fragment {
            serde_json::from_str(&format!(
                r#"{{"node/n1":[{{"kind":"link","name":"{name}","type":{{"bridge":{{}}}}}},
                {{"kind":"address","dev":"{name}","address":"10.50.{number}.1/24"}},
                {{"kind":"sysctl","path":"net/ipv4/conf/{name}/rp_filter","value":"2"}},
                {{"kind":"route","to":"10.60.{number}.0/24","via":{{"gateway":"10.50.{number}.2","dev":"{name}"}}}}]}}"#
            ))
            .unwrap()
        };
        let mut engine = engine(&[]);
        run(&engine, &node(), "ip link add a1 type veth peer name theirs");
        run(&engine, &node(), "ip link set a1 up");
        let units = [("segment/a", tunnel("a1", 1)), ("segment/b", tunnel("b1", 2))];
        engine.adopt(units.map(|(name, fragment)| (unit(name), Some(fragment))).into()).unwrap();
        let engine = Arc::new(Mutex::new(engine));
        let (tell, told) = mpsc::channel();
        let keeper = Keeper::spawn(&engine, move |repair| tell.send(repair).unwrap()).unwrap();
        let audit = engine.lock().unwrap().reconcile().unwrap();
        let blamed: Vec<_> = audit.units.into_iter().collect();
        let [((place, blamed), why)] = &blamed[..] else { panic!("{blamed:?}") };
        assert!(*place == node() && *blamed == unit("segment/a") && why.contains("link a1"), "{blamed}: {why}");
        let look = |line: &str| run(&engine.lock().unwrap(), &node(), line);
        assert!(look("ip route show 10.60.2.0/24").contains("10.50.2.2"));
        assert!(!look("ip addr show dev a1").contains("10.50.1.1"), "nothing of ours is on theirs");

        look("ip link del a1");
        let deadline = Instant::now() + Duration::from_secs(30);
        let mut freed = false;
        while !(freed && look("ip route show 10.60.1.0/24").contains("10.50.1.2")) {
            let left = deadline.saturating_duration_since(Instant::now());
            let repair = told.recv_timeout(left).expect("the way is free, and nobody noticed");
            freed |= repair.freed.contains(&node());
        }
        drop(keeper);
    });
}

#[test]
fn what_a_dead_engine_had_prepared_is_kept_and_can_be_taken_back() {
    isolated("what_a_dead_engine_had_prepared_is_kept_and_can_be_taken_back", || {
        let mut dead = cluster();
        let places = [node(), Place::pod("p1")];
        let before = state(&dead, &places);
        let more: Fragment = serde_json::from_str(
            r#"{"node/n1":[{"kind":"route","to":"10.40.9.0/24","via":{"gateway":"10.40.1.254"}},
            {"kind":"address","dev":"cbr0","address":"10.40.7.1/24"}]}"#,
        )
        .unwrap();
        let changes = || [(unit("more"), Some(more.clone()))].into();
        dead.prepare(changes()).unwrap();
        let prepared = state(&dead, &places);
        assert_ne!(prepared, before);

        let mut heir = Engine::new(dead.owner(), Places::new());
        for place in &places {
            heir.add_place(place.clone(), dead.places().get(place).unwrap().try_clone().unwrap());
        }
        let units = dead.ledger().units().map(|(unit, fragment)| (unit.clone(), Some(fragment.clone())));
        heir.adopt(units.collect()).unwrap();
        heir.prepare(changes()).unwrap();
        assert!(heir.reconcile().unwrap().is_clean(), "it was there already, and is wanted");
        assert_eq!(state(&heir, &places), prepared);
        heir.abort().unwrap();
        assert_eq!(state(&heir, &places), before);
    });
}
