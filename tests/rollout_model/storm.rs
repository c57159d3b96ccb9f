//! Long random lives of one env: reports that come late, twice, never or from another
//! time, commands at any moment, rollouts that take each other's place, restarts. After
//! every event the invariants of orchestration 6.14 that the rules can break are checked.
//!
//! No hosts here, only counts, so that millions of sequences are cheap: a plain loop over
//! seeds, and the seed in every message. `STORMS=N` sets how many (`bench/rollouts`).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use deployctl::model::goal::{BUCKETS, Goal, GoalVersion, HostView};
use deployctl::model::id::{HostId, RegionName, ReleaseNo};
use deployctl::model::plan::PlanFile;
use deployctl::model::rng::Rng;
use deployctl::model::rollout::{PlanName, RolloutKind, RolloutState, Stable};
use deployctl::model::selector::Labels;
use deployctl::model::time::UnixMillis;
use deployctl::rules::rollout::command::Command;
use deployctl::rules::rollout::plan::{Fleet, waves};
use deployctl::rules::rollout::{Action, Admission, Facts, RegionFacts, Rollout};

use serde_json::{Value, json};

use crate::{bits, deploy, target};

/// Sequences in a test run: a few seconds without optimisation.
const STORMS: u64 = 6_000;
/// Events of one sequence.
const EVENTS: u64 = 40;
const REGIONS: [&str; 3] = ["eu", "us", "ap"];

struct Storm {
    seed: u64,
    rng: Rng,
    now: UnixMillis,
    facts: Facts,
    regions: Vec<RegionName>,
    stable: Stable,
    rollout: Rollout,
    over: Vec<Rollout>,
    newest: GoalVersion,
    goal: Option<Goal>,
    releases: u64,
    /// Rollouts that a written plan let begin, and those that did not fit.
    written: (u64, u64),
}

