//! The region's copy of what the coordinator decided: goals, wanted artifacts,
//! token verifiers, trust.
//!
//! A goal replaces another only when its version is greater and a trusted key
//! signed it. Every change is durable before anybody sees it; a restart serves
//! what is on disk at once. Goals are never dropped by their absence from a
//! feed: a coordinator that lost its memory must not empty a region.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::watch;

use crate::model::digest::{ArtifactId, from_hex};
use crate::model::goal::{Goal, GoalVersion};
use crate::model::id::{AppName, EnvName, RegionName};
use crate::model::selector::Labels;
use crate::net::auth::{Identity, Key, Keyring};
use crate::region::db::{Change, DbError, RegionDb, SavedArtifact, SavedGoal};
use crate::wire::seal::{self, Sealed};
use crate::wire::v1::patch::Between;
use crate::wire::v1::region::{Feed, Sibling, Trust, Verifiers, Wanted};

/// Largest goal document, bytes: what is usual is under 2 KiB; `tolerate` and
/// `admit` grow with regions. 100 pins and 50 hosts of a named canary, each with the longest
/// names and a release of its own, are 90 KiB.
const GOAL_BYTES_MAX: usize = 128 << 10;

/// Why a feed was not mirrored.
#[derive(Debug, thiserror::Error)]
pub enum MirrorError {
    /// It could not be made durable.
    #[error(transparent)]
    Db(#[from] DbError),
    /// The verifiers' key is not 64 hexadecimal digits.
    #[error("the feed's verification key is malformed")]
    Key,
}

/// What became of a goal that a person put here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placed {
    /// It stands, now or already.
    Taken,
    /// One of this version stands, which is not older.
    Stands(GoalVersion),
    /// No trusted key signed it, or it is no goal.
    Unsound,
}

/// A mirrored goal.
#[derive(Debug, Clone)]
pub struct Mirrored {
    /// As a value.
    pub goal: Arc<Goal>,
    /// As it was signed.
    pub sealed: Sealed,
    /// The mirror's revision that brought it.
    pub revision: u64,
}

#[derive(Default)]
struct State {
    revision: u64,
    goals: BTreeMap<(EnvName, AppName), Mirrored>,
    /// What agents call an env's goals.
    env_digests: HashMap<EnvName, u64>,
    artifacts: BTreeMap<ArtifactId, SavedArtifact>,
    /// By what they lead to: what they start from, and the patch.
    patches: BTreeMap<ArtifactId, BTreeSet<(ArtifactId, ArtifactId)>>,
    keyring: Option<Arc<Keyring>>,
    trust: Option<Arc<Trust>>,
    siblings: Arc<Vec<Sibling>>,
}

/// The mirror; shared by everything in the process.
pub struct Mirror {
    region: RegionName,
    db: Arc<RegionDb>,
    state: RwLock<State>,
    changed: watch::Sender<u64>,
    /// One change at a time: the feed's, or a person's.
    turn: tokio::sync::Mutex<()>,
}

impl Mirror {
    /// The mirror of `region` as `saved` in `db`.
    ///
    /// # Errors
    /// [`MirrorError::Key`] when the saved key is malformed.
    pub fn new(region: RegionName, db: Arc<RegionDb>, saved: Change) -> Result<Self, MirrorError> {
        let mut state = State::default();
        state.take(saved)?;
        Ok(Self {
            region,
            db,
            state: RwLock::new(state),
            changed: watch::Sender::new(0),
            turn: tokio::sync::Mutex::default(),
        })
    }

    /// Takes what a feed brought: durable first, then visible.
    ///
    /// # Errors
    /// [`MirrorError`]; nothing of the feed is visible then.
    pub async fn apply(self: &Arc<Self>, feed: Feed) -> Result<(), MirrorError> {
        let _turn = self.turn.lock().await;
        self.apply_in_turn(feed).await
    }

