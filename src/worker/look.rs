//! Answers what is in a repository: the trunk's newest commits, and what a branch, a
//! tag or some digits name. Beside the slots, so that a busy worker answers too.
//!
//! It reads the same mirror as builds, under the same lock, and fetches nothing but the
//! trunk: a name that is not on it is told apart by its id alone.

use std::path::Path;
use std::time::Duration;

use crate::host::git::{self, Git, GitError};
use crate::model::commit::CommitId;
use crate::model::time::UnixMillis;
use crate::wire::problem::Code;
use crate::wire::v1::commits::{CommitLine, NEWEST_MAX, Named, Question};
use crate::worker::checkout::{self, Mirrors};
use crate::worker::run::Worker;

/// How long a look waits for a build that fetches the same repository.
const LOCK_WAIT: Duration = Duration::from_secs(8);
/// Pause after a call that failed.
const PAUSE: Duration = Duration::from_secs(5);
/// Pause when the coordinator is of a release that asks nothing.
const LONG_PAUSE: Duration = Duration::from_secs(60);
/// Shortest time between two questions.
const BREATH: Duration = Duration::from_millis(100);
/// Fewest digits that are taken for a commit.
const DIGITS_MIN: usize = 4;

/// Commits of the trunk, and names that were asked about.
type Found = (Vec<CommitLine>, Vec<Named>);

/// Answers questions for as long as it is polled; after the stop it asks for no more.
pub(super) async fn answer(worker: &Worker) {
    let mut stop = worker.stop.clone();
    loop {
        let pause = tokio::select! {
            pause = one(worker) => pause,
            _ = stop.wait_for(|stop| *stop) => return std::future::pending().await,
        };
        tokio::time::sleep(pause).await;
    }
}

/// Waits for one question and answers it; returns how long to pause then.
async fn one(worker: &Worker) -> Duration {
    let question = match worker.coordinator.question().await {
        Ok(Some(question)) => question,
        Ok(None) => return BREATH,
        Err(error) if error.code() == Code::NotFound => return LONG_PAUSE,
        Err(_) => return PAUSE,
    };
    let found = look(&worker.mirrors, &question).await;
    match worker.coordinator.answer(question, found).await {
        Ok(()) => BREATH,
        Err(error) => {
            tracing::warn!(%error, "what was found in a repository could not be told");
            PAUSE
        }
    }
}

/// Looks into the repository.
///
/// # Errors
/// One sentence: why nothing was found out.
async fn look(mirrors: &Mirrors, question: &Question) -> Result<Found, String> {
    let repo = question.repo.as_str();
    git::check_url(repo).map_err(str::to_owned)?;
    if !git::is_branch_name(&question.trunk) {
        return Err(format!("{:?} is not a branch name", question.trunk));
    }
    let place = git::without_credentials(repo);
    let unread = |error: GitError| format!("{place} can't be read: {error}");
    let git = mirrors.git();
    let (mirror, _lock) = mirrors.mirror(repo, LOCK_WAIT).await.map_err(|f| f.reason)?;
    let head = format!("refs/heads/{}", question.trunk);
    let mut wanted = vec![head.clone()];
    wanted.extend(question.revs.iter().filter(|rev| is_name(rev)).flat_map(|rev| refs_of(rev)));
    let refs = git.refs(repo, &wanted).await.map_err(unread)?;
    let Some((_, tip)) = refs.iter().find(|(name, _)| *name == head) else {
        return Err(format!("there is no branch {} in {place}", question.trunk));
    };
    if !mirror.join("HEAD").exists() {
        git.init_bare(&mirror, tip).await.map_err(unread)?;
    }
    let trunk = format!("refs/remotes/origin/{}", question.trunk);
    checkout::forget(&mirror);
    git.fetch(&mirror, repo, &[&format!("+{head}:{trunk}")]).await.map_err(unread)?;
    let newest = git.log(&mirror, &trunk, NEWEST_MAX).await.map_err(unread)?;
    let mut named = Vec::with_capacity(question.revs.len());
    for rev in &question.revs {
        let within = Within { git, mirror: &mirror, trunk: &trunk, refs: &refs };
        named.push(within.name(rev, tip).await.map_err(unread)?);
    }
    Ok((newest.into_iter().map(line).collect(), named))
}

fn line((commit, seconds, author, subject): (CommitId, i64, String, String)) -> CommitLine {
    CommitLine { commit, subject, author, at: UnixMillis(seconds.saturating_mul(1000)) }
}

fn is_digits(rev: &str) -> bool {
    let hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    (DIGITS_MIN..=64).contains(&rev.len()) && rev.bytes().all(hex)
}

fn is_name(rev: &str) -> bool {
    rev != "HEAD" && git::is_branch_name(rev)
}

/// The refs that a name may mean.
fn refs_of(rev: &str) -> Vec<String> {
    if rev.starts_with("refs/") {
        return vec![rev.to_owned(), format!("{rev}^{{}}")];
    }
    let tag = format!("refs/tags/{rev}");
    vec![format!("refs/heads/{rev}"), format!("{tag}^{{}}"), tag]
}

/// What is known about a repository while names are resolved.
struct Within<'a> {
    git: &'a Git,
    mirror: &'a Path,
    trunk: &'a str,
    refs: &'a [(String, CommitId)],
}

