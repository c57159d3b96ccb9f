//! Which old bytes each run of new bytes is compared with. Memory is bounded:
//! the new blob is cut into windows, each with the old bytes most like it.

use std::io;

use super::blob::{Side, read};
use super::copies::Copy;

/// New bytes of a window at most.
const NEW_MAX: u64 = 128 << 20;
/// Old bytes of a window at most.
const OLD_MAX: u64 = 192 << 20;

/// A run of a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) start: u64,
    pub(super) len: u64,
}

/// New bytes and the old bytes they are compared with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) new: Vec<Run>,
    pub(super) old: Vec<Run>,
}

/// The windows of a blob, in order of its bytes.
pub(super) fn windows(old: Side<'_>, new: Side<'_>) -> Vec<Window> {
    let (old_size, new_size) = (old.blob.size(), new.blob.size());
    let mut windows = Vec::new();
    let mut start = 0;
    while start < new_size {
        let len = NEW_MAX.min(new_size - start);
        let slack = (OLD_MAX - NEW_MAX) / 2;
        let from = start.saturating_sub(slack).min(old_size.saturating_sub(OLD_MAX));
        let run = Run { start: from, len: OLD_MAX.min(old_size - from) };
        windows.push(Window { new: vec![Run { start, len }], old: vec![run] });
        start += len;
    }
    windows
}

/// The bytes of some runs, end to end.
pub(super) fn load(side: Side<'_>, runs: &[Run]) -> io::Result<Vec<u8>> {
    if let [run] = runs {
        return read(side.blob, run.start, run.len);
    }
    let mut bytes = Vec::with_capacity(runs.iter().map(|run| run.len as usize).sum());
    for run in runs {
        let at = bytes.len();
        bytes.resize(at + run.len as usize, 0);
        side.blob.read_at(run.start, &mut bytes[at..])?;
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
    (run.start + run.len - left, left)
}
