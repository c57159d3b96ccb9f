//! The hosts of a region: what their rules ask for, and what comes of it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::agenda::{Agenda, Nanos};
use super::links::{FlowNo, Links, Progress};
use super::store::Store;
use super::tracking::Tracking;
use super::{Outcome, Setting};
use crate::model::pieces::PieceSet;
use crate::model::rng::Rng;
use crate::rules::swarm::peers::has;
use crate::rules::swarm::uploads::{Asker, Slots};
use crate::rules::swarm::{
    ALONE, Action, ENDING_SHARE, Event, Haves, Micros, PeerNo, Source, Start, Swarm,
};

/// A request without a byte for this long counts as stalled, as in the agent.
pub(super) const STALL: Duration = Duration::from_secs(2);
/// And is given up after this.
pub(super) const GIVE_UP: Duration = Duration::from_secs(10);
/// A host that is not there is noticed after this: the agent's connect timeout.
pub(super) const CONNECT: Duration = Duration::from_secs(1);

/// What is due at some time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Due {
    Start(u32),
    Wake(u32),
    /// A request for a piece reaches its sender.
    Request {
        from: u32,
        to: u32,
        piece: u32,
    },
    /// A flow may be whole.
    Flow(FlowNo, u32),
    /// A host hears of something rare.
    Tell(u32, u32),
    /// A host's call reaches the tracker.
    Call(u32),
    /// The store hears a host's wish for a piece.
    Read(u32, u32),
    TrackerTick,
    Die(u32),
    DiskFull(u32),
    Parted,
    Healed,
}

/// One host.
pub(super) struct Host {
    pub(super) core: Swarm,
    pub(super) alive: bool,
    /// When it is told to start, if later than the others.
    pub(super) starts_at: Option<Nanos>,
    pub(super) started: Option<Nanos>,
    pub(super) done: Option<Nanos>,
    pub(super) poisoned: bool,
    wake: Nanos,
    uploads: u32,
    slots: Slots,
    pub(super) calls: u32,
    /// Hosts that follow what it has.
    pub(super) followers: Vec<u32>,
    pub(super) neighbours: Vec<u32>,
}

/// What each host is known to have, by all who look.
pub(super) struct Known {
    words: Vec<u64>,
    per_host: usize,
}

impl Haves for Known {
    fn words(&self, peer: PeerNo) -> &[u64] {
        let at = peer as usize * self.per_host;
        &self.words[at..at + self.per_host]
    }
}

impl Known {
    fn new(hosts: u32, pieces: usize) -> Self {
        let per_host = pieces.div_ceil(64);
        Self { words: vec![0; hosts as usize * per_host], per_host }
    }

    pub(super) fn set(&mut self, host: u32, piece: u32) {
        self.words[host as usize * self.per_host + piece as usize / 64] |= 1 << (piece % 64);
    }
}

/// A region under way.
pub(super) struct Region<'a> {
    pub(super) setting: &'a Setting,
    pub(super) now: Nanos,
    pub(super) agenda: Agenda<Due>,
    pub(super) links: Links,
    pub(super) hosts: Vec<Host>,
    /// Which hosts want news, one byte each: news are many, and most of no interest.
    hungry: Vec<bool>,
    /// What hosts have, and what their neighbours know of it.
    pub(super) have: Known,
    pub(super) known: Known,
    /// News on its way: always equally late, so always in order.
    news: VecDeque<(Nanos, u32, u32)>,
    pub(super) store: Store,
    pub(super) tracking: Tracking,
    pub(super) rare: Vec<Event>,
    pub(super) spare: Vec<u32>,
    pub(super) rng: Rng,
    actions: Vec<Action>,
    pub(super) outcome: Outcome,
    pub(super) open: u32,
}

pub(super) fn nanos(span: Duration) -> Nanos {
    span.as_nanos() as Nanos
}

