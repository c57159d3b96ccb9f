//! Git, by its command, with nothing of this machine's configuration in it.
//!
//! Owns how git is called: which settings, which protocols, how long. Every
//! setting stands in one file of our own, because git hides `-c` from the
//! process that serves `file://`. No hooks, no submodules, no large-file
//! filters, no prompts, no garbage collection behind our back (another checkout
//! borrows the objects). Never decides which commit may be built.

use std::collections::HashSet;
use std::fmt::Write;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::process::Command;

use crate::host::exec::{self, Captured, ExecError};
use crate::model::ancestry::Relation;
use crate::model::commit::CommitId;

/// Protocols that are fetched over; no `ext`, no helpers.
const PROTOCOLS: [&str; 5] = ["https", "http", "git", "ssh", "file"];
/// Environment that reaches git: how to get out to the network, nothing else.
const NETWORK_ENV: [&str; 14] = [
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "GIT_SSL_CAINFO",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "CURL_CA_BUNDLE",
    "SSH_AUTH_SOCK",
    "PATH",
];
/// What is wrong with old commits of well-known public repositories and harms
/// nobody, and what only matters to submodules, which are never fetched.
/// Everything that could write outside a checkout stays an error.
const HARMLESS: &str = "badDate badDateOverflow badEmail badFilemode badName badTagName badTimezone \
    extraHeaderEntry gitattributesBlob gitattributesLarge gitattributesLineLength \
    gitattributesMissing gitattributesSymlink gitignoreSymlink gitmodulesBlob gitmodulesLarge \
    gitmodulesMissing gitmodulesName gitmodulesParse gitmodulesPath gitmodulesSymlink \
    gitmodulesUpdate gitmodulesUrl mailmapSymlink missingEmail missingNameBeforeEmail \
    missingSpaceBeforeDate missingSpaceBeforeEmail missingTaggerEntry multipleAuthors nulInCommit \
    zeroPaddedDate zeroPaddedFilemode";
/// What git says when the other side was reached and said no; asking again
/// gets the same answer.
const REMOTE_SAYS_NO: [&str; 9] = [
    "not found",
    "does not exist",
    "does not appear to be a git repository",
    "could not read Username",
    "Authentication failed",
    "Permission denied",
    "access denied",
    "not exported",
    "not valid: is this a git repository",
];

/// Why git did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum GitError {
    /// It could not run, or not in time.
    #[error("git {what}: {source}")]
    Exec {
        /// What it was to do.
        what: &'static str,
        /// Why it did not.
        source: ExecError,
    },
    /// It failed.
    #[error("git {what}: {reason}")]
    Failed {
        /// What it was to do.
        what: &'static str,
        /// The last thing that it said.
        reason: String,
    },
}

impl GitError {
    /// Whether the other side was reached and refused for good.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        let Self::Failed { reason, .. } = self else { return false };
        REMOTE_SAYS_NO.iter().any(|no| reason.contains(no))
    }
}

/// A commit's facts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitFacts {
    /// Its tree's id.
    pub tree: String,
    /// When it was committed, seconds since 1970.
    pub time_s: i64,
}

/// The git command with our settings; cheap to clone.
#[derive(Debug, Clone)]
pub struct Git {
    home: PathBuf,
    limit: Duration,
}

impl Git {
    /// Writes the settings into `home` (made if missing). Each call ends within `limit`.
    ///
    /// # Errors
    /// When `home` can't be written.
    pub fn open(home: &Path, limit: Duration) -> io::Result<Self> {
        std::fs::create_dir_all(home)?;
        let home = home.canonicalize()?;
        std::fs::write(home.join("gitconfig"), settings())?;
        Ok(Self { home, limit })
    }

