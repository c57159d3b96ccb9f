//! Waiting for a build or a rollout, through restarts of the coordinator.
//!
//! State is read first and then followed, so a wait that begins after the end tells
//! the same outcome. Losing the coordinator is told once and tried again until the
//! time is up (exit code 124). Nothing here changes anything.

use std::time::{Duration, Instant};

use super::api::{Api, RolloutId};
use super::args::WaitArgs;
use super::context::Context;
use super::failure::{ExitCode, Failure};
use super::outcome::{build_failure, rollout_code};
use super::output::Format;
use super::progress::Progress;
use super::table::bytes;
use super::watching;
use crate::model::id::JobNo;
use crate::model::job::JobState;
use crate::model::rollout::RolloutState;
use crate::net::client::CallError;
use crate::wire::v1::build::{Build, ReplicationStatus};
use crate::wire::v1::rollout::Rollout;

/// First and longest pause between two looks at a build.
const LOOK: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));
/// Longest wait of one long poll: a heartbeat must not be late by more.
const POLL: Duration = Duration::from_secs(10);
/// The same where a person looks on: countdowns are shown.
const LIVE_POLL: Duration = Duration::from_secs(1);
/// Pause while the coordinator is away.
const AWAY: Duration = Duration::from_millis(500);
/// Log lines shown under a running build, and after a failed one.
const TAIL_LINES: usize = 8;
const FAILED_LINES: usize = 40;
/// Log bytes that are kept at most.
const TAIL_BYTES: usize = 64 * 1024;

/// The time that a wait has left, and whether the coordinator is away.
struct Patience {
    end: Instant,
    away: bool,
}

impl Patience {
    fn new(timeout: Duration) -> Self {
        Self { end: Instant::now() + timeout, away: false }
    }

    fn left(&self) -> Duration {
        self.end.saturating_duration_since(Instant::now())
    }

