//! What stands beneath every answer for people: gaps, remedies, and how current it is.

use aftertrace_api::proto;
use anstyle::Style;

use crate::clock::Clock;
use crate::term::{BOLD, DIM, YELLOW, safe, styled, wrap};

/// A paragraph after an empty line.
pub(crate) fn paragraph(text: &str, style: Style, width: Option<usize>, out: &mut String) {
    separate(out);
    for line in wrap(text, width) {
        out.push_str(&styled(style, &line));
        out.push('\n');
    }
}

/// `Missing evidence:` and a line for each gap, if there are any.
pub(crate) fn gaps(gaps: &[proto::Gap], clock: &Clock, width: Option<usize>, out: &mut String) {
    if gaps.is_empty() {
        return;
    }
    heading("Missing evidence:", YELLOW, out);
    for gap in gaps {
        item(&gap_line(gap, clock), width, out);
    }
}

/// `2026-11-20 10:51:00 to 10:52:30, node1 kernel/oom: ring_full, 12 lost: detail`
fn gap_line(gap: &proto::Gap, clock: &Clock) -> String {
    let place = match &gap.node {
        Some(node) => format!("{} {}", safe(node), safe(&gap.component)),
        None => safe(&gap.component),
    };
    let count = match gap.count {
        0 => "unknown how many".to_owned(),
        n => format!("{n} lost"),
    };
    let detail = if gap.detail.is_empty() { String::new() } else { format!(": {}", safe(&gap.detail)) };
    format!(
        "{} to {}, {place}: {}, {count}{detail}",
        clock.instant(gap.from_us),
        clock.instant(gap.to_us),
        safe(&gap.reason)
    )
}

/// `What usually helps:` and a line for each remedy, if there are any.
pub(crate) fn remediation(remedies: &[String], width: Option<usize>, out: &mut String) {
    if remedies.is_empty() {
        return;
    }
    heading("What usually helps:", BOLD, out);
    for remedy in remedies {
        item(&safe(remedy), width, out);
    }
}

/// `as of 2026-11-20 10:52:05.123456 (WAL position 4711)`
pub(crate) fn as_of(as_of: Option<&proto::AsOf>, clock: &Clock, out: &mut String) {
    separate(out);
    let text = match as_of {
        Some(as_of) if as_of.recorded_at_us != 0 => {
            format!("as of {} (WAL position {})", clock.instant(as_of.recorded_at_us), as_of.wal_position)
        }
        _ => "as of an empty memory: nothing was recorded yet".to_owned(),
    };
    out.push_str(&styled(DIM, &text));
    out.push('\n');
}

/// A heading after an empty line.
pub(crate) fn heading(text: &str, style: Style, out: &mut String) {
    separate(out);
    out.push_str(&styled(style, text));
    out.push('\n');
}

/// An item of a list, indented.
pub(crate) fn item(text: &str, width: Option<usize>, out: &mut String) {
    for (n, line) in wrap(text, width.map(|w| w.saturating_sub(4))).into_iter().enumerate() {
        out.push_str(if n == 0 { "  - " } else { "    " });
        out.push_str(&line);
        out.push('\n');
    }
}

fn separate(out: &mut String) {
    if !out.is_empty() {
        out.push('\n');
    }
}
