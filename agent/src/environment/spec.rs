//! A pod spec's `env` and `envFrom` → which variable shows which key of which object.
//!
//! Pure. As the kubelet does it: `envFrom` first, then `env`, a later definition of a name in place of an
//! earlier one. What a source of all keys gives is known only by its prefix, because the spec does not name
//! its keys; a variable from the image may bear it, too, so those are candidates and no claim.

use std::collections::{BTreeMap, HashMap, HashSet};

use k8s_openapi::api::core::v1::{EnvFromSource, EnvVar, Pod};

use crate::volumes::sources::MountedObject;

/// What a container's environment takes from objects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ContainerEnv {
    /// Each object once, in the order of the spec.
    pub(crate) objects: Vec<Injected>,
    /// Sources of all keys: prefix and object.
    whole: Vec<(String, MountedObject)>,
    /// Every name in `env`, wherever its value comes from.
    defined: HashSet<String>,
}

/// What one object gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Injected {
    /// The object.
    pub(crate) object: MountedObject,
    /// Variable to key.
    pub(crate) variables: BTreeMap<String, String>,
}

impl ContainerEnv {
    /// Whether it takes nothing from objects.
    pub(crate) fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    /// Whether a variable may come from an object.
    pub(crate) fn is_wanted(&self, name: &str) -> bool {
        self.objects.iter().any(|injected| injected.variables.contains_key(name))
            || (!self.defined.contains(name) && self.whole.iter().any(|(prefix, _)| name.starts_with(prefix)))
    }

    /// The key of `object` that a variable may show, if that object gives all its keys: none where the spec
    /// defines the variable itself, or where another object's prefix fits as well.
    pub(crate) fn key_of_whole<'n>(&self, object: &MountedObject, name: &'n str) -> Option<&'n str> {
        if self.defined.contains(name) {
            return None;
        }
        let mut fitting =
            self.whole.iter().filter_map(|(prefix, of)| Some((of, name.strip_prefix(prefix.as_str())?)));
        match (fitting.next(), fitting.next()) {
            (Some((of, key)), None) if of == object && !key.is_empty() => Some(key),
            _ => None,
        }
    }
}

/// What each container of a pod takes, by the container's name; those that take nothing are left out.
pub(crate) fn of_pod(pod: &Pod) -> HashMap<String, ContainerEnv> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let Some(spec) = &pod.spec else { return HashMap::new() };
    let inits = spec.init_containers.iter().flatten();
    let regular = inits.chain(&spec.containers).map(|c| (&c.name, &c.env, &c.env_from));
    let ephemeral = spec.ephemeral_containers.iter().flatten().map(|c| (&c.name, &c.env, &c.env_from));
    let all = regular.chain(ephemeral).map(|(name, env, from)| {
        (
            name.clone(),
            of_container(namespace, env.as_deref().unwrap_or_default(), from.as_deref().unwrap_or_default()),
        )
    });
    all.filter(|(_, env)| !env.is_empty()).collect()
}

fn of_container(namespace: &str, env: &[EnvVar], from: &[EnvFromSource]) -> ContainerEnv {
    let object =
        |kind, name: &str| MountedObject { kind, namespace: namespace.to_owned(), name: name.to_owned() };
    let mut found =
        ContainerEnv { defined: env.iter().map(|v| v.name.clone()).collect(), ..Default::default() };
    for source in from {
        let config_map = source.config_map_ref.as_ref().map(|r| ("ConfigMap", &r.name));
        let secret = source.secret_ref.as_ref().map(|r| ("Secret", &r.name));
        if let Some((kind, name)) = config_map.or(secret) {
            let object = object(kind, name);
            found.whole.push((source.prefix.clone().unwrap_or_default(), object.clone()));
            found.entry(object);
        }
    }
    // The last definition of a name counts, wherever it takes its value from.
    let last: BTreeMap<&str, &EnvVar> = env.iter().map(|v| (v.name.as_str(), v)).collect();
    for variable in last.into_values() {
        let Some(from) = &variable.value_from else { continue };
        let config_map = from.config_map_key_ref.as_ref().map(|r| ("ConfigMap", &r.name, &r.key));
        let secret = from.secret_key_ref.as_ref().map(|r| ("Secret", &r.name, &r.key));
        if let Some((kind, name, key)) = config_map.or(secret) {
            found.entry(object(kind, name)).insert(variable.name.clone(), key.clone());
        }
    }
    found
}

