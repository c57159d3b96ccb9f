//! `deployctl diff`: what a deploy would move, before it is made.

use clap::Args;
use clap_complete::ArgValueCompleter;

use crate::cli::api::{Api, with_query};
use crate::cli::context::Context;
use crate::cli::failure::{ExitCode, Failure};
use crate::cli::prompt::pick_app;
use crate::cli::table::{Cell, Table, bytes, count};
use crate::cli::{complete, reference};
use crate::model::digest::ConfigId;
use crate::wire::v1::diff::{Diff, DiffGroup, DiffPath, DiffWay, Moved, PathChange};
use crate::wire::v1::patch::PatchOutcome;

/// Paths that are told one by one.
const PATHS_TOLD: usize = 8;

/// Tell what a deploy would move, before it is made
///
/// Compares two builds, and counts for each region which hosts have what, and how many
/// bytes come to them: out of what they have, by a patch, or by the full pack.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  deployctl diff\n  \
    deployctl diff r411 b12 -e staging -o json")]
pub struct DiffArgs {
    /// What is compared with: `deployctl help refs`
    #[arg(value_name = "FROM", default_value = "@", add = ArgValueCompleter::new(complete::targets))]
    from: String,
    /// What would be deployed
    #[arg(value_name = "TO", default_value = "HEAD", add = ArgValueCompleter::new(complete::targets))]
    to: String,
    /// End with code 20 when the two differ
    #[arg(long)]
    exit_code: bool,
}

/// Runs the command.
///
/// # Errors
/// Exit code 3 when a ref names nothing, 8 when it was not built.
pub async fn run(ctx: &Context, args: DiffArgs) -> Result<ExitCode, Failure> {
    let env = ctx.env()?;
    let from = reference::resolve(ctx, &args.from)?.text();
    let to = reference::resolve(ctx, &args.to)?.text();
    let api = Api::new(ctx)?;
    let app = pick_app(ctx, &api).await?;
    let path = format!("/v1/apps/{app}/envs/{env}/diff");
    let query = [("from", Some(from.as_str())), ("to", Some(to.as_str()))];
    let diff: Diff = api.get(&with_query(&path, query)).await?;
    tell(ctx, &diff);
    ctx.out.answer(&diff, &table(&diff));
    let differ = diff.from.artifact != diff.to.artifact || configs(&diff).is_some();
    Ok(if args.exit_code && differ { ExitCode::Changes } else { ExitCode::Ok })
}

fn tell(ctx: &Context, diff: &Diff) {
    let (from, to) = (&diff.from, &diff.to);
    ctx.out.story(&format!(
        "{} {} ({}) {} {} ({}), a pack of {}",
        diff.app,
        from.build,
        from.commit.short(),
        ctx.out.arrow(),
        to.build,
        to.commit.short(),
        bytes(to.wire_size)
    ));
    if let Some(both) = configs(diff) {
        let word = |config: Option<ConfigId>| config.map_or("none".to_owned(), |id| id.short());
        let [from, to] = both.map(word);
        ctx.out.story(&format!("config: {from} {} {to}", ctx.out.arrow()));
    }
    let paths = &diff.paths;
    ctx.out.story(&format!(
        "paths: {} added, {} removed, {} changed, {} of the same size and unclear, {} the same",
        paths.added, paths.removed, paths.changed, paths.unclear, paths.same
    ));
    for path in diff.changes.iter().take(PATHS_TOLD) {
        ctx.out.story(&format!("  {}", line(path)));
    }
    let untold = paths.added + paths.removed + paths.changed + paths.unclear;
    let untold = untold.saturating_sub(PATHS_TOLD as u64);
    if untold > 0 {
        ctx.out.story(&format!("  and {}", count(untold, "more path")));
    }
    ctx.out.story(&match &diff.patch {
        PatchOutcome::Made { wire_bytes, .. } => format!("patch: {}", bytes(*wire_bytes)),
        PatchOutcome::Making => "patch: being made".to_owned(),
        PatchOutcome::None { reason } => format!("patch: none, {reason}"),
    });
}

/// Both configurations, when two releases are compared that differ in it.
fn configs(diff: &Diff) -> Option<[Option<ConfigId>; 2]> {
    let both = diff.from.release.is_some() && diff.to.release.is_some();
    (both && diff.from.config != diff.to.config).then_some([diff.from.config, diff.to.config])
}

fn line(path: &DiffPath) -> String {
    let DiffPath { path, change, old_bytes, new_bytes } = path;
    match change {
        PathChange::Added => format!("+ {path} ({})", bytes(*new_bytes)),
        PathChange::Removed => format!("- {path} ({})", bytes(*old_bytes)),
        PathChange::Changed if old_bytes == new_bytes => {
            format!("~ {path} ({})", bytes(*new_bytes))
        }
        PathChange::Changed => {
            format!("~ {path} ({}, was {})", bytes(*new_bytes), bytes(*old_bytes))
        }
        PathChange::Unclear => format!("? {path} ({})", bytes(*new_bytes)),
    }
}

fn table(diff: &Diff) -> Table {
    let empty = format!("no host of {} was heard of in {}", diff.app, diff.env);
    let columns = ["REGION", "HOSTS", "HAVE", "WAY", "LOCAL", "PATCH", "FULL", "STORE"];
    let mut table = Table::new(&columns, columns.len(), empty);
    for region in &diff.regions {
        for group in &region.groups {
            table.push(row(region.region.as_str(), group));
        }
    }
    if !diff.regions.is_empty() {
        table.push(cells("total", "", "", diff.total));
    }
    table
}

fn row(region: &str, group: &DiffGroup) -> Vec<Cell> {
    let have = match (group.build, group.base) {
        (Some(build), _) => build.to_string(),
        (None, Some(base)) => base.short().to_owned(),
        (None, None) => "-".to_owned(),
    };
    let way = match group.way {
        DiffWay::Here => "here",
        DiffWay::Patch => "patch",
        DiffWay::Full => "full",
    };
    cells(region, &have, way, group.moved)
}

fn cells(region: &str, have: &str, way: &str, moved: Moved) -> Vec<Cell> {
    let Moved { hosts, local_bytes, patch_bytes, full_bytes, store_bytes } = moved;
    let mut cells: Vec<Cell> =
        vec![region.into(), hosts.to_string().into(), have.into(), way.into()];
    cells.extend([local_bytes, patch_bytes, full_bytes, store_bytes].map(Cell::bytes));
    cells
}
