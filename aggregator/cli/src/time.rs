//! Times as people write them → an instant. Pure: the moment and the zone are passed in.

use aftertrace_model::Timestamp;
use jiff::civil;
use jiff::{Span, Zoned};

/// A time that could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TimeInputError {
    /// It has none of the forms.
    #[error(
        "cannot read {text:?} as a time: use RFC 3339 such as 2026-11-20T10:03:00Z, a date and time such as \
         '2026-11-20 10:03', a time of today such as 10:03, an age such as 5m or '2h ago', or now"
    )]
    Form {
        /// The text, as given.
        text: String,
    },
    /// It has a form, but lies beyond the calendar.
    #[error("the time {text:?} lies beyond the years that can be represented (-9999 to 9999)")]
    Range {
        /// The text, as given.
        text: String,
    },
}

/// Reads a time. `now` says what today is, and in which zone a time without offset is meant.
///
/// An age (`5m`, `1h30m`, `2 days ago`) lies before now. A local time that a clock change skips or repeats is
/// read as the one the clocks were about to show.
///
/// # Errors
/// [`TimeInputError`], which names the text.
pub(crate) fn parse(text: &str, now: &Zoned) -> Result<Timestamp, TimeInputError> {
    let trimmed = text.trim();
    let range = || TimeInputError::Range { text: text.to_owned() };
    if trimmed.eq_ignore_ascii_case("now") {
        return Ok(micros(&now.timestamp()));
    }
    if let Ok(instant) = trimmed.parse::<jiff::Timestamp>() {
        return Ok(micros(&instant));
    }
    if is_time_of_day(trimmed) {
        let time =
            trimmed.parse::<civil::Time>().map_err(|_| TimeInputError::Form { text: text.to_owned() })?;
        return local(now.date().to_datetime(time), now).ok_or_else(range);
    }
    if let Ok(datetime) = trimmed.parse::<civil::DateTime>() {
        return local(datetime, now).ok_or_else(range);
    }
    if trimmed.starts_with(|c: char| c.is_ascii_digit()) {
        let ago = trimmed.strip_suffix("ago").unwrap_or(trimmed).trim_end();
        if let Ok(age) = ago.parse::<Span>() {
            let at = now.checked_sub(age).map_err(|_| range())?;
            return Ok(micros(&at.timestamp()));
        }
    }
    Err(TimeInputError::Form { text: text.to_owned() })
}

/// `10:03`, `9:03:05`, `10:03:05.25`: what has a colon and no date before it.
fn is_time_of_day(text: &str) -> bool {
    text.find(':').is_some_and(|at| at <= 2) && text.chars().all(|c| c.is_ascii_digit() || ":.".contains(c))
}

fn local(datetime: civil::DateTime, now: &Zoned) -> Option<Timestamp> {
    datetime.to_zoned(now.time_zone().clone()).ok().map(|z| micros(&z.timestamp()))
}

fn micros(instant: &jiff::Timestamp) -> Timestamp {
    Timestamp::from_micros(instant.as_microsecond())
}

#[cfg(test)]
mod tests {
    use jiff::tz::{TimeZone, offset};

    use super::*;

    /// The moment of all cases: 2026-11-20, 12:30 in UTC and 14:30 two hours east.
    fn now(zone: TimeZone) -> Zoned {
        "2026-11-20T12:30:00Z".parse::<jiff::Timestamp>().expect("valid").to_zoned(zone)
    }

    fn check(input: &str, zone: TimeZone, expected: &str) {
        let read = parse(input, &now(zone)).unwrap_or_else(|e| panic!("{input:?}: {e}"));
        assert_eq!(read.to_string(), expected, "{input:?}");
    }

    #[test]
    fn forms_in_utc() {
        for (input, expected) in [
            ("now", "2026-11-20T12:30:00.000000Z"),
            (" NOW ", "2026-11-20T12:30:00.000000Z"),
            ("2026-11-20T10:52:02Z", "2026-11-20T10:52:02.000000Z"),
            ("2026-11-20T10:52:02.123456+02:00", "2026-11-20T08:52:02.123456Z"),
            ("2026-11-20 10:52:02Z", "2026-11-20T10:52:02.000000Z"),
            ("2026-11-20T10:52", "2026-11-20T10:52:00.000000Z"),
            ("2026-11-19 23:59:59.5", "2026-11-19T23:59:59.500000Z"),
            ("2026-11-19", "2026-11-19T00:00:00.000000Z"),
            ("10:03", "2026-11-20T10:03:00.000000Z"),
            ("10:03:05.25", "2026-11-20T10:03:05.250000Z"),
            ("23:00", "2026-11-20T23:00:00.000000Z"),
            ("5m", "2026-11-20T12:25:00.000000Z"),
            ("5m ago", "2026-11-20T12:25:00.000000Z"),
            ("2h ago", "2026-11-20T10:30:00.000000Z"),
            ("1h30m", "2026-11-20T11:00:00.000000Z"),
            ("90s", "2026-11-20T12:28:30.000000Z"),
            ("2 days ago", "2026-11-18T12:30:00.000000Z"),
            ("1w", "2026-11-13T12:30:00.000000Z"),
        ] {
            check(input, TimeZone::UTC, expected);
        }
    }

    #[test]
    fn times_without_offset_are_local() {
        let east = || TimeZone::fixed(offset(2));
        check("10:03", east(), "2026-11-20T08:03:00.000000Z");
        check("2026-11-20 10:03", east(), "2026-11-20T08:03:00.000000Z");
        check("2026-11-20T10:03:00Z", east(), "2026-11-20T10:03:00.000000Z");
    }

    #[test]
    fn malformed_times_are_named_with_examples() {
        for input in [
            "",
            " ",
            "yesterday",
            "25:00",
            "10:61",
            "10:",
            ":03",
            "1:2:3:4",
            "2026-13-01",
            "2026-02-30T10:00",
            "5",
            "5x",
            "ago",
            "-5m",
            "- 5m",
            "5m later",
            "nowish",
            "10:03pm",
            "P",
            "\u{1b}[31m",
        ] {
            let error = parse(input, &now(TimeZone::UTC)).expect_err(input);
            let text = error.to_string();
            assert!(text.contains(&format!("{input:?}")), "names the input: {text}");
            assert!(text.contains("2h ago") && text.contains("10:03"), "gives examples: {text}");
            assert!(!text.contains('\u{1b}'), "nothing hostile is repeated: {text:?}");
        }
    }

    #[test]
    fn an_age_beyond_the_calendar_is_refused() {
        let error = parse("19000y", &now(TimeZone::UTC)).expect_err("before year -9999");
        assert!(matches!(error, TimeInputError::Range { .. }), "{error}");
    }
}
