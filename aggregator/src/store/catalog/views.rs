//! The views: explicit lists of absolute paths, one comment per view and column.

use std::fmt::Write as _;

use aftertrace_model::pattern::PATTERNS;

use crate::store::manifest::{Manifest, Segment};
use crate::store::segments::{Segments, seed};
use crate::store::{Table, duck};

/// The order in which versions of one object follow each other. Two versions may share a time, then the
/// resourceVersion decides: as a number where it is one.
pub(in crate::store) const VERSION_ORDER: &str =
    "valid_from, try_cast(resource_version AS UBIGINT) NULLS FIRST, resource_version, deleted";

/// [`VERSION_ORDER`] backwards.
pub(in crate::store) const VERSION_ORDER_LAST_FIRST: &str = "valid_from DESC, \
     try_cast(resource_version AS UBIGINT) DESC NULLS LAST, resource_version DESC, deleted DESC";

/// `read_parquet` over the files of a table that pass; the zero-row file first, for its columns.
pub(in crate::store) fn scan(
    table: Table,
    manifest: &Manifest,
    segments: &Segments,
    pass: impl Fn(&Segment) -> bool,
) -> String {
    let mut sql = String::from("read_parquet([");
    sql.push_str(&duck::quote(&segments.path(&seed(table)).to_string_lossy()));
    for segment in manifest.of(table).filter(|s| pass(s)) {
        sql.push_str(", ");
        sql.push_str(&duck::quote(&segments.path(&segment.path).to_string_lossy()));
    }
    // The date in the path is a name for people, not a column.
    sql.push_str("], hive_partitioning = false)");
    sql
}

/// The condition that an edge `e` is not retracted, given a scan of retractions.
pub(in crate::store) fn not_retracted(retractions: &str) -> String {
    format!(
        "NOT EXISTS (SELECT 1 FROM {retractions} r WHERE r.cause_id = e.cause_id \
         AND r.effect_id = e.effect_id AND r.rule_id = e.rule_id)"
    )
}

pub(super) fn write(sql: &mut String, manifest: &Manifest, segments: &Segments) {
    let scan = |table| scan(table, manifest, segments, |_| true);
    view(sql, Table::Events.name(), &format!("SELECT * FROM {}", scan(Table::Events)), EVENTS);
    let live = not_retracted(Table::EdgeRetractions.name());
    let retractions = format!("SELECT * FROM {}", scan(Table::EdgeRetractions));
    view(sql, Table::EdgeRetractions.name(), &retractions, RETRACTIONS);
    let edges = format!("SELECT * FROM {} e WHERE {live}", scan(Table::Edges));
    view(sql, Table::Edges.name(), &edges, EDGES);
    let objects = format!(
        "SELECT *, lead(valid_from) OVER (PARTITION BY kind, namespace, name ORDER BY {VERSION_ORDER}) \
         AS valid_to FROM {}",
        scan(Table::Objects)
    );
    view(sql, Table::Objects.name(), &objects, OBJECTS);
    view(sql, Table::Gaps.name(), &format!("SELECT * FROM {}", scan(Table::Gaps)), GAPS);
    for table in Table::ALL {
        for column in table.columns() {
            comment(sql, table.name(), column.name, column.comment);
        }
    }
    comment(sql, Table::Objects.name(), "valid_to", VALID_TO);
    patterns(sql);
}

const EVENTS: &str = "Facts: what happened, when, to whom, and who says so. One row per fact";
const EDGES: &str = "Live edges: one fact caused another. Retracted edges are left out";
const RETRACTIONS: &str = "Edges that no longer hold because a better cause became known";
const OBJECTS: &str = "Versions of watched API objects; each holds from valid_from to valid_to";
const GAPS: &str = "Missing evidence: who lost it, between when, why, and how many";
const PATTERN_VIEW: &str = "The chains that people ask for";
const VALID_TO: &str = "When the next version of that name came into force; NULL if it is in force still";

fn view(sql: &mut String, name: &str, query: &str, meaning: &str) {
    let meaning = duck::quote(meaning);
    writeln!(sql, "CREATE VIEW {name} AS {query};\nCOMMENT ON VIEW {name} IS {meaning};").expect(FITS);
}

fn comment(sql: &mut String, view: &str, column: &str, meaning: &str) {
    writeln!(sql, "COMMENT ON COLUMN {view}.\"{column}\" IS {};", duck::quote(meaning)).expect(FITS);
}

fn patterns(sql: &mut String) {
    let rows: Vec<String> = PATTERNS
        .iter()
        .map(|p| {
            let steps = serde_json::to_string(p.steps).expect("steps are plain names");
            let remediation: Vec<String> = p.remediation.iter().map(|r| duck::quote(r)).collect();
            let maybe = |text: Option<&str>| text.map_or_else(|| "NULL".to_owned(), duck::quote);
            format!(
                "({}, {}, {}, {}, {}, {}, [{}])",
                duck::quote(p.id),
                duck::quote(p.name),
                duck::quote(p.anchor.as_str()),
                maybe(p.anchor_with.map(|(name, _)| name)),
                maybe(p.anchor_with.map(|(_, value)| value)),
                duck::quote(&steps),
                remediation.join(", ")
            )
        })
        .collect();
    let columns = [
        ("id", "Such as P001"),
        ("name", "A few words"),
        ("anchor", "The kind of fact by which occurrences are counted"),
        (
            "anchor_attribute",
            "An attribute that the anchor must have; NULL where every fact of its kind counts",
        ),
        ("anchor_value", "The value of that attribute"),
        ("steps", "From cause to effect: a JSON array of kind, role and optional"),
        ("remediation", "What usually helps, in the order to try it"),
    ];
    let names: Vec<String> = columns.iter().map(|(name, _)| format!("\"{name}\"")).collect();
    let query = format!("SELECT * FROM (VALUES {}) AS t({})", rows.join(", "), names.join(", "));
    view(sql, "patterns", &query, PATTERN_VIEW);
    for (name, meaning) in columns {
        comment(sql, "patterns", name, meaning);
    }
}

/// Why writing SQL text cannot fail.
const FITS: &str = "writing to a String does not fail";
