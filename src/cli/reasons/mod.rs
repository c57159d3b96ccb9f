//! Why something is not where a person expects it: a chain of reasons, the next
//! event, and lines to type.
//!
//! Pure: from the coordinator's own documents to words. Says only what a document
//! says; where two documents disagree, it says that.

pub mod build;
pub mod host;
pub mod rollout;

use serde::Serialize;

use crate::model::id::{AppName, EnvName};

/// The answer to "why".
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Reasons {
    /// What it is, and where it should be.
    pub headline: String,
    /// Whether it is where it should be.
    pub settled: bool,
    /// Because of this, each the cause of what is said before it.
    pub because: Vec<String>,
    /// What happens next, by itself or by a person; empty: nothing does.
    pub next: String,
    /// Lines that can be pasted, most useful first.
    pub hints: Vec<String>,
}

impl Reasons {
    /// Something that is as `headline` says.
    #[must_use]
    pub fn new(headline: impl Into<String>) -> Self {
        Self { headline: headline.into(), ..Self::default() }
    }

    /// Where it should be.
    #[must_use]
    pub fn settled(mut self) -> Self {
        self.settled = true;
        self
    }

    /// With one more reason; an empty one is none.
    #[must_use]
    pub fn because(mut self, why: impl Into<String>) -> Self {
        self.because.extend(Some(why.into()).filter(|why| !why.is_empty()));
        self
    }

    /// With what happens next.
    #[must_use]
    pub fn next(mut self, what: impl Into<String>) -> Self {
        self.next = what.into();
        self
    }

    /// With one more line to paste.
    #[must_use]
    pub fn hint(mut self, line: impl Into<String>) -> Self {
        self.hints.push(line.into());
        self
    }

    /// With more lines to paste.
    #[must_use]
    pub fn hints(mut self, lines: impl IntoIterator<Item = String>) -> Self {
        self.hints.extend(lines);
        self
    }

    /// As lines for people.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = format!("{}\n", self.headline);
        for why in &self.because {
            text.push_str(&format!("  because {}\n", why.replace('\n', "\n    ")));
        }
        if !self.next.is_empty() {
            text.push_str(&format!("next: {}\n", self.next));
        }
        for line in &self.hints {
            text.push_str(&format!("hint: {line}\n"));
        }
        // A terminal must not be steered by what a repository or an app says.
        text.chars().filter(|c| *c == '\n' || !c.is_control()).collect()
    }
}

/// ` -a APP -e ENV`, for a line that can be pasted anywhere.
fn scope(app: &AppName, env: &EnvName) -> String {
    format!("-a {app} -e {env}")
}
