//! Runs the operator's programs that judge bakes, beside everything else: nothing waits
//! for them but the bake.
//!
//! Safe in many coordinators: a run is claimed in one transaction, and what it says counts
//! only while it is the newest of its program and the bake is the one that it was begun for.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use tokio::process::Command;
use tokio::task::JoinSet;

use crate::config::gates::Gate;
use crate::coordinator::state::{Coordinator, Shared};
use crate::coordinator::{steer, view};
use crate::host::exec::{self, guarded_with_all};
use crate::model::gate::{Bake, OUTPUT_BYTES_MAX, SAID_BYTES_MAX, Said};
use crate::model::id::{AppName, EnvName, GateName, ReleaseNo};
use crate::model::judged::GateWord;
use crate::model::rollout::RolloutKind;
use crate::model::time::UnixMillis;
use crate::rules::log::plain;
use crate::rules::rollout::Rollout;
use crate::store::db::events::NewEvent;
use crate::store::db::gate_runs::{self, Claim, Pace};
use crate::store::db::releases::{self, ReleaseRow};
use crate::store::db::{DbError, Topic, Tx, envs};

/// How often it is looked for runs that are due.
const EVERY: Duration = Duration::from_secs(1);
/// Programs at once, of all rollouts together; others wait.
const AT_ONCE: usize = 16;
/// How long a program may take to be found: less than [`LOST_AFTER`], as it is beside its limit.
const LOOK_MAX: Duration = Duration::from_secs(2);
/// A claimed run that has not ended so long after its limit is lost with its coordinator.
const LOST_AFTER: Duration = Duration::from_secs(5);
/// Most standard output that is read before the rest is dropped, bytes.
const STDOUT_BYTES_MAX: usize = 64 << 10;
/// Of this process's environment a program is given only this.
const ENVIRONMENT: &[&str] = &["PATH", "HOME", "LANG", "LC_ALL", "TZ"];

/// A run that this coordinator makes.
struct Run {
    claim: Claim,
    release: ReleaseNo,
    bake: Bake,
    gate: Gate,
    /// The rollout as the API shows it, JSON.
    document: Arc<[u8]>,
}

/// The programs that judge a deploy of an app to an env, by this coordinator's
/// configuration; a way back waits for none.
pub(super) fn wanted(
    shared: &Coordinator,
    kind: RolloutKind,
    (app, env): (&AppName, &EnvName),
) -> Vec<GateName> {
    let covers = |gate: &&Gate| kind == RolloutKind::Deploy && gate.covers(app, env);
    shared.config.gates.iter().filter(covers).map(|gate| gate.name.clone()).collect()
}

/// Runs until the coordinator stops; programs that run then are killed.
pub(super) async fn run(shared: Shared) {
    if shared.config.gates.is_empty() {
        return;
    }
    let mut changes = shared.db.watch(Topic::Rollouts);
    let mut stop = shared.stop.clone();
    let mut running = JoinSet::new();
    loop {
        changes.borrow_and_update();
        match claim(&shared, AT_ONCE.saturating_sub(running.len())).await {
            Ok(runs) => runs.into_iter().for_each(|run| {
                running.spawn(carry_out(shared.clone(), run));
            }),
            Err(error) => tracing::warn!(%error, "gates could not be looked at; tries again"),
        }
        tokio::select! {
            _ = changes.changed() => {}
            () = tokio::time::sleep(EVERY) => {}
            Some(_) = running.join_next() => {}
            _ = stop.wait_for(|stop| *stop) => break,
        }
    }
    while running.join_next().await.is_some() {}
}

/// Claims at most `room` runs that are due.
async fn claim(shared: &Shared, room: usize) -> Result<Vec<Run>, DbError> {
    if room == 0 {
        return Ok(vec![]);
    }
    let within = shared.clone();
    let due = shared.db.read(move |tx| due(tx, &within, room)).await?;
    if due.is_empty() {
        return Ok(vec![]);
    }
    let within = shared.clone();
    let take = move |tx: &mut Tx| {
        let mut runs = Vec::new();
        for Due { app, env, release, bake, gate, document } in due {
            let place = (&app, &env, &gate.name);
            // It may have ended since: its run must not take the place of a newer bake's.
            if !bakes(tx, (&app, &env, release), bake)? {
                continue;
            }
            if let Some(claim) = gate_runs::claim(tx, place, bake, pace(&within, &gate))? {
                runs.push(Run { claim, release, bake, gate, document });
            }
        }
        Ok::<_, DbError>(runs)
    };
    shared.db.write(take).await
}

