//! Real fetchers among peers, stores and trackers that fail: every honest host
//! finishes, with the right bytes, at a bounded cost for the store.

#![expect(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

#[path = "swarm/host.rs"]
mod host;
#[path = "swarm/region.rs"]
mod region;
#[path = "swarm_faults/villain.rs"]
mod villain;

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use deployctl::agent::source::{Fetched, Progress};
use host::{Host, assert_release, hosts};
use region::{Made, Region, folder};
use tokio::net::TcpListener;
use tokio::sync::watch;
use villain::{ALL, Villain, Wrong};

/// All of them fetch at once and end with the right bytes.
async fn all_finish(hosts: &[Host], made: &Made) -> Vec<Fetched> {
    let fetched = futures_util::future::join_all(hosts.iter().map(|host| host.fetch(made))).await;
    let fetched = fetched.into_iter().map(Result::unwrap).collect();
    hosts.iter().for_each(|host| assert_release(&host.release(made), made));
    fetched
}

/// One villain of each kind beside an honest holder: the store is not needed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn honest_hosts_finish_among_villains_of_every_kind() {
    let made = folder("api", 1, 12);
    let region = Region::start(&[&made]).await;
    let all = hosts(&region, 5).await;
    all[0].fetch(&made).await.unwrap();
    let mut villains = vec![];
    for wrong in ALL {
        villains.push(Villain::start(&region, &made, wrong).await);
    }
    all_finish(&all[1..], &made).await;
    let members = region.tracker.counts(made.id()).unwrap().members;
    assert_eq!(members, all.len() + villains.len());
    let asked: u32 = villains.iter().map(|v| v.asked.load(Ordering::SeqCst)).sum();
    assert!(asked > 0, "the villains were neighbours");
    let (egress, wire) = (region.egress(), made.manifest.wire_size());
    assert!(egress <= 2 * wire, "{egress} of {wire}");
    // What came over from villains is served to nobody: a later host finds right bytes only.
    drop(villains);
    let late = Host::start(&region.url, "late").await;
    all_finish(&[late], &made).await;
}

/// The only holder is a villain: in the end the store is read, within its budget.
async fn alone_with(wrong: Wrong) {
    let made = folder("api", 1, 1);
    let region = Region::start(&[&made]).await;
    let villain = Villain::start(&region, &made, wrong).await;
    let victims = hosts(&region, 2).await;
    let begun = Instant::now();
    all_finish(&victims, &made).await;
    // However quickly it answers: each victim asks what it has twice a second at most.
    let (followed, most) = (&villain.followed, 2 * (2 + begun.elapsed().as_millis() / 500));
    let followed = u128::from(followed.load(Ordering::SeqCst));
    assert!(followed <= most, "{wrong:?}: followed {followed} times, {most} at most");
    drop(villain);
    let (egress, wire) = (region.egress(), made.manifest.wire_size());
    assert!(egress <= 2 * wire, "{wrong:?}: {egress} of {wire}");
}

macro_rules! alone {
    ($($name:ident: $wrong:ident),+ $(,)?) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            alone_with(Wrong::$wrong).await;
        })+
    };
}

alone! {
    a_sole_holder_that_says_nothing: Mute,
    a_sole_holder_that_stops_in_the_middle: Stops,
    a_sole_holder_that_hangs_up_in_the_middle: Cuts,
    a_sole_holder_that_sends_wrong_bytes: Poisons,
    a_sole_holder_that_sends_without_end: Floods,
    a_sole_holder_that_has_not_what_it_said: Denies,
    a_sole_holder_that_is_always_busy: Busy,
    a_sole_holder_that_changes_its_mind: Flaps,
    a_sole_holder_that_ends_its_news: Ends,
    a_sole_holder_that_speaks_something_else: Babbles,
}

/// Some pieces in, the store answers 503 for a while; nobody gives up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_down_for_a_while_is_waited_for() {
    let made = folder("api", 1, 12);
    let region = Region::start(&[&made]).await;
    let all = hosts(&region, 4).await;
    let progress = watch::Sender::new(Progress::default());
    let mut seen = progress.subscribe();
    let outage = async {
        seen.wait_for(|progress| progress.done >= 3).await.unwrap();
        region.store.down.store(true, Ordering::SeqCst);
        // Longer than every lease and every pause between two tries.
        tokio::time::sleep(Duration::from_secs(6)).await;
        region.store.down.store(false, Ordering::SeqCst);
    };
    let first = all[0].fetch_with(&made, &progress);
    let rest = all_finish(&all[1..], &made);
    let (first, _, ()) = tokio::join!(first, rest, outage);
    first.unwrap();
    assert_release(&all[0].release(&made), &made);
    let (egress, wire) = (region.egress(), made.manifest.wire_size());
    assert!(egress <= wire * 105 / 100, "{egress} of {wire}");
}

/// Stops the region, and gives its store and address.
async fn killed(region: Region) -> (std::sync::Arc<region::Store>, String) {
    let (store, address) = (region.store.clone(), region.url.replace("http://", ""));
    drop(region);
    while TcpListener::bind(&address).await.is_err() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    (store, address)
}

/// The tracker dies while pieces move and comes back with nothing remembered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tracker_killed_in_mid_swarm_is_joined_again() {
    let made = folder("api", 1, 16);
    let region = Region::start(&[&made]).await;
    region.store.slow.store(true, Ordering::SeqCst);
    let all = hosts(&region, 4).await;
    let progress = watch::Sender::new(Progress::default());
    let mut seen = progress.subscribe();
    let restart = async {
        seen.wait_for(|progress| progress.done >= 3).await.unwrap();
        let (store, address) = killed(region).await;
        store.slow.store(false, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_secs(1)).await;
        Region::serve(store, &address).await
    };
    let first = all[0].fetch_with(&made, &progress);
    let rest = all_finish(&all[1..], &made);
    let (first, _, region) = tokio::join!(first, rest, restart);
    first.unwrap();
    assert_release(&all[0].release(&made), &made);
    // Reads that the kill cut off are the only ones that are made again.
    let (egress, wire) = (region.egress(), made.manifest.wire_size());
    assert!(egress <= wire * 3 / 2, "{egress} of {wire}");
}

/// The tracker goes for good while pieces move; the store can still be read. Few hosts
/// read what nobody has, and pass it on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_tracker_that_ever_comes_back_all_finish() {
    let made = folder("api", 1, 12);
    let region = Region::start(&[&made]).await;
    region.store.slow.store(true, Ordering::SeqCst);
    let mut all = hosts(&region, 4).await;
    for host in &mut all {
        host.alone = Duration::from_secs(2);
        host.restart(&region.url, Duration::from_secs(40)).await;
    }
    let progress = watch::Sender::new(Progress::default());
    let mut seen = progress.subscribe();
    let left = async {
        seen.wait_for(|progress| progress.done >= 3).await.unwrap();
        let (store, address) = killed(region).await;
        store.slow.store(false, Ordering::SeqCst);
        Region::serve_with(store, &address, false).await
    };
    let first = all[0].fetch_with(&made, &progress);
    let rest = all_finish(&all[1..], &made);
    let (first, _, region) = tokio::join!(first, rest, left);
    first.unwrap();
    assert_release(&all[0].release(&made), &made);
    let (egress, wire) = (region.egress(), made.manifest.wire_size());
    assert!(egress >= wire && egress <= wire * 3, "{egress} of {wire}");
}
