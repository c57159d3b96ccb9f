//! What people call a release: `r411`, `b12`, `@`, `@~2`, `@stable`, `@latest`,
//! `staging:@`, or at least 7 hexadecimal digits of a commit.
//!
//! Branches and tags mean nothing here: the command resolves them in the local
//! repository before it asks.

use crate::model::id::{EnvName, JobNo, ReleaseNo};
use crate::model::rollout::RolloutState;
use crate::store::db::deployables::{self, Deployable};
use crate::store::db::releases::{self, ReleaseRow};
use crate::store::db::{Tx, envs};
use crate::wire::problem::{Code, Problem};
use crate::wire::v1::app::AppSpec;

/// Longest reference, bytes: an env's name, a colon and a SHA-256 commit.
pub(super) const REF_BYTES_MAX: usize = 200;
/// Fewest digits of a commit: fewer are ambiguous in any large repository.
const DIGITS_MIN: usize = 7;
/// How far back `@~N` looks, releases.
const BACK_MAX: u32 = 500;

/// What a reference names.
#[derive(Debug)]
pub(super) enum Named {
    /// A release.
    Release(Box<ReleaseRow>),
    /// A build.
    Build(Deployable),
}

/// Looks `text` up for `app` in `env`.
///
/// # Errors
/// A problem with hints when it is malformed, ambiguous, or names nothing.
pub(super) fn resolve(tx: &Tx, app: &AppSpec, env: &EnvName, text: &str) -> Result<Named, Problem> {
    if text.len() > REF_BYTES_MAX {
        return Err(malformed(text));
    }
    if let Ok(release) = text.parse::<ReleaseNo>() {
        return release_of(tx, app, env, release).map(Named::release);
    }
    if let Ok(build) = text.parse::<JobNo>() {
        let found = deployables::find(tx, &app.name, build)?;
        let unknown = || {
            Problem::new(Code::NotFound, format!("{} has no build {build}", app.name))
                .hint(format!("deployctl builds -a {}", app.name))
        };
        return found.map(Named::Build).ok_or_else(unknown);
    }
    if text.starts_with('@') {
        return at(tx, app, env, text);
    }
    if let Some((name, rest)) = text.split_once(':') {
        return elsewhere(tx, app, name, rest);
    }
    commit(tx, app, text)
}

impl Named {
    fn release(row: ReleaseRow) -> Self {
        Self::Release(Box::new(row))
    }
}

fn release_of(
    tx: &Tx,
    app: &AppSpec,
    env: &EnvName,
    release: ReleaseNo,
) -> Result<ReleaseRow, Problem> {
    releases::find(tx, &app.name, env, release)?.ok_or_else(|| no_release(app, env, release))
}

/// The refusal of a release that does not exist.
pub(super) fn no_release(app: &AppSpec, env: &EnvName, release: ReleaseNo) -> Problem {
    Problem::new(Code::NotFound, format!("{} has no release {release} in {env}", app.name))
        .hint(format!("deployctl history -a {} -e {env}", app.name))
}

fn at(tx: &Tx, app: &AppSpec, env: &EnvName, text: &str) -> Result<Named, Problem> {
    let row = envs::find(tx, &app.name, env)?;
    if text == "@latest" {
        let none = || {
            Problem::new(Code::NotDeployable, format!("{} has no build to deploy", app.name))
                .because("none has succeeded and is replicated to every region")
                .hint(format!("deployctl build HEAD -a {}", app.name))
        };
        return deployables::latest(tx, &app.name)?.map(Named::Build).ok_or_else(none);
    }
    if text == "@stable" {
        let target = row.stable.base.or_else(|| row.stable.region_base.values().next().copied());
        let none = || {
            Problem::new(
                Code::NotFound,
                format!("no release of {} in {env} has succeeded", app.name),
            )
            .hint(format!("deployctl history -a {} -e {env}", app.name))
        };
        let release = target.map(|target| target.release).ok_or_else(none)?;
        return release_of(tx, app, env, release).map(Named::release);
    }
    let back = match text.strip_prefix('@') {
        Some("") => 0,
        Some("~") => 1,
        Some(rest) => match rest.strip_prefix('~').map(str::parse::<u32>) {
            Some(Ok(back)) if back <= BACK_MAX => back,
            _ => return Err(malformed(text)),
        },
        None => return Err(malformed(text)),
    };
    let goal = row.goal_release.ok_or_else(|| never(app, env))?;
    let mut row = release_of(tx, app, env, goal)?;
    for _ in 0..back {
        row = known_good_before(tx, app, env, &row)?;
    }
    Ok(Named::release(row))
}

/// The newest known-good release before `row` that brings something else.
pub(super) fn known_good_before(
    tx: &Tx,
    app: &AppSpec,
    env: &EnvName,
    row: &ReleaseRow,
) -> Result<ReleaseRow, Problem> {
    let release = row.rollout.release;
    let found = match row.bits() {
        Some(bits) => releases::known_good(tx, (&app.name, env), release, &bits)?,
        None => None,
    };
    match found {
        Some(found) => Ok(found),
        None => Err(no_known_good(tx, app, env, row)?),
    }
}

/// What the word means.
const KNOWN_GOOD: &str = "known-good is a release whose rollout succeeded, until it is marked bad";

