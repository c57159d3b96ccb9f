//! What a command is about: which coordinator, which app, which env.
//!
//! Precedence: flag, environment, project file. Every failure says the ways to say it.
//! Holds no state but the words for an interruption.

use std::cell::RefCell;
use std::path::PathBuf;

use super::args::GlobalArgs;
use super::discover::{self, Endpoint, Said, variable};
use super::failure::{ExitCode, Failure};
use super::output::{Format, Output};
use super::project::Project;
use super::typed;
use crate::config::project::{Head, ProjectFile};
use crate::host::repo::Repo;
use crate::model::id::{AppName, EnvName};
use crate::net::client::Client;

/// Everything that a command needs to know of its surroundings.
pub struct Context {
    /// The flags of every command.
    pub flags: GlobalArgs,
    /// Where to print.
    pub out: Output,
    /// The folder to work in.
    pub dir: PathBuf,
    /// The project file.
    pub project: Project,
    /// What to say when the person interrupts: what goes on without us.
    detach_words: RefCell<Vec<String>>,
}

impl Context {
    /// Surroundings as the flags, the environment and the files say.
    ///
    /// # Errors
    /// When a folder or a variable is not valid.
    pub fn new(flags: GlobalArgs) -> Result<Self, Failure> {
        let dir = match &flags.directory {
            Some(dir) => std::path::absolute(dir),
            None => std::env::current_dir(),
        };
        let dir = dir.map_err(|e| Failure::usage("the folder can't be read").because(e))?;
        if !dir.is_dir() {
            return Err(Failure::usage(format!("{} is not a folder", dir.display())));
        }
        let out = Output::new(format(&flags)?, flags.color, flags.quiet, flags.verbose);
        let project = Project::find(&dir);
        Ok(Self { flags, out, dir, project, detach_words: RefCell::default() })
    }

    /// The app that the command is about.
    ///
    /// # Errors
    /// Exit code 2, with the three ways to say it.
    pub fn app(&self) -> Result<AppName, Failure> {
        let said = self.app_if_said()?;
        // Nobody says it: the file that would have may be one that can't be read.
        if said.is_none() {
            self.head_or_flags()?;
        }
        said.ok_or_else(|| {
            Failure::usage("which app?")
                .because("no --app, no DEPLOYCTL_APP, and no deployctl.toml with `app` from here upwards")
                .hint("say it: --app NAME (deployctl apps lists them)")
                .hint("or: export DEPLOYCTL_APP=NAME")
                .hint("or write a project file: deployctl init")
        })
    }

    /// The app that the command is about, if anything says so.
    ///
    /// # Errors
    /// When the environment holds something that is no name.
    pub fn app_if_said(&self) -> Result<Option<AppName>, Failure> {
        if let Some(app) = &self.flags.app {
            return Ok(Some(app.clone()));
        }
        if let Some(app) = variable("DEPLOYCTL_APP") {
            return app.parse().map(Some).map_err(|e| in_variable("DEPLOYCTL_APP", e));
        }
        Ok(self.project.head_if_any(&self.out).app)
    }

    /// The env that the command is about; `prod` when nothing says otherwise.
    ///
    /// # Errors
    /// When the environment holds something that is no name, or the project file can't be
    /// read.
    pub fn env(&self) -> Result<EnvName, Failure> {
        match self.env_if_said()? {
            Some(env) => Ok(env),
            // Never the default in place of a word that could not be read.
            None => Ok(self.head_or_flags()?.env.unwrap_or_else(usual_env)),
        }
    }

    /// The env, by a project file that was just written or read.
    ///
    /// # Errors
    /// When the environment holds something that is no name.
    pub fn env_by(&self, file: &ProjectFile) -> Result<EnvName, Failure> {
        Ok(self.env_if_said()?.or_else(|| file.env.clone()).unwrap_or_else(usual_env))
    }

