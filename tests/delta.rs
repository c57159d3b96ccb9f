//! Patches: what comes back is the new blob, whatever the blobs; a bad patch
//! is an error or other bytes, never a panic and never unbounded memory.

#[path = "delta/executable.rs"]
mod executable;

use std::io;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use deployctl::delta::{ApplyError, Budget, FileSpan, Made, MakeError, Side, apply, make};
use proptest::prelude::*;

const BUDGET: Budget =
    Budget { memory_bytes: 1 << 30, threads: 2, deadline: None, give_up_at_bytes: u64::MAX };

fn side<'a>(blob: &'a Vec<u8>, files: &'a [FileSpan]) -> Side<'a> {
    Side { blob, files }
}

fn patch_within(old: &Vec<u8>, new: &Vec<u8>, budget: &Budget) -> Result<Vec<u8>, MakeError> {
    let whole = |blob: &Vec<u8>| {
        [FileSpan { path: "bin/app".to_owned(), start: 0, size: blob.len() as u64 }]
    };
    patch_of(side(old, &whole(old)), side(new, &whole(new)), budget)
}

fn patch_of(old: Side<'_>, new: Side<'_>, budget: &Budget) -> Result<Vec<u8>, MakeError> {
    let mut patch = Vec::new();
    let go_on = AtomicBool::new(false);
    let made: Made = make(old, new, &mut patch, budget, &go_on)?;
    assert_eq!(made.patch_bytes, patch.len() as u64);
    assert_eq!(made.copied_bytes + made.literal_bytes, new.blob.size());
    Ok(patch)
}

fn patch(old: &Vec<u8>, new: &Vec<u8>) -> Vec<u8> {
    patch_within(old, new, &BUDGET).expect("nothing ends it early")
}

/// Applies with a sink that refuses more than `most` bytes.
#[expect(clippy::ptr_arg, reason = "a vector is a blob as it stands, a slice is not sized")]
fn applied(old: &Vec<u8>, patch: &[u8], most: usize) -> Result<Vec<u8>, ApplyError> {
    let mut new = Vec::new();
    apply(old, &mut &patch[..], &mut |bytes| {
        assert!(!bytes.is_empty() && bytes.len() <= 64 << 10, "a sink gets 1 byte to 64 KiB");
        new.extend_from_slice(bytes);
        if new.len() > most { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(()) }
    })?;
    Ok(new)
}

#[track_caller]
fn comes_back(old: &Vec<u8>, new: &Vec<u8>) -> usize {
    let patch = patch(old, new);
    let made = applied(old, &patch, new.len()).expect("a good patch applies");
    assert!(made == *new, "the result differs from the new blob");
    patch.len()
}

/// Bytes without a pattern, the same for the same seed.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..len).map(|_| next()).collect()
}

fn add_file(to: &mut (Vec<u8>, Vec<FileSpan>), path: String, bytes: &[u8]) {
    to.1.push(FileSpan { path, start: to.0.len() as u64, size: bytes.len() as u64 });
    to.0.extend_from_slice(bytes);
}

/// One edit of a blob; positions and lengths are taken modulo what there is.
#[derive(Debug, Clone)]
enum Edit {
    Insert(usize, Vec<u8>),
    Remove(usize, usize),
    Change(usize, u8),
    Move(usize, usize, usize),
}

fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let place = 0usize..1 << 20;
    let edit = prop_oneof![
        (place.clone(), proptest::collection::vec(any::<u8>(), 0..200))
            .prop_map(|(at, bytes)| Edit::Insert(at, bytes)),
        (place.clone(), 0usize..4000).prop_map(|(at, len)| Edit::Remove(at, len)),
        (place.clone(), any::<u8>()).prop_map(|(at, byte)| Edit::Change(at, byte)),
        (place.clone(), place, 0usize..4000).prop_map(|(a, b, len)| Edit::Move(a, b, len)),
    ];
    proptest::collection::vec(edit, 0..20)
}

