//! After the end nothing is left.

use crate::rig::{Cluster, Powers, Traces, scenarios};

scenarios! {
    nothing_is_left_after_down
    nothing_is_left_after_the_supervisor_was_killed
    a_deleted_cluster_is_gone
    a_cluster_that_could_not_start_leaves_nothing
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

fn a_cluster_that_could_not_start_leaves_nothing(powers: Powers) {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let cluster = Cluster::prepare_with(powers, |folder| {
        let file = folder.join("cluster.yaml");
        let text =
            std::fs::read_to_string(&file).unwrap().replace("listen: 127.0.0.1:0", &format!("listen: {address}"));
        std::fs::write(&file, text).unwrap();
    });
    let output = cluster.try_yard(&["up", "-f", cluster.file("sphinx").to_str().unwrap()]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains(&format!("{address}: in use by")) && error.contains("spec.hostPorts[0].listen"), "{error}");
    assert!(!cluster.directory().exists(), "a folder is left");
}
