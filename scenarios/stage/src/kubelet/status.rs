//! What a kubelet writes into `pod.status`, in the shape and order that was recorded from a real one.

use serde_json::{Value, json};

use super::clock::Instant;
use super::spec::{ContainerRole, ContainerSpec, PodSpec, RestartPolicy};

/// Where a container stands.
#[derive(Clone, Debug, PartialEq)]
pub struct ContainerState {
    /// What it does now.
    pub now: Now,
    /// How its last run ended, once it has been started again or waits for that.
    pub last: Option<Termination>,
    /// Starts after the first.
    pub restart_count: u32,
    /// Id of its newest run.
    pub container_id: Option<String>,
}

/// What a container does now.
#[derive(Clone, Debug, PartialEq)]
pub enum Now {
    /// `waiting`
    Waiting {
        /// `ContainerCreating`, `CrashLoopBackOff`, …
        reason: &'static str,
        /// For people.
        message: Option<String>,
    },
    /// `running`
    Running {
        /// Since when.
        started_at: Instant,
    },
    /// `terminated`
    Terminated(Termination),
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Termination {
    /// Exit code, or 128 + signal.
    pub exit_code: i32,
    /// `OOMKilled`, `Error`, `Completed`, `StartError`.
    pub reason: &'static str,
    /// For people.
    pub message: Option<String>,
    /// When it began.
    pub started_at: Instant,
    /// When it ended.
    pub finished_at: Instant,
    /// Which run.
    pub container_id: String,
}

impl ContainerState {
    /// A container that has not been started yet.
    pub fn creating() -> Self {
        Self {
            now: Now::Waiting { reason: "ContainerCreating", message: None },
            last: None,
            restart_count: 0,
            container_id: None,
        }
    }

    fn is_running(&self) -> bool {
        matches!(self.now, Now::Running { .. })
    }

    fn termination(&self) -> Option<&Termination> {
        if let Now::Terminated(termination) = &self.now { Some(termination) } else { None }
    }
}

/// The reason of a termination: an OOM kill counted in its cgroup names it, whatever the exit code is. That is
/// how a container whose child was killed, and which then ended well, is reported `OOMKilled` with exit code 0.
pub fn termination_reason(exit_code: i32, oom_kills: u64) -> &'static str {
    match (oom_kills, exit_code) {
        (1.., _) => "OOMKilled",
        (0, 0) => "Completed",
        (0, _) => "Error",
    }
}

/// Facts about the pod that its status shows besides its containers.
#[derive(Clone, Copy, Debug)]
pub struct PodFacts<'a> {
    /// Whether the sandbox stands.
    pub sandbox_ready: bool,
    /// Address of the node.
    pub host_ip: &'a str,
    /// Address of the pod.
    pub pod_ip: &'a str,
    /// When this status is written.
    pub at: Instant,
    /// Whether the pod has come to its end, which is written one status after the last termination.
    pub ended: bool,
}

/// The whole `status`; times of unchanged conditions are taken over from `previous`.
pub fn pod_status(previous: &Value, spec: &PodSpec, states: &[ContainerState], facts: PodFacts<'_>) -> Value {
    let all = || spec.containers.iter().zip(states);
    let regular = || all().filter(|(container, _)| container.role == ContainerRole::Regular);
    let inits = || all().filter(|(container, _)| container.role != ContainerRole::Regular);
    let unready: Vec<&str> = regular()
        .filter(|(_, state)| !state.is_running())
        .map(|(container, _)| container.name.as_str())
        .collect();
    let has_failed = |state: &ContainerState| state.termination().is_some_and(|end| end.exit_code != 0);
    let failed_init =
        inits().any(|(container, state)| container.role == ContainerRole::Init && has_failed(state));
    let terminal = match spec.restart_policy {
        RestartPolicy::Always => false,
        RestartPolicy::Never if failed_init => true,
        _ => regular().all(|(_, state)| state.termination().is_some()),
    };
    let failed = failed_init || regular().any(|(_, state)| has_failed(state));
    let initialized = inits().all(|(container, state)| match container.role {
        ContainerRole::Sidecar => state.container_id.is_some(),
        _ => state.termination().is_some_and(|end| end.exit_code == 0),
    });
    let phase = if facts.ended && terminal {
        if failed { "Failed" } else { "Succeeded" }
    } else if regular().any(|(_, state)| state.container_id.is_some()) {
        "Running"
    } else {
        "Pending"
    };
    let not_ready = match (unready.is_empty(), terminal, failed) {
        (true, ..) => None,
        (false, true, true) => Some(("PodFailed", None)),
        (false, true, false) => Some(("PodCompleted", None)),
        (false, false, _) => {
            let names = unready.join(" ");
            Some(("ContainersNotReady", Some(format!("containers with unready status: [{names}]"))))
        }
    };
    let kinds = [
        ("PodReadyToStartContainers", if facts.sandbox_ready { None } else { Some(("", None)) }),
        ("Initialized", if initialized { None } else { Some(("ContainersNotInitialized", None)) }),
        ("Ready", not_ready.clone()),
        ("ContainersReady", not_ready),
        ("PodScheduled", None),
    ];
    let conditions: Vec<Value> =
        kinds.into_iter().map(|(kind, why_not)| condition(previous, kind, why_not, facts.at)).collect();
    let statuses: Vec<Value> =
        regular().map(|(container, state)| container_status(container, state)).collect();
    let mut status = json!({
        "observedGeneration": 1,
        "phase": phase,
        "conditions": conditions,
        "hostIP": facts.host_ip,
        "hostIPs": [{ "ip": facts.host_ip }],
        "startTime": previous["startTime"].as_str().map_or_else(|| facts.at.kube_time(), str::to_owned),
        "containerStatuses": statuses,
        "qosClass": spec.qos().as_str(),
    });
    let init_statuses: Vec<Value> =
        inits().map(|(container, state)| container_status(container, state)).collect();
    if !init_statuses.is_empty() {
        status["initContainerStatuses"] = json!(init_statuses);
    }
    if facts.sandbox_ready || previous["podIP"].is_string() {
        status["podIP"] = json!(facts.pod_ip);
        status["podIPs"] = json!([{ "ip": facts.pod_ip }]);
    }
    status
}

