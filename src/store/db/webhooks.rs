//! Webhooks, and the outbox of what they have not taken yet.
//!
//! The events themselves are the queue: each webhook has a cursor in them, and a row in
//! the outbox for each event that is under way. A delivery is claimed by counting its
//! attempt, so two coordinators never make the same attempt.

use super::{DbError, Row, Tx, events, json, values};
use crate::model::id::WebhookName;
use crate::model::time::UnixMillis;
use crate::model::webhook::{Webhook, WebhookFormat};
use crate::wire::v1::event::Event;

/// Events under way for one webhook at most; more wait in the events themselves.
pub const WAITING_MAX: i64 = 1_000;
/// Events looked at in one go.
const BATCH: usize = 500;
/// Longest error that is kept, bytes.
const ERROR_BYTES_MAX: usize = 500;

/// A webhook with what is secret of it.
#[derive(Clone)]
pub struct Secret {
    /// As it is listed.
    pub webhook: Webhook,
    /// Where to send.
    pub url: String,
    /// What its key is derived from.
    pub nonce: String,
}

/// A delivery that was claimed.
#[derive(Clone)]
pub struct Due {
    /// To whom.
    pub to: Secret,
    /// What.
    pub event: Event,
    /// The commit of its build.
    pub commit: Option<String>,
    /// Which try this is, from 1.
    pub attempt: u32,
}

const COLUMNS: &str = "w.name, w.origin, w.url, w.format, w.scope, w.actor, w.nonce, \
    w.created_at, w.delivered, w.dropped, w.last_error, \
    (SELECT count(*) FROM webhook_outbox o WHERE o.webhook = w.name)";

fn read(row: &Row) -> Result<Secret, DbError> {
    let format = row.text(3)?;
    let webhook = Webhook {
        name: row.parse(0)?,
        origin: row.text(1)?,
        format: WebhookFormat::from_word(&format).ok_or(DbError::Missing("a format"))?,
        scope: row.json(4)?,
        actor: row.text(5)?,
        created_at: row.time(7)?,
        delivered: row.num(8)?,
        dropped: row.num(9)?,
        last_error: row.text(10)?,
        waiting: row.num(11)?,
    };
    Ok(Secret { webhook, url: row.text(2)?, nonce: row.text(6)? })
}

/// Every webhook, by name.
///
/// # Errors
/// When the database fails.
pub fn list(tx: &Tx) -> Result<Vec<Secret>, DbError> {
    tx.rows(&format!("SELECT {COLUMNS} FROM webhooks w ORDER BY w.name"), &[], read)
}

/// One webhook.
///
/// # Errors
/// When the database fails.
pub fn find(tx: &Tx, name: &WebhookName) -> Result<Option<Secret>, DbError> {
    let sql = format!("SELECT {COLUMNS} FROM webhooks w WHERE w.name = ?1");
    tx.row(&sql, values![name.as_str()], read)
}

/// Adds a webhook; it is told of what happens from now on.
///
/// # Errors
/// When the database fails, or there is one of that name.
pub fn insert(tx: &mut Tx, new: &Secret) -> Result<(), DbError> {
    let webhook = &new.webhook;
    let newest = events::newest(tx)?;
    tx.exec(
        "INSERT INTO webhooks (name, origin, url, format, scope, nonce, actor, created_at, seen)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        values![
            webhook.name.as_str(),
            &webhook.origin,
            &new.url,
            webhook.format.word(),
            json(&webhook.scope),
            &new.nonce,
            &webhook.actor,
            webhook.created_at,
            newest
        ],
    )?;
    Ok(())
}

/// Removes a webhook with all that waits for it; whether there was one.
///
/// # Errors
/// When the database fails.
pub fn delete(tx: &mut Tx, name: &WebhookName) -> Result<bool, DbError> {
    let there = find(tx, name)?.is_some();
    tx.exec("DELETE FROM webhook_outbox WHERE webhook = ?1", values![name.as_str()])?;
    tx.exec("DELETE FROM webhooks WHERE name = ?1", values![name.as_str()])?;
    Ok(there)
}

/// Whether [`fill`] would do something.
///
/// # Errors
/// When the database fails.
pub fn lag(tx: &Tx) -> Result<bool, DbError> {
    let sql = "SELECT count(*) FROM webhooks w
               WHERE w.seen < (SELECT coalesce(max(seq), 0) FROM events)
                 AND (SELECT count(*) FROM webhook_outbox o WHERE o.webhook = w.name) < ?1";
    Ok(tx.number(sql, values![WAITING_MAX])? > 0)
}

