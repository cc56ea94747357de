//! A recording folder: `<res>.list.json`, `<res>.watch.jsonl`, `<res>.watch.times` for each kind.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::api::Resource;
use crate::api::store::revision_of;

/// Names the folder that holds `recordings`.
pub const SHARED: &str = "AFTERTRACE_SHARED";

/// File names of the recorded kinds.
const FILES: [(&str, Resource); 10] = [
    ("pods", Resource::Pods),
    ("configmaps", Resource::ConfigMaps),
    ("secrets-metadata", Resource::Secrets),
    ("nodes", Resource::Nodes),
    ("namespaces", Resource::Namespaces),
    ("events.core-v1", Resource::Events),
    ("events.events.k8s.io-v1", Resource::EventsV1),
    ("deployments", Resource::Deployments),
    ("replicasets", Resource::ReplicaSets),
    ("leases-node", Resource::Leases),
];

/// A recording, read whole; the longest has some hundred lines.
#[derive(Clone, Debug, Default)]
pub struct Recording {
    /// The LIST that each kind begins with.
    pub lists: Vec<RecordedList>,
    /// Watch lines of all kinds in the order of their arrival.
    pub lines: Vec<RecordedLine>,
}

/// One recorded LIST.
#[derive(Clone, Debug)]
pub struct RecordedList {
    /// Of which kind.
    pub resource: Resource,
    /// Its version.
    pub revision: u64,
    /// Its items.
    pub objects: Vec<Value>,
}

/// One recorded watch line.
#[derive(Clone, Debug)]
pub struct RecordedLine {
    /// Of which kind.
    pub resource: Resource,
    /// When it arrived, nanoseconds since the epoch.
    pub at_ns: i64,
    /// What it says.
    pub kind: LineKind,
    /// The object, or for a bookmark a stump of one.
    pub object: Value,
}

/// The type of a watch line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineKind {
    /// ADDED or MODIFIED; which of them follows from what is stored.
    Put,
    /// DELETED
    Delete,
    /// BOOKMARK
    Bookmark,
}

impl RecordedLine {
    /// Its version.
    pub fn revision(&self) -> u64 {
        revision_of(&self.object)
    }
}

/// Why a recording cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum RecordingError {
    /// A file cannot be read.
    #[error("cannot read {}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// A file is not what its name says.
    #[error("{}, line {line}: {what}", .path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// What is wrong.
        what: &'static str,
    },
}

impl Recording {
    /// Reads a recording folder. Kinds without files in it are left out.
    ///
    /// # Errors
    /// [`RecordingError`]; a folder without any LIST is an error too.
    pub fn read(folder: &Path) -> Result<Self, RecordingError> {
        let mut recording = Self::default();
        for (name, resource) in FILES {
            let list = folder.join(format!("{name}.list.json"));
            if !list.exists() {
                continue;
            }
            recording.lists.push(read_list(&list, resource)?);
            let lines = folder.join(format!("{name}.watch.jsonl"));
            let times = folder.join(format!("{name}.watch.times"));
            recording.lines.extend(read_lines(&lines, &times, resource)?);
        }
        if recording.lists.is_empty() {
            let source = std::io::Error::from(std::io::ErrorKind::NotFound);
            return Err(RecordingError::Io { path: folder.join("pods.list.json"), source });
        }
        // Stable: lines of one kind stay in their order even where two have the same time.
        recording.lines.sort_by_key(|line| line.at_ns);
        Ok(recording)
    }
}

/// The folder of recordings: below `AFTERTRACE_SHARED`, or in `../shared` beside the workspace.
pub fn recordings_folder() -> PathBuf {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared");
    std::env::var_os(SHARED).map_or_else(beside, PathBuf::from).join("recordings")
}

fn read_list(path: &Path, resource: Resource) -> Result<RecordedList, RecordingError> {
    let text = read(path)?;
    let format = |what| RecordingError::Format { path: path.to_owned(), line: 1, what };
    let mut list: Value = serde_json::from_str(&text).map_err(|_| format("not JSON"))?;
    let revision = match revision_of(&list) {
        0 => return Err(format("a LIST without resourceVersion")),
        revision => revision,
    };
    let objects = match list["items"].take() {
        Value::Array(objects) => objects,
        Value::Null => Vec::new(),
        _ => return Err(format("items are not a list")),
    };
    Ok(RecordedList { resource, revision, objects })
}

fn read_lines(path: &Path, times: &Path, resource: Resource) -> Result<Vec<RecordedLine>, RecordingError> {
    let (text, arrivals) = (read(path)?, read(times)?);
    let mut arrivals = arrivals.lines();
    let mut lines = Vec::new();
    for (index, text) in text.lines().enumerate() {
        let format =
            |path: &Path, what| Err(RecordingError::Format { path: path.to_owned(), line: index + 1, what });
        let Ok(mut line) = serde_json::from_str::<Value>(text) else { return format(path, "not JSON") };
        let Some(at_ns) = arrivals.next().and_then(|time| time.trim().parse().ok()) else {
            return format(times, "no time for this line");
        };
        let kind = match line["type"].as_str() {
            Some("ADDED" | "MODIFIED") => LineKind::Put,
            Some("DELETED") => LineKind::Delete,
            Some("BOOKMARK") => LineKind::Bookmark,
            _ => return format(path, "unknown type of watch line"),
        };
        lines.push(RecordedLine { resource, at_ns, kind, object: line["object"].take() });
    }
    Ok(lines)
}

fn read(path: &Path) -> Result<String, RecordingError> {
    std::fs::read_to_string(path).map_err(|source| RecordingError::Io { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, content) in files {
            std::fs::write(folder.path().join(name), content).unwrap();
        }
        folder
    }

    const LIST: (&str, &str) = ("pods.list.json", r#"{"metadata":{"resourceVersion":"7"},"items":null}"#);

    #[test]
    fn lines_of_all_kinds_come_in_the_order_of_their_arrival() {
        let line = |kind: &str, revision: u64| {
            format!(r#"{{"type":"{kind}","object":{{"metadata":{{"resourceVersion":"{revision}"}}}}}}"#)
        };
        let pods = format!("{}\n{}\n", line("ADDED", 8), line("BOOKMARK", 10));
        let nodes = line("DELETED", 9);
        let folder = folder(&[
            LIST,
            ("pods.watch.jsonl", &pods),
            ("pods.watch.times", "100\n300\n"),
            ("nodes.list.json", LIST.1),
            ("nodes.watch.jsonl", &nodes),
            ("nodes.watch.times", "200\n"),
        ]);
        let recording = Recording::read(folder.path()).unwrap();
        let revisions: Vec<u64> = recording.lines.iter().map(RecordedLine::revision).collect();
        assert_eq!((recording.lists.len(), revisions), (2, vec![8, 9, 10]));
        assert_eq!(recording.lines[2].kind, LineKind::Bookmark);
    }

    #[test]
    fn what_is_not_a_recording_is_refused_with_its_place() {
        let check = |files: &[(&str, &str)], expected: &str| {
            let error = Recording::read(folder(files).path()).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        check(&[], "pods.list.json");
        check(&[("pods.list.json", "x")], "line 1: not JSON");
        check(&[("pods.list.json", "{}")], "without resourceVersion");
        check(&[LIST, ("pods.watch.jsonl", "{}"), ("pods.watch.times", "1")], "unknown type");
        check(&[LIST, ("pods.watch.jsonl", "{}"), ("pods.watch.times", "")], "no time for this line");
    }
}
