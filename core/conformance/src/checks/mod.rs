//! The promises, each with a check.

mod boundary;
mod budget;
mod hostile;
mod life;
mod manifest;
mod network;
mod options;
mod purity;
mod semantics;

use crate::subject::{Checked, Subject};

/// A promise and how it is looked at.
pub struct Check {
    /// `GROUP/NAME`.
    pub name: &'static str,
    /// The promise.
    pub promise: &'static str,
    /// What to do when it is broken.
    pub(crate) advice: &'static str,
    pub(crate) look: fn(&Subject) -> Checked,
}

/// All, in the order in which they are made; the first is what the others build on.
#[rustfmt::skip]
pub const CHECKS: &[Check] = &[
    Check { name: "abi/load", promise: "loads, and takes its options", look: boundary::load,
        advice: "yard plugin inspect FILE says what the host sees; --option NAME=VALUE gives options it cannot do without" },
    Check { name: "abi/operations", promise: "answers node and pod, and NOT_IMPLEMENTED to what it does not know",
        look: boundary::operations, advice: "return status 1 (NOT_IMPLEMENTED) for operations of a later version" },
    Check { name: "abi/arguments", promise: "ignores arguments it does not know", look: boundary::arguments,
        advice: "do not refuse unknown fields of the input: later hosts send more of them" },
    Check { name: "manifest/complete", promise: "describes itself and its options", look: manifest::complete,
        advice: "mend manifest.json as said" },
    Check { name: "options/unknown", promise: "refuses an option it does not have, by name", look: options::unknown,
        advice: "OptionReader::finish does it; else answer INVALID with {\"option\": .., \"problem\": ..}" },
    Check { name: "options/types", promise: "refuses options of a wrong type, by name", look: options::types,
        advice: "OptionReader::take does it; else answer INVALID with {\"option\": .., \"problem\": ..}" },
    Check { name: "purity/repeated", promise: "gives the same answer to the same question", look: purity::repeated,
        advice: "keep no counters, clocks or random numbers; sort what comes out of hash maps" },
    Check { name: "purity/order", promise: "does not remember what it was asked before", look: purity::order,
        advice: "derive names and numbers from the question alone; keep no state between calls" },
    Check { name: "purity/surroundings", promise: "gives the same answers in another process and environment",
        look: purity::surroundings, advice: "read no environment, process id, host name or clock: facts and options are all there is" },
    Check { name: "purity/system-calls", promise: "opens no file or socket, starts no thread or program", look: purity::system_calls,
        advice: "a plugin decides, the core acts: say what you want in the fragment" },
    Check { name: "purity/leaves-nothing", promise: "leaves no descriptor or thread behind", look: purity::leaves_nothing,
        advice: "close what is opened; better, open nothing" },
    Check { name: "lifecycle/many", promise: "can be made and destroyed many times", look: life::many,
        advice: "free in destroy what create made" },
    Check { name: "concurrency/same-answers", promise: "answers several threads at once", look: life::concurrent,
        advice: "calls may run at the same time, also for one instance: no unguarded state" },
    Check { name: "semantics/answers", promise: "answers are fragments, about places that the call concerns", look: semantics::answers,
        advice: "docs/plugins.md says which call may speak about which places" },
    Check { name: "semantics/valid", promise: "wants nothing that no kernel could do", look: semantics::valid,
        advice: "mend the object that is named" },
    Check { name: "semantics/agreement", promise: "its answers agree on what they share", look: semantics::agreement,
        advice: "two answers may want one object only if they want it alike; give names that belong to one answer" },
    Check { name: "semantics/names", promise: "names of 1,000 pods' objects are unique", look: semantics::names,
        advice: "IfName::derived makes interface names from uids; the first bytes of a uid are a time, the same for many" },
    Check { name: "semantics/pool", promise: "offers addresses that pods can have", look: semantics::pool,
        advice: "the block lies in the cluster's, and addresses that the plugin uses itself are reserved" },
    Check { name: "semantics/address", promise: "gives a pod its address, also one from outside the pool", look: semantics::address,
        advice: "pods keep their addresses when the network is swapped: carry foreign ones by a route of their own" },
    Check { name: "semantics/uplink", promise: "no pod's interface is larger than its node's uplink", look: semantics::uplink,
        advice: "underlayMtu is what the uplink of the node that is asked about carries; an option may only ask for less" },
    Check { name: "hostile/malformed", promise: "refuses malformed input with an error", look: hostile::malformed,
        advice: "parse the input whole and bounded; answer INVALID" },
    Check { name: "hostile/odd", promise: "survives odd but well-formed clusters", look: hostile::odd,
        advice: "do not index or unwrap what facts decide; an error is good, an end is not" },
    Check { name: "budget/time", promise: "answers quickly", look: budget::time,
        advice: "a call is on the way of every pod's start" },
    Check { name: "budget/size", promise: "answers are small", look: budget::size,
        advice: "an answer must not grow with the cluster; share sets and chains by way of `node`" },
    Check { name: "dataplane/applies", promise: "the kernel takes what it wants", look: network::applies,
        advice: "the message names place, object and errno" },
    Check { name: "dataplane/same-node", promise: "pods of one node reach each other, and themselves", look: network::same_node,
        advice: "yard shell POD and yard shell NODE, then ip route get ADDRESS" },
    Check { name: "dataplane/other-node", promise: "pods of different nodes reach each other", look: network::other_node,
        advice: "peer() must make the other node's block reachable, or underlay() on the upstream device" },
    Check { name: "dataplane/nodes", promise: "nodes reach pods, and pods nodes", look: network::nodes,
        advice: "agents probe pods from their node, and pods reach the API server on one" },
    Check { name: "dataplane/outside", promise: "pods reach the outside", look: network::outside,
        advice: "route back to the pods from the upstream device, or masquerade what leaves" },
    Check { name: "dataplane/source", promise: "pods see each other's own addresses", look: network::source,
        advice: "masquerade only what leaves the cluster" },
    Check { name: "dataplane/mtu", promise: "packets as large as a pod's MTU pass", look: network::mtu,
        advice: "subtract what encapsulation adds from underlayMtu, on both ends of the cable" },
    Check { name: "dataplane/foreign", promise: "a pod with an address from outside the pool is reached", look: network::foreign,
        advice: "pod() and remote() must carry such a pod, by a host route" },
    Check { name: "isolation/untouched", promise: "nothing that was there before is changed", look: network::untouched,
        advice: "leave the node's own interfaces, addresses and routes alone" },
    Check { name: "cleanup/as-before", promise: "nothing is left when it goes", look: network::as_before,
        advice: "want no object with side effects on others" },
];
