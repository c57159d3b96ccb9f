//! Real fetchers against a region: peers first, one read of the store, no wrong
//! byte, nothing fetched twice.

#![expect(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

#[path = "swarm/host.rs"]
mod host;
#[path = "swarm/patch.rs"]
mod patch;
#[path = "swarm/region.rs"]
mod region;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use deployctl::agent::fetch::Caps;
use deployctl::agent::source::{Progress, Want};
use deployctl::model::fleet::FailureClass;
use deployctl::model::pieces::PieceSet;
use host::{DEADLINE, Host, assert_release, hosts};
use region::{Made, Region, folder, make};
use tokio::net::TcpListener;
use tokio::sync::watch;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eight_hosts_read_the_store_about_once() {
    let made = folder("api", 1, 24);
    let region = Region::start(&[&made]).await;
    let hosts = hosts(&region, 8).await;
    let fetches = hosts.iter().map(|host| host.fetch(&made));
    let mut peer = 0;
    for fetched in futures_util::future::join_all(fetches).await {
        let sources = fetched.unwrap().sources;
        peer += sources.peer;
        assert_eq!(sources.local, 0);
        assert_eq!(sources.peer + sources.store, made.manifest.wire_size());
    }
    hosts.iter().for_each(|host| assert_release(&host.release(&made), &made));
    let (egress, wire) = (region.egress(), made.manifest.wire_size());
    assert!(egress >= wire && egress * 100 <= wire * 105, "{egress} of {wire}");
    assert_eq!(peer, 8 * wire - egress);
    // One that comes late finds peers.
    let late = Host::start(&region.url, "late").await;
    assert_eq!(late.fetch(&made).await.unwrap().sources.peer, wire);
    assert_eq!(region.egress(), egress);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_and_little_are_fetched_too() {
    let empty = make("api", BTreeMap::from([("bin/none".to_owned(), vec![])]), &[]);
    let small = make("api", BTreeMap::from([("a".to_owned(), b"hello".to_vec())]), &[("l", "a")]);
    let region = Region::start(&[&empty, &small]).await;
    let host = Host::start(&region.url, "h").await;
    for made in [&empty, &small] {
        host.fetch(made).await.unwrap();
        assert_release(&host.release(made), made);
        // Again: it is there already, also with the region gone.
        assert_eq!(host.fetch(made).await.unwrap().sources.store, 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_fetch_goes_on_where_it_was() {
    let made = folder("api", 1, 24);
    let region = Region::start(&[&made]).await;
    let mut host = Host::start(&region.url, "h").await;
    let progress = watch::Sender::new(Progress::default());
    let mut seen = progress.subscribe();
    tokio::select! {
        _ = host.fetch_with(&made, &progress) => panic!("finished before it was killed"),
        _ = seen.wait_for(|progress| progress.done >= 8) => {}
    }
    let before = progress.borrow().sources.store;
    assert!(!host.release(&made).exists());
    host.restart(&region.url, Duration::from_secs(20)).await;
    let sources = host.fetch(&made).await.unwrap().sources;
    assert_release(&host.release(&made), &made);
    let wire = made.manifest.wire_size();
    // Pieces that were verified after the last look are not fetched again either.
    assert!(before > 0 && before + sources.store <= wire, "{before} + {}", sources.store);
}

/// Bytes of half-received pieces in a host's folder, by piece.
fn halves(host: &Host, made: &Made) -> BTreeMap<u32, u64> {
    let folder = host.root.path().join("packs").join(made.id().to_string()).join("parts");
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let named = |file: std::fs::DirEntry| {
        Some((file.file_name().to_str()?.parse().ok()?, file.metadata().ok()?.len()))
    };
    files.filter_map(named).collect()
}

/// What `look` says once it stays the same: requests of a fetcher that is gone may still
/// be on their way.
async fn at_rest<T: PartialEq>(look: impl Fn() -> T) -> T {
    let (mut seen, mut same) = (look(), 0);
    while same < 20 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let now = look();
        same = if now == seen { same + 1 } else { 0 };
        seen = now;
    }
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_fetch_asks_only_for_the_rest_of_what_was_half_received() {
    let made = make("api", BTreeMap::from([("a".into(), region::noise(1, 4 << 20, false))]), &[]);
    let region = Region::start(&[&made]).await;
    region.store.slow.store(true, Ordering::SeqCst);
    let mut host = Host::start(&region.url, "h").await;
    let progress = watch::Sender::new(Progress::default());
    let killed = async {
        while halves(&host, &made).len() < 2 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        _ = host.fetch_with(&made, &progress) => panic!("finished before it was killed"),
        () = killed => {}
    }
    host.fetcher = None;
    region.store.slow.store(false, Ordering::SeqCst);
    let asked = || region.store.asked.lock().unwrap().len();
    let (halves, before) = at_rest(|| (halves(&host, &made), asked())).await;
    host.restart(&region.url, Duration::from_secs(20)).await;
    let fetched = host.fetch(&made).await.unwrap().sources;
    assert_release(&host.release(&made), &made);
    let asked = region.store.asked.lock().unwrap()[before..].to_vec();
    let offsets = made.manifest.wire_offsets();
    for (piece, length) in &halves {
        let rest = offsets[*piece as usize] + length..offsets[*piece as usize + 1];
        assert!(*length > 0 && asked.contains(&rest), "{piece}: {length}, {asked:?}");
    }
    let bytes: u64 = asked.iter().map(|range| range.end - range.start).sum();
    assert_eq!(bytes + halves.values().sum::<u64>(), fetched.store);
    assert!(!host.root.path().join("packs").join(made.id().to_string()).join("parts").exists());
}

/// A front that an earlier process left is nobody's fault: the piece is fetched whole.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_half_received_piece_with_wrong_bytes_is_fetched_again_and_nobody_blamed() {
    let made = make("api", BTreeMap::from([("a".into(), region::noise(1, 1 << 20, false))]), &[]);
    let region = Region::start(&[&made]).await;
    let hosts = hosts(&region, 2).await;
    hosts[0].fetch(&made).await.unwrap();
    // There is nobody else to ask.
    region.store.down.store(true, Ordering::SeqCst);
    let parts = hosts[1].root.path().join("packs").join(made.id().to_string()).join("parts");
    std::fs::create_dir_all(&parts).unwrap();
    for piece in 0..made.manifest.pieces.len() {
        std::fs::write(parts.join(piece.to_string()), vec![0; 100_000]).unwrap();
    }
    let fetched = hosts[1].fetch(&made).await.unwrap().sources;
    assert_release(&hosts[1].release(&made), &made);
    assert_eq!(fetched.peer, made.manifest.wire_size());
    assert!(region.store.damaged.lock().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_journal_names_is_verified_again() {
    let made = folder("api", 1, 8);
    let region = Region::start(&[&made]).await;
    let mut host = Host::start(&region.url, "h").await;
    let progress = watch::Sender::new(Progress::default());
    let mut seen = progress.subscribe();
    tokio::select! {
        _ = host.fetch_with(&made, &progress) => {}
        _ = seen.wait_for(|progress| progress.done >= 3) => {}
    }
    host.fetcher = None;
    // A crash of the machine may lose writes that the journal names.
    let hex = made.id().to_string();
    let staged = host.root.path().join("staging").join(&hex).join("bin/server");
    let pack = host.root.path().join("packs").join(&hex).join("pack");
    if staged.exists() {
        let length = made.files["bin/server"].len();
        std::fs::write(&staged, vec![0; length]).unwrap();
        std::fs::write(&pack, vec![0; made.pack.len()]).unwrap();
    }
    host.restart(&region.url, Duration::from_secs(20)).await;
    host.fetch(&made).await.unwrap();
    assert_release(&host.release(&made), &made);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_a_kept_release_holds_are_not_moved() {
    let old = folder("api", 1, 16);
    let mut files = old.files.clone();
    let readme = files.get_mut("readme").unwrap();
    readme[700_000] ^= 1;
    let new = make("api", files, &[("bin/run", "server"), ("var", "")]);
    let region = Region::start(&[&old, &new]).await;
    let host = Host::start(&region.url, "h").await;
    host.fetch(&old).await.unwrap();
    let sources = host.fetch(&new).await.unwrap().sources;
    assert_release(&host.release(&new), &new);
    assert!(sources.local >= 15 << 20, "{sources:?}");
    assert!(sources.store <= 2 << 20, "{sources:?}");
    // And is served to others, compressed again where it was.
    let egress = region.egress();
    let late = Host::start(&region.url, "late").await;
    assert_eq!(late.fetch(&new).await.unwrap().sources.peer, new.manifest.wire_size());
    assert_release(&late.release(&new), &new);
    assert_eq!(region.egress(), egress);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plain_pieces_lie_on_the_disk_once() {
    let made = make("api", BTreeMap::from([("a".into(), region::noise(1, 8 << 20, false))]), &[]);
    let region = Region::start(&[&made]).await;
    let host = Host::start(&region.url, "h").await;
    host.fetch(&made).await.unwrap();
    let pack = host.root.path().join("packs").join(made.id().to_string()).join("pack");
    let meta = std::fs::metadata(pack).unwrap();
    assert_eq!(meta.len(), made.manifest.wire_size());
    assert!(std::os::unix::fs::MetadataExt::blocks(&meta) < 64, "the pack is a hole");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_hears_of_rot_offers_it_no_more() {
    let made = folder("api", 1, 2);
    let region = Region::start(&[&made]).await;
    let host = Host::start(&region.url, "h").await;
    host.fetch(&made).await.unwrap();
    let port = host.fetcher.as_ref().unwrap().peer_port();
    let base = format!("http://127.0.0.1:{port}/v1/peer/{}", made.id());
    let (ticket, http) = (region.tracker.ticket(made.id()), deployctl::net::client::http_client());
    let complain = |piece: u32| {
        let url = format!("{base}/pieces/{piece}/bad");
        http.post(url).bearer_auth(&ticket).send()
    };
    let status = |piece: usize| {
        let asked = http.get(format!("{base}/pieces/{piece}")).bearer_auth(&ticket).send();
        async { asked.await.unwrap().status().as_u16() }
    };
    // A complaint about a piece that is right changes nothing.
    assert_eq!(complain(0).await.unwrap().status(), 204);
    poison(&host, &made);
    let pieces = made.manifest.pieces.len();
    let begun = Instant::now();
    for piece in [pieces - 1, pieces / 2] {
        while status(piece).await != 404 {
            assert!(begun.elapsed() < DEADLINE, "piece {piece} is still offered");
            assert_eq!(complain(piece as u32).await.unwrap().status(), 204);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    assert_eq!(status(0).await, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn manifests_that_do_not_hold_are_refused() {
    let made = folder("api", 1, 2);
    let region = Region::start(&[&made]).await;
    let host = Host::start(&region.url, "h").await;
    for other in [made.bytes[..made.bytes.len() / 2].to_vec(), b"garbage".to_vec(), vec![]] {
        *region.store.other_manifest.lock().unwrap() = Some(other);
        let refused = host.fetch(&made).await.unwrap_err();
        assert_eq!(refused.class, FailureClass::Transport);
        assert!(refused.reason.contains("not the one that the goal names"), "{refused}");
    }
    *region.store.other_manifest.lock().unwrap() = None;
    // Of another app than the goal's.
    let want = Want { app: "web".parse().unwrap(), artifact: made.id(), within: None };
    let progress = watch::Sender::new(Progress::default());
    let refused = host.fetcher.as_ref().unwrap().fetch(want, &progress).await.unwrap_err();
    assert!(refused.reason.contains("app api"), "{refused}");
    // Signed by nobody we know.
    host.trust.send_modify(|trust| trust.build_keys.clear());
    let refused = host.fetch(&made).await.unwrap_err();
    assert!(refused.reason.contains("no trusted key"), "{refused}");
    assert!(!host.release(&made).exists());
    assert_eq!(region.egress(), 0);
}

/// Spoils a host's disk after it was verified: it serves wrong bytes, from its pack and
/// from its release.
fn poison(host: &Host, made: &Made) {
    let spoil = |path: &Path, bytes: &[u8]| {
        let spoilt: Vec<u8> = bytes.iter().map(|byte| byte ^ 0x55).collect();
        let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &spoilt, 0).unwrap();
    };
    spoil(&host.root.path().join("packs").join(made.id().to_string()).join("pack"), &made.pack);
    for (path, bytes) in &made.files {
        spoil(&host.release(made).join(path), bytes);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_poisoned_peer_is_banned_and_nobody_takes_its_bytes() {
    let made = folder("api", 1, 12);
    let region = Region::start(&[&made]).await;
    let all = hosts(&region, 2).await;
    all[0].fetch(&made).await.unwrap();
    all[1].fetch(&made).await.unwrap();
    poison(&all[0], &made);
    let victims = [
        Host::start(&region.url, "v0").await,
        Host::start(&region.url, "v1").await,
        Host::start(&region.url, "v2").await,
    ];
    let fetched = futures_util::future::join_all(victims.iter().map(|v| v.fetch(&made))).await;
    for (victim, fetched) in victims.iter().zip(fetched) {
        fetched.unwrap();
        assert_release(&victim.release(&made), &made);
    }
    let wire = made.manifest.wire_size();
    assert!(region.egress() <= wire * 105 / 100, "{} of {wire}", region.egress());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_whose_only_holder_is_poisoned_still_delivers() {
    let made = folder("api", 1, 4);
    let region = Region::start(&[&made]).await;
    let bad = Host::start(&region.url, "bad").await;
    bad.fetch(&made).await.unwrap();
    poison(&bad, &made);
    let victims = [Host::start(&region.url, "v0").await, Host::start(&region.url, "v1").await];
    for fetched in futures_util::future::join_all(victims.iter().map(|v| v.fetch(&made))).await {
        fetched.unwrap();
    }
    victims.iter().for_each(|victim| assert_release(&victim.release(&made), &made));
    assert!(region.egress() <= made.manifest.wire_size() * 2 + (20 << 20));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_store_is_reported_and_waited_for() {
    let made = folder("api", 1, 4);
    let region = Region::start(&[&made]).await;
    region.store.made.lock().unwrap().get_mut(&made.id()).unwrap().pack[10] ^= 1;
    let host = Host::start(&region.url, "h").await;
    host.fetch(&made).await.unwrap();
    assert_release(&host.release(&made), &made);
    assert_eq!(*region.store.damaged.lock().unwrap(), vec![0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_link_is_no_silent_one() {
    let made = folder("api", 1, 2);
    let region = Region::start(&[&made]).await;
    region.store.slow.store(true, Ordering::SeqCst);
    let mut host = Host::start(&region.url, "h").await;
    // A piece takes three times the patience and longer than a lease lives.
    host.restart(&region.url, Duration::from_secs(1)).await;
    host.fetch(&made).await.unwrap();
    assert_release(&host.release(&made), &made);
    assert_eq!(region.egress(), made.pack.len() as u64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quota_refuses_a_fetch_and_caps_let_it_end() {
    let made = folder("api", 1, 2);
    let region = Region::start(&[&made]).await;
    let all = hosts(&region, 1).await;
    all[0].fetch(&made).await.unwrap();
    let mut host = Host::start(&region.url, "h").await;
    host.caps = Caps { quota: Some(1 << 20), ..Caps::default() };
    host.restart(&region.url, Duration::from_secs(20)).await;
    let refused = host.fetch(&made).await.unwrap_err();
    assert_eq!(refused.class, FailureClass::Host);
    assert!(refused.reason.starts_with("no room in the disk quota"), "{refused}");
    assert!(!host.root.path().join("staging").join(made.id().to_string()).exists());
    host.caps = Caps { quota: Some(100 << 20), download: Some(4_000_000), upload: Some(4_000_000) };
    host.restart(&region.url, Duration::from_secs(20)).await;
    assert_eq!(host.fetch(&made).await.unwrap().sources.store, 0);
    assert_release(&host.release(&made), &made);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_stays_down_ends_the_fetch_with_a_reason() {
    let made = folder("api", 1, 4);
    let region = Region::start(&[&made]).await;
    region.store.down.store(true, Ordering::SeqCst);
    let mut host = Host::start(&region.url, "h").await;
    host.restart(&region.url, Duration::from_secs(3)).await;
    let failed = host.fetch(&made).await.unwrap_err();
    assert_eq!(failed.class, FailureClass::Transport);
    assert!(failed.reason.contains("the store is down"), "{failed}");
    region.store.down.store(false, Ordering::SeqCst);
    host.fetch(&made).await.unwrap();
    assert_release(&host.release(&made), &made);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_tracker_does_not_read_the_store_again() {
    let made = folder("api", 1, 16);
    let region = Region::start(&[&made]).await;
    let hosts = hosts(&region, 4).await;
    hosts[0].fetch(&made).await.unwrap();
    let (store, address) = (region.store.clone(), region.url.replace("http://", ""));
    drop(region);
    let region = loop {
        if TcpListener::bind(&address).await.is_ok() {
            break Region::serve(store.clone(), &address).await;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let begun = Instant::now();
    while region.tracker.counts(made.id()).is_none_or(|counts| counts.members == 0) {
        assert!(begun.elapsed() < DEADLINE, "the holder joins again");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for host in &hosts[1..] {
        let sources = host.fetch(&made).await.unwrap().sources;
        assert_eq!(sources.store, 0, "{sources:?}");
        assert_release(&host.release(&made), &made);
    }
    assert_eq!(region.egress(), made.manifest.wire_size());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_whose_holders_died_recovers() {
    let made = folder("api", 1, 8);
    let region = Region::start(&[&made]).await;
    for round in 0..3 {
        let host = Host::start(&region.url, &format!("h{round}")).await;
        let sources = host.fetch(&made).await.unwrap().sources;
        assert_eq!(sources.store, made.manifest.wire_size());
        assert_release(&host.release(&made), &made);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_can_reach_no_peer_still_finishes() {
    let made = folder("api", 1, 4);
    let region = Region::start(&[&made]).await;
    // Behind a wall that lets nobody in.
    let walled = region.holder(&made, "walled", 1).await;
    let host = Host::start(&region.url, "h").await;
    let sources = host.fetch(&made).await.unwrap().sources;
    assert_eq!(sources.store, made.manifest.wire_size());
    assert!(region.egress() <= 2 * made.manifest.wire_size());
    walled.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_speak_only_to_ticket_holders_and_only_in_numbers() {
    let made = folder("api", 1, 2);
    let region = Region::start(&[&made]).await;
    let host = Host::start(&region.url, "h").await;
    host.fetch(&made).await.unwrap();
    let port = host.fetcher.as_ref().unwrap().peer_port();
    let ticket = region.tracker.ticket(made.id());
    let http = deployctl::net::client::http_client();
    let ask = |path: String, ticket: &str| {
        http.get(format!("http://127.0.0.1:{port}/v1/peer/{path}")).bearer_auth(ticket).send()
    };
    let id = made.id();
    for (path, ticket, status) in [
        (format!("{id}/pieces/0"), ticket.as_str(), 200),
        (format!("{id}/have"), &ticket, 200),
        (format!("{id}/pieces/0"), "", 401),
        (format!("{id}/pieces/0"), &ticket.replace('a', "b"), 401),
        (format!("{id}/have"), "x", 401),
        (format!("{}/pieces/0", "0".repeat(64)), &ticket, 401),
        (format!("{id}/pieces/99"), &ticket, 404),
        (format!("{id}/pieces/4294967295"), &ticket, 404),
        (format!("{id}/pieces/-1"), &ticket, 400),
        (format!("{id}/pieces/..%2f..%2fetc"), &ticket, 400),
    ] {
        assert_eq!(ask(path.clone(), ticket).await.unwrap().status(), status, "{path}");
    }
    let sent = ask(format!("{id}/pieces/0"), &ticket).await.unwrap();
    let length = made.manifest.pieces[0].wire_bytes as usize;
    assert!(sent.bytes().await.unwrap() == made.pack[..length]);
    // The rest of a piece, and any other range as HTTP allows: whole.
    let ask = |range: &str| {
        let piece = http.get(format!("http://127.0.0.1:{port}/v1/peer/{id}/pieces/0"));
        piece.bearer_auth(&ticket).header("range", range).send()
    };
    let rest = ask("bytes=1000-").await.unwrap();
    assert_eq!(rest.status(), 206);
    assert_eq!(rest.headers()["content-range"], format!("bytes 1000-{}/{length}", length - 1));
    assert!(rest.bytes().await.unwrap() == made.pack[1000..length]);
    for odd in ["bytes=0-9", "bytes=-5", "bytes=99999999999999999999-", "bytes=400000000-", "x=1-"]
    {
        let whole = ask(odd).await.unwrap();
        assert_eq!((whole.status().as_u16(), whole.bytes().await.unwrap().len()), (200, length));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_follows_a_host_hears_of_each_piece() {
    let made = folder("api", 6, 4);
    let region = Region::start(&[&made]).await;
    let mut host = Host::start(&region.url, "h").await;
    host.caps = Caps { download: Some(2_000_000), ..Caps::default() };
    host.restart(&region.url, Duration::from_secs(20)).await;
    let port = host.fetcher.as_ref().unwrap().peer_port();
    let (ticket, id) = (region.tracker.ticket(made.id()), made.id());
    let url = format!("http://127.0.0.1:{port}/v1/peer/{id}/have?since=0&wait_ms=5000&follow=1");
    let http = deployctl::net::client::http_client();
    let follow = async || loop {
        let told = http.get(&url).bearer_auth(&ticket).send().await.unwrap();
        if told.status() == 200 {
            assert_eq!(told.headers()["content-type"], "application/x-deployctl-have");
            break told.text().await.unwrap();
        }
        // The fetch has not begun.
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    let (fetched, told) = tokio::join!(host.fetch(&made), follow());
    fetched.unwrap();
    let mut lines = told.lines();
    let (_, bits) = lines.next().unwrap().split_once(':').unwrap();
    let mut known = PieceSet::try_from(bits.to_owned()).unwrap();
    let first = known.count();
    for line in lines {
        let (_, gained) = line.split_once('+').unwrap();
        gained.split(',').for_each(|piece| assert!(known.insert(piece.parse().unwrap()), "{line}"));
    }
    let all = made.manifest.pieces.len() as u32;
    assert!(first < all, "nothing came while it was followed");
    assert_eq!(known, PieceSet::full(all));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_sends_a_few_pieces_at_once_and_no_more() {
    let made = folder("api", 5, 8);
    let region = Region::start(&[&made]).await;
    let mut host = Host::start(&region.url, "h").await;
    host.fetch(&made).await.unwrap();
    // Each piece takes seconds: those that are asked for meanwhile find no slot.
    host.caps = Caps { upload: Some(100_000), ..Caps::default() };
    host.restart(&region.url, Duration::from_secs(20)).await;
    let port = host.fetcher.as_ref().unwrap().peer_port();
    let (ticket, id) = (region.tracker.ticket(made.id()), made.id());
    let http = deployctl::net::client::http_client();
    let ask = |piece: usize| {
        let url = format!("http://127.0.0.1:{port}/v1/peer/{id}/pieces/{piece}");
        http.get(url).bearer_auth(&ticket).send()
    };
    let begun = Instant::now();
    loop {
        let asked = (0..16).map(ask);
        let replies = futures_util::future::join_all(asked).await;
        let all: Vec<_> = replies.into_iter().map(Result::unwrap).collect();
        let sent = all.iter().filter(|reply| reply.status() == 200).count();
        if let Some(busy) = all.iter().find(|reply| reply.status() == 429) {
            assert!(busy.headers().contains_key("retry-after-ms"));
            assert!((1..=4).contains(&sent), "{sent} at once");
            break;
        }
        // Its kept pieces are verified first, and its tracker asked for the ticket.
        assert!(begun.elapsed() < DEADLINE, "slots have a bound");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_agent_serves_what_it_kept() {
    let made = folder("api", 1, 4);
    let region = Region::start(&[&made]).await;
    let mut holder = Host::start(&region.url, "holder").await;
    holder.fetch(&made).await.unwrap();
    holder.restart(&region.url, Duration::from_secs(20)).await;
    let host = Host::start(&region.url, "h").await;
    assert_eq!(host.fetch(&made).await.unwrap().sources.store, 0);
    assert_eq!(region.egress(), made.manifest.wire_size());
}
