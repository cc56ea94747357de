//! The handle of whoever plays the rest of Kubernetes: writes objects, reads them, disturbs the watches.
//!
//! What a real API server does on admission happens here: uid, creation time, generated names, graceful
//! deletion of pods that a kubelet attends to. [`super::respond`] uses the same handle for requests over HTTP,
//! so both ways of writing obey the same rules.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rand::Rng;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::error::ApiError;
use super::merge::merge;
use super::resource::Resource;
use super::review::TokenIdentity;
use super::store::{LOG_ROWS_MAX, LogEntry, ObjectKey, Store, revision_of};

/// Letters of generated names: those that Kubernetes uses, without vowels and look-alikes.
const NAME_LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// Names that are tried before a generated one is given up; with 27^5 of them even two are not expected.
const NAME_TRIES_MAX: usize = 8;

/// A played cluster. Clones share their state.
#[derive(Clone, Debug)]
pub struct Cluster {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    progress: watch::Sender<u64>,
    disturbance: watch::Sender<Disturbance>,
}

#[derive(Debug)]
struct State {
    store: Store,
    attended_nodes: BTreeSet<String>,
    tokens: BTreeMap<String, TokenIdentity>,
}

/// How often running watches have been disturbed; a watch compares with what it saw when it began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Disturbance {
    /// Streams that were ended without a word.
    pub disconnects: u64,
    /// Streams that were told 410 Gone.
    pub expirations: u64,
}

impl Default for Cluster {
    fn default() -> Self {
        Self::new()
    }
}

impl Cluster {
    /// An empty cluster that keeps [`LOG_ROWS_MAX`] changes per kind.
    pub fn new() -> Self {
        Self::with_log_rows_max(LOG_ROWS_MAX)
    }

    /// An empty cluster that keeps `log_rows_max` changes per kind; a small number makes slow watchers meet
    /// 410 Gone.
    pub fn with_log_rows_max(log_rows_max: usize) -> Self {
        let state = State {
            store: Store::new(log_rows_max),
            attended_nodes: BTreeSet::new(),
            tokens: BTreeMap::new(),
        };
        Self {
            shared: Arc::new(Shared {
                state: Mutex::new(state),
                progress: watch::Sender::new(0),
                disturbance: watch::Sender::new(Disturbance::default()),
            }),
        }
    }

    /// Creates an object, as POST does: uid, creation time and a generated name are added where absent.
    ///
    /// # Errors
    /// [`ApiError::AlreadyExists`], or [`ApiError::BadRequest`] for an object without a name.
    pub fn create(&self, resource: Resource, object: Value) -> Result<Arc<Value>, ApiError> {
        let generates = object["metadata"]["name"].as_str().unwrap_or_default().is_empty();
        let tries = if generates { NAME_TRIES_MAX } else { 1 };
        let mut result = Err(ApiError::bad_request("name or generateName is required"));
        for _ in 0..tries {
            let admitted = admit(resource, object.clone())?;
            result = self.write(|state| state.store.create(resource, admitted));
            if !matches!(result, Err(ApiError::AlreadyExists { .. })) {
                break;
            }
        }
        result
    }

    /// Creates or replaces an object, found by its `apiVersion` and `kind`; returns its resourceVersion.
    /// A status that the new object lacks is kept.
    ///
    /// # Errors
    /// [`ApiError::BadRequest`] for a kind that is not served or an object without a name.
    pub fn apply(&self, object: Value) -> Result<u64, ApiError> {
        let text = |field: &str| object[field].as_str().unwrap_or_default();
        let resource = Resource::from_kind(text("apiVersion"), text("kind")).ok_or_else(|| {
            ApiError::bad_request(format!("kind is not served: {} {}", text("apiVersion"), text("kind")))
        })?;
        let key = ObjectKey::of(&object);
        let written = if self.get(resource, &key).is_some() {
            self.update(resource, &key, |stored| {
                let status = stored["status"].take();
                let identity = stored["metadata"].take();
                *stored = object;
                for field in ["uid", "creationTimestamp", "resourceVersion", "deletionTimestamp"] {
                    if let Some(value) = identity.get(field) {
                        stored["metadata"][field] = value.clone();
                    }
                }
                if stored.get("status").is_none() && !status.is_null() {
                    stored["status"] = status;
                }
            })
        } else {
            self.create(resource, object)
        };
        written.map(|object| revision_of(&object))
    }

