//! How a command ends: the exit codes, and the one form of every failure.
//!
//! Owns the table of exit codes (help, man pages and tests read it from here) and
//! turns refusals, transport, git and configuration errors into a headline, its
//! causes and lines to paste. Never prints: `output` does.

use serde::Serialize;

use crate::config::project::ConfigError;
use crate::host::repo::GitError;
use crate::model::id::InvalidId;
use crate::net::client::CallError;
use crate::wire::problem::{Code, Problem};

macro_rules! exit_codes {
    ($($name:ident = $number:literal, $word:literal, $retry:literal, $meaning:literal;)*) => {
        /// How a command ended. Below 10 it started nothing; 10 to 19 it started and
        /// the outcome is not success; from 124 we left and it goes on.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum ExitCode {
            $(#[doc = $meaning] $name = $number,)*
        }

        impl ExitCode {
            /// Every code, in order.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// Its name in tables and in JSON.
            #[must_use]
            pub fn word(self) -> &'static str {
                match self { $(Self::$name => $word,)* }
            }

            /// One sentence.
            #[must_use]
            pub fn meaning(self) -> &'static str {
                match self { $(Self::$name => $meaning,)* }
            }

            /// Whether a script gains by trying again.
            #[must_use]
            pub fn retry(self) -> &'static str {
                match self { $(Self::$name => $retry,)* }
            }
        }
    };
}

exit_codes! {
    Ok = 0, "ok", "-", "Done, or nothing to do.";
    Error = 1, "error", "maybe", "Unexpected: a bug, or something unclassified.";
    Usage = 2, "usage", "no", "Bad flags, or input missing without a terminal to ask on.";
    NotFound = 3, "not-found", "no", "No such app, ref, rollout, build, host or region.";
    Auth = 4, "auth", "no", "No token, an unknown one, or a role that may not do this.";
    Unreachable = 5, "unreachable", "yes", "Coordinator or network down, after retries.";
    Conflict = 6, "conflict", "look", "Something else got there first.";
    Blocked = 7, "blocked", "no", "A rule forbids it for now: a bad release, a revert under way.";
    NotDeployable = 8, "not-deployable", "later", "Not built, not replicated, or not pushed.";
    BuildFailed = 9, "build-failed", "no", "The build failed.";
    Reverted = 10, "reverted", "no", "Failed and rolled back by itself: hosts are on the old release.";
    Failed = 11, "failed", "no", "Failed and not reverted: some hosts may run it. A person must look.";
    Superseded = 12, "superseded", "-", "A newer rollout took its place.";
    Canceled = 13, "canceled", "-", "A person stopped it.";
    Paused = 14, "paused", "-", "Waits for a person.";
    Changes = 20, "changes", "-", "With --exit-code: there are differences.";
    WaitTimeout = 124, "wait-timeout", "watch", "We stopped waiting; it goes on.";
    Interrupted = 130, "interrupted", "-", "Ctrl-C; what was started goes on.";
    BrokenPipe = 141, "broken-pipe", "-", "The reader of our output went away.";
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        Self::from(code as u8)
    }
}

impl From<Code> for ExitCode {
    fn from(code: Code) -> Self {
        let number = code.exit_code();
        Self::ALL.iter().copied().find(|exit| *exit as u8 == number).unwrap_or(Self::Error)
    }
}

/// Why a command did not do what was asked: what, why, and what to type next.
#[derive(Debug, Clone, Serialize)]
pub struct Failure {
    /// How the process ends.
    #[serde(rename = "code", serialize_with = "write_code")]
    pub code: ExitCode,
    /// One headline in plain words, lower case, no full stop.
    pub title: String,
    /// Why, innermost last.
    pub causes: Vec<String>,
    /// Lines that can be pasted, most useful first.
    pub hints: Vec<String>,
    /// Finds the request in the coordinator's log; empty when there was none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub request_id: String,
    /// What the command still has to show, such as the rollout that failed.
    #[serde(skip)]
    pub document: Option<Box<serde_json::Value>>,
    /// Whether the story was told already and only the code is left to give.
    #[serde(skip)]
    pub told: bool,
    /// Whether it stands where it was asked to stop: people are told so, and of no error.
    #[serde(skip)]
    pub by_design: bool,
}

fn write_code<S: serde::Serializer>(code: &ExitCode, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(code.word())
}

