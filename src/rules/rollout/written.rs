//! A plan that a person wrote, on the fleet that there is.
//!
//! It may do what it likes but one thing: no plan except all-at-once has over a tenth of
//! the hosts on a release before its first bake has ended [orchestration 6.5]. That holds
//! for a first deploy too: a plan that fits then fits ever after.

use std::collections::BTreeMap;

use crate::model::id::RegionName;
use crate::model::plan::{Part, Place, PlanFile, Share, Wave};
use crate::rules::rollout::plan::{Draft, Fleet, Wanted, Wish, names};

/// Of how many hosts one may have the release before the first bake has ended.
const EARLY_PART: usize = 10;

/// The steps of `file`, wave by wave.
///
/// # Errors
/// A sentence that names what does not fit: a region in no wave, a step that is too large.
pub(super) fn drafts(wish: Wish<'_>, file: &PlanFile, fleet: &Fleet) -> Result<Vec<Draft>, String> {
    let named: Vec<&RegionName> = file.regions().collect();
    let rest: Vec<RegionName> =
        fleet.regions().filter(|region| !named.contains(region)).cloned().collect();
    let has_rest = file.waves().iter().any(|wave| wave.regions.contains(&Place::Rest));
    if !rest.is_empty() && !has_rest {
        let (which, verb) = (names(&rest), if rest.len() == 1 { "is" } else { "are" });
        return Err(format!(
            "{which} {verb} in no wave of {}; \"*\" is all regions that are not named",
            file.name()
        ));
    }
    let mut drafts: Vec<Draft> = Vec::new();
    for (number, wave) in file.waves().iter().enumerate() {
        let regions = covered(wave, &rest, fleet);
        for part in &wave.steps {
            // Before the first bake a part is rounded down: a tenth is a tenth at most.
            let early = !drafts.iter().any(|draft| {
                let reaches =
                    |(region, part): &(RegionName, Wanted)| part.of(fleet.hosts(region)) > 0;
                wish.bake(draft.bake_s) > 0 && draft.wanted.iter().any(reaches)
            });
            drafts.push(draft(number, &regions, *part, early, fleet));
        }
    }
    check(wish, file, &drafts, fleet)?;
    Ok(drafts)
}

/// The regions of a wave that the rollout goes to.
fn covered(wave: &Wave, rest: &[RegionName], fleet: &Fleet) -> Vec<RegionName> {
    let of = |place: &Place| match place {
        Place::Region(region) if fleet.regions().any(|known| known == region) => {
            vec![region.clone()]
        }
        Place::Region(_) => vec![],
        Place::Rest => rest.to_vec(),
    };
    wave.regions.iter().flat_map(of).collect()
}

fn draft(wave: usize, regions: &[RegionName], part: Part, early: bool, fleet: &Fleet) -> Draft {
    let wanted = |region: &RegionName| match part.share {
        Share::Hosts(hosts) => Wanted::Hosts(hosts as usize),
        Share::Percent(percent) if early && percent < 100 => {
            Wanted::Hosts(fleet.hosts(region) * percent as usize / 100)
        }
        Share::Percent(percent) => Wanted::Percent(percent as usize),
    };
    // Nobody is there now who could be counted: whoever comes waits for the first bake too.
    let counted = |region: &&RegionName| !early || fleet.hosts(region) > 0;
    let mut wanted: Vec<(RegionName, Wanted)> =
        regions.iter().filter(counted).map(|region| (region.clone(), wanted(region))).collect();
    // Rounded down to nobody it would prove nothing.
    if wanted.iter().all(|(_, wanted)| matches!(wanted, Wanted::Hosts(0)))
        && let Some(first) = wanted.iter_mut().find(|(region, _)| fleet.hosts(region) > 0)
    {
        first.1 = Wanted::Hosts(1);
    }
    let name = format!("{} {}", names(regions), part.share);
    Draft { wave: wave as u32, name, wanted, bake_s: part.bake_s, hold: part.hold }
}

