//! One store under two names.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use deployctl::net::client::http_client;

use crate::fake::Fake;

/// Long enough for a loaded machine; a test that waits for it has failed.
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn a_region_whose_store_is_the_main_one_by_another_name_does_not_start() {
    let fake = Fake::start().await;
    let (_, endpoint) = fake.url.split_once("endpoint=").unwrap();
    let note = format!("{}/bucket/p/owner", endpoint.split('&').next().unwrap());
    let put = http_client().put(note).body("{}").send().await.unwrap();
    assert!(put.status().is_success(), "{put:?}");
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    std::fs::write(at("token"), format!("dct_{}.{}", "a".repeat(16), "b".repeat(64))).unwrap();
    let mut region = Command::new(env!("CARGO_BIN_EXE_deployctl-region"))
        .args(["--name", "eu", "--coordinator", "http://127.0.0.1:1", "--listen", "127.0.0.1:0"])
        .args(["--main-blobs", &fake.url])
        .args(["--blobs", &fake.url.replace("127.0.0.1", "localhost")])
        .arg("--token-file")
        .arg(at("token"))
        .arg("--data")
        .arg(at("region"))
        .env("AWS_ACCESS_KEY_ID", "a-test")
        .env("AWS_SECRET_ACCESS_KEY", "a-test")
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(at("said")).unwrap())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + PATIENCE;
    let code = loop {
        if let Some(ended) = region.try_wait().unwrap() {
            break ended.code();
        }
        if Instant::now() > deadline {
            region.kill().unwrap();
            region.wait().unwrap();
            panic!("it runs: {}", std::fs::read_to_string(at("said")).unwrap());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let said = std::fs::read_to_string(at("said")).unwrap();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("region eu") && said.contains("shares its objects"), "{said}");
}
