//! Reads of packs that hosts make at the regional store themselves, by URLs that this
//! process signs: each for one range that the tracker admitted, for a short time.
//!
//! Admission, lease and budget stay as for reads that pass the region. A host that could not
//! use its URL says so and is served as ever, and nobody is given one for a while.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::model::digest::ArtifactId;
use crate::region::metrics;
use crate::store::blobs::{Blobs, Key, Kind};
use crate::wire::v1::swarm::{DIRECT_FAILED, DIRECT_HEADER, DIRECT_WANTED};

/// How long nobody is sent to the store after a host could not read there.
const OFF_FOR: Duration = Duration::from_secs(60);

/// Who signs reads of the regional store.
pub struct Direct {
    store: Blobs,
    /// How long a URL may be used; `None`: nobody gets one.
    valid: Option<Duration>,
    off_until: Mutex<Option<Instant>>,
}

impl Direct {
    /// Signs reads of `store` for `valid`.
    #[must_use]
    pub fn new(store: Blobs, valid: Option<Duration>) -> Self {
        Self { store, valid, off_until: Mutex::default() }
    }

    /// The answer that sends a host with an admitted read to the store, if it would follow
    /// and the store can be trusted with it now.
    pub async fn answer(
        &self,
        headers: &HeaderMap,
        artifact: ArtifactId,
        range: &Range<u64>,
    ) -> Option<Response> {
        let valid = self.valid?;
        let wish = headers.get(DIRECT_HEADER)?.to_str().ok()?;
        if wish == DIRECT_FAILED {
            self.failed();
        }
        if wish != DIRECT_WANTED || self.is_off() {
            return None;
        }
        let key = Key::new(Kind::Pack, artifact);
        let signed = self.store.signed_range(key, range.clone(), valid).await;
        let url = signed.inspect_err(|error| tracing::warn!(%error, "no URL signed")).ok()??;
        let location = HeaderValue::from_str(&url).ok()?;
        metrics::DIRECT.with_label_values::<&str>(&[]).inc_by(range.end - range.start);
        let fields = [(header::LOCATION, location), (header::CONTENT_LENGTH, 0.into())];
        Some((StatusCode::TEMPORARY_REDIRECT, fields, ()).into_response())
    }

    fn is_off(&self) -> bool {
        let off_until = *self.off_until.lock().unwrap_or_else(PoisonError::into_inner);
        off_until.is_some_and(|until| until > Instant::now())
    }

    fn failed(&self) {
        if !self.is_off() {
            let off_s = OFF_FOR.as_secs();
            tracing::warn!(
                off_s,
                "a host could not read the store itself; hosts read through here"
            );
        }
        let mut off_until = self.off_until.lock().unwrap_or_else(PoisonError::into_inner);
        *off_until = Some(Instant::now() + OFF_FOR);
    }
}
