use serde_json::json;
use switchyard_netstate::Place;
use tokio::sync::mpsc;

use super::*;

struct Rig {
    balancer: Balancer,
    nodes: Mirror<Node>,
}

fn node(name: &str, address: &str, ready: bool) -> Node {
    let ready = if ready { "True" } else { "False" };
    serde_json::from_value(json!({"metadata": {"name": name, "resourceVersion": ready}, "status": {
        "addresses": [{"type": "InternalIP", "address": address}], "conditions": [{"type": "Ready", "status": ready}]}}))
    .unwrap()
}

fn service() -> Service {
    serde_json::from_value(json!({"metadata": {"namespace": "default", "name": "web"},
        "spec": {"type": "LoadBalancer", "clusterIP": "10.96.0.1", "ports": [{"port": 80, "nodePort": 30080}]},
        "status": {"loadBalancer": {"ingress": [{"ip": "192.168.100.5"}]}}}))
    .unwrap()
}

fn slice() -> EndpointSlice {
    serde_json::from_value(json!({"addressType": "IPv4", "metadata":
        {"namespace": "default", "name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
        "endpoints": [{"addresses": ["10.40.1.5"], "nodeName": "n1"}], "ports": [{"port": 80}]}))
    .unwrap()
}

/// A balancer that knows everything but health. Its checks run, but what they find is nobody's business here.
fn rig(nodes: &[Node], service: Service, slices: &[EndpointSlice]) -> (Rig, Changes) {
    let (sender, _) = mpsc::unbounded_channel();
    let dev = IfName::new("external0").unwrap();
    let balancer = Balancer::new("192.168.100.0/24".parse().unwrap(), dev, Checks::new(sender));
    let mut rig = Rig { balancer, nodes: Mirror::default() };
    rig.nodes.take(Event::Init);
    for node in nodes {
        rig.nodes.take(Event::InitApply(node.clone()));
    }
    rig.nodes.take(Event::InitDone);
    for event in [Event::Init, Event::InitApply(service), Event::InitDone] {
        assert!(rig.balancer.service(event, &rig.nodes).is_empty(), "slices are not known yet");
    }
    rig.balancer.slice(Event::Init, &rig.nodes);
    for slice in slices {
        rig.balancer.slice(Event::InitApply(slice.clone()), &rig.nodes);
    }
    let changes = rig.balancer.slice(Event::InitDone, &rig.nodes);
    (rig, changes)
}

impl Rig {
    fn found(&mut self, target: &str, health: Health) -> Changes {
        let service = ObjectName::new("default", "web");
        let target = target.parse().map(Target::Port).or_else(|_| target.parse().map(Target::Node)).unwrap();
        self.balancer.report(&Report { service, target, health }, &self.nodes)
    }
}

fn names(changes: &Changes) -> Vec<(&str, bool)> {
    changes.iter().map(|(unit, fragment)| (unit.0.as_str(), fragment.is_some())).collect()
}

fn targets(changes: &Changes) -> usize {
    let lead = changes.get(&UnitId("external/default/web".into())).expect("the unit is decided");
    let Some(fragment) = lead else { return 0 };
    let text = serde_json::to_string(fragment.get(&Place::Router).unwrap()).unwrap();
    text.matches("10.140.0.11").count() + text.matches("10.140.0.12").count()
}

#[tokio::test]
async fn nothing_is_decided_before_the_first_check_has_ended() {
    let (mut rig, _) = rig(&[node("n1", "10.140.0.11", true), node("n2", "10.140.0.12", true)], service(), &[slice()]);
    let one_down = rig.found("10.140.0.11:30080", Health::Down);
    assert_eq!(names(&one_down), [("external-address/default/web", true)]);
    let both_down = rig.found("10.140.0.12:30080", Health::Down);
    assert_eq!(names(&both_down), [("external-address/default/web", true), ("external/default/web", false)]);
}

#[tokio::test]
async fn a_node_gets_traffic_once_its_port_answers_and_loses_it_when_not_ready() {
    let ready = [node("n1", "10.140.0.11", true), node("n2", "10.140.0.12", true)];
    let (mut rig, changes) = rig(&ready, service(), &[slice()]);
    assert_eq!(names(&changes), [("external-address/default/web", true)], "nothing is known of the nodes");
    assert!(!rig.balancer.is_settled());
    assert_eq!(targets(&rig.found("10.140.0.11:30080", Health::Up)), 1);
    assert!(rig.balancer.is_settled());
    assert_eq!(targets(&rig.found("10.140.0.12:30080", Health::Up)), 2);
    assert_eq!(targets(&rig.found("10.140.0.11:30080", Health::Down)), 1);
    rig.found("10.140.0.11:30080", Health::Up);
    rig.nodes.take(Event::Apply(node("n2", "10.140.0.12", false)));
    assert_eq!(targets(&rig.balancer.nodes(&rig.nodes)), 1);
}

#[tokio::test]
async fn without_endpoints_it_is_decided_at_once_that_nobody_answers() {
    let (mut rig, changes) = rig(&[node("n1", "10.140.0.11", true)], service(), &[]);
    assert_eq!(names(&changes), [("external-address/default/web", true), ("external/default/web", false)]);
    let gone = rig.balancer.service(Event::Delete(service()), &rig.nodes);
    assert_eq!(names(&gone), [("external-address/default/web", false), ("external/default/web", false)]);
}

#[tokio::test]
async fn one_port_that_answers_says_nothing_of_another() {
    let mut service = service();
    let mut tls = service.spec.clone().unwrap().ports.unwrap().remove(0);
    (tls.name, tls.port, tls.node_port) = (Some("tls".into()), 443, Some(30443));
    let mut slice = slice();
    slice.ports.as_mut().unwrap().push(serde_json::from_value(json!({"name": "tls", "port": 443})).unwrap());
    service.spec.as_mut().unwrap().ports.as_mut().unwrap().push(tls);
    let (mut rig, _) = rig(&[node("n1", "10.140.0.11", true)], service, &[slice]);
    let other = rig.found("10.140.0.11:30443", Health::Up);
    assert_eq!(names(&other), [("external-address/default/web", true)], "port 80 stays as it was found");
    assert!(!rig.balancer.is_settled());
    assert_eq!(targets(&rig.found("10.140.0.11:30080", Health::Up)), 2);
}

#[tokio::test]
async fn a_udp_port_is_as_well_as_its_node_and_its_flows_follow_it() {
    let mut service = service();
    let spec = service.spec.as_mut().unwrap();
    spec.external_traffic_policy = Some("Local".into());
    spec.ports.as_mut().unwrap()[0].protocol = Some("UDP".into());
    let on = |node: &str| {
        let mut slice = slice();
        slice.ports.as_mut().unwrap()[0].protocol = Some("UDP".into());
        slice.endpoints.as_mut().unwrap()[0].node_name = Some(node.into());
        slice
    };
    let nodes = [node("n1", "10.140.0.11", true), node("n2", "10.140.0.12", true)];
    let (mut rig, changes) = rig(&nodes, service, &[on("n1")]);
    assert_eq!(names(&changes), [("external-address/default/web", true)], "nothing is known of the node");
    assert_eq!(targets(&rig.found("10.140.0.11", Health::Up)), 1);
    let end = |ip: &str, port| (ip.parse().unwrap(), port);
    let (address, first) = (end("192.168.100.5", 80), end("10.140.0.11", 30080));
    assert!(rig.balancer.take_stale().takes(address, address), "flows from before there was a node");
    assert!(!rig.balancer.stale_from_before().takes(address, first));
    rig.balancer.slice(Event::Apply(on("n2")), &rig.nodes);
    assert!(!rig.balancer.take_stale().takes(address, first), "the kernel still leads there");
    assert_eq!(targets(&rig.found("10.140.0.12", Health::Up)), 1);
    assert!(rig.balancer.take_stale().takes(address, first), "the only endpoint is on another node");
    assert!(rig.balancer.stale_from_before().takes(address, first));
    assert_eq!(targets(&rig.found("10.140.0.12", Health::Down)), 0, "the node does not answer");
}
