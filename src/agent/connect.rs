//! Connections for bytes that go straight into a piece's buffer: plain HTTP/1.1,
//! kept open and used again.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::agent::inflow::Inflow;
use crate::agent::transfer::Broken;
use crate::net::heads::{self, Conversation, Reply};

/// Time to connect [distribution 6.5].
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Idle connections kept to one address.
const IDLE_MAX: usize = 4;
/// An idle connection older than this is not used again: listeners close theirs later.
const IDLE_KEEP: Duration = Duration::from_secs(10);

/// Idle connections, by `address:port`, and what may be on its way over them.
#[derive(Debug, Default)]
pub(super) struct Connections {
    idle: Mutex<HashMap<String, Vec<(Conversation, Instant)>>>,
    pub(super) inflow: Inflow,
}

impl Connections {
    /// Sends `head` to `address` and reads the head of the answer. A kept connection
    /// that turns out to be closed is replaced once: such a request was not heard.
    pub(super) async fn ask(
        &self,
        address: &str,
        head: &str,
    ) -> Result<(Conversation, Reply), Broken> {
        let limit = self.inflow.limit(address);
        if let Some(mut kept) = self.kept(address, limit)
            && let Ok(Some(reply)) = self.asked(address, &mut kept, head).await
        {
            return Ok((kept, reply));
        }
        let mut fresh = connect(address).await?;
        limit.into_iter().for_each(|bytes| fresh.narrow(bytes));
        match self.asked(address, &mut fresh, head).await {
            Ok(Some(reply)) => Ok((fresh, reply)),
            Ok(None) => Err(Broken::Cut("closed the connection".into())),
            Err(error) => Err(Broken::Cut(error.to_string())),
        }
    }

    /// Takes a connection back whose reply was read whole.
    pub(super) fn keep(&self, address: &str, conversation: Conversation, reply: &Reply) {
        if reply.last {
            return;
        }
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|_, kept| {
            kept.retain(|(_, since)| since.elapsed() < IDLE_KEEP);
            !kept.is_empty()
        });
        let kept = idle.entry(address.to_owned()).or_default();
        if kept.len() < IDLE_MAX {
            kept.push((conversation, Instant::now()));
        }
    }

    /// A kept connection with this limit; one that is limited does not become unlimited.
    fn kept(&self, address: &str, limit: Option<usize>) -> Option<Conversation> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = idle.get_mut(address)?;
        while let Some((mut conversation, since)) = kept.pop() {
            let fits = limit.is_some() || !conversation.is_narrow();
            if fits && since.elapsed() < IDLE_KEEP && conversation.is_quiet() {
                limit.into_iter().for_each(|bytes| conversation.narrow(bytes));
                return Some(conversation);
            }
        }
        None
    }

    async fn asked(
        &self,
        address: &str,
        conversation: &mut Conversation,
        head: &str,
    ) -> std::io::Result<Option<Reply>> {
        let begun = Instant::now();
        conversation.stream().write_all(head.as_bytes()).await?;
        let reply = conversation.head(heads::reply).await;
        self.inflow.answered(address, begun.elapsed());
        reply
    }
}

async fn connect(address: &str) -> Result<Conversation, Broken> {
    let unreachable = |why: String| Broken::Unreachable(why);
    let stream = timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await;
    let stream = stream.map_err(|_| unreachable("no connection in time".into()))?;
    let stream = stream.map_err(|e| unreachable(e.to_string()))?;
    let _ = stream.set_nodelay(true);
    Ok(Conversation::new(stream))
}
