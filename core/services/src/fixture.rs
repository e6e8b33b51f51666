//! Services and slices as tests write them.

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};
use switchyard_netstate::nft::{Chain, Data, Element, Verdict};
use switchyard_netstate::{Fragment, Object, Place};

use crate::NodeServiceFacts;

/// Facts of node `n1`.
pub(crate) fn facts() -> NodeServiceFacts {
    serde_json::from_value(json!({
        "node": "n1", "address": "10.140.0.11", "serviceCIDR": "10.96.0.0/16"
    }))
    .unwrap()
}

/// A Service `default/web` at 10.96.0.10, TCP port 80 named `http`, with more fields of its spec.
pub(crate) fn web(more: Value) -> Service {
    let mut spec = json!({
        "type": "ClusterIP", "clusterIP": "10.96.0.10", "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]
    });
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let ingress = json!({"loadBalancer": {"ingress": [{"ip": "192.168.100.5"}]}});
    let status = if spec["type"] == "LoadBalancer" { ingress } else { json!({}) };
    serde_json::from_value(json!({"metadata": {"namespace": "default", "name": "web"}, "spec": spec, "status": status}))
        .unwrap()
}

/// A slice of `web`: (address, node, conditions); port 8080 named `http`.
pub(crate) fn slice(endpoints: &[(&str, &str, Value)]) -> EndpointSlice {
    let endpoints: Vec<Value> = endpoints
        .iter()
        .map(|(ip, node, conditions)| json!({"addresses": [ip], "nodeName": node, "conditions": conditions}))
        .collect();
    serde_json::from_value(json!({
        "metadata": {"namespace": "default", "name": "web-1"}, "addressType": "IPv4", "endpoints": endpoints,
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}]
    }))
    .unwrap()
}

pub(crate) fn ready() -> Value {
    json!({"ready": true, "serving": true, "terminating": false})
}

/// The fragment as lines that a person can compare: elements as `set: key -> verdict`, chains as `chain NAME: RULES`.
pub(crate) fn lines(fragment: &Fragment, place: &Place) -> Vec<String> {
    let objects = fragment.get(place).map(|objects| objects.iter().map(|(_, o)| line(o)).collect());
    objects.unwrap_or_default()
}

fn line(object: &Object) -> String {
    match object {
        Object::Element(Element { set, key, data, .. }) => {
            let key: Vec<String> = key.iter().map(ToString::to_string).collect();
            let data = match data {
                Some(Data::Verdict(Verdict::Goto(chain))) => format!(" -> {chain}"),
                Some(data) => format!(" -> {data:?}"),
                None => String::new(),
            };
            format!("{set}: {}{data}", key.join(" . "))
        }
        Object::Chain(Chain { name, rules, .. }) => format!("chain {name}: {}", serde_json::to_string(rules).unwrap()),
        other => other.key().to_string(),
    }
}
