//! Patches on hosts: what a host has becomes what it needs, and a patch that is of
//! no use costs bytes, never a deploy.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use deployctl::agent::source::Progress;
use deployctl::delta::{self, Budget, FileSpan, Side};
use deployctl::model::manifest::{Manifest, Provenance, Shape};
use deployctl::rules::patch;
use deployctl::wire::seal;
use deployctl::wire::v1::patch::Between;
use tokio::sync::watch;

use crate::region::{Made, Region, build_key, folder, make};
use crate::{Host, assert_release, hosts};

/// The next release after `made`: some bytes here and there are others.
fn changed(made: &Made, every: usize) -> Made {
    let mut files = made.files.clone();
    for bytes in files.values_mut() {
        bytes.iter_mut().skip(every / 2).step_by(every).for_each(|byte| *byte ^= 0x55);
    }
    make(made.manifest.app.as_str(), files, &[("bin/run", "server")])
}

fn blob(made: &Made) -> (Vec<u8>, Vec<FileSpan>) {
    let (mut bytes, mut spans) = (vec![], vec![]);
    for (path, content) in &made.files {
        let (start, size) = (bytes.len() as u64, content.len() as u64);
        spans.push(FileSpan { path: path.clone(), start, size });
        bytes.extend_from_slice(content);
    }
    (bytes, spans)
}

/// The bytes of a patch that makes `made` out of `from`.
fn patch_bytes(from: &Made, made: &Made) -> Vec<u8> {
    let ((old, old_spans), (new, new_spans)) = (blob(from), blob(made));
    let budget =
        Budget { memory_bytes: 256 << 20, threads: 2, deadline: None, give_up_at_bytes: u64::MAX };
    let mut out = vec![];
    let (old, new) =
        (Side { blob: &old, files: &old_spans }, Side { blob: &new, files: &new_spans });
    delta::make(old, new, &mut out, &budget, &AtomicBool::new(false)).unwrap();
    out
}

/// A properly signed patch artifact between `from` and `to` that holds `bytes`.
fn artifact((from, to): (&Made, &Made), bytes: Vec<u8>) -> Made {
    let files = BTreeMap::from([(patch::FILE.to_owned(), bytes)]);
    let made = make(to.manifest.app.as_str(), files, &[]);
    let manifest = Manifest {
        shape: Shape::File,
        provenance: Provenance {
            command: patch::command(from.id(), to.id()),
            ..made.manifest.provenance.clone()
        },
        ..Manifest::clone(&made.manifest)
    };
    manifest.check().unwrap();
    let bytes = manifest.encode();
    let signature = seal::sign_manifest(&build_key(), &bytes);
    Made { manifest: Arc::new(manifest), bytes, signature, ..made }
}

/// `region` holds `patch` and offers it between two releases.
fn offer(region: &Region, (from, to): (&Made, &Made), patch: &Made) {
    region.store.made.lock().unwrap().insert(patch.id(), patch.clone());
    let between = Between { from: from.id(), to: to.id() };
    region.store.patches.lock().unwrap().push((between, patch.id()));
}

