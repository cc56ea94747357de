//! LIST, then WATCH from there, for ever: one task per kind.
//!
//! An outage of the API server is waited out with growing pauses and leaves a `watch_down` gap; a version
//! that the server no longer has (410) leads to a new list and a `watch_relisted` gap. The runtime crate's
//! `watcher` is not used because it does not tell when a broken watch works again, nor a watch that the server
//! ended in order from one that broke.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use aftertrace_model::{Gap, GapReason, Timestamp};
use futures::StreamExt as _;
use kube::Api;
use kube::api::{ListParams, WatchEvent, WatchParams};
use tracing::{debug, info, warn};
use uuid::Uuid;

use super::health::WatchHealth;
use super::kind::{Sight, Watched};
use super::ledger::{How, Ledger};
use super::placement::Placements;
use crate::clock;
use crate::secret::ClusterSecret;
use crate::store::StoreError;
use crate::writer::{Facts, WriterHandle};

/// Objects per page of a LIST: what kubectl and client-go ask for.
const PAGE_OBJECTS: u32 = 500;

/// Seconds after which the server ends a watch, which is then resumed. A server that vanished without a word
/// is noticed after this and [`IDLE_MARGIN`]; real servers send a bookmark each minute.
const WATCH_SECONDS: u32 = 120;

/// What the end of a watch may be late.
const IDLE_MARGIN: Duration = Duration::from_secs(5);

/// Watch events taken into one submission.
const EVENTS_TOGETHER_MAX: usize = 256;

/// First and longest pause between two tries.
const PAUSE_MIN: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(15);

/// What a follower works with.
pub(crate) struct Follower<K> {
    pub(crate) api: Api<K>,
    pub(crate) ledger: Ledger,
    pub(crate) secret: ClusterSecret,
    pub(crate) cluster: String,
    pub(crate) writer: WriterHandle,
    pub(crate) health: Arc<WatchHealth>,
    /// Kept up to date by the follower of pods.
    pub(crate) placements: Option<Arc<Placements>>,
    /// Up to when earlier watches told everything; `None` if there were none.
    pub(crate) heard_until: Option<Timestamp>,
    /// Whether this watch was up before.
    pub(crate) was_up: bool,
}

/// Why a watch ended.
enum End {
    /// The server ended it, or the connection broke; it can be resumed.
    Closed,
    /// The version is too old to resume from.
    Gone,
}

impl<K: Watched> Follower<K> {
    /// Follows until the task is dropped or the writer is closed.
    pub(crate) async fn run(mut self) -> Result<(), StoreError> {
        let mut pause = PAUSE_MIN;
        self.note_all();
        // From now, not from the last run's end: until now it is `aggregator_down`.
        self.health.down(K::PLURAL, clock::now(), "not listed yet");
        loop {
            let (objects, mut version) = match self.list().await {
                Ok(listed) => listed,
                Err(error) => {
                    self.is_down(&error);
                    rest(&mut pause).await;
                    continue;
                }
            };
            let seen = clock::now();
            self.take_list(&objects, seen).await?;
            drop(objects);
            info!(kind = K::KIND, resource_version = version, "listed");
            self.heard_until = Some(seen);
            if let Some(placements) = &self.placements {
                placements.cover(Some(seen));
            }
            let covered_since = seen;
            loop {
                let params = WatchParams::default().timeout(WATCH_SECONDS);
                let stream = match self.api.watch(&params, &version).await {
                    Ok(stream) => stream,
                    Err(error) if is_gone(&error) => break,
                    Err(error) => {
                        self.is_down(&error);
                        rest(&mut pause).await;
                        continue;
                    }
                };
                self.is_up(covered_since).await?;
                let opened = tokio::time::Instant::now();
                let end = self.watch(stream, &mut version).await?;
                if let End::Gone = end {
                    break;
                }
                if opened.elapsed() > PAUSE_MAX {
                    pause = PAUSE_MIN;
                } else {
                    // A server that ends each watch at once must not be asked in a loop.
                    rest(&mut pause).await;
                }
            }
            self.relist(version).await?;
        }
    }

