//! Runs the build command of a checked-out commit, and says in one sentence how
//! it went.
//!
//! The environment is made from nothing: a short list of the worker's own that
//! toolchains need, the commit's facts, and the recipe's variables. The worker's
//! token and key are files that the environment does not name.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::host::git::{CommitFacts, without_credentials};
use crate::host::sandbox::{End, Program, Sandbox, Stop};
use crate::model::recipe::{BUILD_LIMIT_S_MAX, BuildSpec};
use crate::wire::v1::worker::Claim;
use crate::worker::failure::Failure;
use crate::worker::lease::{Hold, Standing};
use crate::worker::log::LogWriter;

/// Variables of the worker that every build gets when they are set: where
/// toolchains live, where they cache, how they get out to the network.
const PASSED: &str = "PATH RUSTUP_HOME RUSTUP_TOOLCHAIN CARGO_HOME GOROOT GOPATH GOCACHE \
    GOMODCACHE GOPROXY GOSUMDB GOFLAGS JAVA_HOME PYENV_ROOT NVM_DIR npm_config_cache \
    npm_config_registry npm_config_userconfig PIP_CACHE_DIR PIP_CONFIG_FILE PIP_INDEX_URL \
    PIP_FIND_LINKS PIP_CERT UV_CACHE_DIR http_proxy https_proxy all_proxy no_proxy HTTP_PROXY \
    HTTPS_PROXY ALL_PROXY NO_PROXY SSL_CERT_FILE SSL_CERT_DIR CURL_CA_BUNDLE GIT_SSL_CAINFO \
    REQUESTS_CA_BUNDLE NODE_EXTRA_CA_CERTS NIX_SSL_CERT_FILE";
/// Where toolchains look below the home folder, which is another one in a build:
/// passed when the folder or file is there and the variable is not set.
const UNDER_HOME: [(&str, &str); 8] = [
    ("RUSTUP_HOME", ".rustup"),
    ("CARGO_HOME", ".cargo"),
    ("GOMODCACHE", "go/pkg/mod"),
    ("GOCACHE", ".cache/go-build"),
    ("PYENV_ROOT", ".pyenv"),
    ("npm_config_cache", ".npm"),
    ("npm_config_userconfig", ".npmrc"),
    ("PIP_CACHE_DIR", ".cache/pip"),
];
/// Free bytes that a build must leave to the worker and its neighbours, at most;
/// on a small disk a twentieth of it.
const RESERVE_BYTES: u64 = 512 << 20;
/// How often the disk is looked at.
const DISK_POLL: Duration = Duration::from_millis(250);

/// The folders of one slot; made anew for each attempt.
#[derive(Debug, Clone)]
pub struct Scratch {
    /// All of it.
    pub root: PathBuf,
}

impl Scratch {
    /// Empties the folder and makes it ready.
    ///
    /// # Errors
    /// When the disk does not allow it.
    pub fn renew(&self) -> std::io::Result<()> {
        crate::worker::checkout::remove(&self.root)?;
        std::fs::create_dir_all(self.home())?;
        std::fs::create_dir_all(self.tmp())
    }

    /// The checkout.
    #[must_use]
    pub fn src(&self) -> PathBuf {
        self.root.join("src")
    }

    fn home(&self) -> PathBuf {
        self.root.join("home")
    }

    fn tmp(&self) -> PathBuf {
        self.root.join("tmp")
    }

    /// The log until it is delivered.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.root.join("log")
    }
}

/// The part of a worker's environment that its builds get.
#[must_use]
pub fn passed_environment(
    own: impl Fn(&str) -> Option<String>,
    extra: &[String],
) -> BTreeMap<String, String> {
    let names = PASSED.split_whitespace().chain(extra.iter().map(String::as_str));
    let mut env: BTreeMap<String, String> =
        names.filter_map(|name| Some((name.to_owned(), own(name)?))).collect();
    let home = own("HOME").map(PathBuf::from);
    for (name, below) in UNDER_HOME {
        let place = home.as_ref().map(|home| home.join(below)).filter(|place| place.exists());
        if let (Some(place), false) = (place, env.contains_key(name)) {
            env.insert(name.to_owned(), place.display().to_string());
        }
    }
    env.entry("PATH".to_owned()).or_insert_with(|| "/usr/local/bin:/usr/bin:/bin".to_owned());
    env
}

