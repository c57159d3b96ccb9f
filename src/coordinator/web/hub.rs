//! One watcher for each page that is open anywhere: it looks again after a change, and
//! all tabs on that page share what it saw. A page that is open a thousand times costs
//! the database as much as one that is open once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, watch};

use crate::coordinator::web::Pages;
use crate::coordinator::web::call::Calls;
use crate::coordinator::web::page::Page;
use crate::model::role::Role;
use crate::net::auth::Identity;
use crate::store::db::Topic;

/// Least time between two looks at one page.
const PAUSE: Duration = Duration::from_millis(500);
/// A look that took long is followed by a pause this many times as long.
const REST: u32 = 20;
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// A page is looked at again after this even when nothing was heard.
const FLOOR: Duration = Duration::from_secs(5);
/// Looks at the same time, of all pages: people who press buttons come first.
const LOOKS: usize = 2;
/// What changes pages.
const TOPICS: [Topic; 5] =
    [Topic::Rollouts, Topic::Jobs, Topic::Events, Topic::Replicas, Topic::Looks];

/// What was seen of a page's live parts.
pub(super) struct Shot {
    /// Says the same for the same parts.
    pub(super) digest: String,
    pub(super) parts: Vec<(&'static str, String)>,
    /// Why nothing could be seen; empty: it could.
    pub(super) trouble: String,
}

/// The newest look; `None` before the first.
pub(super) type Seen = Option<Arc<Shot>>;

/// A page as one role sees it.
type Name = (String, Role);

/// The pages that are open.
pub(super) struct Hub {
    open: Mutex<HashMap<Name, watch::Sender<Seen>>>,
    looks: Semaphore,
}

impl Default for Hub {
    fn default() -> Self {
        Self { open: Mutex::default(), looks: Semaphore::new(LOOKS) }
    }
}

/// Follows the page at `path` as `who` may see it.
pub(super) fn follow(
    web: &Pages,
    path: String,
    page: Page,
    who: Identity,
) -> watch::Receiver<Seen> {
    let name = (path, who.role);
    let mut open = web.hub.open.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(sender) = open.get(&name) {
        let mut receiver = sender.subscribe();
        // What was seen before this tab came is news to it.
        receiver.mark_changed();
        return receiver;
    }
    let (sender, receiver) = watch::channel(None);
    open.insert(name.clone(), sender.clone());
    tokio::spawn(keep(web.clone(), name, page, who, sender));
    receiver
}

async fn keep(web: Pages, name: Name, page: Page, who: Identity, to: watch::Sender<Seen>) {
    let calls = Calls::new(&web, who);
    let mut heard = TOPICS.map(|topic| web.shared.db.watch(topic));
    let mut stop = web.shared.stop.clone();
    while !ended(&web, &name, &to) {
        for topic in &mut heard {
            topic.borrow_and_update();
        }
        let (shot, cost) = look(&web, &calls, &page).await;
        to.send_if_modified(|last| {
            let is_new = last
                .as_ref()
                .is_none_or(|last| last.digest != shot.digest || last.trouble != shot.trouble);
            if is_new {
                *last = Some(Arc::new(shot));
            }
            is_new
        });
        let [a, b, c, d, e] = &mut heard;
        tokio::select! {
            () = tokio::time::sleep((cost * REST).clamp(PAUSE, PAUSE_MAX)) => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
        tokio::select! {
            _ = a.changed() => {}
            _ = b.changed() => {}
            _ = c.changed() => {}
            _ = d.changed() => {}
            _ = e.changed() => {}
            () = tokio::time::sleep(FLOOR) => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
    }
}

/// Whether nobody looks any more; then the page is not open any more.
fn ended(web: &Pages, name: &Name, to: &watch::Sender<Seen>) -> bool {
    let mut open = web.hub.open.lock().unwrap_or_else(PoisonError::into_inner);
    let nobody = to.receiver_count() == 0;
    if nobody {
        open.remove(name);
    }
    nobody
}

async fn look(web: &Pages, calls: &Calls, page: &Page) -> (Shot, Duration) {
    let _turn = web.hub.looks.acquire().await;
    let began = Instant::now();
    let shot = match page.view(calls).await {
        Ok(view) => Shot {
            digest: view.digest(),
            parts: view
                .parts
                .into_iter()
                .filter(|part| part.is_live)
                .map(|part| (part.id, part.html.into_string()))
                .collect(),
            trouble: String::new(),
        },
        Err(problem) => Shot { digest: String::new(), parts: vec![], trouble: problem.to_string() },
    };
    (shot, began.elapsed())
}
