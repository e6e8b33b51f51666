//! Every statement and expression, as nft(8) reads it back.

mod world;

use switchyard_netstate::{Fragment, UnitId};
use world::{engine, isolated, node, run};

/// A chain of each family with these rules; gives the ruleset.
fn listed(family: &str, hook: &str, rules: &[&str]) -> String {
    let table = format!(r#""table":{{"family":"{family}","name":"yard-t"}}"#);
    let sets = r#"[
        {"name":"addresses","key":["ipv4"]},{"name":"names","key":["ifname"]},{"name":"macs","key":["mac"]},{"name":"six","key":["ipv6"]},
        {"name":"turns","key":["mark"],"data":["verdict"]},{"name":"to-port","key":["ipv4"],"data":["ipv4","port"]},
        {"name":"to-address","key":["ipv4"],"data":["ipv4"]},{"name":"seen","key":["ipv4"],"dynamic":true,"size":1000},
        {"name":"last","key":["ipv4"],"data":["ipv4","port"],"dynamic":true},
        {"name":"ranges","key":["ipv4","port"],"interval":true},{"name":"ports","key":["port"],"interval":true}]"#;
    let sets: Vec<serde_json::Value> = serde_json::from_str(sets).unwrap();
    let mut objects = vec![format!(r#"{{"kind":"table",{table}}}"#)];
    for mut set in sets {
        set["kind"] = "set".into();
        set["table"] = serde_json::json!({"family": family, "name": "yard-t"});
        objects.push(set.to_string());
    }
    for (set, key, data) in [
        ("names", r#"{"ifname":"eth0"}"#, ""),
        ("macs", r#"{"mac":"02:00:00:00:00:01"}"#, ""),
        ("six", r#"{"ip":"fd00::1"}"#, ""),
        ("turns", r#"{"number":1}"#, r#","data":{"verdict":{"goto":"other"}}"#),
        ("to-port", r#"{"ip":"10.0.0.1"}"#, r#","data":{"values":[{"ip":"10.1.0.1"},{"port":8080}]}"#),
        ("to-address", r#"{"ip":"10.0.0.1"}"#, r#","data":{"values":[{"ip":"10.1.0.1"}]}"#),
        ("ranges", r#"{"net":"10.0.0.0/24"},{"ports":[80,90]}"#, ""),
        ("ports", r#"{"ports":[80,90]}"#, ""),
        ("ports", r#"{"port":100}"#, ""),
        ("ports", r#"{"ports":[60000,65535]}"#, ""),
    ] {
        objects.push(format!(r#"{{"kind":"element",{table},"set":"{set}","key":[{key}]{data}}}"#));
    }
    objects.push(format!(r#"{{"kind":"chain",{table},"name":"other"}}"#));
    objects.push(format!(r#"{{"kind":"chain",{table},"name":"c","base":{{{hook}}},"rules":[{}]}}"#, rules.join(",")));
    let fragment: Fragment = serde_json::from_str(&format!(r#"{{"node/n1":[{}]}}"#, objects.join(","))).unwrap();
    let mut engine = engine(&[]);
    engine.set(UnitId("t".into()), fragment).unwrap();
    let audit = engine.reconcile().unwrap();
    assert!(audit.is_clean(), "{audit:?}");
    run(&engine, &node(), "nft -nn list ruleset")
}

fn check(text: &str, wanted: &[&str]) {
    for one in wanted {
        assert!(text.contains(one), "missing: {one}\n{text}");
    }
}

#[test]
fn matches_and_verdicts() {
    isolated("matches_and_verdicts", || {
        let text = listed(
            "ip",
            r#""type":"filter","hook":"forward","priority":5,"policy":"drop""#,
            &[
                r#"[{"match":{"left":"ip_saddr","right":{"prefix":"10.0.0.0/9"}}},{"match":{"left":"l4proto","right":{"value":{"proto":6}}}},
                    {"match":{"left":"dport","op":"ne","right":{"value":{"port":80}}}},"counter",{"verdict":"accept"}]"#,
                r#"[{"match":{"left":"ip_daddr","right":{"range":[{"ip":"10.0.0.5"},{"ip":"10.0.0.9"}]}}},{"verdict":"drop"}]"#,
                r#"[{"match":{"left":"ip_daddr","right":{"any":[{"ip":"10.0.0.5"},{"net":"10.9.0.0/16"}]}}},{"verdict":"return"}]"#,
                r#"[{"match":{"left":"dport","op":"ge","right":{"value":{"port":1024}}}},{"verdict":{"jump":"other"}}]"#,
                r#"[{"match":{"left":{"mark":{"mask":16384}},"right":{"value":{"number":16384}}}},{"verdict":{"goto":"other"}}]"#,
                r#"[{"match":{"left":"ct_state","op":"has","right":{"value":{"state":{"established":true,"related":true}}}}},{"verdict":"accept"}]"#,
                r#"[{"match":{"left":"ct_status","op":"has","right":{"value":{"number":32}}}},{"verdict":"accept"}]"#,
                r#"[{"match":{"left":"ct_direction","right":{"value":{"number":1}}}},{"verdict":"accept"}]"#,
                r#"[{"match":{"left":{"ct_mark":{"mask":4294967295}},"right":{"value":{"number":7}}}},{"verdict":"accept"}]"#,
                r#"[{"match":{"left":"ct_original_ip_daddr","right":{"value":{"ip":"10.96.0.1"}}}},{"match":{"left":"l4proto","right":{"value":{"proto":6}}}},{"match":{"left":"ct_original_dport","right":{"value":{"port":443}}}},{"verdict":"accept"}]"#,
                r#"[{"match":{"left":"iifname","right":{"value":{"ifname":"eth0"}}}},{"match":{"left":"oifname","op":"ne","right":{"value":{"ifname":"eth1"}}}},{"verdict":"accept"}]"#,
                r#"[{"lookup":{"key":["iifname"],"set":"names","invert":true}},{"verdict":"drop"}]"#,
                r#"[{"match":{"left":"l4proto","right":{"value":{"proto":1}}}},{"match":{"left":"icmp_type","right":{"value":{"number":8}}}},{"limit":{"rate":10,"burst":5}},{"verdict":"accept"}]"#,
                r#"[{"limit":{"rate":100,"burst":20,"over":true}},{"verdict":"drop"}]"#,
                r#"[{"lookup":{"key":["ip_saddr","dport"],"set":"ranges"}},{"reject":"port_unreachable"}]"#,
                r#"[{"lookup":{"key":["dport"],"set":"ports"}},{"reject":"admin_prohibited"}]"#,
                r#"[{"match":{"left":"l4proto","right":{"value":{"proto":6}}}},{"reject":"tcp_reset"}]"#,
                r#"[{"set_mark":{"value":16384,"mask":16384}},{"ct_mark":"save"}]"#,
                r#"[{"ct_mark":"restore"}]"#,
                r#"[{"update":{"set":"seen","key":["ip_saddr"],"timeout_seconds":60}}]"#,
                r#"[{"update":{"set":"last","key":["ip_saddr"],"timeout_seconds":9,"data":[{"ip":"10.1.0.1"},{"port":80}]}}]"#,
                r#"[{"vmap":{"key":[{"numgen_inc":{"modulus":2}}],"map":"turns"}}]"#,
                r#"[{"match":{"left":{"numgen_random":{"modulus":10}},"op":"lt","right":{"value":{"number":3}}}},{"verdict":"drop"}]"#,
            ],
        );
        check(
            &text,
            &[
                "type filter hook forward priority 5; policy drop;",
                "ip saddr 10.0.0.0/9 tcp dport != 80 counter packets 0 bytes 0 accept",
                "ip daddr 10.0.0.5-10.0.0.9 drop",
                "ip daddr { 10.0.0.5, 10.9.0.0/16 } return",
                "th dport >= 1024 jump other",
                "meta mark & 0x00004000 == 0x00004000 goto other",
                "ct state 0x2,0x4 accept",
                "ct status 0x20 accept",
                "ct direction 1 accept",
                "ct mark 0x00000007 accept",
                "ct original ip daddr 10.96.0.1",
                "ct original proto-dst 443 accept",
                "iifname \"eth0\" oifname != \"eth1\" accept",
                "iifname != @names drop",
                "icmp type 8 limit rate 10/second accept",
                "limit rate over 100/second burst 20 packets drop",
                "ip saddr . th dport @ranges reject\n",
                "th dport @ports reject with icmp 13",
                "reject with tcp reset",
                "meta mark set meta mark | 0x00004000 ct mark set meta mark",
                "meta mark set ct mark",
                "update @seen { ip saddr timeout 60s }",
                "update @last { ip saddr timeout 9s : 10.1.0.1 . 80 }",
                "numgen inc mod 2 vmap @turns",
                "numgen random mod 10 < 3 drop",
                "elements = { 80-90, 100,",
                "60000-65535 }",
                "elements = { 10.0.0.0/24 . 80-90 }",
                "elements = { 0x00000001 : goto other }",
                "elements = { \"eth0\" }",
                "size 1000",
            ],
        );
    });
}

#[test]
fn translation() {
    isolated("translation", || {
        let text = listed(
            "ip",
            r#""type":"nat","hook":"prerouting","priority":-100"#,
            &[
                r#"[{"match":{"left":"fib_daddr_type","right":{"value":{"number":2}}}},{"match":{"left":"l4proto","right":{"value":{"proto":6}}}},{"dnat":{"to":{"address":"10.0.0.1","port":80}}}]"#,
                r#"[{"match":{"left":"fib_saddr_type","op":"ne","right":{"value":{"number":2}}}},{"dnat":{"to":{"address":"10.0.0.1"}}}]"#,
                r#"[{"dnat":{"map":{"key":["ip_daddr"],"map":"to-port"}}}]"#,
                r#"[{"dnat":{"map":{"key":["ip_daddr"],"map":"to-address"}}}]"#,
                r#"[{"dnat":{"choose":{"by":{"jhash_ip_saddr":{"modulus":2,"seed":7}},"targets":[["10.0.0.1",80],["10.0.0.2",81]]}}}]"#,
            ],
        );
        check(
            &text,
            &[
                "fib daddr type 2 meta l4proto 6 dnat to 10.0.0.1:80",
                "fib saddr type != 2 dnat to 10.0.0.1",
                "dnat ip to ip daddr map @to-port",
                "dnat to ip daddr map @to-address",
                "dnat ip to jhash ip saddr mod 2 seed 0x7 map { 0 : 10.0.0.1 . 80, 1 : 10.0.0.2 . 81 }",
                "elements = { 10.0.0.1 : 10.1.0.1 . 8080 }",
            ],
        );
        let text = listed(
            "inet",
            r#""type":"nat","hook":"postrouting","priority":100"#,
            &[
                r#"[{"match":{"left":"nfproto","right":{"value":{"number":2}}}},{"snat":{"target":{"to":{"address":"10.0.0.9"}}}}]"#,
                r#"[{"match":{"left":"nfproto","right":{"value":{"number":2}}}},{"snat":{"target":{"to":{"address":"10.0.0.8"}},"fully_random":true}}]"#,
                r#"[{"match":{"left":"nfproto","right":{"value":{"number":10}}}},{"match":{"left":"ip6_saddr","right":{"prefix":"fd00::/8"}}},{"lookup":{"key":["ip6_daddr"],"set":"six"}},{"masquerade":{"fully_random":true}}]"#,
            ],
        );
        check(
            &text,
            &[
                "snat ip to 10.0.0.9",
                "snat ip to 10.0.0.8 fully-random",
                "ip6 saddr fd00::/8 ip6 daddr @six masquerade fully-random",
            ],
        );
    });
}

#[test]
fn other_families() {
    isolated("other_families", || {
        let text = listed(
            "bridge",
            r#""type":"filter","hook":"forward","priority":0"#,
            &[
                r#"[{"match":{"left":"ether_type","right":{"value":{"number":2054}}}},{"match":{"left":"arp_saddr_ip","right":{"value":{"ip":"10.0.0.1"}}}},{"verdict":"accept"}]"#,
                r#"[{"lookup":{"key":["ether_saddr"],"set":"macs"}},{"match":{"left":"ether_daddr","right":{"value":{"mac":"02:00:00:00:00:09"}}}},{"verdict":"drop"}]"#,
            ],
        );
        check(&text, &["arp saddr ip 10.0.0.1 accept", "ether saddr @macs ether daddr 02:00:00:00:00:09 drop"]);
        let text = listed(
            "ip",
            r#""type":"filter","hook":"prerouting","priority":-300"#,
            &[
                r#"[{"match":{"left":"fib_saddr_oif","right":{"value":{"number":0}}}},{"verdict":"drop"}]"#,
                r#"["notrack"]"#,
            ],
        );
        check(&text, &["fib saddr . iif oif 0 drop", "notrack"]);
    });
}

#[test]
fn thousands_of_elements_go_in_and_are_audited() {
    isolated("thousands_of_elements_go_in_and_are_audited", || {
        let mut engine = engine(&[]);
        let table = r#""table":{"family":"ip","name":"yard-big"}"#;
        let mut objects = vec![
            format!(r#"{{"kind":"table",{table}}}"#),
            format!(r#"{{"kind":"set",{table},"name":"many","key":["ipv4","port"],"data":["verdict"]}}"#),
        ];
        let targets: Vec<String> = (0..3000).map(|n| format!(r#"["10.1.{}.{}",80]"#, n / 256, n % 256)).collect();
        objects.push(format!(
            r#"{{"kind":"chain",{table},"name":"c","base":{{"type":"nat","hook":"prerouting","priority":-100}},
                "rules":[[{{"dnat":{{"choose":{{"by":{{"numgen_inc":{{"modulus":3000}}}},"targets":[{}]}}}}}}]]}}"#,
            targets.join(",")
        ));
        for n in 0..5000 {
            objects.push(format!(
                r#"{{"kind":"element",{table},"set":"many","key":[{{"ip":"10.{}.{}.1"}},{{"port":80}}],"data":{{"verdict":"accept"}}}}"#,
                n / 256,
                n % 256
            ));
        }
        let fragment: Fragment = serde_json::from_str(&format!(r#"{{"node/n1":[{}]}}"#, objects.join(","))).unwrap();
        engine.set(UnitId("big".into()), fragment).unwrap();
        assert!(engine.reconcile().unwrap().is_clean());
        assert_eq!(run(&engine, &node(), "nft list map ip yard-big many").matches(": accept").count(), 5000);
        engine.remove(UnitId("big".into())).unwrap();
        assert_eq!(run(&engine, &node(), "nft list tables"), "");
    });
}

/// A table of one unit, and what another one wants in it.
fn after_a_table(objects: &[String], more: &[String]) -> (switchyard_kernel::Engine, Result<(), String>) {
    let fragment = |objects: &[String]| -> Fragment {
        serde_json::from_str(&format!(r#"{{"node/n1":[{}]}}"#, objects.join(","))).unwrap()
    };
    let mut engine = engine(&[]);
    engine.set(UnitId("table".into()), fragment(objects)).unwrap();
    let outcome = engine.set(UnitId("more".into()), fragment(more)).map_err(|error| error.to_string());
    (engine, outcome)
}

#[test]
fn what_no_message_can_hold_is_refused() {
    isolated("what_no_message_can_hold_is_refused", || {
        let table = r#""table":{"family":"ip","name":"yard-t"}"#;
        let chain = |rule: &str| format!(r#"{{"kind":"chain",{table},"name":"c","rules":[[{rule}]]}}"#);
        let name = "x".repeat(70_000);
        let key = vec![r#"{"mark":{"mask":255}}"#; 16].join(",");
        let many = vec![format!(r#"{{"lookup":{{"key":[{key}],"set":"s"}}}}"#); 128].join(",");
        let data = vec![r#""ipv6""#; 5000].join(",");
        for (object, part) in [
            (
                chain(&format!(r#"{{"lookup":{{"key":["ip_saddr"],"set":"{name}"}}}}"#)),
                "rule 0: takes more than the 64 KiB",
            ),
            (
                chain(&format!(r#"{{"vmap":{{"key":["ip_saddr"],"map":"{name}"}}}}"#)),
                "rule 0: takes more than the 64 KiB",
            ),
            (chain(&many), "rule 0: takes more than the 64 KiB"),
            (format!(r#"{{"kind":"set",{table},"name":"s","key":["ipv4"],"data":[{data}]}}"#), "at most 64 bytes"),
        ] {
            let (_, outcome) = after_a_table(&[format!(r#"{{"kind":"table",{table}}}"#)], &[object]);
            let error = outcome.unwrap_err();
            assert!(error.contains(part), "{}", &error[error.len().saturating_sub(300)..]);
        }
    });
}

#[test]
fn of_a_change_that_is_cut_nothing_stays_when_the_end_is_refused() {
    isolated("of_a_change_that_is_cut_nothing_stays_when_the_end_is_refused", || {
        let table = r#""table":{"family":"inet","name":"yard-t"}"#;
        let objects = [
            format!(r#"{{"kind":"table",{table}}}"#),
            format!(r#"{{"kind":"set",{table},"name":"many","key":["ipv6","ipv6","ipv6","ipv6"]}}"#),
            format!(r#"{{"kind":"set",{table},"name":"ranges","key":["ipv4"],"interval":true}}"#),
        ];
        let ip = r#"{"ip":"fd00::1"}"#;
        let element = |set: &str, key: &str| format!(r#"{{"kind":"element",{table},"set":"{set}","key":[{key}]}}"#);
        let mut more: Vec<_> =
            (0..8000).map(|n| element("many", &format!(r#"{{"ip":"fd00::{n:x}"}},{ip},{ip},{ip}"#))).collect();
        // More than a socket takes as net.core.wmem_max is by default. And no set holds two ranges that overlap.
        more.push(element("ranges", r#"{"ips":["10.0.0.1","10.0.0.9"]}"#));
        more.push(element("ranges", r#"{"ips":["10.0.0.5","10.0.0.20"]}"#));
        let (mut engine, outcome) = after_a_table(&objects, &more);
        let error = outcome.unwrap_err();
        assert!(error.contains("ranges"), "it says which: {error}");
        let listed = run(&engine, &node(), "nft list table inet yard-t");
        assert!(!listed.contains("elements"), "{}", &listed[..listed.len().min(2000)]);
        let audit = engine.reconcile().unwrap();
        assert!(audit.is_clean(), "{audit:?}");
    });
}

#[test]
fn a_number_out_of_a_map_may_be_looked_up_again() {
    isolated("a_number_out_of_a_map_may_be_looked_up_again", || {
        let table = r#""table":{"family":"ip","name":"yard-t"}"#;
        let set = |name: &str, rest: &str| format!(r#"{{"kind":"set",{table},"name":"{name}",{rest}}}"#);
        let element = |set: &str, key: &str, data: &str| {
            format!(r#"{{"kind":"element",{table},"set":"{set}","key":[{key}],"data":{data}}}"#)
        };
        let rules = r#"[{"set_priority":{"value":0}}],
            [{"set_priority":{"map":{"key":["ip_saddr"],"map":"classes"}}}],
            [{"vmap":{"key":["priority","l4proto","dport"],"map":"ports"}}],
            [{"vmap":{"key":["priority","l4proto","dport"],"map":"ranges"}}],
            [{"vmap":{"key":["priority"],"map":"verdicts"}}]"#;
        let objects = [
            format!(r#"{{"kind":"table",{table}}}"#),
            set("classes", r#""key":["ipv4"],"data":["mark"],"interval":true"#),
            set("ports", r#""key":["mark","proto","port"],"data":["verdict"]"#),
            set("ranges", r#""key":["mark","proto","port"],"data":["verdict"],"interval":true"#),
            set("verdicts", r#""key":["mark"],"data":["verdict"]"#),
            element("classes", r#"{"ips":["10.0.0.5","10.0.0.9"]}"#, r#"{"values":[{"number":7}]}"#),
            element("classes", r#"{"ips":["10.0.0.10","10.0.1.0"]}"#, r#"{"values":[{"number":8}]}"#),
            element("ports", r#"{"number":7},{"proto":6},{"port":80}"#, r#"{"verdict":"return"}"#),
            element("ranges", r#"{"number":7},{"proto":6},{"ports":[85,90]}"#, r#"{"verdict":"drop"}"#),
            element("verdicts", r#"{"number":7}"#, r#"{"verdict":"drop"}"#),
            format!(
                r#"{{"kind":"chain",{table},"name":"c","base":{{"type":"filter","hook":"forward","priority":5}},"rules":[{rules}]}}"#
            ),
        ];
        let fragment: Fragment = serde_json::from_str(&format!(r#"{{"node/n1":[{}]}}"#, objects.join(","))).unwrap();
        let mut engine = engine(&[]);
        engine.set(UnitId("t".into()), fragment).unwrap();
        let audit = engine.reconcile().unwrap();
        assert!(audit.is_clean(), "{audit:?}");
        let text = run(&engine, &node(), "nft -nn list ruleset");
        check(&text, &["meta priority set ip saddr map @classes", "th dport vmap @ports", "th dport vmap @ranges"]);
        check(&text, &["10.0.0.5-10.0.0.9", "10.0.0.10-10.0.1.0"]);
    });
}
