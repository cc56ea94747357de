//! Configuration: which change a swap shows, and what followed from a swap.

use super::{Verdict, shared};
use crate::attribute::{self, text};
use crate::config::Comparison;
use crate::{Event, Grade};

/// How long a kubelet may take from an API change to the swap where content cannot be compared: its sync
/// period and cache, 62–82 s as recorded, doubled for slow nodes. A guess beyond the recordings.
const SWAP_WINDOW_US: i64 = 180_000_000;

/// Confidence that the last change before a swap is the one it shows, when content cannot be compared: two
/// changes within one sync period are rare. A prior, not yet calibrated on outcomes.
const SWAP_CONFIDENCE: f64 = 0.7;

/// A swap shows a change if the files hash like that version. A version with another content is ruled out;
/// only where hashes cannot be compared does the time decide.
pub(super) fn swap_shows_change(change: &Event, swap: &Event) -> Option<Verdict> {
    let version = change.object.as_ref().and_then(|o| o.resource_version.as_deref());
    let uid = change.object.as_ref().and_then(|o| o.uid.as_deref());
    let compared = match (&swap.content, &change.content) {
        (Some(part), Some(whole)) => part.compare_with(whole),
        _ => Comparison::Incomparable,
    };
    match compared {
        Comparison::Same => Some(Verdict {
            grade: Grade::Identified,
            confidence: None,
            evidence: shared(&[
                ("object.uid", uid),
                ("resource_version", version),
                ("content", Some("equal keyed hashes")),
                ("key_id", swap.content.as_ref().map(|c| c.key_id.as_str())),
            ]),
        }),
        Comparison::Different => None,
        Comparison::Incomparable => {
            let lag = swap.occurred.at.micros_since(change.occurred.at);
            (lag <= SWAP_WINDOW_US).then(|| Verdict {
                grade: Grade::Inferred,
                confidence: Some(SWAP_CONFIDENCE),
                evidence: shared(&[
                    ("object.uid", uid),
                    ("resource_version", version),
                    ("content", Some("hash unavailable")),
                ]),
            })
        }
    }
}

/// Both are of one generation of one pod's volume, a directory that exists once. A projected volume shows
/// several objects and has a swap for each; where both facts name an object it must be the same one.
pub(super) fn follows_swap(swap: &Event, effect: &Event) -> Option<Verdict> {
    if let (Some(swapped), Some(object)) = (&swap.object, &effect.object)
        && (&swapped.kind, &swapped.namespace, &swapped.name)
            != (&object.kind, &object.namespace, &object.name)
    {
        return None;
    }
    let object = swap.object.as_ref().map(|o| format!("{} {}/{}", o.kind, o.namespace, o.name));
    Some(Verdict {
        grade: Grade::Proven,
        confidence: None,
        evidence: shared(&[
            ("k8s.pod.uid", swap.pod_uid()),
            (attribute::VOLUME_NAME, text(swap, attribute::VOLUME_NAME)),
            (attribute::VOLUME_GENERATION, text(swap, attribute::VOLUME_GENERATION)),
            ("object", object.as_deref()),
            (attribute::FILE, text(effect, attribute::FILE)),
            ("reason", effect.reason.as_deref()),
        ]),
    })
}
