//! `aft at`: the state of an object at a time.

use aftertrace_api::proto::{ObjectVersion, StateAtRequest, StateAtResponse};
use serde_json::Value;

use super::Context;
use crate::args::ObjectName;
use crate::error::{Error, Outcome};
use crate::table::table;
use crate::term::{BOLD, DIM, RED, YELLOW, safe, styled};
use crate::{json, listing};

/// Levels of the state that are taken apart; what lies deeper is shown as JSON. A pod's statuses have six.
const LEVELS_MAX: usize = 12;

/// Asks for the version of `object` that was in force at `time`. Found means that one was known.
pub(crate) async fn run(context: &Context, time: &str, object: ObjectName) -> Result<Outcome, Error> {
    context.refuse_dot()?;
    let at_us = context.micros(Some(time))?;
    let namespace = context.global.namespace_or_default();
    let about = format!("{}/{} -n {namespace}", object.kind.to_lowercase(), object.name);
    let request = StateAtRequest { kind: object.kind, namespace, name: object.name, at_us };
    let (aggregator, mut client) = context.connect().await?;
    let answer = client.state_at(request).await.map_err(|s| aggregator.refused(&s))?.into_inner();
    let at = context.clock.instant(at_us.unwrap_or_else(|| context.clock.now.timestamp().as_microsecond()));
    let title = format!("{about} at {at}");
    context.print(|| json::encode(&json::state_at(&answer)), || draw(&answer, &title, context))?;
    Ok(if answer.version.is_some() { Outcome::Found } else { Outcome::NothingFound })
}

fn draw(answer: &StateAtResponse, title: &str, context: &Context) -> String {
    let width = context.screen.width;
    let mut out = styled(BOLD, &safe(title)) + "\n";
    match &answer.version {
        Some(version) => out.push_str(&draw_version(version, answer.valid_to_us, context)),
        None => {
            let because = match answer.not_found_because.as_str() {
                "" => "nothing was recorded of it before that time",
                because => because,
            };
            listing::paragraph(
                &format!("No state is known, because {}", safe(because)),
                YELLOW,
                width,
                &mut out,
            );
        }
    }
    listing::gaps(&answer.gaps, &context.clock, width, &mut out);
    listing::as_of(answer.as_of.as_ref(), &context.clock, &mut out);
    out
}

fn draw_version(version: &ObjectVersion, valid_to_us: Option<i64>, context: &Context) -> String {
    let until = match valid_to_us {
        Some(us) => format!("until {}", context.clock.instant(us)),
        None => "still in force".to_owned(),
    };
    let text = format!(
        "version {} of uid {}, from {}, {until}",
        safe(&version.resource_version),
        safe(&version.uid),
        context.clock.instant(version.valid_from_us)
    );
    let mut out = styled(DIM, &text) + "\n";
    if version.deleted {
        out.push_str(&styled(RED, "The object was deleted; below is its last state."));
        out.push('\n');
    }
    let mut rows = Vec::new();
    match serde_json::from_str(&version.state) {
        Ok(state) => flatten(String::new(), &state, LEVELS_MAX, &mut rows),
        Err(_) if version.state.is_empty() => {}
        Err(_) => rows.push((String::new(), version.state.clone())),
    }
    if let Some(content) = &version.content {
        rows.extend(content.keys.iter().map(|(key, hash)| (format!("data[{key}]"), format!("hash {hash}"))));
    }
    if !rows.is_empty() {
        let rows = rows.into_iter().map(|(path, value)| {
            let changed = version.changed_paths.iter().any(|p| is_within(&path, p));
            vec![if changed { "*".to_owned() } else { String::new() }, path, value]
        });
        out.push('\n');
        out.push_str(&table(&["", "FIELD", "VALUE"], rows, context.screen.width));
    }
    if !version.changed_paths.is_empty() {
        let paths: Vec<String> = version.changed_paths.iter().map(|p| safe(p)).collect();
        let text = format!("* changed by this version: {}", paths.join(", "));
        listing::paragraph(&text, DIM, context.screen.width, &mut out);
    }
    out
}

/// Fields by path, in the order of the document: `status.containerStatuses[0].restartCount` and its value.
fn flatten(path: String, value: &Value, levels: usize, rows: &mut Vec<(String, String)>) {
    match value {
        Value::Object(fields) if !fields.is_empty() && levels > 0 => {
            for (name, value) in fields {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                flatten(path, value, levels - 1, rows);
            }
        }
        Value::Array(items) if !items.is_empty() && levels > 0 => {
            for (n, value) in items.iter().enumerate() {
                flatten(format!("{path}[{n}]"), value, levels - 1, rows);
            }
        }
        Value::String(text) => rows.push((path, text.clone())),
        other => rows.push((path, other.to_string())),
    }
}

/// Whether `path` is `changed` or lies within it. A leading `$` or `.` of a JSON path does not count.
fn is_within(path: &str, changed: &str) -> bool {
    let changed = changed.trim_start_matches(['$', '.']);
    path.strip_prefix(changed).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_becomes_paths() {
        let state = serde_json::json!({"a": {"b": [1, {"c": "x"}], "d": {}}, "e": null});
        let mut rows = Vec::new();
        flatten(String::new(), &state, LEVELS_MAX, &mut rows);
        let rows: Vec<_> = rows.iter().map(|(p, v)| (p.as_str(), v.as_str())).collect();
        assert_eq!(rows, [("a.b[0]", "1"), ("a.b[1].c", "x"), ("a.d", "{}"), ("e", "null")]);
    }

    #[test]
    fn deep_state_ends() {
        let deep = (0..60).fold(Value::from(1), |v, _| serde_json::json!({ "x": v }));
        let mut rows = Vec::new();
        flatten(String::new(), &deep, LEVELS_MAX, &mut rows);
        assert_eq!(rows.len(), 1);
        assert_eq!(rows[0].0.matches('x').count(), LEVELS_MAX);
    }

    #[test]
    fn changed_paths() {
        assert!(is_within("status.phase", "status.phase"));
        assert!(is_within("status.containerStatuses[0].ready", "$.status.containerStatuses"));
        assert!(!is_within("status.phaseX", "status.phase"));
    }
}
