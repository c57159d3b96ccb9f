//! How a rollout under way looks on a terminal: what it does, a bar for each region,
//! and why a region does not move. Elsewhere it is one line for each change.
//!
//! From what the coordinator says; decides nothing.

use super::outcome::{held_where, paused_lines, rollout_line, step_name};
use super::output::Tone;
use super::progress::Progress;
use super::table::age;
use crate::host::clock;
use crate::model::fleet::Tally;
use crate::model::id::RegionName;
use crate::model::rollout::{RolloutState, Stage};
use crate::wire::v1::rollout::Rollout;
use crate::wire::words::{stage_word, waits};

/// Steps of a rollout that were told as done.
#[derive(Debug, Default)]
pub struct Told {
    steps: usize,
    begun: bool,
}

impl Told {
    /// Shows `rollout` as it stands now.
    pub fn show(&mut self, progress: &mut Progress<'_>, rollout: &Rollout) {
        let (key, line) = rollout_line(rollout);
        if !progress.is_live() {
            progress.update(&key, &line);
            return;
        }
        self.finished_steps(progress, rollout);
        match paused_lines(rollout) {
            Some(lines) => {
                let said = |(word, line): &(&str, String)| format!("{word:<8} {line}");
                progress.ways(&paused_head(rollout), &lines.each_ref().map(said));
            }
            None => progress.update(&key, &head(rollout)),
        }
        for (region, tally) in rollout.regions.iter().filter(|(_, tally)| tally.hosts > 0) {
            let (done, total) = reached(rollout, region, tally);
            progress.bar(region.as_str(), done, total, &note(rollout, region, tally));
        }
    }

    /// A line that stays for each step that was left behind since the last look.
    fn finished_steps(&mut self, progress: &Progress<'_>, rollout: &Rollout) {
        let forward =
            matches!(rollout.release.state, RolloutState::Running | RolloutState::Succeeded);
        let now = if rollout.release.state == RolloutState::Succeeded {
            rollout.steps.len()
        } else {
            usize::try_from(rollout.step).unwrap_or(0)
        };
        // What was done before anybody looked is no news.
        if std::mem::replace(&mut self.begun, true) && forward && rollout.steps.len() > 1 {
            for step in rollout.steps.iter().take(now).skip(self.steps) {
                progress.say(&progress.marked(Tone::Good, &step.name));
            }
        }
        self.steps = now.max(self.steps);
    }
}

/// That it is paused, where and why.
fn paused_head(rollout: &Rollout) -> String {
    let (number, steps) = (rollout.step + 1, rollout.steps.len());
    let (name, step) = (rollout.release.release, step_name(rollout));
    match rollout.held {
        true => format!("{} (step {number} of {steps})", held_where(rollout)),
        false if step.is_empty() => format!("{name} is paused and {}", waits(rollout)),
        false => {
            format!("{name} is paused at {step} (step {number} of {steps}) and {}", waits(rollout))
        }
    }
}

/// What it does, and what it waits for.
fn head(rollout: &Rollout) -> String {
    let release = &rollout.release;
    let mut text = format!("{} {}", release.release, stage_word(rollout));
    let step = step_name(rollout);
    if !step.is_empty() {
        let (number, steps) = (rollout.step + 1, rollout.steps.len());
        text.push_str(&format!(" {step} (step {number} of {steps})"));
    }
    // The sentence is as old as the last change; what is left of a bake is not. One that is
    // over is only due for the next look at what holds it up.
    let left = rollout.due_at.filter(|_| !rollout.baked).map(|due| due.since(clock::now()));
    match (rollout.stage, left) {
        (Stage::Baking, Some(left)) if release.state == RolloutState::Running => {
            text.push_str(&format!(": bake ends in {}", age(left)));
        }
        _ if !rollout.waiting_on.is_empty() => text.push_str(&format!(": {}", rollout.waiting_on)),
        _ => {}
    }
    text
}

/// Hosts that are where they should be, and all that should.
fn reached(rollout: &Rollout, region: &RegionName, tally: &Tally) -> (u64, u64) {
    let (done, total) = if rollout.release.state == RolloutState::Reverting {
        let all = tally.hosts.saturating_sub(tally.unreachable).saturating_sub(tally.pinned);
        match rollout.release.canary.as_ref().filter(|_| rollout.step == 0) {
            None => (tally.settled, all),
            // Of hosts that were let in by name nobody else has to come back.
            Some(canary) => match canary.hosts.get(region) {
                Some(hosts) => {
                    let asked = u32::try_from(hosts.len()).unwrap_or(u32::MAX).min(all);
                    (asked.saturating_sub(all.saturating_sub(tally.settled)), asked)
                }
                None => (all, all),
            },
        }
    } else {
        (tally.on_next.min(tally.hosts), tally.hosts)
    };
    (u64::from(done), u64::from(total))
}

fn note(rollout: &Rollout, region: &RegionName, tally: &Tally) -> String {
    let (done, total) = reached(rollout, region, tally);
    let mut note = format!("{done}/{total}");
    let faults = tally.faults();
    let kept = [(faults, "failed"), (tally.unreachable, "unreachable"), (tally.pinned, "pinned")];
    for (number, word) in kept {
        if number > 0 {
            note.push_str(&format!("  {number} {word}"));
        }
    }
    if let Some(reason) = stands_still(rollout, region, tally) {
        note.push_str(&format!("  {reason}"));
    }
    note
}

