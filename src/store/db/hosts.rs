//! Hosts as their regions report them.

use std::collections::BTreeMap;

use super::{DbError, Tx, Value, json, values};
use crate::model::id::{AppName, EnvName, HostId, RegionName};
use crate::model::picked::{HostSelector, Place, Said};
use crate::model::selector::{Labels, Selector};
use crate::model::time::UnixMillis;
use crate::wire::v1::fleet::HostRow;

/// Which hosts are asked for.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Only hosts with this app.
    pub app: Option<AppName>,
    /// Only this env.
    pub env: Option<EnvName>,
    /// Only this region.
    pub region: Option<RegionName>,
    /// Only hosts whose id begins so.
    pub host: Option<String>,
}

/// Takes down a host.
///
/// # Errors
/// When the database fails.
pub fn put(tx: &mut Tx, region: &RegionName, row: &HostRow) -> Result<(), DbError> {
    tx.exec(
        "INSERT INTO hosts (region, host, env, labels, reachable, seen_at, info)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
         ON CONFLICT (region, host) DO UPDATE SET env = excluded.env,
             labels = excluded.labels, reachable = excluded.reachable,
             seen_at = excluded.seen_at, info = excluded.info",
        values![
            region,
            &row.info.host,
            &row.info.env,
            json(&row.info.labels),
            row.reachable,
            row.seen_at,
            json(row)
        ],
    )?;
    Ok(())
}

/// Forgets hosts that can't be reached and were not heard of since `before`.
///
/// # Errors
/// When the database fails.
pub fn forget(tx: &mut Tx, before: UnixMillis) -> Result<usize, DbError> {
    tx.exec("DELETE FROM hosts WHERE reachable = 0 AND seen_at < ?1", values![before])
}

/// Hosts of `env` that `selector` selects: known and reachable, by region.
///
/// # Errors
/// When the database fails.
pub fn count(
    tx: &Tx,
    env: &EnvName,
    selector: &Selector,
) -> Result<BTreeMap<RegionName, (u32, u32)>, DbError> {
    if selector.0.is_empty() {
        let sql =
            "SELECT region, count(*), CAST(sum(reachable) AS BIGINT) FROM hosts WHERE env = ?1
                   GROUP BY region";
        let rows =
            tx.rows(sql, values![env], |row| Ok((row.parse(0)?, (row.num(1)?, row.num(2)?))))?;
        return Ok(rows.into_iter().collect());
    }
    let mut counts: BTreeMap<RegionName, (u32, u32)> = BTreeMap::new();
    each(tx, env, selector, |region, _, reachable| {
        if !counts.contains_key(region) {
            counts.insert(region.clone(), (0, 0));
        }
        let Some(count) = counts.get_mut(region) else { return };
        *count = (count.0 + 1, count.1 + u32::from(reachable));
    })?;
    Ok(counts)
}

/// Tells `take` each host of `env` that `selector` selects, and whether it is reachable.
///
/// # Errors
/// When the database fails.
pub fn each(
    tx: &Tx,
    env: &EnvName,
    selector: &Selector,
    mut take: impl FnMut(&RegionName, &HostId, bool),
) -> Result<(), DbError> {
    // Without labels an index has it all.
    let labels = if selector.0.is_empty() { "'{}'" } else { "labels" };
    let sql = format!("SELECT region, host, reachable, {labels} FROM hosts WHERE env = ?1");
    let mut last: Option<RegionName> = None;
    tx.rows(&sql, values![env], |row| {
        if !selector.0.is_empty() && !selector.selects(&row.json(3)?) {
            return Ok(());
        }
        // Rows mostly come by region: its name is made when it changes, not for each host.
        let region = row.text(0)?;
        let region = match last.take().filter(|last| last.as_str() == region) {
            Some(same) => same,
            None => row.parse(0)?,
        };
        take(&region, &row.parse(1)?, row.flag(2)?);
        last = Some(region);
        Ok(())
    })?;
    Ok(())
}

/// Whether `env` has more hosts than `most`.
///
/// # Errors
/// When the database fails.
pub fn are_more(tx: &Tx, env: &EnvName, most: u32) -> Result<bool, DbError> {
    let sql = "SELECT count(*) FROM (SELECT 1 FROM hosts WHERE env = ?1 LIMIT ?2) AS found";
    Ok(tx.number(sql, values![env, most + 1])? > i64::from(most))
}

