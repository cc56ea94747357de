//! The answer to `why` → Graphviz. Every edge is drawn, those that the tree leaves out too.

use aftertrace_api::proto;

use crate::clock::{self, Clock};
use crate::graph;
use crate::json::id;
use crate::term::safe;

/// A digraph from left to right; the fact asked about has a double border.
pub(crate) fn draw(answer: &proto::WhyResponse, clock: &Clock) -> String {
    let mut out = String::from("digraph why {\n  rankdir=LR;\n  node [shape=box];\n");
    for node in graph::nodes(answer) {
        let label = format!("{}\n{}\n{}", clock.instant(node.at_us), safe(node.kind), safe(node.summary));
        let border = if node.id == answer.anchor_id { ", peripheries=2" } else { "" };
        out.push_str(&format!("  {} [label={}{border}];\n", quoted(&id(node.id)), quoted(&label)));
    }
    for edge in &answer.edges {
        let label = format!("{}\n{}\n{}", safe(&edge.grade), safe(&edge.rule_id), clock::lag(edge.lag_us));
        out.push_str(&format!(
            "  {} -> {} [label={}];\n",
            quoted(&id(&edge.cause_id)),
            quoted(&id(&edge.effect_id)),
            quoted(&label)
        ));
    }
    out.push_str("}\n");
    out
}

/// A quoted string of Graphviz. A backslash of the text stays one; a newline of ours becomes `\n`.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    #[test]
    fn each_fact_and_edge_is_drawn_and_nothing_breaks_out() {
        let mut answer = fixture::oom_chain();
        answer.events[0].summary = "a \"quote\\\" and\na line".to_owned();
        let text = draw(&answer, &clock::fixed());
        assert_eq!(text.matches(" -> ").count(), answer.edges.len());
        assert_eq!(text.matches("peripheries=2").count(), 1);
        assert!(text.contains(r#"a \"quote\\\" and\\na line"#), "{text}");
    }
}
