use serde_json::json;
use switchyard_netstate::Place;

use super::*;
use crate::fixture::{lines, ready, slice, web};

fn pool() -> IpNet {
    "192.168.100.0/24".parse().unwrap()
}

fn of(service: &Service, backends: &[(u16, &[&str])]) -> Vec<String> {
    let tcp = |port: &u16| (Protocol::Tcp, *port);
    let backends = backends.iter().map(|(port, ips)| (tcp(port), ips.iter().map(|ip| ip.parse().unwrap()).collect()));
    lines(&external(&pool(), service, &backends.collect()), &Place::Router)
}

fn balanced() -> Service {
    web(json!({"type": "LoadBalancer", "ports": [{"name": "http", "port": 80, "nodePort": 30080}]}))
}

#[test]
fn an_address_leads_to_the_node_port_of_healthy_nodes_in_turn() {
    let lines = of(&balanced(), &[(30080, &["10.140.0.12", "10.140.0.11"])]);
    assert!(lines.iter().any(|line| line == "external-ips: 192.168.100.5 . tcp . 80 -> ext/default/web/tcp-80"));
    let chain = lines.iter().find(|line| line.starts_with("chain node/")).unwrap();
    assert!(chain.ends_with(r#""targets":[["10.140.0.11",30080],["10.140.0.12",30080]]}}}]]"#), "{chain}");
}

#[test]
fn without_a_healthy_node_the_address_stays_and_nothing_answers() {
    assert!(of(&balanced(), &[(30080, &[])]).is_empty() && of(&balanced(), &[]).is_empty());
    let held = external_hold(&IfName::new("external0").unwrap(), &external_addresses(&pool(), &balanced()));
    assert_eq!(lines(&held, &Place::Router), ["address 192.168.100.5 dev external0"]);
}

#[test]
fn an_address_outside_the_pool_is_nobodys() {
    let mut service = balanced();
    service.status = serde_json::from_value(json!({"loadBalancer": {"ingress": [{"ip": "10.140.0.1"}]}})).unwrap();
    assert!(external_addresses(&pool(), &service).is_empty());
    assert!(of(&service, &[(30080, &["10.140.0.11"])]).is_empty());
}

#[test]
fn the_policy_decides_which_nodes_can_answer() {
    let slices = [slice(&[("10.40.1.5", "n1", ready()), ("10.40.2.7", "n2", json!({"ready": false}))])];
    let of = |policy, slices| {
        let mut service = balanced();
        service.spec.as_mut().unwrap().external_traffic_policy = Some(String::from(policy));
        external_candidates(&service, slices).remove(&(Protocol::Tcp, 30080)).unwrap()
    };
    assert_eq!(of("Cluster", &slices), Candidates::EveryNode);
    assert_eq!(of("Local", &slices), Candidates::Only(["n1".to_owned()].into()));
    assert_eq!(of("Local", &[]), Candidates::Nobody);
}