impl ContainerEnv {
    fn entry(&mut self, object: MountedObject) -> &mut BTreeMap<String, String> {
        let at = self.objects.iter().position(|injected| injected.object == object).unwrap_or_else(|| {
            self.objects.push(Injected { object, variables: BTreeMap::new() });
            self.objects.len() - 1
        });
        &mut self.objects[at].variables
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn env(container: serde_json::Value) -> ContainerEnv {
        let mut container = container;
        container["name"] = "c".into();
        let pod = json!({"metadata": {"namespace": "n"}, "spec": {"containers": [container]}});
        of_pod(&serde_json::from_value(pod).expect("a pod")).remove("c").unwrap_or_default()
    }

    fn object(kind: &'static str, name: &str) -> MountedObject {
        MountedObject { kind, namespace: "n".into(), name: name.into() }
    }

    #[test]
    fn single_keys_lead_to_their_objects_and_the_last_definition_counts() {
        let env = env(json!({"env": [
            {"name": "A", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "a"}}},
            {"name": "B", "valueFrom": {"secretKeyRef": {"name": "s", "key": "b"}}},
            {"name": "C", "value": "literal"},
            {"name": "D", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "d"}}},
            {"name": "D", "value": "later"},
            {"name": "E", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        ]}));
        let shown: Vec<_> = env
            .objects
            .iter()
            .map(|i| (i.object.kind, i.variables.iter().map(|(v, k)| format!("{v}={k}")).collect::<Vec<_>>()))
            .collect();
        assert_eq!(shown, [("ConfigMap", vec!["A=a".to_owned()]), ("Secret", vec!["B=b".to_owned()])]);
        assert!(env.is_wanted("A") && !env.is_wanted("C") && !env.is_wanted("D") && !env.is_wanted("PATH"));
    }

    #[test]
    fn a_source_of_all_keys_gives_candidates_by_its_prefix() {
        let env = env(json!({
            "envFrom": [{"prefix": "CFG_", "configMapRef": {"name": "cm"}}, {"prefix": "CFG_DB_", "secretRef": {"name": "s"}}],
            "env": [{"name": "CFG_MODE", "value": "fixed"}],
        }));
        let (cm, secret) = (object("ConfigMap", "cm"), object("Secret", "s"));
        assert_eq!(env.key_of_whole(&cm, "CFG_X"), Some("X"));
        assert_eq!(env.key_of_whole(&secret, "CFG_X"), None);
        assert_eq!(env.key_of_whole(&cm, "CFG_MODE"), None, "the spec defines it itself");
        assert_eq!(env.key_of_whole(&cm, "CFG_DB_PASS"), None, "either may give it");
        assert_eq!(env.key_of_whole(&secret, "CFG_DB_PASS"), None);
        assert!(env.is_wanted("CFG_X") && !env.is_wanted("CFG_MODE") && !env.is_wanted("HOME"));
    }

    #[test]
    fn init_and_debug_containers_count_and_others_are_left_out() {
        let from = json!([{"configMapRef": {"name": "cm"}}]);
        let pod = json!({"metadata": {"namespace": "n"}, "spec": {
            "containers": [{"name": "plain", "env": [{"name": "A", "value": "x"}]}],
            "initContainers": [{"name": "init", "envFrom": from}],
            "ephemeralContainers": [{"name": "debug", "envFrom": from}]}});
        let mut found: Vec<String> =
            of_pod(&serde_json::from_value(pod).expect("a pod")).into_keys().collect();
        found.sort();
        assert_eq!(found, ["debug", "init"]);
    }
}
