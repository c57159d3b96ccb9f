//! What every command takes, and how values are read from text.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use clap_complete::ArgValueCompleter;

use super::complete;
use super::failure::Failure;
use super::output::{ColorChoice, Format};
use super::plans::{self, PlanArg, PlanParser};
use crate::model::id::{AppName, EnvName, RegionName};
use crate::model::rollout::{PlanName, RolloutKind, Unavailable};
use crate::wire::v1::rollout::RolloutRequest;

/// Flags of every command.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub struct GlobalArgs {
    /// The app [default: that of deployctl.toml]
    #[arg(hide_short_help = true, short, long, global = true, value_name = "APP", add = ArgValueCompleter::new(complete::apps))]
    pub app: Option<AppName>,
    /// The env [default: that of deployctl.toml, else prod]
    #[arg(hide_short_help = true, short, long, global = true, value_name = "ENV", add = ArgValueCompleter::new(complete::envs))]
    pub env: Option<EnvName>,
    /// Run as if started in DIR
    #[arg(
        hide_short_help = true,
        short = 'C',
        long = "directory",
        global = true,
        value_name = "DIR"
    )]
    pub directory: Option<PathBuf>,
    /// The installation, as `deployctl context list` names them
    #[arg(hide_short_help = true, long, global = true, value_name = "NAME", add = ArgValueCompleter::new(complete::contexts))]
    pub context: Option<String>,
    /// The coordinator's URL
    #[arg(hide_short_help = true, long, global = true, value_name = "URL")]
    pub server: Option<String>,
    /// A file that holds the token
    #[arg(hide_short_help = true, long, global = true, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Trust only this certificate authority, PEM
    #[arg(hide_short_help = true, long, global = true, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// How to write the answer
    #[arg(
        hide_short_help = true,
        short,
        long,
        global = true,
        value_name = "FORMAT",
        hide_possible_values = true,
        help = "How to write the answer: table, wide, plain, json, jsonl or name"
    )]
    pub output: Option<Format>,
    /// Tell no story on stderr
    #[arg(hide_short_help = true, short, long, global = true)]
    pub quiet: bool,
    /// Tell more; twice: also what goes over the wire
    #[arg(hide_short_help = true, short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// When to use colour: auto, always or never
    #[arg(
        hide_short_help = true,
        long,
        global = true,
        value_name = "WHEN",
        default_value = "auto",
        hide_possible_values = true,
        hide_default_value = true
    )]
    pub color: ColorChoice,
    /// Never ask
    #[arg(hide_short_help = true, long, global = true)]
    pub no_input: bool,
    /// Answer yes
    #[arg(hide_short_help = true, short, long, global = true)]
    pub yes: bool,
    /// How long one request may take
    #[arg(hide_short_help = true, long, global = true, value_name = "TIME", default_value = "10s", value_parser = duration)]
    pub request_timeout: Duration,
}

/// How long to stay and look.
#[derive(Debug, Clone, Args)]
pub struct WaitArgs {
    /// Do not wait for the outcome
    #[arg(short, long)]
    pub detach: bool,
    /// Stop waiting after this time (exit code 124)
    #[arg(long, hide_short_help = true, value_name = "TIME", default_value = "2h", value_parser = duration)]
    pub timeout: Duration,
    /// End with code 14 when it pauses for a person [default when not on a terminal]
    #[arg(long, hide_short_help = true)]
    pub exit_on_pause: bool,
}