fn edited(mut blob: Vec<u8>, edits: &[Edit]) -> Vec<u8> {
    for edit in edits {
        let size = blob.len();
        match edit {
            Edit::Insert(at, bytes) => {
                let at = at % (size + 1);
                blob.splice(at..at, bytes.iter().copied());
            }
            Edit::Remove(at, len) => {
                let at = at % (size + 1);
                blob.drain(at..(at + len).min(size));
            }
            Edit::Change(at, byte) if size > 0 => blob[at % size] ^= byte,
            Edit::Change(..) => {}
            Edit::Move(from, to, len) => {
                let from = from % (size + 1);
                let moved: Vec<u8> = blob.drain(from..(from + len).min(size)).collect();
                let to = to % (blob.len() + 1);
                blob.splice(to..to, moved);
            }
        }
    }
    blob
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn an_edited_blob_comes_back(seed: u64, len in 0usize..60_000, edits in edits()) {
        let old = noise(seed, len);
        let new = edited(old.clone(), &edits);
        comes_back(&old, &new);
    }

    #[test]
    fn unrelated_blobs_come_back(old in proptest::collection::vec(0u8..4, 0..3000), new in proptest::collection::vec(0u8..4, 0..3000)) {
        comes_back(&old, &new);
    }

    #[test]
    fn a_changed_patch_never_panics(seed: u64, edits in edits(), changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let old = noise(seed, 20_000);
        let new = edited(old.clone(), &edits);
        let mut bad = patch(&old, &new);
        for (at, byte) in changes {
            let at = at.index(bad.len());
            bad[at] = byte;
        }
        // Other bytes or an error; more than the declared size is the sink's to refuse.
        let _ = applied(&old, &bad, 1 << 20);
    }

    #[test]
    fn a_changed_patch_of_an_executable_never_panics(changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        let old = executable::linked(&[40; 60], 1);
        let new = executable::linked(&[&[40; 30][..], &[90], &[40; 29]].concat(), 1);
        let mut bad = patch(&old, &new);
        for (at, byte) in changes {
            // The header and the coded executables stand at the start: most changes go there.
            let at = at.index(bad.len().min(400));
            bad[at] = byte;
        }
        let _ = applied(&old, &bad, 1 << 20);
    }

    #[test]
    fn folders_come_back(sizes in proptest::collection::vec(0usize..9000, 0..12), edits in proptest::collection::vec(edits(), 12)) {
        let (mut old, mut new) = ((Vec::new(), Vec::new()), (Vec::new(), Vec::new()));
        for (index, size) in sizes.iter().enumerate() {
            let file = noise(index as u64, *size);
            // Every fourth file is renamed, every fifth unchanged.
            let changed = if index % 5 == 4 { file.clone() } else { edited(file.clone(), &edits[index]) };
            let name = if index % 4 == 3 { "renamed" } else { "file" };
            add_file(&mut old, format!("file{index}"), &file);
            add_file(&mut new, format!("{name}{index}"), &changed);
        }
        let patch = patch_of(side(&old.0, &old.1), side(&new.0, &new.1), &BUDGET).expect("no limit");
        prop_assert!(applied(&old.0, &patch, new.0.len()).expect("a good patch applies") == new.0);
    }

    #[test]
    fn made_up_bytes_after_a_good_header_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let old = noise(1, 5000);
        let mut bad = patch(&old, &noise(2, 5000))[..24].to_vec();
        bad.push(1);
        bad.extend(bytes);
        let _ = applied(&old, &bad, 1 << 20);
    }
}

#[test]
fn empty_blobs_come_back() {
    for (old, new) in [(0, 0), (0, 1), (1, 0), (1, 1), (0, 5000), (5000, 0)] {
        comes_back(&noise(1, old), &noise(1, new));
    }
}

#[test]
fn every_cut_of_a_patch_is_an_error() {
    let old = noise(3, 30_000);
    let mut new = edited(old.clone(), &[Edit::Insert(100, noise(4, 300)), Edit::Remove(9000, 50)]);
    for at in (0..new.len()).step_by(97) {
        new[at] ^= 1;
    }
    let patch = patch(&old, &new);
    for len in 0..patch.len() {
        let cut = applied(&old, &patch[..len], new.len());
        assert!(matches!(cut, Err(ApplyError::Patch(_))), "{len} of {} bytes", patch.len());
    }
}

