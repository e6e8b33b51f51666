//! Features of the kernel by the names that plugins and people call them, tried in a namespace that lives for the try: what a kernel
//! was built with, and which of its modules may be loaded, nobody knows otherwise.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};

use ipnet::IpNet;
use switchyard_netstate::nft::{
    Base, Chain, ChainType, Expr, Family, Hook, NatTarget, Op, Operand, Policy, Rule, Statement, Table, TableRef,
    Value, Verdict,
};
use switchyard_netstate::{Encap, Fragment, IfName, Link, LinkKind, NextHop, Object, PeerEnd, Place, Route, UnitId};

use crate::{Engine, Netns, Owner, Places};

/// Something that a kernel can do, or cannot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Feature {
    /// Pairs of interfaces.
    Veth,
    /// Bridges.
    Bridge,
    /// nftables: tables, chains of NAT.
    Nft,
    /// Round robin in nftables.
    NftNumgen,
    /// Questions about routes in nftables.
    NftFib,
    /// Masquerading.
    NftMasquerade,
    /// Destinations that are translated.
    NftDnat,
    /// nftables on bridges.
    NftBridge,
    /// Tunnels.
    Vxlan,
    /// Tunnels of which routes say where they lead.
    Geneve,
    /// Several stations on one interface.
    Macvlan,
    /// Interfaces of programs.
    Tun,
}

/// Why a feature that is needed cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Missing {
    /// Nobody here knows what it is.
    #[error("needs {0:?}: not a feature that can be tried; known are {known}", known = names())]
    Unknown(String),
    /// The kernel refused it.
    #[error("needs {feature}, which this kernel refuses: {why}; try: sudo modprobe {module}", module = .feature.module())]
    Refused {
        /// Which.
        feature: Feature,
        /// What it said.
        why: String,
    },
}

/// Whose objects they are; nobody else is there to see.
const OWNER: u8 = 84;
/// What has been seen to work; a kernel does not lose it again.
static SEEN: Mutex<BTreeSet<Feature>> = Mutex::new(BTreeSet::new());

/// Whether the kernel has all features of these names; the first that it has not.
pub fn require<'a>(needs: impl IntoIterator<Item = &'a str>) -> Result<(), Missing> {
    for name in needs {
        let feature: Feature = name.parse()?;
        if SEEN.lock().unwrap_or_else(PoisonError::into_inner).contains(&feature) {
            continue;
        }
        feature.attempt().map_err(|why| Missing::Refused { feature, why })?;
        SEEN.lock().unwrap_or_else(PoisonError::into_inner).insert(feature);
    }
    Ok(())
}

// === impl Feature ===

