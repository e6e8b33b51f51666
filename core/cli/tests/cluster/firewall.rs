//! The distributed firewall: SecurityPolicies and Groups, seen by packets that arrive or do not.

use serde_json::{Value, json};

use crate::policy::{address, apply, idle, policy, ready};
use crate::rig::{Cluster, Powers, eventually, scenarios};

scenarios! {
    tiers_decide_in_their_order
    what_is_said_is_checked_and_its_state_is_told
}

fn security_policy(name: &str, tier: &str, priority: u32, rules: &Value) -> String {
    let spec = json!({"tier": tier, "priority": priority, "rules": rules});
    let kind = "SecurityPolicy";
    json!({"apiVersion": "switchyard.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}).to_string()
}

fn group(name: &str, members: &Value) -> String {
    let (kind, spec) = ("Group", json!({"members": members}));
    json!({"apiVersion": "switchyard.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}).to_string()
}

/// Pods with this label.
fn app(name: &str) -> Value {
    json!({"podSelector": {"matchLabels": {"app": name}}})
}

/// Reason of the condition `Realised`, and its message.
fn realised(cluster: &Cluster, kind: &str, name: &str) -> (String, String) {
    let object = cluster.get(&[kind, name]);
    let condition = &object["status"]["conditions"][0];
    let word = |field: &str| condition[field].as_str().unwrap_or_default().to_owned();
    (word("reason"), word("message"))
}

#[track_caller]
fn in_force(cluster: &Cluster, policies: &[&str]) {
    for name in policies {
        eventually(&format!("{name} is in force"), || {
            (realised(cluster, "securitypolicy", name).0 == "Realised").then_some(())
        });
    }
}

/// How a request ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Answered,
    Refused,
    Silence,
}

fn ask(cluster: &Cluster, place: &str, url: &str) -> End {
    match cluster.shell(place, &["curl", "-sS", "-m", "1", url]) {
        Ok(_) => End::Answered,
        Err(error) if error.contains("timed out") || error.contains("Timeout") => End::Silence,
        Err(_) => End::Refused,
    }
}

fn tiers_decide_in_their_order(powers: Powers) {
    let cluster = Cluster::boot_on(powers, "nsx");
    apply(
        &cluster,
        &[
            idle("client", "worker-1", "client"),
            idle("near", "worker-1", "server"),
            idle("far", "worker-2", "server"),
            idle("bystander", "worker-2", "bystander"),
            group("clients", &json!([app("client")])),
            group("servers", &json!([app("server"), {"ipBlock": {"cidr": "203.0.113.0/24"}}])),
        ],
    );
    for pod in ["client", "near", "far", "bystander"] {
        ready(&cluster, pod);
    }
    let urls = ["near", "far"].map(|pod| format!("http://{}:8080/", address(&cluster, pod)));
    let both = |end: End, why: &str| {
        for url in &urls {
            eventually(&format!("{why}: {end:?} from {url}"), || {
                (ask(&cluster, "pod/client", url) == end).then_some(())
            });
            assert_eq!(ask(&cluster, "pod/bystander", url), End::Answered, "{why}: the rule is about others");
        }
    };
    let between = |name: &str, action: &str, ports: Value| {
        json!([{"name": name, "sources": [{"group": "clients"}], "destinations": [{"group": "servers"}],
            "ports": ports, "action": action}])
    };
    both(End::Answered, "no rule");
    apply(&cluster, &[security_policy("app", "Application", 10, &between("no", "Drop", json!([])))]);
    both(End::Silence, "application drops");
    let web = json!([{"port": 8080}]);
    apply(&cluster, &[security_policy("env", "Environment", 500, &between("web", "Allow", web.clone()))]);
    both(End::Answered, "environment allows, and comes before application");
    apply(&cluster, &[security_policy("infra", "Infrastructure", 500, &between("refuse", "Reject", web.clone()))]);
    both(End::Refused, "infrastructure rejects, and comes before environment");
    apply(&cluster, &[security_policy("first", "Emergency", 65535, &between("let", "Allow", web))]);
    both(End::Answered, "emergency allows, and comes before everything");
    in_force(&cluster, &["app", "env", "infra", "first"]);

    // Each counter has counted what its rule decided, at the end that decided it: dropped and refused packets got no further.
    eventually("counters of all rules", || {
        let hits = |policy: &str, side: &str| {
            let status = cluster.get(&["securitypolicy", policy]);
            status["status"]["rules"][0][side]["packets"].as_u64().unwrap_or(0)
        };
        let refused = ["app", "infra"].iter().all(|policy| hits(policy, "egress") > 0 && hits(policy, "ingress") == 0);
        let allowed = ["env", "first"].iter().all(|policy| hits(policy, "egress") > 0 && hits(policy, "ingress") > 0);
        (refused && allowed).then_some(())
    });
    let listed = cluster.yard(&["get", "securitypolicies"]);
    assert!(listed.contains("Infrastructure") && listed.contains("refuse:"), "{listed}");

    // Down again, and Kubernetes' policies stand in the last tier at 1000.
    cluster.yard(&["delete", "securitypolicy", "first", "infra"]);
    both(End::Answered, "environment is the first again");
    cluster.yard(&["delete", "securitypolicy", "env", "app"]);
    apply(&cluster, &[policy("closed", r#"{"podSelector": {"matchLabels": {"app": "server"}}}"#)]);
    for url in &urls {
        eventually("the NetworkPolicy isolates", || {
            (ask(&cluster, "pod/client", url) == End::Silence && ask(&cluster, "pod/bystander", url) == End::Silence)
                .then_some(())
        });
    }
    let open = |priority| security_policy("open", "Application", priority, &between("web", "Allow", json!([])));
    apply(&cluster, &[open(999)]);
    for url in &urls {
        eventually("a rule before it opens", || (ask(&cluster, "pod/client", url) == End::Answered).then_some(()));
        assert_eq!(ask(&cluster, "pod/bystander", url), End::Silence);
    }
    apply(&cluster, &[open(1001)]);
    for url in &urls {
        eventually("a rule after it does not", || (ask(&cluster, "pod/client", url) == End::Silence).then_some(()));
    }
}

fn what_is_said_is_checked_and_its_state_is_told(powers: Powers) {
    let cluster = Cluster::boot(powers);
    let refused = |object: &str, why: &str| {
        let file = cluster.file("bad.yaml");
        std::fs::write(&file, object).unwrap();
        let output = cluster.try_yard(&["apply", "-f", file.to_str().unwrap()]);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && told.contains(why), "{object}: {told}");
    };
    let drop_from = |party: Value| json!([{"name": "r", "sources": [party], "action": "Drop"}]);
    let bad = |party: Value| security_policy("bad", "Emergency", 1, &drop_from(party));
    refused(&bad(json!({})), "spec.rules[0].sources[0]: Invalid value: \"nothing\": expected a podSelector");
    refused(
        &bad(json!({"ipBlock": {"cidr": "10/8"}})),
        "spec.rules[0].sources[0].ipBlock.cidr: Invalid value: \"10/8\"",
    );
    refused(&security_policy("bad", "Normal", 1, &json!([])), "unknown variant `Normal`, expected one of `Emergency`");
    refused(&security_policy("bad", "Emergency", 65536, &json!([])), "spec.priority: Invalid value: \"65536\"");
    refused(&group("bad", &json!([{"labels": {}}])), "unknown field `labels`");

    // A policy may come before its group. Nobody is in a group that is not there.
    apply(&cluster, &[idle("server", "worker-1", "server"), idle("guest", "worker-2", "guest")]);
    ready(&cluster, "server");
    ready(&cluster, "guest");
    let url = format!("http://{}:8080/", address(&cluster, "server"));
    apply(&cluster, &[security_policy("quarantine", "Emergency", 1, &drop_from(json!({"group": "sick"})))]);
    eventually("what is missing is told", || {
        let (reason, message) = realised(&cluster, "securitypolicy", "quarantine");
        (reason == "MissingGroup" && message.contains("no Group sick")).then_some(())
    });
    assert_eq!(ask(&cluster, "pod/guest", &url), End::Answered);
    apply(&cluster, &[group("sick", &json!([app("guest")]))]);
    in_force(&cluster, &["quarantine"]);
    eventually("the guest is alone", || (ask(&cluster, "pod/guest", &url) == End::Silence).then_some(()));
    eventually("the group's size", || {
        (realised(&cluster, "group", "sick").1 == "1 pods, 0 blocks of addresses").then_some(())
    });
    // Membership follows labels; what an agent enforced outlives it.
    let before = cluster.kill("node-worker-2");
    assert_eq!(ask(&cluster, "pod/guest", &url), End::Silence);
    eventually("another agent", || (cluster.pid("node-worker-2") != before).then_some(()));
    assert_eq!(ask(&cluster, "pod/guest", &url), End::Silence);
    apply(&cluster, &[idle("guest", "worker-2", "healthy")]);
    eventually("the guest is free", || (ask(&cluster, "pod/guest", &url) == End::Answered).then_some(()));
    eventually("the group is empty", || {
        (realised(&cluster, "group", "sick").1 == "0 pods, 0 blocks of addresses").then_some(())
    });
}
