//! The processes of one region: which live, which of them an artifact belongs to, and the
//! words between them.
//!
//! Everything that is one for a region is one process's by rendezvous hash over those that
//! live: an artifact's pull and its swarm. A host may call any of them. Nobody elects
//! anybody: each process asks all others twice a second and comes to its own view; where two
//! views differ for a moment something is done twice, and nothing is wrong. The list is the
//! operator's, never what a process claims of itself.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::routing::post;
use subtle::ConstantTimeEq;
use tokio::sync::watch;

use crate::model::digest::{ArtifactId, to_hex};
use crate::net::auth::{keyed_hash, random_seed};
use crate::net::client::{CallError, Client};
use crate::net::server::Json;
use crate::region::fleet::{Fleet, Part, SHARED_MAX};
use crate::region::mirror::Mirror;
use crate::rules::rendezvous;
use crate::wire::problem::{Code, Problem};
use crate::wire::v1::process::{ProcessReply, ProcessWord};

/// Most processes of one region: as many addresses as an agent takes.
pub const PROCESSES_MAX: usize = 16;
/// How often another process is asked, and how soon it is told of hosts with news.
const BEAT: Duration = Duration::from_millis(500);
const NEWS: Duration = Duration::from_millis(100);
/// What a call may take.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Silence after which a process is taken for gone: some beats, or one call that hangs.
const GONE_AFTER: Duration = Duration::from_secs(3);
/// How long the goals of two processes may differ before one tells the other; the feed
/// brings them to both at about the same time.
const GOALS_DIFFER: Duration = Duration::from_secs(2);

/// A list of processes that is of no use.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct InvalidProcesses(String);

/// To whom an artifact belongs.
pub enum Owner<'a> {
    /// To this process.
    Me,
    /// To another one.
    Other(&'a Other),
    /// It is not known yet who lives.
    Unknown,
}

/// Another process of the region.
pub struct Other {
    /// Where it is called.
    pub client: Client,
    number: usize,
}

#[derive(Default, Clone, Copy)]
struct Known {
    tried: bool,
    lives: bool,
    reached: Option<Instant>,
    heard: Option<Instant>,
    /// Its start, as it says and as it answers.
    said: Option<u64>,
    answered: Option<u64>,
    /// Since when its goals are others.
    differs: Option<Instant>,
}

/// A region's processes as one of them sees them.
pub struct Processes {
    own: String,
    others: Vec<Other>,
    ticket: String,
    started: u64,
    known: Mutex<Vec<Known>>,
    changed: watch::Sender<u64>,
}

impl Processes {
    /// The processes at `list`, of which this one is `own`; alone without a list. `token` is
    /// the region's.
    ///
    /// # Errors
    /// [`InvalidProcesses`].
    pub fn new(
        list: &str,
        own: &str,
        token: &str,
        http: &reqwest::Client,
    ) -> Result<Self, InvalidProcesses> {
        let plain = |url: &str| url.trim().trim_end_matches('/').to_owned();
        let urls: Vec<String> = list.split(',').map(plain).filter(|url| !url.is_empty()).collect();
        let own = plain(own);
        let ticket = keyed_hash(&[0; 32], format!("deployctl process v1:{token}").as_bytes());
        let ticket = to_hex(&ticket);
        if !urls.is_empty() || !own.is_empty() {
            check(&urls, &own)?;
        }
        let others = urls.iter().filter(|url| **url != own).enumerate();
        let others = others.map(|(number, url)| {
            let client = Client::new(url, Some(ticket.clone())).over(http.clone());
            Other { client, number }
        });
        let others: Vec<Other> = others.collect();
        let known = Mutex::new(vec![Known::default(); others.len()]);
        let own = if others.is_empty() { String::new() } else { own };
        // It fits the numbers that every JSON reader keeps exactly.
        let started = random_seed() >> 12;
        Ok(Self { own, others, ticket, started, known, changed: watch::Sender::new(0) })
    }

