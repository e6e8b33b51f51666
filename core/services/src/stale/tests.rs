use serde_json::json;

use super::*;
use crate::fixture::{facts, ready, web};

fn dns() -> Service {
    web(json!({"type": "NodePort", "ports": [{"name": "dns", "port": 53, "protocol": "UDP", "nodePort": 30053}]}))
}

fn ways(ips: Option<&[&str]>) -> UdpWays {
    let Some(ips) = ips else { return UdpWays::new() };
    let endpoints: Vec<_> = ips.iter().map(|ip| (*ip, "n1", ready())).collect();
    let mut slice = crate::fixture::slice(&endpoints);
    slice.ports = serde_json::from_value(json!([{"name": "dns", "port": 5353, "protocol": "UDP"}])).unwrap();
    udp_ways(&facts(), &dns(), &[slice], &Taken::new())
}

fn between(old: Option<&[&str]>, new: Option<&[&str]>) -> Vec<String> {
    let stale = Stale::between(&ways(old), &ways(new));
    stale.gone.iter().map(|((to, port), (from, number))| format!("{to}:{port} -> {from}:{number}")).collect()
}

fn end(ip: &str, port: u16) -> End {
    (ip.parse().unwrap(), port)
}

#[test]
fn flows_to_an_endpoint_that_went_away_are_stale_at_every_entrance() {
    assert_eq!(
        between(Some(&["10.40.1.5", "10.40.1.6"]), Some(&["10.40.1.6"])),
        ["10.96.0.10:53 -> 10.40.1.5:5353", "10.140.0.11:30053 -> 10.40.1.5:5353"]
    );
    assert_eq!(between(Some(&["10.40.1.5"]), None).len(), 2);
}

#[test]
fn flows_from_before_the_first_endpoint_are_stale() {
    let first = ["10.96.0.10:53 -> 10.96.0.10:53", "10.140.0.11:30053 -> 10.140.0.11:30053"];
    assert_eq!(between(None, Some(&["10.40.1.5"])), first);
    assert_eq!(between(Some(&[]), Some(&["10.40.1.5"])), first);
}

#[test]
fn nothing_is_stale_when_endpoints_only_come() {
    assert!(between(Some(&["10.40.1.5"]), Some(&["10.40.1.5", "10.40.1.6"])).is_empty());
    assert!(between(None, Some(&[])).is_empty());
}

#[test]
fn entrances_that_another_service_holds_are_its_own_business() {
    let port = Frontend::of(&dns()).unwrap().ports.remove(0);
    let taken = [(port.on_nodes().unwrap(), ("default".to_owned(), "other".to_owned()))].into();
    let ways = udp_ways(&facts(), &dns(), &[], &taken);
    assert_eq!(ways.into_keys().collect::<Vec<_>>(), [end("10.96.0.10", 53)]);
}

#[test]
fn without_a_memory_all_that_lead_elsewhere_are_stale() {
    let stale = Stale::all_but(ways(Some(&["10.40.1.5"])));
    let (service, node_port, pod) = (end("10.96.0.10", 53), end("10.140.0.11", 30053), end("10.40.1.5", 5353));
    let (gone, elsewhere) = (end("10.40.1.6", 5353), end("192.0.2.53", 53));
    for (to, from, expected, why) in [
        (service, pod, false, "it leads to an endpoint"),
        (node_port, pod, false, "by the node port, too"),
        (service, gone, true, "its endpoint went"),
        (service, service, true, "it began before there was an endpoint"),
        (end("10.96.0.11", 53), gone, true, "its Service went"),
        (elsewhere, elsewhere, false, "it is no Service's"),
        (pod, pod, false, "it asks the pod itself"),
    ] {
        assert_eq!(stale.takes(to, from), expected, "{to:?} answered by {from:?}: {why}");
    }
    let nobody = Stale::all_but(ways(Some(&[])));
    assert!(!nobody.takes(service, service) && nobody.takes(service, pod));
}

#[test]
fn a_later_change_adds_to_an_earlier_one() {
    let mut stale = Stale::all_but(ways(Some(&["10.40.1.5", "10.40.1.6"])));
    stale.add(Stale::between(&ways(Some(&["10.40.1.5", "10.40.1.6"])), &ways(Some(&["10.40.1.6"]))));
    let service = end("10.96.0.10", 53);
    let takes = ["10.40.1.5", "10.40.1.6", "10.40.1.7"].map(|ip| stale.takes(service, end(ip, 5353)));
    assert_eq!(takes, [true, false, true]);
}
