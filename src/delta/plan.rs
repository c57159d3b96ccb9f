//! Which old bytes each run of new bytes is compared with. Memory is bounded:
//! files that did not change are set aside, the rest of the new blob is cut into
//! windows, each with the old bytes that are most like it.

use std::collections::HashMap;
use std::io;

use super::anchors::Anchors;
use super::blob::{Blob, FileSpan, Side, read};
use super::copies::Copy;

/// New and old bytes of a window at most, with a GiB of memory; less with less.
const NEW_MAX: u64 = 128 << 20;
const OLD_MAX: u64 = 192 << 20;
const FULL_MEMORY: u64 = 1 << 30;
/// With less than this a window would be too small to find much.
const LEAST_MEMORY: u64 = 64 << 20;
/// Old bytes taken around the place of the new ones, in a paired file, on each side.
const AROUND: u64 = 16 << 20;
/// Bytes compared at once.
const CHUNK: u64 = 1 << 20;

/// A run of a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) start: u64,
    pub(super) len: u64,
}

impl Run {
    pub(super) fn end(self) -> u64 {
        self.start + self.len
    }
}

/// New bytes and the old bytes they are compared with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) new: Vec<Run>,
    pub(super) old: Vec<Run>,
}

/// What is to be done for a patch.
pub(super) struct Plan {
    /// Files that are the same on both sides, by their place in the new blob.
    pub(super) same: Vec<Copy>,
    /// The rest, in the order of the new blob.
    pub(super) windows: Vec<Window>,
}

/// New bytes with the old file they belong to, if there is one.
struct Open {
    new: Run,
    paired: Option<Run>,
}

/// Pairs files, compares them, and cuts what differs into windows that fit
/// into `memory` bytes.
pub(super) fn plan(old: Side<'_>, new: Side<'_>, memory: u64) -> io::Result<Plan> {
    let memory = memory.clamp(LEAST_MEMORY, FULL_MEMORY);
    let [new_max, old_max] =
        [NEW_MAX, OLD_MAX].map(|most| most / (FULL_MEMORY >> 20) * (memory >> 20));
    let (same, open) = compare(old, new)?;
    let old_size = old.blob.size();
    let whole = Run { start: 0, len: old_size };
    let windows = cut(open, new_max);
    let anchors =
        if old_size > old_max && !windows.is_empty() { Some(Anchors::of(old.blob)?) } else { None };
    let choose = |open: Vec<Open>| {
        let new_runs: Vec<Run> = open.iter().map(|open| open.new).collect();
        let old_runs = match &anchors {
            None => vec![whole],
            Some(anchors) => choose(anchors, new.blob, &open, old_size, old_max)?,
        };
        Ok(Window { new: new_runs, old: old_runs })
    };
    let windows = windows.into_iter().map(choose).collect::<io::Result<_>>()?;
    Ok(Plan { same, windows })
}

/// Files that did not change, and everything else.
fn compare(old: Side<'_>, new: Side<'_>) -> io::Result<(Vec<Copy>, Vec<Open>)> {
    let (old_files, new_files) = (files(old), files(new));
    let paths: HashMap<&str, Run> = old_files.iter().copied().collect();
    let only = match old_files[..] {
        [(_, run)] if new_files.len() == 1 => Some(run),
        _ => None,
    };
    let (mut same, mut open) = (Vec::new(), Vec::new());
    let mut done = 0;
    for (path, run) in new_files {
        push(&mut open, Run { start: done, len: run.start.saturating_sub(done) }, None);
        done = run.end().max(done);
        let paired = paths.get(path).copied().or(only);
        let alike = paired.filter(|old| old.len == run.len);
        match alike {
            Some(found) if equal(old.blob, found, new.blob, run)? => {
                same.push(Copy { new: run.start, old: found.start, len: run.len });
            }
            _ => push(&mut open, run, paired),
        }
    }
    push(&mut open, Run { start: done, len: new.blob.size().saturating_sub(done) }, None);
    Ok((same, open))
}

fn push(open: &mut Vec<Open>, new: Run, paired: Option<Run>) {
    if new.len > 0 {
        open.push(Open { new, paired });
    }
}

/// The files of a side by their place, without those that are empty, overlap or
/// leave the blob.
fn files(side: Side<'_>) -> Vec<(&str, Run)> {
    let run = |file: &FileSpan| Run { start: file.start, len: file.size };
    let size = side.blob.size();
    let fits = |file: &&FileSpan| {
        file.size > 0 && file.start.checked_add(file.size).is_some_and(|end| end <= size)
    };
    let mut files: Vec<(&str, Run)> =
        side.files.iter().filter(fits).map(|file| (file.path.as_str(), run(file))).collect();
    files.sort_by_key(|(_, run)| run.start);
    files.dedup_by(|next, before| next.1.start < before.1.end());
    files
}

fn equal(old: &dyn Blob, one: Run, new: &dyn Blob, other: Run) -> io::Result<bool> {
    let mut at = 0;
    while at < one.len {
        let len = CHUNK.min(one.len - at);
        if read(old, one.start + at, len)? != read(new, other.start + at, len)? {
            return Ok(false);
        }
        at += len;
    }
    Ok(true)
}

