//! The local git repository of a person: asks git, changes nothing, never a shell.
//!
//! Every argument that came from a person follows `--end-of-options` or is a full
//! ref name. Never fetches; only [`Repo::ask_remote_head`] goes to the network.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::model::commit::CommitId;

/// Longest subject of a commit that is kept, bytes.
const SUBJECT_BYTES_MAX: usize = 200;

/// What git could not say.
#[derive(Debug, thiserror::Error)]
pub enum GitError {
    /// There is no git command.
    #[error("git can't be run")]
    NoGit(#[source] std::io::Error),
    /// The folder is in no repository.
    #[error("{dir} is not in a git checkout")]
    NoRepository {
        /// The folder.
        dir: PathBuf,
    },
    /// The revision names no commit.
    #[error("{rev:?} is no commit of this repository")]
    UnknownRevision {
        /// As it was typed.
        rev: String,
    },
    /// git ended with an error.
    #[error("git {what} failed: {message}")]
    Failed {
        /// The command.
        what: String,
        /// git's own words, first line.
        message: String,
    },
}

/// A commit as people know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    /// Its id.
    pub id: CommitId,
    /// Its first line, at most 200 bytes.
    pub subject: String,
}

/// What lies between two commits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Between {
    /// Commits only in the second.
    pub new: u64,
    /// Commits only in the first.
    pub gone: u64,
    /// The newest of those.
    pub commits: Vec<Commit>,
}

/// A working copy.
#[derive(Debug, Clone)]
pub struct Repo {
    root: PathBuf,
}

impl Repo {
    /// The repository that `dir` is in.
    ///
    /// # Errors
    /// [`GitError::NoRepository`], [`GitError::NoGit`].
    pub fn discover(dir: &Path) -> Result<Self, GitError> {
        let top = run(dir, ["rev-parse", "--show-toplevel"])?;
        match top {
            Ok(root) if !root.is_empty() => Ok(Self { root: root.into() }),
            // Git's own reason matters when it refuses a folder of somebody else.
            Err(message) if message.contains("dubious ownership") => {
                Err(GitError::Failed { what: "rev-parse".into(), message })
            }
            _ => Err(GitError::NoRepository { dir: dir.into() }),
        }
    }

    /// The top folder of the working copy.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The commit that `rev` names: a branch, a tag, `HEAD~2`, a short id.
    ///
    /// # Errors
    /// [`GitError::UnknownRevision`] when it names none.
    pub fn resolve(&self, rev: &str) -> Result<Commit, GitError> {
        let unknown = || GitError::UnknownRevision { rev: rev.into() };
        let peeled = format!("{rev}^{{commit}}");
        let id = self.git(["rev-parse", "--verify", "--quiet", "--end-of-options", &peeled])?;
        let id: CommitId = id.ok().and_then(|id| id.parse().ok()).ok_or_else(unknown)?;
        let subject = self.must(["log", "-1", "--format=%s", id.as_str()])?;
        Ok(Commit { id, subject: cut(subject) })
    }

    /// Whether a branch or tag of just this name exists.
    #[must_use]
    pub fn has_name(&self, name: &str) -> bool {
        ["refs/heads/", "refs/tags/"].into_iter().any(|prefix| {
            let full = format!("{prefix}{name}");
            matches!(self.git(["show-ref", "--verify", "--quiet", &full]), Ok(Ok(_)))
        })
    }

