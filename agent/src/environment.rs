//! Which values of ConfigMaps and Secrets a container's init was given in its environment → `config_injected`.
//!
//! The environment is read once, right after the container's own exec, while nothing has had time to rewrite
//! it; a program can do so later, and could at once, so what is told is identified by place and time and
//! proven by nothing. Values that the pod spec takes from objects are kept in memory until the container's
//! name and the object's key have come, at most as long as any fact waits for its pod; then only keyed hashes
//! are left. Other variables are dropped as they are read.
//!
//! - [`spec`]: which variables come from which keys
//! - [`read`]: one process's environment

mod read;
pub(crate) mod spec;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::Path;

use aftertrace_model::config::{Content, ObjectKey};
use aftertrace_model::{Event, Kind, ObjectRef, Occurrence, Source, Timestamp, attribute, text};
use serde_json::Value;

use self::read::{ReadError, Values};
use self::spec::{ContainerEnv, Injected};
use crate::attribute::cgroup_name::{CgroupUid, ContainerId};
use crate::attribute::pending::WAIT_US;
use crate::attribute::pods::{KnownPod, Life, Pods};
use crate::draft::{self, Origin};
use crate::kernel::{Exec, Task};
use crate::volumes::sources::MountedObject;

/// The hook behind it.
const HOOK: &str = "proc:environ";

/// Most inits whose environments are held. A node starts a few containers a second; each holds what its spec
/// takes from objects, some KiB.
const HELD_MAX: usize = 512;

/// Variables of a source that gives all its keys, for people to see which; more are not named.
const CANDIDATES_MAX: usize = 128;

/// Inits whose environments wait to be told.
#[derive(Debug, Default)]
pub(crate) struct Environments {
    held: VecDeque<Held>,
}

/// One init.
#[derive(Debug)]
struct Held {
    since: Timestamp,
    boot_ns: u64,
    task: Task,
    memcg: u64,
    uid: CgroupUid,
    id: ContainerId,
    values: Reading,
}

/// How far reading is.
#[derive(Debug)]
enum Reading {
    /// The pod is not known, and so not what is wanted.
    NotYet,
    /// Read; only what some container of the pod takes from objects.
    Done(Values),
    /// It cannot be read any more.
    Failed(ReadError),
}

/// What became of an init.
#[derive(Debug)]
pub(crate) enum Told {
    /// One event for each object.
    Events(Vec<Event>),
    /// Its environment could not be read.
    Unread(ReadError),
    /// There were too many.
    LetGo,
}

impl Environments {
    /// An init has executed its program: its environment is read now if its pod is known.
    pub(crate) fn started(
        &mut self,
        exec: &Exec,
        (uid, id): (&CgroupUid, &ContainerId),
        now: Timestamp,
    ) -> Option<Told> {
        self.held.push_back(Held {
            since: now,
            boot_ns: exec.boot_ns,
            task: exec.task.clone(),
            memcg: exec.place.memcg,
            uid: uid.clone(),
            id: id.clone(),
            values: Reading::NotYet,
        });
        (self.held.len() > HELD_MAX).then(|| self.held.pop_front()).flatten().map(|_| Told::LetGo)
    }

    /// Takes what can be told, and what can wait no longer. `at` turns the boot clock into an instant.
    pub(crate) fn settle(
        &mut self,
        origin: &Origin,
        (pods, keys, proc): (&Pods, &HashMap<MountedObject, ObjectKey>, &Path),
        now: Timestamp,
        mut at: impl FnMut(u64) -> Occurrence,
    ) -> Vec<Told> {
        let mut told = Vec::new();
        self.held.retain_mut(|held| {
            let is_over = now.micros_since(held.since) >= WAIT_US;
            let Some(pod) = pods.get(held.uid.as_str()) else { return !is_over };
            if pod.env.values().all(ContainerEnv::is_empty) {
                return false;
            }
            if let Reading::NotYet = held.values {
                let is_wanted = |name: &str| pod.env.values().any(|env| env.is_wanted(name));
                held.values = match read::environment(proc, &held.task, is_wanted) {
                    Ok(values) => Reading::Done(values),
                    Err(error) => Reading::Failed(error),
                };
            }
            let Some((_, life)) = pods.find(&held.uid, &held.id) else {
                return !(is_over || pod.is_deleted());
            };
            let Some(env) = pod.env.get(&life.container) else { return false };
            let lacks_key = |injected: &Injected| !keys.contains_key(&injected.object);
            if !is_over && !pod.is_deleted() && env.objects.iter().any(lacks_key) {
                return true;
            }
            let values = match std::mem::replace(&mut held.values, Reading::NotYet) {
                Reading::Done(values) => values,
                Reading::Failed(error) => {
                    told.push(Told::Unread(error));
                    return false;
                }
                Reading::NotYet => return false,
            };
            let occurred = at(held.boot_ns);
            let events = env.objects.iter().filter_map(|injected| {
                event(origin, held, (pod, life), env, injected, &values, keys.get(&injected.object), occurred)
            });
            told.push(Told::Events(events.collect()));
            false
        });
        told
    }

