//! Which kinds of objects the played API server serves, and how their addresses are spelled.

/// One served kind of object. Anything else is answered with 404, as by a cluster that lacks the type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Resource {
    /// `v1/pods`
    Pods,
    /// `v1/configmaps`
    ConfigMaps,
    /// `v1/secrets`
    Secrets,
    /// `v1/nodes`
    Nodes,
    /// `v1/namespaces`
    Namespaces,
    /// `v1/events`
    Events,
    /// `v1/serviceaccounts`
    ServiceAccounts,
    /// `apps/v1/deployments`
    Deployments,
    /// `apps/v1/replicasets`
    ReplicaSets,
    /// `apps/v1/statefulsets`
    StatefulSets,
    /// `apps/v1/daemonsets`
    DaemonSets,
    /// `batch/v1/jobs`
    Jobs,
    /// `events.k8s.io/v1/events`; a collection of its own, because recordings hold both.
    EventsV1,
    /// `coordination.k8s.io/v1/leases`
    Leases,
}

/// What a [`Resource`] is called in paths and bodies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResourceType {
    /// API group; empty for the core group.
    pub group: &'static str,
    /// Version inside the group.
    pub version: &'static str,
    /// Name in paths.
    pub plural: &'static str,
    /// Name in `kind`.
    pub kind: &'static str,
    /// Whether objects live in a namespace.
    pub namespaced: bool,
    /// Abbreviation that `kubectl` offers; empty if there is none.
    pub short: &'static str,
}

impl Resource {
    /// Every served kind, core group first.
    pub const ALL: [Resource; 14] = [
        Self::Pods,
        Self::ConfigMaps,
        Self::Secrets,
        Self::Nodes,
        Self::Namespaces,
        Self::Events,
        Self::ServiceAccounts,
        Self::Deployments,
        Self::ReplicaSets,
        Self::StatefulSets,
        Self::DaemonSets,
        Self::Jobs,
        Self::EventsV1,
        Self::Leases,
    ];

    /// The names of this kind.
    pub const fn names(self) -> ResourceType {
        match self {
            Self::Pods => core("pods", "Pod", true, "po"),
            Self::ConfigMaps => core("configmaps", "ConfigMap", true, "cm"),
            Self::Secrets => core("secrets", "Secret", true, ""),
            Self::Nodes => core("nodes", "Node", false, "no"),
            Self::Namespaces => core("namespaces", "Namespace", false, "ns"),
            Self::Events => core("events", "Event", true, "ev"),
            Self::ServiceAccounts => core("serviceaccounts", "ServiceAccount", true, "sa"),
            Self::Deployments => grouped("apps", "deployments", "Deployment", "deploy"),
            Self::ReplicaSets => grouped("apps", "replicasets", "ReplicaSet", "rs"),
            Self::StatefulSets => grouped("apps", "statefulsets", "StatefulSet", "sts"),
            Self::DaemonSets => grouped("apps", "daemonsets", "DaemonSet", "ds"),
            Self::Jobs => grouped("batch", "jobs", "Job", ""),
            Self::EventsV1 => grouped("events.k8s.io", "events", "Event", "ev"),
            Self::Leases => grouped("coordination.k8s.io", "leases", "Lease", ""),
        }
    }

    /// The kind at `group`, `version` and `plural`, if it is served.
    pub fn from_path(group: &str, version: &str, plural: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|resource| {
            let names = resource.names();
            names.group == group && names.version == version && names.plural == plural
        })
    }

    /// The kind that an object's `apiVersion` and `kind` name, if it is served.
    pub fn from_kind(api_version: &str, kind: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|resource| resource.names().kind == kind && resource.api_version() == api_version)
    }

    /// The value of `apiVersion` in this kind's objects.
    pub fn api_version(self) -> String {
        let names = self.names();
        match names.group {
            "" => names.version.to_owned(),
            group => format!("{group}/{}", names.version),
        }
    }
}

const fn core(
    plural: &'static str,
    kind: &'static str,
    namespaced: bool,
    short: &'static str,
) -> ResourceType {
    ResourceType { group: "", version: "v1", plural, kind, namespaced, short }
}

const fn grouped(
    group: &'static str,
    plural: &'static str,
    kind: &'static str,
    short: &'static str,
) -> ResourceType {
    ResourceType { group, version: "v1", plural, kind, namespaced: true, short }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_found_by_its_own_names() {
        for resource in Resource::ALL {
            let names = resource.names();
            assert_eq!(Resource::from_path(names.group, names.version, names.plural), Some(resource));
            assert_eq!(Resource::from_kind(&resource.api_version(), names.kind), Some(resource));
        }
    }

    #[test]
    fn an_unserved_kind_is_not_guessed() {
        assert_eq!(Resource::from_path("", "v1", "pod"), None);
        assert_eq!(Resource::from_path("apps", "v1beta1", "deployments"), None);
        assert_eq!(Resource::from_kind("v1", "Deployment"), None);
    }
}
