//! Child processes that never outlive this one, never hang it and never fill it.
//!
//! Owns how a child is started, how its output is captured within bounds, and
//! how a whole process group is killed. Never decides what to run. Every child
//! is started from one thread that lives as long as the process: Linux sends
//! the parent-death signal when the *thread* that started a child ends, and
//! pool threads end when idle.

use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::OnceLock;
use std::sync::mpsc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdout, Command};

/// Most bytes of captured standard output: the names of half a million branches.
const STDOUT_BYTES_MAX: usize = 64 << 20;
/// What has the kernel kill a child when its parent dies.
const SETPRIV: &str = "setpriv";
/// What kills a group of processes.
const TIMEOUT: &str = "timeout";
/// Captured standard error keeps this many last bytes.
const STDERR_BYTES_MAX: usize = 16 << 10;

/// What a short-lived command said.
#[derive(Debug)]
pub struct Captured {
    /// Its exit code; 128 and the signal's number when a signal ended it.
    pub code: i32,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// The end of its standard error, at most 16 KiB.
    pub stderr: String,
}

/// Why a command brought no answer.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// It could not be started.
    #[error("{program} can't be started: {source}")]
    Spawn {
        /// The program.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// It ran into its limit and was killed.
    #[error("{program} ran longer than {} s and was killed", .limit.as_secs())]
    TimedOut {
        /// The program.
        program: String,
        /// The limit.
        limit: Duration,
    },
    /// Its output could not be read, or was over the bound.
    #[error("output of {program} can't be read: {source}")]
    Output {
        /// The program.
        program: String,
        /// Why.
        source: io::Error,
    },
}