impl Within<'_> {
    async fn name(&self, rev: &str, tip: &CommitId) -> Result<Named, GitError> {
        let none = |why: &str| Named {
            rev: rev.to_owned(),
            commit: None,
            subject: String::new(),
            merged: false,
            why: why.to_owned(),
        };
        let wanted = if is_name(rev) { refs_of(rev) } else { vec![] };
        let by_name: Vec<_> = self.refs.iter().filter(|(name, _)| wanted.contains(name)).collect();
        let commit = match by_name[..] {
            [(_, one)] => Some(one.clone()),
            [(_, one), (_, other)] if one == other => Some(one.clone()),
            [] if rev == "HEAD" => Some(tip.clone()),
            [] if is_digits(rev) => self.git.by_digits(self.mirror, rev).await?,
            [] => None,
            _ => {
                let why = "it is a branch and a tag: write refs/heads/… or refs/tags/…";
                return Ok(none(why));
            }
        };
        let Some(commit) = commit else {
            return Ok(none(if is_digits(rev) {
                "no branch, no tag, and no one commit of the trunk is called that"
            } else {
                "no branch and no tag is called that"
            }));
        };
        let held = self.git.holds(self.mirror, &commit).await?;
        let merged = held && self.git.is_on(self.mirror, &commit, self.trunk).await?;
        let subject = if merged {
            let told = self.git.log(self.mirror, commit.as_str(), 1).await?;
            told.into_iter().next().map(|(_, _, _, subject)| subject).unwrap_or_default()
        } else {
            String::new()
        };
        let (rev, commit) = (rev.to_owned(), Some(commit));
        Ok(Named { rev, commit, subject, merged, why: String::new() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::id::AppName;

    /// `main` has two commits, the first tagged v1; `side` one more; both is a branch
    /// and a tag.
    fn repository() -> (tempfile::TempDir, Mirrors, impl Fn(&[&str]) -> Question) {
        let folder = tempfile::tempdir().unwrap();
        let mut sh = std::process::Command::new("sh");
        sh.args([
            "-ec",
            "git init -q -b main r && cd r && git commit -qm 'the first' --allow-empty &&
            git tag -a v1 -m one && git branch both && git commit -qm 'the second' --allow-empty &&
            git tag both && git checkout -qb side/x && git commit -qm aside --allow-empty",
        ]);
        sh.current_dir(folder.path()).env("GIT_CONFIG_GLOBAL", "/dev/null");
        for who in ["AUTHOR", "COMMITTER"] {
            sh.env(format!("GIT_{who}_NAME"), "Ann").env(format!("GIT_{who}_EMAIL"), "t@t");
            sh.env(format!("GIT_{who}_DATE"), "1700000000 +0000");
        }
        assert!(sh.status().unwrap().success());
        let git = Git::open(&folder.path().join("home"), Duration::from_secs(60)).unwrap();
        let place = folder.path().join("mirrors");
        let mirrors = Mirrors::open(git, &place, Duration::from_secs(30)).unwrap();
        let repo = format!("file://{}/r", folder.path().display());
        let ask = move |revs: &[&str]| Question {
            app: "api".parse::<AppName>().unwrap(),
            repo: repo.clone(),
            trunk: "main".into(),
            revs: revs.iter().map(|rev| (*rev).to_owned()).collect(),
        };
        (folder, mirrors, ask)
    }

    #[tokio::test]
    async fn names_are_what_the_repository_says() {
        let (_folder, mirrors, ask) = repository();
        let revs = ["main", "HEAD", "v1", "side/x", "both", "refs/tags/both", "nope", "-x", "m*"];
        let (newest, named) = look(&mirrors, &ask(&revs)).await.unwrap();
        let subjects: Vec<&str> = newest.iter().map(|line| line.subject.as_str()).collect();
        assert_eq!(subjects, ["the second", "the first"]);
        assert_eq!((newest[0].author.as_str(), newest[0].at.0), ("Ann", 1_700_000_000_000));
        let (second, first) = (&newest[0].commit, &newest[1].commit);
        let told: Vec<_> = named.iter().map(|n| (n.commit.as_ref(), n.subject.as_str())).collect();
        assert_eq!(
            told[..3],
            [
                (Some(second), "the second"),
                (Some(second), "the second"),
                (Some(first), "the first"),
            ]
        );
        assert!(named[3].commit.is_some() && !named[3].merged, "a branch that is not merged");
        assert!(named[4].commit.is_none() && named[4].why.contains("a branch and a tag"));
        assert_eq!(told[5], (Some(second), "the second"));
        for nothing in &named[6..] {
            assert_eq!((&nothing.commit, nothing.why.is_empty()), (&None, false), "{nothing:?}");
        }

        // Digits name commits of the trunk, and nothing else does.
        let digits = &first.as_str()[..7];
        let (_, named) = look(&mirrors, &ask(&[digits, "0000000"])).await.unwrap();
        assert_eq!(named[0].commit.as_ref(), Some(first));
        assert!(named[0].merged && named[1].commit.is_none());
    }

    #[tokio::test]
    async fn a_look_that_fails_says_why() {
        let (_folder, mirrors, ask) = repository();
        let elsewhere = Question { repo: "file:///nowhere/at/all".into(), ..ask(&[]) };
        let why = look(&mirrors, &elsewhere).await.unwrap_err();
        assert!(why.contains("file:///nowhere/at/all can't be read"), "{why}");
        let why =
            look(&mirrors, &Question { trunk: "trunk".into(), ..ask(&[]) }).await.unwrap_err();
        assert!(why.contains("there is no branch trunk"), "{why}");
    }
}
