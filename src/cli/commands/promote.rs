//! `deployctl promote`: the next step now, or the same bits in the next env.

use std::ops::Range;

use clap::Args;
use clap_complete::ArgValueCompleter;

use crate::cli::api::Api;
use crate::cli::args::{HowArgs, WaitArgs};
use crate::cli::confirm::{self, Consent, Danger};
use crate::cli::context::Context;
use crate::cli::failure::{ExitCode, Failure};
use crate::cli::outcome::stands;
use crate::cli::prompt::pick_app;
use crate::cli::table::count;
use crate::cli::{complete, rollouts, steps};
use crate::model::id::{EnvName, ReleaseNo};
use crate::model::rollout::{Release, RolloutKind, RolloutState, Stage};
use crate::rules::rollout::command::Refusal;
use crate::wire::v1::rollout::{PromoteRequest, Rollout};

/// Go on with a rollout at once, or take what one env runs to another
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  deployctl promote r412\n  deployctl promote -n\n  deployctl promote --full --yes\n  \
    deployctl promote --from staging --to prod -m \"tested\""
)]
pub struct PromoteArgs {
    /// Which [default: the open one]
    #[arg(value_name = "ROLLOUT", conflicts_with_all = ["from", "to"],
          add = ArgValueCompleter::new(complete::open))]
    rollout: Option<ReleaseNo>,
    /// Skip every step and bake that is left
    #[arg(long, conflicts_with_all = ["from", "to"])]
    full: bool,
    /// The env whose release is taken
    #[arg(long, value_name = "ENV", requires = "to", add = ArgValueCompleter::new(complete::envs))]
    from: Option<EnvName>,
    /// The env that it is taken to
    #[arg(long, value_name = "ENV", requires = "from", add = ArgValueCompleter::new(complete::envs))]
    to: Option<EnvName>,
    #[command(flatten)]
    how: HowArgs,
    /// Only say how far it would go
    #[arg(short = 'n', long)]
    dry_run: bool,
    #[command(flatten)]
    wait: WaitArgs,
}

/// Runs the command.
///
/// # Errors
/// As the rollout ends: see `deployctl help exit-codes`.
pub async fn run(ctx: &Context, args: PromoteArgs) -> Result<ExitCode, Failure> {
    let env = match &args.to {
        Some(to) => to.clone(),
        None => ctx.env()?,
    };
    if let Some(from) = args.from {
        if from == env {
            return Err(Failure::usage(format!("--from and --to are both {env}")));
        }
        let request = args.how.request(format!("{from}:@"))?;
        let consent = Consent::of(&request, args.how.confirm.as_ref());
        if !args.dry_run {
            consent.check(ctx, &env, ctx.app_if_said()?.as_ref())?;
        }
        let api = Api::new(ctx)?;
        let app = pick_app(ctx, &api).await?;
        if args.dry_run {
            return steps::tell_dry(ctx, &api, (&app, &env), request).await;
        }
        return rollouts::start(ctx, &api, (&app, &env), request, (&consent, &args.wait)).await;
    }
    if !args.dry_run {
        confirm::check_can_ask(ctx, &env)?;
    }
    let api = Api::new(ctx)?;
    let (id, now) = rollouts::pick_open(ctx, &api, args.rollout, false).await?;
    if args.dry_run {
        return tell_dry(ctx, &api, now, args.full).await;
    }
    ctx.out.story(&rollouts::headline(ctx, &now));
    let question = question(&now, args.full);
    let left = format!("{} is as it was", id.release);
    confirm::ask_about(ctx, &id.env, (&question, &left), Danger::Moderate).await?;
    let body = PromoteRequest { full: args.full, expect_step: None };
    let promoted = api.steer_rollout(&id, "promote", &body).await?;
    rollouts::stay_with(ctx, &api, promoted, &args.wait).await
}

