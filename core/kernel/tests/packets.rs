//! Real packets through what the engine wrote: translation in turn, hairpin, refusals, flows that are dropped.

mod world;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use switchyard_kernel::Engine;
use switchyard_kernel::conntrack::Filter;
use switchyard_netstate::{Fragment, Place, UnitId};
use world::{engine, isolated, node};

/// A routed node (each pod on a link of its own), with Service 10.96.0.10 towards pods 5 and 6.
fn cluster() -> Engine {
    let mut engine = engine(&["p5", "p6", "p7"]);
    let base = r#"{"node/n1":[
        {"kind":"link","name":"lo","type":"existing"},
        {"kind":"address","dev":"lo","address":"169.254.1.1/32"},
        {"kind":"sysctl","path":"net/ipv4/ip_forward","value":"1"},
        {"kind":"table","table":{"family":"ip","name":"yard-svc"}},
        {"kind":"set","table":{"family":"ip","name":"yard-svc"},"name":"services","key":["ipv4","proto","port"],"data":["verdict"]},
        {"kind":"set","table":{"family":"ip","name":"yard-svc"},"name":"hairpin","key":["ipv4","ipv4"]},
        {"kind":"set","table":{"family":"ip","name":"yard-svc"},"name":"blocked","key":["ipv4"],"interval":true},
        {"kind":"chain","table":{"family":"ip","name":"yard-svc"},"name":"svc-tcp","rules":[
            [{"dnat":{"choose":{"by":{"numgen_inc":{"modulus":2}},"targets":[["10.40.1.5",80],["10.40.1.6",80]]}}}]]},
        {"kind":"chain","table":{"family":"ip","name":"yard-svc"},"name":"svc-udp","rules":[
            [{"match":{"left":"l4proto","right":{"value":{"proto":17}}}},{"dnat":{"to":{"address":"10.40.1.5","port":53}}}]]},
        {"kind":"chain","table":{"family":"ip","name":"yard-svc"},"name":"refuse","rules":[[{"reject":"tcp_reset"}]]},
        {"kind":"chain","table":{"family":"ip","name":"yard-svc"},"name":"pre",
            "base":{"type":"nat","hook":"prerouting","priority":-100},
            "rules":[[{"vmap":{"key":["ip_daddr","l4proto","dport"],"map":"services"}}]]},
        {"kind":"chain","table":{"family":"ip","name":"yard-svc"},"name":"forward",
            "base":{"type":"filter","hook":"forward","priority":0},"rules":[
            [{"match":{"left":"ct_state","op":"has","right":{"value":{"state":{"established":true,"related":true}}}}},{"verdict":"accept"}],
            [{"lookup":{"key":["ip_daddr"],"set":"blocked"}},{"verdict":{"jump":"refuse"}}]]},
        {"kind":"chain","table":{"family":"ip","name":"yard-svc"},"name":"post",
            "base":{"type":"nat","hook":"postrouting","priority":100},
            "rules":[[{"lookup":{"key":["ip_saddr","ip_daddr"],"set":"hairpin"}},{"masquerade":{"fully_random":true}}]]},
        {"kind":"element","table":{"family":"ip","name":"yard-svc"},"set":"services",
            "key":[{"ip":"10.96.0.10"},{"proto":6},{"port":80}],"data":{"verdict":{"goto":"svc-tcp"}}},
        {"kind":"element","table":{"family":"ip","name":"yard-svc"},"set":"services",
            "key":[{"ip":"10.96.0.10"},{"proto":17},{"port":53}],"data":{"verdict":{"goto":"svc-udp"}}},
        {"kind":"element","table":{"family":"ip","name":"yard-svc"},"set":"blocked","key":[{"net":"10.40.1.128/25"}]},
        {"kind":"element","table":{"family":"ip","name":"yard-svc"},"set":"blocked","key":[{"ip":"10.40.1.77"}]}
    ]}"#;
    engine.set(UnitId("node".into()), serde_json::from_str::<Fragment>(base).unwrap()).unwrap();
    for number in [5, 6, 7] {
        let pod = format!(
            r#"{{"node/n1":[
            {{"kind":"link","name":"veth{number}","mac":"02:00:00:00:00:{number:02x}",
                "type":{{"veth":{{"peer":{{"place":"pod/p{number}","name":"eth0"}}}}}}}},
            {{"kind":"route","to":"10.40.1.{number}/32","via":{{"dev":"veth{number}"}}}},
            {{"kind":"element","table":{{"family":"ip","name":"yard-svc"}},"set":"hairpin",
                "key":[{{"ip":"10.40.1.{number}"}},{{"ip":"10.40.1.{number}"}}]}}],
            "pod/p{number}":[
            {{"kind":"link","name":"lo","type":"existing"}},
            {{"kind":"link","name":"eth0","type":{{"veth":{{"peer":{{"place":"node/n1","name":"veth{number}"}}}}}}}},
            {{"kind":"address","dev":"eth0","address":"10.40.1.{number}/32"}},
            {{"kind":"route","to":"0.0.0.0/0","via":{{"dev":"eth0","gateway":"169.254.1.1","onlink":true}}}}]}}"#
        );
        engine.set(UnitId(format!("pod/p{number}")), serde_json::from_str::<Fragment>(&pod).unwrap()).unwrap();
    }
    engine
}

