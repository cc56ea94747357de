//! An answer's facts and edges → a forest in which every fact stands once, beneath its nearest cause.
//!
//! The answer is a directed graph; a terminal shows a tree. So each fact hangs beneath the last of its causes,
//! an edge is left out where a chain of other edges says the same (A→C beside A→B→C), and what remains is
//! listed as further causes. Nothing here trusts the answer to be free of cycles, doubles or missing facts.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use aftertrace_api::proto;

/// Most ancestors that are walked to find out whether an edge says nothing new. Beyond that the edge is shown:
/// a chain that long is no chain of ours (the server follows 8 edges unless asked for more).
const ANCESTORS_MAX: usize = 4_096;

/// A fact as far as the answer knows it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Node<'a> {
    /// The event's id.
    pub(crate) id: &'a [u8],
    /// Its kind.
    pub(crate) kind: &'a str,
    /// Best estimate of its time.
    pub(crate) at_us: i64,
    /// Its summary; empty where only an edge still names it.
    pub(crate) summary: &'a str,
    /// The event; `None` where it is no longer stored and an edge names it.
    pub(crate) event: Option<&'a proto::Event>,
}

/// A fact at its place in the forest.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Place<'a> {
    /// The fact.
    pub(crate) node: Node<'a>,
    /// Edges from the fact above, the surest first; none for a root.
    pub(crate) causes: Vec<&'a proto::Edge>,
    /// Edges from causes that stand elsewhere and are not among the ancestors of another cause.
    pub(crate) further: Vec<&'a proto::Edge>,
    /// For each level from the root's children down to this fact: whether a sibling follows.
    pub(crate) sibling_follows: Vec<bool>,
    /// Whether effects stand beneath.
    pub(crate) has_effects: bool,
}

/// The facts of an answer by id, in order of time; facts that only edges name are among them.
pub(crate) fn nodes(answer: &proto::WhyResponse) -> Vec<Node<'_>> {
    let mut by_id: BTreeMap<&[u8], Node<'_>> = BTreeMap::new();
    for e in &answer.events {
        by_id.entry(&e.event_id).or_insert(Node {
            id: &e.event_id,
            kind: &e.kind,
            at_us: e.occurred_at_us,
            summary: &e.summary,
            event: Some(e),
        });
    }
    for e in &answer.edges {
        by_id.entry(&e.cause_id).or_insert(Node {
            id: &e.cause_id,
            kind: &e.cause_kind,
            at_us: e.cause_occurred_at_us,
            summary: &e.cause_summary,
            event: None,
        });
        by_id.entry(&e.effect_id).or_insert(Node {
            id: &e.effect_id,
            kind: &e.effect_kind,
            at_us: e.effect_occurred_at_us,
            summary: "",
            event: None,
        });
    }
    let mut nodes: Vec<_> = by_id.into_values().collect();
    nodes.sort_by_key(|n| (n.at_us, n.id));
    nodes
}

/// The forest in the order in which it is printed: roots by time, each followed by what hangs beneath it.
pub(crate) fn forest(answer: &proto::WhyResponse) -> Vec<Place<'_>> {
    let nodes = nodes(answer);
    let index: BTreeMap<&[u8], usize> = nodes.iter().enumerate().map(|(i, n)| (n.id, i)).collect();
    let mut edges: Vec<(usize, usize, &proto::Edge)> = answer
        .edges
        .iter()
        .map(|e| (index[e.cause_id.as_slice()], index[e.effect_id.as_slice()], e))
        .filter(|(cause, effect, _)| cause != effect)
        .collect();
    edges.sort_by_key(|(_, _, e)| (std::cmp::Reverse(grade_rank(&e.grade)), &e.rule_id));
    let order = causal_order(nodes.len(), &edges);
    let mut causes: Vec<Vec<(usize, &proto::Edge)>> = vec![Vec::new(); nodes.len()];
    for (cause, effect, edge) in &edges {
        if order[*cause] < order[*effect] {
            causes[*effect].push((*cause, edge));
        }
    }

    let mut effects: Vec<Vec<usize>> = vec![Vec::new(); nodes.len()];
    let mut places: Vec<Option<Place<'_>>> = Vec::with_capacity(nodes.len());
    let mut roots = Vec::new();
    for (i, node) in nodes.into_iter().enumerate() {
        // The last cause in causal order cannot be an ancestor of another cause, so it is never left out.
        let nearest = causes[i].iter().map(|(cause, _)| *cause).max_by_key(|cause| order[*cause]);
        match nearest {
            Some(cause) => effects[cause].push(i),
            None => roots.push(i),
        }
        let implied = ancestors_of_causes(i, &causes);
        let (above, elsewhere): (Vec<_>, Vec<_>) =
            causes[i].iter().partition(|(cause, _)| Some(*cause) == nearest);
        places.push(Some(Place {
            node,
            causes: above.into_iter().map(|(_, e)| e).collect(),
            further: elsewhere
                .into_iter()
                .filter(|(cause, _)| !implied.contains(cause))
                .map(|(_, e)| e)
                .collect(),
            sibling_follows: Vec::new(),
            has_effects: false,
        }));
    }

    // Depth first with a stack of our own: how deep an answer goes is not ours to trust.
    let mut out = Vec::with_capacity(places.len());
    let mut stack: Vec<(usize, Vec<bool>)> = roots.into_iter().rev().map(|i| (i, Vec::new())).collect();
    while let Some((i, sibling_follows)) = stack.pop() {
        let Some(mut place) = places[i].take() else { continue };
        effects[i].sort_by_key(|e| order[*e]);
        place.has_effects = !effects[i].is_empty();
        for (n, effect) in effects[i].iter().enumerate().rev() {
            let mut levels = sibling_follows.clone();
            levels.push(n + 1 < effects[i].len());
            stack.push((*effect, levels));
        }
        place.sibling_follows = sibling_follows;
        out.push(place);
    }
    out
}