    /// The env, if a flag or a variable says so.
    ///
    /// # Errors
    /// When the environment holds something that is no name.
    fn env_if_said(&self) -> Result<Option<EnvName>, Failure> {
        if let Some(env) = &self.flags.env {
            return Ok(Some(env.clone()));
        }
        if let Some(env) = variable("DEPLOYCTL_ENV") {
            return env.parse().map(Some).map_err(|e| in_variable("DEPLOYCTL_ENV", e));
        }
        Ok(None)
    }

    /// What the project file says of the place; for one that can't be read, the flags that
    /// say it.
    fn head_or_flags(&self) -> Result<Head, Failure> {
        self.project.head(&self.out).map_err(|failure| {
            let app = self.flags.app.is_some() || variable("DEPLOYCTL_APP").is_some();
            let env = self.flags.env.is_some() || variable("DEPLOYCTL_ENV").is_some();
            let flags = match (app, env) {
                (false, false) => "-a APP -e ENV",
                (false, true) => "-a APP",
                (true, _) => "-e ENV",
            };
            failure.hint(format!("without the file: {}", typed::with(flags)))
        })
    }

    /// The local git repository.
    ///
    /// # Errors
    /// When the folder is in none.
    pub fn repo(&self) -> Result<Repo, Failure> {
        Ok(Repo::discover(&self.dir)?)
    }

    /// A client of the coordinator.
    ///
    /// # Errors
    /// Exit code 5 when nothing says where it is, 4 when nothing gives a token.
    pub fn client(&self) -> Result<Client, Failure> {
        let endpoint = self.endpoint()?;
        if endpoint.token.is_none() {
            return Err(Failure::new(ExitCode::Auth, format!("no token for {}", endpoint.server))
                .hint("sign in: deployctl auth login")
                .hint("or say it: --token-file FILE")
                .hint("or: export DEPLOYCTL_TOKEN_FILE=FILE"));
        }
        endpoint.client()
    }

    /// Where the coordinator is and the token for it.
    ///
    /// # Errors
    /// As [`Context::client`], and when a file that was named can't be read.
    pub fn endpoint(&self) -> Result<Endpoint, Failure> {
        let said = self.said();
        if !discover::is_told(&said) {
            self.project.check_server(&self.out).map_err(|failure| {
                failure.hint(format!("without the file: {}", typed::with("--server URL")))
            })?;
        }
        discover::endpoint(&said)
    }

    /// What flags and the project file say of the coordinator.
    #[must_use]
    pub fn said(&self) -> Said {
        let project = self.project.head_if_any(&self.out).server;
        Said {
            context: self.flags.context.clone(),
            server: self.flags.server.clone(),
            token_file: self.flags.token_file.clone(),
            ca: self.flags.ca.clone(),
            project,
        }
    }

    /// What to say if the person interrupts from now on.
    pub fn on_interrupt(&self, lines: impl IntoIterator<Item = String>) {
        *self.detach_words.borrow_mut() = lines.into_iter().collect();
    }

    /// How the command ends when it was interrupted.
    #[must_use]
    pub fn interrupted(&self) -> Failure {
        let lines = self.detach_words.borrow();
        let mut failure = Failure::new(ExitCode::Interrupted, "interrupted");
        if let Some((first, rest)) = lines.split_first() {
            failure.title.clone_from(first);
            failure.hints = rest.to_vec();
        }
        failure
    }

    /// ` -a APP -e ENV`, to make a line that can be pasted anywhere.
    #[must_use]
    pub fn scope_flags(app: &AppName, env: &EnvName) -> String {
        format!("-a {app} -e {env}")
    }
}

/// The env where nothing says otherwise.
fn usual_env() -> EnvName {
    "prod".parse().expect("prod is a label")
}

fn format(flags: &GlobalArgs) -> Result<Format, Failure> {
    if let Some(format) = flags.output {
        return Ok(format);
    }
    let Some(word) = variable("DEPLOYCTL_OUTPUT") else { return Ok(Format::Table) };
    <Format as clap::ValueEnum>::from_str(&word, true)
        .map_err(|_| Failure::usage(format!("DEPLOYCTL_OUTPUT={word:?} is no output format")))
}

fn in_variable(name: &str, error: impl ToString) -> Failure {
    Failure::usage(format!("the variable {name} can't be used")).because(error)
}
