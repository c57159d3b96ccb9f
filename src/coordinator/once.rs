//! Changes that are sent again because no reply came: each is done once.
//!
//! A client gives all tries of one change the same `Idempotency-Key`. The key is
//! remembered in the transaction of the change itself, so a try finds it exactly
//! when the change was made. What the reply says is read anew each time.

use std::time::Duration;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;

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

/// Whether `actor` had this very change made under `key` before; if not, it is
/// remembered as made. `asked` tells changes apart.
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
    let (digest, since) = (Digest::of(asked.as_bytes()).to_string(), now - KEY_KEPT);
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
