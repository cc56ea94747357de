//! The query of a request: how much of a collection, from which version on.

use std::time::Duration;

use super::error::ApiError;
use super::selector::Selector;

/// Longest time that one watch is held, as with a real server's `--min-request-timeout` of half an hour.
const WATCH_MAX: Duration = Duration::from_secs(1_800);

/// A parsed query of LIST or WATCH.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    /// Which objects.
    pub selector: Selector,
    /// From which state on.
    pub version: Version,
    /// LIST only: page size; `None` is everything.
    pub limit: Option<usize>,
    /// LIST only: where the page before this one ended.
    pub after: Option<Continue>,
    /// Whether this is a WATCH.
    pub watch: bool,
    /// WATCH only: bookmarks are wanted.
    pub bookmarks: bool,
    /// WATCH only: the state comes first, and a bookmark marks its end ("streaming list").
    pub initial_events: bool,
    /// WATCH only: how long the stream is held.
    pub timeout: Duration,
}

/// Meaning of `resourceVersion` together with `resourceVersionMatch`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// Unset or "0": whatever the server has; this one always has the newest.
    Any,
    /// At least this one. A watch goes on after it.
    NotOlderThan(u64),
    /// Exactly this one (LIST only).
    Exact(u64),
}

/// A continue token: the version that all pages of one LIST show, and the last key that was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Continue {
    /// Version of the first page.
    pub revision: u64,
    /// Namespace of the last object sent.
    pub namespace: String,
    /// Name of the last object sent.
    pub name: String,
}

impl Continue {
    /// Parses a token that [`Continue::token`] made.
    ///
    /// # Errors
    /// [`ApiError::BadRequest`].
    pub fn parse(token: &str) -> Result<Self, ApiError> {
        let mut parts = token.splitn(3, '/');
        let (revision, namespace, name) = (parts.next(), parts.next(), parts.next());
        match (revision.and_then(|text| text.parse().ok()), namespace, name) {
            (Some(revision), Some(namespace), Some(name)) => {
                Ok(Self { revision, namespace: namespace.to_owned(), name: name.to_owned() })
            }
            _ => Err(ApiError::bad_request(format!("continue key is not valid: {token}"))),
        }
    }

    /// The token's text, opaque to clients.
    pub fn token(&self) -> String {
        format!("{}/{}/{}", self.revision, self.namespace, self.name)
    }
}

impl Query {
    /// Parses the text after `?`.
    ///
    /// # Errors
    /// [`ApiError::BadRequest`] for a value that cannot be read, [`ApiError::Invalid`] for a contradiction.
    pub fn parse(text: &str) -> Result<Self, ApiError> {
        let pairs: Vec<(String, String)> = form_urlencoded::parse(text.as_bytes()).into_owned().collect();
        let value = |name: &str| {
            pairs.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str()).unwrap_or_default()
        };
        let flag = |name: &str| matches!(value(name), "1" | "true");
        let watch = flag("watch");
        let initial_events = flag("sendInitialEvents");
        let matching = value("resourceVersionMatch");
        if initial_events && (!watch || matching != "NotOlderThan") {
            return Err(ApiError::Invalid {
                reason: "sendInitialEvents requires watch and resourceVersionMatch=NotOlderThan".into(),
            });
        }
        if watch && !initial_events && !matching.is_empty() {
            let reason = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
            return Err(ApiError::Invalid { reason: reason.into() });
        }
        let after = Some(value("continue")).filter(|token| !token.is_empty());
        let seconds = number("timeoutSeconds", value("timeoutSeconds"))?;
        Ok(Self {
            selector: Selector::parse(value("fieldSelector"), value("labelSelector"))?,
            version: version(value("resourceVersion"), matching)?,
            limit: number("limit", value("limit"))?.filter(|limit| *limit > 0).map(|limit| limit as usize),
            after: after.map(Continue::parse).transpose()?,
            watch,
            bookmarks: flag("allowWatchBookmarks"),
            initial_events,
            timeout: seconds.filter(|s| *s > 0).map_or(WATCH_MAX, Duration::from_secs).min(WATCH_MAX),
        })
    }
}

fn version(text: &str, matching: &str) -> Result<Version, ApiError> {
    let revision = number("resourceVersion", text)?.unwrap_or(0);
    match (matching, revision) {
        ("Exact", 0) => {
            Err(ApiError::Invalid { reason: "resourceVersionMatch=Exact needs a resourceVersion".into() })
        }
        ("Exact", revision) => Ok(Version::Exact(revision)),
        ("" | "NotOlderThan", 0) => Ok(Version::Any),
        ("" | "NotOlderThan", revision) => Ok(Version::NotOlderThan(revision)),
        (other, _) => {
            Err(ApiError::Invalid { reason: format!("resourceVersionMatch not supported: {other}") })
        }
    }
}

fn number(name: &str, text: &str) -> Result<Option<u64>, ApiError> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| ApiError::bad_request(format!("{name} is not a number: {text}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_mean_what_the_protocol_says() {
        let check = |text: &str, expected: Version| {
            assert_eq!(Query::parse(text).unwrap().version, expected, "{text}")
        };
        check("", Version::Any);
        check("resourceVersion=0", Version::Any);
        check("resourceVersion=", Version::Any);
        check("resourceVersion=12", Version::NotOlderThan(12));
        check("resourceVersion=12&resourceVersionMatch=NotOlderThan", Version::NotOlderThan(12));
        check("resourceVersion=12&resourceVersionMatch=Exact", Version::Exact(12));
    }

    #[test]
    fn a_watch_reads_its_options() {
        let query = Query::parse(
            "watch=true&timeoutSeconds=290&allowWatchBookmarks=true&fieldSelector=spec.nodeName%3Dnode1",
        )
        .unwrap();
        assert!(query.watch && query.bookmarks && !query.initial_events);
        assert_eq!(query.timeout, Duration::from_secs(290));
        assert_eq!(query.selector, Selector::parse("spec.nodeName=node1", "").unwrap());
        assert_eq!(Query::parse("watch=1&timeoutSeconds=999999").unwrap().timeout, WATCH_MAX);
    }

    #[test]
    fn a_continue_token_comes_back_as_it_went() {
        let token = Continue { revision: 7, namespace: "shop".into(), name: "a".into() };
        assert_eq!(Continue::parse(&token.token()).unwrap(), token);
        let query = Query::parse("limit=2&continue=7/shop/a").unwrap();
        assert_eq!((query.limit, query.after), (Some(2), Some(token)));
    }

    #[test]
    fn contradictions_and_nonsense_are_refused() {
        let check =
            |text: &str, code: u16| assert_eq!(Query::parse(text).unwrap_err().code(), code, "{text}");
        check("resourceVersion=abc", 400);
        check("limit=-1", 400);
        check("continue=zzz", 400);
        check("watch=1&sendInitialEvents=true", 422);
        check("watch=1&resourceVersionMatch=Exact&resourceVersion=3", 422);
        check("resourceVersionMatch=Exact", 422);
        check("resourceVersion=3&resourceVersionMatch=Newest", 422);
    }
}
