//! `deployctl admin gc`: artifacts that nobody needs, taken away now.

use std::time::Duration;

use clap::Args;
use reqwest::Method;

use crate::cli::api::Api;
use crate::cli::args::long_seconds;
use crate::cli::confirm;
use crate::cli::context::Context;
use crate::cli::failure::{ExitCode, Failure};
use crate::cli::prompt;
use crate::cli::table::{Cell, Table, bytes, count, took};
use crate::wire::v1::collect::{CollectRequest, Collection};

/// What `--confirm` must name: the store that everything is copied from.
const STORE: &str = "main";

/// Take away artifacts that nobody needs
///
/// Kept is what a goal, an open rollout, a hold or a pin names, the last known-good releases of
/// each env, and what was built or released within the coordinator's `keep_days`. It does this
/// by itself each hour, unless its `[collector]` says `enabled = false`. What went is deleted
/// from the stores an hour later; until then `deployctl build` brings it back, and afterwards
/// builds it again. Only the installation that the main store names as its owner collects: not
/// a copy of its database, nor a backup that was restored, before --adopt-store.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  deployctl admin gc --dry-run\n  deployctl admin gc --older-than 60d\n  deployctl admin gc --older-than 2d --force --confirm=main -m \"the store is full\"\n  deployctl admin gc --adopt-store --dry-run\n  deployctl admin gc --adopt-store --confirm=main -m \"restored; the old one is gone\""
)]
pub(super) struct GcArgs {
    /// Only say what would go
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Only what was not in use for so long, at most 3650d; less than the coordinator's
    /// `keep_days` needs --force
    #[arg(long, value_name = "TIME", value_parser = long_seconds)]
    older_than: Option<u64>,
    /// Take away what is younger than usual
    #[arg(long)]
    force: bool,
    /// Delete at once, also what went before: nothing can be brought back
    #[arg(long)]
    at_once: bool,
    /// Only make the main store this installation's, whosever it was: whoever had it collects
    /// from it no more. With --dry-run say whose it is
    #[arg(long, conflicts_with_all = ["force", "at_once", "older_than"])]
    adopt_store: bool,
    /// Only say that the coordinator's clock is right, though it jumped ahead: nothing is collected
    /// for its age meanwhile
    #[arg(long, conflicts_with_all = ["force", "at_once", "older_than", "adopt_store", "dry_run"])]
    trust_clock: bool,
    /// For scripts: confirm --force, --at-once, --adopt-store or --trust-clock by naming the main
    /// store: main
    #[arg(long, value_name = "NAME")]
    confirm: Option<String>,
    /// Why; everybody is told
    #[arg(short, long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    message: String,
}

pub(super) async fn run(ctx: &Context, args: GcArgs) -> Result<ExitCode, Failure> {
    let api = Api::new(ctx)?;
    let asked = CollectRequest {
        dry_run: args.dry_run,
        older_than_s: args.older_than,
        force: args.force,
        at_once: args.at_once,
        adopt_store: args.adopt_store,
        trust_clock: args.trust_clock,
        message: args.message.clone(),
    };
    if let Some(flag) = severe(&args) {
        // Where it is refused for want of a word nothing is sent.
        if args.adopt_store && (args.confirm.is_some() || prompt::can_ask(ctx)) {
            say_whose(ctx, &api, &asked).await?;
        }
        let said = (args.confirm.as_deref(), !args.message.trim().is_empty());
        confirm::severe(ctx, &format!("admin gc {flag}"), STORE, said).await?;
    }
    let done: Collection = api.change(Method::POST, "/v1/collect", &asked).await?;
    ctx.out.answer(&done, &table(&done));
    if args.adopt_store {
        let was = if args.dry_run { "" } else { "the main store is this installation's; before, " };
        ctx.out.story(&format!("{was}{}", done.whose));
        warn_of_unknown(ctx, &done);
    } else if args.trust_clock {
        ctx.out.story("the coordinator's clock is taken for right: it collects as before");
    } else {
        tell(ctx, &done);
    }
    Ok(ExitCode::Ok)
}

