//! The wire between coordinators: who commits says which topics it touched, and every
//! other one wakes whoever waits for them.
//!
//! One connection listens. It may miss a commit while it is down; so whoever waits also
//! looks by itself, each few seconds. The same connection compares clocks.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{oneshot, watch};
use tokio_postgres::{AsyncMessage, Client, Connection, NoTls};

use super::Address;
use crate::store::db::clock::Clock;
use crate::store::db::writer::Topics;
use crate::store::db::{DbError, ServerError, Topic};

/// The channel's name.
const CHANNEL: &str = "deployctl";
/// How often the server's clock is looked at, and with it the connection.
const EVERY: Duration = Duration::from_secs(5);
/// Pause before a lost connection is made anew.
const PAUSE: Duration = Duration::from_secs(1);
/// Longest wait for the server's clock; a dead connection is found by it.
const ANSWER_MAX: Duration = Duration::from_secs(10);

const TIME: &str = "SELECT CAST(floor(extract(epoch FROM clock_timestamp()) * 1000) AS BIGINT)";

/// Tells other coordinators what was committed here, and hears what was there.
#[derive(Clone)]
pub(in crate::store::db) struct Listener {
    /// Random; what it sends itself it does not hear.
    id: Arc<str>,
    topics: Arc<Topics>,
    clock: Arc<Clock>,
}

impl Listener {
    pub(in crate::store::db) fn new(topics: Arc<Topics>, clock: Arc<Clock>) -> Self {
        let mut random = [0; 8];
        // Without randomness it hears its own commits too, and looks twice.
        let _ = getrandom::fill(&mut random);
        let id = crate::model::digest::to_hex(&random).into();
        Self { id, topics, clock }
    }

    /// The statement that tells others; `None`: there is nothing to tell.
    pub(super) fn notify(&self, topics: &[Topic]) -> Option<String> {
        let words: Vec<&str> = topics.iter().map(|topic| topic.word()).collect();
        let text = format!("{} {}", self.id, words.join(","));
        (!words.is_empty()).then(|| format!("SELECT pg_notify('{CHANNEL}', '{text}')"))
    }

    /// Wakes whoever waits for what `text` names. Words of a newer release are nothing
    /// that this one waits for.
    fn hear(&self, text: &str) {
        let Some((id, words)) = text.split_once(' ') else { return };
        if id != &*self.id {
            words.split(',').filter_map(Topic::from_word).for_each(|topic| self.topics.wake(topic));
        }
    }

    /// Listens on a thread of its own until `closed` turns true or its sender is gone.
    pub(in crate::store::db) fn start(
        self,
        address: Address,
        closed: watch::Receiver<bool>,
    ) -> Result<(), DbError> {
        let io = |source| DbError::Io { path: "db-listener".into(), source };
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(io)?;
        std::thread::Builder::new()
            .name("db-listener".into())
            .spawn(move || runtime.block_on(self.run(address, closed)))
            .map_err(io)?;
        Ok(())
    }

    async fn run(self, address: Address, mut closed: watch::Receiver<bool>) {
        let mut down = false;
        loop {
            let listened = tokio::select! {
                listened = self.listen(&address) => listened,
                _ = closed.wait_for(|closed| *closed) => return,
            };
            if let Err(error) = listened
                && !std::mem::replace(&mut down, true)
            {
                tracing::warn!(%error, "news of other coordinators come late until it listens again");
            }
            tokio::select! {
                () = tokio::time::sleep(PAUSE) => {}
                _ = closed.wait_for(|closed| *closed) => return,
            }
        }
    }

    async fn listen(&self, address: &Address) -> Result<(), DbError> {
        let config = address.config("listener");
        let (ended, end) = oneshot::channel();
        let client = match address.tls()? {
            None => self.follow(config.connect(NoTls).await.map_err(ServerError::from)?, ended),
            Some(tls) => self.follow(config.connect(tls).await.map_err(ServerError::from)?, ended),
        };
        let listen = format!("LISTEN {CHANNEL}");
        client.batch_execute(&listen).await.map_err(ServerError::from)?;
        // Whatever was committed before is news.
        Topic::ALL.into_iter().for_each(|topic| self.topics.wake(topic));
        let mut end = end;
        loop {
            self.compare_clocks(&client).await?;
            tokio::select! {
                () = tokio::time::sleep(EVERY) => {}
                _ = &mut end => return Err(DbError::Closed),
            }
        }
    }

    /// Drives a connection and hears what comes; `ended` is dropped with it.
    fn follow<S, T>(
        &self,
        (client, mut connection): (Client, Connection<S, T>),
        ended: oneshot::Sender<()>,
    ) -> Client
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
        T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        let listener = self.clone();
        tokio::spawn(async move {
            let _ended = ended;
            while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await
            {
                if let AsyncMessage::Notification(notification) = message {
                    listener.hear(notification.payload());
                }
            }
        });
        client
    }

    async fn compare_clocks(&self, client: &Client) -> Result<(), DbError> {
        let asked = Instant::now();
        let answer = tokio::time::timeout(ANSWER_MAX, client.query_one(TIME, &[])).await;
        let row = answer.map_err(|_| DbError::Closed)?.map_err(ServerError::from)?;
        let halfway = asked.elapsed() / 2;
        self.clock.follow(row.try_get(0).map_err(ServerError::from)?, halfway);
        Ok(())
    }
}
