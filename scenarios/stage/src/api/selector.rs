//! `fieldSelector` and `labelSelector`: which objects a request is about.

use serde_json::Value;

use super::error::ApiError;

/// Terms of one selector that are looked at; far more than any client sends.
const TERMS_MAX: usize = 64;

/// Fields that may be selected by. A real server has such a list per kind and refuses the rest, so a typing
/// error shows here too.
const FIELDS: [&str; 12] = [
    "metadata.name",
    "metadata.namespace",
    "spec.nodeName",
    "spec.restartPolicy",
    "status.phase",
    "type",
    "reason",
    "involvedObject.kind",
    "involvedObject.name",
    "involvedObject.namespace",
    "involvedObject.uid",
    "source",
];

/// A parsed pair of selectors; the default selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    fields: Vec<Term>,
    labels: Vec<Term>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Term {
    key: String,
    test: Test,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Test {
    Is(String),
    IsNot(String),
    Exists,
    Absent,
}

impl Selector {
    /// Parses both selectors; an empty text selects everything.
    ///
    /// # Errors
    /// [`ApiError::BadRequest`] for a field that cannot be selected by, or a form that is not equality.
    pub fn parse(field_selector: &str, label_selector: &str) -> Result<Self, ApiError> {
        let fields = terms(field_selector)?;
        if let Some(term) = fields.iter().find(|term| !FIELDS.contains(&term.key.as_str())) {
            return Err(ApiError::bad_request(format!("field label not supported: {}", term.key)));
        }
        if fields.iter().any(|term| matches!(term.test, Test::Exists | Test::Absent)) {
            return Err(ApiError::bad_request(format!("invalid field selector: {field_selector}")));
        }
        Ok(Self { fields, labels: terms(label_selector)? })
    }

    /// Whether the object is selected.
    pub fn matches(&self, object: &Value) -> bool {
        let fields = self.fields.iter().all(|term| {
            let path = format!("/{}", term.key.replace('.', "/"));
            // An unset field is an empty one, as for `spec.nodeName=` of unscheduled pods.
            term.test.holds(Some(object.pointer(&path).and_then(Value::as_str).unwrap_or_default()))
        });
        let labels = &object["metadata"]["labels"];
        fields && self.labels.iter().all(|term| term.test.holds(labels[&term.key].as_str()))
    }
}

impl Test {
    fn holds(&self, value: Option<&str>) -> bool {
        match self {
            Self::Is(expected) => value == Some(expected),
            Self::IsNot(unwanted) => value != Some(unwanted),
            Self::Exists => value.is_some(),
            Self::Absent => value.is_none(),
        }
    }
}

fn terms(text: &str) -> Result<Vec<Term>, ApiError> {
    let parts: Vec<&str> = text.split(',').map(str::trim).filter(|part| !part.is_empty()).collect();
    if parts.len() > TERMS_MAX {
        return Err(ApiError::bad_request(format!("selector has more than {TERMS_MAX} terms")));
    }
    parts.into_iter().map(term).collect()
}

fn term(text: &str) -> Result<Term, ApiError> {
    let (key, test) = if let Some((key, value)) = text.split_once("!=") {
        (key, Test::IsNot(value.trim().to_owned()))
    } else if let Some((key, value)) = text.split_once("==").or_else(|| text.split_once('=')) {
        (key, Test::Is(value.trim().to_owned()))
    } else if let Some(key) = text.strip_prefix('!') {
        (key, Test::Absent)
    } else {
        (text, Test::Exists)
    };
    let key = key.trim();
    if key.is_empty() || key.contains(|c: char| c.is_whitespace() || c == '(' || c == ')') {
        return Err(ApiError::bad_request(format!(
            "selector term not understood (only key, !key, key=value and key!=value are): {text}"
        )));
    }
    Ok(Term { key: key.to_owned(), test })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(fields: &str, labels: &str, expected: bool) {
        let pod = json!({
            "metadata": { "name": "checkout", "namespace": "shop", "labels": { "app": "checkout", "tier": "" } },
            "spec": { "nodeName": "node1" },
        });
        let selector = Selector::parse(fields, labels).unwrap();
        assert_eq!(selector.matches(&pod), expected, "fields {fields:?}, labels {labels:?}");
    }

    #[test]
    fn fields_select_by_equality() {
        check("", "", true);
        check("spec.nodeName=node1", "", true);
        check("spec.nodeName==node1,metadata.namespace=shop", "", true);
        check("spec.nodeName=node2", "", false);
        check("metadata.name!=checkout", "", false);
        check("status.phase=", "", true);
        check("spec.nodeName=", "", false);
    }

    #[test]
    fn labels_select_by_equality_and_presence() {
        check("", "app=checkout", true);
        check("", "app=web", false);
        check("", "app", true);
        check("", "!app", false);
        check("", "absent!=x", true);
        check("", "tier=", true);
        check("spec.nodeName=node1", "app=checkout,!absent", true);
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for (fields, labels) in
            [("spec.nodename=x", ""), ("metadata.name", ""), ("", "app in (a)"), ("", "=x"), ("", "notin(a)")]
        {
            let error = Selector::parse(fields, labels).unwrap_err();
            assert_eq!(error.code(), 400, "{fields:?} {labels:?}");
        }
    }
}
