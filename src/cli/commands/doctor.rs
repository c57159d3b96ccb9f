//! `deployctl doctor`: is everything in place to work from here.

mod goals;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::cli::context::Context;
use crate::cli::discover::variable;
use crate::cli::failure::{ExitCode, Failure};
use crate::cli::output::Tone;
use crate::cli::reasons::build::WORKER_SILENT;
use crate::cli::reference;
use crate::cli::table::{Cell, Table, age, count};
use crate::host::clock;
use crate::host::repo::Repo;
use crate::model::time::UnixMillis;
use crate::net::client::{CallError, Client};
use crate::wire::problem::Code;
use crate::wire::v1::app::App;
use crate::wire::v1::build::Builds;
use crate::wire::v1::fleet::{REGION_SILENT, Region, Regions, Workers};
use crate::wire::v1::goal_store::GoalStores;
use crate::wire::v1::version::Version;
use crate::wire::words::quoted;

/// What one question may take: a server that hangs must not hang the doctor.
const PATIENCE: Duration = Duration::from_secs(3);
/// A clock that is further off confuses ages and leases: three beats of a worker.
const SKEW_MAX: Duration = Duration::from_secs(30);
/// A build that waits longer than a build may take wants another worker.
const QUEUE_MAX: Duration = Duration::from_secs(15 * 60);
/// Largest startup file of a shell that is looked into, bytes.
const STARTUP_BYTES_MAX: u64 = 1 << 20;

/// Check everything that this command line needs, and say how to put it right
///
/// Asks the coordinator three seconds at most. Ends with code 1 when a check fails.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  deployctl doctor\n  deployctl doctor -o json")]
pub struct DoctorArgs {}

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    Ok,
    /// Worth a look; nothing is broken.
    Warning,
    Failed,
    /// It could not be asked.
    Skipped,
}

#[derive(Debug, Serialize)]
struct Check {
    check: &'static str,
    verdict: Verdict,
    says: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    hint: String,
}

/// Runs the command.
///
/// # Errors
/// Never: what is wrong is the answer.
pub async fn run(ctx: &Context, _: DoctorArgs) -> Result<ExitCode, Failure> {
    let mut checks = vec![config(ctx)];
    checks.extend(server(ctx).await);
    checks.push(git(ctx).await);
    checks.push(completion());
    let mut table = Table::new(&["CHECK", "STATE", "SAYS"], 3, "");
    for check in &checks {
        let (word, tone) = match check.verdict {
            Verdict::Ok => ("ok", Tone::Good),
            Verdict::Warning => ("look", Tone::Look),
            Verdict::Failed => ("failed", Tone::Bad),
            Verdict::Skipped => ("not asked", Tone::Dim),
        };
        table.push([check.check.into(), Cell::state(word, tone), check.says.as_str().into()]);
    }
    let failed = checks.iter().filter(|check| check.verdict == Verdict::Failed).count();
    let code = if failed == 0 { ExitCode::Ok } else { ExitCode::Error };
    ctx.out.outcome(serde_json::json!({"checks": checks}), code, &table);
    for check in checks.iter().filter(|check| !check.hint.is_empty()) {
        ctx.out.hint(&check.hint);
    }
    if failed > 0 {
        ctx.out.story(&format!("{} failed", count(failed as u64, "check")));
    }
    Ok(code)
}

impl Check {
    fn ok(check: &'static str, says: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Ok, says: says.into(), hint: String::new() }
    }

    fn look(check: &'static str, says: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { verdict: Verdict::Warning, hint: hint.into(), ..Self::ok(check, says) }
    }

    fn failed(check: &'static str, says: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { verdict: Verdict::Failed, hint: hint.into(), ..Self::ok(check, says) }
    }

    fn skipped(check: &'static str) -> Self {
        let says = "the coordinator did not answer";
        Self { verdict: Verdict::Skipped, ..Self::ok(check, says) }
    }
}

