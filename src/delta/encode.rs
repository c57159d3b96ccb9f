//! Making a patch: align window by window, then write groups of copies and
//! blocks of what the copies do not give.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use super::align::{Aligner, merge};
use super::blob::{Blob, Side};
use super::coder::Encoder;
use super::copies::{Copy, CopyModel};
use super::differences::DifferenceWriter;
use super::elf::Elf;
use super::executables::{self, Executables, Spot};
use super::frame::{self, Block, Group, Header};
use super::image::Space;
use super::mask::mask;
use super::plan::{self, Plan, Window};
use super::predict::{Moves, Predictor};
use super::seeds::Seeds;

/// New bytes that one thread aligns at a time.
const SEGMENT: usize = 8 << 20;
/// A group is closed once it has so many copies; one window adds at most as many again.
const GROUP_COPIES: usize = 1 << 19;
/// Bytes compared at once when a block is written.
const CHUNK: u64 = 64 << 10;
/// The zstd level of literals: they are few, and moved to every host.
const LEVEL: i32 = 19;
/// The level where a quarter of a block or more is literal.
const QUICK_LEVEL: i32 = 9;

/// What making a patch may cost.
#[derive(Debug, Clone, Copy)]
pub struct Budget {
    /// Bytes of memory. Below about 1 GiB windows get smaller and patches larger.
    pub memory_bytes: u64,
    /// Threads that align at the same time.
    pub threads: usize,
    /// When to give up.
    pub deadline: Option<Instant>,
    /// A patch larger than this does not pay: give up.
    pub give_up_at_bytes: u64,
}

/// A patch that was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Made {
    /// Bytes of the patch.
    pub patch_bytes: u64,
    /// New bytes taken from the old blob, differences among them.
    pub copied_bytes: u64,
    /// New bytes that stand in the patch, before compression.
    pub literal_bytes: u64,
}

/// Why no patch was made.
#[derive(Debug, thiserror::Error)]
pub enum MakeError {
    /// A blob could not be read.
    #[error("a release cannot be read: {0}")]
    Read(io::Error),
    /// The patch could not be written.
    #[error("the patch cannot be written: {0}")]
    Write(io::Error),
    /// It would be larger than the budget's `give_up_at_bytes`.
    #[error("a patch would not be smaller than {0} bytes")]
    DoesNotPay(u64),
    /// The budget's deadline passed.
    #[error("the time for making the patch is over")]
    Deadline,
    /// `stop` turned true.
    #[error("making the patch was stopped")]
    Stopped,
}

/// Writes the patch that turns `old` into `new` to `out`. The same blobs, spans
/// and `memory_bytes` give the same patch, whatever the threads.
pub fn make(
    old: Side<'_>,
    new: Side<'_>,
    out: &mut dyn Write,
    budget: &Budget,
    stop: &AtomicBool,
) -> Result<Made, MakeError> {
    let made = Made { patch_bytes: 0, copied_bytes: 0, literal_bytes: 0 };
    let elves = [executables::on(old), executables::on(new)];
    let spaces = executables::paired(&elves[0], &elves[1]);
    let limits = Limits { budget, stop };
    let plan = plan::plan(old, new, budget.memory_bytes).map_err(MakeError::Read)?;
    let spaces = changed(spaces, &plan);
    let mut maker = Maker { old, new, elves, spaces, out, limits, made };
    let header = Header { old_size: old.blob.size(), new_size: new.blob.size() };
    header.write(&mut maker).map_err(MakeError::Write)?;
    maker.groups(plan)?;
    maker.write_all(&[frame::END]).map_err(MakeError::Write)?;
    maker.check()?;
    Ok(maker.made)
}

/// What ends the work early.
#[derive(Clone, Copy)]
struct Limits<'a> {
    budget: &'a Budget,
    stop: &'a AtomicBool,
}

impl Limits<'_> {
    fn check(self) -> Result<(), MakeError> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(MakeError::Stopped);
        }
        let late = self.budget.deadline.is_some_and(|deadline| Instant::now() >= deadline);
        if late { Err(MakeError::Deadline) } else { Ok(()) }
    }
}

