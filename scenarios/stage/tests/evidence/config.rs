//! Configuration that reaches a container, or does not: a consumer of each kind, and the exact rows about it.

use aftertrace_model::attribute::{FILE, HELD_GENERATION, VOLUME_GENERATION, VOLUME_NAME};
use aftertrace_model::{Content, Event, Kind};
use aftertrace_stage::kubelet::truth::Swapped;
use serde_json::{Value, json};

use crate::collector::key_of;
use crate::common::pod;
use crate::rig::{Rig, Running};
use crate::rows::{Case, who};

/// The kinds that tell of configuration on a node.
pub(crate) const KINDS: &[Kind] = &[
    Kind::ConfigSwapped,
    Kind::ConfigNotified,
    Kind::ConfigRead,
    Kind::ConfigWatched,
    Kind::ConfigStale,
    Kind::ConfigInjected,
];

/// Where a consumer's volume is mounted.
const MOUNT: &str = "/aftertrace-volume";

/// The only volume.
const VOLUME: &str = "cfg";

/// The only key.
const KEY: &str = "app.conf";

/// How a pod gets its configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// A ConfigMap's volume.
    ConfigMap,
    /// A ConfigMap's volume, with a nested path in `items`.
    Nested,
    /// A Secret's volume.
    Secret,
    /// A projected volume with a token, the pod's name, and the ConfigMap at a nested path.
    Projected,
    /// One file of a ConfigMap's volume.
    SubPath,
    /// A variable.
    Env,
}

/// What a consumer's way of following a volume brings about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It opens the new file.
    Read,
    /// It hears of the swap, where that can be seen, and does not open the file.
    Ignored,
    /// It is not told, and does not open the file.
    Stale,
    /// The same, and it watches something that is gone.
    Deaf,
    /// The same, and it holds the old file open.
    HeldDescriptor,
    /// Deaf, and it holds the old file open.
    DeafAndHeld,
    /// The same, and it has the old file mapped.
    HeldMapping,
    /// Its mount shows the old file for ever.
    SubPath,
}

struct Consumer {
    name: &'static str,
    way: Way,
    /// The victim's way to read.
    how: &'static str,
    fate: Fate,
}

const fn consumer(name: &'static str, way: Way, how: &'static str, fate: Fate) -> Consumer {
    Consumer { name, way, how, fate }
}

const CONSUMERS: &[Consumer] = &[
    consumer("reads", Way::ConfigMap, "reopen", Fate::Read),
    consumer("reads-nested", Way::Nested, "reopen", Fate::Read),
    consumer("reads-secret", Way::Secret, "reopen", Fate::Read),
    consumer("reads-projected", Way::Projected, "reopen", Fate::Read),
    consumer("ignores", Way::ConfigMap, "ignore", Fate::Ignored),
    consumer("reads-once", Way::Secret, "once", Fate::Stale),
    consumer("watches-file", Way::ConfigMap, "watch-file", Fate::DeafAndHeld),
    consumer("watches-data", Way::ConfigMap, "watch-data", Fate::Deaf),
    // Its watch ends with the link, and it is told so: it may watch again, and is not deaf.
    consumer("watches-link", Way::ConfigMap, "watch-link", Fate::Stale),
    consumer("holds", Way::Projected, "hold", Fate::HeldDescriptor),
    consumer("maps", Way::ConfigMap, "map", Fate::HeldMapping),
    consumer("sub-path", Way::SubPath, "once", Fate::SubPath),
];

