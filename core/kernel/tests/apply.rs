//! What is wanted is what the kernel shows, as `ip`, `bridge` and `nft` see it.

mod world;

use std::collections::BTreeMap;

use switchyard_kernel::Feature;
use switchyard_netstate::{Fragment, Place, UnitId};
use world::{engine, has, isolated, json, node, run, state};

fn fragment(json: &str) -> Fragment {
    serde_json::from_str(json).unwrap()
}

fn unit(name: &str) -> UnitId {
    UnitId(name.into())
}

/// A node with a bridge, and what a pod with this number hangs on it.
fn node_fragment() -> Fragment {
    fragment(
        r#"{"node/n1":[
        {"kind":"link","name":"lo","type":"existing"},
        {"kind":"link","name":"cbr0","type":{"bridge":{}},"mtu":1450,"mac":"0a:58:0a:28:01:01"},
        {"kind":"address","dev":"cbr0","address":"10.40.1.1/24"},
        {"kind":"sysctl","path":"net/ipv4/ip_forward","value":"1"},
        {"kind":"route","to":"10.40.2.0/24","via":{"gateway":"10.40.1.254"}},
        {"kind":"route","to":"10.99.0.0/16","via":{"blackhole":true},"table":100},
        {"kind":"rule","priority":500,"from":"10.40.1.0/24","mark":[1,255],"table":100},
        {"kind":"table","table":{"family":"ip","name":"yard-test"}},
        {"kind":"set","table":{"family":"ip","name":"yard-test"},"name":"pods","key":["ipv4"]},
        {"kind":"set","table":{"family":"ip","name":"yard-test"},"name":"services","key":["ipv4","proto","port"],"data":["verdict"]},
        {"kind":"chain","table":{"family":"ip","name":"yard-test"},"name":"svc-a","rules":[
            [{"dnat":{"choose":{"by":{"numgen_inc":{"modulus":2}},"targets":[["10.40.1.5",80],["10.40.1.6",80]]}}}]]},
        {"kind":"chain","table":{"family":"ip","name":"yard-test"},"name":"pre",
            "base":{"type":"nat","hook":"prerouting","priority":-100},"rules":[
            [{"vmap":{"key":["ip_daddr","l4proto","dport"],"map":"services"}}],
            [{"match":{"left":"ip_saddr","right":{"prefix":"10.40.0.0/16"}}},"counter",{"verdict":"accept"}]]},
        {"kind":"element","table":{"family":"ip","name":"yard-test"},"set":"services",
            "key":[{"ip":"10.96.0.10"},{"proto":6},{"port":80}],"data":{"verdict":{"goto":"svc-a"}}}
    ]}"#,
    )
}

fn pod_fragment(uid: &str, number: u32) -> Fragment {
    fragment(&format!(
        r#"{{"node/n1":[
        {{"kind":"link","name":"veth{number}","type":{{"veth":{{"peer":{{"place":"pod/{uid}","name":"eth0"}}}}}},"mtu":1450,
            "master":"cbr0","port":{{"hairpin":true,"isolated":true}}}},
        {{"kind":"neighbour","dev":"cbr0","address":"10.40.1.{number}","mac":"0a:58:0a:28:01:{number:02x}"}},
        {{"kind":"fdb","dev":"veth{number}","mac":"0a:58:0a:28:01:{number:02x}"}},
        {{"kind":"element","table":{{"family":"ip","name":"yard-test"}},"set":"pods","key":[{{"ip":"10.40.1.{number}"}}]}}],
        "pod/{uid}":[
        {{"kind":"link","name":"lo","type":"existing"}},
        {{"kind":"link","name":"eth0","type":{{"veth":{{"peer":{{"place":"node/n1","name":"veth{number}"}}}}}},"mtu":1450,
            "mac":"0a:58:0a:28:01:{number:02x}"}},
        {{"kind":"address","dev":"eth0","address":"10.40.1.{number}/24","noprefixroute":true}},
        {{"kind":"address","dev":"eth0","address":"fd00:40::{number}/64"}},
        {{"kind":"route","to":"10.40.1.1/32","via":{{"dev":"eth0"}}}},
        {{"kind":"route","to":"0.0.0.0/0","via":{{"gateway":"10.40.1.1","dev":"eth0"}},"mtu":1400,"source":"10.40.1.{number}"}}]}}"#
    ))
}

