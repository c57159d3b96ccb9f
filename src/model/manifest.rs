//! The manifest: what an artifact is, piece by piece and path by path.
//!
//! Canonical bytes are the compact JSON of [`Manifest`] in field order; bytes
//! that do not encode back to themselves are refused, so one artifact has
//! exactly one identity. The blob is the artifact's files laid end to end in
//! the order of the entries; pieces cut the blob, not the files. There is no
//! archive format anywhere: paths are checked here and nowhere else.

use serde::{Deserialize, Serialize};

use super::commit::CommitId;
use super::digest::{ArtifactId, Digest, PieceDigest};
use super::id::AppName;
use super::recipe::RunSpec;

/// Format version that this release writes and reads.
pub const MANIFEST_VERSION: u32 = 1;
/// Largest artifact, bytes: the mission's 10 GB, taken as 10 GiB.
pub const ARTIFACT_BYTES_MAX: u64 = 10 << 30;
/// Largest manifest, bytes: 10 GiB in pieces is 0.2 MB, 200,000 entries 30 MB.
pub const MANIFEST_BYTES_MAX: usize = 64 << 20;
/// Most entries of a folder.
pub const ENTRIES_MAX: usize = 200_000;
/// Longest path, bytes: Linux' PATH_MAX less room for the agent's own folder.
pub const PATH_BYTES_MAX: usize = 3072;
/// Longest part of a path, bytes: NAME_MAX of every common file system.
pub const NAME_BYTES_MAX: usize = 255;
/// Smallest and largest raw piece, bytes. The smallest is a quarter of what
/// [distribution 6.2] proposes: 64 pieces can't fill 32 hosts' links (see `docs/decisions/0011`).
pub const PIECE_BYTES: (u64, u64) = (256 << 10, 8 << 20);

/// What an artifact is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`MANIFEST_VERSION`].
    pub v: u32,
    /// The app it was built for.
    pub app: AppName,
    /// One file, or a folder.
    pub shape: Shape,
    /// Sorted by path, unique; exactly one file entry when `shape` is a file.
    pub entries: Vec<Entry>,
    /// Raw size, bytes: the sum of the entries' sizes.
    pub size: u64,
    /// Raw bytes of each piece but the last; a power of two in [`PIECE_BYTES`].
    pub piece_bytes: u32,
    /// In order; empty exactly when `size` is 0.
    pub pieces: Vec<Piece>,
    /// How a host runs it; `None`: only files.
    pub run: Option<RunSpec>,
    /// Where it came from.
    pub provenance: Provenance,
}

/// One file or a folder of entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Shape {
    /// A single file.
    File,
    /// A folder.
    Folder,
}

/// One path of an artifact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Relative, `/`-separated, without `.`, `..`, empty parts or NUL.
    pub path: String,
    /// File, link or empty folder.
    #[serde(flatten)]
    pub node: Node,
}

/// What stands at a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "type")]
pub enum Node {
    /// A regular file; mode 0755 when `exec`, else 0644.
    File {
        /// Bytes.
        size: u64,
        /// Whether it may be executed.
        exec: bool,
    },
    /// A symbolic link whose target stays inside the artifact.
    Link {
        /// The link's text.
        target: String,
    },
    /// A folder with nothing in it (others follow from their files).
    Dir,
}

/// One piece: its raw digest, its wire digest, its wire length and its codec.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    /// Of the raw bytes.
    pub raw: PieceDigest,
    /// Of the bytes in the pack and on the wire.
    pub wire: PieceDigest,
    /// Length in the pack and on the wire, bytes.
    pub wire_bytes: u32,
    /// How wire bytes become raw bytes.
    pub codec: Codec,
}

/// Level of zstd pieces: loses < 5 % against a whole-file frame at pieces of 1 MiB and
/// up. A host that has a piece raw makes its wire bytes again with the same level.
pub const ZSTD_LEVEL: i32 = 3;

/// How a piece is stored and sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Codec {
    /// As it is.
    None,
    /// One zstd frame.
    Zstd,
}

