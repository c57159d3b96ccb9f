//! `deployctl admin gc`: artifacts that nobody needs, taken away now.

use std::time::Duration;

use clap::Args;
use reqwest::Method;

use crate::cli::api::Api;
use crate::cli::confirm;
use crate::cli::context::Context;
use crate::cli::failure::{ExitCode, Failure};
use crate::cli::table::{Cell, Table, bytes, count, took};
use crate::wire::v1::collect::{CollectRequest, Collection};

/// What `--confirm` must name: the store that everything is copied from.
const STORE: &str = "main";

/// Take away artifacts that nobody needs
///
/// Kept is what a goal, an open rollout, a hold or a pin names, the last known-good releases of
/// each env, and what was built or released within the coordinator's `keep_days`. With
/// `enabled` in its `[collector]` it does this by itself, too. What went is deleted from the
/// stores an hour later; until then `deployctl build` brings it back, and afterwards builds it
/// again.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  deployctl admin gc --dry-run\n  deployctl admin gc --older-than 60d\n  deployctl admin gc --older-than 2d --force --confirm=main -m \"the store is full\""
)]
pub(super) struct GcArgs {
    /// Only say what would go
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Only what was not in use for so long, at most 3650d; less than the coordinator's
    /// `keep_days` needs --force
    #[arg(long, value_name = "TIME", value_parser = days)]
    older_than: Option<u64>,
    /// Take away what is younger than usual
    #[arg(long)]
    force: bool,
    /// Delete at once, also what went before: nothing can be brought back
    #[arg(long)]
    at_once: bool,
    /// For scripts: confirm --force or --at-once by naming the main store: main
    #[arg(long, value_name = "NAME")]
    confirm: Option<String>,
    /// Why; everybody is told
    #[arg(short, long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    message: String,
}

/// Reads `60d`, `36h`, as seconds; a plain number is seconds.
fn days(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let unit_s = match &text[digits..] {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => 0,
    };
    let seconds = text[..digits].parse::<u64>().ok().and_then(|n| n.checked_mul(unit_s));
    seconds
        .filter(|seconds| unit_s > 0 && *seconds <= 3650 * 86_400)
        .ok_or_else(|| "a time is a number and s, m, h or d, at most 3650d: 60d".to_owned())
}

pub(super) async fn run(ctx: &Context, args: GcArgs) -> Result<ExitCode, Failure> {
    if (args.force || args.at_once) && !args.dry_run {
        let said = (args.confirm.as_deref(), !args.message.trim().is_empty());
        let what = if args.force { "admin gc --force" } else { "admin gc --at-once" };
        confirm::severe(ctx, what, STORE, said).await?;
    }
    let request = CollectRequest {
        dry_run: args.dry_run,
        older_than_s: args.older_than,
        force: args.force,
        at_once: args.at_once,
        message: args.message,
    };
    let api = Api::new(ctx)?;
    let done: Collection = api.change(Method::POST, "/v1/collect", &request).await?;
    ctx.out.answer(&done, &table(&done));
    tell(ctx, &done);
    Ok(ExitCode::Ok)
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
    if done.dry_run && done.artifacts > 0 {
        ctx.out.hint("deployctl admin gc");
    }
}

#[cfg(test)]
mod tests {
    use super::days;

    #[test]
    fn years_are_told_in_days() {
        assert_eq!(days("60d"), Ok(60 * 86_400));
        assert_eq!((days("0"), days("90m")), (Ok(0), Ok(5400)));
        for bad in ["", "d", "3651d", "-1d", "1w", "99999999999999999999d"] {
            assert!(days(bad).is_err(), "{bad}");
        }
    }
}