/// A run that is to be made.
struct Due {
    app: AppName,
    env: EnvName,
    release: ReleaseNo,
    bake: Bake,
    gate: Gate,
    document: Arc<[u8]>,
}

/// At most `room` runs that are to be made now: first what has waited longest, so that with
/// more programs than may run at once each has its turn.
fn due(tx: &Tx, shared: &Coordinator, room: usize) -> Result<Vec<Due>, DbError> {
    let rows = releases::moving(tx)?;
    let mut waiting = Vec::new();
    for row in &rows {
        let (Some(bake), rollout) = (row.rollout.judged_bake(), &row.rollout) else { continue };
        let newest = gate_runs::newest(tx, &rollout.app, &rollout.env)?;
        for name in &rollout.gates {
            let Some(gate) = shared.config.gates.iter().find(|gate| gate.name == *name) else {
                continue;
            };
            let since = gate_runs::due_since(newest.get(name), bake, pace(shared, gate));
            waiting.extend(since.map(|since| (since, row, bake, gate)));
        }
    }
    waiting.sort_by_key(|(since, ..)| *since);
    waiting.truncate(room);
    let mut documents: BTreeMap<_, Arc<[u8]>> = BTreeMap::new();
    for (_, row, ..) in &waiting {
        let Rollout { app, env, .. } = &row.rollout;
        if let Entry::Vacant(free) = documents.entry((app, env)) {
            let shown = view::rollout(tx, shared, row)?;
            free.insert(serde_json::to_vec(&shown).expect("a rollout is plain JSON").into());
        }
    }
    let made = |(_, row, bake, gate): (UnixMillis, &ReleaseRow, Bake, &Gate)| {
        let Rollout { app, env, release, .. } = &row.rollout;
        let document = documents[&(app, env)].clone();
        let (app, env, gate) = (app.clone(), env.clone(), gate.clone());
        Due { app, env, release: *release, bake, gate, document }
    };
    Ok(waiting.into_iter().map(made).collect())
}

/// Whether a release is in this bake now.
fn bakes(
    tx: &Tx,
    (app, env, release): (&AppName, &EnvName, ReleaseNo),
    bake: Bake,
) -> Result<bool, DbError> {
    let row = releases::find(tx, app, env, release)?;
    Ok(row.is_some_and(|row| row.rollout.judged_bake() == Some(bake)))
}

fn pace(shared: &Coordinator, gate: &Gate) -> Pace {
    let now = shared.steady_now();
    Pace { now, every: gate.every(), until: now + gate.limit() + LOST_AFTER }
}

async fn carry_out(shared: Shared, run: Run) {
    let answer = tokio::select! {
        answer = ask(&shared, &run) => Some(answer),
        () = stopped(&shared) => None,
    };
    let Some((verdict, said, output)) = answer else {
        let back = shared.db.write(move |tx: &mut Tx| gate_runs::give_back(tx, &run.claim));
        if let Err(error) = back.await {
            tracing::warn!(%error, "a gate's run that was cut short is due only later");
        }
        return;
    };
    let at = shared.steady_now();
    let said = Said { verdict, said, output, at };
    let wrote = shared.db.write(move |tx: &mut Tx| take_down(tx, &run, said)).await;
    if let Err(error) = wrote {
        tracing::warn!(%error, "what a gate said could not be written");
    }
}