/// Whether no more than a tenth of the fleet, or one host, is reached before a bake ended.
fn check(wish: Wish<'_>, file: &PlanFile, drafts: &[Draft], fleet: &Fleet) -> Result<(), String> {
    let total = fleet.total();
    let most = (total / EARLY_PART).max(1);
    let mut reached: BTreeMap<&RegionName, usize> = BTreeMap::new();
    let mut before = 0;
    for (number, draft) in drafts.iter().enumerate() {
        for (region, wanted) in &draft.wanted {
            let hosts = reached.entry(region).or_default();
            *hosts = wanted.of(fleet.hosts(region)).max(*hosts);
        }
        let now = reached.values().sum();
        if now > most {
            return Err(format!(
                "step {} of {}, \"{}\", would have {now} of {total} hosts on the release before \
                 a bake has ended; a tenth at most: here {most}",
                number + 1,
                file.name(),
                draft.name
            ));
        }
        // A step without hosts is left out, and its bake with it.
        if now > before && wish.bake(draft.bake_s) > 0 {
            return Ok(());
        }
        before = now;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::rollout::PlanName;
    use crate::rules::rollout::plan::tests::fleet;
    use crate::rules::rollout::plan::{Plan, plan};

    fn made(waves: &str, bake_s: Option<u32>, sizes: &[(&str, usize)]) -> Result<Plan, String> {
        let text = format!("{{\"name\": \"my.toml\", \"waves\": [{waves}]}}");
        let file: PlanFile = serde_json::from_str(&text).unwrap();
        let wish = Wish {
            plan: PlanName::Standard,
            file: Some(&file),
            canary: None,
            first: false,
            bake_s,
        };
        let again = Wish { first: true, ..wish };
        let (plan, first) = (plan(wish, &fleet(sizes)), plan(again, &fleet(sizes)));
        assert_eq!(plan, first, "a first deploy goes by the plan too");
        plan
    }

    fn seen(plan: &Plan, sizes: &[(&str, usize)]) -> Vec<(String, usize, u32, bool)> {
        let fleet = fleet(sizes);
        let hosts = |region: &RegionName, threshold: u32| {
            fleet.buckets[region].iter().filter(|bucket| **bucket < threshold).count()
        };
        let step = |step: &crate::model::rollout::Step| {
            let all = fleet.regions().map(|region| hosts(region, step.admits(region))).sum();
            (step.name.clone(), all, step.bake_s, step.hold)
        };
        plan.steps.iter().map(step).collect()
    }

    #[test]
    fn a_region_without_hosts_is_not_let_in_before_the_first_bake() {
        let waves = r#"{"regions": ["ap"], "steps": [{"percent": 100}]},
            {"regions": ["*"], "steps": [{"hosts": 1, "bake_s": 600}, {"percent": 100}]}"#;
        let plan = made(waves, None, &[("ap", 0), ("eu", 400)]).unwrap();
        let ap = "ap".parse().unwrap();
        let admitted: Vec<u32> = plan.steps.iter().map(|step| step.admits(&ap)).collect();
        assert_eq!(admitted, [0, 10_000], "{plan:?}");
        let full = made(waves, None, &[("ap", 5), ("eu", 400)]).unwrap();
        assert_eq!(full.steps[0].admits(&ap), 10_000);
    }

    const TWO: &str = r#"
        {"regions": ["us"], "steps": [{"hosts": 1, "bake_s": 60}, {"percent": 50, "hold": true},
                                      {"percent": 100, "bake_s": 30}]},
        {"regions": ["*"], "steps": [{"percent": 10}, {"percent": 100, "bake_s": 5}]}"#;

    fn rows(expected: &[(&str, usize, u32, bool)]) -> Vec<(String, usize, u32, bool)> {
        expected
            .iter()
            .map(|(name, n, bake, hold)| ((*name).to_owned(), *n, *bake, *hold))
            .collect()
    }

    #[test]
    fn steps_follow_the_file_and_not_the_order_of_the_app() {
        let sizes = [("ap", 10), ("eu", 10), ("us", 10)];
        let plan = made(TWO, None, &sizes).unwrap();
        let expected = [
            ("us 1 host", 1, 60, false),
            ("us 50%", 5, 0, true),
            ("us 100%", 10, 30, false),
            ("ap, eu 10%", 12, 0, false),
            ("ap, eu 100%", 30, 5, false),
        ];
        assert_eq!(seen(&plan, &sizes), rows(&expected));
        assert_eq!(plan.steps.iter().map(|step| step.wave).collect::<Vec<_>>(), [0, 0, 0, 1, 1]);
        assert!(plan.spare.is_some(), "another host can be asked when the only one fails");
        assert_eq!(plan.steps.last().unwrap().admit["*"], 10_000);
    }

    #[test]
    fn a_step_that_adds_nobody_is_left_out_and_its_hold_stays() {
        let sizes = [("eu", 10), ("us", 1)];
        let plan = made(TWO, Some(7), &sizes).unwrap();
        let expected =
            [("us 1 host", 1, 7, true), ("eu 10%", 2, 0, false), ("eu 100%", 11, 7, false)];
        assert_eq!(seen(&plan, &sizes), rows(&expected));
    }

    #[test]
    fn over_a_tenth_before_a_bake_is_refused_and_the_step_named() {
        let everywhere = |steps: &str| format!(r#"{{"regions": ["*"], "steps": [{steps}]}}"#);
        let tenth = everywhere(r#"{"percent": 10, "bake_s": 9}, {"percent": 100}"#);
        for sizes in [&[("eu", 3), ("us", 5)][..], &[("eu", 19), ("us", 1)], &[("eu", 1000)]] {
            assert!(made(&tenth, None, sizes).is_ok(), "{sizes:?}");
        }
        let refused =
            |waves: &str, bake_s, sizes: &[(&str, usize)]| made(waves, bake_s, sizes).unwrap_err();
        let sizes = [("eu", 50), ("us", 50)];
        let why = refused(&tenth, Some(0), &sizes);
        assert!(why.contains("step 2 of my.toml, \"eu, us 100%\", would have 100 of 100"), "{why}");
        let late = everywhere(r#"{"percent": 5}, {"percent": 12, "bake_s": 9}, {"percent": 100}"#);
        let why = refused(&late, None, &sizes);
        assert!(why.contains("step 2 of my.toml") && why.contains("here 10"), "{why}");
        let at_once = everywhere(r#"{"percent": 100, "bake_s": 9}"#);
        assert!(refused(&at_once, None, &sizes).contains("step 1"));
        assert!(made(&at_once, None, &[("eu", 1)]).is_ok(), "one host is a canary");
        assert!(made(&at_once, None, &[]).is_ok(), "nobody is there to be reached");
        let region = r#"{"regions": ["eu"], "steps": [{"percent": 100, "bake_s": 9}]},
            {"regions": ["us"], "steps": [{"percent": 100}]}"#;
        assert!(made(region, None, &[("eu", 5), ("us", 45)]).is_ok(), "a small region first");
        assert!(refused(region, None, &sizes).contains("\"eu 100%\", would have 50 of 100"));
        // A wave without hosts has no bake that could end.
        assert!(refused(region, None, &[("eu", 0), ("us", 45)]).contains("\"us 100%\""));
    }

    #[test]
    fn a_region_in_no_wave_is_named() {
        let one =
            r#"{"regions": ["eu"], "steps": [{"percent": 10, "bake_s": 9}, {"percent": 100}]}"#;
        let why = made(one, None, &[("ap", 1), ("eu", 9), ("us", 1)]).unwrap_err();
        assert!(why.contains("ap, us are in no wave of my.toml"), "{why}");
        assert!(made(one, None, &[("eu", 9)]).is_ok());
    }
}
