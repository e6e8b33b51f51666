//! `yard network status`, and how a swap went, in words.

use switchyard_api::{Network, NetworkStatus, Outcome, Swap, SwapStep, Turn};

use super::{StatusArgs, read, title};
use crate::api::Api;
use crate::output::{self, Format};

pub(super) async fn run(api: &Api, args: &StatusArgs) -> anyhow::Result<()> {
    let network = read(api).await?;
    let text = match args.output {
        Format::Json | Format::Yaml => output::document(&network, args.output)?,
        Format::Name => "network/default\n".into(),
        Format::Table | Format::Wide => people(&network),
    };
    output::print(&text)?;
    Ok(())
}

fn people(network: &Network) -> String {
    let status = network.status.clone().unwrap_or_default();
    let active = status.active.as_ref().map_or_else(|| "none yet".to_owned(), title);
    let mut text = format!("network   {active}, {}\n", ready(network));
    if let Some(active) = &status.active {
        let options = serde_json::to_string(&active.options).unwrap_or_default();
        text += &format!("options   {options}\nfile      {}\n", active.file);
    }
    text += &nodes(&status);
    if let Some(swap) = status.swap.as_ref().filter(|swap| !swap.dry_run) {
        text += &format!("\nswapping to {}: {:?}\n", title(&swap.to), swap.phase);
        text += &participants(swap);
    } else if let Some(swap) = &status.last_swap {
        text += &format!("\nlast swap, {}:\n{}", swap.started, summary(swap));
    }
    text
}

/// What the condition Ready says.
pub(super) fn ready(network: &Network) -> String {
    let status = network.status.clone().unwrap_or_default();
    match status.conditions.into_iter().find(|condition| condition.kind == "Ready") {
        Some(ready) if ready.status == "True" => "ready".into(),
        Some(ready) => format!("not ready: {}: {}", ready.reason, ready.message),
        None => "not ready".into(),
    }
}

fn nodes(status: &NetworkStatus) -> String {
    let rows = status.nodes.iter().map(|(name, node)| {
        vec![name.clone(), node.plugin.clone(), node.generation.to_string(), node.error.clone().unwrap_or_default()]
    });
    output::table(&["NODE", "NETWORK", "GENERATION", "ERROR"], &rows.collect::<Vec<_>>())
}

/// How a swap went, for people.
pub(super) fn summary(swap: &Swap) -> String {
    let took = swap.milliseconds.map(|ms| format!(" in {ms:.0} ms")).unwrap_or_default();
    let (from, to) = (title(&swap.from), title(&swap.to));
    let mut text = match swap.outcome {
        Some(Outcome::Swapped) => format!("swapped from {from} to {to}{took}\n"),
        Some(Outcome::Returned) => format!("went back from {to} to {from}{took}: {}\n", reason(swap)),
        _ => format!("did not swap from {from} to {to}: {}\n", reason(swap)),
    };
    for step in &swap.steps {
        text += &format!("  {:<22}{:>8.1} ms\n", phase(step), step.milliseconds);
    }
    text += &traffic(swap);
    text + &participants(swap)
}

fn reason(swap: &Swap) -> &str {
    swap.reason.as_deref().unwrap_or("nobody said why")
}

fn phase(step: &SwapStep) -> String {
    let phase = format!("{:?}", step.phase).to_lowercase();
    match step.turn {
        Turn::Router => format!("{phase}, upstream"),
        _ => phase,
    }
}

/// What probes know of the traffic meanwhile.
fn traffic(swap: &Swap) -> String {
    let probes = || swap.participants.values().map(|one| &one.probes);
    let (tried, good): (u32, u32) = (probes().map(|one| one.tried).sum(), probes().map(|one| one.good).sum());
    if tried == 0 {
        return String::new();
    }
    let lost: Vec<&str> = probes().flat_map(|one| &one.lost).map(String::as_str).collect();
    let mut text = format!("  {good} of {tried} ways led somewhere before");
    text += &match lost.len() {
        0 if probes().any(|one| one.untried) => format!("; {} is to carry nothing\n", title(&swap.to)),
        0 => ", and all of them all the time\n".to_owned(),
        _ => format!("; not any more: {}\n", lost.join(", ")),
    };
    let (sent, unanswered): (u64, u64) = (probes().map(|one| one.sent).sum(), probes().map(|one| one.unanswered).sum());
    let longest = probes().filter_map(|one| one.longest_gap).fold(0.0, f64::max);
    if sent > 0 {
        text += &format!("  {sent} packets between pods, {unanswered} lost, longest gap {longest:.1} ms\n");
    }
    text
}

fn participants(swap: &Swap) -> String {
    let rows = swap.participants.iter().map(|(name, one)| {
        let operations = one.operations;
        let took: f64 = one.milliseconds.values().sum();
        vec![
            name.clone(),
            one.phase.map_or_else(|| "-".to_owned(), |phase| format!("{phase:?}")),
            format!("{took:.1}"),
            format!("{}/{}/{}/{}", operations.prepare, operations.switch, operations.withdraw, operations.clean),
            one.foreign.to_string(),
            one.error.clone().unwrap_or_default(),
        ]
    });
    output::table(&["PLACE", "DONE", "MS", "CHANGES", "FOREIGN", "ERROR"], &rows.collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_network_that_is_to_carry_nothing_is_not_praised_for_carrying_everything() {
        let network = |name: &str| {
            json!({
                "plugin": name, "version": "0.1.0", "file": "", "sha256": "", "hosting": "in-process", "generation": 1,
            })
        };
        let swap = |probes: serde_json::Value| {
            let swap = json!({
                "id": "1", "from": network("kubenet"), "to": network("none"), "phase": "Cleaning", "turn": "All",
                "started": "", "steps": [], "participants": {"n1": {"probes": probes}},
            });
            traffic(&serde_json::from_value(swap).expect("a swap"))
        };
        let said = swap(json!({"tried": 4, "good": 3, "untried": true, "sent": 9, "unanswered": 8, "longestGap": 7.0}));
        assert_eq!(
            said,
            "  3 of 4 ways led somewhere before; none 0.1.0 is to carry nothing\n  \
             9 packets between pods, 8 lost, longest gap 7.0 ms\n"
        );
        let said = swap(json!({"tried": 4, "good": 3}));
        assert_eq!(said, "  3 of 4 ways led somewhere before, and all of them all the time\n");
    }
}
