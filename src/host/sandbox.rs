//! Runs a stranger's command and leaves no process of it behind.
//!
//! Owns the walls that this machine allows, best first: a PID namespace whose
//! end the kernel turns into the end of everything in it (`unshare
//! --kill-child`), else a session of its own, else a process group. On top,
//! every process is found by a mark in its environment and killed, so that
//! what a session misses (a double fork with `setsid`) ends too. The command
//! gets an empty standard input, no terminal, and one pipe for both outputs.
//! Never limits what files the command reads: it runs as this process' user.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;
use tokio::process::{Child, Command};

use crate::host::exec::{self, Group};

/// The variable that marks every process of a build.
pub const MARK: &str = "DEPLOYCTL_SCRATCH";
/// The first process of a namespace: outlives a TERM to its group, and is not
/// the build itself, because the kernel shields process 1 from signals.
const FIRST: &str = "trap : TERM INT HUP; /bin/sh -c \"$1\"; exit $?";
/// How long killed processes may take to go: only a disk that hangs takes longer.
const DEATH: Duration = Duration::from_secs(10);

/// How strong the walls are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// A PID and mount namespace: the kernel ends everything in it.
    Namespace,
    /// A session and a mark in the environment.
    Session,
}

/// The way commands are run on this machine.
#[derive(Debug, Clone)]
pub struct Sandbox {
    wrap: Vec<String>,
    level: Level,
}

/// A command to run, and where.
#[derive(Debug)]
pub struct Program<'a> {
    /// Given to `/bin/sh -c`.
    pub command: &'a str,
    /// The working folder.
    pub folder: &'a Path,
    /// The whole environment; nothing is inherited.
    pub env: &'a BTreeMap<String, String>,
    /// Value of [`MARK`]; unique among the programs that run.
    pub mark: &'a str,
    /// Wall time until it is stopped.
    pub limit: Duration,
    /// Time between TERM and KILL.
    pub grace: Duration,
}

/// How a program is to be stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// TERM, the grace, KILL.
    Gently,
    /// KILL.
    AtOnce,
}

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// By itself, with this code (128 and the number of a signal).
    Exited(i32),
    /// It ran into its limit.
    TimedOut,
    /// It was stopped.
    Stopped,
}

impl Sandbox {
    /// The strongest walls that this machine allows; tries them out.
    #[must_use]
    pub fn detect() -> Self {
        let user = format!("--map-user={}", rustix::process::getuid().as_raw());
        let group = format!("--map-group={}", rustix::process::getgid().as_raw());
        let life = ["setpriv", "--pdeathsig", "KILL", "setsid"];
        let root = ["unshare", "--mount", "--pid", "--fork", "--kill-child=KILL", "--mount-proc"];
        let namespaces: [Vec<&str>; 2] = [
            [&life[..], &root[..]].concat(),
            [&life[..], &["unshare", "--user", &user, &group], &root[1..]].concat(),
        ];
        let works = |wrap: &[&str]| exec::succeeds(wrap[0], &[&wrap[1..], &["true"]].concat());
        let owned = |wrap: &[&str]| wrap.iter().map(|word| (*word).to_owned()).collect();
        if let Some(wrap) = namespaces.iter().find(|wrap| works(wrap)) {
            return Self { wrap: owned(wrap), level: Level::Namespace };
        }
        Self::session()
    }

    /// Walls without namespaces.
    #[must_use]
    pub fn session() -> Self {
        let wraps: [&[&str]; 3] = [&["setpriv", "--pdeathsig", "KILL", "setsid"], &["setsid"], &[]];
        let works = |wrap: &[&str]| {
            wrap.split_first()
                .is_none_or(|(first, rest)| exec::succeeds(first, &[rest, &["true"]].concat()))
        };
        let wrap = wraps.into_iter().find(|wrap| works(wrap)).unwrap_or_default();
        let wrap = wrap.iter().map(|word| (*word).to_owned()).collect();
        Self { wrap, level: Level::Session }
    }

    /// How strong these walls are.
    #[must_use]
    pub fn level(&self) -> Level {
        self.level
    }

