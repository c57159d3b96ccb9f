//! Turns a plan's name and the fleet into steps of buckets.
//!
//! Percentages are of hosts, not of buckets: each threshold is the smallest that
//! admits the wanted number of the hosts known and reachable now, so that a canary
//! of one host is one host also in a fleet of four. Steps that would add no host
//! are left out. `admit` never shrinks from one step to the next.

use std::collections::BTreeMap;

use crate::model::canary::Canary;
use crate::model::goal::BUCKETS;
use crate::model::id::RegionName;
use crate::model::plan::PlanFile;
use crate::model::rollout::{PlanName, Step};
use crate::rules::rollout::{named, written};

/// Largest canary, hosts [orchestration 6.5].
pub(super) const CANARY_HOSTS_MAX: usize = 50;
/// Bakes of the plan `standard`, seconds [orchestration 6.5].
pub(super) const CANARY_BAKE_S: u32 = 300;
const FIRST_PART_BAKE_S: u32 = 120;
const FIRST_WAVE_BAKE_S: u32 = 600;
const WAVE_BAKE_S: u32 = 300;
/// Bake of a first deploy's early hosts, seconds: the plan `fast` [orchestration 6.5].
pub(super) const FAST_BAKE_S: u32 = 60;
/// How much longer the plan `careful` bakes.
pub(super) const CAREFUL_BAKES: u32 = 6;
/// Early hosts of a first deploy, percent of the fleet.
const FAST_PERCENT: usize = 5;

/// The fleet as the planner sees it.
#[derive(Debug, Clone, Default)]
pub struct Fleet {
    /// Regions in rollout order, wave by wave, each region once.
    pub waves: Vec<Vec<RegionName>>,
    /// Buckets of each region's reachable hosts, drawn with the new generation's salt.
    pub buckets: BTreeMap<RegionName, Vec<u32>>,
    /// Reachable hosts beside those: they are in the canary that a person named.
    pub named: usize,
    /// Whether regions that are not named are part of it.
    pub everywhere: bool,
}

/// What the planner is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Wish<'a> {
    /// The plan.
    pub plan: PlanName,
    /// What a person wrote in its place.
    pub file: Option<&'a PlanFile>,
    /// The hosts that a person named to go first.
    pub canary: Option<&'a Canary>,
    /// Whether nothing runs yet: then there is nothing to compare with or go back to.
    pub first: bool,
    /// Every bake, seconds; `None`: the plan's own.
    pub bake_s: Option<u32>,
}

/// Steps, and the threshold that admits one more canary host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// In order, at least one.
    pub steps: Vec<Step>,
    /// Where a second host can be asked when the only early host fails.
    pub spare: Option<(RegionName, u32)>,
}

/// A step as it is wished for, before it is known whether it adds a host.
pub(super) struct Draft {
    pub(super) wave: u32,
    pub(super) name: String,
    pub(super) wanted: Vec<(RegionName, Wanted)>,
    pub(super) bake_s: u32,
    pub(super) hold: bool,
}

/// Part of a region's hosts.
#[derive(Clone, Copy)]
pub(super) enum Wanted {
    Hosts(usize),
    Percent(usize),
}

impl Wanted {
    /// Hosts, of `all`.
    pub(super) fn of(self, all: usize) -> usize {
        match self {
            Self::Percent(percent) => (all * percent).div_ceil(100),
            Self::Hosts(hosts) => hosts.min(all),
        }
    }
}

impl Wish<'_> {
    /// Whether the plan depends on which hosts there are: not where all go at once, and there a
    /// way back has no time to count them.
    #[must_use]
    pub fn looks_at_hosts(&self) -> bool {
        self.plan != PlanName::AllAtOnce || self.file.is_some() || self.canary.is_some()
    }

    /// What a bake that the plan sets to `own` lasts, seconds.
    pub(super) fn bake(&self, own: u32) -> u32 {
        if own == 0 { 0 } else { self.bake_s.unwrap_or(own) }
    }
}

