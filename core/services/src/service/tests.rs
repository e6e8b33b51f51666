use serde_json::json;
use switchyard_netstate::{Ledger, Place, UnitId};

use super::*;
use crate::fixture::{facts, lines, ready, slice, web};
use crate::node_base;

fn of(service: &Service, slices: &[EndpointSlice]) -> Vec<String> {
    lines(&super::service(&facts(), service, slices, &Taken::new()), &Place::node("n1"))
}

fn two() -> EndpointSlice {
    slice(&[("10.40.2.7", "n2", ready()), ("10.40.1.5", "n1", ready())])
}

fn has(lines: &[String], wanted: &str) {
    assert!(lines.iter().any(|line| line == wanted), "no {wanted:?} in {lines:#?}");
}

fn chain<'a>(lines: &'a [String], name: &str) -> &'a str {
    let start = format!("chain {name}: ");
    lines.iter().find_map(|line| line.strip_prefix(&start)).unwrap_or_else(|| panic!("no chain {name} in {lines:#?}"))
}

#[test]
fn a_cluster_ip_is_one_element_and_one_chain_in_turn() {
    let lines = of(&web(json!({})), &[two()]);
    assert_eq!(lines.len(), 3);
    has(&lines, "service-ips: 10.96.0.10 . tcp . 80 -> svc/default/web/tcp-80");
    has(&lines, "hairpin: 10.40.1.5 . 10.40.1.5");
    assert_eq!(
        chain(&lines, "svc/default/web/tcp-80"),
        r#"[[{"dnat":{"choose":{"by":{"numgen_inc":{"modulus":2}},"targets":[["10.40.1.5",8080],["10.40.2.7",8080]]}}}]]"#
    );
}

#[test]
fn order_and_doubles_of_slices_do_not_matter() {
    let apart =
        [slice(&[("10.40.1.5", "n1", ready())]), slice(&[("10.40.2.7", "n2", ready()), ("10.40.1.5", "n1", ready())])];
    assert_eq!(of(&web(json!({})), &apart), of(&web(json!({})), &[two()]));
}

#[test]
fn without_endpoints_it_is_refused_at_every_entrance() {
    let service = web(json!({"type": "LoadBalancer", "externalIPs": ["192.0.2.1"],
        "ports": [{"name": "http", "port": 80, "nodePort": 30080}]}));
    let lines = of(&service, &[slice(&[("10.40.1.5", "n1", json!({"ready": false}))])]);
    assert_eq!(
        lines,
        [
            "no-endpoint-ips: 10.96.0.10 . tcp . 80 -> refuse",
            "no-endpoint-ips: 192.0.2.1 . tcp . 80 -> refuse",
            "no-endpoint-ips: 192.168.100.5 . tcp . 80 -> refuse",
            "no-endpoint-node-ports: tcp . 30080 -> refuse",
        ]
    );
}

#[test]
fn an_entrance_that_another_service_holds_is_left_to_it() {
    let service = web(json!({"type": "NodePort", "externalIPs": ["192.0.2.1", "192.0.2.2"],
        "ports": [{"name": "http", "port": 80, "nodePort": 30080}]}));
    let other = ("default".to_owned(), "other".to_owned());
    let port = Frontend::of(&service).unwrap().ports.remove(0);
    let taken: Taken = [port.at([192, 0, 2, 1].into()), port.on_nodes().unwrap()].map(|at| (at, other.clone())).into();
    for slices in [vec![two()], vec![]] {
        let lines = lines(&super::service(&facts(), &service, &slices, &taken), &Place::node("n1")).join("\n");
        assert!(lines.contains("10.96.0.10 . tcp . 80") && lines.contains("192.0.2.2 . tcp . 80"), "{lines}");
        assert!(!lines.contains("192.0.2.1 . tcp . 80") && !lines.contains("tcp . 30080"), "{lines}");
    }
}

#[test]
fn endpoints_on_their_way_out_answer_only_when_nobody_else_does() {
    let leaving = json!({"ready": false, "serving": true, "terminating": true});
    let both = slice(&[("10.40.1.5", "n1", leaving.clone()), ("10.40.2.7", "n2", ready())]);
    assert!(chain(&of(&web(json!({})), &[both]), "svc/default/web/tcp-80").contains("10.40.2.7"));
    let last = slice(&[("10.40.1.5", "n1", leaving)]);
    assert!(chain(&of(&web(json!({})), &[last]), "svc/default/web/tcp-80").contains("10.40.1.5"));
    let deaf = json!({"ready": false, "serving": false, "terminating": true});
    has(
        &of(&web(json!({})), &[slice(&[("10.40.1.5", "n1", deaf)])]),
        "no-endpoint-ips: 10.96.0.10 . tcp . 80 -> refuse",
    );
}

#[test]
fn node_ports_and_outside_addresses_hide_the_source_except_of_pods_here() {
    let service = web(json!({"type": "LoadBalancer", "ports": [{"name": "http", "port": 80, "nodePort": 30080}]}));
    let lines = of(&service, &[two()]);
    has(&lines, "node-ports: tcp . 30080 -> ext/default/web/tcp-80");
    has(&lines, "service-ips: 192.168.100.5 . tcp . 80 -> ext/default/web/tcp-80");
    assert_eq!(
        chain(&lines, "ext/default/web/tcp-80"),
        concat!(
            r#"[[{"match":{"left":"ip_saddr","op":"eq","right":{"any":[{"ip":"192.168.100.5"}]}}},"#,
            r#"{"set_mark":{"value":16384,"mask":16384}},{"verdict":{"goto":"chk/default/web/tcp-80"}}],"#,
            r#"[{"lookup":{"key":["ip_saddr"],"set":"pods-here","invert":false}},"#,
            r#"{"verdict":{"goto":"svc/default/web/tcp-80"}}],"#,
            r#"[{"set_mark":{"value":16384,"mask":16384}},{"verdict":{"goto":"svc/default/web/tcp-80"}}]]"#
        )
    );
}

