//! A canary of hosts that a person named: the first step of an otherwise usual rollout.
//!
//! Nobody is drawn for it: the goal admits these hosts by name and no bucket. Gates judge the
//! step as any other, and a person says when the plan goes on with the rest.

use crate::model::canary::Canary;
use crate::model::goal::{Pin, Target};
use crate::model::id::RegionName;
use crate::model::rollout::{PlanName, Step};
use crate::rules::rollout::plan::{
    CANARY_BAKE_S, CANARY_HOSTS_MAX, CAREFUL_BAKES, FAST_BAKE_S, Fleet, Wish, nobody,
};
use crate::rules::rollout::{Facts, Rollout};

/// How many of `all` hosts a person may name to go first.
#[must_use]
pub fn most_of(all: usize) -> usize {
    (all / 10).clamp(1, CANARY_HOSTS_MAX)
}

/// Whether the canary fits the fleet: it has somebody, and no more than any plan may let in
/// before its first bake has ended.
///
/// # Errors
/// A sentence.
pub(super) fn check(canary: &Canary, fleet: &Fleet) -> Result<(), String> {
    let asked = &canary.asked;
    let all = fleet.all();
    let most = most_of(all);
    match fleet.named {
        0 => Err(format!("no host of the canary {asked} can be reached, or all are pinned")),
        named if named > most => Err(format!(
            "{asked} is {named} of {all} hosts, and {most} at most may go first here: a tenth of \
             all hosts, one at least, and never over {CANARY_HOSTS_MAX}"
        )),
        _ => Ok(()),
    }
}

/// Puts the canary before the steps of its plan.
pub(super) fn before(wish: Wish<'_>, canary: &Canary, mut steps: Vec<Step>) -> Vec<Step> {
    let bake_s = match (wish.plan, wish.first) {
        (PlanName::Fast, _) | (_, true) => FAST_BAKE_S,
        (PlanName::Careful, _) => CANARY_BAKE_S * CAREFUL_BAKES,
        (PlanName::Standard | PlanName::AllAtOnce, _) => CANARY_BAKE_S,
    };
    // Where the plan had a canary of its own, that made room.
    let taken = steps.first().is_some_and(|step| step.wave == 0);
    steps.iter_mut().for_each(|step| step.wave += u32::from(taken));
    let first = Step {
        wave: 0,
        name: format!("canary {}", canary.names()),
        admit: nobody(),
        bake_s: wish.bake(bake_s),
        hold: true,
    };
    steps.insert(0, first);
    steps
}

/// A region of the canary under way that has no host of the app any more.
pub(super) fn region_without_hosts<'a>(
    rollout: &'a Rollout,
    facts: &Facts,
) -> Option<&'a RegionName> {
    let canary = rollout.canary.as_ref().filter(|_| rollout.is_at_canary())?;
    let has_hosts = |name: &&RegionName| facts.regions.get(*name).is_some_and(|it| it.hosts() > 0);
    canary.hosts.keys().find(|name| !has_hosts(name))
}

impl Rollout {
    /// Whether the step under way lets anybody of `region` in, by bucket or by name.
    #[must_use]
    pub fn reaches(&self, region: &RegionName) -> bool {
        self.step_now().is_some_and(|step| step.admits(region) > 0 || self.names_some_of(region))
    }

    /// Whether hosts of `region` are in the canary.
    pub(super) fn names_some_of(&self, region: &RegionName) -> bool {
        self.canary.as_ref().is_some_and(|canary| canary.hosts.contains_key(region))
    }

    /// Whether the step under way is the canary that a person named.
    #[must_use]
    pub fn is_at_canary(&self) -> bool {
        self.canary.is_some() && self.step == 0 && !self.steps.is_empty()
    }

    /// Whether the step under way is past the canary and has let in nobody of `region` but
    /// hosts of that. They have been judged: one that can't be reached now blocks nobody.
    pub(super) fn has_named_only(&self, region: &RegionName) -> bool {
        !self.is_at_canary() && self.step_now().is_some_and(|step| step.admits(region) == 0)
    }

    /// What the goal says of the canary. With the last step everybody is admitted.
    pub(super) fn canary_pins(&self, next: Target) -> Vec<Pin> {
        let last = self.step as usize + 1 >= self.steps.len();
        let Some(canary) = self.canary.as_ref().filter(|_| !last && !self.went_back) else {
            return vec![];
        };
        let each = canary.hosts.iter().flat_map(|(region, hosts)| {
            hosts.iter().map(move |host| Pin {
                host: Some(host.clone()),
                region: Some(region.clone()),
                at: Some(next),
                canary: true,
            })
        });
        each.collect()
    }

