//! Admits a deploy or a rollback: one transaction that checks everything, takes
//! the open rollout's place, and starts the new one [orchestration 6.7, 6.8].

mod rollback;

use std::time::Duration;

use crate::coordinator::once::{self, KEY_KEPT, Key};
use crate::coordinator::readiness::{self, Readiness};
use crate::coordinator::refs::{Named, resolve};
use crate::coordinator::requirements;
use crate::coordinator::state::Coordinator;
use crate::coordinator::walk::{Basis, Before, Undone};
use crate::coordinator::{
    ancestry, apps, bars, bounds, canary, configs, facts, features, gates, plans, reached, steer,
    view,
};
use crate::model::canary::Canary;
use crate::model::config::Bits;
use crate::model::digest::{ArtifactId, ConfigId};
use crate::model::id::{AppName, EnvName, RegionName, ReleaseNo};
use crate::model::rollout::{OnConflict, RolloutKind, RolloutState, Stage};
use crate::model::time::UnixMillis;
use crate::rules::rollout::command::Command;
use crate::rules::rollout::{APPROVAL_LIMIT, Admission, Rollout as Rules};
use crate::store::db::deployables::{self, Deployable};
use crate::store::db::envs::{self, EnvRow};
use crate::store::db::events::NewEvent;
use crate::store::db::releases::{self, ReleaseRow};
use crate::store::db::{DbError, Tx};
use crate::wire::problem::{Code, Problem};
use crate::wire::v1::app::AppSpec;
use crate::wire::v1::config::ConfigWish;
use crate::wire::v1::rollout::{Rollout, RolloutRequest};

/// Longest reason that a person gives, bytes.
pub(super) const MESSAGE_BYTES_MAX: usize = 2000;
/// Bits of superseded rollouts that hosts may stay on; those on older ones go to the
/// base first.
const TOLERATED_MAX: usize = 4;

/// A request for a rollout, with who and where.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub(super) app: AppName,
    pub(super) env: EnvName,
    pub(super) actor: String,
    /// The header `Idempotency-Key`.
    pub(super) key: Key,
    pub(super) request: RolloutRequest,
}

/// Why nothing was written.
#[derive(Debug)]
pub(super) enum Stop {
    Refused(Problem),
    /// A dry run: what would have happened.
    Dry(Box<Rollout>),
    /// This walk over the fleet comes first, outside of the transaction.
    Walk(Box<Basis>),
}

impl From<Problem> for Stop {
    fn from(problem: Problem) -> Self {
        Self::Refused(problem)
    }
}

impl From<Undone> for Stop {
    fn from(undone: Undone) -> Self {
        match undone {
            Undone::Db(error) => error.into(),
            Undone::Walk(basis) => Self::Walk(basis),
        }
    }
}

impl From<DbError> for Stop {
    fn from(error: DbError) -> Self {
        Self::Refused(error.into())
    }
}

/// What is known before it is decided.
struct Desk<'a> {
    shared: &'a Coordinator,
    asked: &'a Asked,
    app: AppSpec,
    env: EnvRow,
    open: Option<ReleaseRow>,
    /// What of the fleet was walked before.
    before: &'a Before,
    /// See [`configs::asked`].
    wish: Option<Option<ConfigId>>,
}

/// What the new release consists of.
struct Load {
    build: Deployable,
    same_as: Option<ReleaseNo>,
    /// `None`: it waits for its build.
    artifact: Option<ArtifactId>,
    config: Option<ConfigId>,
    /// The hosts that go first, where a person named them.
    canary: Option<Canary>,
}

impl Load {
    fn new(build: Deployable, same_as: Option<ReleaseNo>, config: Option<ConfigId>) -> Self {
        Self { build, same_as, artifact: None, config, canary: None }
    }

    /// What it will be once its build is done; `None`: that is not known yet.
    fn bits(&self) -> Option<Bits> {
        Some(Bits { artifact: self.build.artifact?, config: self.config })
    }
}