/// The whole environment of one build.
#[must_use]
pub fn environment(
    passed: &BTreeMap<String, String>,
    claim: &Claim,
    facts: &CommitFacts,
    scratch: &Scratch,
    spec: &BuildSpec,
) -> BTreeMap<String, String> {
    let path = |path: PathBuf| path.display().to_string();
    let own = [
        ("LANG", "C.UTF-8".to_owned()),
        ("TZ", "UTC".to_owned()),
        ("CI", "true".to_owned()),
        ("HOME", path(scratch.home())),
        ("TMPDIR", path(scratch.tmp())),
        ("SOURCE_DATE_EPOCH", facts.time_s.to_string()),
        ("DEPLOYCTL_APP", claim.app.to_string()),
        ("DEPLOYCTL_BUILD", claim.build.to_string()),
        ("DEPLOYCTL_COMMIT", claim.commit.to_string()),
        ("DEPLOYCTL_REPO", without_credentials(&claim.repo)),
    ];
    let mut env = passed.clone();
    env.extend(own.map(|(name, value)| (name.to_owned(), value)));
    env.extend(spec.env.clone());
    env
}

/// One run of a build command.
#[derive(Debug)]
pub struct Build<'a> {
    /// The walls.
    pub sandbox: &'a Sandbox,
    /// The slot's folders.
    pub scratch: &'a Scratch,
    /// What to run.
    pub spec: &'a BuildSpec,
    /// The whole environment.
    pub env: &'a BTreeMap<String, String>,
    /// Between TERM and KILL.
    pub grace: Duration,
}

/// How a build ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Built {
    /// Exit code 0.
    Well,
    /// It failed.
    Failed(Failure),
    /// The job's standing changed, and the build was killed.
    Dropped,
}

impl Build<'_> {
    /// Runs the command until it ends, its limit, or the job's standing changes. No
    /// process of it lives on return.
    ///
    /// # Errors
    /// When it can't be started.
    pub async fn run(&self, hold: &Hold, log: &mut LogWriter) -> std::io::Result<Built> {
        let mark = self.scratch.root.display().to_string();
        let limit = Duration::from_secs(self.spec.limit_s.into());
        let program = Program {
            command: &self.spec.command,
            folder: &self.scratch.src(),
            env: self.env,
            mark: &mark,
            limit,
            grace: self.grace,
        };
        let stop = async {
            tokio::select! {
                standing = hold.ended() => match standing {
                    Standing::Canceled | Standing::Draining => Stop::Gently,
                    Standing::Lost | Standing::Held => Stop::AtOnce,
                },
                () = disk_full(&self.scratch.root) => Stop::AtOnce,
            }
        };
        let end = self.sandbox.run(&program, stop, |bytes| log.write(bytes)).await?;
        let full = || Built::Failed(Failure::build(full_reason(&self.scratch.root)));
        Ok(match end {
            End::Exited(0) => Built::Well,
            End::Stopped if hold.standing() != Standing::Held => Built::Dropped,
            End::Stopped => full(),
            End::Exited(_) if is_full(&self.scratch.root) => full(),
            End::Exited(code) => Built::Failed(Failure::build(exit_reason(code))),
            End::TimedOut => Built::Failed(Failure::timeout(format!(
                "the build ran longer than its limit of {0} s and was stopped; \
                 limit_s in [build] raises it, up to {BUILD_LIMIT_S_MAX}",
                self.spec.limit_s
            ))),
        })
    }
}

fn exit_reason(code: i32) -> String {
    match code {
        126 => "the build command can't be executed (exit code 126)".to_owned(),
        127 => "the build command is not found (exit code 127)".to_owned(),
        137 => "the build was killed (signal 9); the machine may be out of memory".to_owned(),
        129..=192 => format!("the build was ended by signal {}", code - 128),
        code => format!("the build ended with exit code {code}"),
    }
}

/// Free bytes of the file system, and how many of them are the worker's.
#[must_use]
pub fn free_bytes(folder: &Path) -> Option<(u64, u64)> {
    let disk = rustix::fs::statvfs(folder).ok()?;
    let all = disk.f_blocks.saturating_mul(disk.f_frsize);
    Some((disk.f_bavail.saturating_mul(disk.f_frsize), RESERVE_BYTES.min(all / 20)))
}

