//! Instants and spans → the texts people read. Pure: the moment and the zone are passed in.

use jiff::{Timestamp, Zoned};

/// A second in microseconds: how finely Kubernetes reports its times.
const SECOND_US: i64 = 1_000_000;

/// How instants are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// Date and time in the zone.
    Absolute,
    /// The age.
    Relative,
}

/// What turns instants into texts.
#[derive(Clone, Debug)]
pub(crate) struct Clock {
    /// The moment of the question, in the zone that times are shown in.
    pub(crate) now: Zoned,
    /// How instants are shown.
    pub(crate) style: Style,
}

impl Clock {
    /// Name of the zone, as the header of a listing shows it.
    pub(crate) fn zone(&self) -> String {
        match self.now.time_zone().iana_name() {
            Some("Etc/UTC") => "UTC".to_owned(),
            Some(name) => name.to_owned(),
            None => self.now.strftime("%:z").to_string(),
        }
    }

    /// An instant by itself: `2026-11-20 10:52:02.104512`, or `5m12s ago`.
    pub(crate) fn instant(&self, us: i64) -> String {
        match self.style {
            Style::Absolute => self.format(us, "%Y-%m-%d %H:%M:%S%.6f"),
            Style::Relative => self.age(us),
        }
    }

    /// The day of an instant: `2026-11-20`.
    pub(crate) fn day(&self, us: i64) -> String {
        self.format(us, "%Y-%m-%d")
    }

    /// An instant in a listing whose header names the zone, and the day if `same_day`.
    ///
    /// A time known only to the second is shown without the digits that nobody measured.
    pub(crate) fn entry(&self, us: i64, earliest_us: i64, latest_us: i64, same_day: bool) -> String {
        let floored = us.rem_euclid(SECOND_US) == 0 && latest_us.saturating_sub(earliest_us) >= SECOND_US - 1;
        let time = if floored { "%H:%M:%S" } else { "%H:%M:%S%.6f" };
        match self.style {
            Style::Relative => self.age(us),
            Style::Absolute if same_day => self.format(us, time),
            Style::Absolute => self.format(us, &format!("%Y-%m-%d {time}")),
        }
    }

    fn format(&self, us: i64, format: &str) -> String {
        Timestamp::from_microsecond(us).map_or_else(
            |_| format!("{us}us"),
            |t| t.to_zoned(self.now.time_zone().clone()).strftime(format).to_string(),
        )
    }

    fn age(&self, us: i64) -> String {
        let age = self.now.timestamp().as_microsecond().saturating_sub(us);
        if age < 0 { format!("in {}", span(age.saturating_neg())) } else { format!("{} ago", span(age)) }
    }
}

/// The clock of tests: ten minutes after the kill of [`crate::fixture`], in UTC.
#[cfg(test)]
pub(crate) fn fixed() -> Clock {
    let now = Timestamp::from_microsecond(crate::fixture::T + 600_000_000).expect("within the calendar");
    Clock { now: now.to_zoned(jiff::tz::TimeZone::UTC), style: Style::Absolute }
}

/// A span without sign: two units at most, `412 µs`, `1.2 ms`, `2.04 s`, `62.4 s`, `5m12s`, `3h4m`, `2d7h`.
pub(crate) fn span(us: i64) -> String {
    const MINUTE: i64 = 60 * SECOND_US;
    const HOUR: i64 = 60 * MINUTE;
    const DAY: i64 = 24 * HOUR;
    let in_units = |unit: i64| us as f64 / unit as f64;
    match us {
        _ if us < 1_000 => format!("{us} µs"),
        _ if us < SECOND_US => format!("{:.1} ms", in_units(1_000)),
        _ if us < 10 * SECOND_US => format!("{:.2} s", in_units(SECOND_US)),
        _ if us < 2 * MINUTE => format!("{:.1} s", in_units(SECOND_US)),
        _ if us < HOUR => format!("{}m{}s", us / MINUTE, us % MINUTE / SECOND_US),
        _ if us < DAY => format!("{}h{}m", us / HOUR, us % HOUR / MINUTE),
        _ => format!("{}d{}h", us / DAY, us % DAY / HOUR),
    }
}

/// A span with its sign: `+1.2 ms`, `-104.7 ms`.
pub(crate) fn lag(us: i64) -> String {
    if us < 0 { format!("-{}", span(us.saturating_neg())) } else { format!("+{}", span(us)) }
}

/// A span in milliseconds: `1043.7 ms`.
pub(crate) fn milliseconds(us: i64) -> String {
    format!("{:.1} ms", us as f64 / 1_000.0)
}

/// Seconds and microseconds since the Unix epoch as RFC 3339 in UTC, for programs.
pub(crate) fn rfc3339(us: i64) -> String {
    aftertrace_model::Timestamp::from_micros(us).to_string()
}

#[cfg(test)]
mod tests {
    use jiff::tz::{TimeZone, offset};

    use super::*;

    const T: i64 = 1_795_171_922_104_512; // 2026-11-20T10:52:02.104512Z

    fn clock(style: Style, zone: TimeZone) -> Clock {
        let now = Timestamp::from_microsecond(T + 312_000_000).expect("valid").to_zoned(zone);
        Clock { now, style }
    }

    #[test]
    fn spans_have_two_units_at_most() {
        for (us, expected) in [
            (0, "0 µs"),
            (999, "999 µs"),
            (1_188, "1.2 ms"),
            (192_512, "192.5 ms"),
            (2_043_700, "2.04 s"),
            (62_400_000, "62.4 s"),
            (312_000_000, "5m12s"),
            (11_045_000_000, "3h4m"),
            (200_000_000_000, "2d7h"),
        ] {
            assert_eq!(span(us), expected);
        }
        assert_eq!(lag(-104_700), "-104.7 ms");
        assert_eq!(lag(i64::MIN), format!("-{}", span(i64::MAX)), "the smallest number has a span too");
        assert_eq!(milliseconds(62_400_000), "62400.0 ms");
    }

    #[test]
    fn instants() {
        let utc = clock(Style::Absolute, TimeZone::UTC);
        assert_eq!(utc.instant(T), "2026-11-20 10:52:02.104512");
        assert_eq!(utc.entry(T, T, T, true), "10:52:02.104512");
        let second = 1_795_171_922_000_000;
        assert_eq!(utc.entry(second, second, second + 999_999, true), "10:52:02");
        assert_eq!(utc.entry(second, second, second, false), "2026-11-20 10:52:02.000000");
        assert_eq!(utc.instant(i64::MAX), format!("{}us", i64::MAX), "beyond the calendar");
        assert_eq!(utc.zone(), "UTC");

        let east = clock(Style::Absolute, TimeZone::fixed(offset(2)));
        assert_eq!(east.instant(T), "2026-11-20 12:52:02.104512");
        assert_eq!(east.zone(), "+02:00");

        let relative = clock(Style::Relative, TimeZone::UTC);
        assert_eq!(relative.instant(T), "5m12s ago");
        assert_eq!(relative.instant(T + 313_000_000), "in 1.00 s");
    }
}
