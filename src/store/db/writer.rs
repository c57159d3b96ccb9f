//! The one writer: a thread that commits up to 256 writes in one transaction.
//!
//! A database pays one flush per commit, so a commit shared by all who wait is what
//! makes it fast (SQLite: 36,000-58,000 claims/s against about 600 with a connection
//! each [backends 2]). Every write but a batch's first runs in a savepoint of its own: one
//! that fails or panics takes only itself back. An answer is given after the commit.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};

use super::{DbError, Tx};

/// Writes in one commit; the group must be able to hold all waiters [backends 2].
const BATCH_MAX: usize = 256;

/// What a transaction can say it changed; waiters are woken after the commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Topic {
    /// A job may be claimed, or changed its state.
    Jobs,
    /// Something for the regions: a goal, an artifact, a token.
    Feed,
    /// An event was written.
    Events,
    /// A rollout changed, or something that a rollout waits for.
    Rollouts,
    /// A job's log grew.
    Logs,
    /// A region says that its copy of an artifact is complete.
    Replicas,
    /// A token was made or withdrawn.
    Tokens,
    /// A question about a repository was asked or answered.
    Looks,
}

impl Topic {
    pub(super) const ALL: [Self; 8] = [
        Self::Jobs,
        Self::Feed,
        Self::Events,
        Self::Rollouts,
        Self::Logs,
        Self::Replicas,
        Self::Tokens,
        Self::Looks,
    ];

    pub(super) fn bit(self) -> u32 {
        1 << self as u32
    }

    pub(super) fn of_bits(touched: u32) -> Vec<Self> {
        Self::ALL.into_iter().filter(|topic| touched & topic.bit() != 0).collect()
    }

    /// As coordinators call it among each other, whatever their release.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Jobs => "jobs",
            Self::Feed => "feed",
            Self::Events => "events",
            Self::Rollouts => "rollouts",
            Self::Logs => "logs",
            Self::Replicas => "replicas",
            Self::Tokens => "tokens",
            Self::Looks => "looks",
        }
    }

    pub(super) fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|topic| topic.word() == word)
    }
}

/// One counter per topic; it grows with every commit that touched it.
pub(super) struct Topics([watch::Sender<u64>; Topic::ALL.len()]);

impl Topics {
    pub(super) fn new() -> Self {
        Self(Topic::ALL.map(|_| watch::channel(0).0))
    }

    pub(super) fn watch(&self, topic: Topic) -> watch::Receiver<u64> {
        self.0[topic as usize].subscribe()
    }

    /// Wakes whoever waits for `topic`.
    pub(super) fn wake(&self, topic: Topic) {
        self.0[topic as usize].send_modify(|count| *count += 1);
    }
}

type Answer = Box<dyn FnOnce(Result<(), DbError>) + Send>;

/// A write that ran and waits for its commit.
pub(super) struct Ran {
    keep: bool,
    answer: Answer,
}

/// What the writer thread is asked to do.
pub(super) enum Order {
    Write(Box<dyn FnOnce(&mut Tx) -> Ran + Send>),
    Close(oneshot::Sender<()>),
}

/// Makes an order of `work`, and the place where its result comes out.
pub(super) fn order<T, E>(
    work: impl FnOnce(&mut Tx) -> Result<T, E> + Send + 'static,
) -> (Order, oneshot::Receiver<Result<T, E>>)
where
    T: Send + 'static,
    E: From<DbError> + Send + 'static,
{
    let (sender, receiver) = oneshot::channel();
    let run = move |tx: &mut Tx| {
        let result = catch_unwind(AssertUnwindSafe(|| work(tx)))
            .unwrap_or_else(|_| Err(DbError::Panicked.into()))
            .and_then(|value| tx.settle().map(|()| value).map_err(E::from));
        let keep = result.is_ok();
        let answer = move |committed: Result<(), DbError>| {
            let result = result.and_then(|value| committed.map(|()| value).map_err(E::from));
            // A caller that went away does not undo what it asked for.
            let _ = sender.send(result);
        };
        Ran { keep, answer: Box::new(answer) }
    };
    (Order::Write(Box::new(run)), receiver)
}

/// Runs until it is told to close or every handle is gone.
pub(super) fn run(mut tx: Tx, mut orders: mpsc::Receiver<Order>, topics: &Arc<Topics>) {
    while let Some(first) = orders.blocking_recv() {
        let mut next = Some(first);
        let mut writes = Vec::new();
        let mut close = None;
        while let Some(order) = next {
            match order {
                Order::Write(write) => writes.push(write),
                Order::Close(done) => close = Some(done),
            }
            let full = writes.len() >= BATCH_MAX || close.is_some();
            next = if full { None } else { orders.try_recv().ok() };
        }
        commit_all(&mut tx, writes, topics);
        if let Some(done) = close {
            drop(orders);
            drop(tx);
            let _ = done.send(());
            return;
        }
    }
}

type Write = Box<dyn FnOnce(&mut Tx) -> Ran + Send>;

fn commit_all(tx: &mut Tx, writes: Vec<Write>, topics: &Topics) {
    if writes.is_empty() {
        return;
    }
    let mut ran = Vec::with_capacity(writes.len());
    let outcome = run_all(tx, writes, &mut ran);
    let touched = tx.touched();
    tx.set_touched(0);
    if let Err(error) = &outcome {
        if error.is_lost_flush() {
            tracing::error!(%error, "a flush to disk failed; stopping, the log decides on restart");
            std::process::abort();
        }
        tracing::error!(%error, writes = ran.len(), "a commit failed");
        if !tx.roll_back() {
            tracing::error!("a transaction can't be ended; stopping, the log decides on restart");
            std::process::abort();
        }
    } else {
        Topic::of_bits(touched).into_iter().for_each(|topic| topics.wake(topic));
    }
    for Ran { answer, .. } in ran {
        answer(match &outcome {
            Ok(()) => Ok(()),
            Err(DbError::Unknown(why)) => Err(DbError::Unknown(why.clone())),
            Err(error) => Err(DbError::NotCommitted(error.to_string())),
        });
    }
}

fn run_all(tx: &mut Tx, writes: Vec<Write>, ran: &mut Vec<Ran>) -> Result<(), DbError> {
    tx.begin()?;
    for (nth, write) in writes.into_iter().enumerate() {
        // What takes the first back is the transaction's own end: nothing is lost with it.
        let first = nth == 0;
        if !first {
            tx.begin_one()?;
        }
        let touched = tx.touched();
        let done = write(tx);
        let keep = done.keep;
        ran.push(done);
        if tx.is_over() {
            return Err(DbError::NotCommitted("the engine gave the transaction up".into()));
        }
        if !keep {
            tx.set_touched(touched);
        }
        match (keep, first) {
            (true, true) => {}
            (true, false) => tx.keep_one()?,
            (false, true) => tx.start_over()?,
            (false, false) => tx.undo_one()?,
        }
    }
    tx.commit()
}
