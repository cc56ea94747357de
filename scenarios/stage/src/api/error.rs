//! What the played API server refuses, and the `Status` object that tells a client so.

use serde_json::{Value, json};

use super::resource::Resource;

/// A refused request. Each variant becomes the HTTP code and `Status` body that a Kubernetes API server sends.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    /// No object of that name.
    #[error("{} \"{name}\" not found", .resource.names().plural)]
    NotFound {
        /// Kind that was asked for.
        resource: Resource,
        /// Name that was asked for.
        name: String,
    },
    /// The path names nothing that is served here.
    #[error("the server could not find the requested resource: {path}")]
    NoSuchPath {
        /// The path as it was sent.
        path: String,
    },
    /// An object of that name is there already.
    #[error("{} \"{name}\" already exists", .resource.names().plural)]
    AlreadyExists {
        /// Kind that was to be created.
        resource: Resource,
        /// Name that is taken.
        name: String,
    },
    /// The request was made against an older version of the object.
    #[error("operation cannot be fulfilled on {} \"{name}\": sent resourceVersion {sent}, stored {stored}", .resource.names().plural)]
    Conflict {
        /// Kind of the object.
        resource: Resource,
        /// Name of the object.
        name: String,
        /// Version in the request.
        sent: String,
        /// Version in the store.
        stored: u64,
    },
    /// The log of changes no longer reaches back to the asked version.
    #[error("too old resource version: {asked} ({oldest})")]
    Gone {
        /// Version that the client wanted to go on from.
        asked: u64,
        /// Oldest version that is still known.
        oldest: u64,
    },
    /// The asked version has not been written yet.
    #[error("Too large resource version: {asked}, current: {current}")]
    TooLarge {
        /// Version that the client wants to see.
        asked: u64,
        /// Newest version there is.
        current: u64,
    },
    /// A parameter or body cannot be understood.
    #[error("{reason}")]
    BadRequest {
        /// What is wrong, for the sender.
        reason: String,
    },
    /// The parameters contradict each other.
    #[error("{reason}")]
    Invalid {
        /// What is wrong, for the sender.
        reason: String,
    },
    /// The body is in a form that is not read here.
    #[error(
        "the body of the request was in an unknown format - accepted media types include: application/json; sent: {content_type}"
    )]
    UnsupportedMediaType {
        /// The form that was sent.
        content_type: String,
    },
    /// The path exists, the verb does not.
    #[error("the server does not allow this method on the requested resource: {method}")]
    MethodNotAllowed {
        /// The HTTP method.
        method: String,
    },
}

impl ApiError {
    /// A [`ApiError::BadRequest`] that says `reason`.
    pub fn bad_request(reason: impl Into<String>) -> Self {
        Self::BadRequest { reason: reason.into() }
    }

    /// HTTP status code.
    pub fn code(&self) -> u16 {
        match self {
            Self::BadRequest { .. } => 400,
            Self::NotFound { .. } | Self::NoSuchPath { .. } => 404,
            Self::MethodNotAllowed { .. } => 405,
            Self::AlreadyExists { .. } | Self::Conflict { .. } => 409,
            Self::Gone { .. } => 410,
            Self::UnsupportedMediaType { .. } => 415,
            Self::Invalid { .. } => 422,
            Self::TooLarge { .. } => 504,
        }
    }

    /// The machine-readable reason of the `Status`.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::BadRequest { .. } => "BadRequest",
            Self::NotFound { .. } | Self::NoSuchPath { .. } => "NotFound",
            Self::MethodNotAllowed { .. } => "MethodNotAllowed",
            Self::AlreadyExists { .. } => "AlreadyExists",
            Self::Conflict { .. } => "Conflict",
            Self::Gone { .. } => "Expired",
            Self::UnsupportedMediaType { .. } => "UnsupportedMediaType",
            Self::Invalid { .. } => "Invalid",
            Self::TooLarge { .. } => "Timeout",
        }
    }

    /// The `Status` object of this refusal.
    pub fn status(&self) -> Value {
        let mut status = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.to_string(),
            "reason": self.reason(),
            "code": self.code(),
        });
        match self {
            Self::NotFound { resource, name }
            | Self::AlreadyExists { resource, name }
            | Self::Conflict { resource, name, .. } => {
                let names = resource.names();
                status["details"] = json!({ "name": name, "group": names.group, "kind": names.plural });
            }
            Self::TooLarge { .. } => {
                // Clients recognise this cause and retry instead of relisting.
                status["details"] = json!({
                    "causes": [{ "reason": "ResourceVersionTooLarge", "message": "Too large resource version" }],
                    "retryAfterSeconds": 1,
                });
            }
            _ => {}
        }
        status
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(error: ApiError, code: u16, reason: &str) {
        let status = error.status();
        assert_eq!(status["code"], code);
        assert_eq!(status["reason"], reason);
        assert_eq!(status["status"], "Failure");
        assert_eq!(status["message"], error.to_string());
    }

    #[test]
    fn each_refusal_has_the_code_and_reason_of_a_real_server() {
        let name = || "checkout".to_owned();
        check(ApiError::NotFound { resource: Resource::Pods, name: name() }, 404, "NotFound");
        check(ApiError::AlreadyExists { resource: Resource::Pods, name: name() }, 409, "AlreadyExists");
        check(ApiError::Gone { asked: 3, oldest: 9 }, 410, "Expired");
        check(ApiError::TooLarge { asked: 9, current: 3 }, 504, "Timeout");
        check(ApiError::bad_request("limit"), 400, "BadRequest");
        check(ApiError::NoSuchPath { path: "/apis/x".into() }, 404, "NotFound");
    }

    #[test]
    fn a_missing_object_is_named_in_the_details() {
        let status = ApiError::NotFound { resource: Resource::Deployments, name: "web".into() }.status();
        assert_eq!(status["details"], json!({ "name": "web", "group": "apps", "kind": "deployments" }));
        assert_eq!(status["message"], "deployments \"web\" not found");
    }
}
