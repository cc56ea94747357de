//! The path of a request: which objects it is about.

use super::error::ApiError;
use super::resource::Resource;

/// What a path names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A description of the API itself.
    Discovery(Discovery),
    /// All objects of a kind, in one namespace or in all.
    Collection {
        /// The kind.
        resource: Resource,
        /// The namespace, or `None` for all (and for kinds without one).
        namespace: Option<String>,
    },
    /// One object.
    Object {
        /// The kind.
        resource: Resource,
        /// The namespace, "" for kinds without one.
        namespace: String,
        /// The name.
        name: String,
    },
    /// A question that is answered at once and not stored.
    Review(Review),
}

/// Documents by which a client learns what is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Discovery {
    /// `/api`
    CoreVersions,
    /// `/apis`
    Groups,
    /// `/api/v1` (empty group) and `/apis/<group>/v1`
    Resources {
        /// API group, "" for the core group.
        group: String,
    },
    /// `/apis/<group>`
    Group {
        /// API group.
        group: String,
    },
    /// `/version`
    Version,
    /// `/healthz`, `/livez`, `/readyz`
    Health,
}

/// Questions about identity and permission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Review {
    /// Whose token is this?
    Token,
    /// Who am I?
    SelfSubject,
    /// May I (or may someone)?
    Access,
}

impl Target {
    /// Parses a path without its query.
    ///
    /// # Errors
    /// [`ApiError::NoSuchPath`].
    pub fn parse(path: &str) -> Result<Self, ApiError> {
        let unknown = || ApiError::NoSuchPath { path: path.to_owned() };
        let segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
        match segments.as_slice() {
            ["api"] => Ok(Self::Discovery(Discovery::CoreVersions)),
            ["apis"] => Ok(Self::Discovery(Discovery::Groups)),
            ["version"] => Ok(Self::Discovery(Discovery::Version)),
            ["healthz" | "livez" | "readyz", ..] => Ok(Self::Discovery(Discovery::Health)),
            ["api", "v1"] => Ok(Self::Discovery(Discovery::Resources { group: String::new() })),
            ["api", "v1", rest @ ..] => objects("", rest).ok_or_else(unknown),
            ["apis", "authentication.k8s.io", "v1", "tokenreviews"] => Ok(Self::Review(Review::Token)),
            ["apis", "authentication.k8s.io", "v1", "selfsubjectreviews"] => {
                Ok(Self::Review(Review::SelfSubject))
            }
            ["apis", "authorization.k8s.io", "v1", "selfsubjectaccessreviews" | "subjectaccessreviews"] => {
                Ok(Self::Review(Review::Access))
            }
            ["apis", group] if is_served(group) => {
                Ok(Self::Discovery(Discovery::Group { group: (*group).to_owned() }))
            }
            ["apis", group, "v1"] if is_served(group) => {
                Ok(Self::Discovery(Discovery::Resources { group: (*group).to_owned() }))
            }
            ["apis", group, "v1", rest @ ..] => objects(group, rest).ok_or_else(unknown),
            _ => Err(unknown()),
        }
    }
}

fn is_served(group: &str) -> bool {
    Resource::ALL.into_iter().any(|resource| resource.names().group == group)
}

/// The part of the path after the group's version. `status` is the only part of an object with a path of
/// its own; a write to it is a write to the object, because nothing here keeps the two apart.
fn objects(group: &str, rest: &[&str]) -> Option<Target> {
    let find = |plural: &str| Resource::from_path(group, "v1", plural);
    match *rest {
        ["namespaces", namespace, plural] if plural != "status" => {
            let resource = find(plural).filter(|resource| resource.names().namespaced)?;
            Some(Target::Collection { resource, namespace: Some(namespace.to_owned()) })
        }
        ["namespaces", namespace, plural, name] | ["namespaces", namespace, plural, name, "status"] => {
            let resource = find(plural).filter(|resource| resource.names().namespaced)?;
            Some(Target::Object { resource, namespace: namespace.to_owned(), name: name.to_owned() })
        }
        [plural] => Some(Target::Collection { resource: find(plural)?, namespace: None }),
        [plural, name] | [plural, name, "status"] => {
            let resource = find(plural).filter(|resource| !resource.names().namespaced)?;
            Some(Target::Object { resource, namespace: String::new(), name: name.to_owned() })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &str, expected: Option<Target>) {
        assert_eq!(Target::parse(path).ok(), expected, "{path}");
    }

    fn all(resource: Resource, namespace: Option<&str>) -> Option<Target> {
        Some(Target::Collection { resource, namespace: namespace.map(str::to_owned) })
    }

    fn one(resource: Resource, namespace: &str, name: &str) -> Option<Target> {
        Some(Target::Object { resource, namespace: namespace.into(), name: name.into() })
    }

    #[test]
    fn collections() {
        check("/api/v1/pods", all(Resource::Pods, None));
        check("/api/v1/namespaces/shop/pods", all(Resource::Pods, Some("shop")));
        check("/api/v1/namespaces", all(Resource::Namespaces, None));
        check("/apis/apps/v1/namespaces/shop/deployments", all(Resource::Deployments, Some("shop")));
        check("/apis/events.k8s.io/v1/events", all(Resource::EventsV1, None));
    }

    #[test]
    fn objects_and_their_status() {
        check("/api/v1/namespaces/shop/pods/web", one(Resource::Pods, "shop", "web"));
        check("/api/v1/namespaces/shop/pods/web/status", one(Resource::Pods, "shop", "web"));
        check("/api/v1/nodes/node1", one(Resource::Nodes, "", "node1"));
        check("/api/v1/nodes/node1/status", one(Resource::Nodes, "", "node1"));
        check("/api/v1/namespaces/shop", one(Resource::Namespaces, "", "shop"));
        check("/api/v1/namespaces/shop/status", one(Resource::Namespaces, "", "shop"));
    }

    #[test]
    fn discovery_and_reviews() {
        check("/api", Some(Target::Discovery(Discovery::CoreVersions)));
        check("/apis/", Some(Target::Discovery(Discovery::Groups)));
        check("/apis/apps", Some(Target::Discovery(Discovery::Group { group: "apps".into() })));
        check("/apis/apps/v1", Some(Target::Discovery(Discovery::Resources { group: "apps".into() })));
        check("/readyz", Some(Target::Discovery(Discovery::Health)));
        check("/apis/authentication.k8s.io/v1/tokenreviews", Some(Target::Review(Review::Token)));
    }

    #[test]
    fn the_rest_is_unknown() {
        for path in ["/", "/api/v2", "/api/v1/pod", "/apis/x/v1", "/api/v1/pods/web", "/apis/apps/v1/pods"] {
            check(path, None);
        }
        check("/api/v1/namespaces/shop/nodes", None);
        check("/api/v1/namespaces/shop/pods/web/log", None);
    }
}
