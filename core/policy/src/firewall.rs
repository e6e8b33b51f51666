//! The distributed firewall's own kinds, `SecurityPolicy` and `Group` of our API group, in the model.
//!
//! A rule says who may talk to whom, so it is judged at both ends: by the sender's node for all pods among its sources, and by the
//! receiver's for all pods among its destinations. Each end becomes a policy of the model with one rule; their names keep the
//! order that the rules have in their `SecurityPolicy`.

use std::collections::BTreeSet;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::kubernetes::{PortSpec, SpecError, port};
use crate::{Action, Direction, Namespaces, Peer, PodGroup, Policy, Port, Protocol, Rule, Selector, Tier};

/// What a `SecurityPolicy` says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SecurityPolicySpec {
    /// Emergency, Infrastructure, Environment or Application, in this order.
    pub tier: Tier,
    /// Its place in the tier, lower first, 0 to 65535. Default 100; Kubernetes' `NetworkPolicy` is at 1000 of Application.
    #[serde(default = "default_priority")]
    pub priority: u32,
    /// Its rules; the first that fits decides. Default none.
    #[serde(default)]
    pub rules: Vec<SecurityRule>,
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SecurityRule {
    /// Its name in the policy.
    pub name: String,
    /// Who begins the connection: any of these. Default anybody.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<Party>,
    /// Who is asked: any of these. Default anybody.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub destinations: Vec<Party>,
    /// To which ports. Default all, also of protocols that have none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<ServicePort>,
    /// What becomes of it.
    pub action: RuleAction,
}

/// What a rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RuleAction {
    /// Let it through.
    Allow,
    /// Say nothing.
    Drop,
    /// Say no.
    Reject,
}

/// What a `Group` says: pods by namespace and labels, and addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GroupSpec {
    /// Any of these.
    pub members: Vec<Member>,
}

/// One end of a connection: a group by its name, or what a group's member says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Party {
    /// The name of a `Group`; nothing else beside it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Pods of namespaces with such labels. Default, with a `podSelector`: of all namespaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<Selector>,
    /// Pods with such labels. Default, with a `namespaceSelector`: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_selector: Option<Selector>,
    /// Addresses, whoever has them; no selectors beside it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_block: Option<Block>,
}

/// A member of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Member {
    /// See [`Party::namespace_selector`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<Selector>,
    /// See [`Party::pod_selector`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_selector: Option<Selector>,
    /// See [`Party::ip_block`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_block: Option<Block>,
}

/// Addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Block {
    /// These,
    pub cidr: String,
    /// less these. Default none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub except: Vec<String>,
}

/// Where a connection leads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServicePort {
    /// TCP, UDP or SCTP. Default TCP.
    #[serde(default = "tcp")]
    pub protocol: Protocol,
    /// A number or the name that the receiver gives it. Default all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<Value>,
    /// The last of a range that begins with `port`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_port: Option<i64>,
}

/// A `SecurityPolicy` in the model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Translated {
    /// Its rules, both ends of each.
    pub policies: Vec<Policy>,
    /// Groups that it names and that are not there; they have no members.
    pub missing: BTreeSet<String>,
}

/// The largest priority.
const MOST_PRIORITY: u32 = 65535;
/// Bounds of lists: each entry of a rule costs every node a little.
const MOST_RULES: usize = 500;
const MOST_ENTRIES: usize = 100;

// === impls ===

impl SecurityPolicySpec {
    /// What is wrong with it, if something is.
    pub fn check(&self) -> Result<(), SpecError> {
        if self.priority > MOST_PRIORITY {
            return Err(invalid("priority", self.priority, "a number from 0 to 65535"));
        }
        if self.rules.len() > MOST_RULES {
            return Err(invalid("rules", format!("{} rules", self.rules.len()), "at most 500"));
        }
        let mut names = BTreeSet::new();
        for (number, rule) in self.rules.iter().enumerate() {
            let at = format!("rules[{number}]");
            if !is_label(&rule.name) {
                let expected = "at most 63 lower-case letters, digits and '-', as in a DNS label";
                return Err(invalid(format!("{at}.name"), format!("{:?}", rule.name), expected));
            }
            if !names.insert(&rule.name) {
                return Err(invalid(format!("{at}.name"), &rule.name, "a name that no other rule of the policy has"));
            }
            for (field, count) in [
                ("sources", rule.sources.len()),
                ("destinations", rule.destinations.len()),
                ("ports", rule.ports.len()),
            ] {
                few(&format!("{at}.{field}"), count)?;
            }
            for (field, parties) in [("sources", &rule.sources), ("destinations", &rule.destinations)] {
                for (number, party) in parties.iter().enumerate() {
                    party.check(&format!("{at}.{field}[{number}]"))?;
                }
            }
            rule.model_ports(&at)?;
        }
        Ok(())
    }