/// The flag that takes a confirmation.
fn severe(args: &GcArgs) -> Option<&'static str> {
    match args {
        GcArgs { dry_run: true, .. } => None,
        GcArgs { adopt_store: true, .. } => Some("--adopt-store"),
        GcArgs { trust_clock: true, .. } => Some("--trust-clock"),
        GcArgs { force: true, .. } => Some("--force"),
        GcArgs { at_once: true, .. } => Some("--at-once"),
        _ => None,
    }
}

/// Whoever is to confirm must know whose the store is now.
async fn say_whose(ctx: &Context, api: &Api, asked: &CollectRequest) -> Result<(), Failure> {
    let look = CollectRequest { dry_run: true, ..asked.clone() };
    let now: Collection = api.change(Method::POST, "/v1/collect", &look).await?;
    ctx.out.story(&format!("the main store: {}", now.whose));
    warn_of_unknown(ctx, &now);
    Ok(())
}

/// What lies there and is not known may be what another installation deploys.
fn warn_of_unknown(ctx: &Context, now: &Collection) {
    if now.unknown == 0 && !now.unknown_more {
        return;
    }
    let least = if now.unknown_more { "at least " } else { "" };
    ctx.out.warning(&format!(
        "it holds {least}{} that this installation does not know: they would count as left over, \
         and `deployctl admin gc --force` would delete them",
        count(now.unknown, "artifact")
    ));
}

fn table(done: &Collection) -> Table {
    let mut table = Table::new(&["STORE", "ARTIFACTS", "SIZE"], 3, "there is no store");
    for store in &done.stores {
        let name = store.region.as_ref().map_or(STORE, |region| region.as_str());
        table.push([name.into(), store.artifacts.to_string().into(), Cell::bytes(store.bytes)]);
    }
    table
}

fn tell(ctx: &Context, done: &Collection) {
    let what = count(done.artifacts, "artifact");
    let goes = if done.dry_run { "would go" } else { "went" };
    if done.artifacts == 0 {
        let days = took(Duration::from_secs(done.older_than_s));
        ctx.out.story(&format!("no artifact {goes}: each is needed, or was in use within {days}"));
    } else {
        let apps: Vec<String> = done
            .apps
            .iter()
            .map(|app| format!("{} {} ({})", app.app, app.artifacts, bytes(app.bytes)))
            .collect();
        ctx.out.story(&format!("{what} {goes}: {}", apps.join(", ")));
    }
    let left = &done.left_over;
    if left.artifacts > 0 {
        ctx.out.story(&format!(
            "{} ({}) in the main store that no build names {goes}",
            count(left.artifacts, "artifact"),
            bytes(left.bytes)
        ));
    }
    if !left.error.is_empty() {
        ctx.out.warning(&left.error);
    }
    let waiting = &done.waiting;
    if waiting.artifacts > 0 {
        ctx.out.story(&format!(
            "{} ({}) wait to be deleted from the main store",
            count(waiting.artifacts, "artifact"),
            bytes(waiting.bytes)
        ));
    }
    if !waiting.error.is_empty() {
        ctx.out.warning(&waiting.error);
    }
    if !done.clock_doubted.is_empty() {
        ctx.out.warning(&format!("the coordinator's clock jumped ahead: {}", done.clock_doubted));
        ctx.out.hint("deployctl admin gc --trust-clock --confirm=main -m WHY");
    }
    if !done.not_owner.is_empty() {
        ctx.out.warning(&done.not_owner);
        ctx.out.hint("deployctl admin gc --adopt-store --dry-run");
    } else if done.switched_off && waiting.artifacts > 0 {
        ctx.out.warning("the collector is switched off: what waits stays until it is asked for");
        ctx.out.hint("deployctl admin gc --at-once --confirm=main -m WHY");
    }
    if done.dry_run && done.artifacts > 0 {
        ctx.out.hint("deployctl admin gc");
    }
}