/// How long before its end a transfer is said to be ending: as the agent, a round trip,
/// unless so little comes in it that it does not matter.
fn ahead(setting: &Setting) -> Nanos {
    let largest = setting.wire.iter().copied().max().map_or(0.0, f64::from);
    let comes = setting.round_trip.as_secs_f64() * setting.up.min(setting.down);
    let matters = comes * f64::from(ENDING_SHARE) >= largest;
    if matters { nanos(setting.round_trip) } else { 0 }
}

impl<'a> Region<'a> {
    pub(super) fn new(setting: &'a Setting) -> Self {
        let mut rng = Rng::new(setting.seed);
        let mut links = Links::default();
        let hosts = (0..setting.hosts).map(|_| {
            links.add(setting.up, setting.down);
            Host::new(setting, rng.next_u64())
        });
        let hosts: Vec<Host> = hosts.collect();
        links.tell_ahead(ahead(setting));
        let store = Store::new(links.add(setting.store, 1.0), &setting.wire);
        let mut region = Self {
            setting,
            now: 0,
            agenda: Agenda::default(),
            links,
            hosts,
            hungry: vec![true; setting.hosts as usize],
            have: Known::new(setting.hosts, setting.wire.len()),
            known: Known::new(setting.hosts, setting.wire.len()),
            news: VecDeque::new(),
            store,
            tracking: Tracking::new(setting, rng.next_u64()),
            rare: vec![],
            spare: vec![],
            rng,
            actions: vec![],
            outcome: Outcome::default(),
            open: setting.hosts,
        };
        region.plan_faults();
        region.plan_starts();
        region.later(Duration::from_secs(1), Due::TrackerTick);
        region
    }

    fn plan_starts(&mut self) {
        let spread = nanos(self.setting.spread);
        for host in 0..self.setting.hosts {
            let at = self.rng.below(spread + 1);
            let at = self.hosts[host as usize].starts_at.unwrap_or(at);
            self.agenda.push(at, Due::Start(host));
        }
    }

    /// Runs until every live host is done, or the limit.
    pub(super) fn run(mut self, stop: &AtomicBool) -> Outcome {
        let limit = nanos(self.setting.limit);
        while self.open > 0 {
            let next = self.agenda.next_at().unwrap_or(Nanos::MAX);
            if let Some(&(at, host, piece)) = self.news.front().filter(|news| news.0 <= next) {
                self.news.pop_front();
                self.now = at;
                self.spread_news(host, piece);
                continue;
            }
            let Some((at, due)) = self.agenda.pop().filter(|(at, _)| *at <= limit) else { break };
            self.now = at;
            self.outcome.events += 1;
            if self.outcome.events.is_multiple_of(1 << 16) && stop.load(Ordering::Relaxed) {
                break;
            }
            self.happen(due);
        }
        self.close()
    }

    fn close(mut self) -> Outcome {
        for host in &self.hosts {
            if let (Some(started), Some(done)) = (host.started, host.done) {
                self.outcome.took.push(Duration::from_nanos(done - started));
                self.outcome.at.push(Duration::from_nanos(done));
            }
            self.outcome.calls.1 = self.outcome.calls.1.max(host.calls);
        }
        self.outcome.unfinished = self.open;
        self.outcome
    }

    fn happen(&mut self, due: Due) {
        match due {
            Due::Start(host) => self.begin(host),
            Due::Wake(host) => {
                if self.hosts[host as usize].wake == self.now {
                    self.hosts[host as usize].wake = Nanos::MAX;
                    self.tell(host, Event::Tick);
                }
            }
            Due::Request { from, to, piece } => self.requested(from, to, piece),
            Due::Flow(flow, turn) => self.flowed(flow, turn),
            Due::Tell(host, rare) => {
                self.spare.push(rare);
                let event = self.rare[rare as usize].clone();
                self.tell(host, event);
            }
            Due::Call(host) => self.call(host),
            Due::Read(host, lease) => self.read(host, lease),
            Due::TrackerTick => self.tracker_tick(),
            Due::Die(host) => self.die(host),
            Due::DiskFull(host) => self.disk_full(host),
            Due::Parted => self.part(),
            Due::Healed => self.healed(),
        }
    }

