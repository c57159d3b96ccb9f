//! An app's processes: its supervisor's controls, and commands that end by themselves.
//!
//! The supervisor is a process of its own (`agent::supervise`), known by the lock that
//! it holds for as long as it lives, so that an agent that was killed finds it again.
//! In an app's folder: `run.json` (what to run), `status.json` (how it goes),
//! `supervisor.lock` (who supervises).

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt;
use tokio::process::Command;
use tokio::time::Instant;

use crate::host::applog::AppLog;
use crate::host::fs;
use crate::model::digest::{ArtifactId, ConfigId};
use crate::model::time::UnixMillis;

/// How long a supervisor may take to start.
const START_LIMIT: Duration = Duration::from_secs(10);
/// How long a supervisor may take to stop: stop command, grace and kill, and some room.
const STOP_LIMIT: Duration = Duration::from_secs(60);
/// How often a file or a lock is looked at while waiting.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Most output of a command that is kept for its failure's reason, bytes.
const OUTPUT_BYTES_MAX: usize = 4096;

/// Reads of what is left in a pipe when its command has ended: a pipe holds 64 KiB.
const DRAIN_READS_MAX: u32 = 32;

/// What a supervisor runs: `run.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Which artifact.
    pub artifact: ArtifactId,
    /// With which configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<ConfigId>,
    /// Begins the app's log, such as `r12`.
    pub title: String,
    /// The release's folder: where commands run.
    pub folder: PathBuf,
    /// Starts the app, given to `sh -c`.
    pub start: String,
    /// Stops the app, given to `sh -c`.
    pub stop: Option<String>,
    /// The whole environment.
    pub env: BTreeMap<String, String>,
    /// While true, an exit is final: the release has not proved itself yet.
    pub probation: bool,
}

/// How a supervised app does: `status.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Which artifact.
    pub artifact: ArtifactId,
    /// What it does.
    pub state: State,
    /// The app's process while it runs.
    pub process: Option<Process>,
    /// Times it was started again.
    pub restarts: u32,
    /// How it ended last, such as `exit 3`; empty: it did not.
    pub last_exit: String,
    /// How long it had been up when it ended last, ms.
    #[serde(default)]
    pub last_up_ms: u64,
    /// When it was first started.
    pub started_at: UnixMillis,
}

impl Status {
    /// Whether it did not end since it was activated, or has been up again since then, in
    /// one stretch, for as long as is `needed` after it had been up for so long before.
    #[must_use]
    pub fn is_steady(&self, needed: impl Fn(Duration) -> Duration) -> bool {
        match (self.state, &self.process) {
            (State::Running, Some(process)) if self.restarts > 0 => {
                let last_up = Duration::from_millis(self.last_up_ms);
                process.age().is_some_and(|age| age >= needed(last_up))
            }
            // The supervisor tells of an exit only once all that was started is gone.
            (State::Running, Some(process)) => process.is_alive(),
            (State::Waiting, _) => false,
            _ => true,
        }
    }
}

/// What a supervised app does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Runs.
    Running,
    /// Ended, and will be started again.
    Waiting,
    /// Was stopped as asked.
    Stopped,
    /// Ended in probation.
    Ended,
    /// Ended too often: not started again.
    GaveUp,
}

/// A process, safe against its number being used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its number.
    pub pid: i32,
    /// When it started, in clock ticks since boot (`/proc/<pid>/stat`, field 22).
    pub ticks: u64,
}

impl Process {
    /// The process with this number now.
    #[must_use]
    pub fn find(pid: i32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let ticks = stat_fields(&stat)?.nth(19)?.parse().ok()?;
        Some(Self { pid, ticks })
    }

    /// Whether it is there still.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        Self::find(self.pid) == Some(*self)
    }

    /// How long it has been there; `None`: it is not there any more.
    ///
    /// By the clock since boot, which nobody sets.
    #[must_use]
    pub fn age(&self) -> Option<Duration> {
        if !self.is_alive() {
            return None;
        }
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let now = Duration::try_from(now).ok()?;
        let per_second = rustix::param::clock_ticks_per_second().max(1);
        let began = Duration::from_millis(self.ticks.saturating_mul(1000) / per_second);
        Some(now.saturating_sub(began))
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = Pid::from_raw(self.pid).filter(|_| self.is_alive()) {
            let _ = rustix::process::kill_process(pid, signal);
        }
    }

    fn kill_group(&self) {
        if let Some(pid) = Pid::from_raw(self.pid).filter(|_| self.is_alive()) {
            let _ = rustix::process::kill_process_group(pid, Signal::KILL);
        }
    }
}

