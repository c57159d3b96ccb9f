//! The demo's processes: started, waited for until ready, stopped without a trace.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// How long a process may take until it says `ready`.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// How long a process may take to stop before it is killed.
const STOP_WITHIN: Duration = Duration::from_secs(6);

/// Every process of one demo; stopped when dropped.
pub(crate) struct Processes {
    program: PathBuf,
    folder: PathBuf,
    running: Vec<Child>,
}

impl Processes {
    /// None yet; they will log to `<folder>/logs`.
    pub(crate) fn new(folder: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(folder.join("logs"))?;
        let program = std::env::current_exe()?;
        Ok(Self { program, folder: folder.to_owned(), running: Vec::new() })
    }

    /// Starts `deployctl args…` as `name` and returns what follows its `ready`.
    pub(crate) fn start(&mut self, name: &str, args: &[String]) -> io::Result<String> {
        let log = self.folder.join("logs").join(format!("{name}.log"));
        let mut child = Command::new(&self.program)
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(&log)?)
            .env("DEPLOYCTL_LOG", "info")
            // Ctrl-C is for the demo itself, which stops them in order.
            .process_group(0)
            .spawn()?;
        let stdout = child.stdout.take();
        self.running.push(child);
        let ready = stdout.and_then(first_line).filter(|line| line.starts_with("ready "));
        let line = ready.ok_or_else(|| {
            let tail = std::fs::read_to_string(&log).unwrap_or_default();
            let last: Vec<&str> = tail.lines().rev().take(5).collect();
            let last: Vec<&str> = last.into_iter().rev().collect();
            io::Error::other(format!("{name} did not become ready: {}", last.join(" | ")))
        })?;
        Ok(line["ready ".len()..].trim().to_owned())
    }

    /// How many were started.
    pub(crate) fn count(&self) -> usize {
        self.running.len()
    }

    /// Forgets the processes, which go on after this one ends.
    pub(crate) fn keep(mut self) {
        self.running.clear();
        self.folder = PathBuf::new();
    }

    /// Stops everything, also the apps that agents started.
    fn stop(&mut self) {
        if self.folder.as_os_str().is_empty() {
            return;
        }
        // Agents first, so that nothing restarts what is swept after.
        for child in self.running.iter_mut().rev() {
            signal(child.id(), Signal::TERM);
        }
        let deadline = Instant::now() + STOP_WITHIN;
        for child in &mut self.running {
            while matches!(child.try_wait(), Ok(None)) && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(20));
            }
            let _ = child.kill();
            let _ = child.wait();
        }
        sweep(&self.folder);
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        self.stop();
    }
}

fn first_line(stdout: impl io::Read + Send + 'static) -> Option<String> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut lines = BufReader::new(stdout);
        let mut line = String::new();
        let _ = lines.read_line(&mut line);
        let _ = sender.send(line);
        // Keeps the pipe open, so that a later line is no error to its writer.
        let _ = io::copy(&mut lines, &mut io::sink());
    });
    receiver.recv_timeout(READY_WITHIN).ok()
}

fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // It may have ended by itself.
        let _ = kill_process(pid, signal);
    }
}

/// Ends every process that works in `folder` or was started from it.
fn sweep(folder: &Path) {
    for (kind, patience) in [(Signal::TERM, 2000), (Signal::KILL, 1000)] {
        let deadline = Instant::now() + Duration::from_millis(patience);
        processes_under(folder).into_iter().for_each(|pid| signal(pid, kind));
        while !processes_under(folder).is_empty() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Processes with their working folder, or a path on their command line, under `folder`.
fn processes_under(folder: &Path) -> Vec<u32> {
    let own = std::process::id();
    let name = folder.as_os_str().as_encoded_bytes();
    let under = |pid: &u32| {
        let proc = PathBuf::from(format!("/proc/{pid}"));
        let cwd = std::fs::read_link(proc.join("cwd")).is_ok_and(|cwd| cwd.starts_with(folder));
        let line = std::fs::read(proc.join("cmdline")).unwrap_or_default();
        let alive = !line.is_empty();
        alive && (cwd || line.windows(name.len()).any(|part| part == name))
    };
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| *pid != own).filter(under).collect()
}