/// Admits `asked`.
///
/// # Errors
/// [`Stop::Refused`] with a problem, [`Stop::Dry`] when it was a dry run, [`Stop::Walk`] when
/// the fleet is to be walked `before`.
pub(super) fn admit(
    tx: &mut Tx,
    shared: &Coordinator,
    asked: &Asked,
    before: &Before,
) -> Result<Rollout, Stop> {
    bounds::check(asked)?;
    let wish = configs::asked(&asked.request)?;
    let app = apps::known(tx, &asked.app, Some(&asked.env))?;
    let change = format!("rollout {} {}", asked.app, asked.env);
    let digest = once::digest(&once::asked(change, &asked.request));
    if let Some(row) = answered(tx, shared, asked, &digest)? {
        return Ok(joined(view::rollout(tx, shared, &row)?));
    }
    let mut asked = asked.clone();
    asked.request.regions = reached::regions(&facts::region_names(tx, shared)?, &asked.request)?;
    let asked = &asked;
    let env = envs::find(tx, &asked.app, &asked.env)?;
    check_generation(asked, &env)?;
    let open = releases::open(tx, &asked.app, &asked.env)?;
    let desk = Desk { shared, asked, app, env, open, before, wish };
    let row = match asked.request.kind {
        RolloutKind::Deploy => deploy(tx, &desk)?,
        RolloutKind::Rollback => rollback::rollback(tx, &desk)?,
    };
    let (row, is_new) = match row {
        Admitted::New(row) => (row, true),
        Admitted::Joined(row) => (row, false),
    };
    if let Some(key) = &asked.key.0 {
        let now = shared.steady_now();
        let told = (asked.actor.as_str(), key.as_str(), digest.as_str());
        releases::remember(tx, told, &row.rollout, now, now - KEY_KEPT)?;
    }
    let shown = view::rollout(tx, shared, &row)?;
    let shown = if is_new { shown } else { joined(shown) };
    if asked.request.dry_run { Err(Stop::Dry(Box::new(only_asked(shown)))) } else { Ok(shown) }
}

enum Admitted {
    New(Box<ReleaseRow>),
    Joined(Box<ReleaseRow>),
}

fn joined(rollout: Rollout) -> Rollout {
    Rollout { joined: true, ..rollout }
}

/// What would have happened, told as what it is: nothing has begun.
fn only_asked(shown: Rollout) -> Rollout {
    let mut asked = Rollout { dry_run: true, ..shown };
    if !asked.joined && asked.release.state == RolloutState::Running {
        asked.release.state = RolloutState::Pending;
        (asked.stage, asked.due_at) = (Stage::Idle, None);
        "it would begin at once".clone_into(&mut asked.waiting_on);
    }
    asked
}

fn deploy(tx: &mut Tx, desk: &Desk<'_>) -> Result<Admitted, Stop> {
    let request = &desk.asked.request;
    if request.target.is_empty() {
        return Err(Problem::new(Code::Usage, "a deploy needs a target")
            .hint("deployctl deploy HEAD")
            .hint("deployctl deploy @latest")
            .into());
    }
    let named = canary::named(tx, desk.shared, &desk.app, &desk.asked.env, request);
    let found = resolve(tx, &desk.app, &desk.asked.env, &request.target)
        .and_then(|target| load(tx, desk, target));
    let mut load = match found {
        Ok(load) => load,
        // A name that is mistyped is put right first, whatever else is to be put right.
        Err(other) => return Err(named.err().unwrap_or(other).into()),
    };
    let there = match &desk.open {
        Some(open) => is_same(open, desk, &load).then(|| open.clone()),
        None => at_goal(tx, desk, load.bits())?,
    };
    if let Some(row) = there {
        return Ok(Admitted::Joined(Box::new(row)));
    }
    load.canary = named?;
    if let Some(open) = &desk.open {
        check_may_supersede(desk, open)?;
    }
    let standing = ancestry::check(tx, desk.shared, desk.asked, &load.build, &desk.env)?;
    if let Some(open) = &desk.open {
        standing.check_conflict(desk.asked, open, &load.build)?;
    }
    if load.config.is_some() {
        features::begin(tx, desk.shared, &features::CONFIGS)?;
    }
    if request.no_auto_revert {
        features::begin(tx, desk.shared, &features::STAYS)?;
    }
    check_not_barred(tx, desk, &load.build)?;
    if let Some(bits) = load.bits()
        && !request.allow_bad
        && releases::is_bad(tx, &desk.asked.app, &desk.asked.env, &bits)?
    {
        return Err(bad(desk, &load).into());
    }
    load.artifact = ready(tx, desk, &load)?;
    // Where a deploy does not reach, hosts keep what they run, an open rollout's bits too.
    // Hosts of a healthy rollout whose place is taken stay where they are until they are
    // admitted: nobody restarts twice.
    let tolerate = match &desk.open {
        Some(open)
            if !request.regions.is_empty() || open.rollout.state == RolloutState::Running =>
        {
            let both = open.bits().into_iter().chain(open.rollout.tolerate.iter().copied());
            both.take(TOLERATED_MAX).collect()
        }
        _ => vec![],
    };
    if request.allow_unmet {
        let (now, asked) = (desk.shared.steady_now(), desk.asked);
        requirements::tell_broken(tx, (now, &asked.actor), (&asked.app, &asked.env), &load.build)?;
    }
    place(tx, desk, load, tolerate)
}