fn config(ctx: &Context) -> Check {
    let env = ctx.env().map(|env| env.to_string()).unwrap_or_default();
    let project = match ctx.project.whole() {
        Err(failure) => {
            let says = ctx.project.fault().unwrap_or(failure.title);
            return Check::failed("config", says, "deployctl help toml");
        }
        Ok(project) => project,
    };
    let app = match ctx.app_if_said() {
        Err(failure) => return Check::failed("config", failure.title, ""),
        Ok(app) => app.map(|app| format!("app {app}, env {env}")),
    };
    match (project, app) {
        (Some((path, _)), Some(app)) => Check::ok("config", format!("{}, {app}", path.display())),
        (None, Some(app)) => Check::ok("config", app),
        (Some((path, _)), None) => {
            let says = format!("{} names no app", path.display());
            Check::look("config", says, "app = \"NAME\" in deployctl.toml")
        }
        (None, None) => {
            Check::look("config", "no deployctl.toml from here upwards", "deployctl init")
        }
    }
}

/// Everything that the coordinator is asked, or that it was not.
async fn server(ctx: &Context) -> Vec<Check> {
    let client = match ctx.client() {
        Ok(client) => client,
        Err(failure) => {
            let hint = failure.hints.first().cloned().unwrap_or_default();
            let which = if failure.code == ExitCode::Auth { "token" } else { "server" };
            return with_unasked(vec![Check::failed(which, failure.title, hint)]);
        }
    };
    let patience = PATIENCE.min(ctx.flags.request_timeout);
    let (asked_at, began) = (clock::now(), Instant::now());
    let version: Version = match client.get("/v1/version", patience).await {
        Ok(version) => version,
        Err(error) => return with_unasked(unanswered(&client, error)),
    };
    let took = began.elapsed();
    let mut checks = vec![
        answered(&client, &version, took),
        Check::ok("token", format!("{}, role {}", version.name, version.role.word())),
        skew(asked_at + took / 2, version.now),
    ];
    let (regions, stores, workers, queue) = tokio::join!(
        ask::<Regions>(&client, "/v1/regions", patience),
        ask::<GoalStores>(&client, "/v1/goal-stores", patience),
        ask::<Workers>(&client, "/v1/workers", patience),
        ask::<Builds>(&client, "/v1/builds?state=QUEUED&limit=500", patience),
    );
    let now = version.now;
    let errors = [regions.as_ref().err(), stores.as_ref().err(), workers.as_ref().err()];
    let error = errors.into_iter().flatten().chain(queue.as_ref().err()).next();
    checks.extend(error.filter(|error| !is_older(error)).map(unread));
    let regions = regions.ok();
    checks.push(regions.as_ref().map_or(Check::skipped("stores"), answering));
    checks.push(regions.as_ref().map_or(Check::skipped("collector"), owning));
    checks.push(stores.map_or(Check::skipped("goals"), |reply| goals::travel(&reply, now)));
    checks.push(regions.map_or(Check::skipped("regions"), |reply| fresh(&reply.regions, now)));
    checks.push(workers.map_or(Check::skipped("workers"), |reply| alive(&reply, now)));
    checks.push(queue.map_or(Check::skipped("queue"), |reply| waiting(&reply, now)));
    checks
}

/// Whether the coordinator is of a release that was not asked this yet.
fn is_older(error: &CallError) -> bool {
    matches!(error, CallError::Refused(problem) if problem.code == Code::NotFound)
}

/// The coordinator answers, and can't say what is in its database.
fn unread(error: &CallError) -> Check {
    let hint = "its log says why; deployctl admin db check --config FILE on its machine";
    Check::failed("database", format!("the coordinator can't read it: {error}"), hint)
}

async fn ask<T>(client: &Client, path: &str, patience: Duration) -> Result<T, CallError>
where
    T: DeserializeOwned,
{
    client.get(path, patience).await
}

/// What could not be asked, after what stood in its way.
fn with_unasked(mut checks: Vec<Check>) -> Vec<Check> {
    checks.extend(
        ["clock", "stores", "collector", "goals", "regions", "workers", "queue"]
            .map(Check::skipped),
    );
    checks
}

fn unanswered(client: &Client, error: CallError) -> Vec<Check> {
    match &error {
        CallError::Refused(problem) if matches!(problem.code.exit_code(), 4) => {
            let server = Check::ok("server", format!("{} answers", client.base()));
            let hint = "deployctl tokens create NAME --role deployer";
            vec![server, Check::failed("token", problem.title.clone(), hint)]
        }
        _ => {
            let failure = Failure::from(error);
            let why = failure.causes.first().map_or(String::new(), |why| format!(": {why}"));
            let hint = "say where it is: --server URL, or start it: deployctl coordinator";
            vec![Check::failed("server", format!("{}{why}", failure.title), hint)]
        }
    }
}