    fn command(&self, folder: &Path) -> Command {
        let mut git = exec::guarded("git");
        git.env_clear().current_dir(folder);
        git.envs(NETWORK_ENV.iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
        git.env("HOME", &self.home).env("GIT_CONFIG_GLOBAL", self.home.join("gitconfig"));
        git.env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_ATTR_NOSYSTEM", "1");
        git.env("GIT_TERMINAL_PROMPT", "0").env("GIT_NO_LAZY_FETCH", "1").env("LC_ALL", "C");
        git.env("GIT_ALLOW_PROTOCOL", PROTOCOLS.join(":"));
        git.env("GIT_SSH_COMMAND", "ssh -oBatchMode=yes -oConnectTimeout=20");
        git.args(["-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false"]);
        git
    }

    async fn run(
        &self,
        folder: &Path,
        what: &'static str,
        arguments: &[&str],
    ) -> Result<Captured, GitError> {
        let mut git = self.command(folder);
        git.args(arguments);
        exec::capture(git, self.limit).await.map_err(|source| GitError::Exec { what, source })
    }

    /// Like [`Git::run`], but any code other than 0 is an error.
    async fn must(
        &self,
        folder: &Path,
        what: &'static str,
        arguments: &[&str],
    ) -> Result<Vec<u8>, GitError> {
        let said = self.run(folder, what, arguments).await?;
        if said.code == 0 {
            return Ok(said.stdout);
        }
        Err(failed(what, &said))
    }

    /// The branches and tags of a remote repository, sorted: each ref and the id that it names.
    ///
    /// # Errors
    /// When it can't be reached, or refuses.
    pub async fn listed(&self, url: &str) -> Result<Vec<(String, String)>, GitError> {
        let arguments = ["ls-remote", "--heads", "--tags", "--", url];
        let listed = self.must(&self.home, "ls-remote", &arguments).await?;
        let listed = String::from_utf8_lossy(&listed);
        let lines = listed.lines().filter_map(|line| line.split_once('\t'));
        Ok(lines.map(|(id, name)| (name.to_owned(), id.to_owned())).collect())
    }

    /// The commits that exactly these refs of a remote repository name; a tag names the
    /// commit that it stands for. Sorted by ref.
    ///
    /// # Errors
    /// When it can't be reached, or refuses.
    pub async fn refs(
        &self,
        url: &str,
        names: &[String],
    ) -> Result<Vec<(String, CommitId)>, GitError> {
        let mut arguments = vec!["ls-remote", "--", url];
        arguments.extend(names.iter().map(String::as_str));
        let listed = self.must(&self.home, "ls-remote", &arguments).await?;
        let mut found = std::collections::BTreeMap::new();
        for line in String::from_utf8_lossy(&listed).lines() {
            let Some((id, name)) = line.split_once('\t') else { continue };
            let plain = name.strip_suffix("^{}").unwrap_or(name);
            // The pattern main also matches other/main. What a tag stands for comes after it.
            if names.iter().any(|wanted| wanted.trim_end_matches("^{}") == plain)
                && let Ok(id) = id.parse()
            {
                found.insert(plain.to_owned(), id);
            }
        }
        Ok(found.into_iter().collect())
    }

    /// The newest `count` commits of `from`, newest first, following first parents: id,
    /// seconds since 1970, author, subject.
    ///
    /// # Errors
    /// When the mirror lacks objects.
    pub async fn log(
        &self,
        mirror: &Path,
        from: &str,
        count: usize,
    ) -> Result<Vec<(CommitId, i64, String, String)>, GitError> {
        let count = format!("--max-count={count}");
        let format = "--format=%H%x1f%ct%x1f%an%x1f%s";
        let arguments =
            ["log", "--first-parent", "--no-show-signature", &count, format, from, "--"];
        let said = self.must(mirror, "log", &arguments).await?;
        let said = String::from_utf8_lossy(&said);
        let line = |line: &str| {
            let [id, time, author, subject] = line.splitn(4, '\u{1f}').collect::<Vec<_>>()[..]
            else {
                return None;
            };
            Some((id.parse().ok()?, time.parse().ok()?, author.to_owned(), subject.to_owned()))
        };
        Ok(said.lines().filter_map(line).collect())
    }

    /// The one commit of the mirror whose id begins with `digits`; `None`: none, or more
    /// than one.
    ///
    /// # Errors
    /// When git can't run.
    pub async fn by_digits(
        &self,
        mirror: &Path,
        digits: &str,
    ) -> Result<Option<CommitId>, GitError> {
        let object = format!("{digits}^{{commit}}");
        let arguments = ["rev-parse", "--verify", "--quiet", "--end-of-options", &object];
        let said = self.run(mirror, "rev-parse", &arguments).await?;
        let id: Option<CommitId> = String::from_utf8_lossy(&said.stdout).trim().parse().ok();
        Ok(id.filter(|id| said.code == 0 && id.as_str().starts_with(digits)))
    }

    /// Makes an empty bare repository for commits of the same hash as `like`.
    ///
    /// # Errors
    /// When it can't be made.
    pub async fn init_bare(&self, folder: &Path, like: &CommitId) -> Result<(), GitError> {
        let format = if like.as_str().len() == 64 { "sha256" } else { "sha1" };
        let format = format!("--object-format={format}");
        let place = folder.to_string_lossy();
        let arguments = ["init", "--quiet", "--bare", "--template=", &format, "--", &place];
        self.must(&self.home, "init", &arguments).await.map(drop)
    }

    /// Fetches `refspecs`, full history, with the tags on it.
    ///
    /// # Errors
    /// When the remote can't be reached, refuses, or sends malformed objects.
    pub async fn fetch(&self, mirror: &Path, url: &str, refspecs: &[&str]) -> Result<(), GitError> {
        let fetch = [
            "fetch",
            "--quiet",
            "--force",
            "--update-shallow",
            "--no-recurse-submodules",
            "--no-auto-maintenance",
            "--no-write-fetch-head",
            "--",
            url,
        ];
        self.must(mirror, "fetch", &[&fetch, refspecs].concat()).await.map(drop)
    }

    /// Whether the mirror holds the commit.
    ///
    /// # Errors
    /// When git can't run.
    pub async fn holds(&self, mirror: &Path, commit: &CommitId) -> Result<bool, GitError> {
        let object = format!("{commit}^{{commit}}");
        Ok(self.run(mirror, "cat-file", &["cat-file", "-e", &object]).await?.code == 0)
    }

    /// Whether `branch` contains the commit. Never ask it of a shallow mirror.
    ///
    /// # Errors
    /// When the mirror lacks objects.
    pub async fn is_on(
        &self,
        mirror: &Path,
        commit: &CommitId,
        branch: &str,
    ) -> Result<bool, GitError> {
        let what = "merge-base";
        let arguments = ["merge-base", "--is-ancestor", commit.as_str(), branch];
        let said = self.run(mirror, what, &arguments).await?;
        match said.code {
            0 => Ok(true),
            1 => Ok(false),
            _ => Err(failed(what, &said)),
        }
    }

    /// What each of `others` is to the commit, in their order. Never ask it of a shallow mirror.
    ///
    /// # Errors
    /// When the mirror lacks one of them, or other objects.
    pub async fn relations(
        &self,
        mirror: &Path,
        commit: &CommitId,
        others: &[CommitId],
    ) -> Result<Vec<Relation>, GitError> {
        if others.is_empty() {
            return Ok(vec![]);
        }
        // What the commit's parents do not contain, parents first: no ancestor is there, and
        // all that is between the commit and a descendant.
        let parents = format!("^{commit}^@");
        let mut arguments = vec!["rev-list", "--topo-order", "--reverse", "--parents"];
        arguments.extend(others.iter().map(CommitId::as_str));
        arguments.extend([parents.as_str(), "--"]);
        let said = self.must(mirror, "rev-list", &arguments).await?;
        let said = String::from_utf8_lossy(&said);
        let (mut there, mut after) = (HashSet::new(), HashSet::from([commit.as_str()]));
        for line in said.lines() {
            let mut ids = line.split(' ');
            let Some(id) = ids.next() else { continue };
            there.insert(id);
            if ids.any(|parent| after.contains(parent)) {
                after.insert(id);
            }
        }
        let relation = |other: &CommitId| match other.as_str() {
            id if other == commit || !there.contains(id) => Relation::Ancestor,
            id if after.contains(id) => Relation::Descendant,
            _ => Relation::Apart,
        };
        Ok(others.iter().map(relation).collect())
    }

    /// The commit's tree and time; `None` when the mirror does not hold it.
    ///
    /// # Errors
    /// When git can't run.
    pub async fn facts(
        &self,
        mirror: &Path,
        commit: &CommitId,
    ) -> Result<Option<CommitFacts>, GitError> {
        let what = "show";
        let arguments =
            ["show", "--no-patch", "--no-notes", "--format=%H%n%T%n%ct", commit.as_str()];
        let said = self.run(mirror, what, &arguments).await?;
        if said.code != 0 {
            return Ok(None);
        }
        let said = String::from_utf8_lossy(&said.stdout);
        let strange = || GitError::Failed { what, reason: "it answered something else".into() };
        let [id, tree, time] = said.lines().collect::<Vec<_>>()[..] else { return Err(strange()) };
        let time_s = time.parse().map_err(|_| strange())?;
        if id != commit.as_str() {
            return Err(strange());
        }
        Ok(Some(CommitFacts { tree: tree.to_owned(), time_s }))
    }

    /// Makes a clean checkout of the commit at `to`, with a repository of its own
    /// that borrows the mirror's objects, so that `git describe` works in a build.
    ///
    /// # Errors
    /// When the mirror lacks objects, or the disk is full.
    pub async fn checkout(
        &self,
        mirror: &Path,
        commit: &CommitId,
        to: &Path,
    ) -> Result<(), GitError> {
        let (from, place) = (mirror.to_string_lossy(), to.to_string_lossy());
        let clone =
            ["clone", "--quiet", "--shared", "--no-checkout", "--template=", "--", &from, &place];
        self.must(&self.home, "clone", &clone).await?;
        let checkout = ["checkout", "--quiet", "--force", "--detach", commit.as_str(), "--"];
        self.must(to, "checkout", &checkout).await?;
        let head = std::fs::read_to_string(to.join(".git/HEAD")).unwrap_or_default();
        if head.trim_end() == commit.as_str() {
            return Ok(());
        }
        Err(GitError::Failed { what: "checkout", reason: format!("it is not at {commit}") })
    }
}

/// The settings file.
fn settings() -> String {
    let mut text = String::from(
        "[core]\n\thooksPath = /dev/null\n\tfsmonitor = false\n\tlogAllRefUpdates = false\n\
         [init]\n\tdefaultBranch = main\n[advice]\n\tdetachedHead = false\n\
         [gc]\n\tauto = 0\n\tautoDetach = false\n[maintenance]\n\tauto = false\n\
         [submodule]\n\trecurse = false\n[credential]\n\thelper =\n\
         [safe]\n\tdirectory = *\n[uploadpack]\n\tallowAnySHA1InWant = true\n\
         [transfer]\n\tfsckObjects = true\n\tbundleURI = false\n\
         [http]\n\tlowSpeedLimit = 1000\n\tlowSpeedTime = 60\n[protocol]\n\tallow = never\n",
    );
    // Writing to a string can't fail.
    for protocol in PROTOCOLS {
        let _ = write!(text, "[protocol \"{protocol}\"]\n\tallow = always\n");
    }
    text.push_str("[fetch]\n\tfsckObjects = true\n[fetch \"fsck\"]\n");
    for message in HARMLESS.split_whitespace() {
        let _ = writeln!(text, "\t{message} = ignore");
    }
    text
}

/// The last line that tells something.
fn failed(what: &'static str, said: &Captured) -> GitError {
    let told = |line: &&str| line.starts_with("fatal: ") || line.starts_with("error: ");
    let lines = || said.stderr.lines().map(str::trim).filter(|line| !line.is_empty());
    // The first complaint is the cause, later ones its consequences.
    let line = lines().find(told).or_else(|| lines().next_back());
    let line = line.map(|line| line.trim_start_matches("fatal: ").trim_start_matches("error: "));
    let reason = match line {
        Some(line) => line.chars().filter(|c| !c.is_control()).take(400).collect(),
        None => format!("it ended with code {}", said.code),
    };
    GitError::Failed { what, reason }
}

/// Whether `url` may be given to git.
///
/// # Errors
/// The rule that it breaks.
pub fn check_url(url: &str) -> Result<(), &'static str> {
    if url.len() > 2048 || url.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err("a repository's URL has at most 2048 bytes, without blanks");
    }
    let known = PROTOCOLS.iter().any(|protocol| {
        let rest = url.strip_prefix(protocol).and_then(|rest| rest.strip_prefix("://"));
        rest.is_some_and(|rest| !rest.is_empty() && !rest.starts_with('-'))
    });
    if known || url.starts_with('/') || is_ssh_short(url) {
        return Ok(());
    }
    Err(
        "a repository is https://, http://, git://, ssh://, file://, user@host:path or an absolute path",
    )
}

