//! Whom the agent believes: the keys that sign goals and manifests.
//!
//! From `--trust FILE`, read at each start; without it from the region, once, and
//! pinned at `<root>/trust.json`: a region that is taken over later can't bring keys
//! of its own. Never falls back from one to the other.

use std::path::Path;
use std::time::Duration;

use crate::agent::link::Link;
use crate::host::fs;
use crate::net::client::CallError;
use crate::wire::seal::PublicKey;
pub use crate::wire::v1::region::Trust;

/// Keys of one kind that one file may hold: the current one and those being rotated.
const KEYS_MAX: usize = 64;
/// How long the region may take to answer.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Why there is nobody to believe.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// The file named by `--trust`, or the pinned one, can't be read.
    #[error("could not read the trusted keys in {path}: {source}")]
    File {
        /// Which file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// There are no keys, or too many, or one is no ed25519 key.
    #[error(
        "{0} holds no usable keys: 1 to {KEYS_MAX} of 64 hexadecimal digits for goals and for builds"
    )]
    Keys(String),
    /// The region did not answer; try again.
    #[error("could not fetch the trusted keys from the region: {0}")]
    Region(#[from] CallError),
}

impl Trust {
    /// The keys in `file`; without one those pinned under `root`; without those the
    /// region's, which are then pinned durably.
    ///
    /// # Errors
    /// [`TrustError::Region`] may pass; the others need a person.
    pub async fn load(file: Option<&Path>, root: &Path, link: &Link) -> Result<Self, TrustError> {
        if let Some(file) = file {
            let missing = || std::io::Error::from(std::io::ErrorKind::NotFound);
            return Self::read(file)?.ok_or_else(|| unreadable(file, missing()));
        }
        let pinned = root.join("trust.json");
        if let Some(trust) = Self::read(&pinned)? {
            return Ok(trust);
        }
        let client = link.client();
        let fetched: Result<Self, _> = client.get("/v1/agent/trust", CALL_TIMEOUT).await;
        let trust = fetched.inspect_err(|_| link.failed(&client))?;
        let trust = trust.checked("the region's answer")?;
        fs::write_json(&pinned, &trust).map_err(|e| unreadable(&pinned, e))?;
        tracing::info!(path = %pinned.display(), "trusted keys pinned");
        Ok(trust)
    }

    fn read(path: &Path) -> Result<Option<Self>, TrustError> {
        let read: Option<Self> = fs::read_json(path).map_err(|e| unreadable(path, e))?;
        read.map(|trust| trust.checked(&path.display().to_string())).transpose()
    }

    fn checked(self, origin: &str) -> Result<Self, TrustError> {
        let sound = |keys: &[PublicKey]| {
            (1..=KEYS_MAX).contains(&keys.len())
                && keys.iter().all(|key| {
                    key.0.len() == 64 && crate::model::digest::from_hex(&key.0).is_some()
                })
        };
        if sound(&self.goal_keys) && sound(&self.build_keys) {
            return Ok(self);
        }
        Err(TrustError::Keys(origin.to_owned()))
    }
}

fn unreadable(path: &Path, source: std::io::Error) -> TrustError {
    TrustError::File { path: path.display().to_string(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trust(byte: &str) -> Trust {
        let key = || vec![PublicKey(byte.repeat(32))];
        Trust { goal_keys: key(), build_keys: key() }
    }

    fn nobody() -> Link {
        Link::new("http://127.0.0.1:1", "dct_x").unwrap()
    }

    #[tokio::test]
    async fn the_file_wins_the_pin_comes_next_and_the_region_last() {
        let root = tempfile::tempdir().unwrap();
        let refused = Trust::load(None, root.path(), &nobody()).await;
        assert!(matches!(refused, Err(TrustError::Region(_))));
        fs::write_json(&root.path().join("trust.json"), &trust("aa")).unwrap();
        assert_eq!(Trust::load(None, root.path(), &nobody()).await.unwrap(), trust("aa"));
        let file = root.path().join("given.json");
        let missing = Trust::load(Some(&file), root.path(), &nobody()).await;
        assert!(matches!(missing, Err(TrustError::File { .. })));
        fs::write_json(&file, &trust("bb")).unwrap();
        assert_eq!(Trust::load(Some(&file), root.path(), &nobody()).await.unwrap(), trust("bb"));
    }

    #[tokio::test]
    async fn files_without_usable_keys_are_refused() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("given.json");
        let empty = Trust { goal_keys: vec![], ..trust("aa") };
        for bad in [empty, trust("zz"), trust("a")] {
            fs::write_json(&file, &bad).unwrap();
            let refused = Trust::load(Some(&file), root.path(), &nobody()).await;
            assert!(matches!(refused, Err(TrustError::Keys(_))), "{bad:?}");
        }
    }
}
