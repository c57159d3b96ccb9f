//! What goes wrong in a region, and when: planned from the seed before it starts.

use std::time::Duration;

use super::agenda::Nanos;
use super::region::{CONNECT, Due, GIVE_UP, Region, STALL, nanos};
use crate::rules::swarm::Event;

/// What is left of the uplink of a slow host.
const SLOW: f64 = 0.1;
/// A slow disk's part of the link's rate.
const SLOW_DISK: f64 = 0.25;
/// Hosts reach each other again within this time after a partition: the agent's
/// longest wait before it asks an unreachable peer again.
const HEAL: Duration = Duration::from_secs(8);

impl Region<'_> {
    pub(super) fn plan_faults(&mut self) {
        let faults = self.setting.faults;
        let time = nanos(self.setting.bound());
        for host in 0..self.setting.hosts {
            if self.draws(faults.late) {
                let at = time / 2 + self.rng.below(nanos(self.setting.spread) + 1);
                self.hosts[host as usize].starts_at = Some(at);
            }
            if self.draws(faults.churn) {
                let at = self.rng.below(time);
                self.agenda.push(at, Due::Die(host));
            }
            if self.draws(faults.disk_full) {
                let at = self.rng.below(time);
                self.agenda.push(at, Due::DiskFull(host));
            }
            self.hosts[host as usize].poisoned = self.draws(faults.poison);
            let slow = if self.draws(faults.slow) { SLOW } else { 1.0 };
            let disk = if self.draws(faults.slow_disk) { SLOW_DISK } else { 1.0 };
            self.links.limit(host, slow.min(disk), disk);
        }
        if let Some(span) = faults.partition {
            self.agenda.push(nanos(span.from + span.length), Due::Healed);
            self.agenda.push(nanos(span.from), Due::Parted);
        }
    }

    fn draws(&mut self, share: f64) -> bool {
        (self.rng.below(1 << 32) as f64) < share * (1u64 << 32) as f64
    }

    /// A host goes without a word: its peers wait for bytes that do not come.
    pub(super) fn die(&mut self, host: u32) {
        self.lose(host, STALL, GIVE_UP);
    }

    /// A host gives up, and closes its connections.
    pub(super) fn disk_full(&mut self, host: u32) {
        self.lose(host, Duration::ZERO, Duration::ZERO);
    }

    fn lose(&mut self, host: u32, stall: Duration, give_up: Duration) {
        let at = &mut self.hosts[host as usize];
        if !at.alive || at.done.is_some() {
            return;
        }
        at.alive = false;
        self.open -= 1;
        self.outcome.failed += 1;
        for no in self.links.from(host).to_vec() {
            self.cut(no, (stall, give_up));
        }
        for no in self.links.to(host).to_vec() {
            let flow = *self.links.flow(no);
            self.links.stop(self.now, no);
            self.schedule_flows();
            if flow.from == self.store.end {
                self.read_ended(no, host, flow.piece, false);
            } else {
                self.upload_ended(flow.from);
            }
        }
    }

    /// A flow between hosts ends half-way, and its receiver finds out in time.
    fn cut(&mut self, no: u32, times: (Duration, Duration)) {
        let flow = *self.links.flow(no);
        self.links.stop(self.now, no);
        self.schedule_flows();
        self.forsake(flow.from, flow.to, flow.piece, times);
        self.upload_ended(flow.from);
    }

    fn forsake(&mut self, from: u32, to: u32, piece: u32, (stall, give_up): (Duration, Duration)) {
        if !stall.is_zero() {
            self.tell_later(stall, to, Event::Stalled(piece));
        }
        self.tell_later(give_up, to, Event::Timeout(from, piece));
        self.tell_later(give_up + CONNECT, to, Event::PeerGone(from));
    }

    /// Whether two hosts can't reach each other now.
    pub(super) fn parted(&self, a: u32, b: u32) -> bool {
        let now = Duration::from_nanos(self.now);
        let Some(span) = self.setting.faults.partition else { return false };
        span.contains(now) && (self.place(a).zone == 1) != (self.place(b).zone == 1)
    }

    /// Zone 1 is cut off: so are the flows over its edge.
    pub(super) fn part(&mut self) {
        for host in 0..self.setting.hosts {
            for no in self.links.from(host).to_vec() {
                if self.parted(host, self.links.flow(no).to) {
                    self.cut(no, (STALL, GIVE_UP));
                }
            }
        }
    }

    /// It is reached again: watchers find out one after the other.
    pub(super) fn healed(&mut self) {
        for host in 0..self.setting.hosts {
            for peer in self.hosts[host as usize].neighbours.clone() {
                if (self.place(host).zone == 1) != (self.place(peer).zone == 1) {
                    let after = Duration::from_nanos(self.rng.below(nanos(HEAL)) as Nanos);
                    self.tell_later(after, host, Event::Have(peer));
                }
            }
        }
    }
}
