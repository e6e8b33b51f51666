//! Whatever is wanted in between, going back to what was wanted before gives the same kernel state; and what has been applied
//! is what an audit expects.

mod world;

use std::collections::BTreeMap;

use switchyard_netstate::{Fragment, Place, UnitId};
use world::{engine, isolated, node, state};

/// A small generator of random numbers (xorshift), so that a failure can be repeated by its seed.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }

    fn chance(&mut self) -> bool {
        self.below(2) == 0
    }
}

/// What a node and up to three pods may want, at random but always sound.
fn wish(random: &mut Random) -> BTreeMap<UnitId, Option<Fragment>> {
    let mut changes = BTreeMap::new();
    let table = r#""table":{"family":"ip","name":"yard-p"}"#;
    let mut node = vec![
        format!(
            r#"{{"kind":"link","name":"cbr0","mac":"02:00:00:00:00:01","mtu":{},"type":{{"bridge":{{"multicast_snooping":{}}}}}}}"#,
            [1400, 1450, 1500][random.below(3) as usize],
            random.chance()
        ),
        format!(r#"{{"kind":"address","dev":"cbr0","address":"10.40.1.1/{}"}}"#, [24, 25][random.below(2) as usize]),
        format!(r#"{{"kind":"sysctl","path":"net/ipv4/ip_forward","value":"{}"}}"#, random.below(2)),
        r#"{"kind":"link","name":"lo","type":"existing"}"#.to_owned(),
        format!(r#"{{"kind":"table",{table}}}"#),
        format!(r#"{{"kind":"set",{table},"name":"pods","key":["ipv4"]}}"#),
        format!(r#"{{"kind":"set",{table},"name":"nets","key":["ipv4"],"interval":true}}"#),
        format!(r#"{{"kind":"set",{table},"name":"ports","key":["port"],"data":["verdict"]}}"#),
    ];
    let chains = random.below(4);
    for chain in 0..chains {
        node.push(format!(
            r#"{{"kind":"chain",{table},"name":"c{chain}","rules":[["counter",{{"verdict":"{}"}}]]}}"#,
            ["accept", "drop"][random.below(2) as usize]
        ));
        node.push(format!(
            r#"{{"kind":"element",{table},"set":"ports","key":[{{"port":{}}}],"data":{{"verdict":{{"goto":"c{}"}}}}}}"#,
            80 + chain,
            random.below(chains)
        ));
    }
    node.push(format!(
        r#"{{"kind":"chain",{table},"name":"base","base":{{"type":"filter","hook":"forward","priority":{},"policy":"{}"}},
            "rules":[[{{"lookup":{{"key":["ip_saddr"],"set":"nets"}}}},{{"vmap":{{"key":["dport"],"map":"ports"}}}}]]}}"#,
        random.below(3),
        ["accept", "drop"][random.below(2) as usize]
    ));
    for net in 0..random.below(4) {
        node.push(format!(
            r#"{{"kind":"element",{table},"set":"nets","key":[{{"net":"10.{net}.0.0/{}"}}]}}"#,
            16 + random.below(8)
        ));
    }
    for route in 0..random.below(4) {
        node.push(format!(
            r#"{{"kind":"route","to":"10.50.{route}.0/24","via":{{"gateway":"10.40.1.{}"}},"mtu":{}}}"#,
            100 + random.below(20),
            1300 + random.below(3)
        ));
    }
    if random.chance() {
        node.push(r#"{"kind":"link","name":"vx0","mac":"02:00:00:00:00:02","type":{"vxlan":{"vni":9,"port":4789,"local":"10.40.1.1"}}}"#.into());
        for remote in 0..random.below(3) {
            node.push(format!(
                r#"{{"kind":"fdb","dev":"vx0","mac":"00:00:00:00:00:00","remote":"10.140.0.1{remote}"}}"#
            ));
        }
    }
    if random.chance() {
        let priority = 500 + random.below(2);
        node.push(format!(
            r#"{{"kind":"rule","priority":{priority},"from":"10.40.0.0/16","table":{}}}"#,
            100 + random.below(2)
        ));
    }
    let fragment = format!(r#"{{"node/n1":[{}]}}"#, node.join(","));
    changes.insert(UnitId("node".into()), Some(parse(&fragment)));
    for pod in 1..=3 {
        let text = format!(
            r#"{{"node/n1":[
            {{"kind":"link","name":"veth{pod}","mac":"02:00:00:00:01:{pod:02x}","master":"cbr0","port":{{"hairpin":{},"isolated":{}}},
                "type":{{"veth":{{"peer":{{"place":"pod/p{pod}","name":"eth0"}}}}}}}},
            {{"kind":"element",{table},"set":"pods","key":[{{"ip":"10.40.1.{}"}}]}}],
            "pod/p{pod}":[
            {{"kind":"link","name":"eth0","mac":"02:00:00:00:02:{pod:02x}","mtu":{},"type":{{"veth":{{"peer":{{"place":"node/n1","name":"veth{pod}"}}}}}}}},
            {{"kind":"address","dev":"eth0","address":"10.40.1.{}/24"}},
            {{"kind":"route","to":"0.0.0.0/0","via":{{"gateway":"10.40.1.1"}}}}]}}"#,
            random.chance(),
            random.chance(),
            10 * pod + random.below(5),
            1300 + random.below(3),
            10 * pod + random.below(5),
        );
        changes.insert(UnitId(format!("pod/p{pod}")), random.chance().then(|| parse(&text)));
    }
    changes
}

fn parse(text: &str) -> Fragment {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn going_back_gives_the_same_state() {
    isolated("going_back_gives_the_same_state", || {
        let places = [node(), Place::pod("p1"), Place::pod("p2"), Place::pod("p3")];
        let mut engine = engine(&["p1", "p2", "p3"]);
        let empty = state(&engine, &places);
        for seed in 1..=8u64 {
            let mut random = Random(0x9e37_79b9_7f4a_7c15u64.wrapping_mul(seed));
            let (a, b) = (wish(&mut random), wish(&mut random));
            let mut apply = |what: &str, wish: &BTreeMap<UnitId, Option<Fragment>>| {
                engine.apply(wish.clone()).unwrap_or_else(|error| panic!("seed {seed}, {what}: {error}"));
                let audit = engine.audit(&places.iter().cloned().collect()).unwrap();
                assert!(audit.is_clean(), "seed {seed}, {what}: {audit:?}");
                state(&engine, &places)
            };
            let before = apply("a", &a);
            apply("b", &b);
            let after = apply("a again", &a);
            assert_eq!(before, after, "seed {seed}");
            let nothing = a.keys().map(|unit| (unit.clone(), None)).collect();
            assert_eq!(apply("nothing", &nothing), empty, "seed {seed}");
        }
    });
}
