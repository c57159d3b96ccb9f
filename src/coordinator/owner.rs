//! Whose the main store is: whoever collects from it must be its owner.
//!
//! What was collected is written down in one database. Another one over the same store, a copy
//! or a second installation, would delete what the first needs. So the store names one
//! installation, and with it a word that this installation's database had written last and that
//! changes all the time. It is looked at before anything is marked or deleted; see decision 0050.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Duration;

use futures_util::TryStreamExt;
use prometheus::IntGaugeVec;
use serde::{Deserialize, Serialize};

use crate::coordinator::run::place;
use crate::coordinator::state::Shared;
use crate::host::clock;
use crate::net::metrics::gauges;
use crate::store::blobs::{BlobError, Blobs, Kind, Note};
use crate::store::db::events::NewEvent;
use crate::store::db::owner::{self, Here, Installation};
use crate::store::db::{DbError, Tx, collected};
use crate::store::random;
use crate::wire::problem::{Code, Problem};

/// The line that makes a store one's own.
pub(super) const ADOPT: &str = "deployctl admin gc --adopt-store --confirm=main -m WHY";
/// Longest wait between two words: a copy of the whole disk that starts later is behind.
pub(super) const RENEWED: Duration = Duration::from_secs(600);
/// Artifacts of the store that are looked up at a time.
const PAGE: usize = 1_000;
/// How long the store may take to say whose it is, or to write it down.
const STORE_TIMEOUT: Duration = Duration::from_secs(30);
/// Between two looks before the first is believed: another coordinator of this database may be
/// writing; and whoever claimed the store at the same moment has written by then.
const LOOKED_AGAIN: Duration = Duration::from_millis(500);

static OWNED: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    let help = "Whether the main store names this installation as its owner, at the last look.";
    gauges("main_store_owned", help, &[])
});

/// What this process saw.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Why it was not at the last one; empty: it was.
    trouble: Mutex<String>,
    /// The line that makes it known where the database is; empty: it is.
    grant: Mutex<String>,
    /// Whether somebody else may delete what lies there.
    others: AtomicBool,
}

impl Seen {
    /// Why nothing is collected; empty: nothing is wrong.
    pub(super) fn trouble(&self) -> String {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What lets the database say where it is; empty: it may say so, or was not asked.
    pub(super) fn grant(&self) -> String {
        self.grant.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether another installation, or a copy of this one, may delete what this one needs.
    pub(super) fn is_anothers(&self) -> bool {
        self.others.load(Ordering::Relaxed)
    }

    fn note(&self, look: &Result<(), Problem>) {
        let trouble = look.as_ref().err().map(ToString::to_string).unwrap_or_default();
        OWNED.with_label_values::<&str>(&[]).set(i64::from(trouble.is_empty()));
        let mut last = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        // Once, and not at each look.
        if *last != trouble && trouble.is_empty() {
            tracing::info!("the main store is this installation's again");
        } else if *last != trouble {
            let hint = look.as_ref().err().and_then(|problem| problem.hints.first());
            tracing::warn!(why = trouble, hint = hint.map(String::as_str), "nothing is collected");
        }
        *last = trouble;
        let hints = look.as_ref().err().map_or(&[][..], |problem| &problem.hints);
        let grant = hints.iter().find(|hint| hint.starts_with("GRANT ")).cloned();
        *self.grant.lock().unwrap_or_else(PoisonError::into_inner) = grant.unwrap_or_default();
    }
}

/// What the object in the store says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Owner {
    installation: String,
    word: String,
    /// For people: where its database was.
    #[serde(default)]
    database: String,
    /// For people: when it was written, by the coordinator's clock.
    #[serde(default)]
    written: String,
}

impl Owner {
    fn read(note: &Note) -> Self {
        serde_json::from_slice(&note.bytes).unwrap_or_else(|_| Self {
            installation: "unreadable".into(),
            word: String::new(),
            database: "unknown".into(),
            written: String::new(),
        })
    }

    fn bytes(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).expect("plain values are plain JSON")
    }

    fn told(&self) -> String {
        let Self { installation, database, written, .. } = self;
        format!("installation {installation}, database {database}, written {written}")
    }
}

/// What the store and the database say together.
#[derive(Debug)]
enum Standing {
    Ours(Owner),
    /// The store names nobody.
    Nobody(Installation),
    /// The database is not where it was.
    Moved,
    /// Nobody says where the database is, so a copy of it would look the same.
    Placeless {
        role: String,
    },
    /// Another database with this one's id wrote last.
    Overtaken(Owner),
    Another(Owner, Installation),
}

impl Standing {
    /// Whether somebody else may delete what lies in the store.
    fn is_anothers(&self) -> bool {
        matches!(self, Self::Moved | Self::Overtaken(_) | Self::Another(..))
    }
}

/// Whether this installation owns the main store. One that names nobody is claimed if that is
/// safe.
///
/// # Errors
/// `blocked` when it does not, with why; `unavailable` when the store does not say; or when the
/// database fails.
pub(super) async fn check(shared: &Shared) -> Result<(), Problem> {
    let kept = match look_twice(shared).await {
        Ok(Standing::Nobody(known)) => claim(shared, known).await,
        standing => standing.and_then(judge),
    };
    tell(shared, kept)
}

