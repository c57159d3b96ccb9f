//! What every store does, whatever is behind its URL.

use std::time::Duration;

use bytes::Bytes;
use deployctl::model::digest::Digest;
use deployctl::store::blobs::{BlobError, Blobs, Key, Kind, Upload};
use futures_util::{StreamExt, TryStreamExt};

use crate::server;

/// A store of each sort, empty.
fn stores() -> (tempfile::TempDir, Vec<Blobs>) {
    let folder = tempfile::tempdir().unwrap();
    let file = format!("file://{}", folder.path().display());
    let urls = [file, server::store("main")];
    let stores = urls.iter().map(|url| Blobs::open(url).unwrap()).collect();
    (folder, stores)
}

fn key(kind: Kind, name: &str) -> Key {
    Key::new(kind, Digest::of(name.as_bytes()))
}

/// Bytes that differ from place to place, and can be made again.
pub(crate) fn noise(bytes: usize, seed: u64) -> Vec<u8> {
    let mut rng = deployctl::model::rng::Rng::new(seed);
    let block: Vec<u8> =
        std::iter::repeat_with(|| rng.next_u64().to_le_bytes()).take(1 << 13).flatten().collect();
    let mut noise: Vec<u8> = block.iter().copied().cycle().take(bytes).collect();
    for (index, block) in noise.chunks_exact_mut(block.len()).enumerate() {
        block[..8].copy_from_slice(&(index as u64).to_le_bytes());
    }
    noise
}

