//! The logs of builds: taken from workers in order, each byte once; kept plain
//! and bounded; read by anyone from any byte on.

use axum::extract::State;
use serde::Deserialize;

use crate::coordinator::attempts::fenced;
use crate::coordinator::builds::unknown;
use crate::coordinator::state::{Shared, wait_of};
use crate::model::id::JobNo;
use crate::net::server::{Json, Params, Path};
use crate::rules::log::{KEPT, Kept, plain};
use crate::rules::queue;
use crate::store::db::job_log::Stretch;
use crate::store::db::{DbError, Topic, Tx, job_log, jobs};
use crate::wire::problem::{Code, Problem};
use crate::wire::v1::build::BuildLog;
use crate::wire::v1::worker::LogChunk;

/// Largest chunk from a worker, bytes.
const CHUNK_BYTES_MAX: usize = 64 << 10;
/// Text of one reply at most, bytes.
const REPLY_BYTES_MAX: usize = 1 << 20;
/// Chunks looked at for one reply; small chunks must not make it long.
const REPLY_CHUNKS_MAX: usize = 4096;

/// `POST /v1/worker/jobs/{build}/log`.
pub(super) async fn append(
    State(shared): State<Shared>,
    Path(no): Path<JobNo>,
    Json(chunk): Json<LogChunk>,
) -> Result<Json<()>, Problem> {
    if chunk.text.len() > CHUNK_BYTES_MAX {
        return Err(Problem::new(Code::TooLarge, "a log chunk is at most 64 KiB"));
    }
    shared.db.write(move |tx| add(tx, no, &chunk, KEPT)).await.map(Json)
}

fn add(tx: &mut Tx, no: JobNo, chunk: &LogChunk, kept: Kept) -> Result<(), Problem> {
    let row = jobs::find(tx, no)?.ok_or_else(|| unknown(no))?;
    queue::check_attempt(&row.job, chunk.attempt).map_err(|error| fenced(no, &error))?;
    let at = (no, chunk.attempt);
    let had = job_log::progress(tx, no, chunk.attempt)?.ok_or(DbError::Missing("an attempt"))?;
    let Some(known) = had.received.checked_sub(chunk.offset) else {
        return Err(Problem::new(Code::Conflict, "a part of the log is missing")
            .because(format!("the next byte is {}, not {}", had.received, chunk.offset)));
    };
    let known = usize::try_from(known).unwrap_or(usize::MAX);
    // Had already, or cut inside a character: the sender's cuts lie between characters.
    let Some(fresh) = chunk.text.get(known..).filter(|fresh| !fresh.is_empty()) else {
        return Ok(());
    };
    let (text, carry) = plain(&had.carry, fresh);
    let end = job_log::append(tx, no, chunk.attempt, &text)?;
    job_log::advance(tx, at, chunk.offset + chunk.text.len() as u64, &carry)?;
    if let Some(dropped) = kept.dropped(end - had.start) {
        job_log::drop_between(tx, at, had.start + dropped.start, had.start + dropped.end)?;
    }
    Ok(())
}

#[derive(Deserialize)]
pub(super) struct Query {
    #[serde(default)]
    from: u64,
    #[serde(default)]
    wait_ms: u64,
}

/// `GET /v1/builds/{build}/log`.
pub(super) async fn show(
    State(shared): State<Shared>,
    Path(no): Path<JobNo>,
    Params(query): Params<Query>,
) -> Result<Json<BuildLog>, Problem> {
    let read = move |tx: &Tx| read(tx, no, query.from);
    let look = async || {
        let log = shared.db.read(read).await?;
        Ok((!log.text.is_empty() || log.ended).then_some(log))
    };
    let found = shared.wait_for(Topic::Logs, wait_of(query.wait_ms), look).await?;
    match found {
        Some(log) => Ok(Json(log)),
        // Whoever asked from beyond the end is told where the end is.
        None => shared.db.read(read).await.map(Json),
    }
}