impl Failure {
    /// A failure with a headline only.
    #[must_use]
    pub fn new(code: ExitCode, title: impl Into<String>) -> Self {
        Self {
            code,
            title: title.into(),
            causes: vec![],
            hints: vec![],
            request_id: String::new(),
            document: None,
            told: false,
            by_design: false,
        }
    }

    /// A mistake in how the command was typed.
    #[must_use]
    pub fn usage(title: impl Into<String>) -> Self {
        Self::new(ExitCode::Usage, title)
    }

    /// With one more cause.
    #[must_use]
    pub fn because(mut self, cause: impl ToString) -> Self {
        self.causes.push(cause.to_string());
        self
    }

    /// With one more line to paste.
    #[must_use]
    pub fn hint(mut self, line: impl Into<String>) -> Self {
        self.hints.push(line.into());
        self
    }

    /// With what there is to show nevertheless, as JSON's top-level fields.
    #[must_use]
    pub fn with_document(mut self, document: serde_json::Value) -> Self {
        self.document = Some(Box::new(document));
        self
    }

    /// The one JSON document of a command that failed.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        let mut fields = match self.document.as_deref() {
            Some(serde_json::Value::Object(fields)) => fields.clone(),
            _ => serde_json::Map::new(),
        };
        fields.insert("error".into(), serde_json::json!(self));
        fields.insert("exit_code".into(), serde_json::json!(self.code as u8));
        serde_json::Value::Object(fields)
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        let mut failure = Self::new(problem.code.into(), problem.title);
        failure.causes.extend((!problem.detail.is_empty()).then_some(problem.detail));
        failure.hints = problem.hints;
        failure.request_id = problem.request_id;
        if matches!(problem.code, Code::Unauthenticated) && failure.hints.is_empty() {
            failure
                .hints
                .push("check the token: --token-file FILE, or DEPLOYCTL_TOKEN_FILE".into());
        }
        failure
    }
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Refused(problem) => (*problem).into(),
            CallError::Unreachable { url, source } => {
                let mut failure = Self::new(
                    ExitCode::Unreachable,
                    format!("the coordinator at {url} can't be reached"),
                );
                failure.causes.push(innermost(&source));
                failure
                    .hint("start one here: deployctl coordinator")
                    .hint("hosts can be rolled back without one: deployctl help runbook")
                    .hint("say where it is: --server URL, DEPLOYCTL_SERVER, or server = \"URL\" in the user's config.toml")
            }
            CallError::BadReply { url, why } => {
                let title =
                    format!("{url} answered something that this version does not understand");
                Self::new(ExitCode::Error, title).because(why).hint("compare: deployctl version")
            }
        }
    }
}

fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

impl From<GitError> for Failure {
    fn from(error: GitError) -> Self {
        let code = match &error {
            GitError::NoRepository { .. } => ExitCode::Usage,
            GitError::UnknownRevision { .. } => ExitCode::NotFound,
            GitError::NoGit(_) | GitError::Failed { .. } => ExitCode::Error,
        };
        let failure = Self::new(code, error.to_string());
        match error {
            GitError::NoRepository { .. } => failure
                .hint("run it inside a clone of the repository, or with -C DIR")
                .hint("or give the commit's 40 hexadecimal digits"),
            GitError::UnknownRevision { .. } => failure.hint("git log --oneline -5"),
            GitError::NoGit(source) => {
                failure.because(source).hint("install git, or give a full commit id")
            }
            GitError::Failed { .. } => failure,
        }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        (&error).into()
    }
}

impl From<&ConfigError> for Failure {
    fn from(error: &ConfigError) -> Self {
        let failure = Self::usage(error.to_string());
        match error.cause() {
            Some(cause) => failure.because(cause),
            None => failure,
        }
    }
}

impl From<InvalidId> for Failure {
    fn from(error: InvalidId) -> Self {
        Self::usage(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_problem_has_its_exit_code_in_the_table() {
        for code in Code::ALL {
            assert_eq!(ExitCode::from(code) as u8, code.exit_code());
        }
    }

    #[test]
    fn a_failure_is_one_document_with_its_code() {
        let problem =
            Problem::new(Code::NotFound, "no app x").because("why").hint("deployctl apps");
        let json =
            Failure::from(problem).with_document(serde_json::json!({"rollout": 1})).to_json();
        assert_eq!(json["exit_code"], 3);
        assert_eq!(json["error"]["code"], "not-found");
        assert_eq!(json["error"]["hints"][0], "deployctl apps");
        assert_eq!(json["rollout"], 1);
    }
}
