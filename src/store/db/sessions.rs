//! Browsers that are signed in, and links that sign one in: keyed hashes, never secrets.

use super::{DbError, Tx, values};
use crate::model::time::UnixMillis;

/// Sessions, or links, of one token; past it the oldest is forgotten.
const EACH_MAX: u32 = 50;

/// What a secret is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A browser's cookie.
    Session,
    /// A link, good once.
    Link,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Self::Session => "session",
            Self::Link => "link",
        }
    }
}

/// Takes a session or a link of the token `token` down, forgets those that are over,
/// and the token's oldest past 50.
///
/// # Errors
/// When the database fails.
pub fn insert(
    tx: &mut Tx,
    (kind, mac): (Kind, &str),
    token: &str,
    now: UnixMillis,
    until: UnixMillis,
) -> Result<(), DbError> {
    tx.exec("DELETE FROM web_sessions WHERE until <= ?1", values![now])?;
    tx.exec(
        "INSERT INTO web_sessions (mac, kind, token, made_at, until) VALUES (?1, ?2, ?3, ?4, ?5)",
        values![mac, kind.word(), token, now, until],
    )?;
    tx.exec(
        "DELETE FROM web_sessions WHERE token = ?1 AND kind = ?2 AND mac NOT IN (
             SELECT mac FROM web_sessions WHERE token = ?1 AND kind = ?2
             ORDER BY made_at DESC, mac LIMIT ?3)",
        values![token, kind.word(), EACH_MAX],
    )?;
    Ok(())
}

/// The token behind a secret that is still good.
///
/// # Errors
/// When the database fails.
pub fn find(
    tx: &Tx,
    (kind, mac): (Kind, &str),
    now: UnixMillis,
) -> Result<Option<String>, DbError> {
    let sql = "SELECT token FROM web_sessions WHERE mac = ?1 AND kind = ?2 AND until > ?3";
    tx.row(sql, values![mac, kind.word(), now], |row| row.text(0))
}

/// Ends a session, or uses a link up; the token behind it if it was still good.
///
/// # Errors
/// When the database fails.
pub fn take(
    tx: &mut Tx,
    (kind, mac): (Kind, &str),
    now: UnixMillis,
) -> Result<Option<String>, DbError> {
    let sql = "DELETE FROM web_sessions WHERE mac = ?1 AND kind = ?2 RETURNING token, until";
    let taken = tx.row(sql, values![mac, kind.word()], |row| Ok((row.text(0)?, row.time(1)?)))?;
    Ok(taken.filter(|(_, until)| *until > now).map(|(token, _)| token))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::db::Db;

    #[tokio::test]
    async fn a_link_is_good_once_and_a_session_until_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let db = Db::open(&folder.path().join("db")).unwrap();
        let at = UnixMillis;
        let work = move |tx: &mut Tx| {
            insert(tx, (Kind::Link, "l"), "t", at(0), at(10))?;
            insert(tx, (Kind::Session, "s"), "t", at(0), at(10))?;
            assert_eq!(find(tx, (Kind::Session, "l"), at(1))?, None, "a link is no session");
            assert_eq!(take(tx, (Kind::Link, "l"), at(1))?, Some("t".into()));
            assert_eq!(take(tx, (Kind::Link, "l"), at(1))?, None);
            assert_eq!(find(tx, (Kind::Session, "s"), at(9))?, Some("t".into()));
            assert_eq!(find(tx, (Kind::Session, "s"), at(10))?, None);
            for n in 0..60 {
                insert(tx, (Kind::Session, &format!("s{n}")), "u", at(20 + n), at(1000))?;
            }
            assert_eq!(find(tx, (Kind::Session, "s9"), at(99))?, None, "the oldest are forgotten");
            assert_eq!(find(tx, (Kind::Session, "s10"), at(99))?, Some("u".into()));
            Ok::<_, DbError>(())
        };
        db.write(work).await.unwrap();
    }
}
