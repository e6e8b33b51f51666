//! Why figures are invalid, in as few words as it takes: those that share a kind of reason stand together.

use std::mem::discriminant;

use super::{Analysis, Life};
use crate::verdict::{Reason, Verdict};

/// Figures that are invalid for one kind of reason.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Doubt {
    /// What their reasons say together.
    pub reason: String,
    /// What somebody may do about it.
    pub advice: &'static str,
    /// How many they are.
    pub count: usize,
    /// Which they are, by workload: `rr p50/p99`; steps of lives of pods by name.
    pub figures: Vec<String>,
}

/// A figure: what it is of, its name there, what may be said about it.
type Said<'a> = (String, String, Option<&'a Verdict>);

/// Of all comparisons.
pub(crate) fn of_comparisons(analysis: &Analysis) -> Vec<Doubt> {
    doubts(compared(analysis))
}

/// Of all steps of lives of pods.
pub(crate) fn of_lives(lives: &[Life]) -> Vec<Doubt> {
    doubts(lived(lives))
}

/// Of both.
pub(crate) fn of_all(analysis: &Analysis, lives: &[Life]) -> Vec<Doubt> {
    doubts(compared(analysis).chain(lived(lives)))
}

fn compared(analysis: &Analysis) -> impl Iterator<Item = Said<'_>> {
    analysis.comparisons.iter().map(|one| (one.workload.clone(), one.metric.to_string(), Some(&one.verdict)))
}

fn lived(lives: &[Life]) -> impl Iterator<Item = Said<'_>> {
    lives.iter().map(|one| (one.step.word().to_owned(), String::new(), one.verdict.as_ref()))
}

/// Most figures first.
fn doubts<'a>(figures: impl Iterator<Item = Said<'a>>) -> Vec<Doubt> {
    type Kind<'a> = (Vec<&'a Reason>, Vec<(String, Vec<String>)>);
    let mut kinds: Vec<Kind<'_>> = Vec::new();
    for (of, name, verdict) in figures {
        let Some(Verdict::Invalid(reason)) = verdict else { continue };
        let known = kinds.iter().position(|(reasons, _)| discriminant(reasons[0]) == discriminant(reason));
        let at = known.unwrap_or_else(|| {
            kinds.push((Vec::new(), Vec::new()));
            kinds.len() - 1
        });
        let (reasons, groups) = &mut kinds[at];
        reasons.push(reason);
        match groups.iter_mut().find(|(known, _)| *known == of) {
            Some((_, names)) if names.contains(&name) => {}
            Some((_, names)) => names.push(name),
            None => groups.push((of, vec![name])),
        }
    }
    kinds.sort_by_key(|(reasons, _)| std::cmp::Reverse(reasons.len()));
    let doubt = |(reasons, groups): Kind<'_>| Doubt {
        reason: Reason::together(&reasons),
        advice: reasons[0].advice(),
        count: reasons.len(),
        figures: groups.into_iter().map(|(of, names)| format!("{of} {}", names.join("/")).trim().to_owned()).collect(),
    };
    kinds.into_iter().map(doubt).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::lives;
    use crate::analysis::tests::report;

    #[test]
    fn figures_that_share_a_kind_of_reason_stand_together() {
        // Each sample loses another share of the processors.
        let stolen = report(|_| 1.0, |sample| sample.measured.cpu.steal = 0.05 + sample.at / 1000.0);
        let analysis = Analysis::of(&stolen);
        let said = of_comparisons(&analysis);
        assert_eq!(said.len(), 1, "{said:?}");
        assert_eq!(said[0].count, analysis.comparisons.len());
        assert!(said[0].reason.contains(" to ") && said[0].reason.contains("stolen"), "{said:?}");
        assert_eq!(said[0].figures[..2], ["stream throughput/cpu", "rr p50/p99/rate/cpu"]);
        let mut few = report(|_| 1.0, |_| ());
        few.trials.truncate(3);
        let said = of_lives(&lives(&few));
        assert!(said[0].reason.contains("too few") && said[0].figures.contains(&"detach".to_owned()), "{said:?}");
        let sound = report(|_| 1.0, |_| ());
        assert_eq!(of_all(&Analysis::of(&sound), &lives(&sound)), []);
    }
}
