//! Figures by the number of pods, Services or policies.

use super::palette::{Palette, swatch};
use super::plot::{Anchor, Drawing, Scale, WIDTH, escaped, range};
use super::section;
use crate::analysis::{Curve, Figure, curves};
use crate::report::Report;
use crate::report::text::plain;

const LEFT: f64 = 48.0;
const TOP: f64 = 8.0;
const BOTTOM: f64 = 150.0;

/// A section for each kind of thing, a card for each figure.
pub(super) fn sections(report: &Report, palette: &Palette) -> String {
    let curves = curves(report);
    let lists = report.experiment.spec.sweep.lists();
    let mut text = String::new();
    for (of, numbers) in lists.into_iter().filter(|(_, numbers)| !numbers.is_empty()) {
        let of_crowd: Vec<&Curve> = curves.iter().filter(|curve| curve.of == of).collect();
        let mut figures: Vec<&Figure> = Vec::new();
        for curve in &of_crowd {
            if !figures.contains(&&curve.figure) {
                figures.push(&curve.figure);
            }
        }
        let with = |figure: &Figure| of_crowd.iter().copied().filter(|one| one.figure == *figure).collect::<Vec<_>>();
        let cards: String =
            figures.iter().map(|figure| card(of.name(), numbers, figure, &with(figure), palette)).collect();
        text += &format!(
            "<h2>By number of {}</h2><p>The same cluster with more and more of them. Dots are middles, the lines through them 95 % intervals; \
             what is invalid is faint; steps on the x-axis are the numbers of the experiment, not distances. All other sections are about the first number.</p>{}",
            of.name(),
            section(&cards)
        );
    }
    text
}

fn card(of: &str, numbers: &[u16], figure: &Figure, curves: &[&Curve], palette: &Palette) -> String {
    let title = escaped(&figure.title());
    let legend: String = curves.iter().map(|curve| swatch(&curve.network, &palette.of(&curve.network))).collect();
    let what = match figure {
        Figure::Load { .. } => {
            "As a multiple of the baseline’s; a flat line is a figure that does not depend on their number."
        }
        Figure::Life(_) => "Milliseconds; a flat line is a step that does not depend on their number.",
        Figure::Rest => "Processors that the whole cluster uses while nobody asks anything of it.",
        Figure::Memory => "MiB of all processes of the cluster, shared pages by the share.",
    };
    format!(
        "<figure><h3>{title}</h3>{}<ul class=legend>{legend}</ul><figcaption>{what}</figcaption></figure>",
        drawing(&format!("{title} by number of {of}"), of, numbers, figure, curves, palette)
    )
}

fn drawing(title: &str, of: &str, numbers: &[u16], figure: &Figure, curves: &[&Curve], palette: &Palette) -> String {
    let mut drawing = Drawing::new(BOTTOM + 30.0, title);
    let x = Scale::linear((-0.2, numbers.len() as f64 - 0.8), (LEFT, WIDTH - 8.0));
    let ends = curves
        .iter()
        .flat_map(|curve| curve.points.iter().map(|one| one.interval).flat_map(|one| [one.low, one.ratio, one.high]));
    let ends: Vec<f64> = ends.filter(|end| *end > 0.0).collect();
    let (low, high) = range(ends.iter().copied(), ends.first().copied().unwrap_or(1.0));
    let y = Scale::logarithmic((low / 1.25, high * 1.25), (BOTTOM, TOP));
    let unit = if figure.unit() == "x" { "×" } else { "" };
    drawing.rows(&y, LEFT, WIDTH - 8.0, |tick| format!("{}{unit}", plain(tick)));
    for (place, number) in numbers.iter().enumerate() {
        let at = x.at(place as f64);
        drawing.line((at, TOP), (at, BOTTOM), "grid");
        drawing.text((at, BOTTOM + 13.0), Anchor::Middle, "soft num", &number.to_string());
    }
    drawing.text((WIDTH - 8.0, BOTTOM + 26.0), Anchor::End, "soft", of);
    for (row, curve) in curves.iter().enumerate() {
        let colour = palette.of(&curve.network);
        // A little beside each other, or equal figures would hide each other.
        let aside = (row as f64 - (curves.len() - 1) as f64 / 2.0) * 5.0;
        let place = |number: u16| numbers.iter().position(|one| *one == number).map(|place| x.at(place as f64) + aside);
        let placed: Vec<_> = curve.points.iter().filter_map(|one| Some((place(one.number)?, one))).collect();
        let line: Vec<_> = placed.iter().map(|(at, one)| (*at, y.at(one.interval.ratio))).collect();
        drawing.curve(&line, 1.5, &format!("stroke:{colour};opacity:.4"));
        for (at, one) in placed {
            let (interval, faint) = (one.interval, if one.valid { "" } else { ";opacity:.4" });
            let stroke = format!("stroke:{colour}{faint}");
            drawing.stroke((at, y.at(interval.low)), (at, y.at(interval.high)), 1.8, &stroke);
            drawing.dot((at, y.at(interval.ratio)), 3.4, &format!("fill:{colour}{faint}"));
        }
    }
    drawing.finish()
}
