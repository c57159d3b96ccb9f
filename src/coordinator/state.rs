//! What every handler and loop of the coordinator shares.
//!
//! Nothing here is the truth: that is the database. All of it can be made
//! again at the next start.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use ed25519_dalek::SigningKey;
use tokio::sync::{mpsc, watch};

use crate::config::daemon::Config;
use crate::coordinator::attempts::Waiting;
use crate::coordinator::claims::Waiter;
use crate::coordinator::facts::{Buckets, Counts};
use crate::coordinator::lately::Lately;
use crate::coordinator::walk::Basis;
use crate::coordinator::{owner, peers, steadiness};
use crate::model::id::{EnvName, RegionName};
use crate::model::selector::Selector;
use crate::model::time::UnixMillis;
use crate::net::auth::{Identity, Key, Keyring};
use crate::rules::queue::Timing;
use crate::store::blobs::Blobs;
use crate::store::db::{Db, DbError, Topic, tokens};
use crate::store::goals::{GoalError, Goals};
use crate::wire::problem::{Code, Problem};
use crate::wire::seal::PublicKey;

/// Longest that a request may wait for news; shorter than common proxies' 60 s.
pub const WAIT_MAX: Duration = Duration::from_secs(55);
/// Pause between two readings of the tokens because of one that is not known: whoever
/// guesses tokens must not make work.
const RELOAD_PAUSE: Duration = Duration::from_millis(200);
/// The poll under every push: news that no wake-up came for is seen within it.
const POLL_FLOOR: Duration = Duration::from_secs(5);

/// The coordinator; shared by reference counting.
pub type Shared = Arc<Coordinator>;

/// What a coordinator is made of.
pub struct Coordinator {
    /// The SQL truth.
    pub db: Db,
    /// As configured.
    pub config: Config,
    /// The main blob store.
    pub blobs: Blobs,
    /// The keys.
    pub keys: Keys,
    /// Turns true when the process is asked to stop; loops and waits then end.
    pub stop: watch::Receiver<bool>,
    /// Where workers join the line for jobs.
    pub(super) claims: mpsc::Sender<Waiter>,
    /// Where attempts say what becomes of them.
    pub(super) words: mpsc::Sender<Waiting>,
    /// Goals as they were decided, on their way to the regions.
    pub goals: Goals,
    /// Where they are put as well, if anywhere: `goals` of the configuration.
    pub(super) global_goals: Option<Goals>,
    /// Held by whoever copies goals to the goal store.
    pub(super) outbox: tokio::sync::Mutex<()>,
    /// Wakes the collector.
    pub(super) collect: tokio::sync::Notify,
    /// A person wants what is due deleted now, though the collector is switched off.
    pub(super) collect_now: AtomicBool,
    /// Whose the main store was at the last look.
    pub(super) store_owner: owner::Seen,
    /// Hosts that are known and reachable, of a large env.
    pub(super) counted: Lately<(EnvName, Selector), Counts>,
    /// Their buckets.
    pub(super) drawn: Lately<Basis, Buckets>,
    /// Why ages by the clock are not believed.
    pub(super) clock_doubt: steadiness::Doubt,
    /// What was wrong with a blob store at the last look; the main one is nobody's.
    stores: Mutex<BTreeMap<Option<RegionName>, String>>,
    keyring: RwLock<Keyring>,
    /// Held while the keyring is read anew, so that an older reading never wins.
    reloading: tokio::sync::Mutex<()>,
    /// When it was last read.
    reloaded: Mutex<Instant>,
    started: (UnixMillis, Instant),
}

/// The coordinator's keys, made at the first start.
pub struct Keys {
    /// Makes and checks tokens.
    pub token: Key,
    /// Signs goals.
    pub goal: SigningKey,
    /// Public keys that may sign goals, as agents are told.
    pub trusted_goal: Vec<PublicKey>,
    /// Public keys that may sign manifests, as agents are told.
    pub trusted_build: Vec<PublicKey>,
}

impl Coordinator {
    /// Puts the parts together and loads the keyring.
    ///
    /// # Errors
    /// When the database fails, or the goal store's URL is not one.
    pub(super) async fn new(
        db: Db,
        config: Config,
        blobs: Blobs,
        keys: Keys,
        stop: watch::Receiver<bool>,
        (claims, words): (mpsc::Sender<Waiter>, mpsc::Sender<Waiting>),
    ) -> Result<Shared, GoalError> {
        let keyring = RwLock::new(Keyring::default());
        let started = (peers::now(&db), Instant::now());
        let (goals, outbox) = (Goals::embedded(db.clone()), tokio::sync::Mutex::new(()));
        let global_goals = config.goals.as_deref().map(Goals::etcd).transpose()?;
        let reloading = tokio::sync::Mutex::new(());
        let coordinator = Self {
            db,
            config,
            blobs,
            keys,
            stop,
            claims,
            words,
            goals,
            global_goals,
            outbox,
            collect: tokio::sync::Notify::new(),
            collect_now: AtomicBool::new(false),
            store_owner: owner::Seen::default(),
            counted: Lately::default(),
            drawn: Lately::default(),
            clock_doubt: steadiness::Doubt::default(),
            stores: Mutex::default(),
            keyring,
            reloading,
            reloaded: Mutex::new(started.1),
            started,
        };
        coordinator.reload_keyring().await?;
        Ok(Arc::new(coordinator))
    }

