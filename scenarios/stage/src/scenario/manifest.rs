//! Applies and removes the objects of a manifest, as `kubectl apply --server-side` and `kubectl delete` do.

use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Client, ResourceExt};

use super::Progress;
use crate::api::Resource;

/// Who owns the applied fields.
const MANAGER: &str = "aftertrace-stage";

/// Why a manifest cannot be applied or removed.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The text is not a list of objects.
    #[error("manifest is not valid YAML")]
    Yaml(#[source] Box<serde_saphyr::Error>),
    /// An object is not named, or of a kind that no scenario uses.
    #[error("manifest has an object that cannot be applied: {kind} \"{name}\"")]
    Object {
        /// Its kind.
        kind: String,
        /// Its name.
        name: String,
    },
    /// The API refuses or cannot be reached.
    #[error("cannot {verb} {kind} \"{name}\"")]
    Api {
        /// What was tried.
        verb: &'static str,
        /// Kind of the object.
        kind: String,
        /// Name of the object.
        name: String,
        /// What the client says.
        #[source]
        source: Box<kube::Error>,
    },
}

/// Applies every object of a manifest, in its order.
///
/// # Errors
/// [`ManifestError`] of the first object that cannot be applied.
pub async fn apply(
    client: &Client,
    manifest: &str,
    tell: &mut (dyn FnMut(Progress) + Send),
) -> Result<(), ManifestError> {
    for object in parse(manifest)? {
        let (api, kind, name) = place(client, &object)?;
        let params = PatchParams::apply(MANAGER).force();
        let applied = api.patch(&name, &params, &Patch::Apply(&object)).await;
        applied.map_err(|source| api_error("apply", &kind, &name, source))?;
        tell(Progress::Applied { kind, name });
    }
    Ok(())
}

/// Deletes every object of a manifest, the last first. What is gone already is fine.
///
/// # Errors
/// [`ManifestError`] of the first object that cannot be deleted.
pub async fn remove(client: &Client, manifest: &str) -> Result<(), ManifestError> {
    for object in parse(manifest)?.into_iter().rev() {
        let (api, kind, name) = place(client, &object)?;
        match api.delete(&name, &DeleteParams::default()).await {
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            deleted => {
                deleted.map_err(|source| api_error("delete", &kind, &name, source))?;
            }
        }
    }
    Ok(())
}

fn parse(manifest: &str) -> Result<Vec<DynamicObject>, ManifestError> {
    serde_saphyr::from_multiple(manifest).map_err(|source| ManifestError::Yaml(Box::new(source)))
}

fn place(
    client: &Client,
    object: &DynamicObject,
) -> Result<(Api<DynamicObject>, String, String), ManifestError> {
    let types = object.types.clone().unwrap_or_default();
    let (kind, name) = (types.kind.clone(), object.name_any());
    let unusable = || ManifestError::Object { kind: kind.clone(), name: name.clone() };
    let resource = Resource::from_kind(&types.api_version, &types.kind).ok_or_else(unusable)?;
    if name.is_empty() {
        return Err(unusable());
    }
    let names = resource.names();
    let gvk = GroupVersionKind::gvk(names.group, names.version, names.kind);
    let api_resource = ApiResource::from_gvk_with_plural(&gvk, names.plural);
    let api = match object.namespace() {
        Some(namespace) => Api::namespaced_with(client.clone(), &namespace, &api_resource),
        None => Api::all_with(client.clone(), &api_resource),
    };
    Ok((api, kind, name))
}

fn api_error(verb: &'static str, kind: &str, name: &str, source: kube::Error) -> ManifestError {
    ManifestError::Api { verb, kind: kind.to_owned(), name: name.to_owned(), source: Box::new(source) }
}

#[cfg(test)]
mod tests {
    use super::super::Scenario;
    use super::*;

    #[test]
    fn the_scenarios_manifests_are_understood() {
        let check = |scenario: Scenario, expected: &[&str]| {
            let objects = parse(scenario.manifest()).unwrap();
            let kinds: Vec<String> = objects.iter().map(|o| o.types.clone().unwrap().kind).collect();
            assert_eq!(kinds, expected);
        };
        check(Scenario::OomKill, &["Namespace", "Deployment"]);
        check(Scenario::MountSwap, &["Namespace", "ConfigMap", "Pod"]);
    }

    #[test]
    fn what_is_no_manifest_is_refused() {
        assert!(matches!(parse("a: [").unwrap_err(), ManifestError::Yaml(_)));
    }
}
