//! Store leases: who may read which pieces from the regional store, within a
//! hard egress budget.
//!
//! A piece can be leased only while nobody alive holds it and no other lease
//! covers it, so a swarm reads the store about once. The budget is a bucket of
//! twice the artifact's wire size that refills slowly: a region whose holders
//! all died recovers at a bounded rate, and a stampede can never happen
//! [distribution 0.2, 6.3]. Knows nothing of neighbours.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::time::Duration;

use super::{HostNo, Settings};
use crate::model::pieces::PieceSet;
use crate::model::rng::Rng;
use crate::model::time::UnixMillis;

/// Least refill of the budget, bytes a second: a small artifact's lone late
/// hosts must not wait for minutes.
const REFILL_BYTES_MIN: u64 = 1 << 20;
/// A budget of once the wire size comes back in this time, seconds: a holder
/// serves 10 minutes after it finished, so a later host may find nobody.
const REFILL_S: u64 = 600;
/// How long a piece that the store served wrong is left for the region to heal.
const HEAL_PAUSE: Duration = Duration::from_secs(2);

/// Leave to read `first .. first + count` once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// Its number, not to be guessed from others.
    pub id: u64,
    /// First piece.
    pub first: u32,
    /// How many.
    pub count: u32,
    /// Time to live without a beat that holds it.
    pub ttl: Duration,
}

/// Who asks for a lease.
#[derive(Debug, Clone, Copy)]
pub struct Asker {
    /// Its number.
    pub host: HostNo,
    /// Whether it had none for long, and may have what others hold.
    pub starved: bool,
    /// Leases that it may hold unread.
    pub most: usize,
    /// Whether it had its share: it gets one only if the store would idle else.
    pub sated: bool,
}

/// Why a read from the store is not admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReadRefused {
    /// The lease lapsed, was another host's, or never was.
    #[error("no live lease")]
    NoLease,
    /// The range is not of the leased pieces.
    #[error("the range is not of the leased pieces")]
    Range,
    /// The artifact's egress budget is spent for now.
    #[error("the artifact's egress budget is spent")]
    OverBudget,
}

#[derive(Debug)]
struct Live {
    host: HostNo,
    first: u32,
    count: u32,
    granted: UnixMillis,
    until: UnixMillis,
    /// Bytes that were paid for and not read.
    unread: u64,
    /// Not read to its end yet.
    open: bool,
}

/// A budget of bytes that refills at a fixed rate, exactly.
#[derive(Debug)]
struct Bucket {
    level: u64,
    capacity: u64,
    rate: u64,
    at: UnixMillis,
}

impl Bucket {
    fn refill(&mut self, now: UnixMillis) {
        let elapsed = now.since(self.at).as_millis() as u64;
        let gained = elapsed.saturating_mul(self.rate) / 1000;
        if gained > 0 {
            self.level = self.capacity.min(self.level.saturating_add(gained));
            self.at = now;
        }
    }

    fn take(&mut self, bytes: u64) -> bool {
        let enough = self.level >= bytes;
        if enough {
            self.level -= bytes;
        }
        enough
    }

    fn wait(&self, bytes: u64) -> Duration {
        Duration::from_millis(bytes.saturating_sub(self.level).saturating_mul(1000) / self.rate + 1)
    }
}

/// The leases of one artifact in one region.
#[derive(Debug)]
pub struct Leases {
    settings: Settings,
    /// Where each piece starts in the pack, and the pack's end.
    offsets: Vec<u64>,
    holders: Vec<u32>,
    lease_of: Vec<Option<u64>>,
    paused: BTreeMap<u32, UnixMillis>,
    live: BTreeMap<u64, Live>,
    /// Groups of neighbouring pieces that may have something to lease.
    open: VecDeque<u32>,
    bucket: Bucket,
    /// Leases that were not read yet.
    unread: usize,
    granted: u64,
    expected: Duration,
    /// Between two beats of a member: a lease lives for two at least.
    beat: Duration,
    egress: u64,
}

impl Leases {
    /// Nothing leased yet; `offsets` has one more element than there are pieces.
    #[must_use]
    pub fn new(settings: Settings, offsets: Vec<u64>, now: UnixMillis, rng: &mut Rng) -> Self {
        let pieces = offsets.len().saturating_sub(1);
        let size = offsets.last().copied().unwrap_or(0);
        let mut open: Vec<u32> = (0..(pieces as u32).div_ceil(settings.lease_pieces)).collect();
        rng.shuffle(&mut open);
        let capacity = size.saturating_mul(settings.budget_permille) / 1000;
        let rate = REFILL_BYTES_MIN.max(size / REFILL_S);
        Self {
            settings,
            offsets,
            holders: vec![0; pieces],
            lease_of: vec![None; pieces],
            paused: BTreeMap::new(),
            live: BTreeMap::new(),
            open: open.into(),
            bucket: Bucket { level: capacity, capacity, rate, at: now },
            unread: 0,
            granted: 0,
            expected: Duration::ZERO,
            beat: Duration::ZERO,
            egress: 0,
        }
    }

