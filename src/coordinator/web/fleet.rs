//! The hosts as the pages look at them, read at most once in a while for all tabs
//! together: a page that is open a hundred times costs the database one look.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;

use crate::coordinator::state::Shared;
use crate::model::fleet::{AppStatus, Phase};
use crate::model::id::{AppName, EnvName, HostId, RegionName};
use crate::model::time::UnixMillis;
use crate::store::db::{DbError, Tx, hosts};
use crate::wire::problem::Problem;
use crate::wire::v1::fleet::HostRow;
use crate::wire::words::{Tone, phase_tone, phase_word};

/// How old the picture may be.
const AGE_MAX: Duration = Duration::from_secs(2);
/// Most hosts that are drawn; as many as the API lists.
pub(super) const HOSTS_MAX: u32 = 20_000;

/// The last look.
#[derive(Default)]
pub(super) struct Fleet(Mutex<Option<(Instant, Arc<Seen>)>>);

/// Hosts by region and id.
pub(super) struct Seen {
    pub(super) hosts: Vec<Host>,
    /// How many there are in all.
    pub(super) total: u64,
}

/// A host.
pub(super) struct Host {
    pub(super) host: HostId,
    pub(super) region: RegionName,
    pub(super) env: EnvName,
    pub(super) reachable: bool,
    pub(super) seen_at: UnixMillis,
    pub(super) apps: Vec<App>,
}

/// An app on a host.
pub(super) struct App {
    pub(super) app: AppName,
    pub(super) phase: Phase,
    /// Release that runs and release that should, as words.
    pub(super) runs: String,
    pub(super) wants: String,
    /// What went wrong; empty: nothing.
    pub(super) reason: String,
}

impl Fleet {
    /// The hosts as they were at most two seconds ago.
    ///
    /// # Errors
    /// When the database fails.
    pub(super) async fn look(&self, shared: &Shared) -> Result<Arc<Seen>, Problem> {
        let mut last = self.0.lock().await;
        if let Some((at, seen)) = &*last
            && at.elapsed() < AGE_MAX
        {
            return Ok(seen.clone());
        }
        let read = |tx: &Tx| {
            let (rows, total) = hosts::list(tx, &hosts::Filter::default(), HOSTS_MAX)?;
            Ok::<_, DbError>(Seen { hosts: rows.into_iter().map(host).collect(), total })
        };
        let seen = Arc::new(shared.db.read(read).await?);
        *last = Some((Instant::now(), seen.clone()));
        Ok(seen)
    }
}

fn host(row: HostRow) -> Host {
    Host {
        host: row.info.host,
        region: row.region,
        env: row.info.env,
        reachable: row.reachable,
        seen_at: row.seen_at,
        apps: row.apps.into_iter().map(app).collect(),
    }
}

fn app(status: AppStatus) -> App {
    let name = |target: Option<crate::model::goal::Target>| {
        target.map_or_else(|| "-".to_owned(), |target| target.release.to_string())
    };
    App {
        runs: name(status.running),
        wants: name(status.desired),
        app: status.app,
        phase: status.phase,
        reason: status.failure.map_or_else(String::new, |failure| failure.reason),
    }
}

impl Host {
    /// Word and tone of the host, or of one app on it.
    pub(super) fn state(&self, only: Option<&AppName>) -> (&'static str, Tone) {
        if !self.reachable {
            return ("unreachable", Tone::Look);
        }
        let apps = self.apps.iter().filter(|app| only.is_none_or(|only| *only == app.app));
        let worst = apps.map(|app| app.phase).max_by_key(|phase| weight(phase_tone(*phase)));
        worst.map_or(("idle", Tone::Dim), |phase| (phase_word(phase), phase_tone(phase)))
    }
}

fn weight(tone: Tone) -> u8 {
    match tone {
        Tone::Dim => 0,
        Tone::Plain | Tone::Good => 1,
        Tone::Moving => 2,
        Tone::Look => 3,
        Tone::Bad => 4,
    }
}
