//! A real git repository of an app that is built by a shell command.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A working copy with a bare `origin` beside it.
pub(crate) struct Repository {
    pub(crate) folder: PathBuf,
    origin: PathBuf,
}

impl Repository {
    pub(crate) fn new(parent: &Path) -> Self {
        let made = Self { folder: parent.join("repo"), origin: parent.join("origin.git") };
        fs::create_dir_all(&made.folder).unwrap();
        git(parent, &["init", "-q", "--bare", "-b", "main", "origin.git"]);
        made.git(&["init", "-q", "-b", "main"]);
        made.git(&["remote", "add", "origin", &made.origin.display().to_string()]);
        made
    }

    pub(crate) fn url(&self) -> String {
        format!("file://{}", self.origin.display())
    }

    pub(crate) fn git(&self, args: &[&str]) -> String {
        git(&self.folder, args)
    }

    /// Commits `files` without pushing; returns the commit.
    pub(crate) fn commit(&self, files: &[(&str, &str)], subject: &str) -> String {
        for (path, content) in files {
            let path = self.folder.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        self.git(&["add", "-A"]);
        self.git(&["commit", "-q", "--allow-empty", "-m", subject]);
        self.git(&["rev-parse", "HEAD"])
    }

    /// Commits and pushes.
    pub(crate) fn publish(&self, files: &[(&str, &str)], subject: &str) -> String {
        let commit = self.commit(files, subject);
        self.git(&["push", "-q", "-u", "origin", "HEAD"]);
        commit
    }
}

fn git(folder: &Path, args: &[&str]) -> String {
    let done = Command::new("git")
        .args(["-c", "user.name=t", "-c", "user.email=t@localhost", "-c", "commit.gpgsign=false"])
        .args(args)
        .current_dir(folder)
        .output()
        .unwrap();
    assert!(done.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8_lossy(&done.stdout).trim().to_owned()
}