fn condition(previous: &Value, kind: &str, why_not: Option<(&str, Option<String>)>, at: Instant) -> Value {
    let status = if why_not.is_none() { "True" } else { "False" };
    let before = previous["conditions"].as_array().into_iter().flatten();
    let since = before
        .filter(|before| before["type"] == kind && before["status"] == status)
        .find_map(|before| before["lastTransitionTime"].as_str().map(str::to_owned))
        .unwrap_or_else(|| at.kube_time());
    let mut condition = json!({
        "type": kind,
        "observedGeneration": 1,
        "status": status,
        "lastProbeTime": null,
        "lastTransitionTime": since,
    });
    if let Some((reason, message)) = why_not.filter(|(reason, _)| !reason.is_empty()) {
        condition["reason"] = json!(reason);
        if let Some(message) = message {
            condition["message"] = json!(message);
        }
    }
    condition
}

fn container_status(spec: &ContainerSpec, state: &ContainerState) -> Value {
    let mut status = json!({
        "name": spec.name,
        "state": match &state.now {
            Now::Waiting { reason, message: None } => json!({ "waiting": { "reason": reason } }),
            Now::Waiting { reason, message } => json!({ "waiting": { "reason": reason, "message": message } }),
            Now::Running { started_at } => json!({ "running": { "startedAt": started_at.kube_time() } }),
            Now::Terminated(termination) => json!({ "terminated": terminated(termination) }),
        },
        "lastState": match &state.last {
            Some(termination) => json!({ "terminated": terminated(termination) }),
            None => json!({}),
        },
        "ready": state.is_running(),
        "restartCount": state.restart_count,
        "image": spec.image,
        "imageID": "",
        "started": state.is_running(),
    });
    if let Some(id) = &state.container_id {
        status["containerID"] = json!(format!("containerd://{id}"));
        status["imageID"] = json!(format!("aftertrace-stage/{}", spec.image));
        if let Some(memory) = spec.resources["requests"]["memory"].as_str() {
            status["allocatedResources"] = json!({ "memory": memory });
        }
        if spec.resources.is_object() {
            status["resources"] = spec.resources.clone();
        }
    }
    if !spec.mounts.is_empty() {
        let mounts = spec.mounts.iter().map(|mount| json!({ "name": mount.volume, "mountPath": mount.path }));
        status["volumeMounts"] = mounts.collect();
    }
    status
}

