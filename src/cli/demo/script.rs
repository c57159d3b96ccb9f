//! The demo's steps: commands run one after the other, each shown as it is typed.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use serde::Serialize;
use serde_json::Value;

use crate::cli::demo::fleet::Reach;
use crate::cli::output::Output;

/// Lines of a command's story that are told when it ends badly.
const SAID_LINES: usize = 20;

/// What one step did.
#[derive(Debug, Serialize)]
pub(crate) struct Step {
    /// What it shows.
    pub(crate) title: String,
    /// The command, as typed.
    pub(crate) command: String,
    /// How it ended.
    pub(crate) exit_code: i32,
    /// Wall time.
    pub(crate) seconds: f64,
    /// The command's own document (only with `-o json`).
    #[serde(skip_serializing_if = "Value::is_null")]
    pub(crate) result: Value,
}

/// Runs steps in one repository against one fleet.
pub(crate) struct Script {
    /// Who tells the story.
    pub(crate) out: Output,
    /// What the commands talk to.
    pub(crate) reach: Reach,
    /// Where they are typed.
    pub(crate) repository: PathBuf,
    /// What was done so far.
    pub(crate) steps: Vec<Step>,
    /// How many there will be.
    pub(crate) total: usize,
}

/// A step that ended in another way than it should.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ScriptError {
    /// A process or file of the demo's own failed.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The command ended with another code.
    #[error("`{command}` ended with {found}, not {wanted}{said}")]
    Code {
        /// What was typed.
        command: String,
        /// How it ended.
        found: i32,
        /// How it should have.
        wanted: i32,
        /// The end of what it said, where it was not shown.
        said: String,
    },
}

impl Script {
    /// Types `deployctl args…` and checks how it ends.
    pub(crate) fn step(
        &mut self,
        title: &str,
        args: &[&str],
        wanted: i32,
    ) -> Result<(), ScriptError> {
        let quoted =
            |arg: &&str| if arg.contains(' ') { format!("{arg:?}") } else { (*arg).to_owned() };
        let typed: Vec<String> = args.iter().map(quoted).collect();
        let command = format!("deployctl {}", typed.join(" "));
        let number = self.steps.len() + 1;
        self.out.story(&format!("\n{number}/{} {title}\n$ {command}", self.total));
        let began = Instant::now();
        let (found, result, said) = self.run(args)?;
        let seconds = (began.elapsed().as_secs_f64() * 10.0).round() / 10.0;
        self.out.story(&format!("  ({seconds} s)"));
        self.steps.push(Step {
            title: title.into(),
            command: command.clone(),
            exit_code: found,
            seconds,
            result,
        });
        if found == wanted {
            return Ok(());
        }
        Err(ScriptError::Code { command, found, wanted, said })
    }

    /// Its exit code, its document, and the end of what it said that nobody saw.
    fn run(&self, args: &[&str]) -> io::Result<(i32, Value, String)> {
        let mut command = deployctl(&self.reach, &self.repository)?;
        command.args(args);
        if !self.out.is_json() {
            let code = command.status()?.code().unwrap_or(-1);
            return Ok((code, Value::Null, String::new()));
        }
        let done = command.args(["-o", "json"]).output()?;
        let document = serde_json::from_slice(&done.stdout).unwrap_or(Value::Null);
        let story = String::from_utf8_lossy(&done.stderr);
        let last = story.lines().rev().take(SAID_LINES).collect::<Vec<_>>();
        let said = last.iter().rev().map(|line| format!("\n  {line}")).collect();
        Ok((done.status.code().unwrap_or(-1), document, said))
    }
}

/// `deployctl` as it is typed beside the fleet, in `folder`.
fn deployctl(reach: &Reach, folder: &Path) -> io::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command
        .current_dir(folder)
        .env("DEPLOYCTL_SERVER", &reach.server)
        .env("DEPLOYCTL_TOKEN_FILE", &reach.token_file)
        .stdin(Stdio::null());
    Ok(command)
}
