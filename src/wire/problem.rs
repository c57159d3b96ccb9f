//! The one form of every refusal: RFC 9457 `application/problem+json`.

use serde::{Deserialize, Serialize};

/// What kind of refusal; decides the HTTP status and the command's exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// A bug or something unclassified.
    Internal,
    /// The request is malformed or out of bounds.
    Usage,
    /// The body or a field is over its limit.
    TooLarge,
    /// No such app, env, build, release, host or region.
    NotFound,
    /// No token, or one that is not known.
    Unauthenticated,
    /// The token's role or scope does not allow it.
    Forbidden,
    /// Overloaded, starting or stopping; try again.
    Unavailable,
    /// Something else got there first; the detail names it.
    Conflict,
    /// A rule of the app or env forbids it for now.
    Blocked,
    /// The build is not there, not done or not replicated.
    NotDeployable,
    /// The attempt that speaks does not hold the job any more.
    Fenced,
}

impl Code {
    /// Every code, for tables and tests.
    pub const ALL: [Self; 11] = [
        Self::Internal,
        Self::Usage,
        Self::TooLarge,
        Self::NotFound,
        Self::Unauthenticated,
        Self::Forbidden,
        Self::Unavailable,
        Self::Conflict,
        Self::Blocked,
        Self::NotDeployable,
        Self::Fenced,
    ];

    /// The HTTP status.
    #[must_use]
    pub fn status(self) -> u16 {
        match self {
            Self::Internal => 500,
            Self::Usage => 400,
            Self::TooLarge => 413,
            Self::NotFound => 404,
            Self::Unauthenticated => 401,
            Self::Forbidden => 403,
            Self::Unavailable => 503,
            Self::Conflict | Self::Fenced => 409,
            Self::Blocked => 423,
            Self::NotDeployable => 422,
        }
    }

    /// The exit code of a command that ends with it [orchestration 4.8].
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Internal => 1,
            Self::Usage | Self::TooLarge => 2,
            Self::NotFound => 3,
            Self::Unauthenticated | Self::Forbidden => 4,
            Self::Unavailable => 5,
            Self::Conflict | Self::Fenced => 6,
            Self::Blocked => 7,
            Self::NotDeployable => 8,
        }
    }
}

/// One refusal: what, why, and what to type next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// The kind.
    pub code: Code,
    /// One headline in plain words, lower case, no full stop.
    pub title: String,
    /// The cause, when the title does not hold it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// Lines that can be pasted, most useful first: "deployctl build HEAD".
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hints: Vec<String>,
    /// Finds the request in the server's log.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub request_id: String,
}

impl Problem {
    /// A problem with a headline only.
    #[must_use]
    pub fn new(code: Code, title: impl Into<String>) -> Self {
        Self {
            code,
            title: title.into(),
            detail: String::new(),
            hints: vec![],
            request_id: String::new(),
        }
    }

    /// With its cause.
    #[must_use]
    pub fn because(mut self, detail: impl ToString) -> Self {
        self.detail = detail.to_string();
        self
    }

    /// With one more line to paste.
    #[must_use]
    pub fn hint(mut self, line: impl Into<String>) -> Self {
        self.hints.push(line.into());
        self
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.title)?;
        if self.detail.is_empty() { Ok(()) } else { write!(f, ": {}", self.detail) }
    }
}

impl std::error::Error for Problem {}
