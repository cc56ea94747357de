//! WATCH: the changes of a kind as a stream of JSON lines.
//!
//! A watch keeps no queue: it remembers the revision it has sent and reads on in the store's log, so a slow
//! reader costs nothing until the log is compacted past it, and then learns it by 410 Gone, as in etcd.

use std::sync::Arc;
use std::time::Duration;

use hyper::body::Bytes;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::cluster::Cluster;
use super::error::ApiError;
use super::query::{Query, Version};
use super::resource::Resource;
use super::selector::Selector;
use super::store::{Change, LogEntry, ObjectKey};
use super::view::View;

/// Lines that wait for a slow client's socket; the log holds the rest.
const LINES_MAX: usize = 64;

/// One running WATCH.
#[derive(Debug)]
pub struct Watch {
    /// Whose changes.
    pub cluster: Cluster,
    /// Of which kind.
    pub resource: Resource,
    /// In which namespace; `None` is all.
    pub namespace: Option<String>,
    /// From where, for how long, filtered how.
    pub query: Query,
    /// In which form.
    pub view: View,
    /// Time between two bookmarks for those who want them.
    pub bookmark_interval: Duration,
}

/// Why a stream of a watch ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ended;

impl Watch {
    /// Whether the watch can begin where the client asks.
    ///
    /// # Errors
    /// [`ApiError::Gone`].
    pub fn check_start(&self) -> Result<(), ApiError> {
        match self.query.version {
            Version::NotOlderThan(revision) if !self.query.initial_events => {
                self.cluster.changes_after(self.resource, revision).map(|_| ())
            }
            _ => Ok(()),
        }
    }

    /// Begins to stream; the watch ends by its timeout, by a disturbance or when the receiver is dropped.
    pub fn spawn(self) -> mpsc::Receiver<Bytes> {
        let (lines, receiver) = mpsc::channel(LINES_MAX);
        tokio::spawn(async move {
            // How a stream ended is the client's business alone.
            let _ended: Result<(), Ended> = self.run(&lines).await;
        });
        receiver
    }

    async fn run(self, lines: &mpsc::Sender<Bytes>) -> Result<(), Ended> {
        let deadline = Instant::now() + self.query.timeout;
        let mut progress = self.cluster.progress();
        let mut disturbance = self.cluster.disturbance();
        let seen = *disturbance.borrow_and_update();
        let mut bookmark = tokio::time::interval(self.bookmark_interval);
        bookmark.reset();

        let mut sent = self.begin(lines).await?;
        loop {
            progress.borrow_and_update();
            let (head, changes) = match self.cluster.changes_after(self.resource, sent) {
                Ok(read) => read,
                Err(error) => return self.refuse(lines, &error).await,
            };
            for entry in &changes {
                self.send_change(lines, entry).await?;
            }
            // `head` was read under the same lock: nothing of this kind lies between the last change and it.
            sent = sent.max(head);
            tokio::select! {
                // A disturbance goes before news, so that a test knows what comes after it.
                biased;
                _ = disturbance.changed() => {
                    let now = *disturbance.borrow_and_update();
                    if now.expirations > seen.expirations {
                        return self.refuse(lines, &ApiError::Gone { asked: sent, oldest: head + 1 }).await;
                    }
                    return Err(Ended);
                }
                () = tokio::time::sleep_until(deadline) => {
                    return self.send_bookmark(lines, sent, false).await;
                }
                () = lines.closed() => return Err(Ended),
                _ = bookmark.tick() => self.send_bookmark(lines, sent, false).await?,
                _ = progress.changed() => {}
            }
        }
    }

    /// Sends the initial state where the client wants it; returns the revision it shows.
    async fn begin(&self, lines: &mpsc::Sender<Bytes>) -> Result<u64, Ended> {
        let revision = match self.query.version {
            Version::NotOlderThan(revision) | Version::Exact(revision) if !self.query.initial_events => {
                return Ok(revision);
            }
            _ => {
                let (revision, objects) = self.cluster.snapshot(self.resource);
                for object in objects.iter().filter(|object| self.selects(object)) {
                    self.send(lines, "ADDED", self.view.object(self.resource, object)).await?;
                }
                revision
            }
        };
        if self.query.initial_events {
            self.send_bookmark(lines, revision, true).await?;
        }
        Ok(revision)
    }

    async fn send_change(&self, lines: &mpsc::Sender<Bytes>, entry: &LogEntry) -> Result<(), Ended> {
        match seen_change(&entry.change, |object| self.selects(object)) {
            Seen::Nothing => Ok(()),
            Seen::Bookmark => self.send_bookmark(lines, entry.revision, false).await,
            Seen::Event(kind, object) => {
                let mut object = self.view.object(self.resource, object);
                object["metadata"]["resourceVersion"] = json!(entry.revision.to_string());
                self.send(lines, kind, object).await
            }
        }
    }

