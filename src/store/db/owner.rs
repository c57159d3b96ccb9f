//! Who this installation is to the main store, and how its database tells itself from a copy.
//!
//! An id that is drawn once. Beside it the place of the database, which a copied file does not
//! have; and the last words that this database had written into the store, of which a copy that
//! was made with its place (of a whole disk) knows the older ones only.

use serde::{Deserialize, Serialize};

use super::{DbError, Tx, meta, values};
use crate::store::random;

/// Key in the table `meta`.
const KEY: &str = "store_owner";
/// Key in the table `meta` of a file that was copied: the id that it had.
const LEFT: &str = "store_owner_left";
/// Words that are kept: so many writes into the store may be under way at once.
const WORDS: usize = 8;

/// What the database knows of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Installation {
    /// 128 random bits, as hexadecimal digits.
    pub id: String,
    /// Where the database was when it was drawn, as [`place`] says it; empty: it was not said.
    pub home: String,
    /// Whether it was drawn before there was anything in the database, or a person said that the
    /// store is its own: then a store without an owner may be claimed.
    pub sure: bool,
    /// The last words that were written into the store, or were about to be; newest last.
    pub words: Vec<String>,
}

/// Where a database is, as far as that is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Here {
    /// What no copy of it has.
    At(String),
    /// The server does not tell it to this role: a copy looks the same.
    Unsaid {
        /// Who must be allowed to call `pg_control_system()`.
        role: String,
    },
}

impl Here {
    /// As it is written down; empty: it is not known.
    fn text(self) -> String {
        match self {
            Self::At(place) => place,
            Self::Unsaid { .. } => String::new(),
        }
    }
}

/// Where this database is: a SQLite file by its inode, which a copy of it does not have; on a
/// server its cluster, database and schema.
///
/// # Errors
/// When the database fails, or its file can't be looked at.
pub fn place(tx: &Tx) -> Result<Here, DbError> {
    use std::os::unix::fs::MetadataExt;
    if tx.is_shared() {
        let may = "SELECT count(*) FROM pg_proc
                   WHERE proname = 'pg_control_system' AND has_function_privilege(oid, 'EXECUTE')";
        if tx.number(may, &[])? == 0 {
            let role = tx.row("SELECT CAST(current_user AS TEXT)", &[], |row| row.text(0))?;
            return Ok(Here::Unsaid { role: role.unwrap_or_default() });
        }
        let sql = "SELECT 'postgres ' || system_identifier || ' ' ||
                       (SELECT CAST(oid AS TEXT) FROM pg_database WHERE datname = current_database())
                       || ' ' || current_schema()
                   FROM pg_control_system()";
        let at = tx.row(sql, &[], |row| row.text(0))?;
        return at.map(Here::At).ok_or(DbError::Missing("the server's control data"));
    }
    let sql = "SELECT file FROM pragma_database_list WHERE name = 'main'";
    let path = tx.row(sql, &[], |row| row.text(0))?.unwrap_or_default();
    let meta = std::fs::metadata(&path).map_err(|source| DbError::Io { path, source })?;
    Ok(Here::At(format!("file {}", meta.ino())))
}

/// What the database knows of itself; `None`: nothing yet.
///
/// # Errors
/// When the database fails.
pub fn find(tx: &Tx) -> Result<Option<Installation>, DbError> {
    let kept: Option<Option<Installation>> = meta::get(tx, KEY)?;
    Ok(kept.flatten())
}

/// The same; drawn now if there is none.
///
/// # Errors
/// When the database fails.
pub fn ensure(tx: &mut Tx) -> Result<Installation, DbError> {
    if let Some(known) = find(tx)? {
        return Ok(known);
    }
    let any = "SELECT (SELECT count(*) FROM meta WHERE key = ?1) + (SELECT count(*) FROM apps)
                   + (SELECT count(*) FROM artifacts) + (SELECT count(*) FROM collected)";
    let sure = tx.number(any, values![KEY])? == 0;
    let fresh = Installation { id: random::name(), home: place(tx)?.text(), sure, words: vec![] };
    put(tx, &fresh)?;
    Ok(fresh)
}

