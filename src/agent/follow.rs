//! Follows the region's goals: long-polls, checks each document, makes it durable,
//! hands it to its app.
//!
//! An agent accepts only what a trusted key signed, for its own env, and never goes
//! back: a lower version is refused, and so is an equal one with other content. What
//! was accepted is on disk before anything is done by it, so that the host goes on by
//! it without any network.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::agent::converge::{Accepted, Convergence, Shared};
use crate::agent::link::{Link, backoff};
use crate::agent::state::{AppFolder, SavedGoal};
use crate::agent::trust::Trust;
use crate::host::clock;
use crate::model::fleet::{AppStatus, Failure, FailureClass, Phase, Sources};
use crate::model::goal::{Goal, GoalVersion};
use crate::model::id::{AppName, EnvName, RegionName};
use crate::model::rng::Rng;
use crate::net::auth::random_seed;
use crate::net::client::CallError;
use crate::wire::seal::{self, Sealed};
use crate::wire::v1::fleet::{PollReply, PollRequest};

/// How long the region may hold a poll back, milliseconds.
const POLL_WAIT_MS: u64 = 50_000;
/// How long it may take beyond that.
const POLL_ROOM: Duration = Duration::from_secs(10);
/// Shortest time between two polls that bring nothing.
const POLL_EVERY_MIN: Duration = Duration::from_millis(500);
/// Most apps on one host [wire: `Report::apps`].
const APPS_MAX: usize = 256;
/// Largest goal document, bytes.
const GOAL_BYTES_MAX: usize = 1 << 20;
/// A generation further ahead than this is no goal but an attempt to stop all later
/// ones [reliability-security 2.4].
const JUMP_MAX: u64 = 1 << 20;
/// Wait before a goal that could not be written is asked for again.
const UNWRITTEN_WAIT: Duration = Duration::from_secs(5);

/// Why a document is not acted on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No trusted key signed it.
    #[error("no trusted key signed this goal; the keys are in the agent's trust file")]
    NotTrusted,
    /// It can't be read, or has a newer format.
    #[error("the goal has a form that this agent does not know: {0}")]
    Form(String),
    /// It is for another env.
    #[error("the goal is for env {0}")]
    Env(EnvName),
    /// The same version was seen with other content.
    #[error("two goals with the same version differ: generation {}", .0.generation)]
    Equivocation(GoalVersion),
    /// Its generation is too far ahead.
    #[error("the goal's generation {} is too far ahead", .0.generation)]
    Jump(GoalVersion),
}

/// What a document turned out to be.
#[derive(Debug, PartialEq)]
enum Judged {
    /// A newer goal.
    Newer(Box<Goal>),
    /// What the host has already, or an older one.
    Known,
}

/// Reads and checks a document on its own: signature, form, env.
///
/// # Errors
/// See [`Refusal`].
pub fn check(sealed: &Sealed, trust: &Trust, env: &EnvName) -> Result<Goal, Refusal> {
    if sealed.payload.len() > GOAL_BYTES_MAX {
        return Err(Refusal::Form(format!("over {GOAL_BYTES_MAX} bytes")));
    }
    let payload = sealed.payload.as_bytes();
    seal::verify(&trust.goal_keys, seal::GOAL, payload, &sealed.signature)
        .map_err(|_| Refusal::NotTrusted)?;
    let goal: Goal =
        serde_json::from_str(&sealed.payload).map_err(|e| Refusal::Form(e.to_string()))?;
    if goal.v != 1 {
        return Err(Refusal::Form(format!("format version {}", goal.v)));
    }
    if goal.env != *env {
        return Err(Refusal::Env(goal.env));
    }
    Ok(goal)
}

/// Places a checked document in the order of those seen before.
fn judge(goal: Goal, sealed: &Sealed, known: Option<&Tracked>) -> Result<Judged, Refusal> {
    let Some(known) = known.filter(|known| !known.payload.is_empty()) else {
        return Ok(Judged::Newer(Box::new(goal)));
    };
    let (new, old) = (goal.version, known.version);
    if new < old || (new == old && *sealed.payload == *known.payload) {
        return Ok(Judged::Known);
    }
    if new == old {
        return Err(Refusal::Equivocation(new));
    }
    if new.epoch == old.epoch && new.generation - old.generation > JUMP_MAX {
        return Err(Refusal::Jump(new));
    }
    Ok(Judged::Newer(Box::new(goal)))
}

/// An app that is followed.
struct Tracked {
    version: GoalVersion,
    payload: String,
    goals: watch::Sender<Option<Accepted>>,
}

/// Follows every app of the host.
pub struct Follower {
    shared: Arc<Shared>,
    trust: Trust,
    apps: BTreeMap<AppName, Tracked>,
}

