//! Chains and their rules.

use std::fmt::Write as _;

use switchyard_netstate::nft::{Base, Chain, ChainType, Family, Hook, Policy, Set, TableRef};

use super::expr::Writer;
use super::message::{DIGEST, family, message, user_data};
use crate::netlink::Message;
use crate::sys;

/// Changes when the same rule would be written as other bytes, so that chains of an earlier version are written anew.
const ENCODING: u8 = 1;

/// Makes a chain, without rules; one that is there takes on the policy.
pub(crate) fn new_chain(chain: &Chain) -> Message {
    let mut message = message(sys::NFT_MSG_NEWCHAIN, sys::NLM_F_CREATE, family(chain.table.family));
    message.text(sys::NFTA_CHAIN_TABLE, &chain.table.name).text(sys::NFTA_CHAIN_NAME, &chain.name);
    if let Some(base) = &chain.base {
        message.nest(sys::NFTA_CHAIN_HOOK, |hook| {
            hook.be32(sys::NFTA_HOOK_HOOKNUM, hook_number(chain.table.family, base.hook))
                .be32(sys::NFTA_HOOK_PRIORITY, base.priority as u32);
            if let Some(dev) = &base.dev {
                hook.text(sys::NFTA_HOOK_DEV, dev.as_str());
            }
        });
        message
            .be32(sys::NFTA_CHAIN_POLICY, policy_number(base.policy))
            .text(sys::NFTA_CHAIN_TYPE, type_name(base.kind));
    }
    message
}

/// Takes a chain away.
pub(crate) fn delete_chain(table: &TableRef, name: &str) -> Message {
    let mut message = message(sys::NFT_MSG_DELCHAIN, 0, family(table.family));
    message.text(sys::NFTA_CHAIN_TABLE, &table.name).text(sys::NFTA_CHAIN_NAME, name);
    message
}

/// Takes all rules of a chain away.
pub(crate) fn flush(table: &TableRef, name: &str) -> Message {
    let mut message = message(sys::NFT_MSG_DELRULE, 0, family(table.family));
    message.text(sys::NFTA_RULE_TABLE, &table.name).text(sys::NFTA_RULE_CHAIN, name);
    message
}

/// Messages that append all rules of a chain, with the anonymous sets they need.
pub(crate) fn rules(
    chain: &Chain,
    known: &dyn Fn(&TableRef, &str) -> Option<Set>,
    next_set: &mut u32,
) -> Result<Vec<Message>, String> {
    let digest = digest(chain);
    let mut messages = Vec::with_capacity(chain.rules.len());
    let mut writer = Writer::new(&chain.table, known, next_set);
    for (number, rule) in (0u32..).zip(&chain.rules) {
        let flags = sys::NLM_F_CREATE | sys::NLM_F_APPEND;
        let mut one = message(sys::NFT_MSG_NEWRULE, flags, family(chain.table.family));
        one.text(sys::NFTA_RULE_TABLE, &chain.table.name).text(sys::NFTA_RULE_CHAIN, &chain.name);
        let before = writer.rule(&mut one, rule).map_err(|error| format!("rule {number}: {error}"))?;
        messages.extend(before);
        if one.is_too_long() {
            return Err(format!("rule {number}: takes more than the 64 KiB that a rule can have"));
        }
        one.attr(sys::NFTA_RULE_USERDATA, &mark(digest, number));
        messages.push(one);
    }
    Ok(messages)
}

/// User data of a rule of ours: the digest of its chain and its place in it.
pub(crate) fn mark(digest: u64, number: u32) -> Vec<u8> {
    let mut value = digest.to_be_bytes().to_vec();
    value.extend(number.to_be_bytes());
    user_data(DIGEST, &value)
}

/// A digest of a chain's rules.
pub(crate) fn digest(chain: &Chain) -> u64 {
    /// FNV-1a over what `Debug` writes.
    struct Fnv(u64);
    impl std::fmt::Write for Fnv {
        fn write_str(&mut self, text: &str) -> std::fmt::Result {
            for byte in text.bytes() {
                self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
            }
            Ok(())
        }
    }
    let mut fnv = Fnv(0xcbf2_9ce4_8422_2325);
    write!(fnv, "{ENCODING} {:?}", chain.rules).expect("hashing does not fail");
    fnv.0
}

/// Whether a base chain read back (hook, priority, type, policy) is this one.
pub(crate) fn same_base(found: Option<&(u32, i32, String, u32)>, chain: &Chain) -> bool {
    match (found, &chain.base) {
        (None, None) => true,
        (Some((hook, priority, kind, policy)), Some(base)) => {
            *hook == hook_number(chain.table.family, base.hook)
                && *priority == base.priority
                && kind == type_name(base.kind)
                && *policy == policy_number(base.policy)
        }
        _ => false,
    }
}

/// Whether two bases differ only in what can be changed in place.
pub(crate) fn same_hook(a: Option<&Base>, b: Option<&Base>) -> bool {
    match (a, b) {
        (None, None) => true,
        (Some(a), Some(b)) => Base { policy: b.policy, ..a.clone() } == *b,
        _ => false,
    }
}

fn hook_number(family: Family, hook: Hook) -> u32 {
    match (family, hook) {
        (Family::Netdev, Hook::Egress) => 1,
        (Family::Netdev, _) => 0,
        (Family::Arp, Hook::Input) => 0,
        (Family::Arp, Hook::Output) => 1,
        (_, Hook::Prerouting) => 0,
        (_, Hook::Input) => 1,
        (_, Hook::Forward) => 2,
        (_, Hook::Output) => 3,
        (_, Hook::Postrouting) => 4,
        (_, Hook::Ingress | Hook::Egress) => 5,
    }
}

fn policy_number(policy: Policy) -> u32 {
    match policy {
        Policy::Drop => 0,
        Policy::Accept => 1,
    }
}

fn type_name(kind: ChainType) -> &'static str {
    match kind {
        ChainType::Filter => "filter",
        ChainType::Nat => "nat",
        ChainType::Route => "route",
    }
}
