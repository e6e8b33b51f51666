//! What a machine has to allow, and who says so.

use std::path::Path;

use serde_json::Value;

use crate::rig::{Cluster, Powers, scenarios};

scenarios! {
    this_machine_allows_a_cluster
    without_user_namespaces_it_is_said_how_to_allow_them
}

fn doctor(output: &std::process::Output) -> Vec<Value> {
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn this_machine_allows_a_cluster(powers: Powers) {
    let cluster = Cluster::prepare(powers);
    let output = cluster.try_yard(&["doctor", "-o", "json"]);
    let bad: Vec<_> = doctor(&output).into_iter().filter(|one| one["health"] == "missing").collect();
    assert!(output.status.success() && bad.is_empty(), "{bad:#?}");
    for what in ["Services", "conntrack", "macvlan", "nft bridge"] {
        assert!(doctor(&output).iter().any(|one| one["what"] == what), "{what} is tried");
    }
}

/// In a user namespace that allows no further one, without capabilities: as somebody without powers on a machine that forbids them.
fn without_user_namespaces_it_is_said_how_to_allow_them(powers: Powers) {
    let cluster = Cluster::prepare(powers);
    let forbidden = |arguments: &str| {
        let line = format!(
            "echo 0 > /proc/sys/user/max_user_namespaces && exec setpriv --bounding-set=-all {} {arguments}",
            cluster.program().display()
        );
        let mut command = cluster.command(Path::new("unshare"));
        command.args(["--user", "--map-root-user", "sh", "-c", &line]).output().expect("run unshare of util-linux")
    };
    let output = forbidden("doctor -o json");
    assert!(!output.status.success());
    let findings = doctor(&output);
    let setting =
        findings.iter().find(|one| one["what"] == "user.max_user_namespaces").expect("a setting that forbids");
    assert_eq!(setting["health"], "missing");
    assert_eq!(setting["mend"], "sudo sysctl -w user.max_user_namespaces=63359");
    let output = forbidden(&format!("up -f {}", cluster.file("sphinx").display()));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{said}");
    assert!(said.contains("make a user namespace") && said.contains("yard doctor"), "{said}");
}
