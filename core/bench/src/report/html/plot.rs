//! What all plots are made of: scales, ticks, marks. Widths are those of a phone; larger screens show several plots side by side.

use std::fmt::Write as _;

/// Width of every plot in its own units.
pub(super) const WIDTH: f64 = 340.0;

/// Room that a label needs in its line, and a line of labels needs.
pub(super) const LABEL: f64 = 34.0;
const LINE: f64 = 18.0;

/// From values to places.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scale {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
    logarithmic: bool,
}

// === impl Scale ===

impl Scale {
    /// Equal distances are equal differences.
    pub(super) fn linear(values: (f64, f64), places: (f64, f64)) -> Self {
        let high = if values.1 > values.0 { values.1 } else { values.0 + 1.0 };
        Self { low: values.0, high, from: places.0, to: places.1, logarithmic: false }
    }

    /// Equal distances are equal ratios. Values must be above 0.
    pub(super) fn logarithmic(values: (f64, f64), places: (f64, f64)) -> Self {
        let low = values.0.max(1e-9);
        let high = if values.1 > low { values.1 } else { low * 2.0 };
        Self { low, high, from: places.0, to: places.1, logarithmic: true }
    }

    /// Where a value is; what lies outside is at the edge.
    pub(super) fn at(&self, value: f64) -> f64 {
        let value = value.clamp(self.low, self.high);
        let share = match self.logarithmic {
            true => (value / self.low).ln() / (self.high / self.low).ln(),
            false => (value - self.low) / (self.high - self.low),
        };
        self.from + share * (self.to - self.from)
    }

    /// Whether a value would have its place before the first one.
    pub(super) fn begins_after(&self, value: f64) -> bool {
        value < self.low
    }

    /// Whether a value would have its place behind the last one.
    pub(super) fn ends_before(&self, value: f64) -> bool {
        value > self.high
    }

    /// Round values within, their places so far apart at least, as their labels must not touch.
    pub(super) fn ticks(&self, apart: f64) -> Vec<f64> {
        match self.logarithmic {
            true => self.logarithmic_ticks(apart),
            false => {
                let most = ((self.to - self.from).abs() / apart).clamp(1.0, 6.0);
                let rough = (self.high - self.low) / most;
                let power = 10f64.powf(rough.log10().floor());
                let step = [1.0, 2.0, 5.0, 10.0].map(|one| one * power).into_iter().find(|step| *step >= rough);
                let step = step.unwrap_or(rough);
                let first = (self.low / step).ceil() as i64;
                let last = (self.high / step).floor() as i64;
                (first..=last).map(|number| number as f64 * step).collect()
            }
        }
    }

    fn logarithmic_ticks(&self, apart: f64) -> Vec<f64> {
        let within = |value: &f64| (self.low * 0.999..=self.high * 1.001).contains(value);
        let sets: [&[f64]; 6] = [
            &[1.0, 1.05, 1.1, 1.15, 1.2, 1.25, 1.3, 1.4, 1.5, 1.7, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0],
            &[1.0, 1.1, 1.2, 1.3, 1.5, 1.7, 2.0, 2.5, 3.0, 4.0, 5.0, 7.0, 8.0, 9.0],
            &[1.0, 1.25, 1.5, 2.0, 3.0, 5.0, 7.0],
            &[1.0, 1.5, 2.0, 3.0, 5.0],
            &[1.0, 2.0, 5.0],
            &[1.0, 3.0],
        ];
        let decades = self.low.log10().floor() as i32..=self.high.log10().ceil() as i32;
        let of = |set: &[f64]| -> Vec<f64> {
            let values = decades.clone().flat_map(|decade| set.iter().map(move |one| one * 10f64.powi(decade)));
            values.filter(within).collect()
        };
        let roomy = |ticks: &Vec<f64>| ticks.windows(2).all(|two| (self.at(two[1]) - self.at(two[0])).abs() >= apart);
        if let Some(ticks) = sets.into_iter().map(of).find(roomy) {
            return ticks;
        }
        let decades = of(&[1.0]);
        let step = (1..).find(|&step| roomy(&decades.iter().copied().step_by(step).collect())).unwrap_or(1);
        decades.into_iter().step_by(step).collect()
    }
}

/// The largest and the smallest of some values, and one more.
pub(super) fn range(values: impl Iterator<Item = f64>, with: f64) -> (f64, f64) {
    values.filter(|value| value.is_finite()).fold((with, with), |range, value| (range.0.min(value), range.1.max(value)))
}

/// Text that may stand in a page.
pub(super) fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            other => safe.push(other),
        }
    }
    safe
}

/// A drawing that is being made.
pub(super) struct Drawing {
    height: f64,
    title: String,
    body: String,
}

/// Where a text is anchored.
#[derive(Clone, Copy)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

// === impl Drawing ===

impl Drawing {
    /// `title` is what people hear who cannot see it.
    pub(super) fn new(height: f64, title: &str) -> Self {
        Self { height, title: escaped(title), body: String::new() }
    }