/// A command that the kernel kills when this process dies (Linux with
/// util-linux; elsewhere a plain command), without a terminal's input.
#[must_use]
pub fn guarded(program: &str) -> Command {
    let mut command = if has_setpriv() {
        let mut command = Command::new(placed(SETPRIV));
        command.args(["--pdeathsig", "KILL", "--", program]);
        command
    } else {
        Command::new(placed(program))
    };
    command.stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// The same, and what the program started in its group is killed with it, at the latest
/// after `limit` (Linux with util-linux and GNU coreutils; elsewhere as [`guarded`]).
///
/// Whoever is killed can't kill others: `timeout`, which leads the group, is told by the
/// kernel. An alarm is to it as if the limit was reached.
#[must_use]
pub fn guarded_with_all(program: &str, limit: Duration) -> Command {
    if !has_timeout() {
        return guarded(program);
    }
    let mut command = Command::new(placed(SETPRIV));
    command.args(["--pdeathsig", "ALRM", "--"]).arg(placed(TIMEOUT));
    command.args(["--signal=KILL", &limit.as_secs().to_string(), program]);
    command.stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// Where `program` is on the path of this process, or its name. A command that has a place
/// is started without a copy of this process's memory, also when it is given a path of its own.
pub(crate) fn placed(program: &str) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let runs = |file: &PathBuf| {
        let found = std::fs::metadata(file);
        found.is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
    };
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places = std::env::split_paths(&path).filter(|folder| folder.is_absolute());
    let found = places.find_map(|folder| Some(folder.join(program)).filter(runs));
    found.unwrap_or_else(|| program.into())
}

/// Whether `setpriv --pdeathsig` works here; asked once.
pub(crate) fn has_setpriv() -> bool {
    static HAS: OnceLock<bool> = OnceLock::new();
    *HAS.get_or_init(|| succeeds(SETPRIV, &["--pdeathsig", "KILL", "--", "true"]))
}

/// Whether `timeout` kills its whole group at an alarm, as GNU's does; asked once.
fn has_timeout() -> bool {
    static HAS: OnceLock<bool> = OnceLock::new();
    let asked = || std::process::Command::new(TIMEOUT).arg("--version").output();
    let gnu = || asked().is_ok_and(|said| said.stdout.windows(3).any(|word| word == b"GNU"));
    *HAS.get_or_init(|| has_setpriv() && gnu())
}

/// Whether a command exits 0, for probing what the machine can do.
pub(crate) fn succeeds(program: &str, arguments: &[&str]) -> bool {
    let mut command = std::process::Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

type Start = Box<dyn FnOnce() + Send>;

/// Starts `command` from the thread that never ends.
///
/// # Errors
/// When the program can't be started.
pub async fn spawn(mut command: Command) -> io::Result<Child> {
    static NURSERY: OnceLock<mpsc::Sender<Start>> = OnceLock::new();
    let nursery = NURSERY.get_or_init(|| {
        let (sender, receiver) = mpsc::channel::<Start>();
        std::thread::spawn(move || receiver.into_iter().for_each(|start| start()));
        sender
    });
    let runtime = tokio::runtime::Handle::current();
    let (answer, child) = tokio::sync::oneshot::channel();
    let start = Box::new(move || {
        let _context = runtime.enter();
        // Nobody waits any more: the child is dropped, which kills it.
        let _ = answer.send(command.spawn());
    });
    let gone = || io::Error::other("the thread that starts children is gone");
    nursery.send(start).map_err(|_| gone())?;
    child.await.map_err(|_| gone())?
}

/// A process group that is killed when this guard is dropped armed.
pub(crate) struct Group(Option<Pid>);

impl Group {
    /// The group that `child` leads, or will lead in a moment.
    pub(crate) fn of(child: &Child) -> Self {
        Self(child.id().and_then(|id| Pid::from_raw(id.cast_signed())))
    }

    /// Sends `signal` to every process of the group.
    pub(crate) fn signal(&self, signal: Signal) {
        let Some(leader) = self.0 else { return };
        if kill_process_group(leader, signal).is_err() {
            // Not yet leader of its own group.
            let _ = kill_process(leader, signal);
        }
    }

    /// The leader is reaped: its number may soon be another's.
    pub(crate) fn disarm(&mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

/// Runs a command to its end in a process group of its own. Cancel-safe: the
/// group is killed when the future is dropped.
///
/// # Errors
/// [`ExecError`]; an exit code other than 0 is no error.
pub async fn capture(command: Command, limit: Duration) -> Result<Captured, ExecError> {
    let talk = |_: &mut Child| std::future::ready(());
    run(command, limit, talk, (read_all, false)).await
}

/// The same with `input` on its standard input, which it need not read. Of its standard
/// output only the first `most` bytes are kept. What it left in its group ends with it.
///
/// # Errors
/// As [`capture`].
pub async fn converse(
    mut command: Command,
    input: &[u8],
    limit: Duration,
    most: usize,
) -> Result<Captured, ExecError> {
    command.stdin(Stdio::piped());
    let talk = |child: &mut Child| {
        let stdin = child.stdin.take();
        async move {
            if let Some(mut stdin) = stdin {
                // Who does not want to know it closes it.
                let _ = stdin.write_all(input).await;
            }
        }
    };
    run(command, limit, talk, (|stdout| read_start(stdout, most), true)).await
}

async fn run<T: Future<Output = ()>, R: Future<Output = io::Result<Vec<u8>>>>(
    mut command: Command,
    limit: Duration,
    talk: impl FnOnce(&mut Child) -> T,
    (read, ends_all): (impl FnOnce(Option<ChildStdout>) -> R, bool),
) -> Result<Captured, ExecError> {
    let program = name_of(&command);
    command.process_group(0).stdout(Stdio::piped()).stderr(Stdio::piped());
    let spawned = spawn(command).await;
    let mut child =
        spawned.map_err(|source| ExecError::Spawn { program: program.clone(), source })?;
    let mut group = Group::of(&child);
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let talk = talk(&mut child);
    let leader = child.id().and_then(|id| Pid::from_raw(id.cast_signed())).filter(|_| ends_all);
    let ended = async {
        let status = child.wait().await;
        if let Some(leader) = leader {
            // Who still holds its output would be waited for until the limit.
            let _ = kill_process_group(leader, Signal::KILL);
        }
        status
    };
    let whole = async {
        let ((), stdout, stderr, status) =
            tokio::join!(talk, read(stdout), read_end(stderr), ended);
        Ok::<_, io::Error>((stdout?, stderr, status?))
    };
    match tokio::time::timeout(limit, whole).await {
        Ok(Ok((stdout, stderr, status))) => {
            group.disarm();
            Ok(Captured { code: code_of(status), stdout, stderr })
        }
        Ok(Err(source)) => Err(ExecError::Output { program, source }),
        Err(_) => Err(ExecError::TimedOut { program, limit }),
    }
}

/// An exit status as a shell would say it.
pub(crate) fn code_of(status: std::process::ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default())
}

fn name_of(command: &Command) -> String {
    let command = command.as_std();
    let text = |text: &std::ffi::OsStr| text.to_string_lossy().into_owned();
    if Path::new(command.get_program()).ends_with(SETPRIV) {
        // setpriv --pdeathsig KILL -- PROGRAM, or … -- timeout --signal=KILL LIMIT PROGRAM.
        let mut args = command.get_args().skip(3);
        let first = args.next().unwrap_or_default();
        let within = Path::new(first).ends_with(TIMEOUT).then(|| args.nth(2)).flatten();
        return text(within.unwrap_or(first));
    }
    text(command.get_program())
}

async fn read_all(from: Option<impl AsyncRead + Unpin>) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let Some(from) = from else { return Ok(bytes) };
    from.take(STDOUT_BYTES_MAX as u64 + 1).read_to_end(&mut bytes).await?;
    if bytes.len() > STDOUT_BYTES_MAX {
        return Err(io::Error::other(format!("it is over {STDOUT_BYTES_MAX} bytes")));
    }
    Ok(bytes)
}

async fn read_start(from: Option<impl AsyncRead + Unpin>, most: usize) -> io::Result<Vec<u8>> {
    let mut kept = Vec::new();
    let Some(mut from) = from else { return Ok(kept) };
    let mut buffer = vec![0; 4096];
    while let read @ 1.. = from.read(&mut buffer).await? {
        let room = most.saturating_sub(kept.len()).min(read);
        kept.extend_from_slice(&buffer[..room]);
    }
    Ok(kept)
}

async fn read_end(from: Option<impl AsyncRead + Unpin>) -> String {
    let mut kept: Vec<u8> = Vec::new();
    let Some(mut from) = from else { return String::new() };
    let mut buffer = vec![0; 4096];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        kept.extend_from_slice(&buffer[..read]);
        if kept.len() > 2 * STDERR_BYTES_MAX {
            kept.drain(..kept.len() - STDERR_BYTES_MAX);
        }
    }
    let start = kept.len().saturating_sub(STDERR_BYTES_MAX);
    String::from_utf8_lossy(&kept[start..]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Command {
        let mut command = guarded("sh");
        command.args(["-c", script]);
        command
    }

    #[tokio::test]
    async fn what_a_command_says_and_how_it_ends_is_captured() {
        let said = capture(sh("echo out; echo err >&2; exit 3"), Duration::from_secs(30)).await;
        let said = said.unwrap();
        assert_eq!(
            (said.code, said.stdout.as_slice(), said.stderr.as_str()),
            (3, &b"out\n"[..], "err\n")
        );
        let killed = capture(sh("kill -9 $$"), Duration::from_secs(30)).await.unwrap();
        assert_eq!(killed.code, 137);
    }

    #[tokio::test]
    async fn a_command_is_told_and_need_not_listen() {
        let limit = Duration::from_secs(30);
        let told = converse(sh("cat"), b"hello", limit, 4).await.unwrap();
        assert_eq!((told.code, told.stdout.as_slice()), (0, &b"hell"[..]));
        let much = vec![b'x'; 4 << 20];
        let deaf = converse(sh("exec <&-; echo no; exit 1"), &much, limit, 100).await.unwrap();
        assert_eq!((deaf.code, deaf.stdout.as_slice()), (1, &b"no\n"[..]));
        let leaves = converse(sh("sleep 60 & exit 1"), b"", limit, 100).await.unwrap();
        assert_eq!(leaves.code, 1, "it is not waited for who holds its output");
        let talks = converse(sh("yes | head -c 9000000"), b"", limit, 100).await.unwrap();
        assert_eq!((talks.code, talks.stdout.len()), (0, 100));
    }

    #[tokio::test]
    async fn a_command_guarded_with_all_it_starts_says_and_ends_as_its_own() {
        let limit = Duration::from_secs(30);
        for (script, code) in [("exit 2", 2), ("kill -9 $$", 137), ("exit 124", 124)] {
            let mut command = guarded_with_all("sh", limit);
            command.args(["-c", script]);
            assert_eq!(capture(command, limit).await.unwrap().code, code, "{script}");
        }
        let mut command = guarded_with_all("sleep", limit);
        command.arg("60");
        let late = capture(command, Duration::from_millis(100)).await.unwrap_err();
        assert_eq!(late.to_string(), "sleep ran longer than 0 s and was killed");
    }

    #[tokio::test]
    async fn a_command_past_its_limit_is_killed_with_its_children() {
        let script = "sleep 1000 & echo $!; wait";
        let limit = Duration::from_millis(300);
        let late = capture(sh(script), limit).await.unwrap_err();
        assert_eq!(late.to_string(), "sh ran longer than 0 s and was killed");
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_is_an_error() {
        let mut command = Command::new("/nonexistent/program");
        command.stdin(Stdio::null());
        let missing = capture(command, Duration::from_secs(5)).await.unwrap_err();
        assert!(matches!(missing, ExecError::Spawn { .. }), "{missing}");
    }

    #[tokio::test]
    async fn endless_standard_error_is_cut_to_its_end() {
        let said = capture(sh("seq 1 20000 >&2"), Duration::from_secs(30)).await.unwrap();
        assert!(said.stderr.len() <= STDERR_BYTES_MAX && said.stderr.ends_with("20000\n"));
    }
}
