//! One watch over all goals, held as long as anybody listens: a hint and no more.
//!
//! It tells a number at every (re)connection, as anything may have happened
//! before it, and at every event. A stream that ends is begun anew at another member.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch::Sender;

use crate::store::goals::etcd::end_of;
use crate::store::goals::etcd::gateway::{Fault, Gateway};
use crate::store::goals::etcd::messages::{Base64, WatchLine, WatchRequest, Watched};

/// Longest line of a watch, bytes: what one etcd transaction can hold (1.5 MiB), in
/// base64, for some of them at once.
const LINE_BYTES_MAX: usize = 16 << 20;
/// Waits between streams that ended without news, first and longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Watches until it is dropped or nobody listens any more.
pub(super) async fn run(gateway: Arc<Gateway>, folder: String, sender: Sender<u64>) {
    let watched = Watched { key: Base64::from(folder.as_str()), range_end: end_of(&folder) };
    let request = WatchRequest { create_request: watched };
    let mut pause = PAUSE.0;
    while !sender.is_closed() {
        let began = tokio::time::Instant::now();
        match gateway.stream("/v3/watch", &request).await {
            Ok((member, reply)) => {
                let why = listen(reply, &sender).await;
                gateway.leave(member);
                tracing::info!(why, "a watch of goals ended; it is begun anew");
            }
            Err(Fault::Passing(why) | Fault::Token(why)) => {
                tracing::debug!(why, "goals can't be watched yet");
            }
            Err(Fault::Refused(why)) => tracing::warn!(why, "goals can't be watched"),
            Err(Fault::Compacted) => {}
        }
        if began.elapsed() > PAUSE.1 {
            pause = PAUSE.0;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE.1);
    }
}

/// Listens to one stream; returns why it ended.
async fn listen(mut reply: reqwest::Response, sender: &Sender<u64>) -> String {
    let mut line = Vec::new();
    loop {
        let chunk = match reply.chunk().await {
            Ok(Some(chunk)) => chunk,
            Ok(None) => return "the stream ended".into(),
            Err(error) => return error.to_string(),
        };
        for part in chunk.split_inclusive(|byte| *byte == b'\n') {
            if line.len() + part.len() > LINE_BYTES_MAX {
                return format!("a line of over {LINE_BYTES_MAX} bytes");
            }
            line.extend_from_slice(part);
            if part.ends_with(b"\n") {
                if let Err(why) = heard(&line, sender) {
                    return why;
                }
                line.clear();
            }
        }
    }
}

fn heard(line: &[u8], sender: &Sender<u64>) -> Result<(), String> {
    let line: WatchLine = serde_json::from_slice(line).map_err(|error| error.to_string())?;
    if let Some(error) = line.error {
        return Err(error.to_string());
    }
    let Some(news) = line.result else { return Ok(()) };
    if news.canceled {
        return Err("etcd canceled it".into());
    }
    sender.send_replace(news.header.revision.0);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_told_and_ends_are_noticed() {
        let (sender, receiver) = tokio::sync::watch::channel(0);
        let news = br#"{"result":{"header":{"revision":"7"},"events":[{"kv":{"key":"aw=="}}]}}"#;
        heard(news, &sender).unwrap();
        assert_eq!(*receiver.borrow(), 7);
        let canceled = br#"{"result":{"header":{},"canceled":true,"compact_revision":"5"}}"#;
        for end in [&canceled[..], br#"{"error":{"grpc_code":14,"message":"no leader"}}"#, b"x"] {
            assert!(heard(end, &sender).is_err());
        }
        assert_eq!(*receiver.borrow(), 7);
    }
}
