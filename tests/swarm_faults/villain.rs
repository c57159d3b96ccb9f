//! Peers that do not keep to the rules, on real sockets.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use deployctl::model::pieces::PieceSet;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::region::{Made, Region};

/// How a peer, which says that it has everything, goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wrong {
    /// Takes connections and says nothing, ever.
    Mute,
    /// Sends half of a piece, then nothing more on an open connection.
    Stops,
    /// Sends half of a piece and hangs up.
    Cuts,
    /// Sends the right number of wrong bytes.
    Poisons,
    /// Sends more bytes than the piece has.
    Floods,
    /// Answers 404 for every piece that it announced.
    Denies,
    /// Answers 429 without end.
    Busy,
    /// Changes what it has without a pause, and denies all of it.
    Flaps,
    /// Tells what it has, hangs up, and denies all of it.
    Ends,
    /// Answers what is not HTTP.
    Babbles,
}

/// Every way.
pub(crate) const ALL: [Wrong; 10] = [
    Wrong::Mute,
    Wrong::Stops,
    Wrong::Cuts,
    Wrong::Poisons,
    Wrong::Floods,
    Wrong::Denies,
    Wrong::Busy,
    Wrong::Flaps,
    Wrong::Ends,
    Wrong::Babbles,
];

/// A running villain, a member of the swarm.
pub(crate) struct Villain {
    /// How often it was asked for a piece.
    pub(crate) asked: Arc<AtomicU32>,
    /// How often it was asked what it has.
    pub(crate) followed: Arc<AtomicU32>,
    tasks: [JoinHandle<()>; 2],
}

impl Drop for Villain {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Villain {
    /// Joins the swarm of `made` as a host that has all of it.
    pub(crate) async fn start(region: &Region, made: &Made, wrong: Wrong) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let name = format!("{wrong:?}").to_lowercase();
        let member = region.holder(made, &name, port).await;
        let (asked, followed) = (Arc::default(), Arc::default());
        let script = Script {
            wrong,
            made: Arc::new(made.clone()),
            asked: Arc::clone(&asked),
            followed: Arc::clone(&followed),
        };
        let listening = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let script = script.clone();
                tokio::spawn(async move { script.speak(stream).await });
            }
        });
        Self { asked, followed, tasks: [member, listening] }
    }
}

#[derive(Clone)]
struct Script {
    wrong: Wrong,
    made: Arc<Made>,
    asked: Arc<AtomicU32>,
    followed: Arc<AtomicU32>,
}

impl Script {
    /// Answers requests on one connection until the other side hangs up.
    async fn speak(&self, mut stream: TcpStream) {
        while let Some(path) = request(&mut stream).await {
            let piece = path.rsplit_once("/pieces/").and_then(|(_, n)| n.parse::<usize>().ok());
            let answered = match piece {
                Some(piece) => self.piece(&mut stream, piece).await,
                None => self.have(&mut stream).await,
            };
            if answered.is_none() {
                return;
            }
        }
    }

    /// Tells what it has; the reply ends with the connection.
    async fn have(&self, stream: &mut TcpStream) -> Option<()> {
        self.followed.fetch_add(1, Ordering::SeqCst);
        match self.wrong {
            Wrong::Mute => return silence().await,
            Wrong::Babbles => return send(stream, b"hello\r\n\r\n").await,
            _ => {}
        }
        let head = "HTTP/1.1 200 OK\r\ncontent-type: application/x-deployctl-have\r\n\r\n";
        send(stream, head.as_bytes()).await?;
        let pieces = self.made.manifest.pieces.len() as u32;
        let told = |generation: u64| {
            let count = if generation.is_multiple_of(2) { 0 } else { pieces };
            format!("{generation}:{}\n", String::from(PieceSet::full(count)))
        };
        send(stream, told(1).as_bytes()).await?;
        match self.wrong {
            Wrong::Ends => None,
            Wrong::Flaps => {
                for generation in 2.. {
                    send(stream, told(generation).as_bytes()).await?;
                }
                None
            }
            _ => silence().await,
        }
    }

    async fn piece(&self, stream: &mut TcpStream, piece: usize) -> Option<()> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let offsets = self.made.manifest.wire_offsets();
        let wire = &self.made.pack[offsets[piece] as usize..offsets[piece + 1] as usize];
        let half = &wire[..wire.len() / 2];
        let ok = head("200 OK", "", wire.len());
        match self.wrong {
            Wrong::Mute => silence().await,
            Wrong::Babbles => send(stream, b"HTTP/9 what\r\n\r\n").await,
            Wrong::Denies | Wrong::Flaps | Wrong::Ends => {
                send(stream, head("404 Not Found", "", 0).as_bytes()).await
            }
            Wrong::Busy => {
                let retry = "retry-after-ms: 1\r\n";
                send(stream, head("429 Too Many Requests", retry, 0).as_bytes()).await
            }
            Wrong::Stops => {
                send(stream, &[ok.as_bytes(), half].concat()).await?;
                silence().await
            }
            Wrong::Cuts => {
                send(stream, &[ok.as_bytes(), half].concat()).await?;
                None
            }
            Wrong::Poisons => {
                let spoilt: Vec<u8> = wire.iter().map(|byte| byte ^ 0x55).collect();
                send(stream, &[ok.as_bytes(), &spoilt].concat()).await
            }
            Wrong::Floods => {
                let long = head("200 OK", "", wire.len() * 1000);
                send(stream, long.as_bytes()).await?;
                loop {
                    send(stream, wire).await?;
                }
            }
        }
    }
}

fn head(status: &str, more: &str, length: usize) -> String {
    format!("HTTP/1.1 {status}\r\n{more}content-length: {length}\r\n\r\n")
}

async fn send(stream: &mut TcpStream, bytes: &[u8]) -> Option<()> {
    stream.write_all(bytes).await.ok()
}

/// Longer than any test, on an open connection.
async fn silence() -> Option<()> {
    tokio::time::sleep(Duration::from_secs(3600)).await;
    None
}

/// The path of the next request; `None` when there is none any more.
async fn request(stream: &mut TcpStream) -> Option<String> {
    let mut head = vec![];
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    Some(head.split(' ').nth(1)?.to_owned())
}
