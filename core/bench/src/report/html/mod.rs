//! The report as a page.

use super::Report;
use crate::analysis::Analysis;

/// One file with everything in it.
pub fn page(_report: &Report, _analysis: &Analysis) -> String {
    String::new()
}
