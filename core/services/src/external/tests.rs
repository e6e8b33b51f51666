use serde_json::json;
use switchyard_netstate::Place;

use super::*;
use crate::fixture::{lines, web};

fn of(service: &Service, backends: &[(u16, &[&str])]) -> Vec<String> {
    let backends = backends.iter().map(|(port, ips)| (*port, ips.iter().map(|ip| ip.parse().unwrap()).collect()));
    let dev = IfName::new("external0").unwrap();
    lines(&external(&dev, &"192.168.100.0/24".parse().unwrap(), service, &backends.collect()), &Place::Router)
}

fn balanced() -> Service {
    web(json!({"type": "LoadBalancer", "ports": [{"name": "http", "port": 80, "nodePort": 30080}]}))
}

#[test]
fn an_address_leads_to_the_node_port_of_healthy_nodes_in_turn() {
    let lines = of(&balanced(), &[(30080, &["10.140.0.12", "10.140.0.11"])]);
    assert_eq!(lines[0], "address 192.168.100.5 dev external0");
    assert!(lines.iter().any(|line| line == "external-ips: 192.168.100.5 . tcp . 80 -> ext/default/web/tcp-80"));
    let chain = lines.iter().find(|line| line.starts_with("chain node/")).unwrap();
    assert!(chain.ends_with(r#""targets":[["10.140.0.11",30080],["10.140.0.12",30080]]}}}]]"#), "{chain}");
}

#[test]
fn without_a_healthy_node_the_address_stays_and_nothing_answers() {
    assert_eq!(of(&balanced(), &[(30080, &[])]), ["address 192.168.100.5 dev external0"]);
    assert_eq!(of(&balanced(), &[]), ["address 192.168.100.5 dev external0"]);
}

#[test]
fn an_address_outside_the_pool_is_nobodys() {
    let mut service = balanced();
    service.status = serde_json::from_value(json!({"loadBalancer": {"ingress": [{"ip": "10.140.0.1"}]}})).unwrap();
    assert!(of(&service, &[(30080, &["10.140.0.11"])]).is_empty());
}