    fn canary_names(&self) -> String {
        self.canary.as_ref().map(Canary::names).unwrap_or_default()
    }

    /// What it waits for once its canary is done: it reads on from "waits for".
    pub(super) fn canary_waits(&self) -> String {
        let back = if self.can_revert() { "cancel" } else { "cancel --keep" };
        format!(
            "a person to promote the rest or {back}; the canary {} is done",
            self.canary_names()
        )
    }

    /// Why it waits once its canary is done, in a sentence.
    pub(super) fn canary_held(&self) -> String {
        let names = self.canary_names();
        let back = if self.can_revert() { "cancel goes back" } else { "cancel --keep ends it" };
        format!("held after the canary {names}: promote goes on with the rest, {back}")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::model::id::HostId;
    use crate::rules::rollout::plan::tests::fleet;
    use crate::rules::rollout::plan::{Plan, plan};

    fn canary(region: &str, hosts: &[&str]) -> Canary {
        let ids = |hosts: &[&str]| -> BTreeSet<HostId> {
            hosts.iter().map(|host| host.parse().unwrap()).collect()
        };
        Canary { asked: hosts.join(","), hosts: [(region.parse().unwrap(), ids(hosts))].into() }
    }

    fn planned(name: PlanName, named: usize, sizes: &[(&str, usize)]) -> Result<Plan, String> {
        let canary = canary("eu", &["web-1"]);
        let fleet = Fleet { named, ..fleet(sizes) };
        let wish =
            Wish { plan: name, file: None, canary: Some(&canary), first: false, bake_s: None };
        plan(wish, &fleet)
    }

    fn shape(name: PlanName, sizes: &[(&str, usize)]) -> Vec<(u32, String, u32, bool)> {
        let steps = planned(name, 1, sizes).unwrap().steps;
        assert!(steps[0].admit.values().all(|buckets| *buckets == 0), "nobody is drawn");
        steps.into_iter().map(|step| (step.wave, step.name, step.bake_s, step.hold)).collect()
    }

    #[test]
    fn it_goes_before_the_plan_in_the_place_of_its_canary() {
        let named = |steps: Vec<(u32, &str, u32, bool)>| -> Vec<(u32, String, u32, bool)> {
            steps
                .into_iter()
                .map(|(wave, name, bake, hold)| (wave, name.into(), bake, hold))
                .collect()
        };
        let standard = named(vec![
            (0, "canary web-1", 300, true),
            (1, "eu 25%", 120, false),
            (1, "eu 100%", 600, false),
        ]);
        assert_eq!(shape(PlanName::Standard, &[("eu", 7)]), standard);
        let fast = named(vec![
            (0, "canary web-1", 60, true),
            (1, "first hosts", 60, false),
            (2, "all hosts", 0, false),
        ]);
        assert_eq!(shape(PlanName::Fast, &[("eu", 7)]), fast);
        let careful = shape(PlanName::Careful, &[("eu", 7), ("us", 2)]);
        assert_eq!((careful[0].2, careful[0].3), (1800, true));
        let alone = named(vec![(0, "canary web-1", 300, true), (1, "all hosts", 0, false)]);
        assert_eq!(shape(PlanName::Standard, &[("eu", 0)]), alone, "hosts may come");
    }

    #[test]
    fn a_tenth_of_all_hosts_goes_first_at_most_and_somebody() {
        for (named, others, fits) in [
            (1, 0, true),
            (1, 3, true),
            (2, 17, false),
            (2, 18, true),
            (50, 900, true),
            (51, 9000, false),
        ] {
            let made = planned(PlanName::Standard, named, &[("eu", others)]);
            assert_eq!(made.is_ok(), fits, "{named} beside {others}: {made:?}");
        }
        let why = planned(PlanName::Standard, 2, &[("eu", 10)]).unwrap_err();
        assert!(
            why.contains("web-1 is 2 of 12 hosts") && why.contains("1 at most may go first"),
            "{why}"
        );
        let why = planned(PlanName::Standard, 0, &[("eu", 10)]).unwrap_err();
        assert!(why.contains("no host of the canary web-1 can be reached"), "{why}");
        let first = planned(PlanName::Standard, 1, &[("eu", 9)]).unwrap();
        assert_eq!(first.spare, None, "nobody is asked in the place of who was named");
    }
}