    /// The time that leases are judged by: it never jumps while the process lives. All
    /// coordinators of one database have the same, whatever their machines' clocks say.
    #[must_use]
    pub fn steady_now(&self) -> UnixMillis {
        self.db.shared_now().unwrap_or_else(|| self.started.0 + self.started.1.elapsed())
    }

    /// When this process started.
    #[must_use]
    pub fn started_at(&self) -> UnixMillis {
        self.started.0
    }

    /// The queue's clockwork, as configured.
    #[must_use]
    pub fn timing(&self) -> Timing {
        Timing {
            beat: Duration::from_millis(self.config.queue.beat_ms),
            missed_beats: self.config.queue.missed_beats,
            max_attempts: self.config.queue.max_attempts,
        }
    }

    fn stores(&self) -> MutexGuard<'_, BTreeMap<Option<RegionName>, String>> {
        self.stores.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes how a look into a region's blob store ended, or into the main one.
    pub(super) fn note_store<T>(&self, of: Option<&RegionName>, look: &Result<T, impl ToString>) {
        match look {
            Ok(_) => self.stores().remove(&of.cloned()),
            Err(error) => self.stores().insert(of.cloned(), error.to_string()),
        };
    }

    /// What was wrong with a store at the last look; empty: nothing.
    pub(super) fn store_trouble(&self, of: Option<&RegionName>) -> String {
        self.stores().get(&of.cloned()).cloned().unwrap_or_default()
    }

    /// Who holds the token in this `Authorization` header.
    #[must_use]
    pub fn identify(&self, header: &str) -> Option<Identity> {
        self.keyring.read().unwrap_or_else(PoisonError::into_inner).identify(header)
    }

    /// Who holds the token `id`; for a browser that showed the token when it signed in.
    #[must_use]
    pub fn holder(&self, id: &str) -> Option<Identity> {
        self.keyring.read().unwrap_or_else(PoisonError::into_inner).holder(id)
    }

    /// Reads the tokens anew; call after every change of them.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn reload_keyring(&self) -> Result<(), DbError> {
        let _reloading = self.reloading.lock().await;
        let verifiers = self.db.read(tokens::of_coordinator).await?;
        let keyring = Keyring::new(self.keys.token, verifiers);
        *self.keyring.write().unwrap_or_else(PoisonError::into_inner) = keyring;
        *self.reloaded.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        Ok(())
    }

    /// [`Coordinator::identify`], also by tokens that another coordinator made a moment ago.
    pub(super) async fn identify_anew(&self, header: &str) -> Option<Identity> {
        let known = self.identify(header);
        if known.is_some() || !self.db.is_shared() {
            return known;
        }
        let reloaded = {
            let at = self.reloaded.lock().unwrap_or_else(PoisonError::into_inner);
            at.elapsed() >= RELOAD_PAUSE
        };
        if reloaded && let Err(error) = self.reload_keyring().await {
            tracing::warn!(%error, "the tokens could not be read anew");
        }
        self.identify(header)
    }

    /// Asks `look` now and after each commit that touched `topic`, until it has
    /// an answer. `None` when `wait` (at most [`WAIT_MAX`]) is over or the
    /// coordinator stops. The base of every long poll.
    ///
    /// # Errors
    /// Whatever `look` returns.
    pub async fn wait_for<T, F>(
        &self,
        topic: Topic,
        wait: Duration,
        mut look: impl FnMut() -> F,
    ) -> Result<Option<T>, Problem>
    where
        F: Future<Output = Result<Option<T>, Problem>>,
    {
        let deadline = tokio::time::Instant::now() + wait.min(WAIT_MAX);
        let mut changes = self.db.watch(topic);
        let mut stop = self.stop.clone();
        loop {
            changes.borrow_and_update();
            if let Some(answer) = look().await? {
                return Ok(Some(answer));
            }
            let now = tokio::time::Instant::now();
            if now >= deadline {
                return Ok(None);
            }
            tokio::select! {
                _ = changes.changed() => {}
                () = tokio::time::sleep_until(deadline.min(now + POLL_FLOOR)) => {}
                _ = stop.wait_for(|stop| *stop) => return Ok(None),
            }
        }
    }
}

impl From<DbError> for Problem {
    fn from(error: DbError) -> Self {
        match &error {
            DbError::NotCommitted(_) | DbError::Closed | DbError::Raced(_) => {
                Self::new(Code::Unavailable, "the coordinator could not save this").because(error)
            }
            error if error.is_passing() => {
                tracing::error!(%error, "the database can't be used now; a request may be sent again");
                Self::new(Code::Unavailable, "the coordinator can't use its database now")
                    .because(error)
            }
            _ => {
                tracing::error!(%error, "a request failed in the database");
                Self::new(Code::Internal, "the coordinator's database failed").because(error)
            }
        }
    }
}

/// A `wait_ms` of a request as a duration.
#[must_use]
pub fn wait_of(wait_ms: u64) -> Duration {
    Duration::from_millis(wait_ms).min(WAIT_MAX)
}
