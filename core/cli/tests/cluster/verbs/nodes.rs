//! Nodes are emptied and filled again; in this order.

use super::Row;

pub(super) const ROWS: &[Row] = &[
    ("kubectl cordon worker-2", 0, &["node/worker-2 cordoned"]),
    ("kubectl cordon worker-2", 0, &["already cordoned"]),
    ("kubectl get node worker-2", 0, &["Ready,SchedulingDisabled"]),
    (
        "kubectl run lonely --image=yard/echo --overrides='{\"spec\":{\"nodeSelector\":{\"kubernetes.io/hostname\":\"worker-2\"}}}'",
        0,
        &["created"],
    ),
    (
        "kubectl wait --for=jsonpath='{.status.conditions[?(@.type==\"PodScheduled\")].reason}'=Unschedulable pod/lonely --timeout=30s",
        0,
        &["condition met"],
    ),
    ("kubectl describe pod lonely", 0, &["FailedScheduling"]),
    ("kubectl uncordon worker-2", 0, &["uncordoned"]),
    ("kubectl wait --for=condition=Ready pod/lonely --timeout=30s", 0, &["condition met"]),
    (
        "kubectl drain worker-2 --ignore-daemonsets",
        1,
        &["cannot delete Pods that declare no controller", "default/lonely"],
    ),
    (
        "kubectl drain worker-2 --ignore-daemonsets --force --delete-emptydir-data --timeout=60s",
        0,
        &["node/worker-2 drained"],
    ),
    ("kubectl get pods -A --field-selector spec.nodeName=worker-2 2>&1", 0, &["No resources found"]),
    ("kubectl wait --for=condition=Ready pods --all --timeout=60s", 0, &["condition met"]),
    ("kubectl uncordon worker-2", 0, &["uncordoned"]),
    ("kubectl taint node worker-2 soon=gone:NoSchedule", 0, &["node/worker-2 tainted"]),
    ("kubectl describe node worker-2", 0, &["Taints:             soon=gone:NoSchedule"]),
    ("kubectl taint node worker-2 soon-", 0, &["untainted"]),
    ("kubectl label node worker-2 disk=fast", 0, &["labeled"]),
    ("kubectl get nodes -l disk=fast -o name", 0, &["node/worker-2"]),
    ("kubectl label node worker-2 disk-", 0, &["unlabeled"]),
];