impl Way {
    fn object_kind(self) -> &'static str {
        if self == Self::Secret { "Secret" } else { "ConfigMap" }
    }

    /// The object, by the pod's own name, with this value.
    pub(crate) fn object(self, name: &str, value: &str) -> Value {
        let metadata = json!({ "name": name, "namespace": "shop" });
        let kind = self.object_kind();
        let value = match self {
            // The API shows a Secret's values in base64.
            Self::Secret => json!(k8s_openapi::ByteString(value.as_bytes().to_vec())),
            _ => json!(value),
        };
        json!({ "apiVersion": "v1", "kind": kind, "metadata": metadata, "data": { KEY: value } })
    }

    /// The file's path in the volume.
    fn file(self) -> &'static str {
        if matches!(self, Self::Nested | Self::Projected) { "deep/er/app.conf" } else { KEY }
    }

    /// The file's path in the container.
    pub(crate) fn path(self) -> String {
        if self == Self::SubPath { MOUNT.to_owned() } else { format!("{MOUNT}/{}", self.file()) }
    }

    /// A pod that consumes the object of its own name, and runs this command.
    pub(crate) fn pod(self, name: &str, command: &[&str]) -> Value {
        let mut pod = pod(name, command, "64Mi");
        let items = json!([{ "key": KEY, "path": self.file() }]);
        let volume = match self {
            Self::ConfigMap | Self::SubPath => json!({ "configMap": { "name": name } }),
            Self::Nested => json!({ "configMap": { "name": name, "items": items } }),
            Self::Secret => json!({ "secret": { "secretName": name } }),
            Self::Projected => json!({ "projected": { "sources": [
                { "serviceAccountToken": { "path": "token" } },
                { "downwardAPI": { "items": [
                    { "path": "labels", "fieldRef": { "fieldPath": "metadata.labels" } },
                ] } },
                { "configMap": { "name": name, "items": items } },
            ] } }),
            Self::Env => {
                let from = json!({ "configMapKeyRef": { "name": name, "key": KEY } });
                pod["spec"]["containers"][0]["env"] = json!([{ "name": "SETTING", "valueFrom": from }]);
                return pod;
            }
        };
        let mut mount = json!({ "name": VOLUME, "mountPath": MOUNT });
        if self == Self::SubPath {
            mount["subPath"] = json!(KEY);
        }
        pod["spec"]["containers"][0]["volumeMounts"] = json!([mount]);
        let mut volume = volume;
        volume["name"] = json!(VOLUME);
        pod["spec"]["volumes"] = json!([volume]);
        pod
    }

    /// What the agent is to hash of the object, with the key it was given.
    pub(crate) fn content(self, name: &str, value: &str) -> Content {
        key_of(self.object_kind(), "shop", name).content([(KEY, value.as_bytes())])
    }

    /// The row of a swap to this value.
    pub(crate) fn swap_row(self, swap: &Swapped, value: &str) -> String {
        let (kind, name) = (self.object_kind(), &swap.pod);
        let content = shown(Some(&self.content(name, value)));
        format!("config_swapped {name} {} {} {kind}/{name} {content}", swap.volume, swap.new)
    }

    /// The row of the first read after that.
    pub(crate) fn read_row(self, pod: &Running, swap: &Swapped, value: &str) -> String {
        let app = pod.container("app");
        let (kind, name) = (self.object_kind(), &pod.name);
        let content = shown(Some(&self.content(name, value)));
        let (file, generation) = (self.file(), &swap.new);
        format!(
            "config_read {} {VOLUME} {generation} {kind}/{name} {content} {file} pid {}",
            who(app),
            app.pid
        )
    }

    /// The row of a process that heard of it.
    pub(crate) fn notify_row(self, pod: &Running, swap: &Swapped) -> String {
        let app = pod.container("app");
        format!("config_notified {} {VOLUME} {} pid {}", who(app), swap.new, app.pid)
    }

    /// The row of an environment that was made of this value.
    pub(crate) fn injected_row(self, pod: &Running, value: &str) -> String {
        let (app, kind, name) = (pod.container("app"), self.object_kind(), &pod.name);
        let content = shown(Some(&self.content(name, value)));
        format!("config_injected {} {kind}/{name} {content} {}", who(app), json!({ "SETTING": KEY }))
    }

    /// The row of a container that did not.
    pub(crate) fn stale_row(self, pod: &Running, swap: &Swapped, reason: &str) -> String {
        let (app, kind, name) = (pod.container("app"), self.object_kind(), &pod.name);
        let files = json!([self.file()]);
        format!("config_stale {} {VOLUME} {} {kind}/{name} {reason} {files}", who(app), swap.new)
    }
}

/// One event as one line.
pub(crate) fn line(event: &Event, who: &str) -> String {
    let attribute = |name: &str| {
        let value = event.attributes.get(name);
        value.map_or_else(|| "-".to_owned(), |v| v.as_str().map_or_else(|| v.to_string(), str::to_owned))
    };
    let object = event.object.as_ref().map_or_else(|| "-".to_owned(), |o| format!("{}/{}", o.kind, o.name));
    let volume = format!("{} {who} {} {}", event.kind, attribute(VOLUME_NAME), attribute(VOLUME_GENERATION));
    let pid = event.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string());
    let reason = event.reason.as_deref().unwrap_or("-");
    let content = shown(event.content.as_ref());
    match event.kind {
        Kind::ConfigSwapped => format!("{volume} {object} {content}"),
        Kind::ConfigNotified => format!("{volume} pid {pid}"),
        Kind::ConfigRead => format!("{volume} {object} {content} {} pid {pid}", attribute(FILE)),
        Kind::ConfigWatched => format!("{volume} {reason} {} pid {pid}", attribute(HELD_GENERATION)),
        Kind::ConfigStale => format!("{volume} {object} {reason} {}", attribute("aftertrace.stale.files")),
        Kind::ConfigInjected => {
            format!("{} {who} {object} {content} {}", event.kind, attribute("aftertrace.env.names"))
        }
        kind => format!("{kind} {who}"),
    }
}

fn shown(content: Option<&Content>) -> String {
    let Some(content) = content else { return "-".to_owned() };
    let keys: Vec<String> = content.keys.iter().map(|(key, hash)| format!("{key}={hash}")).collect();
    format!("{}:{}", content.key_id, keys.join(","))
}