fn terminated(termination: &Termination) -> Value {
    let mut value = json!({
        "exitCode": termination.exit_code,
        "reason": termination.reason,
        "startedAt": termination.started_at.kube_time(),
        "finishedAt": termination.finished_at.kube_time(),
        "containerID": format!("containerd://{}", termination.container_id),
    });
    if let Some(message) = &termination.message {
        value["message"] = json!(message);
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Instant {
        Instant { wall_ns: second * 1_000_000_000 + 900_000_000, boot_ns: 0 }
    }

    fn spec(restart_policy: &str) -> PodSpec {
        PodSpec::read(&json!({ "spec": {
            "restartPolicy": restart_policy, "containers": [{ "name": "app", "image": "memhog" }],
        } }))
    }

    fn facts(second: i64) -> PodFacts<'static> {
        PodFacts {
            sandbox_ready: true,
            host_ip: "10.0.0.1",
            pod_ip: "10.1.0.1",
            at: at(second),
            ended: false,
        }
    }

    fn killed() -> Termination {
        Termination {
            exit_code: 137,
            reason: "OOMKilled",
            message: None,
            started_at: at(1),
            finished_at: at(2),
            container_id: "ab".into(),
        }
    }

    #[test]
    fn an_oom_kill_is_written_as_recorded() {
        let state = ContainerState {
            now: Now::Terminated(killed()),
            container_id: Some("ab".into()),
            ..ContainerState::creating()
        };
        let status = pod_status(&json!({}), &spec("Always"), &[state], facts(3));
        let expected = json!({ "terminated": {
            "exitCode": 137, "reason": "OOMKilled", "containerID": "containerd://ab",
            "startedAt": "1970-01-01T00:00:01Z", "finishedAt": "1970-01-01T00:00:02Z",
        } });
        assert_eq!(status["containerStatuses"][0]["state"], expected);
        assert_eq!(status["phase"], "Running", "a pod that restarts its containers does not fail");
        assert_eq!(status["conditions"][2]["reason"], "ContainersNotReady");
    }

    #[test]
    fn an_unchanged_condition_keeps_its_time() {
        let running =
            ContainerState { now: Now::Running { started_at: at(1) }, ..ContainerState::creating() };
        let first = pod_status(&json!({}), &spec("Always"), std::slice::from_ref(&running), facts(1));
        let second = pod_status(&first, &spec("Always"), &[running], facts(9));
        assert_eq!(second, first);
        let third = pod_status(&second, &spec("Always"), &[ContainerState::creating()], facts(9));
        assert_eq!(third["conditions"][2]["lastTransitionTime"], "1970-01-01T00:00:09Z");
        assert_eq!(third["conditions"][4]["lastTransitionTime"], "1970-01-01T00:00:01Z");
    }

    #[test]
    fn a_pod_that_never_restarts_fails_one_status_later() {
        let state = ContainerState {
            now: Now::Terminated(killed()),
            container_id: Some("ab".into()),
            ..ContainerState::creating()
        };
        let first = pod_status(&json!({}), &spec("Never"), std::slice::from_ref(&state), facts(3));
        assert_eq!(
            (&first["phase"], &first["conditions"][2]["reason"]),
            (&json!("Running"), &json!("PodFailed"))
        );
        let ended = PodFacts { ended: true, sandbox_ready: false, ..facts(4) };
        let second = pod_status(&first, &spec("Never"), &[state], ended);
        assert_eq!(second["phase"], "Failed");
    }

    #[test]
    fn init_containers_have_statuses_of_their_own() {
        let spec = PodSpec::read(&json!({ "spec": {
            "restartPolicy": "Never",
            "initContainers": [{ "name": "setup" }, { "name": "proxy", "restartPolicy": "Always" }],
            "containers": [{ "name": "app" }],
        } }));
        let ended = |exit_code| ContainerState {
            now: Now::Terminated(Termination { exit_code, ..killed() }),
            container_id: Some("ab".into()),
            ..ContainerState::creating()
        };
        let running = ContainerState {
            now: Now::Running { started_at: at(1) },
            container_id: Some("cd".into()),
            ..ContainerState::creating()
        };
        let check = |states: &[ContainerState], expected: [&str; 2]| {
            let ended = PodFacts { ended: true, ..facts(2) };
            let status = pod_status(&json!({}), &spec, states, ended);
            assert_eq!(status["initContainerStatuses"].as_array().map(Vec::len), Some(2));
            assert_eq!(status["containerStatuses"].as_array().map(Vec::len), Some(1));
            assert_eq!([&status["phase"], &status["conditions"][1]["status"]], expected);
        };
        let creating = ContainerState::creating;
        check(&[creating(), creating(), creating()], ["Pending", "False"]);
        check(&[ended(0), running.clone(), creating()], ["Pending", "True"]);
        check(&[ended(0), running.clone(), running.clone()], ["Running", "True"]);
        check(&[ended(0), running, ended(0)], ["Succeeded", "True"]);
        check(&[ended(1), creating(), creating()], ["Failed", "False"]);
    }

    #[test]
    fn reasons() {
        assert_eq!(termination_reason(137, 1), "OOMKilled");
        assert_eq!(termination_reason(0, 1), "OOMKilled");
        assert_eq!(termination_reason(137, 0), "Error");
        assert_eq!(termination_reason(0, 0), "Completed");
    }
}
