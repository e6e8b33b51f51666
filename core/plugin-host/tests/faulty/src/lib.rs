//! A plugin that breaks its promises when asked to; for tests. The option `panic` says where it panics: `new`, or the name of a pod;
//! `hang` is the name of a pod about which it never says anything.
//! The option `fault` is one of [`FAULTS`]; without it, this is a sound network of routed pods.
#![allow(unsafe_code, reason = "some promises can only be broken below the trait")]

mod bent;
mod network;

use std::sync::Mutex;

use switchyard_plugin::netstate::{Fragment, Object, Place, Sysctl};
use switchyard_plugin::{
    Facts, NetworkPlugin, NodeFacts, OptionReader, Options, OptionsError, PodFacts, Pool, abi, export,
};

/// Each breaks one promise. What they break is a matter of the conformance kit's tests.
pub const FAULTS: &[&str] = &[
    "fails-to-start",
    "answers-unknown",
    "strict-arguments",
    "takes-any-option",
    "takes-any-type",
    "counts",
    "remembers",
    "environment",
    "process-id",
    "opens-file",
    "opens-socket",
    "starts-thread",
    "leaks-descriptor",
    "leaks-memory",
    "racy",
    "other-pod",
    "router-from-node",
    "cable-to-other-pod",
    "invalid",
    "disagrees",
    "name-clash",
    "pool-outside",
    "gateway-not-reserved",
    "wrong-address",
    "drops-foreign",
    "believes-anything",
    "panics-on-nonsense",
    "panics-on-small-blocks",
    "slow",
    "large",
    "hangs",
    "refused-by-kernel",
    "no-route",
    "no-way-back",
    "no-default-route",
    "no-way-to-nodes",
    "masquerades",
    "mtu-too-large",
    "ignores-uplink",
    "forgets-foreign",
    "touches-uplink",
    "disables-ipv6",
];

struct Faulty {
    panic: Option<String>,
    hang: Option<String>,
    fault: Option<&'static str>,
    /// Uids in the order in which they were seen.
    seen: Mutex<Vec<String>>,
}

/// Panics with a value that panics once more when it is dropped.
struct Mean;

const MANIFEST: &str = include_str!("../manifest.json");

/// What `export_plugin!` would put there.
#[used]
#[unsafe(link_section = ".switchyard")]
static RECORD: export::Record<{ MANIFEST.len() }> = export::Record::new(MANIFEST);

/// What `export_plugin!` would define, with a way around it.
#[unsafe(no_mangle)]
unsafe extern "C" fn switchyard_plugin_v1(host: *const abi::Host, table: *mut abi::Table) -> i32 {
    // SAFETY: the host calls this with pointers that are valid for the call.
    let status = unsafe { export::entry::<Faulty>(host, table, &raw const RECORD.header) };
    if status == abi::OK {
        // SAFETY: the entry has just filled it in.
        bent::bend(unsafe { &mut *table });
    }
    status
}

impl Faulty {
    fn has(&self, fault: &str) -> bool {
        self.fault == Some(fault)
    }
}

impl NetworkPlugin for Faulty {
    fn new(options: &Options) -> Result<Self, OptionsError> {
        let mut options = OptionReader::new(options);
        let expected = format!("one of {}", FAULTS.join(", "));
        let fault: Option<String> = options.take("fault", &expected)?;
        let fault = match fault.as_deref() {
            None => None,
            Some(name) => Some(
                *FAULTS
                    .iter()
                    .find(|known| **known == name)
                    .ok_or_else(|| OptionsError::unexpected("fault", &name.into(), &expected))?,
            ),
        };
        let panic: Option<String> = match fault {
            Some("takes-any-type") => options.take("panic", "a name").unwrap_or_default(),
            _ => options.take("panic", "a name")?,
        };
        let hang: Option<String> = match fault {
            Some("takes-any-type") => options.take("hang", "a name").unwrap_or_default(),
            _ => options.take("hang", "a name")?,
        };
        if fault != Some("takes-any-option") {
            options.finish()?;
        }
        assert!(panic.as_deref() != Some("new"), "told to panic in new");
        assert!(fault != Some("fails-to-start"), "told to fail");
        if fault == Some("leaks-memory") {
            std::mem::forget(vec![1u8; 1 << 20]);
        }
        Ok(Self { panic, hang, fault, seen: Mutex::default() })
    }