/// Who made an artifact, from what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provenance {
    /// The repository's URL, without credentials.
    pub repo: String,
    /// The commit.
    pub commit: CommitId,
    /// The commit's tree, as git names it.
    pub tree: String,
    /// The build command.
    pub command: String,
}

/// A manifest that must not be used.
#[derive(Debug, thiserror::Error)]
pub enum InvalidManifest {
    /// It is larger than [`MANIFEST_BYTES_MAX`].
    #[error("manifest of {0} bytes is over the limit of {MANIFEST_BYTES_MAX}")]
    TooLarge(usize),
    /// It is not JSON of the known shape.
    #[error("manifest does not parse")]
    Parse(#[source] serde_json::Error),
    /// Its bytes are not the canonical ones.
    #[error("manifest is not in canonical form")]
    NotCanonical,
    /// A newer format.
    #[error("manifest has format version {0}, this release reads {MANIFEST_VERSION}")]
    Version(u32),
    /// A path that could leave the release's folder, or stands twice.
    #[error("manifest entry {path:?}: {rule}")]
    Path {
        /// The path.
        path: String,
        /// The rule it breaks.
        rule: &'static str,
    },
    /// Sizes or counts that contradict each other.
    #[error("manifest contradicts itself: {0}")]
    Contradiction(&'static str),
}

/// Raw bytes of a piece for an artifact of `size` bytes:
/// clamp(floor_pow2(size / 1024), 256 KiB, 8 MiB).
#[must_use]
pub fn piece_bytes(size: u64) -> u32 {
    let wanted = (size / 1024).max(1);
    let floor_pow2 = 1u64 << (63 - wanted.leading_zeros());
    floor_pow2.clamp(PIECE_BYTES.0, PIECE_BYTES.1) as u32
}

impl Manifest {
    /// The canonical bytes: what is stored, signed and digested.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a manifest has only string keys")
    }

    /// The artifact's identity.
    #[must_use]
    pub fn id(&self) -> ArtifactId {
        Digest::of(&self.encode())
    }

    /// Reads canonical bytes and checks every rule.
    ///
    /// # Errors
    /// [`InvalidManifest`] names the first rule that is broken.
    pub fn decode(bytes: &[u8]) -> Result<Self, InvalidManifest> {
        if bytes.len() > MANIFEST_BYTES_MAX {
            return Err(InvalidManifest::TooLarge(bytes.len()));
        }
        let manifest: Self = serde_json::from_slice(bytes).map_err(InvalidManifest::Parse)?;
        if manifest.v != MANIFEST_VERSION {
            return Err(InvalidManifest::Version(manifest.v));
        }
        if manifest.encode() != bytes {
            return Err(InvalidManifest::NotCanonical);
        }
        manifest.check()?;
        Ok(manifest)
    }

    /// Checks every rule of a manifest that was just made.
    ///
    /// # Errors
    /// [`InvalidManifest`] names the first rule that is broken.
    pub fn check(&self) -> Result<(), InvalidManifest> {
        self.check_sizes()?;
        self.check_entries()?;
        match &self.run {
            Some(run) => {
                run.check().map_err(|_| InvalidManifest::Contradiction("run spec out of bounds"))
            }
            None => Ok(()),
        }
    }

    fn check_sizes(&self) -> Result<(), InvalidManifest> {
        let wrong = |why| Err(InvalidManifest::Contradiction(why));
        if self.size > ARTIFACT_BYTES_MAX {
            return wrong("larger than 10 GiB");
        }
        if self.piece_bytes != piece_bytes(self.size) {
            return wrong("piece size does not follow from the size");
        }
        let sum = self.entries.iter().try_fold(0u64, |sum, entry| sum.checked_add(entry.size()));
        if sum != Some(self.size) {
            return wrong("entries do not add up to the size");
        }
        if self.pieces.len() as u64 != self.size.div_ceil(u64::from(self.piece_bytes)) {
            return wrong("number of pieces does not follow from the size");
        }
        let bad = |(i, piece): (usize, &Piece)| {
            let raw = self.raw_len(i);
            let fits = piece.wire_bytes >= 1 && u64::from(piece.wire_bytes) <= raw;
            let plain = piece.codec == Codec::None;
            !fits
                || plain != (u64::from(piece.wire_bytes) == raw)
                || plain && piece.raw != piece.wire
        };
        if self.pieces.iter().enumerate().any(bad) {
            return wrong("a piece's wire length or codec does not fit its raw length");
        }
        Ok(())
    }

    fn check_entries(&self) -> Result<(), InvalidManifest> {
        if self.entries.len() > ENTRIES_MAX {
            return Err(InvalidManifest::Contradiction("more than 200,000 entries"));
        }
        let single = matches!(self.entries.as_slice(), [Entry { path, node: Node::File { .. } }] if !path.contains('/'));
        if self.shape == Shape::File && !single {
            return Err(InvalidManifest::Contradiction("a file artifact has exactly one file"));
        }
        let mut folders: std::collections::BTreeSet<&str> = std::collections::BTreeSet::new();
        let mut leaves: std::collections::BTreeSet<&str> = std::collections::BTreeSet::new();
        let mut previous: Option<&str> = None;
        for entry in &self.entries {
            let path = entry.path.as_str();
            let refuse =
                |rule| Err(InvalidManifest::Path { path: path.chars().take(200).collect(), rule });
            check_path(path).or_else(refuse)?;
            if previous.is_some_and(|previous| previous >= path) {
                return refuse("entries must be sorted by path, each once");
            }
            if folders.contains(path) || parents(path).any(|parent| leaves.contains(parent)) {
                return refuse("another entry is its folder, or it is another's");
            }
            if let Node::Link { target } = &entry.node {
                check_link(path, target).or_else(refuse)?;
            }
            folders.extend(parents(path));
            leaves.insert(path);
            previous = Some(path);
        }
        Ok(())
    }

    /// Raw length of piece `i`, bytes.
    #[must_use]
    pub fn raw_len(&self, i: usize) -> u64 {
        let start = i as u64 * u64::from(self.piece_bytes);
        u64::from(self.piece_bytes).min(self.size.saturating_sub(start))
    }

    /// Where each piece starts in the pack; one more at the end for its length.
    #[must_use]
    pub fn wire_offsets(&self) -> Vec<u64> {
        let mut at = 0;
        let starts = self.pieces.iter().map(|piece| {
            at += u64::from(piece.wire_bytes);
            at
        });
        std::iter::once(0).chain(starts).collect()
    }

    /// Length of the pack, bytes.
    #[must_use]
    pub fn wire_size(&self) -> u64 {
        self.pieces.iter().map(|piece| u64::from(piece.wire_bytes)).sum()
    }
}

impl Entry {
    /// Bytes in the blob.
    #[must_use]
    pub fn size(&self) -> u64 {
        match self.node {
            Node::File { size, .. } => size,
            Node::Link { .. } | Node::Dir => 0,
        }
    }
}

fn parents(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/').map(|(at, _)| &path[..at])
}

fn check_path(path: &str) -> Result<(), &'static str> {
    if path.is_empty() || path.len() > PATH_BYTES_MAX {
        return Err("a path has 1 to 3072 bytes");
    }
    if path.contains('\0') {
        return Err("a path has no NUL");
    }
    let sound = |part: &str| {
        !part.is_empty() && part != "." && part != ".." && part.len() <= NAME_BYTES_MAX
    };
    if !path.split('/').all(sound) {
        return Err("a path is relative, without empty parts, '.' or '..'");
    }
    Ok(())
}

