//! Makes the two sides of a window alike before they are compared: an address
//! in an executable is replaced by a mark of what it points to, which relinking
//! does not change. Only for finding copies; the patch is made from real bytes.

use super::elf::Elf;
use super::fields::{self, Field, Form};
use super::plan::Run;

/// Bytes of a target that its mark is made of.
const MARKED: usize = 48;
/// The same for small targets.
const SMALL: usize = 8;

/// A field in the loaded bytes of a window.
struct Masked {
    at: u32,
    form: Form,
    /// In Go's tables, which have many small fields with small targets.
    small: bool,
    /// Where its target is in the loaded bytes, and then the mark.
    mark: u32,
}

/// Replaces the addresses in `bytes`, the loaded `runs` of a side.
pub(super) fn mask(bytes: &mut [u8], runs: &[Run], elves: &[(&str, Elf)]) {
    let loaded = loaded(runs);
    let mut found: Vec<Masked> = Vec::new();
    for (start, run) in &loaded {
        let from = elves.partition_point(|(_, elf)| elf.end <= run.start);
        for (_, elf) in elves[from..].iter().take_while(|(_, elf)| elf.start < run.end()) {
            collect(bytes, *start, *run, elf, &loaded, &mut found);
        }
    }
    for field in &found {
        clear(&mut bytes[field.at as usize..], field.form);
    }
    for field in &mut found {
        let len = if field.small { SMALL } else { MARKED };
        field.mark = mark(bytes, field.mark as usize, len);
    }
    for field in &found {
        let mark = (u64::from(field.mark) << 32 | u64::from(field.mark)).to_le_bytes();
        // In code a mark that changed is a small part of what is around it; in a
        // table it is all there is to tell one row from another.
        let width = match field.form {
            // Here the instruction stays, without its address.
            Form::Page | Form::InPage => continue,
            Form::Relative | Form::RelativeData | Form::Branch => 2,
            _ if field.small => 1,
            _ => field.form.width(),
        };
        bytes[field.at as usize..][..width].copy_from_slice(&mark[..width]);
    }
}

/// Takes the address out of a field.
fn clear(field: &mut [u8], form: Form) {
    match form {
        Form::Page | Form::InPage => form.put(field, 0, 0, 0),
        _ => field[..form.width()].fill(0),
    }
}

/// Each run with its start in the loaded bytes, by its place in the blob.
fn loaded(runs: &[Run]) -> Vec<(u64, Run)> {
    let mut start = 0;
    let mut loaded = Vec::new();
    for run in runs {
        loaded.push((start, *run));
        start += run.len;
    }
    loaded.sort_by_key(|(_, run)| run.start);
    loaded
}

fn collect(
    bytes: &[u8],
    start: u64,
    run: Run,
    elf: &Elf,
    loaded: &[(u64, Run)],
    found: &mut Vec<Masked>,
) {
    for section in &elf.sections {
        let from = section.at.max(run.start);
        let to = (section.at + section.len).min(run.start + run.len);
        let (Some(here), true) = (elf.image.address(from), from < to) else { continue };
        let skip = (start + from - run.start) as usize;
        let part = &bytes[skip..][..(to - from) as usize];
        let skipped = from - section.at;
        let add = &mut |field: Field| {
            let place = elf.image.place(field.target).and_then(|at| place(loaded, at));
            let mark = place.unwrap_or(u32::MAX);
            let at = (skip + field.at) as u32;
            found.push(Masked { at, form: field.form, small: field.base > 0, mark });
        };
        fields::find(section.kind, part, here, &section.bases, skipped, &elf.image, add);
    }
}

/// Where a byte of the blob is in the loaded bytes.
fn place(loaded: &[(u64, Run)], at: u64) -> Option<u32> {
    let index = loaded.partition_point(|(_, run)| run.start <= at).checked_sub(1)?;
    let (start, run) = loaded[index];
    (at - run.start < run.len).then(|| (start + at - run.start) as u32)
}

/// A mark of the bytes at `at`; 0 where there are none.
fn mark(bytes: &[u8], at: usize, len: usize) -> u32 {
    let end = (at + len).min(bytes.len());
    let target = bytes.get(at..end).unwrap_or_default();
    let mut hash = 0u64;
    for part in target.chunks_exact(8) {
        let part = u64::from_le_bytes(part.try_into().unwrap_or_default());
        hash = (hash.rotate_left(23) ^ part).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
    (hash >> 32) as u32
}
