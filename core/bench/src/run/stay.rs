//! What it costs to have a network, apart from its speed.

use std::time::{Duration, Instant};

use anyhow::Context as _;

use super::Run;
use crate::gauge::{Cpu, Device, Reading, Roll, family_pss_bytes};
use crate::load::{Load, Order};
use crate::report::{Deed, Stay, Trial, Wire};

/// How long the cluster is left alone, to see what it costs to be there.
const REST: Duration = Duration::from_millis(300);
/// What is sent to see how large packets become.
const WIRE_PAYLOAD: u32 = 1000;
const WIRE_RATE: f64 = 20_000.0;
const WIRE_MILLISECONDS: u32 = 25;
/// How often: others' packets only ever add bytes, so the smallest of some figures has the fewest of theirs.
const WIRE_TURNS: usize = 3;
/// Bits of such a packet with all that may stand before it, and a card that is limited is to be half idle.
const WIRE_BITS: f64 = 1200.0 * 8.0 * 2.0;
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
    /// Looks at the network that is in force in a block. What cannot be looked at is noted, and the rest stands.
    pub(super) fn stay(&mut self, block: usize, name: &str) {
        let mut stay = Stay { block, network: name.to_owned(), ..Stay::default() };
        if let Err(error) = self.rest(&mut stay) {
            self.failed(block, name, Deed::Rest, &error);
        }
        match self.wires() {
            Ok(wire) => stay.wire = wire,
            Err(error) => self.failed(block, name, Deed::Wire, &error),
        }
        self.report.stays.push(stay);
        if let Err(error) = self.trials(block, name) {
            self.failed(block, name, Deed::Life, &error);
        }
    }

    /// Notes what there is at the end of a block, when pods of its own have come and gone: what a network makes for the first pod of a
    /// kind and keeps is there each time. A life that was cut short may leave what is no network's fault.
    pub(super) fn leave(&mut self, block: usize, name: &str) {
        if self.report.failures.iter().any(|failure| failure.block == block && failure.what == Deed::Life) {
            return;
        }
        match self.stage.state() {
            Ok(state) => {
                let stays = self.report.stays.iter_mut().filter(|stay| stay.block == block);
                stays.for_each(|stay| stay.left.clone_from(&state));
            }
            Err(error) => self.failed(block, name, Deed::State, &error),
        }
    }

    fn rest(&mut self, stay: &mut Stay) -> anyhow::Result<()> {
        let supervisor = self.stage.cluster.supervisor;
        // The scheduler's nanoseconds: a cluster at rest uses less than what /proc/PID/stat rounds to.
        let roll = Roll::call(&[supervisor]);
        let before = Look::take(&roll)?;
        std::thread::sleep(REST);
        let after = Look::take(&roll)?;
        stay.rest_seconds = (after.at - before.at).as_secs_f64();
        stay.rest_cluster = roll.between(&before.cluster, &after.cluster).values().sum();
        stay.rest_cpu = after.machine.since(&before.machine);
        stay.memory_bytes = family_pss_bytes(supervisor);
        stay.pod_mtu = self.stage.pod_mtu()?;
        Ok(())
    }

    /// The turn in which others sent least.
    fn wires(&mut self) -> anyhow::Result<Wire> {
        let turns = (0..WIRE_TURNS).map(|_| self.wire()).collect::<anyhow::Result<Vec<_>>>()?;
        let least = turns.into_iter().min_by(|a, b| a.overhead().total_cmp(&b.overhead()));
        least.context("no turn was taken")
    }

    /// Datagrams of a known size to the other node, as the card of the client's node counts them.
    fn wire(&mut self) -> anyhow::Result<Wire> {
        let limit = self.experiment.spec.impairments.rate_megabits;
        let rate = limit.map_or(WIRE_RATE, |megabits| (f64::from(megabits) * 1e6 / WIRE_BITS).min(WIRE_RATE));
        let before = self.stage.devices()?;
        let (agent, target) = self.stage.followed();
        let sent = agent.measure(&Order::Load {
            load: Load::Udp { rate: Some(rate), bytes: WIRE_PAYLOAD },
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
        let lived: anyhow::Result<()> = (0..trials).try_for_each(|number| {
            self.say(&format!("block {}: {name}, life {} of {trials} of a pod", block + 1, number + 1));
            let trial = self.stage.trial(&news, self.lives);
            self.lives += 1;
            self.report.trials.push(Trial { block, network: name.to_owned(), ..trial? });
            Ok(())
        });
        lived.and(self.stage.rest(news))
    }
}

// === impl Look ===

impl Look {
    fn take(roll: &Roll) -> anyhow::Result<Self> {
        Ok(Self { at: Instant::now(), machine: Cpu::read()?, cluster: roll.read() })
    }
}