    fn known(&self) -> MutexGuard<'_, Vec<Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This one's address in the list; empty: it is alone.
    #[must_use]
    pub fn own(&self) -> &str {
        &self.own
    }

    /// How many others there are.
    #[must_use]
    pub fn others(&self) -> usize {
        self.others.len()
    }

    /// The ticket that tells other processes that a request comes from one.
    #[must_use]
    pub fn ticket(&self) -> &str {
        &self.ticket
    }

    /// Whether `text` is that ticket.
    #[must_use]
    pub fn knows_ticket(&self, text: &[u8]) -> bool {
        !self.others.is_empty() && bool::from(text.ct_eq(self.ticket.as_bytes()))
    }

    /// Wakes when a process is gone or back.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Those that live, this one too, when it has others; empty while that is not known.
    #[must_use]
    pub fn live(&self) -> Vec<String> {
        let known = self.known();
        if self.others.is_empty() || known.iter().any(|known| !known.tried) {
            return vec![];
        }
        let mut live = vec![self.own.clone()];
        let others = self.others.iter().filter(|other| known[other.number].lives);
        live.extend(others.map(|other| other.client.base().to_owned()));
        live.sort();
        live
    }

    /// To whom an artifact belongs now.
    #[must_use]
    pub fn owner(&self, artifact: &ArtifactId) -> Owner<'_> {
        if self.others.is_empty() {
            return Owner::Me;
        }
        let live = self.live();
        let first = rendezvous::first(&artifact.0, live.iter().map(String::as_str));
        match first {
            Some(first) if *first == self.own => Owner::Me,
            Some(first) => self
                .others
                .iter()
                .find(|other| other.client.base() == first)
                .map_or(Owner::Unknown, Owner::Other),
            None => Owner::Unknown,
        }
    }

    /// Whether an artifact is this process's to pull.
    #[must_use]
    pub fn owns(&self, artifact: &ArtifactId) -> bool {
        matches!(self.owner(artifact), Owner::Me)
    }

    /// A connection to it was refused: it is gone until it answers again.
    pub fn refused(&self, other: &Other) {
        self.set_lives(other, false);
    }

    fn set_lives(&self, other: &Other, lives: bool) {
        let mut known = self.known();
        let known = &mut known[other.number];
        let same = known.tried && known.lives == lives;
        (known.tried, known.lives) = (true, lives);
        if !same {
            let process = other.client.base();
            match lives {
                true => tracing::info!(process, "process of this region answers"),
                false => tracing::warn!(process, "process of this region does not answer"),
            }
            self.changed.send_modify(|count| *count += 1);
        }
    }

    /// How many others live, and how many do not.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        let known = self.known();
        let live = known.iter().filter(|known| known.lives).count();
        (live as u64, (known.len() - live) as u64)
    }

    /// Talks with every other process until `stop` turns true.
    pub async fn run(
        self: Arc<Self>,
        fleet: Arc<Fleet>,
        mirror: Arc<Mirror>,
        stop: watch::Receiver<bool>,
    ) {
        let talks =
            (0..self.others.len()).map(|number| self.talk(number, &fleet, &mirror, stop.clone()));
        futures_util::future::join_all(talks).await;
    }

    async fn talk(
        &self,
        number: usize,
        fleet: &Fleet,
        mirror: &Mirror,
        mut stop: watch::Receiver<bool>,
    ) {
        let other = &self.others[number];
        loop {
            let asked = Instant::now();
            self.tell(other, fleet, mirror).await;
            let silent = |known: &Known| known.heard.is_some_and(|at| at.elapsed() > GONE_AFTER);
            let lost = silent(&self.known()[number]);
            if lost {
                self.known()[number].heard = None;
                fleet.lose(number);
            }
            loop {
                tokio::select! {
                    _ = stop.wait_for(|stop| *stop) => return,
                    () = tokio::time::sleep(NEWS) => {}
                }
                let news = self.known()[number].lives && fleet.has_part(number);
                if news || asked.elapsed() >= BEAT {
                    break;
                }
            }
        }
    }

    /// Tells another process what it does not know, and takes note of whether it answers.
    async fn tell(&self, other: &Other, fleet: &Fleet, mirror: &Mirror) {
        let number = other.number;
        let differs = self.known()[number].differs.is_some_and(|at| at.elapsed() > GOALS_DIFFER);
        let Part { hosts, forgot, whole } = fleet.take_part(number);
        let goals = if differs { mirror.sealed() } else { vec![] };
        let (process, started) = (self.own.clone(), self.started);
        let word = ProcessWord { process, started, hosts, whole, forgot, goals };
        let answer: Result<ProcessReply, CallError> =
            other.client.post("/v1/region/process", &word, TIMEOUT).await;
        match answer {
            Ok(reply) => {
                let anew = self.answered(number, &reply, mirror.digest() == reply.goals);
                if anew {
                    fleet.tell_all(number);
                }
                self.set_lives(other, true);
            }
            Err(error) => {
                tracing::debug!(process = other.client.base(), %error, "process not told");
                fleet.untold(number, word.forgot);
                // Next time without goals: if it refused them, it lives all the same.
                self.known()[number].differs = None;
                let reached = self.known()[number].reached;
                if reached.is_none_or(|at| at.elapsed() > GONE_AFTER) {
                    self.set_lives(other, false);
                }
            }
        }
    }

    /// Takes note of an answer; says whether it is another start's than the one before.
    fn answered(&self, number: usize, reply: &ProcessReply, same_goals: bool) -> bool {
        let known = &mut self.known()[number];
        known.reached = Some(Instant::now());
        known.differs = match same_goals {
            true => None,
            false => known.differs.filter(|at| at.elapsed() <= GOALS_DIFFER).or(known.reached),
        };
        let before = known.answered.replace(reply.started);
        before.is_some_and(|before| before != reply.started)
    }

    /// Takes note of a word; says whether it is another start's than the one before.
    fn heard(&self, number: usize, started: u64) -> bool {
        let known = &mut self.known()[number];
        known.heard = Some(Instant::now());
        known.said.replace(started).is_some_and(|before| before != started)
    }
}

