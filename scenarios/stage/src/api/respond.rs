//! One request to one response.

use std::time::Duration;

use futures::StreamExt;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, Limited, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use serde_json::{Value, json};
use tokio_stream::wrappers::ReceiverStream;

use super::cluster::Cluster;
use super::discovery;
use super::error::ApiError;
use super::query::{Continue, Query, Version};
use super::resource::Resource;
use super::review;
use super::server::{GoneStyle, ServerConfig};
use super::store::ObjectKey;
use super::target::{Discovery, Target};
use super::view::View;
use super::watch::{self, Watch};

/// Bytes of a request's body; etcd refuses objects above 1.5 MiB by default, and a patch is smaller.
const BODY_BYTES_MAX: usize = 3 * 1024 * 1024;

/// How long a LIST waits for a version that is yet to come before 504, as a real watch cache does.
const FRESHNESS_WAIT: Duration = Duration::from_secs(3);

/// A response's body, whole or streamed.
pub type Body = BoxBody<Bytes, std::convert::Infallible>;

/// Answers one request; a refusal is a `Status` body with its code.
pub async fn respond(cluster: Cluster, config: ServerConfig, request: Request<Incoming>) -> Response<Body> {
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    match answer(cluster, config, request).await {
        Ok(response) => response,
        Err(error) => {
            tracing::debug!(%method, path, %error, "refused a request");
            json_response(error.code(), &error.status())
        }
    }
}

async fn answer(
    cluster: Cluster,
    config: ServerConfig,
    request: Request<Incoming>,
) -> Result<Response<Body>, ApiError> {
    let accept = request.headers().get(header::ACCEPT).and_then(|value| value.to_str().ok());
    let view = View::from_accept(accept.unwrap_or_default());
    let target = Target::parse(request.uri().path())?;
    let query = request.uri().query().unwrap_or_default().to_owned();
    let method = request.method().clone();
    match (target, &method) {
        (Target::Discovery(document), &Method::GET) => Ok(describe(&document)),
        (Target::Review(kind), &Method::POST) => {
            let body = read_body(request).await?;
            Ok(json_response(201, &review::answer(kind, body, &cluster)))
        }
        (Target::Collection { resource, namespace }, &Method::GET) => {
            let query = Query::parse(&query)?;
            if query.watch {
                let bookmark_interval = config.bookmark_interval;
                let watch = Watch { cluster, resource, namespace, query, view, bookmark_interval };
                return stream(watch, config.gone);
            }
            list(&cluster, resource, namespace.as_deref(), &query, view).await
        }
        (Target::Collection { resource, namespace }, &Method::POST) => {
            let mut body = read_body(request).await?;
            if let (Some(namespace), Some(_)) = (namespace, body.as_object()) {
                body["metadata"]["namespace"] = json!(namespace);
            }
            let created = cluster.create(resource, body)?;
            Ok(json_response(201, &view.object(resource, &created)))
        }
        (Target::Object { resource, namespace, name }, _) => {
            let key = ObjectKey { namespace, name };
            object(&cluster, &config, resource, key, view, &query, request).await
        }
        (_, method) => Err(ApiError::MethodNotAllowed { method: method.to_string() }),
    }
}

async fn object(
    cluster: &Cluster,
    config: &ServerConfig,
    resource: Resource,
    key: ObjectKey,
    view: View,
    query: &str,
    request: Request<Incoming>,
) -> Result<Response<Body>, ApiError> {
    let object = match *request.method() {
        Method::GET => {
            let parsed = Query::parse(query)?;
            if parsed.watch {
                return watch_one(cluster, config, resource, key, view, parsed);
            }
            let found = cluster.get(resource, &key);
            found.ok_or(ApiError::NotFound { resource, name: key.name })?
        }
        Method::PUT => {
            let mut body = read_body(request).await?;
            if !body.is_object() {
                return Err(ApiError::bad_request("body is not an object"));
            }
            body["metadata"]["name"] = json!(key.name);
            if resource.names().namespaced {
                body["metadata"]["namespace"] = json!(key.namespace);
            }
            cluster.replace(resource, body)?
        }
        Method::PATCH => patch(cluster, resource, &key, request).await?,
        Method::DELETE => {
            let grace_in_query = form_urlencoded::parse(query.as_bytes())
                .find(|(name, _)| name == "gracePeriodSeconds")
                .and_then(|(_, value)| value.parse().ok());
            // Some clients send these options in a form that is not read here; the query repeats what matters.
            let options = read_body(request).await.unwrap_or_default();
            cluster.delete(resource, &key, options["gracePeriodSeconds"].as_u64().or(grace_in_query))?
        }
        ref method => return Err(ApiError::MethodNotAllowed { method: method.to_string() }),
    };
    Ok(json_response(200, &view.object(resource, &object)))
}

