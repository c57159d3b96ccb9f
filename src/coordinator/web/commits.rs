//! An env's commits and builds: the trunk's newest commits as a worker saw them, each
//! with its build, or a button that builds it; then the builds of other commits. And
//! what a name that was typed stands for.

use std::collections::BTreeSet;

use maud::{Markup, html};
use serde_json::json;

use crate::coordinator::web::call::Calls;
use crate::coordinator::web::{builds, parts};
use crate::model::commit::CommitId;
use crate::model::id::{AppName, JobNo};
use crate::rules::authorize::Class;
use crate::wire::problem::{Code, Problem};
use crate::wire::v1::app::App;
use crate::wire::v1::build::{Build, Builds};
use crate::wire::v1::commits::{CommitLine, Commits, LookRequest, Named};
use crate::wire::v1::rollout::EnvStatus;
use crate::wire::words::count;

/// Commits without a build that are shown.
const UNBUILT_MAX: usize = 8;
/// Rows in all.
const ROWS_MAX: usize = 20;
/// How long a person waits for what a name stands for, milliseconds.
const PATIENCE_MS: u64 = 8_000;
/// Fewest digits that are looked for among builds.
const DIGITS_MIN: usize = 7;

/// What is known of the repository; whoever may build also has it looked at again.
///
/// # Errors
/// As the API refuses it.
pub(super) async fn seen(calls: &Calls, app: &AppName) -> Result<Commits, Problem> {
    let path = format!("/v1/apps/{app}/commits");
    if calls.may(Class::Build) {
        return calls.post(&path, "", &LookRequest::default()).await;
    }
    calls.get(&path).await
}

/// The table; `deploy` is the cell that leads a build to the env.
pub(super) fn table(
    calls: &Calls,
    (app, row): (&App, &EnvStatus),
    (seen, list): (&Commits, &[Build]),
    deploy: &dyn Fn(&Build) -> Markup,
) -> Markup {
    let rows = rows(&seen.commits, list);
    let trunk = &app.spec.trunk;
    html! {
        @if let Some(ahead) = ahead(row, &seen.commits) {
            p { strong { (trunk) " is " (count(ahead as u64, "commit")) " ahead" } " of what runs in " (row.env) "." }
        }
        @if rows.is_empty() { p { "No commit and no build is known yet." } } @else {
            table .commits {
                thead { tr {
                    th scope="col" { "Commit" } th scope="col" { "By" } th scope="col" { "When" }
                    th scope="col" { "Build" } th scope="col" { "Regions" }
                    th scope="col" { "Deploy to " (row.env) }
                } }
                tbody { @for row in &rows { (row.show(calls, app, deploy)) } }
            }
        }
        (looked(calls, trunk, seen))
    }
}

/// By how many commits the trunk is ahead of what runs; `None`: not, or not known.
fn ahead(row: &EnvStatus, newest: &[CommitLine]) -> Option<usize> {
    let current = row.current.as_ref()?;
    newest.iter().position(|line| line.commit == current.commit).filter(|ahead| *ahead > 0)
}

fn looked(calls: &Calls, trunk: &str, seen: &Commits) -> Markup {
    html! {
        p .small {
            @match seen.looked_at {
                None if calls.may(Class::Build) => { "No worker has looked into the repository yet; until one did, only builds are listed." }
                None => { "Nobody has looked into the repository yet; only builds are listed." }
                Some(at) if seen.trouble.is_empty() => {
                    (trunk) " as " (seen.looked_by) " saw it, " (parts::time(at)) "."
                }
                Some(at) => {
                    span .look { "The last look into the repository, " (parts::time(at)) " by " (seen.looked_by) ", failed: " (seen.trouble) }
                }
            }
        }
    }
}

/// A commit, a build, or both.
struct Row<'a> {
    line: Option<&'a CommitLine>,
    build: Option<&'a Build>,
}

/// The trunk's commits in their order, each with its newest build, then other builds.
fn rows<'a>(newest: &'a [CommitLine], list: &'a [Build]) -> Vec<Row<'a>> {
    let mut shown: BTreeSet<JobNo> = BTreeSet::new();
    let mut rows = Vec::new();
    let mut unbuilt = 0;
    for line in newest {
        let build = list.iter().find(|build| build.commit == line.commit);
        shown.extend(build.map(|build| build.build));
        unbuilt += usize::from(build.is_none());
        if build.is_some() || unbuilt <= UNBUILT_MAX {
            rows.push(Row { line: Some(line), build });
        }
    }
    let others = list.iter().filter(|build| !shown.contains(&build.build));
    rows.extend(others.map(|build| Row { line: None, build: Some(build) }));
    rows.truncate(ROWS_MAX);
    rows
}