    /// How many pieces there are.
    #[must_use]
    pub fn pieces(&self) -> u32 {
        self.holders.len() as u32
    }

    /// Bytes that were admitted to be read from the store, ever.
    #[must_use]
    pub fn egress(&self) -> u64 {
        self.egress
    }

    /// Members are heard of this often.
    pub fn set_beat(&mut self, beat: Duration) {
        self.beat = beat;
    }

    /// Leases that were granted, ever.
    #[must_use]
    pub fn granted(&self) -> u64 {
        self.granted
    }

    /// Leases that a host holds and has not read.
    #[must_use]
    pub fn unread_by(&self, host: HostNo) -> usize {
        self.live.values().filter(|live| live.host == host && live.open).count()
    }

    /// Grants a lease of pieces outside `except`; `Err` with how long to wait, or
    /// with `None`: until one ended, or the next beat. A host that is starved may
    /// have what others hold.
    ///
    /// # Errors
    /// See above.
    pub fn grant(
        &mut self,
        now: UnixMillis,
        asker: Asker,
        except: &PieceSet,
        rng: &mut Rng,
    ) -> Result<Lease, Option<Duration>> {
        let Asker { host, starved, most, sated } = asker;
        self.lapse(now);
        let busy = self.unread >= self.settings.leases_in_flight
            || sated && self.unread >= self.settings.reads_at_once + 2;
        if (self.open.is_empty() && !starved) || busy || self.unread_by(host) >= most {
            return Err(None);
        }
        for _ in 0..self.open.len() {
            let Some(group) = self.open.pop_front() else { break };
            if !self.group(group).any(|piece| self.leasable(piece)) {
                continue;
            }
            let Some(run) = self.run(now, group, except, false) else {
                self.open.push_back(group);
                continue;
            };
            self.open.push_front(group);
            return self.lease(now, host, run, rng);
        }
        let groups = self.pieces().div_ceil(self.settings.lease_pieces);
        let start = rng.below(u64::from(groups)) as u32;
        let mut all = (0..groups).map(|at| (start + at) % groups.max(1));
        let held = starved.then(|| all.find_map(|group| self.run(now, group, except, true)));
        if let Some(Some(run)) = held {
            return self.lease(now, host, run, rng);
        }
        Err(None)
    }

    /// Admits a read of a piece without a lease: the caller is its custodian, as it
    /// says; the budget bounds it all the same.
    ///
    /// # Errors
    /// See [`ReadRefused`].
    pub fn read_as_custodian(
        &mut self,
        now: UnixMillis,
        range: &Range<u64>,
    ) -> Result<(), ReadRefused> {
        let piece = self.offsets.partition_point(|start| *start <= range.start);
        let end = self.offsets.get(piece).copied().unwrap_or(0);
        if range.is_empty() || range.end > end {
            return Err(ReadRefused::Range);
        }
        let bytes = range.end - range.start;
        self.bucket.refill(now);
        if !self.bucket.take(bytes) {
            return Err(ReadRefused::OverBudget);
        }
        self.egress += bytes;
        Ok(())
    }

    /// Admits one read of `range` of the pack under lease `id`.
    ///
    /// # Errors
    /// See [`ReadRefused`].
    pub fn read(
        &mut self,
        now: UnixMillis,
        id: u64,
        host: Option<HostNo>,
        range: &Range<u64>,
    ) -> Result<(), ReadRefused> {
        self.lapse(now);
        let live = self.live.get_mut(&id).ok_or(ReadRefused::NoLease)?;
        if host.is_some_and(|host| host != live.host) {
            return Err(ReadRefused::NoLease);
        }
        let leased =
            self.offsets[live.first as usize]..self.offsets[(live.first + live.count) as usize];
        if range.is_empty() || range.start < leased.start || range.end > leased.end {
            return Err(ReadRefused::Range);
        }
        let bytes = range.end - range.start;
        self.bucket.refill(now);
        let paid = bytes.min(live.unread);
        if !self.bucket.take(bytes - paid) {
            return Err(ReadRefused::OverBudget);
        }
        live.unread -= paid;
        self.egress += bytes;
        Ok(())
    }

    /// A read under a lease ended, whatever came of it: the store is free for others.
    pub fn read_ended(&mut self, id: u64) {
        if let Some(live) = self.live.get_mut(&id) {
            self.unread -= usize::from(std::mem::replace(&mut live.open, false));
        }
    }

    /// Prolongs a lease whose holder says that it makes progress.
    pub fn hold(&mut self, now: UnixMillis, host: HostNo, id: u64) {
        let ttl = self.ttl();
        if let Some(live) = self.live.get_mut(&id).filter(|live| live.host == host) {
            live.until = now + ttl;
        }
    }

    /// Ends a lease; what was not read is paid back.
    pub fn give_back(&mut self, host: HostNo, id: u64) {
        if self.live.get(&id).is_some_and(|live| live.host == host) {
            self.close(id);
        }
    }