#[test]
fn a_node_and_a_pod_come_up_and_go_without_a_trace() {
    isolated("a_node_and_a_pod_come_up_and_go_without_a_trace", || {
        let mut engine = engine(&["p1"]);
        let places = [node(), Place::pod("p1")];
        let empty = state(&engine, &places);
        engine.set(unit("node"), node_fragment()).unwrap();
        let without_pod = state(&engine, &places);
        engine.set(unit("pod/p1"), pod_fragment("p1", 5)).unwrap();

        let links = json(&engine, &node(), "ip -d -j link show dev veth5");
        assert_eq!(links[0]["master"], "cbr0");
        assert_eq!(links[0]["group"], "83");
        assert_eq!(links[0]["operstate"], "UP");
        let slave = &links[0]["linkinfo"]["info_slave_data"];
        assert_eq!((&slave["hairpin"], &slave["isolated"]), (&true.into(), &true.into()), "{slave}");
        let eth0 = json(&engine, &places[1], "ip -j addr show dev eth0");
        assert_eq!(eth0[0]["address"], "0a:58:0a:28:01:05");
        assert_eq!(eth0[0]["mtu"], 1450);
        let routes = json(&engine, &places[1], "ip -j route show default");
        assert_eq!(routes[0]["gateway"], "10.40.1.1");
        assert_eq!(routes[0]["protocol"], "83");
        let neighbours = run(&engine, &node(), "ip neigh show dev cbr0");
        assert!(neighbours.contains("10.40.1.5 lladdr 0a:58:0a:28:01:05 PERMANENT proto 83"), "{neighbours}");
        assert!(run(&engine, &node(), "nft list set ip yard-test pods").contains("elements = { 10.40.1.5 }"));
        let ruleset = run(&engine, &node(), "nft list ruleset");
        for wanted in [
            "dnat ip to numgen inc mod 2 map { 0 : 10.40.1.5 . 80, 1 : 10.40.1.6 . 80 }",
            "ip daddr . meta l4proto . th dport vmap @services",
            "ip saddr 10.40.0.0/16 counter packets",
            "10.96.0.10 . tcp . 80 : goto svc-a",
        ] {
            assert!(ruleset.contains(wanted), "{wanted}\n{ruleset}");
        }

        let audit = engine.reconcile().unwrap();
        assert!(audit.is_clean(), "{audit:?}");
        engine.remove(unit("pod/p1")).unwrap();
        // The pod's loopback is as it was, too.
        assert_eq!(state(&engine, &places), without_pod);
        engine.remove(unit("node")).unwrap();
        assert_eq!(state(&engine, &places), empty);
        assert!(engine.reconcile().unwrap().is_clean());
    });
}

