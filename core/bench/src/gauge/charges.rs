//! Processor time of the parts of a cluster, as the scheduler charges it to their processes, in nanoseconds: `/proc/PID/stat` rounds
//! to hundredths of a second, and samples are not much longer. What interrupts a process is charged to it unless the kernel was
//! built to account for interrupts apart; what no process is charged for is the difference to the whole machine's time.

use std::collections::BTreeMap;

use nix::time::{ClockId, clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::memory::children;

/// A part of a cluster, or of an experiment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// Where load comes from.
    Generator,
    /// What answers it.
    Servers,
    /// The ingress controller.
    Ingress,
    /// The upstream device and its load balancer.
    Router,
    /// The agents of all nodes.
    NodeAgents,
    /// API server, scheduler, controllers.
    ControlPlane,
    /// The supervisor, idle pods, whoever conducts the experiment.
    Others,
}

/// Seconds by part.
pub type Charges = BTreeMap<Part, f64>;

/// The processes of an experiment, each with its part.
#[derive(Debug, Default)]
pub(crate) struct Roll(Vec<(Part, ClockId)>);

/// What each process had been charged at one moment.
pub(crate) struct Reading(Vec<Option<f64>>);

// === impl Part ===

impl Part {
    /// All, in the order in which they are shown.
    pub const ALL: [Self; 7] = [
        Self::Generator,
        Self::Servers,
        Self::Ingress,
        Self::Router,
        Self::NodeAgents,
        Self::ControlPlane,
        Self::Others,
    ];

    /// As people read it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Generator => "generator",
            Self::Servers => "servers",
            Self::Ingress => "ingress",
            Self::Router => "router",
            Self::NodeAgents => "node agents",
            Self::ControlPlane => "control plane",
            Self::Others => "others",
        }
    }

    /// Of a process with this command line, whose parent has a part already.
    fn of(command: &str, parent: Self) -> Self {
        let words: Vec<&str> = command.split('\0').collect();
        let program = words.first().map_or("", |path| path.rsplit('/').next().unwrap_or(path));
        match (program, words.get(1).copied().unwrap_or_default(), words.get(2).copied().unwrap_or_default()) {
            ("yard", "generate", "server") => Self::Servers,
            ("yard", "generate", _) => Self::Generator,
            ("yard", "node", _) => Self::NodeAgents,
            ("yard", "router", _) => Self::Router,
            ("yard", "control-plane", _) => Self::ControlPlane,
            ("yard-ingress", ..) => Self::Ingress,
            ("yard" | "yard-pause" | "yard-echo", ..) => Self::Others,
            // A plugin in a process of its own is a part of its agent.
            _ => parent,
        }
    }
}

// === impl Roll ===

impl Roll {
    /// Whoever lives now: some processes and all their descendants.
    pub(crate) fn call(roots: &[u32]) -> Self {
        let mut roll = Self::default();
        let mut waiting: Vec<(u32, Part)> = roots.iter().map(|&root| (root, Part::Others)).collect();
        while let Some((pid, parent)) = waiting.pop() {
            let command = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let part = Part::of(&command, parent);
            roll.0.extend(clock_getcpuclockid(Pid::from_raw(pid as i32)).ok().map(|clock| (part, clock)));
            waiting.extend(children(pid).into_iter().map(|child| (child, part)));
        }
        roll
    }

    /// What each has been charged until now. Who has ended says nothing.
    pub(crate) fn read(&self) -> Reading {
        let seconds = |clock| clock_gettime(clock).ok().map(|time| std::time::Duration::from(time).as_secs_f64());
        Reading(self.0.iter().map(|&(_, clock)| seconds(clock)).collect())
    }

    /// What was charged between two readings.
    pub(crate) fn between(&self, before: &Reading, after: &Reading) -> Charges {
        let mut charges = Charges::new();
        for ((part, _), seconds) in self.0.iter().zip(before.0.iter().zip(&after.0)) {
            let (Some(before), Some(after)) = seconds else { continue };
            *charges.entry(*part).or_default() += (after - before).max(0.0);
        }
        charges
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_are_known_by_what_they_were_started_as() {
        let part = |command: &str| Part::of(&command.replace(' ', "\0"), Part::NodeAgents);
        assert_eq!(part("/opt/yard generate server"), Part::Servers);
        assert_eq!(part("yard generate wires veth"), Part::Generator);
        assert_eq!(part("yard node --config n.yaml"), Part::NodeAgents);
        assert_eq!(part("/opt/yard-ingress"), Part::Ingress);
        assert_eq!(part("/opt/yard-pause sandbox"), Part::Others);
        assert_eq!(part("python3 plugin.py"), Part::NodeAgents, "it is its parent's");
        assert_eq!(part(""), Part::NodeAgents);
    }

    #[test]
    fn time_that_is_spent_is_charged() {
        let roll = Roll::call(&[std::process::id()]);
        let before = roll.read();
        let begun = std::time::Instant::now();
        while begun.elapsed() < std::time::Duration::from_millis(20) {
            std::hint::spin_loop();
        }
        let charged: f64 = roll.between(&before, &roll.read()).values().sum();
        assert!(charged > 0.000_1, "{charged}");
    }
}
