//! Links that sign a browser in: `POST /v1/links`.

use serde::{Deserialize, Serialize};

use crate::model::time::UnixMillis;

/// Asks for a link to a page, for the holder of the token that asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkRequest {
    /// The page's path, such as `/apps/web/prod`; at most 500 bytes.
    pub page: String,
}

/// A link: good once, and not for long.
#[derive(Clone, Serialize, Deserialize)]
pub struct Link {
    /// Path and query; the server's URL goes before it.
    pub path: String,
    /// Until when it is good.
    pub until: UnixMillis,
}
