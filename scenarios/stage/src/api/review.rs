//! Identity and permission, answered simply: known tokens are their users, and everybody may do everything.

use serde_json::{Value, json};

use super::cluster::Cluster;
use super::target::Review;

/// A token that the stage vouches for, and whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenIdentity {
    /// For example `system:serviceaccount:aftertrace:aftertrace-agent`.
    pub username: String,
    /// The node that a node-bound ServiceAccount token is bound to.
    pub node: Option<String>,
}

/// The review with its `status` filled in.
pub fn answer(review: Review, mut body: Value, cluster: &Cluster) -> Value {
    body["status"] = match review {
        Review::Token => {
            let token = body["spec"]["token"].as_str().unwrap_or_default();
            token_status(cluster.token_identity(token))
        }
        Review::SelfSubject => {
            json!({ "userInfo": { "username": "aftertrace-stage", "groups": ["system:masters"] } })
        }
        Review::Access => json!({ "allowed": true }),
    };
    body
}

fn token_status(identity: Option<TokenIdentity>) -> Value {
    let Some(identity) = identity else {
        return json!({ "authenticated": false, "error": "token is not known to the stage" });
    };
    let mut user = json!({
        "username": identity.username,
        "groups": ["system:serviceaccounts", "system:authenticated"],
    });
    if let Some(node) = identity.node {
        user["extra"] = json!({ "authentication.kubernetes.io/node-name": [node] });
    }
    json!({ "authenticated": true, "user": user })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(cluster: &Cluster, token: &str) -> Value {
        answer(Review::Token, json!({ "spec": { "token": token } }), cluster)["status"].take()
    }

    #[test]
    fn only_registered_tokens_are_authenticated() {
        let cluster = Cluster::new();
        let identity = TokenIdentity { username: "agent".into(), node: Some("node1".into()) };
        cluster.accept_token("secret-token", identity);
        let known = ask(&cluster, "secret-token");
        assert_eq!(known["authenticated"], true);
        assert_eq!(known["user"]["extra"]["authentication.kubernetes.io/node-name"], json!(["node1"]));
        assert_eq!(ask(&cluster, "other")["authenticated"], false);
        assert_eq!(ask(&cluster, "")["authenticated"], false);
    }
}
