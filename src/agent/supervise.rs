//! The supervisor: one small process per running service, apart from the agent.
//!
//! `deployctl-agent supervise <app folder>`. It lives in its own session, so that
//! nothing that happens to the agent (stop, upgrade, kill -9) happens to the app. It
//! starts the app in a process group, writes its output to the log, starts it again
//! with growing waits, and gives up on a crash loop. On SIGTERM it ends everything it
//! started, then itself. Speaks to the agent only through the files of
//! [`crate::host::service`], and to no network at all.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc;
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitOptions, WaitStatus};
use tokio::signal::unix::{Signal as SignalStream, SignalKind, signal};
use tokio::time::Instant;

use crate::host::applog::AppLog;
use crate::host::service::{
    CommandSpec, Plan, Process, State, Status, lock_path, plan, run_to_end, shell, stat_fields,
};
use crate::host::{clock, fs};

/// Exits within `CRASH_WINDOW` after which the app is not started again.
pub const CRASHES_MAX: usize = 5;
/// See [`CRASHES_MAX`].
const CRASH_WINDOW: Duration = Duration::from_secs(60);
/// Wait before the first restart; doubles up to [`RESTART_WAIT_MAX`].
const RESTART_WAIT: Duration = Duration::from_millis(500);
/// Longest wait before a restart.
const RESTART_WAIT_MAX: Duration = Duration::from_secs(10);
/// How long the app may take to end after it was asked to [recipe: `RunSpec::stop`].
const GRACE: Duration = Duration::from_secs(10);
/// How long a stop command may take.
const STOP_COMMAND_LIMIT: Duration = Duration::from_secs(30);
/// How long killed processes may take to go.
const KILL_LIMIT: Duration = Duration::from_secs(5);
/// How long output that is on its way may take to reach the log.
const LOG_LIMIT: Duration = Duration::from_secs(1);
/// How long a lock that is only being looked at is waited for.
const LOCK_LIMIT: Duration = Duration::from_secs(2);