struct Maker<'a> {
    old: Side<'a>,
    new: Side<'a>,
    /// The executables of both sides.
    elves: [Vec<(&'a str, Elf)>; 2],
    spaces: Vec<Space>,
    out: &'a mut dyn Write,
    limits: Limits<'a>,
    made: Made,
}

impl Write for Maker<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.made.patch_bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl Maker<'_> {
    fn check(&self) -> Result<(), MakeError> {
        let most = self.limits.budget.give_up_at_bytes;
        if self.made.patch_bytes > most {
            return Err(MakeError::DoesNotPay(most));
        }
        self.limits.check()
    }

    /// Aligns all windows; writes a group when it has enough copies.
    fn groups(&mut self, plan: Plan) -> Result<(), MakeError> {
        let (mut copies, mut start) = (Vec::new(), 0);
        let mut same = plan.same.into_iter().peekable();
        let mut windows = plan.windows.iter().peekable();
        let size = self.new.blob.size();
        while start < size {
            if let Some(window) = windows.next() {
                self.align(window, &mut copies)?;
            }
            let next = windows.peek().and_then(|window| window.new.first());
            let end = next.map_or(size, |run| run.start);
            while let Some(copy) = same.next_if(|copy| copy.new < end) {
                copies.push(copy);
            }
            if copies.len() >= GROUP_COPIES || end == size {
                copies.sort_unstable_by_key(|copy| copy.new);
                self.group(&mut copies, start, end)?;
                start = end;
            }
        }
        Ok(())
    }

    /// Adds the copies of a window, in places of the blobs.
    fn align(&self, window: &Window, copies: &mut Vec<Copy>) -> Result<(), MakeError> {
        let mut old = plan::load(self.old, &window.old).map_err(MakeError::Read)?;
        let mut new = plan::load(self.new, &window.new).map_err(MakeError::Read)?;
        mask(&mut old, &window.old, &self.elves[0]);
        mask(&mut new, &window.new, &self.elves[1]);
        self.check()?;
        let seeds = Seeds::of(&old);
        let aligner = Aligner { old: &old, new: &new, seeds: &seeds };
        let mut found = scan(&aligner, self.limits)?;
        merge(&mut found);
        plan::in_blobs(window, &found, copies);
        Ok(())
    }

    /// Writes the new bytes from `start` to `end` and forgets their copies.
    fn group(&mut self, copies: &mut Vec<Copy>, start: u64, end: u64) -> Result<(), MakeError> {
        merge(copies);
        let mut start = start;
        while start < end {
            // The bound of one group; what is over it goes into the next.
            let last = copies.len().min(frame::COPIES_MAX as usize);
            let stop = if last < copies.len() { copies[last].new } else { end };
            let rest = copies.split_off(last);
            self.write_group(copies, start, stop)?;
            *copies = rest;
            start = stop;
        }
        Ok(())
    }

    fn write_group(&mut self, copies: &[Copy], start: u64, end: u64) -> Result<(), MakeError> {
        let spaces = self.spaces_of(start, end);
        let coded = code_copies(&spaces, copies, start);
        let mut moved = Moved {
            old: self.old.blob,
            new: self.new.blob,
            predictor: Predictor::new(Moves::of(copies, &spaces)),
            executables: Executables::of(spaces),
            spots: Vec::new(),
        };
        let group = Group {
            new_bytes: end - start,
            copies: copies.len() as u32,
            copy_bytes: coded.len() as u32,
        };
        group.write(self).map_err(MakeError::Write)?;
        self.write_all(&coded).map_err(MakeError::Write)?;
        let mut block = BlockWriter::new(start);
        let mut at = start;
        let mut copies = copies.iter().peekable();
        while at < end {
            let next = copies.peek().map_or(end, |copy| copy.new);
            let (from, upto) = match copies.peek() {
                Some(copy) if copy.new <= at => (Some(copy.old + at - copy.new), copy.new_end()),
                _ => (None, next),
            };
            let len = (upto - at).min(CHUNK);
            block.add(&mut moved, from, at, len).map_err(MakeError::Read)?;
            at += len;
            if from.is_some() && at == upto {
                copies.next();
            }
            if block.is_full() {
                self.write_block(std::mem::replace(&mut block, BlockWriter::new(at)), at)?;
            }
        }
        if block.start < end {
            self.write_block(block, end)?;
        }
        Ok(())
    }

    /// The executables that have new bytes from `start` to `end`.
    fn spaces_of(&self, start: u64, end: u64) -> Vec<Space> {
        let touched =
            |space: &&Space| space.new.segments.iter().any(|s| s.at < end && s.at + s.len > start);
        self.spaces.iter().filter(touched).cloned().collect()
    }

    fn write_block(&mut self, block: BlockWriter, end: u64) -> Result<(), MakeError> {
        self.check()?;
        // Much that is new would take long, and tells that the patch pays little.
        let many = block.literals.len() as u64 > (end - block.start) / 4;
        let level = if many { QUICK_LEVEL } else { LEVEL };
        let packed = zstd::bulk::compress(&block.literals, level).map_err(MakeError::Write)?;
        let coded = if packed.len() < block.literals.len() { &packed } else { &block.literals };
        let differences = block.differences.finish();
        let fields = block.fields.finish();
        let frame = Block {
            new_bytes: end - block.start,
            literals: block.literals.len() as u32,
            literal_bytes: coded.len() as u32,
            difference_bytes: differences.len() as u32,
            field_bytes: fields.len() as u32,
        };
        frame.write(self).map_err(MakeError::Write)?;
        self.write_all(coded).map_err(MakeError::Write)?;
        self.write_all(&differences).map_err(MakeError::Write)?;
        self.write_all(&fields).map_err(MakeError::Write)?;
        self.made.literal_bytes += u64::from(frame.literals);
        self.made.copied_bytes += frame.new_bytes - u64::from(frame.literals);
        self.check()
    }
}