/// The artifact, where it can begin now; `None`: it waits for its build or for other apps.
fn ready(tx: &Tx, desk: &Desk<'_>, load: &Load) -> Result<Option<ArtifactId>, Problem> {
    let (request, place) = (&desk.asked.request, (&desk.app.name, &desk.asked.env));
    let readiness = readiness::of(tx, desk.shared, &load.build)?;
    match (&readiness, request.when_ready_s) {
        (Readiness::Ready(artifact), wait) => {
            match requirements::unmet(tx, place.1, &load.build, request.allow_unmet)? {
                None => Ok(Some(*artifact)),
                Some(unmet) if wait.is_some() && unmet.may_come => Ok(None),
                Some(unmet) => Err(unmet.refusal(place, &load.build)),
            }
        }
        (Readiness::Waiting(_), Some(_)) => Ok(None),
        _ => Err(readiness::refusal(place, &load.build, &readiness)),
    }
}

/// What a deploy brings: a release that the env has run comes with its own configuration,
/// anything else with the one that is there, unless the request says otherwise.
fn load(tx: &Tx, desk: &Desk<'_>, named: Named) -> Result<Load, Problem> {
    let (env, request) = (&desk.asked.env, &desk.asked.request);
    let config = match (desk.wish, &named) {
        (Some(config), _) => config,
        (None, Named::Release(row)) if row.rollout.env == *env => row.rollout.config,
        (None, _) => {
            let stands = (&desk.env, desk.open.as_ref());
            configs::kept(tx, (&desk.app.name, env), stands, &request.regions)?
        }
    };
    match named {
        Named::Build(build) => Ok(Load::new(build, None, config)),
        Named::Release(row) => {
            let build = deployables::find(tx, &desk.app.name, row.build)?
                .ok_or(DbError::Missing("a release's build"))?;
            Ok(Load::new(build, Some(root(&row)), config))
        }
    }
}

/// The release that first brought these bits, as far as rollbacks tell.
fn root(row: &ReleaseRow) -> ReleaseNo {
    row.same_as.filter(|_| row.is_rollback()).unwrap_or(row.rollout.release)
}

fn is_same(open: &ReleaseRow, desk: &Desk<'_>, load: &Load) -> bool {
    let (rules, request) = (&open.rollout, &desk.asked.request);
    rules.kind == RolloutKind::Deploy
        && rules.state != RolloutState::Reverting
        && open.build == load.build.build
        && rules.config == load.config
        && rules.plan == request.plan
        && plans::are_same(rules.plan_file.as_ref(), request.plan_file.as_ref())
        && rules.canary.as_ref().map(|canary| &canary.asked)
            == request.hosts.as_ref().map(ToString::to_string).as_ref()
        && rules.regions == request.regions
        && rules.bake_s == request.bake_s
        && rules.no_auto_revert == request.no_auto_revert
        && rules.permits.most == request.max_unavailable
        && rules.spread_s == request.spread_s.unwrap_or(0)
        && rules.pace_s == request.pace_s.unwrap_or(0)
        && rules.hosts == desk.app.hosts
}

/// The release that is there already, when a deploy would change nothing.
fn at_goal(tx: &Tx, desk: &Desk<'_>, bits: Option<Bits>) -> Result<Option<ReleaseRow>, DbError> {
    let (Some(release), Some(bits)) = (desk.env.goal_release, bits) else {
        return Ok(None);
    };
    let row = releases::find(tx, &desk.asked.app, &desk.asked.env, release)?;
    let regions = &desk.asked.request.regions;
    let stable = &desk.env.stable;
    let runs = |region: &RegionName| stable.of(region).is_some_and(|runs| runs.bits() == bits);
    let everywhere =
        stable.base.is_some_and(|base| base.bits() == bits) && stable.region_base.is_empty();
    let there = if regions.is_empty() { everywhere } else { regions.iter().all(runs) };
    Ok(row.filter(|row| {
        there
            && row.rollout.state == RolloutState::Succeeded
            && row.bits() == Some(bits)
            && row.rollout.hosts == desk.app.hosts
    }))
}