    /// Replaces an object, as PUT does.
    ///
    /// # Errors
    /// [`ApiError::NotFound`] or [`ApiError::Conflict`].
    pub fn replace(&self, resource: Resource, mut object: Value) -> Result<Arc<Value>, ApiError> {
        let stored = self.get(resource, &ObjectKey::of(&object));
        for field in ["uid", "creationTimestamp"] {
            if let Some(value) = stored.as_ref().and_then(|stored| stored["metadata"].get(field)) {
                object["metadata"][field] = value.clone();
            }
        }
        let object = complete_type(resource, object);
        self.write(|state| state.store.replace(resource, object))
    }

    /// Changes an object in place, whatever its version.
    ///
    /// # Errors
    /// [`ApiError::NotFound`].
    pub fn update(
        &self,
        resource: Resource,
        key: &ObjectKey,
        change: impl FnOnce(&mut Value),
    ) -> Result<Arc<Value>, ApiError> {
        self.write(|state| {
            let stored = state.store.get(resource, key);
            let stored = stored.ok_or_else(|| ApiError::NotFound { resource, name: key.name.clone() })?;
            let mut object = Value::clone(&stored);
            change(&mut object);
            state.store.replace(resource, object)
        })
    }

    /// Merges a patch into an object, as PATCH does.
    ///
    /// # Errors
    /// [`ApiError::NotFound`], or [`ApiError::Conflict`] where the patch names another resourceVersion.
    pub fn patch(&self, resource: Resource, key: &ObjectKey, patch: &Value) -> Result<Arc<Value>, ApiError> {
        self.update(resource, key, |object| merge(object, patch))
    }

    /// Deletes an object, as DELETE does. A pod that a kubelet attends to is only marked: the kubelet stops
    /// its containers and then calls [`Cluster::remove`].
    ///
    /// # Errors
    /// [`ApiError::NotFound`].
    pub fn delete(
        &self,
        resource: Resource,
        key: &ObjectKey,
        grace_seconds: Option<u64>,
    ) -> Result<Arc<Value>, ApiError> {
        let graceful = resource == Resource::Pods && grace_seconds != Some(0) && self.is_attended(key);
        if !graceful {
            return self.remove(resource, key);
        }
        self.update(resource, key, |pod| {
            let default = pod["spec"]["terminationGracePeriodSeconds"].as_u64().unwrap_or(30);
            let grace_seconds = grace_seconds.unwrap_or(default);
            if pod["metadata"]["deletionTimestamp"].is_null() {
                pod["metadata"]["deletionTimestamp"] = json!(now());
                pod["metadata"]["deletionGracePeriodSeconds"] = json!(grace_seconds);
            }
        })
    }

    /// Removes an object at once; returns its last state.
    ///
    /// # Errors
    /// [`ApiError::NotFound`].
    pub fn remove(&self, resource: Resource, key: &ObjectKey) -> Result<Arc<Value>, ApiError> {
        self.write(|state| state.store.delete(resource, key))
    }

    /// The object as it is now.
    pub fn get(&self, resource: Resource, key: &ObjectKey) -> Option<Arc<Value>> {
        self.lock().store.get(resource, key)
    }

    /// All objects of a kind as they are now, ordered by namespace and name.
    pub fn list(&self, resource: Resource) -> Vec<Arc<Value>> {
        self.lock().store.list(resource)
    }

    /// A kind's newest revision together with its objects at that revision.
    pub fn snapshot(&self, resource: Resource) -> (u64, Vec<Arc<Value>>) {
        let state = self.lock();
        (state.store.head(resource), state.store.list(resource))
    }

    /// All objects of a kind at an older revision.
    ///
    /// # Errors
    /// [`ApiError::Gone`], or [`ApiError::TooLarge`] for a revision that is yet to come.
    pub fn list_at(&self, resource: Resource, revision: u64) -> Result<Vec<Arc<Value>>, ApiError> {
        let state = self.lock();
        let current = state.store.head(resource);
        if revision > current {
            return Err(ApiError::TooLarge { asked: revision, current });
        }
        state.store.list_at(resource, revision)
    }

    /// A kind's newest revision and its changes after `revision`, oldest first.
    ///
    /// # Errors
    /// [`ApiError::Gone`].
    pub fn changes_after(&self, resource: Resource, revision: u64) -> Result<(u64, Vec<LogEntry>), ApiError> {
        let state = self.lock();
        let changes = state.store.changes_after(resource, revision)?;
        Ok((state.store.head(resource), changes))
    }