/// What is left of a patch when the agent starts anew.
async fn leftovers(
    region: &Region,
    host: &mut Host,
    made: &Made,
    patch: &Made,
) -> Vec<std::path::PathBuf> {
    host.restart(&region.url, Duration::from_secs(20)).await;
    let root = host.root.path();
    let app = root.join("apps").join(made.manifest.app.as_str());
    let (staging, manifests) = (root.join("staging"), app.join("manifests"));
    let id = patch.id().to_string();
    let own = staging.join(made.id().to_string());
    let all = [staging.join(&id), root.join("packs").join(&id), own, manifests.join(&id)];
    all.into_iter().filter(|path| path.exists()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_with_a_base_move_the_patch_once_and_one_without_takes_the_pack() {
    let first = folder("api", 1, 16);
    let second = changed(&first, 100_000);
    let region = Region::start(&[&first, &second]).await;
    let patch = artifact((&first, &second), patch_bytes(&first, &second));
    offer(&region, (&first, &second), &patch);
    let mut hosts = hosts(&region, 3).await;
    for host in &hosts {
        host.fetch(&first).await.unwrap();
    }
    let (before, wire) = (region.egress(), patch.manifest.wire_size());
    assert!(wire * 20 < second.manifest.wire_size(), "the patch is small: {wire}");
    for fetched in futures_util::future::join_all(hosts.iter().map(|h| h.fetch(&second))).await {
        let sources = fetched.unwrap().sources;
        assert_eq!(sources.local, second.manifest.size);
        assert_eq!(sources.peer + sources.store, wire);
    }
    let moved = region.egress() - before;
    assert!(moved >= wire && moved * 100 <= wire * 105, "{moved} of {wire}");
    for host in &hosts {
        let pack = host.root.path().join("packs").join(second.id().to_string()).join("pack");
        let taken = std::fs::metadata(pack).unwrap().blocks() * 512;
        assert!(taken * 2 < second.manifest.wire_size(), "no room is taken for bytes made here");
    }
    // They serve at once what they made, compressed again.
    while region.tracker.counts(second.id()).is_none_or(|counts| counts.members < 3) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let before = region.egress();
    let fresh = Host::start(&region.url, "fresh").await;
    let sources = fresh.fetch(&second).await.unwrap().sources;
    assert_eq!((sources.local, sources.peer), (0, second.manifest.wire_size()));
    assert_eq!(region.egress(), before);
    assert_release(&fresh.release(&second), &second);
    for host in &mut hosts {
        assert_release(&host.release(&second), &second);
        assert_eq!(
            leftovers(&region, host, &second, &patch).await,
            Vec::<std::path::PathBuf>::new()
        );
    }
    let late = Host::start(&region.url, "late").await;
    let sources = late.fetch(&second).await.unwrap().sources;
    assert_eq!((sources.local, sources.peer + sources.store), (0, second.manifest.wire_size()));
    assert_release(&late.release(&second), &second);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signed_patch_with_wrong_bytes_costs_only_what_it_got_wrong() {
    let first = folder("api", 1, 8);
    let second = changed(&first, 100_000);
    // Makes the right length, but another byte in one piece.
    let mut almost = second.clone();
    almost.files.get_mut("bin/server").unwrap()[0] ^= 1;
    let mut cut = patch_bytes(&first, &second);
    cut.truncate(cut.len() / 2);
    let mut longer = second.files.clone();
    longer.insert("z".into(), vec![7; 300_000]);
    let longer = make("api", longer, &[]);
    let broken = [
        ("not a patch", b"none of this is a patch".to_vec()),
        ("cut short", cut),
        ("too long", patch_bytes(&first, &longer)),
        ("another base", patch_bytes(&second, &first)),
    ];
    let bytes = patch_bytes(&first, &almost);
    let (size, wire) = (second.manifest.size, second.manifest.wire_size());
    let piece = u64::from(second.manifest.piece_bytes);
    for (what, bytes, local) in std::iter::once(("one wrong", bytes, size - piece..size))
        .chain(broken.map(|(what, bytes)| (what, bytes, 0..size + 1)))
    {
        let region = Region::start(&[&first, &second]).await;
        let patch = artifact((&first, &second), bytes);
        offer(&region, (&first, &second), &patch);
        let mut host = Host::start(&region.url, "h").await;
        host.fetch(&first).await.unwrap();
        let sources = host.fetch(&second).await.unwrap().sources;
        assert_release(&host.release(&second), &second);
        assert!(local.contains(&sources.local), "{what}: {sources:?}");
        let moved = sources.peer + sources.store;
        assert!(moved <= wire + patch.manifest.wire_size(), "{what}: {sources:?}");
        assert_eq!(
            leftovers(&region, &mut host, &second, &patch).await,
            Vec::<std::path::PathBuf>::new()
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_offer_that_is_for_something_else_is_not_believed() {
    let first = folder("api", 1, 4);
    let second = changed(&first, 100_000);
    let bytes = patch_bytes(&first, &second);
    let turned = artifact((&second, &first), bytes.clone());
    let mut forged = artifact((&first, &second), bytes);
    forged.signature = "00".repeat(64);
    for patch in [turned, forged] {
        let region = Region::start(&[&first, &second]).await;
        offer(&region, (&first, &second), &patch);
        let mut host = Host::start(&region.url, "h").await;
        // Manifests that do not hold are asked for some times: not for long.
        host.restart(&region.url, Duration::from_secs(2)).await;
        host.fetch(&first).await.unwrap();
        let sources = host.fetch(&second).await.unwrap().sources;
        assert_eq!(sources.local, 0);
        assert_release(&host.release(&second), &second);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fetch_that_is_killed_while_it_patches_goes_on_where_it_was() {
    let first = folder("api", 1, 24);
    let second = changed(&first, 50_000);
    let region = Region::start(&[&first, &second]).await;
    let patch = artifact((&first, &second), patch_bytes(&first, &second));
    offer(&region, (&first, &second), &patch);
    let mut host = Host::start(&region.url, "h").await;
    host.fetch(&first).await.unwrap();
    let before = region.egress();
    let progress = watch::Sender::new(Progress::default());
    let mut seen = progress.subscribe();
    let half = seen.wait_for(|progress| progress.done > 10);
    tokio::select! {
        fetched = host.fetch_with(&second, &progress) => panic!("too quick: {fetched:?}"),
        seen = half => drop(seen.unwrap()),
    }
    host.restart(&region.url, Duration::from_secs(20)).await;
    let sources = host.fetch(&second).await.unwrap().sources;
    assert_release(&host.release(&second), &second);
    // What the first life made is not made again, and the patch is not fetched again.
    let made = 10 * u64::from(second.manifest.piece_bytes);
    assert!(sources.local > 0 && sources.local <= second.manifest.size - made, "{sources:?}");
    assert_eq!(region.egress() - before, patch.manifest.wire_size());
    assert_eq!(
        leftovers(&region, &mut host, &second, &patch).await,
        Vec::<std::path::PathBuf>::new()
    );
}