/// Writes on a thread that may block, as a worker does.
async fn write(mut upload: Upload, bytes: Bytes) -> Upload {
    let write = move || {
        bytes.chunks(1 << 20).for_each(|part| upload.write(part).unwrap());
        upload
    };
    tokio::task::spawn_blocking(write).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn small_objects_are_written_read_listed_and_deleted() {
    for blobs in &stores().1 {
        blobs.reach().await.unwrap();
        let key = key(Kind::Manifest, "x");
        assert_eq!(blobs.head(key).await.unwrap(), None);
        assert!(matches!(blobs.get(key).await, Err(BlobError::NotFound(_))));
        for _ in 0..2 {
            blobs.put(key, &b"hello"[..]).await.unwrap();
        }
        assert_eq!(blobs.head(key).await.unwrap(), Some(5));
        assert_eq!(blobs.get(key).await.unwrap(), "hello");
        assert_eq!(blobs.get_range(key, 1..3).await.unwrap(), "el");
        assert_eq!(blobs.get_range(key, 3..99).await.unwrap(), "lo");
        assert_eq!(blobs.list_sizes(Kind::Manifest).await.unwrap(), [(key.artifact, 5)]);
        assert!(blobs.list(Kind::Pack).await.unwrap().is_empty());
        for _ in 0..2 {
            blobs.delete(key).await.unwrap();
        }
        assert_eq!(blobs.head(key).await.unwrap(), None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_creates_keeps_or_replaces() {
    for blobs in &stores().1 {
        let key = key(Kind::Manifest, "x");
        let writers = (0..8).map(|_| blobs.commit(key, &b"right"[..]));
        for committed in futures_util::future::join_all(writers).await {
            committed.unwrap();
        }
        assert_eq!(blobs.get(key).await.unwrap(), "right");
        // Damaged behind everybody's back.
        blobs.put(key, &b"wrong"[..]).await.unwrap();
        blobs.commit(key, &b"right"[..]).await.unwrap();
        assert_eq!(blobs.get(key).await.unwrap(), "right");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_is_written_once_or_replaced_and_lies_among_no_artifacts() {
    for blobs in &stores().1 {
        let said = async || blobs.owner().await.unwrap().map(|note| note.bytes);
        assert_eq!(said().await, None);
        let writers = (0..8).map(|_| blobs.claim(&b"one"[..]));
        for claimed in futures_util::future::join_all(writers).await {
            claimed.unwrap();
        }
        blobs.own(&b"two"[..]).await.unwrap();
        assert_eq!(said().await.unwrap(), "two");
        assert!(blobs.list(Kind::Manifest).await.unwrap().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_takes_its_key_at_the_end_and_is_not_there_before() {
    for blobs in &stores().1 {
        let key = key(Kind::Pack, "p");
        for bytes in [70 << 20, 5, 0] {
            let bytes = Bytes::from(noise(bytes, 1));
            let upload = write(blobs.upload().await.unwrap(), bytes.clone()).await;
            assert_ne!(blobs.head(key).await.unwrap(), Some(bytes.len() as u64));
            upload.finish(key).await.unwrap();
            assert_eq!(blobs.head(key).await.unwrap(), Some(bytes.len() as u64));
            let parts: Vec<Bytes> = whole(blobs, key, bytes.len() as u64).await;
            assert!(parts.concat() == bytes);
            assert_eq!(blobs.sweep_older(Duration::ZERO, Duration::ZERO).await.unwrap(), 0);
        }
    }
}

async fn whole(blobs: &Blobs, key: Key, bytes: u64) -> Vec<Bytes> {
    blobs.stream(key, 0..bytes).await.unwrap().try_collect().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_upload_is_copied_in_parts() {
    let blobs = Blobs::open(&server::store("main")).unwrap();
    let key = key(Kind::Pack, "large");
    // Over the 256 MiB that are copied at once, and no multiple of it.
    let bytes = Bytes::from(noise((257 << 20) + 12_345, 2));
    let upload = write(blobs.upload().await.unwrap(), bytes.clone()).await;
    upload.finish(key).await.unwrap();
    assert_eq!(blobs.head(key).await.unwrap(), Some(bytes.len() as u64));
    let seam = (256 << 20) - 1000..(256 << 20) + 1000;
    let read = blobs.get_range(key, seam.start..seam.end).await.unwrap();
    assert!(read == bytes[seam.start as usize..seam.end as usize]);
    assert!(blobs.get_range(key, (257 << 20)..(258 << 20)).await.unwrap() == bytes[257 << 20..]);
    blobs.delete(key).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_stored_and_replaces_what_was_damaged() {
    let (folder, stores) = stores();
    for blobs in &stores {
        let key = key(Kind::Pack, "p");
        let file = folder.path().join("staged");
        let bytes = noise((20 << 20) + 1, 3);
        for damaged in [false, true] {
            if damaged {
                blobs.put(key, noise(bytes.len(), 4)).await.unwrap();
            }
            std::fs::write(&file, &bytes).unwrap();
            blobs.put_file(key, &file).await.unwrap();
            assert!(whole(blobs, key, bytes.len() as u64).await.concat() == bytes);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_the_range_or_an_error() {
    for blobs in &stores().1 {
        let (key, bytes) = (key(Kind::Pack, "p"), noise(5 << 20, 5));
        blobs.put(key, bytes.clone()).await.unwrap();
        let range = 1_000_000..3_500_001;
        let stream = blobs.stream(key, range.clone()).await.unwrap();
        let read: Vec<Bytes> = stream.try_collect().await.unwrap();
        assert!(read.concat() == bytes[range.start as usize..range.end as usize]);
        let nothing: Vec<_> = blobs.stream(key, 7..7).await.unwrap().collect().await;
        assert!(nothing.is_empty());
        for (range, key) in
            [(0..(5 << 20) + 1, key), (0..10, Key::new(Kind::Pack, Digest::of(b"absent")))]
        {
            let read: Result<Vec<Bytes>, _> = match blobs.stream(key, range).await {
                Ok(stream) => stream.try_collect().await,
                Err(error) => Err(error),
            };
            assert!(read.is_err());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_given_up_or_left_is_removed() {
    for blobs in &stores().1 {
        drop(write(blobs.upload().await.unwrap(), noise(20 << 20, 6).into()).await);
        // A killed process: nobody gives its upload up.
        let left = write(blobs.upload().await.unwrap(), noise(20 << 20, 7).into()).await;
        std::mem::forget(left);
        assert_eq!(blobs.sweep().await.unwrap(), 0, "somebody may be writing it");
        // Servers tell whole seconds.
        tokio::time::sleep(Duration::from_millis(1100)).await;
        assert!(blobs.sweep_older(Duration::ZERO, Duration::ZERO).await.unwrap() >= 1);
        assert_eq!(blobs.sweep_older(Duration::ZERO, Duration::ZERO).await.unwrap(), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_is_complete_and_only_ones_own() {
    for blobs in &stores().1 {
        // One more than S3 tells at once.
        let puts = (0..1001).map(|n| async move {
            let key = key(Kind::Signature, &n.to_string());
            blobs.put(key, &b"s"[..]).await.unwrap();
            key.artifact
        });
        let mut put: Vec<_> = futures_util::stream::iter(puts).buffer_unordered(32).collect().await;
        let mut listed = blobs.list(Kind::Signature).await.unwrap();
        put.sort();
        listed.sort();
        assert_eq!(put, listed);
    }
    let url = server::store("a");
    let (a, b) = (url.clone(), url.replacen("/a?", "/a2?", 1));
    let (a, b) = (Blobs::open(&a).unwrap(), Blobs::open(&b).unwrap());
    b.put(key(Kind::Pack, "b"), &b"b"[..]).await.unwrap();
    assert!(a.list(Kind::Pack).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_must_set_up_is_told() {
    let url = server::store("main");
    let missing = url.replacen("deployctl-test", "deployctl-none", 1);
    let error = Blobs::open_at_start(&missing).await.map(drop).unwrap_err();
    assert!(matches!(error, BlobError::NoBucket { .. }), "{error}");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("credentials");
    std::fs::write(&file, "[p]\naws_access_key_id = DEPLOYCTLTEST\naws_secret_access_key = no\n")
        .unwrap();
    let run = |url: &str| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_deployctl-coordinator"));
        let config = folder.path().join("c.toml");
        std::fs::write(&config, format!("listen = '127.0.0.1:0'\nblobs = \"{url}\"\n")).unwrap();
        command.arg("--config").arg(config).arg("--data").arg(folder.path());
        command.env("AWS_SHARED_CREDENTIALS_FILE", &file).output().unwrap()
    };
    let ended = run(&format!("{url}&profile=p"));
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(!ended.status.success());
    assert!(
        said.contains("SignatureDoesNotMatch") && said.contains("AWS_SECRET_ACCESS_KEY"),
        "{said}"
    );
    let ended = run("s3://bucket?regoin=x");
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(!ended.status.success() && said.contains("\"regoin\""), "{said}");
}
