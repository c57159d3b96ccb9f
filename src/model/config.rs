//! What a release consists of: an artifact, and a configuration beside it.
//!
//! A configuration is one document of text that belongs to an app, known by the digest
//! of its bytes. It changes what a host runs as much as code does, so whatever compares
//! what runs compares [`Bits`], never an artifact alone.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::digest::{ArtifactId, ConfigId, Digest};
use super::id::InvalidId;

/// Largest configuration, bytes: every host fetches it whole, and databases keep it.
pub const CONFIG_BYTES_MAX: usize = 64 << 10;

/// What a release consists of: two releases with equal bits are the same to a host.
/// As text: the artifact, then with a configuration `+` and its digest.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Bits {
    /// The artifact.
    pub artifact: ArtifactId,
    /// The configuration; `None`: it has none.
    pub config: Option<ConfigId>,
}

/// Why a text is no configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidConfig {
    /// It is too large.
    #[error("it has {0} bytes; a configuration has at most {CONFIG_BYTES_MAX}")]
    Large(usize),
    /// There is nothing in it: more likely a slip than meant.
    #[error("it is empty; --no-config takes a configuration away")]
    Empty,
    /// It is not text.
    #[error("it is not text: UTF-8 without NUL bytes is needed")]
    NotText,
}

/// The identity of the configuration in `bytes`, when it may be one.
///
/// # Errors
/// [`InvalidConfig`].
pub fn identify(bytes: &[u8]) -> Result<ConfigId, InvalidConfig> {
    if bytes.len() > CONFIG_BYTES_MAX {
        return Err(InvalidConfig::Large(bytes.len()));
    }
    match std::str::from_utf8(bytes) {
        Ok("") => Err(InvalidConfig::Empty),
        Ok(text) if !text.contains('\0') => Ok(Digest::of(bytes)),
        _ => Err(InvalidConfig::NotText),
    }
}

impl From<ArtifactId> for Bits {
    fn from(artifact: ArtifactId) -> Self {
        Self { artifact, config: None }
    }
}

impl fmt::Display for Bits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.artifact)?;
        self.config.map_or(Ok(()), |config| write!(f, "+{config}"))
    }
}

impl fmt::Debug for Bits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.artifact.short())?;
        self.config.map_or(Ok(()), |config| write!(f, "+{}", config.short()))
    }
}

impl FromStr for Bits {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        match text.split_once('+') {
            Some((artifact, config)) => {
                Ok(Self { artifact: artifact.parse()?, config: Some(config.parse()?) })
            }
            None => Ok(Self { artifact: text.parse()?, config: None }),
        }
    }
}

impl TryFrom<String> for Bits {
    type Error = InvalidId;
    fn try_from(text: String) -> Result<Self, InvalidId> {
        text.parse()
    }
}

impl From<Bits> for String {
    fn from(bits: Bits) -> Self {
        bits.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_read_back_and_a_bare_artifact_is_its_own_text() {
        let bare = Bits::from(Digest::of(b"a"));
        assert_eq!(bare.to_string(), Digest::of(b"a").to_string());
        let both = Bits { config: Some(Digest::of(b"c")), ..bare };
        for bits in [bare, both] {
            assert_eq!(bits.to_string().parse(), Ok(bits));
            let text = serde_json::to_string(&bits).unwrap();
            assert_eq!(serde_json::from_str::<Bits>(&text).unwrap(), bits);
        }
        for bad in ["", "+", "a+b"] {
            assert!(bad.parse::<Bits>().is_err(), "{bad}");
        }
        assert!(format!("{bare}+").parse::<Bits>().is_err());
    }

    #[test]
    fn a_configuration_is_text_of_a_bounded_size() {
        assert_eq!(identify(b""), Err(InvalidConfig::Empty));
        assert_eq!(
            identify("gr\u{fc}n = 1\n".as_bytes()),
            Ok(Digest::of("gr\u{fc}n = 1\n".as_bytes()))
        );
        assert_eq!(identify(&[b'x'; CONFIG_BYTES_MAX]), Ok(Digest::of(&[b'x'; CONFIG_BYTES_MAX])));
        let over = CONFIG_BYTES_MAX + 1;
        assert_eq!(identify(&vec![b'x'; over]), Err(InvalidConfig::Large(over)));
        for bad in [&b"a\0b"[..], b"\xff\xfe"] {
            assert_eq!(identify(bad), Err(InvalidConfig::NotText));
        }
    }
}