impl Feature {
    /// All that can be tried.
    pub const ALL: [Self; 12] = [
        Self::Veth,
        Self::Bridge,
        Self::Nft,
        Self::NftNumgen,
        Self::NftFib,
        Self::NftMasquerade,
        Self::NftDnat,
        Self::NftBridge,
        Self::Vxlan,
        Self::Geneve,
        Self::Macvlan,
        Self::Tun,
    ];

    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Self::Veth => "veth",
            Self::Bridge => "bridge",
            Self::Nft => "nft",
            Self::NftNumgen => "nft numgen",
            Self::NftFib => "nft fib",
            Self::NftMasquerade => "nft masquerade",
            Self::NftDnat => "nft dnat",
            Self::NftBridge => "nft bridge",
            Self::Vxlan => "vxlan",
            Self::Geneve => "geneve",
            Self::Macvlan => "macvlan",
            Self::Tun => "tun",
        }
    }

    /// The module that has it.
    pub fn module(self) -> &'static str {
        match self {
            Self::Veth => "veth",
            Self::Bridge => "bridge",
            Self::Nft => "nft_chain_nat",
            Self::NftNumgen => "nft_numgen",
            Self::NftFib => "nft_fib_inet",
            Self::NftMasquerade => "nft_masq",
            Self::NftDnat => "nft_nat",
            Self::NftBridge => "nft_meta_bridge",
            Self::Vxlan => "vxlan",
            Self::Geneve => "geneve",
            Self::Macvlan => "macvlan",
            Self::Tun => "tun",
        }
    }

    /// Uses it, in a namespace of its own; or says why not.
    pub fn attempt(self) -> Result<(), String> {
        let mut places = Places::new();
        places.add(place(), Netns::create().map_err(|error| format!("a namespace to try it in: {error}"))?);
        let mut fragment = Fragment::new();
        fragment.want_all(&place(), self.objects());
        let mut engine = Engine::new(Owner { protocol: OWNER }, places);
        let outcome = engine.apply(BTreeMap::from([(UnitId("feature".into()), Some(fragment))]));
        outcome.map(drop).map_err(|error| error.to_string())
    }

    fn objects(self) -> Vec<Object> {
        let link = |kind| Object::Link(Link::new(name("a"), kind));
        let zero = || Operand::Value(Value::Number(0));
        let matches = |left| Statement::Match { left, op: Op::Eq, right: zero() };
        match self {
            Self::Veth => {
                let end = |other| LinkKind::Veth { peer: PeerEnd { place: place(), name: name(other) } };
                vec![link(end("b")), Object::Link(Link::new(name("b"), end("a")))]
            }
            Self::Bridge => vec![link(LinkKind::Bridge { multicast_snooping: false })],
            Self::Nft => chain(vec![]),
            Self::NftNumgen => chain(vec![matches(Expr::NumgenInc { modulus: 2 })]),
            Self::NftFib => chain(vec![matches(Expr::FibDaddrType)]),
            Self::NftMasquerade => chain(vec![Statement::Masquerade { fully_random: false }]),
            Self::NftDnat => {
                let to = NatTarget::To { address: [127, 0, 0, 1].into(), port: Some(1) };
                chain_at(Family::Ip, ChainType::Nat, Hook::Prerouting, vec![Statement::Dnat(to)])
            }
            Self::NftBridge => {
                let port = Operand::Value(Value::Ifname(name("a")));
                let from = Statement::Match { left: Expr::Iifname, op: Op::Eq, right: port };
                chain_at(Family::Bridge, ChainType::Filter, Hook::Prerouting, vec![from])
            }
            Self::Vxlan => {
                let local = [127, 0, 0, 1].into();
                vec![link(LinkKind::Vxlan { vni: 1, port: 4789, local, dev: None, learning: false, gbp: false })]
            }
            Self::Geneve => {
                let encap = Some(Encap { id: 1, remote: [127, 0, 0, 1].into() });
                let via = NextHop { dev: Some(name("a")), encap, ..NextHop::default() };
                let to = IpNet::from(IpAddr::from([192, 0, 2, 1]));
                vec![link(LinkKind::Geneve { port: 6081 }), Object::Route(Route::new(to, via))]
            }
            Self::Macvlan => {
                let below = Link::new(name("b"), LinkKind::Bridge { multicast_snooping: false });
                vec![Object::Link(below), link(LinkKind::Macvlan { dev: name("b") })]
            }
            Self::Tun => vec![link(LinkKind::Tun)],
        }
    }
}

impl FromStr for Feature {
    type Err = Missing;

    fn from_str(text: &str) -> Result<Self, Missing> {
        let found = Self::ALL.into_iter().find(|feature| feature.name() == text);
        found.ok_or_else(|| Missing::Unknown(text.to_owned()))
    }
}

impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

fn names() -> String {
    Feature::ALL.map(Feature::name).join(", ")
}

fn place() -> Place {
    Place::node("feature")
}

fn name(constant: &str) -> IfName {
    IfName::new(constant).expect("a valid constant name")
}

/// A chain of source translation with one rule.
fn chain(rule: Vec<Statement>) -> Vec<Object> {
    chain_at(Family::Ip, ChainType::Nat, Hook::Postrouting, rule)
}

fn chain_at(family: Family, kind: ChainType, hook: Hook, rule: Vec<Statement>) -> Vec<Object> {
    let table = TableRef::new(family, "yard-feature");
    let base = Base { kind, hook, priority: 100, policy: Policy::Accept, dev: None };
    let ends = |statement: &Statement| matches!(statement, Statement::Masquerade { .. } | Statement::Dnat(_));
    let verdict = (!rule.iter().any(ends)).then_some(Statement::Verdict(Verdict::Accept));
    let rules = vec![Rule(rule.into_iter().chain(verdict).collect())];
    let chain = Chain { table: table.clone(), name: "feature".into(), base: Some(base), rules };
    vec![Object::Table(Table { table }), Object::Chain(chain)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_knows_is_named_with_what_is_known() {
        let missing = require(["warp"]).unwrap_err().to_string();
        assert!(missing.starts_with("needs \"warp\": ") && missing.contains("veth, bridge, nft, "), "{missing}");
        for feature in Feature::ALL {
            assert_eq!(feature.name().parse(), Ok(feature));
        }
    }
}