    fn selects(&self, object: &Value) -> bool {
        is_in(self.namespace.as_deref(), object) && self.query.selector.matches(object)
    }

    async fn send_bookmark(
        &self,
        lines: &mpsc::Sender<Bytes>,
        revision: u64,
        ends_initial_events: bool,
    ) -> Result<(), Ended> {
        if !self.query.bookmarks {
            return Ok(());
        }
        let (api_version, kind) = self.view.object_type(self.resource);
        let mut metadata = json!({ "resourceVersion": revision.to_string(), "creationTimestamp": null });
        if ends_initial_events {
            metadata["annotations"] = json!({ "k8s.io/initial-events-end": "true" });
        }
        let object = json!({ "kind": kind, "apiVersion": api_version, "metadata": metadata });
        self.send(lines, "BOOKMARK", object).await
    }

    async fn refuse(&self, lines: &mpsc::Sender<Bytes>, error: &ApiError) -> Result<(), Ended> {
        self.send(lines, "ERROR", error.status()).await
    }

    async fn send(&self, lines: &mpsc::Sender<Bytes>, kind: &str, object: Value) -> Result<(), Ended> {
        lines.send(line(kind, &object)).await.map_err(|_| Ended)
    }
}

/// Whether an object lives in the asked namespace.
pub fn is_in(namespace: Option<&str>, object: &Value) -> bool {
    namespace.is_none_or(|namespace| ObjectKey::of(object).namespace == namespace)
}

/// A stream that only says that it cannot begin.
pub fn refused(error: &ApiError) -> Bytes {
    line("ERROR", &error.status())
}

fn line(kind: &str, object: &Value) -> Bytes {
    let mut text = json!({ "type": kind, "object": object }).to_string();
    text.push('\n');
    Bytes::from(text)
}

#[derive(Debug, PartialEq)]
enum Seen<'a> {
    Nothing,
    Bookmark,
    Event(&'static str, &'a Arc<Value>),
}

/// What a change looks like through a filter: an object that begins to match is ADDED, one that stops
/// matching is DELETED with its last matching state.
fn seen_change<'a>(change: &'a Change, selects: impl Fn(&Value) -> bool) -> Seen<'a> {
    match change {
        Change::Bookmark => Seen::Bookmark,
        Change::Put { object, previous } => {
            let before = previous.as_ref().filter(|previous| selects(previous));
            match (before, selects(object)) {
                (None, true) => Seen::Event("ADDED", object),
                (Some(_), true) => Seen::Event("MODIFIED", object),
                (Some(previous), false) => Seen::Event("DELETED", previous),
                (None, false) => Seen::Nothing,
            }
        }
        Change::Delete { object, previous } if selects(previous) => Seen::Event("DELETED", object),
        Change::Delete { .. } => Seen::Nothing,
    }
}

/// The filter of a LIST, which has no history to compare with.
pub fn select<'a>(
    objects: &'a [Arc<Value>],
    namespace: Option<&'a str>,
    selector: &'a Selector,
) -> impl Iterator<Item = &'a Arc<Value>> {
    objects.iter().filter(move |object| is_in(namespace, object) && selector.matches(object))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(before: Option<&str>, after: Option<&str>, expected: Option<&str>) {
        let pod = |node: &str| Arc::new(json!({ "spec": { "nodeName": node } }));
        let change = match (before.map(pod), after.map(pod)) {
            (previous, Some(object)) => Change::Put { object, previous },
            (Some(previous), None) => Change::Delete { object: Arc::clone(&previous), previous },
            (None, None) => Change::Bookmark,
        };
        let seen = match seen_change(&change, |object| object["spec"]["nodeName"] == "here") {
            Seen::Event(kind, _) => Some(kind),
            Seen::Bookmark => Some("BOOKMARK"),
            Seen::Nothing => None,
        };
        assert_eq!(seen, expected, "{before:?} -> {after:?}");
    }

    #[test]
    fn a_filter_turns_changes_into_arrivals_and_departures() {
        check(None, Some("here"), Some("ADDED"));
        check(Some(""), Some("here"), Some("ADDED"));
        check(Some("here"), Some("here"), Some("MODIFIED"));
        check(Some("here"), Some("there"), Some("DELETED"));
        check(Some("here"), None, Some("DELETED"));
        check(Some("there"), None, None);
        check(None, Some("there"), None);
        check(None, None, Some("BOOKMARK"));
    }
}
