//! Changes that are sent again because no reply came: each is done once.
//!
//! A client gives all tries of one change the same `Idempotency-Key`. The key is
//! remembered in the transaction of the change itself, so a try finds it exactly
//! when the change was made. What the reply says is read anew each time.

use std::time::Duration;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use serde::Serialize;
use serde_json::Value;

use crate::model::digest::Digest;
use crate::model::time::UnixMillis;
use crate::store::db::{Tx, releases};
use crate::wire::problem::{Code, Problem};

/// For how long a repeated request with the same key is known.
pub(super) const KEY_KEPT: Duration = Duration::from_secs(24 * 3600);
/// Longest idempotency key, bytes.
pub(super) const KEY_BYTES_MAX: usize = 200;

/// The header `Idempotency-Key` of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Key(pub(super) Option<String>);

impl<S: Send + Sync> FromRequestParts<S> for Key {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let Some(key) = parts.headers.get("idempotency-key") else { return Ok(Self(None)) };
        if key.is_empty() || key.len() > KEY_BYTES_MAX {
            return Err(Problem::new(Code::Usage, "the request is out of bounds")
                .because(format!("Idempotency-Key: 1 to {KEY_BYTES_MAX} bytes")));
        }
        Ok(Self(Some(String::from_utf8_lossy(key.as_bytes()).into_owned())))
    }
}

/// A change as it is told from others under one key: what is changed, and the request, the
/// same text in every release that knows the request. Coordinators of two releases stand side
/// by side while they are updated, and a change may be sent again to either: so a field that
/// is not set is left out, and one that a newer release adds must not be set by default.
///
/// Until 0.1 it was the request's Debug text, which no other release can write. Such rows are
/// not matched: a key of a coordinator from before, sent again within its day, is refused as
/// used for something else, and nothing is done twice.
pub(super) fn asked(change: impl std::fmt::Display, request: &impl Serialize) -> String {
    let request = serde_json::to_value(request).expect("plain values are plain JSON");
    format!("{change} {}", lean(request))
}

/// `value` without the fields that are not set, at any depth; fields are in their order.
fn lean(value: Value) -> Value {
    let is_set = |value: &Value| match value {
        Value::Null | Value::Bool(false) => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        Value::Bool(true) | Value::Number(_) => true,
    };
    match value {
        Value::Object(fields) => {
            let set = fields.into_iter().filter(|(_, value)| is_set(value));
            let mut set: Vec<_> = set.map(|(name, value)| (name, lean(value))).collect();
            set.sort_unstable_by(|a, b| a.0.cmp(&b.0));
            Value::Object(set.into_iter().collect())
        }
        Value::Array(items) => items.into_iter().map(lean).collect(),
        other => other,
    }
}

/// What is kept of [`asked`].
pub(super) fn digest(asked: &str) -> String {
    Digest::of(asked.as_bytes()).to_string()
}

/// Whether `actor` had this very change made under `key` before; if not, it is
/// remembered as made. What was [`asked`] tells changes apart.
///
/// # Errors
/// `conflict` when the key was used for something else, or when the database fails.
pub(super) fn made_before(
    tx: &mut Tx,
    actor: &str,
    key: &Key,
    asked: &str,
    now: UnixMillis,
) -> Result<bool, Problem> {
    let Some(key) = &key.0 else { return Ok(false) };
    let (digest, since) = (digest(asked), now - KEY_KEPT);
    match releases::asked(tx, actor, key, since)? {
        Some(same) if same == digest => Ok(true),
        Some(_) => Err(reused()),
        None => {
            releases::remember_asked(tx, (actor, key, &digest), now, since)?;
            Ok(false)
        }
    }
}

/// The refusal of a key that was used for something else.
pub(super) fn reused() -> Problem {
    Problem::new(Code::Conflict, "the idempotency key was used for something else")
        .hint("use a fresh key for each request")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::wire::v1::rollout::RolloutRequest;

    #[test]
    fn a_request_is_the_same_in_a_release_that_knows_more_fields() {
        let told = json!({"kind": "deploy", "target": "b2", "bake_s": 0,
            "plan_file": {"name": "night", "waves": [{"regions": ["*"], "steps": [{"percent": 100}]}]}});
        let request: RolloutRequest = serde_json::from_value(told.clone()).unwrap();
        let mut newer = serde_json::to_value(&request).unwrap();
        let fields = newer.as_object_mut().unwrap();
        for (name, unset) in [("a", json!(null)), ("b", json!(false)), ("c", json!([]))] {
            fields.insert(name.into(), unset.clone());
            fields["plan_file"].as_object_mut().unwrap().insert(name.into(), unset);
        }
        fields.insert("zone".into(), json!(""));
        assert_eq!(asked("rollout", &request), asked("rollout", &newer));
        newer["zone"] = json!("b");
        assert_ne!(asked("rollout", &request), asked("rollout", &newer));
    }

    #[test]
    fn the_text_of_a_change_stays_as_it_is() {
        // Another release wrote rows with it.
        let told = json!({"kind": "deploy", "target": "b2", "bake_s": 0, "dry_run": true});
        let request: RolloutRequest = serde_json::from_value(told).unwrap();
        let text = r#"rollout api prod {"bake_s":0,"dry_run":true,"kind":"deploy","plan":"standard","target":"b2"}"#;
        assert_eq!(asked("rollout api prod", &request), text);
        assert_eq!(asked("retry b1", &()), "retry b1 null");
    }

    #[test]
    fn what_is_set_to_nothing_differs_from_what_is_not_set() {
        let request = |fields| serde_json::from_value::<RolloutRequest>(fields).unwrap();
        let unset = request(json!({"kind": "deploy"}));
        let empty = request(json!({"kind": "deploy", "config": {"text": ""}}));
        let none = request(json!({"kind": "deploy", "config": "none"}));
        assert_ne!(asked("", &unset), asked("", &empty));
        assert_ne!(asked("", &unset), asked("", &none));
        assert_ne!(asked("", &empty), asked("", &none));
    }
}
