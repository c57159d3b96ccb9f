//! What stops deploys of an app to an env: a freeze or a hold. A rollback passes both.

use crate::model::freeze::Freeze;
use crate::model::hold::Hold;
use crate::model::id::{AppName, EnvName};
use crate::model::time::UnixMillis;
use crate::store::db::{DbError, Tx, freezes, holds};
use crate::wire::problem::{Code, Problem};

/// What stops a deploy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Bar {
    /// A window in which nothing starts.
    Frozen(Freeze),
    /// A person who keeps it where it is.
    Held(Hold),
}

/// What stops a deploy of `app` to `env` at `now`, a freeze first.
pub(super) fn stopping(
    tx: &Tx,
    place: (&AppName, &EnvName),
    now: UnixMillis,
) -> Result<Option<Bar>, DbError> {
    if let Some(freeze) = freezes::stopping(tx, place, now)? {
        return Ok(Some(Bar::Frozen(freeze)));
    }
    Ok(holds::stopping(tx, place, now)?.map(Bar::Held))
}

impl Bar {
    /// `frozen, f3 by ann until …: holidays`.
    pub(super) fn sentence(&self) -> String {
        match self {
            Self::Frozen(freeze) => format!("frozen, {}", freeze.sentence()),
            Self::Held(hold) => format!("held, {}", hold.sentence()),
        }
    }

    /// The event that somebody passed it.
    pub(super) fn broken(&self) -> &'static str {
        match self {
            Self::Frozen(_) => "freeze.broken",
            Self::Held(_) => "hold.broken",
        }
    }

    /// The refusal of what it stops; `again` is the line that breaks the glass, if there
    /// is one.
    pub(super) fn refusal(
        &self,
        (app, env): (&AppName, &EnvName),
        again: Option<String>,
    ) -> Problem {
        let (word, about, scope, end, list) = match self {
            Self::Frozen(freeze) => (
                "frozen",
                freeze.sentence(),
                freeze.scope(),
                format!("deployctl freeze end {freeze}", freeze = freeze.freeze),
                "deployctl freeze list",
            ),
            Self::Held(hold) => (
                "held",
                hold.sentence(),
                hold.scope(),
                format!("deployctl hold end {hold}", hold = hold.hold),
                "deployctl hold list",
            ),
        };
        let problem = Problem::new(Code::Blocked, format!("{app} in {env} is {word}"))
            .because(format!("{about}; it covers {scope}"));
        let problem = match again {
            Some(line) => problem.hint(line),
            None => problem,
        };
        problem.hint(end).hint(list)
    }
}