async fn stopped(shared: &Coordinator) {
    let mut stop = shared.stop.clone();
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Takes down what was said, and tells everybody when it is something else than before. Of
/// a bake that is over nobody wants to know any more.
fn take_down(tx: &mut Tx, run: &Run, said: Said) -> Result<(), DbError> {
    let Run { claim, release, bake, .. } = run;
    if !bakes(tx, (&claim.app, &claim.env, *release), *bake)? {
        return Ok(());
    }
    let Some((before, after)) = gate_runs::ended(tx, claim, said)? else { return Ok(()) };
    let words = |record: &crate::model::gate::Record| record.last.as_ref().map(|last| last.verdict);
    if let (Some(last), true) = (&after.last, words(&before) != words(&after)) {
        let message = format!(
            "{release} in {}: the gate {} says {}: {}",
            claim.env,
            claim.gate,
            last.verdict.word(),
            last.said
        );
        let event = NewEvent::new(last.at, "rollout.gate", steer::SELF, message);
        tx.event(&event.app(&claim.app).env(&claim.env).release(*release))?;
    }
    envs::stamp(tx, &claim.app, &claim.env)?;
    tx.touch(Topic::Rollouts);
    Ok(())
}

/// Runs a program: its verdict, one line of what it says, and its output.
async fn ask(shared: &Coordinator, run: &Run) -> (GateWord, String, String) {
    let unable = |why: String| (GateWord::Inconclusive, cut(&why, SAID_BYTES_MAX), String::new());
    let Some((program, arguments)) = run.gate.command.split_first() else {
        return unable("it has no command".into());
    };
    // Who starts it for us would say so with an exit code that is not the program's own.
    let found = tokio::time::timeout(LOOK_MAX, tokio::fs::metadata(program)).await;
    match found.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into())) {
        Ok(file) if file.is_file() && file.permissions().mode() & 0o111 != 0 => {}
        Ok(_) => return unable(format!("{program} is no program")),
        Err(error) => return unable(format!("{program}: {error}")),
    }
    let mut command = guarded_with_all(program, run.gate.limit() + LOST_AFTER);
    command.args(arguments).current_dir(&shared.config.data);
    surround(&mut command, run);
    let asked = exec::converse(command, &run.document, run.gate.limit(), STDOUT_BYTES_MAX).await;
    let captured = match asked {
        Ok(captured) => captured,
        Err(error) => return unable(error.to_string()),
    };
    let stdout = String::from_utf8_lossy(&captured.stdout);
    let (stdout, stderr) = (plain("", &stdout).0, plain("", &captured.stderr).0);
    let line = |text: &str| text.lines().map(str::trim).find(|l| !l.is_empty()).map(str::to_owned);
    let last = |text: &str| text.trim_end().lines().last().map(str::to_owned);
    let said = line(&stdout).or_else(|| last(&stderr));
    let said = said.filter(|said| !said.is_empty());
    let (verdict, said) = match captured.code {
        0 => (GateWord::Pass, said.unwrap_or_else(|| "exit 0".into())),
        1 => (GateWord::Fail, said.unwrap_or_else(|| "exit 1".into())),
        2 => (GateWord::Inconclusive, said.unwrap_or_else(|| "exit 2".into())),
        code if code > 128 => (GateWord::Inconclusive, format!("ended by signal {}", code - 128)),
        code => {
            let said = said.map_or_else(String::new, |said| format!(": {said}"));
            (GateWord::Inconclusive, format!("exit {code}, which means nothing{said}"))
        }
    };
    let output = format!("{}\n{}", stdout.trim_end(), stderr.trim_end());
    (verdict, cut(&said, SAID_BYTES_MAX), cut(output.trim(), OUTPUT_BYTES_MAX))
}

/// What it finds in its environment: little of ours, which may hold secrets.
fn surround(command: &mut Command, run: &Run) {
    command.env_clear();
    for name in ENVIRONMENT {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    let step = run.bake.step.to_string();
    let (release, generation) = (run.release.to_string(), run.bake.generation.to_string());
    let since = (run.bake.since.0 / 1000).to_string();
    command.envs([
        ("DEPLOYCTL_GATE", run.gate.name.as_str()),
        ("DEPLOYCTL_APP", run.claim.app.as_str()),
        ("DEPLOYCTL_ENV", run.claim.env.as_str()),
        ("DEPLOYCTL_RELEASE", &release),
        ("DEPLOYCTL_STEP", &step),
        ("DEPLOYCTL_GENERATION", &generation),
        ("DEPLOYCTL_BAKES_SINCE", &since),
    ]);
}

/// The beginning of `text`, in at most `most` bytes.
fn cut(text: &str, most: usize) -> String {
    text[..text.floor_char_boundary(most)].to_owned()
}