fn check(urls: &[String], own: &str) -> Result<(), InvalidProcesses> {
    let refuse = |why: String| {
        let give = format!("give 2 to {PROCESSES_MAX} as http://host:port, split by commas");
        Err(InvalidProcesses(format!("--processes: {why}; {give}, this process among them")))
    };
    let sound = |url: &&String| url.starts_with("http://") || url.starts_with("https://");
    if let Some(bad) = urls.iter().find(|url| !sound(url)) {
        return refuse(format!("{bad:?} is no address"));
    }
    if !(2..=PROCESSES_MAX).contains(&urls.len()) {
        return refuse(match urls.len() {
            0 => "it is empty".to_owned(),
            1 => "one address".to_owned(),
            many => format!("{many} addresses"),
        });
    }
    if let Some(twice) = urls.iter().enumerate().find(|(at, url)| urls[..*at].contains(url)) {
        return refuse(format!("{} is there twice", twice.1));
    }
    if urls.iter().any(|url| url == own) {
        return Ok(());
    }
    let (list, first) = (urls.join(","), &urls[0]);
    Err(InvalidProcesses(format!(
        "--url {own} is none of --processes {list}: say which of them this process is, letter \
         for letter, such as --url {first}; or add it to the list of every process"
    )))
}

struct Desk {
    processes: Arc<Processes>,
    fleet: Arc<Fleet>,
    mirror: Arc<Mirror>,
}

/// The route for other processes.
pub fn routes(processes: Arc<Processes>, fleet: Arc<Fleet>, mirror: Arc<Mirror>) -> Router {
    Router::new().route("/v1/region/process", post(hear)).with_state(Arc::new(Desk {
        processes,
        fleet,
        mirror,
    }))
}

