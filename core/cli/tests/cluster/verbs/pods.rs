//! Inside pods; in this order.

use super::Row;

pub(super) const ROWS: &[Row] = &[
    ("kubectl apply -f talker.yaml", 0, &["pod/talker created"]),
    ("kubectl wait --for=condition=Ready pod/talker --timeout=30s", 0, &["condition met"]),
    ("kubectl logs talker", 0, &["hello"]),
    ("kubectl logs talker -c aside", 0, &["psst"]),
    ("kubectl logs talker --all-containers --prefix", 0, &["[pod/talker/talker] hello", "[pod/talker/aside] psst"]),
    ("kubectl logs -l app=talker -c aside", 0, &["psst"]),
    ("kubectl logs talker --timestamps", 0, &["Z hello"]),
    (
        "follow 'kubectl logs talker -f' 'kubectl exec talker -- sh -c \"echo more > /talk/say\"'",
        0,
        &["hello", "then more"],
    ),
    ("kubectl logs talker --tail=1", 0, &["more"]),
    ("kubectl logs talker --tail=1 | count hello", 0, &["0 lines"]),
    ("kubectl logs talker --since=1h", 0, &["hello", "more"]),
    ("kubectl logs talker --since-time=2100-01-01T00:00:00Z | count .", 0, &["0 lines"]),
    ("kubectl logs talker --limit-bytes=5", 0, &["hello"]),
    ("kubectl exec talker -- true", 0, &[]),
    ("kubectl exec talker -- sh -c 'exit 7'", 7, &["exit code 7"]),
    ("echo through | kubectl exec -i talker -c aside -- tr a-z A-Z", 0, &["THROUGH"]),
    ("kubectl exec talker -- sh -c 'echo aloud; echo aside >&2' 2>&1", 0, &["aloud", "aside"]),
    (
        "echo written > here; kubectl cp here talker:/talk/there -c talker; kubectl exec talker -- cat /talk/there",
        0,
        &["written"],
    ),
    ("kubectl cp talker:/talk/there back -c talker && cat back", 0, &["written"]),
    // A word is heard if it is said once somebody listens.
    (
        "exec 3< <(exec kubectl attach talker -c talker); \
         until read -rt 1 heard <&3; do kubectl exec talker -- sh -c 'echo attached > /talk/say'; done; kill $!; echo $heard",
        0,
        &["attached"],
    ),
    // Whoever ends a container from inside may end with it.
    ("kubectl exec talker -- sh -c 'echo bye > /talk/say' || true", 0, &[]),
    (
        "kubectl wait --for=jsonpath='{.status.containerStatuses[?(@.name==\"talker\")].restartCount}'=1 pod/talker --timeout=30s",
        0,
        &["condition met"],
    ),
    ("kubectl logs talker --previous", 0, &["hello", "more\n", "attached\nbye"]),
    ("kubectl get pod talker", 0, &["talker   ", "1 ("]),
    ("kubectl describe pod talker", 0, &["Last State:     Terminated", "Exit Code:    3"]),
    // Held back after a second end: that is the one to look at.
    ("kubectl wait --for=condition=Ready pod/talker --timeout=30s", 0, &["condition met"]),
    ("kubectl exec talker -- sh -c 'echo again > /talk/say; echo bye > /talk/say' || true", 0, &[]),
    (
        "kubectl wait --for=jsonpath='{.status.containerStatuses[?(@.name==\"talker\")].state.waiting.reason}'=CrashLoopBackOff pod/talker --timeout=30s",
        0,
        &["condition met"],
    ),
    ("kubectl logs talker --previous", 0, &["again\nbye"]),
    ("kubectl logs talker", 0, &["again\nbye"]),
    (
        "kubectl get pod talker -o jsonpath='{.status.containerStatuses[?(@.name==\"talker\")].lastState.terminated.containerID}'",
        0,
        &["/talker/1"],
    ),
    (
        "follow 'kubectl get pod talker -w -o jsonpath={.metadata.labels.mood}{\"\\n\"}' 'kubectl label pod talker mood=good'",
        0,
        &["then good"],
    ),
    ("kubectl delete pod talker --wait", 0, &["pod \"talker\" deleted"]),
    ("kubectl run once --image=host --restart=Never --command -- echo ran", 0, &["pod/once created"]),
    ("kubectl wait --for=jsonpath={.status.phase}=Succeeded pod/once --timeout=30s", 0, &["condition met"]),
    ("kubectl logs once", 0, &["ran"]),
    (
        "kubectl run brief --image=host --rm -i --restart=Never --command -- echo brief",
        0,
        &["brief", "pod \"brief\" deleted"],
    ),
    (
        "kubectl run web-1 --image=yard/echo --port=8080 --labels=app=single --env=A=b --expose",
        0,
        &["service/web-1 created", "pod/web-1 created"],
    ),
    ("kubectl wait --for=condition=Ready pod/web-1 --timeout=30s", 0, &["condition met"]),
    ("kubectl expose pod web-1 --name=web-2 --port=80 --target-port=8080", 0, &["service/web-2 exposed"]),
    ("kubectl get svc web-2 -o jsonpath='{.spec.ports[0].targetPort} {.spec.selector.app}'", 0, &["8080 single"]),
    (
        "kubectl delete pod/once pod/web-1 svc/web-1 svc/web-2",
        0,
        &["pod \"web-1\" deleted", "service \"web-2\" deleted"],
    ),
    ("kubectl create job sum --image=host -- sh -c 'echo $((6 * 7))'", 0, &["job.batch/sum created"]),
    ("kubectl wait --for=condition=complete job/sum --timeout=30s", 0, &["condition met"]),
    ("kubectl logs job/sum", 0, &["42"]),
    ("kubectl get job sum", 0, &["Complete   1/1"]),
    (
        "kubectl patch job sum -p '{\"spec\":{\"template\":{\"spec\":{\"containers\":[{\"name\":\"sum\",\"image\":\"yard/echo\"}]}}}}'",
        1,
        &["spec.template: Invalid value", "field is immutable"],
    ),
    ("kubectl delete job sum", 0, &["deleted"]),
    (
        "exec 3< <(exec kubectl port-forward --address 127.0.0.1 $POD :80); read -r _ _ at _ <&3; curl -sS http://$at/; kill $!",
        0,
        &["\"pod\":\"sphinx-rs-1-"],
    ),
    (
        "exec 3< <(exec yard port-forward $POD 0:80); read -r _ _ at _ <&3; curl -sS http://$at/; kill $!",
        0,
        &["\"pod\":\"sphinx-rs-1-"],
    ),
];
