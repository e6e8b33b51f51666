//! The experiment itself.

mod stay;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;

use crate::analysis::Analysis;
use crate::experiment::{Experiment, Level, LoadKind, Route, Wiring, Workload};
use crate::gauge::{Charges, Machine, Roll};
use crate::load::{Load, Measured, Order};
use crate::report::{API_VERSION, BASELINE, BY_HAND, Deed, EndedBy, Failure, KIND, Plugin, Report, Sample};
use crate::schedule::{self, Contestant, RESERVE};
use crate::stage::{HOST, Stage, Yard};
use crate::stats::Random;

/// What an experiment is told about its surroundings.
pub struct Setting<'a> {
    /// The program `yard`.
    pub yard: &'a Path,
    /// An empty folder for the cluster.
    pub home: &'a Path,
    /// Version of `yard`.
    pub version: &'a str,
}

/// Who wants to know how it goes.
pub trait Progress {
    /// What is done now, and, once that can be told, how much of the budget is spent, 0 to 1.
    fn say(&self, text: &str, spent: Option<f64>);
}

/// Who takes what there is of a report after each block.
pub type Keep<'a> = &'a dyn Fn(&Report) -> anyhow::Result<()>;

/// An experiment under way.
struct Run<'a> {
    experiment: &'a Experiment,
    stage: Stage,
    begun: Instant,
    report: Report,
    /// The processes that are charged in this round.
    roll: Roll,
    /// Lives of pods until now, those that do not count included.
    lives: usize,
    progress: &'a dyn Progress,
    keep: Keep<'a>,
}

/// Makes an experiment, from booting a cluster to the last sample. The cluster is stopped whatever happens. What does not work is
/// noted, and everything else goes on; what there is by then is kept after each block, as an experiment may take a day.
pub fn run(
    experiment: &Experiment,
    setting: &Setting<'_>,
    progress: &dyn Progress,
    keep: Keep<'_>,
) -> anyhow::Result<Report> {
    let begun = Instant::now();
    let started = jiff::Timestamp::now().to_string();
    let yard = Yard::new(setting.yard, setting.home);
    let stage = Stage::set(yard, experiment, &|text| progress.say(text, None))?;
    let report = Report {
        api_version: API_VERSION.into(),
        kind: KIND.into(),
        started,
        seconds: 0.0,
        // Until it has ended, what is kept is what somebody finds who interrupted it.
        ended_by: EndedBy::Interrupted,
        experiment: experiment.clone(),
        machine: Machine::read(),
        version: setting.version.into(),
        plugins: Vec::new(),
        blocks: Vec::new(),
        levels: Vec::new(),
        samples: Vec::new(),
        swaps: Vec::new(),
        stays: Vec::new(),
        trials: Vec::new(),
        failures: Vec::new(),
    };
    let mut run = Run { experiment, stage, begun, report, roll: Roll::default(), lives: 0, progress, keep };
    run.report.ended_by = run.repeat()?;
    run.report.seconds = begun.elapsed().as_secs_f64();
    Ok(run.report)
}

// === impl Run ===

