//! What can be said: policies, their rules, and whom they speak about.
//!
//! A pod's traffic in one direction is judged by the rules of all policies that have it as a subject, in this order: tier, then
//! priority (lower first), then the policy's name, then the rule's place in it. The first rule that fits decides, except that
//! [`Action::Pass`] goes on with the next tier. After the rules of one tier and priority comes what their policies say `otherwise`.
//! What nobody decides is accepted.
//!
//! Only the first packet of a connection is judged, by the sender's rules where the sender is, and by the receiver's where the
//! receiver is; addresses are those behind Services. Answers pass. So does what a pod sends to itself, and what goes between a pod
//! and the node it runs on.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::Selector;

/// Labels of a pod or a namespace.
pub type Labels = BTreeMap<String, String>;

/// Rules for some pods.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Policy {
    /// Names it among all policies of every kind: `networkpolicy/NAMESPACE/NAME`.
    pub name: String,
    /// Which tier it is in.
    pub tier: Tier,
    /// Its place in the tier, lower first.
    pub priority: u32,
    /// Whom its rules are for: pods that are in any of these.
    pub subjects: Vec<PodGroup>,
    /// Its rules, in order.
    #[serde(default)]
    pub rules: Vec<Rule>,
    /// What becomes of what is sent to its subjects when no rule of its tier and priority fits. Default: the next ones decide.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub otherwise_ingress: Option<Action>,
    /// The same for what its subjects send.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub otherwise_egress: Option<Action>,
}

/// Sections of all rules, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Tier {
    /// Quarantine, and ways in when everything else is wrong.
    Emergency,
    /// What the cluster itself needs: name service, time, logs.
    Infrastructure,
    /// Between zones: production from test.
    Environment,
    /// Between applications. Kubernetes' `NetworkPolicy` is here, at priority [`Policy::NETWORK_POLICY_PRIORITY`].
    Application,
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rule {
    /// Which way.
    pub direction: Direction,
    /// What becomes of what fits.
    pub action: Action,
    /// Who is at the other end: any of these; empty for anybody.
    #[serde(default)]
    pub peers: Vec<Peer>,
    /// To which ports: any of these; empty for everything, also what has no ports.
    #[serde(default)]
    pub ports: Vec<Port>,
    /// Counts the connections that it decides, in a chain named after this. Rules of one name
    /// share a counter if their actions agree. Default none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counter: Option<String>,
}

/// Which way traffic goes, as the subject sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Direction {
    /// To the subject.
    Ingress,
    /// From the subject.
    Egress,
}

/// What a rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Action {
    /// Let it through, in this direction.
    Accept,
    /// Say nothing.
    Drop,
    /// Say no: a TCP reset, or ICMP's "administratively prohibited".
    Reject,
    /// Leave it to the next tier.
    Pass,
}

/// The other end of a connection.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Peer {
    /// These pods. Not those on their node's network: their address is the node's.
    Pods(PodGroup),
    /// Addresses, whoever has them.
    Block {
        /// These,
        cidr: IpNet,
        /// less these.
        #[serde(default)]
        except: Vec<IpNet>,
    },
}

/// Pods by their namespace and labels.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PodGroup {
    /// In which namespaces.
    pub namespaces: Namespaces,
    /// With which labels. Default any.
    #[serde(default)]
    pub labels: Selector,
}

/// Namespaces by name or labels.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Namespaces {
    /// All.
    All,
    /// The one of this name.
    Named(String),
    /// Those with such labels.
    Labelled(Selector),
}

/// Where a connection leads.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Port {
    /// Over what.
    pub protocol: Protocol,
    /// To which numbers. Default all.
    #[serde(default)]
    pub numbers: Numbers,
}

/// Port numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Numbers {
    /// All.
    #[default]
    All,
    /// From and to, both included.
    Range(u16, u16),
    /// What the pod that is asked calls so; nothing if it calls nothing so.
    Named(String),
}

/// Protocols with ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
#[allow(missing_docs, reason = "the protocols' own names")]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

/// A pod with an address of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Names it for ever.
    pub uid: Arc<str>,
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its labels.
    pub labels: Arc<Labels>,
    /// Its address.
    pub address: IpAddr,
    /// What its containers call their ports.
    pub ports: Arc<[NamedPort]>,
    /// It runs on this node.
    pub local: bool,
}

/// A port that has a name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NamedPort {
    /// Its name.
    pub name: String,
    /// Over what.
    pub protocol: Protocol,
    /// Its number.
    pub port: u16,
}

// === impls ===

impl Policy {
    /// Where Kubernetes' `NetworkPolicy` stands in its tier.
    pub const NETWORK_POLICY_PRIORITY: u32 = 1000;

    /// What it says otherwise about a direction.
    pub fn otherwise(&self, direction: Direction) -> Option<Action> {
        match direction {
            Direction::Ingress => self.otherwise_ingress,
            Direction::Egress => self.otherwise_egress,
        }
    }

    /// Whether it has something to say about a direction.
    pub fn concerns(&self, direction: Direction) -> bool {
        self.otherwise(direction).is_some() || self.rules.iter().any(|rule| rule.direction == direction)
    }
}

impl Protocol {
    /// The number in an IP header.
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }

    /// By its name in Kubernetes' objects.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "TCP" => Some(Self::Tcp),
            "UDP" => Some(Self::Udp),
            "SCTP" => Some(Self::Sctp),
            _ => None,
        }
    }
}

impl PodGroup {
    /// Whether a pod of a namespace with these labels is in it. A namespace that is not known has no labels that match anything.
    pub fn holds(&self, namespace: &str, labels: &Labels, of_namespace: Option<&Labels>) -> bool {
        let there = match &self.namespaces {
            Namespaces::All => true,
            Namespaces::Named(name) => name == namespace,
            Namespaces::Labelled(selector) => of_namespace.is_some_and(|labels| selector.matches(labels)),
        };
        there && self.labels.matches(labels)
    }
}

impl Peer {
    /// Whether an address is in it; never for pods.
    pub fn holds_address(&self, address: IpAddr) -> bool {
        match self {
            Self::Pods(_) => false,
            Self::Block { cidr, except } => {
                cidr.contains(&address) && !except.iter().any(|block| block.contains(&address))
            }
        }
    }
}