/// Puts new events into the outbox, but for those before `since`: nobody wants to be told
/// on Monday of what was over on Friday. `skip` leaves out kinds.
///
/// # Errors
/// When the database fails.
pub fn fill(
    tx: &mut Tx,
    (now, since): (UnixMillis, UnixMillis),
    skip: impl Fn(&str) -> bool,
) -> Result<(), DbError> {
    for hook in list(tx)? {
        let (name, scope) = (hook.webhook.name, hook.webhook.scope);
        let mut room = WAITING_MAX.saturating_sub_unsigned(hook.webhook.waiting);
        let seen =
            tx.number("SELECT seen FROM webhooks WHERE name = ?1", values![name.as_str()])?;
        let mut last = seen.unsigned_abs();
        for event in events::after(tx, last, None, BATCH)? {
            if room <= 0 {
                break;
            }
            last = event.seq;
            let told = scope.covers(&event.kind, event.app.as_ref(), event.env.as_ref());
            if !told || event.at < since || skip(&event.kind) {
                continue;
            }
            tx.exec(
                "INSERT INTO webhook_outbox (webhook, seq, attempt, due_at)
                 VALUES (?1, ?2, 0, ?3) ON CONFLICT (webhook, seq) DO NOTHING",
                values![name.as_str(), event.seq, now],
            )?;
            room -= 1;
        }
        tx.exec("UPDATE webhooks SET seen = ?2 WHERE name = ?1", values![name.as_str(), last])?;
    }
    Ok(())
}

/// When the next delivery is due.
///
/// # Errors
/// When the database fails.
pub fn next_due(tx: &Tx) -> Result<Option<UnixMillis>, DbError> {
    let next = tx.row("SELECT min(due_at) FROM webhook_outbox", &[], |row| row.opt_time(0))?;
    Ok(next.flatten())
}

/// Claims deliveries that are due at `now`, oldest events first, until `until`: a
/// coordinator that dies gives them back by then.
///
/// # Errors
/// When the database fails.
pub fn claim(
    tx: &mut Tx,
    (now, until): (UnixMillis, UnixMillis),
    limit: u32,
) -> Result<Vec<Due>, DbError> {
    let due = tx.rows(
        "SELECT webhook, seq, attempt FROM webhook_outbox WHERE due_at <= ?1
         ORDER BY seq LIMIT ?2",
        values![now, limit],
        |row| Ok((row.parse::<WebhookName>(0)?, row.num::<u64>(1)?, row.num::<u64>(2)?)),
    )?;
    let mut claimed = Vec::with_capacity(due.len());
    for (name, seq, attempt) in due {
        let event = events::after(tx, seq.saturating_sub(1), None, 1)?.into_iter().next();
        let (Some(to), Some(event)) = (find(tx, &name)?, event.filter(|event| event.seq == seq))
        else {
            let gone = "DELETE FROM webhook_outbox WHERE webhook = ?1 AND seq = ?2";
            tx.exec(gone, values![name.as_str(), seq])?;
            continue;
        };
        tx.exec(
            "UPDATE webhook_outbox SET attempt = attempt + 1, due_at = ?3
             WHERE webhook = ?1 AND seq = ?2",
            values![name.as_str(), seq, until],
        )?;
        let commit = match event.build {
            Some(build) => {
                tx.row("SELECT commit_id FROM jobs WHERE id = ?1", values![build], |row| {
                    row.text(0)
                })?
            }
            None => None,
        };
        let attempt = u32::try_from(attempt).unwrap_or(u32::MAX).saturating_add(1);
        claimed.push(Due { to, event, commit, attempt });
    }
    Ok(claimed)
}

/// The attempt was taken.
///
/// # Errors
/// When the database fails.
pub fn taken(tx: &mut Tx, due: &Due) -> Result<(), DbError> {
    let name = due.to.webhook.name.as_str();
    let gone = "DELETE FROM webhook_outbox WHERE webhook = ?1 AND seq = ?2 AND attempt = ?3";
    tx.exec(gone, values![name, due.event.seq, due.attempt])?;
    tx.exec(
        "UPDATE webhooks SET delivered = delivered + 1, last_error = '' WHERE name = ?1",
        values![name],
    )?;
    Ok(())
}

/// The attempt failed; it is made again at `again`, or never.
///
/// # Errors
/// When the database fails.
pub fn failed(
    tx: &mut Tx,
    due: &Due,
    error: &str,
    again: Option<UnixMillis>,
) -> Result<(), DbError> {
    let name = due.to.webhook.name.as_str();
    let error = &error[..error.floor_char_boundary(ERROR_BYTES_MAX)];
    let attempt = values![name, due.event.seq, due.attempt, again.unwrap_or_default()];
    let dropped = match again {
        Some(_) => {
            tx.exec(
                "UPDATE webhook_outbox SET due_at = ?4
                 WHERE webhook = ?1 AND seq = ?2 AND attempt = ?3",
                attempt,
            )?;
            0
        }
        None => {
            tx.exec(
                "DELETE FROM webhook_outbox WHERE webhook = ?1 AND seq = ?2 AND attempt = ?3",
                &attempt[..3],
            )?;
            1
        }
    };
    tx.exec(
        "UPDATE webhooks SET last_error = ?2, dropped = dropped + ?3 WHERE name = ?1",
        values![name, error, dropped],
    )?;
    Ok(())
}
