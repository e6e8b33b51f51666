//! Services with real packets: kubenet's fragments and ours, applied by the engine in fresh namespaces.

mod world;

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use k8s_openapi::api::core::v1::Service;
use serde_json::json;
use switchyard_netstate::{IfName, Place};
use switchyard_services::{
    Protocol, Stale, UdpWays, external, external_addresses, external_base, external_hold, external_udp_ways,
};
use world::{CLUSTER_IP, EXTERNAL_IP, NODE_PORT, Over, PORT, World, isolated, outside, ready, web};

const SERVICE: (&str, u16) = (CLUSTER_IP, PORT);
const N1: (&str, u16) = ("10.140.0.11", NODE_PORT);
const N2: (&str, u16) = ("10.140.0.12", NODE_PORT);
const BALANCED: (&str, u16) = (EXTERNAL_IP, PORT);

fn pod(name: &str) -> Place {
    Place::pod(name)
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Two rounds: all of `pods`, and again in the same order.
fn assert_in_turn(world: &World, over: Over, from: &Place, to: (&str, u16), pods: &[&str]) {
    let answers = world.answers(over, from, to, 2 * pods.len());
    let (first, second) = answers.split_at(pods.len());
    let mut sorted = first.to_vec();
    sorted.sort();
    assert!(sorted == pods && first == second, "{from} -> {to:?} {over:?}: {answers:?}");
}

fn assert_refused(world: &World, over: Over, from: &Place, to: (&str, u16)) {
    let error = world.ask(over, from, to).expect_err("nobody answers");
    // A local UDP sender is told by its own system call.
    let refused = matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::PermissionDenied);
    assert!(refused, "{from} -> {to:?} {over:?}: {error}");
}

/// Nothing comes back, not even a refusal.
fn assert_silent(world: &mut World, over: Over, from: &Place, to: (&str, u16)) {
    let patience = std::mem::replace(&mut world.patience, Duration::from_secs(1));
    let error = world.ask(over, from, to).expect_err("nobody answers");
    world.patience = patience;
    assert!(matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock), "{from} -> {to:?} {over:?}: {error}");
}

/// The load balancer on the router, in front of these nodes.
fn balance(world: &mut World, nodes: &[&str]) {
    balance_as(world, &web(json!({})), nodes);
}

/// The same for a Service like this. Gives who answers UDP.
fn balance_as(world: &mut World, web: &Service, nodes: &[&str]) -> UdpWays {
    let (pool, dev) = ("192.168.100.0/24".parse().unwrap(), IfName::new("external0").unwrap());
    let nodes: Vec<Ipv4Addr> = nodes.iter().map(|node| node.parse().unwrap()).collect();
    let backends = [Protocol::Tcp, Protocol::Udp].map(|protocol| ((protocol, NODE_PORT), nodes.clone())).into();
    world.set("external-base", external_base());
    world.set("external-address/default/web", external_hold(&dev, &external_addresses(&pool, web)));
    world.set("external/default/web", external(&pool, web, &backends));
    external_udp_ways(&pool, web, &backends)
}

#[test]
fn a_cluster_ip_is_answered_in_turn_and_shows_who_asks() {
    isolated("a_cluster_ip_is_answered_in_turn_and_shows_who_asks", |mut world| {
        world.publish(&web(json!({})), &ready(&["a", "b", "c"]));
        for over in [Over::Tcp, Over::Udp] {
            for from in [pod("a"), pod("c"), Place::node("n1"), Place::node("n2")] {
                assert_in_turn(&world, over, &from, SERVICE, &["a", "b", "c"]);
            }
            world.publish(&web(json!({})), &ready(&["b", "c"]));
            for _ in 0..2 {
                assert_eq!(world.ask(over, &pod("a"), SERVICE).unwrap().1, ip("10.40.1.5"));
            }
            assert_eq!(world.ask(over, &Place::node("n2"), SERVICE).unwrap().1, ip("10.140.0.12"));
            world.publish(&web(json!({})), &ready(&["a", "b", "c"]));
        }
    });
}