    fn pool(&self, _: &Facts, node: &NodeFacts, _: &PodFacts) -> Pool {
        let gateway = network::gateway(node);
        match self.fault {
            Some("pool-outside") => Pool::of(network::net("172.16.0.0/24")),
            Some("gateway-not-reserved") => Pool::of(node.pod_cidr),
            _ => Pool { reserved: vec![gateway], ..Pool::of(node.pod_cidr) },
        }
    }

    fn node(&self, facts: &Facts, node: &NodeFacts) -> Fragment {
        assert!(!self.has("panics-on-small-blocks") || node.pod_cidr.prefix_len() < 31, "block too small");
        let mut fragment = network::node(facts, node, self.fault);
        if self.has("router-from-node") {
            fragment.want(&Place::Router, sysctl("net/ipv4/ip_forward", "1"));
        }
        fragment
    }

    fn pod(&self, facts: &Facts, node: &NodeFacts, pod: &PodFacts) -> Fragment {
        assert!(self.panic.as_ref() != Some(&pod.name), "told to panic for pod {}", pod.name);
        while self.hang.as_ref() == Some(&pod.name) {
            std::thread::park();
        }
        let mut fragment = network::pod(facts, node, pod, self.fault);
        let place = Place::pod(&pod.uid);
        let mut note = |value: String| {
            fragment.want(&place, sysctl("net/core/somaxconn", &value));
        };
        match self.fault {
            Some("counts") => {
                static CALLS: Mutex<u32> = Mutex::new(0);
                let mut calls = CALLS.lock().expect("no panic while locked");
                *calls += 1;
                note(calls.to_string());
            }
            Some("remembers") => {
                let mut seen = self.seen.lock().expect("no panic while locked");
                let known = seen.iter().position(|uid| *uid == pod.uid);
                let position = known.unwrap_or_else(|| {
                    seen.push(pod.uid.clone());
                    seen.len() - 1
                });
                note((128 + position).to_string());
            }
            Some("environment") => note(std::env::var("MTU").unwrap_or_else(|_| "1500".into())),
            Some("process-id") => note(std::process::id().to_string()),
            Some("opens-file") => {
                note(std::fs::read_to_string("/etc/hostname").map_or(1, |text| text.len()).to_string())
            }
            Some("opens-socket") => drop(std::net::UdpSocket::bind("127.0.0.1:0")),
            Some("starts-thread") => drop(std::thread::spawn(|| {})),
            Some("leaks-descriptor") => bent::leak_a_descriptor(),
            Some("slow") => std::thread::sleep(std::time::Duration::from_millis(120)),
            Some("hangs") => loop {
                std::thread::park();
            },
            Some("racy") => note(bent::how_many_at_once().to_string()),
            Some("disagrees") => {
                fragment
                    .want(&Place::node(&node.name), sysctl("net/ipv4/tcp_notsent_lowat", &pod.name.len().to_string()));
            }
            Some("other-pod") => drop(fragment.want(&Place::pod("another"), sysctl("net/core/somaxconn", "1"))),
            Some("large") => {
                for number in 0..2000 {
                    fragment.want(&place, sysctl(&format!("net/made/up/{number}"), "some value of some length"));
                }
            }
            _ => {}
        }
        fragment
    }

    fn peer(&self, facts: &Facts, node: &NodeFacts, peer: &NodeFacts) -> Fragment {
        if self.panic.as_ref() == Some(&peer.name) {
            std::panic::panic_any(Mean);
        }
        network::peer(facts, node, peer, self.fault)
    }

    fn remote(&self, _: &Facts, node: &NodeFacts, peer: &NodeFacts, pod: &PodFacts) -> Fragment {
        network::remote(node, peer, pod, self.fault)
    }

    fn underlay(&self, _: &Facts, node: &NodeFacts) -> Fragment {
        network::underlay(node, self.fault)
    }
}

impl Drop for Faulty {
    fn drop(&mut self) {
        assert!(self.panic.as_deref() != Some("drop"), "told to panic in drop");
    }
}

impl Drop for Mean {
    fn drop(&mut self) {
        panic!("and again");
    }
}

fn sysctl(path: &str, value: &str) -> Object {
    Object::Sysctl(Sysctl { path: path.into(), value: value.into() })
}