    /// The objects whose keys are waited for, beside those of pods that live.
    pub(crate) fn objects(&self, pods: &Pods) -> Vec<MountedObject> {
        let pods = self.held.iter().filter_map(|held| pods.get(held.uid.as_str()));
        pods.flat_map(|pod| pod.env.values()).flat_map(|env| &env.objects).map(|i| i.object.clone()).collect()
    }

    /// Whether anything waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }
}

/// What one object gave the container; nothing if none of its keys is in the environment.
#[expect(clippy::too_many_arguments, reason = "one event is made of all of these, in one place")]
fn event(
    origin: &Origin,
    held: &Held,
    (pod, life): (&KnownPod, &Life),
    env: &ContainerEnv,
    injected: &Injected,
    values: &Values,
    key: Option<&ObjectKey>,
    occurred: Occurrence,
) -> Option<Event> {
    let single: Vec<(&str, &str, &[u8])> = injected
        .variables
        .iter()
        .filter_map(|(name, key)| Some((name.as_str(), key.as_str(), values.get(name)?)))
        .collect();
    let candidates: Vec<(&str, &[u8])> = values
        .iter()
        .filter_map(|(name, value)| Some((env.key_of_whole(&injected.object, name)?, value)))
        .take(CANDIDATES_MAX)
        .collect();
    if single.is_empty() && candidates.is_empty() {
        return None;
    }
    let mut event = draft::event(origin, Kind::ConfigInjected, Source::Node, HOOK, occurred);
    draft::of_life(&mut event, pod, held.id.as_str(), life);
    event.boot_ns = Some(held.boot_ns);
    event.pid = Some(held.task.tgid);
    event.cgroup_id = Some(held.memcg);
    event.container_init = Some(true);
    let object = &injected.object;
    event.object = Some(ObjectRef {
        kind: object.kind.to_owned(),
        namespace: object.namespace.clone(),
        name: object.name.clone(),
        uid: None,
        resource_version: None,
    });
    let mut put = |name: &str, value: Option<Value>| {
        event.attributes.extend(value.map(|value| (name.to_owned(), value)));
    };
    put("process.pid", Some(held.task.tgid.into()));
    put(attribute::PROCESS_COMMAND, held.task.comm.as_deref().map(|c| text::escape(c).into()));
    put(attribute::PROCESS_START_BOOT_NS, held.task.process_start_boot_ns.map(Into::into));
    let names = single.iter().map(|(name, key, _)| (text::escape(name), text::escape(key).into())).collect();
    put("aftertrace.env.names", Some(Value::Object(names)));
    match key {
        Some(key) => {
            if !candidates.is_empty() {
                let hashes =
                    candidates.iter().map(|(name, value)| (text::escape(name), key.hash(value).into()));
                put("aftertrace.env.candidates", Some(Value::Object(hashes.collect())));
                put("aftertrace.env.key_id", Some(key.id().into()));
            }
            event.content = content(key, &single);
        }
        None => put("aftertrace.content", Some("hash unavailable".into())),
    }
    event.summary = format!(
        "container {} of {} began with {} of {} {} in its environment",
        text::escape(&life.container),
        draft::pod_name(&pod.pod),
        match (single.len(), candidates.len()) {
            (0, _) => "what may be all keys".to_owned(),
            (1, _) => "1 key".to_owned(),
            (count, _) => format!("{count} keys"),
        },
        object.kind,
        text::escape(&object.name),
    );
    Some(event)
}

/// Keyed hashes by key; two variables of one key have one value, or none is claimed.
fn content(key: &ObjectKey, single: &[(&str, &str, &[u8])]) -> Option<Content> {
    let mut by_key: BTreeMap<&str, Option<&[u8]>> = BTreeMap::new();
    for (_, name, value) in single {
        let kept = by_key.entry(name).or_insert(Some(value));
        if *kept != Some(*value) {
            *kept = None;
        }
    }
    let content = key.content(by_key.into_iter().filter_map(|(name, value)| Some((name, value?))));
    (!content.keys.is_empty()).then_some(content)
}

#[cfg(test)]
mod tests;