    /// The policies of the model that this one, of this name, is; or what is wrong with it. `group` gives groups by their names.
    pub fn translate<'a>(
        &self,
        name: &str,
        group: impl Fn(&str) -> Option<&'a GroupSpec>,
    ) -> Result<Translated, SpecError> {
        self.check()?;
        let mut translated = Translated::default();
        for (number, rule) in self.rules.iter().enumerate() {
            let at = format!("rules[{number}]");
            let ports = rule.model_ports(&at)?;
            let mut parties = |field: &str, parties: &[Party]| {
                resolve(parties, &format!("{at}.{field}"), &group, &mut translated.missing)
            };
            let (from, to) = (parties("sources", &rule.sources)?, parties("destinations", &rule.destinations)?);
            for (direction, subjects, peers) in [(Direction::Egress, &from, &to), (Direction::Ingress, &to, &from)] {
                let (Some(subjects), Some(peers)) = (subjects_of(subjects), peers_of(peers)) else { continue };
                translated.policies.push(Policy {
                    // A space is before all that a name can go on with, so that `shop` is before `shop-2`.
                    name: format!("securitypolicy/{name} {number:04} {}", word(direction)),
                    tier: self.tier,
                    priority: self.priority,
                    subjects,
                    rules: vec![Rule {
                        direction,
                        action: rule.action.into(),
                        peers,
                        ports: ports.clone(),
                        counter: Some(security_counter(name, &rule.name, direction)),
                    }],
                    otherwise_ingress: None,
                    otherwise_egress: None,
                });
            }
        }
        Ok(translated)
    }
}

impl GroupSpec {
    /// What is wrong with it, if something is.
    pub fn check(&self) -> Result<(), SpecError> {
        few("members", self.members.len())?;
        self.peers("members").map(drop)
    }

    /// Who is in it.
    pub fn peers(&self, at: &str) -> Result<Vec<Peer>, SpecError> {
        let members = self.members.iter().enumerate();
        members.map(|(number, member)| member.peer(&format!("{at}[{number}]"))).collect()
    }
}

impl SecurityRule {
    fn model_ports(&self, at: &str) -> Result<Vec<Port>, SpecError> {
        let model = |(number, one): (usize, &ServicePort)| {
            let protocol = match one.protocol {
                Protocol::Tcp => "TCP",
                Protocol::Udp => "UDP",
                Protocol::Sctp => "SCTP",
            };
            let spec = PortSpec { protocol: Some(protocol.into()), port: one.port.clone(), end_port: one.end_port };
            port(&format!("{at}.ports[{number}]"), spec)
        };
        self.ports.iter().enumerate().map(model).collect()
    }
}

impl Party {
    fn check(&self, at: &str) -> Result<(), SpecError> {
        match (&self.group, self.member()) {
            (Some(_), member) if member != Member::default() => {
                Err(invalid(at, "a group and something else", "a group alone, or selectors, or an ipBlock"))
            }
            (Some(group), _) if group.is_empty() => Err(invalid(format!("{at}.group"), "\"\"", "the name of a Group")),
            (Some(_), _) => Ok(()),
            (None, member) => member.peer(at).map(drop),
        }
    }

    fn member(&self) -> Member {
        Member {
            namespace_selector: self.namespace_selector.clone(),
            pod_selector: self.pod_selector.clone(),
            ip_block: self.ip_block.clone(),
        }
    }
}

