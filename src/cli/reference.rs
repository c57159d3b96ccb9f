//! What a person calls a release, and what the coordinator is asked for.
//!
//! Order: `r411` and `b12`, `@…` and `env:@…`, hexadecimal digits; these go to the
//! coordinator as they are (digits in full, where the local git repository knows the
//! commit). Anything else is a revision of the local git repository.
//! Owns the warnings about edits that are not committed and commits not pushed.

use super::api::Api;
use super::context::Context;
use super::failure::{ExitCode, Failure};
use super::typed;
use crate::config::instead::nearest;
use crate::host::repo::{Commit, Repo};
use crate::model::commit::CommitId;
use crate::model::id::{AppName, EnvName, JobNo, ReleaseNo};

/// Fewest digits that count as a commit.
const HEX_MIN: usize = 7;

/// What was meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// The coordinator knows: `r411`, `b12`, `@~`, `staging:@`, hexadecimal digits.
    Named(String),
    /// A commit of the local repository.
    Commit(Commit),
    /// A commit that was given by its digits and is known here too: whether it was
    /// pushed is not asked, for the coordinator may have built it long ago.
    Digits(Commit),
}

impl Target {
    /// The text that the coordinator is asked for.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Self::Named(name) => name.clone(),
            Self::Commit(commit) | Self::Digits(commit) => commit.id.to_string(),
        }
    }

    /// The full commit, where there is one.
    #[must_use]
    pub fn commit(&self) -> Option<Commit> {
        match self {
            Self::Commit(commit) | Self::Digits(commit) => Some(commit.clone()),
            Self::Named(name) => {
                let id = name.parse().ok()?;
                Some(Commit { id, subject: String::new() })
            }
        }
    }
}

/// How a ref reads, before anything was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// `r411` or `b12`.
    Numbered,
    /// `@`, `@~2`, `@stable`, `@latest`, with or without `env:`.
    Relative,
    /// At least seven hexadecimal digits.
    Hex,
    /// For git.
    Revision,
}

fn kind(text: &str) -> Kind {
    let relative = |text: &str| {
        let rest = text.strip_prefix('@');
        rest.is_some_and(|rest| {
            let steps = rest.strip_prefix('~');
            matches!(rest, "" | "stable" | "latest")
                || steps.is_some_and(|n| n.len() <= 3 && n.bytes().all(|b| b.is_ascii_digit()))
        })
    };
    let hex = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
    if text.parse::<ReleaseNo>().is_ok() || text.parse::<JobNo>().is_ok() {
        return Kind::Numbered;
    }
    let in_env = text.split_once(':');
    if relative(text)
        || in_env.is_some_and(|(env, rest)| env.parse::<EnvName>().is_ok() && relative(rest))
    {
        return Kind::Relative;
    }
    if (HEX_MIN..=64).contains(&text.len()) && text.bytes().all(hex) {
        return Kind::Hex;
    }
    Kind::Revision
}

/// Resolves a ref of something to deploy or roll back to.
///
/// # Errors
/// Exit code 2 when a branch is named like a release, 3 when git does not know it.
pub fn resolve(ctx: &Context, text: &str) -> Result<Target, Failure> {
    match kind(text) {
        Kind::Numbered => {
            refuse_ambiguity(ctx, text)?;
            Ok(Target::Named(text.to_owned()))
        }
        Kind::Hex => {
            Ok(known_here(ctx, text).map_or_else(|| Target::Named(text.to_owned()), Target::Digits))
        }
        Kind::Relative => Ok(Target::Named(text.to_owned())),
        Kind::Revision => resolve_locally(ctx, text).map(Target::Commit),
    }
}

/// Resolves a ref of something to build: always one full commit.
///
/// # Errors
/// As [`resolve`]; exit code 2 for a release.
pub fn resolve_commit(ctx: &Context, text: &str) -> Result<Commit, Failure> {
    match kind(text) {
        Kind::Hex if text.parse::<CommitId>().is_ok() => {
            let subject = known_here(ctx, text).map(|commit| commit.subject).unwrap_or_default();
            Ok(Commit { id: text.parse()?, subject })
        }
        Kind::Numbered => {
            refuse_ambiguity(ctx, text)?;
            Err(Failure::usage(format!("{text} is not a commit"))
                .because("a build starts from a commit of the repository")
                .hint("deployctl build HEAD"))
        }
        Kind::Relative if text != "@" => {
            Err(Failure::usage(format!("{text} names a release, not a commit"))
                .hint("deployctl build HEAD"))
        }
        _ => resolve_locally(ctx, text),
    }
}

