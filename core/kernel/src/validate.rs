//! Checks of a plan before anything is changed.

use switchyard_netstate::nft::{Element, Set, Statement, TableRef, Verdict};
use switchyard_netstate::{Change, Key, LinkKind, Object, Op, Place};

use crate::apply::View;
use crate::{Error, Places, nft, sysctl};

/// Names in nf_tables: NFT_NAME_MAXLEN less what old tools can show.
const NFT_NAME: usize = 127;
/// Statements of one rule.
const STATEMENTS: usize = 128;

/// Checks everything that can be known without the kernel.
pub(crate) fn plan(ops: &[Op], places: &Places, view: &View<'_>) -> Result<(), Error> {
    for op in ops {
        let object = match &op.change {
            Change::Add(object) | Change::Replace(_, object) => object,
            Change::Remove(_) => continue,
        };
        if !places.contains(&op.place) {
            return Err(Error::UnknownPlace { place: op.place.clone() });
        }
        object_is_sound(object, &op.place, places, view).map_err(|reason| match reason {
            Reason::Text(reason) => Error::Invalid { place: op.place.clone(), key: Box::new(object.key()), reason },
            Reason::Place(place) => Error::UnknownPlace { place },
        })?;
    }
    Ok(())
}

enum Reason {
    Text(String),
    Place(Place),
}