    /// Runs `program` until it ends, its limit or `stop`, whichever is first, and
    /// returns when no process of it lives. `output` gets both outputs as they come
    /// and must not block for long. Dropping the future kills everything too, save
    /// for what only the mark would find.
    ///
    /// # Errors
    /// When it can't be started.
    pub async fn run(
        &self,
        program: &Program<'_>,
        stop: impl Future<Output = Stop>,
        output: impl FnMut(&[u8]),
    ) -> io::Result<End> {
        let (reader, writer) = io::pipe()?;
        let child = exec::spawn(self.command(program, writer)?).await?;
        let mut running = Running {
            group: Group::of(&child),
            child,
            pipe: Some(Receiver::from_owned_fd(OwnedFd::from(reader))?),
            output,
        };
        let limit = tokio::time::sleep(program.limit);
        let end = tokio::select! {
            code = running.wait() => End::Exited(code?),
            () = limit => running.stop(Stop::Gently, program.grace, End::TimedOut).await?,
            how = stop => running.stop(how, program.grace, End::Stopped).await?,
        };
        // With the first process of a namespace that ended, the kernel has ended all others.
        if self.level != Level::Namespace || !matches!(end, End::Exited(0..128)) {
            sweep(program.mark).await;
        }
        running.drain().await;
        Ok(end)
    }

    fn command(&self, program: &Program<'_>, writer: io::PipeWriter) -> io::Result<Command> {
        let first: [&str; 5] = match self.level {
            Level::Namespace => ["/bin/sh", "-c", FIRST, "build", program.command],
            Level::Session => ["/bin/sh", "-c", program.command, "", ""],
        };
        let first = &first[..if self.level == Level::Namespace { 5 } else { 3 }];
        let mut words = self.wrap.iter().map(String::as_str).chain(first.iter().copied());
        let mut command = Command::new(exec::placed(words.next().unwrap_or("/bin/sh")));
        command.args(words).current_dir(program.folder).env_clear().envs(program.env);
        command.env(MARK, program.mark);
        command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
        if self.wrap.is_empty() {
            // With setsid in the wrap this would make setsid fork.
            command.process_group(0);
        }
        command.kill_on_drop(true);
        Ok(command)
    }
}

struct Running<F> {
    // Dropped first: the group is killed before the child is reaped.
    group: Group,
    child: Child,
    /// `None` after its end.
    pipe: Option<Receiver>,
    output: F,
}

impl<F: FnMut(&[u8])> Running<F> {
    /// Passes output on until the program ends; its exit code. Cancel-safe.
    async fn wait(&mut self) -> io::Result<i32> {
        let mut buffer = vec![0; 64 << 10];
        loop {
            tokio::select! {
                status = self.child.wait() => return Ok(exec::code_of(status?)),
                () = pass_on(&mut self.pipe, &mut self.output, &mut buffer) => {}
            }
        }
    }

    async fn stop(&mut self, how: Stop, grace: Duration, end: End) -> io::Result<End> {
        if how == Stop::Gently {
            self.group.signal(Signal::TERM);
            if tokio::time::timeout(grace, self.wait()).await.is_ok() {
                return Ok(end);
            }
        }
        self.group.signal(Signal::KILL);
        self.wait().await.map(|_| end)
    }

    /// The last of the output. Bounded in time: who holds the pipe open now is
    /// none of ours, or can't be killed.
    async fn drain(&mut self) {
        self.group.disarm();
        let mut buffer = vec![0; 64 << 10];
        let rest = async {
            while self.pipe.is_some() {
                pass_on(&mut self.pipe, &mut self.output, &mut buffer).await;
            }
        };
        let _ = tokio::time::timeout(Duration::from_secs(1), rest).await;
    }
}

async fn pass_on(pipe: &mut Option<Receiver>, output: &mut impl FnMut(&[u8]), buffer: &mut [u8]) {
    let Some(open) = pipe else { return std::future::pending().await };
    match open.read(buffer).await {
        Ok(read @ 1..) => output(&buffer[..read]),
        Ok(0) | Err(_) => *pipe = None,
    }
}

