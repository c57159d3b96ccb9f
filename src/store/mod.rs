//! What must last: ports and their adapters.
//!
//! `db` is the SQL truth, `blobs` the bytes, `goals` the small watched keys; the
//! three durabilities never blur.

pub mod blobs;
pub mod db;
pub mod goals;
pub mod random;
