//! Old blob and patch in, new blob out: a stream in bounded memory. Nothing a
//! patch says is believed; whatever it says, this reads inside the old blob,
//! writes at most the declared size and allocates at most the frame bounds.

use std::io::{self, Read};

use super::blob::Blob;
use super::coder::Decoder;
use super::copies::{Copy, CopyModel};
use super::differences::DifferenceReader;
use super::executables::{self, Executables, Spot};
use super::frame::{self, Block, Group, Header};
use super::predict::{Moves, Predictor};

/// Bytes given to the sink at once, at most.
const CHUNK: usize = 64 << 10;

/// Why a patch could not be applied.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The patch could not be read, or ended early.
    #[error("the patch cannot be read: {0}")]
    Patch(io::Error),
    /// The old blob could not be read.
    #[error("the old release cannot be read: {0}")]
    Old(io::Error),
    /// The sink refused the bytes.
    #[error("the result cannot be written: {0}")]
    Sink(io::Error),
    /// The patch was made against a blob of another size.
    #[error("the patch is for an old release of {wanted} bytes, this one has {found}")]
    WrongOld {
        /// What the patch says.
        wanted: u64,
        /// What is there.
        found: u64,
    },
    /// The patch breaks the format.
    #[error("the patch is broken: {0}")]
    Malformed(&'static str),
}

/// Calls `sink` with the new blob's bytes in order, at most 64 KiB at a time.
/// Memory is bounded by a constant (some 60 MiB for the worst patch), whatever the sizes
/// are. Every field of a patch is hostile input: bytes may have gone to the
/// sink before an error shows, and a damaged patch may give other bytes
/// without an error, so the caller verifies what it got.
pub fn apply(
    old: &dyn Blob,
    patch: &mut dyn Read,
    sink: &mut dyn FnMut(&[u8]) -> io::Result<()>,
) -> Result<(), ApplyError> {
    let header = Header::read(patch)
        .map_err(ApplyError::Patch)?
        .ok_or(ApplyError::Malformed("it does not start as a patch does"))?;
    let found = old.size();
    if header.old_size != found {
        return Err(ApplyError::WrongOld { wanted: header.old_size, found });
    }
    let mut left = header.new_size;
    loop {
        match frame::u8(patch).map_err(ApplyError::Patch)? {
            frame::END if left == 0 => return Ok(()),
            frame::GROUP => {
                left -= apply_group(old, patch, sink, header.new_size - left, left)?;
            }
            _ => return Err(ApplyError::Malformed("a group is missing")),
        }
    }
}

/// Makes the group that starts at `start`; gives back its size.
fn apply_group(
    old: &dyn Blob,
    patch: &mut dyn Read,
    sink: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    start: u64,
    left: u64,
) -> Result<u64, ApplyError> {
    let group = Group::read(patch, left)
        .map_err(ApplyError::Patch)?
        .ok_or(ApplyError::Malformed("a group is over a bound"))?;
    let coded = frame::bytes(patch, group.copy_bytes).map_err(ApplyError::Patch)?;
    let mut coder = Decoder::new(&coded);
    let spaces = executables::code(&mut coder, &[])
        .ok_or(ApplyError::Malformed("an executable is over a bound"))?;
    let copies = read_copies(&mut coder, group, start, old.size())?;
    drop(coded);
    let predictor = Predictor::new(Moves::of(&copies, &spaces));
    let executables = Executables::of(spaces);
    let (copies, end) = (copies.as_slice(), start + group.new_bytes);
    let (buffer, spots) = (vec![0; CHUNK], Vec::new());
    let mut maker =
        Maker { old, sink, copies, executables, predictor, at: start, copy: 0, buffer, spots };
    while maker.at < end {
        let block = Block::read(patch, end - maker.at)
            .map_err(ApplyError::Patch)?
            .ok_or(ApplyError::Malformed("a block is over a bound"))?;
        let coded = frame::bytes(patch, block.literal_bytes).map_err(ApplyError::Patch)?;
        let literals = read_literals(coded, block)?;
        let coded = frame::bytes(patch, block.difference_bytes).map_err(ApplyError::Patch)?;
        let fields = frame::bytes(patch, block.field_bytes).map_err(ApplyError::Patch)?;
        let mut parts = Parts {
            literals: &literals,
            differences: DifferenceReader::new(&coded),
            fields: Decoder::new(&fields),
        };
        maker.block(block.new_bytes, &mut parts)?;
    }
    Ok(group.new_bytes)
}

