//! A build's log: from a pipe to the coordinator, in order, bounded everywhere.
//!
//! The writer never waits: text goes to a file in the scratch folder, the
//! sender reads it from there, so a coordinator that is away for minutes costs
//! neither memory nor build time. The first bytes are sent as they come; past
//! the head only the newest bytes are kept, and sent when the log is closed,
//! behind a line that tells how much was left out. Escape sequences and control
//! characters never get in: a log is shown on terminals.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use tokio::sync::watch;

/// Most bytes of one chunk; the coordinator's bound.
pub const CHUNK_BYTES: usize = 64 << 10;
/// How long text may wait for more before it is sent.
const LINGER: Duration = Duration::from_secs(1);

/// How much of a log is kept.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// First bytes, sent as they come.
    pub head: usize,
    /// Last bytes; held in memory.
    pub tail: usize,
}

impl Bounds {
    /// A log of at most `bytes`: an eighth of it, at most 8 MiB, for the end.
    #[must_use]
    pub fn of(bytes: usize) -> Self {
        let tail = (bytes / 8).min(8 << 20);
        Self { head: bytes - tail, tail }
    }
}

/// How far a log is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Written {
    bytes: u64,
    closed: bool,
}

/// The end that the build's output goes into.
pub struct LogWriter {
    file: File,
    written: watch::Sender<Written>,
    text: Cleaner,
    head_left: usize,
    tail: Ring,
}

/// The end that chunks are read from.
pub struct LogReader {
    file: File,
    written: watch::Receiver<Written>,
    at: u64,
}

/// Opens a log kept in the file at `path`.
///
/// # Errors
/// When the file can't be made.
pub fn open(path: &Path, bounds: Bounds) -> io::Result<(LogWriter, LogReader)> {
    let file = File::options().create(true).truncate(true).read(true).write(true).open(path)?;
    let (sender, receiver) = watch::channel(Written::default());
    let reader = LogReader { file: file.try_clone()?, written: receiver, at: 0 };
    let writer = LogWriter {
        file,
        written: sender,
        text: Cleaner::default(),
        head_left: bounds.head,
        tail: Ring::new(bounds.tail),
    };
    Ok((writer, reader))
}

impl LogWriter {
    /// Adds output as it came.
    pub fn write(&mut self, bytes: &[u8]) {
        let (head, tail) = bytes.split_at(bytes.len().min(self.head_left));
        if !head.is_empty() {
            self.head_left -= head.len();
            let text = self.text.clean(head);
            self.append(&text);
        }
        self.tail.push(tail);
    }

    /// Adds a line of the worker's own.
    pub fn line(&mut self, text: &str) {
        let line = format!("deployctl: {text}\n");
        self.write(line.as_bytes());
    }

    /// Ends the log; what was left out is told.
    pub fn close(mut self) {
        let (last, dropped) = std::mem::replace(&mut self.tail, Ring::new(0)).into_parts();
        let mut text = self.text.clean(&[]);
        if dropped > 0 {
            text = format!("{text}\n… {dropped} bytes of output left out here …\n");
        }
        text.push_str(&self.text.clean(&last));
        text.push_str(&self.text.rest());
        self.append(&text);
        self.written.send_modify(|written| written.closed = true);
    }

    /// A disk that is full loses text here, never the build's outcome.
    fn append(&mut self, text: &str) {
        let at = self.written.borrow().bytes;
        if !text.is_empty() && self.file.write_all_at(text.as_bytes(), at).is_ok() {
            self.written.send_modify(|written| written.bytes += text.len() as u64);
        }
        let _ = self.file.flush();
    }
}

