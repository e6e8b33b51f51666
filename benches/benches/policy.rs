//! What a packet costs as rules become many: between two namespaces under the tables that the policy layer writes, with 10 to 10,000
//! rules, all in turns, against 10 rules. With `--test` once.

use std::time::Duration;

use switchyard_benches::policed::{Policed, SIZES};
use switchyard_benches::{Record, Series, in_namespaces, lasting, turns};

const ROUNDS: usize = 40;
const LASTING: Duration = Duration::from_millis(100);
/// First packets a sample.
const PACKETS: u32 = 1_000;

/// A way of measuring a node.
type Measure = fn(&mut Policed) -> anyhow::Result<f64>;

fn main() -> anyhow::Result<()> {
    if !in_namespaces()? {
        return Ok(());
    }
    let mut record = Record::new(
        "policy",
        "Packets from pod to pod of one node, as the receiver has more rules: half of them for pods, half for blocks, each for a \
         port of its own.",
    );
    // Two with the fewest: what equal nodes differ by.
    let mut worlds: Vec<_> = SIZES[..1].iter().chain(&SIZES).map(|&rules| Policed::new(rules)).collect();
    let measures: [(&str, &str, Measure, &str); 3] = [
        ("first packet of a connection", "ns", |world| Ok(world.first_packets(PACKETS)), "at most 1.05x"),
        ("round trip", "µs", |world| world.round_trips(lasting(LASTING)), "at most 1.05x"),
        ("throughput", "Gbit/s", |world| world.gigabits(lasting(LASTING)), "at least 0.95x"),
    ];
    for (what, unit, measure, aim) in measures {
        let name = |index: usize, world: &Policed| {
            format!("{what}, {} rules{}", world.rules, if index == 1 { ", another node" } else { "" })
        };
        let names = worlds.iter().enumerate().map(|(index, world)| name(index, world));
        let mut series: Vec<_> = names.map(|name| Series::new(&name, unit)).collect();
        let count = worlds.len();
        for round in 0..=turns(ROUNDS) {
            for turn in 0..count {
                let index = (turn + round) % count;
                let value = measure(&mut worlds[index])?;
                // The first round warms up.
                if round > 0 {
                    series[index].values.push(value);
                }
            }
        }
        for subject in &series[1..] {
            record.compare(&subject.name, subject, &series[0], aim);
        }
    }
    record.save_unless_testing()
}