/// The answer that there is none, with the newest release that brought something else, if any
/// did; else the failure of the look for it.
fn no_known_good(
    tx: &Tx,
    app: &AppSpec,
    env: &EnvName,
    row: &ReleaseRow,
) -> Result<Problem, Problem> {
    let (name, release) = (&app.name, row.rollout.release);
    let none = Problem::new(
        Code::NotFound,
        format!("{name} has no known-good release before {release} in {env}"),
    );
    let ran = |other: &ReleaseRow| other.rollout.version.is_some() && other.bits().is_some();
    let rows = releases::list(tx, name, env, Some(release), BACK_MAX)?;
    let others: Vec<ReleaseRow> =
        rows.into_iter().filter(|other| ran(other) && other.bits() != row.bits()).collect();
    // One that was on every host once is likelier to be wanted than one that never was.
    let whole = others.iter().find(|other| other.rollout.state == RolloutState::Succeeded);
    let other = whole.or(others.first());
    let history = format!("deployctl history -a {name} -e {env}");
    Ok(match other {
        None => none.because(format!("{env} ran nothing else before it")).hint(history),
        Some(other) => {
            // A rollback is called by what it went back to.
            let same = other.same_as.filter(|_| other.is_rollback());
            let back = same.unwrap_or(other.rollout.release);
            let (why, flags) = match other.bad {
                true => ("was marked bad".to_owned(), " --allow-bad -m WHY"),
                false => (format!("is {}", other.rollout.state.word()), ""),
            };
            none.because(format!("{back} ran before it, but {why}; {KNOWN_GOOD}"))
                .hint(format!("deployctl rollback {back} -a {name} -e {env}{flags}"))
                .hint(history)
        }
    })
}

/// `none`, or where the rollout that is `open` brings what ran before it: that there is
/// nothing to go back to, and what ends it.
pub(super) fn or_cancel(none: Problem, open: Option<&ReleaseRow>) -> Problem {
    let base = |row: &ReleaseRow| row.rollout.stable.base;
    let same = |row: &&ReleaseRow| {
        !row.is_rollback() && base(row).is_some_and(|base| row.bits() == Some(base.bits()))
    };
    let Some((open, base)) = open.filter(same).and_then(|row| Some((row, base(row)?))) else {
        return none;
    };
    let (rules, base) = (&open.rollout, base.release);
    let release = rules.release;
    Problem::new(none.code, format!("{release} brings what {base} brought: nothing to go back to"))
        .because("no release before them is known-good; what is under way ends by cancel")
        .hint(format!("deployctl cancel {release} -a {} -e {}", rules.app, rules.env))
        .hint(format!("deployctl history -a {} -e {}", rules.app, rules.env))
}

/// The refusal of an env that was never deployed to.
pub(super) fn never(app: &AppSpec, env: &EnvName) -> Problem {
    Problem::new(Code::NotFound, format!("{} was never deployed to {env}", app.name))
        .hint(format!("deployctl deploy @latest -a {} -e {env}", app.name))
}

/// `staging:@`: only what is deployed there; a commit needs no env.
fn elsewhere(tx: &Tx, app: &AppSpec, name: &str, rest: &str) -> Result<Named, Problem> {
    let env = app.envs.iter().find(|env| env.as_str() == name);
    let env = env.ok_or_else(|| no_env(app, name))?;
    match rest.parse::<ReleaseNo>() {
        Ok(release) => release_of(tx, app, env, release).map(Named::release),
        Err(_) if rest.starts_with('@') && rest != "@latest" => at(tx, app, env, rest),
        Err(_) => Err(malformed(&format!("{name}:{rest}"))),
    }
}

/// The refusal of an env that the app does not have.
pub(super) fn no_env(app: &AppSpec, name: &str) -> Problem {
    let envs: Vec<&str> = app.envs.iter().map(EnvName::as_str).collect();
    let name: String = name.chars().take(80).collect();
    Problem::new(Code::NotFound, format!("{} has no env {name:?}", app.name))
        .because(format!("it has {}", envs.join(", ")))
        .hint(format!("deployctl status {}", app.name))
}

fn commit(tx: &Tx, app: &AppSpec, text: &str) -> Result<Named, Problem> {
    let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    if !(DIGITS_MIN..=64).contains(&text.len()) || !text.bytes().all(hex) {
        return Err(malformed(text));
    }
    let commits = deployables::commits(tx, &app.name, text)?;
    match &commits[..] {
        [] => Err(unbuilt(app, text)),
        [commit] => {
            let found = deployables::of_commit(tx, &app.name, commit)?;
            found.map(Named::Build).ok_or_else(|| unbuilt(app, text))
        }
        several => {
            let names: Vec<&str> = several.iter().map(|commit| commit.short()).collect();
            Err(Problem::new(Code::Usage, format!("{text} could be several commits"))
                .because(names.join(", "))
                .hint(format!("deployctl deploy {} -a {}", several[0], app.name)))
        }
    }
}

fn unbuilt(app: &AppSpec, text: &str) -> Problem {
    let short: String = text.chars().take(10).collect();
    Problem::new(Code::NotDeployable, format!("{short} cannot be deployed yet"))
        .because(format!("{} has no build of it", app.name))
        .hint(format!("deployctl build {text} -a {}", app.name))
        .hint(format!("deployctl deploy {text} -a {} --build", app.name))
}

fn malformed(text: &str) -> Problem {
    let text: String = text.chars().take(80).collect();
    Problem::new(Code::Usage, format!("{text:?} names no release, build or commit")).because(
        "use r411, b12, @, @~, @~2, @stable, @latest, staging:@, or 7 to 64 digits of a commit",
    )
}
