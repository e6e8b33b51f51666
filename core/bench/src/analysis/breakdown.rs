//! Whose processor time a workload costs: parts of the cluster, as their processes are charged, and the rest of the machine.

use crate::experiment::LoadKind;
use crate::gauge::{Charges, Part};
use crate::report::{BASELINE, Report, Sample};

/// Processor time of one workload on one path, all samples together, for a gigabyte of a stream or 10,000 operations.
#[derive(Clone, Debug, PartialEq)]
pub struct Breakdown {
    /// The network, `by-hand`, or the `baseline`.
    pub network: String,
    /// The path, or the wires.
    pub path: String,
    /// The load.
    pub workload: String,
    /// `s/GB` or `s/10k`.
    pub unit: &'static str,
    /// Seconds of each part.
    pub parts: Charges,
    /// Seconds that no process of the experiment was charged for: interrupts and softirq of idle processors, threads of the kernel,
    /// other programs.
    pub rest: f64,
    /// Seconds of the whole machine.
    pub whole: f64,
    /// Of those, seconds in softirq and interrupts, as the kernel counts them tick by tick.
    pub softirq: f64,
}

/// Of every contestant on every path, the baseline first, workload by workload.
pub fn breakdowns(report: &Report) -> Vec<Breakdown> {
    let contestants = report.contestants();
    let paths = contestants.iter().flat_map(|&one| report.paths(one).into_iter().map(move |path| (one, path)));
    let all: Vec<(&str, &str)> = std::iter::once((BASELINE, "veth")).chain(paths).collect();
    let of_workload = |workload: &crate::experiment::Workload| {
        let (name, kind) = (workload.name.clone(), workload.kind);
        all.iter().filter_map(|&(network, path)| breakdown(report, network, path, &name, kind)).collect::<Vec<_>>()
    };
    report.experiment.spec.workloads.iter().flat_map(of_workload).collect()
}

fn breakdown(report: &Report, network: &str, path: &str, workload: &str, kind: LoadKind) -> Option<Breakdown> {
    let is_meant = |sample: &&Sample| {
        sample.network == network && sample.path == path && sample.workload == workload && !sample.charges.is_empty()
    };
    let samples: Vec<&Sample> = report.samples.iter().filter(is_meant).collect();
    let sum = |of: &dyn Fn(&Sample) -> f64| samples.iter().map(|sample| of(sample)).sum::<f64>();
    let (amount, unit) = match kind {
        LoadKind::Stream => (sum(&|sample| sample.measured.bytes as f64) / 1e9, "s/GB"),
        _ => (sum(&|sample| sample.measured.operations as f64) / 1e4, "s/10k"),
    };
    if amount <= 0.0 {
        return None;
    }
    let of_part = |part: Part| sum(&|sample| sample.charges.get(&part).copied().unwrap_or(0.0)) / amount;
    let parts: Charges =
        Part::ALL.into_iter().map(|part| (part, of_part(part))).filter(|(_, time)| *time > 0.0).collect();
    let charged: f64 = parts.values().sum();
    // Ticks are coarse: where they say less than the scheduler does, the scheduler is right.
    let whole = (sum(&|sample| sample.measured.cpu.busy()) / amount).max(charged);
    let softirq = sum(&|sample| sample.measured.cpu.softirq + sample.measured.cpu.irq) / amount;
    let (network, path, workload) = (network.to_owned(), path.to_owned(), workload.to_owned());
    Some(Breakdown { network, path, workload, unit, parts, rest: whole - charged, whole, softirq })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::tests::report;

    #[test]
    fn what_nobody_is_charged_for_is_the_rest() {
        let all = breakdowns(&report(|_| 1.0, |_| ()));
        let of = |network: &str, workload: &str| {
            all.iter().find(|one| one.network == network && one.workload == workload).unwrap().clone()
        };
        let rr = of("kubenet", "rr");
        // 0.02 and 0.03 of 0.1 seconds for 200 operations each time, all of it growing with the machine's drift.
        let (generator, servers) = (rr.parts[&Part::Generator], rr.parts[&Part::Servers]);
        assert!((servers / generator - 1.5).abs() < 1e-9 && (rr.rest / rr.whole - 0.5).abs() < 1e-9, "{rr:?}");
        assert_eq!((rr.unit, of("kubenet", "stream").unit), ("s/10k", "s/GB"));
        assert_eq!(of("baseline", "rr").path, "veth");
        let old = report(|_| 1.0, |sample| sample.charges.clear());
        assert_eq!(breakdowns(&old), [], "nothing is said of reports that say nothing");
    }
}