impl Run<'_> {
    fn repeat(&mut self) -> anyhow::Result<EndedBy> {
        let spec = &self.experiment.spec;
        let end = self.begun + Duration::from_secs(spec.budget_seconds.into());
        let levels = spec.sweep.levels();
        if levels.is_empty() {
            return self.repetitions(None, end);
        }
        let mut before = None;
        let mut ends = Vec::new();
        for (number, &level) in levels.iter().enumerate() {
            if let Err(error) = self.crowd(before, level) {
                let block = self.report.blocks.len().saturating_sub(1);
                self.failed(block, &level.to_string(), Deed::Level, &error);
                return Ok(EndedBy::Failure);
            }
            let share = end.saturating_duration_since(Instant::now()) / (levels.len() - number) as u32;
            ends.push(self.repetitions(Some(level), Instant::now() + share)?);
            if ends.last() == Some(&EndedBy::Failure) {
                break;
            }
            before = Some(level);
        }
        let worst =
            [EndedBy::Failure, EndedBy::Budget, EndedBy::Repetitions].into_iter().find(|one| ends.contains(one));
        Ok(worst.unwrap_or(EndedBy::Precision))
    }

    /// Times through all contestants, until all that is known is known well enough, or the time is over.
    fn repetitions(&mut self, level: Option<Level>, end: Instant) -> anyhow::Result<EndedBy> {
        let spec = &self.experiment.spec;
        for number in 0..spec.repetitions.most {
            let begun = Instant::now();
            let order = schedule::repetition(spec.seed, number, spec.networks.len(), !spec.by_hand.is_empty());
            let (blocks, first) = (order.len(), self.report.blocks.len());
            for (done, contestant) in order.into_iter().enumerate() {
                let share = schedule::share(end.saturating_duration_since(Instant::now()), blocks - done);
                self.report.levels.extend(level);
                self.block(contestant, Instant::now() + share)?;
                self.report.seconds = self.begun.elapsed().as_secs_f64();
                (self.keep)(&self.report)?;
            }
            let took = begun.elapsed();
            let refused = |failure: &&Failure| failure.what == Deed::Swap && failure.block >= first;
            if self.report.failures.iter().filter(refused).count() == 2 * spec.networks.len() {
                return Ok(EndedBy::Failure);
            }
            if number + 1 < spec.repetitions.least {
                continue;
            }
            let known = level.map_or(Cow::Borrowed(&self.report), |level| Cow::Owned(self.report.at(level)));
            if Analysis::of(&known).is_precise(&spec.workloads, spec.precision) {
                return Ok(EndedBy::Precision);
            }
            if number + 1 < spec.repetitions.most && Instant::now() + took + RESERVE > end {
                return Ok(EndedBy::Budget);
            }
        }
        Ok(EndedBy::Repetitions)
    }

    /// More of something than before, or none of it any more and some of something else.
    fn crowd(&mut self, before: Option<Level>, level: Level) -> anyhow::Result<()> {
        self.say(&format!("making it {level}"));
        let same = before.filter(|before| before.of == level.of);
        if let Some(other) = before.filter(|before| before.of != level.of) {
            self.stage.crowd(other.of, other.number, 0)?;
        }
        self.stage.crowd(level.of, same.map_or(0, |before| before.number), level.number)?;
        // Nodes learn of things in their order: who has served a pod that came later has what came before.
        let news = self.stage.listen(self.lives)?;
        let trial = self.stage.trial(&news, self.lives);
        self.lives += 1;
        trial.with_context(|| format!("life of a pod beside {level}"))?;
        self.stage.rest(news)
    }

    /// One contestant, once. After `until` no further round begins.
    fn block(&mut self, contestant: Contestant, until: Instant) -> anyhow::Result<()> {
        let spec = &self.experiment.spec;
        let block = self.report.blocks.len();
        let (name, paths) = match contestant {
            Contestant::ByHand => (BY_HAND.to_owned(), spec.by_hand.len()),
            Contestant::Network(index) => (spec.networks[index].name.clone(), spec.paths.len()),
        };
        self.say(&format!("block {}: {name}", block + 1));
        self.report.blocks.push(name.clone());
        if let Contestant::Network(index) = contestant {
            match self.enforce(index, block, &name) {
                Ok(()) => self.stay(block, &name),
                Err(error) => {
                    self.failed(block, &name, Deed::Swap, &error);
                    return Ok(());
                }
            }
        }
        let mut longest = Duration::ZERO;
        // One failure is enough to spoil a figure, and waiting for the next one takes long.
        let mut given_up: BTreeSet<(usize, usize)> = BTreeSet::new();
        for round in 0..spec.rounds {
            let begun = Instant::now();
            if round > 0 && begun + longest > until {
                break;
            }
            self.say(&format!("block {}: {name}, round {} of {}", block + 1, round + 1, spec.rounds));
            self.roll = Roll::call(&[self.stage.cluster.supervisor, std::process::id()]);
            for (number, order) in schedule::round(spec.seed, block, round, spec.workloads.len(), paths) {
                let workload = &spec.workloads[number];
                self.sample(block, round, workload, BASELINE, Along::Wires(Wiring::Veth));
                for path in order {
                    let along = match contestant {
                        Contestant::ByHand => Along::Wires(spec.by_hand[path]),
                        Contestant::Network(_) => Along::Route(spec.paths[path]),
                    };
                    if along.carries(workload.kind)
                        && !given_up.contains(&(number, path))
                        && !self.sample(block, round, workload, &name, along)
                    {
                        given_up.insert((number, path));
                    }
                }
                self.sample(block, round, workload, BASELINE, Along::Wires(Wiring::Veth));
            }
            longest = longest.max(begun.elapsed());
        }
        if matches!(contestant, Contestant::Network(_)) {
            self.leave(block, &name);
        }
        Ok(())
    }

    /// Puts a network in force.
    fn enforce(&mut self, index: usize, block: usize, name: &str) -> anyhow::Result<()> {
        match self.stage.swap(self.experiment, index, block)? {
            Some(swapped) => self.report.swaps.push(swapped),
            // It was in force; whether it is again after a swap that failed is another question.
            None if !self.report.failures.is_empty() => self.stage.cluster.ready()?,
            None => {}
        }
        self.note_plugin(name)
    }

    /// Notes what did not work.
    fn failed(&mut self, block: usize, network: &str, what: Deed, error: &anyhow::Error) {
        self.report.failures.push(Failure { block, network: network.to_owned(), what, why: format!("{error:#}") });
    }

    /// Takes one sample, and says whether anything came of it.
    fn sample(&mut self, block: usize, round: u16, workload: &Workload, network: &str, along: Along) -> bool {
        let at = self.begun.elapsed().as_secs_f64();
        // All samples of a round have the same requests at the same moments.
        let seed = Random::new(self.experiment.spec.seed ^ ((block as u64) << 32) ^ u64::from(round)).bits();
        let measured = self.measure(workload.kind, &workload.load(), along, seed);
        let (measured, charges) = measured.unwrap_or_else(|error| (Measured::none(&error), Charges::new()));
        let is_lossy = workload.kind.is_udp() && measured.is_taken();
        let came = is_lossy || measured.errors == 0 || measured.operations + measured.bytes > 0;
        let (network, path, workload) = (network.to_owned(), along.name().to_owned(), workload.name.clone());
        self.report.samples.push(Sample { block, round, at, network, path, workload, measured, charges });
        came
    }

    fn measure(&mut self, kind: LoadKind, load: &Load, along: Along, seed: u64) -> anyhow::Result<(Measured, Charges)> {
        let spec = &self.experiment.spec;
        let (agent, target, host) = match along {
            Along::Wires(wiring) => {
                let (agent, target) = self.stage.wiring(wiring, kind);
                (agent, target, None)
            }
            Along::Route(route) => {
                let (agent, target) = self.stage.route(route, kind);
                (agent, target, (route == Route::Ingress).then(|| HOST.to_owned()))
            }
        };
        let order = Order::Load {
            load: load.clone(),
            target,
            host,
            warmup_milliseconds: spec.warmup_milliseconds,
            sample_milliseconds: spec.sample_milliseconds,
            seed,
        };
        agent.measure_with(&order, &self.roll)
    }

    fn note_plugin(&mut self, name: &str) -> anyhow::Result<()> {
        if self.report.plugins.iter().any(|plugin| plugin.network == name) {
            return Ok(());
        }
        let network = self.stage.cluster.yard.json(&["get", "networks", "default"])?;
        let active: BTreeMap<String, serde_json::Value> =
            serde_json::from_value(network["status"]["active"].clone()).context("no network is active")?;
        let text = |field: &str| active.get(field).and_then(|value| value.as_str()).unwrap_or_default().to_owned();
        let (plugin, version, sha256) = (text("plugin"), text("version"), text("sha256"));
        self.report.plugins.push(Plugin { network: name.to_owned(), plugin, version, sha256 });
        Ok(())
    }

    fn say(&self, text: &str) {
        let budget = f64::from(self.experiment.spec.budget_seconds);
        self.progress.say(text, Some((self.begun.elapsed().as_secs_f64() / budget).min(1.0)));
    }
}

/// Along what a sample goes.
#[derive(Clone, Copy)]
enum Along {
    Wires(Wiring),
    Route(Route),
}

// === impl Along ===

impl Along {
    fn name(self) -> &'static str {
        match self {
            Self::Wires(wiring) => wiring.name(),
            Self::Route(route) => route.name(),
        }
    }

    fn carries(self, kind: LoadKind) -> bool {
        match self {
            Self::Wires(_) => true,
            Self::Route(route) => route.carries(kind),
        }
    }
}