/// `GET …/<name>?watch=1`, which `kubectl get <kind> <name> -w` of old used.
fn watch_one(
    cluster: &Cluster,
    config: &ServerConfig,
    resource: Resource,
    key: ObjectKey,
    view: View,
    mut query: Query,
) -> Result<Response<Body>, ApiError> {
    query.selector = super::selector::Selector::parse(&format!("metadata.name={}", key.name), "")?;
    let watch = Watch {
        cluster: cluster.clone(),
        resource,
        namespace: Some(key.namespace),
        query,
        view,
        bookmark_interval: config.bookmark_interval,
    };
    stream(watch, config.gone)
}

async fn patch(
    cluster: &Cluster,
    resource: Resource,
    key: &ObjectKey,
    request: Request<Incoming>,
) -> Result<std::sync::Arc<Value>, ApiError> {
    let content_type = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let content_type = content_type.unwrap_or_default().to_owned();
    if content_type.starts_with("application/json-patch+json") {
        return Err(ApiError::bad_request("JSON patch is not played; send a merge patch"));
    }
    let body = read_body(request).await?;
    let applies = content_type.starts_with("application/apply-patch");
    if applies && cluster.get(resource, key).is_none() {
        let mut object = body;
        if !object.is_object() {
            return Err(ApiError::bad_request("body is not an object"));
        }
        object["metadata"]["name"] = json!(key.name);
        if resource.names().namespaced {
            object["metadata"]["namespace"] = json!(key.namespace);
        }
        return cluster.create(resource, object);
    }
    cluster.patch(resource, key, &body)
}

async fn list(
    cluster: &Cluster,
    resource: Resource,
    namespace: Option<&str>,
    query: &Query,
    view: View,
) -> Result<Response<Body>, ApiError> {
    if let Version::NotOlderThan(revision) = query.version {
        wait_for(cluster, resource, revision).await?;
    }
    let exact = match (&query.after, query.version) {
        (Some(after), _) => Some(after.revision),
        (None, Version::Exact(revision)) => Some(revision),
        (None, _) => None,
    };
    let (revision, objects) = match exact {
        Some(revision) => (revision, cluster.list_at(resource, revision)?),
        None => cluster.snapshot(resource),
    };
    let first = query.after.as_ref().map(|after| ObjectKey::new(&after.namespace, &after.name));
    let mut selected = watch::select(&objects, namespace, &query.selector)
        .filter(|object| first.as_ref().is_none_or(|first| ObjectKey::of(object) > *first));
    let page: Vec<_> = selected.by_ref().take(query.limit.unwrap_or(usize::MAX)).collect();
    let remaining = selected.count();
    let mut metadata = json!({ "resourceVersion": revision.to_string() });
    if let (Some(last), 1..) = (page.last(), remaining) {
        let ObjectKey { namespace, name } = ObjectKey::of(last);
        metadata["continue"] = json!(Continue { revision, namespace, name }.token());
        metadata["remainingItemCount"] = json!(remaining);
    }
    let (api_version, kind) = view.list_type(resource);
    let items: Vec<Value> = page.into_iter().map(|object| view.object(resource, object)).collect();
    let body = json!({ "kind": kind, "apiVersion": api_version, "metadata": metadata, "items": items });
    Ok(json_response(200, &body))
}

async fn wait_for(cluster: &Cluster, resource: Resource, revision: u64) -> Result<(), ApiError> {
    let mut progress = cluster.progress();
    let reached = async {
        while cluster.snapshot(resource).0 < revision {
            if progress.changed().await.is_err() {
                break;
            }
        }
    };
    let current = || cluster.snapshot(resource).0;
    tokio::time::timeout(FRESHNESS_WAIT, reached)
        .await
        .map_err(|_| ApiError::TooLarge { asked: revision, current: current() })
}

fn stream(watch: Watch, gone: GoneStyle) -> Result<Response<Body>, ApiError> {
    if let Err(error) = watch.check_start() {
        return match gone {
            GoneStyle::HttpStatus => Err(error),
            GoneStyle::InStream => Ok(response(200, Full::new(watch::refused(&error)).boxed())),
        };
    }
    let frames = ReceiverStream::new(watch.spawn()).map(|line| Ok(Frame::data(line)));
    Ok(response(200, BodyExt::boxed(StreamBody::new(frames))))
}

fn describe(document: &Discovery) -> Response<Body> {
    if *document == Discovery::Health {
        return Response::new(Full::new(Bytes::from_static(b"ok")).boxed());
    }
    json_response(200, &discovery::document(document))
}

/// Reads a JSON body; an absent one is `null`.
async fn read_body(request: Request<Incoming>) -> Result<Value, ApiError> {
    let content_type = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    if let Some(content_type) = content_type.filter(|text| text.contains("protobuf") || text.contains("cbor"))
    {
        return Err(ApiError::UnsupportedMediaType { content_type: content_type.to_owned() });
    }
    let body = Limited::new(request.into_body(), BODY_BYTES_MAX).collect().await;
    let bytes =
        body.map_err(|error| ApiError::bad_request(format!("body cannot be read: {error}")))?.to_bytes();
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_slice(&bytes)
        .map_err(|error| ApiError::bad_request(format!("body is not JSON: {error}")))
}

fn json_response(code: u16, body: &Value) -> Response<Body> {
    response(code, Full::new(Bytes::from(body.to_string())).boxed())
}

fn response(code: u16, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}
