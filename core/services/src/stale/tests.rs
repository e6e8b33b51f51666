use serde_json::json;

use super::*;
use crate::fixture::{facts, ready, web};

fn dns() -> Service {
    web(json!({"type": "NodePort", "ports": [{"name": "dns", "port": 53, "protocol": "UDP", "nodePort": 30053}]}))
}

fn slice(ips: &[&str]) -> Vec<EndpointSlice> {
    let endpoints: Vec<_> = ips.iter().map(|ip| (*ip, "n1", ready())).collect();
    let mut slice = crate::fixture::slice(&endpoints);
    slice.ports = serde_json::from_value(json!([{"name": "dns", "port": 5353, "protocol": "UDP"}])).unwrap();
    vec![slice]
}

fn between(old: Option<&[&str]>, new: Option<&[&str]>) -> Vec<String> {
    let service = dns();
    let (old, new) = (old.map(slice), new.map(slice));
    let stale = stale_udp(
        &facts(),
        old.as_deref().map(|slices| (&service, slices)),
        new.as_deref().map(|slices| (&service, slices)),
    );
    let end = |endpoint: &Option<(IpAddr, u16)>| endpoint.map_or("itself".into(), |(ip, port)| format!("{ip}:{port}"));
    stale.iter().map(|flow| format!("{}:{} -> {}", flow.address, flow.port, end(&flow.endpoint))).collect()
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
    let first = ["10.96.0.10:53 -> itself", "10.140.0.11:30053 -> itself"];
    assert_eq!(between(None, Some(&["10.40.1.5"])), first);
    assert_eq!(between(Some(&[]), Some(&["10.40.1.5"])), first);
}

#[test]
fn nothing_is_stale_when_endpoints_only_come() {
    assert!(between(Some(&["10.40.1.5"]), Some(&["10.40.1.5", "10.40.1.6"])).is_empty());
    assert!(between(None, Some(&[])).is_empty());
}
