//! Objects to ask about.

#![allow(dead_code, reason = "each test program uses its part")]

use hickory_proto::rr::{Name, RData, Record, RecordType};
use serde_json::{Value, json};
use switchyard_dns::sources::{Naming, unit};
use switchyard_dns::{Answer, Found, Mirror, Shared};

/// An index and what fills it.
pub(crate) struct World {
    pub(crate) index: Shared,
    naming: Naming,
    mirror: Mirror,
}

impl World {
    pub(crate) fn new() -> Self {
        let naming = Naming::new("cluster.local", &["esxcloud.net".into()]);
        let prefixes = ["10.0.0.0/16".parse().unwrap()];
        let index = Shared::new(naming.index(&prefixes, Some("10.140.0.1".parse().unwrap())));
        let mirror = Mirror::new(naming.clone(), index.clone());
        Self { index, naming, mirror }
    }

    /// The objects of CoreDNS's tests, more or less.
    pub(crate) fn coredns() -> Self {
        let mut world = Self::new();
        let http = json!([{"name": "http", "port": 80, "protocol": "TCP"}]);
        let service =
            |name: &str, spec: Value| json!({"metadata": {"name": name, "namespace": "testns"}, "spec": spec});
        world.service(service("svc1", json!({"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"], "ports": http})));
        world.service(service("svcempty", json!({"clusterIP": "10.0.0.2", "ports": http})));
        world.service(service("svc6", json!({"clusterIP": "1234:abcd::1", "ports": http})));
        let both = json!({"clusterIP": "10.0.0.3", "clusterIPs": ["10.0.0.3", "10::3"], "ports": http});
        world.service(service("svc-dual-stack", both));
        for name in ["hdls1", "hdlsprtls", "hdlsnotready"] {
            world.service(service(name, json!({"clusterIP": "None", "ports": http})));
        }
        world.service(service("hdlsall", json!({"clusterIP": "None", "publishNotReadyAddresses": true})));
        world.service(service("external", json!({"type": "ExternalName", "externalName": "ext.interwebs.test"})));
        let inside = json!({"type": "ExternalName", "externalName": "svc1.testns.svc.cluster.local"});
        world.service(service("external-to-service", inside));
        world.service(json!({
            "metadata": {"name": "kube-dns", "namespace": "kube-system"},
            "spec": {"clusterIP": "10.0.0.10", "ports": [{"name": "dns", "port": 53, "protocol": "UDP"}]},
        }));
        let endpoints = json!([
            {"addresses": ["172.0.0.2"]},
            {"addresses": ["172.0.0.3"], "conditions": {"ready": true}},
            {"addresses": ["172.0.0.4"], "hostname": "dup-name"},
            {"addresses": ["172.0.0.5"], "hostname": "dup-name"},
            {"addresses": ["172.0.0.6"], "conditions": {"ready": false}},
        ]);
        world.slice_of("hdls1", "hdls1-a", "IPv4", endpoints, http.clone());
        let endpoints = json!([{"addresses": ["5678:abcd::1"]}, {"addresses": ["5678:abcd::2"]}]);
        world.slice_of("hdls1", "hdls1-6", "IPv6", endpoints, http);
        world.slice_of("hdlsprtls", "hdlsprtls-a", "IPv4", json!([{"addresses": ["172.0.0.20"]}]), json!([]));
        world.slice("hdlsnotready", "hdlsnotready-a", &["172.0.0.22"], false);
        world.slice("hdlsall", "hdlsall-a", &["172.0.0.21"], false);
        for (name, address, phase) in [("p", "10.40.1.7", "Running"), ("done", "10.40.1.8", "Succeeded")] {
            let pod = json!({
                "metadata": {"name": name, "namespace": "podns"},
                "status": {"phase": phase, "podIP": address, "podIPs": [{"ip": address}]},
            });
            let pod: k8s_openapi::api::core::v1::Pod = serde_json::from_value(pod).unwrap();
            world.index.write(|index| index.set(unit("Pod", &pod), world.naming.pod(&pod)));
        }
        world
    }

    /// What the example has outside, and some more patterns.
    pub(crate) fn sphinx() -> Self {
        let mut world = Self::new();
        world.service(json!({
            "metadata": {
                "name": "sphinx-svc-3", "namespace": "default",
                "annotations": {"external-dns.alpha.kubernetes.io/hostname": "three.esxcloud.net, three.example.org"},
            },
            "spec": {"type": "LoadBalancer", "clusterIP": "10.0.0.7", "ports": [{"name": "web", "port": 80}]},
            "status": {"loadBalancer": {"ingress": [{"ip": "192.168.100.1"}]}},
        }));
        world.ingress(
            "a",
            &["sphinx-v1.esxcloud.net", "sphinx-v*.esxcloud.net", "*.wild.esxcloud.net"],
            "192.168.100.244",
        );
        world.ingress("b", &["sphinx-v*-blue.esxcloud.net", "www.example.org"], "192.168.100.9");
        world.ingress("c", &["exact-v1.esxcloud.net"], "192.168.100.7");
        world.ingress("d", &["exact-v*.esxcloud.net"], "192.168.100.8");
        world
    }

    /// Somebody else's zone with a few addresses.
    pub(crate) fn of_zone(zone: &str, hosts: &[(&str, &str)]) -> Self {
        let naming = Naming::new("elsewhere.test", &[zone.into()]);
        let index = Shared::new(naming.index(&[], None));
        let mirror = Mirror::new(naming.clone(), index.clone());
        let mut world = Self { index, naming, mirror };
        for (host, address) in hosts {
            world.ingress(host, &[*host], address);
        }
        world
    }

    pub(crate) fn service(&mut self, service: Value) {
        self.mirror.service(serde_json::from_value(service).unwrap());
    }

    pub(crate) fn ingress(&mut self, name: &str, hosts: &[&str], address: &str) {
        let rules: Vec<_> = hosts.iter().map(|host| json!({"host": host})).collect();
        let ingress = json!({
            "metadata": {"name": name, "namespace": "default"}, "spec": {"rules": rules},
            "status": {"loadBalancer": {"ingress": [{"ip": address}]}},
        });
        let ingress: k8s_openapi::api::networking::v1::Ingress = serde_json::from_value(ingress).unwrap();
        self.index.write(|index| index.set(unit("Ingress", &ingress), self.naming.ingress(&ingress)));
    }

    /// Endpoints of a Service of `testns`.
    pub(crate) fn slice(&mut self, service: &str, name: &str, addresses: &[&str], ready: bool) {
        let endpoint = |address: &&str| json!({"addresses": [address], "conditions": {"ready": ready}});
        let endpoints: Vec<_> = addresses.iter().map(endpoint).collect();
        self.slice_of(
            service,
            name,
            "IPv4",
            json!(endpoints),
            json!([{"name": "http", "port": 80, "protocol": "TCP"}]),
        );
    }

    fn slice_of(&mut self, service: &str, name: &str, family: &str, endpoints: Value, ports: Value) {
        let slice = json!({
            "metadata": {"name": name, "namespace": "testns", "labels": {"kubernetes.io/service-name": service}},
            "addressType": family, "endpoints": endpoints, "ports": ports,
        });
        self.mirror.slice(serde_json::from_value(slice).unwrap());
    }

    /// An answer from the index, if the name is ours.
    pub(crate) fn ask(&self, name: &str, wanted: RecordType) -> Option<Answer> {
        match self.index.read().answer(&Name::from_ascii(name).unwrap(), wanted) {
            Found::Ours(answer) => Some(answer),
            Found::Elsewhere => None,
        }
    }
}

/// Records as text, sorted, without TTL and class.
pub(crate) fn texts(records: &[Record]) -> Vec<String> {
    let text = |record: &Record| {
        let data = match &record.data {
            RData::TXT(text) => text.txt_data.iter().map(|part| String::from_utf8_lossy(part).into_owned()).collect(),
            other => other.to_string(),
        };
        format!("{} {} {data}", record.name, record.record_type())
    };
    let mut texts: Vec<_> = records.iter().map(text).collect();
    texts.sort();
    texts
}
