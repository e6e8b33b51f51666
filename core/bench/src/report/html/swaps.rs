//! A swap as a flow saw it: one datagram a millisecond between pods of two nodes, its answer, and the phases meanwhile.

use super::palette::{Palette, swatch};
use super::plot::{Anchor, Drawing, LABEL, Scale, WIDTH, escaped, range};
use crate::report::Report;
use crate::report::text::{number, plain};
use crate::stage::Swapped;

const LEFT: f64 = 48.0;
const TOP: f64 = 20.0;
const BOTTOM: f64 = 190.0;
/// Columns into which answers are gathered.
const COLUMNS: usize = 280;
/// A phase narrower than this has no room for its name.
const ROOM: f64 = 34.0;

/// A card for each network that was swapped to: the swap with the longest silence.
pub(super) fn cards(report: &Report, palette: &Palette) -> String {
    let worst = |name: &str| {
        let swaps = report.swaps.iter().filter(|swap| swap.to == name);
        swaps.max_by(|a, b| a.flow.longest_gap.total_cmp(&b.flow.longest_gap))
    };
    report.contestants().into_iter().filter_map(worst).map(|swap| card(report, swap, palette)).collect()
}

fn card(report: &Report, swap: &Swapped, palette: &Palette) -> String {
    let count = report.swaps.iter().filter(|other| other.to == swap.to).count();
    let lost = swap.flow.lost();
    let title = escaped(&format!("{} to {}", swap.from, swap.to));
    let which = if count > 1 { format!("The one of {count} swaps with the longest silence. ") } else { String::new() };
    let legend: String = [(&swap.from, "asked before"), (&swap.to, "asked after")]
        .map(|(name, when)| swatch(&format!("{when} the switch: {name}"), &palette.of(name)))
        .concat();
    let phases: Vec<String> = swap
        .phases
        .iter()
        .map(|(name, took)| format!("{} {} ms", escaped(&name.to_lowercase()), number(*took)))
        .collect();
    let phases = phases.join(" · ");
    format!(
        "<figure><h3>{title}</h3>{}<ul class=legend>{legend}{}</ul><p class=said>{phases}</p><figcaption>{which}Each stroke is how long the answers took that were asked for \
         in that moment, one a millisecond; shaded and plain stretches are phases of the swap, which took {} ms. The longest time without an answer was {} ms, and \
         {lost} of {} datagrams were not answered; the sender itself was held up for {} ms at most.</figcaption></figure>",
        drawing(&title, swap, palette),
        swatch("longest silence", "var(--bad)"),
        number(swap.milliseconds),
        number(swap.flow.longest_gap),
        swap.flow.sent,
        number(swap.flow.longest_stall)
    )
}

fn drawing(title: &str, swap: &Swapped, palette: &Palette) -> String {
    let mut drawing = Drawing::new(BOTTOM + 30.0, &format!("{title}: answers during the swap"));
    let asked = swap.asked_after as f64 / 1e3;
    let end = swap.flow.trips.last().map_or(1.0, |trip| f64::from(trip.0) / 1e3);
    let x = Scale::linear((-asked, end - asked), (LEFT, WIDTH - 6.0));
    phases(&mut drawing, &x, swap);
    let (low, high) = range(swap.flow.trips.iter().map(|trip| f64::from(trip.1.max(1))), 100.0);
    let y = Scale::logarithmic((low / 1.2, high * 1.2), (BOTTOM, TOP));
    drawing.rows(&y, LEFT, WIDTH - 6.0, |tick| match tick {
        tick if tick >= 1000.0 => format!("{} ms", plain(tick / 1e3)),
        tick => format!("{} µs", plain(tick)),
    });
    for tick in x.ticks(LABEL) {
        drawing.text((x.at(tick), BOTTOM + 13.0), Anchor::Middle, "soft num", &plain(tick));
    }
    drawing.text((WIDTH - 6.0, BOTTOM + 26.0), Anchor::End, "soft", "ms after the swap was asked for");
    let from = palette.of(&swap.from);
    let to = palette.of(&swap.to);
    // The control plane orders the first switch when these are over.
    let switched: f64 = swap.phases.iter().take_while(|(name, _)| name != "Switching").map(|(_, took)| took).sum();
    for (left, low, high) in gathered(swap, asked) {
        let colour = if left < switched { &from } else { &to };
        // Long enough to be seen, also where there was one answer.
        let (bottom, top) = (y.at(low) + 0.7, y.at(high) - 0.7);
        drawing.stroke((x.at(left), bottom), (x.at(left), top), 1.2, &format!("stroke:{colour}"));
    }
    if let Some((from, to)) = silence(swap, asked) {
        drawing.bar((x.at(from), BOTTOM - 3.0), (x.at(to).max(x.at(from) + 1.0), BOTTOM), "fill:var(--bad)");
    }
    drawing.finish()
}

fn phases(drawing: &mut Drawing, x: &Scale, swap: &Swapped) {
    let mut at = 0.0;
    for (number, (name, took)) in swap.phases.iter().enumerate() {
        let (from, to) = (x.at(at), x.at(at + took));
        if number % 2 == 0 {
            drawing.band((from, TOP), (to, BOTTOM), "band");
        }
        if to - from > ROOM {
            drawing.text((f64::midpoint(from, to), TOP - 6.0), Anchor::Middle, "soft", &name.to_lowercase());
        }
        at += took;
    }
}

/// From when until when no answer came, the longest time of all.
fn silence(swap: &Swapped, asked: f64) -> Option<(f64, f64)> {
    let mut came: Vec<f64> = swap.flow.trips.iter().map(|trip| f64::from(trip.0) + f64::from(trip.1)).collect();
    came.sort_by(f64::total_cmp);
    let longest = came.windows(2).max_by(|a, b| (a[1] - a[0]).total_cmp(&(b[1] - b[0])))?;
    Some((longest[0] / 1e3 - asked, longest[1] / 1e3 - asked))
}

/// Moment, shortest and longest trip of each column that has any.
fn gathered(swap: &Swapped, asked: f64) -> Vec<(f64, f64, f64)> {
    let end = swap.flow.trips.last().map_or(1.0, |trip| f64::from(trip.0) + 1.0);
    let mut columns: Vec<Option<(f64, f64)>> = vec![None; COLUMNS];
    for &(left, took) in &swap.flow.trips {
        let column = ((f64::from(left) / end * COLUMNS as f64) as usize).min(COLUMNS - 1);
        let took = f64::from(took.max(1));
        let range = columns[column].get_or_insert((took, took));
        *range = (range.0.min(took), range.1.max(took));
    }
    let moment = |column: usize| (column as f64 + 0.5) / COLUMNS as f64 * end / 1e3 - asked;
    columns
        .into_iter()
        .enumerate()
        .filter_map(|(column, range)| range.map(|(low, high)| (moment(column), low, high)))
        .collect()
}
