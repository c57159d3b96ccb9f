//! A sparse index of the whole old blob: places that its content alone picks,
//! so that the same content is found wherever it moved to.

use std::collections::HashMap;
use std::io;

use super::blob::Blob;
use super::plan::Run;

/// Anchors kept at most, about: 32 MiB of memory.
const ANCHORS: u64 = 2 << 20;
/// One byte in 2^10 is an anchor at most.
const LEAST_BITS: u32 = 10;
/// Votes are counted, and old bytes taken, in runs of this size.
const GRANULE: u64 = 256 << 10;
/// Shared anchors that make a granule worth its memory: a granule of 10 GiB has 64.
const MANY: u32 = 8;
/// Content that stands in more places than this says nothing.
const PLACES_MAX: usize = 4;
/// Bytes read at once.
const CHUNK: u64 = 4 << 20;

/// Anchors of the old blob, by hash.
pub(super) struct Anchors {
    bits: u32,
    /// The hash of an anchor and the granule it is in.
    known: Vec<(u64, u32)>,
}

impl Anchors {
    pub(super) fn of(old: &dyn Blob) -> io::Result<Self> {
        let size = old.size();
        let bits = (size / ANCHORS).max(1).ilog2().max(LEAST_BITS);
        let mut known = Vec::new();
        scan(old, Run { start: 0, len: size }, bits, &mut |at, hash| {
            known.push((hash, (at / GRANULE) as u32));
        })?;
        known.sort_unstable();
        known.dedup();
        Ok(Self { bits, known })
    }

    /// The old granules that share many anchors with some new runs, and those
    /// that share a few; in both the most shared first.
    pub(super) fn votes(&self, new: &dyn Blob, runs: &[Run]) -> io::Result<(Vec<Run>, Vec<Run>)> {
        let mut votes: HashMap<u32, u32> = HashMap::new();
        for run in runs {
            scan(new, *run, self.bits, &mut |_, hash| {
                let from = self.known.partition_point(|(known, _)| *known < hash);
                let places = self.known[from..].iter().take_while(|(known, _)| *known == hash);
                if places.clone().take(PLACES_MAX + 1).count() <= PLACES_MAX {
                    places.for_each(|(_, granule)| *votes.entry(*granule).or_default() += 1);
                }
            })?;
        }
        let mut votes: Vec<(u32, u32)> = votes.into_iter().collect();
        votes.sort_by_key(|(granule, count)| (std::cmp::Reverse(*count), *granule));
        let many = votes.partition_point(|(_, count)| *count >= MANY);
        let run =
            |(granule, _): &(u32, u32)| Run { start: u64::from(*granule) * GRANULE, len: GRANULE };
        let (sure, doubtful) = votes.split_at(many);
        Ok((sure.iter().map(run).collect(), doubtful.iter().map(run).collect()))
    }
}

/// Calls `found` with each anchor of a run: its place and the hash of the 64 bytes up to it.
fn scan(blob: &dyn Blob, run: Run, bits: u32, found: &mut impl FnMut(u64, u64)) -> io::Result<()> {
    let gear = gear();
    let (mut hash, mut at) = (0u64, run.start);
    let mut chunk = vec![0; CHUNK.min(run.len) as usize];
    while at < run.end() {
        let len = CHUNK.min(run.end() - at) as usize;
        blob.read_at(at, &mut chunk[..len])?;
        for (index, byte) in chunk[..len].iter().enumerate() {
            hash = (hash << 1).wrapping_add(gear[usize::from(*byte)]);
            if hash >> (64 - bits) == 0 {
                found(at + index as u64, hash);
            }
        }
        at += len as u64;
    }
    Ok(())
}

/// A number without a pattern for each byte.
fn gear() -> [u64; 256] {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    std::array::from_fn(|_| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    })
}
