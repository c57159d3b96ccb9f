//! Hosts that a person took out of service, until their region has forgotten them too.

use super::{DbError, Topic, Tx, values};
use crate::model::id::{HostId, RegionName};
use crate::model::time::UnixMillis;

/// Most hosts that one answer to a region names; the rest follow in the next.
const NAMED_MAX: u32 = 1_000;

/// Where `host` is known, and whether it is reachable there.
///
/// # Errors
/// When the database fails.
pub fn places(tx: &Tx, host: &HostId) -> Result<Vec<(RegionName, bool)>, DbError> {
    let sql = "SELECT region, reachable FROM hosts WHERE host = ?1 ORDER BY region";
    tx.rows(sql, values![host], |row| Ok((row.parse(0)?, row.flag(1)?)))
}

/// Forgets a host of `region`, and remembers to tell the region.
///
/// # Errors
/// When the database fails.
pub fn put(
    tx: &mut Tx,
    region: &RegionName,
    host: &HostId,
    now: UnixMillis,
) -> Result<(), DbError> {
    tx.exec("DELETE FROM hosts WHERE region = ?1 AND host = ?2", values![region, host])?;
    tx.exec(
        "INSERT INTO forgotten (region, host, at) VALUES (?1, ?2, ?3)
         ON CONFLICT (region, host) DO UPDATE SET at = excluded.at",
        values![region, host, now],
    )?;
    tx.touch(Topic::Rollouts);
    Ok(())
}

/// Hosts that `region` has still to forget.
///
/// # Errors
/// When the database fails.
pub fn owed(tx: &Tx, region: &RegionName) -> Result<Vec<HostId>, DbError> {
    let sql = "SELECT host FROM forgotten WHERE region = ?1 ORDER BY host LIMIT ?2";
    tx.rows(sql, values![region, NAMED_MAX], |row| row.parse(0))
}

/// The region has forgotten the host, or the host is back.
///
/// # Errors
/// When the database fails.
pub fn settled(tx: &mut Tx, region: &RegionName, host: &HostId) -> Result<(), DbError> {
    tx.exec("DELETE FROM forgotten WHERE region = ?1 AND host = ?2", values![region, host])?;
    Ok(())
}
