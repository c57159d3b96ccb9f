//! Tokens: public ids and keyed hashes, never secrets.

use super::{DbError, Row, Topic, Tx, values};
use crate::model::id::RegionName;
use crate::model::role::Role;
use crate::model::time::UnixMillis;
use crate::wire::v1::token::{TokenRow, Verifier};

fn verifier(row: &Row) -> Result<Verifier, DbError> {
    Ok(Verifier {
        id: row.text(0)?,
        name: row.text(1)?,
        role: row.word(2, Role::from_word)?,
        region: row.opt_parse(3)?,
        host: row.opt_parse(4)?,
        mac: row.text(5)?,
    })
}

/// The verifiers of every token that a coordinator's listener accepts: all but agents'.
///
/// # Errors
/// When the database fails.
pub fn of_coordinator(tx: &Tx) -> Result<Vec<Verifier>, DbError> {
    let sql = "SELECT id, name, role, region, host, mac FROM tokens WHERE role <> 'agent'";
    tx.rows(sql, &[], verifier)
}

/// The verifiers of the agents' tokens of `region`, made with the region's own key.
///
/// # Errors
/// When the database fails.
pub fn of_region(tx: &Tx, region: &RegionName) -> Result<Vec<Verifier>, DbError> {
    tx.rows(
        "SELECT id, name, role, region, host, mac FROM tokens
         WHERE role = 'agent' AND region = ?1 ORDER BY id",
        values![region],
        verifier,
    )
}

/// Every token, by creation.
///
/// # Errors
/// When the database fails.
pub fn list(tx: &Tx) -> Result<Vec<TokenRow>, DbError> {
    tx.rows(
        "SELECT id, name, role, region, host, created_at FROM tokens ORDER BY created_at, id",
        &[],
        |row| {
            Ok(TokenRow {
                id: row.text(0)?,
                name: row.text(1)?,
                role: row.word(2, Role::from_word)?,
                region: row.opt_parse(3)?,
                host: row.opt_parse(4)?,
                created_at: row.time(5)?,
            })
        },
    )
}

/// How many tokens there are.
///
/// # Errors
/// When the database fails.
pub fn count(tx: &Tx) -> Result<i64, DbError> {
    tx.number("SELECT count(*) FROM tokens", &[])
}

/// Adds a token's verifier; coordinators and regions are told after the commit.
///
/// # Errors
/// When the database fails, or the id is taken.
pub fn insert(tx: &mut Tx, token: &Verifier, by: &str, now: UnixMillis) -> Result<(), DbError> {
    tx.exec(
        "INSERT INTO tokens (id, name, role, region, host, mac, created_at, created_by)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        values![
            &token.id,
            &token.name,
            token.role.word(),
            token.region.as_ref(),
            token.host.as_ref(),
            &token.mac,
            now,
            by
        ],
    )?;
    changed(tx);
    Ok(())
}

/// Removes a token; its name and role, or `None` when there was none.
///
/// # Errors
/// When the database fails.
pub fn delete(tx: &mut Tx, id: &str) -> Result<Option<(String, Role)>, DbError> {
    changed(tx);
    tx.row("DELETE FROM tokens WHERE id = ?1 RETURNING name, role", values![id], |row| {
        Ok((row.text(0)?, row.word(1, Role::from_word)?))
    })
}

/// Removes the tokens that `by` made under `name`.
///
/// # Errors
/// When the database fails.
pub fn delete_made_by(tx: &mut Tx, by: &str, name: &str) -> Result<(), DbError> {
    changed(tx);
    tx.exec("DELETE FROM tokens WHERE created_by = ?1 AND name = ?2", values![by, name])?;
    Ok(())
}

/// Whether `by` made a token under `name`.
///
/// # Errors
/// When the database fails.
pub fn is_made_by(tx: &Tx, by: &str, name: &str) -> Result<bool, DbError> {
    let sql = "SELECT count(*) FROM tokens WHERE created_by = ?1 AND name = ?2";
    Ok(tx.number(sql, values![by, name])? > 0)
}

fn changed(tx: &mut Tx) {
    tx.touch(Topic::Feed);
    tx.touch(Topic::Tokens);
}