    /// Takes one goal that a person put here, as if a feed had brought it.
    ///
    /// # Errors
    /// [`MirrorError`] when it could not be saved.
    pub async fn place(self: &Arc<Self>, sealed: Sealed) -> Result<Placed, MirrorError> {
        let _turn = self.turn.lock().await;
        let Some(goal) = sound(&sealed, self.trust().as_deref()) else {
            return Ok(Placed::Unsound);
        };
        let place = (goal.env.clone(), goal.app.clone());
        let known =
            self.read().goals.get(&place).map(|known| (known.goal.version, known.sealed == sealed));
        match known {
            Some((_, true)) => return Ok(Placed::Taken),
            Some((version, false)) if version >= goal.version => {
                return Ok(Placed::Stands(version));
            }
            _ => {}
        }
        let revision = self.revision();
        let (artifacts, verifiers, trust, siblings) = (vec![], None, None, None);
        let goals = vec![sealed];
        let feed = Feed { revision, full: false, goals, artifacts, verifiers, trust, siblings };
        self.apply_in_turn(feed).await?;
        Ok(Placed::Taken)
    }

    async fn apply_in_turn(self: &Arc<Self>, feed: Feed) -> Result<(), MirrorError> {
        let change = self.accept(feed);
        if let Some(verifiers) = &change.verifiers {
            keyring(verifiers.clone())?;
        }
        let mirror = self.clone();
        let saved = tokio::task::spawn_blocking(move || {
            mirror.db.save(&change)?;
            mirror.state.write().unwrap_or_else(PoisonError::into_inner).take(change)
        });
        saved.await.expect("saving does not panic and is not cancelled")?;
        self.changed.send_modify(|count| *count += 1);
        Ok(())
    }

    /// Chooses what of a feed is new and sound.
    fn accept(&self, feed: Feed) -> Change {
        let state = self.read();
        let trust = feed.trust.clone().map(Arc::new).or_else(|| state.trust.clone());
        let newest = state.goals.values().map(|mirrored| mirrored.revision).max().unwrap_or(0);
        let revision = feed.revision.max(newest + 1);
        let mut goals: BTreeMap<(EnvName, AppName), (SavedGoal, Goal)> = BTreeMap::new();
        for sealed in feed.goals {
            let Some(goal) = sound(&sealed, trust.as_deref()) else { continue };
            let place = (goal.env.clone(), goal.app.clone());
            let known = state.goals.get(&place).map(|known| known.goal.version);
            let known = known.max(goals.get(&place).map(|(_, known)| known.version));
            if known.is_some_and(|known| known >= goal.version) {
                continue;
            }
            let (env, app) = place.clone();
            goals.insert(place, (SavedGoal { env, app, revision, sealed }, goal));
        }
        let mut next_seq = state.artifacts.values().map(|saved| saved.seq).max().unwrap_or(0);
        let artifacts = feed.artifacts.into_iter().filter_map(|wanted| {
            let known = state.artifacts.get(&wanted.artifact);
            if known.is_some_and(|known| known.gone == wanted.gone) {
                return None;
            }
            let seq = known.map_or_else(
                || {
                    next_seq += 1;
                    next_seq
                },
                |known| known.seq,
            );
            let Wanted { artifact, gone, patch } = wanted;
            Some(SavedArtifact { seq, artifact, gone, patch })
        });
        Change {
            revision: feed.revision,
            artifacts: artifacts.collect(),
            goals: goals.into_values().map(|(saved, _)| saved).collect(),
            verifiers: feed.verifiers,
            trust: feed.trust,
            siblings: feed.siblings,
        }
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The region's name.
    #[must_use]
    pub fn region(&self) -> &RegionName {
        &self.region
    }

    /// Wakes at every change.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// The feed revision to ask from next.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.read().revision
    }

    /// A number that stands for an env's goals; 0: it has none. Not a count: a mirror that
    /// lost its file counts anew, and its agents would take other goals for those they have.
    #[must_use]
    pub fn env_digest(&self, env: &EnvName) -> u64 {
        self.read().env_digests.get(env).copied().unwrap_or(0)
    }

    /// A number that stands for the goals of all envs.
    #[must_use]
    pub fn digest(&self) -> u64 {
        let state = self.read();
        // It fits the numbers that every JSON reader keeps exactly.
        digest(state.goals.values().map(|mirrored| &mirrored.sealed)) >> 12
    }

    /// The goals of `env` that cover `labels`, as they were signed.
    #[must_use]
    pub fn goals_for(&self, env: &EnvName, labels: &Labels) -> Vec<Sealed> {
        let state = self.read();
        let goals = state.goals.iter().filter(|((of, _), _)| of == env);
        let covering = goals.filter(|(_, mirrored)| mirrored.goal.covers(labels));
        covering.map(|(_, mirrored)| mirrored.sealed.clone()).collect()
    }

