//! Policies are a layer of all networks.

use super::stage::Stage;
use crate::rig::eventually;

/// Who may, and who may not; both ways, on one node and between two.
pub(super) fn decide(stage: &Stage) {
    let (a, b) = (stage.ip("a"), stage.ip("b"));
    stage.apply(&format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: in}}\nspec:\n  \
         podSelector: {{matchLabels: {{pod: a}}}}\n  \
         ingress: [{{from: [{{podSelector: {{matchLabels: {{pod: b}}}}}}], ports: [{{port: web}}]}}]\n---\n\
         apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: out}}\nspec:\n  \
         podSelector: {{matchLabels: {{pod: c}}}}\n  policyTypes: [Egress]\n  \
         egress: [{{to: [{{ipBlock: {{cidr: {b}/32}}}}], ports: [{{port: 80}}]}}]\n"
    ));
    let may = |place: &str, to: &str| stage.try_sh(place, &format!("curl -sS -m 1 {to}")).is_ok();
    let never = |place: &str, to: &str| {
        eventually(&format!("{}: {place} does not reach {to}", stage.network), || (!may(place, to)).then_some(()));
    };
    never("pod/c", &a);
    never("worker-2", &a);
    never("pod/c", &stage.service("mirror"));
    assert!(may("pod/b", &a) && may("worker-1", &a) && may("pod/c", &b), "{}", stage.network);
    assert!(may("pod/b", &stage.service("mirror")), "{}: through the Service", stage.network);
    stage.cluster.yard(&["delete", "networkpolicy", "in", "out"]);
    stage.eventually_answered("pod/c", &a);
    stage.eventually_answered("worker-2", &a);
    blocks_and_ranges(stage);
}

/// Blocks of addresses with exceptions, ranges of ports, and UDP beside TCP.
fn blocks_and_ranges(stage: &Stage) {
    let (a, b, c) = (stage.ip("a"), stage.ip("b"), stage.ip("c"));
    let policy = |name: &str, pod: &str, ports: &str| {
        format!(
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: {name}}}\nspec:\n  \
             podSelector: {{matchLabels: {{pod: {pod}}}}}\n  ingress: [{{from: [{{ipBlock: {{cidr: 0.0.0.0/0, \
             except: [{c}/32]}}}}], ports: [{ports}]}}]\n"
        )
    };
    let within = policy("within", "a", "{port: 70, endPort: 80}, {protocol: UDP, port: 53, endPort: 60}");
    let beside = policy("beside", "b", "{port: 81, endPort: 90}, {protocol: UDP, port: 54, endPort: 60}");
    stage.apply(&format!("{within}---\n{beside}"));
    let tcp = |place: &str, to: &str| stage.try_sh(place, &format!("curl -sS -m 1 {to}")).is_ok();
    let udp = |place: &str, to: &str| {
        let line = format!("exec 3<>/dev/udp/{to}/53; echo a >&3; timeout 1 head -c 1 <&3 | grep -q .");
        stage.try_sh(place, &line).is_ok()
    };
    for (place, to) in [("pod/c", &a), ("pod/c", &b), ("pod/a", &b)] {
        let silent = || (!tcp(place, to) && !udp(place, to)).then_some(());
        eventually(&format!("{}: {place} does not reach {to}", stage.network), silent);
    }
    assert!(tcp("pod/b", &a) && udp("pod/b", &a), "{}: within block and ranges", stage.network);
    stage.cluster.yard(&["delete", "networkpolicy", "within", "beside"]);
    stage.eventually_answered("pod/c", &a);
    eventually(&format!("{}: UDP is answered again", stage.network), || udp("pod/c", &b).then_some(()));
}