/// The fields of a `/proc/<pid>/stat` after the command's name: state first.
#[must_use]
pub fn stat_fields(stat: &str) -> Option<std::str::SplitWhitespace<'_>> {
    // The name may hold spaces and parentheses: it ends at the last one.
    stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace())
}

/// The lock that a supervisor holds.
#[must_use]
pub fn lock_path(app_folder: &Path) -> PathBuf {
    app_folder.join("supervisor.lock")
}

/// The supervisor of the app in `app_folder`, if one lives.
#[must_use]
pub fn supervisor(app_folder: &Path) -> Option<Process> {
    let path = lock_path(app_folder);
    if !fs::is_locked(&path) {
        return None;
    }
    // Held, but not written yet: it has just begun.
    fs::read_json(&path).ok().flatten().or(Some(Process { pid: 0, ticks: 0 }))
}

/// How the app in `app_folder` does; `None` when it was never supervised.
#[must_use]
pub fn status(app_folder: &Path) -> Option<Status> {
    fs::read_json(&app_folder.join("status.json")).ok().flatten()
}

/// What the app in `app_folder` was last told to run.
#[must_use]
pub fn plan(app_folder: &Path) -> Option<Plan> {
    fs::read_json(&app_folder.join("run.json")).ok().flatten()
}

/// Writes what to run; the supervisor reads it at its start and at each exit of the app.
///
/// # Errors
/// When the folder is full or not writable.
pub fn write_plan(app_folder: &Path, plan: &Plan) -> io::Result<()> {
    fs::write_json(&app_folder.join("run.json"), plan)
}

/// Starts a supervisor for `plan`, detached, and waits until the app was started; does
/// nothing when one runs that very artifact with that very configuration. `program` is the agent's own binary.
///
/// # Errors
/// When the supervisor can't be started: a fault of the host, not of the app.
pub async fn start(program: &Path, app_folder: &Path, plan: &Plan) -> io::Result<()> {
    if supervisor(app_folder).is_some() {
        let same = status(app_folder).is_some_and(|status| status.artifact == plan.artifact);
        if same && self::plan(app_folder).is_some_and(|old| old.config == plan.config) {
            return write_plan(app_folder, plan);
        }
        stop(app_folder).await?;
    }
    kill_leftovers(app_folder);
    fs::remove_durable(&app_folder.join("status.json"))?;
    write_plan(app_folder, plan)?;
    let mut supervisor = Command::new(program)
        // `deployctl` plays the agent when it is called so (docs/decisions/0003).
        .arg0("deployctl-agent")
        .arg("supervise")
        .arg(app_folder)
        // It outlives whatever folder the agent was started in.
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let deadline = Instant::now() + START_LIMIT;
    while status(app_folder).is_none() {
        if let Some(exit) = supervisor.try_wait()? {
            return Err(io::Error::other(format!("the supervisor ended with {exit}")));
        }
        if Instant::now() > deadline {
            return Err(io::Error::other("the supervisor did not start in 10 s"));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    // Reaps it when it ends before this process does.
    tokio::spawn(async move { supervisor.wait().await });
    Ok(())
}

/// Stops the app in `app_folder` and its supervisor, with everything they started.
///
/// # Errors
/// When it lives on even after being killed.
pub async fn stop(app_folder: &Path) -> io::Result<()> {
    let begun = Instant::now();
    let (mut told, mut killed) = (false, false);
    while let Some(process) = supervisor(app_folder) {
        let after = begun.elapsed();
        if !told && process.pid != 0 {
            process.signal(Signal::TERM);
            told = true;
        }
        if after > STOP_LIMIT && !killed {
            process.signal(Signal::KILL);
            killed = true;
        }
        if after > STOP_LIMIT + START_LIMIT {
            return Err(io::Error::other("the supervisor can't be stopped"));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    kill_leftovers(app_folder);
    Ok(())
}

/// Kills what a supervisor that was itself killed left running.
fn kill_leftovers(app_folder: &Path) {
    if let Some(process) = status(app_folder).and_then(|status| status.process) {
        process.kill_group();
    }
}

/// A command that ends by itself.
#[derive(Debug, Clone, Copy)]
pub struct CommandSpec<'a> {
    /// Given to `sh -c`.
    pub script: &'a str,
    /// Where it runs.
    pub folder: &'a Path,
    /// Its whole environment.
    pub env: &'a BTreeMap<String, String>,
    /// How long it may take; then it is killed with its group.
    pub limit: Duration,
    /// Whether what it left in the background is killed also when it ended in time.
    pub alone: bool,
}

/// How a command ended that was started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandEnd {
    /// `None`: exit 0; else why not, such as `exit 3` or `no end within 60 s`.
    pub wrong: Option<String>,
    /// The last line of its output.
    pub last_line: String,
}

/// Runs a command to its end, its output into `log`. Cancelling kills it with its group.
///
/// # Errors
/// When it can't be started.
pub async fn run_to_end(
    spec: &CommandSpec<'_>,
    mut log: Option<&mut AppLog>,
) -> io::Result<CommandEnd> {
    let (reader, writer) = std::io::pipe()?;
    let mut command = shell(spec.script, spec.folder, spec.env);
    command.stdout(writer.try_clone()?).stderr(writer);
    let mut child = Command::from(command).kill_on_drop(true).spawn()?;
    let mut group = Group(child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)));
    let mut reader =
        tokio::net::unix::pipe::Receiver::from_owned_fd(std::os::fd::OwnedFd::from(reader))?;
    let (mut buffer, mut output) = ([0u8; 4096], Vec::new());
    let mut keep = |bytes: &[u8]| {
        if let Some(log) = log.as_mut() {
            log.write(bytes);
        }
        output.extend_from_slice(bytes);
        output.drain(..output.len().saturating_sub(OUTPUT_BYTES_MAX));
    };
    let end = tokio::time::timeout(spec.limit, async {
        let mut open = true;
        loop {
            tokio::select! {
                read = reader.read(&mut buffer), if open => match read {
                    Ok(1..) => keep(&buffer[..read?]),
                    _ => open = false,
                },
                exit = child.wait() => return exit,
            }
        }
    })
    .await;
    // What was written before the end is there to be read; what a background process
    // goes on writing is not waited for.
    for _ in 0..DRAIN_READS_MAX {
        match tokio::time::timeout(LOOK_EVERY, reader.read(&mut buffer)).await {
            Ok(Ok(count @ 1..)) => keep(&buffer[..count]),
            _ => break,
        }
    }
    let wrong = match end {
        Ok(exit) => {
            if !spec.alone {
                group.0 = None;
            }
            exit_text(exit?)
        }
        Err(_) => Some(format!("no end within {} s", spec.limit.as_secs())),
    };
    drop(group);
    let output = String::from_utf8_lossy(&output);
    let last_line = output.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("");
    Ok(CommandEnd { wrong, last_line: crate::host::applog::plain(last_line) })
}

