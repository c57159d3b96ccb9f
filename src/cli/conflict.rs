//! What a deploy does about another rollout that is open, and about newer commits.

use clap::{Args, ValueEnum};

use super::api::{Api, RolloutId};
use super::args::WaitArgs;
use super::context::Context;
use super::failure::{ExitCode, Failure};
use super::wait;
use crate::model::id::{AppName, EnvName};
use crate::model::rollout::{OnConflict, RolloutKind};
use crate::wire::v1::rollout::RolloutRequest;

/// How a deploy stands to others.
#[derive(Debug, Args)]
pub struct ConflictArgs {
    /// Deploy a commit though it is older than what runs, or nobody knows
    #[arg(long, hide_short_help = true)]
    allow_older: bool,
    /// Deploy a commit though other apps are not where it needs them
    #[arg(long, hide_short_help = true)]
    allow_unmet: bool,
    /// When another rollout is open: fail, wait or supersede [default: supersede older work]
    #[arg(long, value_name = "HOW", hide_possible_values = true, hide_short_help = true)]
    on_conflict: Option<How>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum How {
    /// End with code 6
    Fail,
    /// Wait until it ended, then deploy
    Wait,
    /// Take its place
    Supersede,
}

impl ConflictArgs {
    /// Puts it into `request`.
    pub fn ask(&self, request: &mut RolloutRequest) {
        request.allow_older = self.allow_older;
        request.allow_unmet = self.allow_unmet;
        request.on_conflict = self.on_conflict.map(|how| match how {
            How::Fail | How::Wait => OnConflict::Fail,
            How::Supersede => OnConflict::Supersede,
        });
    }

    /// Whether an open rollout is waited for.
    #[must_use]
    pub fn waits(&self) -> bool {
        self.on_conflict == Some(How::Wait)
    }

    /// Waits until no rollout is open, if that was asked for. Somebody else may be faster
    /// then: that is a conflict like any other.
    ///
    /// # Errors
    /// Exit code 124 when the time is up, 14 when the open rollout waits for a person.
    pub async fn wait_turn(
        &self,
        ctx: &Context,
        api: &Api,
        (app, env): (&AppName, &EnvName),
        patience: &WaitArgs,
    ) -> Result<(), Failure> {
        if !self.waits() {
            return Ok(());
        }
        let status = api.status(Some(app), Some(env)).await?;
        let open = status.apps.into_iter().next().and_then(|status| status.rollout);
        let Some(open) = open else { return Ok(()) };
        let id = RolloutId::of(&open);
        let scope = Context::scope_flags(app, env);
        ctx.out.story(&format!("waits for {} to end", id.release));
        ctx.on_interrupt([
            "nothing was deployed".to_owned(),
            format!("deployctl watch {} {scope}", id.release),
        ]);
        let ended = wait::rollout(ctx, api, &id, patience, |_| {}).await?;
        ctx.on_interrupt([]);
        if ended.release.state.is_final() {
            let kind = match ended.release.kind {
                RolloutKind::Deploy => "deploy",
                RolloutKind::Rollback => "rollback",
            };
            ctx.out.story(&format!("the {kind} {} {}", id.release, ended.release.state.word()));
            return Ok(());
        }
        Err(Failure::new(ExitCode::Paused, format!("{} waits for a person", id.release))
            .because(ended.waiting_on)
            .hint(format!("deployctl resume {} {scope}", id.release))
            .hint("deployctl deploy … --on-conflict supersede"))
    }
}
