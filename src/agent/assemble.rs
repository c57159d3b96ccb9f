//! An artifact's files as one blob: where each byte of it lies on disk.
//!
//! [`Layout`] reads the blob out of any complete release; [`Tree`] builds one in
//! a staging folder, in any order of pieces, and makes it a release by one
//! rename. Paths come from a checked manifest only. Links are made last, so no
//! write ever passes through one. Knows nothing of digests.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{
    FallocateFlags, Mode, OFlags, ResolveFlags, fallocate, openat, openat2, statvfs, syncfs,
};

use crate::host::fs::{make_folder, sync_folder};
use crate::model::manifest::{Manifest, Node};

/// Room that is left to everybody else on the disk, bytes.
const RESERVE_BYTES: u64 = 64 << 20;
/// Bytes that may wait to reach the disk: else the end of a large fetch would stall
/// everybody on the host. Files smaller than a piece wait for the end.
const BEHIND_BYTES_MAX: u64 = 64 << 20;
/// Up to this many files are synced one by one; beyond it the file system as a
/// whole is cheaper.
const SYNC_EACH_MAX: usize = 64;

/// Where each file's bytes stand in the blob.
#[derive(Debug)]
pub(super) struct Layout {
    /// Start in the blob, size, path, whether executable; by start, empty files too.
    files: Vec<(u64, u64, String, bool)>,
}

impl Layout {
    pub(super) fn new(manifest: &Manifest) -> Self {
        let mut at = 0;
        let mut files = vec![];
        for entry in &manifest.entries {
            if let Node::File { size, exec } = entry.node {
                files.push((at, size, entry.path.clone(), exec));
                at += size;
            }
        }
        Self { files }
    }

    /// Reads `range` of the blob from the release at `folder`.
    pub(super) fn read(&self, folder: &Path, range: Range<u64>) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; (range.end - range.start) as usize];
        self.visit(range, |path, at, part| {
            File::open(folder.join(path))?.read_exact_at(&mut bytes[part], at)
        })?;
        Ok(bytes)
    }

    /// Calls `act` with each file that `range` touches: its path, the offset in
    /// it, and the part of the range.
    pub(super) fn visit(
        &self,
        range: Range<u64>,
        mut act: impl FnMut(&str, u64, Range<usize>) -> io::Result<()>,
    ) -> io::Result<()> {
        self.stretches(&range).try_for_each(|(path, at, part)| act(path, at, part))
    }

    /// Each file that `range` touches: its path, the offset in it, the part of the range.
    fn stretches(&self, range: &Range<u64>) -> impl Iterator<Item = (&str, u64, Range<usize>)> {
        let range = range.clone();
        let first = self.files.partition_point(|(start, size, ..)| start + size <= range.start);
        let touched = self.files[first..].iter().take_while(move |file| file.0 < range.end);
        touched.filter(|(_, size, ..)| *size > 0).map(move |(start, size, path, _)| {
            let (from, to) = (range.start.max(*start), range.end.min(start + size));
            let part = (from - range.start) as usize..(to - range.start) as usize;
            (path.as_str(), from - start, part)
        })
    }
}

/// A release's files, to be read while it is made and after: the folder is held open,
/// so that it may be renamed meanwhile.
#[derive(Debug)]
pub(super) struct Files {
    folder: File,
    layout: Layout,
}

impl Files {
    /// The files in `folder`.
    pub(super) fn open(folder: &Path, manifest: &Manifest) -> io::Result<Self> {
        Ok(Self { folder: File::open(folder)?, layout: Layout::new(manifest) })
    }

    /// Where the bytes of `range` lie: path, offset in the file, length; in order.
    pub(super) fn places(&self, range: Range<u64>) -> Vec<(&str, u64, u64)> {
        let all = self.layout.stretches(&range);
        all.map(|(path, at, part)| (path, at, (part.end - part.start) as u64)).collect()
    }

    /// Opens a file. What runs from a release may change it: no link, also none in
    /// place of a folder, leads out of it.
    pub(super) fn file(&self, path: &str) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let inside = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        match openat2(&self.folder, path, flags, Mode::empty(), inside) {
            // Kernels before 5.6, and sandboxes that do not know the call.
            Err(rustix::io::Errno::NOSYS | rustix::io::Errno::PERM) => {
                Ok(openat(&self.folder, path, flags, Mode::empty())?.into())
            }
            opened => Ok(opened?.into()),
        }
    }
}

/// A release in the making.
#[derive(Debug)]
pub(super) struct Tree {
    staging: PathBuf,
    manifest: Arc<Manifest>,
    layout: Layout,
    /// Bytes written since the last time that the disk was made to follow.
    behind: Mutex<u64>,
}