/// Aligns the segments of a window on all threads.
fn scan(aligner: &Aligner<'_>, limits: Limits<'_>) -> Result<Vec<Copy>, MakeError> {
    let segments = aligner.new.len().div_ceil(SEGMENT);
    let (next, parts) = (AtomicUsize::new(0), Mutex::new(vec![Vec::new(); segments]));
    let work = || -> Result<(), MakeError> {
        loop {
            let segment = next.fetch_add(1, Ordering::Relaxed);
            if segment >= segments {
                return Ok(());
            }
            limits.check()?;
            let from = segment * SEGMENT;
            let found = aligner.scan(from, (from + SEGMENT).min(aligner.new.len()));
            parts.lock().unwrap_or_else(PoisonError::into_inner)[segment] = found;
        }
    };
    std::thread::scope(|scope| {
        let threads = limits.budget.threads.clamp(1, segments.max(1));
        let workers: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let own = work();
        let joined = workers.into_iter().map(|worker| worker.join().unwrap_or(Ok(())));
        joined.fold(own, Result::and)
    })?;
    let parts = parts.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok(parts.into_iter().flatten().collect())
}

/// The executables that have to do with what changed.
fn changed(mut spaces: Vec<Space>, plan: &Plan) -> Vec<Space> {
    let same = |space: &Space| {
        let Some(first) = space.new.segments.first() else { return true };
        let before = plan.same.partition_point(|copy| copy.new <= first.at);
        before > 0 && plan.same[before - 1].new_end() > first.at
    };
    spaces.retain(|space| !same(space));
    spaces
}

/// The copies of a group, which starts at `start`, as its bytes.
fn code_copies(spaces: &[Space], copies: &[Copy], start: u64) -> Vec<u8> {
    let (mut model, mut coder) = (CopyModel::default(), Encoder::new());
    executables::code(&mut coder, spaces);
    let (mut new, mut old) = (start, 0);
    for copy in copies {
        model.code(&mut coder, *copy, new, old);
        (new, old) = (copy.new_end(), copy.old_end());
    }
    coder.finish()
}

/// Both blobs, and what is known of where bytes of the group moved.
struct Moved<'a> {
    old: &'a dyn Blob,
    new: &'a dyn Blob,
    predictor: Predictor,
    executables: Executables,
    spots: Vec<Spot>,
}

/// What a block collects until it is written.
struct BlockWriter {
    start: u64,
    literals: Vec<u8>,
    differences: DifferenceWriter,
    fields: Encoder,
    expected: Vec<u8>,
}

impl BlockWriter {
    fn new(start: u64) -> Self {
        let (differences, fields) = (DifferenceWriter::new(), Encoder::new());
        Self { start, literals: Vec::new(), differences, fields, expected: Vec::new() }
    }

    /// True when more might break a bound of the format.
    fn is_full(&self) -> bool {
        let margin = 4 * CHUNK as usize;
        self.literals.len() + margin > frame::LITERALS_MAX as usize
            || self.differences.len() + margin > frame::DIFFERENCES_MAX as usize
            || self.fields.len() + margin > frame::DIFFERENCES_MAX as usize
    }

    /// The `len` new bytes at `at`: copied `from` an old place, or literal.
    fn add(
        &mut self,
        moved: &mut Moved<'_>,
        from: Option<u64>,
        at: u64,
        len: u64,
    ) -> io::Result<()> {
        let filled = self.literals.len();
        self.literals.resize(filled + len as usize, 0);
        moved.new.read_at(at, &mut self.literals[filled..])?;
        let Some(from) = from else { return Ok(()) };
        self.expected.resize(len as usize, 0);
        moved.old.read_at(from, &mut self.expected)?;
        self.copied(moved, from, at, filled);
        self.literals.truncate(filled);
        Ok(())
    }

    /// The same bytes as `apply::Maker::copied`, in the same order.
    fn copied(&mut self, moved: &mut Moved<'_>, from: u64, at: u64, filled: usize) {
        let (expected, actual) = (&mut self.expected, &self.literals[filled..]);
        moved.executables.spots(from, at, expected, &mut moved.spots);
        let mut done = 0;
        for spot in &moved.spots {
            let field = spot.field;
            self.differences.write(&expected[done..field.at], &actual[done..field.at]);
            let here = moved.executables.here(*spot, at);
            let (bytes, right) = (&mut expected[field.at..], &actual[field.at..]);
            moved.predictor.field(&mut self.fields, &here, bytes, Some(right));
            done = field.at + field.form.width();
        }
        self.differences.write(&expected[done..], &actual[done..]);
    }
}