impl Follower {
    /// Takes up what the disk holds: every app goes on by the goal it had, at once and
    /// without any network.
    #[must_use]
    pub fn resume(shared: Arc<Shared>, trust: Trust) -> Self {
        let mut follower = Self { shared, trust, apps: BTreeMap::new() };
        for app in AppFolder::all(&follower.shared.setup.root) {
            let saved =
                AppFolder::open(&follower.shared.setup.root, &app).and_then(|folder| folder.goal());
            let accepted = saved.unwrap_or_else(|e| {
                tracing::error!(%app, error = %e, "the goal on disk can't be read");
                None
            });
            follower.track(app, accepted);
        }
        follower
    }

    /// Polls for ever.
    pub async fn run(mut self, link: Link) {
        let mut backoff = backoff();
        let mut rng = Rng::new(random_seed());
        let mut since = 0;
        let mut region: Option<RegionName> = None;
        loop {
            let asked_at = Instant::now();
            match self.poll(&link, since, &mut rng).await {
                Ok(reply) => {
                    backoff.succeeded();
                    if reply.goals.is_none() {
                        // A region that does not hold polls back must not be flooded.
                        tokio::time::sleep_until(asked_at + POLL_EVERY_MIN).await;
                    }
                    self.shared.reporter.set_pace(reply.report_ms);
                    link.told(&reply.processes, &self.shared.setup.info.host);
                    if reply.report {
                        self.shared.reporter.again();
                    }
                    // Another region: what it calls goals means nothing here.
                    let moved = region.as_ref().is_some_and(|region| *region != reply.region);
                    let newest = if moved { 0 } else { reply.revision };
                    region = Some(reply.region.clone());
                    let mut written = true;
                    for sealed in reply.goals.into_iter().flatten().take(APPS_MAX) {
                        written &= self.take(&sealed, &reply.region);
                    }
                    if written {
                        since = newest;
                    } else {
                        // The region tells only what is newer than what we say we know.
                        since = 0;
                        tokio::time::sleep(UNWRITTEN_WAIT).await;
                    }
                }
                Err(e) => {
                    let wait = backoff.failed_within(self.shared.reporter.wait_max());
                    tracing::warn!(error = %e, wait_ms = wait.as_millis() as u64, "poll failed");
                    tokio::time::sleep(wait).await;
                }
            }
        }
    }

    async fn poll(&self, link: &Link, since: u64, rng: &mut Rng) -> Result<PollReply, CallError> {
        let info = self.shared.setup.info.clone();
        let reporter = &self.shared.reporter;
        let wait_ms = reporter.poll_ms(rng).min(POLL_WAIT_MS);
        let request = PollRequest { info, since, wait_ms, said: reporter.said() };
        let client = link.client();
        let limit = Duration::from_millis(POLL_WAIT_MS) + POLL_ROOM;
        let polled = client.post("/v1/agent/poll", &request, limit).await;
        polled.inspect_err(|_| link.failed(&client))
    }

    /// Takes one document, or refuses it; false: the disk failed, and it is to be told again.
    pub fn take(&mut self, sealed: &Sealed, region: &RegionName) -> bool {
        let checked = check(sealed, &self.trust, &self.shared.setup.info.env);
        let judged = checked.and_then(|goal| {
            let known = self.apps.get(&goal.app);
            judge(goal, sealed, known)
        });
        match judged {
            Ok(Judged::Known) => true,
            Ok(Judged::Newer(goal)) => self.accept(*goal, sealed, region),
            Err(refusal) => {
                self.refuse(sealed, &refusal);
                true
            }
        }
    }

    /// Makes a goal durable and hands it to its app; false: it could not be written.
    fn accept(&mut self, goal: Goal, sealed: &Sealed, region: &RegionName) -> bool {
        let (app, version) = (goal.app.clone(), goal.version);
        if !self.apps.contains_key(&app) && self.apps.len() >= APPS_MAX {
            tracing::error!(%app, "too many apps on this host");
            return true;
        }
        let saved =
            SavedGoal { sealed: sealed.clone(), accepted_at: clock::now(), region: region.clone() };
        let durable = AppFolder::open(&self.shared.setup.root, &app)
            .and_then(|folder| folder.save_goal(&saved));
        if let Err(e) = durable {
            // Nothing may be done by a goal that a crash would forget.
            tracing::error!(%app, error = %e, "a goal can't be written; it is not acted on");
            self.complain(app, format!("the goal can't be written to disk: {e}"));
            return false;
        }
        tracing::info!(%app, epoch = version.epoch, generation = version.generation,
            step = version.step, kind = ?goal.kind, next = %goal.next.release, "goal accepted");
        self.track(app, Some((goal, saved)));
        true
    }

    fn track(&mut self, app: AppName, accepted: Option<(Goal, SavedGoal)>) {
        let (version, payload) =
            accepted.as_ref().map_or_else(Default::default, |(goal, saved)| {
                (goal.version, saved.sealed.payload.clone())
            });
        let accepted = accepted.map(|(goal, saved)| Accepted {
            goal: Arc::new(goal),
            at: saved.accepted_at,
            region: saved.region,
            refused: None,
        });
        if let Some(tracked) = self.apps.get_mut(&app) {
            (tracked.version, tracked.payload) = (version, payload);
            tracked.goals.send_replace(accepted);
            return;
        }
        let (goals, receiver) = watch::channel(accepted);
        match Convergence::open(self.shared.clone(), app.clone(), receiver) {
            Ok(convergence) => {
                tokio::spawn(convergence.run());
                self.apps.insert(app, Tracked { version, payload, goals });
            }
            Err(e) => tracing::error!(%app, error = %e, "the app's folder can't be read"),
        }
    }

