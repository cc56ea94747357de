//! The answer to `why` → the causal tree, root cause first. Pure; styles are ANSI codes in the text.
//!
//! Times stand in a column at the left, so that they can be read downwards. Beneath each effect stand the
//! grade, rule and lag of the edge that leads to it, and what it rests on.

use std::collections::BTreeMap;

use aftertrace_api::proto;
use aftertrace_model::pattern;
use anstyle::Style;

use crate::clock::{self, Clock};
use crate::detail;
use crate::graph::{self, Node, Place};
use crate::json::id;
use crate::listing;
use crate::term::{BOLD, CYAN, DIM, GREEN, RED, WIDTH_MIN, YELLOW, safe, styled, unbroken, wrap};

/// Levels that are indented; deeper ones stay in line with the last. Chains of the known patterns have six.
const INDENT_LEVELS_MAX: usize = 20;

/// Uncertainty of a lag that is shown whatever the lag: the clock bound of kernel facts lies below it.
const LAG_BOUND_SHOWN_US: i64 = 1_000;

/// How the tree is fitted to its reader.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct View {
    /// Columns of the terminal; `None` where lines are as long as they are.
    pub(crate) width: Option<usize>,
    /// Whether ids of events and full ids of containers are shown.
    pub(crate) is_wide: bool,
}

/// Draws the answer. `subject` is what was asked about, for an answer without facts.
pub(crate) fn draw(answer: &proto::WhyResponse, subject: &str, clock: &Clock, view: View) -> String {
    let width = view.width;
    let places = graph::forest(answer);
    let mut out = String::new();
    if !places.is_empty() {
        let drawing = Drawing::new(answer, &places, clock, view);
        drawing.heading(answer, &places, &mut out);
        for place in &places {
            drawing.place(place, &mut out);
        }
    }
    if !answer.no_cause_because.is_empty() || places.is_empty() {
        let because = match answer.no_cause_because.as_str() {
            "" => format!("nothing is known about {subject}"),
            because => because.to_owned(),
        };
        listing::paragraph(&format!("No cause found, because {}", safe(&because)), YELLOW, width, &mut out);
    }
    listing::gaps(&answer.gaps, clock, width, &mut out);
    listing::remediation(&answer.remediation, width, &mut out);
    listing::as_of(answer.as_of.as_ref(), clock, &mut out);
    out
}

/// What is the same for all lines of one tree.
struct Drawing<'a> {
    anchor_id: &'a [u8],
    clock: &'a Clock,
    width: Option<usize>,
    is_wide: bool,
    same_day: bool,
    time_width: usize,
    events: BTreeMap<&'a [u8], &'a proto::Event>,
}

