//! Where the database is: a file in the data folder, or a server.

use std::fmt;
use std::path::PathBuf;

use super::Address;

/// Where the database is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A SQLite file of this process alone.
    File(PathBuf),
    /// A PostgreSQL server, which any number of coordinators share.
    Server(Box<Address>),
}

/// A `database` that can't be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("database: {0}")]
pub struct BadPlace(String);

impl Place {
    /// Understands the setting `database`.
    ///
    /// # Errors
    /// When it is no `postgres://` URL that can be used; never with its password.
    pub fn parse(text: &str) -> Result<Self, BadPlace> {
        if !["postgres://", "postgresql://"].iter().any(|scheme| text.starts_with(scheme)) {
            return Err(BadPlace(
                "a URL of the form postgres://USER@HOST/DATABASE is expected; \
                 leave it out for SQLite in the data folder"
                    .into(),
            ));
        }
        Address::parse(text).map(|address| Self::Server(Box::new(address))).map_err(BadPlace)
    }

    /// Whether several coordinators may use it at once.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        matches!(self, Self::Server(_))
    }
}

/// Without the password.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Server(address) => write!(f, "{address}"),
        }
    }
}