    /// All objects and the version that a watch resumes from.
    async fn list(&self) -> Result<(Vec<K>, String), kube::Error> {
        let mut objects = Vec::new();
        let mut params = ListParams::default().limit(PAGE_OBJECTS);
        loop {
            let page = self.api.list(&params).await?;
            objects.extend(page.items);
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params = params.continue_token(&token),
                None => return Ok((objects, page.metadata.resource_version.unwrap_or_default())),
            }
        }
    }

    async fn take_list(&mut self, objects: &[K], seen: Timestamp) -> Result<(), StoreError> {
        let how = How::Listed { heard_until: self.heard_until };
        let mut listed = BTreeSet::new();
        let mut facts = Facts::default();
        for object in objects {
            let Some(sight) = Sight::of(object, &self.secret) else { continue };
            listed.insert((sight.namespace.clone(), sight.name.clone()));
            self.note(&sight);
            self.ledger.see(&sight, how, seen, &mut facts);
            if facts.objects.len() >= EVENTS_TOGETHER_MAX {
                self.submit(std::mem::take(&mut facts)).await?;
            }
        }
        self.ledger.see_absent(&listed, self.heard_until, seen, &mut facts);
        self.note_deleted(&facts);
        self.submit(facts).await
    }

    /// Takes events until the watch ends.
    async fn watch(
        &mut self,
        stream: impl futures::Stream<Item = Result<WatchEvent<K>, kube::Error>>,
        version: &mut String,
    ) -> Result<End, StoreError> {
        let idle = Duration::from_secs(u64::from(WATCH_SECONDS)) + IDLE_MARGIN;
        let mut chunks = std::pin::pin!(stream.ready_chunks(EVENTS_TOGETHER_MAX));
        loop {
            let chunk = match tokio::time::timeout(idle, chunks.next()).await {
                Ok(Some(chunk)) => chunk,
                // The server ended the watch: it told everything until now.
                Ok(None) => {
                    self.heard_until = Some(clock::now());
                    return Ok(End::Closed);
                }
                // Silence beyond what a living server allows: since when it was dead is not known.
                Err(_) => return Ok(End::Closed),
            };
            let seen = clock::now();
            let mut facts = Facts::default();
            let mut end = None;
            // A connection may have been dead for long before it says so; only what came tells that it lived.
            let is_heard = chunk.iter().any(Result::is_ok);
            for event in chunk {
                match event {
                    Ok(WatchEvent::Added(object) | WatchEvent::Modified(object)) => {
                        let Some(sight) = Sight::of(&object, &self.secret) else { continue };
                        self.note(&sight);
                        self.ledger.see(&sight, How::Live, seen, &mut facts);
                        *version = sight.resource_version;
                    }
                    Ok(WatchEvent::Deleted(object)) => {
                        let Some(sight) = Sight::of(&object, &self.secret) else { continue };
                        self.ledger.see_deleted(&sight, seen, &mut facts);
                        *version = sight.resource_version;
                    }
                    Ok(WatchEvent::Bookmark(bookmark)) => *version = bookmark.metadata.resource_version,
                    Ok(WatchEvent::Error(status)) => {
                        debug!(kind = K::KIND, code = status.code, message = status.message, "watch refused");
                        end = Some(if status.code == 410 { End::Gone } else { End::Closed });
                    }
                    Err(error) => {
                        debug!(kind = K::KIND, %error, "watch broke");
                        end = Some(End::Closed);
                    }
                }
            }
            self.note_deleted(&facts);
            self.submit(facts).await?;
            if is_heard {
                self.heard_until = Some(seen);
            }
            if let Some(end) = end {
                return Ok(end);
            }
        }
    }

    /// Reports that what came and went since the last word is not known, before the next list tells the rest.
    async fn relist(&mut self, version: String) -> Result<(), StoreError> {
        let now = clock::now();
        warn!(kind = K::KIND, version, "version is gone from the API server; listing again");
        if let Some(placements) = &self.placements {
            placements.cover(None);
        }
        let gap = Gap {
            gap_id: Uuid::new_v4(),
            cluster: self.cluster.clone(),
            node: None,
            component: format!("aggregator/watch/{}", K::PLURAL),
            reason: GapReason::WatchRelisted,
            from: self.heard_until.unwrap_or(now).min(now),
            to: now,
            count: 0,
            detail: format!(
                "the API server no longer had version {version} of {}; what came and went in between is unknown",
                K::PLURAL
            ),
            recorded_at: None,
        };
        self.submit(Facts { gaps: vec![gap], ..Facts::default() }).await
    }

    fn is_down(&self, error: &kube::Error) {
        warn!(kind = K::KIND, %error, "cannot watch");
        let since = self.heard_until.filter(|_| self.was_up).unwrap_or_else(clock::now);
        self.health.down(K::PLURAL, since, &remedy(error, K::PLURAL));
        if let Some(placements) = &self.placements {
            placements.cover(None);
        }
    }

    async fn is_up(&mut self, covered_since: Timestamp) -> Result<(), StoreError> {
        let now = clock::now();
        if let Some(placements) = &self.placements {
            placements.cover(Some(covered_since));
        }
        let was_up = std::mem::replace(&mut self.was_up, true);
        match self.health.up(K::PLURAL, now) {
            // What passes before the first list is the end of `aggregator_down`, unless it takes long.
            Some(gap) if was_up || gap.to.micros_since(gap.from) > STARTING_US => {
                self.submit(Facts { gaps: vec![gap], ..Facts::default() }).await
            }
            _ => Ok(()),
        }
    }

    fn note_all(&self) {
        let Some(placements) = &self.placements else { return };
        for (namespace, name, uid, state) in self.ledger.objects() {
            placements.note(namespace, name, uid, state);
        }
    }

    fn note(&self, sight: &Sight) {
        if let Some(placements) = &self.placements {
            placements.note(&sight.namespace, &sight.name, &sight.uid, &sight.state);
        }
    }

    fn note_deleted(&self, facts: &Facts) {
        let Some(placements) = &self.placements else { return };
        for gone in facts.objects.iter().filter(|object| object.deleted) {
            placements.note_gone(&gone.uid, gone.valid_from);
        }
    }

    /// Makes rows durable, waiting as long as the disk refuses them: the ledger has taken them already.
    async fn submit(&self, facts: Facts) -> Result<(), StoreError> {
        if facts.events.is_empty() && facts.objects.is_empty() && facts.gaps.is_empty() {
            return Ok(());
        }
        let mut pause = PAUSE_MIN;
        loop {
            match self.writer.submit(facts.clone()).await {
                Ok(_) => return Ok(()),
                Err(StoreError::Closed) => return Err(StoreError::Closed),
                Err(error) => {
                    warn!(kind = K::KIND, %error, objects = facts.objects.len(), "cannot store what was watched");
                    rest(&mut pause).await;
                }
            }
        }
    }
}

/// How long the first list may take before it counts as an outage.
const STARTING_US: i64 = 2_000_000;

async fn rest(pause: &mut Duration) {
    tokio::time::sleep(*pause).await;
    *pause = (*pause * 2).min(PAUSE_MAX);
}

fn is_gone(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 410)
}

/// What a person can do about it.
fn remedy(error: &kube::Error, plural: &str) -> String {
    match error {
        kube::Error::Api(status) if status.code == 401 => {
            "the API server does not know us: check the kubeconfig's credentials".to_owned()
        }
        kube::Error::Api(status) if status.code == 403 => {
            format!("not allowed: let the aggregator's account list and watch {plural} in all namespaces")
        }
        kube::Error::Api(status) => format!("the API server answered {}: {}", status.code, status.message),
        other => format!("{other}: check that the API server of the kubeconfig is reachable"),
    }
}