/// A way back that is under way is not to be cut short by a deploy.
fn check_may_supersede(desk: &Desk<'_>, open: &ReleaseRow) -> Result<(), Problem> {
    let (rules, app) = (&open.rollout, &desk.app.name);
    let release = rules.release;
    let what = match (rules.kind, rules.state) {
        (RolloutKind::Rollback, _) => "a rollback is under way",
        (_, RolloutState::Reverting) => "a release is being reverted",
        _ => return Ok(()),
    };
    let request = &desk.asked.request;
    if request.on_conflict == Some(OnConflict::Supersede) && !request.message.is_empty() {
        return Ok(());
    }
    Err(Problem::new(Code::Blocked, what)
        .because(format!("{release} in {} has not settled yet", rules.env))
        .hint(format!("deployctl watch {release} -a {app} -e {}", rules.env))
        .hint(format!("deployctl cancel {release} --keep -a {app} -e {}", rules.env)))
}

/// A freeze or a hold stops a deploy unless somebody breaks the glass, and then everybody
/// is told.
fn check_not_barred(tx: &mut Tx, desk: &Desk<'_>, build: &Deployable) -> Result<(), Problem> {
    let (app, env, now) = (&desk.app.name, &desk.asked.env, desk.shared.steady_now());
    let Some(bar) = bars::stopping(tx, (app, env), now)? else { return Ok(()) };
    let request = &desk.asked.request;
    if !request.break_glass {
        let short = build.commit.short();
        let again = format!("deployctl deploy {short} -a {app} -e {env} --break-glass -m WHY");
        return Err(bar.refusal((app, env), Some(again)));
    }
    let actor = &desk.asked.actor;
    let message = format!("{actor} passed what was {}: {}", bar.sentence(), request.message);
    Ok(tx.event(&NewEvent::new(now, bar.broken(), actor, message).app(app).env(env))?)
}

fn bad(desk: &Desk<'_>, load: &Load) -> Problem {
    let (short, env, app) = (load.build.commit.short(), &desk.asked.env, &desk.app.name);
    let (with, how) = match load.config {
        Some(config) => (format!(" with config {}", config.short()), " --config FILE"),
        None if desk.asked.request.config.is_some() => (" without a config".into(), " --no-config"),
        None => (String::new(), ""),
    };
    Problem::new(Code::Blocked, format!("{short}{with} was marked bad in {env}"))
        .because("a release of it failed or was rolled back")
        .hint(format!("deployctl deploy {short}{how} -a {app} -e {env} --allow-bad -m WHY"))
        .hint(format!("deployctl history -a {app} -e {env}"))
}

