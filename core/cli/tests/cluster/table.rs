//! Every network goes through the same scenarios, in one cluster each. After every scenario the kernel holds what it held before.
//! A network that joins is one more line of [`networks`].

mod damage;
mod policies;
mod reach;
mod stage;

use crate::rig::Powers;
use stage::Stage;

/// What is asked of a network.
type Scenario = (&'static str, fn(&Stage));

/// Networks that carry packets between pods.
const SCENARIOS: [Scenario; 17] = [
    ("same node", reach::same_node),
    ("other node", reach::other_node),
    ("node to pod", reach::node_to_pod),
    ("pod to node", reach::pod_to_node),
    ("services of each type", reach::services),
    ("hairpin", reach::hairpin),
    ("outside", reach::outside),
    ("source address preserved", reach::source_address),
    ("UDP fragments", reach::udp_fragments),
    ("path MTU errors", damage::path_mtu),
    ("1 % loss", damage::loss),
    ("link down and up", damage::link_down_and_up),
    ("agent restart", damage::agent_restart),
    ("drift", damage::drift),
    ("full address pool, foreign pods", damage::full_address_pool_and_foreign_pods),
    ("more ended pods than addresses", damage::more_ended_pods_than_addresses),
    ("policies", policies::decide),
];

/// Networks that carry none.
const EMPTY: [Scenario; 3] = [
    ("no way", reach::no_way),
    ("pods in the host's network", reach::host_network),
    ("agent restart", damage::bare_agent_restart),
];

macro_rules! networks {
    ($($name:ident $(needs $feature:literal)?: $scenarios:expr;)*) => { $(
        #[test]
        fn $name() {
            $(if !crate::rig::has($feature) { return; })?
            Stage::boot(Powers::Nobody, stringify!($name)).play(&$scenarios);
        }
    )* };
}

networks! {
    kubenet: SCENARIOS;
    overlay: SCENARIOS;
    nsx: SCENARIOS;
    nsx_geneve needs "geneve": SCENARIOS;
    none: EMPTY;
}