    /// Names of branches and tags, newest first, at most 200, and `HEAD`.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let format = "--format=%(refname:lstrip=2)";
        let sort = "--sort=-creatordate";
        let there =
            self.git(["for-each-ref", "--count=200", sort, format, "refs/heads", "refs/tags"]);
        let there = there.ok().and_then(Result::ok).unwrap_or_default();
        let names = there.lines().map(str::to_owned);
        ["HEAD".to_owned()].into_iter().chain(names).collect()
    }

    /// What lies between two commits: how many are only in `to` and only in `from`, and
    /// the newest `most` of the first (where there are none, of the second).
    ///
    /// # Errors
    /// [`GitError::Failed`] when one of them is not here.
    pub fn between(
        &self,
        from: &CommitId,
        to: &CommitId,
        most: usize,
    ) -> Result<Between, GitError> {
        let both = format!("{from}...{to}");
        let counts = self.must(["rev-list", "--left-right", "--count", &both, "--"])?;
        let mut counts = counts.split_whitespace().map(|n| n.parse().unwrap_or(0));
        let (gone, new) = (counts.next().unwrap_or(0), counts.next().unwrap_or(0));
        let range = if new > 0 { format!("{from}..{to}") } else { format!("{to}..{from}") };
        Ok(Between { new, gone, commits: self.log(&range, most)? })
    }

    /// The newest `most` commits of a range or revision that is no option.
    ///
    /// # Errors
    /// [`GitError::Failed`].
    fn log(&self, range: &str, most: usize) -> Result<Vec<Commit>, GitError> {
        let most = format!("--max-count={most}");
        let lines = self.must(["log", &most, "--format=%H %s", "--end-of-options", range, "--"])?;
        let commit = |line: &str| {
            let (id, subject) = line.split_once(' ')?;
            let subject: String = subject.chars().filter(|c| !c.is_control()).collect();
            Some(Commit { id: id.parse().ok()?, subject: cut(subject) })
        };
        Ok(lines.lines().filter_map(commit).collect())
    }

    /// The newest `most` commits of the branch that is checked out.
    #[must_use]
    pub fn recent(&self, most: usize) -> Vec<Commit> {
        self.log("HEAD", most).unwrap_or_default()
    }

    /// The branch that is checked out; `None` when the head is detached.
    #[must_use]
    pub fn branch(&self) -> Option<String> {
        self.git(["symbolic-ref", "--quiet", "--short", "HEAD"])
            .ok()?
            .ok()
            .filter(|b| !b.is_empty())
    }

    /// Whether tracked files differ from the head commit.
    ///
    /// # Errors
    /// [`GitError::Failed`].
    pub fn is_dirty(&self) -> Result<bool, GitError> {
        Ok(!self.must(["status", "--porcelain", "--untracked-files=no"])?.is_empty())
    }

    /// The names of the remotes.
    ///
    /// # Errors
    /// [`GitError::Failed`].
    pub fn remotes(&self) -> Result<Vec<String>, GitError> {
        Ok(self.must(["remote"])?.lines().map(str::to_owned).collect())
    }

    /// A remote-tracking branch that contains `commit`, as `origin/main`.
    ///
    /// # Errors
    /// [`GitError::Failed`].
    pub fn remote_branch_with(&self, commit: &CommitId) -> Result<Option<String>, GitError> {
        let contains = format!("--contains={commit}");
        let format = "--format=%(refname:lstrip=2)";
        let names = self.must(["for-each-ref", "--count=1", &contains, format, "refs/remotes"])?;
        Ok(names.lines().next().map(str::to_owned))
    }

    /// The URL of a remote.
    #[must_use]
    pub fn remote_url(&self, remote: &str) -> Option<String> {
        self.git(["remote", "get-url", "--", remote]).ok()?.ok().filter(|url| !url.is_empty())
    }

    /// The default branch of a remote as the last clone or fetch knew it.
    #[must_use]
    pub fn remote_head(&self, remote: &str) -> Option<String> {
        let head = format!("refs/remotes/{remote}/HEAD");
        let name = self.git(["symbolic-ref", "--quiet", "--short", &head]).ok()?.ok()?;
        name.strip_prefix(&format!("{remote}/")).map(str::to_owned)
    }

    /// The default branch of a remote as it says itself, over the network.
    #[must_use]
    pub fn ask_remote_head(&self, remote: &str) -> Option<String> {
        let answer = self.git(["ls-remote", "--symref", "--", remote, "HEAD"]).ok()?.ok()?;
        let line = answer.lines().find_map(|line| line.strip_prefix("ref: refs/heads/"))?;
        line.split_whitespace().next().map(str::to_owned)
    }

    fn git<const N: usize>(
        &self,
        arguments: [&str; N],
    ) -> Result<Result<String, String>, GitError> {
        run(&self.root, arguments)
    }

    fn must<const N: usize>(&self, arguments: [&str; N]) -> Result<String, GitError> {
        let what = arguments[0].to_owned();
        self.git(arguments)?.map_err(|message| GitError::Failed { what, message })
    }
}

/// A subject within its limit.
fn cut(mut subject: String) -> String {
    while subject.len() > SUBJECT_BYTES_MAX {
        subject.pop();
    }
    subject
}

/// What git printed, or the first line of why it failed.
fn run<const N: usize>(
    dir: &Path,
    arguments: [&str; N],
) -> Result<Result<String, String>, GitError> {
    let output = Command::new("git")
        .arg("-C")
        .arg(dir)
        .args(arguments.map(OsStr::new))
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("GIT_OPTIONAL_LOCKS", "0")
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()
        .map_err(GitError::NoGit)?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
    if output.status.success() {
        return Ok(Ok(text(&output.stdout)));
    }
    let message = text(&output.stderr);
    Ok(Err(message.lines().next().unwrap_or("no reason given").to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn git(dir: &Path, arguments: &[&str]) {
        let identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"];
        let status = Command::new("git").arg("-C").arg(dir).args(identity).args(arguments).output();
        assert!(status.unwrap().status.success(), "git {arguments:?}");
    }

    #[test]
    fn revisions_become_commits_and_options_do_not() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(Repo::discover(dir.path()), Err(GitError::NoRepository { .. })));
        git(dir.path(), &["init", "-q", "-b", "main"]);
        std::fs::write(dir.path().join("a"), "1").unwrap();
        git(dir.path(), &["add", "a"]);
        git(dir.path(), &["commit", "-q", "-m", "first"]);
        git(dir.path(), &["branch", "r411"]);
        let repo = Repo::discover(dir.path()).unwrap();
        let head = repo.resolve("HEAD").unwrap();
        assert_eq!(head.subject, "first");
        assert_eq!(repo.resolve(head.id.short()).unwrap(), head);
        for bad in ["nope", "--all", "-h", "", "HEAD:a", "$(id)"] {
            assert!(matches!(repo.resolve(bad), Err(GitError::UnknownRevision { .. })), "{bad}");
        }
        assert!(repo.has_name("r411") && !repo.has_name("r412"));
        assert_eq!(repo.names(), ["HEAD", "main", "r411"]);
        assert_eq!(repo.branch().as_deref(), Some("main"));
        assert!(!repo.is_dirty().unwrap());
        std::fs::write(dir.path().join("a"), "2").unwrap();
        assert!(repo.is_dirty().unwrap());
        git(dir.path(), &["commit", "-qam", "second"]);
        let next = repo.resolve("HEAD").unwrap();
        let between = repo.between(&head.id, &next.id, 5).unwrap();
        assert_eq!((between.new, between.gone, &between.commits[..]), (1, 0, &[next.clone()][..]));
        let back = repo.between(&next.id, &head.id, 5).unwrap();
        assert_eq!((back.new, back.gone, &back.commits), (0, 1, &between.commits));
        assert_eq!(repo.recent(1), [next]);
        assert_eq!(repo.remotes().unwrap(), Vec::<String>::new());
        assert_eq!(repo.remote_branch_with(&head.id).unwrap(), None);
    }
}
