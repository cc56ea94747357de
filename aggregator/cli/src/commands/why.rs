//! `aft why`: the causal tree.

use aftertrace_api::proto::WhyRequest;

use super::Context;
use crate::args::{Format, PodName, Subject};
use crate::error::{Error, Outcome};
use crate::{dot, json, tree};

/// Asks for the causes of `subject`. Found means that there is a fact, and a cause of it.
pub(crate) async fn run(context: &Context, subject: Subject, depth: Option<u32>) -> Result<Outcome, Error> {
    let mut request = WhyRequest { depth_max: depth.unwrap_or(0), ..WhyRequest::default() };
    let about = match subject {
        Subject::Pod(PodName(pod)) => {
            request.namespace = context.global.namespace_or_default();
            let about = format!("pod/{pod} -n {}", request.namespace);
            request.pod = pod;
            about
        }
        Subject::Event(id) => {
            request.event_id = id.0.as_bytes().to_vec();
            format!("event {id}")
        }
    };
    let (aggregator, mut client) = context.connect().await?;
    let answer = client.why(request).await.map_err(|s| aggregator.refused(&s))?.into_inner();
    let text = match context.global.output {
        Format::Table | Format::Wide => {
            let view = tree::View { width: context.screen.width, is_wide: context.is_wide() };
            tree::draw(&answer, &about, &context.clock, view)
        }
        Format::Json => json::encode(&json::why(&answer)),
        Format::Dot => dot::draw(&answer, &context.clock),
    };
    context.screen.print(&text).map_err(Error::Output)?;
    let found = !answer.anchor_id.is_empty() && answer.no_cause_because.is_empty();
    Ok(if found { Outcome::Found } else { Outcome::NothingFound })
}
