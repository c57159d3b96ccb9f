//! The demo's two plays: with the sample repository, or with one of the user's.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cli::demo::fleet::Reach;
use crate::cli::demo::sample::Sample;
use crate::cli::demo::script::{Script, ScriptError, Step};
use crate::cli::output::Output;
use crate::model::id::AppName;

/// What a play needs.
pub(crate) struct Play {
    /// Who tells the story.
    pub(crate) out: Output,
    /// How its commands reach the coordinator.
    pub(crate) reach: Reach,
    /// The demo's folder.
    pub(crate) folder: PathBuf,
}

/// The app's name, and what was done.
type Played = Result<(String, Vec<Step>), ScriptError>;

impl Play {
    /// Where commands are typed.
    pub(crate) fn repository(folder: &Path) -> PathBuf {
        folder.join("repo")
    }

    fn script(&self, total: usize) -> Script {
        Script {
            out: self.out.clone(),
            reach: self.reach.clone(),
            repository: Self::repository(&self.folder),
            steps: Vec::new(),
            total,
        }
    }

    /// Build, deploy, a second deploy, a bad release that reverts, a rollback.
    pub(crate) fn sample(&self) -> Played {
        let sample = Sample::create(&Self::repository(&self.folder))?;
        let repo = format!("file://{}", Self::repository(&self.folder).display());
        let mut script = self.script(7);
        script.step("Register the app", &["apps", "add", "hello", "--repo", &repo], 0)?;
        script.step("Build a commit, and replicate it to both regions", &["build", "HEAD"], 0)?;
        let first = ["deploy", "HEAD", "--yes", "--bake", "1s", "-m", "first release"];
        script.step("Deploy it for the first time: one host, then all", &first, 0)?;
        sample.second()?;
        let second = ["deploy", "HEAD", "--build", "--yes", "--bake", "1s", "-m", "second release"];
        script.step(
            "Deploy a second commit, built on the way: canary, then region by region",
            &second,
            0,
        )?;
        sample.broken()?;
        let bad = ["deploy", "HEAD", "--build", "--yes", "--bake", "1s", "-m", "a bad release"];
        script.step(
            "Deploy a bad release: it reverts itself (exit code 10 is the point)",
            &bad,
            10,
        )?;
        script.step(
            "Roll back to the first release: no bytes move",
            &["rollback", "r1", "--yes", "-m", "INC-1"],
            0,
        )?;
        script.step("Look at the history", &["history"], 0)?;
        Ok(("hello".into(), script.steps))
    }

    /// Build and deploy the user's HEAD, after the commit before it if there is one.
    pub(crate) fn own(&self, repo: &Path, build: &str, artifact: &str) -> Played {
        let clone = Self::repository(&self.folder);
        let source = repo.canonicalize()?;
        git(
            &self.folder,
            &["clone", "-q", "--no-hardlinks", &source.display().to_string(), "repo"],
        )?;
        let branch = git(&clone, &["rev-parse", "--abbrev-ref", "HEAD"])?;
        let before = git(&clone, &["rev-parse", "--verify", "-q", "HEAD~1^{commit}"]).ok();
        let app = app_name(&source);
        let url = format!("file://{}", clone.display());
        let mut script = self.script(if before.is_some() { 5 } else { 3 });
        let add = [
            "apps",
            "add",
            &app,
            "--repo",
            &url,
            "--trunk",
            &branch,
            "--build",
            build,
            "--artifact",
            artifact,
        ];
        script.step("Register the app", &add, 0)?;
        if let Some(before) = &before {
            let first = ["deploy", before, "-a", &app, "--build", "--yes", "--bake", "1s"];
            script.step("Build and deploy the commit before HEAD", &first, 0)?;
        }
        let head = ["deploy", "HEAD", "-a", &app, "--build", "--yes", "--bake", "1s"];
        script.step("Build and deploy HEAD", &head, 0)?;
        if before.is_some() {
            script.step("Roll back: no bytes move", &["rollback", "-a", &app, "--yes"], 0)?;
        }
        script.step("Look at the history", &["history", "-a", &app], 0)?;
        Ok((app, script.steps))
    }
}

/// The folder's name as an app name; `app` when nothing of it is left.
fn app_name(folder: &Path) -> String {
    let name = folder.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    let kept: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(40).collect();
    let name = kept.trim_matches('-');
    name.parse::<AppName>().map_or_else(|_| "app".into(), |name| name.to_string())
}

fn git(folder: &Path, args: &[&str]) -> Result<String, ScriptError> {
    let done = Command::new("git").args(args).current_dir(folder).output()?;
    if done.status.success() {
        return Ok(String::from_utf8_lossy(&done.stdout).trim().to_owned());
    }
    let why = String::from_utf8_lossy(&done.stderr).trim().to_owned();
    Err(std::io::Error::other(format!("git {}: {why}", args.join(" "))).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_folder_gives_an_app_name() {
        for (folder, name) in [("/a/My_App.git", "my-app-git"), ("/", "app"), ("/___", "app")] {
            assert_eq!(app_name(Path::new(folder)), name);
        }
    }
}
