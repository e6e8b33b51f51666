//! `yard bench`.

mod files;
mod generate;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use indicatif::{ProgressBar, ProgressStyle};
use switchyard_bench::{Analysis, EndedBy, Experiment, Gate, Report, Setting};
use switchyard_plugin::Hosting;
use switchyard_plugin_host::Registry;
use tokio::signal::unix::{SignalKind, signal};

use crate::output;
use crate::process::plugins;
use files::Files;
pub(crate) use generate::{Args as GenerateArgs, run as generate};

/// Measure what networks cost, against each other and against wires made by hand.
///
/// Boots a cluster of its own, swaps networks under it, and stops it again; running clusters are left alone. Without a file it
/// compares the networks that are installed, in less than a minute. Leave the machine alone meanwhile.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(subcommand)]
    verb: Option<Verb>,
    /// An Experiment, or the report.json of one that is to be made again. Default: the quick one, kubenet and overlay and, if it is
    /// installed, nsx.
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Folder for report.json and report.html, written after each block; reports that are there are replaced.
    #[arg(long, value_name = "FOLDER", default_value = "yard-bench")]
    out: PathBuf,
    /// Instead of the experiment's own: everything that is left to chance follows from it.
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,
    /// Instead of the experiment's own: seconds that may be spent.
    #[arg(long, value_name = "SECONDS")]
    budget: Option<u32>,
    /// End with code 4 if this holds, or cannot be told: 'overlay.rr.p99 > 1.3x' (NETWORK.WORKLOAD.METRIC, .PATH if one is meant;
    /// a ratio to the baseline, or without x a value), 'overlay.attach.p50 > 2x' (NETWORK.STEP.METRIC; a ratio to the first network,
    /// or milliseconds), 'overlay.swap.gap > 50'. May be given several times.
    #[arg(long, value_name = "CONDITION")]
    fail_if: Vec<Gate>,
    /// Print the experiment with all its defaults, and do nothing.
    #[arg(long)]
    print: bool,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Say what changed between two reports.
    Compare(CompareArgs),
    /// Make the table and the page of a report again.
    Show(ShowArgs),
}

#[derive(Debug, clap::Args)]
struct CompareArgs {
    /// The report.json of before.
    before: PathBuf,
    /// The report.json of after.
    after: PathBuf,
}

#[derive(Debug, clap::Args)]
struct ShowArgs {
    /// A report.json; report.html is written beside it.
    report: PathBuf,
}

/// A condition of --fail-if holds.
pub(crate) const GATE: u8 = 4;
/// Networks of the quick experiment, as far as they are installed.
const NETWORKS: [&str; 3] = ["kubenet", "overlay", "nsx"];
/// Exit code of who was interrupted, as shells have it.
const INTERRUPTED: i32 = 130;

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    match &args.verb {
        Some(Verb::Compare(args)) => {
            let (before, after) = (Report::read(&args.before)?, Report::read(&args.after)?);
            output::print(&switchyard_bench::compare(&before, &after))?;
            return Ok(ExitCode::from(crate::OK));
        }
        Some(Verb::Show(args)) => {
            let report = Report::read(&args.report)?;
            let analysis = Analysis::of(&report);
            files::write(&args.report.with_extension("html"), &switchyard_bench::page(&report, &analysis))?;
            output::print(&switchyard_bench::table(&report, &analysis))?;
            return Ok(ExitCode::from(crate::OK));
        }
        None => {}
    }
    let experiment = experiment(args)?;
    for gate in &args.fail_if {
        gate.fits(&experiment).context("--fail-if")?;
    }
    if args.print {
        output::print(&serde_yaml_ng::to_string(&experiment)?)?;
        return Ok(ExitCode::from(crate::OK));
    }
    let files = Arc::new(Files::new(&args.out)?);
    let report = make(&experiment, &files)?;
    let analysis = Analysis::of(&report);
    files.put(&report)?;
    let printed = output::print(&switchyard_bench::table(&report, &analysis));
    eprintln!("\n{files}");
    if report.ended_by == EndedBy::Failure {
        let why = report.failures.last().map_or_else(String::new, |failure| format!(": {failure}"));
        bail!("the experiment could not go on{why}");
    }
    let failed: Vec<String> = args.fail_if.iter().filter_map(|gate| gate.holds(&report, &analysis)).collect();
    for reason in &failed {
        eprintln!("yard: --fail-if {reason}");
    }
    match failed.is_empty() {
        true => printed.map(|()| ExitCode::from(crate::OK)),
        false => Ok(ExitCode::from(GATE)),
    }
}