impl<'a> Drawing<'a> {
    fn new(answer: &'a proto::WhyResponse, places: &[Place<'_>], clock: &'a Clock, view: View) -> Self {
        let first = clock.day(places[0].node.at_us);
        let same_day = places.iter().all(|p| clock.day(p.node.at_us) == first);
        let mut drawing = Self {
            anchor_id: &answer.anchor_id,
            clock,
            width: view.width,
            is_wide: view.is_wide,
            same_day,
            time_width: 0,
            events: answer.events.iter().map(|e| (e.event_id.as_slice(), e)).collect(),
        };
        let widest = places.iter().map(|p| drawing.time(&p.node).chars().count()).max();
        drawing.time_width = widest.unwrap_or(0);
        drawing
    }

    /// `P001 OOM kill: pod/checkout-7d9 -n shop, container app, node1`, then what the times mean.
    fn heading(&self, answer: &proto::WhyResponse, places: &[Place<'_>], out: &mut String) {
        let mut patterns: Vec<&str> = answer.edges.iter().map(|e| e.pattern.as_str()).collect();
        patterns.sort_unstable();
        patterns.dedup();
        // A restart after any end is joined by a rule of P001; a chain is named by the anchors it has.
        let is_there = |name: &&str| {
            pattern::by_id(name)
                .is_none_or(|p| places.iter().any(|place| place.node.kind == p.anchor.as_str()))
        };
        patterns.retain(is_there);
        let mut title: Vec<String> = patterns
            .into_iter()
            .map(|name| match pattern::by_id(name) {
                Some(known) => format!("{} {}", known.id, known.name),
                None => safe(name),
            })
            .collect();
        let about = places.iter().find(|p| p.node.id == self.anchor_id).and_then(|p| p.node.event);
        let mut of = Vec::new();
        if let Some(event) = about {
            if let Some(pod) = &event.pod {
                of.push(format!("pod/{} -n {}", safe(&pod.name), safe(&pod.namespace)));
            }
            if let Some(container) = &event.container {
                of.push(format!("container {}", safe(container)));
            }
            if let Some(node) = &event.node {
                of.push(format!("node {}", safe(node)));
            }
        }
        if title.is_empty() {
            title.push(about.map_or_else(String::new, |e| safe(&e.kind)));
        }
        let subject = if of.is_empty() { String::new() } else { format!(": {}", of.join(", ")) };
        for line in wrap(&format!("{}{subject}", title.join(", ")), self.width) {
            out.push_str(&styled(BOLD, &line));
            out.push('\n');
        }
        if self.clock.style == clock::Style::Absolute {
            let day = if self.same_day { self.clock.day(places[0].node.at_us) + ", " } else { String::new() };
            out.push_str(&styled(DIM, &format!("times: {day}{}", self.clock.zone())));
            out.push('\n');
        }
        out.push('\n');
    }

    fn time(&self, node: &Node<'_>) -> String {
        let (earliest, latest) =
            node.event.map_or((node.at_us, node.at_us), |e| (e.earliest_us, e.latest_us));
        self.clock.entry(node.at_us, earliest, latest, self.same_day)
    }

    fn place(&self, place: &Place<'_>, out: &mut String) {
        let levels = &place.sibling_follows;
        let indented = levels.len().min(INDENT_LEVELS_MAX);
        let mut above = String::new();
        let mut beneath = String::new();
        for (n, follows) in levels[..indented].iter().enumerate() {
            let here = n + 1 == indented;
            above.push_str(match (here, follows) {
                (true, true) => "├─ ",
                (true, false) => "└─ ",
                (false, true) => "│  ",
                (false, false) => "   ",
            });
            beneath.push_str(if *follows { "│  " } else { "   " });
        }
        if place.has_effects && indented < INDENT_LEVELS_MAX {
            beneath.push_str("│  ");
        } else {
            beneath.push_str("   ");
        }

        let node = &place.node;
        let kind = safe(node.kind);
        let mark = if node.id == self.anchor_id { "  ◀ asked about" } else { "" };
        let summary = match (node.event, node.summary) {
            (Some(event), _) => safe(&detail::before_summary(event)),
            (None, "") => "(no longer stored)".to_owned(),
            (None, summary) => format!("{} (no longer stored)", safe(summary)),
        };
        let time = format!("{:<width$}  ", self.time(node), width = self.time_width);
        let taken = self.time_width + 2 + above.chars().count() + kind.chars().count() + 2;
        let text = format!("{summary}{mark}");
        let beside = self.width.map_or(usize::MAX, |w| w.saturating_sub(taken));
        let style = severity_style(node.event.map_or("info", |e| e.severity.as_str()));
        out.push_str(&format!("{time}{}{}", styled(DIM, &above), styled(style, &kind)));
        let mut lines = if beside >= WIDTH_MIN / 2 {
            wrap(&text, self.width.map(|_| beside))
        } else {
            // Too narrow for a text beside the kind: all of it goes beneath.
            vec![String::new()]
        };
        let rest = if lines[0].is_empty() { text } else { lines.drain(1..).collect::<Vec<_>>().join(" ") };
        if !lines[0].is_empty() {
            out.push_str(&format!("  {}", lines[0]));
        }
        out.push('\n');
        if !rest.is_empty() {
            self.beneath(&beneath, Style::new(), &rest, out);
        }
        if self.is_wide {
            self.beneath(&beneath, DIM, &format!("event_id={}", id(node.id)), out);
        }
        for edge in &place.causes {
            self.edge(edge, "", &beneath, out);
        }
        for edge in &place.further {
            let also = format!("also caused by {}: ", safe(&edge.cause_summary));
            self.edge(edge, &also, &beneath, out);
        }
    }

    /// Grade, rule and lag, then the evidence.
    fn edge(&self, edge: &proto::Edge, before: &str, guide: &str, out: &mut String) {
        let grade = match edge.confidence {
            Some(confidence) => format!("{} {confidence:.2}", safe(&edge.grade)),
            None => safe(&edge.grade),
        };
        let rule = safe(&edge.rule_id);
        let text = format!("{before}{} · {rule} · {}", unbroken(&grade), unbroken(&self.lag(edge)));
        self.beneath(guide, grade_style(&edge.grade), &text, out);
        let evidence: Vec<String> = edge
            .evidence
            .iter()
            .filter(|(name, _)| *name != "time_bound_us")
            .map(|(name, value)| unbroken(&format!("{}={}", safe(name), self.shown(&safe(value)))))
            .collect();
        if !evidence.is_empty() {
            self.beneath(guide, DIM, &evidence.join("  "), out);
        }
    }

    /// A value of the evidence; of a container id the 12 digits by which people compare it.
    fn shown(&self, value: &str) -> String {
        let is_container_id = value.len() == 64 && value.bytes().all(|b| b.is_ascii_hexdigit());
        if is_container_id && !self.is_wide { format!("{}…", &value[..12]) } else { value.to_owned() }
    }

    /// The lag, or its bounds where they are wide: a status time is floored to a second.
    fn lag(&self, edge: &proto::Edge) -> String {
        let bounds = self.wide_bounds(edge);
        if (edge.cause_kind.as_str(), edge.effect_kind.as_str()) == ("config_changed", "config_swapped") {
            let best = format!("propagation {}", clock::milliseconds(edge.lag_us));
            return match bounds {
                Some((least, most)) => {
                    format!("{best} ({} to {})", clock::milliseconds(least), clock::milliseconds(most))
                }
                None => best,
            };
        }
        match bounds {
            Some((0, most)) => format!("within {}", clock::span(most)),
            Some((least, most)) => format!("{} to {}", clock::lag(least), clock::lag(most)),
            None => clock::lag(edge.lag_us),
        }
    }

    /// The least and the most that the lag can be, if that is worth telling. A cause is never later.
    fn wide_bounds(&self, edge: &proto::Edge) -> Option<(i64, i64)> {
        let cause = self.events.get(edge.cause_id.as_slice())?;
        let effect = self.events.get(edge.effect_id.as_slice())?;
        let least = effect.earliest_us.saturating_sub(cause.latest_us);
        let most = effect.latest_us.saturating_sub(cause.earliest_us);
        let uncertain = most.saturating_sub(least);
        let wide = uncertain > LAG_BOUND_SHOWN_US && uncertain > edge.lag_us.saturating_abs() / 10;
        (wide && most > 0).then_some((least.max(0), most))
    }

    fn beneath(&self, guide: &str, style: Style, text: &str, out: &mut String) {
        let taken = self.time_width + 2 + guide.chars().count();
        let room = self.width.map(|w| w.saturating_sub(taken).max(WIDTH_MIN / 2));
        for line in wrap(text, room) {
            let indent = self.time_width + 2;
            out.push_str(&format!("{:indent$}{}{}\n", "", styled(DIM, guide), styled(style, &line)));
        }
    }
}

fn severity_style(severity: &str) -> Style {
    match severity {
        "error" => RED,
        "warning" => YELLOW.bold(),
        _ => BOLD,
    }
}

fn grade_style(grade: &str) -> Style {
    match grade {
        "proven" => GREEN,
        "identified" => CYAN,
        _ => YELLOW,
    }
}

#[cfg(test)]
mod tests;
