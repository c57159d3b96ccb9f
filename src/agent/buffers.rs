//! Memory for pieces under way: bounded for the whole agent, and used again.
//!
//! A fresh buffer costs a page fault for every 4 KiB, which is more than hashing
//! them: the few that were used last are kept for the next pieces. With nothing
//! under way none is kept.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes of buffers kept for the next pieces: one of the largest.
const KEPT_BYTES: usize = 8 << 20;

/// The agent's buffers; cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Buffers(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// In KiB.
    room: Arc<Semaphore>,
    total_kib: usize,
    kept: Mutex<Vec<Vec<u8>>>,
}

/// One piece's bytes; its room is given back when it is dropped.
#[derive(Debug)]
pub(super) struct Buffer {
    bytes: Vec<u8>,
    length: usize,
    home: Buffers,
    room: Option<OwnedSemaphorePermit>,
}

impl Buffers {
    /// Buffers of `bytes` bytes in all, beside a few MiB that are kept for use again.
    pub(super) fn new(bytes: usize) -> Self {
        let total_kib = bytes / 1024;
        let room = Arc::new(Semaphore::new(total_kib));
        Self(Arc::new(Inner { room, total_kib, kept: Mutex::default() }))
    }

    /// A buffer of `length` bytes, whatever is in it; waits until there is room.
    /// One that is larger than all room gets all of it.
    pub(super) async fn take(&self, length: u64) -> Buffer {
        let length = length as usize;
        let kib = length.div_ceil(1024).min(self.0.total_kib) as u32;
        // The semaphore is never closed.
        let room = self.0.room.clone().acquire_many_owned(kib).await.ok();
        Buffer { bytes: self.fit(length), length, home: self.clone(), room }
    }

    /// A kept buffer that is large enough, or a new one.
    fn fit(&self, length: usize) -> Vec<u8> {
        let mut kept = self.0.kept.lock().unwrap_or_else(PoisonError::into_inner);
        match kept.iter().position(|bytes| bytes.len() >= length) {
            Some(at) => kept.swap_remove(at),
            None => vec![0; length],
        }
    }

    fn keep(&self, bytes: Vec<u8>) {
        let mut kept = self.0.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let held: usize = kept.iter().map(Vec::len).sum();
        if self.0.room.available_permits() == self.0.total_kib {
            kept.clear();
        } else if held + bytes.len() <= KEPT_BYTES {
            kept.push(bytes);
        }
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.length]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        drop(self.room.take());
        self.home.keep(std::mem::take(&mut self.bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn room_is_bounded_and_buffers_are_used_again() {
        let buffers = Buffers::new(64 << 10);
        let (first, mut second) = (buffers.take(40 << 10).await, buffers.take(20 << 10).await);
        second.fill(7);
        let third = buffers.take(10 << 10);
        let mut third = std::pin::pin!(third);
        assert!(futures_util::poll!(third.as_mut()).is_pending());
        drop(second);
        // The same bytes, not fresh ones.
        assert_eq!(third.await[..], [7; 10 << 10]);
        drop(first);
        assert!(buffers.0.kept.lock().unwrap().is_empty(), "at rest nothing is kept");
        assert_eq!(buffers.take(1 << 20).await.len(), 1 << 20);
    }
}
