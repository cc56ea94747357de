//! Which containers of a pod mount which of its volumes, and how.
//!
//! Pure: pod spec in, mounts out. A mount by `subPath` binds what lay there when the container was started,
//! and shows no later generation.

use k8s_openapi::api::core::v1::{Pod, VolumeMount};

/// One mount of a volume in a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mount {
    /// The container's name.
    pub(crate) container: String,
    /// The volume's name.
    pub(crate) volume: String,
    /// What of it is mounted.
    pub(crate) part: Part,
}

/// What of a volume a container mounts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// All of it: each new generation shows.
    Whole,
    /// A file or folder in it, as it was when the container was started.
    SubPath(String),
    /// The same, under a name that is made of the container's environment.
    Expression,
}

impl Part {
    /// Whether a file of the volume lies in what is mounted and frozen; an expression may be any.
    pub(crate) fn freezes(&self, path: &str) -> bool {
        match self {
            Self::SubPath(part) => {
                path.strip_prefix(part.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
            Self::Whole | Self::Expression => false,
        }
    }
}

/// All mounts of a pod's containers, init and debug containers included.
pub(crate) fn of_pod(pod: &Pod) -> Vec<Mount> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let inits = spec.init_containers.iter().flatten().map(|c| (&c.name, &c.volume_mounts));
    let regular = spec.containers.iter().map(|c| (&c.name, &c.volume_mounts));
    let debug = spec.ephemeral_containers.iter().flatten().map(|c| (&c.name, &c.volume_mounts));
    inits
        .chain(regular)
        .chain(debug)
        .flat_map(|(container, mounts)| mounts.iter().flatten().map(move |mount| of_mount(container, mount)))
        .collect()
}

fn of_mount(container: &str, mount: &VolumeMount) -> Mount {
    let filled = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let part = match (filled(&mount.sub_path), filled(&mount.sub_path_expr)) {
        (Some(path), _) => Part::SubPath(path.trim_matches('/').to_owned()),
        (None, Some(_)) => Part::Expression,
        (None, None) => Part::Whole,
    };
    Mount { container: container.to_owned(), volume: mount.name.clone(), part }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_of_all_containers_are_read() {
        let pod = serde_json::json!({"spec": {
            "initContainers": [{"name": "i", "volumeMounts": [{"name": "v", "mountPath": "/a"}]}],
            "containers": [{"name": "c", "volumeMounts": [
                {"name": "v", "mountPath": "/a", "subPath": "dir/"},
                {"name": "v", "mountPath": "/b", "subPathExpr": "$(POD)"},
                {"name": "w", "mountPath": "/c", "subPath": ""}]}]}});
        let mounts = of_pod(&serde_json::from_value(pod).expect("a pod"));
        let shown: Vec<_> =
            mounts.iter().map(|m| (m.container.as_str(), m.volume.as_str(), &m.part)).collect();
        assert_eq!(
            shown,
            [
                ("i", "v", &Part::Whole),
                ("c", "v", &Part::SubPath("dir".into())),
                ("c", "v", &Part::Expression),
                ("c", "w", &Part::Whole),
            ]
        );
    }

    #[test]
    fn a_sub_path_is_a_file_or_a_folder() {
        let part = Part::SubPath("dir".into());
        assert!(part.freezes("dir") && part.freezes("dir/file"));
        assert!(!part.freezes("dir2") && !part.freezes("di") && !Part::Whole.freezes("dir"));
    }
}