impl Row<'_> {
    fn show(&self, calls: &Calls, app: &App, deploy: &dyn Fn(&Build) -> Markup) -> Markup {
        let Self { line, build } = self;
        let commit = line.map(|line| &line.commit).or(build.map(|build| &build.commit));
        let subject = line.map(|line| &line.subject).or(build.map(|build| &build.subject));
        html! {
            tr data-testid=[build.map(|build| format!("build-{}", build.build))] {
                td .what {
                    @if let Some(commit) = commit { (parts::commit(commit)) " " }
                    span .subject { (subject.map_or("", String::as_str)) }
                }
                td .who-by { @match (line, build) {
                    (Some(line), _) => { (line.author) }
                    (None, Some(build)) => { (build.actor) }
                    (None, None) => {}
                } }
                td { @match (line, build) {
                    (Some(line), _) => { (parts::time(line.at)) }
                    (None, Some(build)) => { (parts::time(build.queued_at)) }
                    (None, None) => {}
                } }
                @match build {
                    Some(build) => {
                        td { a href={ "/builds/" (build.build) } { strong { (build.build) } } " " (builds::state(build)) }
                        td { (builds::copies(calls, build)) }
                        td { (deploy(build)) }
                    }
                    None => {
                        td { @if let Some(commit) = commit { (build_it(calls, app, commit)) } }
                        td {} td {}
                    }
                }
            }
        }
    }
}

fn build_it(calls: &Calls, app: &App, commit: &CommitId) -> Markup {
    let fields = [("app", app.spec.name.to_string()), ("commit", commit.to_string())];
    parts::ask("Build", "build", &fields, calls.barred(Class::Build).as_deref())
}

/// The commit that `text` names: a whole id, a branch, a tag, `HEAD`, or first digits.
///
/// # Errors
/// When it names nothing, something off the trunk, or nobody can tell.
pub(super) async fn meant(calls: &Calls, app: &App, text: &str) -> Result<Named, Problem> {
    let name = &app.spec.name;
    if let Ok(commit) = text.parse::<CommitId>() {
        let known = seen(calls, name).await?;
        let line = known.commits.into_iter().find(|line| line.commit == commit);
        let subject = line.map(|line| line.subject).unwrap_or_default();
        return Ok(named(text, commit, subject));
    }
    if text.is_empty() {
        return Err(Problem::new(Code::Usage, "a branch, a tag or a commit is to be named"));
    }
    let request = json!({ "rev": text, "wait_ms": PATIENCE_MS });
    let told: Commits = calls.post(&format!("/v1/apps/{name}/commits"), "", &request).await?;
    let by_hand = format!("git rev-parse {text}");
    match told.named {
        Some(Named { commit: Some(commit), merged: false, .. }) => {
            let title = format!("{text} is {}, which is not on {}", commit.short(), app.spec.trunk);
            Err(Problem::new(Code::NotDeployable, title)
                .because("the page builds what is merged; an admin builds anything by the command")
                .hint(format!("deployctl build {commit} -a {name} --allow-unmerged")))
        }
        Some(found) if found.commit.is_some() => Ok(found),
        found => {
            if let Some(known) = among_builds(calls, name, text).await? {
                return Ok(known);
            }
            Err(match found {
                Some(found) => Problem::new(Code::NotFound, format!("{text:?} names no commit"))
                    .because(found.why)
                    .hint(by_hand),
                None if told.trouble.is_empty() => {
                    Problem::new(Code::Unavailable, format!("nobody can say what {text:?} is"))
                        .because(format!(
                            "workers look names up, and none answered in {} s; a whole commit id needs nobody",
                            PATIENCE_MS / 1000
                        ))
                        .hint("deployctl workers")
                        .hint(by_hand)
                }
                None => Problem::new(Code::Unavailable, "the repository could not be looked into")
                    .because(told.trouble)
                    .hint(by_hand),
            })
        }
    }
}

fn named(text: &str, commit: CommitId, subject: String) -> Named {
    Named { rev: text.to_owned(), commit: Some(commit), subject, merged: true, why: String::new() }
}

/// The one commit that was built before and begins with these digits.
async fn among_builds(calls: &Calls, app: &AppName, text: &str) -> Result<Option<Named>, Problem> {
    let hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    if !(DIGITS_MIN..=64).contains(&text.len()) || !text.bytes().all(hex) {
        return Ok(None);
    }
    let path = format!("/v1/builds?app={app}&commit={text}&limit=20");
    let found: Builds = calls.get(&path).await?;
    let commits: BTreeSet<&CommitId> = found.builds.iter().map(|build| &build.commit).collect();
    if commits.len() != 1 {
        return Ok(None);
    }
    let build = found.builds.into_iter().next();
    Ok(build.map(|build| named(text, build.commit, build.subject)))
}
