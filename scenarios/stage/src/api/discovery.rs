//! The documents by which `kubectl` and other clients learn what is served.

use serde_json::{Value, json};

use super::resource::Resource;
use super::target::Discovery;

/// The Kubernetes version whose recorded behaviour is played.
pub const VERSION: &str = "v1.36.2";

/// The answer to a discovery request.
pub fn document(discovery: &Discovery) -> Value {
    match discovery {
        Discovery::CoreVersions => {
            json!({ "kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": [] })
        }
        Discovery::Groups => json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": groups() }),
        Discovery::Group { group: name } => group(name),
        Discovery::Resources { group } => resources(group),
        Discovery::Version => json!({
            "major": "1",
            "minor": "36",
            "gitVersion": VERSION,
            "gitCommit": "",
            "gitTreeState": "clean",
            "buildDate": "2026-01-01T00:00:00Z",
            "goVersion": "",
            "compiler": "",
            "platform": format!("linux/{}", std::env::consts::ARCH),
        }),
        Discovery::Health => json!("ok"),
    }
}

fn groups() -> Vec<Value> {
    let mut names: Vec<&str> = Resource::ALL.iter().map(|resource| resource.names().group).collect();
    names.retain(|name| !name.is_empty());
    names.sort_unstable();
    names.dedup();
    names.into_iter().map(group).collect()
}

fn group(name: &str) -> Value {
    let version = json!({ "groupVersion": format!("{name}/v1"), "version": "v1" });
    json!({
        "kind": "APIGroup",
        "apiVersion": "v1",
        "name": name,
        "versions": [version.clone()],
        "preferredVersion": version,
    })
}

fn resources(group: &str) -> Value {
    let served = Resource::ALL.into_iter().map(Resource::names).filter(|names| names.group == group);
    let resources: Vec<Value> = served
        .map(|names| {
            let mut resource = json!({
                "name": names.plural,
                "singularName": names.kind.to_lowercase(),
                "namespaced": names.namespaced,
                "kind": names.kind,
                "verbs": ["create", "delete", "get", "list", "patch", "update", "watch"],
            });
            if !names.short.is_empty() {
                resource["shortNames"] = json!([names.short]);
            }
            resource
        })
        .collect();
    let group_version = if group.is_empty() { "v1".to_owned() } else { format!("{group}/v1") };
    json!({
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": group_version,
        "resources": resources,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_announced_once() {
        let mut announced = 0;
        for group in ["", "apps", "batch", "events.k8s.io", "coordination.k8s.io"] {
            let document = document(&Discovery::Resources { group: group.into() });
            announced += document["resources"].as_array().unwrap().len();
        }
        assert_eq!(announced, Resource::ALL.len());
        let groups = document(&Discovery::Groups);
        assert_eq!(groups["groups"].as_array().unwrap().len(), 4);
    }
}
