//! Sends a piece: a head, then file bytes that the kernel moves to the socket.
//!
//! The bytes are nearly always in the page cache, having been written or read just
//! now, so `sendfile` does not wait for a disk; where it must, it holds one of the
//! runtime's threads for that long, as in the web servers that do the same.
//!
//! A piece counts as sent when the kernel has no byte of it left to send. Its buffer
//! takes a small piece whole at once, and an upload slot that were free by then would
//! let in more peers than the link has turns for (docs/decisions/0024).

use std::fs::File;
use std::io;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::sendfile;
use rustix::net::SendFlags;
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::agent::cap::Cap;
use crate::agent::pack::{Pack, Stretch};

/// Most bytes of one system call, so that other connections have their turn.
const STEP_BYTES: u64 = 1 << 20;
/// A reader that takes nothing for this long loses its slot.
const PROGRESS_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes that the kernel may still have to send of a piece that counts as sent: half
/// of the largest burst that it hands to a network card, so that the link does not idle
/// while the next piece begins.
const UNSENT_BYTES: u32 = 32 << 10;

/// Why a piece was not sent whole. The connection is of no use then.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failed {
    /// The bytes are not there to be read any more.
    #[error("{0}")]
    File(io::Error),
    /// The peer went away or takes nothing.
    #[error("{0}")]
    Peer(#[from] io::Error),
}

impl From<Failed> for io::Error {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::File(error) | Failed::Peer(error) => error,
        }
    }
}

/// Sends `head` and then the bytes of `stretches`; returns when they have left this
/// host, or after 10 s when the peer takes them that slowly.
pub(super) async fn send(
    (stream, cap): (&TcpStream, &Cap),
    pack: &Pack,
    (head, stretches): (&str, &[Stretch]),
) -> Result<(), Failed> {
    let mut head = Some(head);
    for stretch in stretches {
        // Nothing is promised before the first file is open.
        let file = pack.file(stretch).map_err(Failed::File)?;
        if let Some(head) = head.take() {
            send_head(stream, head.as_bytes()).await?;
        }
        send_stretch((stream, cap), &file, stretch).await?;
    }
    drain(stream).await.map_err(Failed::Peer)
}

/// Waits until the kernel has sent nearly all that it was given. Who takes longer than
/// [`PROGRESS_TIMEOUT`] for one buffer is not failed for it, but waited for no more.
async fn drain(stream: &TcpStream) -> io::Result<()> {
    let socket = SockRef::from(stream);
    // The kernel calls a socket writable when less than half of this waits in it.
    socket.set_tcp_notsent_lowat(2 * UNSENT_BYTES)?;
    let sent = stream.async_io(Interest::WRITABLE, || {
        let mut polled = [PollFd::new(stream, PollFlags::OUT)];
        // Tokio believes that it can be written to until it is told otherwise.
        let ready = poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
        if ready == 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
    });
    let drained = timeout(PROGRESS_TIMEOUT, sent).await;
    // Large writes again for the next piece: 0 is the system's own setting.
    socket.set_tcp_notsent_lowat(0)?;
    drained.unwrap_or(Ok(()))
}

/// Sends `head`, to go in one packet with what follows.
async fn send_head(stream: &TcpStream, mut head: &[u8]) -> io::Result<()> {
    let flags = SendFlags::MORE | SendFlags::NOSIGNAL;
    while !head.is_empty() {
        let sent = stream.async_io(Interest::WRITABLE, || {
            rustix::net::send(stream, head, flags).map_err(Into::into)
        });
        head = &head[timeout(PROGRESS_TIMEOUT, sent).await??..];
    }
    Ok(())
}

async fn send_stretch(
    (stream, cap): (&TcpStream, &Cap),
    file: &File,
    stretch: &Stretch,
) -> Result<(), Failed> {
    let (mut at, end) = (stretch.at, stretch.at + stretch.length);
    while at < end {
        let step = cap.step((end - at).min(STEP_BYTES));
        cap.pass(step).await;
        let sent = stream.async_io(Interest::WRITABLE, || {
            sendfile(stream, file, Some(&mut at), step as usize).map_err(Into::into)
        });
        match timeout(PROGRESS_TIMEOUT, sent).await.map_err(io::Error::from)? {
            // The file became shorter.
            Ok(0) => return Err(Failed::File(io::ErrorKind::UnexpectedEof.into())),
            Err(error) if is_of_disk(&error) => return Err(Failed::File(error)),
            sent => sent.map(drop)?,
        }
    }
    Ok(())
}

fn is_of_disk(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error())
}
