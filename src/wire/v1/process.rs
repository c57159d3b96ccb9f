//! What the processes of one region tell each other: `POST /v1/region/process`, each half
//! second, and at once when hosts have news.
//!
//! The caller shows a ticket that only processes with the region's token can make. A
//! request that one process passes on to another carries the same ticket.

use serde::{Deserialize, Serialize};

use super::fleet::HostRow;
use crate::model::id::HostId;
use crate::wire::seal::Sealed;

/// Header of a request that was passed on: the ticket of a process.
pub const PASSED_HEADER: &str = "deployctl-passed";
/// Header of a request that was passed on: the IP address that it came from.
pub const FROM_HEADER: &str = "deployctl-from";

/// One process's word to another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessWord {
    /// Who says it: its address in the region's list.
    pub process: String,
    /// A number of this start of it.
    pub started: u64,
    /// Hosts with news, at most 2,000.
    pub hosts: Vec<SharedHost>,
    /// Every host that it knows was told by now: what is only known from an old table is gone.
    #[serde(default)]
    pub whole: bool,
    /// Hosts that it was told to forget, at most 2,000.
    #[serde(default)]
    pub forgot: Vec<HostId>,
    /// Its goals, when the other one's were others for a while.
    #[serde(default)]
    pub goals: Vec<Sealed>,
}

/// A host as a process knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedHost {
    /// What is known of it.
    pub row: HostRow,
    /// How long ago it was heard of, milliseconds: clocks may differ.
    pub age_ms: u64,
    /// The interval that it is to be heard in, milliseconds.
    pub report_ms: u64,
    /// The process heard it itself; else it knows it from one that is gone.
    pub heard: bool,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessReply {
    /// A number of this start of it.
    pub started: u64,
    /// What stands for its goals.
    pub goals: u64,
}
