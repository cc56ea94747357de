//! The causal graph around one fact: live edges backwards to the roots and forwards to the effects.
//!
//! Pure but for the question it asks about edges; [`super::why`] gives it the memory, tests a list.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use aftertrace_model::{Edge, EventId, Grade};

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

/// Follows edges from `anchor`, at most `depth_max` in each direction.
///
/// Backwards every cause. Forwards every effect of the anchor, and of its causes only what the same kernel
/// decision did (`proven`): the other victims of an OOM episode belong to the story, the other pods that one
/// ConfigMap reached do not.
pub(super) fn around<E>(
    anchor: EventId,
    depth_max: u32,
    mut edges_touching: impl FnMut(&[EventId]) -> Result<Vec<Arc<Edge>>, E>,
) -> Result<Chain, E> {
    let mut kept: BTreeMap<(EventId, EventId, String), Arc<Edge>> = BTreeMap::new();
    let mut has_cause = false;
    let mut causes = BTreeSet::from([anchor]);
    let mut effects = BTreeSet::from([anchor]);
    let mut frontier = vec![anchor];
    let keep = |kept: &mut BTreeMap<_, _>, edge: &Arc<Edge>| {
        if kept.len() < EDGES_MAX {
            kept.insert((edge.cause_id, edge.effect_id, edge.rule_id.clone()), Arc::clone(edge));
        }
    };
    for _ in 0..depth_max {
        let mut next = Vec::new();
        for edge in ordered(edges_touching(&frontier)?) {
            if frontier.contains(&edge.effect_id) {
                has_cause |= edge.effect_id == anchor;
                keep(&mut kept, &edge);
                if causes.insert(edge.cause_id) {
                    next.push(edge.cause_id);
                }
            } else if edge.cause_id != anchor && edge.grade == Grade::Proven {
                keep(&mut kept, &edge);
                effects.insert(edge.effect_id);
            }
        }
        frontier = next;
        if frontier.is_empty() {
            break;
        }
    }
    let mut frontier: Vec<_> = effects.iter().copied().collect();
    for _ in 0..depth_max {
        let mut next = Vec::new();
        for edge in ordered(edges_touching(&frontier)?) {
            if frontier.contains(&edge.cause_id) {
                keep(&mut kept, &edge);
                if effects.insert(edge.effect_id) {
                    next.push(edge.effect_id);
                }
            }
        }
        frontier = next;
        if frontier.is_empty() {
            break;
        }
    }
    Ok(Chain { edges: ordered(kept.into_values().collect()), has_cause })
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
    use aftertrace_model::{Kind, Timestamp};
    use std::convert::Infallible;
    use uuid::Uuid;

    fn id(n: u128) -> EventId {
        EventId(Uuid::from_u128(n))
    }

    fn edge(cause: u128, effect: u128, grade: Grade) -> Arc<Edge> {
        Arc::new(Edge {
            cause_id: id(cause),
            effect_id: id(effect),
            pattern: "P001".to_owned(),
            rule_id: "r".to_owned(),
            grade,
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
        use Grade::{Identified, Inferred, Proven};
        // pressure 1 → episode 2 → kills 3 and 4 → terminated 5 (of 3) and 6 (of 4) → started 7 (after 5)
        let edges = [
            edge(1, 2, Inferred),
            edge(2, 3, Proven),
            edge(2, 4, Proven),
            edge(3, 5, Identified),
            edge(4, 6, Identified),
            edge(5, 7, Identified),
        ];
        let all = [(1, 2), (2, 3), (2, 4), (3, 5), (4, 6), (5, 7)];
        assert!(check(&edges, 5, 8, &all), "from the middle");
        assert!(check(&edges, 3, 8, &all), "from a kill");
        assert!(!check(&edges, 1, 8, &all), "the root has no cause");
        assert!(check(&edges, 5, 1, &[(3, 5), (5, 7)]), "one edge each way");
    }

    #[test]
    fn other_pods_of_one_change_are_another_story() {
        use Grade::Identified;
        let edges = [edge(1, 2, Identified), edge(1, 3, Identified), edge(1, 4, Identified)];
        assert!(check(&edges, 3, 8, &[(1, 3)]));
        assert!(!check(&edges, 1, 8, &[(1, 2), (1, 3), (1, 4)]), "unless the change is asked about");
    }

    #[test]
    fn a_circle_ends() {
        let edges = [edge(1, 2, Grade::Proven), edge(2, 1, Grade::Proven)];
        check(&edges, 1, u32::MAX, &[(2, 1), (1, 2)]);
    }
}
