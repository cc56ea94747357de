//! In which form objects leave: whole, or their metadata alone.

use std::sync::Arc;

use serde_json::{Value, json};

use super::resource::Resource;

/// The form that a client asked for in `Accept`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// The object itself.
    Whole,
    /// `PartialObjectMetadata`, for clients that must not see the rest (of a Secret, say).
    Metadata,
}

impl View {
    /// Reads an `Accept` header. `Table` is not played: such clients name plain JSON as their second choice.
    pub fn from_accept(accept: &str) -> Self {
        let first = accept.split(',').next().unwrap_or_default();
        let asks = |form: &str| first.split(';').any(|part| part.trim() == form);
        if asks("as=PartialObjectMetadata") || asks("as=PartialObjectMetadataList") {
            Self::Metadata
        } else {
            Self::Whole
        }
    }

    /// One object in this form.
    pub fn object(self, resource: Resource, object: &Arc<Value>) -> Value {
        let mut value = Value::clone(object);
        match self {
            Self::Whole => {
                // Items of a recorded LIST carry neither, but a watch's objects do.
                value["apiVersion"] = json!(resource.api_version());
                value["kind"] = json!(resource.names().kind);
                value
            }
            Self::Metadata => json!({
                "kind": "PartialObjectMetadata",
                "apiVersion": "meta.k8s.io/v1",
                "metadata": value["metadata"].take(),
            }),
        }
    }

    /// `apiVersion` and `kind` of a LIST in this form.
    pub fn list_type(self, resource: Resource) -> (String, String) {
        match self {
            Self::Whole => (resource.api_version(), format!("{}List", resource.names().kind)),
            Self::Metadata => ("meta.k8s.io/v1".into(), "PartialObjectMetadataList".into()),
        }
    }

    /// `apiVersion` and `kind` of one object in this form, as a BOOKMARK has them.
    pub fn object_type(self, resource: Resource) -> (String, String) {
        match self {
            Self::Whole => (resource.api_version(), resource.names().kind.to_owned()),
            Self::Metadata => ("meta.k8s.io/v1".into(), "PartialObjectMetadata".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_choice_decides() {
        let metadata = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
        assert_eq!(View::from_accept(metadata), View::Metadata);
        assert_eq!(View::from_accept("application/json"), View::Whole);
        assert_eq!(
            View::from_accept("application/json;as=Table;v=v1;g=meta.k8s.io,application/json"),
            View::Whole
        );
    }

    #[test]
    fn metadata_leaves_the_rest_behind() {
        let secret = Arc::new(json!({ "metadata": { "name": "s" }, "data": { "password": "eA==" } }));
        let seen = View::Metadata.object(Resource::Secrets, &secret);
        assert_eq!(seen["metadata"]["name"], "s");
        assert!(seen.get("data").is_none());
    }
}
