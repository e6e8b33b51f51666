//! kubectl against a live server, and as the oracle for patches. Where there is no kubectl, these tests say so and pass.

mod rig;

use rig::{Rig, kubectl_is_old, kubectl_program, run_kubectl};
use serde_json::{Value, json};

const WEB: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - {name: c, image: "nginx:1.25", ports: [{containerPort: 80}], env: [{name: A, value: "1"}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {type: LoadBalancer, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
"#;

/// What is typed, and what must be in the answer.
fn session(rig: &Rig, steps: &[(&str, &str, &str)]) {
    for (line, stdin, expected) in steps {
        let args: Vec<&str> = line.split(' ').collect();
        let Some((_, text)) = rig.kubectl(&args, stdin) else { return eprintln!("no kubectl here: not tested") };
        assert!(text.contains(expected), "kubectl {line}\nexpected: {expected}\ngot: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_people_type_does_what_they_expect() {
    let rig = Rig::start().await;
    session(
        &rig,
        &[
            ("get namespaces", "", "kube-system"),
            ("apply -f -", WEB, "deployment.apps/web created"),
            ("apply -f -", WEB, "deployment.apps/web unchanged"),
            ("apply -f -", &WEB.replace("nginx:1.25", "nginx:1.26"), "deployment.apps/web configured"),
            ("get deploy,svc -o wide", "", "nginx:1.26"),
            ("get svc web", "", "<pending>"),
            ("scale deploy/web --replicas=5", "", "deployment.apps/web scaled"),
            ("get deploy web -o jsonpath={.spec.replicas}", "", "5"),
            ("set image deploy/web c=nginx:2", "", "image updated"),
            ("label deploy web x=y", "", "labeled"),
            ("annotate deploy web a=b", "", "annotated"),
            ("patch deploy web --type=json -p=[{\"op\":\"remove\",\"path\":\"/metadata/labels/x\"}]", "", "patched"),
            ("describe deploy web", "", "nginx:2"),
            ("create configmap cm --from-literal=a=b", "", "configmap/cm created"),
            ("get cm cm -o yaml", "", "a: b"),
            ("create namespace x", "", "namespace/x created"),
            ("create serviceaccount bob", "", "serviceaccount/bob created"),
            ("create token bob", "", "."),
            ("create deployment other --image=x --port=80", "", "deployment.apps/other created"),
            (
                "create ingress i --rule=sphinx-v*.esxcloud.net/*=web:80 --class=yard",
                "",
                "ingress.networking.k8s.io/i created",
            ),
            ("create job j --image=x", "", "job.batch/j created"),
            ("create quota q --hard=pods=1", "", "resourcequota/q created"),
            ("create rolebinding b --clusterrole=view --serviceaccount=default:bob", "", "created"),
            ("auth can-i create pods", "", "yes"),
            ("auth can-i create pods --as=system:serviceaccount:default:bob", "", "no"),
            ("auth can-i list pods --as=system:serviceaccount:default:bob", "", "yes"),
            ("run p --image=x", "", "pod/p created"),
            ("run p2 --image=x", "", "exceeded quota: q"),
            ("get pods -o wide", "", "NOMINATED NODE"),
            ("get pods --field-selector status.phase=Pending -l run=p", "", "p "),
            ("describe pod p", "", "BestEffort"),
            ("describe quota", "", "pods"),
            ("get all,ingress,quota,cm,sa,rolebinding,job -A -o wide", "", "sphinx-v*.esxcloud.net"),
            ("apply -f - --server-side", WEB, "conflict"),
            ("apply -f -", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: grows}\ndata: {a: b, c: d}\n", "created"),
            (
                "apply -f - --server-side",
                "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: grows}\ndata: {a: z}\n",
                "serverside-applied",
            ),
            ("get cm grows -o jsonpath={.data}", "", "{\"a\":\"z\"}"),
            ("apply -f - --server-side --force-conflicts", WEB, "serverside-applied"),
            (
                "apply -f -",
                "apiVersion: v1\nkind: Pod\nmetadata: {name: bad}\nspec: {containers: [{name: c, image: x, imagePulPolicy: Never}]}\n",
                "unknown field \"spec.containers[0].imagePulPolicy\"",
            ),
            ("delete pod p", "", "pod \"p\" deleted"),
            ("delete deploy,svc --all", "", "deleted"),
            ("get deploy", "", "No resources found"),
            ("wait --for=delete deploy/web --timeout=5s", "", ""),
            ("get --raw /openapi/v2", "", "swagger"),
            ("api-resources", "", "networks"),
        ],
    );
    if !kubectl_is_old() {
        session(&rig, &[("explain deployments", "", "KIND:")]);
    }
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_definition_brings_a_kind_and_takes_it_away() {
    let rig = Rig::start().await;
    let definition = r#"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: tiers.example.net}
spec:
  group: example.net
  scope: Cluster
  names: {plural: tiers, singular: tier, kind: Tier, shortNames: [ti]}
  versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}]
"#;
    session(
        &rig,
        &[
            ("apply -f -", definition, "created"),
            (
                "apply -f -",
                "apiVersion: example.net/v1\nkind: Tier\nmetadata: {name: t}\nspec: {priority: 5, nested: {deep: [1]}}\n",
                "tier.example.net/t created",
            ),
            ("get tiers t -o jsonpath={.spec.nested.deep[0]}", "", "1"),
            ("delete crd tiers.example.net", "", "deleted"),
            ("get tiers --cache-dir=/nonexistent", "", "the server doesn't have a resource type"),
        ],
    );
}

/// Runs both ways over the same patches: `kubectl patch --local` is the reference.
#[tokio::test(flavor = "multi_thread")]
async fn patches_come_out_as_kubectls_own() {
    let rig = Rig::start().await;
    let home = rig.dir.path();
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "default", "labels": {"a": "1", "b": "2"}, "finalizers": ["x/a", "x/b"]},
        "spec": {"containers": [
            {"name": "one", "image": "a", "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}], "args": ["x"]},
            {"name": "two", "image": "b", "ports": [{"containerPort": 80, "protocol": "TCP"}]}],
            "volumes": [{"name": "v", "emptyDir": {"medium": "Memory"}}],
            "tolerations": [{"key": "k", "operator": "Exists"}]}});
    let file = home.join("pod.json");
    std::fs::write(&file, pod.to_string()).expect("write");
    let file = file.to_str().expect("a path");
    let patches = [
        json!({"metadata": {"labels": {"a": null, "c": "3"}}}),
        json!({"spec": {"containers": [{"name": "two", "image": "c"}, {"name": "three", "image": "d"}]}}),
        json!({"spec": {"containers": [{"name": "one", "$patch": "delete"}]}}),
        json!({"spec": {"containers": [{"$patch": "replace"}, {"name": "new", "image": "n"}]}}),
        json!({"spec": {"containers": [{"name": "one", "env": [{"name": "B", "$patch": "delete"}, {"name": "C", "value": "3"}]}]}}),
        json!({"spec": {"$setElementOrder/containers": [{"name": "two"}, {"name": "one"}], "containers": [{"name": "one", "image": "z"}]}}),
        json!({"spec": {"$setElementOrder/containers": [{"name": "zero"}, {"name": "two"}, {"name": "one"}], "containers": [{"name": "zero", "image": "z"}]}}),
        json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["x/a"]}}),
        json!({"metadata": {"finalizers": ["x/c"]}}),
        json!({"metadata": {"finalizers": ["x/c"], "$setElementOrder/finalizers": ["x/c", "x/b", "x/a"]}}),
        json!({"spec": {"volumes": [{"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/x"}}]}}),
        json!({"spec": {"tolerations": [{"key": "z"}]}}),
        json!({"spec": {"containers": [{"name": "two", "ports": [{"containerPort": 90}]}]}}),
        json!({"metadata": {"labels": {"$patch": "replace", "only": "me"}}}),
        json!({"metadata": {"annotations": {"$patch": "delete"}, "labels": {"$patch": "delete"}}}),
        json!({"spec": {"containers": [{"name": "one", "args": ["y", "z"]}]}}),
        json!({"spec": {"securityContext": {"runAsUser": 5}, "nodeSelector": {"a": "b"}}}),
        json!({"spec": {"containers": [{"name": "one", "resources": {"limits": {"cpu": "1"}}}], "hostAliases": [{"ip": "1.1.1.1", "hostnames": ["h"]}]}}),
    ];
    let (table, old) = (["strategic", "merge"], kubectl_is_old());
    for kind in table {
        for patch in &patches {
            if kind == "merge" && patch.to_string().contains('$') {
                continue;
            }
            // Old ones leave the directive itself in a map that was not there.
            if old && patch.pointer("/metadata/annotations/$patch").is_some() {
                continue;
            }
            let patch_text = patch.to_string();
            let args = ["patch", "--local", "-f", file, "--type", kind, "-p", &patch_text, "-o", "json"];
            let Some((good, text)) = run_kubectl(&kubectl_program(), &home.join("kubeconfig"), home, &args, "") else {
                return eprintln!("no kubectl here: not tested");
            };
            assert!(good, "{text}");
            let theirs: Value = serde_json::from_str(&text).expect("JSON");
            let ours = switchyard_apiserver::patch_for_tests(kind, &pod, patch).expect("our patch");
            assert_eq!(plain(&ours), plain(&theirs), "{kind} {patch}");
        }
    }
}

/// Without what a typed client adds or leaves out.
fn plain(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let kept =
                map.iter().filter(|(key, value)| *key != "status" && *key != "creationTimestamp" && !value.is_null());
            let kept = kept.map(|(key, value)| (key.clone(), plain(value)));
            let mut list: Vec<_> = kept.filter(|(_, value)| *value != json!({}) && *value != json!([])).collect();
            list.sort_by(|a, b| a.0.cmp(&b.0));
            Value::Object(list.into_iter().collect())
        }
        Value::Array(list) => Value::Array(list.iter().map(plain).collect()),
        value => value.clone(),
    }
}
