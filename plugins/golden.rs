//! What the golden tests of our plugins share: a cluster to ask about, and answers as JSON beside the test. `SWITCHYARD_BLESS=1` writes
//! them anew; the difference is then there to be read.

use std::collections::BTreeMap;
use std::path::Path;

use switchyard_plugin::netstate::Fragment;
use switchyard_plugin::{Facts, NodeFacts, PodFacts};

pub(crate) fn facts() -> Facts {
    Facts {
        cluster: "sphinx".into(),
        pod_cidr: "10.40.0.0/16".parse().unwrap(),
        service_cidr: "10.96.0.0/16".parse().unwrap(),
        underlay_cidr: "10.140.0.0/24".parse().unwrap(),
        underlay_gateway: "10.140.0.1".parse().unwrap(),
        underlay_mtu: 1500,
    }
}

pub(crate) fn node(number: u8) -> NodeFacts {
    NodeFacts {
        name: format!("worker-{number}"),
        address: format!("10.140.0.{}", 10 + number).parse().unwrap(),
        pod_cidr: format!("10.40.{number}.0/24").parse().unwrap(),
        uplink: "eth0".parse().unwrap(),
        mac: None,
        mtu: None,
        edge: None,
    }
}

pub(crate) fn pod(ip: &str) -> PodFacts {
    PodFacts {
        uid: "4cc0b9e6-5c24-4f7b-8a0e-0f7a2f4d1b11".into(),
        namespace: "default".into(),
        name: "sphinx-v1-abcde".into(),
        labels: BTreeMap::new(),
        ip: ip.parse().unwrap(),
        segment: None,
    }
}

#[track_caller]
pub(crate) fn is_golden(name: &str, fragment: &Fragment) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(format!("{name}.json"));
    let found = serde_json::to_string_pretty(fragment).unwrap() + "\n";
    if std::env::var_os("SWITCHYARD_BLESS").is_some() {
        std::fs::write(&path, &found).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(found == expected, "{} is no longer what is wanted:\n{found}", path.display());
}