/// `sh -c script` in `folder`, in a process group of its own, with nothing else than `env`.
#[must_use]
pub fn shell(script: &str, folder: &Path, env: &BTreeMap<String, String>) -> std::process::Command {
    use std::os::unix::process::CommandExt;
    let mut command = std::process::Command::new("/bin/sh");
    command.arg("-c").arg(script).current_dir(folder).env_clear().envs(env);
    command.stdin(Stdio::null()).process_group(0);
    command
}

fn exit_text(exit: std::process::ExitStatus) -> Option<String> {
    use std::os::unix::process::ExitStatusExt;
    match (exit.success(), exit.code(), exit.signal()) {
        (true, ..) => None,
        (_, Some(code), _) => Some(format!("exit {code}")),
        (_, _, signal) => Some(format!("signal {}", signal.unwrap_or(0))),
    }
}

/// Kills a process group when dropped.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(pid) = self.0 {
            let _ = rustix::process::kill_process_group(pid, Signal::KILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn run(script: &str, limit_ms: u64) -> CommandEnd {
        let (folder, env) = (std::env::temp_dir(), BTreeMap::from([("A".into(), "1".into())]));
        let limit = Duration::from_millis(limit_ms);
        let spec = CommandSpec { script, folder: &folder, env: &env, limit, alone: true };
        run_to_end(&spec, None).await.unwrap()
    }

    #[tokio::test]
    async fn a_command_tells_how_it_ended_and_what_it_said_last() {
        let end = run("echo one; echo two >&2; exit 3", 20_000).await;
        assert_eq!((end.wrong.as_deref(), end.last_line.as_str()), (Some("exit 3"), "two"));
        let end = run("env", 20_000).await;
        assert_eq!(end.wrong, None);
        assert_eq!(run("kill -9 $$", 20_000).await.wrong.as_deref(), Some("signal 9"));
        assert!(run("sleep 600 & sleep 600", 100).await.wrong.unwrap().starts_with("no end"));
        // A background process that keeps the pipe open does not hold the end up.
        assert_eq!(run("sleep 600 & echo done", 20_000).await.last_line, "done");
    }

    #[test]
    fn a_process_is_known_by_its_number_and_its_start() {
        let own = i32::try_from(std::process::id()).unwrap();
        let process = Process::find(own).unwrap();
        assert!(process.is_alive());
        assert!(!Process { ticks: process.ticks + 1, ..process }.is_alive());
        assert_eq!(Process::find(i32::MAX), None);
    }
}