#[test]
fn a_pod_reaches_itself_at_every_address_of_its_service() {
    isolated("a_pod_reaches_itself_at_every_address_of_its_service", |mut world| {
        world.publish(&web(json!({})), &ready(&["a"]));
        for over in [Over::Tcp, Over::Udp] {
            for to in [SERVICE, N1, BALANCED] {
                let (who, seen) = world.ask(over, &pod("a"), to).unwrap_or_else(|error| panic!("{to:?}: {error}"));
                assert_eq!(who, "a");
                assert_ne!(seen, ip("10.40.1.5"), "its own address would never come back");
            }
        }
    });
}

#[test]
fn node_ports_answer_in_turn_from_everywhere_and_hide_who_asks() {
    isolated("node_ports_answer_in_turn_from_everywhere_and_hide_who_asks", |mut world| {
        world.publish(&web(json!({})), &ready(&["a", "b", "c"]));
        for over in [Over::Tcp, Over::Udp] {
            for from in [outside(), Place::node("n1"), pod("a"), Place::Router] {
                for to in [N1, N2] {
                    assert_in_turn(&world, over, &from, to, &["a", "b", "c"]);
                }
            }
            assert_ne!(world.ask(over, &outside(), N1).unwrap().1, ip("172.16.0.2"));
        }
        assert_refused(&world, Over::Tcp, &Place::node("n1"), ("127.0.0.1", NODE_PORT));
    });
}

#[test]
fn a_local_policy_shows_who_asks_and_is_silent_on_nodes_without_endpoints() {
    isolated("a_local_policy_shows_who_asks_and_is_silent_on_nodes_without_endpoints", |mut world| {
        world.publish(&web(json!({"externalTrafficPolicy": "Local"})), &ready(&["a", "b"]));
        for over in [Over::Tcp, Over::Udp] {
            assert_in_turn(&world, over, &outside(), N1, &["a", "b"]);
            assert_eq!(world.ask(over, &outside(), N1).unwrap().1, ip("172.16.0.2"));
            assert_silent(&mut world, over, &outside(), N2);
            // Whoever is on the node itself is inside the cluster.
            assert_in_turn(&world, over, &Place::node("n2"), N2, &["a", "b"]);
            assert_in_turn(&world, over, &pod("c"), BALANCED, &["a", "b"]);
        }
        world.publish(&web(json!({"internalTrafficPolicy": "Local"})), &ready(&["a", "c"]));
        assert_eq!(world.answers(Over::Tcp, &pod("b"), SERVICE, 3), ["a", "a", "a"]);
        assert_eq!(world.answers(Over::Tcp, &pod("c"), SERVICE, 3), ["c", "c", "c"]);
        world.publish(&web(json!({"internalTrafficPolicy": "Local"})), &ready(&["a"]));
        assert_silent(&mut world, Over::Tcp, &pod("c"), SERVICE);
    });
}

#[test]
fn without_endpoints_the_answer_is_a_refusal_at_once() {
    isolated("without_endpoints_the_answer_is_a_refusal_at_once", |mut world| {
        world.publish(&web(json!({})), &ready(&[]));
        for over in [Over::Tcp, Over::Udp] {
            for from in [pod("a"), Place::node("n1")] {
                for to in [SERVICE, BALANCED, N1, (CLUSTER_IP, 81), ("10.96.9.9", 80)] {
                    if from == Place::node("n1") && to == BALANCED && over == Over::Udp {
                        continue;
                    }
                    assert_refused(&world, over, &from, to);
                }
            }
            assert_refused(&world, over, &outside(), N1);
        }
    });
}

