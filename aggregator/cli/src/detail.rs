//! What people look for first in a fact of its kind: the level and role of an OOM kill, the reason of staleness.
//!
//! It stands in brackets before the summary, so that a tree or a table can be read down for it. What summaries
//! say anyway is not said twice.

use aftertrace_api::proto;
use aftertrace_model::attribute;
use serde_json::{Map, Value};

/// The attributes of an event; empty where they are no JSON object.
pub(crate) struct Attributes(Map<String, Value>);

impl Attributes {
    /// Reads them.
    pub(crate) fn of(event: &proto::Event) -> Self {
        Self(serde_json::from_str(&event.attributes).unwrap_or_default())
    }

    /// A text.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.as_str()
    }

    /// A number without sign.
    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        self.0.get(name)?.as_u64()
    }

    /// A list of texts; what is none is left out.
    pub(crate) fn texts(&self, name: &str) -> Vec<&str> {
        let list = self.0.get(name).and_then(Value::as_array);
        list.into_iter().flatten().filter_map(Value::as_str).collect()
    }

    /// Yes or no.
    pub(crate) fn is(&self, name: &str) -> Option<bool> {
        self.0.get(name)?.as_bool()
    }

    /// `memhog (4242)`, from whichever of the two is known.
    pub(crate) fn process(&self, command: &str, pid: Option<u64>) -> String {
        match (self.text(command), pid) {
            (Some(command), Some(pid)) => format!("{command} ({pid})"),
            (Some(command), None) => command.to_owned(),
            (None, Some(pid)) => format!("pid {pid}"),
            (None, None) => String::new(),
        }
    }
}

/// The few words for an event's kind; `None` where the summary says all.
fn of(event: &proto::Event) -> Option<String> {
    let attributes = Attributes::of(event);
    let level = || attributes.text(attribute::OOM_LEVEL).map(|level| format!("level {level}"));
    let own = |name| attributes.text(name).map(str::to_owned);
    let reason = || event.reason.clone();
    let words = match event.kind.as_str() {
        "oom_episode" => vec![own(attribute::OOM_CONSTRAINT), level()],
        "oom_kill" => vec![own(attribute::OOM_ROLE), level()],
        "memory_pressure" => vec![own(attribute::PRESSURE_REASON)],
        "config_stale" => {
            let after = attributes.0.get(attribute::STALE_AFTER_S).and_then(Value::as_f64);
            vec![reason(), after.map(|s| format!("after {s} s"))]
        }
        "process_killed" => {
            let result = own(attribute::SIGNAL_RESULT).filter(|r| r != attribute::SIGNAL_DELIVERED);
            vec![reason(), result]
        }
        "config_watched" => vec![reason()],
        _ => Vec::new(),
    };
    let words: Vec<String> = words.into_iter().flatten().collect();
    (!words.is_empty()).then(|| words.join(", "))
}

/// The event's summary with the few words in brackets before it.
pub(crate) fn before_summary(event: &proto::Event) -> String {
    match of(event) {
        Some(words) => format!("[{words}] {}", event.summary),
        None => event.summary.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(kind: &str, reason: Option<&str>, attributes: &str, expected: &str) {
        let event = proto::Event {
            kind: kind.into(),
            reason: reason.map(Into::into),
            attributes: attributes.into(),
            summary: "s".into(),
            ..Default::default()
        };
        assert_eq!(before_summary(&event), expected);
    }

    #[test]
    fn each_kind_has_its_words() {
        check(
            "oom_kill",
            None,
            r#"{"aftertrace.oom.role":"group","aftertrace.oom.level":"pod"}"#,
            "[group, level pod] s",
        );
        check(
            "oom_episode",
            None,
            r#"{"aftertrace.oom.constraint":"memcg","aftertrace.oom.level":"unknown"}"#,
            "[memcg, level unknown] s",
        );
        check(
            "config_stale",
            Some("not_reopened"),
            r#"{"aftertrace.stale.after_s":30}"#,
            "[not_reopened, after 30 s] s",
        );
        check("config_watched", Some("deaf"), "{}", "[deaf] s");
        let result = |result: &str| format!(r#"{{"aftertrace.signal.result":"{result}"}}"#);
        check("process_killed", Some("SIGKILL"), &result("delivered"), "[SIGKILL] s");
        check("process_killed", Some("SIGTERM"), &result("ignored"), "[SIGTERM, ignored] s");
        check("memory_pressure", None, r#"{"aftertrace.pressure.reason":"run_up"}"#, "[run_up] s");
    }

    #[test]
    fn what_is_not_known_leaves_no_brackets() {
        check("oom_kill", None, "", "s");
        check("oom_kill", None, "no json", "s");
        check("container_terminated", Some("OOMKilled"), "{}", "s");
    }

    #[test]
    fn processes() {
        let attributes = Attributes::of(&proto::Event {
            attributes: r#"{"process.command":"memhog"}"#.into(),
            ..Default::default()
        });
        assert_eq!(attributes.process("process.command", Some(7)), "memhog (7)");
        assert_eq!(attributes.process("process.command", None), "memhog");
        assert_eq!(attributes.process("other", Some(7)), "pid 7");
        assert_eq!(attributes.process("other", None), "");
    }
}
