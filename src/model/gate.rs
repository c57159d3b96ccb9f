//! Programs of the operator that judge a bake.

use serde::{Deserialize, Serialize};

use super::judged::GateWord;
use super::time::UnixMillis;

/// Longest sentence of a program that is kept, bytes.
pub const SAID_BYTES_MAX: usize = 300;
/// Most of its output that is kept, bytes.
pub const OUTPUT_BYTES_MAX: usize = 2048;

/// One bake of one step: what is said of another counts for nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bake {
    /// The goal's generation.
    pub generation: u64,
    /// Index of the step.
    pub step: u32,
    /// When it began.
    pub since: UnixMillis,
}

/// What one run came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Said {
    /// Pass, fail or inconclusive.
    pub verdict: GateWord,
    /// One line, at most [`SAID_BYTES_MAX`].
    pub said: String,
    /// What it wrote, at most [`OUTPUT_BYTES_MAX`].
    #[serde(default)]
    pub output: String,
    /// When the run ended.
    pub at: UnixMillis,
}

/// What a program's runs in one bake came to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The bake.
    pub of: Bake,
    /// Runs that ended.
    pub runs: u32,
    /// Of those, the last ones that were inconclusive, in a row.
    pub doubts: u32,
    /// The last one.
    #[serde(default)]
    pub last: Option<Said>,
}

impl Record {
    /// Takes down a run that ended.
    pub fn add(&mut self, said: Said) {
        self.runs += 1;
        self.doubts = if said.verdict == GateWord::Inconclusive { self.doubts + 1 } else { 0 };
        self.last = Some(said);
    }
}