fn experiment(args: &Args) -> anyhow::Result<Experiment> {
    let registry = Registry::new(plugins::search_path());
    let mut experiment = match &args.file {
        Some(file) => Experiment::read(file)?,
        None => {
            let found: Vec<&str> = NETWORKS.into_iter().filter(|name| registry.find(name).is_ok()).collect();
            if found.is_empty() {
                bail!("no network plugin is installed; see: yard plugin list");
            }
            Experiment::quick(&found)
        }
    };
    experiment.spec.seed = args.seed.unwrap_or(experiment.spec.seed);
    if let Some(budget) = args.budget {
        experiment.spec.budget_seconds = budget;
        experiment.check("--budget")?;
    }
    // A plugin's file is named from where the command stands, and opened elsewhere.
    let networks = experiment.spec.networks.iter_mut().enumerate();
    for (at, network) in networks.filter(|(_, network)| network.plugin.contains('/')) {
        let path = std::fs::canonicalize(&network.plugin)
            .with_context(|| format!("spec.networks[{at}].plugin: {}", network.plugin))?;
        network.plugin = path.display().to_string();
    }
    if !args.print {
        started_once(&experiment, &registry)?;
    }
    Ok(experiment)
}

/// Starts each plugin with its options and lets it go again: the last one would be asked for after minutes. In a process of its own, as
/// nobody knows yet what it does.
fn started_once(experiment: &Experiment, registry: &Registry) -> anyhow::Result<()> {
    for (at, network) in experiment.spec.networks.iter().enumerate() {
        let started = registry.open(&network.plugin, &network.options, Hosting::Process);
        started.with_context(|| format!("spec.networks[{at}], {}", network.name))?;
    }
    Ok(())
}

/// Makes the experiment in a home of its own, which goes afterwards, also if somebody interrupts. What there is of the report is
/// written after each block.
fn make(experiment: &Experiment, files: &Arc<Files>) -> anyhow::Result<Report> {
    let home = tempfile::Builder::new().prefix("yard-bench-").tempdir().context("make a folder for the cluster")?;
    let yard = std::env::current_exe().context("this program")?;
    clean_up_when_interrupted(&yard, home.path(), files)?;
    let setting = Setting { yard: &yard, home: home.path(), version: env!("CARGO_PKG_VERSION") };
    let bar = Bar::new(experiment.spec.budget_seconds);
    switchyard_bench::run(experiment, &setting, &bar, &|report| files.put(report))
}

fn clean_up_when_interrupted(yard: &Path, home: &Path, files: &Arc<Files>) -> anyhow::Result<()> {
    let (yard, home, files) = (yard.to_owned(), home.to_owned(), files.clone());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let listening = {
        let _inside = runtime.enter();
        [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()].map(signal)
    };
    std::thread::spawn(move || {
        let [Ok(mut interrupt), Ok(mut terminate), Ok(mut hangup)] = listening else { return };
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hangup.recv() => {}
            }
        });
        // Before anything is taken away: a block that fails because of that is none.
        let written = files.close();
        let _ = std::process::Command::new(yard)
            .args(["down", "--grace", "0"])
            .env("SWITCHYARD_HOME", &home)
            .env_remove("SWITCHYARD_CLUSTER")
            .stderr(std::process::Stdio::null())
            .status();
        let _ = std::fs::remove_dir_all(&home);
        match written {
            true => eprintln!("yard: interrupted; what was measured until then:\n{files}"),
            false => eprintln!("yard: interrupted before the first block was measured"),
        }
        std::process::exit(INTERRUPTED);
    });
    Ok(())
}

/// What a person sees meanwhile: what is done, and how much time is left; on something else than a terminal a line a block.
struct Bar {
    begun: Instant,
    budget: Duration,
    bar: Option<ProgressBar>,
    last: std::cell::RefCell<String>,
}

// === impl Bar ===

impl Bar {
    fn new(budget_seconds: u32) -> Self {
        use std::io::IsTerminal as _;
        let budget = Duration::from_secs(budget_seconds.into());
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{spinner} {bar:24} {msg}").expect("a constant template");
            let bar = ProgressBar::new(1000).with_style(style.progress_chars("━╸─"));
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        Self { begun: Instant::now(), budget, bar, last: Default::default() }
    }
}

impl switchyard_bench::Progress for Bar {
    fn say(&self, text: &str, spent: Option<f64>) {
        let elapsed = self.begun.elapsed();
        let left = match self.budget.checked_sub(elapsed) {
            Some(left) => format!("at most {} s more", left.as_secs()),
            // What has to be made at least is made whatever it takes.
            None => format!("{} s over the budget", (elapsed - self.budget).as_secs()),
        };
        match &self.bar {
            Some(bar) => {
                bar.set_position((spent.unwrap_or(0.0) * 1000.0) as u64);
                bar.set_message(format!("{text}, {left}"));
            }
            None => {
                let line = text.split(", round").next().unwrap_or(text);
                if *self.last.borrow() != line {
                    eprintln!("{:>6.1} s  {line}, {left}", elapsed.as_secs_f64());
                    self.last.replace(line.to_owned());
                }
            }
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
