//! Makes and applies a patch between two files or folders: the program that
//! `bench/delta` measures. A folder stands for its files in the order of their
//! paths, end to end, as in an artifact.
//!
//! ```text
//! delta make OLD NEW PATCH [THREADS]
//! delta apply OLD PATCH NEW-BLOB
//! delta blob FOLDER BLOB
//! ```

use std::error::Error;
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;

use deployctl::delta::{self, Blob, Budget, FileSpan, Side};

/// A file, or the files of a folder end to end.
struct Tree {
    paths: Vec<PathBuf>,
    spans: Vec<FileSpan>,
    /// Kept open only when there is one: a folder may have more files than descriptors.
    only: Option<File>,
}

impl Tree {
    fn open(root: &Path) -> io::Result<Self> {
        let mut paths = Vec::new();
        walk(root, &mut paths)?;
        paths.sort();
        let mut spans = Vec::new();
        let mut start = 0;
        for path in &paths {
            let size = fs::metadata(path)?.len();
            let inside = path.strip_prefix(root).unwrap_or(path).display().to_string();
            spans.push(FileSpan { path: inside, start, size });
            start += size;
        }
        let only = if let [path] = &paths[..] { Some(File::open(path)?) } else { None };
        Ok(Self { paths, spans, only })
    }
}

fn walk(path: &Path, out: &mut Vec<PathBuf>) -> io::Result<()> {
    let kind = fs::symlink_metadata(path)?.file_type();
    if kind.is_file() {
        out.push(path.to_owned());
    } else if kind.is_dir() {
        for entry in fs::read_dir(path)? {
            walk(&entry?.path(), out)?;
        }
    }
    Ok(())
}

impl Blob for Tree {
    fn size(&self) -> u64 {
        self.spans.last().map_or(0, |span| span.start + span.size)
    }

    fn read_at(&self, mut at: u64, mut buffer: &mut [u8]) -> io::Result<()> {
        if let Some(file) = &self.only {
            return file.read_exact_at(buffer, at);
        }
        let mut index = self.spans.partition_point(|span| span.start + span.size <= at);
        while !buffer.is_empty() {
            let span = self.spans.get(index).ok_or(io::ErrorKind::UnexpectedEof)?;
            let len = (span.start + span.size - at).min(buffer.len() as u64) as usize;
            let (now, rest) = buffer.split_at_mut(len);
            File::open(&self.paths[index])?.read_exact_at(now, at - span.start)?;
            (buffer, at, index) = (rest, at + len as u64, index + 1);
        }
        Ok(())
    }
}

fn make(old: &Path, new: &Path, patch: &Path, threads: usize) -> Result<(), Box<dyn Error>> {
    let (old, new) = (Tree::open(old)?, Tree::open(new)?);
    let budget =
        Budget { memory_bytes: 1 << 30, threads, deadline: None, give_up_at_bytes: u64::MAX };
    let sides = [&old, &new].map(|tree| Side { blob: tree, files: &tree.spans });
    let mut out = BufWriter::new(File::create(patch)?);
    let made = delta::make(sides[0], sides[1], &mut out, &budget, &AtomicBool::new(false))?;
    out.flush()?;
    eprintln!("{made:?}");
    Ok(())
}

fn apply(old: &Path, patch: &Path, new: &Path) -> Result<(), Box<dyn Error>> {
    let mut out = BufWriter::with_capacity(1 << 20, File::create(new)?);
    let mut patch = BufReader::new(File::open(patch)?);
    delta::apply(&Tree::open(old)?, &mut patch, &mut |bytes| out.write_all(bytes))?;
    out.flush()?;
    Ok(())
}

fn blob(folder: &Path, out: &Path) -> Result<(), Box<dyn Error>> {
    let mut out = File::create(out)?;
    for path in &Tree::open(folder)?.paths {
        io::copy(&mut File::open(path)?, &mut out)?;
    }
    Ok(())
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match args[..] {
        ["make", old, new, patch] => make(old.as_ref(), new.as_ref(), patch.as_ref(), 2),
        ["make", old, new, patch, threads] => match threads.parse() {
            Ok(threads) => make(old.as_ref(), new.as_ref(), patch.as_ref(), threads),
            Err(error) => Err(error.into()),
        },
        ["apply", old, patch, new] => apply(old.as_ref(), patch.as_ref(), new.as_ref()),
        ["blob", folder, out] => blob(folder.as_ref(), out.as_ref()),
        _ => {
            Err("usage: delta make OLD NEW PATCH [THREADS] | apply OLD PATCH NEW | blob FOLDER OUT"
                .into())
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("delta: {error}");
            ExitCode::FAILURE
        }
    }
}
