//! What there is in this network namespace, by name: to say what a network that has gone has left, or has taken with it.

use std::collections::BTreeSet;

use anyhow::Context as _;
use switchyard_kernel::{Engine, Netns, Owner, Places};
use switchyard_netstate::Place;

/// Nothing is ours here, we only look.
const NOBODY: Owner = Owner { protocol: 0 };

pub(super) fn read() -> anyhow::Result<BTreeSet<String>> {
    let here = Place::node("here");
    let mut places = Places::new();
    places.add(here.clone(), Netns::current().context("this namespace")?);
    let lines = Engine::new(NOBODY, places).snapshot(&here).context("look at this namespace")?;
    Ok(lines.iter().filter_map(|line| named(line)).map(str::to_owned).collect())
}

/// The name in a line of a snapshot: what a thing is like follows it and begins with a capital letter. Parameters come and go with
/// their interfaces, and the contents of our tables with pods and Services.
fn named(line: &str) -> Option<&str> {
    if line.starts_with("link ") || line.starts_with("table ") {
        return line.split_once(": ").map(|(name, _)| name);
    }
    let at = line.match_indices(": ").map(|(at, _)| at).find(|at| line[at + 2..].starts_with(char::is_uppercase))?;
    Some(&line[..at])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn things_have_names_and_nothing_else() {
        assert_eq!(named("link vx0: group 7 Link { name: vx0 }"), Some("link vx0"));
        assert_eq!(named("route 10.40.2.0/24: Route(Route { to: 10.40.2.0/24 })"), Some("route 10.40.2.0/24"));
        assert_eq!(
            named("rule 100: from all fwmark 0x1/0x1: Rule(Rule { priority: 100 })"),
            Some("rule 100: from all fwmark 0x1/0x1")
        );
        assert_eq!(named("table inet yard: Found { handle: 3 }"), Some("table inet yard"));
        assert_eq!(named("net/ipv4/ip_forward = 1"), None);
    }
}