/// A server in a pod that answers each connection with its number.
fn serve(engine: &Engine, number: u8) {
    let netns = engine.places().get(&Place::pod(format!("p{number}"))).unwrap();
    let (tcp, udp) =
        netns.run(|| (TcpListener::bind(("0.0.0.0", 80)).unwrap(), UdpSocket::bind(("0.0.0.0", 53)).unwrap())).unwrap();
    thread::spawn(move || {
        for stream in tcp.incoming() {
            let mut stream = stream.unwrap();
            let from = stream.peer_addr().unwrap().ip();
            stream.write_all(format!("{number} to {from}").as_bytes()).unwrap();
        }
    });
    thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((length, from)) = udp.recv_from(&mut buffer) {
            udp.send_to(&buffer[..length], from).unwrap();
        }
    });
}

fn ask(engine: &Engine, number: u8, address: &str) -> std::io::Result<String> {
    let address: SocketAddr = address.parse().unwrap();
    let netns = engine.places().get(&Place::pod(format!("p{number}"))).unwrap();
    netns.run(|| {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(30))?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    })?
}

#[test]
fn a_service_answers_in_turn_and_through_itself() {
    isolated("a_service_answers_in_turn_and_through_itself", || {
        let engine = cluster();
        for number in [5, 6, 7] {
            serve(&engine, number);
        }
        let turns: Vec<String> = (0..6).map(|_| ask(&engine, 7, "10.96.0.10:80").unwrap()).collect();
        assert_eq!(turns[..2], turns[2..4], "strictly in turn: {turns:?}");
        assert_ne!(turns[0], turns[1]);
        assert!(turns.iter().all(|turn| turn.ends_with("to 10.40.1.7")), "the client's address is kept: {turns:?}");
        // A pod that reaches itself through the Service sees somebody else's address, or the answer would not come back.
        let own: Vec<String> = (0..2).map(|_| ask(&engine, 5, "10.96.0.10:80").unwrap()).collect();
        let itself = own.iter().find(|answer| answer.starts_with('5')).expect("one of two turns is itself");
        assert!(!itself.ends_with("to 10.40.1.5"), "{itself}");
        // Refused by an interval set, with a reset and at once.
        world::run(&engine, &node(), "ip route add 10.40.1.0/24 dev veth6");
        for blocked in ["10.40.1.200:80", "10.40.1.77:80"] {
            assert_eq!(
                ask(&engine, 7, blocked).unwrap_err().kind(),
                std::io::ErrorKind::ConnectionRefused,
                "{blocked}"
            );
        }
    });
}

#[test]
fn flows_are_listed_and_dropped_by_filter() {
    isolated("flows_are_listed_and_dropped_by_filter", || {
        let mut engine = cluster();
        serve(&engine, 5);
        let netns = engine.places().get(&Place::pod("p7")).unwrap();
        let socket = netns.run(|| UdpSocket::bind(("0.0.0.0", 0)).unwrap()).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        socket.send_to(b"hello", "10.96.0.10:53").unwrap();
        let mut buffer = [0; 16];
        assert_eq!(socket.recv_from(&mut buffer).unwrap().1, "10.96.0.10:53".parse().unwrap());

        let gone = Filter {
            proto: Some(17),
            to: Some("10.96.0.10".parse().unwrap()),
            to_port: Some(53),
            from_endpoint: Some("10.40.1.5".parse().unwrap()),
            ..Filter::default()
        };
        let other = Filter { from_endpoint: Some("10.40.1.6".parse().unwrap()), ..gone };
        assert_eq!(engine.flows(&node(), &gone).unwrap().len(), 1);
        assert_eq!(engine.drop_flows(&node(), &other).unwrap(), 0);
        assert_eq!(engine.drop_flows(&node(), &gone).unwrap(), 1);
        assert!(engine.flows(&node(), &gone).unwrap().is_empty());
    });
}