/// The commit that the digits name in the local repository, where there is one: it
/// has a subject and all its digits. Nothing is refused without it.
fn known_here(ctx: &Context, digits: &str) -> Option<Commit> {
    let commit = ctx.repo().ok()?.resolve(digits).ok()?;
    commit.id.as_str().starts_with(digits).then_some(commit)
}

fn refuse_ambiguity(ctx: &Context, text: &str) -> Result<(), Failure> {
    match ctx.repo() {
        Ok(repo) if repo.has_name(text) => Err(Failure::usage(format!(
            "{text} is a number here and also a branch or tag of this repository"
        ))
        .hint(format!("for the branch: refs/heads/{text}"))),
        _ => Ok(()),
    }
}

fn resolve_locally(ctx: &Context, text: &str) -> Result<Commit, Failure> {
    let repo = ctx.repo()?;
    let commit = repo.resolve(text).map_err(|error| {
        let mut failure = Failure::from(error);
        let names = repo.names();
        let near = nearest(text, names.iter().map(String::as_str));
        let line = near.and_then(|near| typed::replacing(text, near));
        failure.hints.splice(0..0, line.map(|line| format!("did you mean: {line}")));
        failure
    })?;
    let remote = repo.remote_branch_with(&commit.id)?;
    let mut facts: Vec<String> =
        repo.branch().filter(|_| text == "HEAD" || text == "@").into_iter().collect();
    facts.extend(remote.map(|_| "pushed".to_owned()));
    let facts = if facts.is_empty() { String::new() } else { format!(" ({})", facts.join(", ")) };
    let arrow = ctx.out.arrow();
    ctx.out.story(&format!("{text} {arrow} {} {:?}{facts}", commit.id.short(), commit.subject));
    if repo.is_dirty()? {
        ctx.out.warning(
            "the working copy has edits that are not committed; they are not part of this",
        );
    }
    Ok(commit)
}

/// Checks that workers can fetch `commit`: on a remote, or in the app's own repository.
///
/// # Errors
/// Exit code 8, with the line that pushes it.
pub async fn check_pushed(
    ctx: &Context,
    api: &Api,
    app: &AppName,
    commit: &Commit,
) -> Result<(), Failure> {
    let Ok(repo) = ctx.repo() else { return Ok(()) };
    // A commit that this repository does not hold was given in full: the worker decides.
    if repo.resolve(commit.id.as_str()).is_err() || repo.remote_branch_with(&commit.id)?.is_some() {
        return Ok(());
    }
    let source = api.app(app).await?.spec.repo;
    if is_this(&repo, &source) {
        return Ok(());
    }
    let failure =
        Failure::new(ExitCode::NotDeployable, format!("{} is not pushed", commit.id.short()));
    let branch = repo.branch().unwrap_or_else(|| "main".into());
    Err(match repo.remotes()?.first() {
        Some(remote) => failure
            .because(format!("no branch of {remote} holds it, and workers fetch from {source}"))
            .hint(format!("git push {remote} {branch}")),
        None => failure
            .because(format!("this repository has no remote, and workers fetch from {source}"))
            .hint(format!("git remote add origin {source} && git push -u origin {branch}")),
    })
}

/// Whether `source`, from which workers fetch, is the repository itself.
#[must_use]
pub fn is_this(repo: &Repo, source: &str) -> bool {
    let path = source.strip_prefix("file://").unwrap_or(source);
    let real = |path: &std::path::Path| std::fs::canonicalize(path).ok();
    let root = real(repo.root());
    let source = real(std::path::Path::new(path));
    root.is_some() && (root == source || root.map(|root| root.join(".git")) == source)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refs_go_where_they_belong() {
        let cases = [
            ("r411", Kind::Numbered),
            ("b9", Kind::Numbered),
            ("@", Kind::Relative),
            ("@~", Kind::Relative),
            ("@~2", Kind::Relative),
            ("@stable", Kind::Relative),
            ("staging:@", Kind::Relative),
            ("staging:@latest", Kind::Relative),
            ("3f2a91c", Kind::Hex),
            ("3f2a91", Kind::Revision),
            ("HEAD", Kind::Revision),
            ("@{u}", Kind::Revision),
            ("refs/heads/r411", Kind::Revision),
            ("main:@x", Kind::Revision),
            ("r0", Kind::Revision),
        ];
        for (text, expected) in cases {
            assert_eq!(kind(text), expected, "{text}");
        }
    }
}