    /// Ends every lease of a host.
    pub fn give_back_all(&mut self, host: HostNo) {
        let own = self.live.iter().filter(|(_, live)| live.host == host).map(|(id, _)| *id);
        for id in own.collect::<Vec<_>>() {
            self.close(id);
        }
    }

    /// A live host holds the pieces `gained` from now on, `have` in all.
    pub fn held(&mut self, now: UnixMillis, host: HostNo, gained: &PieceSet, have: &PieceSet) {
        for piece in gained.iter() {
            if let Some(holders) = self.holders.get_mut(piece as usize) {
                *holders += 1;
            }
        }
        let fulfilled = |live: &Live| {
            live.host == host
                && (live.first..live.first + live.count).all(|piece| have.contains(piece))
        };
        let ended: Vec<u64> =
            self.live.iter().filter(|(_, live)| fulfilled(live)).map(|(id, _)| *id).collect();
        for id in ended {
            let took = self.live.get(&id).map_or(Duration::ZERO, |live| now.since(live.granted));
            self.expected = (self.expected * 3 + took) / 4;
            self.close(id);
        }
    }

    /// A host that held these pieces is gone or has lost them.
    pub fn lost(&mut self, pieces: &PieceSet) {
        for piece in pieces.iter() {
            let Some(holders) = self.holders.get_mut(piece as usize) else { continue };
            *holders = holders.saturating_sub(1);
            if *holders == 0 {
                self.reopen(piece);
            }
        }
    }

    /// The store served a piece wrong: nobody leases it until the region had
    /// time to heal it.
    pub fn pause(&mut self, now: UnixMillis, piece: u32) {
        if piece < self.pieces() {
            self.paused.insert(piece, now + HEAL_PAUSE);
            self.lease_of[piece as usize] = None;
            self.reopen(piece);
        }
    }

    /// Drops leases that ran out.
    pub fn lapse(&mut self, now: UnixMillis) {
        let over = self.live.iter().filter(|(_, live)| live.until <= now).map(|(id, _)| *id);
        for id in over.collect::<Vec<_>>() {
            self.close(id);
        }
        self.paused.retain(|_, until| *until > now);
    }

    fn ttl(&self) -> Duration {
        self.settings.lease_ttl.max(self.expected * 4).max(self.beat * 2)
    }

    fn group(&self, group: u32) -> Range<u32> {
        let first = group * self.settings.lease_pieces;
        first..(first + self.settings.lease_pieces).min(self.pieces())
    }

    fn leasable(&self, piece: u32) -> bool {
        self.holders[piece as usize] == 0 && self.lease_of[piece as usize].is_none()
    }

    /// The first run of a group that this host may lease; with `held`, also
    /// pieces that others hold.
    fn run(
        &self,
        now: UnixMillis,
        group: u32,
        except: &PieceSet,
        held: bool,
    ) -> Option<Range<u32>> {
        let suits = |piece: &u32| {
            let paused = self.paused.get(piece).is_some_and(|until| *until > now);
            let free = self.leasable(*piece) || held && self.lease_of[*piece as usize].is_none();
            free && !except.contains(*piece) && !paused
        };
        let mut pieces = self.group(group).skip_while(|piece| !suits(piece));
        let first = pieces.next()?;
        let end = pieces.take_while(suits).last().map_or(first, |last| last) + 1;
        Some(first..end)
    }

    fn lease(
        &mut self,
        now: UnixMillis,
        host: HostNo,
        run: Range<u32>,
        rng: &mut Rng,
    ) -> Result<Lease, Option<Duration>> {
        let bytes = self.offsets[run.end as usize] - self.offsets[run.start as usize];
        self.bucket.refill(now);
        if !self.bucket.take(bytes) {
            let wait = self.bucket.wait(bytes);
            return Err(Some(wait.clamp(self.settings.retry_busy, REFUSED_MAX)));
        }
        let mut id = rng.next_u64();
        while self.live.contains_key(&id) {
            id = rng.next_u64();
        }
        let (first, count, ttl) = (run.start, run.end - run.start, self.ttl());
        let (granted, until) = (now, now + ttl);
        let live = Live { host, first, count, granted, until, unread: bytes, open: true };
        self.live.insert(id, live);
        self.unread += 1;
        self.granted += 1;
        run.for_each(|piece| self.lease_of[piece as usize] = Some(id));
        Ok(Lease { id, first, count, ttl })
    }

    fn close(&mut self, id: u64) {
        let Some(live) = self.live.remove(&id) else { return };
        self.unread -= usize::from(live.open);
        self.bucket.level = self.bucket.capacity.min(self.bucket.level + live.unread);
        for piece in live.first..live.first + live.count {
            if self.lease_of[piece as usize] == Some(id) {
                self.lease_of[piece as usize] = None;
                self.reopen(piece);
            }
        }
    }

    fn reopen(&mut self, piece: u32) {
        let group = piece / self.settings.lease_pieces;
        if self.leasable(piece) && !self.open.contains(&group) {
            self.open.push_back(group);
        }
    }
}

/// Longest wait that a refusal over budget names.
const REFUSED_MAX: Duration = Duration::from_secs(10);
