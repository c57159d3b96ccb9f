//! Reports upward: at once on a change, at most twice a second, else each 5 s.
//!
//! Rows and replicas are sent again until a report with them was answered. After
//! a start no counts are sent for one report interval: a table of old reports
//! must not pass for news. Also keeps the coarse copy of the host table on disk.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};

use crate::model::id::HostId;
use crate::net::backoff::Backoff;
use crate::net::client::CallError;
use crate::region::coordinators::Coordinators;
use crate::region::db::RegionDb;
use crate::region::fleet::Fleet;
use crate::region::goal_stores::GoalStores;
use crate::region::mirror::Mirror;
use crate::region::processes::Processes;
use crate::region::replicate::Replicator;
use crate::wire::v1::region::{RegionReport, RegionReportReply};

/// Shortest time between two reports.
const PACE: Duration = Duration::from_millis(500);
/// Longest time between two reports.
const PERIOD: Duration = Duration::from_secs(5);
/// What a call may take.
const TIMEOUT: Duration = Duration::from_secs(20);
/// Waits between failed reports, first and longest.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));
/// How often the host table is swept and its copy on disk is brought up to date.
const SWEEP: Duration = Duration::from_millis(500);
const SAVE: Duration = Duration::from_secs(10);

/// What a report is made of.
pub struct Reporter {
    /// Where it goes.
    pub coordinators: Arc<Coordinators>,
    /// Goals to count under.
    pub mirror: Arc<Mirror>,
    /// Hosts.
    pub fleet: Arc<Fleet>,
    /// Replicas.
    pub replicator: Arc<Replicator>,
    /// The processes of this region: one of them tells of its hosts.
    pub processes: Arc<Processes>,
    /// The etcds that goals travel by.
    pub goal_stores: Arc<GoalStores>,
    /// Told when there is something new.
    pub news: Arc<Notify>,
}

/// What the last answer asked for.
struct Said {
    /// Counts and hosts are taken from this process.
    tells: bool,
    /// Hosts to forget, acknowledged by the next report.
    forgot: Vec<HostId>,
}

impl Reporter {
    /// Reports until `stop` turns true.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        let settled_at = Instant::now() + Duration::from_millis(self.fleet.interval_ms());
        let mut changes = self.mirror.changes();
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        let mut last = Instant::now() - PERIOD;
        let mut said = Said { tells: true, forgot: vec![] };
        let mut kept = Instant::now();
        loop {
            let settling = settled_at.saturating_duration_since(Instant::now());
            let wait = PERIOD.saturating_sub(last.elapsed());
            let wait = if settling.is_zero() { wait } else { wait.min(settling) };
            let periodic = tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return,
                () = self.news.notified() => false,
                _ = changes.changed() => false,
                () = tokio::time::sleep(wait) => true,
            };
            let began = Instant::now();
            // However busy it is: who may have to tell in a while has counted until then.
            let keeps = kept.elapsed() >= PERIOD;
            if keeps {
                kept = began;
            }
            let pause =
                match self.report(Instant::now() >= settled_at, (periodic, keeps), &mut said).await
                {
                    Ok(()) => {
                        if backoff.succeeded() {
                            tracing::info!("reports are answered again");
                        }
                        // Counting a large fleet must not fill the processor.
                        PACE.max(began.elapsed())
                    }
                    Err(error) => {
                        let wait = backoff.failed();
                        tracing::warn!(%error, wait_ms = wait.as_millis() as u64, "report failed");
                        self.coordinators.rotate();
                        wait
                    }
                };
            last = Instant::now();
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    async fn report(
        &self,
        settled: bool,
        (periodic, keeps): (bool, bool),
        said: &mut Said,
    ) -> Result<(), CallError> {
        let (fleet, goals) = (self.fleet.clone(), self.mirror.goals());
        let counts = settled && said.tells;
        let tallies = tokio::task::spawn_blocking(move || match (counts, keeps) {
            (true, _) => fleet.tallies(&goals),
            (false, true) => {
                fleet.keep_ledgers(&goals);
                vec![]
            }
            (false, false) => vec![],
        });
        let (host_count, unreachable) = self.fleet.counts();
        let mut report = RegionReport {
            region: self.mirror.region().clone(),
            revision: self.mirror.revision(),
            tallies: tallies.await.expect("counting does not panic"),
            hosts: if said.tells { self.fleet.take_changed(periodic) } else { vec![] },
            host_count,
            unreachable,
            replicas: self.replicator.changed(),
            forgot: said.forgot.clone(),
            process: self.processes.own().to_owned(),
            goal_stores: self.goal_stores.told(),
        };
        let sent: Result<RegionReportReply, CallError> =
            self.coordinators.current().post("/v1/region/report", &report, TIMEOUT).await;
        match sent {
            Ok(reply) => {
                self.replicator.answered(&report.replicas);
                self.fleet.forget(&reply.forget);
                self.fleet.compare(reply.compare.into_iter().map(|of| (of.env, of.app)));
                said.forgot = reply.forget;
                let tells = reply.teller.is_none_or(|teller| teller == report.process);
                if tells && !said.tells {
                    tracing::info!("this process tells of the region's hosts now");
                    self.fleet.tell_anew();
                } else if !tells {
                    self.fleet.leave_telling();
                }
                said.tells = tells;
                reply.heal.into_iter().for_each(|artifact| self.replicator.heal(artifact));
                Ok(())
            }
            Err(error) => {
                self.fleet.unsent(std::mem::take(&mut report.hosts));
                Err(error)
            }
        }
    }
}

/// Sweeps the host table and keeps its copy on disk until `stop` turns true.
pub async fn keep(fleet: Arc<Fleet>, db: Arc<RegionDb>, mut stop: watch::Receiver<bool>) {
    let mut saved = Instant::now();
    loop {
        let stopping = tokio::select! {
            _ = stop.wait_for(|stop| *stop) => true,
            () = tokio::time::sleep(SWEEP) => false,
        };
        fleet.sweep(Instant::now());
        if stopping || saved.elapsed() >= SAVE {
            saved = Instant::now();
            let (rows, forgotten) = fleet.take_unsaved();
            let db = db.clone();
            let save = tokio::task::spawn_blocking(move || db.save_hosts(&rows, &forgotten));
            if let Ok(Err(error)) = save.await {
                tracing::warn!(%error, "host table not saved");
            }
        }
        if stopping {
            return;
        }
    }
}
