//! One attempt at a job, from its claim to its end: checkout, build, pack,
//! publish, and the one word that the coordinator gets at the end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tracing::Instrument;
use tracing::field::Empty;

use crate::host::git::without_credentials;
use crate::model::job::Outcome;
use crate::model::manifest::{MANIFEST_VERSION, Manifest, Provenance};
use crate::net::client::CallError;
use crate::net::trace::{self, step};
use crate::rules::collection::command_again;
use crate::store::blobs::{BlobError, Blobs, Upload};
use crate::wire::v1::worker::{Claim, Learnt};
use crate::worker::api::{self, is_fenced};
use crate::worker::build::{self, Build, Built, Scratch};
use crate::worker::checkout::{Source, Wanted};
use crate::worker::failure::Failure;
use crate::worker::lease::{self, Hold, Standing};
use crate::worker::log::{self, LogReader, LogWriter};
use crate::worker::metrics;
use crate::worker::pack::{self, PackError, Packed};
use crate::worker::patch::Order;
use crate::worker::publish::{self, PublishError};
use crate::worker::recipe::{self, Resolved};
use crate::worker::run::Worker;
use crate::worker::walk::{self, Tree};

/// First wait before a call that brought no answer is tried again; doubles.
const RETRY_FIRST: Duration = Duration::from_millis(200);
/// Longest such wait.
const RETRY_LONGEST: Duration = Duration::from_secs(5);
/// How long a worker that stops tries to say how its jobs ended.
const GOODBYE: Duration = Duration::from_secs(15);

/// How an attempt ended, and what was learnt of the commit's history on the way.
struct Ended {
    outcome: Outcome,
    learnt: Learnt,
}

impl From<Outcome> for Ended {
    fn from(outcome: Outcome) -> Self {
        Self { outcome, learnt: Learnt::default() }
    }
}

/// Why there is no artifact.
enum Halt {
    /// For a reason that is told.
    Failed(Failure),
    /// The job's standing changed.
    Dropped,
}

impl From<Failure> for Halt {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// Works on `claim` in `scratch` until the coordinator was told how it ended, or
/// the job is another's. Leaves the scratch folder empty and no process behind.
pub async fn attempt(worker: &Worker, scratch: &Scratch, claim: Claim) {
    let span = tracing::info_span!(target: trace::TARGET, "attempt",
        build = %claim.build, attempt = claim.attempt, app = %claim.app,
        commit = %claim.commit, outcome = Empty, otel.status_code = Empty);
    work(worker, scratch, claim).instrument(span).await;
}

async fn work(worker: &Worker, scratch: &Scratch, claim: Claim) {
    let calls = worker.coordinator.attempt(&claim);
    let (hold, beating) = lease::hold(calls.clone(), &claim, worker.drain.clone());
    tracing::info!(build = %claim.build, attempt = claim.attempt, app = %claim.app,
        commit = claim.commit.short(), "claimed");
    let opened = scratch.renew().and_then(|()| log::open(&scratch.log(), worker.log));
    let ending = async {
        let ended = match opened {
            Ok((mut writer, reader)) => {
                let delivery = tokio::spawn(deliver(calls.clone(), reader));
                let job = Attempt { worker, scratch, claim: &claim, hold: &hold };
                let ended = job.outcome(&mut writer).await;
                writer.close();
                // Whoever waits for the end wants the whole log before it.
                let _ = delivery.await;
                ended
            }
            Err(e) => {
                Some(failed(Failure::infra(format!("the worker's scratch folder: {e}"))).into())
            }
        };
        tell_span(ended.as_ref().map(|ended| &ended.outcome));
        metrics::ended(ended.as_ref().map(|ended| &ended.outcome));
        let made = match &ended {
            Some(Ended { outcome: Outcome::Succeeded { artifact }, .. }) => Some(*artifact),
            _ => None,
        };
        if conclude(&calls, ended).await
            && let Some(to) = made
        {
            order_patches(worker, Order { to, bases: claim.bases.clone() });
        }
    };
    tokio::select! {
        () = ending => {}
        () = given_up(worker.drain.clone()) => {}
    }
    // Told or given up: a beat more would only meet a refusal while the folder is emptied.
    drop(beating);
    let folder = scratch.root.clone();
    // A folder that can't be emptied now is emptied before the next attempt.
    let _ = tokio::task::spawn_blocking(move || super::checkout::remove(&folder)).await;
}

fn tell_span(outcome: Option<&Outcome>) {
    let (word, status) = match outcome {
        Some(Outcome::Succeeded { .. }) => ("succeeded", "OK"),
        Some(Outcome::Failed { class, .. }) => (class.word(), "ERROR"),
        None => ("given up", "ERROR"),
    };
    tracing::Span::current().record("outcome", word).record("otel.status_code", status);
}

/// Resolves when a worker that stops has waited long enough for the coordinator.
/// Nothing else ends the telling: a lapsed lease may be ours still when the
/// coordinator comes back, and every call meets its answer then.
async fn given_up(mut drain: watch::Receiver<bool>) {
    let _ = drain.wait_for(|drain| *drain).await;
    tokio::time::sleep(GOODBYE).await;
    tracing::warn!("stopped before the coordinator could be told");
}

fn failed(failure: Failure) -> Outcome {
    Outcome::Failed { class: failure.class, reason: failure.reason }
}

/// Delivers the log, through the coordinator's absences, until its end or until
/// the coordinator takes no more of it.
async fn deliver(calls: api::Attempt, mut reader: LogReader) {
    loop {
        let (offset, text) = match reader.next().await {
            Ok(Some(next)) => next,
            Ok(None) => return,
            Err(error) => return tracing::warn!(%error, "the log can't be read back"),
        };
        if let Err(error) = persist(|| calls.log(offset, &text)).await {
            return tracing::warn!(%error, "the coordinator takes no more of the log");
        }
        reader.took(&text);
    }
}

/// Calls until there is an answer; only an answer of the coordinator ends it.
async fn persist<F>(call: impl Fn() -> F) -> Result<(), CallError>
where
    F: Future<Output = Result<(), CallError>>,
{
    let mut wait = RETRY_FIRST;
    loop {
        match call().await {
            Err(error) if error.is_transient() => {
                tracing::debug!(%error, "tried again later");
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(RETRY_LONGEST);
            }
            answered => return answered,
        }
    }
}

/// Has patches made beside the next builds; never waits.
fn order_patches(worker: &Worker, order: Order) {
    let Some(patches) = worker.patches.as_ref().filter(|_| !order.bases.is_empty()) else { return };
    if patches.try_send(order).is_err() {
        tracing::info!("too many builds wait for patches; this one gets none");
    }
}

/// Tells the coordinator: `None` hands the job back. Whether it took what was told.
async fn conclude(calls: &api::Attempt, ended: Option<Ended>) -> bool {
    let told = match &ended {
        Some(Ended { outcome, learnt }) => {
            persist(|| calls.finish(outcome.clone(), learnt.clone())).await
        }
        None => persist(|| calls.hand_back()).await,
    };
    let Err(error) = told else { return true };
    tracing::warn!(%error, "the coordinator did not take the outcome");
    let made = matches!(ended, Some(Ended { outcome: Outcome::Succeeded { .. }, .. }));
    if made && !is_fenced(&error) {
        let failure = Failure::infra(format!("the coordinator refused the artifact: {error}"));
        let _ = persist(|| calls.finish(failed(failure.clone()), Learnt::default())).await;
    }
    false
}

struct Attempt<'a> {
    worker: &'a Worker,
    scratch: &'a Scratch,
    claim: &'a Claim,
    hold: &'a Hold,
}