    /// Takes a reply, or waits a little when there was none; fails on a refusal.
    async fn take<T>(
        &mut self,
        reply: Result<T, CallError>,
        progress: &Progress<'_>,
    ) -> Result<Option<T>, Failure> {
        match reply {
            Ok(value) => {
                if std::mem::take(&mut self.away) {
                    progress.say("the coordinator is back");
                }
                Ok(Some(value))
            }
            Err(error) if error.is_transient() => {
                if !std::mem::replace(&mut self.away, true) {
                    progress.say("the coordinator can't be reached; trying on");
                }
                tokio::time::sleep(AWAY.min(self.left())).await;
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// Follows a rollout until it ended or waits for a person; `seen` is told of each look.
///
/// # Errors
/// Exit code 124 when the time is up.
pub async fn rollout(
    ctx: &Context,
    api: &Api,
    id: &RolloutId,
    wait: &WaitArgs,
    seen: impl Fn(&Rollout),
) -> Result<Rollout, Failure> {
    let mut progress = Progress::new(&ctx.out);
    let mut patience = Patience::new(wait.timeout);
    let stops_on_pause = wait.exit_on_pause || !ctx.out.stdout_tty;
    let scope = Context::scope_flags(&id.app, &id.env);
    let mut last: Option<Rollout> = None;
    let mut told = watching::Told::default();
    let poll = if progress.is_live() { LIVE_POLL } else { POLL };
    ctx.out.event("hello", &serde_json::json!({"schema": 1}));
    while !patience.left().is_zero() || last.is_none() {
        let since = last.as_ref().map_or(0, |rollout| rollout.stamp);
        let hold = if last.is_none() { Duration::ZERO } else { poll.min(patience.left()) };
        let reply = api.rollout(id, since, hold).await;
        let Some(rollout) = patience.take(reply, &progress).await? else {
            if patience.left().is_zero() {
                break;
            }
            continue;
        };
        seen(&rollout);
        told.show(&mut progress, &rollout);
        if rollout.stamp != since {
            ctx.out.event("rollout", &rollout);
        }
        let paused = rollout.release.state == RolloutState::Paused;
        if rollout_code(rollout.release.state).is_some() && (!paused || stops_on_pause) {
            return Ok(rollout);
        }
        last = Some(rollout);
    }
    let failure = timed_out(&format!("{}", id.release), wait.timeout)
        .hint(format!("deployctl watch {} {scope}", id.release))
        .hint(format!("deployctl cancel {} {scope}", id.release));
    Err(match last {
        Some(rollout) => failure.with_document(serde_json::json!(rollout)),
        None => failure,
    })
}

fn timed_out(what: &str, after: Duration) -> Failure {
    let title = format!("stopped waiting after {}s; {what} goes on", after.as_secs());
    Failure::new(ExitCode::WaitTimeout, title)
}

/// Follows a build until it ended and, if asked, until every region holds its artifact.
///
/// # Errors
/// Exit code 9 or 13 when it failed, 124 when the time is up.
pub async fn build(
    ctx: &Context,
    api: &Api,
    first: Build,
    timeout: Duration,
    replicated: bool,
) -> Result<Build, Failure> {
    let mut progress = Progress::new(&ctx.out);
    let mut patience = Patience::new(timeout);
    let mut tail = Tail::default();
    let mut build = first;
    let mut pause = LOOK.0;
    loop {
        show_build(&mut progress, &build, &tail);
        match build.state {
            JobState::Failed => {
                tail.read_to_end(api, build.build).await;
                progress.clear();
                tail.show_last(ctx, FAILED_LINES);
                let document = serde_json::json!(build);
                return Err(build_failure(&build).with_document(document));
            }
            JobState::Succeeded if !replicated || build.deployable => return Ok(build),
            JobState::Running if ctx.out.stderr_tty => {
                tail.read(api, build.build, LOOK.1.min(patience.left())).await;
            }
            _ => {
                tokio::time::sleep(pause.min(patience.left())).await;
                pause = pause.mul_f32(1.5).min(LOOK.1);
            }
        }
        if patience.left().is_zero() {
            let failure = timed_out(&build.build.to_string(), timeout)
                .hint(format!("deployctl builds -a {}", build.app))
                .with_document(serde_json::json!(build));
            return Err(failure);
        }
        let reply = api.build(build.build).await;
        if let Some(next) = patience.take(reply, &progress).await? {
            if next.state != build.state {
                pause = LOOK.0;
                ctx.out.event("build", &next);
            }
            build = next;
        }
    }
}

fn show_build(progress: &mut Progress<'_>, build: &Build, tail: &Tail) {
    let number = build.build;
    match build.state {
        JobState::Queued => {
            let ahead = build.queue_position.map_or(String::new(), |n| format!(", {n} ahead"));
            let again = if build.attempt > 0 {
                let reason = build.failure.as_ref().map_or("", |failure| &failure.reason);
                format!(" (attempt {} of {}; {reason})", build.attempt + 1, build.max_attempts)
            } else {
                String::new()
            };
            progress.update(
                &format!("queued {}", build.attempt),
                &format!("{number} queued{ahead}{again}"),
            );
        }
        JobState::Running => {
            let worker = build.worker.as_deref().unwrap_or("a worker");
            let line = format!("{number} running on {worker}, attempt {}", build.attempt);
            progress.update(&format!("running {}", build.attempt), &line);
            progress.tail(&line, &tail.last(TAIL_LINES));
        }
        JobState::Succeeded => {
            let total = build.artifact.as_ref().map_or(0, |artifact| artifact.wire_size);
            let regions = &build.replication.regions;
            let there = regions.iter().filter(|r| r.status == ReplicationStatus::Complete).count();
            let key = format!("replicating {there} {:?}", build.replication.status);
            let line =
                format!("{number} built; replicated to {there} of {} regions", regions.len());
            progress.update(&key, &line);
            for region in regions {
                let done =
                    if region.status == ReplicationStatus::Complete { total } else { region.bytes };
                let mut note =
                    format!("{} of {} {}", bytes(done), bytes(total), region.status.word());
                if !region.reason.is_empty() {
                    note.push_str(&format!("  {}", region.reason));
                }
                progress.bar(region.region.as_str(), done, total, &note);
            }
        }
        JobState::Failed => progress.update("failed", &format!("{number} failed")),
    }
}

/// The end of a build's log, as far as it was read.
#[derive(Default)]
pub struct Tail {
    text: String,
    next: u64,
    /// Whether there will never be more.
    pub ended: bool,
}

impl Tail {
    /// Reads what is new; silently nothing when the coordinator is away.
    pub async fn read(&mut self, api: &Api, build: JobNo, wait: Duration) -> String {
        let Ok(more) = api.build_log(build, self.next, wait).await else {
            tokio::time::sleep(wait.min(AWAY)).await;
            return String::new();
        };
        let moved = more.next > self.next;
        self.next = more.next;
        self.ended = more.ended && !moved;
        self.text.push_str(&more.text);
        if self.text.len() > 2 * TAIL_BYTES {
            let mut cut = self.text.len() - TAIL_BYTES;
            while !self.text.is_char_boundary(cut) {
                cut += 1;
            }
            self.text.drain(..cut);
        }
        more.text
    }

    async fn read_to_end(&mut self, api: &Api, build: JobNo) {
        // A log has a limit of its own; this is a second one.
        for _ in 0..4096 {
            let before = self.next;
            self.read(api, build, Duration::ZERO).await;
            if self.next == before {
                break;
            }
        }
    }

    fn last(&self, lines: usize) -> Vec<String> {
        let all: Vec<&str> = self.text.lines().collect();
        let from = all.len().saturating_sub(lines);
        all[from..].iter().map(|line| (*line).to_owned()).collect()
    }

    fn show_last(&self, ctx: &Context, lines: usize) {
        if ctx.out.format == Format::Json && !ctx.out.tells_progress() {
            return;
        }
        for line in self.last(lines) {
            ctx.out.story(&format!("  | {line}"));
        }
    }
}
