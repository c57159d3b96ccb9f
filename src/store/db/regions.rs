//! Regions as they reported last.

use std::time::Duration;

use super::{DbError, Tx, json, values};
use crate::model::id::RegionName;
use crate::model::time::UnixMillis;
use crate::wire::v1::goal_store::RegionStores;
use crate::wire::v1::region::RegionReport;

/// Most bytes that a region says about its etcds: two of 16 members each, with reasons.
const STORES_BYTES_MAX: usize = 32 << 10;
/// Silence after which another of a region's processes tells of its hosts: two of their
/// reports are missing.
const TELLER_SILENT: Duration = Duration::from_secs(10);

/// A region's last report, in numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegionRow {
    /// The region.
    pub region: RegionName,
    /// When it last reported.
    pub seen_at: UnixMillis,
    /// Hosts that it knows.
    pub hosts: u64,
    /// Of those, unreachable.
    pub unreachable: u64,
    /// The feed revision that it mirrors.
    pub revision: u64,
}

/// Every region that ever reported, by name.
///
/// # Errors
/// When the database fails.
pub fn list(tx: &Tx) -> Result<Vec<RegionRow>, DbError> {
    let sql = "SELECT region, seen_at, hosts, unreachable, revision FROM regions ORDER BY region";
    tx.rows(sql, &[], |row| {
        Ok(RegionRow {
            region: row.parse(0)?,
            seen_at: row.time(1)?,
            hosts: row.num(2)?,
            unreachable: row.num(3)?,
            revision: row.num(4)?,
        })
    })
}

/// The process whose counts of the region's hosts are taken: the one that reports, if it is
/// the region's only one, or no other one told of them lately.
///
/// # Errors
/// When the database fails.
pub fn teller(tx: &Tx, report: &RegionReport, now: UnixMillis) -> Result<String, DbError> {
    let sql = "SELECT teller, seen_at FROM regions WHERE region = ?1";
    let known = tx.row(sql, values![&report.region], |row| Ok((row.text(0)?, row.time(1)?)))?;
    let lately = |at: UnixMillis| now.since(at) < TELLER_SILENT;
    let other = known.filter(|(teller, seen_at)| !teller.is_empty() && lately(*seen_at));
    Ok(match other {
        Some((teller, _)) if !report.process.is_empty() => teller,
        _ => report.process.clone(),
    })
}

/// Takes down a region's numbers.
///
/// # Errors
/// When the database fails.
pub fn put(tx: &mut Tx, report: &RegionReport, now: UnixMillis) -> Result<(), DbError> {
    tx.exec(
        "INSERT INTO regions (region, seen_at, hosts, unreachable, revision, teller, goal_stores)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
         ON CONFLICT (region) DO UPDATE SET seen_at = excluded.seen_at, hosts = excluded.hosts,
             unreachable = excluded.unreachable, revision = excluded.revision,
             teller = excluded.teller, goal_stores = excluded.goal_stores",
        values![
            &report.region,
            now,
            report.host_count,
            report.unreachable,
            report.revision,
            &report.process,
            stores(report)
        ],
    )?;
    Ok(())
}

/// What a region says of its etcds; nothing when it is too much: it is only to be looked at.
fn stores(report: &RegionReport) -> String {
    if report.goal_stores.is_none() {
        return String::new();
    }
    let stores = json(&report.goal_stores);
    if stores.len() > STORES_BYTES_MAX {
        tracing::warn!(region = %report.region, bytes = stores.len(), "too much about its etcds");
        return String::new();
    }
    stores
}

/// The etcds of regions that use one, as they told, by region.
///
/// # Errors
/// When the database fails.
pub fn goal_stores(tx: &Tx) -> Result<Vec<RegionStores>, DbError> {
    let sql =
        "SELECT region, seen_at, goal_stores FROM regions WHERE goal_stores <> '' ORDER BY region";
    tx.rows(sql, &[], |row| {
        // What a newer coordinator wrote may mean nothing to this one.
        let stores = serde_json::from_str(&row.text(2)?).unwrap_or_default();
        Ok(RegionStores { region: row.parse(0)?, seen_at: row.time(1)?, stores })
    })
}
