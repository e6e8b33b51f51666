//! What comes next in a swap: a function of what has been ordered and what has been reported, and of nothing else, so that a
//! control plane that was killed goes on where it stood.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use switchyard_api::{
    ActiveNetwork, NodeNetworkStatus, Outcome, Participant, Swap, SwapPhase, SwapReport, SwapStep, Turn, names,
};

/// What to do now.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Next {
    /// Somebody has not reported yet.
    Wait,
    /// Everybody has: this is next.
    Order(SwapPhase, Turn),
    /// It goes back, or is given up, for this reason.
    Fail(String),
    /// It is over.
    End(Outcome),
}

/// Longest that a phase may take. A participant that was killed is back within a second or two; opening a plugin may take
/// a while on a machine that has other things to do, and hurts nobody.
pub(super) fn patience(phase: SwapPhase) -> Duration {
    Duration::from_secs(if phase == SwapPhase::Planning { 30 } else { 10 })
}

/// A phase that is over by then needs no report of its progress.
pub(super) const QUICK: Duration = Duration::from_millis(250);

/// A swap between these networks with those who carry the old one: nodes, and the router.
pub(super) fn begin(
    id: String,
    from: ActiveNetwork,
    to: ActiveNetwork,
    reports: &BTreeMap<String, NodeNetworkStatus>,
    dry_run: bool,
) -> Swap {
    let carrying = reports.iter().filter(|(_, report)| report.generation == from.generation);
    Swap {
        id,
        dry_run,
        participants: carrying.map(|(name, _)| (name.clone(), Participant::default())).collect(),
        from,
        to,
        phase: SwapPhase::Planning,
        turn: Turn::All,
        started: now(),
        steps: Vec::new(),
        reason: None,
        outcome: None,
        milliseconds: None,
    }
}

/// Notes what has been reported. Participants whose object is gone are no longer waited for.
pub(super) fn hear(swap: &mut Swap, reports: &BTreeMap<String, NodeNetworkStatus>) {
    swap.participants.retain(|name, _| reports.contains_key(name));
    for (name, participant) in &mut swap.participants {
        let report = reports.get(name).and_then(|report| report.swap.as_ref());
        if let Some(SwapReport { participant: said, .. }) = report.filter(|report| report.id == swap.id) {
            *participant = said.clone();
        }
    }
}

/// What comes next; `late` once a phase has taken too long.
pub(super) fn next(swap: &Swap, late: bool) -> Next {
    let waited_for = || swap.participants.iter().filter(|(name, _)| swap.concerns(name));
    let missing: Vec<&str> =
        waited_for().filter(|(_, one)| !is_done(one, swap.phase)).map(|(name, _)| name.as_str()).collect();
    let failed = swap.participants.iter().find_map(|(name, one)| Some(format!("{name}: {}", one.error.as_ref()?)));
    if swap.phase < SwapPhase::Cleaning {
        if let Some(failed) = failed {
            return Next::Fail(failed);
        }
        if late && !missing.is_empty() {
            let phase = format!("{:?}", swap.phase).to_lowercase();
            return Next::Fail(format!(
                "{} not done with {phase} after {} s",
                missing.join(", "),
                patience(swap.phase).as_secs()
            ));
        }
    }
    // Who is late with cleaning or returning mends that by itself: it goes by what is active then.
    if !late && !missing.is_empty() {
        return Next::Wait;
    }
    let has_router = swap.participants.contains_key(names::ROUTER);
    match (swap.phase, swap.turn) {
        (SwapPhase::Planning, _) if swap.dry_run => Next::Wait,
        (SwapPhase::Planning, _) => Next::Order(SwapPhase::Preparing, Turn::All),
        (SwapPhase::Preparing, _) => Next::Order(SwapPhase::Checking, Turn::Nodes),
        (SwapPhase::Checking, _) if has_router => Next::Order(SwapPhase::Switching, Turn::Router),
        (SwapPhase::Checking, _) | (SwapPhase::Switching, Turn::Router) => {
            Next::Order(SwapPhase::Switching, Turn::Nodes)
        }
        (SwapPhase::Switching, _) => Next::Order(SwapPhase::Verifying, Turn::Nodes),
        (SwapPhase::Verifying, _) => Next::Order(SwapPhase::Withdrawing, Turn::Nodes),
        (SwapPhase::Withdrawing, Turn::Nodes) if has_router => Next::Order(SwapPhase::Withdrawing, Turn::Router),
        (SwapPhase::Withdrawing, _) => Next::Order(SwapPhase::Cleaning, Turn::All),
        (SwapPhase::Cleaning, _) => Next::End(Outcome::Swapped),
        (SwapPhase::Returning, Turn::Nodes) if has_router => Next::Order(SwapPhase::Returning, Turn::Router),
        (SwapPhase::Returning, _) => Next::End(Outcome::Returned),
    }
}

/// Goes on to another phase, `took` after this one was ordered.
pub(super) fn order(swap: &mut Swap, phase: SwapPhase, turn: Turn, took: Duration) {
    swap.steps.push(SwapStep { phase: swap.phase, turn: swap.turn, milliseconds: milliseconds(took) });
    (swap.phase, swap.turn) = (phase, turn);
}

/// Gives up: back if something has been changed, else at once. True if it is over.
pub(super) fn fail(swap: &mut Swap, reason: String, took: Duration) -> bool {
    swap.reason = Some(reason);
    if swap.phase == SwapPhase::Planning {
        return true;
    }
    order(swap, SwapPhase::Returning, Turn::Nodes, took);
    false
}

/// Notes the end.
pub(super) fn end(swap: &mut Swap, outcome: Outcome, took: Duration) {
    swap.steps.push(SwapStep { phase: swap.phase, turn: swap.turn, milliseconds: milliseconds(took) });
    swap.outcome = Some(outcome);
    let begun: Option<Timestamp> = swap.started.parse().ok();
    let since = begun.and_then(|begun| Timestamp::now().duration_since(begun).try_into().ok());
    swap.milliseconds = since.map(milliseconds);
    for participant in swap.participants.values_mut() {
        participant.samples.clear();
    }
}

fn is_done(participant: &Participant, phase: SwapPhase) -> bool {
    match phase {
        // Who goes back has come from anywhere.
        SwapPhase::Returning => participant.phase == Some(SwapPhase::Returning),
        _ => participant.phase.is_some_and(|done| done >= phase && done != SwapPhase::Returning),
    }
}

fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

fn now() -> String {
    let now = Timestamp::now();
    now.round(jiff::Unit::Microsecond).unwrap_or(now).to_string()
}

#[cfg(test)]
mod tests;
