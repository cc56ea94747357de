//! Patterns: the chains that people ask for, as data.
//!
//! A pattern names its anchor, the fact that one occurrence is counted by, and the steps around it. The
//! engine's rules carry a pattern's id; a test here holds the two together.

use serde::Serialize;

use crate::{Kind, attribute};

/// What a step is to the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Comes before and makes it likely.
    Precursor,
    /// Sets it off.
    Trigger,
    /// Follows from it.
    Effect,
}

/// One step of a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// The kind of fact.
    pub kind: Kind,
    /// What it is to the chain.
    pub role: Role,
    /// Whether the chain may lack it.
    pub optional: bool,
}

/// A named chain of facts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Pattern {
    /// Such as `P001`.
    pub id: &'static str,
    /// A few words.
    pub name: &'static str,
    /// The fact by which occurrences are counted.
    pub anchor: Kind,
    /// An attribute and the value that the anchor must have there, if any will not do.
    pub anchor_with: Option<(&'static str, &'static str)>,
    /// From cause to effect.
    pub steps: &'static [Step],
    /// What usually helps, in the order to try it.
    pub remediation: &'static [&'static str],
}

const fn step(kind: Kind, role: Role) -> Step {
    Step { kind, role, optional: false }
}

const fn optional(kind: Kind, role: Role) -> Step {
    Step { kind, role, optional: true }
}

/// Every pattern, by id.
pub const PATTERNS: &[Pattern] = &[
    Pattern {
        id: "P001",
        name: "OOM kill",
        anchor: Kind::OomKill,
        anchor_with: None,
        steps: &[
            optional(Kind::MemoryPressure, Role::Precursor),
            step(Kind::OomEpisode, Role::Trigger),
            step(Kind::OomKill, Role::Trigger),
            optional(Kind::ProcessExited, Role::Effect),
            optional(Kind::ContainerTerminated, Role::Effect),
            optional(Kind::ContainerWaiting, Role::Effect),
            optional(Kind::ContainerStarted, Role::Effect),
        ],
        remediation: &[
            "raise the memory limit of the container whose level fired",
            "look for what grew in the minute before the kill",
            "let a vertical autoscaler recommend a request and a limit",
        ],
    },
    Pattern {
        id: "P003",
        name: "ConfigMap mount swap",
        anchor: Kind::ConfigSwapped,
        anchor_with: None,
        steps: &[
            step(Kind::ConfigChanged, Role::Trigger),
            step(Kind::ConfigSwapped, Role::Effect),
            optional(Kind::ConfigNotified, Role::Effect),
            optional(Kind::ConfigRead, Role::Effect),
            optional(Kind::ConfigWatched, Role::Effect),
            optional(Kind::ConfigStale, Role::Effect),
        ],
        remediation: &[
            "check that the application watches the directory, not the file",
            "restart the workload if it read the file only at start",
        ],
    },
    Pattern {
        id: "P006",
        name: "Killed by a signal",
        anchor: Kind::ProcessKilled,
        // A signal that the process ignores kills nobody.
        anchor_with: Some((attribute::SIGNAL_RESULT, attribute::SIGNAL_DELIVERED)),
        steps: &[
            step(Kind::ProcessKilled, Role::Trigger),
            optional(Kind::ProcessExited, Role::Effect),
            optional(Kind::ContainerTerminated, Role::Effect),
        ],
        remediation: &[
            "look at the sender: a kubelet or runtime ends containers for failed probes, evictions and deletions",
            "let the program end on SIGTERM within its grace period if SIGKILL followed",
            "look for a memory killer in user space (systemd-oomd and the like) if the sender is one",
        ],
    },
];

/// The pattern of that id, in any case of letters.
#[must_use]
pub fn by_id(id: &str) -> Option<&'static Pattern> {
    PATTERNS.iter().find(|p| p.id.eq_ignore_ascii_case(id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rule::RULES;

    #[test]
    fn every_rule_joins_two_steps_of_its_pattern_in_order() {
        for rule in RULES {
            let pattern = by_id(rule.pattern).expect("a rule names a pattern that exists");
            let place = |kind| pattern.steps.iter().position(|s| s.kind == kind);
            let (cause, effect) = (place(rule.cause), place(rule.effect));
            assert!(cause.is_some() && cause < effect, "{} is out of step with {}", rule.id, pattern.id);
        }
    }

    #[test]
    fn every_step_is_reached_by_a_rule() {
        for pattern in PATTERNS {
            for step in pattern.steps {
                let joined = RULES
                    .iter()
                    .any(|r| r.pattern == pattern.id && (r.cause == step.kind || r.effect == step.kind));
                assert!(joined, "no rule ever joins {} in {}", step.kind, pattern.id);
            }
        }
    }
}