impl Attempt<'_> {
    /// The outcome to tell; `None` when the job is handed back or another's.
    async fn outcome(&self, log: &mut LogWriter) -> Option<Ended> {
        let halt = match self.artifact(log).await {
            Ok(ended) => return Some(ended),
            Err(halt) => halt,
        };
        match (halt, self.hold.standing()) {
            (Halt::Failed(failure), _) => {
                log.line(&format!("failed: {failure}"));
                tracing::info!(build = %self.claim.build, class = failure.class.word(), "failed");
                Some(failed(failure).into())
            }
            (Halt::Dropped, Standing::Canceled) => {
                log.line("canceled");
                Some(failed(Failure::canceled()).into())
            }
            (Halt::Dropped, _) => {
                log.line("given up: this worker stops, or lost its coordinator");
                None
            }
        }
    }

    async fn artifact(&self, log: &mut LogWriter) -> Result<Ended, Halt> {
        let (mut source, resolved) = self.checkout(log).instrument(step("checkout")).await?;
        let relatives = std::mem::take(&mut source.relatives);
        let learnt = Learnt { relatives, requires: resolved.requires.clone() };
        self.build(&source, &resolved, log).instrument(step("build")).await?;
        let begun = Instant::now();
        let (tree, packed, pack) = self.pack(&resolved, log).instrument(step("pack")).await?;
        let manifest = self.manifest(source, resolved, tree, packed);
        let publishing = publish::publish(&self.worker.blobs, &self.worker.key, &manifest, pack);
        let publishing = publishing.instrument(step("publish"));
        let artifact = self.unless_dropped(publishing).await?.map_err(|e| match e {
            PublishError::Manifest(e) => Failure::build(e),
            e => Failure::infra(format!("publishing: {e}")),
        })?;
        log.line(&format!("published {artifact}"));
        let publish_ms = begun.elapsed().as_millis() as u64;
        tracing::info!(build = %self.claim.build, %artifact, size = manifest.size, publish_ms, "published");
        Ok(Ended { outcome: Outcome::Succeeded { artifact }, learnt })
    }

    async fn unless_dropped<T>(&self, work: impl Future<Output = T>) -> Result<T, Halt> {
        tokio::select! {
            done = work => Ok(done),
            _ = self.hold.ended() => Err(Halt::Dropped),
        }
    }

    async fn checkout(&self, log: &mut LogWriter) -> Result<(Source, Resolved), Halt> {
        let claim = self.claim;
        if let Some((free, reserve)) = build::free_bytes(&self.scratch.root)
            && free < 2 * reserve
        {
            let why = format!("the worker's disk is full: {} MiB are free", free >> 20);
            return Err(Failure::infra(why).into());
        }
        let repo = without_credentials(&claim.repo);
        log.line(&format!("fetching {} from {repo}", claim.commit));
        let wanted = Wanted {
            repo: &claim.repo,
            trunk: &claim.trunk,
            commit: &claim.commit,
            allow_unmerged: claim.allow_unmerged,
            compare: &claim.compare,
        };
        let src = self.scratch.src();
        let source = self.unless_dropped(self.worker.mirrors.checkout(wanted, &src)).await??;
        let resolved = recipe::resolve(source.recipe.as_deref(), &claim.recipe)?;
        Ok((source, resolved))
    }

    async fn build(
        &self,
        source: &Source,
        resolved: &Resolved,
        log: &mut LogWriter,
    ) -> Result<(), Halt> {
        let (worker, spec) = (self.worker, &resolved.build);
        let env = build::environment(&worker.env, self.claim, &source.facts, self.scratch, spec);
        let build = Build {
            sandbox: &worker.sandbox,
            scratch: self.scratch,
            spec,
            env: &env,
            grace: worker.grace,
        };
        log.line(&format!("building: {}", spec.command));
        let cannot = |e| Failure::infra(format!("the build can't be started: {e}"));
        match build.run(self.hold, log).await.map_err(cannot)? {
            Built::Well => Ok(()),
            Built::Failed(failure) => Err(failure.into()),
            Built::Dropped => Err(Halt::Dropped),
        }
    }

    /// Packs what was built; its pack is in the store then, but for its name.
    async fn pack(
        &self,
        resolved: &Resolved,
        log: &mut LogWriter,
    ) -> Result<(Tree, Packed, Upload), Halt> {
        log.line(&format!("packing {}", resolved.build.artifact));
        let src = self.scratch.src();
        let begun = self.unless_dropped(begin(&self.worker.blobs)).await?;
        let mut upload = begun.map_err(|e| Failure::infra(format!("publishing: {e}")))?;
        let artifact = resolved.build.artifact.clone();
        let stop = StopOnDrop(Arc::new(AtomicBool::new(false)));
        let stopped = stop.0.clone();
        let packing = tokio::task::spawn_blocking(move || {
            let tree = walk::walk(&src, &artifact).map_err(Failure::build)?;
            let mut sink = |bytes: &[u8]| upload.write(bytes);
            let packed = pack::pack(&tree, &stopped, &mut sink).map_err(|e| match e {
                PackError::Changed { .. } | PackError::Read { .. } => Failure::build(e),
                PackError::Write(_) | PackError::Stopped => Failure::infra(e),
            })?;
            Ok::<_, Failure>((tree, packed, upload))
        });
        let gone = |_| Failure::infra("the packer ended without a word");
        let (tree, packed, upload) = self.unless_dropped(packing).await?.map_err(gone)??;
        let wire: u64 = packed.pieces.iter().map(|piece| u64::from(piece.wire_bytes)).sum();
        let (paths, pieces) = (tree.entries.len(), packed.pieces.len());
        let size = tree.size;
        log.line(&format!(
            "packed {paths} paths, {size} bytes, as {wire} bytes in {pieces} pieces"
        ));
        Ok((tree, packed, upload))
    }

    fn manifest(&self, source: Source, resolved: Resolved, tree: Tree, packed: Packed) -> Manifest {
        Manifest {
            v: MANIFEST_VERSION,
            app: self.claim.app.clone(),
            shape: tree.shape,
            entries: tree.entries,
            size: tree.size,
            piece_bytes: packed.piece_bytes,
            pieces: packed.pieces,
            run: resolved.run,
            provenance: Provenance {
                repo: without_credentials(&self.claim.repo),
                commit: self.claim.commit.clone(),
                tree: source.facts.tree,
                command: command_again(&resolved.build.command, self.claim.collected),
            },
        }
    }
}

/// Begins a pack in the store, where what killed workers left unfinished is swept first.
async fn begin(blobs: &Blobs) -> Result<Upload, BlobError> {
    match blobs.sweep().await {
        Ok(0) => {}
        Ok(removed) => tracing::info!(removed, "unfinished uploads of killed workers removed"),
        Err(error) => tracing::warn!(%error, "unfinished uploads not swept"),
    }
    blobs.upload().await
}

/// Tells a thread to stop when the future that waits for it is dropped.
struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
