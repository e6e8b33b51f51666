//! Packets between real namespaces.

use std::net::IpAddr;

use crate::subject::{Checked, Subject, fail, skip};
use crate::world::{World, WorldError};

pub(super) fn applies(subject: &Subject) -> Checked {
    match made(subject)? {
        Ok(_) => Ok(String::new()),
        Err(WorldError::NoInterface) => Err(skip(WorldError::NoInterface.to_string())),
        Err(error) => Err(fail(error.to_string())),
    }
}

pub(super) fn same_node(subject: &Subject) -> Checked {
    reach(world(subject)?, &[("a1", "a2"), ("a2", "a1"), ("a1", "a1")])
}

pub(super) fn other_node(subject: &Subject) -> Checked {
    reach(world(subject)?, &[("a1", "b1"), ("b1", "a2")])
}

pub(super) fn nodes(subject: &Subject) -> Checked {
    reach(world(subject)?, &[("n1", "a1"), ("n1", "b1"), ("n2", "a1"), ("a1", "n1"), ("a1", "n2"), ("b1", "n1")])
}

pub(super) fn outside(subject: &Subject) -> Checked {
    reach(world(subject)?, &[("a1", "outside"), ("b1", "outside")])
}

pub(super) fn source(subject: &Subject) -> Checked {
    let world = world(subject)?;
    for (from, to) in [("a1", "a2"), ("a1", "b1"), ("b1", "a1")] {
        let (seen, own) = (ask(world, from, to)?, world.address(from));
        if seen != own {
            return Err(fail(format!("{to} sees {seen} when {from}, {own}, comes")));
        }
    }
    Ok(String::new())
}

pub(super) fn mtu(subject: &Subject) -> Checked {
    let world = world(subject)?;
    for (from, to) in [("a1", "a2"), ("a1", "b1"), ("b1", "a1")] {
        let mtu = world.mtu(from);
        let sent = world.from(from).fill(world.address(to), mtu);
        sent.map_err(|problem| fail(format!("{from} to {to}, MTU {mtu}: {problem}")))?;
    }
    Ok(format!("{} bytes", world.mtu("a1")))
}

pub(super) fn foreign(subject: &Subject) -> Checked {
    reach(
        world(subject)?,
        &[("a1", "foreign"), ("foreign", "a1"), ("b1", "foreign"), ("foreign", "b1"), ("n1", "foreign")],
    )
}

pub(super) fn untouched(subject: &Subject) -> Checked {
    match world(subject)?.disturbed.as_slice() {
        [] => Ok(String::new()),
        lines => Err(fail(few(lines))),
    }
}

pub(super) fn as_before(subject: &Subject) -> Checked {
    match world(subject)?.clean() {
        Ok(lines) if lines.is_empty() => Ok(String::new()),
        Ok(lines) => Err(fail(few(&lines))),
        Err(error) => Err(fail(error.to_string())),
    }
}

/// The world, made by whoever asks first.
fn made(subject: &Subject) -> Result<&Result<World, WorldError>, crate::Outcome> {
    subject.lab.as_ref().map_err(|why| skip(why.clone()))?;
    let plugin = subject.plugin()?;
    Ok(subject.world.get_or_init(|| World::new(plugin, subject.host.deadline)))
}

fn world(subject: &Subject) -> Result<&World, crate::Outcome> {
    made(subject)?.as_ref().map_err(|error| match error {
        WorldError::NoInterface => skip(error.to_string()),
        _ => skip("what it wants cannot be carried out, see dataplane/applies"),
    })
}

fn reach(world: &World, pairs: &[(&str, &str)]) -> Checked {
    for (from, to) in pairs {
        ask(world, from, to)?;
    }
    Ok(String::new())
}

/// The address that the server saw.
fn ask(world: &World, from: &str, to: &str) -> Result<IpAddr, crate::Outcome> {
    let address = world.address(to);
    let asked = world.from(from).ask(address);
    asked.map(|asked| asked.seen).map_err(|problem| fail(format!("{from} to {to}, {address}: {problem}")))
}

fn few(lines: &[String]) -> String {
    let more = lines.len().saturating_sub(8);
    let mut text = lines[..lines.len() - more].join("\n");
    if more > 0 {
        text += &format!("\nand {more} more");
    }
    text
}
