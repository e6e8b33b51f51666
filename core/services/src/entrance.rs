//! Where the fragment of a Service lets TCP connections in that somebody answers: for those who try whether they still arrive.

use std::net::IpAddr;

use switchyard_netstate::nft::{Element, Value};
use switchyard_netstate::{Fragment, Object};

use crate::frontend::{Entrance, Protocol};
use crate::node::{NODE_PORTS, SERVICE_IPS};

/// All entrances of a Service that has endpoints, from the fragment of any node.
pub fn entrances(fragment: &Fragment) -> Vec<Entrance> {
    let objects = fragment.places().flat_map(|(_, objects)| objects.iter());
    let mut entrances: Vec<Entrance> = objects.filter_map(|(_, object)| entrance(object)).collect();
    entrances.sort_unstable();
    entrances
}

fn entrance(object: &Object) -> Option<Entrance> {
    let Object::Element(Element { set, key, .. }) = object else { return None };
    match (set.as_str(), key.as_slice()) {
        (SERVICE_IPS, [Value::Ip(IpAddr::V4(ip)), Value::Proto(protocol), Value::Port(port)]) if is_tcp(*protocol) => {
            Some(Entrance::Address(*ip, Protocol::Tcp, *port))
        }
        (NODE_PORTS, [Value::Proto(protocol), Value::Port(port)]) if is_tcp(*protocol) => {
            Some(Entrance::NodePort(Protocol::Tcp, *port))
        }
        _ => None,
    }
}

fn is_tcp(protocol: u8) -> bool {
    protocol == Protocol::Tcp.number()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::Taken;
    use crate::fixture::{facts, ready, slice, web};

    #[test]
    fn connections_are_let_in_at_addresses_and_ports_of_nodes_where_somebody_answers() {
        let ports =
            json!([{"name": "http", "port": 80, "nodePort": 30080}, {"name": "u", "port": 53, "protocol": "UDP"}]);
        let service = web(json!({"type": "NodePort", "ports": ports}));
        let of = |slice| entrances(&crate::service(&facts(), &service, &[slice], &Taken::new()));
        let found = of(slice(&[("10.40.1.5", "n1", ready())]));
        assert_eq!(
            found,
            [Entrance::Address([10, 96, 0, 10].into(), Protocol::Tcp, 80), Entrance::NodePort(Protocol::Tcp, 30080)]
        );
        let nobody = slice(&[("10.40.1.5", "n1", json!({"ready": false}))]);
        assert_eq!(of(nobody), []);
    }
}