/// The same, and does what an owner has to: with `renew` it writes another word, and it takes the
/// store from two that both hold it.
///
/// # Errors
/// As [`check`].
pub(super) async fn keep(shared: &Shared, renew: bool) -> Result<(), Problem> {
    let kept = match look_twice(shared).await {
        Ok(Standing::Ours(owner)) if renew => {
            let next = move |tx: &mut Tx| owner::next_word(tx, Some(&owner.word));
            let known = shared.db.write(next).await?;
            write(shared, &known, shared.blobs.own(note(shared, &known))).await
        }
        Ok(Standing::Nobody(known)) => claim(shared, known).await,
        // Two live from one database. Neither may win: what it collects the other may need.
        // Which of them is the copy neither can know, also not after a restart.
        Ok(Standing::Overtaken(owner)) => {
            let nobodys = Installation { words: vec![random::name()], ..known(shared).await?.0 };
            write(shared, &nobodys, shared.blobs.own(note(shared, &nobodys))).await?;
            judge(Standing::Overtaken(owner))
        }
        standing => standing.and_then(judge),
    };
    tell(shared, kept)
}

fn tell(shared: &Shared, look: Result<(), Problem>) -> Result<(), Problem> {
    shared.store_owner.note(&look);
    look
}

/// Makes the main store this installation's, whatever it says. Returns whose it was.
///
/// # Errors
/// When the store or the database fails.
pub(super) async fn adopt(shared: &Shared, who: &str, why: &str) -> Result<String, Problem> {
    if let (_, Here::Unsaid { role }) = known(shared).await? {
        return judge(Standing::Placeless { role }).map(|()| String::new());
    }
    let before = whose(shared).await?;
    let (now, who) = (shared.steady_now(), who.to_owned());
    let message = format!("{who} made the main store this installation's ({before}): {why}");
    let adopted = move |tx: &mut Tx| {
        tx.event(&NewEvent::new(now, "artifacts.store_adopted", &who, message))?;
        owner::adopt(tx)
    };
    let known = shared.db.write(adopted).await?;
    write(shared, &known, shared.blobs.own(note(shared, &known))).await?;
    check(shared).await?;
    Ok(before)
}

/// Whose the main store is, in words.
///
/// # Errors
/// When the store does not say.
pub(super) async fn whose(shared: &Shared) -> Result<String, Problem> {
    let said = said(&shared.blobs).await?;
    Ok(said.map_or("it named no owner".to_owned(), |owner| owner.told()))
}

/// An installation moved to another database at `to`: from here on the main store names it with
/// a word that nobody has. So no copy of its former database collects, also one that runs, and
/// the new one only once a person says so. Returns whether the store named it: what names
/// another, or nobody, stays as it is.
///
/// # Errors
/// When the store fails, or somebody goes on to write that the store is theirs.
pub async fn take_away(blobs: &Blobs, former: &str, to: &str) -> Result<bool, Problem> {
    let Some(owner) = said(blobs).await?.filter(|owner| owner.installation == former) else {
        return Ok(false);
    };
    let nobodys = Owner {
        word: random::name(),
        database: format!("moved to {to}"),
        written: clock::now().to_string(),
        ..owner
    };
    within(blobs.own(nobodys.bytes())).await?;
    // Whoever had looked before may write once more.
    tokio::time::sleep(LOOKED_AGAIN).await;
    match said(blobs).await? {
        Some(there) if there == nobodys => Ok(true),
        there => {
            let who = there.map_or("nobody".to_owned(), |owner| owner.told());
            Err(silent(format!("a coordinator still writes to it: {who}")))
        }
    }
}

/// What the database knows of itself, and where it is.
async fn known(shared: &Shared) -> Result<(Installation, Here), DbError> {
    let read = |tx: &Tx| {
        let known = owner::find(tx)?.ok_or(DbError::Missing("the installation's id"))?;
        Ok::<_, DbError>((known, owner::place(tx)?))
    };
    shared.db.read(read).await
}

fn silent(error: impl ToString) -> Problem {
    let title = "the main store does not say whose it is, or can't be told";
    Problem::new(Code::Unavailable, title).because(error)
}

async fn within<T>(call: impl Future<Output = Result<T, BlobError>>) -> Result<T, Problem> {
    let called = tokio::time::timeout(STORE_TIMEOUT, call).await;
    called.map_err(|_| silent("it does not answer"))?.map_err(silent)
}

async fn said(blobs: &Blobs) -> Result<Option<Owner>, Problem> {
    Ok(within(blobs.owner()).await?.as_ref().map(Owner::read))
}