/// Cuts into windows of at most `most` new bytes.
fn cut(open: Vec<Open>, most: u64) -> Vec<Vec<Open>> {
    let mut windows: Vec<Vec<Open>> = Vec::new();
    let mut room = 0;
    for mut next in open {
        while next.new.len > 0 {
            if room == 0 {
                windows.push(Vec::new());
                room = most;
            }
            let len = next.new.len.min(room);
            room -= len;
            let new = Run { start: next.new.start, len };
            let paired = next.paired.map(|old| beside(old, &mut next, len));
            windows.last_mut().expect("one was pushed").push(Open { new, paired });
            next.new = Run { start: new.end(), len: next.new.len - len };
        }
    }
    windows
}

/// The part of the paired old file for the next `len` new bytes; what is left
/// of it stays with the rest.
fn beside(old: Run, rest: &mut Open, len: u64) -> Run {
    let start = old.start;
    let take = if len == rest.new.len { old.len } else { len.min(old.len) };
    rest.paired = Some(Run { start: start + take, len: old.len - take });
    Run { start, len: take }
}

/// The old runs for a window: what shares many anchors with the new bytes, paired
/// files, what shares some, and what is around paired files.
fn choose(
    anchors: &Anchors,
    new: &dyn Blob,
    open: &[Open],
    old_size: u64,
    most: u64,
) -> io::Result<Vec<Run>> {
    let mut chosen = Chosen { runs: Vec::new(), room: most };
    let runs: Vec<Run> = open.iter().map(|open| open.new).collect();
    let (sure, doubtful) = anchors.votes(new, &runs)?;
    let inside = |voted: Run| Run { len: voted.len.min(old_size - voted.start), ..voted };
    sure.into_iter().for_each(|voted| chosen.add(inside(voted)));
    open.iter().filter_map(|open| open.paired).for_each(|paired| chosen.add(paired));
    doubtful.into_iter().for_each(|voted| chosen.add(inside(voted)));
    for paired in open.iter().filter_map(|open| open.paired) {
        let start = paired.start.saturating_sub(AROUND);
        chosen.add(Run { start, len: (paired.end() + AROUND).min(old_size) - start });
    }
    chosen.runs.sort_by_key(|run| run.start);
    Ok(chosen.runs)
}

/// Runs without overlap, as many bytes as there is room for.
struct Chosen {
    runs: Vec<Run>,
    room: u64,
}

impl Chosen {
    /// Adds what is not there yet.
    fn add(&mut self, run: Run) {
        let mut at = run.start;
        while at < run.end() && self.room > 0 {
            // Kept in order, so that this stays quick with many small runs.
            let next = self.runs.partition_point(|known| known.end() <= at);
            let known = self.runs.get(next).copied();
            if let Some(known) = known.filter(|known| known.start <= at) {
                at = known.end();
                continue;
            }
            let end = known.map_or(run.end(), |known| known.start.min(run.end()));
            let len = (end - at).min(self.room);
            self.room -= len;
            match next.checked_sub(1).map(|before| &mut self.runs[before]) {
                Some(before) if before.end() == at => before.len += len,
                _ => self.runs.insert(next, Run { start: at, len }),
            }
            at += len;
        }
    }
}

/// The bytes of some runs, end to end.
pub(super) fn load(side: Side<'_>, runs: &[Run]) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; runs.iter().map(|run| run.len as usize).sum()];
    let mut rest = &mut bytes[..];
    for run in runs {
        let (now, after) = rest.split_at_mut(run.len as usize);
        side.blob.read_at(run.start, now)?;
        rest = after;
    }
    Ok(bytes)
}

/// Copies between the loaded bytes of a window as copies between the blobs: cut
/// where a run ends on either side.
pub(super) fn in_blobs(window: &Window, copies: &[Copy], out: &mut Vec<Copy>) {
    let (new_ends, old_ends) = (ends(&window.new), ends(&window.old));
    for copy in copies {
        let mut copy = *copy;
        while copy.len > 0 {
            let (new, new_left) = place(&window.new, &new_ends, copy.new);
            let (old, old_left) = place(&window.old, &old_ends, copy.old);
            let len = copy.len.min(new_left).min(old_left);
            out.push(Copy { new, old, len });
            copy = Copy { new: copy.new + len, old: copy.old + len, len: copy.len - len };
        }
    }
}

/// Where each run ends in the loaded bytes.
fn ends(runs: &[Run]) -> Vec<u64> {
    let mut end = 0;
    let add = |run: &Run| {
        end += run.len;
        end
    };
    runs.iter().map(add).collect()
}

/// The place in the blob of a loaded byte, and how many bytes of its run follow.
fn place(runs: &[Run], ends: &[u64], at: u64) -> (u64, u64) {
    let index = ends.partition_point(|end| *end <= at);
    let (run, left) = (runs[index], ends[index] - at);
    (run.end() - left, left)
}
