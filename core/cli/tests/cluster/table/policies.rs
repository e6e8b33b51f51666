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
}