    /// Every goal, as it was signed.
    #[must_use]
    pub fn sealed(&self) -> Vec<Sealed> {
        self.read().goals.values().map(|mirrored| mirrored.sealed.clone()).collect()
    }

    /// Every goal, as a value and as it was signed.
    #[must_use]
    pub fn both(&self) -> Vec<(Arc<Goal>, Sealed)> {
        let state = self.read();
        state.goals.values().map(|known| (known.goal.clone(), known.sealed.clone())).collect()
    }

    /// Every goal.
    #[must_use]
    pub fn goals(&self) -> Vec<Arc<Goal>> {
        self.read().goals.values().map(|mirrored| mirrored.goal.clone()).collect()
    }

    /// Artifacts that must be held, the goals' first, patches last (nothing waits for
    /// them), each group in the order of arrival.
    #[must_use]
    pub fn wanted(&self) -> Vec<ArtifactId> {
        let state = self.read();
        let named = state.named();
        let mut wanted: Vec<_> = state.artifacts.values().filter(|saved| !saved.gone).collect();
        wanted.sort_by_key(|saved| {
            (!named.contains(&saved.artifact), saved.patch.is_some(), saved.seq)
        });
        wanted.into_iter().map(|saved| saved.artifact).collect()
    }

    /// Artifacts that may be deleted: dropped by the coordinator, and named by no goal.
    #[must_use]
    pub fn droppable(&self) -> Vec<ArtifactId> {
        let state = self.read();
        let named = state.named();
        let gone = state.artifacts.values().filter(|saved| saved.gone);
        gone.map(|saved| saved.artifact).filter(|artifact| !named.contains(artifact)).collect()
    }

    /// Whether `artifact` must be held now.
    #[must_use]
    pub fn wants(&self, artifact: &ArtifactId) -> bool {
        self.read().artifacts.get(artifact).is_some_and(|saved| !saved.gone)
    }

    /// Whether `artifact` is a patch.
    #[must_use]
    pub fn is_patch(&self, artifact: &ArtifactId) -> bool {
        self.read().artifacts.get(artifact).is_some_and(|saved| saved.patch.is_some())
    }

    /// Patches that lead to `to`, held here or not: what each starts from, and itself.
    #[must_use]
    pub fn patches(&self, to: &ArtifactId) -> Vec<(ArtifactId, ArtifactId)> {
        let state = self.read();
        let all = state.patches.get(to).into_iter().flatten();
        let wanted = |patch| state.artifacts.get(patch).is_some_and(|saved| !saved.gone);
        all.filter(|(_, patch)| wanted(patch)).copied().collect()
    }

    /// Forgets a dropped artifact once its objects are deleted.
    ///
    /// # Errors
    /// [`MirrorError::Db`].
    pub fn forget(&self, artifact: &ArtifactId) -> Result<(), MirrorError> {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        if state.artifacts.get(artifact).is_some_and(|saved| saved.gone) {
            self.db.forget_artifact(artifact)?;
            let patch = state.artifacts.remove(artifact).and_then(|saved| saved.patch);
            if let Some(Between { from, to }) = patch
                && let Some(others) = state.patches.get_mut(&to)
            {
                others.remove(&(from, *artifact));
            }
        }
        Ok(())
    }

    /// Who holds the token of an `Authorization` header; `None` inside: nobody.
    /// `None` outside: no verifiers came yet, so nobody can be known.
    #[must_use]
    pub fn identify(&self, header: &str) -> Option<Option<Identity>> {
        let keyring = self.read().keyring.clone()?;
        Some(keyring.identify(header))
    }

    /// Which region holds the ticket of an `Authorization` header; `None`: none of this
    /// installation's.
    #[must_use]
    pub fn sibling(&self, header: &str) -> Option<RegionName> {
        let state = self.read();
        let region = state.keyring.as_ref()?.sibling(header)?;
        let known = |sibling: &Sibling| sibling.region == region && region != self.region;
        state.siblings.iter().any(known).then_some(region)
    }

    /// Every region of the installation; empty: not heard of yet.
    #[must_use]
    pub fn siblings(&self) -> Arc<Vec<Sibling>> {
        self.read().siblings.clone()
    }