    pub(super) fn later(&mut self, after: Duration, due: Due) {
        self.agenda.push(self.now + nanos(after), due);
    }

    /// Tells a host something after a while.
    pub(super) fn tell_later(&mut self, after: Duration, host: u32, event: Event) {
        let rare = match self.spare.pop() {
            Some(rare) => rare,
            None => {
                self.rare.push(Event::Tick);
                self.rare.len() as u32 - 1
            }
        };
        self.rare[rare as usize] = event;
        self.later(after, Due::Tell(host, rare));
    }

    fn begin(&mut self, host: u32) {
        if self.hosts[host as usize].alive {
            self.hosts[host as usize].started = Some(self.now);
            self.tell(host, Event::Tick);
        }
    }

    pub(super) fn micros(&self) -> Micros {
        self.now / 1000
    }

    /// Gives a host's rules an event and does what they want.
    pub(super) fn tell(&mut self, host: u32, event: Event) {
        let now = self.micros();
        let at = &mut self.hosts[host as usize];
        if !at.alive || at.started.is_none() {
            return;
        }
        let mut actions = std::mem::take(&mut self.actions);
        at.core.handle(now, event, &self.known, &mut actions);
        for action in actions.drain(..) {
            self.act(host, action);
        }
        self.actions = actions;
        let at = &mut self.hosts[host as usize];
        self.hungry[host as usize] = at.core.hungry();
        let wake = at.core.wake_at(now);
        if wake != Micros::MAX {
            let wake = (wake * 1000).max(self.now + 1000);
            if wake < at.wake {
                at.wake = wake;
                self.agenda.push(wake, Due::Wake(host));
            }
        }
    }

    fn act(&mut self, host: u32, action: Action) {
        match action {
            Action::Request(peer, piece) => {
                let due = Due::Request { from: peer, to: host, piece };
                self.later(self.setting.round_trip, due);
            }
            Action::Cancel(peer, piece) => self.cancel(host, peer, piece),
            Action::ReadStore(leave) => self.wish(host, leave),
            Action::ReadAsCustodian(piece) => self.wish_as_custodian(host, piece),
            Action::Call { lease } => self.place_call(host, lease),
            Action::Ban(peer, _) => self.report_bad(host, peer),
            Action::Done => {
                self.hosts[host as usize].done = Some(self.now);
                self.open -= 1;
                self.place_call(host, false);
            }
        }
    }

    /// A request reaches its sender.
    fn requested(&mut self, from: u32, to: u32, piece: u32) {
        if !self.hosts[to as usize].core.expects(from, piece) {
            return;
        }
        let sender = &self.hosts[from as usize];
        if !sender.alive || self.parted(from, to) {
            self.tell_later(CONNECT, to, Event::PeerGone(from));
            return self.tell_later(CONNECT, to, Event::Timeout(from, piece));
        }
        if !has(self.have.words(from), piece) {
            return self.tell(to, Event::Missing(from, piece));
        }
        let core = &self.hosts[to as usize].core;
        let asker = Asker { window: core.window(), lacks: Some(core.left()) };
        let sender = &mut self.hosts[from as usize];
        if sender.uploads < sender.slots.asked(asker) {
            return self.upload(from, to, piece);
        }
        // As the agent: a quarter of the time that each of its four uploads takes.
        let time = f64::from(self.setting.wire[piece as usize]) / self.setting.up;
        self.tell(to, Event::Busy(from, piece, Duration::from_secs_f64(time)));
    }

    fn upload(&mut self, from: u32, to: u32, piece: u32) {
        self.hosts[from as usize].uploads += 1;
        let bytes = f64::from(self.setting.wire[piece as usize]) * self.setting.overhead;
        self.links.start(self.now, (from, to), piece, bytes);
        self.schedule_flows();
    }

    pub(super) fn upload_ended(&mut self, from: u32) {
        self.hosts[from as usize].uploads -= 1;
    }

