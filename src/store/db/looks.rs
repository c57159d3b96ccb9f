//! Questions about repositories and what workers answered: two rows of the table `meta`
//! for each app. Nothing rests on them; what is lost is asked again.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{DbError, Topic, Tx, meta, values};
use crate::model::id::AppName;
use crate::model::time::UnixMillis;
use crate::wire::v1::commits::{Commits, Named};

/// Prefix of the keys of open questions; `;` is the character after `:`.
const ASKED: (&str, &str) = ("ask:", "ask;");
/// Prefix of the keys of answers.
const SEEN: &str = "look:";

/// A question that is open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// When it was asked, or last grew.
    pub at: UnixMillis,
    /// Names to resolve; the newest commits are asked for with every question.
    pub revs: Vec<String>,
    /// When a worker last took it.
    pub taken_at: Option<UnixMillis>,
}

/// What is known about a repository.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// The last look.
    pub seen: Commits,
    /// Names that were asked about of late, and when each was answered.
    pub named: BTreeMap<String, (UnixMillis, Named)>,
}

/// What is known about the repository of `app`.
///
/// # Errors
/// When the database fails.
pub fn known(tx: &Tx, app: &AppName) -> Result<Known, DbError> {
    Ok(meta::get(tx, &format!("{SEEN}{app}"))?.unwrap_or_default())
}

/// Writes what is known about the repository of `app`.
///
/// # Errors
/// When the database fails.
pub fn learn(tx: &mut Tx, app: &AppName, known: &Known) -> Result<(), DbError> {
    put(tx, &format!("{SEEN}{app}"), known)
}

/// The open question about the repository of `app`.
///
/// # Errors
/// When the database fails.
pub fn asked(tx: &Tx, app: &AppName) -> Result<Option<Asked>, DbError> {
    meta::get(tx, &format!("{}{app}", ASKED.0))
}

/// Writes the open question about the repository of `app`; `None`: there is none any more.
///
/// # Errors
/// When the database fails.
pub fn ask(tx: &mut Tx, app: &AppName, asked: Option<&Asked>) -> Result<(), DbError> {
    let key = format!("{}{app}", ASKED.0);
    match asked {
        Some(asked) => put(tx, &key, asked),
        None => {
            tx.touch(Topic::Looks);
            tx.exec("DELETE FROM meta WHERE key = ?1", values![&key]).map(drop)
        }
    }
}

/// Every open question, at most `limit`.
///
/// # Errors
/// When the database fails.
pub fn open(tx: &Tx, limit: u32) -> Result<Vec<(AppName, Asked)>, DbError> {
    let sql =
        "SELECT substr(key, 5), value FROM meta WHERE key >= ?1 AND key < ?2 ORDER BY key LIMIT ?3";
    tx.rows(sql, values![ASKED.0, ASKED.1, limit], |row| Ok((row.parse(0)?, row.json(1)?)))
}

fn put<T: Serialize>(tx: &mut Tx, key: &str, value: &T) -> Result<(), DbError> {
    tx.touch(Topic::Looks);
    meta::put(tx, key, value)
}
