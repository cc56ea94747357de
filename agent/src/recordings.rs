//! Where the recorded watch streams and node evidence lie, for tests.

use std::path::PathBuf;

use k8s_openapi::api::core::v1::Pod;

/// The folder `recordings`, from `AFTERTRACE_SHARED` or `../shared` beside the workspace; `None`, said aloud,
/// where there is none.
pub(crate) fn root() -> Option<PathBuf> {
    let shared = std::env::var_os("AFTERTRACE_SHARED")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared"), PathBuf::from);
    let recordings = shared.join("recordings");
    if recordings.is_dir() {
        return Some(recordings);
    }
    eprintln!("SKIPPED: no recordings at {}; set AFTERTRACE_SHARED", recordings.display());
    None
}

/// One line of a recorded pod watch.
#[derive(Debug)]
pub(crate) struct Line {
    /// The pod as the API server sent it.
    pub(crate) pod: Box<Pod>,
    /// When the line arrived.
    pub(crate) arrived: aftertrace_model::Timestamp,
}

/// The recorded pod watch of one scenario, without bookmarks.
pub(crate) fn pod_watch(folder: &std::path::Path) -> Vec<Line> {
    let text = std::fs::read_to_string(folder.join("pods.watch.jsonl")).expect("a readable recording");
    let times = std::fs::read_to_string(folder.join("pods.watch.times")).expect("a readable recording");
    text.lines()
        .zip(times.lines())
        .filter_map(|(line, time)| {
            let mut value: serde_json::Value = serde_json::from_str(line).expect("recorded JSON");
            if value["type"] == "BOOKMARK" {
                return None;
            }
            let pod = serde_json::from_value(value["object"].take()).expect("a recorded pod");
            let ns: i64 = time.split_whitespace().next()?.parse().expect("nanoseconds");
            let arrived = aftertrace_model::Timestamp::from_micros(ns / 1_000);
            Some(Line { pod: Box::new(pod), arrived })
        })
        .collect()
}
