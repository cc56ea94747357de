//! The two scenarios: their objects, and how to tell that their answers are complete.

use anyhow::Result;
use serde_json::{Value, json};

use super::programs::Programs;

/// Everything the demo makes is in this namespace.
pub(super) const NAMESPACE: &str = "aftertrace-demo";
/// The pod that takes too much memory.
pub(super) const VICTIM: &str = "checkout";
/// The pod that reads a mounted ConfigMap.
pub(super) const READER: &str = "storefront";
/// The ConfigMap.
pub(super) const CONFIG: &str = "features";

/// Finds the swap's edge once the catalog has it.
pub(super) const SWAPS_IN_SQL: &str =
    "select distinct effect_kind from edges where effect_kind = 'config_swapped'";
/// The causes, as anybody with the DuckDB command sees them.
pub(super) const EDGES_IN_SQL: &str = "select pattern, cause_kind, effect_kind, grade, count(*) as edges, \
                                       min(lag_us) as lag_us_min from edges group by all order by all";

/// The namespace.
pub(super) fn namespace() -> Value {
    json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": NAMESPACE } })
}

/// The ConfigMap before its change.
pub(super) fn config_map() -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": { "name": CONFIG, "namespace": NAMESPACE },
        "data": { "banner": "off", "region": "north" },
    })
}

/// What changes in it: one of its two keys.
pub(super) fn config_change() -> Value {
    json!({ "data": { "banner": "on" } })
}

/// A pod whose container takes 128 MiB under a limit of 64. The stage brings `memhog`, which takes 4 MiB
/// every 100 ms; on a cluster it is `tail`, which looks for the end of an endless line.
pub(super) fn victim(is_stage: bool) -> Value {
    let command =
        if is_stage { vec!["memhog", "128", "3600", "4", "100"] } else { vec!["tail", "/dev/zero"] };
    pod(
        VICTIM,
        &json!([{
            "name": "app",
            "image": "busybox:1.36",
            "command": command,
            "resources": { "limits": { "memory": "64Mi" }, "requests": { "memory": "64Mi" } },
        }]),
        &json!([]),
    )
}

/// A pod that reads the mounted ConfigMap once a second.
pub(super) fn reader() -> Value {
    pod(
        READER,
        &json!([{
            "name": "web",
            "image": "busybox:1.36",
            "command": ["sh", "-c", "while :; do cat /etc/features/banner; sleep 1; done"],
            "volumeMounts": [{ "name": "features", "mountPath": "/etc/features" }],
        }]),
        &json!([{ "name": "features", "configMap": { "name": CONFIG } }]),
    )
}

fn pod(name: &str, containers: &Value, volumes: &Value) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": name, "namespace": NAMESPACE },
        "spec": { "restartPolicy": "Always", "containers": containers, "volumes": volumes },
    })
}

/// The path of the collection that an object of ours is created in.
pub(super) fn collection(object: &Value) -> String {
    match object["kind"].as_str() {
        Some("Namespace") => "/api/v1/namespaces".to_owned(),
        Some("ConfigMap") => format!("/api/v1/namespaces/{NAMESPACE}/configmaps"),
        _ => format!("/api/v1/namespaces/{NAMESPACE}/pods"),
    }
}

/// The path of the ConfigMap itself.
pub(super) fn config_map_path() -> String {
    format!("/api/v1/namespaces/{NAMESPACE}/configmaps/{CONFIG}")
}

/// An answer of `aft why -o json` or `aft timeline -o json`.
pub(super) struct Answer(Value);

impl Answer {
    /// The first event of a kind.
    pub(super) fn event(&self, kind: &str) -> Option<&Value> {
        self.0["events"].as_array()?.iter().find(|event| event["kind"] == kind)
    }

    /// How long after its cause an effect came, in milliseconds, by the edge between two kinds.
    pub(super) fn lag_ms(&self, cause: &str, effect: &str) -> Option<f64> {
        let is_it = |edge: &&Value| edge["cause_kind"] == cause && edge["effect_kind"] == effect;
        let edge = self.edges().find(is_it)?;
        Some(edge["lag_us"].as_f64()? / 1_000.0)
    }

    fn edges(&self) -> impl Iterator<Item = &Value> {
        self.0["edges"].as_array().into_iter().flatten()
    }
}

/// Complete when the kernel's kill is joined to what the kubelet said, and that to the next start.
pub(super) fn ask_for_the_kill(programs: &Programs) -> Result<Option<Answer>> {
    ask(programs, &["why", &format!("pod/{VICTIM}"), "-n", NAMESPACE], |answer| {
        answer.lag_ms("oom_kill", "container_terminated").is_some()
            && answer.edges().any(|edge| edge["effect_kind"] == "container_started")
    })
}

/// Complete when the reader's container runs: only then is there a mount that can be swapped.
pub(super) fn ask_for_the_reader(programs: &Programs) -> Result<Option<Answer>> {
    ask(programs, &["timeline", &format!("pod/{READER}"), "-n", NAMESPACE], |answer| {
        answer.event("container_started").is_some()
    })
}

/// Complete when the kernel's swap is joined to the change in the API.
pub(super) fn ask_for_the_swap(programs: &Programs) -> Result<Option<Answer>> {
    ask(programs, &["why", &format!("pod/{READER}"), "-n", NAMESPACE], |answer| {
        answer.lag_ms("config_changed", "config_swapped").is_some()
    })
}

fn ask(programs: &Programs, args: &[&str], is_complete: impl Fn(&Answer) -> bool) -> Result<Option<Answer>> {
    Ok(programs.aft(args)?.map(Answer).filter(is_complete))
}

#[cfg(test)]
impl Answer {
    pub(super) fn of(value: Value) -> Self {
        Self(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_created_where_the_api_has_them() {
        assert_eq!(collection(&namespace()), "/api/v1/namespaces");
        assert_eq!(collection(&config_map()), "/api/v1/namespaces/aftertrace-demo/configmaps");
        assert_eq!(collection(&victim(true)), "/api/v1/namespaces/aftertrace-demo/pods");
    }

    #[test]
    fn a_lag_is_read_from_the_edge_between_two_kinds() {
        let edge =
            json!({ "cause_kind": "config_changed", "effect_kind": "config_swapped", "lag_us": 1_500 });
        let answer = Answer::of(json!({ "events": [], "edges": [edge] }));
        assert_eq!(answer.lag_ms("config_changed", "config_swapped"), Some(1.5));
        assert_eq!(answer.lag_ms("config_swapped", "config_changed"), None);
        assert!(answer.event("config_swapped").is_none());
    }
}