impl From<String> for Reason {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<&str> for Reason {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

fn object_is_sound(object: &Object, place: &Place, places: &Places, view: &View<'_>) -> Result<(), Reason> {
    let dev = match object {
        Object::Route(route) => route.via.dev.clone(),
        other => other.key().dev().cloned(),
    };
    if let Some(dev) = dev
        && removed(view, place, &Key::Link(dev.clone()))
    {
        return Err(format!("interface {dev} is removed by the same change").into());
    }
    match object {
        Object::Link(link) => {
            if link.mtu.is_some_and(|mtu| !(68..=65535).contains(&mtu)) {
                return Err(format!("mtu {}: must be from 68 to 65535", link.mtu.unwrap_or_default()).into());
            }
            if link.mac.is_some_and(|mac| mac.0[0] & 1 == 1 || mac.0 == [0; 6]) {
                return Err("mac: must be the address of one station, not of a group or all zero".into());
            }
            if link.master.is_none() && link.port != Default::default() {
                return Err("port settings need a master".into());
            }
            match &link.kind {
                LinkKind::Veth { peer } if !places.contains(&peer.place) => {
                    return Err(Reason::Place(peer.place.clone()));
                }
                LinkKind::Veth { peer } if peer.place == *place && peer.name == link.name => {
                    return Err("a veth cannot be its own peer".into());
                }
                LinkKind::Vxlan { vni, .. } if *vni >= 1 << 24 => {
                    return Err(format!("vni {vni}: must be below 16777216").into());
                }
                LinkKind::Vxlan { port: 0, .. } | LinkKind::Geneve { port: 0 } => {
                    return Err("port 0: must be from 1 to 65535".into());
                }
                _ => {}
            }
        }
        Object::Route(route) => {
            let via = &route.via;
            if via.blackhole && (via.dev.is_some() || via.gateway.is_some() || via.onlink) {
                return Err("a blackhole route has neither dev nor gateway".into());
            }
            if !via.blackhole && via.dev.is_none() && via.gateway.is_none() {
                return Err("a route needs a dev, a gateway, or blackhole".into());
            }
            if via.onlink && (via.dev.is_none() || via.gateway.is_none()) {
                return Err("onlink needs a dev and a gateway".into());
            }
            if let Some(encap) = via.encap {
                if via.dev.is_none() {
                    return Err("encap needs a dev".into());
                }
                if encap.id >= 1 << 24 {
                    return Err(format!("encap id {}: must be below 16777216", encap.id).into());
                }
            }
            if route.to.addr().is_ipv6() && route.metric == crate::sys::IP6_RT_PRIO_USER {
                return Err("metric 1024 is IPv6's default: leave it out".into());
            }
            if route.table == 0 || route.table == 255 {
                return Err(format!("table {}: must not be 0 or 255, which are the kernel's", route.table).into());
            }
            if route.source.is_some_and(|source| source.is_ipv4() != route.to.addr().is_ipv4()) {
                return Err("source and destination are of different families".into());
            }
        }
        Object::Rule(rule) => {
            if rule.from.zip(rule.to).is_some_and(|(from, to)| from.addr().is_ipv4() != to.addr().is_ipv4()) {
                return Err("from and to are of different families".into());
            }
            if rule.mark.is_some_and(|(_, mask)| mask == 0) {
                return Err("a mark with mask 0 matches everything: leave it out".into());
            }
        }
        Object::Sysctl(parameter) => {
            sysctl::check(&parameter.path)?;
            if parameter.value.trim().is_empty() || parameter.value.len() > 1024 || parameter.value.contains('\n') {
                return Err("value: must be one line of 1 to 1024 bytes".into());
            }
        }
        Object::Qdisc(qdisc) => {
            let switchyard_netstate::QdiscKind::Tbf { rate, burst, limit } = qdisc.kind;
            if rate == 0 || burst == 0 || limit == 0 {
                return Err("rate, burst and limit must be above 0".into());
            }
        }
        Object::Table(o) => table(&o.table)?,
        Object::Set(set) => {
            name(&set.name)?;
            in_table(&set.table, place, view)?;
            if set.key.is_empty() || nft::set::concatenated(&set.key).1 > 64 {
                return Err("key: must have 1 to 64 bytes".into());
            }
            if nft::set::data_type(set).is_some_and(|(_, length)| length > 64) {
                return Err("data: must have at most 64 bytes".into());
            }
            if set.data.len() > 1 && set.data.contains(&switchyard_netstate::nft::Type::Verdict)
                || set.key.contains(&switchyard_netstate::nft::Type::Verdict)
            {
                return Err("a verdict can be data, and only alone".into());
            }
        }
        Object::Chain(chain) => {
            name(&chain.name)?;
            in_table(&chain.table, place, view)?;
            if chain.rules.iter().any(|rule| rule.0.len() > STATEMENTS) {
                return Err(format!("a rule has more than {STATEMENTS} statements").into());
            }
            for statement in chain.rules.iter().flat_map(|rule| &rule.0) {
                let target = match statement {
                    Statement::Verdict(verdict) => verdict.target(),
                    _ => None,
                };
                chain_exists(&chain.table, target, place, view)?;
            }
            let set = |table: &TableRef, name: &str| set_of(table, name, place, view);
            nft::chain::rules(chain, &set, &mut 1)?;
        }
        Object::Element(element) => element_is_sound(element, place, view)?,
        Object::Address(_) | Object::Neighbour(_) | Object::Fdb(_) => {}
    }
    Ok(())
}

fn element_is_sound(element: &Element, place: &Place, view: &View<'_>) -> Result<(), Reason> {
    let set = set_of(&element.table, &element.set, place, view);
    let set = set.ok_or_else(|| format!("set {} is not wanted in table {}", element.set, element.table))?;
    nft::set::encode(element, &set)?;
    let target = match &element.data {
        Some(switchyard_netstate::nft::Data::Verdict(verdict)) => Verdict::target(verdict),
        _ => None,
    };
    chain_exists(&element.table, target, place, view)
}

fn table(table: &TableRef) -> Result<(), Reason> {
    if !table.name.starts_with(TableRef::PREFIX) {
        return Err(format!("table {}: must start with {}", table.name, TableRef::PREFIX).into());
    }
    name(&table.name)
}

fn in_table(table_ref: &TableRef, place: &Place, view: &View<'_>) -> Result<(), Reason> {
    table(table_ref)?;
    match view.object(place, &Key::Table(table_ref.clone())) {
        Some(_) => Ok(()),
        None => Err(format!("table {table_ref} is not wanted here").into()),
    }
}

fn name(name: &str) -> Result<(), Reason> {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'/' | b'\\');
    let starts = name.bytes().next().is_some_and(|b| b.is_ascii_alphabetic());
    if starts && name.len() <= NFT_NAME && name.bytes().all(good) {
        Ok(())
    } else {
        Err(format!("name {name:?}: must start with a letter and have 1 to {NFT_NAME} of [a-zA-Z0-9_./-]").into())
    }
}

fn chain_exists(table: &TableRef, chain: Option<&str>, place: &Place, view: &View<'_>) -> Result<(), Reason> {
    let Some(chain) = chain else { return Ok(()) };
    match view.object(place, &Key::Chain(table.clone(), chain.to_owned())) {
        Some(Object::Chain(found)) if found.base.is_none() => Ok(()),
        Some(_) => Err(format!("chain {chain} is a base chain and cannot be jumped to").into()),
        None => Err(format!("chain {chain} is not wanted in table {table}").into()),
    }
}

fn set_of(table: &TableRef, name: &str, place: &Place, view: &View<'_>) -> Option<Set> {
    match view.object(place, &Key::Set(table.clone(), name.to_owned())) {
        Some(Object::Set(set)) => Some(set),
        _ => None,
    }
}

fn removed(view: &View<'_>, place: &Place, key: &Key) -> bool {
    matches!(view.overlay.get(&(place.clone(), key.clone())), Some(None))
}
