//! What was found, for people and for programs.

use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;

/// What a check came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase", tag = "outcome", content = "reason")]
pub enum Outcome {
    /// The promise is kept; what was seen, if it is worth a line.
    Pass(String),
    /// It is not: how that showed.
    Fail(String),
    /// It could not be looked at, or does not concern this plugin: why.
    Skip(String),
}

/// A check and what it came to.
#[derive(Clone, Debug, Serialize)]
pub struct Verdict {
    /// Its name, `GROUP/NAME`.
    pub check: &'static str,
    /// The promise.
    pub promise: &'static str,
    /// What it came to.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// What to do if it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<&'static str>,
    /// How long it took.
    #[serde(serialize_with = "seconds")]
    pub seconds: Duration,
}

/// All verdicts on one plugin.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The file.
    pub file: String,
    /// Name and version, as its manifest says; empty if it has none that can be read.
    pub plugin: String,
    /// One by one.
    pub checks: Vec<Verdict>,
}

// === impl Report ===

impl Report {
    /// Whether nothing failed.
    pub fn is_good(&self) -> bool {
        self.failed() == 0
    }

    /// How many failed.
    pub fn failed(&self) -> usize {
        self.count(|outcome| matches!(outcome, Outcome::Fail(_)))
    }

    fn skipped(&self) -> usize {
        self.count(|outcome| matches!(outcome, Outcome::Skip(_)))
    }

    fn count(&self, is: impl Fn(&Outcome) -> bool) -> usize {
        self.checks.iter().filter(|verdict| is(&verdict.outcome)).count()
    }

    /// A line for each check, and what to do below those that failed.
    pub fn text(&self) -> String {
        let mut text = format!("{} ({})\n", self.plugin, self.file);
        for verdict in &self.checks {
            let (word, reason) = match &verdict.outcome {
                Outcome::Pass(seen) => ("pass", seen),
                Outcome::Fail(reason) => ("FAIL", reason),
                Outcome::Skip(reason) => ("skip", reason),
            };
            let colon = if reason.is_empty() { "" } else { ": " };
            let reason = reason.replace('\n', "\n        ");
            let _ = writeln!(text, "{word}  {:<26} {}{colon}{reason}", verdict.check, verdict.promise);
            if let Some(advice) = verdict.advice {
                let _ = writeln!(text, "      {:<26} to do: {advice}", "");
            }
        }
        let (all, failed, skipped) = (self.checks.len(), self.failed(), self.skipped());
        let took: Duration = self.checks.iter().map(|verdict| verdict.seconds).sum();
        let passed = all - failed - skipped;
        let _ = writeln!(
            text,
            "{all} checks: {passed} passed, {failed} failed, {skipped} skipped, in {:.1} s",
            took.as_secs_f64()
        );
        text
    }

    /// As JUnit's XML, which CI systems read.
    pub fn junit(&self) -> String {
        let (all, failed, skipped) = (self.checks.len(), self.failed(), self.skipped());
        let mut text = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
        let name = escaped(&self.plugin);
        let _ =
            writeln!(text, "<testsuite name=\"{name}\" tests=\"{all}\" failures=\"{failed}\" skipped=\"{skipped}\">");
        for verdict in &self.checks {
            let (group, name) = verdict.check.split_once('/').unwrap_or(("", verdict.check));
            let time = verdict.seconds.as_secs_f64();
            let _ = write!(text, "  <testcase classname=\"{group}\" name=\"{name}\" time=\"{time:.3}\">");
            let _ = match &verdict.outcome {
                Outcome::Pass(_) => Ok(()),
                Outcome::Fail(reason) => {
                    let (reason, advice) = (escaped(reason), escaped(verdict.advice.unwrap_or_default()));
                    write!(text, "<failure message=\"{reason}\">{advice}</failure>")
                }
                Outcome::Skip(reason) => write!(text, "<skipped message=\"{}\"/>", escaped(reason)),
            };
            text += "</testcase>\n";
        }
        text + "</testsuite>\n"
    }
}

/// Text as an XML attribute's value. Characters that XML 1.0 cannot have are left out.
fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => safe += "&amp;",
            '<' => safe += "&lt;",
            '>' => safe += "&gt;",
            '"' => safe += "&quot;",
            '\n' => safe += "&#10;",
            control if control.is_control() || matches!(control, '\u{fffe}' | '\u{ffff}') => {}
            other => safe.push(other),
        }
    }
    safe
}

fn seconds<S: serde::Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64((time.as_secs_f64() * 1000.0).round() / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let verdict = |check, outcome, advice| Verdict {
            check,
            promise: "it keeps its word",
            outcome,
            advice,
            seconds: Duration::from_millis(1500),
        };
        Report {
            file: "a.so".into(),
            plugin: "a 1.0".into(),
            checks: vec![
                verdict("x/good", Outcome::Pass(String::new()), None),
                verdict("x/bad", Outcome::Fail("said <\"no\">\u{1b}".into()), Some("say yes")),
                verdict("x/none", Outcome::Skip("no & never".into()), None),
            ],
        }
    }

    #[test]
    fn people_see_a_line_for_each_check_and_what_to_do() {
        let text = report().text();
        assert!(text.contains("pass  x/good                     it keeps its word\n"), "{text}");
        assert!(text.contains("to do: say yes\n"), "{text}");
        assert!(text.ends_with("3 checks: 1 passed, 1 failed, 1 skipped, in 4.5 s\n"), "{text}");
    }

    #[test]
    fn xml_is_escaped() {
        let xml = report().junit();
        assert!(xml.contains(r#"<failure message="said &lt;&quot;no&quot;&gt;">say yes</failure>"#), "{xml}");
        assert!(xml.contains(r#"tests="3" failures="1" skipped="1""#), "{xml}");
        assert!(xml.contains(r#"<skipped message="no &amp; never"/>"#), "{xml}");
    }

    #[test]
    fn json_has_the_same_names() {
        let json = serde_json::to_value(report()).unwrap();
        assert_eq!(json["checks"][1]["outcome"], "fail");
        assert_eq!(json["checks"][1]["advice"], "say yes");
        assert_eq!(json["checks"][0]["seconds"], 1.5);
    }
}
