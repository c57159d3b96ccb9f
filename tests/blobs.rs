#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]
//! The blob store port: one contract for a folder and for a real S3 server, and what
//! happens when a server does not do its part.

#[path = "blobs/contract.rs"]
mod contract;
#[path = "blobs/fake.rs"]
mod fake;
#[path = "blobs/faults.rs"]
mod faults;
#[path = "blobs/names.rs"]
mod names;
#[path = "blobs/server.rs"]
mod server;
#[path = "blobs/signed.rs"]
mod signed;
