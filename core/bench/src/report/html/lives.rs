//! Lives of pods: how long each step took, every time.

use super::palette::Palette;
use super::plot::{Anchor, Drawing, Scale, WIDTH, escaped, range};
use crate::analysis::{Life, Step, doubts};
use crate::report::Report;
use crate::report::text::{number, plain, ratio};
use crate::verdict::Verdict;

const ROW: f64 = 34.0;
const TOP: f64 = 4.0;
const LEFT: f64 = 66.0;
const RIGHT: f64 = WIDTH - 60.0;

/// What all steps have in common.
pub(super) fn introduction(report: &Report, lives: &[Life]) -> String {
    let reference = report.experiment.spec.networks.first().map_or("", |network| network.name.as_str());
    let reasons: Vec<String> = doubts::of_lives(lives).into_iter().map(|one| one.reason).collect();
    let invalid = match reasons.is_empty() {
        true => String::new(),
        false => format!(" What is invalid is so because {}.", escaped(&reasons.join("; "))),
    };
    format!(
        "<p>A pod on another node than the client’s, from its creation to its deletion, {} each time a network was in force. A dot is \
         one time, the upright stroke the median, the line its 95 % interval. {} is the reference, as wires made by hand have no pods. \
         The API’s news, the kernel’s, and packets, one a millisecond, say when something happened; less than a millisecond counts as \
         one.{invalid}</p>",
        match report.experiment.spec.trials {
            1 => "once".to_owned(),
            trials => format!("{trials} times"),
        },
        escaped(reference)
    )
}

/// A card for each step.
pub(super) fn cards(report: &Report, lives: &[Life], palette: &Palette) -> String {
    let reference = report.experiment.spec.networks.first().map_or("", |network| network.name.as_str());
    let of_step = |step: Step| lives.iter().filter(|life| life.step == step).collect::<Vec<_>>();
    let steps = Step::ALL.into_iter().map(|step| (step, of_step(step)));
    steps.filter(|(_, lives)| !lives.is_empty()).map(|(step, lives)| card(step, &lives, reference, palette)).collect()
}

fn card(step: Step, lives: &[&Life], reference: &str, palette: &Palette) -> String {
    format!(
        "<figure><h3>{step}</h3>{}<ul class=said>{}</ul><figcaption>{}. Further left is better.</figcaption></figure>",
        drawing(step, lives, palette),
        lives.iter().filter_map(|life| said(life, reference)).collect::<String>(),
        step.sentence()
    )
}

/// How a network compares with the reference.
fn said(life: &Life, reference: &str) -> Option<String> {
    let (class, word) = match life.verdict.as_ref()? {
        Verdict::Faster => ("faster", "faster"),
        Verdict::Slower => ("slower", "slower"),
        Verdict::NoDifferenceShown => ("none", "no difference shown"),
        Verdict::Invalid(_) => ("invalid", "invalid"),
    };
    if life.ratio.is_none() && life.network == reference {
        return Some(format!("<li>{}, the reference: <b class={class}>{word}</b></li>", escaped(reference)));
    }
    let times = life.ratio.map_or_else(
        || "–".to_owned(),
        |interval| format!("{}× [{} to {}]", ratio(interval.ratio), ratio(interval.low), ratio(interval.high)),
    );
    let (network, reference) = (escaped(&life.network), escaped(reference));
    Some(format!("<li>{network}: {times} {reference}’s, <b class={class}>{word}</b></li>"))
}

fn drawing(step: Step, lives: &[&Life], palette: &Palette) -> String {
    let bottom = TOP + lives.len() as f64 * ROW;
    let mut drawing = Drawing::new(bottom + 30.0, &format!("{step}: milliseconds each time, by network"));
    let first = lives.iter().find_map(|life| life.times().find(|time| *time > 0.0)).unwrap_or(1.0);
    let (low, high) = range(lives.iter().flat_map(|life| life.times().filter(|time| *time > 0.0)), first);
    let scale = Scale::logarithmic((low / 1.3, high * 1.3), (LEFT, RIGHT));
    drawing.columns(&scale, TOP, bottom, plain);
    drawing.text((RIGHT, bottom + 26.0), Anchor::End, "soft", "ms");
    for (row, life) in lives.iter().enumerate() {
        let y = TOP + (row as f64 + 0.5) * ROW;
        let colour = palette.of(&life.network);
        drawing.text((0.0, y + 3.8), Anchor::Start, "", &life.network);
        let faint = life.verdict.as_ref().is_some_and(|verdict| !verdict.is_valid());
        let faint = if faint { ";opacity:.45" } else { "" };
        for (place, time) in life.times().enumerate() {
            // Beside each other, or equal times would hide each other.
            let aside = [0.0, -5.0, 5.0, -9.0, 9.0][place % 5];
            drawing.dot((scale.at(time), y + aside), 3.0, &format!("fill:{colour};opacity:.45"));
        }
        let Some(middle) = life.middle else { continue };
        drawing.stroke((scale.at(middle.low), y), (scale.at(middle.high), y), 2.5, &format!("stroke:{colour}{faint}"));
        let place = scale.at(middle.ratio);
        drawing.stroke((place, y - 8.0), (place, y + 8.0), 2.5, &format!("stroke:{colour}{faint}"));
        drawing.text((WIDTH, y + 3.8), Anchor::End, "num", &format!("{} ms", number(middle.ratio)));
    }
    drawing.finish()
}