impl Fleet {
    /// The hosts of `region` that are known and reachable.
    pub(super) fn hosts(&self, region: &RegionName) -> usize {
        self.buckets.get(region).map_or(0, Vec::len)
    }

    pub(super) fn regions(&self) -> impl Iterator<Item = &RegionName> {
        self.waves.iter().flatten()
    }

    /// All hosts.
    #[must_use]
    pub fn total(&self) -> usize {
        self.regions().map(|region| self.hosts(region)).sum()
    }

    /// All hosts, and those that a person named.
    #[must_use]
    pub fn all(&self) -> usize {
        self.total() + self.named
    }

    /// The smallest threshold that admits `wanted` of the region's hosts.
    fn threshold(&self, region: &RegionName, wanted: Wanted) -> u32 {
        if matches!(wanted, Wanted::Percent(100)) {
            return BUCKETS;
        }
        let Some(last) = wanted.of(self.hosts(region)).checked_sub(1) else { return 0 };
        let mut buckets = self.buckets.get(region).cloned().unwrap_or_default();
        // As if they were sorted, which of hundreds of thousands takes longer.
        *buckets.select_nth_unstable(last).1 + 1
    }

    fn admitted(&self, admit: &BTreeMap<String, u32>) -> usize {
        let count = |region: &RegionName| {
            let threshold = admit.get(region.as_str()).copied().unwrap_or(0);
            let buckets = self.buckets.get(region).map_or(&[][..], Vec::as_slice);
            buckets.iter().filter(|bucket| **bucket < threshold).count()
        };
        self.regions().map(count).sum()
    }
}

/// Plans the steps.
///
/// # Errors
/// A sentence, when a plan that a person wrote or a canary that a person named does not fit
/// the fleet.
pub fn plan(wish: Wish<'_>, fleet: &Fleet) -> Result<Plan, String> {
    if let Some(canary) = wish.canary {
        named::check(canary, fleet)?;
        let mut drafts = drafts(wish, fleet)?;
        // It takes the place of the plan's own, which is all of wave 0 there.
        let has_own = matches!(wish.plan, PlanName::Standard | PlanName::Careful) && !wish.first;
        drafts.retain(|draft| !has_own || draft.wave > 0);
        let steps = named::before(wish, canary, steps(wish, fleet, drafts));
        return Ok(Plan { steps, spare: None });
    }
    let drafts = drafts(wish, fleet)?;
    let spare = drafts.first().and_then(|draft| spare(fleet, draft));
    Ok(Plan { steps: steps(wish, fleet, drafts), spare })
}

fn drafts(wish: Wish<'_>, fleet: &Fleet) -> Result<Vec<Draft>, String> {
    Ok(match (wish.plan, wish.first) {
        _ if let Some(file) = wish.file => written::drafts(wish, file, fleet)?,
        (PlanName::AllAtOnce, _) => vec![],
        (PlanName::Fast, _) | (_, true) => vec![early(fleet)],
        (PlanName::Standard, false) => standard(fleet),
        (PlanName::Careful, false) => careful(fleet),
    })
}

/// What lets nobody in.
pub(super) fn nobody() -> BTreeMap<String, u32> {
    BTreeMap::from([("*".to_owned(), 0)])
}

/// Counts up the drafts, leaves out those that add no host, and ends with everybody.
fn steps(wish: Wish<'_>, fleet: &Fleet, drafts: Vec<Draft>) -> Vec<Step> {
    let mut admit = nobody();
    let mut kept: Vec<Step> = Vec::new();
    for draft in drafts {
        let before = fleet.admitted(&admit);
        for (region, wanted) in &draft.wanted {
            let threshold = fleet.threshold(region, *wanted);
            let entry = admit.entry(region.as_str().to_owned()).or_insert(0);
            *entry = threshold.max(*entry);
        }
        if fleet.admitted(&admit) > before {
            let Draft { wave, name, bake_s, hold, .. } = draft;
            kept.push(Step { wave, name, admit: admit.clone(), bake_s: wish.bake(bake_s), hold });
        } else if let Some(last) = kept.last_mut() {
            last.hold |= draft.hold;
        }
    }
    let mut all: BTreeMap<String, u32> =
        fleet.regions().map(|region| (region.as_str().to_owned(), BUCKETS)).collect();
    all.insert("*".into(), if fleet.everywhere { BUCKETS } else { 0 });
    match kept.last_mut() {
        Some(last) if fleet.admitted(&last.admit) == fleet.total() => last.admit = all,
        _ => {
            let wave = kept.last().map_or(0, |step| step.wave + 1);
            let bake_s = wish.bake_s.filter(|_| wish.plan == PlanName::AllAtOnce).unwrap_or(0);
            kept.push(Step { wave, name: "all hosts".into(), admit: all, bake_s, hold: false });
        }
    }
    // After the last step there is nothing to hold.
    if let Some(last) = kept.last_mut() {
        last.hold = false;
    }
    kept
}

