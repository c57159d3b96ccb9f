//! Why a build can't be deployed yet.

use std::time::Duration;

use super::Reasons;
use crate::cli::table::{age, bytes, count};
use crate::model::job::{BuildFailure, JobState};
use crate::model::replication::ReplicationStatus;
use crate::model::time::UnixMillis;
use crate::wire::v1::build::Build;
use crate::wire::v1::fleet::WorkerRow;

/// A worker that was not heard of for so long is gone: it beats or asks each 10 s.
pub const WORKER_SILENT: Duration = Duration::from_secs(60);

/// Why `build` stands where it does, as of `now`.
#[must_use]
pub fn of(build: &Build, workers: &[WorkerRow], now: UnixMillis) -> Reasons {
    let number = build.build;
    let what = format!("{number} of {} ({})", build.app, build.commit.short());
    match build.state {
        JobState::Queued => queued(build, workers, Reasons::new(format!("{what} is queued"))),
        JobState::Running => {
            let since = build.started_at.map_or_else(String::new, |at| age(now.since(at)));
            let worker = build.worker.as_deref().unwrap_or("a worker");
            let (attempt, most) = (build.attempt, build.max_attempts);
            Reasons::new(format!("{what} is being built for {since}"))
                .because(format!("{worker} runs attempt {attempt} of at most {most}"))
                .next("its artifact is replicated when the command ends well")
                .hint(format!("deployctl logs {number} -f"))
        }
        JobState::Failed => failed(build, Reasons::new(format!("{what} failed"))),
        JobState::Succeeded => succeeded(build, &what),
    }
}

fn queued(build: &Build, workers: &[WorkerRow], reasons: Reasons) -> Reasons {
    let slots: u32 = workers.iter().map(|worker| worker.slots).sum();
    let busy: u32 = workers.iter().map(|worker| worker.running).sum();
    let ahead = build.queue_position.unwrap_or(0);
    let last = build.failure.as_ref().map(|failure| failure.reason.clone()).unwrap_or_default();
    let reasons = match (workers.len(), ahead) {
        (0, _) => reasons.because("no worker was heard of for a minute").hint("deployctl workers"),
        (_, 0) if busy < slots => reasons.because("a free worker has not taken it yet"),
        (n, 0) => reasons.because(format!("all {} are busy", count(n as u64, "worker"))),
        (_, n) => reasons.because(format!(
            "{} before it in the queue, and {busy} of {slots} slots are busy",
            if n == 1 { "1 build is".to_owned() } else { format!("{n} builds are") }
        )),
    };
    let again = if last.is_empty() || build.attempt == 0 {
        String::new()
    } else {
        format!("attempt {} did not end well: {last}", build.attempt)
    };
    reasons
        .because(again)
        .next("the next free worker takes the oldest build")
        .hint(format!("deployctl cancel {}", build.build))
}

fn failed(build: &Build, reasons: Reasons) -> Reasons {
    let number = build.build;
    let Some(failure) = &build.failure else {
        return reasons.hint(format!("deployctl logs {number}"));
    };
    let next = match failure.class {
        BuildFailure::BuildFailed | BuildFailure::Timeout => "nothing: fix it and build the fix",
        BuildFailure::Refused => "nothing until that is put right",
        BuildFailure::Canceled => "nothing: a person stopped it",
        BuildFailure::Infra | BuildFailure::LostWorker => "nothing until it is tried again",
    };
    reasons
        .because(failure.reason.clone())
        .next(next)
        .hint(format!("deployctl logs {number}"))
        .hint(format!("deployctl retry {number}"))
}

fn succeeded(build: &Build, what: &str) -> Reasons {
    let number = build.build;
    if build.deployable {
        return Reasons::new(format!("{what} can be deployed: every region holds it"))
            .settled()
            .next("nothing until somebody deploys it")
            .hint(format!("deployctl deploy {number} -a {}", build.app));
    }
    if build.collected {
        return Reasons::new(format!("{what} was built, and what it made was collected"))
            .because("no goal and no recent release needed it")
            .next("nothing until it is built again")
            .hint(format!("deployctl build {} -a {}", build.commit, build.app));
    }
    let mut reasons = Reasons::new(format!("{what} is built, and can't be deployed yet"));
    let whole = build.artifact.as_ref().map_or(0, |artifact| artifact.wire_size);
    let lacking =
        build.replication.regions.iter().filter(|r| r.status != ReplicationStatus::Complete);
    for region in lacking {
        let mut why =
            format!("{} has {} of {}", region.region, bytes(region.bytes.min(whole)), bytes(whole));
        if region.bytes >= whole && whole > 0 {
            why = format!("{} says it holds it, and nobody has looked yet", region.region);
        }
        if !region.reason.is_empty() {
            why.push_str(&format!(": {}", region.reason));
        }
        reasons = reasons.because(why);
    }
    reasons
        .next("regions pull it by themselves, as soon as they can reach the store")
        .hint("deployctl regions")
        .hint(format!("deployctl deploy {number} --when-ready -a {}", build.app))
}
