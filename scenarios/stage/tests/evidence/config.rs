//! Configuration cases. (Rows of the kinds about configuration.)

use aftertrace_model::Event;

/// One event as one line.
pub(crate) fn line(event: &Event, who: &str) -> String {
    format!("{} {who}", event.kind)
}