impl LogReader {
    /// The next text and where it starts, at most 64 KiB; `None` at the end. Waits up
    /// to 1 s for more once there is some. Returns the same until [`LogReader::took`].
    ///
    /// # Errors
    /// When the file can't be read.
    pub async fn next(&mut self) -> io::Result<Option<(u64, String)>> {
        let at = self.at;
        let enough = |more: u64| move |w: &Written| w.closed || w.bytes >= at + more;
        let _ = self.written.wait_for(enough(1)).await;
        let full = self.written.wait_for(enough(CHUNK_BYTES as u64));
        let _ = tokio::time::timeout(LINGER, full).await;
        let there = self.written.borrow().bytes - at;
        if there == 0 {
            return Ok(None);
        }
        let mut bytes = vec![0; CHUNK_BYTES.min(usize::try_from(there).unwrap_or(CHUNK_BYTES))];
        self.file.read_exact_at(&mut bytes, at)?;
        Ok(Some((at, whole_text(bytes))))
    }

    /// The text that [`LogReader::next`] gave was delivered.
    pub fn took(&mut self, text: &str) {
        self.at += text.len() as u64;
    }
}

/// Text up to the last whole character; only text was written, so nothing is lost.
fn whole_text(bytes: Vec<u8>) -> String {
    match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(e) => {
            let whole = e.utf8_error().valid_up_to();
            let mut bytes = e.into_bytes();
            bytes.truncate(whole);
            String::from_utf8(bytes).unwrap_or_default()
        }
    }
}

/// Turns output into text: no escape sequences, no control characters but
/// line ends and tabs, broken UTF-8 replaced. Sequences may span calls.
#[derive(Debug, Default)]
struct Cleaner {
    state: State,
    /// Bytes that may be the start of a character.
    open: Vec<u8>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Text,
    /// After a carriage return: a line end unless a line feed follows.
    Return,
    /// After ESC.
    Escape,
    /// In a control sequence: until a byte of 0x40 to 0x7e.
    Control,
    /// In a string (a title, a link): until BEL or ESC.
    Title,
}

impl Cleaner {
    fn clean(&mut self, bytes: &[u8]) -> String {
        let mut kept = std::mem::take(&mut self.open);
        kept.reserve(bytes.len());
        for &byte in bytes {
            self.step(byte, &mut kept);
        }
        let whole = whole_bytes(&kept);
        self.open = kept.split_off(whole);
        let text = String::from_utf8_lossy(&kept);
        // C1 controls are escape sequences in one character.
        text.chars().filter(|c| !('\u{80}'..='\u{9f}').contains(c)).collect()
    }

    fn step(&mut self, byte: u8, kept: &mut Vec<u8>) {
        if self.state == State::Return && byte != b'\n' && byte != b'\r' {
            kept.push(b'\n');
        }
        self.state = match (self.state, byte) {
            (State::Control, 0x40..=0x7e) | (State::Title, 0x07) => State::Text,
            (State::Control, 0x20..=0x3f) => State::Control,
            (_, 0x1b) => State::Escape,
            (State::Title, _) => State::Title,
            (State::Escape, b'[') => State::Control,
            (State::Escape, b']' | b'P' | b'X' | b'^' | b'_') => State::Title,
            (State::Escape, 0x20..=0x2f) => State::Escape,
            (State::Escape, 0x30..=0x7e) => State::Text,
            (_, b'\r') => State::Return,
            (_, b'\n' | b'\t' | 0x20..=0x7e | 0x80..) => {
                kept.push(byte);
                State::Text
            }
            _ => State::Text,
        };
    }

    /// What is left at the very end.
    fn rest(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.open)).into_owned()
    }
}

/// Where a character begins at the end of `bytes` that more bytes may complete.
fn whole_bytes(bytes: &[u8]) -> usize {
    let last = bytes.len().saturating_sub(3);
    let start = (last..bytes.len()).rev().find(|at| bytes[*at] & 0b1100_0000 != 0b1000_0000);
    match start {
        Some(at) if bytes[at] >= 0xc0 => {
            let needs = bytes[at].leading_ones() as usize;
            if needs > bytes.len() - at { at } else { bytes.len() }
        }
        _ => bytes.len(),
    }
}

/// The last bytes of a stream.
#[derive(Debug)]
struct Ring {
    bytes: Vec<u8>,
    room: usize,
    /// Where the oldest byte stands, once full.
    at: usize,
    dropped: u64,
}

