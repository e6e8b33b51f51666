//! What processes hold, and what the machine is.

use std::path::Path;

use serde::{Deserialize, Serialize};

/// The machine that an experiment ran on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Machine {
    /// Kernel release.
    pub kernel: String,
    /// Model of the processor.
    pub processor: String,
    /// Processors.
    pub processors: usize,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Frequency governor of the first processor, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub governor: Option<String>,
}

// === impl Machine ===

impl Machine {
    pub(crate) fn read() -> Self {
        let text = |path: &str| std::fs::read_to_string(path).ok();
        let after = |text: Option<String>, name: &str| {
            let text = text?;
            let line = text.lines().find(|line| line.starts_with(name))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let kib =
            after(text("/proc/meminfo"), "MemTotal").and_then(|value| value.split(' ').next()?.parse::<u64>().ok());
        let governor = text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor");
        Self {
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            processor: after(text("/proc/cpuinfo"), "model name").unwrap_or_else(|| std::env::consts::ARCH.into()),
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            memory_bytes: kib.unwrap_or(0) * 1024,
            governor: governor.map(|name| name.trim().to_owned()),
        }
    }
}

/// Memory of a process and all its descendants, shared pages by the share (proc(5), smaps_rollup). Processes that may not be looked
/// at count nothing.
pub(crate) fn family_pss_bytes(root: u32) -> u64 {
    let pss = |pid: u32| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
        line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()
    };
    family(root).into_iter().filter_map(pss).sum::<u64>() * 1024
}

fn family(root: u32) -> Vec<u32> {
    let mut found = Vec::new();
    let mut waiting = vec![root];
    while let Some(pid) = waiting.pop() {
        found.push(pid);
        waiting.extend(children(pid));
    }
    found
}

/// Processes that any thread of a process has started.
pub(super) fn children(pid: u32) -> Vec<u32> {
    let tasks = std::fs::read_dir(Path::new("/proc").join(pid.to_string()).join("task"));
    let of_task = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
    let texts: Vec<String> = tasks.into_iter().flatten().flatten().map(of_task).collect();
    texts.iter().flat_map(|text| text.split_whitespace()).filter_map(|pid| pid.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_and_this_machine_are_there() {
        let own = std::process::id();
        assert!(family(own).contains(&own) && family_pss_bytes(own) > 0);
        let machine = Machine::read();
        assert!(machine.processors > 0 && machine.memory_bytes > 0 && !machine.kernel.is_empty(), "{machine:?}");
    }
}