impl Tree {
    /// Makes the staging folder with every file at its full size, or takes one
    /// up again; refuses when the disk has no room for it. The room is not taken yet.
    pub(super) fn prepare(staging: &Path, manifest: Arc<Manifest>) -> io::Result<Self> {
        let layout = Layout::new(&manifest);
        let behind = Mutex::new(0);
        let tree = Self { staging: staging.to_owned(), manifest, layout, behind };
        make_folder(parent(staging), 0o755)?;
        tree.check_room(0)?;
        make_folder(staging, 0o755)?;
        for entry in &tree.manifest.entries {
            let path = staging.join(&entry.path);
            match &entry.node {
                Node::Dir => make_folders(&path)?,
                Node::File { size, exec } => {
                    make_folders(parent(&path))?;
                    open_sized(&path, *size, if *exec { 0o755 } else { 0o644 })?;
                }
                Node::Link { .. } => make_folders(parent(&path))?,
            }
        }
        Ok(tree)
    }

    /// Takes the files' room, so that the disk can't run full later; keeps what is written.
    pub(super) fn take_room(&self) -> io::Result<()> {
        let mut files = self.layout.files.iter().filter(|(_, size, ..)| *size > 0);
        files.try_for_each(|(_, size, path, _)| {
            let file = OpenOptions::new().write(true).open(self.staging.join(path))?;
            take_room(&file, 0..*size)
        })
    }

    /// Refuses when the disk has no room for what the tree still lacks and `beside` more bytes.
    pub(super) fn check_room(&self, beside: u64) -> io::Result<()> {
        let allocated: u64 = self.layout.files.iter().map(|f| used(&self.staging.join(&f.2))).sum();
        let missing = self.manifest.size.saturating_sub(allocated) + beside;
        if missing == 0 {
            // All of it is taken already: what is begun may be finished.
            return Ok(());
        }
        let needed = missing + RESERVE_BYTES;
        let disk = statvfs(parent(&self.staging))?;
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        if free >= needed {
            return Ok(());
        }
        let why = format!(
            "no room on disk: {} MiB needed, {} MiB free",
            needed.div_ceil(1 << 20),
            free >> 20
        );
        Err(io::Error::new(io::ErrorKind::StorageFull, why))
    }

    fn range(&self, piece: u32) -> Range<u64> {
        let start = u64::from(piece) * u64::from(self.manifest.piece_bytes);
        start..start + self.manifest.raw_len(piece as usize)
    }

    /// Where it is made.
    pub(super) fn staging(&self) -> &Path {
        &self.staging
    }

    /// Writes a piece's raw bytes.
    pub(super) fn write(&self, piece: u32, raw: &[u8]) -> io::Result<()> {
        let follow = self.falls_behind(raw.len() as u64);
        self.layout.visit(self.range(piece), |path, at, part| {
            let file = OpenOptions::new().write(true).open(self.staging.join(path))?;
            file.write_all_at(&raw[part], at)?;
            if follow { file.sync_data() } else { Ok(()) }
        })
    }

    /// Whether this writer is to wait until the disk has what was written.
    fn falls_behind(&self, bytes: u64) -> bool {
        let mut behind = self.behind.lock().unwrap_or_else(PoisonError::into_inner);
        *behind += bytes;
        let follow = *behind >= BEHIND_BYTES_MAX;
        *behind = if follow { 0 } else { *behind };
        follow
    }

    /// The files as they are and as they will be.
    pub(super) fn files(&self) -> io::Result<Files> {
        Files::open(&self.staging, &self.manifest)
    }

    /// Reads a piece's raw bytes back.
    pub(super) fn read(&self, piece: u32) -> io::Result<Vec<u8>> {
        self.layout.read(&self.staging, self.range(piece))
    }

    /// Makes the finished tree the release at `release`: links, sync, rename.
    /// Durable on return; before that no release is to be seen.
    pub(super) fn publish(&self, release: &Path) -> io::Result<()> {
        self.link_all()?;
        self.sync_all()?;
        make_folder(parent(release), 0o755)?;
        if release.is_dir() {
            // It was published before a crash that came before this answer.
            return fs::remove_dir_all(&self.staging);
        }
        fs::rename(&self.staging, release)?;
        sync_folder(parent(release))?;
        sync_folder(parent(parent(release)))
    }

    fn link_all(&self) -> io::Result<()> {
        for entry in &self.manifest.entries {
            let Node::Link { target } = &entry.node else { continue };
            let path = self.staging.join(&entry.path);
            match fs::remove_file(&path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => std::os::unix::fs::symlink(target, &path)?,
            }
        }
        Ok(())
    }

    fn sync_all(&self) -> io::Result<()> {
        if self.manifest.entries.len() > SYNC_EACH_MAX {
            return Ok(syncfs(File::open(&self.staging)?)?);
        }
        let mut folders = std::collections::BTreeSet::from([self.staging.clone()]);
        for entry in &self.manifest.entries {
            let path = self.staging.join(&entry.path);
            if !matches!(entry.node, Node::Link { .. }) {
                File::open(&path)?.sync_all()?;
            }
            let above = path.ancestors().skip(1).take_while(|p| p.starts_with(&self.staging));
            folders.extend(above.map(Path::to_owned));
        }
        folders.iter().try_for_each(|folder| sync_folder(folder))
    }
}