impl Ring {
    fn new(room: usize) -> Self {
        Self { bytes: Vec::new(), room, at: 0, dropped: 0 }
    }

    fn push(&mut self, mut bytes: &[u8]) {
        if bytes.len() > self.room {
            let over = bytes.len() - self.room;
            self.dropped += over as u64;
            bytes = &bytes[over..];
        }
        let fresh = bytes.len().min(self.room - self.bytes.len());
        self.bytes.extend_from_slice(&bytes[..fresh]);
        bytes = &bytes[fresh..];
        self.dropped += bytes.len() as u64;
        while !bytes.is_empty() {
            let fits = bytes.len().min(self.room - self.at);
            self.bytes[self.at..][..fits].copy_from_slice(&bytes[..fits]);
            self.at = (self.at + fits) % self.room;
            bytes = &bytes[fits..];
        }
    }

    fn into_parts(mut self) -> (Vec<u8>, u64) {
        self.bytes.rotate_left(self.at);
        (self.bytes, self.dropped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn whole(mut reader: LogReader) -> String {
        let mut text = String::new();
        while let Some((at, next)) = reader.next().await.unwrap() {
            assert_eq!(at, text.len() as u64);
            assert!(next.len() <= CHUNK_BYTES);
            reader.took(&next);
            text.push_str(&next);
        }
        text
    }

    #[tokio::test]
    async fn a_log_arrives_whole_in_order_and_again_until_taken() {
        let folder = tempfile::tempdir().unwrap();
        let bounds = Bounds { head: 1 << 20, tail: 1 << 10 };
        let (mut writer, mut reader) = open(&folder.path().join("log"), bounds).unwrap();
        writer.line("begin");
        let first = reader.next().await.unwrap().unwrap();
        assert_eq!(first, (0, "deployctl: begin\n".to_owned()));
        assert_eq!(reader.next().await.unwrap().unwrap(), first);
        let mut expected = first.1;
        for i in 0..20_000 {
            let line = format!("line {i} äöü\n");
            writer.write(line.as_bytes());
            expected.push_str(&line);
        }
        writer.close();
        assert!(whole(reader).await == expected);
    }

    #[tokio::test]
    async fn past_its_head_only_the_end_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let bounds = Bounds { head: 100, tail: 50 };
        for step in [1, 7, 64, 5000] {
            let (mut writer, reader) = open(&folder.path().join("log"), bounds).unwrap();
            let output = (0..5000u32).map(|i| b'a' + (i % 26) as u8).collect::<Vec<_>>();
            for part in output.chunks(step) {
                writer.write(part);
            }
            writer.close();
            let (head, tail) = (&output[..100], &output[4950..]);
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            let gap = "\n… 4850 bytes of output left out here …\n";
            let expected = format!("{}{gap}{}", text(head), text(tail));
            assert_eq!(whole(reader).await, expected, "{step}");
        }
        let (mut writer, reader) = open(&folder.path().join("log"), bounds).unwrap();
        writer.write(&[b'x'; 150]);
        writer.close();
        assert_eq!(whole(reader).await, "x".repeat(150));
    }

    #[test]
    fn only_text_gets_through_however_it_is_cut() {
        let output = "a\x1b[31;1mred\x1b[0m\x1b]0;title\x07 \x1b]8;;u\x1b\\link\x1b(B é…🎉 10%\r20%\r\nend\x08\x00\u{9b}2J\t."
            .as_bytes();
        let broken = [output, &[b'\n', 0xff, 0xc3]].concat();
        let expected = "ared link é…🎉 10%\n20%\nend2J\t.\n\u{fffd}\u{fffd}";
        for step in 1..broken.len() {
            let mut cleaner = Cleaner::default();
            let mut text: String = broken.chunks(step).map(|part| cleaner.clean(part)).collect();
            text.push_str(&cleaner.rest());
            assert_eq!(text, expected, "{step}");
        }
    }
}
