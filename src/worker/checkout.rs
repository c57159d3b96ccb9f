//! From a claim to a clean checkout: fetches, decides whether the commit may be
//! built, and checks it out.
//!
//! One bare mirror per repository URL, shared by all slots under a file lock.
//! The trunk is fetched first and whole: the question "is it merged?" has a
//! wrong answer in a shallow clone, and that a commit can be fetched by id
//! proves nothing (servers hand out commits that no branch contains). A mirror
//! that is broken, as a killed fetch may leave it, is made anew once.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::host::git::{self, CommitFacts, Git, GitError};
use crate::model::ancestry::Relative;
use crate::model::commit::CommitId;
use crate::model::digest::Digest;
use crate::worker::failure::Failure;
use crate::worker::recipe;

/// How many of a repository's branches a refusal names.
const BRANCHES_NAMED: usize = 10;
/// A file of a mirror that tells what the remote had at the last fetch.
const FETCHED: &str = "deployctl-fetched";
/// How often a slot asks for a lock that another holds.
const LOCK_POLL: Duration = Duration::from_millis(100);

/// What is to be checked out.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// Where to fetch from.
    pub repo: &'a str,
    /// The branch that the commit must be on.
    pub trunk: &'a str,
    /// The commit.
    pub commit: &'a CommitId,
    /// Whether it may be off the trunk.
    pub allow_unmerged: bool,
    /// Commits that it is compared with.
    pub compare: &'a [CommitId],
}

/// A commit, checked out.
#[derive(Debug)]
pub struct Source {
    /// The commit's tree and time.
    pub facts: CommitFacts,
    /// Its `deployctl.toml`, if it has one.
    pub recipe: Option<Vec<u8>>,
    /// What those that it was compared with are to it; without those that are not there.
    pub relatives: Vec<Relative>,
}

/// The mirrors of one worker.
#[derive(Debug, Clone)]
pub struct Mirrors {
    git: Git,
    folder: PathBuf,
    lock_wait: Duration,
}

/// Why a step on a mirror did not work out.
enum Trouble {
    /// An answer: nothing that a fresh mirror would change.
    Answer(Failure),
    /// Maybe the mirror is broken.
    Mirror(GitError),
}

impl From<GitError> for Trouble {
    fn from(error: GitError) -> Self {
        Self::Mirror(error)
    }
}