/// Opens or makes a file of `size` bytes that need not be there yet; keeps what an earlier
/// attempt wrote.
pub(super) fn open_sized(path: &Path, size: u64, mode: u32) -> io::Result<File> {
    let flags = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .custom_flags(flags)
        .mode(mode)
        .open(path)?;
    file.set_permissions(Permissions::from_mode(mode))?;
    file.set_len(size)?;
    Ok(file)
}

/// Takes the room of a part of a file on the disk.
pub(super) fn take_room(file: &File, part: Range<u64>) -> io::Result<()> {
    if part.is_empty() {
        return Ok(());
    }
    match fallocate(file, FallocateFlags::empty(), part.start, part.end - part.start) {
        // Not every file system can: then a full disk shows at the write.
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) | Ok(()) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

fn used(path: &Path) -> u64 {
    fs::symlink_metadata(path).map_or(0, |meta| meta.blocks() * 512)
}

fn make_folders(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    fs::DirBuilder::new().recursive(true).mode(0o755).create(path)
}

fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("/"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::manifest::{Entry, Shape, piece_bytes};

    fn manifest(entries: Vec<Entry>) -> Arc<Manifest> {
        let size = entries.iter().map(Entry::size).sum();
        Arc::new(Manifest {
            v: 1,
            app: "api".parse().unwrap(),
            shape: Shape::Folder,
            entries,
            size,
            piece_bytes: piece_bytes(size),
            pieces: vec![],
            run: None,
            provenance: crate::model::manifest::Provenance::sample(),
        })
    }

    fn file(path: &str, size: u64) -> Entry {
        Entry { path: path.into(), node: Node::File { size, exec: false } }
    }

    #[test]
    fn bytes_land_where_the_manifest_says_in_any_order() {
        let root = tempfile::tempdir().unwrap();
        let size = (256 << 10) + 10;
        let entries = vec![file("a", 5), file("b/empty", 0), file("b/x", size), file("c", 7)];
        let staging = root.path().join("staging/x");
        let tree = Tree::prepare(&staging, manifest(entries)).unwrap();
        let blob: Vec<u8> = (0..size as usize + 12).map(|i| (i * 31 % 251) as u8).collect();
        tree.write(1, &blob[256 << 10..]).unwrap();
        tree.write(0, &blob[..256 << 10]).unwrap();
        assert_eq!(tree.read(1).unwrap(), &blob[256 << 10..]);
        let release = root.path().join("apps/api/releases/x");
        tree.publish(&release).unwrap();
        assert!(!staging.exists());
        assert_eq!(fs::read(release.join("a")).unwrap(), &blob[..5]);
        assert_eq!(fs::read(release.join("b/x")).unwrap(), &blob[5..blob.len() - 7]);
        assert_eq!(fs::read(release.join("c")).unwrap(), &blob[blob.len() - 7..]);
        assert_eq!(fs::read(release.join("b/empty")).unwrap(), b"");
    }

    #[test]
    fn a_disk_without_room_is_refused_before_anything_is_written() {
        let root = tempfile::tempdir().unwrap();
        let staging = root.path().join("staging/x");
        let refused = Tree::prepare(&staging, manifest(vec![file("a", u64::MAX >> 8)]));
        let error = refused.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert!(error.to_string().starts_with("no room on disk: "), "{error}");
        assert!(!staging.exists());
    }

    #[test]
    fn files_are_read_through_a_rename_and_never_through_a_link() {
        let root = tempfile::tempdir().unwrap();
        let (staging, release) = (root.path().join("staging/x"), root.path().join("r/x"));
        let manifest = manifest(vec![file("b/x", 6), file("c", 2)]);
        let tree = Tree::prepare(&staging, manifest).unwrap();
        tree.write(0, b"abcdefgh").unwrap();
        let files = tree.files().unwrap();
        tree.publish(&release).unwrap();
        assert_eq!(files.places(4..8), [("b/x", 4, 2), ("c", 0, 2)]);
        let mut bytes = [0; 2];
        files.file("b/x").unwrap().read_exact_at(&mut bytes, 4).unwrap();
        assert_eq!(&bytes, b"ef");
        // The app puts a link where a folder was.
        fs::rename(release.join("b"), root.path().join("outside")).unwrap();
        std::os::unix::fs::symlink(root.path().join("outside"), release.join("b")).unwrap();
        assert!(release.join("b/x").exists() && files.file("b/x").is_err());
    }

    #[test]
    fn no_write_goes_through_a_link() {
        let root = tempfile::tempdir().unwrap();
        let outside = root.path().join("outside");
        fs::write(&outside, b"mine").unwrap();
        let staging = root.path().join("staging/x");
        fs::create_dir_all(&staging).unwrap();
        std::os::unix::fs::symlink(&outside, staging.join("a")).unwrap();
        assert!(Tree::prepare(&staging, manifest(vec![file("a", 2)])).is_err());
        assert_eq!(fs::read(&outside).unwrap(), b"mine");
    }
}
