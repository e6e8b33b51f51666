//! A change of networks on a live cluster: what it is, how far it is, how it went.
//!
//! The control plane says in `Network.status.swap` which phase it is and whose turn; every participant does what the phase asks
//! of it and reports, on an object that it owns. There is no other memory of a swap: whoever is started again reads on here.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ActiveNetwork;

/// A swap.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Swap {
    /// Tells it from all other swaps; reports name it.
    pub id: String,
    /// Only a question: it ends after `Planning`, and stays until nobody asks any more.
    #[serde(default, skip_serializing_if = "is_false")]
    pub dry_run: bool,
    /// The network that carries the traffic when it begins, and again if it fails.
    pub from: ActiveNetwork,
    /// The network that is to carry the traffic.
    pub to: ActiveNetwork,
    /// What the participants are to do now.
    pub phase: SwapPhase,
    /// Which of them.
    #[serde(default)]
    pub turn: Turn,
    /// When it began, RFC 3339 with microseconds.
    pub started: String,
    /// The phases that are over.
    #[serde(default)]
    pub steps: Vec<SwapStep>,
    /// Nodes by their names, and `router`.
    #[serde(default)]
    pub participants: BTreeMap<String, Participant>,
    /// Why it goes back, or went.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// From beginning to end, milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub milliseconds: Option<f64>,
}

/// What is to be done. The order is the order of a swap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum SwapPhase {
    /// Open the plugin, ask it for everything, work out the difference. Nothing changes.
    #[default]
    Planning,
    /// Find out what can be reached; then add what only receives.
    Preparing,
    /// Find out whether the old network still carries everything.
    Checking,
    /// Send packets the new way.
    Switching,
    /// Find out whether the new network carries everything.
    Verifying,
    /// Stop sending the old way: remove routes and rules that nothing has replaced.
    Withdrawing,
    /// Remove what is wanted no longer. There is no way back from here.
    Cleaning,
    /// Put back what has been changed.
    Returning,
}

/// Whose turn it is. The upstream device switches before the nodes, and withdraws and goes back after them, so it knows all ways
/// while any node uses them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Turn {
    /// Everybody's.
    #[default]
    All,
    /// The router's.
    Router,
    /// The nodes'.
    Nodes,
}

/// What one participant's kernel holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// The old network.
    Old,
    /// The old network, and what only receives of the new one.
    Prepared,
    /// Both; packets go the new way.
    Switched,
    /// Both; nothing could go the old way any more.
    Withdrawn,
    /// The new network.
    New,
}

/// A phase that is over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SwapStep {
    /// Which.
    pub phase: SwapPhase,
    /// Whose turn it was.
    pub turn: Turn,
    /// From the order to the last report, milliseconds.
    pub milliseconds: f64,
}

/// How a swap ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// The new network carries the traffic.
    Swapped,
    /// It was given up before anything changed.
    Refused,
    /// It was begun and taken back; the old network carries the traffic.
    Returned,
}

/// How far one participant is, as the control plane has heard.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Participant {
    /// The last phase it is done with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<SwapPhase>,
    /// How long each phase took there, milliseconds.
    pub milliseconds: BTreeMap<SwapPhase, f64>,
    /// What went wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What changes there.
    pub operations: Operations,
    /// Pods there whose addresses the new network would not have given.
    pub foreign: u32,
    /// Pods there that others may try to reach.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub samples: Vec<Sample>,
    /// What the probes found.
    pub probes: Probes,
}

/// What a participant says, on its own object.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SwapReport {
    /// Of which swap it speaks.
    pub id: String,
    /// All of it.
    #[serde(flatten)]
    pub participant: Participant,
}

/// How many changes of the kernel each phase makes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Operations {
    /// Additions that only receive.
    pub prepare: u32,
    /// Changes of where packets go.
    pub switch: u32,
    /// Removals of ways to send.
    pub withdraw: u32,
    /// Other removals.
    pub clean: u32,
}