    /// Says that a document was refused. Its own words are not believed beyond the
    /// name that it is reported under.
    fn refuse(&self, sealed: &Sealed, refusal: &Refusal) {
        let named: Option<Goal> = serde_json::from_str(&sealed.payload).ok();
        let app = named.map(|goal| goal.app);
        tracing::error!(app = ?app, reason = %refusal, "goal refused");
        let Some(app) = app else { return };
        self.complain(app, format!("goal refused: {refusal}"));
    }

    /// Reports why a goal is not acted on, beside what the app does.
    fn complain(&self, app: AppName, reason: String) {
        let followed = self.apps.get(&app).filter(|tracked| tracked.goals.borrow().is_some());
        if let Some(tracked) = followed {
            tracked.goals.send_if_modified(|accepted| match accepted {
                Some(accepted) if accepted.refused.as_deref() != Some(&*reason) => {
                    accepted.refused = Some(reason.as_str().into());
                    true
                }
                _ => false,
            });
        } else if self.apps.contains_key(&app) || self.apps.len() < APPS_MAX {
            self.shared.reporter.set(unknown_app(app, &self.shared.setup.info.env, reason));
        }
    }
}

fn unknown_app(app: AppName, env: &EnvName, reason: String) -> AppStatus {
    AppStatus {
        app,
        env: env.clone(),
        version: GoalVersion::default(),
        running: None,
        desired: None,
        phase: Phase::Failed,
        held: vec![],
        pieces: (0, 0),
        sources: Sources::default(),
        failure: Some(Failure { class: FailureClass::Host, reason, log: vec![] }),
        restarts: 0,
        events: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ed25519_dalek::SigningKey;

    fn goal(epoch: u64, generation: u64, step: u32) -> Goal {
        Goal { version: GoalVersion { epoch, generation, step }, ..Goal::sample() }
    }

    fn sealed(goal: &Goal) -> Sealed {
        let payload = serde_json::to_string(goal).unwrap();
        let key = SigningKey::from_bytes(&[7; 32]);
        let signature = seal::sign(&key, seal::GOAL, payload.as_bytes());
        Sealed { payload, signature }
    }

    #[test]
    fn goals_are_placed_by_epoch_generation_and_step() {
        let known = goal(2, 5, 3);
        let tracked = Tracked {
            version: known.version,
            payload: sealed(&known).payload,
            goals: watch::channel(None).0,
        };
        let place = |goal: Goal| judge(goal.clone(), &sealed(&goal), Some(&tracked));
        for newer in [goal(2, 5, 4), goal(2, 6, 0), goal(3, 0, 0)] {
            assert!(matches!(place(newer), Ok(Judged::Newer(_))));
        }
        for old in [goal(2, 5, 3), goal(2, 5, 2), goal(2, 4, 9), goal(1, 9, 9)] {
            assert_eq!(place(old), Ok(Judged::Known));
        }
        let other = Goal { retry: 1, ..known.clone() };
        assert_eq!(place(other), Err(Refusal::Equivocation(known.version)));
        let far = goal(2, 6 + JUMP_MAX, 0);
        assert_eq!(place(far.clone()), Err(Refusal::Jump(far.version)));
        assert!(matches!(judge(far.clone(), &sealed(&far), None), Ok(Judged::Newer(_))));
    }

    #[test]
    fn only_a_trusted_goal_of_the_own_env_in_a_known_form_is_read() {
        let key = SigningKey::from_bytes(&[7; 32]);
        let keys = vec![seal::public_key(&key)];
        let trust = Trust { goal_keys: keys.clone(), build_keys: keys };
        let (prod, good) = ("prod".parse().unwrap(), goal(1, 1, 1));
        assert_eq!(check(&sealed(&good), &trust, &prod), Ok(good.clone()));
        let staging = "staging".parse().unwrap();
        assert_eq!(check(&sealed(&good), &trust, &staging), Err(Refusal::Env(prod.clone())));
        let newer = Goal { v: 2, ..good.clone() };
        assert!(matches!(check(&sealed(&newer), &trust, &prod), Err(Refusal::Form(_))));
        let mut altered = sealed(&good);
        altered.payload = altered.payload.replace("\"retry\":0", "\"retry\":1");
        assert_eq!(check(&altered, &trust, &prod), Err(Refusal::NotTrusted));
        let stranger = Trust { goal_keys: vec![], ..trust };
        assert_eq!(check(&sealed(&good), &stranger, &prod), Err(Refusal::NotTrusted));
    }
}