impl Member {
    fn peer(&self, at: &str) -> Result<Peer, SpecError> {
        match (&self.namespace_selector, &self.pod_selector, &self.ip_block) {
            (None, None, Some(block)) => block.peer(&format!("{at}.ipBlock")),
            (None, None, None) => Err(invalid(at, "nothing", "a podSelector, a namespaceSelector, or an ipBlock")),
            (_, _, Some(_)) => Err(invalid(at, "selectors and an ipBlock", "either selectors or an ipBlock")),
            (namespaces, labels, None) => Ok(Peer::Pods(PodGroup {
                namespaces: namespaces.clone().map_or(Namespaces::All, Namespaces::Labelled),
                labels: labels.clone().unwrap_or_default(),
            })),
        }
    }
}

impl Block {
    fn peer(&self, at: &str) -> Result<Peer, SpecError> {
        let parse = |field: String, text: &str| {
            text.parse::<IpNet>().map_err(|_| invalid(field, text, "a prefix such as 10.0.0.0/8"))
        };
        let cidr = parse(format!("{at}.cidr"), &self.cidr)?.trunc();
        few(&format!("{at}.except"), self.except.len())?;
        let except = self.except.iter().enumerate().map(|(number, text)| {
            let field = format!("{at}.except[{number}]");
            let inner = parse(field.clone(), text)?;
            match cidr.contains(&inner) {
                true => Ok(inner.trunc()),
                false => Err(invalid(field, text, "a part of the cidr")),
            }
        });
        Ok(Peer::Block { cidr, except: except.collect::<Result<_, _>>()? })
    }
}

impl From<RuleAction> for Action {
    fn from(action: RuleAction) -> Self {
        match action {
            RuleAction::Allow => Self::Accept,
            RuleAction::Drop => Self::Drop,
            RuleAction::Reject => Self::Reject,
        }
    }
}

/// The counter of one end of a rule of a `SecurityPolicy`; see [`counter_chain`](crate::counter_chain).
pub fn security_counter(policy: &str, rule: &str, direction: Direction) -> String {
    format!("{policy}/{rule}/{}", word(direction))
}

/// Who is meant; none for anybody.
fn resolve<'a>(
    parties: &[Party],
    at: &str,
    group: &impl Fn(&str) -> Option<&'a GroupSpec>,
    missing: &mut BTreeSet<String>,
) -> Result<Option<Vec<Peer>>, SpecError> {
    if parties.is_empty() {
        return Ok(None);
    }
    let mut peers = Vec::new();
    for (number, party) in parties.iter().enumerate() {
        match &party.group {
            None => peers.push(party.member().peer(&format!("{at}[{number}]"))?),
            Some(name) => match group(name) {
                // What is wrong with a group is said where it is written; here it has no members.
                Some(group) => peers.extend(group.peers("members").unwrap_or_default()),
                None => drop(missing.insert(name.clone())),
            },
        }
    }
    Ok(Some(peers))
}

/// Pods among those who are meant; none if there are none.
fn subjects_of(parties: &Option<Vec<Peer>>) -> Option<Vec<PodGroup>> {
    let Some(parties) = parties else {
        return Some(vec![PodGroup { namespaces: Namespaces::All, labels: Selector::default() }]);
    };
    let pods = parties.iter().filter_map(|peer| match peer {
        Peer::Pods(group) => Some(group.clone()),
        Peer::Block { .. } => None,
    });
    Some(pods.collect::<Vec<_>>()).filter(|pods| !pods.is_empty())
}

/// The other end, as a rule has it (empty: anybody); none if nobody is meant.
fn peers_of(parties: &Option<Vec<Peer>>) -> Option<Vec<Peer>> {
    match parties {
        None => Some(Vec::new()),
        Some(peers) => Some(peers.clone()).filter(|peers| !peers.is_empty()),
    }
}

fn few(field: &str, count: usize) -> Result<(), SpecError> {
    match count > MOST_ENTRIES {
        true => Err(invalid(field, format!("{count} entries"), "at most 100")),
        false => Ok(()),
    }
}

fn invalid(field: impl Into<String>, value: impl ToString, expected: &'static str) -> SpecError {
    SpecError::Invalid { field: field.into(), value: value.to_string(), expected }
}

fn is_label(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=63).contains(&name.len()) && name.bytes().all(plain) && !name.starts_with('-') && !name.ends_with('-')
}

fn word(direction: Direction) -> &'static str {
    match direction {
        Direction::Ingress => "in",
        Direction::Egress => "out",
    }
}

fn default_priority() -> u32 {
    100
}

fn tcp() -> Protocol {
    Protocol::Tcp
}

#[cfg(test)]
mod tests;