/// The canary, then wave by wave.
fn standard(fleet: &Fleet) -> Vec<Draft> {
    let Some(first) = fleet.regions().find(|region| fleet.hosts(region) > 0) else {
        return vec![];
    };
    // No plan may expose over a tenth of the fleet before its first bake ends.
    let most = (fleet.total() / 10).clamp(1, CANARY_HOSTS_MAX);
    let canary = (fleet.hosts(first) / 100).clamp(1, most);
    let mut drafts = vec![Draft {
        wave: 0,
        name: format!("canary {first}"),
        wanted: vec![(first.clone(), Wanted::Hosts(canary))],
        bake_s: CANARY_BAKE_S,
        hold: false,
    }];
    for (index, regions) in fleet.waves.iter().enumerate() {
        let parts: &[(usize, u32)] = match index {
            0 => &[(25, FIRST_PART_BAKE_S), (100, FIRST_WAVE_BAKE_S)],
            1 => &[(10, 0), (50, 0), (100, WAVE_BAKE_S)],
            _ => &[(25, 0), (100, WAVE_BAKE_S)],
        };
        for &(percent, bake_s) in parts {
            drafts.push(Draft {
                wave: index as u32 + 1,
                name: format!("{} {percent}%", names(regions)),
                wanted: regions.iter().map(|r| (r.clone(), Wanted::Percent(percent))).collect(),
                bake_s,
                hold: false,
            });
        }
    }
    drafts
}

/// As [`standard`], slower, and held where the first wave ends [orchestration 6.5].
fn careful(fleet: &Fleet) -> Vec<Draft> {
    let mut drafts = standard(fleet);
    for draft in &mut drafts {
        draft.bake_s *= CAREFUL_BAKES;
    }
    if let Some(last) = drafts.iter_mut().rfind(|draft| draft.wave == 1) {
        last.hold = true;
    }
    drafts
}

/// A few hosts of the whole fleet, at least one, at most a twentieth.
fn early(fleet: &Fleet) -> Draft {
    let mut wanted: Vec<(RegionName, Wanted)> = fleet
        .regions()
        .map(|region| (region.clone(), Wanted::Hosts(fleet.hosts(region) * FAST_PERCENT / 100)))
        .collect();
    let none = |wanted: &(RegionName, Wanted)| matches!(wanted.1, Wanted::Hosts(0));
    if wanted.iter().all(none)
        && let Some(first) = wanted.iter_mut().find(|(region, _)| fleet.hosts(region) > 0)
    {
        first.1 = Wanted::Hosts(1);
    }
    Draft { wave: 0, name: "first hosts".into(), wanted, bake_s: FAST_BAKE_S, hold: false }
}

/// One more host than an only early one.
fn spare(fleet: &Fleet, draft: &Draft) -> Option<(RegionName, u32)> {
    let mut some = draft.wanted.iter().filter(|(_, wanted)| !matches!(wanted, Wanted::Hosts(0)));
    match (some.next(), some.next()) {
        (Some((region, Wanted::Hosts(1))), None) if fleet.hosts(region) > 1 => {
            Some((region.clone(), fleet.threshold(region, Wanted::Hosts(2))))
        }
        _ => None,
    }
}