/// Higher is surer; a grade that this version does not know is last.
fn grade_rank(grade: &str) -> u8 {
    aftertrace_api::convert::grade(grade).map_or(0, |g| g as u8 + 1)
}

/// The rank of each node in an order where causes precede effects and time decides otherwise (nodes are
/// numbered by time). A cycle is opened at its earliest fact.
fn causal_order(count: usize, edges: &[(usize, usize, &proto::Edge)]) -> Vec<usize> {
    let mut waits_for = vec![0_usize; count];
    let mut effects: Vec<Vec<usize>> = vec![Vec::new(); count];
    for (cause, effect, _) in edges {
        waits_for[*effect] += 1;
        effects[*cause].push(*effect);
    }
    let mut remaining: BTreeSet<usize> = (0..count).collect();
    let mut ready: BTreeSet<usize> = (0..count).filter(|i| waits_for[*i] == 0).collect();
    let mut rank = vec![0; count];
    for next in 0..count {
        let Some(i) = ready.pop_first().or_else(|| remaining.first().copied()) else { break };
        remaining.remove(&i);
        rank[i] = next;
        for effect in &effects[i] {
            waits_for[*effect] -= 1;
            if waits_for[*effect] == 0 && remaining.contains(effect) {
                ready.insert(*effect);
            }
        }
    }
    rank
}

/// What leads to the causes of `effect`, without those that lead to it only directly.
fn ancestors_of_causes(effect: usize, causes: &[Vec<(usize, &proto::Edge)>]) -> HashSet<usize> {
    let mut seen = HashSet::new();
    if causes[effect].len() < 2 {
        return seen;
    }
    let mut stack: Vec<usize> = causes[effect].iter().map(|(cause, _)| *cause).collect();
    while let Some(i) = stack.pop() {
        for (cause, _) in &causes[i] {
            if seen.len() >= ANCESTORS_MAX {
                return seen;
            }
            if seen.insert(*cause) {
                stack.push(*cause);
            }
        }
    }
    seen
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Facts `0, 1, …` a second apart, and edges as `cause>effect`; expected: one line per place, indented by
    /// depth, with further causes behind `+`.
    fn check(facts: u8, edges: &str, expected: &[&str]) {
        let answer = proto::WhyResponse {
            events: (0..facts)
                .map(|n| proto::Event {
                    event_id: vec![n],
                    kind: "k".into(),
                    occurred_at_us: i64::from(n),
                    ..Default::default()
                })
                .collect(),
            edges: edges
                .split_whitespace()
                .map(|e| {
                    let (cause, effect) = e.split_once('>').expect("cause>effect");
                    let id = |text: &str| vec![text.parse::<u8>().expect("a number")];
                    proto::Edge {
                        cause_id: id(cause),
                        effect_id: id(effect),
                        cause_summary: "from the edge".into(),
                        ..Default::default()
                    }
                })
                .collect(),
            ..Default::default()
        };
        let printed: Vec<String> = forest(&answer)
            .iter()
            .map(|p| {
                let indent = " ".repeat(p.sibling_follows.len());
                let further: String = p.further.iter().map(|e| format!(" +{}", e.cause_id[0])).collect();
                format!("{indent}{}{further}", p.node.id[0])
            })
            .collect();
        assert_eq!(printed, expected, "{edges}");
    }

    #[test]
    fn chains_trees_and_forests() {
        check(3, "0>1 1>2", &["0", " 1", "  2"]);
        check(4, "0>1 0>2 2>3", &["0", " 1", " 2", "  3"]);
        check(4, "0>1 2>3", &["0", " 1", "2", " 3"]);
        check(2, "", &["0", "1"]);
    }

    #[test]
    fn what_a_chain_says_already_is_left_out() {
        check(3, "0>1 1>2 0>2", &["0", " 1", "  2"]);
        check(4, "0>1 1>2 2>3 0>3 1>3", &["0", " 1", "  2", "   3"]);
    }

    #[test]
    fn of_several_causes_the_nearest_bears_the_effect() {
        check(4, "0>1 0>2 1>3 2>3", &["0", " 1", " 2", "  3 +1"]);
        check(3, "0>2 1>2", &["0", "1", " 2 +0"]);
    }

    #[test]
    fn an_effect_slightly_before_its_cause_still_hangs_beneath_it() {
        check(2, "1>0", &["1", " 0"]);
    }

    #[test]
    fn cycles_doubles_and_loops_end() {
        check(2, "0>1 1>0 0>0", &["0", " 1"]);
        check(3, "0>1 1>2 2>0", &["0", " 1", "  2"]);
        check(2, "0>1 0>1", &["0", " 1"]);
        check(4, "0>1 2>1 1>2 2>3", &["0", " 1", "  2", "   3"]);
    }

    #[test]
    fn facts_that_only_an_edge_names_are_there() {
        check(1, "7>0", &["7", " 0"]);
        check(0, "", &[]);
    }
}
