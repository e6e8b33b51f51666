//! Names and what they answer: those that CoreDNS's tests ask (plugin/kubernetes/handler_test.go), and the zones outside.

mod world;

use hickory_proto::op::ResponseCode::{NXDomain, NoError};
use world::World;

/// A question, the code, and the answer's records without TTL and class; `SOA` in their place says that there is none.
type Case = (&'static str, hickory_proto::op::ResponseCode, &'static [&'static str]);

fn check(world: &World, cases: &[Case]) {
    for (question, code, expected) in cases {
        let (name, kind) = question.rsplit_once(' ').unwrap();
        let answer = world.ask(name, kind.parse().unwrap()).unwrap_or_else(|| panic!("{question}: not ours"));
        assert_eq!(answer.code, *code, "{question}");
        if *expected == ["SOA"] {
            assert!(answer.answers.is_empty(), "{question}: {:?}", answer.answers);
            assert_eq!(answer.authorities.len(), 1, "{question}: a start of authority");
            continue;
        }
        let got = world::texts(&answer.answers);
        let mut wanted: Vec<_> = expected.iter().map(|&text| text.to_owned()).collect();
        wanted.sort();
        assert_eq!(got, wanted, "{question}");
    }
}

#[test]
fn names_that_coredns_tests() {
    let world = World::coredns();
    check(
        &world,
        &[
            // A Service, also without endpoints.
            ("svc1.testns.svc.cluster.local. A", NoError, &["svc1.testns.svc.cluster.local. A 10.0.0.1"]),
            ("SVC1.TestNS.svc.Cluster.Local. A", NoError, &["SVC1.TestNS.svc.Cluster.Local. A 10.0.0.1"]),
            ("svcempty.testns.svc.cluster.local. A", NoError, &["svcempty.testns.svc.cluster.local. A 10.0.0.2"]),
            (
                "svc1.testns.svc.cluster.local. SRV",
                NoError,
                &["svc1.testns.svc.cluster.local. SRV 0 100 80 svc1.testns.svc.cluster.local."],
            ),
            (
                "_http._tcp.svc1.testns.svc.cluster.local. SRV",
                NoError,
                &["_http._tcp.svc1.testns.svc.cluster.local. SRV 0 100 80 svc1.testns.svc.cluster.local."],
            ),
            ("svc6.testns.svc.cluster.local. AAAA", NoError, &["svc6.testns.svc.cluster.local. AAAA 1234:abcd::1"]),
            // Headless.
            (
                "hdls1.testns.svc.cluster.local. A",
                NoError,
                &[
                    "hdls1.testns.svc.cluster.local. A 172.0.0.2",
                    "hdls1.testns.svc.cluster.local. A 172.0.0.3",
                    "hdls1.testns.svc.cluster.local. A 172.0.0.4",
                    "hdls1.testns.svc.cluster.local. A 172.0.0.5",
                ],
            ),
            (
                "hdls1.testns.svc.cluster.local. AAAA",
                NoError,
                &[
                    "hdls1.testns.svc.cluster.local. AAAA 5678:abcd::1",
                    "hdls1.testns.svc.cluster.local. AAAA 5678:abcd::2",
                ],
            ),
            ("hdlsprtls.testns.svc.cluster.local. A", NoError, &["hdlsprtls.testns.svc.cluster.local. A 172.0.0.20"]),
            (
                "172-0-0-20.hdlsprtls.testns.svc.cluster.local. A",
                NoError,
                &["172-0-0-20.hdlsprtls.testns.svc.cluster.local. A 172.0.0.20"],
            ),
            (
                "172-0-0-2.hdls1.testns.svc.cluster.local. A",
                NoError,
                &["172-0-0-2.hdls1.testns.svc.cluster.local. A 172.0.0.2"],
            ),
            (
                "dup-name.hdls1.testns.svc.cluster.local. A",
                NoError,
                &[
                    "dup-name.hdls1.testns.svc.cluster.local. A 172.0.0.4",
                    "dup-name.hdls1.testns.svc.cluster.local. A 172.0.0.5",
                ],
            ),
            (
                "5678-abcd--2.hdls1.testns.svc.cluster.local. AAAA",
                NoError,
                &["5678-abcd--2.hdls1.testns.svc.cluster.local. AAAA 5678:abcd::2"],
            ),
            (
                "_http._tcp.hdls1.testns.svc.cluster.local. SRV",
                NoError,
                &[
                    "_http._tcp.hdls1.testns.svc.cluster.local. SRV 0 20 80 172-0-0-2.hdls1.testns.svc.cluster.local.",
                    "_http._tcp.hdls1.testns.svc.cluster.local. SRV 0 20 80 172-0-0-3.hdls1.testns.svc.cluster.local.",
                    "_http._tcp.hdls1.testns.svc.cluster.local. SRV 0 20 80 5678-abcd--1.hdls1.testns.svc.cluster.local.",
                    "_http._tcp.hdls1.testns.svc.cluster.local. SRV 0 20 80 5678-abcd--2.hdls1.testns.svc.cluster.local.",
                    "_http._tcp.hdls1.testns.svc.cluster.local. SRV 0 20 80 dup-name.hdls1.testns.svc.cluster.local.",
                ],
            ),
            // No endpoint is ready: no such name. Unless the Service says that does not matter.
            ("hdlsnotready.testns.svc.cluster.local. A", NXDomain, &["SOA"]),
            ("hdlsall.testns.svc.cluster.local. A", NoError, &["hdlsall.testns.svc.cluster.local. A 172.0.0.21"]),
            ("bogusendpoint.hdls1.testns.svc.cluster.local. A", NXDomain, &["SOA"]),
            ("bogusendpoint.svc0.testns.svc.cluster.local. A", NXDomain, &["SOA"]),
            // Other names for what is elsewhere, or here.
            (
                "external.testns.svc.cluster.local. CNAME",
                NoError,
                &["external.testns.svc.cluster.local. CNAME ext.interwebs.test."],
            ),
            (
                "external-to-service.testns.svc.cluster.local. A",
                NoError,
                &[
                    "external-to-service.testns.svc.cluster.local. CNAME svc1.testns.svc.cluster.local.",
                    "svc1.testns.svc.cluster.local. A 10.0.0.1",
                ],
            ),
            ("endpoint.external.testns.svc.cluster.local. CNAME", NXDomain, &["SOA"]),
            // There, but not with this type; not there.
            ("svc1.testns.svc.cluster.local. AAAA", NoError, &["SOA"]),
            ("svc0.testns.svc.cluster.local. AAAA", NXDomain, &["SOA"]),
            ("svc0.testns.svc.cluster.local. A", NXDomain, &["SOA"]),
            ("svc0.svc-nons.svc.cluster.local. A", NXDomain, &["SOA"]),
            ("svc1.wrongns.svc.cluster.local. A", NXDomain, &["SOA"]),
            ("svc.cluster.local. A", NoError, &["SOA"]),
            ("pod.cluster.local. A", NoError, &["SOA"]),
            ("testns.svc.cluster.local. A", NoError, &["SOA"]),
            ("svc.cluster.local. NS", NoError, &["SOA"]),
            ("testns.svc.cluster.local. NS", NoError, &["SOA"]),
            ("foo.cluster.local. NS", NXDomain, &["SOA"]),
            ("foo.svc.cluster.local. NS", NXDomain, &["SOA"]),
            ("svc1.testns.svc.cluster.local. SOA", NoError, &["SOA"]),
            ("svc1.testns.svc.cluster.local. TXT", NoError, &["SOA"]),
            ("dns-version.cluster.local. TXT", NoError, &["dns-version.cluster.local. TXT 1.1.0"]),
            // Wildcards are gone since 2022.
            ("*.testns.svc.cluster.local. A", NXDomain, &["SOA"]),
            ("*.svc.cluster.local. A", NXDomain, &["SOA"]),
            ("any.any.svc.cluster.local. A", NXDomain, &["SOA"]),
            // Two families.
            (
                "svc-dual-stack.testns.svc.cluster.local. A",
                NoError,
                &["svc-dual-stack.testns.svc.cluster.local. A 10.0.0.3"],
            ),
            (
                "svc-dual-stack.testns.svc.cluster.local. AAAA",
                NoError,
                &["svc-dual-stack.testns.svc.cluster.local. AAAA 10::3"],
            ),
            // Addresses' names.
            ("1.0.0.10.in-addr.arpa. PTR", NoError, &["1.0.0.10.in-addr.arpa. PTR svc1.testns.svc.cluster.local."]),
            (
                "4.0.0.172.in-addr.arpa. PTR",
                NoError,
                &["4.0.0.172.in-addr.arpa. PTR dup-name.hdls1.testns.svc.cluster.local."],
            ),
            ("77.0.0.10.in-addr.arpa. PTR", NXDomain, &["SOA"]),
            // Pods: only addresses that a pod of the namespace has.
            ("10-40-1-7.podns.pod.cluster.local. A", NoError, &["10-40-1-7.podns.pod.cluster.local. A 10.40.1.7"]),
            ("10-40-1-7.testns.pod.cluster.local. A", NXDomain, &["SOA"]),
            ("10-40-1-8.podns.pod.cluster.local. A", NXDomain, &["SOA"]),
        ],
    );
}

#[test]
fn the_apex_says_who_serves_it() {
    let world = World::coredns();
    let answer = world.ask("cluster.local.", "SOA".parse().unwrap()).unwrap();
    let soa = world::texts(&answer.answers);
    assert!(
        soa[0].starts_with("cluster.local. SOA kube-dns.kube-system.svc.cluster.local. hostmaster.cluster.local. "),
        "{soa:?}"
    );
    let answer = world.ask("cluster.local.", "NS".parse().unwrap()).unwrap();
    assert_eq!(world::texts(&answer.answers), ["cluster.local. NS kube-dns.kube-system.svc.cluster.local."]);
    assert_eq!(world::texts(&answer.additionals), ["kube-dns.kube-system.svc.cluster.local. A 10.0.0.10"]);
}

#[test]
fn srv_brings_the_hosts_addresses() {
    let world = World::coredns();
    let answer = world.ask("_http._tcp.svc1.testns.svc.cluster.local.", "SRV".parse().unwrap()).unwrap();
    assert_eq!(world::texts(&answer.additionals), ["svc1.testns.svc.cluster.local. A 10.0.0.1"]);
}

#[test]
fn names_outside_are_hosts_of_ingresses_and_load_balancers() {
    let world = World::sphinx();
    check(
        &world,
        &[
            ("sphinx-v1.esxcloud.net. A", NoError, &["sphinx-v1.esxcloud.net. A 192.168.100.244"]),
            ("sphinx-v42.esxcloud.net. A", NoError, &["sphinx-v42.esxcloud.net. A 192.168.100.244"]),
            ("SPHINX-V42.esxcloud.net. A", NoError, &["SPHINX-V42.esxcloud.net. A 192.168.100.244"]),
            ("sphinx-v1.esxcloud.net. AAAA", NoError, &["SOA"]),
            // The star stands for at least one byte, and for no dot.
            ("sphinx-v.esxcloud.net. A", NXDomain, &["SOA"]),
            ("sphinx-w1.esxcloud.net. A", NXDomain, &["SOA"]),
            ("a.sphinx-v1.esxcloud.net. A", NXDomain, &["SOA"]),
            ("sphinx-v1.a.esxcloud.net. A", NXDomain, &["SOA"]),
            // The most specific pattern decides, and an exact name before any.
            ("sphinx-v9-blue.esxcloud.net. A", NoError, &["sphinx-v9-blue.esxcloud.net. A 192.168.100.9"]),
            ("exact-v1.esxcloud.net. A", NoError, &["exact-v1.esxcloud.net. A 192.168.100.7"]),
            ("anything.wild.esxcloud.net. A", NoError, &["anything.wild.esxcloud.net. A 192.168.100.244"]),
            // A Service of type LoadBalancer, by name and namespace, and as it asks.
            ("sphinx-svc-3.default.esxcloud.net. A", NoError, &["sphinx-svc-3.default.esxcloud.net. A 192.168.100.1"]),
            ("three.esxcloud.net. A", NoError, &["three.esxcloud.net. A 192.168.100.1"]),
            ("esxcloud.net. NS", NoError, &["esxcloud.net. NS ns.esxcloud.net."]),
            ("ns.esxcloud.net. A", NoError, &["ns.esxcloud.net. A 10.140.0.1"]),
        ],
    );
    assert!(world.ask("www.example.org.", "A".parse().unwrap()).is_none(), "not in our zones");
}

#[test]
fn a_change_shows_and_a_return_is_as_before() {
    let mut world = World::coredns();
    let before = world.ask("hdls1.testns.svc.cluster.local.", "A".parse().unwrap()).unwrap();
    world.slice("hdls1", "hdls1-b", &["172.0.0.99"], true);
    let more = world.ask("hdls1.testns.svc.cluster.local.", "A".parse().unwrap()).unwrap();
    assert_eq!(more.answers.len(), before.answers.len() + 1);
    // The same endpoint in a second slice, while it moves, is one record.
    world.slice("hdls1", "hdls1-c", &["172.0.0.99"], true);
    let twice = world.ask("hdls1.testns.svc.cluster.local.", "A".parse().unwrap()).unwrap();
    assert_eq!(twice.answers, more.answers);
    world.slice("hdls1", "hdls1-b", &[], true);
    world.slice("hdls1", "hdls1-c", &["172.0.0.99"], false);
    let after = world.ask("hdls1.testns.svc.cluster.local.", "A".parse().unwrap()).unwrap();
    assert_eq!(after.answers, before.answers);
}