impl Mirrors {
    /// Mirrors under `folder` (made if missing). A slot waits for another's fetch
    /// at most `lock_wait`.
    ///
    /// # Errors
    /// When the folder can't be made.
    pub fn open(git: Git, folder: &Path, lock_wait: Duration) -> std::io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        Ok(Self { git, folder: folder.canonicalize()?, lock_wait })
    }

    /// Removes what killed fetches left behind. Only when no git of ours runs.
    pub fn sweep(&self) {
        let listed = |folder: &Path| std::fs::read_dir(folder).into_iter().flatten().flatten();
        for mirror in listed(&self.folder).map(|entry| entry.path()).filter(|path| path.is_dir()) {
            let packs = listed(&mirror.join("objects/pack"));
            let half =
                packs.filter(|file| file.file_name().as_encoded_bytes().starts_with(b"tmp_"));
            let locks =
                listed(&mirror).filter(|file| file.path().extension() == Some("lock".as_ref()));
            for leftover in half.chain(locks) {
                // What stays is only a waste, or makes the mirror be made anew.
                let _ = std::fs::remove_file(leftover.path());
            }
        }
    }

    /// Checks the wanted commit out at `to`, which must not exist. Cancel-safe: at
    /// worst a broken mirror is left, which the next call makes anew.
    ///
    /// # Errors
    /// Refused: the commit or the trunk is not there, or the commit is not on the
    /// trunk. Infra: network, disk, or a lock held too long.
    pub async fn checkout(&self, wanted: Wanted<'_>, to: &Path) -> Result<Source, Failure> {
        git::check_url(wanted.repo).map_err(Failure::refused)?;
        if !git::is_branch_name(wanted.trunk) {
            return Err(Failure::refused(format!("{:?} is not a branch name", wanted.trunk)));
        }
        let (mirror, _lock) = self.mirror(wanted.repo, self.lock_wait).await?;
        let news = self.check_trunk(wanted).await?;
        let was_there = mirror.join("HEAD").exists();
        match self.bring(wanted, &news, &mirror, to).await {
            Ok(source) => Ok(source),
            Err(Trouble::Answer(failure)) if !was_there || !is_shallow(&mirror) => Err(failure),
            Err(Trouble::Mirror(error)) if !was_there => Err(Failure::infra(error)),
            Err(_) => {
                tracing::warn!(repo = git::without_credentials(wanted.repo), "mirror made anew");
                remove(&mirror).and_then(|()| remove(to)).map_err(Failure::infra)?;
                self.bring(wanted, &news, &mirror, to).await.map_err(|trouble| match trouble {
                    Trouble::Answer(failure) => failure,
                    Trouble::Mirror(error) => Failure::infra(error),
                })
            }
        }
    }

    /// The mirror of `repo`, made or not, for the caller alone while the lock lives.
    ///
    /// # Errors
    /// When another holds it for longer than `wait`.
    pub(crate) async fn mirror(
        &self,
        repo: &str,
        wait: Duration,
    ) -> Result<(PathBuf, File), Failure> {
        let name = Digest::of(repo.as_bytes());
        let lock = self.lock(&self.folder.join(format!("{name}.lock")), wait).await?;
        Ok((self.folder.join(format!("{name}.git")), lock))
    }

    /// The git that the mirrors are made with.
    pub(crate) fn git(&self) -> &Git {
        &self.git
    }

    async fn lock(&self, path: &Path, wait: Duration) -> Result<File, Failure> {
        let broken = |e: std::io::Error| Failure::infra(format!("{}: {e}", path.display()));
        let file = File::options().create(true).append(true).open(path).map_err(broken)?;
        let until = tokio::time::Instant::now() + wait;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::Error(e)) => return Err(broken(e)),
                Err(TryLockError::WouldBlock) if tokio::time::Instant::now() > until => {
                    let waited = wait.as_secs();
                    let why = format!("another build has fetched this repository for {waited} s");
                    return Err(Failure::infra(why));
                }
                Err(TryLockError::WouldBlock) => tokio::time::sleep(LOCK_POLL).await,
            }
        }
    }

    /// Asks the remote for its branches: tells an unreachable remote from a
    /// missing branch before anything is fetched. What a fetch of the trunk would bring is
    /// in the answer, which is another one once it would bring something else.
    async fn check_trunk(&self, wanted: Wanted<'_>) -> Result<String, Failure> {
        let repo = git::without_credentials(wanted.repo);
        let listed = self.git.listed(wanted.repo).await.map_err(|e| {
            let reason = format!("{repo} can't be read: {e}");
            if e.is_refusal() { Failure::refused(reason) } else { Failure::infra(reason) }
        })?;
        let of_branch = |name: &String| name.strip_prefix("refs/heads/").map(str::to_owned);
        let branches: Vec<String> = listed.iter().filter_map(|(name, _)| of_branch(name)).collect();
        if branches.iter().any(|branch| branch == wanted.trunk) {
            let fetched = |name: &String| of_branch(name).is_none_or(|name| name == wanted.trunk);
            let fetched: Vec<_> = listed.iter().filter(|(name, _)| fetched(name)).collect();
            return Ok(Digest::of(format!("{fetched:?}").as_bytes()).to_string());
        }
        let (trunk, mut there) = (wanted.trunk, branches);
        let more = there.len().saturating_sub(BRANCHES_NAMED);
        there.truncate(BRANCHES_NAMED);
        let there = match (there.join(", "), more) {
            (none, _) if none.is_empty() => "it has no branches; push one".to_owned(),
            (names, 0) => format!("its branches are {names}"),
            (names, more) => format!("its branches are {names} and {more} more"),
        };
        Err(Failure::refused(format!("there is no branch {trunk} in {repo}: {there}")))
    }

    async fn bring(
        &self,
        wanted: Wanted<'_>,
        news: &str,
        mirror: &Path,
        to: &Path,
    ) -> Result<Source, Trouble> {
        let (git, commit) = (&self.git, wanted.commit);
        let trunk = format!("refs/remotes/origin/{}", wanted.trunk);
        let known = std::fs::read_to_string(mirror.join(FETCHED)).is_ok_and(|last| last == news);
        let facts = if known { git.facts(mirror, commit).await? } else { None };
        let facts = match facts {
            Some(facts) => facts,
            None => self.fetch(wanted, news, mirror, &trunk).await?,
        };
        if !wanted.allow_unmerged && !git.is_on(mirror, commit, &trunk).await? {
            return Err(Trouble::Answer(not_merged(wanted)));
        }
        git.checkout(mirror, commit, to).await?;
        let recipe = recipe::read(to).map_err(Trouble::Answer)?;
        let relatives = self.relatives(wanted, mirror).await?;
        Ok(Source { facts, recipe, relatives })
    }

    /// Brings what the remote has new, and the commit; remembers when there is nothing new.
    async fn fetch(
        &self,
        wanted: Wanted<'_>,
        news: &str,
        mirror: &Path,
        trunk: &str,
    ) -> Result<CommitFacts, Trouble> {
        let (git, commit) = (&self.git, wanted.commit);
        if !mirror.join("HEAD").exists() {
            remove(mirror).map_err(|e| Trouble::Answer(Failure::infra(e)))?;
            git.init_bare(mirror, commit).await?;
        }
        forget(mirror);
        let refspec = format!("+refs/heads/{}:{trunk}", wanted.trunk);
        git.fetch(mirror, wanted.repo, &[&refspec]).await?;
        let facts = match git.facts(mirror, commit).await? {
            Some(facts) => facts,
            None => self.fetch_commit(wanted, mirror).await?,
        };
        // Without it the next build only fetches again.
        let _ = std::fs::write(mirror.join(FETCHED), news);
        Ok(facts)
    }

    async fn relatives(&self, wanted: Wanted<'_>, mirror: &Path) -> Result<Vec<Relative>, Trouble> {
        let (git, commit) = (&self.git, wanted.commit);
        let mut others = wanted.compare.to_vec();
        let are = match git.relations(mirror, commit, &others).await {
            Err(GitError::Failed { .. }) => {
                let mut held = Vec::with_capacity(others.len());
                for other in others {
                    if git.holds(mirror, &other).await? {
                        held.push(other);
                    }
                }
                others = held;
                git.relations(mirror, commit, &others).await?
            }
            are => are?,
        };
        let relatives = others.into_iter().zip(are).map(|(commit, is)| Relative { commit, is });
        Ok(relatives.collect())
    }

    /// Brings a commit that the trunk does not contain: by id, and from a server
    /// that gives none by id, with all branches.
    async fn fetch_commit(
        &self,
        wanted: Wanted<'_>,
        mirror: &Path,
    ) -> Result<CommitFacts, Trouble> {
        let id = wanted.commit.as_str();
        if let Err(error) = self.git.fetch(mirror, wanted.repo, &[id]).await {
            tracing::debug!(%error, "no fetch by id, fetching all branches");
            let all = "+refs/heads/*:refs/remotes/origin/*";
            self.git.fetch(mirror, wanted.repo, &[all]).await?;
        }
        if let Some(facts) = self.git.facts(mirror, wanted.commit).await? {
            return Ok(facts);
        }
        let repo = git::without_credentials(wanted.repo);
        let push = format!("push it (git push origin {}), then build again", wanted.trunk);
        Err(Trouble::Answer(Failure::refused(format!("commit {id} is not in {repo}: {push}"))))
    }
}

