//! What the agent can and cannot see, for `aft status`.

use aftertrace_api::proto;

use crate::draft::Origin;
use crate::kernel::{HookError, Subject, SubjectStatus, Tier};

/// This program's version.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The changing part of a status.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Figures {
    /// Items that are not acknowledged.
    pub(crate) spool_items: u64,
    /// Bytes of the spool on disk.
    pub(crate) spool_bytes: u64,
    /// Pods known and not deleted.
    pub(crate) pods: u32,
    /// `ok`, or why not.
    pub(crate) watch: String,
    /// Half-width of the bound on boot-to-wall conversion.
    pub(crate) clock_error_ns: u64,
}

/// The status as it goes to the aggregator. `trouble` is what concerns no subject of kernel evidence.
pub(crate) fn message(
    origin: &Origin,
    mut subjects: Vec<proto::Subject>,
    figures: &Figures,
    trouble: &[String],
) -> proto::AgentStatus {
    if !trouble.is_empty() {
        subjects.push(proto::Subject {
            name: "agent".to_owned(),
            tier: "none".to_owned(),
            hooks: Vec::new(),
            missing: trouble.to_vec(),
        });
    }
    proto::AgentStatus {
        node: origin.node.clone(),
        version: VERSION.to_owned(),
        subjects,
        spool_items: figures.spool_items,
        spool_bytes: figures.spool_bytes,
        pods: figures.pods,
        watch: figures.watch.clone(),
        rss_bytes: rss_bytes(),
        clock_error_ns: figures.clock_error_ns,
    }
}

/// A subject as the kernel's side reports it.
pub(crate) fn subject(status: &SubjectStatus) -> proto::Subject {
    let hooks = status.missing_hooks.iter().filter(|h| {
        // A call that this architecture lacks is no loss while the subject is observed by its others.
        status.tier.is_none() || !matches!(h.error, HookError::Absent)
    });
    let mut missing: Vec<String> = hooks
        .map(|h| crate::draft::text(&format!("{}: {}", h.hook, crate::watch::chain(&h.error))))
        .collect();
    let blind = status.tier.map_or(&[][..], |tier| status.subject.blind_spots(tier));
    missing.extend(blind.iter().map(|spot| format!("not seen in this tier: {spot}")));
    missing.extend(status.missing_facts.iter().map(|f| crate::draft::text(&f.to_string())));
    proto::Subject {
        name: status.subject.as_str().to_owned(),
        tier: status.tier.map_or("none", Tier::as_str).to_owned(),
        hooks: status.hooks.iter().map(|h| (*h).to_owned()).collect(),
        missing,
    }
}

/// Every subject of a kernel that could not be watched at all.
pub(crate) fn no_kernel(why: &str) -> Vec<proto::Subject> {
    Subject::ALL
        .map(|subject| proto::Subject {
            name: subject.as_str().to_owned(),
            tier: "none".to_owned(),
            hooks: Vec::new(),
            missing: vec![crate::draft::text(why)],
        })
        .to_vec()
}

/// Resident memory of this process; 0 where `/proc` does not tell.
fn rss_bytes() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm")
        .ok()
        .and_then(|statm| statm.split_whitespace().nth(1)?.parse::<u64>().ok());
    pages.unwrap_or(0) * rustix::param::page_size() as u64
}
