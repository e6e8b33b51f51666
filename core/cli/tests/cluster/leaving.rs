//! After the end nothing is left.

use crate::rig::{Cluster, Powers, Traces, scenarios};

scenarios! {
    nothing_is_left_after_down
    nothing_is_left_after_the_supervisor_was_killed
    a_deleted_cluster_is_gone
}

fn nothing_is_left_after_down(powers: Powers) {
    let cluster = Cluster::boot(powers);
    let traces = Traces::of(cluster.pid("supervisor"));
    cluster.yard(&["down", "--grace", "30"]);
    traces.are_gone(&cluster.directory());
    let log = std::fs::read_to_string(cluster.directory().join("log/supervisor.log")).unwrap();
    assert!(log.contains("going down") && !log.contains("not everybody left"), "{log}");
}

fn nothing_is_left_after_the_supervisor_was_killed(powers: Powers) {
    let cluster = Cluster::boot(powers);
    let traces = Traces::of(cluster.pid("supervisor"));
    cluster.kill("supervisor");
    // The files go with the next `yard down` or `yard up`.
    cluster.yard(&["down"]);
    traces.are_gone(&cluster.directory());
}

fn a_deleted_cluster_is_gone(powers: Powers) {
    let cluster = Cluster::boot(powers);
    let traces = Traces::of(cluster.pid("supervisor"));
    cluster.yard(&["delete", "cluster"]);
    traces.are_gone(&cluster.directory());
    assert!(!cluster.directory().exists());
}