/// Draws the next word that is to be written into the store; `kept` stands there now and stays
/// known, whatever becomes of the write.
///
/// # Errors
/// When the database fails.
pub fn next_word(tx: &mut Tx, kept: Option<&str>) -> Result<Installation, DbError> {
    let mut known = ensure(tx)?;
    known.words.retain(|word| Some(word.as_str()) != kept);
    let surplus = known.words.len().saturating_sub(WORDS - 2);
    known.words.drain(..surplus);
    known.words.splice(0..0, kept.map(str::to_owned));
    known.words.push(random::name());
    put(tx, &known)?;
    Ok(known)
}

/// A person says that the main store is this installation's, here where its database is now.
///
/// # Errors
/// When the database fails.
pub fn adopt(tx: &mut Tx) -> Result<Installation, DbError> {
    let known = ensure(tx)?;
    let here = Installation { home: place(tx)?.text(), sure: true, ..known };
    put(tx, &here)?;
    next_word(tx, None)
}

/// This database is a copy: it is another installation from now on, and sure of nothing.
///
/// # Errors
/// When the database fails.
pub fn forget(tx: &mut Tx) -> Result<(), DbError> {
    tx.exec(FORGET, &[]).map(drop)
}

/// After the file is [forgotten](forget) for a server: who it was stays known there. When nobody
/// knows whether the server has the copy, it is copied again, and whoever still holds the store
/// by this id is to lose it then.
///
/// # Errors
/// When the database fails.
pub(super) fn leave(tx: &mut Tx, id: &str) -> Result<(), DbError> {
    meta::put(tx, LEFT, &id)
}

/// The id that was [left](leave), if any.
///
/// # Errors
/// When the database fails.
pub(super) fn left(tx: &Tx) -> Result<Option<String>, DbError> {
    let left: Option<Option<String>> = meta::get(tx, LEFT)?;
    Ok(left.flatten())
}

/// It is no copy after all: whoever was forgotten is back.
///
/// # Errors
/// When the database fails.
pub(super) fn remember(tx: &mut Tx, known: &Installation) -> Result<(), DbError> {
    forget(tx)?;
    put(tx, known)
}

/// The same as [`forget`] in words of SQL, for a file that nobody has open.
pub(super) const FORGET: &str =
    "UPDATE meta SET value = 'null' WHERE key IN ('store_owner', 'store_owner_left')";

fn put(tx: &mut Tx, known: &Installation) -> Result<(), DbError> {
    meta::put(tx, KEY, known)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::db::conformance::both;

    #[tokio::test]
    async fn what_was_drawn_stays_and_a_copy_draws_anew() {
        let (_folder, databases) = both().await;
        for db in databases {
            let asked = db.write(|tx| {
                let first = ensure(tx)?;
                assert_eq!((first.id.len(), first.sure, first.words.len()), (32, true, 0));
                assert_eq!(Here::At(first.home.clone()), place(tx)?);
                assert_eq!(ensure(tx)?, first);
                // One write after the other fails: what stands in the store stays known.
                let standing = next_word(tx, None)?.words.remove(0);
                for _ in 0..20 {
                    let known = next_word(tx, Some(&standing))?;
                    assert!(known.words.len() <= WORDS && known.words.contains(&standing));
                }
                let before = find(tx)?.unwrap().words.pop().unwrap();
                assert_eq!(next_word(tx, Some(&before))?.words[0], before);

                forget(tx)?;
                assert_eq!(find(tx)?, None);
                let copy = ensure(tx)?;
                assert!(copy.id != first.id && !copy.sure && copy.words.is_empty());
                let adopted = adopt(tx)?;
                assert_eq!((&adopted.id, adopted.sure, adopted.words.len()), (&copy.id, true, 1));
                Ok::<_, DbError>(())
            });
            asked.await.unwrap();
        }
    }

    #[tokio::test]
    async fn what_has_rows_of_before_is_not_sure() {
        let (_folder, databases) = both().await;
        for db in databases {
            let asked = db.write(|tx| {
                tx.exec("INSERT INTO apps VALUES ('web', '{}', 0, 0)", &[])?;
                ensure(tx)
            });
            assert!(!asked.await.unwrap().sure);
        }
    }
}