pub(super) fn names(regions: &[RegionName]) -> String {
    match regions {
        [first, second, third, rest @ ..] if !rest.is_empty() => {
            format!("{first}, {second}, {third} and {} more", rest.len())
        }
        _ => regions.iter().map(RegionName::as_str).collect::<Vec<_>>().join(", "),
    }
}

/// Orders `regions` by an app's waves; `*` is all that no wave names. Without waves:
/// the first by name, then all others.
#[must_use]
pub fn waves(order: &[Vec<String>], regions: &[RegionName]) -> Vec<Vec<RegionName>> {
    let default = || match regions {
        [first, rest @ ..] => vec![vec![first.clone()], rest.to_vec()],
        [] => vec![],
    };
    if order.is_empty() {
        return default().into_iter().filter(|wave| !wave.is_empty()).collect();
    }
    let named = |region: &RegionName| order.iter().flatten().any(|name| name == region.as_str());
    let rest: Vec<RegionName> = regions.iter().filter(|r| !named(r)).cloned().collect();
    let mut left = Some(rest);
    let mut seen: Vec<RegionName> = Vec::new();
    let mut waves: Vec<Vec<RegionName>> = Vec::new();
    for names in order {
        let mut wave: Vec<RegionName> = Vec::new();
        for name in names {
            if name == "*" {
                wave.extend(left.take().unwrap_or_default());
            } else if let Some(region) = regions.iter().find(|r| r.as_str() == name)
                && !seen.contains(region)
            {
                seen.push(region.clone());
                wave.push(region.clone());
            }
        }
        waves.push(wave);
    }
    waves.push(left.unwrap_or_default());
    waves.into_iter().filter(|wave| !wave.is_empty()).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    fn region(name: &str) -> RegionName {
        name.parse().unwrap()
    }

    /// Regions of so many hosts, each its own wave as by default, buckets well spread.
    pub(in crate::rules::rollout) fn fleet(sizes: &[(&str, usize)]) -> Fleet {
        let regions: Vec<RegionName> = sizes.iter().map(|(name, _)| region(name)).collect();
        let spread = |n: usize| (0..n).map(|i| (i * 9973 % 10_000) as u32).collect();
        Fleet {
            waves: waves(&[], &regions),
            buckets: sizes.iter().map(|(name, n)| (region(name), spread(*n))).collect(),
            named: 0,
            everywhere: true,
        }
    }

    fn check(wish: Wish<'_>, sizes: &[(&str, usize)], expected: &[(&str, usize, u32)]) {
        let fleet = fleet(sizes);
        let made = plan(wish, &fleet).unwrap();
        let seen: Vec<(&str, usize, u32)> = made
            .steps
            .iter()
            .map(|step| (step.name.as_str(), fleet.admitted(&step.admit), step.bake_s))
            .collect();
        assert_eq!(seen, expected);
    }

    const STANDARD: Wish<'_> =
        Wish { plan: PlanName::Standard, file: None, canary: None, first: false, bake_s: None };

    #[test]
    fn a_canary_is_one_host_in_a_tiny_fleet() {
        let expected = [
            ("canary eu", 1, 300),
            ("eu 100%", 4, 600),
            ("us 10%", 5, 0),
            ("us 50%", 6, 0),
            ("us 100%", 8, 300),
        ];
        check(STANDARD, &[("eu", 4), ("us", 4)], &expected);
    }

    #[test]
    fn a_canary_is_a_hundredth_of_a_large_region_and_at_most_fifty() {
        let large = fleet(&[("eu", 3000), ("us", 3000)]);
        assert_eq!(large.admitted(&plan(STANDARD, &large).unwrap().steps[0].admit), 30);
        let vast = fleet(&[("eu", 9000)]);
        assert_eq!(vast.admitted(&plan(STANDARD, &vast).unwrap().steps[0].admit), 50);
    }

    #[test]
    fn only_where_all_go_at_once_nobody_looks_at_hosts() {
        let all = Wish { plan: PlanName::AllAtOnce, bake_s: Some(9), ..STANDARD };
        assert!(!all.looks_at_hosts() && STANDARD.looks_at_hosts());
        let (known, unseen) = (fleet(&[("eu", 40), ("us", 4)]), fleet(&[("eu", 0), ("us", 0)]));
        assert_eq!(plan(all, &known).unwrap(), plan(all, &unseen).unwrap());
        let canary = Canary { asked: "eu-1".into(), ..Canary::default() };
        assert!(Wish { canary: Some(&canary), ..all }.looks_at_hosts());
    }

    #[test]
    fn steps_without_hosts_are_left_out() {
        check(STANDARD, &[("eu", 1)], &[("canary eu", 1, 300)]);
        check(STANDARD, &[("eu", 0), ("us", 1)], &[("canary us", 1, 300)]);
        check(STANDARD, &[("eu", 0)], &[("all hosts", 0, 0)]);
        check(STANDARD, &[], &[("all hosts", 0, 0)]);
    }

    #[test]
    fn a_first_deploy_has_few_early_hosts_and_one_bake() {
        let first = Wish { first: true, ..STANDARD };
        check(first, &[("eu", 4), ("us", 4)], &[("first hosts", 1, 60), ("all hosts", 8, 0)]);
    }

    #[test]
    fn fast_has_one_bake_and_careful_holds_where_its_first_wave_ends() {
        let fast = Wish { plan: PlanName::Fast, ..STANDARD };
        check(fast, &[("eu", 40), ("us", 40)], &[("first hosts", 4, 60), ("all hosts", 80, 0)]);
        let careful = Wish { plan: PlanName::Careful, ..STANDARD };
        let expected = [
            ("canary eu", 1, 1800),
            ("eu 100%", 4, 3600),
            ("us 10%", 5, 0),
            ("us 50%", 6, 0),
            ("us 100%", 8, 1800),
        ];
        check(careful, &[("eu", 4), ("us", 4)], &expected);
        let held = |sizes: &[(&str, usize)]| {
            let steps = plan(careful, &fleet(sizes)).unwrap().steps;
            steps.into_iter().filter(|s| s.hold).map(|s| s.name).collect::<Vec<_>>()
        };
        assert_eq!(held(&[("eu", 4), ("us", 4)]), ["eu 100%"]);
        assert_eq!(held(&[("eu", 1), ("us", 4)]), ["canary eu"]);
        assert_eq!(held(&[("eu", 4)]), [""; 0]);
    }

    #[test]
    fn bakes_can_be_set_and_all_at_once_has_none_of_its_own() {
        let quick = Wish { bake_s: Some(3), ..STANDARD };
        check(quick, &[("eu", 4)], &[("canary eu", 1, 3), ("eu 100%", 4, 3)]);
        let at_once = Wish { plan: PlanName::AllAtOnce, ..STANDARD };
        check(at_once, &[("eu", 4), ("us", 4)], &[("all hosts", 8, 0)]);
    }

    #[test]
    fn waves_follow_the_app_and_end_with_all_others() {
        let regions = ["ap", "eu", "us"].map(region);
        let order = vec![vec!["us".into()], vec!["*".into()], vec!["eu".into()]];
        assert_eq!(
            waves(&order, &regions),
            [vec![region("us")], vec![region("ap")], vec![region("eu")]]
        );
        assert_eq!(waves(&[], &regions), [vec![region("ap")], vec![region("eu"), region("us")]]);
        assert_eq!(
            waves(&[vec!["eu".into()]], &regions),
            [vec![region("eu")], vec![region("ap"), region("us")]]
        );
    }

    #[test]
    fn a_spare_host_is_known_when_the_canary_is_one() {
        let fleet = fleet(&[("eu", 4), ("us", 4)]);
        let (place, threshold) = plan(STANDARD, &fleet).unwrap().spare.unwrap();
        assert_eq!(place, region("eu"));
        let admit = BTreeMap::from([("eu".to_owned(), threshold)]);
        assert_eq!(fleet.admitted(&admit), 2);
    }
}
