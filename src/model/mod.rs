//! The words of deployctl as plain values and total functions.
//!
//! Nothing here does I/O, awaits, reads a clock or draws a random number. Types
//! check their bounds when they are made (also when they are deserialised), so
//! every other floor may trust a value it holds.

pub mod ancestry;
pub mod canary;
pub mod commit;
pub mod comparison;
pub mod config;
pub mod digest;
pub mod fleet;
pub mod freeze;
pub mod gate;
pub mod goal;
pub mod hold;
pub mod id;
pub mod job;
pub mod judged;
pub mod manifest;
pub mod picked;
pub mod pieces;
pub mod plan;
mod reach;
pub mod recipe;
pub mod replication;
pub mod rng;
pub mod role;
pub mod rollout;
pub mod selector;
pub mod time;
pub mod webhook;

/// For numbers that are left out of documents when they say nothing.
pub(crate) fn is_zero<T: Default + PartialEq>(number: &T) -> bool {
    *number == T::default()
}