    pub(super) fn schedule_flows(&mut self) {
        let agenda = &mut self.agenda;
        self.links.take_sooner(|flow, turn, at| agenda.push(at, Due::Flow(flow, turn)));
    }

    fn flowed(&mut self, no: FlowNo, turn: u32) {
        if self.links.flow(no).turn != turn {
            return;
        }
        let progress = self.links.progress(self.now, no);
        let flow = *self.links.flow(no);
        if let Progress::Until(at) | Progress::Ending(at) = progress {
            self.agenda.push(at.max(self.now + 1), Due::Flow(no, turn));
            if matches!(progress, Progress::Ending(_)) && flow.from != self.store.end {
                self.tell(flow.to, Event::Ending(flow.from, flow.piece));
            }
            return;
        }
        self.links.stop(self.now, no);
        self.schedule_flows();
        if flow.from == self.store.end {
            return self.read_ended(no, flow.to, flow.piece, true);
        }
        self.upload_ended(flow.from);
        self.count_moved(flow.from, flow.to, f64::from(self.setting.wire[flow.piece as usize]));
        if self.hosts[flow.from as usize].poisoned {
            self.outcome.bad.0 += 1;
            return self.tell(flow.to, Event::PieceBad(flow.piece, Source::Peer(flow.from)));
        }
        self.got(flow.to, flow.piece, Source::Peer(flow.from));
    }

    fn count_moved(&mut self, from: u32, to: u32, bytes: f64) {
        self.outcome.moved.0 += bytes;
        let rack = |host: u32| host.checked_div(self.setting.rack);
        if rack(from) != rack(to) {
            self.outcome.moved.1 += bytes;
        }
    }

    /// A piece is verified and written.
    pub(super) fn got(&mut self, host: u32, piece: u32, source: Source) {
        self.outcome.pieces += 1;
        if has(self.have.words(host), piece) {
            self.outcome.moved.2 += f64::from(self.setting.wire[piece as usize]);
        } else {
            self.have.set(host, piece);
            self.news.push_back((self.now + nanos(self.setting.news), host, piece));
        }
        self.tell(host, Event::PieceOk(piece, source));
    }

    fn cancel(&mut self, host: u32, peer: PeerNo, piece: u32) {
        let same = |no: &FlowNo| {
            let flow = self.links.flow(*no);
            flow.from == peer && flow.piece == piece
        };
        let Some(no) = self.links.to(host).iter().copied().find(same) else { return };
        let bytes = self.links.stop(self.now, no) / self.setting.overhead;
        self.schedule_flows();
        self.count_moved(peer, host, bytes);
        self.outcome.moved.2 += bytes;
        self.upload_ended(peer);
    }

    /// The neighbours that look for work hear of a host's new piece.
    fn spread_news(&mut self, host: u32, piece: u32) {
        self.known.set(host, piece);
        let followers = std::mem::take(&mut self.hosts[host as usize].followers);
        for &follower in &followers {
            let wanted = self.hungry[follower as usize] && !has(self.have.words(follower), piece);
            if wanted && !self.parted(host, follower) {
                self.tell(follower, Event::Have(host));
            }
        }
        // A neighbour list may have come in between.
        let newer = std::mem::replace(&mut self.hosts[host as usize].followers, followers);
        self.hosts[host as usize].followers.extend(newer);
    }
}

impl Host {
    fn new(setting: &Setting, seed: u64) -> Self {
        let start = Start {
            wire: setting.wire.clone(),
            done: PieceSet::new(),
            window_max: 40 << 20,
            pace: setting.pace,
            identity: seed.rotate_left(17),
            alone: ALONE,
            seed,
        };
        Self {
            core: Swarm::new(0, start),
            alive: true,
            starts_at: None,
            started: None,
            done: None,
            poisoned: false,
            wake: Nanos::MAX,
            uploads: 0,
            slots: Slots::default(),
            calls: 0,
            followers: vec![],
            neighbours: vec![],
        }
    }
}
