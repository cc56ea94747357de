//! The causal graph around one fact: live edges backwards to the roots and forwards to the effects.
//!
//! Pure but for the question it asks about edges; [`super::why`] gives it the memory, tests a list.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use aftertrace_model::{Edge, EventId};

/// Most edges in one answer: a tree that nobody reads to its end.
const EDGES_MAX: usize = 500;

/// The graph around an anchor.
#[derive(Clone, Debug, Default)]
pub(super) struct Chain {
    /// Live edges, by effect's time.
    pub(super) edges: Vec<Arc<Edge>>,
    /// Whether an edge leads to the anchor.
    pub(super) has_cause: bool,
}

/// Follows edges from `anchor`: every cause backwards and every effect forwards, at most `depth_max` each.
///
/// The effects of its causes are another story: one ConfigMap reaches many pods. The SQL macro `why` follows
/// the same edges.
pub(super) fn around<E>(
    anchor: EventId,
    depth_max: u32,
    mut edges_touching: impl FnMut(&[EventId]) -> Result<Vec<Arc<Edge>>, E>,
) -> Result<Chain, E> {
    let mut kept = BTreeMap::new();
    follow(anchor, depth_max, &mut kept, &mut edges_touching, |e| (e.effect_id, e.cause_id))?;
    let has_cause = !kept.is_empty();
    follow(anchor, depth_max, &mut kept, &mut edges_touching, |e| (e.cause_id, e.effect_id))?;
    Ok(Chain { edges: ordered(kept.into_values().collect()), has_cause })
}

/// Follows edges in the direction that `ends` gives as (from, to).
fn follow<E>(
    anchor: EventId,
    depth_max: u32,
    kept: &mut BTreeMap<(EventId, EventId, String), Arc<Edge>>,
    mut edges_touching: impl FnMut(&[EventId]) -> Result<Vec<Arc<Edge>>, E>,
    ends: impl Fn(&Edge) -> (EventId, EventId),
) -> Result<(), E> {
    let mut reached = BTreeSet::from([anchor]);
    let mut frontier = vec![anchor];
    for _ in 0..depth_max {
        let mut next = Vec::new();
        for edge in ordered(edges_touching(&frontier)?) {
            let (from, to) = ends(&edge);
            if !frontier.contains(&from) {
                continue;
            }
            if kept.len() >= EDGES_MAX {
                return Ok(());
            }
            kept.insert((edge.cause_id, edge.effect_id, edge.rule_id.clone()), edge);
            if reached.insert(to) {
                next.push(to);
            }
        }
        if next.is_empty() {
            break;
        }
        frontier = next;
    }
    Ok(())
}

fn ordered(mut edges: Vec<Arc<Edge>>) -> Vec<Arc<Edge>> {
    edges.sort_by(|a, b| {
        let key = |e: &Edge| (e.effect_occurred_at, e.effect_id, e.cause_occurred_at, e.cause_id);
        key(a).cmp(&key(b)).then_with(|| a.rule_id.cmp(&b.rule_id))
    });
    edges
}

#[cfg(test)]
mod tests {
    use super::*;
    use aftertrace_model::{Grade, Kind, Timestamp};
    use std::convert::Infallible;
    use uuid::Uuid;

    fn id(n: u128) -> EventId {
        EventId(Uuid::from_u128(n))
    }

    fn edge(cause: u128, effect: u128) -> Arc<Edge> {
        Arc::new(Edge {
            cause_id: id(cause),
            effect_id: id(effect),
            pattern: "P001".to_owned(),
            rule_id: "r".to_owned(),
            grade: Grade::Proven,
            confidence: None,
            lag_us: 1,
            evidence: Default::default(),
            cause_kind: Kind::OomEpisode,
            cause_occurred_at: Timestamp::from_micros(i64::try_from(cause).expect("small")),
            cause_summary: String::new(),
            effect_kind: Kind::OomKill,
            effect_occurred_at: Timestamp::from_micros(i64::try_from(effect).expect("small")),
            recorded_at: None,
        })
    }

    fn check(edges: &[Arc<Edge>], anchor: u128, depth: u32, expected: &[(u128, u128)]) -> bool {
        let touching = |ids: &[EventId]| -> Result<Vec<Arc<Edge>>, Infallible> {
            let touches = |e: &&Arc<Edge>| ids.contains(&e.cause_id) || ids.contains(&e.effect_id);
            Ok(edges.iter().filter(touches).cloned().collect())
        };
        let Ok(chain) = around(id(anchor), depth, touching);
        let found: Vec<_> =
            chain.edges.iter().map(|e| (e.cause_id.0.as_u128(), e.effect_id.0.as_u128())).collect();
        assert_eq!(found, expected);
        chain.has_cause
    }

    #[test]
    fn goes_back_to_the_roots_and_on_to_the_effects() {
        // pressure 1 → episode 2 → kills 3 and 4 → terminated 5 (by 3) → waiting 6 → started 7 (also by 5)
        let edges = [edge(1, 2), edge(2, 3), edge(2, 4), edge(3, 5), edge(5, 6), edge(5, 7), edge(6, 7)];
        let own = [(1, 2), (2, 3), (3, 5), (5, 6), (5, 7), (6, 7)];
        assert!(check(&edges, 5, 8, &own), "from the middle, without the other kill");
        assert!(check(&edges, 3, 8, &own), "from the kill");
        assert!(check(&edges, 4, 8, &[(1, 2), (2, 4)]), "from the other kill");
        assert!(check(&edges, 5, 1, &[(3, 5), (5, 6), (5, 7)]), "one edge each way");
        assert!(!check(&edges, 5, 0, &[]), "no edge");
    }

    #[test]
    fn other_pods_of_one_change_are_another_story() {
        let edges = [edge(1, 2), edge(1, 3), edge(1, 4)];
        assert!(check(&edges, 3, 8, &[(1, 3)]));
        assert!(!check(&edges, 1, 8, &[(1, 2), (1, 3), (1, 4)]), "unless the change is asked about");
    }

    #[test]
    fn a_circle_ends() {
        check(&[edge(1, 2), edge(2, 1)], 1, u32::MAX, &[(2, 1), (1, 2)]);
    }
}