    /// Whether the store of this region replicates itself: the region only looks.
    #[must_use]
    pub fn is_replicated_by_store(&self) -> bool {
        let own = |sibling: &Sibling| sibling.region == self.region && sibling.replicated_by_store;
        self.read().siblings.iter().any(own)
    }

    /// The keys that sign goals and manifests; `None`: not heard of yet.
    #[must_use]
    pub fn trust(&self) -> Option<Arc<Trust>> {
        self.read().trust.clone()
    }
}

impl State {
    fn take(&mut self, change: Change) -> Result<(), MirrorError> {
        if let Some(verifiers) = change.verifiers {
            self.keyring = Some(Arc::new(keyring(verifiers)?));
        }
        if let Some(siblings) = change.siblings {
            self.siblings = Arc::new(siblings);
        }
        if let Some(trust) = change.trust {
            self.trust = Some(Arc::new(trust));
        }
        for SavedGoal { env, app, revision, sealed } in change.goals {
            // Checked when it was accepted; a goal that no longer parses waits for its next version.
            let Ok(goal) = serde_json::from_str::<Goal>(&sealed.payload) else { continue };
            self.goals.insert((env, app), Mirrored { goal: Arc::new(goal), sealed, revision });
        }
        let goals: Vec<_> = self.goals.iter().collect();
        for of_env in goals.chunk_by(|((one, _), _), ((other, _), _)| one == other) {
            let ((env, _), _) = of_env[0];
            let digest = digest(of_env.iter().map(|(_, mirrored)| &mirrored.sealed));
            self.env_digests.insert(env.clone(), digest);
        }
        for saved in change.artifacts {
            if let Some(Between { from, to }) = saved.patch {
                self.patches.entry(to).or_default().insert((from, saved.artifact));
            }
            self.artifacts.insert(saved.artifact, saved);
        }
        self.revision = change.revision;
        Ok(())
    }

    fn named(&self) -> BTreeSet<ArtifactId> {
        self.goals.values().flat_map(|mirrored| mirrored.goal.artifacts()).collect()
    }
}

/// Equal for equal goals in the same order, never 0.
fn digest<'a>(goals: impl Iterator<Item = &'a Sealed>) -> u64 {
    let mut hasher = blake3::Hasher::new();
    for sealed in goals {
        // A signature stands for all that it signs, and has one length.
        hasher.update(sealed.signature.as_bytes());
    }
    let mut first = [0; 8];
    hasher.finalize_xof().fill(&mut first);
    u64::from_le_bytes(first).max(1)
}

fn keyring(verifiers: Verifiers) -> Result<Keyring, MirrorError> {
    let key: Option<Key> = from_hex(&verifiers.key).and_then(|bytes| bytes.try_into().ok());
    Ok(Keyring::new(key.ok_or(MirrorError::Key)?, verifiers.tokens))
}

/// The goal in `sealed`, if it is bounded, signed by a trusted key and readable.
fn sound(sealed: &Sealed, trust: Option<&Trust>) -> Option<Goal> {
    let refuse = |why: &str| {
        tracing::warn!(why, bytes = sealed.payload.len(), "goal from the feed refused");
    };
    if sealed.payload.len() > GOAL_BYTES_MAX {
        refuse("over its size limit");
        return None;
    }
    let keys = trust.map(|trust| trust.goal_keys.as_slice()).unwrap_or_default();
    if let Err(e) = seal::verify(keys, seal::GOAL, sealed.payload.as_bytes(), &sealed.signature) {
        refuse(&e.to_string());
        return None;
    }
    let goal = serde_json::from_str(&sealed.payload);
    goal.map_err(|e| refuse(&e.to_string())).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_agents_call_goals_tells_goals_apart_and_is_no_count() {
        let sealed =
            |n: u8| Sealed { payload: n.to_string(), signature: n.to_string().repeat(128) };
        let of = |all: &[Sealed]| digest(all.iter());
        assert_eq!(of(&[sealed(1), sealed(2)]), of(&[sealed(1), sealed(2)]));
        assert_ne!(of(&[sealed(1), sealed(2)]), of(&[sealed(1), sealed(3)]));
        assert_ne!(of(&[sealed(1)]), of(&[sealed(1), sealed(1)]));
        assert_ne!(of(&[]), 0);
    }
}