/// Tells `take` hosts of `env` that `covers` selects, whether they are reachable, and whether
/// `wanted` picks them: all that it picks, and those that carry other labels than it asks for
/// under a name that it asks for. Of a large fleet only rows that come into question are read.
///
/// # Errors
/// When the database fails.
pub fn each_picked(
    tx: &Tx,
    env: &EnvName,
    (covers, wanted): (&Selector, &HostSelector),
    mut take: impl FnMut(RegionName, HostId, bool, bool),
) -> Result<(), DbError> {
    let asks = |label| wanted.labels().0.contains_key(label);
    let in_its_place = asks("rack") || asks("zone");
    let (matching, values) = in_question(env, wanted);
    let sql = format!("SELECT region, host, labels, reachable, info, env FROM hosts {matching}");
    tx.rows(&sql, &values, |row| {
        let labels: Labels = row.json(2)?;
        if row.text(5)? == env.as_str() && covers.selects(&labels) {
            let (region, host): (RegionName, HostId) = (row.parse(0)?, row.parse(1)?);
            let document = if in_its_place { row.json(4)? } else { Document::default() };
            let picked = wanted.picks(&host, &labels, document.place(&region));
            take(region, host, row.flag(3)?, picked);
        }
        Ok(())
    })?;
    Ok(())
}

/// What the hosts of `env` that `covers` selects say of themselves.
///
/// # Errors
/// When the database fails.
pub fn said(tx: &Tx, env: &EnvName, covers: &Selector) -> Result<Said, DbError> {
    let mut said = Said::default();
    tx.rows("SELECT region, labels, info FROM hosts WHERE env = ?1", values![env], |row| {
        let labels: Labels = row.json(1)?;
        if covers.selects(&labels) {
            let (region, document): (RegionName, Document) = (row.parse(0)?, row.json(2)?);
            said.hear(&labels, document.place(&region));
        }
        Ok(())
    })?;
    Ok(said)
}

/// What a row's document says of the host's place; the rest is passed over.
#[derive(Default, serde::Deserialize)]
struct Document {
    info: RackAndZone,
}

#[derive(Default, serde::Deserialize)]
struct RackAndZone {
    #[serde(default)]
    rack: String,
    #[serde(default)]
    zone: String,
}

impl Document {
    fn place<'a>(&'a self, region: &'a RegionName) -> Place<'a> {
        Place { region: region.as_str(), rack: &self.info.rack, zone: &self.info.zone }
    }
}

/// Which rows [`each_picked`] looks at: by their names when it can, for there is an index of
/// these (and it would not be used beside one of envs), else those with the labels.
fn in_question(env: &EnvName, wanted: &HostSelector) -> (String, Vec<Value>) {
    if let Some(beginnings) = wanted.beginnings() {
        let (mut terms, mut values) = (Vec::new(), Vec::<Value>::new());
        for (text, is_whole) in beginnings {
            let at = values.len() + 1;
            values.push(text.into());
            if is_whole {
                terms.push(format!("host = ?{at}"));
            } else {
                // Beyond all that a host can be called.
                values.push(format!("{text}\u{7f}").into());
                terms.push(format!("(host >= ?{at} AND host < ?{})", at + 1));
            }
        }
        return (format!("WHERE {}", terms.join(" OR ")), values);
    }
    let (mut sql, mut values) = ("WHERE env = ?1".to_owned(), vec![Value::from(env)]);
    // Those that are named and carry other labels are told, too.
    for (key, value) in wanted.labels().0.iter().filter(|_| wanted.exact().next().is_none()) {
        // `info` is our own JSON: what hosts say of their labels and place is written so.
        let at = values.len() + 1;
        values.push(format!("%{}%", escape(&format!("{}:{}", json(key), json(value)))).into());
        sql += &format!(" AND (info LIKE ?{at} ESCAPE '\\'");
        if key == "region" {
            values.push(value.as_str().into());
            sql += &format!(" OR region = ?{}", at + 1);
        }
        sql.push(')');
    }
    (sql, values)
}

/// Up to `limit` hosts by region and id, and how many there are without the limit.
///
/// # Errors
/// When the database fails.
pub fn list(tx: &Tx, filter: &Filter, limit: u32) -> Result<(Vec<HostRow>, u64), DbError> {
    let host = filter.host.as_ref().map(|prefix| format!("{}%", escape(prefix)));
    // `info` is our own JSON: an app's name can't be anything else in it.
    let app = filter.app.as_ref().map(|app| format!("%\"app\":\"{app}\"%"));
    let matching = "FROM hosts WHERE (CAST(?1 AS TEXT) IS NULL OR env = ?1)
         AND (CAST(?2 AS TEXT) IS NULL OR region = ?2)
         AND (CAST(?3 AS TEXT) IS NULL OR host LIKE ?3 ESCAPE '\\')
         AND (CAST(?4 AS TEXT) IS NULL OR info LIKE ?4)";
    let mut values: Vec<Value> =
        vec![filter.env.as_ref().into(), filter.region.as_ref().into(), host.into(), app.into()];
    let total = tx.number(&format!("SELECT count(*) {matching}"), &values)?.unsigned_abs();
    values.push(limit.into());
    let sql = format!("SELECT info {matching} ORDER BY region, host LIMIT ?5");
    Ok((tx.rows(&sql, &values, |row| row.json(0))?, total))
}

fn escape(prefix: &str) -> String {
    prefix.replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_")
}