/// A link may climb, but never above the artifact's root. It climbs only at its
/// start: `..` behind a name could pass through another link and escape.
fn check_link(path: &str, target: &str) -> Result<(), &'static str> {
    if target.is_empty()
        || target.len() > PATH_BYTES_MAX
        || target.contains('\0')
        || target.starts_with('/')
    {
        return Err("a link's target is relative, 1 to 3072 bytes, without NUL");
    }
    let parts = || target.split('/').filter(|part| !matches!(*part, "" | "."));
    let climbs = parts().take_while(|part| *part == "..").count();
    if climbs > path.matches('/').count() || parts().skip(climbs).any(|part| part == "..") {
        return Err("a link's target stays inside the artifact, with '..' only at its start");
    }
    Ok(())
}

#[cfg(test)]
impl Provenance {
    /// Some commit of some repository, for tests.
    pub(crate) fn sample() -> Self {
        Self {
            repo: "file:///r".into(),
            commit: "a".repeat(40).parse().expect("a commit's id"),
            tree: "b".repeat(40),
            command: "make".into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(entries: Vec<Entry>) -> Manifest {
        let size: u64 = entries.iter().map(Entry::size).sum();
        let piece = Piece {
            raw: PieceDigest::of(b""),
            wire: PieceDigest::of(b""),
            wire_bytes: size as u32,
            codec: Codec::None,
        };
        Manifest {
            v: 1,
            app: "api".parse().unwrap(),
            shape: Shape::Folder,
            entries,
            size,
            piece_bytes: piece_bytes(size),
            pieces: if size == 0 { vec![] } else { vec![piece] },
            run: None,
            provenance: Provenance::sample(),
        }
    }

    fn file(path: &str) -> Entry {
        Entry { path: path.into(), node: Node::File { size: 3, exec: false } }
    }

    fn link(path: &str, target: &str) -> Entry {
        Entry { path: path.into(), node: Node::Link { target: target.into() } }
    }

    #[test]
    fn canonical_bytes_read_back_and_nothing_else_does() {
        let made = manifest(vec![
            Entry { path: "a".into(), node: Node::Dir },
            file("b/c"),
            link("b/d", "../a"),
        ]);
        let bytes = made.encode();
        assert_eq!(Manifest::decode(&bytes).unwrap(), made);
        assert_eq!(made.id(), Digest::of(&bytes));
        let mut spaced = bytes.clone();
        spaced.push(b' ');
        assert!(matches!(Manifest::decode(&spaced), Err(InvalidManifest::NotCanonical)));
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1;
            assert!(Manifest::decode(&flipped).is_err() || Digest::of(&flipped) != made.id());
            assert!(Manifest::decode(&bytes[..at]).is_err());
        }
    }

    #[test]
    fn paths_and_links_never_leave_the_folder() {
        for bad in
            ["", "/etc/passwd", "../x", "a/../b", "a//b", "./a", "a/", "a\0b", &"x".repeat(256)]
        {
            assert!(manifest(vec![file(bad)]).check().is_err(), "{bad:?}");
        }
        for (path, target) in [
            ("a", "../b"),
            ("a", "/etc"),
            ("a/b", "../../c"),
            ("a", "x/../../y"),
            ("a/b", "x/../y"),
            ("a", ""),
        ] {
            assert!(manifest(vec![link(path, target)]).check().is_err(), "{path} -> {target}");
        }
        assert!(manifest(vec![link("a/b", "../c")]).check().is_ok());
    }

    #[test]
    fn an_entry_is_never_anothers_folder_nor_there_twice() {
        assert!(manifest(vec![file("a"), file("a/b")]).check().is_err());
        assert!(manifest(vec![link("a", "c"), file("a/b")]).check().is_err());
        assert!(manifest(vec![file("a"), file("a")]).check().is_err());
        assert!(manifest(vec![file("b"), file("a")]).check().is_err());
        assert!(manifest(vec![file("a"), file("a-b"), file("a.c")]).check().is_ok());
    }

    #[test]
    fn sizes_that_contradict_are_refused() {
        let mut made = manifest(vec![file("a")]);
        made.size = 4;
        assert!(made.check().is_err());
        let mut made = manifest(vec![file("a")]);
        made.pieces[0].wire_bytes = 9;
        assert!(made.check().is_err());
        let mut made = manifest(vec![file("a")]);
        made.pieces.clear();
        assert!(made.check().is_err());
        assert_eq!(piece_bytes(0), 256 << 10);
        assert_eq!(piece_bytes(10_000_000_000), 8 << 20);
        assert_eq!(piece_bytes(3 << 30), 2 << 20);
    }
}