#[test]
fn a_local_policy_keeps_the_source_and_drops_where_nobody_is() {
    let service = web(json!({"type": "NodePort", "externalTrafficPolicy": "Local",
        "ports": [{"name": "http", "port": 80, "nodePort": 30080}]}));
    let here = of(&service, &[two()]);
    assert!(chain(&here, "loc/default/web/tcp-80").contains("10.40.1.5"));
    assert!(chain(&here, "ext/default/web/tcp-80").ends_with(r#"[{"verdict":{"goto":"loc/default/web/tcp-80"}}]]"#));
    let elsewhere = of(&service, &[slice(&[("10.40.2.7", "n2", ready())])]);
    has(&elsewhere, "no-endpoint-node-ports: tcp . 30080 -> Verdict(Drop)");
    has(&elsewhere, "node-ports: tcp . 30080 -> ext/default/web/tcp-80");
    has(&elsewhere, "service-ips: 10.96.0.10 . tcp . 80 -> svc/default/web/tcp-80");
}

#[test]
fn an_internal_local_policy_uses_this_nodes_endpoints_only() {
    let service = web(json!({"internalTrafficPolicy": "Local"}));
    has(&of(&service, &[two()]), "service-ips: 10.96.0.10 . tcp . 80 -> loc/default/web/tcp-80");
    let elsewhere = of(&service, &[slice(&[("10.40.2.7", "n2", ready())])]);
    has(&elsewhere, "no-endpoint-ips: 10.96.0.10 . tcp . 80 -> Verdict(Drop)");
}

#[test]
fn affinity_remembers_clients_by_endpoint() {
    let service = web(json!({"sessionAffinity": "ClientIP",
        "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 600}}}));
    let lines = of(&service, &[two()]);
    has(&lines, "pick/svc/default/web/tcp-80: 0x0 -> ep/default/web/tcp-80/10.40.1.5-8080");
    has(&lines, "pick/svc/default/web/tcp-80: 0x1 -> ep/default/web/tcp-80/10.40.2.7-8080");
    let endpoint = chain(&lines, "ep/default/web/tcp-80/10.40.1.5-8080");
    assert!(endpoint.contains(r#""timeout_seconds":600"#), "{endpoint}");
}

#[test]
fn services_without_a_data_plane_and_malformed_ports_want_nothing() {
    for spec in [
        json!({"clusterIP": "None"}),
        json!({"clusterIP": "x"}),
        json!({"type": "ExternalName"}),
        json!({"ports": [{"port": 70000}]}),
        json!({"ports": [{"port": 80, "protocol": "QUIC"}]}),
    ] {
        assert!(of(&web(spec.clone()), &[two()]).is_empty(), "{spec}");
    }
}

#[test]
fn names_stay_below_the_kernels_limit_and_apart() {
    let long = |last: &str| {
        let mut service = web(json!({"sessionAffinity": "ClientIP", "type": "NodePort"}));
        service.metadata.namespace = Some("n".repeat(63));
        service.metadata.name = Some(format!("{}{last}", "s".repeat(62)));
        super::service(&facts(), &service, &[slice(&[("100.140.110.150", "n1", ready())])], &Taken::new())
    };
    let names = |fragment: &Fragment| -> Vec<String> {
        let chains = fragment.get(&Place::node("n1")).unwrap().iter().filter_map(|(_, object)| match object {
            Object::Chain(chain) => Some(chain.name.clone()),
            Object::Set(set) => Some(set.name.clone()),
            _ => None,
        });
        chains.collect()
    };
    let (a, b) = (names(&long("a")), names(&long("b")));
    assert!(a.iter().all(|name| name.len() <= 127 && !b.contains(name)), "{a:?}");
}

#[test]
fn a_change_costs_the_same_among_many_services() {
    let plan = |others: u32| {
        let mut ledger = Ledger::default();
        let mut set = |unit: String, fragment| {
            let change = [(UnitId(unit), Some(fragment))].into();
            let plan = ledger.plan(&change).unwrap();
            ledger.commit(change);
            plan.ops().len()
        };
        set("service-base".into(), node_base(&facts()));
        for n in 0..others {
            let mut other = web(json!({"clusterIP": format!("10.96.{}.{}", 1 + n / 250, n % 250)}));
            other.metadata.name = Some(format!("other-{n}"));
            set(format!("service/default/other-{n}"), super::service(&facts(), &other, &[two()], &Taken::new()));
        }
        set("service/default/web".into(), super::service(&facts(), &web(json!({})), &[two()], &Taken::new()));
        let three = slice(&[("10.40.2.7", "n2", ready()), ("10.40.1.5", "n1", ready()), ("10.40.2.8", "n2", ready())]);
        set("service/default/web".into(), super::service(&facts(), &web(json!({})), &[three], &Taken::new()))
    };
    assert_eq!((plan(0), plan(1000)), (1, 1));
}