/// What a tunnel that is told by routes puts around packets. Any interface takes such routes; only a tunnel does what they say.
#[test]
fn a_route_says_what_its_packets_are_wrapped_in() {
    isolated("a_route_says_what_its_packets_are_wrapped_in", || {
        let mut engine = engine(&[]);
        let wrapped = |encap: &str| {
            fragment(&format!(
                r#"{{"node/n1":[{{"kind":"link","name":"cbr0","type":{{"bridge":{{}}}}}},
                {{"kind":"address","dev":"cbr0","address":"10.40.1.1/24"}},
                {{"kind":"route","to":"10.7.0.0/16","mtu":1400,
                    "via":{{"dev":"cbr0","gateway":"10.40.2.1","onlink":true{encap}}}}}]}}"#
            ))
        };
        let one = wrapped(r#","encap":{"id":4096,"remote":"10.140.0.12"}"#);
        let shown = |engine: &switchyard_kernel::Engine| run(engine, &node(), "ip route show 10.7.0.0/16");
        for (wish, wanted) in [
            (wrapped(""), "10.7.0.0/16 via 10.40.2.1"),
            (one.clone(), " encap ip id 4096 src 0.0.0.0 dst 10.140.0.12 ttl 64 tos 0 key csum via 10.40.2.1 dev cbr0"),
            (wrapped(r#","encap":{"id":16777215,"remote":"10.140.0.12"}"#), " id 16777215 src"),
            (wrapped(r#","encap":{"id":7,"remote":"fd00::12"}"#), " encap ip6 id 7 src :: dst fd00::12 hoplimit 64"),
        ] {
            engine.set(unit("node"), wish).unwrap();
            assert!(shown(&engine).contains(wanted), "{wanted}: {}", shown(&engine));
            let audit = engine.reconcile().unwrap();
            assert!(audit.is_clean(), "{audit:?}");
        }
        engine.set(unit("node"), one.clone()).unwrap();
        let before = shown(&engine);
        run(&engine, &node(), "ip route change 10.7.0.0/16 via 10.40.2.1 dev cbr0 onlink proto 83 mtu 1400");
        assert!(!engine.reconcile().unwrap().is_clean(), "packets would go unwrapped");
        assert_eq!(shown(&engine), before);
        let error = engine.set(unit("node"), wrapped(r#","encap":{"id":16777216,"remote":"10.0.0.1"}"#)).unwrap_err();
        assert!(error.to_string().contains("encap id 16777216: must be below 16777216"), "{error}");
    });
}

#[test]
fn a_geneve_device_is_as_wanted_and_mended() {
    isolated("a_geneve_device_is_as_wanted_and_mended", || {
        if !has(Feature::Geneve) {
            return;
        }
        let mut engine = engine(&[]);
        let empty = state(&engine, &[node()]);
        let geneve = |port: u16| {
            fragment(&format!(
                r#"{{"node/n1":[{{"kind":"link","name":"gnv","type":{{"geneve":{{"port":{port}}}}},"mtu":1450,"mac":"02:00:00:00:00:09"}}]}}"#
            ))
        };
        for port in [6081, 7000] {
            engine.set(unit("node"), geneve(port)).unwrap();
            let link = json(&engine, &node(), "ip -d -j link show dev gnv");
            let data = &link[0]["linkinfo"]["info_data"];
            assert_eq!((&data["external"], &data["port"]), (&true.into(), &port.into()), "{link}");
            assert_eq!((&link[0]["mtu"], &link[0]["group"]), (&1450.into(), &"83".into()), "{link}");
            assert!(engine.reconcile().unwrap().is_clean());
        }
        // Somebody makes another one of this name, told by nobody's routes.
        run(&engine, &node(), "ip link del gnv");
        run(&engine, &node(), "ip link add gnv group 83 type geneve id 7 remote 10.0.0.1 dstport 7000");
        assert!(!engine.reconcile().unwrap().is_clean());
        let link = json(&engine, &node(), "ip -d -j link show dev gnv");
        assert_eq!(link[0]["linkinfo"]["info_data"]["external"], true, "{link}");
        engine.remove(unit("node")).unwrap();
        assert_eq!(state(&engine, &[node()]), empty);
    });
}

/// The kernel would forget the interface's neighbours.
#[test]
fn an_address_that_is_there_already_is_not_set_again() {
    isolated("an_address_that_is_there_already_is_not_set_again", || {
        let mut engine = engine(&[]);
        let bridge = |mac: &str| {
            fragment(&format!(r#"{{"node/n1":[{{"kind":"link","name":"cbr0","type":{{"bridge":{{}}}}{mac}}}]}}"#))
        };
        engine.set(unit("node"), bridge("")).unwrap();
        let link = json(&engine, &node(), "ip -j link show dev cbr0");
        let mac = link[0]["address"].as_str().unwrap();
        run(&engine, &node(), "ip neigh add 10.40.1.5 lladdr 0a:58:0a:28:01:05 nud stale dev cbr0");
        engine.set(unit("node"), bridge(&format!(r#","mac":"{mac}""#))).unwrap();
        let neighbours = run(&engine, &node(), "ip neigh show dev cbr0");
        assert!(neighbours.contains("10.40.1.5 lladdr 0a:58:0a:28:01:05"), "{neighbours:?}");
        engine.set(unit("node"), bridge(r#","mac":"02:00:00:00:00:01""#)).unwrap();
        let link = json(&engine, &node(), "ip -j link show dev cbr0");
        assert_eq!(link[0]["address"], "02:00:00:00:00:01");
    });
}

#[test]
fn a_failure_midway_leaves_everything_as_it_was() {
    isolated("a_failure_midway_leaves_everything_as_it_was", || {
        let mut engine = engine(&["p1"]);
        let places = [node(), Place::pod("p1")];
        engine.set(unit("node"), node_fragment()).unwrap();
        let before = state(&engine, &places);
        // The last route's gateway cannot be reached: the kernel refuses after everything else is in place.
        let mut bad = pod_fragment("p1", 7);
        bad.merge(fragment(
            r#"{"pod/p1":[{"kind":"route","to":"10.7.0.0/16","via":{"gateway":"192.0.2.1"},"metric":9}]}"#,
        ));
        let error = engine.set(unit("pod/p1"), bad).unwrap_err();
        assert_eq!(error.place(), Some(&Place::pod("p1")));
        assert_eq!(error.errno(), Some(101));
        assert!(error.to_string().contains("pod/p1: add route 10.7.0.0/16"), "{error}");
        assert!(error.to_string().contains("gateway"), "the kernel's own words: {error}");
        assert_eq!(state(&engine, &places), before);
        engine.set(unit("pod/p1"), pod_fragment("p1", 7)).unwrap();
        assert!(engine.reconcile().unwrap().is_clean());
    });
}

#[test]
fn what_is_in_the_way_is_left_as_it_is() {
    isolated("what_is_in_the_way_is_left_as_it_is", || {
        let mut engine = engine(&[]);
        run(&engine, &node(), "ip link add cbr0 mtu 1400 type veth peer name other");
        let before = state(&engine, &[node()]);
        let error = engine.set(unit("node"), node_fragment()).unwrap_err();
        assert_eq!(error.errno(), Some(17), "{error}");
        assert_eq!(state(&engine, &[node()]), before);
        assert!(engine.reconcile().unwrap().is_clean());
        assert_eq!(state(&engine, &[node()]), before);
    });
}

#[test]
fn a_second_engine_adopts_what_is_right_and_removes_what_nobody_wants() {
    isolated("a_second_engine_adopts_what_is_right_and_removes_what_nobody_wants", || {
        let mut first = engine(&["p1", "p2"]);
        let places = [node(), Place::pod("p1"), Place::pod("p2")];
        first.set(unit("node"), node_fragment()).unwrap();
        first.set(unit("pod/p1"), pod_fragment("p1", 5)).unwrap();
        let with_one = state(&first, &places);
        first.set(unit("pod/p2"), pod_fragment("p2", 6)).unwrap();
        let with_two = state(&first, &places);

        let mut again = switchyard_kernel::Places::new();
        for place in &places {
            again.add(place.clone(), first.places().get(place).unwrap().try_clone().unwrap());
        }
        let mut second = switchyard_kernel::Engine::new(world::OWNER, again);
        let all = [("node", node_fragment()), ("pod/p1", pod_fragment("p1", 5)), ("pod/p2", pod_fragment("p2", 6))];
        let all: BTreeMap<_, _> = all.into_iter().map(|(name, fragment)| (unit(name), Some(fragment))).collect();
        second.adopt(all).unwrap();
        let audit = second.reconcile().unwrap();
        assert!(audit.is_clean(), "nothing that is right is touched: {audit:?}");
        assert_eq!(state(&second, &places), with_two);

        second.adopt(BTreeMap::from([(unit("pod/p2"), None)])).unwrap();
        let audit = second.reconcile().unwrap();
        assert!(audit.errors.is_empty() && !audit.changes.is_empty(), "{audit:?}");
        // Only the pod's loopback, which is not ours, stays up.
        let lo_down = state(&second, &places[..2]);
        assert_eq!(lo_down, with_one.split("## pod/p2").next().unwrap());
        assert!(second.reconcile().unwrap().is_clean());
    });
}