    /// The revision of the newest write of any kind.
    pub fn revision(&self) -> u64 {
        self.lock().store.revision()
    }

    /// Is told of every write.
    pub fn progress(&self) -> watch::Receiver<u64> {
        self.shared.progress.subscribe()
    }

    /// Is told when running watches are to be disturbed.
    pub fn disturbance(&self) -> watch::Receiver<Disturbance> {
        self.shared.disturbance.subscribe()
    }

    /// Forgets all changes so far. A watcher that has read them goes on; one that resumes from before gets
    /// 410 Gone.
    pub fn compact(&self) {
        self.lock().store.compact();
    }

    /// Ends every running watch without a word; clients resume from where they were.
    pub fn disconnect_watches(&self) {
        self.shared.disturbance.send_modify(|seen| seen.disconnects += 1);
    }

    /// Compacts, and tells every running watch 410 Gone in its stream; clients must list again.
    pub fn expire_watches(&self) {
        self.compact();
        self.shared.disturbance.send_modify(|seen| seen.expirations += 1);
    }

    /// From now on pods on `node` are deleted gracefully: a kubelet attends to them.
    pub fn attend_node(&self, node: &str) {
        self.lock().attended_nodes.insert(node.to_owned());
    }

    /// Undoes [`Cluster::attend_node`].
    pub fn leave_node(&self, node: &str) {
        self.lock().attended_nodes.remove(node);
    }

    /// Makes TokenReview authenticate `token`.
    pub fn accept_token(&self, token: &str, identity: TokenIdentity) {
        self.lock().tokens.insert(token.to_owned(), identity);
    }

    /// Whose token this is, if it was accepted before.
    pub fn token_identity(&self, token: &str) -> Option<TokenIdentity> {
        self.lock().tokens.get(token).cloned()
    }

    /// Plays recorded writes, which bring their own revisions.
    pub(crate) fn play<T>(&self, write: impl FnOnce(&mut Store) -> T) -> T {
        let mut state = self.lock();
        let result = write(&mut state.store);
        let revision = state.store.revision();
        drop(state);
        self.shared.progress.send_replace(revision);
        result
    }

    fn is_attended(&self, key: &ObjectKey) -> bool {
        let state = self.lock();
        let pod = state.store.get(Resource::Pods, key);
        let node = pod.as_ref().and_then(|pod| pod["spec"]["nodeName"].as_str());
        node.is_some_and(|node| state.attended_nodes.contains(node))
    }

    fn write<T>(&self, write: impl FnOnce(&mut State) -> Result<T, ApiError>) -> Result<T, ApiError> {
        let mut state = self.lock();
        let result = write(&mut state);
        let revision = state.store.revision();
        drop(state);
        self.shared.progress.send_replace(revision);
        result
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic in another thread leaves the store as it was before or after one whole write.
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The present as Kubernetes writes it: whole seconds.
pub fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// A random ending as Kubernetes gives generated names.
pub fn name_suffix() -> String {
    let mut rng = rand::rng();
    (0..5).map(|_| char::from(NAME_LETTERS[rng.random_range(0..NAME_LETTERS.len())])).collect()
}

fn admit(resource: Resource, object: Value) -> Result<Value, ApiError> {
    if !object.is_object() {
        return Err(ApiError::bad_request("body is not an object"));
    }
    let mut object = complete_type(resource, object);
    let metadata = &mut object["metadata"];
    if !metadata.is_object() && !metadata.is_null() {
        return Err(ApiError::bad_request("metadata is not an object"));
    }
    if metadata["name"].as_str().unwrap_or_default().is_empty() {
        match metadata["generateName"].as_str() {
            Some(prefix) => metadata["name"] = json!(format!("{prefix}{}", name_suffix())),
            None => return Err(ApiError::bad_request("name or generateName is required")),
        }
    }
    if resource.names().namespaced && metadata["namespace"].as_str().unwrap_or_default().is_empty() {
        metadata["namespace"] = json!("default");
    }
    for (field, value) in [
        ("uid", json!(uuid::Uuid::new_v4().to_string())),
        ("creationTimestamp", json!(now())),
        ("generation", json!(1)),
    ] {
        let absent = metadata[field].is_null();
        if absent && (field != "generation" || object_has_generation(resource)) {
            metadata[field] = value;
        } else if absent && let Some(metadata) = metadata.as_object_mut() {
            metadata.remove(field);
        }
    }
    if resource == Resource::Pods {
        default_pod(&mut object);
    }
    Ok(object)
}

/// What a server writes into a pod that does not say otherwise.
fn default_pod(pod: &mut Value) {
    for (part, field, default) in [
        ("status", "phase", json!("Pending")),
        ("spec", "restartPolicy", json!("Always")),
        ("spec", "terminationGracePeriodSeconds", json!(30)),
    ] {
        if (pod[part].is_object() || pod[part].is_null()) && pod[part][field].is_null() {
            pod[part][field] = default;
        }
    }
}

fn object_has_generation(resource: Resource) -> bool {
    use Resource::{DaemonSets, Deployments, Jobs, Pods, ReplicaSets, StatefulSets};
    matches!(resource, Pods | Deployments | ReplicaSets | StatefulSets | DaemonSets | Jobs)
}

fn complete_type(resource: Resource, mut object: Value) -> Value {
    object["apiVersion"] = json!(resource.api_version());
    object["kind"] = json!(resource.names().kind);
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config_map(name: &str, value: &str) -> Value {
        json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": { "namespace": "shop", "name": name }, "data": { "key": value },
        })
    }