/// Kills every process that carries `mark`, or a mark below it as a folder, until
/// none is left; gives up after 10 s. Does nothing where there is no `/proc`.
pub async fn sweep(mark: &str) {
    let until = tokio::time::Instant::now() + DEATH;
    while kill_marked(mark) > 0 {
        if tokio::time::Instant::now() > until {
            tracing::warn!(mark, "processes of a build do not die");
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn kill_marked(mark: &str) -> usize {
    let Ok(processes) = std::fs::read_dir("/proc") else { return 0 };
    let carries = |pid: &i32| {
        std::fs::read(format!("/proc/{pid}/environ")).is_ok_and(|env| is_marked(&env, mark))
    };
    let own = std::process::id().cast_signed();
    let ids = processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let marked = ids.filter(|pid| *pid != own && carries(pid)).filter_map(Pid::from_raw);
    marked.filter(|pid| kill_process(*pid, Signal::KILL).is_ok()).count()
}

fn is_marked(environ: &[u8], mark: &str) -> bool {
    let marks = environ.split(|b| *b == 0).filter_map(|variable| {
        variable.strip_prefix(MARK.as_bytes())?.strip_prefix(b"=")?.strip_prefix(mark.as_bytes())
    });
    marks.into_iter().any(|rest| rest.is_empty() || rest.starts_with(b"/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Ran {
        end: End,
        output: String,
        mark: String,
    }

    async fn run(sandbox: &Sandbox, command: &str, limit_ms: u64, stop: Option<Stop>) -> Ran {
        let folder = tempfile::tempdir().unwrap();
        let mark = folder.path().display().to_string();
        let env = BTreeMap::from([("PATH".to_owned(), std::env::var("PATH").unwrap())]);
        let program = Program {
            command,
            folder: folder.path(),
            env: &env,
            mark: &mark,
            limit: Duration::from_millis(limit_ms),
            grace: Duration::from_millis(200),
        };
        let mut output = Vec::new();
        let stop = async {
            match stop {
                Some(how) => {
                    while !folder.path().join("up").exists() {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                    how
                }
                None => std::future::pending().await,
            }
        };
        let end = sandbox.run(&program, stop, |bytes| output.extend_from_slice(bytes)).await;
        let output = String::from_utf8(output).unwrap();
        Ran { end: end.unwrap(), output, mark }
    }

    fn walls() -> Vec<Sandbox> {
        vec![Sandbox::detect(), Sandbox::session()]
    }

    fn survivors(mark: &str) -> usize {
        let environ = |entry: std::fs::DirEntry| std::fs::read(entry.path().join("environ")).ok();
        let all = std::fs::read_dir("/proc").unwrap().flatten().filter_map(environ);
        all.filter(|env| is_marked(env, mark)).count()
    }

    #[tokio::test]
    async fn a_program_runs_with_only_its_environment_and_no_input() {
        for sandbox in walls() {
            let ran = run(&sandbox, "cat; env | sort | cut -d= -f1; exit 7", 60_000, None).await;
            assert_eq!(ran.end, End::Exited(7));
            let extra: Vec<&str> = ran
                .output
                .lines()
                .filter(|name| {
                    !["DEPLOYCTL_SCRATCH", "PATH", "PWD", "_", "SHLVL", "OLDPWD"].contains(name)
                })
                .collect();
            assert!(extra.is_empty(), "{extra:?}");
        }
    }

    #[tokio::test]
    async fn what_a_program_left_in_the_background_ends_with_it() {
        let script = "(setsid sh -c 'setsid sleep 1000 & sleep 1000' &) ; sleep 1000 & echo done";
        for sandbox in walls() {
            let ran = run(&sandbox, script, 60_000, None).await;
            assert_eq!((ran.end, ran.output.as_str()), (End::Exited(0), "done\n"));
            assert_eq!(survivors(&ran.mark), 0, "{:?}", sandbox.level());
        }
    }

    #[tokio::test]
    async fn a_program_past_its_limit_is_killed_though_it_ignores_term() {
        let script = "trap '' TERM; setsid sleep 1000 & while :; do sleep 1; done";
        for sandbox in walls() {
            let ran = run(&sandbox, script, 300, None).await;
            assert_eq!(ran.end, End::TimedOut);
            assert_eq!(survivors(&ran.mark), 0, "{:?}", sandbox.level());
        }
    }

    #[tokio::test]
    async fn a_program_may_say_goodbye_when_stopped_gently() {
        let script = "trap 'echo bye; exit 1' TERM; touch up; while :; do sleep 0.05; done";
        for sandbox in walls() {
            let ran = run(&sandbox, script, 60_000, Some(Stop::Gently)).await;
            // The shell may tell first that its sleep was terminated.
            assert!(ran.end == End::Stopped && ran.output.ends_with("bye\n"), "{}", ran.output);
            let ran = run(&sandbox, script, 60_000, Some(Stop::AtOnce)).await;
            assert_eq!((ran.end, ran.output.as_str()), (End::Stopped, ""));
        }
    }

    #[tokio::test]
    async fn all_output_comes_through() {
        for sandbox in walls() {
            let ran = run(&sandbox, "seq 1 50000; seq 1 10 >&2", 60_000, None).await;
            assert_eq!(ran.output.lines().count(), 50_010);
        }
    }

    #[test]
    fn a_mark_is_itself_and_what_is_below_it() {
        let environ = b"A=1\0DEPLOYCTL_SCRATCH=/w/slots/1\0B=2\0";
        assert!(is_marked(environ, "/w/slots/1") && is_marked(environ, "/w/slots"));
        assert!(!is_marked(environ, "/w/slots/10") && !is_marked(environ, "/w/slo"));
    }
}
