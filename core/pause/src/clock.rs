//! Wall-clock time and its RFC 3339 form, in the few lines that a log needs.

use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

/// Microseconds since 1970.
pub(crate) fn now_us() -> i64 {
    now().as_micros() as i64
}

/// Appends the time now as RFC 3339 with nanoseconds, in UTC.
pub(crate) fn push_now(out: &mut String) {
    let now = now();
    push(out, now.as_secs() as i64, now.subsec_nanos());
}

fn now() -> std::time::Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn push(out: &mut String, seconds: i64, nanos: u32) {
    let (days, rest) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Days to a date: https://howardhinnant.github.io/date_algorithms.html#civil_from_days
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let day_of_era = z.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    write!(out, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{nanos:09}Z")
        .expect("writing to a String does not fail");
}

#[cfg(test)]
mod tests {
    #[test]
    fn dates_are_those_of_date_1() {
        let text = |seconds| {
            let mut out = String::new();
            super::push(&mut out, seconds, 7);
            out
        };
        assert_eq!(text(0), "1970-01-01T00:00:00.000000007Z");
        assert_eq!(text(951_827_696), "2000-02-29T12:34:56.000000007Z");
        assert_eq!(text(1_795_392_000), "2026-11-23T00:00:00.000000007Z");
    }
}