/// Why the region does not move just now.
fn stands_still(rollout: &Rollout, region: &RegionName, tally: &Tally) -> Option<String> {
    if rollout.release.state != RolloutState::Running || tally.on_next >= tally.hosts {
        return None;
    }
    let at = usize::try_from(rollout.step).ok()?;
    let now = rollout.steps.get(at)?;
    let admitted = now.admits(region);
    if tally.on_next < tally.admitted {
        let fetched = tally.fetched_permille;
        return (fetched < 1000 && tally.staged < tally.hosts)
            .then(|| format!("fetched {}%", fetched / 10));
    }
    let mut later = rollout.steps.iter().enumerate().skip(at + 1);
    let (number, next) = later.find(|(_, step)| step.admits(region) > admitted)?;
    Some(if now.hold {
        format!("waits for a person, then {}", next.name)
    } else if number == at + 1 && rollout.stage == Stage::Baking {
        format!("waits for the bake, then {}", next.name)
    } else {
        format!("waits for {} (step {})", next.name, number + 1)
    })
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::model::rollout::Step;

    fn step(name: &str, admit: &[(&str, u32)]) -> Step {
        let admit: BTreeMap<String, u32> =
            admit.iter().map(|(region, buckets)| ((*region).to_owned(), *buckets)).collect();
        Step { wave: 0, name: name.into(), admit, bake_s: 0, hold: false }
    }

    #[test]
    fn a_region_says_which_step_it_waits_for() {
        let steps = vec![step("canary eu", &[("eu", 100)]), step("us 10%", &[("us", 1000)])];
        let region = |name: &str| name.parse::<RegionName>().unwrap();
        let still = Tally { hosts: 4, ..Tally::default() };
        let mut rollout = running(steps);
        assert_eq!(
            stands_still(&rollout, &region("us"), &still).as_deref(),
            Some("waits for us 10% (step 2)")
        );
        rollout.stage = Stage::Baking;
        let text = stands_still(&rollout, &region("us"), &still);
        assert_eq!(text.as_deref(), Some("waits for the bake, then us 10%"));
        let fetching = Tally { hosts: 4, admitted: 2, fetched_permille: 430, ..Tally::default() };
        assert_eq!(
            stands_still(&rollout, &region("eu"), &fetching).as_deref(),
            Some("fetched 43%")
        );
    }

    #[test]
    fn a_canary_on_its_way_back_counts_its_own_hosts() {
        let mut rollout = running(vec![step("canary web-1", &[("*", 0)])]);
        rollout.release.state = RolloutState::Reverting;
        let canary = serde_json::json!({"asked": "web-1", "hosts": {"eu": ["web-1"]}});
        rollout.release.canary = serde_json::from_value(canary).unwrap();
        let count = |rollout: &Rollout, region: &str, settled| {
            let tally = Tally { hosts: 4, settled, ..Tally::default() };
            reached(rollout, &region.parse().unwrap(), &tally)
        };
        assert_eq!(count(&rollout, "eu", 3), (0, 1));
        assert_eq!(count(&rollout, "eu", 4), (1, 1));
        assert_eq!(count(&rollout, "us", 0), (4, 4), "nobody there was let in");
        rollout.step = 1;
        assert_eq!(count(&rollout, "eu", 3), (3, 4), "the plan went on");
    }

    #[test]
    fn a_bake_that_is_over_does_not_count_down_to_the_next_look() {
        let mut rollout = running(vec![]);
        rollout.stage = Stage::Baking;
        rollout.due_at = Some(clock::now() + std::time::Duration::from_secs(5400));
        rollout.waiting_on = "bake ends in 90 min; 4 of 4 hosts on r2".into();
        assert!(head(&rollout).contains("bake ends in 1h"), "{}", head(&rollout));
        rollout.waiting_on = "the bake is over; the gate errors has said nothing yet".into();
        rollout.baked = true;
        let expected = ": the bake is over; the gate errors has said nothing yet";
        assert!(head(&rollout).ends_with(expected), "{}", head(&rollout));
    }

    #[test]
    fn what_a_rollout_waits_for_reads_as_a_sentence() {
        let mut rollout = running(vec![]);
        for (waiting_on, said) in [
            ("bake ends in 7 s; 1 of 1 host on r2", "waits for its bake, which ends in 7 s; 1 of"),
            ("the bake is over; 1 of 1 host on r2", "waits: the bake is over"),
            ("a person: 3 hosts unreachable", "waits for a person: 3 hosts"),
            ("2 regions to take the goal", "waits for 2 regions"),
            ("1 of 4 hosts on r2; waiting for 1 region to take the goal", "waits: 1 of 4"),
            ("b1 is queued", "waits: b1 is queued"),
        ] {
            rollout.waiting_on = waiting_on.into();
            assert!(waits(&rollout).starts_with(said), "{}", waits(&rollout));
        }
    }

    /// A deploy of these steps that is at the first of them.
    pub(in crate::cli) fn running(steps: Vec<Step>) -> Rollout {
        let text = serde_json::json!({
            "app": "web", "env": "prod", "release": "r2", "kind": "deploy", "build": "b1",
            "commit": "a".repeat(40), "artifact": null, "plan": "standard", "state": "running",
            "reason": "", "version": null, "bad": false, "actor": "ann", "message": "",
            "created_at": "2026-11-21T00:00:00.000Z", "ended_at": null, "stamp": 1, "steps": steps,
            "step": 0, "stage": "converging", "due_at": null, "waiting_on": "", "base": null,
            "tallies": {},
        });
        serde_json::from_value(text).unwrap()
    }
}