fn is_full(folder: &Path) -> bool {
    free_bytes(folder).is_some_and(|(free, reserve)| free < reserve)
}

fn full_reason(folder: &Path) -> String {
    let (free, reserve) = free_bytes(folder).unwrap_or_default();
    format!(
        "the build filled the worker's disk: {} MiB are free, {} MiB must stay free",
        free >> 20,
        reserve >> 20
    )
}

async fn disk_full(folder: &Path) {
    while !is_full(folder) {
        tokio::time::sleep(DISK_POLL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::log;

    struct Ran {
        built: Built,
        log: String,
    }

    async fn run(command: &str, limit_s: u32, then: Option<Standing>) -> Ran {
        let folder = tempfile::tempdir().unwrap();
        let scratch = Scratch { root: folder.path().join("slot") };
        scratch.renew().unwrap();
        std::fs::create_dir(scratch.src()).unwrap();
        let spec = BuildSpec {
            command: command.into(),
            artifact: "out".into(),
            limit_s,
            env: BTreeMap::new(),
        };
        let env = passed_environment(|name| std::env::var(name).ok(), &[]);
        let sandbox = Sandbox::detect();
        let grace = Duration::from_millis(200);
        let build = Build { sandbox: &sandbox, scratch: &scratch, spec: &spec, env: &env, grace };
        let bounds = log::Bounds { head: 64 << 10, tail: 1 << 10 };
        let (mut writer, mut reader) = log::open(&scratch.log(), bounds).unwrap();
        let (sender, hold) = Hold::by_hand();
        let changing = async {
            if let Some(standing) = then {
                while !scratch.src().join("up").exists() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                sender.send_replace(standing);
            }
        };
        let (built, ()) = tokio::join!(build.run(&hold, &mut writer), changing);
        writer.close();
        let mut log = String::new();
        while let Some((_, text)) = reader.next().await.unwrap() {
            reader.took(&text);
            log.push_str(&text);
        }
        Ran { built: built.unwrap(), log }
    }

    #[tokio::test]
    async fn the_reason_says_how_a_build_ended() {
        let reason = |ran: Ran| match ran.built {
            Built::Failed(failure) => failure.reason,
            other => panic!("{other:?}"),
        };
        assert_eq!(run("echo fine", 60, None).await.built, Built::Well);
        assert_eq!(reason(run("exit 3", 60, None).await), "the build ended with exit code 3");
        assert!(reason(run("nonexistent-tool", 60, None).await).contains("not found"));
        assert!(reason(run("kill -9 $$", 60, None).await).contains("signal 9"));
        assert!(reason(run("sleep 1000", 1, None).await).contains("its limit of 1 s"));
        let up = "touch up; sleep 1000";
        for standing in [Standing::Canceled, Standing::Draining, Standing::Lost] {
            assert_eq!(run(up, 60, Some(standing)).await.built, Built::Dropped);
        }
    }

    #[tokio::test]
    async fn a_chatty_build_leaves_a_bounded_log() {
        let ran =
            run("yes 'a line of a very chatty build' | head -c 20000000; echo THE END", 60, None);
        let ran = ran.await;
        assert_eq!(ran.built, Built::Well);
        assert!(ran.log.len() < 70 << 10 && ran.log.ends_with("THE END\n"), "{}", ran.log.len());
        assert!(ran.log.contains("bytes of output left out here"));
    }

    #[test]
    fn builds_get_what_toolchains_need_and_no_more() {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir(home.path().join(".cargo")).unwrap();
        let place = home.path().display().to_string();
        let own = |name: &str| match name {
            "HOME" => Some(place.clone()),
            "RUSTUP_HOME" | "SECRET" | "WANTED" => Some("x".to_owned()),
            _ => None,
        };
        let env = passed_environment(own, &["WANTED".to_owned()]);
        let names: Vec<&str> = env.keys().map(String::as_str).collect();
        assert_eq!(names, ["CARGO_HOME", "PATH", "RUSTUP_HOME", "WANTED"]);
        assert_eq!(env["CARGO_HOME"], format!("{place}/.cargo"));
    }
}