/// `user@host:path`, and nothing that looks like an option or a helper (`ext::`).
fn is_ssh_short(url: &str) -> bool {
    let word = |text: &str| {
        text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
    };
    url.split_once(':').is_some_and(|(left, path)| {
        let named = left.split_once('@').is_some_and(|(user, host)| word(user) && word(host));
        named && !path.is_empty() && !path.starts_with([':', '-'])
    })
}

/// Whether `name` can be a branch, by git's own rules for refs.
#[must_use]
pub fn is_branch_name(name: &str) -> bool {
    let part = |part: &str| !part.is_empty() && !part.starts_with('.') && !part.ends_with(".lock");
    let bad = |c: char| c.is_control() || " ~^:?*[\\".contains(c);
    (1..=255).contains(&name.len())
        && !name.starts_with('-')
        && !name.ends_with('.')
        && !name.contains("..")
        && !name.contains("@{")
        && name != "@"
        && !name.chars().any(bad)
        && name.split('/').all(part)
}

/// `url` without user and password, for records and messages.
#[must_use]
pub fn without_credentials(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    format!("{scheme}://{host}{path}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_urls_and_branch_names_reach_git() {
        for good in [
            "https://example.org/a.git",
            "file:///srv/a",
            "git://h/a",
            "git@example.org:a/b.git",
            "/srv/a",
        ] {
            assert_eq!(check_url(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "-u",
            "--upload-pack=touch x",
            "ext::sh -c x",
            "ext::x",
            "https://",
            "ssh://-oProxyCommand=x",
            "relative",
            "a@b",
            "u@-h:x",
            "u@h:-x",
            "https://h/a b",
            "HTTPS://h/a",
        ] {
            assert!(check_url(bad).is_err(), "{bad}");
        }
        for bad in ["", "-x", "a..b", "a b", "a/", "/a", "x.lock", "a@{1}", "@", ".a", "a:b", "a*"]
        {
            assert!(!is_branch_name(bad), "{bad}");
        }
        assert!(is_branch_name("main") && is_branch_name("release/1.2") && is_branch_name("a@b"));
    }

    #[test]
    fn credentials_do_not_reach_records() {
        assert_eq!(without_credentials("https://u:p@h:8/a@b"), "https://h:8/a@b");
        assert_eq!(without_credentials("https://h"), "https://h");
        assert_eq!(without_credentials("git@h:a"), "git@h:a");
    }

    #[test]
    fn the_first_complaint_is_the_reason() {
        let stderr = "remote: x\nfatal: repository 'u' not found\nfatal: could not fetch\n".into();
        let error = failed("fetch", &Captured { code: 128, stdout: vec![], stderr });
        assert_eq!(error.to_string(), "git fetch: repository 'u' not found");
        assert!(error.is_refusal());
    }
}