async fn look(shared: &Shared) -> Result<Standing, Problem> {
    // The store first: whatever this database had written there it knew before.
    let said = said(&shared.blobs).await?;
    let (known, here) = known(shared).await?;
    let standing = match (said, here) {
        (_, Here::Unsaid { role }) => Standing::Placeless { role },
        (_, Here::At(here)) if known.home != here => Standing::Moved,
        (said, _) => compare(said, known),
    };
    shared.store_owner.others.store(standing.is_anothers(), Ordering::Relaxed);
    Ok(standing)
}

fn compare(said: Option<Owner>, known: Installation) -> Standing {
    match said {
        None => Standing::Nobody(known),
        Some(owner) if owner.installation != known.id => Standing::Another(owner, known),
        Some(owner) if known.words.contains(&owner.word) => Standing::Ours(owner),
        Some(owner) => Standing::Overtaken(owner),
    }
}

async fn look_twice(shared: &Shared) -> Result<Standing, Problem> {
    match look(shared).await? {
        Standing::Overtaken(_) => {
            tokio::time::sleep(LOOKED_AGAIN).await;
            look(shared).await
        }
        standing => Ok(standing),
    }
}

fn judge(standing: Standing) -> Result<(), Problem> {
    let (title, why) = match standing {
        Standing::Ours(_) => return Ok(()),
        Standing::Nobody(_) => (
            "the main store names no owner",
            "this database is older than owners are, or is a copy of another".to_owned(),
        ),
        Standing::Moved => (
            "this database is not where it was, as a copy of one is not",
            "the other, if it lives, needs what this one would delete".to_owned(),
        ),
        Standing::Placeless { role } => {
            let title = "the database's server does not say which one it is";
            let why = format!("a copy would look the same; {role} may not ask pg_control_system()");
            let grant = format!("GRANT EXECUTE ON FUNCTION pg_control_system() TO \"{role}\"");
            let problem = Problem::new(Code::Blocked, format!("nothing is collected: {title}"));
            return Err(problem.because(why).hint(grant));
        }
        Standing::Overtaken(owner) => (
            "the main store was written to by another copy of this database",
            format!("{}; it may delete what this one needs: stop all but one", owner.told()),
        ),
        Standing::Another(owner, known) => (
            "the main store is another installation's",
            format!(
                "its owner is {}; that owner may delete what this installation, {}, needs",
                owner.told(),
                known.id
            ),
        ),
    };
    Err(refused(title, why))
}

fn refused(title: &str, why: String) -> Problem {
    Problem::new(Code::Blocked, format!("nothing is collected: {title}")).because(why).hint(ADOPT)
}

/// Claims a store that names nobody: only when nothing lies there but what this database, which
/// is no copy, knows.
async fn claim(shared: &Shared, known: Installation) -> Result<(), Problem> {
    if !known.sure {
        return judge(Standing::Nobody(known));
    }
    let Strangers { artifacts, .. } = strangers(shared, usize::MAX).await?;
    if artifacts > 0 {
        return Err(refused(
            "the main store names no owner",
            format!("it holds {artifacts} artifacts that this database does not know"),
        ));
    }
    let known = shared.db.write(|tx: &mut Tx| owner::next_word(tx, None)).await?;
    write(shared, &known, shared.blobs.claim(note(shared, &known))).await?;
    // A server may know no such condition: then the last of two stands there by now.
    tokio::time::sleep(LOOKED_AGAIN).await;
    judge(look(shared).await?)
}

/// Artifacts in the main store that this database does not know: another's, or newer than it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Strangers {
    /// How many were found.
    pub(super) artifacts: u64,
    /// Whether there may be more: not all of the store was looked at.
    pub(super) more: bool,
}

/// Looks for them among the first `looked` artifacts of the store, or a page more.
///
/// # Errors
/// When the store or the database fails.
pub(super) async fn strangers(shared: &Shared, looked: usize) -> Result<Strangers, Problem> {
    let mut pages = shared.blobs.ages(Kind::Manifest).try_chunks(PAGE);
    let (mut artifacts, mut seen) = (0, 0);
    loop {
        let page = async { pages.try_next().await.map_err(|error| error.1) };
        let Some(page) = within(page).await? else {
            return Ok(Strangers { artifacts, more: false });
        };
        if seen >= looked {
            return Ok(Strangers { artifacts, more: true });
        }
        seen += page.len();
        let names: Vec<_> = page.into_iter().map(|one| one.artifact).collect();
        let unknown = shared.db.read(move |tx| collected::unknown(tx, &names)).await?;
        artifacts += unknown.len() as u64;
    }
}

fn note(shared: &Shared, known: &Installation) -> Vec<u8> {
    let owner = Owner {
        installation: known.id.clone(),
        word: known.words.last().cloned().unwrap_or_default(),
        database: place(&shared.config).map(|place| place.to_string()).unwrap_or_default(),
        written: shared.steady_now().to_string(),
    };
    owner.bytes()
}

async fn write(
    shared: &Shared,
    known: &Installation,
    put: impl Future<Output = Result<(), BlobError>>,
) -> Result<(), Problem> {
    within(put).await?;
    tracing::debug!(installation = known.id, store = shared.blobs.name(), "said whose it is");
    Ok(())
}
