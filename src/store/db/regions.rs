//! Regions as they reported last.

use super::{DbError, Tx, values};
use crate::model::id::RegionName;
use crate::model::time::UnixMillis;
use crate::wire::v1::region::RegionReport;

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

/// Takes down a region's numbers.
///
/// # Errors
/// When the database fails.
pub fn put(tx: &mut Tx, report: &RegionReport, now: UnixMillis) -> Result<(), DbError> {
    tx.exec(
        "INSERT INTO regions (region, seen_at, hosts, unreachable, revision)
         VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT (region) DO UPDATE SET seen_at = excluded.seen_at, hosts = excluded.hosts,
             unreachable = excluded.unreachable, revision = excluded.revision",
        values![&report.region, now, report.host_count, report.unreachable, report.revision],
    )?;
    Ok(())
}
