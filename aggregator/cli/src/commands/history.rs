//! `aft history`: has this happened before, and to whom?

use aftertrace_api::proto::{HistoryRequest, HistoryResponse};
use aftertrace_model::pattern;

use super::{Context, timeline};
use crate::args::WorkloadName;
use crate::error::{Error, Outcome};
use crate::table::table;
use crate::term::{BOLD, YELLOW, safe, styled};
use crate::{json, listing};

/// What the command was given.
#[derive(Debug)]
pub(crate) struct Question {
    /// The pattern's id.
    pub(crate) pattern: String,
    /// Only this workload.
    pub(crate) workload: Option<WorkloadName>,
    /// Only this pod.
    pub(crate) pod: Option<String>,
    /// From, as written.
    pub(crate) since: Option<String>,
    /// Most occurrences.
    pub(crate) limit: Option<u32>,
}

/// Asks for occurrences. Found means that there is one. Without a namespace every namespace is asked about;
/// that of `--workload NAMESPACE/NAME` wins over `--namespace`.
pub(crate) async fn run(context: &Context, question: Question) -> Result<Outcome, Error> {
    context.refuse_dot()?;
    let (workload_namespace, workload) =
        question.workload.map_or((None, None), |w| (w.namespace, Some(w.name)));
    let request = HistoryRequest {
        pattern: pattern::by_id(&question.pattern).map_or(question.pattern, |p| p.id.to_owned()),
        namespace: workload_namespace.or_else(|| context.global.namespace.clone()).unwrap_or_default(),
        workload: workload.unwrap_or_default(),
        pod: question.pod.unwrap_or_default(),
        since_us: context.micros(question.since.as_deref())?,
        limit: question.limit.unwrap_or(0),
    };
    let id = request.pattern.clone();
    let (aggregator, mut client) = context.connect().await?;
    let answer = client.history(request).await.map_err(|s| aggregator.refused(&s))?.into_inner();
    context.print(|| json::encode(&json::history(&answer)), || draw(&answer, &id, context))?;
    Ok(if answer.total == 0 { Outcome::NothingFound } else { Outcome::Found })
}

fn draw(answer: &HistoryResponse, id: &str, context: &Context) -> String {
    let width = context.screen.width;
    let times = match answer.total {
        0 => "not once".to_owned(),
        1 => "once".to_owned(),
        n => format!("{n} times"),
    };
    let title = format!("{} {}: {times}", safe(id), safe(&answer.name));
    let mut out = styled(BOLD, &title) + "\n";
    if !answer.groups.is_empty() {
        let rows = answer.groups.iter().map(|g| {
            vec![
                g.namespace.clone(),
                g.workload.clone(),
                g.count.to_string(),
                context.clock.instant(g.first_us),
                context.clock.instant(g.last_us),
            ]
        });
        out.push('\n');
        out.push_str(&table(&["NAMESPACE", "WORKLOAD", "COUNT", "FIRST", "LAST"], rows, width));
    }
    if !answer.occurrences.is_empty() {
        out.push('\n');
        out.push_str(&timeline::events(&answer.occurrences, context));
    }
    let listed = u64::try_from(answer.occurrences.len()).unwrap_or(u64::MAX);
    if listed < answer.total {
        let text = format!("{listed} of {} are listed: the latest. Ask with --limit.", answer.total);
        listing::paragraph(&text, YELLOW, width, &mut out);
    }
    listing::gaps(&answer.gaps, &context.clock, width, &mut out);
    if answer.total > 0 {
        listing::remediation(&answer.remediation, width, &mut out);
    }
    listing::as_of(answer.as_of.as_ref(), &context.clock, &mut out);
    out
}
