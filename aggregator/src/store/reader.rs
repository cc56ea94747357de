//! Reads what is in segments back as the domain's types.
//!
//! A reader sees one manifest per question: everything up to [`Reader::as_of`], events and edges of the same
//! prefix. What the writer accepted since is in the writer's callback only. All methods block on disk and
//! processor: async callers go through [`Reader::run`].

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use aftertrace_model::{Edge, Event, EventId, Gap, Kind, ObjectVersion, Timestamp};

use super::StoreError;

/// Answers typed questions from segments. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Reader {
    _shared: Arc<()>,
}

/// Which anchors to look for; `None` means any.
#[derive(Clone, Debug)]
pub struct AnchorQuery {
    /// The kind that a pattern is counted by.
    pub kind: Kind,
    /// Namespace of the pod.
    pub namespace: Option<String>,
    /// Name of the workload.
    pub workload: Option<String>,
    /// Name of the pod.
    pub pod: Option<String>,
    /// First instant, inclusive.
    pub since: Timestamp,
    /// Most events listed.
    pub limit: usize,
}

/// Occurrences of an anchor.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Anchors {
    /// How many there are, listed or not.
    pub total: u64,
    /// The latest, newest first.
    pub events: Vec<Event>,
    /// By workload, most first, then by name.
    pub groups: Vec<AnchorGroup>,
}

/// Occurrences in one workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnchorGroup {
    /// Namespace; empty where the fact has no pod.
    pub namespace: String,
    /// `<kind>/<name>` of the workload, or `Pod/<name>` where the owner is not known.
    pub workload: String,
    /// How many.
    pub count: u64,
    /// The first.
    pub first: Timestamp,
    /// The last.
    pub last: Timestamp,
}

/// A version in force at the time asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct ObjectAt {
    /// The version; `deleted` says that the object was gone by then.
    pub version: ObjectVersion,
    /// When the next version came into force; `None` if this is the last one known.
    pub valid_to: Option<Timestamp>,
}

impl Reader {
    pub(super) fn new() -> Self {
        Self { _shared: Arc::new(()) }
    }

    /// Runs a question on a thread for blocking work.
    ///
    /// # Errors
    /// What the question returns; [`StoreError::Closed`] if the runtime is shutting down.
    pub async fn run<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Self) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let reader = self.clone();
        tokio::task::spawn_blocking(move || question(&reader)).await.map_err(|_| StoreError::Closed)?
    }

    /// The WAL position up to which segments hold everything.
    #[must_use]
    pub fn as_of(&self) -> u64 {
        0
    }

    /// The event of that id.
    ///
    /// # Errors
    /// [`StoreError::Query`] or [`StoreError::Row`].
    pub fn event(&self, id: EventId) -> Result<Option<Event>, StoreError> {
        Ok(self.events_by_id(&[id])?.pop())
    }

    /// The events of those ids that are there, in order of time.
    ///
    /// # Errors
    /// As [`Reader::event`].
    pub fn events_by_id(&self, _ids: &[EventId]) -> Result<Vec<Event>, StoreError> {
        Err(StoreError::Closed)
    }

    /// Events of a pod, or of a whole namespace, with `since <= occurred_at <= until`: the latest `limit`,
    /// oldest first.
    ///
    /// # Errors
    /// As [`Reader::event`].
    pub fn pod_events(
        &self,
        _namespace: &str,
        _pod: Option<&str>,
        _since: Timestamp,
        _until: Timestamp,
        _limit: usize,
    ) -> Result<Vec<Event>, StoreError> {
        Err(StoreError::Closed)
    }

    /// Live edges whose cause or effect is one of these, each once.
    ///
    /// # Errors
    /// As [`Reader::event`].
    pub fn edges_touching(&self, _ids: &[EventId]) -> Result<Vec<Edge>, StoreError> {
        Err(StoreError::Closed)
    }

    /// Occurrences of an anchor kind.
    ///
    /// # Errors
    /// As [`Reader::event`].
    pub fn anchors(&self, _query: &AnchorQuery) -> Result<Anchors, StoreError> {
        Err(StoreError::Closed)
    }

    /// The version of an object that was in force at `at`; kind in any case of letters.
    ///
    /// # Errors
    /// As [`Reader::event`].
    pub fn object_at(
        &self,
        _kind: &str,
        _namespace: &str,
        _name: &str,
        _at: Timestamp,
    ) -> Result<Option<ObjectAt>, StoreError> {
        Err(StoreError::Closed)
    }

    /// The last version of each object of a kind that is not deleted, by namespace and name.
    ///
    /// # Errors
    /// As [`Reader::event`].
    pub fn current_objects(&self, _kind: &str) -> Result<Vec<ObjectVersion>, StoreError> {
        Err(StoreError::Closed)
    }

    /// Gaps that overlap the closed interval, in order of time; with a node, its own and the aggregator's.
    ///
    /// # Errors
    /// As [`Reader::event`].
    pub fn gaps_between(
        &self,
        _from: Timestamp,
        _to: Timestamp,
        _node: Option<&str>,
    ) -> Result<Vec<Gap>, StoreError> {
        Err(StoreError::Closed)
    }

    /// Which of these events are in segments.
    ///
    /// # Errors
    /// As [`Reader::event`].
    pub fn known_events(&self, _ids: &[EventId]) -> Result<HashSet<EventId>, StoreError> {
        Err(StoreError::Closed)
    }

    /// Rows in segments by table.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<&'static str, u64> {
        BTreeMap::new()
    }
}