fn read(tx: &Tx, no: JobNo, from: u64) -> Result<BuildLog, Problem> {
    let row = jobs::find(tx, no)?.ok_or_else(|| unknown(no))?;
    let from = from.min(row.log_bytes);
    let (text, next) = join(from, job_log::read(tx, no, from, REPLY_CHUNKS_MAX)?);
    Ok(BuildLog { ended: row.job.state.is_final() && next >= row.log_bytes, text, next })
}

/// Lays stretches end to end from `from` on and says where parts were dropped.
fn join(from: u64, stretches: Vec<Stretch>) -> (String, u64) {
    let (mut text, mut next) = (String::new(), from);
    for stretch in stretches {
        let end = stretch.at + stretch.text.len() as u64;
        if end <= next {
            continue;
        }
        if !text.is_empty() && text.len() + stretch.text.len() > REPLY_BYTES_MAX {
            break;
        }
        if stretch.at > next {
            let dropped = stretch.at - next;
            text.push_str(&format!("\n[{dropped} bytes of the log were dropped here]\n"));
            next = stretch.at;
        }
        let skip = usize::try_from(next - stretch.at).unwrap_or(usize::MAX);
        text.push_str(&stretch.text[stretch.text.ceil_char_boundary(skip)..]);
        next = end;
    }
    (text, next)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::db::{Db, values};

    #[test]
    fn a_reply_goes_on_where_it_was_asked_to_and_marks_gaps() {
        let stretch = |at, text: &str| Stretch { at, text: text.into() };
        let parts = || vec![stretch(0, "hello "), stretch(6, "wörld\n"), stretch(100, "end\n")];
        let (text, next) = join(0, parts());
        assert_eq!(text, "hello wörld\n\n[87 bytes of the log were dropped here]\nend\n");
        assert_eq!(next, 104);
        assert_eq!(join(8, parts()).0, "rld\n\n[87 bytes of the log were dropped here]\nend\n");
        assert_eq!(join(104, parts()), (String::new(), 104));
    }

    /// A database with a running job of one attempt.
    async fn running() -> (tempfile::TempDir, Db, JobNo) {
        let folder = tempfile::tempdir().unwrap();
        let db = Db::open(&folder.path().join("db")).unwrap();
        let begin = |tx: &mut Tx| {
            tx.exec("INSERT INTO apps VALUES ('web', '{}', 0, 0)", &[])?;
            tx.exec(
                "INSERT INTO jobs (app, commit_id, recipe_digest, status, attempt, max_attempts,
                    not_before, queued_at, actor, subject, repo, trunk, recipe)
                 VALUES ('web', ?1, '', 'RUNNING', 1, 3, 0, 0, '', '', '', '', '{}')",
                values!["a".repeat(40)],
            )?;
            tx.exec(
                "INSERT INTO attempts (job, attempt, worker_id, machine, started_at, log_start)
                     VALUES (1, 1, 'w', 'm', 0, 0)",
                &[],
            )
        };
        db.write(begin).await.unwrap();
        (folder, db, JobNo(1))
    }

    #[tokio::test]
    async fn a_long_log_keeps_its_beginning_and_its_end() {
        let (_folder, db, no) = running().await;
        let kept = Kept { head: 100, tail: 300 };
        let log = db.write(move |tx| {
            for i in 0..200 {
                let chunk = LogChunk { attempt: 1, offset: i * 10, text: format!("line {i:04}\n") };
                add(tx, no, &chunk, kept)?;
            }
            read(tx, no, 0)
        });
        let log = log.await.unwrap();
        assert_eq!((log.next, log.ended), (2000, false));
        let lines: Vec<&str> = log.text.lines().collect();
        assert_eq!((lines[0], lines[9]), ("line 0000", "line 0009"));
        assert_eq!(lines[11], "[1600 bytes of the log were dropped here]");
        assert_eq!((lines[12], *lines.last().unwrap()), ("line 0170", "line 0199"));
        let rest = db.read(move |tx| read(tx, no, 1990)).await.unwrap();
        assert_eq!(rest.text, "line 0199\n");
    }
}