fn answered(client: &Client, version: &Version, took: Duration) -> Check {
    let own = env!("CARGO_PKG_VERSION");
    let says = format!("{} answers in {} ms", client.base(), took.as_millis());
    if version.version == own {
        return Check::ok("server", format!("{says}, {own} as here"));
    }
    let says = format!("{says}, and is {}; this is {own}", version.version);
    Check::look("server", says, "the same version on both sides has seen the same tests")
}

fn skew(here: UnixMillis, there: UnixMillis) -> Check {
    let off = here.since(there).max(there.since(here));
    let way = if here > there { "ahead of" } else { "behind" };
    if off <= SKEW_MAX {
        return Check::ok("clock", format!("{} ms {way} the coordinator's", off.as_millis()));
    }
    let says = format!("this clock is {} {way} the coordinator's", age(off));
    Check::failed("clock", says, "set the clock that is wrong: timedatectl set-ntp true")
}

fn answering(reply: &Regions) -> Check {
    let main = ("main", reply.main_store_trouble.as_str());
    let all = reply.regions.iter().map(|region| (region.region.as_str(), &*region.store_trouble));
    let silent = |(_, trouble): &(&str, &str)| !trouble.is_empty();
    let troubles: Vec<String> = std::iter::once(main)
        .chain(all)
        .filter(silent)
        .map(|(store, trouble)| format!("{store}: {trouble}"))
        .collect();
    if troubles.is_empty() {
        let regional = count(reply.regions.len() as u64, "regional store");
        return Check::ok("stores", format!("the coordinator reaches the main and {regional}"));
    }
    let hint = "check the URLs in the coordinator's file, and its credentials";
    Check::failed("stores", troubles.join("; "), hint)
}

fn owning(reply: &Regions) -> Check {
    let hint = match reply.main_store_grant.as_str() {
        "" => "deployctl admin gc --adopt-store --dry-run",
        grant => grant,
    };
    let doubt = reply.clock_doubted.as_str();
    match reply.main_store_not_owned.as_str() {
        "" if !doubt.is_empty() => {
            let says = format!("the coordinator's clock jumped ahead: {doubt}");
            let hint = "deployctl admin gc --trust-clock --confirm=main -m WHY";
            Check::look("collector", says, hint)
        }
        "" => Check::ok("collector", "the main store is this installation's"),
        // Builds may go that hosts need.
        why if reply.main_store_anothers => Check::failed("collector", why, hint),
        why => Check::look("collector", why, hint),
    }
}

fn fresh(regions: &[Region], now: UnixMillis) -> Check {
    let silent =
        |region: &&Region| region.seen_at.is_none_or(|seen| now.since(seen) > REGION_SILENT);
    let names: Vec<&str> = regions.iter().filter(silent).map(|r| r.region.as_str()).collect();
    let all = count(regions.len() as u64, "region");
    match (regions.len(), names.len()) {
        (0, _) => Check::look("regions", "no region is configured", "deployctl help setup"),
        (_, 0) => {
            let owed: u64 = regions.iter().map(|region| region.owed).sum();
            let note = if owed == 0 { String::new() } else { format!(", {owed} copies owed") };
            Check::ok("regions", format!("{all} reported in the last 30 s{note}"))
        }
        (_, n) => {
            let says = format!("{n} of {all} silent: {}", names.join(", "));
            Check::failed("regions", says, "deployctl regions")
        }
    }
}

fn alive(reply: &Workers, now: UnixMillis) -> Check {
    let alive: Vec<_> =
        reply.workers.iter().filter(|worker| now.since(worker.seen_at) < WORKER_SILENT).collect();
    let (slots, busy) = alive
        .iter()
        .fold((0, 0), |(slots, busy), worker| (slots + worker.slots, busy + worker.running));
    if alive.is_empty() {
        return Check::failed(
            "workers",
            "none was heard of for a minute",
            "deployctl worker --help",
        );
    }
    let workers = count(alive.len() as u64, "worker");
    Check::ok("workers", format!("{workers}, {busy} of {slots} slots busy"))
}