/// All consumers at once, swapped twice: the second time they are no better informed.
pub(crate) async fn each_way_to_follow_a_volume(rig: &Rig) {
    let mut case = Case::begin(rig, KINDS);
    let mut pods = Vec::new();
    for consumer in CONSUMERS {
        rig.apply(consumer.way.object(consumer.name, "one"));
        let command = ["victim", "read", consumer.how, &consumer.way.path()];
        let pod = rig.run(consumer.way.pod(consumer.name, &command)).await;
        pods.push(pod);
    }
    for pod in &pods {
        rig.ready(pod, "app", 1).await;
    }
    long_ago(rig).await;
    for (number, value) in [(1, "two"), (2, "three")] {
        for consumer in CONSUMERS {
            rig.apply(consumer.way.object(consumer.name, value));
        }
        for (consumer, pod) in CONSUMERS.iter().zip(&pods) {
            let swap = swap_of(rig, pod, number).await;
            case.row(consumer.way.swap_row(&swap, value));
            consumer.expect(rig, &mut case, pod, &swap, (number, value));
        }
        rig.become_stale().await;
        case.check().await;
    }
}

impl Consumer {
    /// The rows that the n-th swap, to this value, makes of this consumer.
    fn expect(
        &self,
        rig: &Rig,
        case: &mut Case<'_>,
        pod: &Running,
        swap: &Swapped,
        (number, value): (usize, &str),
    ) {
        let app = pod.container("app");
        let hears = matches!(self.fate, Fate::Read | Fate::Ignored);
        if hears && rig.tier("config_notify") == "tracing" {
            case.row(self.way.notify_row(pod, swap));
        }
        if !rig.sees("config_read") {
            return;
        }
        // What a process keeps is found once, after the first swap.
        let first = swap.old.as_deref().unwrap_or_default();
        let mut watched = |reason: &str, held: &str| {
            if number == 1 {
                let new = &swap.new;
                let row =
                    format!("config_watched {} {VOLUME} {new} {reason} {held} pid {}", who(app), app.pid);
                case.row(row);
            }
        };
        match self.fate {
            Fate::Deaf => watched("deaf", first),
            Fate::HeldDescriptor => watched("held_descriptor", first),
            Fate::HeldMapping => watched("held_mapping", first),
            Fate::DeafAndHeld => {
                watched("deaf", first);
                watched("held_descriptor", first);
            }
            Fate::Read | Fate::Ignored | Fate::Stale | Fate::SubPath => {}
        }
        let is_tracing = rig.tier("config_notify") == "tracing";
        let row = match self.fate {
            Fate::Read => self.way.read_row(pod, swap, value),
            Fate::SubPath => self.way.stale_row(pod, swap, "sub_path"),
            Fate::Ignored if is_tracing => self.way.stale_row(pod, swap, "notified_not_reopened"),
            Fate::Deaf | Fate::DeafAndHeld => self.way.stale_row(pod, swap, "deaf_watcher"),
            _ => self.way.stale_row(pod, swap, "not_reopened"),
        };
        case.row(row);
    }
}

pub(crate) async fn what_is_no_configuration_is_no_swap_of_it(rig: &Rig) {
    let mut case = Case::begin(rig, KINDS);
    rig.apply(Way::Projected.object("rotates", "one"));
    let path = format!("{MOUNT}/token");
    let pod = rig.run(Way::Projected.pod("rotates", &["victim", "read", "reopen", &path])).await;
    rig.ready(&pod, "app", 1).await;
    long_ago(rig).await;
    rig.stage().kubelet().rotate_tokens();
    swap_of(rig, &pod, 1).await;
    rig.until("the reader to have the new token", || {
        let log = rig.log_of(&pod, "app");
        (log.lines().filter(|line| line.starts_with("read ")).count() >= 2).then_some(())
    })
    .await;
    let key = aftertrace_stage::api::store::ObjectKey::new("shop", "rotates");
    let labels = json!({ "metadata": { "labels": { "app": "relabelled" } } });
    let patched = rig.stage().cluster().patch(aftertrace_stage::api::Resource::Pods, &key, &labels);
    patched.expect("the pod is there");
    swap_of(rig, &pod, 2).await;
    rig.become_stale().await;
    case.check().await;
}

pub(crate) async fn an_environment_keeps_what_it_was_given(rig: &Rig) {
    let mut case = Case::begin(rig, KINDS);
    rig.apply(Way::Env.object("env", "one"));
    let pod = rig.run(Way::Env.pod("env", &["sleep", "3600"])).await;
    long_ago(rig).await;
    rig.apply(Way::Env.object("env", "two"));
    rig.become_stale().await;
    if rig.tells_lives() {
        case.row(Way::Env.injected_row(&pod, "one"));
        assert_ne!(Way::Env.content("env", "one"), Way::Env.content("env", "two"));
    }
    case.check().await;
}

/// A container's start, which statuses give in whole seconds, is to be before the swap for certain; and so is the
/// agent's look at new watches, which comes within three seconds.
pub(crate) async fn long_ago(rig: &Rig) {
    tokio::time::sleep(std::time::Duration::from_secs(4)).await;
    rig.settle().await;
}

/// The n-th swap of a pod's volume.
pub(crate) async fn swap_of(rig: &Rig, pod: &Running, n: usize) -> Swapped {
    rig.until("the swap", || {
        let swaps = rig.stage().truth().swaps().into_iter();
        swaps.filter(|swap| swap.pod_uid == pod.uid).nth(n - 1)
    })
    .await
}
