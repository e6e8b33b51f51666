//! What it costs to have a network, apart from its speed.

use std::time::{Duration, Instant};

use anyhow::Context as _;

use super::Run;
use crate::gauge::{Cpu, Device, Reading, Roll, family_pss_bytes};
use crate::load::{Load, Order};
use crate::report::{Stay, Trial, Wire};

/// How long the cluster is left alone, to see what it costs to be there.
const REST: Duration = Duration::from_millis(300);
/// What is sent to see how large packets become.
const WIRE: Load = Load::Udp { rate: Some(20_000.0), bytes: WIRE_PAYLOAD };
const WIRE_PAYLOAD: u32 = 1000;
const WIRE_MILLISECONDS: u32 = 25;
/// The uplink of a node.
const CARD: &str = "eth0";

/// A look at the processors.
struct Look {
    at: Instant,
    machine: Cpu,
    cluster: Reading,
}

// === impl Run ===

impl Run<'_> {
    /// Looks at the network that is in force in a block.
    pub(super) fn stay(&mut self, block: usize, name: &str) -> anyhow::Result<Stay> {
        let supervisor = self.stage.cluster.supervisor;
        // The scheduler's nanoseconds: a cluster at rest uses less than what /proc/PID/stat rounds to.
        let roll = Roll::call(&[supervisor]);
        let before = Look::take(&roll)?;
        std::thread::sleep(REST);
        let after = Look::take(&roll)?;
        let wire = self.wire()?;
        self.trials(block, name)?;
        // Networks make devices for the first pod of a kind, so what is left is looked at when there has been one each time.
        let devices = self.stage.devices()?;
        let mut devices: Vec<String> = devices.into_iter().map(|device| device.name).collect();
        devices.sort();
        Ok(Stay {
            block,
            network: name.to_owned(),
            devices,
            pod_mtu: self.stage.pod_mtu()?,
            wire,
            memory_bytes: family_pss_bytes(supervisor),
            rest_seconds: (after.at - before.at).as_secs_f64(),
            rest_cluster: roll.between(&before.cluster, &after.cluster).values().sum(),
            rest_cpu: after.machine.since(&before.machine),
        })
    }

    /// Datagrams of a known size to the other node, as the card of the client's node counts them.
    fn wire(&mut self) -> anyhow::Result<Wire> {
        let before = self.stage.devices()?;
        let (agent, target) = self.stage.followed();
        let sent = agent.measure(&Order::Load {
            load: WIRE,
            target,
            host: None,
            warmup_milliseconds: 0,
            sample_milliseconds: WIRE_MILLISECONDS,
            seed: 0,
        })?;
        let after = self.stage.devices()?;
        let card = |devices: &[Device]| {
            let card = devices.iter().find(|device| device.name == CARD);
            card.map(|card| (card.sent_packets, card.sent_bytes)).context("the node has no card")
        };
        let (then, now) = (card(&before)?, card(&after)?);
        Ok(Wire {
            datagrams: sent.operations + sent.errors,
            payload: WIRE_PAYLOAD,
            packets: now.0.saturating_sub(then.0),
            bytes: now.1.saturating_sub(then.1),
        })
    }

    /// Lives of pods, one after the other.
    fn trials(&mut self, block: usize, name: &str) -> anyhow::Result<()> {
        let trials = self.experiment.spec.trials;
        if trials == 0 {
            return Ok(());
        }
        let news = self.stage.listen(self.lives)?;
        for number in 0..trials {
            self.say(&format!("block {}: {name}, life {} of {trials} of a pod", block + 1, number + 1));
            let trial = self.stage.trial(&news, self.lives);
            self.lives += 1;
            let trial = trial.with_context(|| format!("{name}, life of a pod"))?;
            self.report.trials.push(Trial { block, network: name.to_owned(), ..trial });
        }
        self.stage.rest(news)
    }
}

// === impl Look ===

impl Look {
    fn take(roll: &Roll) -> anyhow::Result<Self> {
        Ok(Self { at: Instant::now(), machine: Cpu::read()?, cluster: roll.read() })
    }
}