fn waiting(reply: &Builds, now: UnixMillis) -> Check {
    let Some(oldest) = reply.builds.iter().map(|build| now.since(build.queued_at)).max() else {
        return Check::ok("queue", "empty");
    };
    let builds = count(reply.builds.len() as u64, "build");
    let says = format!("{builds} queued, the oldest for {}", age(oldest));
    if oldest < QUEUE_MAX {
        return Check::ok("queue", says);
    }
    Check::failed("queue", says, "deployctl builds --state queued")
}

async fn git(ctx: &Context) -> Check {
    let Ok(repo) = ctx.repo() else {
        return Check::look("git", "no repository here", "run it inside a clone, or with -C DIR");
    };
    let head = match repo.resolve("HEAD") {
        Ok(head) => head,
        Err(error) => return Check::look("git", error.to_string(), "git log --oneline -5"),
    };
    let (short, branch) = (head.id.short().to_owned(), repo.branch());
    let place = branch.as_deref().map_or(short.clone(), |branch| format!("{branch} at {short}"));
    match repo.remote_branch_with(&head.id) {
        Ok(Some(_)) if repo.is_dirty().unwrap_or(false) => {
            Check::look("git", format!("{place}, pushed; edits are not committed"), "git status")
        }
        Ok(Some(_)) => Check::ok("git", format!("{place}, pushed")),
        Ok(None) if repo.remotes().is_ok_and(|remotes| remotes.is_empty()) => {
            remoteless(ctx, &repo, &place).await
        }
        Ok(None) => Check::look("git", format!("{place}, not pushed"), "git push"),
        Err(error) => Check::look("git", error.to_string(), ""),
    }
}

/// A clone without a remote: it is fine where workers fetch from this very folder, else there is
/// a remote to add.
async fn remoteless(ctx: &Context, repo: &Repo, place: &str) -> Check {
    let patience = PATIENCE.min(ctx.flags.request_timeout);
    let source = match (ctx.client(), ctx.app_if_said()) {
        (Ok(client), Ok(Some(app))) => ask::<App>(&client, &format!("/v1/apps/{app}"), patience)
            .await
            .ok()
            .map(|app| app.spec.repo),
        _ => None,
    };
    match source {
        Some(source) if reference::is_this(repo, &source) => {
            Check::ok("git", format!("{place}; workers fetch from this repository"))
        }
        source => {
            let url = source.unwrap_or_else(|| "URL".into());
            let says = format!("{place}; no remote that workers could fetch it from");
            Check::look("git", says, format!("git remote add origin {}", quoted(&url)))
        }
    }
}

/// Whether the person's shell completes; only a look, nothing needs it.
fn completion() -> Check {
    let shell = variable("SHELL").unwrap_or_default();
    let name = Path::new(&shell).file_name().map(|name| name.to_string_lossy().into_owned());
    let home = variable("HOME").map(PathBuf::from).unwrap_or_default();
    let (name, files): (&str, &[&str]) = match name.as_deref() {
        Some("bash") => (
            "bash",
            &[".bashrc", ".bash_profile", ".local/share/bash-completion/completions/deployctl"],
        ),
        Some("zsh") => ("zsh", &[".zshrc", ".zfunc/_deployctl"]),
        Some("fish") => {
            ("fish", &[".config/fish/completions/deployctl.fish", ".config/fish/config.fish"])
        }
        _ => {
            return Check { verdict: Verdict::Skipped, ..Check::ok("completion", "unknown shell") };
        }
    };
    let own = files.iter().map(|file| home.join(file));
    let system = [
        "/usr/share/bash-completion/completions/deployctl",
        "/usr/share/zsh/vendor-completions/_deployctl",
        "/usr/share/fish/vendor_completions.d/deployctl.fish",
    ];
    let installed = own.into_iter().any(|path| mentions_us(&path))
        || system.iter().any(|path| path.contains(name) && Path::new(path).exists());
    if installed {
        return Check::ok("completion", format!("installed in {name}"));
    }
    let says = format!("not installed in {name}");
    Check::look("completion", says, "deployctl completion --help")
}

fn mentions_us(path: &Path) -> bool {
    let small = std::fs::metadata(path).is_ok_and(|meta| meta.len() <= STARTUP_BYTES_MAX);
    small && std::fs::read_to_string(path).is_ok_and(|text| text.contains("deployctl"))
}