/// Supervises the app in `app_folder` until it is told to stop, or gives up.
#[must_use]
pub fn main(app_folder: &Path) -> ExitCode {
    // An error means that it leads a session already.
    let _ = rustix::process::setsid();
    let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime.and_then(|rt| rt.block_on(supervise(app_folder))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

async fn supervise(app_folder: &Path) -> std::io::Result<()> {
    let deadline = Instant::now() + LOCK_LIMIT;
    let held = loop {
        match fs::lock(&lock_path(app_folder))? {
            Some(lock) => break lock,
            None if Instant::now() > deadline => return Ok(()),
            None => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    };
    let own = Process::find(rustix::process::getpid().as_raw_nonzero().get());
    write_into(&held, &own)?;
    let Some(plan) = plan(app_folder) else {
        return Err(std::io::Error::other("there is nothing to supervise"));
    };
    let supervisor = Supervisor {
        folder: app_folder.to_owned(),
        status: Status {
            artifact: plan.artifact,
            state: State::Running,
            process: None,
            restarts: 0,
            last_exit: String::new(),
            last_up_ms: 0,
            started_at: clock::now(),
        },
        plan,
        term: signal(SignalKind::terminate())?,
        child: signal(SignalKind::child())?,
        crashes: vec![],
        untold: false,
    };
    supervisor.run().await;
    Ok(())
}

/// The lock's own file carries who holds it, so it is written in place.
fn write_into(mut lock: &std::fs::File, own: &Option<Process>) -> std::io::Result<()> {
    use std::io::Write;
    lock.set_len(0)?;
    lock.write_all(&serde_json::to_vec(own)?)
}

struct Supervisor {
    folder: PathBuf,
    plan: Plan,
    status: Status,
    term: SignalStream,
    child: SignalStream,
    crashes: Vec<Instant>,
    /// Whether the status on disk is older than the one here.
    untold: bool,
}

/// Why the app is not waited for any more.
enum Woken {
    Exit(String),
    Told,
}

impl Supervisor {
    async fn run(mut self) {
        loop {
            let woken = match self.start() {
                Ok((pid, log)) => {
                    self.tell(State::Running);
                    let began = Instant::now();
                    let woken = self.watch(pid).await;
                    let up = began.elapsed().as_millis();
                    self.status.last_up_ms = u64::try_from(up).unwrap_or(u64::MAX);
                    if matches!(woken, Woken::Told) {
                        self.stop(pid).await;
                    }
                    kill_all().await;
                    // The log is whole before anybody is told of the exit.
                    let _ = log.recv_timeout(LOG_LIMIT);
                    woken
                }
                Err(e) => Woken::Exit(format!("it could not be started: {e}")),
            };
            self.status.process = None;
            let Woken::Exit(exit) = woken else { return self.tell(State::Stopped) };
            self.status.last_exit = exit;
            if let Some(last) = self.last_state() {
                return self.tell(last);
            }
            self.tell(State::Waiting);
            if self.pause().await {
                return self.tell(State::Stopped);
            }
            self.status.restarts += 1;
        }
    }

    /// The state to end in after an exit; `None`: start again.
    fn last_state(&mut self) -> Option<State> {
        let now = Instant::now();
        self.crashes.retain(|at| now.duration_since(*at) < CRASH_WINDOW);
        self.crashes.push(now);
        // The agent ends the probation by rewriting the plan.
        if let Some(plan) = plan(&self.folder) {
            self.plan.probation = plan.probation;
        }
        if self.plan.probation {
            return Some(State::Ended);
        }
        (self.crashes.len() > CRASHES_MAX).then_some(State::GaveUp)
    }

    /// Starts the app; the channel closes when its output has ended and is written.
    fn start(&mut self) -> std::io::Result<(Pid, mpsc::Receiver<()>)> {
        let (mut reader, writer) = std::io::pipe()?;
        let mut command = shell(&self.plan.start, &self.plan.folder, &self.plan.env);
        command.stdout(writer.try_clone()?).stderr(writer);
        let pid = i32::try_from(command.spawn()?.id()).unwrap_or(0);
        drop(command);
        let (done, ended) = mpsc::channel();
        let folder = self.folder.join("log");
        let mark = format!("{} started at {}", self.plan.title, clock::now());
        std::thread::spawn(move || {
            let mut log = AppLog::open(&folder);
            log.mark(&mark);
            let mut buffer = [0; 8192];
            while let Ok(count @ 1..) = reader.read(&mut buffer) {
                log.write(&buffer[..count]);
            }
            drop(done);
        });
        self.status.process = Process::find(pid);
        let pid = Pid::from_raw(pid).ok_or_else(|| std::io::Error::other("no process number"))?;
        Ok((pid, ended))
    }

    async fn watch(&mut self, pid: Pid) -> Woken {
        loop {
            if let Some(exit) = reap(pid) {
                return Woken::Exit(exit);
            }
            tokio::select! {
                _ = self.child.recv() => {}
                // A signal may have been merged with an earlier one.
                () = tokio::time::sleep(Duration::from_secs(1)) => if self.untold {
                    self.tell(self.status.state);
                },
                _ = self.term.recv() => return Woken::Told,
            }
        }
    }

    async fn stop(&mut self, pid: Pid) {
        if let Some(script) = self.plan.stop.clone() {
            let (folder, env) = (self.plan.folder.clone(), self.plan.env.clone());
            let limit = STOP_COMMAND_LIMIT;
            let spec =
                CommandSpec { script: &script, folder: &folder, env: &env, limit, alone: true };
            let _ = run_to_end(&spec, None).await;
        } else {
            let _ = rustix::process::kill_process_group(pid, Signal::TERM);
        }
        let deadline = Instant::now() + GRACE;
        while Instant::now() < deadline && !reap_all() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits before the next start; true when told to stop meanwhile.
    async fn pause(&mut self) -> bool {
        let doublings = u32::try_from(self.crashes.len().saturating_sub(1)).unwrap_or(0).min(8);
        let wait = (RESTART_WAIT * 2u32.pow(doublings)).min(RESTART_WAIT_MAX);
        tokio::select! {
            () = tokio::time::sleep(wait) => false,
            _ = self.term.recv() => true,
        }
    }

    /// Says how it goes. A full disk must not end the one process that can stop the
    /// app: what could not be said is said again.
    fn tell(&mut self, state: State) {
        self.status.state = state;
        let said = fs::write_json_volatile(&self.folder.join("status.json"), &self.status);
        self.untold = said.is_err();
    }
}

/// Reaps whatever ended; how `pid` did, if it was among them.
fn reap(pid: Pid) -> Option<String> {
    loop {
        match rustix::process::wait(WaitOptions::NOHANG) {
            Ok(Some((ended, status))) if ended == pid => return Some(exit_text(status)),
            Ok(Some(_)) => {}
            Ok(None) => return None,
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return Some("it vanished".into()),
        }
    }
}

/// Reaps whatever ended; true when no child is left.
fn reap_all() -> bool {
    loop {
        match rustix::process::wait(WaitOptions::NOHANG) {
            Ok(Some(_)) | Err(rustix::io::Errno::INTR) => {}
            Ok(None) => return false,
            Err(_) => return true,
        }
    }
}

fn exit_text(status: WaitStatus) -> String {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => format!("exit {code}"),
        (_, Some(signal)) => format!("signal {signal}"),
        _ => "ended".into(),
    }
}

/// Kills everything that descends from this process. Orphans come to it, as it is
/// their subreaper, so nothing that the app forked into the background escapes.
async fn kill_all() {
    let deadline = Instant::now() + KILL_LIMIT;
    while !reap_all() && Instant::now() < deadline {
        for pid in descendants() {
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn descendants() -> Vec<Pid> {
    let own = rustix::process::getpid().as_raw_nonzero().get();
    let parent_of = |pid: i32| -> Option<i32> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat_fields(&stat)?.nth(1)?.parse().ok()
    };
    let names = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = names.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let links: Vec<(i32, i32)> = numbers.filter_map(|pid| Some((pid, parent_of(pid)?))).collect();
    let mut found = vec![own];
    let mut at = 0;
    while let Some(parent) = found.get(at).copied() {
        found.extend(links.iter().filter(|(_, up)| *up == parent).map(|(pid, _)| *pid));
        at += 1;
    }
    found[1..].iter().filter_map(|pid| Pid::from_raw(*pid)).collect()
}
