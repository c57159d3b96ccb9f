//! A store that is slow, busy, cut off, or does what it does not say.

use std::time::Duration;

use axum::http::Method;
use bytes::Bytes;
use deployctl::model::digest::Digest;
use deployctl::store::blobs::{Blobs, Key, Kind};
use futures_util::TryStreamExt;

use crate::contract::noise;
use crate::fake::{Fake, Fault};

fn pack() -> Key {
    Key::new(Kind::Pack, Digest::of(b"p"))
}

/// The store on a fake server, which checks no credentials; there must be some.
async fn store() -> (Fake, Blobs, tempfile::TempDir) {
    crate::server::endpoint();
    let fake = Fake::start().await;
    let folder = tempfile::tempdir().unwrap();
    let blobs = Blobs::open(&fake.url).unwrap();
    (fake, blobs, folder)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_or_broken_store_is_asked_again() {
    let (fake, blobs, _folder) = store().await;
    for fault in [Fault::SlowDown, Fault::Dropped, Fault::LostAnswer] {
        fake.fail([(Method::PUT, "packs", fault)]);
        blobs.put(pack(), &b"hello"[..]).await.unwrap();
        fake.fail([(Method::GET, "packs", fault), (Method::HEAD, "packs", fault)]);
        assert_eq!(blobs.get(pack()).await.unwrap(), "hello");
        assert_eq!(blobs.head(pack()).await.unwrap(), Some(5));
        fake.fail([(Method::GET, "list-type", fault)]);
        assert_eq!(blobs.list(Kind::Pack).await.unwrap().len(), 1);
        assert_eq!(fake.unmet(), 0, "{fault:?}");
    }
    fake.fail([(Method::GET, "packs", Fault::Slow(Duration::from_millis(300)))]);
    assert_eq!(blobs.get(pack()).await.unwrap(), "hello");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_was_cut_goes_on_where_it_was() {
    let (fake, blobs, _folder) = store().await;
    let bytes = noise(8 << 20, 1);
    blobs.put(pack(), bytes.clone()).await.unwrap();
    fake.fail([(Method::GET, "packs", Fault::CutBody), (Method::GET, "packs", Fault::CutBody)]);
    let stream = blobs.stream(pack(), 100..bytes.len() as u64).await.unwrap();
    let read: Vec<Bytes> = stream.try_collect().await.unwrap();
    assert!(read.concat() == bytes[100..]);
    assert_eq!(fake.unmet(), 0);
    fake.fail([(Method::GET, "packs", Fault::CutBody)]);
    assert!(blobs.get_range(pack(), 0..4 << 20).await.unwrap() == bytes[..4 << 20]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_outlives_every_single_fault_and_leaves_nothing() {
    let (fake, blobs, folder) = store().await;
    let bytes = noise(40 << 20, 2);
    let file = folder.path().join("file");
    std::fs::write(&file, &bytes).unwrap();
    for fault in [Fault::SlowDown, Fault::Dropped, Fault::LostAnswer] {
        for (method, request) in [
            (Method::POST, "?uploads"),
            (Method::PUT, "partNumber=2"),
            // A lost answer here is the classic: the second try finds no such upload.
            (Method::POST, "uploadId="),
        ] {
            fake.fail([(method, request, fault)]);
            blobs.put_file(pack(), &file).await.unwrap();
            assert!(blobs.get_range(pack(), 0..20 << 20).await.unwrap() == bytes[..20 << 20]);
            assert_eq!(fake.unmet(), 0, "{request} {fault:?}");
            blobs.delete(pack()).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_does_not_pass_an_old_object_for_the_new_one() {
    let (fake, blobs, folder) = store().await;
    let file = folder.path().join("file");
    std::fs::write(&file, noise(20 << 20, 3)).unwrap();
    blobs.put(pack(), noise(20 << 20, 4)).await.unwrap();
    // The upload is gone before it was completed: what is there is the damaged old one.
    fake.fail([(Method::POST, "uploadId=", Fault::Forgotten)]);
    assert!(blobs.put_file(pack(), &file).await.is_err());
    blobs.put_file(pack(), &file).await.unwrap();
    assert!(blobs.get_range(pack(), 0..20 << 20).await.unwrap() == std::fs::read(&file).unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_in_parts_is_asked_again() {
    let (fake, blobs, _folder) = store().await;
    let bytes = Bytes::from(noise(257 << 20, 5));
    let mut upload = blobs.upload().await.unwrap();
    let all = bytes.clone();
    let written = tokio::task::spawn_blocking(move || {
        all.chunks(4 << 20).for_each(|part| upload.write(part).unwrap());
        upload
    });
    let upload = written.await.unwrap();
    let part = "packs/";
    fake.fail([
        (Method::PUT, part, Fault::SlowDown),
        (Method::PUT, part, Fault::LostAnswer),
        (Method::PUT, part, Fault::LateError),
    ]);
    upload.finish(pack()).await.unwrap();
    assert_eq!(fake.unmet(), 0);
    assert_eq!(blobs.head(pack()).await.unwrap(), Some(bytes.len() as u64));
    let tail = blobs.get_range(pack(), 250 << 20..257 << 20).await.unwrap();
    assert!(tail == bytes[250 << 20..]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_to_a_commit_is_no_failure() {
    let (fake, blobs, _folder) = store().await;
    let key = Key::new(Kind::Manifest, Digest::of(b"m"));
    for fault in [Fault::LostAnswer, Fault::SlowDown, Fault::Dropped] {
        fake.fail([(Method::PUT, "manifests", fault)]);
        blobs.commit(key, &b"m"[..]).await.unwrap();
        assert_eq!(blobs.get(key).await.unwrap(), "m");
        blobs.delete(key).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_never_work_is_not_tried_again() {
    let (fake, blobs, _folder) = store().await;
    let before = fake.requests();
    assert_eq!(blobs.head(pack()).await.unwrap(), None);
    assert_eq!(fake.requests() - before, 1);
}
