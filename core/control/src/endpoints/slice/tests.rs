use super::*;
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

fn service() -> Service {
    let service = json!({
        "metadata": {"name": "web", "namespace": "default", "uid": "s"},
        "spec": {"selector": {"app": "web"}, "ports": [{"name": "web", "port": 80, "targetPort": "web"}]},
    });
    serde_json::from_value(service).unwrap()
}

fn pods(numbers: std::ops::Range<u32>, port: u16) -> Vec<Backend> {
    let pod = |n: u32| {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": format!("pod-{n:04}"), "uid": format!("u{n}")},
            "spec": {"nodeName": "a", "containers": [{"name": "c", "ports": [{"name": "web", "containerPort": port}]}]},
            "status": {"podIP": format!("10.40.{}.{}", n / 250, n % 250), "conditions": [{"type": "Ready", "status": "True"}]},
        }))
        .unwrap();
        Backend::of(&service(), &Arc::new(pod)).unwrap()
    };
    numbers.map(pod).collect()
}

/// What the API would have after the plan.
fn apply(slices: &[Arc<EndpointSlice>], plan: Plan) -> Vec<Arc<EndpointSlice>> {
    let mut slices = slices.to_vec();
    slices.retain(|slice| !plan.delete.iter().any(|gone| gone.metadata.name == slice.metadata.name));
    for (n, mut slice) in plan.write.into_iter().enumerate() {
        match slice.metadata.name.clone() {
            Some(name) => slices.retain(|old| old.metadata.name.as_ref() != Some(&name)),
            None => slice.metadata.name = Some(format!("web-{n}-{}", slices.len())),
        }
        slices.push(Arc::new(slice));
    }
    slices
}

fn sizes(slices: &[Arc<EndpointSlice>]) -> Vec<usize> {
    let mut sizes: Vec<usize> = slices.iter().map(|slice| slice.endpoints.as_ref().map_or(0, Vec::len)).collect();
    sizes.sort_unstable();
    sizes
}

#[test]
fn a_service_without_pods_has_one_empty_slice() {
    let first = plan(&service(), &[], &[]);
    assert_eq!((first.write.len(), first.delete.len()), (1, 0));
    let slices = apply(&[], first);
    let again = plan(&service(), &[], &slices);
    assert_eq!((again.write.len(), again.delete.len()), (0, 0), "and then nothing is to be done");
}

#[test]
fn slices_are_filled_to_a_hundred() {
    let slices = apply(&[], plan(&service(), &pods(0..250, 80), &[]));
    assert_eq!(sizes(&slices), [50, 100, 100]);
    let again = plan(&service(), &pods(0..250, 80), &slices);
    assert!(again.write.is_empty() && again.delete.is_empty());
}

#[test]
fn one_pod_more_is_one_write() {
    let slices = apply(&[], plan(&service(), &pods(0..250, 80), &[]));
    let more = plan(&service(), &pods(0..251, 80), &slices);
    assert_eq!((more.write.len(), more.delete.len()), (1, 0));
    assert_eq!(sizes(&apply(&slices, more)), [51, 100, 100]);
}

#[test]
fn pods_that_are_replaced_cost_one_write_for_each_slice_they_were_in() {
    let slices = apply(&[], plan(&service(), &pods(0..150, 80), &[]));
    let other = plan(&service(), &pods(10..160, 80), &slices);
    assert!(other.write.len() <= 2, "{}", other.write.len());
    assert_eq!(sizes(&apply(&slices, other)).iter().sum::<usize>(), 150);
}

#[test]
fn pods_with_another_port_go_into_a_slice_of_their_own() {
    let mut both = pods(0..2, 80);
    both.extend(pods(2..3, 8080));
    let slices = apply(&[], plan(&service(), &both, &[]));
    assert_eq!(sizes(&slices), [1, 2]);
}

#[test]
fn the_last_slice_stays_when_its_last_pod_goes() {
    let slices = apply(&[], plan(&service(), &pods(0..150, 80), &[]));
    let slices = apply(&slices, plan(&service(), &[], &slices));
    assert_eq!(sizes(&slices), [0]);
}