/// A pod that answers probes: ICMP, and UDP on a port that its agent answers on while the swap goes on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sample {
    /// Namespace and name.
    pub pod: String,
    /// Its address.
    pub ip: std::net::IpAddr,
    /// Where it answers UDP; 0 if nowhere.
    #[serde(default)]
    pub udp: u16,
}

/// What probes from one node found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Probes {
    /// Ways that were tried before anything changed.
    pub tried: u32,
    /// Those of them that led somewhere; only these count.
    pub good: u32,
    /// Nothing was tried again, as the new network is to carry nothing.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub untried: bool,
    /// Good ways that did not lead there any more: the first few.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub lost: Vec<String>,
    /// Packets of flows that ran all the time, and how many of them were never answered.
    pub sent: u64,
    /// See `sent`.
    pub unanswered: u64,
    /// The longest that such a flow was without an answer, milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub longest_gap: Option<f64>,
}

// === impl Swap ===

impl Swap {
    /// Whether the phase concerns this participant now.
    pub fn concerns(&self, name: &str) -> bool {
        self.participants.contains_key(name)
            && match self.turn {
                Turn::All => true,
                Turn::Router => name == crate::names::ROUTER,
                Turn::Nodes => name != crate::names::ROUTER,
            }
    }

    /// What this participant's kernel is to hold once it has done all that has been ordered so far.
    pub fn stage(&self, name: &str) -> Stage {
        let is_router = name == crate::names::ROUTER;
        match (self.phase, self.turn) {
            (SwapPhase::Planning, _) => Stage::Old,
            (SwapPhase::Preparing | SwapPhase::Checking, _) => Stage::Prepared,
            (SwapPhase::Switching, Turn::Router) if !is_router => Stage::Prepared,
            (SwapPhase::Switching | SwapPhase::Verifying, _) => Stage::Switched,
            (SwapPhase::Withdrawing, Turn::Nodes) if is_router => Stage::Switched,
            (SwapPhase::Withdrawing, _) => Stage::Withdrawn,
            (SwapPhase::Cleaning, _) => Stage::New,
            // Until the nodes have gone back the router knows both ways.
            (SwapPhase::Returning, Turn::Nodes) if is_router => Stage::Switched,
            (SwapPhase::Returning, _) => Stage::Old,
        }
    }
}

fn is_false(value: &bool) -> bool {
    !value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_router_switches_first_and_goes_back_last() {
        let network = serde_json::json!({"plugin": "a", "version": "1", "file": "", "sha256": "", "generation": 1});
        let swap = serde_json::json!({
            "id": "7", "from": network, "to": network, "phase": "Planning", "started": "",
            "participants": {"n1": {}, "router": {}},
        });
        let mut swap: Swap = serde_json::from_value(swap).unwrap();
        let mut at = |phase, turn| {
            (swap.phase, swap.turn) = (phase, turn);
            (swap.stage("router"), swap.stage("n1"))
        };
        assert_eq!(at(SwapPhase::Preparing, Turn::All), (Stage::Prepared, Stage::Prepared));
        assert_eq!(at(SwapPhase::Switching, Turn::Router), (Stage::Switched, Stage::Prepared));
        assert_eq!(at(SwapPhase::Switching, Turn::Nodes), (Stage::Switched, Stage::Switched));
        assert_eq!(at(SwapPhase::Withdrawing, Turn::Nodes), (Stage::Switched, Stage::Withdrawn));
        assert_eq!(at(SwapPhase::Withdrawing, Turn::Router), (Stage::Withdrawn, Stage::Withdrawn));
        assert_eq!(at(SwapPhase::Cleaning, Turn::All), (Stage::New, Stage::New));
        assert_eq!(at(SwapPhase::Returning, Turn::Nodes), (Stage::Switched, Stage::Old));
        assert_eq!(at(SwapPhase::Returning, Turn::Router), (Stage::Old, Stage::Old));
        (swap.phase, swap.turn) = (SwapPhase::Switching, Turn::Router);
        assert!(swap.concerns("router") && !swap.concerns("n1") && !swap.concerns("n2"));
    }
}