/// Takes the open rollout's place and starts.
fn place(tx: &mut Tx, desk: &Desk<'_>, load: Load, tolerate: Vec<Bits>) -> Result<Admitted, Stop> {
    let (shared, asked, request) = (desk.shared, desk.asked, &desk.asked.request);
    let now = shared.steady_now();
    let release = envs::next_release(tx, &asked.app, &asked.env)?;
    if let Some(open) = &desk.open {
        let mut open = open.clone();
        let facts = facts::load(tx, shared, &open.rollout)?;
        let command = Command::Supersede { by: release };
        let actions = open.rollout.command(now, command, &facts).unwrap_or_default();
        steer::save(tx, shared, &mut open, actions, (&asked.actor, &facts))?;
    }
    let approvals = approvals(tx, desk)?;
    let patience = Duration::from_secs(u64::from(request.when_ready_s.unwrap_or(0)));
    let wait = if approvals > 0 { patience.max(APPROVAL_LIMIT) } else { patience };
    let admission = Admission {
        app: asked.app.clone(),
        env: asked.env.clone(),
        release,
        kind: request.kind,
        plan: request.plan,
        plan_file: request.plan_file.clone(),
        canary: load.canary.clone(),
        regions: request.regions.clone(),
        hosts: desk.app.hosts.clone(),
        bake_s: request.bake_s,
        stable: desk.env.stable.clone(),
        config: load.config,
        tolerate,
        no_auto_revert: request.no_auto_revert,
        through_freeze: request.break_glass,
        allow_older: request.allow_older,
        allow_unmet: request.allow_unmet,
        approvals,
        spread_s: request.spread_s.unwrap_or(0),
        pace_s: request.pace_s.unwrap_or(0),
        max_unavailable: request.max_unavailable,
        start_by: now + wait,
    };
    let gates = gates::wanted(shared, admission.kind, (&asked.app, &asked.env));
    if !gates.is_empty() {
        features::begin(tx, shared, &features::GATES)?;
    }
    let rules = Rules { gates, ..Rules::admitted(now, admission) };
    let mut row = row(now, asked, &load, rules);
    let drawn = plans::check(tx, shared, &desk.app, &row.rollout, desk.before)?;
    if let (Some(config), Some(ConfigWish::Text(text))) = (load.config, &request.config) {
        let brought = (asked.actor.as_str(), now);
        crate::store::db::configs::keep(tx, &asked.app, (config, text), brought)?;
    }
    releases::insert(tx, &row)?;
    row.stamp = 1;
    if approvals > 0 {
        let noun = if approvals == 1 { "approval" } else { "approvals" };
        let message = format!("{release} in {} waits for {approvals} {noun}", asked.env);
        let event = NewEvent::new(now, "rollout.unapproved", &asked.actor, message);
        tx.event(&event.app(&asked.app).env(&asked.env).build(row.build).release(release))?;
    } else if let Some(artifact) = load.artifact {
        steer::begin(tx, shared, &mut row, artifact, (&asked.actor, drawn, desk.before))?;
    }
    Ok(Admitted::New(Box::new(row)))
}

/// How many people must approve it first: of a way back nobody, and whoever breaks the
/// glass is told of.
fn approvals(tx: &mut Tx, desk: &Desk<'_>) -> Result<u32, DbError> {
    let (app, env, request) = (&desk.app, &desk.asked.env, &desk.asked.request);
    let wanted = app.approvals.get(env).copied().unwrap_or(0);
    if wanted == 0 || request.kind == RolloutKind::Rollback {
        return Ok(0);
    }
    if request.break_glass {
        let (now, actor) = (desk.shared.steady_now(), &desk.asked.actor);
        let message = format!("{actor} passed {wanted} approvals of {env}: {}", request.message);
        let event = NewEvent::new(now, "approval.broken", actor, message);
        tx.event(&event.app(&app.name).env(env))?;
        return Ok(0);
    }
    Ok(wanted)
}

fn row(now: UnixMillis, asked: &Asked, load: &Load, rollout: Rules) -> ReleaseRow {
    ReleaseRow {
        same_as: load.same_as,
        build: load.build.build,
        commit: load.build.commit.clone(),
        subject: load.build.subject.clone(),
        artifact: load.artifact,
        bad: false,
        actor: asked.actor.clone(),
        message: asked.request.message.clone(),
        created_at: now,
        ended_at: None,
        rollout,
        tallies: std::collections::BTreeMap::new(),
        stamp: 0,
    }
}

fn check_generation(asked: &Asked, env: &EnvRow) -> Result<(), Problem> {
    match asked.request.expect_generation {
        Some(expected) if expected != env.generation => {
            Err(Problem::new(Code::Conflict, "something else was deployed in between")
                .because(format!(
                    "generation {} was expected, the goal is at {}",
                    expected, env.generation
                ))
                .hint(format!("deployctl status {}", asked.app)))
        }
        _ => Ok(()),
    }
}

fn answered(
    tx: &Tx,
    shared: &Coordinator,
    asked: &Asked,
    digest: &str,
) -> Result<Option<ReleaseRow>, Stop> {
    let Some(key) = &asked.key.0 else { return Ok(None) };
    let since = shared.steady_now() - KEY_KEPT;
    let Some((request, app, env, release)) = releases::answered(tx, &asked.actor, key, since)?
    else {
        let other = releases::asked(tx, &asked.actor, key, since)?;
        return if other.is_some() { Err(once::reused().into()) } else { Ok(None) };
    };
    if request != digest {
        let why = format!("it started {release} of {app} in {env}");
        return Err(once::reused().because(why).into());
    }
    Ok(releases::find(tx, &app, &env, release)?)
}