/// Says how far it would go, in hosts; nothing begins.
///
/// # Errors
/// Exit code 6 where there is nothing to go on with.
async fn tell_dry(ctx: &Context, api: &Api, now: Rollout, full: bool) -> Result<ExitCode, Failure> {
    let (app, env) = (&now.release.app, &now.release.env);
    check_goes_on(&now)?;
    let (status, hosts) =
        tokio::join!(api.status(Some(app), Some(env)), steps::covered(api, app, env));
    ctx.out.story(&rollouts::headline(ctx, &now));
    let mut rows = vec![("now", stands(&now)), ("would", way(&now, full))];
    let reached = hosts.ok().and_then(|hosts| steps::reached(&now, &hosts));
    let (at, part) = (now.step as usize, left(&now, full));
    if let Some(reached) = &reached {
        let all = |at: usize| reached.get(at).map_or(0, |step| step.values().sum::<u64>());
        let last = part.end.saturating_sub(1).max(at);
        let hosts = count(all(last), "host");
        rows.push(("hosts", format!("{hosts} once that is done; {} may run it now", all(at))));
    }
    let bars = status.ok().and_then(|status| status.apps.into_iter().next());
    if let Some(bars) = bars {
        let frozen = bars.frozen.map(|freeze| format!("frozen: {}", freeze.sentence()));
        let held = bars.held.map(|hold| format!("held: {}", hold.sentence()));
        let barred = frozen.into_iter().chain(held);
        rows.extend(barred.map(|bar| ("but", format!("{app} {env} is {bar}"))));
    }
    for (name, text) in rows {
        ctx.out.story(&format!("  {name:<8} {text}"));
    }
    let asked = Rollout { dry_run: true, ..now };
    let mut shown = asked.clone();
    if full {
        shown.steps.iter_mut().for_each(|step| (step.bake_s, step.hold) = (0, false));
    }
    ctx.out.answer(&asked, &steps::part_of(&shown, reached.as_deref(), part));
    Ok(ExitCode::Ok)
}

/// As the coordinator refuses it.
fn check_goes_on(now: &Rollout) -> Result<(), Failure> {
    let Release { app, env, release, .. } = &now.release;
    let watch = || format!("deployctl watch {release} -a {app} -e {env}");
    let (why, line) = match now.release.state {
        RolloutState::Pending => (Refusal::NotBegun, watch()),
        RolloutState::Reverting => (Refusal::GoingBack, watch()),
        _ if now.release.kind == RolloutKind::Rollback => {
            (Refusal::Rollback, format!("deployctl cancel {release} --keep -a {app} -e {env}"))
        }
        _ => return Ok(()),
    };
    let refused = Failure::new(ExitCode::Conflict, format!("{release} can't do that now"));
    Err(refused.because(why).hint(line))
}

/// The steps that it goes through by itself from here: to a hold, or to the end; in full only
/// the last.
fn left(now: &Rollout, full: bool) -> Range<usize> {
    let (next, all) = ((now.step as usize + 1).min(now.steps.len()), now.steps.len());
    if full {
        return all.saturating_sub(1).max(next)..all;
    }
    let hold = now.steps[next..].iter().position(|step| step.hold);
    next..hold.map_or(all, |hold| next + hold + 1)
}

/// What is asked before: what begins, and what is left out for it.
fn question(now: &Rollout, full: bool) -> String {
    let mut question = way(now, full) + "?";
    if let Some(first) = question.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    question
}

fn way(now: &Rollout, full: bool) -> String {
    let at = now.step as usize;
    let bakes = now.release.state == RolloutState::Running && now.stage == Stage::Baking;
    let holds = now.steps.get(at).is_some_and(|step| step.hold) && !now.held;
    let left_out = match (bakes, holds) {
        (true, true) => ", without the rest of this bake and the hold after it",
        (true, false) => ", without the rest of this bake",
        (false, true) => ", without this step's bake and hold",
        (false, false) => "",
    };
    let until = &now.steps[left(now, full)];
    let last = until.get(1..).and_then(<[_]>::last);
    let then = last.map_or(String::new(), |last| format!(", then by itself to {:?}", last.name));
    match until.first() {
        _ if full => "skip every step that is left".into(),
        Some(next) => format!("go on to step {:?}{left_out}{then}", next.name),
        None => "end the last step without its bake".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::watching::tests::running;
    use crate::model::rollout::Step;

    #[test]
    fn it_is_asked_what_begins_and_what_is_left_out() {
        let step = |name: &str, hold: bool| Step {
            wave: 1,
            name: name.into(),
            admit: [].into(),
            bake_s: 60,
            hold,
        };
        let steps = vec![step("canary web-1", true), step("eu 25%", false)];
        let mut rollout = running(steps.clone());
        rollout.stage = Stage::Baking;
        let asked =
            "Go on to step \"eu 25%\", without the rest of this bake and the hold after it?";
        assert_eq!(question(&rollout, false), asked);
        (rollout.release.state, rollout.held) = (RolloutState::Paused, true);
        assert_eq!(question(&rollout, false), "Go on to step \"eu 25%\"?");
        rollout.steps.extend([step("eu 100%", false), step("us 1%", true), step("us", false)]);
        assert_eq!(
            question(&rollout, false),
            "Go on to step \"eu 25%\", then by itself to \"us 1%\"?"
        );
        (rollout.step, rollout.steps) = (1, steps);
        assert!(question(&rollout, false).starts_with("End the last step"));
        assert!(question(&rollout, true).starts_with("Skip every step"));
    }
}