#[test]
fn an_unchanged_blob_costs_almost_nothing() {
    let old = noise(5, 20 << 20);
    assert!(comes_back(&old, &old) < 200);
}

#[test]
fn moved_halves_cost_almost_nothing() {
    let old = noise(6, 10 << 20);
    let new = [&old[5 << 20..], &old[..5 << 20]].concat();
    assert!(comes_back(&old, &new) < 300);
}

#[test]
fn scattered_changes_do_not_break_a_copy() {
    let old = noise(7, 1 << 20);
    let mut new = old.clone();
    for at in (0..new.len()).step_by(61) {
        new[at] = new[at].wrapping_add(3);
    }
    // About a byte for each difference, of 17,000; as literals it would be a megabyte.
    assert!(comes_back(&old, &new) < 20_000);
}

#[test]
fn a_relinked_executable_costs_what_changed() {
    // One of 4,000 functions grows: every call over it changes, and every
    // pointer behind it.
    let mut sizes = vec![60; 4000];
    let old = executable::linked(&sizes, 1);
    sizes[2000] = 100;
    let new = executable::linked(&sizes, 1);
    let changed = old.iter().zip(&new).filter(|(a, b)| a != b).count();
    assert!(changed > 50_000, "{changed}");
    let cost = comes_back(&old, &new);
    assert!(cost < 1000, "{cost} bytes");
}

#[test]
fn windows_find_what_moved_far() {
    // With the least memory a window is of 8 MiB of new and 12 MiB of old bytes.
    let budget = Budget { memory_bytes: 0, ..BUDGET };
    let mut old = (Vec::new(), Vec::new());
    let mut new = (Vec::new(), Vec::new());
    for index in 0..4 {
        let (file, moved) = (noise(20 + index, 5 << 20), noise(23 - index, 5 << 20));
        add_file(&mut old, format!("file{index}"), &file);
        add_file(&mut new, format!("file{index}"), &moved);
    }
    let patch = patch_of(side(&old.0, &old.1), side(&new.0, &new.1), &budget).expect("no limit");
    assert!(applied(&old.0, &patch, new.0.len()).expect("a good patch applies") == new.0);
    // Granules are of 256 KiB: what stands at their edges may be missed.
    assert!(patch.len() < 3 << 20, "{}", patch.len());
}

#[test]
fn threads_do_not_change_the_patch() {
    let old = noise(8, 20 << 20);
    let new = edited(old.clone(), &[Edit::Move(1 << 19, 77, 3999), Edit::Insert(5, vec![1; 99])]);
    let alone = patch_within(&old, &new, &Budget { threads: 1, ..BUDGET }).expect("no limit");
    assert!(alone == patch_within(&old, &new, &Budget { threads: 3, ..BUDGET }).expect("no limit"));
}

#[test]
fn a_patch_that_does_not_pay_is_given_up() {
    let (old, new) = (noise(9, 100_000), noise(10, 100_000));
    let budget = Budget { give_up_at_bytes: 50_000, ..BUDGET };
    let given_up = patch_within(&old, &new, &budget);
    assert!(matches!(given_up, Err(MakeError::DoesNotPay(50_000))));
}

#[test]
fn a_stop_and_a_deadline_end_the_work() {
    let blob = noise(11, 100_000);
    let late = patch_within(&blob, &blob, &Budget { deadline: Some(Instant::now()), ..BUDGET });
    assert!(matches!(late, Err(MakeError::Deadline)));
    let stop = AtomicBool::new(true);
    let stopped = make(side(&blob, &[]), side(&blob, &[]), &mut io::sink(), &BUDGET, &stop);
    assert!(matches!(stopped, Err(MakeError::Stopped)));
}

#[test]
fn another_old_blob_is_refused_by_its_size() {
    let (old, new) = (noise(12, 1000), noise(13, 1000));
    let wrong = applied(&noise(12, 1001), &patch(&old, &new), new.len());
    assert!(matches!(wrong, Err(ApplyError::WrongOld { wanted: 1000, found: 1001 })));
}

#[test]
fn something_else_is_no_patch() {
    assert!(matches!(applied(&vec![], &[7; 100], 0), Err(ApplyError::Malformed(_))));
}
