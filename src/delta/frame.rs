//! The frames of a patch, and every bound a reader holds them to.

use std::io::{self, Read, Write};

/// The first bytes of a patch; the last of them is the version.
pub(super) const MAGIC: [u8; 8] = *b"dplpatc\x01";
/// Copies of one group at most: 24 bytes of memory each where it is applied.
pub(super) const COPIES_MAX: u32 = 1 << 20;
/// Bytes of a group's coded copies at most: over 8 bytes for each of them.
pub(super) const COPY_BYTES_MAX: u32 = 10 << 20;
/// Literal bytes of one block at most, raw and coded.
pub(super) const LITERALS_MAX: u32 = 8 << 20;
/// Coded differences, and coded fields, of one block at most.
pub(super) const DIFFERENCES_MAX: u32 = 8 << 20;

/// One after the header and after each group.
pub(super) const GROUP: u8 = 1;
/// Instead of a group: the patch is whole.
pub(super) const END: u8 = 0;

/// What a patch says of itself first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) old_size: u64,
    pub(super) new_size: u64,
}

/// The start of a group: a run of the new blob with its own list of copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Group {
    pub(super) new_bytes: u64,
    pub(super) copies: u32,
    pub(super) copy_bytes: u32,
}

/// The start of a block: a run of the group with its own literals and differences.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Block {
    pub(super) new_bytes: u64,
    /// Literal bytes before compression.
    pub(super) literals: u32,
    /// After it; the same number when they are stored plain.
    pub(super) literal_bytes: u32,
    pub(super) difference_bytes: u32,
    pub(super) field_bytes: u32,
}

impl Header {
    pub(super) fn write(self, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(&MAGIC)?;
        out.write_all(&self.old_size.to_le_bytes())?;
        out.write_all(&self.new_size.to_le_bytes())
    }

    /// `None`: these bytes are no patch, or one of another version.
    pub(super) fn read(from: &mut dyn Read) -> io::Result<Option<Self>> {
        let mut magic = [0; 8];
        from.read_exact(&mut magic)?;
        if magic != MAGIC {
            return Ok(None);
        }
        Ok(Some(Self { old_size: u64(from)?, new_size: u64(from)? }))
    }
}

impl Group {
    pub(super) fn write(self, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(&[GROUP])?;
        out.write_all(&self.new_bytes.to_le_bytes())?;
        out.write_all(&self.copies.to_le_bytes())?;
        out.write_all(&self.copy_bytes.to_le_bytes())
    }

    /// `None`: over a bound. `left` is what no group has made yet.
    pub(super) fn read(from: &mut dyn Read, left: u64) -> io::Result<Option<Self>> {
        let group = Self { new_bytes: u64(from)?, copies: u32(from)?, copy_bytes: u32(from)? };
        let fits = (1..=left).contains(&group.new_bytes)
            && group.copies <= COPIES_MAX
            && group.copy_bytes <= COPY_BYTES_MAX;
        Ok(fits.then_some(group))
    }
}

impl Block {
    pub(super) fn write(self, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(&self.new_bytes.to_le_bytes())?;
        out.write_all(&self.literals.to_le_bytes())?;
        out.write_all(&self.literal_bytes.to_le_bytes())?;
        out.write_all(&self.difference_bytes.to_le_bytes())?;
        out.write_all(&self.field_bytes.to_le_bytes())
    }

    /// `None`: over a bound. `left` is what no block of the group has made yet.
    pub(super) fn read(from: &mut dyn Read, left: u64) -> io::Result<Option<Self>> {
        let block = Self {
            new_bytes: u64(from)?,
            literals: u32(from)?,
            literal_bytes: u32(from)?,
            difference_bytes: u32(from)?,
            field_bytes: u32(from)?,
        };
        let fits = (1..=left).contains(&block.new_bytes)
            && block.literals <= LITERALS_MAX
            && block.literal_bytes <= block.literals
            && block.difference_bytes <= DIFFERENCES_MAX
            && block.field_bytes <= DIFFERENCES_MAX;
        Ok(fits.then_some(block))
    }
}

/// One byte.
pub(super) fn u8(from: &mut dyn Read) -> io::Result<u8> {
    let mut byte = [0; 1];
    from.read_exact(&mut byte)?;
    Ok(byte[0])
}

fn u32(from: &mut dyn Read) -> io::Result<u32> {
    let mut bytes = [0; 4];
    from.read_exact(&mut bytes)?;
    Ok(u32::from_le_bytes(bytes))
}

fn u64(from: &mut dyn Read) -> io::Result<u64> {
    let mut bytes = [0; 8];
    from.read_exact(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

/// `len` bytes, allocated as they come: a length alone reserves nothing large.
pub(super) fn bytes(from: &mut dyn Read, len: u32) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = from.take(u64::from(len)).read_to_end(&mut bytes)?;
    if read < len as usize {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(bytes)
}