/// What was fetched last may not be what the mirror holds any more.
pub(crate) fn forget(mirror: &Path) {
    let _ = std::fs::remove_file(mirror.join(FETCHED));
}

fn not_merged(wanted: Wanted<'_>) -> Failure {
    let (commit, trunk) = (wanted.commit, wanted.trunk);
    Failure::refused(format!(
        "commit {commit} is not on {trunk}: merge it, or build it with --allow-unmerged"
    ))
}

/// Whether the mirror's history is cut off, as its source once was.
fn is_shallow(mirror: &Path) -> bool {
    std::fs::metadata(mirror.join("shallow")).is_ok_and(|file| file.len() > 0)
}

/// Removes a folder with all that is in it, though a build took away its own
/// permissions (the Go module cache is read-only); no error when there is none.
///
/// # Errors
/// When something can't be removed.
pub fn remove(folder: &Path) -> std::io::Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => {}
        other => return other,
    }
    unlock(folder)?;
    std::fs::remove_dir_all(folder)
}

fn unlock(folder: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let mut open = vec![folder.to_owned()];
    while let Some(folder) = open.pop() {
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o700))?;
        for entry in std::fs::read_dir(&folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                open.push(entry.path());
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ancestry::Relation;
    use crate::model::job::BuildFailure;

    struct Repo {
        folder: tempfile::TempDir,
        mirrors: Mirrors,
    }

    impl Repo {
        /// `main` has two commits; `side` one more; a third is not pushed.
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let git = Git::open(&folder.path().join("home"), Duration::from_secs(60)).unwrap();
            let place = folder.path().join("mirrors");
            let mirrors = Mirrors::open(git, &place, Duration::from_secs(30)).unwrap();
            let repo = Self { folder, mirrors };
            repo.sh(
                "git init -q -b main clone && cd clone && git init -q --bare -b main ../origin.git &&
                 printf one > a && printf '#!/bin/sh\\n' > tool && chmod +x tool && ln -s a link &&
                 printf '[build]\\n' > deployctl.toml && git add . && git commit -qm one && git tag v1 &&
                 printf two > a && git commit -qam two && git push -q --tags ../origin.git main &&
                 git checkout -q -b side && printf side > a && git commit -qam side &&
                 git push -q ../origin.git side && printf three > a && git commit -qam three",
            );
            repo
        }

        fn sh(&self, script: &str) -> String {
            let mut sh = std::process::Command::new("sh");
            sh.args(["-ec", script]).current_dir(self.folder.path());
            sh.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
            for who in ["AUTHOR", "COMMITTER"] {
                sh.env(format!("GIT_{who}_NAME"), "t").env(format!("GIT_{who}_EMAIL"), "t@t");
                sh.env(format!("GIT_{who}_DATE"), "1700000000 +0000");
            }
            let said = sh.output().unwrap();
            assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
            String::from_utf8(said.stdout).unwrap().trim().to_owned()
        }

        fn commit(&self, name: &str) -> CommitId {
            self.sh(&format!("git -C clone rev-parse '{name}^{{commit}}'")).parse().unwrap()
        }

        fn url(&self) -> String {
            format!("file://{}/origin.git", self.folder.path().display())
        }

        fn to(&self) -> PathBuf {
            self.folder.path().join("checkout")
        }

        async fn checkout(&self, commit: &CommitId, trunk: &str) -> Result<Source, Failure> {
            remove(&self.to()).unwrap();
            let repo = &self.url();
            let wanted = Wanted { repo, trunk, commit, allow_unmerged: false, compare: &[] };
            self.mirrors.checkout(wanted, &self.to()).await
        }

        fn mirror(&self) -> PathBuf {
            let name = Digest::of(self.url().as_bytes());
            self.folder.path().join("mirrors").join(format!("{name}.git"))
        }
    }

    fn refused(result: Result<Source, Failure>, expected: &str) {
        let failure = result.unwrap_err();
        assert_eq!(failure.class, BuildFailure::Refused, "{failure}");
        assert!(failure.reason.contains(expected), "{failure}");
    }

    #[tokio::test]
    async fn a_merged_commit_is_checked_out_with_links_modes_and_history() {
        use std::os::unix::fs::PermissionsExt;
        let repo = Repo::new();
        let old = repo.commit("v1");
        let source = repo.checkout(&old, "main").await.unwrap();
        assert_eq!(source.facts.time_s, 1_700_000_000);
        assert_eq!(source.facts.tree, repo.sh("git -C clone rev-parse 'v1^{tree}'"));
        assert_eq!(source.recipe.as_deref(), Some(&b"[build]\n"[..]));
        assert_eq!(std::fs::read_to_string(repo.to().join("a")).unwrap(), "one");
        assert_eq!(std::fs::read_link(repo.to().join("link")).unwrap(), Path::new("a"));
        let mode = std::fs::metadata(repo.to().join("tool")).unwrap().permissions().mode();
        assert_eq!(mode & 0o111, 0o111);
        assert_eq!(repo.sh("git -C checkout describe --tags"), "v1");
        repo.checkout(&repo.commit("main"), "main").await.unwrap();
        assert_eq!(repo.sh("git -C checkout describe --tags --always --dirty | cut -c1-4"), "v1-1");
    }

    #[tokio::test]
    async fn a_commit_is_compared_with_those_that_are_there() {
        let repo = Repo::new();
        let (one, two) = (repo.commit("v1"), repo.commit("main"));
        let (side, unpushed) = (repo.commit("side~1"), repo.commit("side"));
        repo.sh("git -C clone checkout -q main && cd clone && printf apart > b && git add b &&
             git commit -qm apart && git push -q ../origin.git main");
        let apart = repo.commit("main");
        let url = repo.url();
        let see = async |commit: &CommitId, compare: &[CommitId]| {
            remove(&repo.to()).unwrap();
            let wanted =
                Wanted { repo: &url, trunk: "main", commit, allow_unmerged: true, compare };
            let seen = repo.mirrors.checkout(wanted, &repo.to()).await.unwrap().relatives;
            seen.into_iter().map(|relative| (relative.commit, relative.is)).collect::<Vec<_>>()
        };
        let others = [one.clone(), apart.clone(), unpushed];
        let expected = [(one.clone(), Relation::Ancestor), (apart.clone(), Relation::Descendant)];
        assert_eq!(see(&two, &others).await, expected);
        let of = async |commit: &CommitId, compare: &[CommitId]| {
            see(commit, compare).await.into_iter().map(|(_, is)| is).collect::<Vec<_>>()
        };
        assert_eq!(of(&side, std::slice::from_ref(&apart)).await, [Relation::Apart]);
        repo.sh(&format!(
            "cd clone && git merge -q -s ours {side} && git push -q ../origin.git main"
        ));
        let both = repo.commit("main");
        let all = [one.clone(), side.clone(), both.clone(), apart.clone()];
        let (before, after) = (Relation::Ancestor, Relation::Descendant);
        assert_eq!(of(&both, &all).await, [before; 4]);
        assert_eq!(of(&side, &all).await, [before, before, after, Relation::Apart]);
        assert_eq!(of(&one, &all).await, [before, after, after, after]);
        assert_eq!(of(&one, &[]).await, []);
    }

    #[tokio::test]
    async fn what_may_not_be_built_is_refused_with_the_reason() {
        let repo = Repo::new();
        let (main, side, unpushed) =
            (repo.commit("main"), repo.commit("side~1"), repo.commit("side"));
        refused(repo.checkout(&side, "main").await, &format!("commit {side} is not on main"));
        refused(
            repo.checkout(&unpushed, "main").await,
            &format!("commit {unpushed} is not in file:///"),
        );
        refused(repo.checkout(&main, "trunk").await, "its branches are main, side");
        refused(repo.checkout(&main, "--upload-pack=x").await, "not a branch name");
        let wanted = |repo| Wanted {
            repo,
            trunk: "main",
            commit: &main,
            allow_unmerged: false,
            compare: &[],
        };
        refused(
            repo.mirrors.checkout(wanted("file:///nonexistent"), &repo.to()).await,
            "can't be read",
        );
        refused(repo.mirrors.checkout(wanted("ext::sh -c x"), &repo.to()).await, "a repository");
        let url = repo.url();
        let unmerged = Wanted { commit: &side, allow_unmerged: true, ..wanted(&url) };
        remove(&repo.to()).unwrap();
        repo.mirrors.checkout(unmerged, &repo.to()).await.unwrap();
        assert_eq!(std::fs::read_to_string(repo.to().join("a")).unwrap(), "side");
    }

    #[tokio::test]
    async fn a_remote_that_is_down_is_trouble_of_the_workers_own() {
        let repo = Repo::new();
        let commit = &repo.commit("main");
        let url = "git://127.0.0.1:1/x.git";
        let wanted =
            Wanted { repo: url, trunk: "main", commit, allow_unmerged: false, compare: &[] };
        let failure = repo.mirrors.checkout(wanted, &repo.to()).await.unwrap_err();
        assert_eq!(failure.class, BuildFailure::Infra, "{failure}");
    }

    #[tokio::test]
    async fn a_broken_mirror_is_made_anew() {
        let repo = Repo::new();
        let commit = repo.commit("main");
        repo.checkout(&commit, "main").await.unwrap();
        for breaking in [
            "find . -name '*.pack' -exec truncate -s 20 {} +",
            "rm -rf objects",
            "echo nonsense > HEAD",
            "touch packed-refs.lock refs/remotes/origin/main.lock && rm -rf packed-refs refs/remotes/origin/main && git update-server-info",
        ] {
            repo.sh(&format!(
                "cd {} && chmod -R u+w . && ({breaking}) 2>/dev/null || true",
                repo.mirror().display()
            ));
            repo.checkout(&commit, "main").await.unwrap();
            assert_eq!(std::fs::read_to_string(repo.to().join("a")).unwrap(), "two", "{breaking}");
        }
    }

    #[tokio::test]
    async fn what_the_remote_has_new_is_fetched_and_nothing_else() {
        let repo = Repo::new();
        let (old, main) = (repo.commit("v1"), repo.commit("main"));
        let describe = || repo.sh("git -C checkout describe --tags --always");
        let again = async |commit: &CommitId| {
            remove(&repo.to()).unwrap();
            repo.checkout(commit, "main").await
        };
        again(&main).await.unwrap();
        // A fetch would bring the tag back.
        repo.sh(&format!("git -C {} update-ref -d refs/tags/v1", repo.mirror().display()));
        again(&old).await.unwrap();
        assert!(old.as_str().starts_with(&describe()), "{}", describe());
        repo.sh(&format!("git -C origin.git tag v2 {main}"));
        again(&main).await.unwrap();
        assert_eq!(describe(), "v2");
        repo.sh(&format!("git -C origin.git update-ref refs/heads/main {old}"));
        refused(again(&main).await, "is not on main");
        again(&old).await.unwrap();
        repo.sh(&format!("git -C origin.git update-ref refs/heads/main {main}"));
        again(&main).await.unwrap();
    }

    #[tokio::test]
    async fn a_recipe_is_a_regular_file_of_bounded_size() {
        let repo = Repo::new();
        let commit = async |change: &str| {
            repo.sh(&format!(
                "cd clone && git checkout -q main && {change} && git add -A &&
                 git commit -qm change && git push -q ../origin.git main"
            ));
            remove(&repo.to()).unwrap();
            repo.checkout(&repo.commit("main"), "main").await
        };
        refused(
            commit("head -c 70000 /dev/zero | tr '\\0' '#' > deployctl.toml").await,
            "deployctl.toml has 70000 bytes, over the limit of 65536",
        );
        let linked = commit("ln -sf a deployctl.toml").await.unwrap();
        assert_eq!(linked.recipe, None);
        assert_eq!(commit("rm deployctl.toml").await.unwrap().recipe, None);
    }

    #[tokio::test]
    async fn slots_share_a_mirror_and_wait_for_each_other() {
        let repo = Repo::new();
        let commit = &repo.commit("main");
        let url = &repo.url();
        let wanted =
            Wanted { repo: url, trunk: "main", commit, allow_unmerged: false, compare: &[] };
        let places: Vec<PathBuf> =
            (0..4).map(|slot| repo.folder.path().join(format!("slot{slot}"))).collect();
        let all = places.iter().map(|to| repo.mirrors.checkout(wanted, to));
        for source in futures_util::future::join_all(all).await {
            source.unwrap();
        }
        let hasty = Mirrors { lock_wait: Duration::ZERO, ..repo.mirrors.clone() };
        let name = Digest::of(url.as_bytes());
        let lock = hasty.folder.join(format!("{name}.lock"));
        let _held = repo.mirrors.lock(&lock, Duration::ZERO).await.unwrap();
        let failure = hasty.checkout(wanted, &repo.to()).await.unwrap_err();
        assert_eq!(failure.class, BuildFailure::Infra, "{failure}");
    }
}