impl Storm {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let now = UnixMillis(1_000_000);
        let regions: Vec<RegionName> =
            REGIONS[..1 + rng.below(3) as usize].iter().map(|name| name.parse().unwrap()).collect();
        let base = (rng.below(4) > 0).then(|| target(1));
        let stable = Stable { base, region_base: BTreeMap::new() };
        let mut facts = Facts::default();
        for region in &regions {
            let known = rng.below(200) as u32;
            let reachable = known - rng.below(u64::from(known) / 4 + 1) as u32;
            let seen = RegionFacts { known, reachable, ..RegionFacts::default() };
            facts.regions.insert(region.clone(), seen);
        }
        let rollout = Rollout::admitted(now, deploy(base, 20));
        let (over, goal, newest) = (vec![], None, GoalVersion::default());
        let mut storm = Self {
            seed,
            rng,
            now,
            facts,
            regions,
            stable,
            rollout,
            over,
            newest,
            goal,
            releases: 2,
            written: (0, 0),
        };
        storm.renew();
        storm
    }

    fn renew(&mut self) {
        let generation = self.newest.generation + 1;
        self.facts.fresh = GoalVersion { epoch: 1, generation, step: 1 };
    }

    /// What the coordinator does with actions, and what must be true of them.
    fn follow(&mut self, actions: Vec<Action>) {
        let seed = self.seed;
        for action in actions {
            match action {
                Action::Publish => {
                    let goal = self.rollout.document(self.now).expect("a begun rollout has one");
                    self.check_document(&goal);
                    self.newest = goal.version;
                    self.goal = Some(goal);
                }
                Action::Settle(stable) => {
                    let may = self.rollout.state == RolloutState::Succeeded
                        || self.rollout.kind == RolloutKind::Rollback;
                    assert!(may, "seed {seed}: settled in {:?}", self.rollout.state);
                    self.stable = stable;
                }
                Action::MarkBad => {
                    assert!(self.failures() > 0, "seed {seed}: bad without a failed host");
                }
                Action::Tell { message, .. } => assert!(!message.is_empty(), "seed {seed}"),
            }
        }
        self.renew();
    }

    /// Invariants 2 and 4: versions only grow, and `admit` within a generation.
    fn check_document(&mut self, goal: &Goal) {
        let seed = self.seed;
        assert!(goal.version > self.newest, "seed {seed}: {:?}", goal.version);
        let Some(old) = &self.goal else { return };
        if old.version.generation == goal.version.generation {
            for region in self.regions.iter().map(RegionName::as_str).chain(["unheard-of"]) {
                let of = |goal: &Goal| {
                    goal.admit.get(region).or(goal.admit.get("*")).copied().unwrap_or(0)
                };
                assert!(of(goal) >= of(old), "seed {seed}: {region} shrank");
            }
        }
        // Invariant 5, on one host: the document is all that a host needs.
        if self.rng.below(16) == 0 {
            let copy: Goal = serde_json::from_str(&serde_json::to_string(goal).unwrap()).unwrap();
            let host: HostId = format!("h{}", self.rng.below(1000)).parse().unwrap();
            let (region, labels) = (&self.regions[0], Labels::new());
            let running = Some(bits(self.rng.below(6)));
            let view = HostView { host: &host, region, labels: &labels, running };
            assert_eq!(goal.desired(&view), copy.desired(&view), "seed {seed}");
        }
    }

    fn failures(&self) -> u32 {
        self.facts.regions.values().map(|region| region.tally.failed).sum()
    }

    /// A report of one region: of now, of an older step or generation, or of none.
    fn report(&mut self) {
        let at = self.rng.below(self.regions.len() as u64) as usize;
        let mut version = self.rollout.version.unwrap_or(self.newest);
        match self.rng.below(8) {
            0 => version.generation = version.generation.saturating_sub(1),
            1 => version.step = version.step.saturating_sub(1),
            2 => version = GoalVersion::default(),
            _ => {}
        }
        let buckets = self.rollout.step_now().map_or(0, |step| step.admits(&self.regions[at]));
        let region = self.facts.regions.get_mut(&self.regions[at]).expect("known");
        let (rng, tally) = (&mut self.rng, &mut region.tally);
        let hosts = region.known;
        *tally = deployctl::model::fleet::Tally { version, hosts, ..Default::default() };
        tally.unreachable =
            if rng.below(4) == 0 { rng.below(u64::from(hosts) + 1) as u32 } else { 0 };
        tally.admitted =
            (u64::from(hosts) * u64::from(buckets)).div_ceil(u64::from(BUCKETS)) as u32;
        tally.admitted_unreachable = tally.unreachable.min(tally.admitted);
        let mut left = tally.admitted - tally.admitted_unreachable;
        let mut take = |often: u64| {
            let taken =
                if rng.below(often) == 0 { rng.below(u64::from(left) + 1) as u32 } else { 0 };
            left -= taken;
            taken
        };
        tally.failed = take(6);
        tally.host_faults = take(8);
        tally.transport_faults = take(8);
        let away = take(3);
        tally.healthy = left;
        tally.on_next = left + away;
        let reachable = hosts - tally.unreachable;
        tally.settled =
            if rng.below(2) == 0 { reachable } else { rng.below(u64::from(reachable) + 1) as u32 };
        region.reachable = reachable;
        region.silent = rng.below(16) == 0;
    }

    fn fleet(&mut self) -> Fleet {
        let mut buckets = BTreeMap::new();
        for (name, region) in &self.facts.regions {
            let drawn = (0..region.reachable).map(|_| self.rng.below(u64::from(BUCKETS)) as u32);
            buckets.insert(name.clone(), drawn.collect());
        }
        let covered: Vec<RegionName> =
            self.regions.iter().filter(|r| self.rollout.covers(r)).cloned().collect();
        Fleet {
            waves: waves(&[], &covered),
            buckets,
            named: 0,
            everywhere: self.rollout.regions.is_empty(),
        }
    }

    /// Another rollout takes the open one's place: invariant 1.
    fn admit(&mut self) {
        self.releases += 1;
        let by = ReleaseNo(self.releases);
        let mut tolerate = vec![];
        if !self.rollout.state.is_final() {
            let healthy = self.rollout.state == RolloutState::Running;
            tolerate.extend(self.rollout.next.filter(|_| healthy).map(|next| next.bits()));
            let facts = self.facts.clone();
            let superseded = self.rollout.command(self.now, Command::Supersede { by }, &facts);
            self.follow(superseded.expect("an open rollout gives way"));
        }
        assert!(self.rollout.state.is_final(), "seed {}: two open rollouts", self.seed);
        let base = self.stable.base;
        let (plan, rollback) = match self.rng.below(8) {
            0 | 1 => (PlanName::AllAtOnce, base.is_some()),
            2 => (PlanName::Fast, false),
            3 => (PlanName::Careful, false),
            _ => (PlanName::Standard, false),
        };
        let regions = match self.rng.below(4) {
            0 => vec![self.regions[0].clone()],
            _ => vec![],
        };
        let admission = Admission {
            release: by,
            kind: if rollback { RolloutKind::Rollback } else { RolloutKind::Deploy },
            plan,
            regions,
            stable: self.stable.clone(),
            config: bits(by.0).config,
            tolerate,
            start_by: self.now + Duration::from_secs(3600),
            ..deploy(base, 20)
        };
        let plan_file = (plan == PlanName::Standard).then(|| self.written()).flatten();
        let next = Rollout::admitted(self.now, Admission { plan_file, ..admission });
        self.over.push(std::mem::replace(&mut self.rollout, next));
        self.over.truncate(3);
        // Most have their build there already.
        if self.rng.below(4) > 0 {
            self.begin();
        }
    }

    /// A plan as a person may write it, one time in three.
    fn written(&mut self) -> Option<PlanFile> {
        let Self { rng, regions, .. } = self;
        if rng.below(3) > 0 {
            return None;
        }
        let mut places: Vec<String> = regions.iter().map(ToString::to_string).collect();
        let turn = rng.below(places.len() as u64) as usize;
        places.rotate_left(turn);
        let named = rng.below(places.len() as u64 + 1) as usize;
        places.truncate(named);
        places.insert(rng.below(named as u64 + 1) as usize, "*".into());
        let steps = |rng: &mut Rng| {
            let (mut steps, mut percent) = (vec![], 0);
            for hosts in 1..=rng.below(3) {
                steps.push(json!({ "hosts": hosts * 3, "bake_s": rng.below(2) * 20 }));
            }
            while percent < 100 {
                percent = (percent + 1 + rng.below(60)).min(100);
                let hold = percent < 100 && rng.below(8) == 0;
                let bake_s = rng.below(2) * 20;
                steps.push(json!({ "percent": percent, "bake_s": bake_s, "hold": hold }));
            }
            steps
        };
        let apart = rng.below(2) == 0;
        let waves: Vec<Value> = match apart {
            true => places.iter().map(|p| json!({ "regions": [p], "steps": steps(rng) })).collect(),
            false => vec![json!({ "regions": places, "steps": steps(rng) })],
        };
        Some(serde_json::from_value(json!({ "name": "storm.toml", "waves": waves })).unwrap())
    }

    /// What a written plan may never do: over a tenth, or over one host, before a bake ended.
    fn check_exposure(&self, fleet: &Fleet) {
        let covered = |region: &&RegionName| self.rollout.covers(region);
        let hosts = |region| fleet.buckets.get(region).map_or(0, Vec::len);
        let all: usize = self.regions.iter().filter(covered).map(hosts).sum();
        let mut before = 0;
        for step in &self.rollout.steps {
            let reached = self.regions.iter().filter(covered).map(|region| {
                // Hosts that share a bucket can't be told apart: a step counts them once.
                let own = fleet.buckets.get(region).map_or(&[][..], Vec::as_slice);
                let own: BTreeSet<u32> = own.iter().copied().collect();
                own.iter().filter(|bucket| **bucket < step.admits(region)).count()
            });
            before = before.max(reached.sum());
            let most = (all / 10).max(1);
            assert!(before <= most, "seed {}: {before} of {all}: {step:?}", self.seed);
            if step.bake_s > 0 {
                return;
            }
        }
    }

    fn begin(&mut self) {
        let fleet = self.fleet();
        let (fresh, of) = (self.facts.fresh, bits(self.rollout.release.0));
        let waited = self.rollout.state == RolloutState::Pending;
        let actions = self.rollout.begin(self.now, of.artifact, fresh, &fleet);
        if waited && self.rollout.plan_file.is_some() {
            match self.rollout.state {
                RolloutState::Running => self.written.0 += 1,
                other => {
                    assert_eq!(other, RolloutState::Expired, "seed {}", self.seed);
                    assert!(self.rollout.blocked && self.rollout.version.is_none());
                    self.written.1 += 1;
                }
            }
            self.check_exposure(&fleet);
        }
        let next = self.rollout.next.map(|next| next.bits());
        assert!(next.is_none_or(|next| next == of), "seed {}: {next:?}", self.seed);
        self.follow(actions);
    }

    fn step(&mut self) {
        let before = (self.rollout.state, self.rollout.step, self.rollout.stage);
        let actions = self.rollout.step(self.now, &self.facts);
        let (state, seed) = (self.rollout.state, self.seed);
        if state == RolloutState::Reverting && before.0 != state {
            // Invariant 9: only hosts that failed under its own generation revert it.
            assert!(self.failures() > 0, "seed {seed}: reverted without a failed host");
        }
        if before.0 == RolloutState::Reverting && state != before.0 {
            self.check_settled(state);
        }
        self.follow(actions);
        // The same look again does nothing, unless it got further just now.
        let moved = before != (state, self.rollout.step, self.rollout.stage);
        if !moved {
            let again = self.rollout.step(self.now, &self.facts);
            assert!(again.is_empty(), "seed {seed}: {again:?} the second time");
        }
    }

    /// Invariant 6, as far as counts tell: whoever can be reached is back.
    fn check_settled(&self, state: RolloutState) {
        if state == RolloutState::Failed {
            return;
        }
        let version = self.rollout.version.expect("it began");
        for name in self.rollout.exposed() {
            let Some(region) = self.facts.regions.get(&name) else { continue };
            let reachable = region.reachable(version);
            if reachable == 0 || region.hosts() == 0 {
                continue;
            }
            let told = region.tally.version >= version;
            let back = region.tally.settled * 100 >= reachable * 99;
            assert!(told && back, "seed {}: {state:?} with hosts left in {name}", self.seed);
        }
    }

    fn command(&mut self) {
        let why = || "ann, for a test".to_owned();
        let command = match self.rng.below(8) {
            0 => Command::Promote { full: false },
            1 => Command::Promote { full: true },
            2 => Command::Cancel { keep: false, why: why() },
            3 => Command::Cancel { keep: true, why: why() },
            4 => Command::Retry,
            5 => Command::Pause { why: why() },
            _ => Command::Resume,
        };
        let before = self.rollout.clone();
        let facts = self.facts.clone();
        match self.rollout.command(self.now, command, &facts) {
            Ok(actions) => self.follow(actions),
            Err(_) => assert_eq!(before, self.rollout, "seed {}: a refusal changed it", self.seed),
        }
    }

    /// What is over stays as it ended: whoever asks later hears the same (invariant 10).
    fn disturb_the_past(&mut self) {
        let facts = self.facts.clone();
        for ended in &mut self.over {
            let before = ended.clone();
            assert!(ended.step(self.now, &facts).is_empty());
            let canceled = Command::Cancel { keep: false, why: "late".into() };
            assert!(ended.command(self.now, canceled, &facts).is_err());
            assert_eq!(before, *ended, "seed {}: an ended rollout changed", self.seed);
        }
    }

    /// A restart: the row is all there is.
    fn restart(&mut self) {
        let row = serde_json::to_string(&self.rollout).unwrap();
        let read: Rollout = serde_json::from_str(&row).unwrap();
        assert_eq!(read, self.rollout, "seed {}: a restart changed it", self.seed);
        self.rollout = read;
    }

    fn event(&mut self) {
        match self.rng.below(32) {
            0..12 => self.report(),
            12..26 => {
                let seconds = [1, 1, 5, 20, 60, 700, 4000][self.rng.below(7) as usize];
                self.now = self.now + Duration::from_secs(seconds);
                self.step();
            }
            26..28 => self.command(),
            28 => self.begin(),
            29 => self.admit(),
            30 => self.disturb_the_past(),
            _ => match self.rng.below(4) {
                0 => self.restart(),
                1 => self.facts.barred = Some("frozen, until later: ann".into()),
                _ => self.facts.barred = None,
            },
        }
        self.check_deadline();
    }

    /// Invariant 3: whatever is open and not paused has a due time, and nothing else.
    fn check_deadline(&self) {
        let state = self.rollout.state;
        let wants = !state.is_final() && state != RolloutState::Paused;
        assert_eq!(
            self.rollout.due_at.is_some(),
            wants,
            "seed {}: {state:?} is due at {:?}",
            self.seed,
            self.rollout.due_at
        );
        assert!(state != RolloutState::Paused || !self.rollout.reason.is_empty());
    }

    /// Invariant 3, the other half: with nobody reporting any more, the clock ends it.
    fn wind_down(&mut self) {
        let most = 8 * (self.rollout.steps.len() + 2);
        for _ in 0..most {
            let Some(due) = self.rollout.due_at else { return };
            self.now = self.now.max(due) + Duration::from_secs(61);
            self.step();
            self.check_deadline();
        }
        panic!("seed {}: still {:?}", self.seed, self.rollout);
    }
}

#[test]
fn no_storm_of_events_breaks_an_invariant() {
    let wanted = std::env::var("STORMS").ok().and_then(|text| text.parse().ok());
    let (storms, began) = (wanted.unwrap_or(STORMS), std::time::Instant::now());
    let mut states: BTreeMap<&str, u64> = BTreeMap::new();
    let mut written = (0, 0);
    for seed in 0..storms {
        let mut storm = Storm::new(seed);
        storm.begin();
        for _ in 0..EVENTS {
            storm.event();
        }
        *states.entry(storm.rollout.state.word()).or_default() += 1;
        written = (written.0 + storm.written.0, written.1 + storm.written.1);
        storm.wind_down();
    }
    println!(
        "{storms} sequences of {EVENTS} events in {:.1?}: {states:?}, {written:?}",
        began.elapsed()
    );
    // A generator that never gets anywhere would prove nothing.
    assert!(
        RolloutState::ALL.iter().filter(|state| states.contains_key(state.word())).count() >= 8
    );
    assert!(written.0 > storms / 50 && written.1 > storms / 50, "{written:?} plans");
}