#[test]
fn a_client_keeps_its_endpoint_for_as_long_as_that_is_there() {
    isolated("a_client_keeps_its_endpoint_for_as_long_as_that_is_there", |mut world| {
        let sticky = web(json!({"sessionAffinity": "ClientIP"}));
        world.publish(&sticky, &ready(&["a", "b"]));
        let clients = [pod("a"), pod("b"), Place::node("n1")];
        let first: Vec<String> =
            clients.iter().map(|client| world.answers(Over::Tcp, client, SERVICE, 1).remove(0)).collect();
        assert!(
            first.contains(&"a".to_owned()) && first.contains(&"b".to_owned()),
            "new clients take turns: {first:?}"
        );
        world.publish(&sticky, &ready(&["a", "b", "c"]));
        for (client, endpoint) in clients.iter().zip(&first) {
            assert_eq!(world.answers(Over::Tcp, client, SERVICE, 3), vec![endpoint.clone(); 3], "{client}");
        }
        world.publish(&sticky, &ready(&["b", "c"]));
        for (client, endpoint) in clients.iter().zip(&first) {
            let now = world.answers(Over::Tcp, client, SERVICE, 3);
            assert!(now.iter().all(|answer| answer == &now[0] && answer != "a"), "{client}: {now:?}");
            assert!(endpoint == "a" || now[0] == *endpoint, "{client} was moved from {endpoint} to {}", now[0]);
        }
    });
}

#[test]
fn a_client_keeps_its_endpoint_at_every_entrance() {
    isolated("a_client_keeps_its_endpoint_at_every_entrance", |mut world| {
        let sticky = web(json!({"sessionAffinity": "ClientIP"}));
        world.publish(&sticky, &ready(&["a", "b", "c"]));
        balance_as(&mut world, &sticky, &[N1.0, N2.0]);
        for over in [Over::Tcp, Over::Udp] {
            for (from, to) in [
                (pod("a"), SERVICE),
                (pod("a"), N1),
                (pod("c"), BALANCED),
                (outside(), N1),
                (Place::Router, N2),
                (outside(), BALANCED),
            ] {
                let answers = world.answers(over, &from, to, 6);
                assert!(answers.iter().all(|one| one == &answers[0]), "{from} -> {to:?} {over:?}: {answers:?}");
            }
        }
    });
}

