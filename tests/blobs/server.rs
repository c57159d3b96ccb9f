//! The real S3 server of this test run. `scripts/test` starts it.

/// Where the server is. It comes with credentials in the environment.
///
/// # Panics
/// When there is no server: nothing is skipped in silence.
pub(crate) fn endpoint() -> String {
    std::env::var("DEPLOYCTL_TEST_S3").unwrap_or_else(|_| {
        panic!(
            "this test needs a real S3 server. `scripts/test` starts one; by hand:\n  \
             eval \"$(scripts/s3-server start /tmp/s3)\"; cargo test …; \
             scripts/s3-server stop /tmp/s3"
        )
    })
}

/// The URL of a store of its own on the server: the bucket is everybody's, the prefix
/// is not.
pub(crate) fn store(name: &str) -> String {
    let mut random = [0; 8];
    getrandom::fill(&mut random).unwrap();
    let random = u64::from_ne_bytes(random);
    format!("s3://deployctl-test/{random:016x}/{name}?endpoint={}", endpoint())
}