fn read_copies(
    coder: &mut Decoder<'_>,
    group: Group,
    start: u64,
    old_size: u64,
) -> Result<Vec<Copy>, ApplyError> {
    let broken = ApplyError::Malformed("a copy leaves its blob");
    let mut copies = Vec::new();
    let mut model = CopyModel::default();
    let (mut new, mut old) = (start, 0);
    for _ in 0..group.copies {
        let none = Copy { new: 0, old: 0, len: 0 };
        let copy = model.code(coder, none, new, old);
        let new_end = copy.new.checked_add(copy.len);
        let new_end = new_end.filter(|end| *end <= start + group.new_bytes);
        let old_end = copy.old.checked_add(copy.len).filter(|end| *end <= old_size);
        let (Some(new_end), Some(old_end)) = (new_end, old_end) else { return Err(broken) };
        if copy.new < new || copy.len == 0 || coder.overrun() {
            return Err(broken);
        }
        copies.push(copy);
        (new, old) = (new_end, old_end);
    }
    Ok(copies)
}

fn read_literals(coded: Vec<u8>, block: Block) -> Result<Vec<u8>, ApplyError> {
    if block.literal_bytes == block.literals {
        return Ok(coded);
    }
    let raw = zstd::bulk::decompress(&coded, block.literals as usize).ok();
    raw.filter(|raw| raw.len() == block.literals as usize)
        .ok_or(ApplyError::Malformed("literals do not unpack to their size"))
}

/// What a block brings, less what was used of it.
struct Parts<'a> {
    literals: &'a [u8],
    differences: DifferenceReader<'a>,
    fields: Decoder<'a>,
}

/// Makes the blocks of one group, one after the other.
struct Maker<'a> {
    old: &'a dyn Blob,
    sink: &'a mut dyn FnMut(&[u8]) -> io::Result<()>,
    copies: &'a [Copy],
    executables: Executables,
    predictor: Predictor,
    /// Bytes of the new blob made.
    at: u64,
    /// The first copy that does not end before `at`.
    copy: usize,
    buffer: Vec<u8>,
    spots: Vec<Spot>,
}

impl Maker<'_> {
    fn block(&mut self, new_bytes: u64, parts: &mut Parts<'_>) -> Result<(), ApplyError> {
        let end = self.at + new_bytes;
        while self.at < end {
            while self.copies.get(self.copy).is_some_and(|copy| copy.new_end() <= self.at) {
                self.copy += 1;
            }
            let next = self.copies.get(self.copy).map_or(end, |copy| copy.new);
            if self.at < next {
                let len = (end.min(next) - self.at).min(CHUNK as u64) as usize;
                let (now, rest) = parts
                    .literals
                    .split_at_checked(len)
                    .ok_or(ApplyError::Malformed("a block has too few literals"))?;
                (self.sink)(now).map_err(ApplyError::Sink)?;
                parts.literals = rest;
                self.at += len as u64;
            } else {
                self.copied(end, parts)?;
            }
        }
        let whole =
            parts.literals.is_empty() && !parts.differences.overrun() && !parts.fields.overrun();
        whole.then_some(()).ok_or(ApplyError::Malformed("a block does not fit its copies"))
    }

    /// Some bytes of the current copy, at most up to `end`.
    fn copied(&mut self, end: u64, parts: &mut Parts<'_>) -> Result<(), ApplyError> {
        let copy = self.copies[self.copy];
        let len = (copy.new_end().min(end) - self.at).min(CHUNK as u64) as usize;
        let buffer = &mut self.buffer[..len];
        let from = copy.old + (self.at - copy.new);
        self.old.read_at(from, buffer).map_err(ApplyError::Old)?;
        self.executables.spots(from, self.at, buffer, &mut self.spots);
        let mut done = 0;
        for spot in &self.spots {
            let field = spot.field;
            parts.differences.read(&mut buffer[done..field.at]);
            let here = self.executables.here(*spot, self.at);
            self.predictor.field(&mut parts.fields, &here, &mut buffer[field.at..], None);
            done = field.at + field.form.width();
        }
        parts.differences.read(&mut buffer[done..]);
        (self.sink)(buffer).map_err(ApplyError::Sink)?;
        self.at += len as u64;
        Ok(())
    }
}