    pub(super) fn text(&mut self, (x, y): (f64, f64), anchor: Anchor, class: &str, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let text = escaped(text);
        let _ =
            write!(self.body, r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}" class="{class}">{text}</text>"#);
    }

    pub(super) fn line(&mut self, from: (f64, f64), to: (f64, f64), class: &str) {
        let _ =
            write!(self.body, r#"<path d="M{:.1} {:.1}L{:.1} {:.1}" class="{class}"/>"#, from.0, from.1, to.0, to.1);
    }

    pub(super) fn stroke(&mut self, from: (f64, f64), to: (f64, f64), width: f64, style: &str) {
        let _ = write!(
            self.body,
            r#"<path d="M{:.1} {:.1}L{:.1} {:.1}" stroke-width="{width}" stroke-linecap="round" style="{style}"/>"#,
            from.0, from.1, to.0, to.1
        );
    }

    pub(super) fn dot(&mut self, (x, y): (f64, f64), radius: f64, style: &str) {
        let _ = write!(self.body, r#"<circle cx="{x:.1}" cy="{y:.1}" r="{radius}" style="{style}"/>"#);
    }

    pub(super) fn band(&mut self, from: (f64, f64), to: (f64, f64), class: &str) {
        let (width, height) = ((to.0 - from.0).max(0.0), (to.1 - from.1).max(0.0));
        let _ = write!(
            self.body,
            r#"<rect x="{:.1}" y="{:.1}" width="{width:.1}" height="{height:.1}" class="{class}"/>"#,
            from.0, from.1
        );
    }

    pub(super) fn bar(&mut self, from: (f64, f64), to: (f64, f64), style: &str) {
        let (width, height) = ((to.0 - from.0).max(0.0), (to.1 - from.1).max(0.0));
        let _ = write!(
            self.body,
            r#"<rect x="{:.1}" y="{:.1}" width="{width:.1}" height="{height:.1}" style="{style}"/>"#,
            from.0, from.1
        );
    }

    /// A line through points.
    pub(super) fn curve(&mut self, points: &[(f64, f64)], width: f64, style: &str) {
        let mut path = String::new();
        for (number, (x, y)) in points.iter().enumerate() {
            let _ = write!(path, "{}{x:.1} {y:.1}", if number == 0 { 'M' } else { 'L' });
        }
        let _ = write!(
            self.body,
            r#"<path d="{path}" fill="none" stroke-width="{width}" stroke-linejoin="round" style="{style}"/>"#
        );
    }

    /// Horizontal lines with their values on the left.
    pub(super) fn rows(&mut self, scale: &Scale, from: f64, to: f64, label: impl Fn(f64) -> String) {
        for tick in scale.ticks(LINE) {
            let y = scale.at(tick);
            self.line((from, y), (to, y), "grid");
            self.text((from - 5.0, y + 3.5), Anchor::End, "soft num", &label(tick));
        }
    }

    /// Vertical lines with their values below.
    pub(super) fn columns(&mut self, scale: &Scale, from: f64, to: f64, label: impl Fn(f64) -> String) {
        for tick in scale.ticks(LABEL) {
            let x = scale.at(tick);
            self.line((x, from), (x, to), "grid");
            self.text((x, to + 13.0), Anchor::Middle, "soft num", &label(tick));
        }
    }

    pub(super) fn finish(self) -> String {
        format!(
            r#"<svg viewBox="0 0 {WIDTH} {:.0}" role="img" aria-label="{}">{}</svg>"#,
            self.height, self.title, self.body
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_reach_from_edge_to_edge_and_no_further() {
        let scale = Scale::logarithmic((0.5, 2.0), (0.0, 100.0));
        assert!((scale.at(1.0) - 50.0).abs() < 1e-9);
        assert_eq!((scale.at(0.1), scale.at(9.0)), (0.0, 100.0));
        assert!(scale.ticks(10.0).contains(&1.0) && scale.ticks(10.0).len() <= 7, "{:?}", scale.ticks(10.0));
        assert_eq!(Scale::linear((0.0, 10.0), (0.0, 100.0)).ticks(15.0), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
        assert!(Scale::linear((3.0, 3.0), (0.0, 1.0)).at(3.0).is_finite());
        assert!(!Scale::logarithmic((1.0, 1e6), (0.0, 1.0)).ticks(10.0).is_empty());
        for (low, high) in [(0.85, 3.4), (18.0, 110.0), (0.1, 10.8), (0.97, 1.04), (1e-3, 1e6)] {
            let scale = Scale::logarithmic((low, high), (92.0, 290.0));
            let ticks = scale.ticks(LABEL);
            assert!(ticks.windows(2).all(|two| scale.at(two[1]) - scale.at(two[0]) >= LABEL), "{ticks:?}");
            assert!(!ticks.is_empty() && ticks.len() < 8, "{low} to {high}: {ticks:?}");
        }
    }

    #[test]
    fn no_text_becomes_markup() {
        assert_eq!(escaped("<a href='x'>&\""), "&lt;a href=&#39;x&#39;&gt;&amp;&quot;");
    }
}