async fn hear(
    State(desk): State<Arc<Desk>>,
    headers: HeaderMap,
    Json(word): Json<ProcessWord>,
) -> Result<Json<ProcessReply>, Problem> {
    let processes = &desk.processes;
    let header = headers.get(header::AUTHORIZATION).map_or(&[][..], |value| value.as_bytes());
    if !header.strip_prefix(b"Bearer ").is_some_and(|ticket| processes.knows_ticket(ticket)) {
        return Err(Problem::new(Code::Unauthenticated, "this is for processes of this region"));
    }
    let number = processes.others.iter().position(|other| other.client.base() == word.process);
    let number = number.ok_or_else(|| {
        Problem::new(Code::Forbidden, "no such process is in this one's --processes")
            .because(word.process.chars().take(200).collect::<String>())
    })?;
    if word.hosts.len() > SHARED_MAX || word.forgot.len() > SHARED_MAX {
        return Err(Problem::new(Code::TooLarge, "a word names at most 2,000 hosts"));
    }
    if processes.heard(number, word.started) {
        desk.fleet.lose(number);
    }
    let ProcessWord { hosts, whole, forgot, goals, .. } = word;
    desk.fleet.learn(number, Part { hosts, forgot, whole });
    for sealed in goals {
        desk.mirror.place(sealed).await.map_err(|error| {
            Problem::new(Code::Internal, "the goals were not saved").because(error)
        })?;
    }
    Ok(Json(ProcessReply { started: processes.started, goals: desk.mirror.digest() }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::digest::Digest;
    use crate::net::client::http_client;

    const LIST: &str = "http://a:1, http://b:1/,http://c:1";

    fn processes(own: &str) -> Processes {
        Processes::new(LIST, own, "dct_x", &http_client()).unwrap()
    }

    #[test]
    fn a_list_names_its_reader_and_each_process_once() {
        let http = http_client();
        assert!(Processes::new("", "", "t", &http).unwrap().own().is_empty());
        for (list, own) in [
            ("http://a:1", "http://a:1"),
            ("http://a:1,http://b:1", "http://c:1"),
            ("http://a:1,b:1", "http://a:1"),
            ("http://a:1,http://b:1,http://a:1/", "http://a:1"),
        ] {
            assert!(Processes::new(list, own, "t", &http).is_err(), "{list}");
        }
    }

    #[test]
    fn a_process_that_is_not_in_the_list_is_told_what_to_type() {
        let refused = Processes::new(LIST, "http://d:1", "t", &http_client()).map(drop);
        let said = refused.unwrap_err().to_string();
        for part in ["--url http://d:1", "--processes http://a:1,http://b:1", "--url http://a:1;"] {
            assert!(said.contains(part), "{said}");
        }
    }

    #[test]
    fn each_artifact_belongs_to_one_process_that_lives() {
        let all = ["http://a:1", "http://b:1", "http://c:1"].map(processes);
        let artifact = Digest::of(b"x");
        assert!(matches!(all[0].owner(&artifact), Owner::Unknown));
        assert!(all[0].live().is_empty());
        let see = |lives: &dyn Fn(&str) -> bool| {
            for process in &all {
                for other in &process.others {
                    process.set_lives(other, lives(other.client.base()));
                }
            }
        };
        see(&|_| true);
        let owners: Vec<usize> = (0..3).filter(|n| all[*n].owns(&artifact)).collect();
        assert_eq!(owners.len(), 1);
        let first = all[owners[0]].own().to_owned();
        see(&|url| url != first);
        let left = (0..3).filter(|n| all[*n].own() != first && all[*n].owns(&artifact));
        assert_eq!(left.count(), 1);
    }

    #[test]
    fn only_processes_with_the_regions_token_know_the_ticket() {
        let (one, two) = (processes("http://a:1"), processes("http://b:1"));
        assert!(one.knows_ticket(two.ticket().as_bytes()));
        let stranger = Processes::new(LIST, "http://b:1", "dct_y", &http_client()).unwrap();
        assert!(!one.knows_ticket(stranger.ticket().as_bytes()));
        let alone = Processes::new("", "", "dct_x", &http_client()).unwrap();
        assert!(!alone.knows_ticket(alone.ticket().as_bytes()));
    }
}