#[test]
fn a_client_is_forgotten_when_it_has_been_away_for_long() {
    isolated("a_client_is_forgotten_when_it_has_been_away_for_long", |mut world| {
        let sticky = web(json!({"sessionAffinity": "ClientIP",
            "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 1}}}));
        world.publish(&sticky, &ready(&["a", "b"]));
        for over in [Over::Tcp, Over::Udp] {
            assert_eq!(world.answers(over, &pod("c"), SERVICE, 2), ["a", "a"], "{over:?}");
            // The kernel's clock counts: two seconds in which nobody answers.
            for _ in 0..2 {
                assert_silent(&mut world, Over::Udp, &pod("c"), ("10.140.0.99", 9));
            }
            assert_eq!(world.answers(over, &pod("c"), SERVICE, 2), ["b", "b"], "{over:?}: the next in turn");
        }
    });
}

#[test]
fn a_steady_udp_sender_follows_the_only_endpoint_to_another_node() {
    isolated("a_steady_udp_sender_follows_the_only_endpoint_to_another_node", |mut world| {
        let near = web(json!({"externalTrafficPolicy": "Local"}));
        let mut nodes = world.publish(&near, &ready(&["a"]));
        let mut router = balance_as(&mut world, &near, &[N1.0]);
        let senders = [(outside(), BALANCED), (pod("b"), SERVICE), (outside(), N2)].map(|(from, to)| {
            let socket = world.inside(&from, || UdpSocket::bind("0.0.0.0:0")).unwrap().unwrap();
            socket.connect(SocketAddr::new(ip(to.0), to.1)).unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
            socket
        });
        let answered_by = |socket: &UdpSocket| -> std::io::Result<String> {
            socket.send(b"?")?;
            let mut text = [0; 64];
            let read = socket.recv(&mut text)?;
            Ok(String::from_utf8_lossy(&text[..read]).split(' ').next().unwrap_or_default().to_owned())
        };
        for socket in &senders[..2] {
            assert_eq!(answered_by(socket).unwrap(), "a");
        }
        for (endpoint, node) in [("c", N2.0), ("a", N1.0)] {
            let new = (world.publish(&near, &ready(&[endpoint])), balance_as(&mut world, &near, &[node]));
            for ((place, old), (_, now)) in nodes.iter().zip(&new.0) {
                world.drop_flows(place, &Stale::between(old, now));
            }
            world.drop_flows(&Place::Router, &Stale::between(&router, &new.1));
            (nodes, router) = new;
            for socket in &senders[..2] {
                assert_eq!(answered_by(socket).unwrap(), endpoint, "{socket:?}");
            }
        }
        // Somebody who remembers nothing finds what leads elsewhere, and leaves alone what does not.
        let [n1, n2] = world.publish(&near, &ready(&["c"]));
        let router = (Place::Router, balance_as(&mut world, &near, &[N2.0]));
        for (place, ways) in [n1, n2, router] {
            let stale = Stale::all_but(ways);
            let dropped = world.drop_flows(&place, &stale);
            assert!(dropped > 0 || place == Place::node("n2"), "{place}");
            assert_eq!(world.drop_flows(&place, &stale), 0, "{place}");
        }
        for socket in &senders {
            assert_eq!(answered_by(socket).unwrap(), "c", "{socket:?}");
        }
    });
}

#[test]
fn established_connections_stay_when_endpoints_change() {
    isolated("established_connections_stay_when_endpoints_change", |mut world| {
        world.publish(&web(json!({})), &ready(&["c"]));
        let mut stream = world.connect(&pod("a"), SERVICE).unwrap();
        let mut ask = |why: &str| {
            stream.write_all(b"?").unwrap();
            let mut text = [0; 64];
            let read = stream.read(&mut text).unwrap_or_else(|error| panic!("{why}: {error}"));
            assert!(text[..read].starts_with(b"c "), "{why}");
        };
        ask("before");
        world.publish(&web(json!({})), &ready(&["b"]));
        ask("endpoint replaced");
        world.publish(&web(json!({})), &ready(&[]));
        ask("no endpoint left");
        assert_refused(&world, Over::Tcp, &pod("a"), SERVICE);
        world.publish(&web(json!({})), &ready(&["a", "b", "c"]));
        ask("all back");
        assert_in_turn(&world, Over::Tcp, &pod("a"), SERVICE, &["a", "b", "c"]);
    });
}

#[test]
fn the_load_balancer_answers_outside_and_on_the_router_itself() {
    isolated("the_load_balancer_answers_outside_and_on_the_router_itself", |mut world| {
        world.publish(&web(json!({})), &ready(&["a", "b", "c"]));
        balance(&mut world, &["10.140.0.11"]);
        for over in [Over::Tcp, Over::Udp] {
            for from in [outside(), Place::Router] {
                assert_in_turn(&world, over, &from, BALANCED, &["a", "b", "c"]);
            }
        }
        balance(&mut world, &["10.140.0.11", "10.140.0.12"]);
        assert_eq!(world.answers(Over::Tcp, &outside(), BALANCED, 12).len(), 12);
        balance(&mut world, &[]);
        assert_refused(&world, Over::Tcp, &outside(), BALANCED);
        assert_refused(&world, Over::Tcp, &Place::Router, BALANCED);
    });
}

#[test]
fn health_checks_do_not_disturb_the_turn_of_clients() {
    isolated("health_checks_do_not_disturb_the_turn_of_clients", |mut world| {
        world.publish(&web(json!({})), &ready(&["a", "b", "c"]));
        balance(&mut world, &["10.140.0.11"]);
        let mut answers = Vec::new();
        for _ in 0..6 {
            answers.extend(world.answers(Over::Tcp, &outside(), BALANCED, 1));
            // As the balancer does it: from the balanced address. A datagram is the shortest way to take a turn.
            let check = || -> std::io::Result<()> {
                let socket = UdpSocket::bind((EXTERNAL_IP, 0))?;
                socket.connect(SocketAddr::new(ip(N1.0), N1.1))?;
                socket.set_read_timeout(Some(Duration::from_secs(30)))?;
                socket.send(b"?")?;
                socket.recv(&mut [0; 64]).map(drop)
            };
            world.inside(&Place::Router, check).unwrap().expect("a check is answered");
        }
        assert_eq!(answers[..3], answers[3..], "{answers:?}");
        let udp = world.answers(Over::Udp, &outside(), BALANCED, 3);
        assert_eq!(udp, answers[..3], "checks over UDP took no turn there either");
    });
}
