//! URLs for one range of an object: what they open, and for how long.

use std::time::Duration;

use deployctl::model::digest::Digest;
use deployctl::store::blobs::{Blobs, Key, Kind};
use reqwest::StatusCode;

use crate::server;

#[tokio::test]
async fn a_signed_url_reads_its_range_for_its_time_and_nothing_else() {
    let store = Blobs::open(&server::store("signed")).unwrap();
    let key = Key::new(Kind::Pack, Digest::of(b"signed"));
    let bytes: Vec<u8> = (0..100_000_u32).map(|n| n as u8).collect();
    store.put(key, bytes.clone()).await.unwrap();
    assert!(store.signs());
    let client = reqwest::Client::new();
    let read = async |url: &str, range: Option<&str>| {
        let request = client.get(url);
        let request = range.into_iter().fold(request, |r, range| r.header("range", range));
        let reply = request.send().await.unwrap();
        (reply.status(), reply.bytes().await.unwrap())
    };
    let url = store.signed_range(key, 10..2_010, Duration::from_secs(30)).await.unwrap().unwrap();
    let (status, body) = read(&url, Some("bytes=10-2009")).await;
    assert_eq!(status, StatusCode::PARTIAL_CONTENT);
    assert!(body[..] == bytes[10..2_010]);
    for wrong in [Some("bytes=10-2010"), Some("bytes=0-99999"), None] {
        assert_eq!(read(&url, wrong).await.0, StatusCode::FORBIDDEN, "{wrong:?}");
    }
    let short = store.signed_range(key, 0..5, Duration::from_secs(1)).await.unwrap().unwrap();
    for _ in 0..100 {
        if read(&short, Some("bytes=0-4")).await.0 == StatusCode::FORBIDDEN {
            return;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    panic!("the URL never ended");
}

#[tokio::test]
async fn a_folder_signs_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = Blobs::open(&format!("file://{}", folder.path().display())).unwrap();
    let key = Key::new(Kind::Pack, Digest::of(b"signed"));
    let signed = store.signed_range(key, 0..5, Duration::from_secs(1)).await.unwrap();
    assert!(signed.is_none() && !store.signs());
}