    #[test]
    fn creation_gives_identity() {
        let cluster = Cluster::new();
        let object = json!({ "metadata": { "namespace": "shop", "generateName": "checkout-" } });
        let pod = cluster.create(Resource::Pods, object).unwrap();
        let name = pod["metadata"]["name"].as_str().unwrap();
        assert!(name.starts_with("checkout-") && name.len() == "checkout-".len() + 5, "{name}");
        assert!(pod["metadata"]["uid"].as_str().unwrap().parse::<uuid::Uuid>().is_ok());
        assert_eq!(pod["metadata"]["generation"], 1);
        assert_eq!(pod["kind"], "Pod");
    }

    #[test]
    fn apply_keeps_identity_and_says_nothing_twice() {
        let cluster = Cluster::new();
        let first = cluster.apply(config_map("c", "v1")).unwrap();
        let key = ObjectKey::new("shop", "c");
        let uid = cluster.get(Resource::ConfigMaps, &key).unwrap()["metadata"]["uid"].clone();
        assert_eq!(cluster.apply(config_map("c", "v1")).unwrap(), first, "nothing changed");
        assert!(cluster.apply(config_map("c", "v2")).unwrap() > first);
        let stored = cluster.get(Resource::ConfigMaps, &key).unwrap();
        assert_eq!((&stored["metadata"]["uid"], &stored["data"]["key"]), (&uid, &json!("v2")));
    }

    #[test]
    fn a_patch_with_an_old_version_is_a_conflict() {
        let cluster = Cluster::new();
        cluster.apply(config_map("c", "v1")).unwrap();
        let key = ObjectKey::new("shop", "c");
        let patch = json!({ "metadata": { "resourceVersion": "1" }, "data": { "key": "v2" } });
        let error = cluster.patch(Resource::ConfigMaps, &key, &patch).unwrap_err();
        assert_eq!(error.code(), 409);
    }

    #[test]
    fn only_attended_pods_are_deleted_gracefully() {
        let cluster = Cluster::new();
        cluster.attend_node("node1");
        for (name, node) in [("here", "node1"), ("there", "node2")] {
            let pod = json!({
                "metadata": { "namespace": "shop", "name": name }, "spec": { "nodeName": node },
            });
            cluster.create(Resource::Pods, pod).unwrap();
            cluster.delete(Resource::Pods, &ObjectKey::new("shop", name), None).unwrap();
        }
        assert!(cluster.get(Resource::Pods, &ObjectKey::new("shop", "there")).is_none());
        let here = cluster.get(Resource::Pods, &ObjectKey::new("shop", "here")).unwrap();
        assert!(here["metadata"]["deletionTimestamp"].is_string());
        assert_eq!(here["metadata"]["deletionGracePeriodSeconds"], 30);
    }

    #[test]
    fn what_cannot_be_an_object_is_refused() {
        let cluster = Cluster::new();
        for body in [json!([]), json!("x"), json!({}), json!({ "metadata": [] }), json!({ "metadata": {} })] {
            assert_eq!(cluster.create(Resource::Pods, body).unwrap_err().code(), 400);
        }
        assert_eq!(cluster.apply(json!({ "kind": "Gadget" })).unwrap_err().code(), 400);
    }
}