/// How a rollout goes.
#[derive(Debug, Args)]
pub struct HowArgs {
    /// Only these regions
    #[arg(long = "region", value_name = "REGION", value_delimiter = ',',
          add = ArgValueCompleter::new(complete::regions))]
    pub regions: Vec<RegionName>,
    /// Every region but these
    #[arg(long = "exclude-region", value_name = "REGION", value_delimiter = ',',
          conflicts_with = "regions", hide_short_help = true,
          add = ArgValueCompleter::new(complete::regions))]
    pub exclude: Vec<RegionName>,
    /// standard, fast, careful, all-at-once or a file
    #[arg(
        long,
        value_name = "PLAN",
        default_value = "standard",
        value_parser = PlanParser,
        hide_possible_values = true,
        hide_default_value = true,
        add = ArgValueCompleter::new(plans::complete)
    )]
    pub plan: PlanArg,
    /// Every bake of the plan
    #[arg(long, hide_short_help = true, value_name = "TIME", value_parser = seconds)]
    pub bake: Option<u32>,
    /// Most hosts of a region that are between releases at once: 5 or 10%
    #[arg(long, hide_short_help = true, value_name = "N|N%")]
    pub max_unavailable: Option<Unavailable>,
    /// Hosts begin to switch spread over this time, 1h at most
    #[arg(long, hide_short_help = true, value_name = "TIME", value_parser = seconds)]
    pub spread: Option<u32>,
    /// Hosts take about this time to fetch, 1h at most, and leave the network to others
    #[arg(long, hide_short_help = true, value_name = "TIME", value_parser = seconds)]
    pub pace: Option<u32>,
    /// When the release fails, leave hosts as they are in place of going back
    #[arg(long, hide_short_help = true)]
    pub no_auto_rollback: bool,
    /// Answer, in a script, what asks for the app's name: --plan all-at-once, --break-glass
    #[arg(long, hide_short_help = true, value_name = "APP",
          add = ArgValueCompleter::new(complete::apps))]
    pub confirm: Option<AppName>,
    /// Why
    #[arg(short, long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub message: String,
}

impl HowArgs {
    /// A request for `target`.
    ///
    /// # Errors
    /// Exit code 2 when the plan is a file that can't be used.
    pub fn request(&self, target: String) -> Result<RolloutRequest, Failure> {
        let written = self.plan.written()?;
        let most = written.as_ref().and_then(|written| written.max_unavailable);
        Ok(RolloutRequest {
            plan: match self.plan {
                PlanArg::Named(name) => name,
                PlanArg::File(_) => PlanName::default(),
            },
            plan_file: written.map(|written| written.plan),
            regions: self.regions.clone(),
            exclude_regions: self.exclude.clone(),
            no_auto_revert: self.no_auto_rollback,
            bake_s: self.bake,
            spread_s: self.spread,
            pace_s: self.pace,
            max_unavailable: self.max_unavailable.or(most),
            message: self.message.clone(),
            ..RolloutRequest::new(RolloutKind::Deploy, target)
        })
    }
}

/// Reads `90s`, `5m`, `2h`, `1d`, `250ms`; a plain number is seconds.
///
/// # Errors
/// A sentence, when the text has another shape or is over 30 days.
pub fn duration(text: &str) -> Result<Duration, String> {
    span(text, 30, "90s")
}

/// Reads `60d`, `36h`, as whole seconds; a plain number is seconds.
///
/// # Errors
/// A sentence, when the text has another shape or is over 3650 days.
pub fn long_seconds(text: &str) -> Result<u64, String> {
    span(text, 3650, "60d").map(|span| span.as_secs())
}

fn span(text: &str, days_max: u64, example: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: Option<u64> = text[..digits].parse().ok();
    let unit_ms = match &text[digits..] {
        "ms" => 1,
        "" | "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => 0,
    };
    number
        .and_then(|n| n.checked_mul(unit_ms))
        .filter(|ms| unit_ms > 0 && *ms <= days_max * 86_400_000)
        .map(Duration::from_millis)
        .ok_or_else(|| {
            format!("a time is a number and ms, s, m, h or d, at most {days_max}d: {example}")
        })
}

/// As [`duration`], in whole seconds.
///
/// # Errors
/// As [`duration`].
pub fn seconds(text: &str) -> Result<u32, String> {
    let span = duration(text)?;
    Ok(u32::try_from(span.as_millis().div_ceil(1000)).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn years_are_told_in_days() {
        assert_eq!(long_seconds("60d"), Ok(60 * 86_400));
        assert_eq!((long_seconds("0"), long_seconds("90m")), (Ok(0), Ok(5400)));
        for bad in ["", "d", "3651d", "-1d", "1w", "99999999999999999999d"] {
            assert!(long_seconds(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn times_are_a_number_and_a_unit() {
        assert_eq!(duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("5m"), Ok(Duration::from_secs(300)));
        assert_eq!(seconds("1500ms"), Ok(2));
        for bad in ["", "m", "-1s", "1w", "31d", "1.5h", "99999999999999999999s"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
