//! An app's output on its host: bounded, rotated, its last lines readable.
//!
//! `<folder>/current` and `<folder>/previous`, 1 MiB each. A line that begins with
//! `MARK` says that another start of the app begins; a tail never reaches beyond
//! it. Losing output is no fault: writing never fails.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::model::fleet::{FAILURE_LOG_BYTES, FAILURE_LOG_LINES};

/// Bytes of one file; there are two.
pub const LOG_BYTES_MAX: u64 = 1 << 20;
/// Begins a line that separates two starts.
const MARK: &str = "=== deployctl: ";
/// Bytes read for a tail: its lines are cut to fit, so long ones need some room.
const TAIL_READ_BYTES: u64 = 64 << 10;
/// Longest line of a tail, bytes.
const TAIL_LINE_BYTES: usize = 500;

/// An app's log, open for writing.
pub struct AppLog {
    folder: PathBuf,
    file: Option<File>,
    bytes: u64,
}

impl AppLog {
    /// Opens the log in `folder`, which is made when it is missing.
    #[must_use]
    pub fn open(folder: &Path) -> Self {
        let _ = fs::create_dir_all(folder);
        let mut log = Self { folder: folder.to_owned(), file: None, bytes: 0 };
        log.reopen();
        log
    }

    /// Says that another start begins, such as `r12 started`.
    pub fn mark(&mut self, text: &str) {
        self.write(format!("{MARK}{text}\n").as_bytes());
    }

    /// Appends output.
    pub fn write(&mut self, bytes: &[u8]) {
        if self.bytes + bytes.len() as u64 > LOG_BYTES_MAX {
            let _ = fs::rename(self.folder.join("current"), self.folder.join("previous"));
            self.reopen();
        }
        let kept = &bytes[bytes.len().saturating_sub(LOG_BYTES_MAX as usize)..];
        if self.file.as_mut().is_some_and(|file| file.write_all(kept).is_ok()) {
            self.bytes += kept.len() as u64;
        }
    }

    fn reopen(&mut self) {
        let path = self.folder.join("current");
        self.file = OpenOptions::new().create(true).append(true).open(path).ok();
        self.bytes =
            self.file.as_ref().and_then(|file| file.metadata().ok()).map_or(0, |meta| meta.len());
    }
}

/// The last lines since the last start, at most [`FAILURE_LOG_LINES`] and
/// [`FAILURE_LOG_BYTES`], without escapes and control characters.
#[must_use]
pub fn tail(folder: &Path) -> Vec<String> {
    let mut text = last_bytes(&folder.join("previous"));
    text.extend(last_bytes(&folder.join("current")));
    let text = String::from_utf8_lossy(&text);
    let since = text.rfind(MARK).map_or(&*text, |at| {
        let line = &text[at..];
        line.find('\n').map_or("", |end| &line[end + 1..])
    });
    let mut room = FAILURE_LOG_BYTES;
    let mut lines: Vec<String> = Vec::new();
    for line in since.lines().rev().take(FAILURE_LOG_LINES) {
        let line = plain(line);
        if line.len() + 1 > room {
            break;
        }
        room -= line.len() + 1;
        lines.push(line);
    }
    lines.reverse();
    lines
}

/// A line without escape sequences and control characters, at most 500 bytes.
#[must_use]
pub fn plain(line: &str) -> String {
    let mut out = String::new();
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        if c == '\u{1b}' {
            if chars.next_if_eq(&'[').is_some() {
                while chars.next().is_some_and(|c| !('@'..='~').contains(&c)) {}
            }
            continue;
        }
        let shown = if c == '\t' { ' ' } else { c };
        if shown.is_control() {
            continue;
        }
        if out.len() + shown.len_utf8() > TAIL_LINE_BYTES {
            break;
        }
        out.push(shown);
    }
    out
}

fn last_bytes(path: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Ok(mut file) = File::open(path) {
        let length = file.metadata().map_or(0, |meta| meta.len());
        let _ = file.seek(SeekFrom::Start(length.saturating_sub(TAIL_READ_BYTES)));
        let _ = file.take(TAIL_READ_BYTES).read_to_end(&mut bytes);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_is_bounded_and_its_end_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = AppLog::open(folder.path());
        for n in 0..60_000u32 {
            log.write(format!("line {n} {}\n", "x".repeat(40)).as_bytes());
        }
        let size = |name: &str| fs::metadata(folder.path().join(name)).unwrap().len();
        assert!(size("current") <= LOG_BYTES_MAX && size("previous") <= LOG_BYTES_MAX);
        let lines = tail(folder.path());
        assert_eq!(lines.len(), FAILURE_LOG_LINES);
        assert!(lines[63].starts_with("line 59999 "));
    }

    #[test]
    fn a_tail_holds_only_the_last_start_in_plain_text() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = AppLog::open(folder.path());
        log.write(b"of the old release\n");
        log.mark("r2");
        assert!(tail(folder.path()).is_empty());
        log.write(b"\x1b[31mred\x1b[0m\ta\x07\n");
        log.write(&[b'y'; 9000]);
        let lines = tail(folder.path());
        assert_eq!(lines[0], "red a");
        assert_eq!(lines[1].len(), TAIL_LINE_BYTES);
    }
}
