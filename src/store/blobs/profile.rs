//! Keys of a named profile in the credentials file that AWS' tools share.
//!
//! `object_store` reads the environment, web identities and metadata services, not
//! this file. It is read again when it changes, so keys are rotated without a restart.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use object_store::CredentialProvider;
use object_store::aws::AwsCredential;

/// Largest credentials file, bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Why a profile has no keys.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoKeys {
    #[error("the home folder is not known, so neither is the credentials file")]
    NoHome,
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{path} has no profile [{name}]")]
    NoProfile { path: PathBuf, name: String },
    #[error("profile [{name}] in {path} has no aws_access_key_id with aws_secret_access_key")]
    NoPair { path: PathBuf, name: String },
}

/// A profile's keys, read when they are needed.
#[derive(Debug)]
pub(super) struct Profile {
    name: String,
    read: Mutex<Option<(SystemTime, Arc<AwsCredential>)>>,
}

/// The default profile, when the environment names no other source of credentials
/// and the file has it.
pub(super) fn fallback() -> Option<Profile> {
    let others = [
        "AWS_ACCESS_KEY_ID",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    ];
    if others.iter().any(|name| std::env::var_os(name).is_some()) {
        return None;
    }
    let named = std::env::var("AWS_PROFILE").ok();
    let profile = Profile::named(named.as_deref().unwrap_or("default"));
    (named.is_some() || profile.check().is_ok()).then_some(profile)
}

fn file() -> Result<PathBuf, NoKeys> {
    let variable = |name| std::env::var_os(name).map(PathBuf::from);
    let of_home = || variable("HOME").map(|home| home.join(".aws/credentials"));
    variable("AWS_SHARED_CREDENTIALS_FILE").or_else(of_home).ok_or(NoKeys::NoHome)
}

impl Profile {
    pub(super) fn named(name: &str) -> Self {
        Self { name: name.to_owned(), read: Mutex::default() }
    }

    /// Whether there are keys.
    pub(super) fn check(&self) -> Result<(), NoKeys> {
        self.keys().map(drop)
    }

    fn keys(&self) -> Result<Arc<AwsCredential>, NoKeys> {
        let path = file()?;
        let io = |source| NoKeys::Io { path: path.clone(), source };
        let meta = std::fs::metadata(&path).map_err(io)?;
        let changed = meta.modified().map_err(io)?;
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, keys)) = read.as_ref().filter(|(then, _)| *then == changed) {
            return Ok(keys.clone());
        }
        if meta.len() > FILE_BYTES_MAX {
            return Err(io(std::io::Error::other("larger than 1 MiB")));
        }
        let text = std::fs::read_to_string(&path).map_err(io)?;
        let name = self.name.clone();
        let Some(section) = section(&text, &name) else {
            return Err(NoKeys::NoProfile { path, name });
        };
        let keys = Arc::new(section.ok_or(NoKeys::NoPair { path, name })?);
        *read = Some((changed, keys.clone()));
        Ok(keys)
    }
}

#[async_trait::async_trait]
impl CredentialProvider for Profile {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        // A small local file: no thread is worth it.
        self.keys().map_err(|source| object_store::Error::Unauthenticated {
            path: "the credentials file".into(),
            source: source.into(),
        })
    }
}

/// The keys of `[name]`: none when there is no such section, and none inside when it
/// lacks one.
fn section(text: &str, name: &str) -> Option<Option<AwsCredential>> {
    let (mut inside, mut found) = (false, false);
    let (mut id, mut secret, mut token) = (None, None, None);
    for line in text.lines().map(str::trim) {
        if let Some(header) = line.strip_prefix('[').and_then(|line| line.split_once(']')) {
            inside = header.0.trim() == name;
            found |= inside;
        } else if let Some((key, value)) = line.split_once('=').filter(|_| inside) {
            let value = Some(value.trim().to_owned());
            match key.trim() {
                "aws_access_key_id" => id = value,
                "aws_secret_access_key" => secret = value,
                "aws_session_token" => token = value,
                _ => {}
            }
        }
    }
    found.then(|| Some(AwsCredential { key_id: id?, secret_key: secret?, token }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_has_its_own_keys_and_no_others() {
        let text = "# c\n[default]\naws_access_key_id = A\naws_secret_access_key=S==\n\n\
                    [ci]\naws_access_key_id=B\naws_secret_access_key = T\naws_session_token = U\n\
                    [sso]\nsso_session = x\n";
        let keys = section(text, "default").unwrap().unwrap();
        assert_eq!((&*keys.key_id, &*keys.secret_key, keys.token), ("A", "S==", None));
        let keys = section(text, "ci").unwrap().unwrap();
        assert_eq!((&*keys.key_id, keys.token.as_deref()), ("B", Some("U")));
        assert!(section(text, "sso").unwrap().is_none());
        assert!(section(text, "nobody").is_none());
    }
}
