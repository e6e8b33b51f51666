//! kubectl's exec, cp and port-forward, over what each version of it speaks: WebSockets, and SPDY/3.1.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::rig::{Cluster, Powers, http, kill, scenarios};

scenarios! {
    kubectl_reaches_into_pods
}

/// What each of kubectl's ways to stream is switched by. One that does not know these has SPDY only.
const WAYS: [[(&str, &str); 2]; 2] = [
    [("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", "true"), ("KUBECTL_PORT_FORWARD_WEBSOCKETS", "true")],
    [("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", "false"), ("KUBECTL_PORT_FORWARD_WEBSOCKETS", "false")],
];

fn kubectl_reaches_into_pods(powers: Powers) {
    let cluster = Cluster::boot(powers);
    let config = cluster.yard(&["kubeconfig"]);
    let pod = cluster.pod_of("version=v1");
    for way in WAYS {
        let kubectl = |arguments: &[&str]| {
            let mut command = cluster.command(Path::new("kubectl"));
            command.args(["--kubeconfig", config.trim()]).args(arguments).envs(way);
            command
        };
        runs_commands(&kubectl, &pod);
        forwards_ports(&kubectl, &pod);
    }
}

fn runs_commands(kubectl: &dyn Fn(&[&str]) -> Command, pod: &str) {
    let output = kubectl(&["exec", pod, "-c", "web", "--", "sh", "-c", "echo out; echo err >&2; exit 3"]).output();
    let output = output.expect("kubectl is installed (kubernetes-client)");
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "out\n");
    assert!(output.stderr.starts_with(b"err\n"), "{output:?}");

    // More than pipes and windows hold, both ways at once.
    let sent: Vec<u8> = (0..3_000_000u32).map(|n| n.to_le_bytes()[usize::from(n % 2 == 0)]).collect();
    let mut cat = kubectl(&["exec", "-i", pod, "-c", "web", "--", "cat"]);
    let mut cat = cat.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("kubectl");
    let (mut input, again) = (cat.stdin.take().unwrap(), sent.clone());
    let writer = std::thread::spawn(move || input.write_all(&again));
    let output = cat.wait_with_output().expect("kubectl");
    writer.join().unwrap().expect("all is taken");
    assert!(output.status.success() && output.stdout == sent, "{} bytes came back", output.stdout.len());

    let output = kubectl(&["exec", pod, "-c", "web", "--", "/no/such"]).output().expect("kubectl");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && told.contains("/no/such: No such file"), "{told}");
}

fn forwards_ports(kubectl: &dyn Fn(&[&str]) -> Command, pod: &str) {
    let mut forward = kubectl(&["port-forward", "--address", "127.0.0.1", pod, ":80", ":90", ":81"]);
    let mut forward = forward.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("kubectl");
    let mut lines = BufReader::new(forward.stdout.take().unwrap()).lines();
    let mut address = || -> SocketAddr {
        let line = lines.next().expect("a line for each port").expect("text");
        let local = line.strip_prefix("Forwarding from ").and_then(|rest| rest.split(' ').next());
        local.and_then(|local| local.parse().ok()).unwrap_or_else(|| panic!("{line}"))
    };
    let [web, admin, closed] = [address(), address(), address()];
    for (address, port) in [(web, 80), (admin, 90), (web, 80)] {
        let answer = http::get(address, "localhost", "/").expect("an answer");
        assert!(answer.pod() == pod && answer.body.contains(&format!("\"port\":{port}")), "{answer:?}");
    }
    let many: Vec<_> = (0..20).map(|_| std::thread::spawn(move || http::get(web, "localhost", "/"))).collect();
    assert!(many.into_iter().all(|one| one.join().unwrap().expect("an answer").status == 200));
    assert!(http::get(closed, "localhost", "/").is_err(), "nobody listens at 81");
    kill(forward.id());
    let output = forward.wait_with_output().expect("kubectl");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("port 81: Connection refused"), "{told}");
}
