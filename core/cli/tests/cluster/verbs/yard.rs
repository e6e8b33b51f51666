//! The verbs of `yard`; in this order.

use super::Row;

pub(super) const ROWS: &[Row] = &[
    ("yard status", 0, &["sphinx: running for", "kubenet 0.1.0, ready", "control-plane"]),
    ("yard status -o json | jq -r '.[0].name'", 0, &["sphinx"]),
    ("yard get pods", 0, &["READY", "sphinx-rs-1-"]),
    ("yard get pods,svc -A -o wide", 0, &["NAMESPACE", "yard-ingress", "10.40."]),
    ("yard get pods -l version=v1 -o name | count pod/", 0, &["3 lines"]),
    ("yard get svc sphinx-svc-1 -o yaml", 0, &["kind: Service", "clusterIP: 10.96."]),
    ("yard get svc sphinx-svc-1 -o json | jq -r .kind", 0, &["Service"]),
    ("yard get pods $POD nope; [ $? = 1 ]", 0, &["sphinx-rs-1-"]),
    ("yard get pods $POD nope", 1, &["yard: pods \"nope\" not found\n"]),
    ("yard describe svc sphinx-svc-1", 0, &["sphinx-svc-1", "10.96."]),
    ("yard apply -f policy.yaml", 0, &["networkpolicy.networking.k8s.io/web created"]),
    ("yard apply -f - < policy.yaml", 0, &["web unchanged"]),
    (
        "follow 'yard get netpol web -w -o name' 'kubectl label netpol web seen=yes'",
        0,
        &["/web, then networkpolicy.networking.k8s.io/web"],
    ),
    ("yard delete -f policy.yaml", 0, &["web deleted"]),
    ("yard logs yard-ingress -n ingress", 1, &["pods \"yard-ingress\" not found"]),
    ("yard logs -n ingress $(kubectl get pods -n ingress -o jsonpath='{.items[0].metadata.name}')", 0, &["serving"]),
    ("yard exec $POD -c web -- sh -c 'exit 7'", 7, &[]),
    ("echo through | yard exec $POD -c web -i -- tr a-z A-Z", 0, &["THROUGH"]),
    ("yard curl http://sphinx-v1.esxcloud.net/", 0, &["\"pod\":\"sphinx-rs-1-"]),
    ("yard shell worker-1 -- ip -br address show eth0", 0, &["10.140.0.11/24"]),
    ("yard shell pod/$POD -- ip -br address show eth0", 0, &["10.40."]),
    ("yard shell router -- sh -c 'exit 7'", 7, &[]),
    ("yard network status", 0, &["kubenet 0.1.0, ready", "worker-2"]),
    ("yard network use overlay --dry-run", 0, &["nothing has been changed", "link vxlan"]),
    ("yard network use kubenet", 0, &["kubenet 0.1.0 is active already"]),
    ("yard plugin list", 0, &["kubenet", "overlay", "nsx"]),
    ("yard doctor", 0, &["namespaces", "conntrack", "ok"]),
    ("ls $(yard kubeconfig)", 0, &["kubeconfig"]),
    ("yard version", 0, &["0.1.0"]),
];
